"""Checkpoints of the papers' released code, mapped tensor by tensor onto our encoders.

Which names stand in them was read in the released code of BCL (MediaBrain-SJTU/BCL), SDCLR
(VITA-Group/SDCLR) and CACR (JegZheng/CACR-SSL); the mapping is this library's own.
"""

import pickle
import re
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bcl.core.errors import InputError, unknown_name

Tensors = dict[str, Tensor]
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
# By the sets that the released code trains on; its small-scale CACR keeps them in the loaders.
NORMALIZATIONS = {
    "imagenet": IMAGENET,
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
    "cifar100": ((0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)),
    "stl10": ((0.440878, 0.427906, 0.386788), (0.268268, 0.261045, 0.268668)),
}
# Blocks of the four stages, and whether they are bottlenecks.
_RESNETS: dict[tuple[tuple[int, ...], bool], str] = {
    ((2, 2, 2, 2), False): "resnet18",
    ((3, 4, 6, 3), False): "resnet34",
    ((3, 4, 6, 3), True): "resnet50",
    ((3, 4, 23, 3), True): "resnet101",
    ((3, 8, 36, 3), True): "resnet152",
}
_VITS = {(384, 12): "vit_small_patch16_224", (768, 12): "vit_base_patch16_224"}


@dataclass
class Published:
    """A released checkpoint in our names.

    Attributes:
        kind: which released code wrote it.
        spec: arguments of `bcl.create_encoder`.
        encoder: tensors of the encoder, by our names.
        projector: tensors of the projector, by those of `bcl.Projector`.
        encoder_norms: batch norms of SDCLR's pruned branch in the encoder, by the encoder's names.
        projector_norms: likewise in the projector.
        mean: per channel, of images in [0, 1]; None if the file does not say.
        std: likewise.
        statistics: how many tensors of the file said so.
        left: parts that an encoder does not have, and how many tensors each holds.
    """

    kind: str
    spec: dict[str, Any]
    encoder: Tensors
    projector: Tensors = field(default_factory=dict)
    encoder_norms: Tensors = field(default_factory=dict)
    projector_norms: Tensors = field(default_factory=dict)
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    statistics: int = 0
    left: dict[str, int] = field(default_factory=dict)

    @property
    def count(self) -> int:
        """How many tensors the file held."""
        parts = (self.encoder, self.projector, self.encoder_norms, self.projector_norms)
        return sum(map(len, parts)) + self.statistics + sum(self.left.values())


def read_published(path: str | Path, kind: str | None = None) -> Published:
    """Read a checkpoint of the released code of BCL, SDCLR or CACR.

    Every tensor of the file must be one whose place is known.

    Args:
        path: the file; ``torch.load(weights_only=True)`` must read it.
        kind: one of `KINDS`; recognized by its names if not given.

    Returns:
        Its tensors in our names. They are not checked against an encoder yet.

    Raises:
        InputError: an unreadable file, an unknown kind, or tensors without a known place.
    """
    if kind is not None and kind not in KINDS:
        raise unknown_name("kind of checkpoint", kind, KINDS)
    state = _read(Path(path))
    found = kind or next((name for name, (mark, _) in KINDS.items() if mark(state)), None)
    if found is None:
        shown = ", ".join(list(state)[:4])
        raise InputError(
            f"{path}: none of the known checkpoints ({', '.join(KINDS)}) has tensors of these "
            f"names: {shown}, …; checkpoints of `bcl fit` go to `bcl export`."
        )
    published = KINDS[found][1](_Names(state, found, Path(path)))
    published.kind = found
    return published


def _read(path: Path) -> Tensors:
    """Tensors of a file, without the prefix that a parallel wrapper put before every name."""
    try:
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise InputError(f"no file {path}; name a downloaded checkpoint.") from None
    except pickle.UnpicklingError:
        raise InputError(
            f"{path} is no file of tensors and plain values; other objects could run code when "
            "they are read. Save its state_dict alone."
        ) from None
    except (OSError, RuntimeError, EOFError, ValueError, zipfile.BadZipFile) as error:
        why = str(error).partition("\n")[0] or type(error).__name__
        raise InputError(f"{path} cannot be read: {why}.") from None
    state = content.get("state_dict", content) if isinstance(content, dict) else None
    if isinstance(content, dict) and "bcl" in content:
        raise InputError(f"{path} was written by `bcl fit`; `bcl export` makes a folder of it.")
    if not isinstance(state, dict) or not state:
        raise InputError(f"{path} holds no state_dict.")
    wrong = [
        str(name)
        for name, value in state.items()
        if not isinstance(value, Tensor) or not isinstance(name, str)
    ]
    if wrong:
        raise InputError(f"{path}: '{wrong[0]}' is no tensor, so this is no state_dict.")
    if all(name.startswith("module.") for name in state):
        state = {name.removeprefix("module."): value for name, value in state.items()}
    return state


