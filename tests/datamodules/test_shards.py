"""Shards: packing, order, ranks, and a run that is killed and resumed."""

import argparse
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import torch
from folders import make_folder
from hypothesis import given, settings
from hypothesis import strategies as st
from places import ROOT

from bcl import InputError
from bcl.cli import pack as command
from datamodules import DigitsLT, ShardsLT
from datamodules.shards import ShardLoader, WindowOrder, pack


@settings(deadline=None)  # a busy machine is no error
@given(
    st.lists(st.integers(1, 7), min_size=1, max_size=20),
    st.integers(1, 5),
    st.integers(0, 99),
    st.data(),
)
def test_window_order_is_a_permutation_read_at_any_place(sizes, window, seed, data) -> None:
    total = sum(sizes)
    whole = WindowOrder(sizes, window, seed, 3).ids(0, total)
    assert sorted(whole.tolist()) == list(range(total))
    first = data.draw(st.integers(0, total))
    last = data.draw(st.integers(first, total))
    assert WindowOrder(sizes, window, seed, 3).ids(first, last).equal(whole[first:last])


def test_window_order_reads_few_shards_at_a_time() -> None:
    order = WindowOrder([100] * 50, 4, 0, 0).ids(0, 5000)
    for start in range(0, 5000, 400):
        assert len((order[start : start + 400] // 100).unique()) <= 4
    assert not order.equal(WindowOrder([100] * 50, 4, 0, 1).ids(0, 5000))


def test_without_the_library(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "litdata", None)
    with pytest.raises(InputError, match=r"bcl-cacr\[shards\]"):
        ShardsLT(str(tmp_path)).setup()


@pytest.fixture(scope="module")
def packed(tmp_path_factory) -> Path:
    pytest.importorskip("litdata")
    out = tmp_path_factory.mktemp("shards")
    pack(DigitsLT(image_size=8), out, shard_mb=0.01, progress=False)
    return out


def shards(root: Path, **options) -> ShardsLT:
    return ShardsLT(str(root), **({"image_size": 8, "batch_size": 40, "workers": 0} | options))


def test_packed_set_is_the_same(packed: Path) -> None:
    data, source = shards(packed), DigitsLT(image_size=8)
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


def test_batches_by_rank_and_resume(packed: Path) -> None:
    data = shards(packed, window=2)
    loader = data.train_dataloader()
    assert isinstance(loader, ShardLoader)
    whole = [batch["id"] for batch in loader]
    assert len(torch.cat(whole).unique()) <= 400
    for batch in data.train_dataloader():
        assert batch["image"].equal(data.train_set().images(batch["id"]))
    options = {"sizes": loader.sizes, "window": 2, "world_size": 2}
    parts = [
        [b["id"] for b in ShardLoader(data.train_set(), 40, rank=rank, **options)]
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
        shards(packed, window=3).train_dataloader().load_state_dict(again.state_dict())
    for _ in iterator:
        pass
    other = shards(packed, window=3).train_dataloader()
    other.load_state_dict(again.state_dict())  # at an epoch's end there is no order to match
    assert [len(batch["id"]) for batch in other] == [40] * len(whole)
    assert other.epoch == 1


def test_workers_read_the_same(packed: Path) -> None:
    one, other = shards(packed), shards(packed, workers=2)
    for _ in range(2):  # the workers live on into a second epoch
        for a, b in zip(one.train_dataloader(), other.train_dataloader(), strict=True):
            assert a["image"].equal(b["image"])
            assert a["id"].equal(b["id"])


def copied(packed: Path, tmp_path: Path) -> Path:
    import shutil

    return Path(shutil.copytree(packed, tmp_path / "copy"))


def test_damaged_shards(packed: Path, tmp_path: Path) -> None:
    root = copied(packed, tmp_path)
    files = sorted((root / "train").glob("*.bin"))
    assert len(files) > 3
    files[0].unlink()
    files[1].write_bytes(files[1].read_bytes()[:-10])
    with pytest.raises(InputError, match="2 damaged file") as caught:
        shards(root).setup()
    assert f"{files[0]}: missing" in str(caught.value)
    assert f"{files[1]}: " in str(caught.value)
    root = copied(packed, tmp_path / "second")
    file = next((root / "train").glob("*.bin"))
    raw = bytearray(file.read_bytes())
    raw[-1] ^= 1
    file.write_bytes(raw)
    shards(root).setup()
    with pytest.raises(InputError, match="checksum"):
        shards(root, verify=True).setup()


def test_damaged_labels_and_index(packed: Path, tmp_path: Path) -> None:
    root = copied(packed, tmp_path)
    shards(root, verify=True).setup()
    labels, index = root / "train" / "labels.i64", root / "probe" / "index.json"
    raw = bytearray(labels.read_bytes())
    raw[0] ^= 1
    labels.write_bytes(raw)
    shards(root).setup()
    with pytest.raises(InputError, match=r"labels\.i64: its checksum is not that of the packed"):
        shards(root, verify=True).setup()
    text = index.read_text()
    index.write_text(text[:-9])
    with pytest.raises(InputError, match=r"probe/index\.json: its checksum"):
        shards(root).setup()
    index.unlink()
    with pytest.raises(InputError, match=r"1 damaged file.*\n.*probe/index\.json: missing"):
        shards(root).setup()
    # Sets that were packed before these had a checksum open as they did.
    index.write_text(text)
    manifest = json.loads((root / "shards.json").read_text())
    for part in manifest["parts"].values():
        del part["labels_sha256"], part["index_sha256"]
    (root / "shards.json").write_text(json.dumps(manifest))
    shards(root, verify=True).setup()


@pytest.mark.parametrize(
    "keys",
    [
        ("class_names",),
        ("class_counts",),
        ("grouping",),
        ("notes",),
        ("recipe",),
        ("parts", "train"),
        ("parts", "train", "shards"),
        ("parts", "probe", "total"),
        ("parts", "test", "shards", 0, "bytes"),
    ],
)
def test_manifest_that_lacks_something(packed: Path, tmp_path: Path, keys) -> None:
    manifest = json.loads((packed / "shards.json").read_text())
    entry = manifest
    for key in keys[:-1]:
        entry = entry[key]
    del entry[keys[-1]]
    (tmp_path / "shards.json").write_text(json.dumps(manifest))
    named = ".".join(map(str, keys))
    with pytest.raises(InputError, match=f"damaged: '{named}' is missing"):
        shards(tmp_path).setup()
    entry[keys[-1]] = None
    (tmp_path / "shards.json").write_text(json.dumps(manifest))
    with pytest.raises(InputError, match=f"damaged: '{named}' is missing or of another kind"):
        shards(tmp_path).setup()


@pytest.mark.parametrize("size", [0, -1, 4001, float("nan"), float("inf")])
def test_shards_of_no_size(tmp_path: Path, size: float) -> None:
    pytest.importorskip("litdata")
    with pytest.raises(InputError, match=r"shard_mb must lie in \(0, 4000\] MiB"):
        pack(DigitsLT(), tmp_path / "out", shard_mb=size, progress=False)
    assert not (tmp_path / "out").exists()


def test_no_packed_set(packed: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no packed set"):
        shards(tmp_path).setup()
    (tmp_path / "shards.json").write_text("{")
    with pytest.raises(InputError, match="damaged"):
        shards(tmp_path).setup()
    (tmp_path / "shards.json").write_text(json.dumps({"format": "x", "parts": {}}))
    with pytest.raises(InputError, match="another format"):
        shards(tmp_path).setup()
    with pytest.raises(InputError, match="window must be positive"):
        shards(tmp_path, window=0)


def run(*words) -> int:
    parser = argparse.ArgumentParser("bcl pack")
    command.add_arguments(parser)
    return command.run(parser.parse_args([str(word) for word in words]))


def test_command(tmp_path: Path, capsys) -> None:
    pytest.importorskip("litdata")
    folder = make_folder(tmp_path / "set", {"ant": 20, "bee": 20}, side=20)
    words = (folder, "--out", tmp_path / "out", "--cache-dir", tmp_path / "cache")
    assert run(*words, "--imbalance-factor", 4, "--max-side", 10) == 0
    assert "train   20 images in 1 shard" in capsys.readouterr().out
    data = shards(tmp_path / "out", batch_size=4)
    assert data.class_counts.tolist() == [16, 4]
    with pytest.raises(InputError, match="exists already"):
        run(*words)
    assert run(*words, "--overwrite", "--train-only") == 0
    assert "as it is" in shards(tmp_path / "out").recipe
    with pytest.raises(InputError, match="go with --train-list"):
        run(*words, "--overwrite", "--test-list", "x.txt")
    with pytest.raises(InputError, match="names its images itself"):
        run(*words, "--overwrite", "--train-list", "x.txt", "--recipe", "cifar10/sdclr")
    with pytest.raises(InputError, match=r"--recipe says .* --imbalance-factor would have no"):
        run(*words, "--overwrite", "--recipe", "cifar10/sdclr", "--imbalance-factor", 7)
    with pytest.raises(InputError, match=r"--split-file says .* --imbalance-factor would have no"):
        run(*words, "--overwrite", "--split-file", "s.npy", "--imbalance-factor", 7)
    for more in ((), ("--split-file", "s.npy")):
        with pytest.raises(InputError, match=r"--split-seed chooses .* no effect"):
            run(*words, "--overwrite", "--split-seed", 0, *more)
    with pytest.raises(InputError, match=r"does not exist.*: bcl pack DIR"):
        run(tmp_path / "nowhere", "--out", tmp_path / "other")
    assert not (tmp_path / "other").exists()


SCRIPT = """
import os, sys, time
import pytorch_lightning as pl
import torch
from datamodules import ShardsLT


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
    data = ShardsLT(root, image_size=8, batch_size=40, workers=1, window=3)
    trainer.fit(Recorder(), datamodule=data, ckpt_path=sys.argv[4] if len(sys.argv) > 4 else None)
"""


@pytest.mark.slow
def test_two_ranks_killed_and_resumed(packed: Path, tmp_path: Path) -> None:
    kill_and_resume(packed, tmp_path)


def kill_and_resume(root: Path, out: Path) -> None:
    """Every step before the kill and after the resume has the ids of the uninterrupted order."""
    loader = shards(root, window=3).train_dataloader()
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
