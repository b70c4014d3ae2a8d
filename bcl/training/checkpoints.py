"""Checkpoints: when they are saved, how they are written, and how they are read back."""

import functools
import shutil
import time
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, ModelCheckpoint
from pytorch_lightning.plugins.io import TorchCheckpointIO
from torch import Tensor

from bcl.core.checks import check_count, check_positive
from bcl.core.errors import InputError
from bcl.core.files import save_tensors
from bcl.core.instantiate import instantiate
from bcl.core.provenance import plain
from bcl.models.encoders import encoder_spec, without_first_weights

FORMAT = 2
KEY = "bcl"  # where a checkpoint holds the run's record

# --- writing ------------------------------------------------------------------------------


class AtomicCheckpointIO(TorchCheckpointIO):
    """Write checkpoints beside their target, sync, read back and rename: never a part of one."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None
    ) -> None:
        """Save a checkpoint atomically; the one before it stays as ``previous.ckpt``."""
        target = Path(path)
        fresh = target.with_name(f".{target.name}.new")
        try:
            save_tensors(fresh, checkpoint)
            if found := damage(fresh):
                raise OSError(f"{fresh} was not written correctly: {found}; is the disk full?")
            torch.load(fresh, map_location="meta", weights_only=True)
            if target.exists():
                keep_as(target, target.with_name("previous.ckpt"))
            fresh.replace(target)
        finally:
            fresh.unlink(missing_ok=True)

    def load_checkpoint(
        self, path: Any, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Load tensors and plain values only; other or broken files are refused with the reason."""
        return read_checkpoint(path, map_location)


def keep_as(path: Path, other: Path) -> None:
    """Give a file a second name, with a file under the first at every moment."""
    link = path.with_name(f".{path.name}.old")
    link.unlink(missing_ok=True)
    try:
        link.hardlink_to(path)
    except OSError:  # a file system without hard links
        shutil.copyfile(path, link)
    link.replace(other)


def lies_in(path: str | Path, folder: str | Path) -> bool:
    """Whether a file is in this folder, however both paths are written."""
    return Path(path).resolve().parent == Path(folder).resolve()


def is_last_epoch(trainer: pl.Trainer) -> bool:
    """Whether training ends with this epoch: by epochs, by steps, or because it was stopped."""
    by_epochs = trainer.current_epoch + 1 == trainer.max_epochs
    by_steps = 0 <= trainer.max_steps <= trainer.global_step  # -1: no limit
    return by_epochs or by_steps or trainer.should_stop


def is_cut(trainer: pl.Trainer) -> bool:
    """Whether training was stopped, as by ``max_time``, in the middle of an epoch.

    Lightning ends such an epoch as if it were whole; a resume from there would skip its rest.
    """
    return bool(trainer.should_stop) and not trainer.is_last_batch


