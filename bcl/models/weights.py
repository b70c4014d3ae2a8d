"""Weights to start from: a file, an exported encoder, or a run of this library."""

import contextlib
import json
import pickle
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bcl.core.errors import InputError

WEIGHTS = "model.safetensors"
CONFIG = "config.json"
STEM = "conv1."  # how the tensors of a ResNet's first convolutions begin
HUB_SECONDS = 5.0  # to wait for the hub's answer

Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class FirstWeights:
    """Tensors of an encoder, and what their source knows about it.

    Attributes:
        tensors: by name.
        spec: arguments of `bcl.create_encoder`; none in a plain file.
        normalization: ``mean`` and ``std`` per channel, of images in [0, 1]; empty if not known.
    """

    tensors: Tensors
    spec: dict[str, Any] | None = None
    normalization: dict[str, Any] | None = None


def open_weights(source: str | Path) -> FirstWeights:
    """Open a file of tensors, a folder of `bcl export`, or a run's checkpoint or folder.

    Raises:
        InputError: nothing there, an unreadable file, or one that holds more than plain values.
    """
    path = Path(source)
    if (path / CONFIG).is_file():
        ours = read_config(path)["bcl"]
        normalization = {key: ours[key] for key in ("mean", "std")}
        return FirstWeights(read_safetensors(path / WEIGHTS), ours["encoder"], normalization)
    if path.is_dir():
        path = path / "checkpoints" / "last.ckpt"
    if not path.is_file():
        raise InputError(
            f"no weights at {path}; name a file, a folder of `bcl export`, a run's folder or "
            "checkpoint, or true for timm's weights."
        )
    if path.suffix == ".safetensors":
        return FirstWeights(state_of(read_safetensors(path), path))
    content = read_plain(path)
    if isinstance(content, dict) and "bcl" in content:
        return _of_run(content, path)
    return FirstWeights(state_of(content, path))


def _of_run(content: dict[str, Any], path: Path) -> FirstWeights:
    """The encoder of a checkpoint of `bcl fit`."""
    try:
        record = content["bcl"]["record"]
        spec = record["encoder"]
        name = str(spec["name"])
        config = record["config"]["model"]["init_args"]["encoder"]
        tensors = {
            key.removeprefix("encoder."): value
            for key, value in content["state_dict"].items()
            if key.startswith("encoder.")
        }
    except (KeyError, TypeError, AttributeError):
        raise InputError(
            f"{path} does not say how bcl.create_encoder builds its encoder; export its weights."
        ) from None
    arguments = (config.get("args") if isinstance(config, dict) else None) or {}
    known = {key: arguments[key] for key in ("mean", "std") if key in arguments}
    return FirstWeights(tensors, {**spec, "name": name}, known)


def read_plain(path: Path) -> Any:
    """Read a file of PyTorch that holds tensors and plain values only."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise InputError(
            f"{path} holds more than tensors and plain values, which could run code when read; "
            "save its state_dict alone."
        ) from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}; check the path.") from None
    except Exception:  # of the pickle of any bytes anything may come
        raise InputError(
            f"{path} cannot be read: it is no intact file of PyTorch; give a checkpoint or a "
            "state_dict that torch.save wrote."
        ) from None


def state_of(content: Any, path: str | Path) -> Tensors:
    """The tensors of a file, without the prefix that a parallel wrapper gives every name."""
    state = content
    for key in ("state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            state = content[key]
            break
    if not isinstance(state, dict) or not state:
        raise InputError(f"{path} holds no state_dict.")
    for name, value in state.items():
        if not isinstance(value, Tensor) or not isinstance(name, str):
            raise InputError(f"{path}: '{name}' is not a tensor, so this is not a state_dict.")
    if all(name.startswith("module.") for name in state):
        state = {name.removeprefix("module."): value for name, value in state.items()}
    return state


def load_weights(model: nn.Module, weights: Tensors, origin: str | Path, small_stem: bool) -> bool:
    """Load an encoder's weights, without a classifier; all others must match one to one.

    A small stem stays new if the weights are those of another; the answer says whether it did.
    """
    own = model.state_dict()
    tensors = _renamed(weights, model)
    heads = (getattr(model, "pretrained_cfg", None) or {}).get("classifier") or "fc"
    heads = (heads,) if isinstance(heads, str) else tuple(heads)
    tensors = {
        name: value
        for name, value in tensors.items()
        if name in own or name.rpartition(".")[0] not in heads
    }
    stems = [
        {name: x.shape for name, x in each.items() if name.startswith(STEM)}
        for each in (own, tensors)
    ]
    replaced = small_stem and stems[0] != stems[1]
    if replaced:
        tensors = {name: x for name, x in tensors.items() if not name.startswith(STEM)}
        tensors |= {name: x for name, x in own.items() if name.startswith(STEM)}
    counters = {name: x for name, x in own.items() if name.endswith("num_batches_tracked")}
    load_strictly(model, {**counters, **tensors}, origin)  # old files of torchvision lack them
    return replaced


def _renamed(tensors: Tensors, model: nn.Module) -> Tensors:
    """Tensors under timm's names, positions resized, where timm knows how for this model."""
    change = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    if change is None:
        return tensors
    try:
        return dict(change(dict(tensors), model))
    except Exception:  # tensors of anything; the names that do not match are reported later
        return tensors


