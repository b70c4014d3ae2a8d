"""What the machine is asked and told."""

import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource, sys
import numpy
from bcl.core.machine import keep_freed_memory

if sys.argv[1] == "keep":
    keep_freed_memory()

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    numpy.ones(1 << 24)  # 128 MiB, written and freed
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

faults()
print(faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the options are glibc's")
def test_freed_memory_is_taken_up_again():
    """The second large block costs page faults only where the first was returned."""

    def faults(word: str) -> int:
        done = subprocess.run(
            [sys.executable, "-c", FAULTS, word], check=True, capture_output=True, text=True
        )
        return int(done.stdout)

    assert faults("keep") < 10
    assert faults("leave") > 50  # at least one for every 2 MiB