class Checkpoints(ModelCheckpoint):
    """Save ``last.ckpt`` every n epochs, steps and minutes, and after the last epoch.

    Lightning's callback takes only one of these intervals, and may save between optimizer steps.
    """

    def __init__(
        self,
        folder: str | Path,
        every_n_epochs: int = 1,
        every_n_steps: int | None = None,
        every_minutes: float | None = None,
    ) -> None:
        check_count("epochs between checkpoints", every_n_epochs)
        if every_n_steps is not None:
            check_count("steps between checkpoints", every_n_steps)
        if every_minutes is not None:
            check_positive("minutes between checkpoints", every_minutes)
        super().__init__(folder, save_top_k=0, save_on_train_epoch_end=True)
        self.path = Path(folder) / "last.ckpt"
        self.intervals = (every_n_epochs, every_n_steps, every_minutes)
        self._resumed: Path | None = None
        self._started = False

    def state_dict(self) -> dict[str, Any]:
        """Nothing: where a run is saved is no part of its state."""
        return {}

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuse a resume that only some ranks can see."""
        super().setup(trainer, pl_module, stage)
        found: list[Any] = [trainer.ckpt_path is not None] * trainer.world_size
        if trainer.world_size > 1:
            torch.distributed.all_gather_object(found, found[0])
        if len(set(found)) > 1:
            raise InputError(
                f"ranks {[rank for rank, seen in enumerate(found) if not seen]} see no checkpoint "
                f"in {self.path.parent}, the others do; put the run's folder on a file system that "
                "all nodes share (--trainer.default_root_dir)."
            )

    def on_train_start(self, trainer: pl.Trainer, *_: Any) -> None:
        """Start counting; a new run removes the checkpoints of the run that it replaces."""
        self._started = True
        self._resumed = None if trainer.ckpt_path is None else Path(trainer.ckpt_path)
        self._saved_step = self._seen_step = trainer.global_step
        self._saved_time = time.monotonic()
        if trainer.is_global_zero:
            self._tidy()

    def _tidy(self) -> None:
        """Leave no temporary file, damaged file, or checkpoint of another run in the folder."""
        for left in self.path.parent.glob(f".*{self.path.name}*"):  # by a killed writer
            left.unlink(missing_ok=True)
        previous = self.path.with_name("previous.ckpt")
        if self._resumed is None or not lies_in(self._resumed, self.path.parent):
            # Interrupted before its first checkpoint, the run must not resume from the old one's.
            self.path.unlink(missing_ok=True)
            previous.unlink(missing_ok=True)
        elif self._resumed.name == previous.name and damage(self.path):
            # The next save would move a damaged last.ckpt over the only intact one.
            keep_as(previous, self.path)

    def last_good(self) -> str:
        """Name the newest checkpoint in a sentence; empty if training has not started."""
        if not self._started:
            return ""
        if self.path.exists():
            return f" The last good checkpoint is {self.path}."
        if self._resumed is not None:
            return f" The last good checkpoint is {self._resumed}, which the run resumed from."
        return " There is no checkpoint yet."

    def _save(self, trainer: pl.Trainer) -> None:
        _check_weights(trainer)
        trainer.save_checkpoint(self.path)
        self._saved_step = trainer.global_step
        self._saved_time = time.monotonic()

    def _steps_due(self, trainer: pl.Trainer) -> bool:
        every_n_steps = self.intervals[1]
        return every_n_steps is not None and trainer.global_step - self._saved_step >= every_n_steps

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """Save within an epoch, after an optimizer step."""
        stepped = trainer.global_step > self._seen_step  # not while gradients accumulate
        self._seen_step = trainer.global_step
        # After the last batch the epoch has yet to end (scores, history): see below.
        if not stepped or trainer.is_last_batch:
            return
        due, minutes = is_cut(trainer) or self._steps_due(trainer), self.intervals[2]
        if not due and minutes is not None:
            late = time.monotonic() - self._saved_time >= 60 * minutes
            due = bool(trainer.strategy.broadcast(late))  # the ranks' clocks differ
        if due:
            self._save(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """Save at the end of an epoch, after the scores were refreshed."""
        if is_cut(trainer) and self.path.exists():
            return  # what was saved after the last batch resumes exactly
        done = (trainer.current_epoch + 1) % self.intervals[0] == 0
        if done or is_last_epoch(trainer) or self._steps_due(trainer):
            self._save(trainer)


def _check_weights(trainer: pl.Trainer) -> None:
    """A finite loss can have a gradient or statistics that are not: they must not be saved."""
    named = trainer.lightning_module.state_dict()
    finite = torch.stack([value.isfinite().all() for value in named.values()]).tolist()
    bad = [name for name, fine in zip(named, finite, strict=True) if not fine]
    if not bad:
        return
    raise InputError(
        f"step {trainer.global_step - 1} made {len(bad)} of {len(named)} weights and buffers not "
        f"finite (first: '{bad[0]}'); they were not saved. Lower the learning rate, or clip the "
        "gradient with --trainer.gradient_clip_val."
    )


class TorchRandomState(Callback):
    """Keep torch's generators in checkpoints, for encoders with dropout or stochastic depth.

    Order and augmentation need no state; see `bcl.core.random`. A resume on another number of ranks
    leaves the generators as they are.
    """

    _loaded: list[dict[str, Tensor]] | None = None

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Collect the generators of all ranks."""
        own = {"cpu": torch.get_rng_state()}
        if pl_module.device.type == "cuda":
            own["cuda"] = torch.cuda.get_rng_state(pl_module.device)
        states: list[Any] = [own] * trainer.world_size
        if trainer.world_size > 1:
            torch.distributed.all_gather_object(states, own)
        checkpoint["torch_random_state"] = states

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Keep them until the first step: building the loaders draws numbers too."""
        self._loaded = checkpoint.get("torch_random_state")

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any
    ) -> None:
        """Set the generators before the first step after a resume."""
        states, self._loaded = self._loaded, None
        if states is None or len(states) != trainer.world_size:
            return
        own = states[trainer.global_rank]
        torch.set_rng_state(own["cpu"].cpu())
        if "cuda" in own and pl_module.device.type == "cuda":
            torch.cuda.set_rng_state(own["cuda"].cpu(), pl_module.device)


# --- reading ------------------------------------------------------------------------------


def damage(path: Path) -> str | None:
    """Describe what is wrong with a file, if anything; torch ignores the checksums."""
    try:
        with zipfile.ZipFile(path) as archive:
            part = archive.testzip()
    except OSError as error:
        return f"it cannot be read ({error.strerror or error})"
    except Exception:  # arbitrary bytes fail in any way
        return "it is truncated or not a PyTorch file"
    return None if part is None else f"the checksum of '{part}' is wrong"


def checkpoint_file(path: str | Path) -> Path:
    """The file of a checkpoint; a run's folder stands for its last one."""
    last = Path(path) / "checkpoints" / "last.ckpt"
    return last if last.is_file() else Path(path)


