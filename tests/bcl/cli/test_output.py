"""Where commands write what they are not told to write elsewhere."""

from pathlib import Path

import pytest

from bcl import InputError
from bcl.cli.output import default_out
from bcl.cli.probe import _folders


@pytest.fixture
def run(folder):
    for name in ("a", "b"):
        (folder / "outputs" / name / "checkpoints").mkdir(parents=True)
        for stem in ("last", "previous"):
            (folder / "outputs" / name / "checkpoints" / f"{stem}.ckpt").touch()
    return folder


@pytest.mark.parametrize(
    ("source", "place"),
    [
        ("outputs/a", "outputs/a/probe"),
        ("outputs/a/", "outputs/a/probe"),
        ("outputs/a/checkpoints/last.ckpt", "outputs/a/probe"),
        ("kept/x.ckpt", "kept/probe"),
        ("x.ckpt", "probe"),
        ("timm:vit_tiny", "outputs/vit_tiny/probe"),
        ("exported", "outputs/exported/probe"),
    ],
)
def test_what_is_made_of_a_run_lies_in_its_folder(run, source, place):
    (run / "kept").mkdir()
    (run / "exported").mkdir()
    (run / "kept/x.ckpt").touch()
    (run / "x.ckpt").touch()
    assert default_out(source, "probe") == Path(place)


def test_each_run_gets_its_own_report(run):
    assert _folders(["outputs/a", "outputs/b"], None) == [
        Path("outputs/a/probe"),
        Path("outputs/b/probe"),
    ]
    other = "outputs/a/checkpoints/previous.ckpt"
    assert _folders(["outputs/a", other], None)[1] == Path("outputs/a/probe-previous")
    with pytest.raises(InputError, match="outputs/a/probe; give --out DIR"):
        _folders(["outputs/a", "outputs/a/checkpoints/last.ckpt"], None)
    assert _folders(["outputs/a", "outputs/b"], "x") == [Path("x/a-last"), Path("x/b-last")]
