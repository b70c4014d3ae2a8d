import errno
import json
import os

import pytest

from bcl import InputError
from bcl.core.files import atomic_write, check_writable, file_hash, write_text


def test_a_failed_write_leaves_the_old_content_and_nothing_else(tmp_path):
    target = tmp_path / "new" / "a.txt"
    write_text(target, "old")

    def fail(file):
        file.write(b"half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        atomic_write(target, fail)
    assert target.read_text() == "old"
    assert [path.name for path in target.parent.iterdir()] == ["a.txt"]


def test_a_file_has_the_permissions_of_any_other(tmp_path):
    write_text(tmp_path / "a.txt", "é")
    (tmp_path / "b.txt").write_text("")
    modes = [(tmp_path / name).stat().st_mode for name in ("a.txt", "b.txt")]
    assert modes[0] == modes[1]
    assert (tmp_path / "a.txt").read_bytes() == "é".encode()


def test_a_folder_that_cannot_be_written_is_refused_and_never_created(tmp_path, monkeypatch):
    check_writable(tmp_path / "new" / "deep", "--out")
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"not a folder.*--out"):
        check_writable(tmp_path / "file" / "deep", "--out")
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(InputError, match=r"not writable.*--out"):
        check_writable(tmp_path / "new", "--out")


def test_file_hash_tells_contents_apart(tmp_path):
    (tmp_path / "a").write_bytes(b"1")
    (tmp_path / "b").write_bytes(b"2")
    assert file_hash(tmp_path / "a") != file_hash(tmp_path / "b")


def test_a_full_disk_names_the_file(tmp_path):
    def fail(file):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(OSError, match="No space") as caught:
        atomic_write(tmp_path / "a.txt", fail)
    assert caught.value.filename == str(tmp_path / "a.txt")


def test_text_that_is_of_no_encoding_is_escaped_as_in_json(tmp_path):
    write_text(tmp_path / "a.json", json.dumps(["ä\udcff"], ensure_ascii=False))
    assert (tmp_path / "a.json").read_text("utf-8") == '["ä\\udcff"]'
    assert json.loads((tmp_path / "a.json").read_text("utf-8")) == ["ä\udcff"]