def read_checkpoint(path: str | Path, map_location: Any = "cpu") -> dict[str, Any]:
    """Read a checkpoint of this library; its ``"bcl"`` entry holds format and record."""
    file = checkpoint_file(path)
    if not file.is_file():
        which = f"in folder {file}" if file.is_dir() else f"{file}"
        raise InputError(
            f"no checkpoint {which}; name a run's folder, or a file that `bcl fit` wrote, "
            f"such as checkpoints/last.ckpt.{_neighbor(file)}"
        )
    content, fault = _read(file, map_location)
    if fault is not None:
        raise InputError(f"{file} {fault}.{_neighbor(file)}")
    return content


def _read(file: Path, map_location: Any) -> tuple[dict[str, Any], str | None]:
    """Read a file, and say what keeps it from being a checkpoint of this version, if anything."""
    found, content = damage(file), None
    if found is None:
        try:
            content = torch.load(file, map_location=map_location, weights_only=True)
        except Exception:  # torch runs arbitrary bytes as pickle commands, which fail in any way
            found = "it holds objects other than tensors and plain values"
    if found is not None:
        found = f"is not an intact checkpoint: {found}; restore it, or train again with --overwrite"
    return content or {}, found or _fault(content)


def _fault(content: Any) -> str | None:
    """Say what is wrong with a file's content, if anything."""
    if not isinstance(content, dict) or KEY not in content or "state_dict" not in content:
        return (
            f"was written by another program: it has no '{KEY}' record; name a checkpoint of "
            "`bcl fit`, or read a released one with `bcl import`"
        )
    own = content[KEY] if isinstance(content[KEY], dict) else {}
    version = own.get("format")
    if version == 1:
        return (
            "was written by an earlier bcl-cacr, before methods and data renamed their options; "
            "train again, or read its weights with torch.load(..., weights_only=True)['state_dict']"
        )
    if version != FORMAT:
        return f"has checkpoint format {version!r}, this version reads {FORMAT}; update bcl-cacr"
    record: Any = own.get("record")
    if not _is_mapping(record, object) or not _is_mapping(content["state_dict"], Tensor):
        return "is damaged: its record or its weights are not mappings"
    if not _is_mapping(record.get("encoder") or {}, object):
        return "is damaged: what it says of its encoder is no mapping"
    return None


def _is_mapping(value: Any, kind: type) -> bool:
    """Whether a value maps text to values of a kind."""
    items = value.items() if isinstance(value, dict) else [(None, value)]
    return all(isinstance(key, str) and isinstance(each, kind) for key, each in items)


def _neighbor(file: Path) -> str:
    """Name the newest intact checkpoint beside a refused one, and of which run it is."""
    others = [other for other in file.parent.glob("*.ckpt") if other != file]
    for other in sorted(others, key=lambda path: path.stat().st_mtime, reverse=True):
        content, fault = _read(other, "meta")
        if fault is None:
            name, step = content[KEY]["record"].get("name"), content.get("global_step")
            return f" {other}, step {step} of run '{name}', is intact; name that one instead."
    return " No other checkpoint in its folder is intact." if others else ""


