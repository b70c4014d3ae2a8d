"""A run does not depend on how many ranks it used: losses, weights and tracker."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent


def run(ranks, out):
    script = [str(ROOT / "tests" / "ddp_script.py"), str(ranks), str(out)]
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    answer = subprocess.run(
        [sys.executable, *(launcher if ranks > 1 else []), *script],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.returncode == 0, answer.stdout + answer.stderr
    assert "find_unused_parameters" not in answer.stderr
    return [torch.load(f"{out}.{rank}", weights_only=True) for rank in range(ranks)]


@pytest.mark.slow
def test_one_two_and_four_ranks_give_one_run(tmp_path):
    (alone,) = run(1, tmp_path / "one")
    assert len(alone["losses"]) == 20
    assert alone["losses"][-1] < alone["losses"][0]
    for ranks in (2, 4):
        states = run(ranks, tmp_path / str(ranks))
        for state in states:
            torch.testing.assert_close(
                torch.tensor(state["losses"]), torch.tensor(alone["losses"]), rtol=1e-4, atol=0
            )
            for name, value in alone["weights"].items():
                torch.testing.assert_close(state["weights"][name], value, rtol=1e-3, atol=1e-5)
            # On every rank the same tracker to the last bit, and that of the single process.
            for name, value in state["tracker"].items():
                assert torch.equal(value, states[0]["tracker"][name])
                torch.testing.assert_close(value, alone["tracker"][name], rtol=1e-3, atol=1e-4)
