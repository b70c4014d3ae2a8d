"""Long-tailed data sets as Lightning datamodules."""

from typing import TYPE_CHECKING

from bcl._lazy import lazy_names

if TYPE_CHECKING:
    from datamodules.digits import DigitsLT as DigitsLT
    from datamodules.folder import ImageFolderLT as ImageFolderLT

_HOMES = {
    "DigitsLT": "datamodules.digits",
    "ImageFolderLT": "datamodules.folder",
}
__all__ = sorted(_HOMES)
__getattr__ = lazy_names(__name__, _HOMES)
