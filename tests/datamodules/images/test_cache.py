"""The cache of decoded images, and images decoded by workers."""

import errno
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from folders import make_folder, module
from PIL import Image
from places import ROOT

from bcl import InputError
from datamodules.images import cache as cache_module
from datamodules.images.cache import decoded
from datamodules.images.files import decode_all
from datamodules.images.readers import FolderReader


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_folder(tmp_path / "set", {"ant": 20, "bee": 20})


def decode_folder(folder: Path, cache: Path, workers: int = 0):
    source = FolderReader(folder)
    return decoded(source, source.names(), 12, cache=cache, workers=workers)


def _start(folder: Path, cache: Path, queue) -> None:
    result = decode_folder(folder, cache)
    queue.put(int(result.pixels.to(torch.int64).sum()))


@pytest.mark.slow
def test_processes_that_start_together(folder: Path, tmp_path: Path, monkeypatch) -> None:
    """One decodes, the others wait for it and map the same file."""
    runs = tmp_path / "runs"

    def slow(*args):
        with runs.open("a") as file:
            file.write("x")
        time.sleep(0.3)
        return decode_all(*args)

    monkeypatch.setattr(cache_module, "decode_all", slow)
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    started = [
        context.Process(target=_start, args=(folder, tmp_path / "cache", queue)) for _ in range(4)
    ]
    for process in started:
        process.start()
    sums = {queue.get(timeout=60) for _ in started}
    for process in started:
        process.join()
    assert len(sums) == 1
    assert runs.read_text() == "x"
    assert len(list((tmp_path / "cache").glob("*.u8"))) == 1


def test_disk_full(folder: Path, tmp_path: Path, monkeypatch) -> None:
    class Usage:
        free = 100

    monkeypatch.setattr("shutil.disk_usage", lambda _: Usage)
    with pytest.raises(InputError, match=r"0 MiB free.*cache_dir"):
        decode_folder(folder, tmp_path / "cache")
    monkeypatch.undo()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)  # noticed as late as can be
    with pytest.raises(InputError, match="No space left on device"):
        decode_folder(folder, tmp_path / "cache")
    monkeypatch.undo()
    assert not list((tmp_path / "cache").iterdir())
    assert len(decode_folder(folder, tmp_path / "cache").pixels) == 40


def test_folder_that_cannot_be_written(folder: Path, tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"cannot cache.*BCL_CACHE"):
        decode_folder(folder, tmp_path / "file" / "cache")

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    decode_folder(folder, tmp_path / "cache")
    monkeypatch.setattr(cache_module, "atomic_write", refuse)
    with pytest.raises(InputError, match="Permission denied"):
        decode_folder(folder, tmp_path / "other")
    # What is cached already needs no writing.
    assert len(decode_folder(folder, tmp_path / "cache").pixels) == 40


@pytest.mark.slow
def test_killed_while_caching(folder: Path, tmp_path: Path) -> None:
    code = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from datamodules.images import cache\n"
        "from datamodules.images.readers import FolderReader\n"
        "os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL)\n"
        "source = FolderReader(Path(sys.argv[1]))\n"
        "cache.decoded(source, source.names(), 12, cache=sys.argv[2], workers=0)\n"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code, str(folder), str(tmp_path / "cache")]
    assert subprocess.run(command, env=environment, check=False).returncode == -9
    assert len(list((tmp_path / "cache").glob(".*.tmp"))) == 1
    assert len(decode_folder(folder, tmp_path / "cache").pixels) == 40
    assert not list((tmp_path / "cache").glob(".*.tmp"))


def test_damaged_cache_is_made_again(folder: Path, tmp_path: Path) -> None:
    expected = decode_folder(folder, tmp_path / "cache").pixels.clone()
    path = next((tmp_path / "cache").glob("*.u8"))
    whole = path.read_bytes()
    for damaged in (whole[:-100], b"", whole[:-20] + b"x" * 20, whole + b"more"):
        path.write_bytes(damaged)
        assert decode_folder(folder, tmp_path / "cache").pixels.equal(expected)


def test_default_folder(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setenv("BCL_CACHE", str(tmp_path))
    assert cache_module.default_cache() == tmp_path
    monkeypatch.delenv("BCL_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_module.default_cache() == tmp_path / "bcl-cacr"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_module.default_cache() == Path.home() / ".cache" / "bcl-cacr"


def test_disk_full_in_earnest(folder: Path, tmp_path: Path) -> None:
    """The system stops the write in the middle."""
    source = FolderReader(folder)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    old = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, hard))
    try:
        with pytest.raises(InputError, match=r"cannot cache decoded images in .*cache_dir"):
            decoded(source, source.names(), 12, cache=tmp_path / "cache", workers=2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, old)
    assert not list((tmp_path / "cache").iterdir())
    assert len(decoded(source, source.names(), 12, cache=tmp_path / "cache").pixels) == 40


def test_same_size_and_time_but_other_content(folder: Path) -> None:
    """As an unpacker that restores times leaves them: the cache must not be taken for it."""
    path = folder / "ant" / "000.bmp"
    Image.new("RGB", (12, 12), "red").save(path)
    os.utime(path, (1, 1))
    module(folder, imbalance_factor=None).setup()
    Image.new("RGB", (12, 12), "blue").save(path)
    os.utime(path, (1, 1))
    data = module(folder, imbalance_factor=None, test_share=0.04)
    images = torch.cat(
        [one["image"] for part in (data.probe_set(), data.test_set()) for one in part.batches(99)]
    )
    blue = torch.tensor([0, 0, 255], dtype=torch.uint8).view(1, 3, 1, 1)
    assert int((images == blue).flatten(1).all(1).sum()) == 1


def test_older_caches_are_not_read(folder: Path, tmp_path: Path) -> None:
    source = FolderReader(folder)
    expected = decoded(source, source.names(), 12, cache=tmp_path / "cache", workers=0)
    path = next((tmp_path / "cache").glob("*.u8"))
    assert path.read_bytes()[-8:] == cache_module._MAGIC
    assert len(expected.digests) == len(expected.digests.unique()) == 40


@pytest.mark.parametrize("place", [0.1, 0.5, 0.9, 0.97, 0.985, 0.999])
def test_one_flipped_bit_is_found_and_the_cache_made_again(folder, tmp_path, place):
    cache = tmp_path / "cache"
    expected = decode_folder(folder, cache)
    pixels, path = expected.pixels.clone(), next(cache.glob("*.u8"))
    whole = path.read_bytes()
    damaged = bytearray(whole)
    damaged[int(place * len(damaged))] ^= 16
    path.unlink()  # not in place: the expected pixels are mapped
    path.write_bytes(damaged)
    assert torch.equal(decode_folder(folder, cache).pixels, pixels)
    assert path.read_bytes() == whole


class Failing(FolderReader):
    """A disk that fails for a while."""

    broken = True

    def read(self, name):
        if self.broken and name.startswith("ant"):
            raise OSError(errno.EIO, "Input/output error")
        return super().read(name)


def test_an_error_of_the_system_is_not_remembered(folder, tmp_path):
    (folder / "bee" / "bad.png").write_bytes(b"no image")
    disk = Failing(folder)

    def bad():
        chunk = decoded(disk, disk.names(), 12, cache=tmp_path / "cache", workers=0)
        return [why for _, why in chunk.bad], len(chunk.pixels)

    assert bad()[1] == 20
    assert bad() == (["Input/output error"] * 20 + ["cannot identify image file"], 20)
    disk.broken = False
    assert bad() == (["cannot identify image file"], 40)  # the file's own fault stays
