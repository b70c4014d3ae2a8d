from types import SimpleNamespace

import pytest
import torch

from bcl.cli.sources import Encoder, open_encoder, open_images
from bcl.methods import BCL
from bcl.methods.settings import MemorySettings


@pytest.mark.parametrize("signal", ["loss", "tailness"])
def test_columns_are_named_after_what_the_memory_follows(tmp_path, monkeypatch, signal):
    method = BCL("resnet8", memory=MemorySettings(signal=signal), num_samples=3)
    method.tracker.update(torch.tensor([0, 2]), torch.tensor([1.0, 2.0]))
    run = SimpleNamespace(method=method, data=SimpleNamespace(image_size=32))
    monkeypatch.setattr("bcl.training.checkpoints.load_run", lambda _: run)
    (tmp_path / "last.ckpt").write_bytes(b"")
    found = open_encoder(str(tmp_path / "last.ckpt"), "cpu").signals
    assert list(found) == [f"momentum_{signal}", "score"]
    assert found[f"momentum_{signal}"].isnan().tolist() == [False, True, False]


@pytest.mark.parametrize(("name", "known"), [("photos", True), ("gone", False)])
def test_paths_of_images_in_memory_have_a_root(tmp_path, name, known):
    (tmp_path / "photos").mkdir()
    data = SimpleNamespace(
        roots=[str(tmp_path / name)],
        sets=SimpleNamespace(train=SimpleNamespace(files=None, content_hash="")),
    )
    run = SimpleNamespace(data=data, record={})
    _, extra = open_images(None, Encoder(lambda x: x, 32, "", run))
    assert extra.about["root"] == (str(tmp_path / name) if known else "")
