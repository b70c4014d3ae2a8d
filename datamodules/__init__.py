"""Long-tailed data sets and collections without labels, as Lightning datamodules."""

from typing import TYPE_CHECKING

from bcl.core.lazy import lazy_names

if TYPE_CHECKING:
    from datamodules.arrays import ArraysLT as ArraysLT
    from datamodules.base import LongTailedDataModule as LongTailedDataModule
    from datamodules.base import Sets as Sets
    from datamodules.cifar import CIFAR10LT as CIFAR10LT
    from datamodules.cifar import CIFAR100LT as CIFAR100LT
    from datamodules.collection import ImageCollection as ImageCollection
    from datamodules.digits import DigitsLT as DigitsLT
    from datamodules.external import SelectionSettings as SelectionSettings
    from datamodules.folder import ImageFolderLT as ImageFolderLT
    from datamodules.huggingface import HuggingFaceLT as HuggingFaceLT
    from datamodules.images.dataset import ImageDataset as ImageDataset
    from datamodules.lists import ImageListLT as ImageListLT
    from datamodules.lists import ImageNet100LT as ImageNet100LT
    from datamodules.lists import ImageNetLT as ImageNetLT
    from datamodules.lists import INaturalist18 as INaturalist18
    from datamodules.lists import PlacesLT as PlacesLT
    from datamodules.packed import PackedLT as PackedLT

_HOMES = {
    "ArraysLT": "datamodules.arrays",
    "CIFAR100LT": "datamodules.cifar",
    "CIFAR10LT": "datamodules.cifar",
    "DigitsLT": "datamodules.digits",
    "HuggingFaceLT": "datamodules.huggingface",
    "ImageCollection": "datamodules.collection",
    "INaturalist18": "datamodules.lists",
    "ImageDataset": "datamodules.images.dataset",
    "ImageFolderLT": "datamodules.folder",
    "ImageListLT": "datamodules.lists",
    "ImageNet100LT": "datamodules.lists",
    "ImageNetLT": "datamodules.lists",
    "LongTailedDataModule": "datamodules.base",
    "PackedLT": "datamodules.packed",
    "PlacesLT": "datamodules.lists",
    "SelectionSettings": "datamodules.external",
    "Sets": "datamodules.base",
}
__all__ = sorted(_HOMES)
__getattr__ = lazy_names(__name__, _HOMES)


def __dir__() -> list[str]:
    """The public names, for tab completion and ``help``."""
    return sorted([*__all__, *(name for name in globals() if name.startswith("__"))])
