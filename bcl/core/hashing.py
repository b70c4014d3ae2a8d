"""Hashes of tensors and text."""

import hashlib

from torch import Tensor


def fingerprint(*parts: bytes | str | Tensor) -> str:
    """Hash values to sixteen hexadecimal digits; boundaries count: ("ab", "c") ≠ ("a", "bc")."""
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, Tensor):
            part = part.detach().cpu().contiguous().numpy().tobytes()
        raw = part.encode(errors="surrogateescape") if isinstance(part, str) else part
        digest.update(len(raw).to_bytes(8, "little"))
        digest.update(raw)
    return digest.hexdigest()[:16]
