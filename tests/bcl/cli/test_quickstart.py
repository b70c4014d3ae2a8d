"""`bcl quickstart`: one report, nothing else left."""

import signal
import time

import pytest
from commands import CLI, Command
from refusals import refused

from bcl.cli import main
from bcl.evaluation import ProbeReport


class TestQuickstart:
    @pytest.mark.slow
    def test_writes_a_report_once(self, folder, capsys):
        assert main(["quickstart", "--epochs", "1", "--out", "first"]) == 0
        out = capsys.readouterr().out
        assert "first/report.html" in out
        assert (folder / "first" / "report.html").stat().st_size > 10_000
        assert (folder / "first" / "report.json").exists()
        page = (folder / "first" / "discovery" / "discover.html").read_text(encoding="utf-8")
        assert "first/discovery/discover.html" in out
        assert "Momentum loss" in page
        assert "labeled images of 10 classes" in page
        runs = [ProbeReport.load(f"first/{method}/probe") for method in ("simclr", "bcl_i")]
        assert {run.record["seed"] for run in runs} == {0}
        before = (folder / "first" / "report.json").read_bytes()
        assert "--overwrite" in refused(["quickstart", "--epochs", "1", "--out", "first"], capsys)
        assert (folder / "first" / "report.json").read_bytes() == before
        assert sorted(path.name for path in folder.iterdir()) == ["first"]

    @pytest.mark.parametrize("epochs", ["0", "-3"])
    def test_wrong_epochs(self, folder, capsys, epochs):
        assert epochs in refused(["quickstart", "--epochs", epochs], capsys)

    @pytest.mark.parametrize("seed", ["-1", "4294967296"])
    def test_wrong_seed(self, folder, capsys, seed):
        assert seed in refused(["quickstart", "--seed", seed], capsys)
        assert list(folder.iterdir()) == []

    @pytest.mark.parametrize("out", ["photos", "."])
    def test_overwrite_spares_a_folder_of_something_else(self, folder, capsys, out):
        (folder / "photos").mkdir()
        (folder / "photos" / "cat.png").touch()
        arguments = ["quickstart", "--epochs", "1", "--out", out, "--overwrite"]
        assert "not a folder of this command" in refused(arguments, capsys)
        assert (folder / "photos" / "cat.png").exists()

    def test_output_not_writable(self, folder, capsys):
        (folder / "file").touch()
        assert "file/out" in refused(["quickstart", "--out", "file/out"], capsys)

    @pytest.mark.slow
    def test_interrupt_leaves_nothing(self, folder):
        process = Command([*CLI, "quickstart", "--out", "out"], cwd=folder)
        deadline = time.monotonic() + 120
        while not list(folder.glob(".out.*/simclr")) and time.monotonic() < deadline:
            time.sleep(0.1)
        time.sleep(1)
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate(timeout=60)
        assert process.returncode == 130, said
        assert "Traceback" not in said
        assert list(folder.iterdir()) == []
