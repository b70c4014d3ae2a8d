"""Two hosts train one run; when the cable between them is cut, both end with a line."""

import importlib
import os
import shutil

import pytest
from commands import launch
from places import ROOT

pytestmark = pytest.mark.slow
WAIT = 20  # seconds: as far apart as two ranks may begin on a busy machine


@pytest.fixture
def two_hosts(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("two_hosts")


@pytest.fixture
def hosts(two_hosts, tmp_path):
    if os.geteuid() or not shutil.which("ip") or not shutil.which("unshare"):
        pytest.skip("network namespaces need root, ip and unshare")
    try:
        with two_hosts.Hosts(tmp_path) as made:
            yield made
    except RuntimeError as error:
        pytest.skip(f"no network namespaces here: {error}")


def test_a_host_that_is_cut_off_ends_the_run_which_goes_on(two_hosts, hosts, tmp_path):
    """Here on one host, in processes that start faster; on both in the benchmark."""
    job, cut = two_hosts.Job(ranks=2, epochs=2), tmp_path / "cut"
    ended = two_hosts.cut(hosts, two_hosts.fit(cut, 1, job, WAIT), cut, WAIT)
    for name, seconds in ended.items():
        fine, words = two_hosts.last_words((tmp_path / name).read_text())
        assert fine, words
        assert seconds < WAIT + two_hosts.GRACE
    assert two_hosts.saved_step(cut) > 0
    for folder, resume in ((tmp_path / "whole", False), (cut, True)):
        run = launch(2, two_hosts.fit(folder, 2, job, 60, resume))
        said, _ = run.communicate()
        assert run.returncode == 0, said
    first, second = map(two_hosts.final_state, (tmp_path / "whole", cut))
    assert two_hosts.differences(first, second, exact=True) == []
