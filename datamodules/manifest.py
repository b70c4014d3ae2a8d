"""The manifest of a packed set: what each of its folders of shards holds, and checksums."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bcl.core.errors import InputError

NAME = "shards.json"
FORMAT = "bcl-shards-1"

# What a manifest must hold; checksums that later versions added may be wanting.
_KEYS = {
    "recipe": str,
    "class_names": list,
    "class_counts": list,
    "grouping": str,
    "notes": list,
    "parts": dict,
}
_PART_KEYS = {"total": int, "content_hash": str, "shards": list}
_SHARD_KEYS = {"file": str, "images": int, "bytes": int, "sha256": str}


def read_manifest(root: Path) -> dict[str, Any]:
    """Read the manifest of a packed folder.

    Raises:
        InputError: there is none, or it is damaged.
    """
    path = root / NAME
    try:
        manifest: dict[str, Any] = json.loads(path.read_text("utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(f"{root} holds no packed set (no {NAME}); make one: bcl pack.") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is damaged: {error!r}; pack the set anew.") from None
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise InputError(f"{path} is of another format than '{FORMAT}'; pack the set anew.")
    _check(manifest, _KEYS, path, "")
    _check(manifest["parts"], {"train": dict}, path, "parts.")
    for name, part in manifest["parts"].items():
        _check(part, _PART_KEYS, path, f"parts.{name}.")
        for number, shard in enumerate(part["shards"]):
            _check(shard, _SHARD_KEYS, path, f"parts.{name}.shards.{number}.")
    return manifest


def _check(entry: Any, kinds: Mapping[str, type], path: Path, where: str) -> None:
    for key, kind in kinds.items():
        if not isinstance(entry, dict) or not isinstance(entry.get(key), kind):
            raise InputError(
                f"{path} is damaged: '{where}{key}' is missing or of another kind; copy it anew, "
                "or pack the set anew."
            )
