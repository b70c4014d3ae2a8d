"""`bcl export`: the encoder of a checkpoint."""

import pytest
import torch

from bcl import SDCLR, load_encoder
from bcl.cli import main
from bcl.models.weights import read_config


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A checkpoint of BCL-D on digits."""
    root = tmp_path_factory.mktemp("run")
    options = {
        "--config": "digits_lt/bcl_d",
        "--model.encoder.args.width": 4,
        "--trainer.default_root_dir": root,
        "--trainer.max_epochs": 1,
        "--trainer.accelerator": "cpu",
    }
    assert main(["fit", *(str(word) for pair in options.items() for word in pair)]) == 0
    return root / "checkpoints" / "last.ckpt"


class TestCommand:
    @pytest.mark.slow
    def test_exports_the_dense_branch(self, run, tmp_path, capsys):
        from bcl.training.checkpoints import load_run

        out = tmp_path / "encoder"
        assert main(["export", str(run), "--out", str(out)]) == 0
        message = capsys.readouterr().out
        method = load_run(run).method
        assert isinstance(method, SDCLR)
        encoder = load_encoder(out)
        assert f"{encoder.num_tensors} tensors written" in message
        images = torch.randint(0, 256, (4, 3, 16, 16), dtype=torch.uint8)
        mean, std = (torch.tensor(v).view(3, 1, 1) for v in (encoder.mean, encoder.std))
        # The run's; in another the convolutions round otherwise.
        layout = torch.channels_last if method.channels_last else torch.contiguous_format
        inputs = ((images / 255 - mean) / std).contiguous(memory_format=layout)
        assert torch.equal(encoder.to(memory_format=layout)(inputs), method.encode(images))
        about = read_config(out)["bcl"]["run"]
        assert (about["method"], about["epochs"]) == ("SDCLR", 1)
        assert main(["export", str(run), "--out", str(out), "--overwrite"]) == 0

    @pytest.mark.slow
    def test_refuses_to_overwrite(self, run, tmp_path, capsys):
        out = tmp_path / "encoder"
        out.mkdir()
        assert main(["export", str(run), "--out", str(out)]) == 2
        assert "exists already" in capsys.readouterr().err
        (out / "config.json").write_text('{"architecture": "resnet18"}')
        assert main(["export", str(run), "--out", str(out), "--overwrite"]) == 2
        assert "another program" in capsys.readouterr().err
        assert (out / "config.json").read_text() == '{"architecture": "resnet18"}'
        assert sorted(path.name for path in tmp_path.iterdir()) == ["encoder"]

    def test_refuses_what_is_no_checkpoint(self, tmp_path, capsys):
        assert main(["export", str(tmp_path / "no.ckpt"), "--out", str(tmp_path / "out")]) == 2
        assert "no checkpoint" in capsys.readouterr().err
