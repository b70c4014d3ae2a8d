"""``bcl export``: a checkpoint's encoder as a folder of weights and configuration."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bcl.cli.output import default_out, new_folder
from bcl.core.errors import InputError

if TYPE_CHECKING:
    from torch import nn


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("checkpoint", metavar="CKPT", help="run of 'bcl fit': its folder or a checkpoint")
    add("--out", metavar="DIR", help="folder to write (default: encoder, in the run's folder)")
    add("--overwrite", action="store_true", help="replace --out if it is an exported encoder")


def run(args: argparse.Namespace) -> int:
    """Write the folder and say how to open it."""
    from bcl.training.checkpoints import load_run

    out = str(args.out or default_out(args.checkpoint, "encoder"))
    check_replaceable(out, args.overwrite)
    loaded = load_run(args.checkpoint)
    method, record = loaded.method, loaded.record
    # SDCLR's dense branch; the query encoder of CACR's momentum forms.
    trained = getattr(method, "trained_encoder", None)
    if trained is None:
        raise InputError(f"{args.checkpoint}: {type(method).__name__} has no encoder.")
    encoder = trained()
    kept = ("name", "method", "seed", "epochs", "recipe", "content_hash", "commit", "versions")
    about = {"run": {key: record[key] for key in kept if key in record}}
    mean, std = (values.flatten().tolist() for values in (method.mean, method.std))
    write_folder(out, args.overwrite, encoder, mean, std, about)
    return 0


def check_replaceable(out: str | Path, overwrite: bool) -> None:
    """Refuse, before any work, to replace anything but an exported encoder."""
    from bcl.models.weights import CONFIG, read_config

    place = Path(out)
    if place.exists() and not overwrite:
        raise InputError(f"{out} exists already; choose another --out or add --overwrite.")
    if (place / CONFIG).exists():
        read_config(place)  # refuses a folder of another program


def write_folder(
    out: str, overwrite: bool, encoder: "nn.Module", mean: Any, std: Any, about: dict[str, Any]
) -> None:
    """Write an encoder's folder, read it back, and say how to open it."""
    from bcl.models.exported import ARCHITECTURE, load_encoder, save_encoder
    from bcl.models.weights import CONFIG, read_config

    with new_folder(out, overwrite, marker=CONFIG) as work:
        count = save_encoder(encoder, work, mean, std, about)
        load_encoder(work)
        config = read_config(work)
    print(f"{config['bcl']['encoder']['name']}: {count} tensors written to {out}")
    print(f'  bcl.load_encoder("{out}")')
    own = config["architecture"] == ARCHITECTURE
    note = "   # after `import bcl.models.exported`" if own else ""
    print(f'  timm.create_model("local-dir:{out}", pretrained=True){note}')
