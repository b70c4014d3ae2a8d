"""Odd images, odd file names, odd folders: what is read, how, and what is refused."""

import errno
import os
import resource
import signal
import zipfile
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from folders import left_out, make_folder, module
from PIL import Image, ImageOps

from bcl import InputError
from datamodules import ImageFolderLT
from datamodules.images import cache as cache_module
from datamodules.images.cache import decoded
from datamodules.images.decode import check, decode, decode_whole, shrink, square_at
from datamodules.images.files import ImageFiles, Places, decode_all
from datamodules.images.readers import FolderReader


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_folder(tmp_path / "set", {"ant": 20, "bee": 20})


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    buffer = BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bit_gray_keeps_its_upper_bits(kind: str) -> None:
    gray = np.linspace(0, 65535, 256).round().astype(np.uint16).reshape(16, 16)
    pixels = decode(encoded(Image.fromarray(gray), kind), 16)
    assert (pixels == (gray >> 8)[None]).all()  # Pillow's own conversion: white above 255


def test_float_pixels_are_refused_by_the_scan_as_well() -> None:
    raw = encoded(Image.fromarray(np.ones((8, 8), np.float32)), "TIFF")
    for read in (check, lambda data: decode(data, 8)):
        with pytest.raises(OSError, match="floating-point pixels"):
            read(raw)
    raw = encoded(Image.fromarray(np.ones((8, 8), np.int32)), "TIFF")
    with pytest.raises(OSError, match="32-bit pixels"):
        decode(raw, 8)


def test_pixels_are_taken_as_they_are_stored() -> None:
    exif = Image.Exif()
    exif[0x112] = 6  # "turn by a quarter": not carried out
    upper = np.zeros((40, 40, 3), np.uint8)
    upper[:20] = 255
    turned = decode(encoded(Image.fromarray(upper), "JPEG", exif=exif), 16)
    assert turned[0, 2].min() > 200
    assert turned[0, 13].max() < 50
    clear = Image.new("RGBA", (9, 9), (255, 0, 0, 0))  # transparency is dropped
    assert decode(encoded(clear, "PNG"), 4)[:, 0, 0].tolist() == [255, 0, 0]
    frames = [Image.new("RGB", (9, 9), color) for color in ("red", "blue")]
    moving = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert decode(moving, 4)[:, 0, 0].tolist() == [255, 0, 0]  # the first frame


