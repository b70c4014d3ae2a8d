"""The comparison as a real Weights & Biases table, written offline and read back."""

import json

import pytest
import torch
from fakes import QUICK, FakeData, encode
from wandb_file import records

import bcl
from bcl.core.errors import InputError
from bcl.report.compare import COLUMNS, compare

wandb = pytest.importorskip("wandb", reason="wandb is not installed")


def made(name):
    return bcl.evaluate(encode, FakeData(), "full,knn", QUICK, record={"name": name})


@pytest.mark.slow
def test_table_reaches_the_run_file(tmp_path, monkeypatch):
    from bcl.report.wandb_table import log_table

    for name, value in {
        "WANDB_MODE": "offline",
        "WANDB_DIR": str(tmp_path),
        "WANDB_CACHE_DIR": str(tmp_path / "cache"),
        "WANDB_CONFIG_DIR": str(tmp_path / "config"),
        "WANDB_DATA_DIR": str(tmp_path / "data"),
        "WANDB_SILENT": "true",
    }.items():
        monkeypatch.setenv(name, value)
    reports = [made("base"), made("better")]
    log_table(reports, "probes")
    (file,) = tmp_path.glob("wandb/offline-run-*/run-*.wandb")
    found = list(records(file))
    (run,) = [record.run for record in found if record.WhichOneof("record_type") == "run"]
    assert (run.project, run.job_type) == ("probes", "probe")
    logged = {}
    for record in found:
        for item in record.history.item if record.WhichOneof("record_type") == "history" else ():
            name, value = item.key or "/".join(item.nested_key), json.loads(item.value_json)
            # One entry a number, or a whole object, by the release of wandb.
            inner = value.items() if isinstance(value, dict) else [("", value)]
            logged.update({f"{name}/{key}".rstrip("/"): each for key, each in inner})
    assert logged["probe/_type"] == "table-file"
    table = json.loads((file.parent / "files" / logged["probe/path"]).read_text())
    assert table["columns"] == ["protocol", "run", "seeds", *COLUMNS.values()]
    expected = [
        [block.protocol, row.method, 1, row.values["all"].mean]
        for block in compare(reports)
        for row in block.rows
    ]
    at = table["columns"].index("All")
    assert [[*row[:3], row[at]] for row in table["data"]] == expected
    assert len(expected) == logged["probe/nrows"] == 8
    assert torch.tensor([row[at] for row in table["data"]]).gt(0).all()


def test_a_run_that_wandb_refuses_is_one_line(monkeypatch):
    from bcl.report.wandb_table import log_table

    def refuse(**_):
        raise wandb.errors.UsageError("api_key not configured (no-tty)")

    monkeypatch.setattr(wandb, "init", refuse)
    with pytest.raises(InputError, match=r"api_key not configured .*WANDB_MODE=offline"):
        log_table([made("base")], "probes")
