"""The cache of decoded images, and images decoded by workers."""

import multiprocessing
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from folders import left_out, make_folder, module
from PIL import Image
from places import ROOT

from bcl import InputError
from datamodules.images import cache as cache_module
from datamodules.images.cache import decoded
from datamodules.images.decode import decode
from datamodules.images.files import PackedNames, decode_all
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
    assert [path.suffix for path in (tmp_path / "cache").iterdir()] == [".lock"]
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


def test_damaged_cache_is_made_anew(folder: Path, tmp_path: Path) -> None:
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


def test_number_of_processes_does_not_matter(folder: Path, tmp_path: Path) -> None:
    one = decode_folder(folder, tmp_path / "a", workers=0)
    many = decode_folder(folder, tmp_path / "b", workers=3)
    assert one.pixels.equal(many.pixels)


def test_decoding_crops_the_center_and_keeps_the_rest(tmp_path: Path) -> None:
    image = Image.new("RGB", (300, 100), "red")
    image.paste("blue", (100, 0, 200, 100))
    for name in ("a.png", "a.jpg", "a.bmp"):
        image.save(tmp_path / name)
        pixels = torch.from_numpy(decode((tmp_path / name).read_bytes(), 20))
        assert pixels.shape == (3, 20, 20)
        assert pixels[:, 10, 10].tolist()[2] > 240
        assert int((pixels[2] > 200).sum()) >= 360  # the middle third, whole
    for mode in ("L", "RGBA", "P", "CMYK", "I;16"):
        name = tmp_path / ("m.tif" if mode == "I;16" else "m.jpg" if mode == "CMYK" else "m.png")
        Image.new(mode, (9, 7)).save(name)
        assert decode(name.read_bytes(), 6).shape == (3, 6, 6)


def test_jpeg_in_draft_mode_is_close_to_a_full_decode(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    low = torch.rand(1, 3, 12, 16, generator=generator)
    smooth = torch.nn.functional.interpolate(low, size=(480, 640), mode="bicubic").clamp(0, 1)
    array = (smooth[0].permute(1, 2, 0) * 255).to(torch.uint8).numpy()
    Image.fromarray(array).save(tmp_path / "a.jpg", quality=95)
    Image.fromarray(array).save(tmp_path / "a.png")
    fast = torch.from_numpy(decode((tmp_path / "a.jpg").read_bytes(), 64)).float()
    full = torch.from_numpy(decode((tmp_path / "a.png").read_bytes(), 64)).float()
    assert float((fast - full).abs().mean()) < 1.5


def test_packed_names() -> None:
    names = ["a.jpg", "ä ö.jpg", "", "x/y.png"]
    packed = PackedNames(names)
    assert list(packed) == names
    assert len(packed) == 4
    assert packed[1] == names[1]


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


def test_size_decides(folder: Path) -> None:
    small = 40 * 3 * 12 * 12 / 2**30
    assert module(folder, memory_limit_gb=small).train_set().files is None
    assert module(folder, memory_limit_gb=small * 0.9).train_set().files is not None
    with pytest.raises(InputError, match="unknown storage 'disk'"):
        module(folder, storage="disk")
    with pytest.raises(InputError, match="unknown on_bad_image"):
        module(folder, on_bad_image="ignore")
    with pytest.raises(InputError, match="workers"):
        module(folder, workers=-1)
