"""Views in plain PyTorch: each row gets the ops that it needs, in blocks that stay in the cache."""

import torch
from torch import Tensor

from bcl.augment.ops.blocks import (
    FEW_ROWS,
    block_rows,
    change_rows,
    empty_levels,
    keep_freed_memory,
    put_rows,
    runs,
)
from bcl.augment.ops.blur import gaussian_blur
from bcl.augment.ops.color import HUE, grayscale, jitter
from bcl.augment.ops.crop import crop_resize_flip
from bcl.augment.ops.tone import solarize
from bcl.augment.params import BoostParams, ViewParams
from bcl.augment.policy import TABLE, Policy, op_values
from bcl.augment.sampling import ViewSettings
from bcl.core.threads import in_threads


def make_views(
    images: Tensor, params: ViewParams, settings: ViewSettings, policy: Policy | None
) -> Tensor:
    """Make views (R, 3, *size) float32 of images (B, 3, H, W) and parameters of R = V B rows."""
    device, exact = images.device, settings.arithmetic == "exact"
    images, params = images.cpu(), params.to("cpu")
    count = len(params.top)
    source = torch.arange(count, device="cpu") % len(images)  # (R,) image of each row
    out = empty_levels(count, settings.size)

    def make(rows: slice) -> None:
        x, own = out[rows], params.map(lambda values: values[rows])
        # 16-bit floats do not hold the levels.
        with torch.inference_mode(), torch.autocast("cpu", enabled=False):
            base_chain(x, images, source[rows], own, exact)
            if own.boost is not None and policy is not None:
                apply_ops(x, own.boost, policy, whole=exact)
            x.div_(255)
            if settings.mean is not None and settings.std is not None:
                x.sub_(x.new_tensor(settings.mean)[:, None, None])
                x.div_(x.new_tensor(settings.std)[:, None, None])

    in_threads(make, count)
    return out.to(device)


def base_chain(
    out: Tensor, images: Tensor, source: Tensor, params: ViewParams, exact: bool
) -> None:
    """Crop, resize, flip, jitter, gray, blur and solarize into ``out``, (R, 3, *size) levels.

    Rows that turn the hue at the same step share a block: the hue costs most, and is then computed
    once per row and without copies.
    """
    keep_freed_memory()
    p, size = params, (out.shape[2], out.shape[3])
    boxes = torch.stack([p.top, p.left, p.height, p.width, p.flip.to(p.top)], dim=1)  # (R, 5)
    factors = torch.stack([p.brightness, p.contrast, p.saturation, p.hue], dim=1)  # (R, 4)
    turned = p.hue != 0
    jittered = turned | (factors[:, :HUE] != 1).any(dim=1)
    # The step of the hue, 4 without hue, 5 without jitter.
    key = torch.where(turned, (p.order == HUE).to(torch.int64).argmax(dim=1), 5 - jittered.long())
    # Two blocks at least: the temporary copies of one are several times its size.
    longest = min(block_rows(out), -(-len(out) // 2))
    if longest <= FEW_ROWS:  # rows that share the other steps, too, are blended without masks
        key = 256 * key + (p.order * 4 ** torch.arange(4, device="cpu")).sum(dim=1)
    alike = key.argsort(stable=True)
    boxes, factors, order, key = boxes[alike], factors[alike], p.order[alike], key[alike]
    jittered, gray, blur, inverted = (x[alike] for x in (jittered, p.gray, p.blur, p.solarize))
    for run in runs(key, longest):
        rows = alike[run]
        # index_select takes a tenth of the time of images[rows].
        cut = images.index_select(0, source[rows])
        x = crop_resize_flip(cut, boxes[run], size, exact)
        if jittered[run.start]:
            jitter(x, factors[run], order[run], exact)
        change_rows(x, gray[run], lambda y: grayscale(y, exact))
        sigma = blur[run]
        change_rows(x, sigma > 0, lambda y, sigma: gaussian_blur(y, sigma, exact), sigma)
        change_rows(x, inverted[run], lambda y: solarize(y, y.new_full((len(y),), 128.0)))
        put_rows(out, rows, x)


def apply_ops(x: Tensor, params: BoostParams, policy: Policy, whole: bool) -> Tensor:
    """Apply k ops per row to levels (R, 3, H, W), on a CPU in place.

    Unless the levels are ``whole`` numbers, rows that get an op are rounded first.
    """
    device, x, params = x.device, x.cpu(), params.to("cpu")
    if not whole:
        change_rows(x, params.active.any(dim=1), lambda y: y.add_(0.5).floor_().clamp_(0, 255))
    for j in range(params.op.shape[1]):
        op, active = params.op[:, j], params.active[:, j]
        value = op_values(op, params.magnitude[:, j], params.sign[:, j], policy)
        place = params.center_x[:, j], params.center_y[:, j]
        for number, row in enumerate(TABLE):
            more = place if row.placed else ()
            change_rows(x, active & (op == number), row.apply, value, *more)
    return x.to(device)
