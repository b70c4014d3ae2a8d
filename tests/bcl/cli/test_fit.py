"""The command line as its users meet it: results, and one clear line for every mistake."""

import os
import re
import shlex
import signal

import pytest
import torch
from PIL import Image
from refusals import refused

from bcl.cli import main
from bcl.cli.configuration import compose
from bcl.cli.fit import FIRST, SHORT, _in_full, make_parser, parse
from bcl.evaluation import ProbeReport
from bcl.methods import OptimizerSettings


class TestFit:
    SIMCLR = ("fit", "--config", "digits_lt/simclr")

    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("arguments", "told"),
        [
            (["fit", "--config", "digits_lt/bcl_j"], "did you mean 'digits_lt/bcl_i'?"),
            (["fit", "--config", "missing.yaml"], "no configuration file missing.yaml"),
            (["fit", "--config"], "needs a name or a file"),
            (["fit"], "--config"),
            ([*SIMCLR, "--trainer.max_epoch", "3"], "did you mean --trainer.max_epochs?"),
            ([*SIMCLR, "--modle.encoder", "x"], "did you mean --model.encoder?"),
            ([*SIMCLR, "--model.encodr", "x"], "did you mean --model.encoder?"),
            ([*SIMCLR, "--model.views.init_args.sise", "3"], "did you mean --model.views.size?"),
            ([*SIMCLR, "--model.optimizer.learning_rate", "fast"], "expected float, got 'fast'"),
            ([*SIMCLR, "--trainer.max_epochs", "few"], "expected int or null, got 'few'"),
            (
                [*SIMCLR, "--model.optimizer.name", "sdg"],
                "expected 'sgd', 'lars', 'adamw', got 'sdg'",
            ),
            ([*SIMCLR, "--trainer.precision", "7"], "'bf16-mixed'"),
            ([*SIMCLR, "--seed_everything", "many"], "expected int, got 'many'"),
            ([*SIMCLR, "--seed_everything", "-5"], "a seed must lie between 0 and 4294967295"),
            ([*SIMCLR, "--name", "../../elsewhere"], "cannot name a folder below outputs/"),
            ([*SIMCLR, "--name", ""], "cannot name a folder below outputs/"),
            ([*SIMCLR, "--trainer.devices", "0"], "trainer: "),
            ([*SIMCLR, "--trainer.accelerator", "gpuu"], "trainer: "),
            ([*SIMCLR, "--trainer.strategy", "dpp"], "trainer: "),
            ([*SIMCLR, "--model.encoder", "resnet81"], "did you mean 'resnet8'?"),
            ([*SIMCLR, "--model", "bcl.SimCRL"], "did you mean 'SimCLR'?"),
            ([*SIMCLR, "--save.every_n_step", "3"], "did you mean --save.every_n_steps?"),
            ([*SIMCLR, "--ckpt_path", "missing.ckpt"], "no checkpoint missing.ckpt"),
            (["fit", "--config", "image_folder/simclr"], "needs --data.root"),
            (["fit", "--config", "image_folder/simclr", "--data.root", "nowhere"], "nowhere"),
            (["fti"], "did you mean 'fit'?"),
            (["pretrain", "DIR"], "bcl fit --config images/bcl_i --data.root DIR"),
            (["fit", "DIR"], "--config images/bcl_i --data.root DIR"),
            (["fit", "--data", "DIR"], "--config images/bcl_i --data.root DIR"),
            (["fit", "digits_lt/bcl_i"], "write --config digits_lt/bcl_i"),
            ([*SIMCLR, "--model.image_size", "32"], "did you mean --model.views.size?"),
            ([*SIMCLR, "--model.lr", "1"], "did you mean --model.optimizer.learning_rate?"),
            ([*SIMCLR, "--model.temperature", "1"], "did you mean --model.loss.temperature or"),
            (
                [*SIMCLR, "--model.loss.temperature", "x"],
                "--model.loss.temperature: expected the path of a class or float, got 'x'",
            ),
            ([*SIMCLR, "--model.loss", "x"], "--model.loss is set by its parts: --model.loss.temp"),
            ([*SIMCLR, "--model.projector", "x"], "--model.projector is set by its parts: "),
            ([*SIMCLR, "--trainer.devices", "x"], "trainer: "),
            (
                [*SIMCLR, "--trainer.accumulate_grad_batches", "0"],
                "trainer.accumulate_grad_batches must be an integer of at least 1",
            ),
            ([*SIMCLR, "--model", "x"], "--model takes the path of a class such as bcl.SimCLR"),
            ([*SIMCLR, "--epoch", "3"], "did you mean --epochs?"),
            ([*SIMCLR, "--max-epochs", "3"], "did you mean --trainer.max_epochs?"),
            ([*SIMCLR, "--on_bad_image", "skip"], "--data.on_bad_image is for images in files"),
            (
                ["fit", "--config", "image_folder/simclr", "--on_bad_image", "skip"],
                "did you mean --data.on_bad_image?",
            ),
            ([*SIMCLR, "--data.split_seed"], "--data.split_seed needs a value after it"),
            (
                [*SIMCLR, "--epochs", "3", "--trainer.max_epochs", "4"],
                "--epochs and --trainer.max_epochs set the same value; give one of them",
            ),
            (
                [*SIMCLR, "--size", "8", "--model.views.init_args.size", "16"],
                "--size and --model.views.init_args.size set the same value",
            ),
            ([*SIMCLR, "--batch_size", "3"], "did you mean --data.batch_size?"),
            ([*SIMCLR, "--data.batch_size.x", "3"], "--data.batch_size takes a value"),
            (
                [*SIMCLR, "--model.loss.temperature", '{"low": 0.1}'],
                "--model.loss.temperature takes a value and has no 'low' below it; for an object",
            ),
            ([*SIMCLR, "--model.optimizer", "adam"], "--model.optimizer.name"),
            ([*SIMCLR, "--model.memory.scores", "all"], "expected 'own', 'mean', 'shuffled'"),
            ([*SIMCLR, "--data.folder", "x"], "known are --data.imbalance_factor"),
            ([*SIMCLR, "--data.root", "x"], "--data.root is for images in files"),
        ],
    )
    def test_mistakes(self, folder, capsys, arguments, told):
        assert told in refused(arguments, capsys)
        assert not list(folder.rglob("*.ckpt"))

    def test_misspelt_key_in_a_file(self, folder, capsys):
        (folder / "mine.yaml").write_text("modle:\n  class_path: bcl.SimCLR\n")
        assert "--model" in refused(["fit", "--config", "mine.yaml"], capsys)

    def test_a_file_that_names_no_class(self, folder, capsys):
        for kind, key in (("model", "encoder"), ("data", "root")):
            text = f"{kind}: {{init_args: {{{key}: x}}}}\n"
            (folder / "mine.yaml").write_text(text)
            told = refused(["fit", "--config", "mine.yaml"], capsys)
            assert f"the configuration's {kind} names no class" in told

    def test_an_alias_that_contains_itself(self, folder, capsys):
        (folder / "mine.yaml").write_text("model: &a [*a]\n")
        assert "contains itself" in refused(["fit", "--config", "mine.yaml"], capsys)

    @pytest.mark.slow
    def test_an_empty_section_changes_nothing(self, folder, capsys):
        (folder / "mine.yaml").write_text("trainer:\n")
        arguments = [*self.SIMCLR, "--config", "mine.yaml", "--ckpt_path", "missing.ckpt"]
        assert "no checkpoint" in refused(arguments, capsys)

    @pytest.mark.slow
    def test_output_folder_not_writable(self, folder, capsys):
        (folder / "file").touch()
        told = refused([*self.SIMCLR, "--trainer.default_root_dir", "file/run"], capsys)
        assert "cannot write file/run" in told

    @pytest.mark.slow
    def test_a_second_run_does_not_overwrite_the_first(self, checkpoint, images, capsys):
        root = checkpoint.parent.parent
        before = checkpoint.read_bytes()
        arguments = ["fit", "--config", "image_folder/bcl_i", "--data.root", str(images)]
        told = refused([*arguments, "--trainer.default_root_dir", str(root)], capsys)
        assert "--ckpt_path last" in told
        assert checkpoint.read_bytes() == before

    @pytest.mark.slow
    def test_checkpoint_of_another_model(self, folder, checkpoint, capsys):
        told = refused([*self.SIMCLR, "--ckpt_path", str(checkpoint)], capsys)
        assert "--data.class_path" in told

    @pytest.mark.slow
    @pytest.mark.parametrize("kind", ["empty", "unreadable", "none"])
    def test_bad_image_folder(self, folder, capsys, kind):
        for part in ("train", "test"):
            for name in ("cat", "dog") if kind != "none" else ():
                place = folder / "data" / part / name
                place.mkdir(parents=True)
                for i in range(6):
                    Image.new("RGB", (8, 8), (i, 40, 90)).save(place / f"{i}.png")
        (folder / "data").mkdir(exist_ok=True)
        if kind == "empty":
            for part in ("train", "test"):
                (folder / "data" / part / "owl").mkdir()
        if kind == "unreadable":
            (folder / "data" / "train" / "cat" / "3.png").write_bytes(b"no image")
        arguments = ["fit", "--config", "image_folder/simclr", "--data.root", "data"]
        lines = 2 if kind == "unreadable" else 1  # every unreadable image on a line of its own
        told = refused([*arguments, "--data.cache_dir", "cache"], capsys, lines)
        expected = {"empty": "owl", "unreadable": "3.png", "none": "data"}[kind]
        assert expected in told
        assert not list(folder.rglob("*.ckpt"))

    @pytest.mark.slow
    def test_resume_by_name(self, folder, capsys):
        arguments = [*self.SIMCLR, "--trainer.accelerator", "cpu"]
        assert main([*arguments, "--trainer.max_epochs", "1"]) == 0
        more = ["--trainer.max_epochs", "2", "--ckpt_path", "last"]
        assert main([*arguments, *more]) == 0
        last = folder / "outputs/digits_lt/simclr/checkpoints/last.ckpt"
        content = torch.load(last, weights_only=True)
        history = content["bcl"]["record"]["history"]
        assert [row["epoch"] for row in history] == [0, 1]
        assert content["bcl"]["record"]["config"]["data"]["class_path"] == "datamodules.DigitsLT"

    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("change", "told"),
        [
            (["--seed_everything", "1"], "another seed, 0, than this one, 1"),
            (["--data.split_seed", "3"], "--data.split_seed 0, asked for is 3"),
        ],
    )
    def test_resume_of_another_run_is_refused(self, folder, capsys, change, told):
        arguments = [*self.SIMCLR, "--trainer.accelerator", "cpu", "--trainer.max_epochs"]
        assert main([*arguments, "1"]) == 0
        before = (folder / "outputs/digits_lt/simclr/checkpoints/last.ckpt").read_bytes()
        line = refused([*arguments, "2", "--ckpt_path", "last", *change], capsys)
        assert told in line
        after = (folder / "outputs/digits_lt/simclr/checkpoints/last.ckpt").read_bytes()
        assert after == before

    @pytest.mark.slow
    def test_overwriting_starts_with_no_old_checkpoint(self, folder, monkeypatch):
        arguments = [*self.SIMCLR, "--trainer.accelerator", "cpu", "--trainer.max_epochs", "2"]
        assert main(arguments) == 0
        place = folder / "outputs/digits_lt/simclr/checkpoints"
        assert (place / "previous.ckpt").exists()
        seen = []

        def stop(self, trainer, *_):
            seen.append(sorted(path.name for path in place.glob("*.ckpt")))
            raise KeyboardInterrupt

        monkeypatch.setattr("bcl.training.record.RunRecorder.on_train_epoch_start", stop)
        assert main([*arguments, "--overwrite"]) == 130
        assert seen == [[]]

    @pytest.mark.slow
    def test_a_finished_run_says_so_and_where_all_is(self, folder, capsys):
        arguments = [*self.SIMCLR, "--epochs", "1", "--out", "run"]
        assert main(arguments) == 0
        done, *footer = capsys.readouterr().out.splitlines()[-4:]
        assert done.startswith("done:       1 epoch in 0:00:")
        assert footer == [
            "checkpoint: run/checkpoints/last.ckpt",
            "folder:     run (run.json)",
            "next:       bcl probe run",
        ]
        before = (folder / "run/checkpoints/last.ckpt").read_bytes()
        assert main([*arguments, "--ckpt_path", "last"]) == 0
        again, *same = capsys.readouterr().out.splitlines()
        assert "had finished before, a larger --epochs goes on" in again
        assert same == footer
        assert (folder / "run/checkpoints/last.ckpt").read_bytes() == before
        (folder / "run/run.json").unlink()  # killed after its last checkpoint
        assert main([*arguments, "--ckpt_path", "run"]) == 0
        assert (folder / "run/run.json").exists()

    @pytest.mark.slow
    def test_an_interrupt_says_how_to_go_on(self, folder, capsys, monkeypatch):
        def interrupt(*_):
            os.kill(os.getpid(), signal.SIGINT)

        arguments = [*self.SIMCLR, "--epochs=2", "--out", "a b", "--overwrite"]
        monkeypatch.setattr("bcl.training.record.RunRecorder.on_train_epoch_start", interrupt)
        assert main(arguments) == 130
        *_, first, second = capsys.readouterr().err.splitlines()
        assert first == (
            "bcl: stopped by SIGINT after step 1; resume with --ckpt_path last "
            "(a b/checkpoints/last.ckpt)"
        )
        again = "bcl fit --config digits_lt/simclr --epochs=2 --out 'a b' --ckpt_path last"
        assert second.strip() == again
        monkeypatch.undo()
        monkeypatch.chdir(folder)
        assert main(shlex.split(again)[1:]) == 0
        assert torch.load(folder / "a b/checkpoints/last.ckpt")["global_step"] == 6

    def test_an_interrupt_before_the_first_step(self, capsys, monkeypatch):
        def interrupt(*_):
            raise KeyboardInterrupt

        monkeypatch.setattr("bcl.cli.fit._run", interrupt)
        assert main([*self.SIMCLR, "--ckpt_path", "last"]) == 130
        assert capsys.readouterr().err.splitlines() == [
            "bcl: interrupted before the first step; start again:",
            "  bcl fit --config digits_lt/simclr --ckpt_path last",
        ]

    @pytest.mark.slow
    def test_refused_runs_leave_no_folder(self, folder, capsys):
        refused([*self.SIMCLR, "--ckpt_path", "missing.ckpt"], capsys)
        assert list(folder.iterdir()) == []
        (folder / "set").mkdir()
        words = ["fit", "--config", "image_folder/simclr", "--data.root", "set", "--name", "a/b/c"]
        refused(words, capsys)
        assert [path.name for path in folder.iterdir()] == ["set"]

    def test_help_is_short_and_names_options_that_exist(self, capsys):
        assert main(["fit", "--config", "digits_lt/bcl_i", "--help"]) == 0
        text = capsys.readouterr().out
        assert 30 < len(text.splitlines()) <= 42
        assert "[128]" in text  # the configuration's batch size
        assert max(map(len, text.splitlines())) <= 100
        options = [*SHORT, *make_parser()._option_string_actions]
        for option in re.findall(r"(?<=  )--[a-z][\w.]+", text):
            key = option.partition(".")[0]
            assert option in options or key in ("--model", "--data"), option

    @pytest.mark.slow
    def test_values_in_the_help_are_of_options_that_methods_and_data_take(self):
        words = [word.split()[0] for group in FIRST.values() for word in group]
        config = compose("image_folder/bcl_i")
        given = {"--data.root": ".", "--encoder": "resnet14", "--data.on_bad_image": "skip"}
        numbers = {"--batch": "3", "--lr": "3", "--epochs": "3", "--devices": "3"}
        pairs = {"--model.pretrained": "true", **given, **numbers, "--out": "x"}
        assert {word for word in words if word in SHORT or word.startswith("--data")} == set(pairs)
        arguments = [each for pair in pairs.items() for each in pair]
        _, options = parse(list(_in_full(arguments)), config)
        model, data = options.model.init_args, options.data.init_args
        assert (model.encoder.name, model.encoder.args) == ("resnet14", {"pretrained": True})
        assert (model.optimizer.learning_rate, data.batch_size, data.on_bad_image) == (3, 3, "skip")
        trainer = options.trainer
        assert (trainer.max_epochs, int(trainer.devices), trainer.default_root_dir) == (3, 3, "x")
        assert OptimizerSettings().learning_rate == 0.5  # as the help says

    def test_the_whole_help_documents_every_option(self, capsys):
        with pytest.raises(SystemExit) as stop:
            main(["fit", "--help-all"])
        assert stop.value.code == 0
        text = capsys.readouterr().out
        assert "--trainer.accumulate_grad_batches" in text
        assert "--history.every_n_epochs" in text


