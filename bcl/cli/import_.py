"""``bcl import``: checkpoints of the papers' released code in this library's form."""

import argparse
from pathlib import Path
from typing import Any

from bcl.core.errors import InputError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``bcl import``.

    Args:
        parser: the command's parser.
    """
    from bcl.models.released import KINDS, NORMALIZATIONS

    add = parser.add_argument
    add("file", metavar="FILE", help="checkpoint of the released code of BCL, SDCLR or CACR")
    add(
        "--out",
        required=True,
        metavar="DIR|CKPT",
        help="folder for the encoder; or, with --config, a file NAME.ckpt for 'bcl probe'",
    )
    add("--kind", metavar="KIND", help=f"{', '.join(KINDS)}; recognized by its tensors' names")
    add(
        "--config",
        metavar="NAME",
        help="named configuration or YAML file whose method and data a CKPT is of",
    )
    add("--data.root", dest="data_root", metavar="DIR", help="where the data of --config lies")
    add(
        "--normalization",
        metavar="NAME",
        help="what the images were normalized by, where the file does not say: "
        + ", ".join(NORMALIZATIONS),
    )
    add("--overwrite", action="store_true", help="replace --out if it exists")


def run(args: argparse.Namespace) -> int:
    """Read, map, check and write.

    Args:
        args: parsed options.

    Returns:
        Exit status, 0.

    Raises:
        InputError: a file that is not understood to the last tensor, or an output that cannot be
            written.
    """
    from bcl.models.released import read_published

    to_checkpoint = args.out.endswith((".ckpt", ".pt", ".pth"))
    if to_checkpoint != (args.config is not None):
        raise InputError(
            "a checkpoint needs --config NAME, which says what method and data it is of, and a "
            f"folder takes none; got --out {args.out} and --config {args.config}."
        )
    if to_checkpoint and Path(args.out).exists() and not args.overwrite:
        raise InputError(f"{args.out} exists already; name another with --out, or add --overwrite.")
    if not to_checkpoint:
        from bcl.cli.export import check_replaceable

        check_replaceable(args.out, args.overwrite)
    published = read_published(args.file, args.kind)
    mean, std = _normalization(published, args)
    if to_checkpoint:
        _write_checkpoint(published, args, mean, std)
    else:
        _write_folder(published, args, mean, std)
    _report(published, to_checkpoint)
    return 0


def _normalization(published: Any, args: argparse.Namespace) -> tuple[Any, Any]:
    from bcl.core.errors import unknown_name
    from bcl.models.released import NORMALIZATIONS

    name = args.normalization
    if name is not None and name not in NORMALIZATIONS:
        raise unknown_name("normalization", name, NORMALIZATIONS)
    if published.mean is None:
        if name is None:
            raise InputError(
                f"a checkpoint of kind '{published.kind}' does not say how its images were "
                f"normalized; give --normalization: {', '.join(NORMALIZATIONS)}."
            )
        return NORMALIZATIONS[name]
    if name is not None and NORMALIZATIONS[name] != (published.mean, published.std):
        raise InputError(
            f"the file's own normalization is mean {published.mean}, std {published.std}, not "
            f"that of '{name}'; leave --normalization out."
        )
    return published.mean, published.std


def _write_folder(published: Any, args: argparse.Namespace, mean: Any, std: Any) -> None:
    from bcl.cli.export import write_folder
    from bcl.models.encoders import create_encoder
    from bcl.models.exported import load_strictly

    encoder = create_encoder(**published.spec)
    load_strictly(encoder, published.encoder, args.file)
    about = {"imported": {"kind": published.kind, "file": Path(args.file).name}}
    write_folder(args.out, args.overwrite, encoder, mean, std, about)


def _write_checkpoint(published: Any, args: argparse.Namespace, mean: Any, std: Any) -> None:
    """Fill a configuration's method with encoder, projector and pruned branch."""
    import torch

    from bcl.cli.configuration import find_config
    from bcl.core.files import atomic_write
    from bcl.core.instantiate import instantiate
    from bcl.models.exported import load_strictly
    from bcl.training.checkpoints import FORMAT, KEY, open_method
    from bcl.training.fit import new_record

    config = find_config(args.config)
    if not {"model", "data"} <= config.keys():
        raise InputError(
            f"--config {args.config} names no model or no data; a checkpoint has both."
        )
    if args.data_root is not None:
        config["data"].setdefault("init_args", {})["root"] = args.data_root
    try:
        instantiate(config["data"])
    except InputError as error:
        raise InputError(
            f"--config {args.config}: {error} (--data.root DIR names a folder)"
        ) from None
    arguments = config["model"].setdefault("init_args", {})
    known = ("name", "image_size", "in_channels")
    extra = {key: value for key, value in published.spec.items() if key not in known}
    if published.spec["name"] == "small_alexnet":
        extra = {}
    arguments |= {"encoder": published.spec["name"], "encoder_args": extra}
    if "0.weight" in published.projector:
        arguments["projection_features"] = published.projector[
            max(name for name in published.projector if published.projector[name].ndim == 2)
        ].shape[0]
    method = instantiate(config["model"])
    if (method.mean.flatten() - torch.tensor(mean)).abs().max() > 1e-4 or (
        method.std.flatten() - torch.tensor(std)
    ).abs().max() > 1e-4:
        raise InputError(
            f"{args.file}: its images were normalized by mean {mean} and std {std}, but methods "
            "normalize by ImageNet's; import the encoder into a folder, which keeps its own."
        )
    tensors = {f"encoder.{name}": value for name, value in published.encoder.items()}
    tensors |= {f"projector.{name}": value for name, value in published.projector.items()}
    for part in ("encoder_norms", "projector_norms"):
        values = getattr(published, part)
        tensors |= {f"{part}.{name.replace('.', '/')}": value for name, value in values.items()}
    masks = {k: v for k, v in method.state_dict().items() if k.startswith("masks.")}
    if not masks and published.encoder_norms:
        raise InputError(
            f"{args.file} has a pruned branch; take a configuration of SDCLR or BCL-D."
        )
    load_strictly(method, {**tensors, **masks}, args.file)
    if masks:
        method.prune()  # the masks follow from the weights
    record = {
        **new_record(args.config, method, config.get("seed_everything", 0), config),
        "epochs": 0,
        "wall_seconds": 0.0,
        "history": [],
        "imported": {"kind": published.kind, "file": Path(args.file).name},
    }
    content = {
        "state_dict": method.state_dict(),
        KEY: {"format": FORMAT, "record": record, "running": {"sum": 0.0, "count": 0}},
    }
    atomic_write(args.out, lambda file: torch.save(content, file))
    open_method(args.out)
    print(f"{published.spec['name']}: checkpoint written to {args.out}")


def _report(published: Any, whole: bool) -> None:
    """Say what became of every tensor."""
    taken = {"encoder": len(published.encoder), "normalization": published.statistics}
    rest = {
        "projector": len(published.projector),
        "pruned branch": len(published.encoder_norms) + len(published.projector_norms),
    }
    left = dict(published.left)
    where = taken if whole else left
    for name, count in rest.items():
        where[name] = where.get(name, 0) + count
    shown = ", ".join(f"{count} {name}" for name, count in taken.items() if count)
    print(f"{published.kind}: {published.count} tensors in the file")
    print(f"  taken: {shown}")
    if any(left.values()):
        print(
            "  left out: " + ", ".join(f"{count} {name}" for name, count in left.items() if count)
        )
