"""What an evaluation found: dataclasses in Python, plain values on disk."""

import json
import math
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from operator import methodcaller
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bcl.core.errors import InputError
from bcl.core.files import atomic_write, save_tensors, write_text
from bcl.evaluation.metrics import confidence_interval, group_accuracy
from bcl.evaluation.probe.options import ProbeResult
from bcl.evaluation.shots import GROUPS, ShotGroups

SCHEMA = "bcl-cacr/probe-report"
SCHEMA_VERSION = 2
# Tables and pages cannot do without these.
DATA_FIELDS = {
    *("test_hash", "test_images", "test_counts", "num_classes", "class_names", "class_counts"),
}


@dataclass(frozen=True)
class Estimate:
    """A mean and the half-width of its 95 % interval (NaN for a single value)."""

    mean: float
    ci95: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Estimate":
        """The mean over draws."""
        return cls(*confidence_interval(values))


@dataclass
class Draw:
    """One draw of a protocol: shares of correct test predictions, and how the probe was fitted."""

    accuracy: float
    top5: float  # NaN for knn
    per_class: list[float]  # NaN for a class without test images
    chosen: dict[str, Any]  # solver and settings


@dataclass
class ProtocolResult:
    """What one protocol measured; the accuracies are means over draws."""

    name: str  # such as "full" or "knn@10"
    kind: str  # "linear", "knn" or "finetune"
    description: str  # the training images, in words
    draws: list[Draw]
    per_class: list[float]
    accuracy: Estimate
    top5: Estimate
    # Grouping to "many", "medium", "few", "class_mean", "std_population" and "std_sample".
    groups: dict[str, dict[str, Estimate]]
    notes: list[str]  # such as absent classes

    @classmethod
    def of(
        cls,
        name: str,
        kind: str,
        description: str,
        draws: list[ProbeResult],
        groups: dict[str, ShotGroups],
    ) -> "ProtocolResult":
        """Means with 95 % intervals over the draws."""
        means = {}
        for grouping, group in groups.items():
            rows = [group_accuracy(draw.per_class_accuracy, group) for draw in draws]
            means[grouping] = {key: Estimate.of([row[key] for row in rows]) for key in rows[0]}
        per_class = torch.stack([draw.per_class_accuracy for draw in draws])  # (draws, C)
        return cls(
            name,
            kind,
            description,
            [Draw(d.accuracy, d.top5, d.per_class_accuracy.tolist(), d.chosen) for d in draws],
            per_class=per_class.mean(0).tolist(),
            accuracy=Estimate.of([draw.accuracy for draw in draws]),
            top5=Estimate.of([draw.top5 for draw in draws]),
            groups=means,
            notes=sorted({note for draw in draws for note in draw.notes}),
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values; ``summary`` holds all means."""
        values = asdict(self)
        summary = {key: values.pop(key) for key in ("accuracy", "top5")}
        return {**values, "summary": {**summary, **values.pop("groups")}}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "ProtocolResult":
        """Read what `to_dict` wrote, with NaN for None."""
        summary = _numbers(values["summary"])
        draws = [
            Draw(**_numbers({**draw, "chosen": {}}) | {"chosen": draw["chosen"]})
            for draw in values["draws"]
        ]
        return cls(
            **{key: values[key] for key in ("name", "kind", "description", "notes")},
            draws=draws,
            per_class=_numbers(values["per_class"]),
            accuracy=summary.pop("accuracy"),
            top5=summary.pop("top5"),
            groups=summary,
        )


@dataclass
class ShownImage:
    """A training image of an extreme score, or that moved a lot; or a test image answered wrong."""

    which: str  # "highest", "lowest", "risen" or "fallen"; "wrong" is of the test set
    id: int
    label: int
    class_name: str
    score: float | None
    change: float | None  # since the earlier scores
    file: str  # path in the report's folder
    path: str = ""  # its name in the data set
    content: bytes = b""  # the file


@dataclass
class Sample:
    """Some training images with their features, for a map.

    Attributes:
        ids: (n,) int64.
        labels: (n,) int64.
        scores: (n,) memorization scores; (0,) without a memory.
        features: (n, D) float16, normalized.
        names: n, in the data set.
        thumbnails: n WebP files.
    """

    ids: Tensor
    labels: Tensor
    scores: Tensor
    features: Tensor
    names: list[str]
    thumbnails: list[bytes]

    def tensors(self) -> dict[str, Tensor]:
        """As tensors, for a file."""
        texts = "\n".join(self.names).encode(), b"".join(self.thumbnails)
        names, files = (torch.tensor(list(text), dtype=torch.uint8) for text in texts)
        kept = {key: getattr(self, key) for key in ("ids", "labels", "scores", "features")}
        sizes = torch.tensor([len(file) for file in self.thumbnails], dtype=torch.int64)
        return {**kept, "names": names, "files": files, "sizes": sizes}

    @classmethod
    def from_tensors(cls, kept: dict[str, Tensor]) -> "Sample":
        """Read what `tensors` made; any error means that it is no such thing."""
        names = bytes(kept["names"].tolist()).decode().split("\n")
        files, ends = bytes(kept["files"].tolist()), kept["sizes"].cumsum(0).tolist()
        thumbnails = [files[a:b] for a, b in zip([0, *ends], ends, strict=False)]
        tensors = kept["ids"], kept["labels"], kept["scores"], kept["features"]
        found = cls(*tensors, names, thumbnails)
        counts = {len(each) for each in (found.ids, found.labels, found.features, names, ends)}
        if len(counts) > 1 or len(found.scores) not in (0, len(ends)):
            raise ValueError(f"{counts} images")
        return found


@dataclass
class ProbeReport:
    """Everything that the evaluation of one run found; ``docs/evaluation.md`` has the schema.

    Attributes:
        record: what was run: name, method, seed, config, commit, versions, hardware, history, …
        data: the data set: recipe, class names and counts, hashes, number of test images.
        groups: grouping to class ids; the first grouping is the main one.
        protocols: one result per protocol.
        measures: uniformity, alignment and class spread; None if they were not asked for.
        tracker: momentum loss and score by class, rank correlation with class frequency; or None.
        images: training images of the highest and lowest scores, test images answered wrong.
        sample: some training images with their features, for a map; or None.
        predictions: protocol name to (draws, M) predicted labels; ``"labels"`` to the (M,) truth.
        folder: where it was read from or saved.

    Example:
        >>> import tempfile
        >>> from bcl import evaluate
        >>> from datamodules import DigitsLT
        >>> pixels = lambda images: images[:, 0, ::2, ::2].flatten(1).float()
        >>> report = evaluate(pixels, DigitsLT(), "knn@10", record={"name": "pixels"})
        >>> again = ProbeReport.load(report.save(tempfile.mkdtemp()))
        >>> again.name, again.grouping, again.to_dict() == report.to_dict()
        ('pixels', 'thirds', True)
    """

    record: dict[str, Any]
    data: dict[str, Any]
    groups: dict[str, ShotGroups]
    protocols: list[ProtocolResult]
    measures: dict[str, Any] | None = None
    tracker: dict[str, Any] | None = None
    images: list[ShownImage] = field(default_factory=list)
    predictions: dict[str, Tensor] = field(default_factory=dict)
    sample: Sample | None = None
    folder: Path | None = field(default=None, compare=False)

    @property
    def name(self) -> str:
        """The run's name, on one line, as tables need it."""
        return " ".join(str(self.record.get("name") or "run").split())

    @property
    def grouping(self) -> str:
        """The main grouping."""
        return next(iter(self.groups))

    @property
    def main_protocol(self) -> str:
        """The protocol of per-class results: the first linear one, or else the first."""
        linear = (result for result in self.protocols if result.kind == "linear")
        return next(linear, self.protocols[0]).name

    def protocol(self, name: str) -> ProtocolResult:
        """The result of a protocol such as ``"full"``; an `InputError` if the report lacks it."""
        for result in self.protocols:
            if result.name == name:
                return result
        known = ", ".join(result.name for result in self.protocols)
        raise InputError(f"report '{self.name}' has no protocol '{name}'; it has {known}.")

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON: NaN becomes None, images are named by file."""
        values = {
            "schema": SCHEMA,
            "schema_version": SCHEMA_VERSION,
            "record": self.record,
            "data": self.data,
            "groups": {
                name: {"description": group.description, **group.as_dict()}
                for name, group in self.groups.items()
            },
            "protocols": [result.to_dict() for result in self.protocols],
            "measures": self.measures,
            "tracker": self.tracker,
            "images": [
                {key: value for key, value in vars(image).items() if key != "content"}
                for image in self.images
            ],
        }
        return dict(_plain(values))

    def save(self, folder: str | Path) -> Path:
        """Write ``report.json``, ``predictions.pt``, ``sample.pt`` and images; returns the first.

        Files of an older report are replaced, all or none, ``report.json`` last.

        Raises:
            InputError: the folder cannot be written.
        """
        folder = Path(folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=folder, prefix=".report.") as work:
                for image in self.images:
                    atomic_write(Path(work, image.file), methodcaller("write", image.content))
                if self.predictions:
                    save_tensors(Path(work, "predictions.pt"), self.predictions)
                if self.sample is not None:
                    save_tensors(Path(work, "sample.pt"), self.sample.tensors())
                text = json.dumps(self.to_dict(), indent=1, ensure_ascii=False, allow_nan=False)
                write_text(Path(work, "report.json"), text + "\n")
                files = [path for path in Path(work).rglob("*") if path.is_file()]
                for file in sorted(files, key=lambda path: path.name == "report.json"):
                    target = folder / file.relative_to(work)
                    target.parent.mkdir(exist_ok=True)
                    file.replace(target)
                for name in {"predictions.pt", "sample.pt"} - {file.name for file in files}:
                    (folder / name).unlink(missing_ok=True)
        except OSError as error:
            raise InputError(
                f"cannot write the report to {folder}: {error.strerror}; choose another folder."
            ) from error
        self.folder = folder
        return folder / "report.json"

    @classmethod
    def load(cls, folder: str | Path) -> "ProbeReport":
        """Read what `save` wrote, from the folder or its ``report.json``.

        Raises:
            InputError: nothing there, not a report, or of another schema version.
        """
        path = Path(folder)
        path = path / "report.json" if path.is_dir() else path
        values = _read_json(path)
        try:
            report = cls._from_dict(values)
        except Exception as error:
            raise InputError(
                f"{path} was cut short or edited ({error!r}); run 'bcl probe' again."
            ) from error
        for image in report.images:
            file = path.parent / image.file
            image.content = file.read_bytes() if file.is_file() else b""
        report.predictions = _read_predictions(path, report.data["test_images"])
        report.folder = path.parent
        report.sample = _read_sample(path, report.data["num_classes"])
        return report

    @classmethod
    def _from_dict(cls, values: dict[str, Any]) -> "ProbeReport":
        """Build a report from plain values; any error means that they are no whole report."""
        data, protocols = values["data"], [ProtocolResult.from_dict(p) for p in values["protocols"]]
        groups = {
            name: ShotGroups(
                name,
                torch.tensor(data["class_counts"]),
                *(torch.tensor(ids[key]).long() for key in GROUPS),
            )
            for name, ids in values["groups"].items()
        }
        if not groups or not protocols or not all(result.draws for result in protocols):
            raise ValueError("no groups, protocols or draws")
        if lacking := DATA_FIELDS - data.keys():
            raise KeyError(*sorted(lacking))
        return cls(
            record={**values["record"]},
            data=data,
            groups=groups,
            protocols=protocols,
            measures=values["measures"],
            tracker=values["tracker"],
            # Anyone may have written the file; the names in it stay within its folder.
            images=[
                ShownImage(**image | {"file": f"images/{Path(image['file']).name}"})
                for image in values["images"]
            ],
        )


def _read_json(path: Path) -> dict[str, Any]:
    """The content of a report's file of this schema version."""
    if not path.is_file():
        raise InputError(f"no report at {path}; make one with 'bcl probe CKPT --out DIR'.")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):  # not JSON, or not UTF-8
        values = None
    if not isinstance(values, dict) or values.get("schema") != SCHEMA:
        raise InputError(
            f"{path} is not a probe report: not JSON, or not of schema '{SCHEMA}'; name a folder "
            "that `bcl probe` wrote."
        )
    version = values.get("schema_version")
    if version != SCHEMA_VERSION:
        newer = isinstance(version, int) and version > SCHEMA_VERSION
        step = "update bcl-cacr" if newer else "run 'bcl probe' on the checkpoint again"
        raise InputError(
            f"{path} has schema version {version}, but this release reads {SCHEMA_VERSION}; {step}."
        )
    return values


