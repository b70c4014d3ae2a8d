"""What real users typed wrong: one line, the cause, the way out, status 2."""

import random
import shlex

import numpy as np
import pytest
import torch
from PIL import Image

import bcl
from bcl import InputError
from bcl.cli import main
from datamodules import ArraysLT, ImageCollection, ImageListLT

FIT = "fit --config digits_lt/bcl_i --trainer.max_steps 1"
METHODS = "fit --config digits_lt"
FOLDER = "fit --config image_folder/bcl_i"
IMAGES = "fit --config images/bcl_i"

# What was typed after `bcl`, a phrase of the cause, one of the way out.
TYPED = [
    ("fti", "unknown command 'fti'", "did you mean 'fit'"),
    ("pretrain flat", "unknown command 'pretrain'", "bcl fit --config images/bcl_i --data.root"),
    ("--config digits_lt/bcl_i", "before the command", "bcl fit --config"),
    ("fit", "needs a model and data", "name a configuration with --config"),
    ("fit help", "unexpected word 'help'", "`bcl fit --help` explains"),
    ("fit images/bcl_i --data.root flat", "unexpected word", "write --config images/bcl_i"),
    (f"{FIT} --model BYOL", "such as bcl.SimCLR, not 'BYOL'", "`bcl configs` lists the methods"),
    (f"{FIT} --seed 1", "unknown option '--seed'", "did you mean --seed_everything?"),
    ("fit flat", "unexpected word 'flat'", "--config images/bcl_i --data.root flat"),
    ("fit --data flat", "path of a class, not 'flat'", "--config images/bcl_i --data.root flat"),
    ("fit --data.root flat", "data names no class", "put a complete configuration before"),
    ("fit digits_lt/bcl_i", "unexpected word", "write --config digits_lt/bcl_i"),
    ("fit --config", "--config needs a name or a file", "`bcl configs` lists"),
    ("fit --config bcl_i", "unknown configuration 'bcl_i'", "did you mean 'digits_lt/bcl_i'"),
    ("fit --config digits_lt/bcl-i", "unknown configuration", "did you mean 'digits_lt/bcl_i'"),
    ("fit --config mine.yaml", "no configuration file mine.yaml", "`bcl configs` lists"),
    ("fit --config broken.yaml", "broken.yaml, line 2", "correct the file"),
    (f"{FIT} --epoch 3", "unknown option '--epoch'", "did you mean --epochs?"),
    (f"{FIT} --epochs", "--epochs needs", "a value after it"),
    (f"{FIT} --epochs few", "--epochs: ", "expected int or null, got 'few'"),
    (f"{FIT} --epochs 1e3", "--epochs: ", "expected int or null, got '1e3'."),
    (f"{FIT} --epochs 0", "needs the last epoch", "at least 1"),
    (f"{FIT} --trainer.max_epoch 1", "unknown option", "did you mean --trainer.max_epochs?"),
    (f"{FIT} --model.lr 0.1", "unknown option", "did you mean --model.optimizer.learning_rate?"),
    (f"{FIT} --model.temperature 1", "unknown option", "did you mean --model.loss.temperature"),
    (f"{FIT} --gpus 2", "unknown option '--gpus'", "did you mean --devices"),
    (f"{FIT} --device cuda", "unknown option", "did you mean --trainer.accelerator?"),
    (f"{FIT} --output x", "unknown option '--output'", "did you mean --trainer.default_root_dir"),
    (f"{FIT} --lr fast", "--lr: ", "expected float, got 'fast'"),
    (f"{FIT} --lr -1", "learning_rate must be", "above 0, got -1.0"),
    (f"{FIT} --batch 0", "batch_size must be", "at least 1, got 0"),
    (f"{FIT} --size 1", "--size must be a side in pixels", "at least 8, got 1"),
    (f"{FIT} --size big", "--size must be a side in pixels", "at least 8, got 'big'"),
    (f"{FIT} --model.views.size 2", "--model.views.size must be", "at least 8, got 2"),
    (f"{FIT} --encoder resnet19", "unknown encoder 'resnet19'", "did you mean 'resnet18'"),
    (f"{FIT} --trainer.precision fp16", "--trainer.precision", "'bf16-mixed'"),
    (f"{METHODS}/ts --model.loss.temperature.low 2", "low must be at most high", "high=1.0"),
    (f"{METHODS}/ts --model.loss.temperature.period 0", "period must be", "above 0, got 0.0"),
    (f"{METHODS}/dystress --model.loss.temperature.low 2", "low must be at most", "high=0.2"),
    (f"{METHODS}/gh --model.loss.num_clusters 200", "hold at most 129 vectors", "wider projector"),
    (f"{METHODS}/colt", "selects from a second collection", "give --data.selection.root DIR"),
    (f"{METHODS}/balanced --data.selection.clusters 999", "clusters is 999", "to at most 417"),
    (f"{FIT} --log wandbb", "unknown logger 'wandbb'", "did you mean 'wandb'"),
    (f"{FIT} --ckpt_path nowhere", "no checkpoint", "name a run's folder"),
    (f"{FIT} --out run", "run holds a run already", "or name another folder with --out"),
    (f"{FIT} --seed_everything -1", "a seed must lie between 0 and", "got -1"),
    (f"{FIT} --on_bad_image skip", "unknown option", "is for images in files"),
    (f"{FIT} --epochs 1 --trainer.max_epochs 2", "set the same value", "give one of them"),
    (FOLDER, "needs --data.root", "add it"),
    (f"{FOLDER} --data.root /no/such", "/no/such does not exist", "--data.root DIR"),
    (f"{FOLDER} --data.root flat", "holds no class folders", "--config images/bcl_i"),
    (f"{FOLDER} --data.root one", "a single class folder, all", "--config images/bcl_i"),
    (f"{FOLDER} --data.root labeled --data.imbalance_factor 1000", "without images", "at most 16"),
    (IMAGES, "needs your images", "--data.root DIR"),
    (f"{IMAGES} --data.root empty", "empty holds no file", "give a folder of images"),
    (f"{IMAGES} --data.root notes.txt", "do not exist: of mine", "paths are relative to"),
    (f"{IMAGES} --data.root missing.txt", "missing.txt does not exist", "a list of paths (.txt"),
    ("probe", "bcl probe needs RUN", "`bcl probe --help`"),
    ("probe nowhere", "no checkpoint at nowhere", "check the path"),
    ("probe notes.txt", "not an intact checkpoint", "restore it"),
    ("probe flat", "no checkpoint in folder flat", "such as checkpoints/last.ckpt"),
    ("probe run --protocl full", "unknown option '--protocl'", "did you mean --protocol?"),
    ("probe run --protocol linear", "unknown protocol 'linear'", "did you mean 'full'?"),
    ("probe run --protocol knn20", "unknown protocol 'knn20'", "did you mean 'knn@20'?"),
    ("probe run --protocol 10shot", "unknown protocol '10shot'", "did you mean '10-shot'?"),
    ("probe run --protocol full knn", "unknown word 'knn'", "joined by commas"),
    ("probe run --device gpu", "no device is named 'gpu'", "write cuda"),
    ("report", "bcl report needs DIR", "`bcl report --help`"),
    ("report probed probed", "probed/report.json is named twice", "name each run once"),
    ("report nowhere", "no report in nowhere", "make one with 'bcl probe CKPT"),
    ("report notes.txt", "not a probe report", "name a folder that `bcl probe` wrote"),
    ("import notes.txt", "no intact file of PyTorch", "give a checkpoint"),
    ("import nowhere.pt", "nowhere.pt cannot be read: No such file", "check the path"),
    ("import weights.pt", "fit none of the known checkpoints", "use `bcl export`"),
    ("export nowhere", "no checkpoint nowhere", "name a run's folder"),
    ("export run --out run", "run exists already", "choose another --out or add --overwrite"),
    ("embed nowhere flat", "no encoder at nowhere", "an exported encoder or timm:NAME"),
    ("embed run nowhere", "nowhere does not exist", "give a folder, a zip"),
    ("discover flat", "no encoder at flat;", "an exported encoder or timm:NAME"),
    ("discover nowhere", "no encoder at nowhere", "an exported encoder or timm:NAME"),
    ("augment --images nowhere", "nowhere does not exist", "--images DIR"),
    ("augment --images flat --out grid.jpg", "got 'grid.jpg'", "must name a .png file"),
    ("split", "say what to do", "--list for the recipes"),
    ("split make cifar100/sdcl", "unknown recipe", "did you mean 'cifar100/sdclr'"),
    ("split inspect nowhere.npy", "nowhere.npy does not exist", "check the path"),
    ("pack nowhere", "nowhere does not exist", "bcl pack DIR"),
    ("quickstart --epochs 0", "--epochs must be", "at least 1, got 0"),
    ("quickstart --epochs few", "invalid int value: 'few'", "`bcl quickstart --help`"),
    ("quickstart out", "unknown word 'out'; `bcl", "`bcl quickstart --help`"),
    ("pack", "bcl pack needs DIR", "`bcl pack --help`"),
    ("configs digits", "unknown configuration", "did you mean 'digits_lt/bcl_i'"),
    ("configs digits_lt/bcl", "unknown configuration", "did you mean 'digits_lt/bcl_i'"),
]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Folders of images, files that are none of what is asked for, and a run's folder."""
    root = tmp_path_factory.mktemp("typed")
    for folder, count in (("labeled/ant", 20), ("labeled/bee", 20), ("flat", 6), ("one/all", 6)):
        (root / folder).mkdir(parents=True)
        for i in range(count):
            pixels = random.Random(f"{folder}{i}").randbytes(768)
            Image.frombytes("RGB", (16, 16), pixels).save(root / folder / f"{i}.png")
    (root / "empty").mkdir()
    (root / "probed").mkdir()
    (root / "probed/report.json").write_text('{"schema": "bcl-cacr/probe-report"}')
    (root / "notes.txt").write_text("some notes\nof mine\n")
    (root / "broken.yaml").write_text("model: [\n")
    torch.save({"conv1.weight": torch.zeros(3)}, root / "weights.pt")
    return root


