"""Names of files: hidden ones, those that leave their folder, and those of no encoding."""

import errno
import os
import zipfile
from pathlib import Path

import pytest
from folders import left_out, make_folder, module

from bcl import InputError
from datamodules.images.readers import FolderReader, ZipReader, is_hidden, leaves_folder


def test_hidden_names() -> None:
    assert is_hidden("ant/.cache/a.jpg")
    assert is_hidden("lost+found/a.jpg")
    assert not is_hidden("ant/a.jpg")
    assert not is_hidden("./ant/a.jpg")


def test_names_that_leave_their_folder() -> None:
    names = ("a/b.jpg", "../b.jpg", "C:/b.jpg", "12:30.jpg")
    assert [leaves_folder(name) for name in names] == [False, True, True, False]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_folder(tmp_path / "set", {"ant": 20, "bee": 20})


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


def test_pipes_and_devices_are_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "zero.png").symlink_to("/dev/zero")
    for name in ("pipe.png", "zero.png"):
        with pytest.raises(OSError, match="not a regular file"):
            FolderReader(tmp_path).read(name)


def test_files_and_entries_are_read_up_to_a_limit(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("datamodules.images.readers.MOST_BYTES", 1 << 20)
    (tmp_path / "large.png").write_bytes(bytes(1 + (1 << 20)))
    with zipfile.ZipFile(tmp_path / "set.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(tmp_path / "large.png", "large.png")  # a thousandth as large here
    for reader in (FolderReader(tmp_path), ZipReader(tmp_path / "set.zip")):
        with pytest.raises(OSError, match="larger than 1 MiB"):
            reader.read("large.png")