def test_decompression_bomb(monkeypatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    raw = encoded(Image.new("L", (20, 20)), "PNG")
    for read in (check, lambda data: decode(data, 8)):
        with pytest.raises(OSError, match="decompression bomb"):
            read(raw)


def test_any_error_of_a_plugin_is_a_bad_image(monkeypatch) -> None:
    """Pillow's TIFF plugin, for one, raises TypeError for some damaged files."""

    def fail(*_):
        raise TypeError("'float' object cannot be interpreted as an integer")

    monkeypatch.setattr(Image, "open", fail)
    for read in (check, lambda data: decode(data, 8)):
        with pytest.raises(OSError, match="damaged image: 'float' object"):
            read(b"")


def test_links_that_lead_round_and_nowhere(folder: Path) -> None:
    (folder / "ant" / "up").symlink_to(folder)
    (folder / "bee" / "self.png").symlink_to(folder / "bee" / "self.png")
    (folder / "bee" / "gone.png").symlink_to(folder / "nothing.png")
    with pytest.raises(InputError, match="2 unreadable") as caught:
        module(folder).setup()
    assert "bee/gone.png: No such file" in str(caught.value)
    assert "bee/self.png: Too many levels" in str(caught.value)
    data = module(folder, on_bad_image="skip")
    assert len(data.probe_set()) + len(data.test_set()) == 40
    assert len(left_out(data)) == 2


def test_a_link_to_another_folder_is_followed(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "x").symlink_to(folder / "ant")
    (tmp_path / "linked" / "y").symlink_to(folder / "bee")
    assert module(tmp_path / "linked").class_counts.tolist() == [16, 4]


def test_folder_that_cannot_be_read(folder: Path, monkeypatch) -> None:
    real = os.scandir

    def refuse(path):
        if str(path).rstrip("/").endswith("bee"):
            raise PermissionError(errno.EACCES, "Permission denied")
        return real(path)

    monkeypatch.setattr("os.scandir", refuse)
    with pytest.raises(InputError, match=r"cannot read folder .*bee/?: Permission denied"):
        module(folder).setup()


@pytest.mark.parametrize("storage", ["memory", "files"])
def test_names_of_any_letters_and_of_no_encoding(folder: Path, storage: str) -> None:
    (folder / "bee").rename(folder / "蜂 bee")
    raw = (folder / "ant" / "000.png").read_bytes()
    (folder / "ant" / "ä ö.png").write_bytes(raw)
    (folder / os.fsdecode(b"ant/\xff.png")).write_bytes(raw)
    (folder / os.fsdecode(b"ant/\xfe.png")).write_bytes(b"no image")
    with pytest.raises(InputError, match=r"ant/\\udcfe\.png"):
        module(folder, storage=storage).setup()
    data = module(folder, storage=storage, imbalance_factor=None, on_bad_image="skip")
    assert data.class_names == ["ant", "蜂 bee"]
    assert len(data.probe_set()) + len(data.test_set()) == 42
    for note in data.notes:
        note.encode()  # can be written into a report
    assert sum(len(batch["id"]) for batch in data.probe_set().batches(10)) == len(data.probe_set())


def test_other_files_are_told(folder: Path) -> None:
    for name in ("ant/a.avif", "ant/b.AVIF", "bee/README"):
        (folder / name).write_text("")
    assert module(folder).notes == [
        "left out 2 .avif files (not images)",
        "left out 1 file without ending (not images)",
    ]


def test_a_class_called_train(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "set", {"car": 10, "train": 10})
    assert module(root, batch_size=2).class_names == ["car", "train"]


def test_a_folder_around_the_class_folders(folder: Path) -> None:
    with pytest.raises(InputError, match=rf"single class folder, set; .*\(ant, bee\).*{folder}"):
        module(folder.parent).setup()


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
    assert [path.suffix for path in (tmp_path / "cache").iterdir()] == [".lock"]
    assert len(decoded(source, source.names(), 12, cache=tmp_path / "cache").pixels) == 40


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


def test_another_encoding_under_the_same_names(folder: Path, tmp_path: Path) -> None:
    """The names' hash stays, so that splits go with it; the bytes' hash tells them apart."""
    first = {storage: module(folder, storage=storage) for storage in ("memory", "files")}
    assert first["memory"].images_hash == first["files"].images_hash
    again = module(folder, cache_dir=str(tmp_path / "other"))
    assert again.images_hash == first["memory"].images_hash
    names, digest = first["memory"].content_hash, first["memory"].images_hash
    row = int(first["memory"].train_set().rows[0])
    path = sorted(folder.glob("*/*.png"))[row]
    with Image.open(path) as image:
        image.convert("L").save(path)
    for storage in ("memory", "files"):
        changed = module(folder, storage=storage)
        assert changed.content_hash == names
        assert changed.images_hash != digest
        assert changed.test_set().images_hash == first["memory"].test_set().images_hash


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


@pytest.mark.parametrize(
    ("local", "central", "value", "told"),
    [(6, 8, 1, "encrypted"), (8, 10, 99, "compression"), (-1, -1, 0, "Bad CRC-32")],
)
def test_archive_whose_members_cannot_be_read(
    folder: Path, tmp_path: Path, local: int, central: int, value: int, told: str
) -> None:
    archive = tmp_path / "set.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for path in sorted(folder.rglob("*.png")):
            file.write(path, path.relative_to(folder))
    raw = bytearray(archive.read_bytes())
    for start, place in ((b"PK\x03\x04", local), (b"PK\x01\x02", central)):
        found = raw.find(start)
        while found >= 0 and place > 0:
            raw[found + place] = value
            found = raw.find(start, found + 1)
    if local < 0:
        raw[raw.find(b"IDAT") + 10] ^= 255
    archive.write_bytes(raw)
    with pytest.raises(InputError, match=rf"(1|40) unreadable image.*\n.*{told}"):
        module(archive).setup()


def test_archive_with_a_hidden_way_out(tmp_path: Path) -> None:
    for name in ("..\\..\\a.png", "../.a.png"):
        archive = tmp_path / "evil.zip"
        with zipfile.ZipFile(archive, "w") as file:
            file.writestr(name, b"x")
        with pytest.raises(InputError, match="leaves its folder"):
            module(archive).setup()


def test_index_file_of_another_byte_order(tmp_path: Path) -> None:
    from datamodules.tail.splits import load_split

    np.save(tmp_path / "a.npy", np.array([3, 1, 0], dtype=">i8"))
    assert load_split(tmp_path / "a.npy").indices.tolist() == [3, 1, 0]


def test_resume_with_other_bytes_is_refused() -> None:
    from types import SimpleNamespace

    from bcl.training.checkpoints import KEY
    from bcl.training.record import RunRecorder

    data = SimpleNamespace(recipe="r", content_hash="names", images_hash="bytes")
    saved = {"seed": 0, "content_hash": "names", "history": [], "wall_seconds": 1.0, "epochs": 1}
    running = {"sum": 0.0, "count": 0}

    def resume(record: dict) -> RunRecorder:
        recorder = RunRecorder({"seed": 0}, ".")
        checkpoint = {KEY: {"record": record, "running": running}}
        recorder.on_load_checkpoint(SimpleNamespace(datamodule=data), None, checkpoint)
        return recorder

    with pytest.raises(InputError, match="another encoding of the training images"):
        resume(saved | {"images_hash": "other"})
    for known in ({"images_hash": "bytes"}, {}):  # older checkpoints do not say
        assert resume(saved | known).record["epochs"] == 1


class KilledInLoader(KilledBy):
    """Only a worker of the loader is killed, not the process that asks it."""

    def read(self, name: str) -> bytes:
        if torch.utils.data.get_worker_info() is None:
            return FolderReader.read(self, name)
        return super().read(name)


def test_loader_process_that_is_killed(folder: Path) -> None:
    source = KilledInLoader(folder)
    files = ImageFiles(source, source.names(), 12, workers=1)
    with pytest.raises(InputError, match=r"(?s)was lost.*fewer with data\.workers"):
        list(files.stream([Places(torch.arange(40), torch.zeros(40))]))


def test_a_loader_process_tells_an_error_without_its_stack_trace(folder: Path) -> None:
    data = module(folder, storage="files", workers=1, imbalance_factor=1)
    data.setup()
    for path in folder.glob("*/*.png"):
        path.unlink()
    with pytest.raises(InputError, match="became unreadable since the scan") as caught:
        next(iter(data.train_dataloader()))
    assert "\n" not in str(caught.value)


def test_shrinking_keeps_the_upper_bits_of_a_gray() -> None:
    """As decoding does; Pillow's own conversion makes everything above 255 white."""
    gray = np.full((40, 40), 128 << 8, np.uint16)
    with Image.open(BytesIO(shrink(encoded(Image.fromarray(gray), "PNG"), 20))) as small:
        assert small.size == (20, 20)
        assert abs(int(np.array(small).mean()) - 128) <= 1


def test_the_folder_one_stands_in_has_a_name(folder: Path, monkeypatch) -> None:
    monkeypatch.chdir(folder)
    settings = {"image_size": 12, "cache_dir": str(folder.parent / "cache"), "workers": 0}
    assert ImageFolderLT(".", 4, batch_size=4, **settings).recipe.startswith("set, exponential")


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("side", [10, 60])  # decoded by Pillow, by torchvision
def test_whole_images_are_upright(orientation: int, side: int) -> None:
    pixels = np.zeros((40, 80, 3), np.uint8)
    pixels[:20, :40], pixels[:20, 40:], pixels[20:, :40] = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    exif = Image.Exif()
    exif[0x112] = orientation
    raw = encoded(Image.fromarray(pixels), "JPEG", exif=exif, quality=95)
    found = decode_whole(raw, side)
    upright = ImageOps.exif_transpose(Image.open(BytesIO(raw)))
    expected = upright.resize(found.shape[:0:-1], Image.Resampling.BICUBIC)
    assert min(found.shape[1:]) == side
    off = np.abs(found.transpose(1, 2, 0).astype(int) - np.asarray(expected).astype(int))
    assert off.mean() < 8  # another resize; a wrong turn is off by 60


def test_damaged_exif_does_not_hide_an_image() -> None:
    raw = encoded(Image.new("RGB", (20, 10), "red"), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    assert decode_whole(raw, 5).shape == (3, 5, 10)


def test_squares_lie_anywhere_on_the_longer_side() -> None:
    ramp = np.broadcast_to(np.arange(90, dtype=np.uint8), (30, 90))
    wide = decode_whole(encoded(Image.fromarray(ramp), "PNG"), 30)
    assert wide.shape == (3, 30, 90)
    first = [int(square_at(wide, 30, place)[0, 0, 0]) for place in (0.0, 0.5, 1 - 2**-24)]
    assert first == [0, 30, 60]
    tall = square_at(wide.transpose(0, 2, 1), 30, 1 - 2**-24)
    assert tall.shape == (3, 30, 30)
    assert int(tall[0, 0, 0]) == 60
    thread = decode_whole(encoded(Image.new("L", (1000, 2)), "PNG"), 4)
    assert thread.shape == (3, 4, 64)  # at most 16 times as long as wide


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "I;16"])
def test_whole_images_of_any_mode(mode: str, recwarn) -> None:
    kind = "JPEG" if mode in ("CMYK", "YCbCr") else "PNG"
    base = Image.new("RGB", (30, 20), (200, 100, 50))
    image = Image.new("I;16", (30, 20), 51400) if mode == "I;16" else base.convert(mode)
    found = decode_whole(encoded(image, kind), 10)
    assert found.shape == (3, 10, 15)
    if mode in ("RGB", "RGBA", "CMYK", "YCbCr"):
        assert np.abs(found[:, 5, 5].astype(int) - (200, 100, 50)).max() < 12
    if mode == "I;16":
        assert found[0, 5, 5] == 200
    assert not recwarn.list
