from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from bcl.cli.sources import Encoder, check_place, open_encoder, open_images, own_signals
from bcl.core.errors import InputError
from bcl.methods import BCL
from bcl.methods.settings import MemorySettings
from datamodules import ImageCollection


@pytest.mark.parametrize("signal", ["loss", "tailness"])
def test_columns_are_named_after_what_the_memory_follows(tmp_path, monkeypatch, signal):
    method = BCL(
        "resnet8", memory=MemorySettings(signal=signal, watch=("isolation",)), num_samples=3
    )
    method.tracker.update(torch.tensor([0, 2]), torch.tensor([1.0, 2.0]))
    run = SimpleNamespace(method=method, data=SimpleNamespace(image_size=32), record={})
    monkeypatch.setattr("bcl.training.checkpoints.load_run", lambda _: run)
    (tmp_path / "last.ckpt").write_bytes(b"")
    found = open_encoder(str(tmp_path / "last.ckpt"), "cpu").signals
    assert list(found) == [f"momentum_{signal}", "score", "momentum_isolation"]
    assert found[f"momentum_{signal}"].isnan().tolist() == [False, True, False]


def test_sizes_and_root_of_images_in_memory_are_those_of_the_files(tmp_path):
    (tmp_path / "photos").mkdir()
    for number, size in enumerate([(20, 10), (9, 30)]):
        Image.new("RGB", size).save(tmp_path / "photos" / f"a\n{number}.png")
    data = ImageCollection(str(tmp_path / "photos"), image_size=8, cache_dir=str(tmp_path))
    assert data.train_set().files is None
    _, extra = open_images(None, Encoder(lambda x: x, 8, "", SimpleNamespace(data=data, record={})))
    assert extra.about["root"] == str(tmp_path / "photos")
    assert extra.sizes(torch.tensor([1, 0])) == [(9, 30), (20, 10)]


def test_images_that_moved_are_named_with_the_next_step(tmp_path):
    check_place(SimpleNamespace(roots=[str(tmp_path), "hf:name"]), "name them")
    check_place(SimpleNamespace(), "name them")
    for data in (SimpleNamespace(roots=["/nowhere"]), SimpleNamespace(root="/nowhere")):
        with pytest.raises(InputError, match="/nowhere; name them"):
            check_place(data, "name them")


@pytest.mark.parametrize(
    ("trained_on", "own", "kept"),
    [("a", True, True), ("a", False, True), ("b", True, False), (None, True, True),
     (None, False, False)],
)  # fmt: skip
def test_a_memory_goes_with_the_images_it_was_made_on(capsys, trained_on, own, kept):
    run = SimpleNamespace(record={"content_hash": trained_on})
    encoder = Encoder(lambda x: x, 8, "e", run, {"score": torch.ones(2)})
    found = own_signals(encoder, SimpleNamespace(content_hash="a"), own)
    assert bool(found) == kept
    assert ("score) is left out" in capsys.readouterr().err) != kept