class _Names:
    """Tensors that are taken one after another, so that none is forgotten."""

    def __init__(self, state: Tensors, kind: str, path: Path) -> None:
        self.rest, self.kind, self.path = dict(state), kind, path

    def take(self, pattern: str, name: str | Callable[[re.Match[str]], str] = r"\1") -> Tensors:
        """Take all tensors whose whole name matches, under the name that the pattern gives."""
        taken: Tensors = {}
        for old in list(self.rest):
            if match := re.fullmatch(pattern, old):
                new = match.expand(name) if isinstance(name, str) else name(match)
                if new in taken:
                    raise InputError(f"{self.path}: '{old}' and another tensor are both '{new}'.")
                taken[new] = self.rest.pop(old)
        return taken

    def end(self) -> None:
        """Refuse what was not taken."""
        if self.rest:
            names = ", ".join(list(self.rest)[:6]) + (", …" if len(self.rest) > 6 else "")
            raise InputError(
                f"{self.path}: {len(self.rest)} tensors have no place in a checkpoint of kind "
                f"'{self.kind}': {names}. Nothing was imported."
            )


def _resnet_spec(tensors: Tensors, names: _Names) -> dict[str, Any]:
    """Which ResNet has tensors of these names and shapes."""
    stages: dict[int, set[int]] = {}
    for name in tensors:
        if match := re.match(r"layer(\d)\.(\d+)\.", name):
            stages.setdefault(int(match[1]), set()).add(int(match[2]))
    stem = tensors.get("conv1.weight")
    if sorted(stages) != [1, 2, 3, 4] or stem is None or stem.ndim != 4:
        raise InputError(
            f"{names.path}: these are not the tensors of a ResNet with conv1 and four stages."
        )
    blocks = tuple(len(stages[stage]) for stage in (1, 2, 3, 4))
    bottleneck = "layer1.0.conv3.weight" in tensors
    model = _RESNETS.get((blocks, bottleneck))
    small = stem.shape[-1] == 3
    spec: dict[str, Any] = {
        "name": model or ("resnet50" if bottleneck else "resnet18"),
        "image_size": 32 if small else 224,
        "small_stem": small,
        "in_channels": stem.shape[1],
    }
    if bottleneck and tensors["layer1.0.conv2.weight"].shape[0] == 128 and model == "resnet50":
        spec["name"] = "wide_resnet50_2"
    if model is None:
        spec["layers"] = list(blocks)
    return spec


# Names of released heads (fc1, bn1, fc2, …) and the places of these layers in `bcl.Projector`.
def _head(match: re.Match[str]) -> str:
    place = 3 * (int(match["number"]) - 1) + (match["layer"] == "bn")
    return f"{place}.{match['rest']}"


_HEAD = r"(?P<layer>fc|bn)(?P<number>[123])\."


def _statistics(names: _Names, prefix: str) -> dict[str, Any]:
    """The normalization that the released ResNets carry as buffers."""
    found = names.take(rf"{prefix}normalize\.(mean|std)")
    if not found:
        return {"mean": IMAGENET[0], "std": IMAGENET[1]}
    if set(found) != {"mean", "std"}:
        raise InputError(f"{names.path}: one of normalize.mean and normalize.std is missing.")
    values = {key: tuple(round(v, 6) for v in found[key].flatten().tolist()) for key in found}
    return {**values, "statistics": 2}


def _single(names: _Names, backbone: str, head: str) -> Published:
    """ResNet and head with one set of batch norms."""
    statistics = _statistics(names, backbone)
    projector = names.take(head + _HEAD + r"(?P<rest>\w+)", _head)
    encoder = names.take(backbone + r"((?:conv1|bn1|layer[1-4])\..*)")
    names.end()
    return Published("", _resnet_spec(encoder, names), encoder, projector, **statistics)


def _dual(names: _Names, backbone: str, head: str) -> Published:
    """ResNet and head with batch norms of their own for the pruned branch (``bn_list.1``)."""
    statistics = _statistics(names, backbone)
    heads = [
        names.take(rf"{head}{_HEAD}{branch}(?P<rest>\w+)", _head)
        for branch in (r"bn_list\.1\.", r"(?:bn_list\.0\.)?")
    ]

    def body(match: re.Match[str]) -> str:
        plain = re.sub(r"\.bn_list\.[01]\.", ".", match[1])
        plain = plain.replace(".downsample.conv.", ".downsample.0.")
        return plain.replace(".downsample.bn.", ".downsample.1.")

    stage = r"(?:conv1|bn1|layer[1-4])\."
    norms = names.take(rf"{backbone}({stage}(?:.*\.)?bn_list\.1\..*)", body)
    encoder = names.take(rf"{backbone}({stage}.*)", body)
    names.end()
    spec = _resnet_spec(encoder, names)
    return Published("", spec, encoder, heads[1], norms, heads[0], **statistics)