@pytest.fixture(scope="module")
def run(place):
    folder = str(place / "run")
    words = ["fit", "--config", "digits_lt/simclr", "--epochs", "1", "--out", folder]
    assert main(words) == 0
    return folder


@pytest.mark.slow
@pytest.mark.usefixtures("run")
@pytest.mark.parametrize(("typed", "cause", "way_out"), TYPED)
def test_typed(place, monkeypatch, capfd, typed, cause, way_out):
    monkeypatch.chdir(place)
    assert main(shlex.split(typed)) == 2
    said = capfd.readouterr().err.splitlines()
    (line,) = [each for each in said if each.startswith("bcl: error: ")]
    assert line == said[-1]
    assert cause in line
    assert way_out in line
    assert not (place / "outputs").exists()


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="for machines without a GPU")
@pytest.mark.parametrize(
    ("typed", "way_out"),
    [(f"{FIT} --trainer.accelerator gpu", "leave --trainer.accelerator out"),
     ("probe run --device cuda", "NVIDIA")],
)  # fmt: skip
def test_a_device_that_is_not_there(place, run, monkeypatch, capfd, typed, way_out):
    monkeypatch.chdir(place)
    assert main(shlex.split(typed)) == 2
    line = capfd.readouterr().err.splitlines()[-1]
    assert "cannot be used here" in line
    assert way_out in line


