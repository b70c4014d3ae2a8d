"""Packed sets: packing, order, ranks, and a run that is killed and resumed."""

import json
import os
import pickle
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from places import ROOT

from bcl import InputError
from datamodules import DigitsLT, PackedLT
from datamodules.external import SelectionSettings
from datamodules.images.loader import BatchLoader, MixedOrder, WindowOrder
from datamodules.packed import pack


@pytest.mark.slow
@settings(deadline=None)  # a busy machine is no error
@given(
    st.lists(st.integers(1, 7), min_size=1, max_size=20),
    st.integers(1, 5),
    st.integers(0, 99),
    st.data(),
)
def test_window_order_is_a_permutation_read_at_any_place(sizes, window, seed, data) -> None:
    total = sum(sizes)
    whole = WindowOrder(sizes, window, seed, 3)[0:total]
    assert sorted(whole.tolist()) == list(range(total))
    first = data.draw(st.integers(0, total))
    last = data.draw(st.integers(first, total))
    assert WindowOrder(sizes, window, seed, 3)[first:last].equal(whole[first:last])


def test_window_order_reads_few_blocks_at_a_time() -> None:
    order = WindowOrder([100] * 50, 4, 0, 0)[0:5000]
    for start in range(0, 5000, 400):
        assert len((order[start : start + 400] // 100).unique()) <= 4
    assert not order.equal(WindowOrder([100] * 50, 4, 0, 1)[0:5000])


@pytest.mark.slow
@settings(deadline=None)
@given(
    st.lists(st.integers(1, 7), min_size=1, max_size=20),
    st.integers(1, 40),
    st.integers(0, 99),
    st.data(),
)
def test_others_are_strewn_evenly_and_read_at_any_place(sizes, more, seed, data) -> None:
    n = sum(sizes)
    order = MixedOrder(WindowOrder(sizes, 3, seed, 3), n, -1 - torch.arange(more), seed, 3)
    whole = order[0 : n + more]
    assert whole[whole >= 0].equal(WindowOrder(sizes, 3, seed, 3)[0:n])
    assert whole[whole < 0].equal(-1 - torch.arange(more))
    places = (whole < 0).nonzero()[:, 0]
    for number, place in enumerate(places.tolist()):  # one in each of equal stretches
        ends = [(number + step) * (n + more) // more for step in (0, 1)]
        assert ends[0] <= place < ends[1]
    first = data.draw(st.integers(0, n + more))
    last = data.draw(st.integers(first, n + more))
    assert order[first:last].equal(whole[first:last])


def test_without_the_library(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(InputError, match=r"bcl-cacr\[datasets\]"):
        PackedLT(str(tmp_path)).setup()


@pytest.fixture(scope="module")
def packed(tmp_path_factory) -> Path:
    pytest.importorskip("datasets")
    out = tmp_path_factory.mktemp("packed")
    pack(DigitsLT(image_size=8), out, shard_mb=0.01)
    return out


def opened(root: Path, **options) -> PackedLT:
    return PackedLT(str(root), **({"image_size": 8, "batch_size": 40, "workers": 0} | options))


@pytest.mark.slow
def test_packed_set_is_the_same(packed: Path) -> None:
    data, source = opened(packed), DigitsLT(image_size=8)
    assert data.class_counts.equal(source.class_counts)
    assert data.class_names == source.class_names
    assert data.recipe == source.recipe
    for name in ("train_set", "probe_set", "test_set"):
        one, other = getattr(data, name)(), getattr(source, name)()
        index = torch.arange(len(one))
        assert one.labels.equal(other.labels)
        assert one.images(index).equal(other.images(index))
    batches = list(data.probe_set().batches(100))
    assert torch.cat([b["id"] for b in batches]).equal(torch.arange(1240))
    shot = data.few_shot(5, 0)
    assert shot.equal(source.few_shot(5, 0))


@pytest.mark.slow
def test_batches_by_rank_and_resume(packed: Path) -> None:
    data = opened(packed, window=2)
    loader = data.train_dataloader()
    whole = [batch["id"] for batch in loader]
    assert len(torch.cat(whole).unique()) <= 400
    for batch in data.train_dataloader():
        assert batch["image"].equal(data.train_set().images(batch["id"]))
    options = {"window": 2, "world_size": 2}
    parts = [
        [b["id"] for b in BatchLoader(data.train_set(), 40, rank=rank, **options)]
        for rank in range(2)
    ]
    assert [torch.cat(pair).tolist() for pair in zip(*parts, strict=True)] == [
        ids.tolist() for ids in whole
    ]
    again = data.train_dataloader()
    iterator = iter(again)
    for _ in range(4):
        next(iterator)
    resumed = data.train_dataloader()
    resumed.load_state_dict(again.state_dict())
    assert [b["id"].tolist() for b in resumed] == [ids.tolist() for ids in whole[4:]]
    with pytest.raises(
        InputError, match="middle of epoch 0 of a run with window 2, this run has 3"
    ):
        opened(packed, window=3).train_dataloader().load_state_dict(again.state_dict())
    for _ in iterator:
        pass
    other = opened(packed, window=3).train_dataloader()
    other.load_state_dict(again.state_dict())  # at an epoch's end there is no order to match
    assert [len(batch["id"]) for batch in other] == [40] * len(whole)
    assert other.epoch == 1


@pytest.mark.slow
def test_workers_read_the_same(packed: Path) -> None:
    one, other = opened(packed), opened(packed, workers=2)
    for _ in range(2):  # the workers live on into a second epoch
        for a, b in zip(one.train_dataloader(), other.train_dataloader(), strict=True):
            assert a["image"].equal(b["image"])
            assert a["id"].equal(b["id"])


def copied(packed: Path, tmp_path: Path) -> Path:
    import shutil

    return Path(shutil.copytree(packed, tmp_path / "copy"))


def edit(root: Path, **changes) -> None:
    """Change entries of a copy's manifest."""
    path = root / "packed.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def refused(root: Path, *words: str, **options) -> None:
    """Refused in one clear line that has these words."""
    with pytest.raises(InputError) as caught:
        opened(root, **options).setup()
    text = str(caught.value)
    assert "\n" not in text
    for word in (*words, "pack the set again"):
        assert word in text


@pytest.mark.slow
def test_hugging_face_opens_the_folder(packed: Path, tmp_path: Path) -> None:
    import datasets

    loaded = datasets.load_dataset(str(packed), cache_dir=str(tmp_path))
    sizes = {name: len(part) for name, part in loaded.items()}
    assert sizes == {"train": 417, "probe": 1240, "test": 500}
    ours = opened(packed).train_set()
    assert loaded["train"]["label"][:] == ours.labels.tolist()
    assert loaded["train"].features["label"].names == opened(packed).class_names
    for row in (0, 100, 416):
        pixels = torch.from_numpy(np.array(loaded["train"][row]["image"])).permute(2, 0, 1)
        assert pixels.equal(ours.images(torch.tensor([row]))[0])


def test_missing_and_truncated_files(packed: Path, tmp_path: Path) -> None:
    root = copied(packed, tmp_path)
    files = sorted((root / "data").glob("train-*.arrow"))
    assert len(files) > 3
    files[0].unlink()
    files[1].write_bytes(files[1].read_bytes()[:-10])
    refused(root, "2 damaged", f"{files[0].name} is missing", f"{files[1].name} has ")
    # Even where the manifest states the size, half a file does not pass.
    manifest = json.loads((packed / "packed.json").read_text())
    entry = manifest["parts"]["train"]["files"][2]
    for size in (0, 100, 2000):
        again = copied(packed, tmp_path / str(size))
        file = again / entry["file"]
        file.write_bytes(file.read_bytes()[:size])
        entry["bytes"] = size
        (again / "packed.json").write_text(json.dumps(manifest))
        refused(again, f"{file.name} is not an intact packed file")


def test_changed_files(packed: Path, tmp_path: Path) -> None:
    root = copied(packed, tmp_path)
    opened(root, verify=True).setup()
    file = next((root / "data").glob("train-*.arrow"))
    raw = bytearray(file.read_bytes())
    raw[raw.index(b"IDAT") + 5] ^= 1
    file.write_bytes(raw)
    opened(root).setup()
    refused(root, f"{file.name} has changed", verify=True)


@pytest.mark.parametrize(
    "keys",
    [
        ("class_names",),
        ("grouping",),
        ("notes",),
        ("recipe",),
        ("parts",),
        ("parts", "train"),
        ("parts", "train", "files"),
        ("parts", "probe", "content_hash"),
        ("parts", "test", "files", 0, "bytes"),
        ("parts", "test", "files", 0, "images"),
    ],
)
def test_manifest_that_lacks_something(packed: Path, tmp_path: Path, keys) -> None:
    manifest = json.loads((packed / "packed.json").read_text())
    entry = manifest
    for key in keys[:-1]:
        entry = entry[key]
    named = ".".join(map(str, keys))
    for value in (None, 1.5):
        entry[keys[-1]] = value
        (tmp_path / "packed.json").write_text(json.dumps(manifest))
        refused(tmp_path, f"'{named}' is missing or of another kind")
    del entry[keys[-1]]
    (tmp_path / "packed.json").write_text(json.dumps(manifest))
    refused(tmp_path, f"'{named}' is missing")


@pytest.mark.parametrize(
    "name",
    [
        "/etc/passwd",
        "../data/train-00000-of-00001.arrow",
        "data/../../train-00000-of-00001.arrow",
        "data/train-00000-of-00001.arrow/../../../x",
        "data/probe-00000-of-00001.arrow",
        "data/train-00000-of-00001.pkl",
        "data/train-00000-of-00001.arrow\n",
        "C:/train.arrow",
    ],
)
def test_names_that_leave_the_folder(packed: Path, tmp_path: Path, name: str) -> None:
    root = copied(packed, tmp_path)
    parts = json.loads((root / "packed.json").read_text())["parts"]
    parts["train"]["files"][0]["file"] = name
    edit(root, parts=parts)
    refused(root, "cannot be a file of part 'train'")
    parts["train"]["files"][0]["file"] = "data/train-00000-of-00007.arrow"
    edit(root, parts=parts | {"../x": parts["probe"]})
    refused(root, "cannot be a file of part '../x'")


class Evil:
    """Touches a file if it is ever unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def evil_file(path: Path, kind: str, executed: Path) -> None:
    """What a stranger's folder may hold in an Arrow file's place."""
    import pyarrow as pa

    raw = pickle.dumps(Evil(executed))
    if kind == "pickle":
        path.write_bytes(raw)
        return
    paths = pa.array(["/etc/passwd"] * 3)
    encoded = pa.array([None if kind == "no bytes" else raw] * 3, pa.binary())
    image = pa.StructArray.from_arrays([encoded, paths], ["bytes", "path"])
    labels = {"label": [0, 10, 2], "null label": [0, None, 2], "text label": ["0", "1", "2"]}
    label = pa.array(labels.get(kind, [0, 1, 2]))
    table = pa.table({"image": image, "label": label, "name": ["a", "b", "c"]})
    if kind == "no name":
        table = table.drop_columns(["name"])
    if kind == "flat":
        table = table.set_column(0, "image", pa.array([raw] * 3))
    if kind == "path":
        table = table.set_column(0, "image", pa.array([{"path": "/etc/passwd"}] * 3))
    if kind == "extension":
        name = {"ARROW:extension:name": "arrow.py_extension_type"}
        field = pa.field("label", pa.int64(), metadata=name | {"ARROW:extension:metadata": raw})
        table = table.cast(table.schema.set(1, field))
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)
    if kind == "offset":  # of an image beyond the end of the file
        content = bytearray(path.read_bytes())
        ends = b"".join((len(raw) * i).to_bytes(4, "little") for i in range(4))
        place = content.index(ends)
        content[place + 12 : place + 16] = (2**31 - 1).to_bytes(4, "little")
        path.write_bytes(content)


KINDS = ("pickle", "path", "flat", "label", "null label", "text label", "no name", "offset", "rows")


@pytest.mark.parametrize("kind", [*KINDS, "no bytes", "extension"])
def test_a_strangers_folder(packed: Path, tmp_path: Path, kind: str) -> None:
    """Nothing is unpickled, no other file is read, and what is wrong is said in one line."""
    root, executed = copied(packed, tmp_path), tmp_path / "executed"
    name = "data/train-00000-of-00001.arrow"
    evil_file(root / name, kind, executed)
    size = (root / name).stat().st_size
    file = {"file": name, "images": 4 if kind == "rows" else 3, "bytes": size, "sha256": ""}
    edit(root, parts={"train": {"content_hash": "x", "files": [file]}})
    if kind in KINDS:
        refused(root, name)
    else:
        with pytest.raises(InputError, match="became unreadable"):
            opened(root, batch_size=1).train_set().images(torch.tensor([0]))
    assert not executed.exists()


@pytest.mark.parametrize("size", [0, -1, 2001, float("nan"), float("inf")])
def test_files_of_no_size(tmp_path: Path, size: float) -> None:
    pytest.importorskip("datasets")
    with pytest.raises(InputError, match="shard_mb"):
        pack(DigitsLT(), tmp_path / "out", shard_mb=size)
    assert not (tmp_path / "out").exists()


def test_no_packed_set(packed: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no packed set"):
        opened(tmp_path).setup()
    for text in ("{", "[]", json.dumps({"format": "x", "parts": {}}), "[" * 100_000):
        (tmp_path / "packed.json").write_text(text)
        refused(tmp_path, "packed.json is damaged")
    (tmp_path / "packed.json").unlink()
    os.mkfifo(tmp_path / "packed.json")  # reading it would wait without end
    refused(tmp_path, "packed.json is damaged", "not a regular file")
    with pytest.raises(InputError, match="window"):
        opened(tmp_path, window=0)


def test_disk_full_while_packing(tmp_path: Path, monkeypatch) -> None:
    pytest.importorskip("datasets")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("datamodules.packed.file_hash", full)
    with pytest.raises(InputError, match=r"cannot pack into .*No space left"):
        pack(DigitsLT(), tmp_path / "out")


SCRIPT = """
import os, sys, time
import pytorch_lightning as pl
import torch
from datamodules import PackedLT


class Recorder(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))

    def training_step(self, batch, index):
        ids = " ".join(map(str, batch["id"].tolist()))
        with open(f"{out}/{sys.argv[3]}-{self.global_rank}.txt", "a") as file:
            file.write(f"{self.current_epoch} {index}: {ids}\\n")
        time.sleep(0.05)
        return self.weight * 1.0

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


if __name__ == "__main__":
    root, out = sys.argv[1:3]
    saver = pl.callbacks.ModelCheckpoint(out, "{step}", every_n_train_steps=3, save_top_k=-1)
    trainer = pl.Trainer(
        default_root_dir=out, max_epochs=3, accelerator="cpu", devices=2, strategy="ddp",
        limit_train_batches=10, logger=False,
        enable_progress_bar=False, enable_model_summary=False, callbacks=[saver],
    )
    data = PackedLT(root, image_size=8, batch_size=40, workers=1, window=3)
    trainer.fit(Recorder(), datamodule=data, ckpt_path=sys.argv[4] if len(sys.argv) > 4 else None)
"""


@pytest.mark.slow
def test_two_ranks_killed_and_resumed(packed: Path, tmp_path: Path) -> None:
    kill_and_resume(packed, tmp_path)


def kill_and_resume(root: Path, out: Path) -> None:
    """Every step before the kill and after the resume has the ids of the uninterrupted order."""
    loader = opened(root, window=3).train_dataloader()
    expected = {}
    for epoch in range(3):
        loader.set_epoch(epoch)
        for step, ids in enumerate(torch.split(loader.order(epoch)[:400], 40)):
            for rank in range(2):
                expected[rank, epoch, step] = ids[20 * rank : 20 * rank + 20].tolist()
    assert len(expected) == 60

    script = out / "run.py"
    script.write_text(textwrap.dedent(SCRIPT))
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, str(script), str(root), str(out)]

    def seen(name: str) -> dict:
        found = {}
        for rank in range(2):
            path = out / f"{name}-{rank}.txt"
            lines = path.read_text().splitlines(keepends=True) if path.exists() else []
            for line in lines:
                if line.endswith("\n"):
                    place, ids = line.split(":")
                    epoch, step = map(int, place.split())
                    found[rank, epoch, step] = list(map(int, ids.split()))
        return found

    process = subprocess.Popen([*command, "cut"], env=environment, start_new_session=True)
    until = time.monotonic() + 180
    while len(seen("cut")) < 2 * 15 and time.monotonic() < until and process.poll() is None:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    cut = seen("cut")
    assert 30 <= len(cut) < 60

    steps = sorted(int(path.stem.split("=")[1]) for path in out.glob("step=*.ckpt"))
    first = steps[-2]  # the newest may be cut off
    last = out / f"step={first}.ckpt"
    subprocess.run([*command, "rest", str(last)], env=environment, check=True, timeout=240)
    rest = seen("rest")
    assert cut == {place: expected[place] for place in cut}
    assert rest == {place: expected[place] for place in rest}
    assert set(rest) == {place for place in expected if place[1] * 10 + place[2] >= first}


def test_a_packed_set_beside_external_images(packed, tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    np.save(tmp_path / "more.npy", rng.integers(0, 256, (40, 8, 8, 3), np.uint8))
    selection = SelectionSettings("random", root=str(tmp_path / "more.npy"), budget=25)
    data = PackedLT(str(packed), image_size=8, batch_size=16, selection=selection, workers=0)
    loader, n = data.train_dataloader(), data.num_samples
    assert len(loader) == (n + 25) // 16
    before = loader.order(0)[0 : n + 25]  # training images again
    assert len(before.unique()) == n
    selected = torch.arange(40)[5:30]
    loader.choose(torch.cat([torch.arange(n), -1 - selected]))
    whole = loader.order(1)[0 : n + 25]
    assert sorted(whole.tolist()) == sorted([*range(n), *(-1 - selected).tolist()])
    own = WindowOrder(data.train_set().blocks, data.window, 0, 1)[0:n]
    assert whole[whole >= 0].equal(own)  # still block by block
    assert not loader.order(2)[0 : n + 25].equal(whole)
    loader.set_epoch(1)
    batches = list(loader)
    assert (
        torch.cat([batch["id"] for batch in batches])
        .sort()
        .values.equal(whole[: len(batches) * 16].clamp(min=-1).sort().values)
    )
    for batch in batches:
        outside = batch["id"] < 0
        assert batch["external"][~outside].eq(-1).all()
        known = data.external.images(batch["external"][outside])
        assert batch["image"][outside].equal(known)
        assert batch["image"][~outside].equal(data.train_set().images(batch["id"][~outside]))
    # Within the epoch, a resumed loader goes on where the other stopped.
    loader.set_epoch(2)
    steps = iter(loader)
    for _ in range(3):
        next(steps)
    again = data.train_dataloader()
    again.choose(torch.cat([torch.arange(n), -1 - selected]))
    again.load_state_dict(loader.state_dict())
    for one, other in zip(steps, again, strict=True):
        assert one["image"].equal(other["image"])
    # Draws that repeat images are read in any order.
    balanced = PackedLT(
        str(packed), image_size=8, batch_size=16, selection=SelectionSettings("balanced"), workers=0
    ).train_dataloader()
    balanced.choose(torch.zeros(n, dtype=torch.int64))
    assert balanced.order(0)[:16].eq(0).all()


def test_packed_images_are_refused_as_external_ones(packed, tmp_path: Path) -> None:
    known = PackedLT(str(packed), image_size=8, workers=0).train_set().images(torch.tensor([7]))
    more = np.random.default_rng(5).integers(0, 256, (4, 8, 8, 3), np.uint8)
    pixels = known.permute(0, 2, 3, 1).numpy()
    np.save(tmp_path / "more.npy", np.concatenate([more, pixels]))
    selection = SelectionSettings("random", root=str(tmp_path / "more.npy"), budget=4)
    data = PackedLT(str(packed), image_size=8, batch_size=16, selection=selection, workers=0)
    with pytest.raises(
        InputError, match="1 of the 5 external images are in the training set too: 4"
    ):
        data.train_dataloader()