def _bcl_d(names: _Names) -> Published:
    return _dual(names, r"backbone\.", r"backbone\.fc\.")


def _small_alexnet(names: _Names) -> Published:
    """CACR's small-scale encoder, an AlexNet in eight blocks."""
    first = {0: 0, 1: 4, 2: 8, 3: 11, 4: 14}
    encoder = names.take(
        r"blocks\.([0-4])\.([01])\.(\w+)",
        lambda m: f"convolutions.{first[int(m[1])] + int(m[2])}.{m[3]}",
    )
    encoder |= names.take(r"blocks\.5\.([12])\.(\w+)", lambda m: f"fc6.{int(m[1]) - 1}.{m[2]}")
    encoder |= names.take(r"blocks\.6\.([01])\.(\w+)", r"fc7.\1.\2")
    projector = names.take(r"blocks\.7\.(0\.\w+)")
    names.end()
    width = encoder["fc6.0.weight"].shape[1] if "fc6.0.weight" in encoder else 0
    sizes = {192 * 3 * 3: 32, 192 * 7 * 7: 64}
    if width not in sizes:
        raise InputError(
            f"{names.path}: no SmallAlexNet for 32 or 64 px has {width} inputs of fc6."
        )
    spec = {"name": "small_alexnet", "image_size": sizes[width], "small_stem": True}
    return Published("", {**spec, "in_channels": 3}, encoder, projector)


def _moco(names: _Names) -> Published:
    """CACR with a queue: the query encoder, as its own evaluation takes it."""
    projector = names.take(r"encoder_q\.fc\.((?:[02]\.)?(?:weight|bias))", _moco_head)
    encoder = names.take(r"encoder_q\.((?:conv1|bn1|layer[1-4])\..*)")
    left = {
        "momentum encoder": len(names.take(r"(encoder_k\..*)")),
        "queue": len(names.take(r"(queue|queue_ptr)")),
    }
    names.end()
    mean, std = IMAGENET
    spec = _resnet_spec(encoder, names)
    return Published("", spec, encoder, projector, mean=mean, std=std, left=left)


def _moco_head(match: re.Match[str]) -> str:
    return match[1] if match[1][0] in "02" else f"0.{match[1]}"


def _moco_v3(names: _Names) -> Published:
    """CACR with a teacher: the base encoder; its heads have layers that `Projector` has not."""
    left = {
        "momentum encoder": len(names.take(r"(momentum_encoder\..*)")),
        "predictor": len(names.take(r"(predictor\..*)")),
        "projector": len(names.take(r"(base_encoder\.(?:fc|head)\..*)")),
    }
    vit = any(name.startswith("base_encoder.blocks.") for name in names.rest)
    parts = r"cls_token|pos_embed|(?:patch_embed|blocks|norm)\..*"
    encoder = names.take(rf"base_encoder\.({parts if vit else r'(?:conv1|bn1|layer[1-4])[.].*'})")
    names.end()
    mean, std = IMAGENET
    spec = _vit_spec(encoder, names) if vit else _resnet_spec(encoder, names)
    return Published("", spec, encoder, mean=mean, std=std, left=left)


def _vit_spec(tensors: Tensors, names: _Names) -> dict[str, Any]:
    depth = len({name.split(".")[1] for name in tensors if name.startswith("blocks.")})
    width = tensors["cls_token"].shape[-1] if "cls_token" in tensors else 0
    if (width, depth) not in _VITS or "patch_embed.proj.weight" not in tensors:
        raise InputError(
            f"{names.path}: no known vision transformer has {depth} blocks of width {width} behind "
            "one convolution of patches; ViT-S/16 and ViT-B/16 can be imported."
        )
    name = _VITS[(width, depth)]
    # All of the released code's vision transformers have twelve heads, timm's small one six.
    heads = {"num_heads": 12} if width == 384 else {}
    return {"name": name, "image_size": 224, "small_stem": False, "in_channels": 3, **heads}


def _has(pattern: str) -> Callable[[Tensors], bool]:
    return lambda state: any(re.match(pattern, name) for name in state)


# Kind: how its names are recognized, and how they are mapped; the first that is recognized counts.
KINDS: dict[str, tuple[Callable[[Tensors], bool], Callable[[_Names], Published]]] = {
    "bcl": (_has(r"projector\.fc1\."), lambda n: _single(n, r"backbone\.", r"projector\.")),
    "bcl-d": (_has(r"backbone\.bn1\.bn_list\."), _bcl_d),
    "sdclr": (_has(r"bn1\.bn_list\."), lambda n: _dual(n, "", r"fc\.")),
    "sdclr-simclr": (_has(r"fc\.fc1\."), lambda n: _single(n, "", r"fc\.")),
    "cacr": (_has(r"blocks\.7\.0\."), _small_alexnet),
    "cacr-moco": (_has(r"encoder_q\."), _moco),
    "cacr-mocov3": (_has(r"base_encoder\."), _moco_v3),
}
