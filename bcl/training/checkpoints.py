"""Checkpoints: written whole or not at all, read back into the method that wrote them."""

import pickle
import shutil
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.plugins.io import TorchCheckpointIO

from bcl.core.errors import InputError
from bcl.core.files import atomic_write
from bcl.core.instantiate import instantiate
from bcl.core.provenance import plain
from bcl.models.encoders import encoder_spec

FORMAT = 1
KEY = "bcl"  # where a checkpoint holds the run's record


class AtomicCheckpointIO(TorchCheckpointIO):
    """Write checkpoints beside their target, sync, and rename: a reader never sees a part.

    Lightning's own goes through the system's temporary folder, and across file systems its last
    step is a copy.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None
    ) -> None:
        """Save a checkpoint atomically; the one before stays as ``previous.ckpt``."""
        del storage_options
        target = Path(path)
        fresh = target.with_name(f".{target.name}.new")
        try:
            atomic_write(fresh, lambda file: torch.save(checkpoint, file))
            _verify(fresh)
            if target.exists():
                keep_as(target, target.with_name("previous.ckpt"))
            fresh.replace(target)
        finally:
            fresh.unlink(missing_ok=True)

    def load_checkpoint(
        self, path: Any, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Load tensors and plain values; a foreign or broken file is refused with the reason."""
        del weights_only  # tensors and plain values always
        return read_checkpoint(path, map_location)


def _verify(path: Path) -> None:
    """Read a new checkpoint back before it takes the place of the old one."""
    broken = _broken_part(path)
    if broken is not None:
        raise OSError(f"{path} was not written correctly ('{broken}'); is the disk full?")
    torch.load(path, map_location="meta", weights_only=True)


def _broken_part(path: Path) -> str | None:
    """Name the first part of an archive whose checksum is wrong; torch does not look at them."""
    with zipfile.ZipFile(path) as archive:
        return archive.testzip()


def is_damaged(path: Path) -> bool:
    """Whether a file is cut, no PyTorch archive, or has a part with a wrong checksum."""
    try:
        return _broken_part(path) is not None
    except (OSError, EOFError, zipfile.BadZipFile):
        return True


def keep_as(path: Path, other: Path) -> None:
    """Give a file a second name, so that there is a file under the first at every moment."""
    link = path.with_name(f".{path.name}.old")
    link.unlink(missing_ok=True)
    try:
        link.hardlink_to(path)
    except OSError:  # a file system without hard links
        shutil.copyfile(path, link)
    link.replace(other)


@dataclass
class Run:
    """A pretrained method, its datamodule (not set up) and the record of its run."""

    method: Any
    data: Any
    record: dict[str, Any]
    path: Path


def read_checkpoint(path: str | Path, map_location: Any = "cpu") -> dict[str, Any]:
    """Read a checkpoint of this library.

    Args:
        path: the file.
        map_location: as in ``torch.load``.

    Returns:
        The checkpoint; its ``"bcl"`` entry holds format and record.

    Raises:
        InputError: missing, unreadable, truncated, of another library, or of a newer format.
    """
    file = Path(path)
    if file.is_dir():
        raise InputError(f"{file} is a folder; name a checkpoint in it, such as last.ckpt.")
    try:
        if zipfile.is_zipfile(file) and (part := _broken_part(file)) is not None:
            raise InputError(
                f"{file} is damaged: the checksum of '{part}' is wrong.{_beside(file)}"
            )
        content = torch.load(file, map_location=map_location, weights_only=True)
    except InputError:
        raise
    except FileNotFoundError:
        told = f"no checkpoint {file}; `bcl fit` writes checkpoints/last.ckpt."
        others = any(file.parent.glob("*.ckpt"))
        raise InputError(told + (_beside(file) if others else "")) from None
    except (IsADirectoryError, PermissionError, TimeoutError) as error:
        raise InputError(f"cannot read checkpoint {file}: {error.strerror or error}.") from None
    # torch answers a cut file with OSError too: it seeks to before its start. And it runs whatever
    # bytes it finds as pickle's commands: text fails with KeyError, IndexError and others.
    except (
        OSError,
        RuntimeError,
        EOFError,
        pickle.UnpicklingError,
        zipfile.BadZipFile,
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
    ):
        if zipfile.is_zipfile(file):
            why = "it holds objects other than tensors and plain values"
        else:
            why = "it is truncated or not a PyTorch file"
        raise InputError(
            f"{file} is not a checkpoint of this library: {why}.{_beside(file)}"
        ) from None
    if not isinstance(content, dict) or KEY not in content or "state_dict" not in content:
        raise InputError(
            f"{file} was written by another program: it has no '{KEY}' record. Take a checkpoint "
            f"that `bcl fit` wrote; `bcl import` reads published ones.{_beside(file)}"
        )
    version = content[KEY].get("format") if isinstance(content[KEY], dict) else None
    if version != FORMAT:
        raise InputError(
            f"{file} has checkpoint format {version!r}, this version reads {FORMAT}; "
            "update bcl-cacr."
        )
    if not isinstance(content[KEY].get("record"), dict) or not isinstance(
        content["state_dict"], dict
    ):
        raise InputError(
            f"{file} is damaged: its record or its weights are not mappings.{_beside(file)}"
        )
    return content


