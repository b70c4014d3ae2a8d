"""Features of other layers than the one that a method's ``encode`` returns."""

from typing import Any

import torch
from torch import Tensor, nn

from bcl.core.errors import InputError, unknown_name
from bcl.evaluation.features import Encode


def layer_encoder(method: nn.Module, layer: str = "pooled") -> Encode:
    """Return a function from images to a layer's (B, D) features.

    ``"pooled"`` is what ``encode`` returns; ``"class_token"`` and ``"mean"`` (of the patch tokens)
    are for ViTs. Any other name is a submodule of the encoder; maps are averaged over positions.
    """
    encoder: Any = getattr(method, "encoder", None)
    encode: Encode | None = getattr(method, "encode", None)
    if not isinstance(encoder, nn.Module) or encode is None:
        raise InputError(
            f"{type(method).__name__} has no encoder to evaluate; take the checkpoint of a "
            "method of this library."
        )
    if layer == "pooled":
        return encode
    if layer == "projector":
        projector: Any = method.projector
        return lambda images: _in_eval_mode(projector, encode(images))
    tokens = layer in ("class_token", "mean")
    modules = dict(encoder.named_modules())
    module = modules.get("norm" if tokens else layer)
    if tokens and (module is None or not hasattr(encoder, "num_prefix_tokens")):
        raise InputError(f"layer '{layer}' is for vision transformers, not for this encoder.")
    if not layer or module is None:
        known = [name for name in modules if name and name.count(".") < 2]
        raise unknown_name("layer", layer, ["pooled", "projector", "class_token", "mean", *known])

    def read(images: Tensor) -> Tensor:
        found: list[Tensor] = []
        handle = module.register_forward_hook(lambda _m, _i, output: found.append(output))
        try:
            encode(images)
        finally:
            handle.remove()
        output = found[-1]  # (B, D), (B, tokens, D) or (B, D, H, W)
        if layer == "class_token":
            return output[:, 0]
        if layer == "mean":
            return output[:, encoder.num_prefix_tokens :].mean(1)
        if output.ndim == 4:
            return output.mean((2, 3))
        return output.mean(1) if output.ndim == 3 else output

    return read


@torch.no_grad()
def _in_eval_mode(module: nn.Module, x: Tensor) -> Tensor:
    training = module.training
    output: Tensor = module.eval()(x)
    module.train(training)
    return output