@dataclass
class Run:
    """What a checkpoint holds: the method, the record of its run and how its data is made."""

    method: Any
    record: dict[str, Any]
    path: Path
    trusted: tuple[str, ...] = ()

    @functools.cached_property
    def data(self) -> Any:
        """The datamodule, not set up."""
        return _build(
            self.record["config"]["data"], self.trusted, self.path, pl.LightningDataModule
        )


def load_run(path: str | Path, trusted: tuple[str, ...] = ()) -> Run:
    """Rebuild a method with its weights and memory, and its datamodule, from a checkpoint.

    The file need not be trusted: it runs no code, and what its configuration says about first
    weights (``pretrained``, a path or URL of weights) and cache folders is ignored.

    Args:
        path: a checkpoint that `bcl fit` or the quickstart wrote, or a run's folder.
        trusted: packages besides this library whose classes the configuration may name.

    Returns:
        The run; the method is in evaluation mode on the CPU.

    Raises:
        InputError: a broken or foreign checkpoint, or one of another model.
    """
    content = read_checkpoint(path)
    record = dict(content[KEY]["record"])
    config = record.get("config")
    if not isinstance(config, dict) or not {"model", "data"} <= config.keys():
        raise InputError(
            f"{path} does not say how its method was built; it can be resumed by the program "
            "that wrote it, but not opened by itself."
        )
    method = _build(config["model"], trusted, path, pl.LightningModule)
    load_method(method, content, path)
    return Run(method.eval(), record, Path(path), trusted)


def _build(spec: Any, trusted: tuple[str, ...], path: str | Path, kind: type) -> Any:
    """Build what a stranger may have configured: all weights are in the file, caches are ours."""
    try:
        built = instantiate(without_first_weights(spec), trusted)
    except Exception as error:  # its arguments are arbitrary values
        raise InputError(f"{path}: its configuration cannot be rebuilt: {error}") from error
    if not isinstance(built, kind):
        raise InputError(
            f"{path}: its configuration cannot be rebuilt: it has {type(built).__name__} in the "
            f"place of a {kind.__name__}"
        )
    return built


def load_method(method: Any, content: dict[str, Any], path: str | Path) -> None:
    """Load a checkpoint into a method whose encoder is built like the one that was trained."""
    saved = content[KEY]["record"].get("encoder")
    own = plain(encoder_spec(getattr(method, "encoder", method)))
    difference = _encoder_difference(saved, own) if saved is not None and own is not None else None
    late = getattr(method, "sized_by_data", ())
    difference = difference or _tensor_difference(content["state_dict"], method.state_dict(), late)
    if difference is not None:
        raise InputError(
            f"{path} is a checkpoint of another model: {difference}. Use the configuration that "
            "it was trained with."
        )
    method.load_state_dict(content["state_dict"])


def _encoder_difference(saved: dict[str, Any], own: dict[str, Any]) -> str | None:
    """Compare how two encoders were built: strides and pooling have no tensors that differ."""
    for key in sorted({*saved, *own} - {"image_size"}):
        if saved.get(key) != own.get(key) and not key.startswith("drop"):
            return (
                f"its encoder '{saved.get('name')}' was built with {key}={saved.get(key)!r}, this "
                f"one with {key}={own.get(key)!r}"
            )
    return None


def _tensor_difference(
    saved: dict[str, Tensor], own: dict[str, Tensor], late: tuple[str, ...]
) -> str | None:
    """Compare the tensors' shapes; a method may lack those that begin so until it has data."""
    shapes, wanted = ({name: tuple(x.shape) for name, x in each.items()} for each in (saved, own))
    absent = {name for name in shapes if name.startswith(late) and name not in wanted}
    names = [name for name in {**wanted, **shapes} if name not in absent]
    wrong = [name for name in names if shapes.get(name) != wanted.get(name)]
    if not wrong:
        return None
    first = wrong[0]
    return (
        f"{len(wrong)} tensors do not match (first: '{first}', {shapes.get(first, 'missing')} in "
        f"the checkpoint and {wanted.get(first, 'missing')} in the model)"
    )
