"""``bcl export``: a checkpoint's encoder as a folder of weights and configuration."""

import argparse
from pathlib import Path
from typing import Any

from bcl.cli.output import new_folder
from bcl.core.errors import InputError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``bcl export``.

    Args:
        parser: the command's parser.
    """
    add = parser.add_argument
    add("checkpoint", metavar="CKPT", help="checkpoint of 'bcl fit'")
    add("--out", required=True, metavar="DIR", help="folder to write")
    add("--overwrite", action="store_true", help="replace --out if it is an exported encoder")


def run(args: argparse.Namespace) -> int:
    """Write the folder and say how it is opened.

    Args:
        args: parsed options.

    Returns:
        Exit status, 0.

    Raises:
        InputError: a checkpoint that cannot be opened, an encoder that cannot be built again, or
            an output that cannot be written.
    """
    from bcl.training.checkpoints import open_method

    check_replaceable(args.out, args.overwrite)
    method, record = open_method(args.checkpoint)
    encoder = getattr(method, "encoder", None)
    if encoder is None:
        raise InputError(f"{args.checkpoint}: {type(method).__name__} has no encoder.")
    kept = ("name", "method", "seed", "epochs", "recipe", "content_hash", "commit", "versions")
    about = {"run": {key: record[key] for key in kept if key in record}}
    # SDCLR's dense branch, the query side of CACR's momentum forms.
    mean, std = (values.flatten().tolist() for values in (method.mean, method.std))
    write_folder(args.out, args.overwrite, encoder, mean, std, about)
    return 0


def check_replaceable(out: str | Path, overwrite: bool) -> None:
    """Refuse before any work to replace what is not an exported encoder.

    Args:
        out: the folder to write.
        overwrite: whether it may be replaced.

    Raises:
        InputError: it exists and is not to be, or must not be, replaced.
    """
    from bcl.models.exported import CONFIG, read_config

    place = Path(out)
    if place.exists() and not overwrite:
        raise InputError(f"{out} exists already; name another with --out, or add --overwrite.")
    if (place / CONFIG).exists():
        read_config(place)  # refuses one of another program, which --overwrite must not remove


def write_folder(
    out: str, overwrite: bool, encoder: Any, mean: Any, std: Any, about: dict[str, Any]
) -> None:
    """Write an encoder's folder whole or not at all, read it back, and say how it is opened.

    Args:
        out: the folder.
        overwrite: whether it may be replaced.
        encoder: from `bcl.create_encoder`.
        mean: per channel.
        std: per channel.
        about: where the weights came from.

    Raises:
        InputError: as `bcl.models.exported.save_encoder`.
    """
    from bcl.models.exported import ARCHITECTURE, CONFIG, load_encoder, read_config, save_encoder

    with new_folder(out, overwrite, marker=CONFIG) as work:
        count = save_encoder(encoder, work, mean, std, about)
        load_encoder(work)
        architecture = read_config(work)["architecture"]
    print(f"{encoder.spec['name']}: {count} tensors written to {out}")
    print(f'  bcl.load_encoder("{out}")')
    after = "   # after `import bcl.models.exported`" if architecture == ARCHITECTURE else ""
    print(f'  timm.create_model("local-dir:{out}", pretrained=True){after}')
