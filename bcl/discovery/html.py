"""What pages are made with: templates, charts, and the data that page.js and map.js read."""

import base64
import json
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from bcl.core.errors import InputError
from bcl.discovery.rarity import percentiles

EXTRA = "pip install 'bcl-cacr[report]'"


def templates(*packages: str) -> Any:
    """A jinja2 environment of the files of packages, the first that has one, with escaping."""
    try:
        import jinja2
    except ImportError as error:
        raise InputError(f"pages need jinja2: {EXTRA}.") from error

    def read(name: str) -> str | None:
        found = (resources.files(package).joinpath(name) for package in packages)
        return next((each.read_text(encoding="utf-8") for each in found if each.is_file()), None)

    return jinja2.Environment(
        loader=jinja2.FunctionLoader(read),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )


def chart(spec: dict[str, Any]) -> str:
    """The ``<svg>`` of a Vega-Lite specification; nothing of an empty one."""
    try:
        import vl_convert
    except ImportError as error:
        raise InputError(f"charts need vl-convert-python: {EXTRA}.") from error
    return str(vl_convert.vegalite_to_svg(spec)) if spec else ""


def encode(values: Any, kind: str) -> str:
    """Numbers as text that a script decodes."""
    return base64.b64encode(np.round(values).astype(kind).tobytes()).decode()


def map_data(
    name: str,
    places: Tensor,
    signals: Mapping[str, Tensor],
    neighbors: Tensor,
    clusters: Tensor | None = None,
) -> dict[str, Any]:
    """A map of the first n images: (n, 2) places in [0, 1], (n,) signals, (n, k) neighbors."""
    return {
        "name": name,
        "places": encode(places.numpy() * 65535, "<u2"),
        "clusters": "" if clusters is None else encode(clusters.numpy(), "<u2"),
        "signals": {
            signal: encode(percentiles(values).numpy() * 255, "u1")
            for signal, values in signals.items()
        },
        "neighbors": encode(neighbors.numpy(), "<u4"),
        "width": neighbors.shape[1],
    }


def script_data(data: dict[str, Any], rows: Sequence[int], files: Sequence[bytes]) -> str:
    """Data with the thumbnails of some rows, as JSON that can stand in a script element."""
    small = {
        "rows": encode(np.array(rows), "<u4"),
        "ends": encode(np.cumsum([len(file) for file in files]), "<u4"),
        "files": base64.b64encode(b"".join(files)).decode(),
    }
    return json.dumps(data | {"thumbnails": small}, ensure_ascii=False).replace("<", "\\u003c")


def folder_url(root: str) -> str:
    """The folder of images as a URL, so that a page opened from disk can show them whole."""
    return Path(root).as_uri() + "/" if root and Path(root).is_dir() else ""
