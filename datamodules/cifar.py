"""CIFAR-10 and CIFAR-100, long-tailed, as torchvision downloads them."""

from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from bcl.core.errors import InputError
from datamodules.pool import DEFAULTS, Pool, PoolDataModule
from datamodules.tail.recipes import RECIPES


class _CIFAR(PoolDataModule):
    _kind: ClassVar[str]  # torchvision's class

    def __init__(
        self,
        root: str = "data",
        download: bool = True,
        recipe: str | None = None,
        image_size: int = 32,
        **options: Any,
    ) -> None:
        if image_size != 32:
            raise InputError(f"the images of CIFAR have 32 px, got image_size {image_size}.")
        super().__init__(recipe=recipe, image_size=image_size, **options)
        self.root = root
        self.download = download
        plain = self.max_per_class is None and self.class_order == DEFAULTS["class_order"]
        if recipe is None and self.split_file is None and self.imbalance_factor and plain:
            # A published subset by its own description: its very images are chosen. Its rule of
            # Many / Medium / Few is this class's.
            name = f"{self._kind.lower()}/{self.profile}-{self.imbalance_factor:g}"
            self.recipe_name = name if name in RECIPES else None

    def prepare_data(self) -> None:
        """Download, in one process of each machine."""
        self._load(train=True)

    def pool(self) -> Pool:
        """Load both parts through torchvision, which checks their MD5 sums first."""
        images, labels, classes = self._load(train=True)
        test_images, test_labels, _ = self._load(train=False)
        pixels = torch.cat([images, test_images])
        names = [f"train/{row}" for row in range(len(images))]
        names += [f"test/{row}" for row in range(len(test_images))]
        test = torch.arange(len(pixels)) >= len(images)
        labels = torch.cat([labels, test_labels])
        return Pool(self._kind, names, labels, classes, test, images=pixels)

    def _load(self, train: bool) -> tuple[Tensor, Tensor, list[str]]:
        from torchvision import datasets

        kind = getattr(datasets, self._kind)
        folder = Path(self.root).expanduser()
        try:
            data = kind(str(folder), train=train, download=self.download)
        except (OSError, RuntimeError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise InputError(
                f"{self._kind} is not in {folder} and cannot be downloaded ({reason}); put "
                f"{kind.filename} (MD5 {kind.tgz_md5}, from {kind.url}) into {folder}, where it is "
                "unpacked automatically, or use the folder that holds it as root."
            ) from None
        images = torch.from_numpy(data.data).permute(0, 3, 1, 2).contiguous()  # (N, 3, 32, 32)
        return images, torch.tensor(data.targets), list(data.classes)


class CIFAR10LT(_CIFAR):
    """CIFAR-10 with a long tail; its 10,000 test images are the test set, all others the probe set.

    Args:
        root: where torchvision keeps or puts the data set.
        download: fetch it if it is not there.
        recipe: a named subset (`bcl split --list`). Without it, an exponential profile of imbalance
            100 (the default), 50 or 10 is exactly LDAM's published subset.
        image_size: 32.
        options: those of `PoolDataModule` and `FilesDataModule`, such as ``imbalance_factor`` or
            ``split_file`` (a published index file).

    Raises:
        InputError: a bad argument, or the data is missing and cannot be downloaded.

    Example:
        >>> data = CIFAR10LT("data", imbalance_factor=50)  # nothing is loaded yet
        >>> data.recipe_name, RECIPES[data.recipe_name].total
        ('cifar10/exponential-50', 13996)
    """

    _kind = "CIFAR10"


class CIFAR100LT(_CIFAR):
    """CIFAR-100 with a long tail; options and defaults as for `CIFAR10LT`.

    Example:
        >>> data = CIFAR100LT("data")  # nothing is loaded yet
        >>> data.recipe_name, RECIPES[data.recipe_name].total
        ('cifar100/exponential-100', 10847)
    """

    _kind = "CIFAR100"