def _read_predictions(report: Path, images: int) -> dict[str, Tensor]:
    """The (draws, M) predictions next to a report's file; empty if there are none."""
    path = report.parent / "predictions.pt"
    if not path.is_file():
        return {}
    try:
        predictions: dict[str, Tensor] = torch.load(path, weights_only=True)
        if any(rows.shape[-1] != images for rows in predictions.values()):
            raise ValueError(f"not of {images} test images")
    except Exception as error:
        raise InputError(
            f"{path} is damaged or does not belong to the report; run 'bcl probe' again, or "
            "delete it to read the report without them."
        ) from error
    return predictions


def _read_sample(report: Path, classes: int) -> Sample | None:
    """The training images next to a report's file; None if there are none."""
    path = report.parent / "sample.pt"
    if not path.is_file():
        return None
    try:
        found = Sample.from_tensors(torch.load(path, weights_only=True))
        if not bool(((found.labels >= 0) & (found.labels < classes)).all()):
            raise ValueError(f"labels that are not among {classes} classes")
        return found
    except Exception as error:
        raise InputError(
            f"{path} is damaged; run 'bcl probe' again, or delete it to read the report without a "
            "map."
        ) from error


def _numbers(value: Any) -> Any:
    """Numbers as floats, with NaN for None, in nested lists and dicts; `Estimate` where written."""
    if isinstance(value, dict):
        found = {key: _numbers(each) for key, each in value.items()}
        return Estimate(**found) if found.keys() == {"mean", "ci95"} else found
    if isinstance(value, list):
        return [_numbers(each) for each in value]
    return math.nan if value is None else float(value)


def rounded(value: float) -> float:
    """Six decimals, or six digits of small numbers such as penalties, gaps and p-values.

    Example:
        >>> rounded(12.3456789), rounded(3.16227766e-7)
        (12.345679, 3.16228e-07)
    """
    return round(value, 6) if abs(value) >= 0.1 else float(f"{value:.6g}")


def _plain(value: Any) -> Any:
    """Lists, dicts, strings and finite numbers; None for what JSON cannot express."""
    if hasattr(value, "tolist"):  # a tensor, or an array or a number of numpy
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
