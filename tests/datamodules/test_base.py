"""Order, ranks, resume and sets of the datamodules."""

from types import SimpleNamespace

import pytest
import pytorch_lightning as pl
import torch
from places import ROOT
from torch import Tensor, nn

from bcl import InputError, shot_groups
from datamodules import DigitsLT
from datamodules.base import LongTailedDataModule, Sets
from datamodules.images.dataset import ImageDataset
from datamodules.images.loader import BatchLoader


@pytest.fixture(scope="module")
def digits() -> DigitsLT:
    data = DigitsLT(batch_size=64)
    data.setup()
    return data


def test_batch_contract(digits: DigitsLT) -> None:
    loader = digits.train_dataloader()
    batches = list(loader)
    assert len(batches) == len(loader) == digits.num_samples // 64
    for batch in batches:
        assert batch["image"].shape == (64, 3, 16, 16)
        assert batch["image"].dtype == torch.uint8
        assert batch["id"].dtype == batch["label"].dtype == torch.int64
        assert batch["label"].equal(digits.train_set().labels[batch["id"]])
        assert batch["image"].equal(digits.train_set().images(batch["id"]))
    ids = torch.cat([batch["id"] for batch in batches])
    assert len(ids.unique()) == len(ids)


def test_few_shot(digits: DigitsLT) -> None:
    labels = digits.probe_set().labels
    chosen = digits.few_shot(10, 0)
    assert torch.bincount(labels[chosen]).tolist() == [10] * 10
    assert not chosen.equal(digits.few_shot(10, 1))
    assert chosen.equal(digits.few_shot(10, 0))
    assert torch.bincount(labels[digits.few_shot(0.01, 0)]).tolist() == [1] * 10
    assert len(digits.few_shot(1.0, 0)) == len(labels)
    with pytest.raises(InputError, match="at most 124"):
        digits.few_shot(125, 0)
    with pytest.raises(InputError, match=r"\(0, 1\]"):
        digits.few_shot(1.5, 0)
    with pytest.raises(InputError, match="shots"):
        digits.few_shot(0)


def test_groups_by_the_published_rule(digits: DigitsLT) -> None:
    groups = shot_groups(digits.class_counts, digits.grouping)
    assert (len(groups.many), len(groups.medium), len(groups.few)) == (4, 3, 3)
    assert groups.grouping == "thirds"
    assert len(shot_groups(digits.class_counts, "thresholds").many) == int(
        (digits.class_counts > 100).sum()
    )


class Recorder(pl.LightningModule):
    """Notes the ids of every step, by epoch; stops by an error if told so."""

    def __init__(self, fail_at: int | None = None) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.steps: list[tuple[int, list[int]]] = []
        self.fail_at = fail_at

    def training_step(self, batch: dict[str, Tensor], _: int) -> Tensor:
        if self.fail_at is not None and len(self.steps) == self.fail_at:
            raise RuntimeError("killed")
        self.steps.append((self.current_epoch, batch["id"].tolist()))
        return self.weight * 1.0

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def trainer(folder, **options) -> pl.Trainer:
    return pl.Trainer(
        default_root_dir=folder,
        max_epochs=3,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )


@pytest.mark.slow
@pytest.mark.parametrize("steps", [1, 4, 5, 6, 10, 13])
def test_lightning_resumes_exactly(tmp_path, steps: int) -> None:
    """Stop after any number of steps; the resumed run sees what the uninterrupted one does."""
    whole = Recorder()
    trainer(tmp_path, enable_checkpointing=False).fit(whole, datamodule=DigitsLT(batch_size=80))
    assert len(whole.steps) == 15
    assert len({tuple(ids) for _, ids in whole.steps}) == 15

    saver = pl.callbacks.ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=1, save_top_k=-1)
    cut = Recorder(fail_at=steps)
    options = {"callbacks": [saver, pl.callbacks.OnExceptionCheckpoint(tmp_path, "last")]}
    with pytest.raises(RuntimeError, match="killed"):
        trainer(tmp_path, **options).fit(cut, datamodule=DigitsLT(batch_size=80))
    for checkpoint in (f"step={steps}.ckpt", "last.ckpt"):
        rest = Recorder()
        trainer(tmp_path, enable_checkpointing=False).fit(
            rest, datamodule=DigitsLT(batch_size=80), ckpt_path=str(tmp_path / checkpoint)
        )
        assert cut.steps + rest.steps == whole.steps, checkpoint


