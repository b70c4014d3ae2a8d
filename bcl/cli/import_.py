"""``bcl import``: checkpoints of the papers' released code in this library's form."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bcl.core.errors import InputError

if TYPE_CHECKING:
    from bcl.models.released import Released


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("file", metavar="FILE", help="checkpoint of the released code of BCL, SDCLR or CACR")
    add(
        "--out",
        metavar="DIR|CKPT",
        help="folder for the encoder (default: encoder, beside FILE); or, with --config, a file "
        "NAME.ckpt for 'bcl probe' (imported.ckpt, beside FILE)",
    )
    kinds = "bcl, bcl-d, sdclr, sdclr-simclr, cacr, cacr-moco, cacr-mocov3"
    add("--kind", metavar="KIND", help=f"{kinds} (default: recognized by the tensors' names)")
    add("--config", metavar="NAME", help="configuration whose method and data a CKPT gets")
    add("--data.root", dest="data_root", metavar="DIR", help="folder of the data of --config")
    add(
        "--normalization",
        metavar="NAME",
        help="normalization, if not in the file: imagenet, cifar10, cifar100, stl10",
    )
    add("--overwrite", action="store_true", help="replace --out if it exists")


def run(args: argparse.Namespace) -> int:
    """Read, map, check and write."""
    from bcl.cli.export import check_replaceable
    from bcl.cli.output import default_out
    from bcl.models.released import read_released

    args.out = args.out or str(
        default_out(args.file, "encoder" if args.config is None else "imported.ckpt")
    )
    to_checkpoint = args.out.endswith((".ckpt", ".pt", ".pth"))
    if to_checkpoint != (args.config is not None):
        raise InputError(
            f"a checkpoint needs --config NAME, a folder takes none; got --out {args.out} and "
            f"--config {args.config}."
        )
    check_replaceable(args.out, args.overwrite)
    released = read_released(args.file, args.kind)
    mean, std = _normalization(released, args.normalization)
    if to_checkpoint:
        _write_checkpoint(released, args, mean, std)
    else:
        _write_folder(released, args, mean, std)
    _report(released, to_checkpoint)
    return 0


def _normalization(released: "Released", name: str | None) -> tuple[Any, Any]:
    """The file's own normalization, or the named one where it does not say."""
    from bcl.core.checks import check_choice
    from bcl.models.released import NORMALIZATIONS

    if name is not None:
        check_choice("normalization", name, list(NORMALIZATIONS))
    if released.mean is None:
        if name is None:
            raise InputError(
                f"a checkpoint of kind '{released.kind}' does not say how its images were "
                f"normalized; give --normalization: {', '.join(NORMALIZATIONS)}."
            )
        return NORMALIZATIONS[name]
    if name is not None and NORMALIZATIONS[name] != (released.mean, released.std):
        raise InputError(
            f"the file says mean {released.mean} and std {released.std}, unlike '{name}'; "
            "leave --normalization out."
        )
    return released.mean, released.std


def _write_folder(released: "Released", args: argparse.Namespace, mean: Any, std: Any) -> None:
    from bcl.cli.export import write_folder
    from bcl.models.encoders import create_encoder
    from bcl.models.weights import load_strictly

    encoder = create_encoder(**released.spec)
    load_strictly(encoder, released["encoder"], args.file)
    write_folder(args.out, args.overwrite, encoder, mean, std, _about(released, args))


def _write_checkpoint(released: "Released", args: argparse.Namespace, mean: Any, std: Any) -> None:
    """Fill a configuration's method with encoder, projector and pruned branch."""
    import torch

    from bcl.core.files import save_tensors
    from bcl.models.weights import load_strictly
    from bcl.training.checkpoints import FORMAT, KEY, load_run
    from bcl.training.record import new_record

    config, method = _method(released, args)
    own = torch.stack([method.mean.flatten(), method.std.flatten()])
    if not torch.allclose(own, torch.tensor([mean, std]), rtol=0, atol=1e-4):
        raise InputError(
            f"{args.file}: its images were normalized by mean {mean} and std {std}, not by "
            "ImageNet's as in methods; import it into a folder, which keeps its own."
        )
    tensors = {
        f"{part}.{name}": value
        for part in ("encoder", "projector")
        for name, value in released[part].items()
    }
    tensors |= {
        f"{part}.{name.replace('.', '/')}": value
        for part in ("encoder_norms", "projector_norms")
        for name, value in released[part].items()
    }
    masks = {key: value for key, value in method.state_dict().items() if key.startswith("masks.")}
    if not masks and released["encoder_norms"]:
        raise InputError(f"{args.file} has a pruned branch; choose a --config of SDCLR or BCL-D.")
    load_strictly(method, {**tensors, **masks}, args.file)
    if masks:
        method.prune()  # computes the masks from the weights
    record = {
        **new_record(args.config, method, config.get("seed_everything", 0), config),
        **_about(released, args),
        "epochs": 0,
        "wall_seconds": 0.0,
        "history": [],
    }
    content = {
        "state_dict": method.state_dict(),
        KEY: {"format": FORMAT, "record": record, "running": {"sum": 0.0, "count": 0}},
    }
    save_tensors(args.out, content)
    load_run(args.out)
    print(f"{released.spec['name']}: checkpoint written to {args.out}")


def _method(released: "Released", args: argparse.Namespace) -> tuple[dict[str, Any], Any]:
    """The configuration with the file's encoder and head widths, and its method."""
    from bcl.cli.configuration import find_config
    from bcl.core.instantiate import instantiate

    config = find_config(args.config)
    if not {"model", "data"} <= config.keys():
        raise InputError(f"--config {args.config} needs a model and a data section.")
    if args.data_root is not None:
        config["data"].setdefault("init_args", {})["root"] = args.data_root
    try:
        instantiate(config["data"])
    except InputError as error:
        raise InputError(f"--config {args.config}: {error} (--data.root names a folder)") from None
    shared = ("name", "image_size", "in_channels")
    extra = {key: value for key, value in released.spec.items() if key not in shared}
    arguments = config["model"].setdefault("init_args", {})
    arguments["encoder"] = {"name": released.spec["name"], "args": extra}
    weights = [value for _, value in sorted(released["projector"].items()) if value.ndim == 2]
    if weights:
        arguments.setdefault("projector", {})["features"] = weights[-1].shape[0]
    return config, instantiate(config["model"])


def _about(released: "Released", args: argparse.Namespace) -> dict[str, Any]:
    return {"imported": {"kind": released.kind, "file": Path(args.file).name}}


def _report(released: "Released", whole: bool) -> None:
    """Say what became of every tensor."""
    names = {"encoder_norms": "pruned branch", "projector_norms": "pruned branch"}
    used = {"encoder", "normalization"}
    if whole:
        used |= {"projector", "encoder_norms", "projector_norms"}
    lines: dict[str, dict[str, int]] = {"taken": {}, "left out": {}}
    for part, tensors in released.parts.items():
        counts, name = lines["taken" if part in used else "left out"], names.get(part, part)
        counts[name] = counts.get(name, 0) + len(tensors)
    print(f"{released.kind}: {sum(map(len, released.parts.values()))} tensors in the file")
    for line, counts in lines.items():
        if counts:
            print(f"  {line}: {', '.join(f'{n} {name}' for name, n in sorted(counts.items()))}")
