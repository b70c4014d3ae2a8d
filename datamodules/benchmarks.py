"""The published long-tailed benchmarks that are given by list files."""

from typing import Any

from datamodules.lists import ImageListLT


class ImageNetLT(ImageListLT):
    """ImageNet-LT of OLTR: 115,846 images in 1,000 classes, 1,280 to 5 each.

    Args:
        root: folder of ImageNet with ``train`` and ``val``, to which the lists' paths are relative.
        train_list: the published list, in ``root`` or elsewhere.
        probe_list: the balanced list for linear probes, such as the 100-shot list of GH.
        test_list: the published test list (the 50,000 validation images of ImageNet).
        image_size: pixels to which images are resized and cropped before the views.
        options: those of `ImageListLT` and `FilesDataModule`.

    Source: OLTR (arXiv 1904.05160).

    Example:
        >>> from datamodules.tail.recipes import LISTS
        >>> data = ImageNetLT("imagenet", batch_size=128)  # nothing is read yet
        >>> LISTS[data.benchmark]["train"], data.grouping
        (115846, 'thresholds')
    """

    def __init__(
        self,
        root: str,
        train_list: str = "ImageNet_LT_train.txt",
        probe_list: str | None = "ImageNet_split1_test_100shot.txt",
        test_list: str | None = "ImageNet_LT_test.txt",
        image_size: int = 256,
        **options: Any,
    ) -> None:
        super().__init__(
            root,
            train_list,
            probe_list,
            test_list,
            benchmark="ImageNet-LT",
            image_size=image_size,
            **options,
        )


class ImageNet100LT(ImageListLT):
    """ImageNet-100-LT of SDCLR: 12,205 images in 100 classes, 1,280 to 6 each.

    Args:
        root: folder of ImageNet with ``train`` and ``val``, to which the lists' paths are relative.
        train_list: the published list, in ``root`` or elsewhere.
        probe_list: the balanced list for linear probes (the released few-shot or full list).
        test_list: the published test list.
        image_size: pixels to which images are resized and cropped before the views.
        options: those of `ImageListLT` and `FilesDataModule`.

    Source: SDCLR (arXiv 2106.02990).

    Example:
        >>> from datamodules.tail.recipes import LISTS
        >>> data = ImageNet100LT("imagenet", batch_size=128)  # nothing is read yet
        >>> LISTS[data.benchmark]["train"], data.grouping
        (12205, 'thresholds')
    """

    def __init__(
        self,
        root: str,
        train_list: str = "imageNet_100_LT_train.txt",
        probe_list: str | None = "imageNet_100_BL_train.txt",
        test_list: str | None = "ImageNet_100_test.txt",
        image_size: int = 256,
        **options: Any,
    ) -> None:
        super().__init__(
            root,
            train_list,
            probe_list,
            test_list,
            benchmark="ImageNet-100-LT",
            image_size=image_size,
            **options,
        )


class PlacesLT(ImageListLT):
    """Places-LT of OLTR: 62,500 images in 365 classes, 4,980 to 5 each.

    Args:
        root: folder of Places365 (small images) with ``train`` and ``val``.
        train_list: the published list, in ``root`` or elsewhere.
        probe_list: the balanced list for linear probes, such as the 100-shot list of GH.
        test_list: the published test list.
        image_size: pixels to which images are resized and cropped before the views.
        options: those of `ImageListLT` and `FilesDataModule`.

    Source: OLTR (arXiv 1904.05160).

    Example:
        >>> from datamodules.tail.recipes import LISTS
        >>> data = PlacesLT("places365", batch_size=128)  # nothing is read yet
        >>> LISTS[data.benchmark]["train"], data.grouping
        (62500, 'thresholds')
    """

    def __init__(
        self,
        root: str,
        train_list: str = "Places_LT_train.txt",
        probe_list: str | None = "Places_split1_test_100shot.txt",
        test_list: str | None = "Places_LT_test.txt",
        image_size: int = 256,
        **options: Any,
    ) -> None:
        super().__init__(
            root,
            train_list,
            probe_list,
            test_list,
            benchmark="Places-LT",
            image_size=image_size,
            **options,
        )


class INaturalist18(ImageListLT):
    """INaturalist 2018, long-tailed by nature: 437,513 images in 8,142 classes, 1,000 to 2 each.

    Args:
        root: folder of the competition's images.
        train_list: the official training list as ``path label`` rows.
        probe_list: a balanced list for linear probes; the training list if not given.
        test_list: the official validation list as ``path label`` rows.
        image_size: pixels to which images are resized and cropped before the views.
        options: those of `ImageListLT` and `FilesDataModule`.

    Example:
        >>> from datamodules.tail.recipes import LISTS
        >>> data = INaturalist18("inat2018", batch_size=128)  # nothing is read yet
        >>> LISTS[data.benchmark]["train"], data.grouping
        (437513, 'thresholds')
    """

    def __init__(
        self,
        root: str,
        train_list: str = "iNaturalist18_train.txt",
        probe_list: str | None = None,
        test_list: str | None = "iNaturalist18_val.txt",
        image_size: int = 256,
        **options: Any,
    ) -> None:
        super().__init__(
            root,
            train_list,
            probe_list,
            test_list,
            benchmark="iNaturalist18",
            image_size=image_size,
            **options,
        )
