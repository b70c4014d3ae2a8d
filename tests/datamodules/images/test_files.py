"""Decoding and streaming by processes, and what happens when one is lost."""

import multiprocessing
import os
import signal
import subprocess
from pathlib import Path

import pytest
import torch
from folders import left_out, make_folder, module
from torch.utils.data._utils import signal_handling

from bcl import InputError
from datamodules.images.cache import decoded
from datamodules.images.files import ImageFiles, PackedNames, Places, decode_all
from datamodules.images.readers import FolderReader


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_folder(tmp_path / "set", {"ant": 20, "bee": 20})


class KilledBy(FolderReader):
    """Its reader is killed, as by a system without memory."""

    def read(self, name: str) -> bytes:
        if name.endswith("bee/007.png"):
            os.kill(os.getpid(), signal.SIGKILL)
        return super().read(name)


def test_decoding_process_that_is_killed(folder: Path, monkeypatch) -> None:
    """It ends with a message; a plain pool would wait for its result for ever."""
    monkeypatch.setattr("datamodules.images.files._CHUNK_BYTES", 1)  # a chunk an image
    source = KilledBy(folder)
    with pytest.raises(InputError, match=r"was killed.*fewer than 2"):
        list(decode_all(source, source.names(), 12, workers=2))


def test_decoding_runs_ahead_by_a_few_chunks_alone(folder: Path, tmp_path: Path, monkeypatch):
    """A slow disk must not leave a whole set's pixels waiting in memory."""
    monkeypatch.setattr("datamodules.images.files._CHUNK_BYTES", 1)
    log = tmp_path / "log"

    class Logged(FolderReader):
        def read(self, name: str) -> bytes:
            with log.open("a") as file:
                file.write("x")
            return super().read(name)

    source = Logged(folder)
    chunks = decode_all(source, source.names(), 12, workers=2)
    next(chunks)
    chunks.close()  # waits for what runs
    assert len(log.read_text()) <= 10


class KilledInLoader(KilledBy):
    """Only a worker of the loader is killed, not the process that asks it."""

    def read(self, name: str) -> bytes:
        if torch.utils.data.get_worker_info() is None:
            return FolderReader.read(self, name)
        return super().read(name)


@pytest.mark.slow
def test_loader_process_that_is_killed(folder: Path) -> None:
    source = KilledInLoader(folder)
    files = ImageFiles(source, source.names(), 12, workers=1)
    # PyTorch's handler may raise anywhere, here in pytest itself; without it the loader looks
    # after its workers every 5 s.
    signal_handling._set_SIGCHLD_handler()
    before = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    try:
        with pytest.raises(InputError, match=r"(?s)was lost.*fewer with data\.workers"):
            list(files.stream([Places(torch.arange(40), torch.zeros(40))]))
        del files
    finally:
        signal.signal(signal.SIGCHLD, before)


@pytest.mark.parametrize("error", [EOFError, ConnectionResetError])
def test_loader_process_that_is_killed_while_it_sends(folder, monkeypatch, error):
    def broken(loader):
        raise error

    monkeypatch.setattr(torch.utils.data.DataLoader, "__iter__", broken)
    files = ImageFiles(FolderReader(folder), FolderReader(folder).names(), 12, workers=1)
    with pytest.raises(InputError, match="was lost"):
        list(files.stream([Places(torch.arange(4), torch.zeros(4))]))


@pytest.mark.slow
def test_loader_processes_outlast_a_signal_to_the_whole_job(folder: Path) -> None:
    """The main process stops after its step, for which it needs them; its own SIGTERM ends them."""
    others = set(multiprocessing.active_children())  # of earlier tests
    files = ImageFiles(FolderReader(folder), FolderReader(folder).names(), 12, workers=2)
    stream = files.stream([Places(torch.arange(40), torch.zeros(40))] * 20)
    next(stream)
    workers = set(multiprocessing.active_children()) - others
    for name in ("USR1", "INT", "TERM"):
        subprocess.run(["kill", f"-{name}", *(str(each.pid) for each in workers)], check=True)
    assert len(list(stream)) == 19
    assert len(workers) == 2
    for each in workers:
        assert each.is_alive()
        each.terminate()
        each.join(10)
        assert each.exitcode == 0