def _beside(file: Path) -> str:
    """Name the newest whole checkpoint beside a refused one, and how a resume takes it."""
    others = [other for other in file.parent.glob("*.ckpt") if other != file]
    for other in sorted(others, key=lambda path: path.stat().st_mtime, reverse=True):
        if is_damaged(other):
            continue
        try:
            content = torch.load(other, map_location="meta", weights_only=True)
        except (OSError, RuntimeError, pickle.UnpicklingError, ValueError):
            continue
        if isinstance(content, dict) and KEY in content:
            step = content.get("global_step")
            return (
                f" The one before it, {other} (step {step}), is whole; resume from it with "
                f"--ckpt_path {other}."
            )
    return " No whole checkpoint lies beside it."


def open_method(path: str | Path, trusted: tuple[str, ...] = ()) -> tuple[Any, dict[str, Any]]:
    """Rebuild a method with its weights and tracker from a checkpoint.

    Args:
        path: a checkpoint that `bcl fit` or the quickstart wrote.
        trusted: packages besides this library whose classes the configuration may name.

    Returns:
        The method, in evaluation mode on the CPU, and the record of its run.

    Raises:
        InputError: a broken or foreign checkpoint, or one of another model.
    """
    content = read_checkpoint(path)
    record = dict(content[KEY]["record"])
    config = record.get("config") or {}
    if not isinstance(config, dict) or not {"model", "data"} <= config.keys():
        raise InputError(
            f"{path} does not say how its method was built; it can be resumed by the program "
            "that wrote it, but not opened by itself."
        )
    method = instantiate(config["model"], trusted)
    load_method(method, content, path)
    return method.eval(), record


def load_run(path: str | Path, trusted: tuple[str, ...] = ()) -> Run:
    """Rebuild a method with its weights and tracker, and its datamodule, from a checkpoint.

    Args:
        path: a checkpoint that `bcl fit` or the quickstart wrote.
        trusted: packages besides this library whose classes the configuration may name.

    Returns:
        The run; the method is in evaluation mode on the CPU.

    Raises:
        InputError: a broken or foreign checkpoint, or one of another model.
    """
    method, record = open_method(path, trusted)
    return Run(method, instantiate(record["config"]["data"], trusted), record, Path(path))


def load_method(method: Any, content: dict[str, Any], path: str | Path) -> None:
    """Load a checkpoint into a method whose encoder is built like the one that was trained.

    Tensors of equal shapes do not make encoders equal: strides and poolings have none.

    Args:
        method: takes the weights.
        content: from `read_checkpoint`.
        path: the checkpoint, for the error.

    Raises:
        InputError: another encoder, or tensors that do not fit.
    """
    saved = content[KEY]["record"].get("encoder")
    own = plain(encoder_spec(getattr(method, "encoder", method)))
    if saved is not None and own is not None:
        for key in sorted({*saved, *own} - {"image_size"}):
            if saved.get(key) != own.get(key) and not key.startswith("drop"):
                raise InputError(
                    f"{path} is a checkpoint of another model: its encoder "
                    f"'{saved.get('name')}' was built with {key}={saved.get(key)!r}, this one with "
                    f"{key}={own.get(key)!r}. Use the configuration that it was trained with."
                )
    load_weights(method, content["state_dict"], path)


def load_weights(method: Any, state: dict[str, Any], path: str | Path) -> None:
    """Load a state dict strictly; the error of another model names what differs, briefly."""
    own = method.state_dict()
    missing = [name for name in own if name not in state]
    extra = [name for name in state if name not in own and not name.startswith("tracker.")]
    shapes = [name for name in own if name in state and own[name].shape != state[name].shape]
    if missing or extra or shapes:
        shown = (missing or extra or shapes)[0]
        what = "is missing" if missing else "is unknown" if extra else "has another shape"
        raise InputError(
            f"{path} is a checkpoint of another model: {len(missing)} tensors missing, "
            f"{len(extra)} unknown, {len(shapes)} of another shape (first: '{shown}' {what}). "
            "Use the configuration that it was trained with."
        )
    method.load_state_dict(state)