def load_strictly(module: nn.Module, tensors: dict[str, Tensor], origin: str | Path) -> None:
    """Load tensors that must match a module's one to one; an error lists those that do not."""
    own = module.state_dict()
    wrong = {
        "missing": sorted(own.keys() - tensors.keys()),
        "unknown": sorted(tensors.keys() - own.keys()),
        "of another shape": [
            f"{name} {tuple(tensors[name].shape)} for {tuple(own[name].shape)}"
            for name in own
            if name in tensors and own[name].shape != tensors[name].shape
        ],
    }
    found = [
        f"{len(names)} {what} ({', '.join(names[:4])}{', …' if len(names) > 4 else ''})"
        for what, names in wrong.items()
        if names
    ]
    if found:
        raise InputError(
            f"{origin}: the tensors do not match {type(module).__name__} one to one: "
            f"{'; '.join(found)}. Nothing was loaded."
        )
    module.load_state_dict(tensors)


def read_config(folder: str | Path) -> dict[str, Any]:
    """Read the ``config.json`` of a folder that this library wrote."""
    path = Path(folder) / CONFIG
    try:
        config: Any = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(
            f"cannot read {path} as JSON: {error}; name a folder that `bcl export` wrote."
        ) from None
    ours = config.get("bcl") if isinstance(config, dict) else None
    if not isinstance(ours, dict) or not {"encoder", "mean", "std"} <= ours.keys():
        raise InputError(
            f"{path} was written by another program; open it with "
            f'timm.create_model("local-dir:{folder}", pretrained=True).'
        )
    return config  # type: ignore[no-any-return]


def need_safetensors() -> Any:
    """Return the package safetensors, or say how to install it."""
    try:
        import safetensors.torch
    except ImportError:
        raise InputError(
            "safetensors is not installed; install it with pip install 'bcl-cacr[hub]'."
        ) from None
    return safetensors


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a ``.safetensors`` file."""
    safetensors = need_safetensors()
    try:
        return safetensors.torch.load_file(path)  # type: ignore[no-any-return]
    except (OSError, safetensors.SafetensorError) as error:
        raise InputError(f"cannot read {path}: {error}; write it again.") from None


@contextlib.contextmanager
def hub_in_time() -> Iterator[bool]:
    """Use the hub's cache alone, without minutes of retries, where it does not answer at once.

    Gives whether it answered.
    """
    from huggingface_hub import constants

    offline = constants.HF_HUB_OFFLINE
    try:
        if not offline:
            urllib.request.urlopen(constants.ENDPOINT, timeout=HUB_SECONDS).close()
    except urllib.error.HTTPError:
        pass  # an answer
    except OSError:
        constants.HF_HUB_OFFLINE = True
    try:
        yield not constants.HF_HUB_OFFLINE
    finally:
        constants.HF_HUB_OFFLINE = offline
