import torch

from bcl.core.hashing import fingerprint


def test_a_fingerprint_depends_on_content_and_boundaries():
    assert fingerprint("a", b"b") == fingerprint("a", "b")
    assert fingerprint("ab", "c") != fingerprint("a", "bc")
    assert fingerprint(torch.zeros(2)) != fingerprint(torch.zeros(3))
    assert len(fingerprint()) == 16