def test_lightning_resumes_at_an_epochs_end(tmp_path) -> None:
    whole = Recorder()
    saver = pl.callbacks.ModelCheckpoint(tmp_path, "{epoch}", save_top_k=-1)
    trainer(tmp_path, callbacks=[saver]).fit(whole, datamodule=DigitsLT(batch_size=80))
    rest = Recorder()
    trainer(tmp_path, enable_checkpointing=False).fit(
        rest, datamodule=DigitsLT(batch_size=80), ckpt_path=str(tmp_path / "epoch=0.ckpt")
    )
    assert rest.steps == whole.steps[5:]


def test_example_of_the_documentation() -> None:
    text = (ROOT / "docs" / "data.md").read_text("utf-8")
    code = text.split("```python\n")[1].split("```")[0]
    names: dict = {}
    exec(compile(code, "docs/data.md", "exec"), names)
    assert names["images"].shape == (64, 3, 16, 16)


def test_ranks_share_the_cores(tmp_path, monkeypatch) -> None:
    """Lightning starts its ranks without LOCAL_WORLD_SIZE; the trainer alone knows them."""
    from folders import make_folder, module

    monkeypatch.setattr("datamodules.images.files.usable_cores", lambda: 16)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    root = make_folder(tmp_path / "set", {"ant": 10, "bee": 10})

    class Trainer:
        num_devices = 8
        strategy = SimpleNamespace(root_device=torch.device("cpu"))

    data = module(root, storage="files", workers=None)
    data.setup()
    files = data.train_set().files
    assert files.workers == 16
    data.trainer = Trainer()
    data.train_dataloader()
    assert files.workers == 2
    chosen = module(root, storage="files", workers=5)
    chosen.trainer = Trainer()
    chosen.train_dataloader()
    assert chosen.train_set().files.workers == 5
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert module(root, storage="files", workers=None).train_set().files.workers == 4


def test_a_device_that_is_too_small() -> None:
    class Full(ImageDataset):
        def images(self, indices: torch.Tensor) -> torch.Tensor:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    data = Full(torch.zeros(4, 3, 8, 8, dtype=torch.uint8), torch.zeros(4))
    with pytest.raises(InputError, match=r"0\.0 GiB.*does not fit on meta.*storage='host'"):
        BatchLoader(data, 2, device="meta")


class Said(LongTailedDataModule):
    notes_of_build: tuple[str, ...] = ()
    summary = ""

    def build(self) -> Sets:
        images = ImageDataset(torch.zeros(4, 3, 8, 8, dtype=torch.uint8))
        return Sets(images, images, None, [], "four", list(self.notes_of_build), self.summary)


def test_a_data_set_says_its_notes_once_and_what_was_left_out_in_one_line(capsys) -> None:
    data = Said(image_size=8, batch_size=8)
    data.notes_of_build = ("left out 3 files", "stretched\x1b[2J")
    data.summary = "four images; left out: 3 files"
    data.setup()
    data.setup()
    data.train_dataloader()
    data.train_dataloader()
    assert capsys.readouterr().err.splitlines() == [
        "note: stretched\\x1b[2J",
        "four images; left out: 3 files",
        "note: the batch is 4, not 8: there are 4 training images",
    ]
    assert data.notes[:2] == ["left out 3 files", "stretched\x1b[2J"]  # for the record


def test_many_notes_are_cut_where_they_are_printed(capsys) -> None:
    data = Said()
    data.notes_of_build = tuple(f"left out {number}" for number in range(25))  # no summary says so
    data.setup()
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 22
    assert lines[-2] == "note: and 5 more, in the record of a run"
    assert lines[-1].startswith("training on ")
