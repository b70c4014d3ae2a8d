"""Read wandb's offline files: LevelDB's log framing around wandb's own protobuf records."""

import json
import struct
import time
from pathlib import Path

BLOCK = 32_768
FULL, LAST = 1, 4  # kinds of a piece; 2 and 3 are followed by more


def records(path: Path):
    """Every record of a finished run's file, in order."""
    # wandb's own process may still be writing, on a busy machine for seconds.
    end = time.monotonic() + 60
    while "exit" not in [each.WhichOneof("record_type") for each in written(path)]:
        assert time.monotonic() < end, f"{path} has no end"
        time.sleep(0.2)
    return written(path)


def written(path: Path):
    """Every record that a ``.wandb`` file holds by now."""
    from wandb.proto import wandb_internal_pb2

    content = path.read_bytes()
    assert content[:4] == b":W&B"
    place, parts = 7, []
    while place + 7 <= len(content):
        if BLOCK - place % BLOCK < 7:  # no room for a header: zeros up to the next block
            place += BLOCK - place % BLOCK
            continue
        _, length, kind = struct.unpack_from("<IHB", content, place)
        parts.append(content[place + 7 : place + 7 + length])
        place += 7 + length
        if kind in (FULL, LAST):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(b"".join(parts))
            parts = []
            yield record


def history(path: Path):
    """The logged rows: name to value."""
    return [
        {
            item.key or "/".join(item.nested_key): json.loads(item.value_json)
            for item in record.history.item
        }
        for record in records(path)
        if record.WhichOneof("record_type") == "history"
    ]