def test_a_loader_process_tells_an_error_without_its_stack_trace(folder: Path) -> None:
    data = module(folder, storage="files", workers=1, imbalance_factor=1)
    data.setup()
    for path in folder.glob("*/*.png"):
        path.unlink()
    with pytest.raises(InputError, match="became unreadable since the scan") as caught:
        next(iter(data.train_dataloader()))
    assert "\n" not in str(caught.value)


def decode_folder(folder: Path, cache: Path, workers: int = 0):
    source = FolderReader(folder)
    return decoded(source, source.names(), 12, cache=cache, workers=workers)


def test_number_of_processes_does_not_matter(folder: Path, tmp_path: Path) -> None:
    one = decode_folder(folder, tmp_path / "a", workers=0)
    many = decode_folder(folder, tmp_path / "b", workers=3)
    assert one.pixels.equal(many.pixels)


def test_packed_names() -> None:
    names = ["a.jpg", "ä ö.jpg", "", "x/y.png"]
    packed = PackedNames(names)
    assert list(packed) == names
    assert len(packed) == 4
    assert packed[1] == names[1]


@pytest.mark.slow
def test_workers_give_the_same_batches_and_leave_the_random_state(folder: Path) -> None:
    memory = module(folder, storage="memory")
    files = module(folder, storage="files", workers=2)
    torch.manual_seed(0)
    state = torch.get_rng_state()
    loader = files.train_dataloader()
    for epoch in range(2):
        for one, other in zip(memory.train_dataloader(), loader, strict=True):
            if epoch == 0:
                assert all(one[key].equal(other[key]) for key in one)
        loader.set_epoch(0)
    assert torch.get_rng_state().equal(state)
    for one, other in zip(memory.probe_set().batches(7), files.probe_set().batches(7), strict=True):
        assert all(one[key].equal(other[key]) for key in one)


@pytest.mark.slow
def test_workers_after_a_broken_off_epoch(folder: Path) -> None:
    files = module(folder, storage="files", workers=2, batch_size=2, imbalance_factor=1)
    loader = files.train_dataloader()
    whole = [batch["id"].tolist() for batch in files.train_dataloader()]
    iterator = iter(loader)
    for _ in range(3):
        next(iterator)
    state = loader.state_dict()
    del iterator
    again = files.train_dataloader()
    again.load_state_dict(state)
    seen = list(again)
    assert [batch["id"].tolist() for batch in seen] == whole[3:]
    for batch in seen:
        assert batch["image"].equal(files.train_set().images(batch["id"]))


@pytest.mark.slow
def test_two_readers_at_once(folder: Path) -> None:
    files = module(folder, storage="files", workers=1, batch_size=2, imbalance_factor=1)
    pairs = zip(files.probe_set().batches(4), files.train_dataloader(), strict=False)
    for probe, train in pairs:
        assert probe["image"].equal(files.probe_set().images(probe["id"]))
        assert train["image"].equal(files.train_set().images(train["id"]))


def test_image_that_vanishes_after_the_scan(folder: Path) -> None:
    files = module(folder, storage="files", imbalance_factor=1)
    files.setup()
    for path in folder.glob("*/*.png"):
        path.unlink()
    with pytest.raises(InputError, match="became unreadable since the scan"):
        next(iter(files.train_dataloader()))


def test_scan_of_files_lists_bad_images(folder: Path) -> None:
    (folder / "ant" / "000.png").write_text("no image")
    (folder / "bee" / "001.png").write_bytes((folder / "bee" / "002.png").read_bytes()[:60])
    with pytest.raises(InputError, match="2 unreadable"):
        module(folder, storage="files").setup()
    skipped = module(folder, storage="files", on_bad_image="skip")
    assert len(left_out(skipped)) == 2
    assert skipped.content_hash == module(folder, on_bad_image="skip").content_hash
