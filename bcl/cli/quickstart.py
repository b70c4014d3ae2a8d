"""``bcl quickstart``: from nothing to a report and a page of rare things in one command."""

import argparse
import contextlib
import json
import signal
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

from bcl.cli import quiet_lightning
from bcl.cli.configuration import compose, merge
from bcl.cli.output import check_seed, new_folder
from bcl.core.errors import Interrupted
from bcl.core.files import write_text
from bcl.core.progress import rows

METHODS = ("simclr", "bcl_i")
PROTOCOLS = ("full", "10-shot", "long-tailed")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", default="outputs/quickstart", help="folder to write")
    parser.add_argument("--seed", type=int, default=0, help="seed of both runs")
    parser.add_argument("--epochs", type=int, help="epochs, instead of the recipe's")
    parser.add_argument("--overwrite", action="store_true", help="replace the folder")


def run(args: argparse.Namespace) -> int:
    """Pretrain both methods from one seed, probe them, write the report and what is rare."""
    from bcl.core.checks import check_count
    from bcl.discovery.page import check_folder
    from bcl.report import render_report, text_table

    check_folder(Path(args.out))  # a missing package is refused before training
    if args.epochs is not None:
        check_count("--epochs", args.epochs)
    check_seed(args.seed)
    start = time.monotonic()
    with _keeping_nothing(), new_folder(args.out, args.overwrite) as folder:
        reports = []
        for method in METHODS:
            model, data, report = _pretrain_and_probe(method, args, folder / method)
            reports.append(report)
        render_report(reports, folder / "report.html")
        together = {"reports": [report.to_dict() for report in reports]}
        write_text(folder / "report.json", json.dumps(together, indent=2) + "\n")
        _discover(model, data, folder / "discovery")
    print(text_table(reports))
    out = Path(args.out)
    footer = {
        "done": f"two runs in {timedelta(seconds=round(time.monotonic() - start))}",
        "report": f"{out / 'report.html'} (how well the classes are told apart)",
        "rare": f"{out / 'discovery/discover.html'} (what is rare among the digits)",
        "folder": out,
        "next": "bcl fit --config images/bcl_i --data.root DIR (your own images)",
    }
    print(f"\n{rows(footer)}")
    return 0


@contextlib.contextmanager
def _keeping_nothing() -> Iterator[None]:
    """Say so when the quickstart is interrupted: a run in it cannot be resumed."""
    try:
        yield
    except KeyboardInterrupt:
        raise Interrupted("interrupted; nothing is kept, start it again", signal.SIGINT) from None


def _pretrain_and_probe(method: str, args: argparse.Namespace, folder: Path) -> Any:
    import pytorch_lightning as pl

    from bcl.core.instantiate import instantiate
    from bcl.evaluation import EvaluationOptions, ProbeOptions, evaluate
    from bcl.training.fit import fit, make_trainer
    from bcl.training.record import new_record

    seed = {"init_args": {"seed": args.seed}}
    changes = {"seed_everything": args.seed, "model": seed, "data": seed}
    config = merge(compose(f"digits_lt/{method}"), changes)
    config["trainer"]["max_epochs"] = epochs = args.epochs or config["trainer"]["max_epochs"]
    with quiet_lightning():
        pl.seed_everything(args.seed, verbose=False)
        model, data = instantiate(config["model"]), instantiate(config["data"])
        record = new_record(f"digits_lt/{method}", model, args.seed, config)
        save = {"every_n_epochs": epochs}
        fit(make_trainer(record, folder, config["trainer"], save=save), model, data)
    record = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    options = EvaluationOptions(probe=ProbeOptions(seed=args.seed))
    report = evaluate(model, data, PROTOCOLS, options, tracker=model.trackers, record=record)
    report.save(folder / "probe")
    return model, data, report


def _discover(model: Any, data: Any, folder: Path) -> None:
    """Embed the training images and write the page of what is rare among them."""
    from bcl.cli.sources import memory_signals
    from bcl.discovery.embedding import EmbedOptions, Extra, embed
    from bcl.discovery.page import discover

    images, file = data.train_set(), folder / "embedding.parquet"
    device = next(model.parameters()).device
    extra = Extra(memory_signals(model), about={"encoder": "digits_lt/bcl_i"})
    embed(model.encode, images, file, EmbedOptions(device=device), extra)
    labels = [data.class_names[label] for label in images.labels.tolist()]
    discover(file, folder, labels=labels, title="Digits")
