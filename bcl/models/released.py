"""Checkpoints of the papers' released code, mapped tensor by tensor onto our encoders.

The tensor names were read in the released code of BCL (MediaBrain-SJTU/BCL), SDCLR
(VITA-Group/SDCLR) and CACR (JegZheng/CACR-SSL); the mapping is this library's own.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from bcl.core.checks import check_choice
from bcl.core.errors import InputError
from bcl.models.weights import read_plain, state_of

Tensors = dict[str, Tensor]
Rename = str | Callable[[re.Match[str]], str]
# By data set of the released code; its small-scale CACR keeps these numbers in the loaders.
NORMALIZATIONS = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
    "cifar100": ((0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)),
    "stl10": ((0.440878, 0.427906, 0.386788), (0.268268, 0.261045, 0.268668)),
}
RESNETS = {  # (blocks per stage, whether they are bottlenecks): name
    ((2, 2, 2, 2), False): "resnet18",
    ((3, 4, 6, 3), False): "resnet34",
    ((3, 4, 6, 3), True): "resnet50",
    ((3, 4, 23, 3), True): "resnet101",
    ((3, 8, 36, 3), True): "resnet152",
}
VITS = {(384, 12): "vit_small_patch16_224", (768, 12): "vit_base_patch16_224"}  # (width, depth)


class Rule(NamedTuple):
    """Tensors whose whole name matches ``pattern`` go to ``part`` under the name ``rename``."""

    part: str
    pattern: str
    rename: Rename = r"\1"


class Kind(NamedTuple):
    """One kind of checkpoint: how it is recognized and where each of its tensors goes."""

    mark: str  # a name that begins so stands in no kind further down the table
    rules: tuple[Rule, ...]  # the first that matches a name counts
    spec: Callable[[Tensors], dict[str, Any]]  # arguments of create_encoder
    normalized: bool = True  # by the file's own mean and std, or else ImageNet's


@dataclass
class Released:
    """A released checkpoint under our names."""

    kind: str
    spec: dict[str, Any]  # arguments of create_encoder
    parts: dict[str, Tensors]  # by the rules' parts; *_norms are those of SDCLR's pruned branch
    mean: tuple[float, ...] | None = None  # per channel, of images in [0, 1]; None: not in the file
    std: tuple[float, ...] | None = None

    def __getitem__(self, part: str) -> Tensors:
        """Tensors of a part; empty if the checkpoint has none."""
        return self.parts.get(part, {})


def read_released(path: str | Path, kind: str | None = None) -> Released:
    """Read a checkpoint of a kind in `KINDS`, by default recognized by its tensors' names.

    Every tensor must have a known place; none is checked against an encoder yet.
    """
    if kind is not None:
        check_choice("kind of checkpoint", kind, list(KINDS))
    state = _read(Path(path))
    marked = (k for k, v in KINDS.items() if any(re.match(v.mark, name) for name in state))
    found = kind or next(marked, None)
    if found is None:
        raise InputError(
            f"{path}: its tensors' names ({', '.join(list(state)[:4])}, …) fit none of the known "
            f"checkpoints ({', '.join(KINDS)}); use `bcl export` for checkpoints of `bcl fit`."
        )
    rules, spec, normalized = KINDS[found][1:]
    try:
        released = Released(found, {}, _sort(state, rules, found))
        released.spec = spec(released["encoder"])
        if normalized:
            released.mean, released.std = _normalization(released["normalization"])
    except InputError as error:
        raise InputError(f"{path}: {error} Nothing was imported.") from None
    return released


def _read(path: Path) -> Tensors:
    """Read a file's tensors, without the prefix that a parallel wrapper gives every name."""
    content = read_plain(path)
    if isinstance(content, dict) and "bcl" in content:
        raise InputError(f"{path} was written by `bcl fit`; use `bcl export`.")
    return state_of(content, path)


