"""Methods on encoders of other makings: vision transformers, timm's norms, recorded stems."""

import copy
from functools import partial

import pytest
import pytorch_lightning as pl
import torch
from torch import nn

from bcl import BCL, SDCLR, InputError, SimCLR, create_encoder
from bcl.methods import EncoderSettings, OptimizerSettings, ScheduleSettings
from bcl.models.encoders import encoder_spec
from bcl.training.checkpoints import KEY, TorchRandomState, load_method
from bcl.training.fit import fit, make_trainer
from bcl.training.record import new_record
from datamodules import DigitsLT

VIT = {"img_size": 16, "patch_size": 4, "depth": 3, "drop_path_rate": 0.3}


class Stop(pl.Callback):
    def __init__(self, step):
        self.step = step

    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == self.step:
            raise KeyboardInterrupt


def train(method, folder, seed, stop=None, resume=None, random_state=True):
    settings = {
        "max_epochs": 2,
        "accelerator": "cpu",
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "callbacks": [Stop(stop)] if stop else [],
    }
    record = new_record("test", method, 0, {})
    trainer = make_trainer(record, folder, settings, save={"every_n_steps": 1})
    if not random_state:
        trainer.callbacks = [c for c in trainer.callbacks if not isinstance(c, TorchRandomState)]
    torch.manual_seed(seed)
    if stop is None:
        fit(trainer, method, DigitsLT(batch_size=128, image_size=16), resume)
        return method.state_dict()
    with pytest.raises(KeyboardInterrupt):
        fit(trainer, method, DigitsLT(batch_size=128, image_size=16), resume)
    return None


def vit():
    torch.manual_seed(0)
    adamw = OptimizerSettings("adamw", learning_rate=1e-3, decay_norm_and_bias=False)
    return BCL(
        EncoderSettings("vit_tiny_patch16_224", VIT),
        views=16,
        optimizer=adamw,
        schedule=ScheduleSettings(warmup_epochs=0),
    )


def test_a_vision_transformer_with_drop_path_resumes_bit_for_bit(tmp_path):
    method = vit()
    before = copy.deepcopy(method.encoder.state_dict())
    whole = train(method, tmp_path / "whole", seed=7)
    assert all(not torch.equal(whole[f"encoder.{name}"], value) for name, value in before.items())
    train(vit(), tmp_path / "cut", seed=7, stop=3)
    last = tmp_path / "cut" / "checkpoints" / "last.ckpt"
    kept = last.read_bytes()
    # Another process stands elsewhere in its generator.
    resumed = train(vit(), tmp_path / "cut", seed=99, resume=last)
    assert all(torch.equal(resumed[name], value) for name, value in whole.items())
    # Without the generator's state the paths that are dropped are others.
    last.write_bytes(kept)
    other = train(vit(), tmp_path / "cut", seed=99, resume=last, random_state=False)
    assert not torch.equal(other["encoder.norm.weight"], whole["encoder.norm.weight"])


@pytest.mark.parametrize("name", ["regnetx_002", "mobilenetv3_small_050", "test_convnext"])
def test_sdclr_keeps_statistics_for_both_branches_of_any_batch_norm(name):
    if name == "test_convnext":  # layer norms
        with pytest.raises(InputError, match="batch norm"):
            SDCLR(name)
        return
    torch.manual_seed(0)
    method = SDCLR(name, prune_fraction=0.5)
    norms = [m for m in method.encoder.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    assert len(dict(method.encoder_norms.named_buffers())) == 3 * len(norms)
    dense = copy.deepcopy(method.encoder)
    views = torch.rand(2, 8, 3, 32, 32)
    method.project(views).square().sum().backward()
    # The dense statistics are those of the dense view alone.
    dense(method.normalize(views[0]))
    state = method.encoder.state_dict()
    for key, value in dense.state_dict().items():
        torch.testing.assert_close(state[key], value, msg=key)
    for key, value in method.encoder_norms.named_buffers():
        if key.endswith("running_var"):
            assert not torch.equal(value, state[key.replace("/", ".")])
    assert [key for key, value in method.named_parameters() if value.grad is None] == []


class TestStem:
    def test_is_recorded_as_it_was_built(self):
        assert encoder_spec(create_encoder("resnet10t", 32))["small_stem"] is True
        assert encoder_spec(create_encoder("resnet10t", 65))["small_stem"] is False
        assert encoder_spec(create_encoder("resnet8", 32, stem_stride=2))["small_stem"] is False
        assert encoder_spec(create_encoder("resnet10t", 32, pretrained=False)) == {
            "name": "resnet10t",
            "image_size": 32,
            "small_stem": True,
            "in_channels": 3,
        }
        assert encoder_spec(nn.Flatten()) is None

    def test_what_has_no_stem_to_shrink_says_so(self):
        with pytest.raises(InputError, match="no ResNet stem"):
            create_encoder("vit_tiny_patch16_224", 32, small_stem=True)

    def test_is_checked_on_load(self):
        """Tensors of both stems have the same shapes."""
        other = SimCLR("resnet8")
        make = partial(SimCLR, EncoderSettings("resnet8", {"stem_stride": 2}))
        trained = make()
        content = {
            "state_dict": trained.state_dict(),
            KEY: {"record": new_record("run", trained, 0, {})},
        }
        load_method(make(), content, "run.ckpt")
        with pytest.raises(InputError, match="'resnet8' was built with small_stem=False, this one"):
            load_method(other, content, "run.ckpt")

    def test_arguments_that_are_no_plain_values_are_recorded_by_name(self):
        method = SimCLR(EncoderSettings("resnet10t", {"norm_layer": nn.BatchNorm2d}))
        record = new_record("run", method, 0, {})
        assert record["encoder"]["norm_layer"] == repr(nn.BatchNorm2d)
        load_method(method, {"state_dict": method.state_dict(), KEY: {"record": record}}, "x")
