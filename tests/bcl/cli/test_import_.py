"""`bcl import`: what it refuses."""

import pytest
import torch
from released_files import Head, resnet, save, simclr_state
from torch import nn

from bcl.cli import main


class TestRefused:
    def check(self, path, capsys, message, *more):
        out = path.parent / "out"
        assert main(["import", str(path), "--out", str(out), *more]) == 2
        error = capsys.readouterr().err
        assert "Traceback" not in error
        assert message in error
        assert not out.exists()

    @pytest.fixture
    def state(self):
        return simclr_state(resnet(), Head(512))

    def test_unknown_tensor(self, tmp_path, capsys, state):
        state["backbone.extra.weight"] = torch.zeros(2)
        path = save(tmp_path / "m.pt", state)
        self.check(
            path, capsys, "1 tensors have no place in a checkpoint of kind 'bcl': backbone.ex"
        )

    def test_missing_tensor(self, tmp_path, capsys, state):
        del state["backbone.layer3.0.bn2.weight"]
        path = save(tmp_path / "m.pt", state)
        self.check(path, capsys, "1 missing (layer3.0.bn2.weight)")

    def test_misshapen_tensor(self, tmp_path, capsys, state):
        state["backbone.layer2.0.conv1.weight"] = torch.zeros(7, 64, 3, 3)
        path = save(tmp_path / "m.pt", state)
        self.check(path, capsys, "layer2.0.conv1.weight (7, 64, 3, 3) for (128, 64, 3, 3)")

    def test_foreign_names(self, tmp_path, capsys):
        path = save(tmp_path / "m.pt", {"features.weight": torch.zeros(2)})
        self.check(path, capsys, "features.weight")

    def test_wrong_kind(self, tmp_path, capsys, state):
        path = save(tmp_path / "m.pt", state)
        self.check(path, capsys, "no place", "--kind", "cacr-moco")
        self.check(path, capsys, "did you mean 'cacr'", "--kind", "cacre")
        self.check(path, capsys, "leave --normalization out", "--normalization", "cifar10")

    def test_code_in_the_file_is_not_run(self, tmp_path, capsys):
        path = tmp_path / "m.pt"
        torch.save({"state_dict": {}, "model": nn.Linear(2, 2)}, path)
        self.check(path, capsys, "run code")

    def test_own_and_broken_files(self, tmp_path, capsys):
        path = tmp_path / "m.pt"
        torch.save({"bcl": {}, "state_dict": {}}, path)
        self.check(path, capsys, "`bcl export`")
        path.write_bytes(b"PK")
        self.check(path, capsys, "plain values")
        torch.save({"state_dict": {"a": 1}}, path)
        self.check(path, capsys, "'a' is not a tensor")
        torch.save({"state_dict": {7: torch.zeros(1)}}, path)
        self.check(path, capsys, "'7' is not a tensor")
        path.write_bytes(b"")
        self.check(path, capsys, "cannot be read")
        self.check(tmp_path, capsys, "cannot be read")
        self.check(tmp_path / "none.pt", capsys, "No such file")

    def test_checkpoint_needs_a_configuration(self, tmp_path, capsys, state):
        path = save(tmp_path / "m.pt", state)
        assert main(["import", str(path), "--out", str(tmp_path / "x.ckpt")]) == 2
        assert "needs --config" in capsys.readouterr().err

    def test_configuration_of_another_head(self, tmp_path, capsys, state):
        path = save(tmp_path / "m.pt", state)
        more = ["--config", "digits_lt/cacr_moco", "--out", str(tmp_path / "x.ckpt")]
        assert main(["import", str(path), *more]) == 2
        assert "queue" in capsys.readouterr().err
        assert not (tmp_path / "x.ckpt").exists()
