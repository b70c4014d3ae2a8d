"""A run does not depend on how many ranks it used: losses, weights and tracker."""

import os
import subprocess
import sys

import pytest
import torch
from commands import CLI, launch
from places import HELPERS, ROOT


def run(ranks, out):
    program = launch(ranks, [sys.executable, HELPERS / "ddp_script.py", ranks, out])
    said, _ = program.communicate()
    assert program.returncode == 0, said
    assert "unused" not in said.lower()  # as in find_unused_parameters
    return [torch.load(f"{out}.{rank}", weights_only=True) for rank in range(ranks)]


@pytest.mark.slow
def test_one_two_and_four_ranks_give_one_run(tmp_path):
    (alone,) = run(1, tmp_path / "one")
    for ranks in (2, 4):
        states = run(ranks, tmp_path / str(ranks))
        for name, expected in alone.items():
            assert len(expected["losses"]) == 20
            double = name.endswith("64-true")
            # CACR's loss is the difference of two squared distances: it passes 0, and rises while
            # the positives are pulled together.
            cacr = name.startswith("cacr")
            # COLT's second term begins with the first external images.
            assert cacr or "colt" in name or expected["losses"][-1] < expected["losses"][0]
            for state in (rank[name] for rank in states):
                losses = torch.tensor([state["losses"], expected["losses"]], dtype=torch.float64)
                # A loss that hardly moved would be close whatever the gradient was.
                moved = float(losses[1].max() - losses[1].min())
                close = {"rtol": 1e-4, "atol": 1e-3 * moved if cacr else 0}
                if double:
                    close = {"rtol": 1e-7, "atol": 1e-7 * moved}
                assert (losses[0] - losses[1]).abs().max() < 0.01 * moved, name
                torch.testing.assert_close(
                    *losses, **close, msg=lambda why, name=name: f"{name}: {why}"
                )
                # On every rank the same tracker to the last bit.
                for key, value in state["tracker"].items():
                    assert torch.equal(value, states[0][name]["tracker"][key])
                if not double:
                    continue  # a score's rounding may flip a coin of the augmentation
                # Weights and tracker are those of the single process.
                for key, value in expected["weights"].items():
                    torch.testing.assert_close(state["weights"][key], value, rtol=1e-6, atol=1e-9)
                for key, value in expected["tracker"].items():
                    torch.testing.assert_close(state["tracker"][key], value, rtol=1e-5, atol=1e-6)


FIT = ("fit", "--config", "digits_lt/bcl_d", "--trainer.accelerator", "cpu")
SMALL = ("--model.encoder.args.width", "4", "--trainer.max_epochs", "1")


@pytest.mark.slow
def test_torchrun_trains_by_the_documented_command(tmp_path):
    """The pruned branch and its norms take part in every step: nothing is unused."""
    more = ("--trainer.devices", "2", "--trainer.strategy", "ddp", "--ckpt_path", "last")
    root = ("--trainer.default_root_dir", str(tmp_path))
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    answer = subprocess.run(
        [sys.executable, *torchrun, *CLI[1:], *FIT, *SMALL, *more, *root],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.returncode == 0, answer.stdout + answer.stderr
    assert "unused" not in answer.stderr.lower()
    assert answer.stdout.count("the run starts from scratch") == 1
    assert answer.stdout.count("checkpoint: ") == 1
    saved = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert len(saved["torch_random_state"]) == 2  # one a rank: they did train together
    assert saved["epoch"] == 1 or saved["bcl"]["record"]["epochs"] == 1


@pytest.mark.slow
def test_ranks_that_would_each_train_alone_are_refused(tmp_path):
    root = ("--trainer.default_root_dir", tmp_path / "run")
    program = launch(2, [*CLI, *FIT, *SMALL, *root])  # the configuration's one device
    said, _ = program.communicate()
    assert program.returncode != 0
    assert "--trainer.devices 2" in said
    assert not (tmp_path / "run").exists()
