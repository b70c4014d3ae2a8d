"""Triton kernel of the tracker's update on a GPU."""

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["count", "samples"])
def update_kernel(
    refused, momentum_loss, updated_in, epoch, ids, losses, count, samples, momentum,
    block: tl.constexpr,
):  # fmt: skip
    """Take all losses of a step, or none if one of them cannot be taken.

    Every program reads all rows, so none waits for another, and updates the samples of its own
    rows. The first row of a sample counts.
    """
    mine = tl.program_id(0) * block + tl.arange(0, block)
    mask = mine < count
    sample = tl.load(ids + mine, mask=mask, other=-1)
    wrong = tl.zeros((block,), tl.int32)
    repeated = tl.zeros((block,), tl.int32)
    for start in range(0, count, block):
        row = start + tl.arange(0, block)
        there = row < count
        other = tl.load(ids + row, mask=there, other=0)
        loss = tl.load(losses + row, mask=there, other=0.0)
        finite = tl.abs(loss) < float("inf")  # False for NaN
        wrong += ((other < 0) | (other >= samples) | (finite == 0)).to(tl.int32)
        again = (sample[:, None] == other[None, :]) & (row[None, :] < mine[:, None])
        repeated = tl.maximum(repeated, tl.max(again.to(tl.int32), axis=1))
    bad = tl.sum(wrong, axis=0)
    if tl.program_id(0) == 0:
        tl.store(refused, bad)
    if bad == 0:
        now = tl.load(epoch)
        lead = mask & (repeated == 0)
        old = tl.load(momentum_loss + sample, mask=lead, other=0.0)
        last = tl.load(updated_in + sample, mask=lead, other=0)
        loss = tl.load(losses + mine, mask=lead, other=0.0)
        # losses.lerp(old, momentum), which starts from the nearer end.
        if momentum < 0.5:
            fresh = loss + momentum * (old - loss)
        else:
            fresh = old - (old - loss) * (1.0 - momentum)
        fresh = tl.where(last < 0, loss, fresh)
        lead = lead & (last != now)
        tl.store(momentum_loss + sample, fresh, mask=lead)
        tl.store(updated_in + sample, now, mask=lead)