def _sort(state: Tensors, rules: tuple[Rule, ...], kind: str) -> dict[str, Tensors]:
    """Sort tensors into parts by the first rule that matches; none may be left."""
    parts: dict[str, Tensors] = {}
    unplaced = []
    for old, value in state.items():
        for part, pattern, rename in rules:
            if match := re.fullmatch(pattern, old):
                new = match.expand(rename) if isinstance(rename, str) else rename(match)
                if parts.setdefault(part, {}).setdefault(new, value) is not value:
                    unplaced.append(old)  # another tensor has its place
                break
        else:
            unplaced.append(old)
    if unplaced:
        names = ", ".join(unplaced[:6]) + (", …" if len(unplaced) > 6 else "")
        raise InputError(
            f"{len(unplaced)} tensors have no place in a checkpoint of kind '{kind}': {names}."
        )
    return parts


def _normalization(found: Tensors) -> tuple[tuple[float, ...], ...]:
    """Mean and std that the released ResNets carry as buffers; else ImageNet's."""
    if not found:
        return NORMALIZATIONS["imagenet"]
    if len(found) < 2:
        raise InputError("one of normalize.mean and normalize.std is missing.")
    return tuple(
        tuple(round(value, 6) for value in found[key].flatten().tolist()) for key in ("mean", "std")
    )


def _resnet(tensors: Tensors) -> dict[str, Any]:
    """Which ResNet has tensors of these names and shapes."""
    found = {match[1] for name in tensors if (match := re.match(r"(layer[1-4]\.\d+)\.", name))}
    blocks = tuple(
        sum(block.startswith(f"layer{stage}.") for block in found) for stage in range(1, 5)
    )
    stem = tensors.get("conv1.weight")
    if 0 in blocks or stem is None or stem.ndim != 4:
        raise InputError("these are not the tensors of a ResNet with conv1 and four stages.")
    bottleneck = "layer1.0.conv3.weight" in tensors
    name = RESNETS.get((blocks, bottleneck))
    small = stem.shape[-1] == 3
    spec: dict[str, Any] = {
        "name": name or ("resnet50" if bottleneck else "resnet18"),
        "image_size": 32 if small else 224,
        "small_stem": small,
        "in_channels": stem.shape[1],
    }
    if name == "resnet50" and tensors["layer1.0.conv2.weight"].shape[0] == 128:
        spec["name"] = "wide_resnet50_2"
    return spec if name else {**spec, "layers": list(blocks)}


def _small_alexnet(tensors: Tensors) -> dict[str, Any]:
    width = tensors["fc6.0.weight"].shape[1] if "fc6.0.weight" in tensors else 0
    sizes = {192 * 3 * 3: 32, 192 * 7 * 7: 64}
    if width not in sizes:
        raise InputError(f"no SmallAlexNet for 32 or 64 px has {width} inputs of fc6.")
    return {"name": "small_alexnet", "image_size": sizes[width]}


def _resnet_or_vit(tensors: Tensors) -> dict[str, Any]:
    if "cls_token" not in tensors:
        return _resnet(tensors)
    depth = len({name.split(".")[1] for name in tensors if name.startswith("blocks.")})
    width = tensors["cls_token"].shape[-1]
    if (width, depth) not in VITS or "patch_embed.proj.weight" not in tensors:
        raise InputError(
            f"no known vision transformer has {depth} blocks of width {width} behind one "
            "convolution of patches; ViT-S/16 and ViT-B/16 can be imported."
        )
    # All of the released code's vision transformers have twelve heads, timm's small one six.
    heads = {"num_heads": 12} if width == 384 else {}
    return {"name": VITS[(width, depth)], "image_size": 224, **heads}


def _head(match: re.Match[str]) -> str:
    """Place in `bcl.Projector` of a layer fc1, bn1, fc2, … of a released head."""
    place = 3 * (int(match["number"]) - 1) + (match["layer"] == "bn")
    return f"{place}.{match['rest']}"


