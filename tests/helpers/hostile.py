"""Files that run code when they are unpickled, in every format that the library reads."""

import io
import json
import pickle
import zipfile
from pathlib import Path

import numpy as np
import torch


class Evil:
    """Touches a file when it is unpickled."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return (Path.touch, (Path(self.marker),))


def checkpoint(marker):
    """The mapping of a checkpoint of `bcl fit`, with code in every place."""
    evil = Evil(marker)
    record = {"name": "x", "config": evil, "history": [evil]}
    return {
        "state_dict": {"encoder.weight": torch.zeros(1), "evil": evil},
        "bcl": {"format": 2, "record": record, "running": {"sum": 0.0, "count": 0}},
        "hyper_parameters": evil,
        "optimizer_states": [evil],
        "features": evil,
        "global_step": 1,
        "epoch": 0,
    }


def by_torch(marker, legacy=False):
    buffer = io.BytesIO()
    torch.save(checkpoint(marker), buffer, _use_new_zipfile_serialization=not legacy)
    return buffer.getvalue()


def array(marker):
    buffer = io.BytesIO()
    np.save(buffer, np.array([Evil(marker)] * 3, dtype=object), allow_pickle=True)
    return buffer.getvalue()


def archive(marker):
    """An .npz whose arrays are pickles."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name in ("id", "path", "embedding", "about"):
            file.writestr(f"{name}.npy", array(marker))
    return buffer.getvalue()


# By name: what makes the bytes of a file from the path that must stay absent.
FORMATS = {
    "zip": by_torch,
    "legacy": lambda marker: by_torch(marker, legacy=True),
    "pickle": lambda marker: pickle.dumps(checkpoint(marker)),
    "npy": array,
    "npz": archive,
}


def dataset(folder, kind, marker):
    """A folder of the `datasets` library that tries to run code."""
    import pyarrow as pa

    folder.mkdir(parents=True)
    code = f"from pathlib import Path\nPath({str(marker)!r}).touch()\n"
    for name in (folder.name, "dataset_infos", "loading", "__init__"):
        (folder / f"{name}.py").write_text(code)
    (folder / "README.md").write_text(
        "---\nconfigs:\n- config_name: default\n  data_files: '*.pkl'\n---\n"
    )
    (folder / "data.pkl").write_bytes(pickle.dumps(checkpoint(marker)))
    if kind == "script":
        return
    raw = pickle.dumps(Evil(marker))
    table = pa.table({"image": pa.array([raw] * 4), "label": pa.array([0, 1, 2, 3])})
    if kind == "extension":
        names = {"ARROW:extension:name": "arrow.py_extension_type"}
        field = pa.field("image", pa.binary(), metadata=names | {"ARROW:extension:metadata": raw})
        table = table.cast(pa.schema([field, table.schema.field("label")]))
    path = str(folder / "data.arrow")
    with pa.OSFile(path, "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table)
    image = {"_type": "pathlib.Path" if kind == "features" else "Image"}
    features = {"image": image, "label": {"_type": "Value", "dtype": "int64"}}
    info = {"features": features, "builder_name": folder.name, "license": raw.hex()}
    (folder / "dataset_info.json").write_text(json.dumps(info))
    state = {"_data_files": [{"filename": "data.arrow"}], "_fingerprint": "x", "_split": "train"}
    state |= {"_format_type": None, "_format_columns": None, "_format_kwargs": {}}
    if kind == "format":
        state |= {"_format_type": "os.system", "_format_kwargs": {"dtype": "pathlib.Path"}}
    if kind == "file":
        state["_data_files"] = [{"filename": "../../../../../etc/passwd"}]
    if kind == "state":
        state = {"_data_files": "x" * 10}
    (folder / "state.json").write_text(json.dumps(state))


DATASETS = ("script", "extension", "features", "format", "file", "state")
