import csv

import numpy as np
import pytest
import torch
from PIL import Image

from bcl.cli import main
from bcl.discovery.table import Table, read_table, write_table
from bcl.models.encoders import create_encoder
from bcl.models.exported import save_encoder


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Sixteen images of two cameras, two bad files and an exported encoder."""
    pytest.importorskip("safetensors")
    folder = tmp_path_factory.mktemp("collection")
    generator = np.random.default_rng(0)
    for i in range(16):
        path = folder / "photos" / f"cam{i % 2}" / f"ä{i:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = generator.integers(0, 256, (20, 12 + i, 3), np.uint8)
        Image.fromarray(pixels).save(path)
    (folder / "photos" / "broken.png").write_bytes(b"no image")
    (folder / "photos" / "empty.jpg").write_bytes(b"")
    (folder / "texts").mkdir()
    (folder / "texts" / "a.txt").write_text("no image")
    columns = {"id": np.arange(3), "path": np.array(list("abc"))}
    table = Table(columns, generator.random((3, 4), np.float32), about={"encoder": "x"})
    write_table(folder / "made.npz", [table])
    write_table(folder / "made.csv", [table])
    torch.manual_seed(0)
    save_encoder(create_encoder("resnet8", 16), folder / "encoder", [0.5] * 3, [0.2] * 3)
    return folder


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("BCL_CACHE", str(tmp_path / "cache"))


def run(*words):
    return main([str(word) for word in words])


@pytest.mark.slow
def test_a_folder_by_an_exported_encoder(place, tmp_path):
    assert run("embed", place / "encoder", place / "photos", "--out", tmp_path / "a.npz") == 0
    found = read_table(tmp_path / "a.npz")
    assert found.paths == sorted(found.paths)
    assert found.embedding.shape == (16, 64)
    sizes = {path: Image.open(place / "photos" / path).size for path in found.paths}
    assert [sizes[path][0] for path in found.paths] == found.columns["width"].tolist()
    assert sorted(path for path, _ in found.about["unreadable"]) == ["broken.png", "empty.jpg"]


@pytest.mark.slow
def test_two_processes_write_the_same(place, tmp_path, monkeypatch):
    words = ("embed", place / "encoder", place / "photos", "--batch-size", 4, "--device", "cpu")
    assert run(*words, "--out", tmp_path / "one.npz") == 0
    assert run(*words, "--out", tmp_path / "two.npz", "--devices", 2) == 0
    one, two = read_table(tmp_path / "one.npz"), read_table(tmp_path / "two.npz")
    np.testing.assert_allclose(one.embedding, two.embedding, atol=1e-5)
    assert one.paths == two.paths


@pytest.mark.slow
def test_discover_from_a_folder_in_one_command(place, tmp_path, capsys):
    for package in ("pyarrow", "jinja2", "vl_convert"):
        pytest.importorskip(package)
    labels = tmp_path / "labels.csv"
    labels.write_text("path,label\ncam0/ä00.png,fox\ncam1/ä01.png,hare\n")
    out = tmp_path / "out"
    words = ("discover", place / "encoder", place / "photos", "--out", out, "--map", "pca")
    assert run(*words, "--labels", labels) == 0
    assert {"discover.html", "discover.parquet", "embedding.parquet", "label_first.csv"} == {
        path.name for path in out.iterdir()
    }
    with (out / "label_first.csv").open(encoding="utf-8", newline="") as file:
        assert len(list(csv.DictReader(file))) == 16
    assert run(*words) == 2
    assert "--overwrite" in capsys.readouterr().err
    (out / "discover.html").unlink()  # as if it had failed after the embedding
    assert run(*words) == 2
    assert f"bcl discover {out / 'embedding.parquet'} --out {out}" in capsys.readouterr().err
    assert run("discover", out / "embedding.parquet", "--out", out, "--map", "pca") == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("embed", "{}/nothing", "{}/photos", "--out", "{}/a.npz"), "no encoder"),
        (("embed", "{}/encoder", "--out", "{}/a.npz"), "images too"),
        (("embed", "{}/encoder", "{}/none", "--out", "{}/a.npz"), "none"),
        (("embed", "{}/encoder", "{}/photos", "--out", "{}/a.txt"), ".parquet"),
        (("embed", "{}/encoder", "{}/encoder", "--out", "{}/a.npz"), "no image"),
        (("embed", "timm:resnet_18", "{}/photos", "--out", "{}/a.npz"), "resnet18"),
        (("embed", "{}/encoder", "{}/texts", "--out", "{}/a.npz"), "give a folder of images."),
        (("embed", "{}/encoder", "{}/made.npz", "--out", "{}/a.npz"), "of another encoder (x)"),
        (("discover", "{}/made.npz", "{}/encoder", "--out", "{}/out"), "features already, of x"),
        (("discover", "{}/made.npz", "{}/none", "--out", "{}/out"), "none does not exist"),
        (("discover", "{}/made.npz", "{}/photos", "--out", "{}/out"), "other images"),
        (("discover", "{}/made.npz", "--out", "{}/out", "--labels", "{}/a.csv"), "path,label"),
        (("discover", "{}/none.npz", "--out", "{}/out"), "bcl embed"),
        (("discover", "{}/made.csv", "--out", "{}/out"), "a .parquet or .npz file"),
        (("discover", "{}/made.npz", "--out", "{}/out", "--seed", "-1"), "a seed must"),
        (("discover", "{}/photos/broken.png", "--out", "{}/out"), "no"),
        (("discover", "{}/none.npz", "--out", "{}/out", "--map", "tnse"), "tsne"),
    ],
)
def test_bad_input_is_one_line(place, capsys, words, message):
    assert run(*(word.format(place) for word in words)) == 2
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("bcl: error")]
    assert len(said) == 1
    assert message in said[0]
    assert "--data.root" not in said[0]
    assert not (place / "a.npz").exists()
    assert not (place / "out" / "discover.html").exists()