Z = torch.randn(4, 8)
U8 = np.zeros((4, 8, 8, 4), np.uint8)

# Called in Python.
CALLED = [
    (lambda: bcl.nt_xent(Z, Z[:2]), "with the samples in the same order"),
    (lambda: bcl.nt_xent(Z.long(), Z.long()), "floating point"),
    (lambda: bcl.nt_xent(Z[:1], Z[:1]), "drop_last=True"),
    (lambda: bcl.nt_xent(Z, Z, temperature=0), "above 0"),
    (lambda: bcl.NTXentLoss()(torch.stack([Z, Z, Z])), "use cacr.CACRLoss"),
    (lambda: bcl.MemorizationTracker(3).update([0, 7], [1.0, 1.0]), "num_samples"),
    (lambda: bcl.MemorizationTracker(3).update([0, 1], 1.0), "reduction='none'"),
    (lambda: bcl.MemorizationTracker(3).update([0, 1], ["a", "b"]), "a list of numbers"),
    (lambda: bcl.MemorizationTracker(3).update([0], [float("nan")]), "Lower the learning rate"),
    (lambda: bcl.ContrastiveViews(8)(np.zeros((4, 8, 8, 3), np.uint8)), "permute"),
    (lambda: bcl.ContrastiveViews(8)(np.zeros((3, 8, 8), np.uint8)), "images[None]"),
    (lambda: bcl.ContrastiveViews(8)(torch.full((4, 3, 8, 8), 255.0), ids=range(4)), "by 255"),
    (lambda: bcl.ContrastiveViews(8)(torch.zeros(4, 3, 8, 8)), "torch.arange"),
    (lambda: bcl.create_encoder("resnet19"), "did you mean 'resnet18'"),
    (lambda: bcl.fit_linear_probe(Z, [0, 0, 1, 1], Z, [0, 0, 1, 9999]), "from 0 without gaps"),
    (lambda: bcl.fit_linear_probe(Z, ["a"] * 4, Z, [0] * 4), "give names in all sets"),
    (lambda: bcl.shot_groups([5, 3]), "thresholds"),
    (lambda: bcl.tail_discovery([1.0, 1.0], [0, 1]), "never seen"),
    (lambda: ArraysLT(U8).setup(), "images[..., :3]"),
    (lambda: ArraysLT(U8[..., :3] / 255).setup(), "uint8"),
    (lambda: ImageListLT(".", "nowhere.txt").setup(), "check the path"),
    (lambda: ImageCollection("nowhere").setup(), "give a folder"),
]


@pytest.mark.parametrize(("call", "way_out"), CALLED)
def test_called(call, way_out):
    with pytest.raises(InputError) as caught:
        call()
    assert way_out in str(caught.value)
    assert "\n" not in str(caught.value)
