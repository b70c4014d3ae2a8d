import numpy as np
import pytest
import torch
from ranks import pool

from bcl.core.errors import InputError
from bcl.discovery import embedding as module
from bcl.discovery.embedding import EmbedOptions, Extra, embed
from bcl.discovery.table import read_table
from datamodules.images.dataset import ImageDataset

N = 23


def images(n=N):
    generator = torch.Generator().manual_seed(0)
    return ImageDataset(torch.randint(0, 256, (n, 3, 8, 8), generator=generator, dtype=torch.uint8))


def encode(x):
    return x.float().mean((2, 3)) / 255


@pytest.fixture
def small_parts(monkeypatch):
    monkeypatch.setattr(module, "PART_ROWS", 5)


def test_rows_in_order_with_signals(tmp_path, small_parts):
    scores = torch.rand(N)
    sizes = lambda ids: torch.stack([ids + 100, ids + 200], 1)  # noqa: E731
    extra = Extra({"score": scores}, sizes, {"root": "here"})
    out = embed(encode, images(), tmp_path / "a.npz", EmbedOptions(batch_size=3), extra)
    found = read_table(out)
    torch.testing.assert_close(found.features(), encode(images().images(torch.arange(N))))
    assert found.columns["id"].tolist() == list(range(N))
    assert found.paths == [str(i) for i in range(N)]
    assert found.columns["height"].tolist() == list(range(200, 200 + N))
    torch.testing.assert_close(found.measurements["score"], scores)
    assert {"brightness", "entropy", "sharpness"} < found.measurements.keys()
    assert found.about == {"root": "here"}
    assert [path.name for path in tmp_path.iterdir()] == ["a.npz"]


def test_an_interrupted_run_goes_on_where_it_stopped(tmp_path, small_parts):
    whole = read_table(embed(encode, images(), tmp_path / "whole.npz"))
    calls = []

    def stops(x):
        calls.append(len(x))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return encode(x)

    options, out = EmbedOptions(batch_size=5), tmp_path / "a.npz"
    with pytest.raises(KeyboardInterrupt):
        embed(stops, images(), out, options)
    assert not out.exists()
    found = read_table(embed(stops, images(), out, options))
    assert sum(calls) == N + 5  # only the batch that was lost is encoded again
    np.testing.assert_array_equal(found.embedding, whole.embedding)


def test_parts_of_another_embedding_are_refused(tmp_path, small_parts):
    def stops(x):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        embed(stops, images(), tmp_path / "a.npz", extra=Extra(about={"encoder": "x"}))
    with pytest.raises(InputError, match="encoder: 'x'"):
        embed(encode, images(), tmp_path / "a.npz", extra=Extra(about={"encoder": "y"}))


def test_bad_input(tmp_path):
    out = tmp_path / "a.npz"
    with pytest.raises(InputError, match="signal 's'"):
        embed(encode, images(), out, extra=Extra({"s": torch.zeros(3)}))
    with pytest.raises(InputError, match="finite"):
        embed(lambda x: encode(x) / 0, images(), out)
    with pytest.raises(InputError, match=r"\(B, D\)"):
        embed(lambda x: x, images(), out)
    out.write_bytes(b"kept")
    with pytest.raises(InputError, match="exists"):
        embed(encode, images(), out)
    assert out.read_bytes() == b"kept"


def test_half_and_no_thumbnails(tmp_path):
    options = EmbedOptions(half=True, thumbnails=False)
    found = read_table(embed(encode, images(), tmp_path / "a.npz", options))
    assert found.embedding.dtype == np.float16
    assert found.thumbnails == []


def on_a_rank(rank, folder):
    rows, module.PART_ROWS = module.PART_ROWS, 5
    try:
        embed(encode, images(), f"{folder}/ranks.npz", EmbedOptions(batch_size=2))
    finally:
        module.PART_ROWS = rows


@pytest.mark.slow
def test_two_ranks_write_the_same_file(tmp_path, small_parts):
    alone = embed(encode, images(), tmp_path / "alone.npz", EmbedOptions(batch_size=2))
    pool(2).run(on_a_rank, str(tmp_path))
    for name, values in np.load(alone).items():
        np.testing.assert_array_equal(values, np.load(tmp_path / "ranks.npz")[name])
