"""What an evaluation found, as plain values that are saved, loaded and rendered."""

import io
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bcl.core.errors import InputError
from bcl.core.files import atomic_write, write_text

SCHEMA = "bcl-cacr/probe-report"
SCHEMA_VERSION = 1
# What tables and pages cannot do without.
DATA_FIELDS = ("test_hash", "test_images", "num_classes", "class_names", "class_counts")
PROTOCOL_FIELDS = ("kind", "description", "draws", "per_class", "summary")


@dataclass
class ProbeReport:
    """Everything that one run's evaluation found; `docs/evaluation.md` describes the fields.

    Attributes:
        record: what was run: name, method, seed, config, commit, versions, hardware, history, …
        data: the data set: recipe, class names and counts, hashes, number of test images.
        groups: grouping rule to its description and class ids; the first rule is the main one.
        protocols: one entry a protocol, with its draws and their summary.
        measures: representation measures by name.
        tracker: momentum loss and score by class, rank correlation with class frequency; or None.
        images: images of the highest and lowest scores; ``"png"`` holds the bytes.
        predictions: protocol name to (draws, M) predicted labels; ``"labels"`` to the (M,) truth.

    Example:
        >>> import tempfile
        >>> from bcl import evaluate
        >>> from datamodules import DigitsLT
        >>> pixels = lambda images: images[:, 0, ::2, ::2].flatten(1).float()
        >>> report = evaluate(pixels, DigitsLT(), protocols="knn@10", record={"name": "pixels"})
        >>> again = ProbeReport.load(report.save(tempfile.mkdtemp()))
        >>> again.name, again.rule, again.protocols == report.to_dict()["protocols"]
        ('pixels', 'thirds', True)
    """

    record: dict[str, Any]
    data: dict[str, Any]
    groups: dict[str, dict[str, Any]]
    protocols: list[dict[str, Any]]
    measures: dict[str, Any] = field(default_factory=dict)
    tracker: dict[str, Any] | None = None
    images: list[dict[str, Any]] = field(default_factory=list)
    predictions: dict[str, Tensor] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """What the run is called."""
        return " ".join(str(self.record.get("name") or "run").split())  # tables need one line

    @property
    def rule(self) -> str:
        """The main grouping rule."""
        return next(iter(self.groups))

    def protocol(self, name: str) -> dict[str, Any]:
        """The entry of a protocol.

        Args:
            name: such as ``"full"``.

        Returns:
            The entry.

        Raises:
            InputError: this report lacks it.
        """
        for entry in self.protocols:
            if entry["name"] == name:
                return entry
        known = ", ".join(entry["name"] for entry in self.protocols)
        raise InputError(f"report '{self.name}' has no protocol '{name}'; it has {known}.")

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON: NaN becomes None, images are named by file."""
        images = [
            {**{key: value for key, value in image.items() if key != "png"}}
            for image in self.images
        ]
        plain = _plain(
            {
                "schema": SCHEMA,
                "schema_version": SCHEMA_VERSION,
                "record": self.record,
                "data": self.data,
                "groups": self.groups,
                "protocols": self.protocols,
                "measures": self.measures,
                "tracker": self.tracker,
                "images": images,
            }
        )
        return dict(plain)

    def save(self, folder: str | Path) -> Path:
        """Write ``report.json``, ``predictions.pt`` and the images into a folder.

        Args:
            folder: made if need be; files of an older report in it are replaced.

        Returns:
            The path of ``report.json``, which is written last.

        Raises:
            InputError: the folder cannot be written.
        """
        folder = Path(folder)
        try:
            for image in self.images:
                _write_bytes(folder / image["file"], image["png"])
            if self.predictions:
                buffer = io.BytesIO()
                torch.save(self.predictions, buffer)
                _write_bytes(folder / "predictions.pt", buffer.getvalue())
            text = json.dumps(self.to_dict(), indent=1, ensure_ascii=False, allow_nan=False)
            write_text(folder / "report.json", text + "\n")
        except OSError as error:
            raise InputError(
                f"cannot write the report to {folder}: {error.strerror}; choose another folder."
            ) from error
        return folder / "report.json"

    @classmethod
    def load(cls, folder: str | Path) -> "ProbeReport":
        """Read what `save` wrote.

        Args:
            folder: the folder, or the path of its ``report.json``.

        Returns:
            The report.

        Raises:
            InputError: nothing there, not a report, or of another schema version.
        """
        path = Path(folder)
        if path.is_dir():
            path = path / "report.json"
        if not path.is_file():
            raise InputError(f"no report at {path}; make one with 'bcl probe CKPT --out DIR'.")
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise InputError(f"{path} is not JSON: {error}.") from error
        if not isinstance(values, dict) or values.get("schema") != SCHEMA:
            raise InputError(f"{path} is not a probe report; its schema should be '{SCHEMA}'.")
        version = values.get("schema_version")
        if version != SCHEMA_VERSION:
            newer = isinstance(version, int) and version > SCHEMA_VERSION
            step = "update bcl-cacr" if newer else "run 'bcl probe' on the checkpoint again"
            raise InputError(
                f"{path} has schema version {version}, this release reads {SCHEMA_VERSION}; {step}."
            )
        try:
            report = cls(
                **{
                    key: values[key]
                    for key in ("record", "data", "groups", "protocols", "measures", "tracker")
                },
                images=[dict(image) for image in values["images"]],
            )
        except KeyError as error:
            raise InputError(f"{path} lacks {error}; it was cut short or edited.") from error
        except (TypeError, ValueError) as error:
            raise InputError(
                f"{path}: 'images' is not a list of objects; it was cut short or edited."
            ) from error
        wrong = _misshapen(report)
        if wrong:
            raise InputError(f"{path}: {wrong}; it was cut short or edited.")
        for image in report.images:
            # Names come from a file that anybody may have written; they stay in its folder.
            file = path.parent / "images" / Path(str(image["file"])).name
            image["png"] = file.read_bytes() if file.is_file() else b""
        tensors = path.parent / "predictions.pt"
        if tensors.is_file():
            try:
                report.predictions = torch.load(tensors, weights_only=True)
            except Exception as error:
                raise InputError(
                    f"{tensors} is damaged; run 'bcl probe' again, or delete it to read the report "
                    "without confusions and paired tests."
                ) from error
            if not _predictions_fit(report.predictions, report.data.get("test_images")):
                raise InputError(
                    f"{tensors} does not belong to {path.name}; run 'bcl probe' again, or delete "
                    "it to read the report without confusions and paired tests."
                )
        return report


def _misshapen(report: ProbeReport) -> str:
    """What a report must have and lacks, in words; empty if it is sound."""
    for name in ("record", "data", "groups", "measures"):
        if not isinstance(getattr(report, name), dict):
            return f"'{name}' is not an object"
    if not report.groups:
        return "'groups' is empty"
    entries = report.protocols
    if not isinstance(entries, list) or not all(
        isinstance(e, dict) and "name" in e for e in entries
    ):
        return "'protocols' is not a list of named entries"
    if not entries:
        return "'protocols' is empty"
    if lacking := [key for key in DATA_FIELDS if key not in report.data]:
        return f"'data' lacks '{lacking[0]}'"
    for entry in entries:
        if lacking := [key for key in PROTOCOL_FIELDS if not entry.get(key)]:
            return f"protocol '{entry['name']}' lacks '{lacking[0]}'"
    if not all("file" in image for image in report.images):
        return "an image has no file"
    return ""


def _predictions_fit(predictions: Any, images: Any) -> bool:
    return isinstance(predictions, dict) and all(
        isinstance(rows, Tensor) and rows.ndim > 0 and rows.shape[-1] == images
        for rows in predictions.values()
    )


def _write_bytes(path: Path, content: bytes) -> None:
    atomic_write(path, lambda file: file.write(content))


def rounded(value: float) -> float:
    """Six decimals, or six digits of small numbers such as penalties, gaps and p-values.

    Args:
        value: a finite number.

    Returns:
        The number rounded.

    Example:
        >>> rounded(12.3456789), rounded(3.16227766e-7)
        (12.345679, 3.16228e-07)
    """
    return round(value, 6) if abs(value) >= 0.1 else float(f"{value:.6g}")


def _plain(value: Any) -> Any:
    """Lists, dicts, strings and finite numbers; what JSON has no sign for becomes None."""
    if isinstance(value, Tensor):
        return _plain(value.tolist())
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return rounded(value) if math.isfinite(value) else None
    if value is None or isinstance(value, (bool, int, str)):
        return value
    return str(value)