def _dense(match: re.Match[str]) -> str:
    """Name without SDCLR's list of two norms and its own class for shortcuts."""
    name = re.sub(r"\.bn_list\.[01]\.", ".", match[1])
    return name.replace(".downsample.conv.", ".downsample.0.").replace(
        ".downsample.bn.", ".downsample.1."
    )


def _alexnet_layer(match: re.Match[str]) -> str:
    first = (0, 4, 8, 11, 14)[int(match[1])]
    return f"convolutions.{first + int(match[2])}.{match[3]}"


RESNET = r"(?:conv1|bn1|layer[1-4])\."
VIT = r"cls_token|pos_embed|(?:patch_embed|blocks|norm)\..*"
HEAD = r"(?P<layer>fc|bn)(?P<number>[123])\."


def _single(body: str, head: str) -> tuple[Rule, ...]:
    """Rules for a ResNet and its head with one set of batch norms."""
    return (
        Rule("normalization", rf"{body}normalize\.(mean|std)"),
        Rule("projector", rf"{head}{HEAD}(?P<rest>\w+)", _head),
        Rule("encoder", rf"{body}({RESNET}.*)"),
    )


def _dual(body: str, head: str) -> tuple[Rule, ...]:
    """Rules for a ResNet and its head whose pruned branch has its own batch norms (bn_list.1)."""
    return (
        Rule("normalization", rf"{body}normalize\.(mean|std)"),
        Rule("projector_norms", rf"{head}{HEAD}bn_list\.1\.(?P<rest>\w+)", _head),
        Rule("projector", rf"{head}{HEAD}(?:bn_list\.0\.)?(?P<rest>\w+)", _head),
        Rule("encoder_norms", rf"{body}({RESNET}(?:.*\.)?bn_list\.1\..*)", _dense),
        Rule("encoder", rf"{body}({RESNET}.*)", _dense),
    )


CACR_RULES = (
    Rule("encoder", r"blocks\.([0-4])\.([01])\.(\w+)", _alexnet_layer),
    Rule("encoder", r"blocks\.5\.1\.(\w+)", r"fc6.0.\1"),
    Rule("encoder", r"blocks\.5\.2\.(\w+)", r"fc6.1.\1"),
    Rule("encoder", r"blocks\.6\.([01])\.(\w+)", r"fc7.\1.\2"),
    Rule("projector", r"blocks\.7\.(0\.\w+)"),
)
MOCO_RULES = (  # the query encoder, as the released evaluation takes it
    Rule("projector", r"encoder_q\.fc\.([02]\.(?:weight|bias))"),
    Rule("projector", r"encoder_q\.fc\.(weight|bias)", r"0.\1"),
    Rule("encoder", rf"encoder_q\.({RESNET}.*)"),
    Rule("momentum encoder", r"(encoder_k\..*)"),
    Rule("queue", r"(queue|queue_ptr)"),
)
MOCO_V3_RULES = (  # the base encoder; its head has layers that `Projector` does not have
    Rule("momentum encoder", r"(momentum_encoder\..*)"),
    Rule("predictor", r"(predictor\..*)"),
    Rule("head", r"(base_encoder\.(?:fc|head)\..*)"),
    Rule("encoder", rf"base_encoder\.({RESNET}.*|{VIT})"),
)
KINDS = {
    "bcl": Kind(r"projector\.fc1\.", _single(r"backbone\.", r"projector\."), _resnet),
    "bcl-d": Kind(r"backbone\.bn1\.bn_list\.", _dual(r"backbone\.", r"backbone\.fc\."), _resnet),
    "sdclr": Kind(r"bn1\.bn_list\.", _dual("", r"fc\."), _resnet),
    "sdclr-simclr": Kind(r"fc\.fc1\.", _single("", r"fc\."), _resnet),
    "cacr": Kind(r"blocks\.7\.0\.", CACR_RULES, _small_alexnet, normalized=False),
    "cacr-moco": Kind(r"encoder_q\.", MOCO_RULES, _resnet),
    "cacr-mocov3": Kind(r"base_encoder\.", MOCO_V3_RULES, _resnet_or_vit),
}
