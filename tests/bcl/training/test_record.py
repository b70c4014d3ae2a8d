"""The run's record."""

import pytest

from bcl import InputError


def test_resume_with_other_bytes_is_refused() -> None:
    from types import SimpleNamespace

    from bcl.training.checkpoints import KEY
    from bcl.training.record import RunRecorder

    data = SimpleNamespace(recipe="r", content_hash="names", images_hash="bytes")
    saved = {"seed": 0, "content_hash": "names", "history": [], "wall_seconds": 1.0, "epochs": 1}
    running = {"sum": 0.0, "count": 0}

    def resume(record: dict) -> RunRecorder:
        recorder = RunRecorder({"seed": 0}, ".")
        checkpoint = {KEY: {"record": record, "running": running}, "epoch": 1, "global_step": 4}
        recorder.on_load_checkpoint(SimpleNamespace(datamodule=data), None, checkpoint)
        return recorder

    with pytest.raises(InputError, match="another encoding of the training images"):
        resume(saved | {"images_hash": "other"})
    for known in ({"images_hash": "bytes"}, {}):  # older checkpoints do not say
        assert resume(saved | known).record["epochs"] == 1


@pytest.mark.slow
def test_a_warning_about_input_is_a_note_of_the_run(tmp_path, capsys):
    from small_runs import SIZE, TINY, Images, fit

    from bcl import GeometricHarmonization, NTXentLoss, SimCLR
    from bcl.training.record import RunRecorder

    recorder = RunRecorder({"name": "x"}, tmp_path)
    loss = GeometricHarmonization(NTXentLoss(reduction="none"), num_clusters=9, start=0.5)
    fit(SimCLR(TINY, views=SIZE, loss=loss), recorder, data=Images(), max_epochs=1)
    said = capsys.readouterr()
    (note,) = recorder.record["notes"]
    assert note.startswith("a batch of 8 samples cannot fill 9 clusters; take")
    assert said.out.splitlines().count(f"note: {note}") == 1
    assert "Warning" not in said.err


@pytest.mark.slow
def test_a_resumed_run_keeps_its_notes(tmp_path):
    from small_runs import SIZE, TINY, Images, fit

    from bcl import GeometricHarmonization, NTXentLoss, SimCLR
    from bcl.training.checkpoints import Checkpoints
    from bcl.training.record import RunRecorder, add_note

    def run(epochs, resume=None):
        recorder = RunRecorder({"name": "x"}, tmp_path)
        loss = GeometricHarmonization(NTXentLoss(reduction="none"), num_clusters=9, start=0.5)
        callbacks = [recorder, Checkpoints(tmp_path)]
        options = {"max_epochs": epochs, "resume": resume, "enable_checkpointing": True}
        trainer = fit(SimCLR(TINY, views=SIZE, loss=loss), *callbacks, data=Images(), **options)
        return trainer, recorder.record["notes"]

    _, (small,) = run(1)
    trainer, again = run(2, resume=tmp_path / "last.ckpt")
    assert again == [small]  # told in both
    add_note(trainer, "told once")
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    assert run(3, resume=tmp_path / "last.ckpt")[1] == [small, "told once"]
