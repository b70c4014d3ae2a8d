"""What a number was made with."""

import subprocess

import torch

from bcl.core import provenance


def test_the_commit_is_that_of_the_source_or_the_release(tmp_path, monkeypatch):
    monkeypatch.setattr(provenance, "__file__", str(tmp_path / "bcl" / "core" / "provenance.py"))
    assert provenance.commit().startswith("release ")  # installed, without a history
    git = ["git", "-C", str(tmp_path), "-c", "user.name=n", "-c", "user.email=e"]
    (tmp_path / "file").write_text("1")
    for words in (["init", "-q"], ["add", "file"], ["commit", "-q", "-m", "first"]):
        subprocess.run([*git, *words], check=True, capture_output=True)
    clean = provenance.commit()
    assert len(clean) == 12
    (tmp_path / "file").write_text("2")
    assert provenance.commit() == f"{clean}-dirty"


def test_plain_values_can_be_kept_in_a_checkpoint(tmp_path):
    kept = provenance.plain({"size": (8, 8), "rate": 0.1, "norm": torch.nn.BatchNorm2d})
    torch.save(kept, tmp_path / "x")
    assert torch.load(tmp_path / "x", weights_only=True) == kept
    assert kept["size"] == [8, 8]