class TestProbeAndReport:
    @pytest.mark.slow
    def test_from_checkpoint_to_page(self, checkpoint, folder, capsys):
        assert main(["probe", str(checkpoint), "--protocol", "full", "--out", "probe"]) == 0
        said = capsys.readouterr()
        assert "Many" in said.out
        assert "next:    bcl report probe" in said.out
        header = {"images": "70 in 3", "tests": "30", "encoder": "resnet8 (5,044 parameters)"}
        for name, value in {**header, "device": "cpu (", "folder": "probe"}.items():
            assert f"\n{name + ':':<10} {value}" in said.err
        report = ProbeReport.load("probe")
        assert report.name == "image_folder/bcl_i"
        assert main(["report", "probe"]) == 0
        assert capsys.readouterr().out == "probe/report.html\n"
        assert "image_folder/bcl_i" in (folder / "probe/report.html").read_text()

    @pytest.mark.parametrize(
        ("write", "told"),
        [
            (lambda path: None, "no checkpoint"),
            (lambda path: path.write_bytes(b"PK\x03\x04 cut"), "truncated or not a PyTorch file"),
            (lambda path: path.write_text("hello"), "truncated or not a PyTorch file"),
            (lambda path: torch.save({"state_dict": {}}, path), "another program"),
            (lambda path: torch.save({"model": torch.nn.Linear(1, 1)}, path), "plain values"),
            (lambda path: path.mkdir(), "folder"),
        ],
    )
    def test_not_a_checkpoint(self, folder, capsys, write, told):
        write(folder / "x.ckpt")
        line = refused(["probe", "x.ckpt", "--out", "probe"], capsys)
        assert told in line
        assert not (folder / "probe" / "report.json").exists()

    @pytest.mark.slow
    def test_truncated_checkpoint_names_its_neighbor(self, folder, checkpoint, capsys):
        content = checkpoint.read_bytes()
        (folder / "cut.ckpt").write_bytes(content[: len(content) // 2])
        (folder / "older.ckpt").write_bytes(content)
        line = refused(["probe", "cut.ckpt", "--out", "probe"], capsys)
        assert "older.ckpt" in line

    def test_a_flipped_bit(self, folder, checkpoint, capsys):
        content = bytearray(checkpoint.read_bytes())
        content[len(content) // 2] ^= 1
        (folder / "bad.ckpt").write_bytes(content)
        assert "checksum" in refused(["probe", "bad.ckpt", "--out", "probe"], capsys)

    @pytest.mark.parametrize("length", [0, 1, 5000])
    def test_cut_anywhere(self, folder, checkpoint, capsys, length):
        (folder / "cut.ckpt").write_bytes(checkpoint.read_bytes()[:length])
        line = refused(["probe", "cut.ckpt", "--out", "probe"], capsys)
        assert "truncated or not a PyTorch file" in line
        assert "--overwrite" in line

    @pytest.mark.parametrize(
        "damage",
        [
            lambda content: content.update(bcl=3),
            lambda content: content["bcl"].pop("record"),
            lambda content: content.update(state_dict=[1]),
            lambda content: content["bcl"]["record"].update(config="text"),
        ],
    )
    def test_damaged_record(self, folder, checkpoint, capsys, damage):
        content = torch.load(checkpoint, weights_only=True)
        damage(content)
        torch.save(content, folder / "bad.ckpt")
        assert "bad.ckpt" in refused(["probe", "bad.ckpt", "--out", "probe"], capsys)

    def test_newer_format(self, folder, checkpoint, capsys):
        content = torch.load(checkpoint, weights_only=True)
        content["bcl"]["format"] = 99
        torch.save(content, folder / "new.ckpt")
        assert "format 99" in refused(["probe", "new.ckpt", "--out", "probe"], capsys)

    def test_weights_of_another_encoder(self, folder, checkpoint, capsys):
        content = torch.load(checkpoint, weights_only=True)
        content["bcl"]["record"]["config"]["model"]["init_args"]["encoder"] = "resnet14"
        torch.save(content, folder / "other.ckpt")
        line = refused(["probe", "other.ckpt", "--out", "probe"], capsys)
        assert "another model" in line

    def test_class_of_a_stranger(self, folder, checkpoint, capsys):
        content = torch.load(checkpoint, weights_only=True)
        content["bcl"]["record"]["config"]["data"]["class_path"] = "os.system"
        torch.save(content, folder / "evil.ckpt")
        line = refused(["probe", "evil.ckpt", "--out", "probe"], capsys)
        assert "not in the trusted packages" in line

    def test_unknown_protocol(self, folder, checkpoint, capsys):
        arguments = ["probe", str(checkpoint), "--protocol", "fulll", "--out", "probe"]
        assert "did you mean 'full'?" in refused(arguments, capsys)

    def test_output_not_writable(self, folder, checkpoint, capsys):
        (folder / "file").touch()
        refused(["probe", str(checkpoint), "--out", "file/probe"], capsys)
        refused(["report", "file", "--out", "page.html"], capsys)


def test_usage_and_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("bcl-cacr ")
    assert main([]) == 2
    assert main(["--help"]) == 0
    assert "quickstart" in capsys.readouterr().out
