"""The comparison as a Weights & Biases table."""

from collections.abc import Sequence

from bcl.core.errors import InputError
from bcl.evaluation.results import ProbeReport
from bcl.report.compare import COLUMNS, compare


def log_table(reports: Sequence[ProbeReport], project: str) -> None:
    """Log one table, ``probe``, to a new run; an `InputError` if wandb is missing or refuses."""
    try:
        import wandb
    except ImportError as error:
        raise InputError("--wandb needs wandb: pip install 'bcl-cacr[wandb]'.") from error
    table = wandb.Table(columns=["protocol", "run", "seeds", *COLUMNS.values()])
    for found in compare(reports):
        for row in found.rows:
            means = [value.mean for value in row.values.values()]
            table.add_data(found.protocol, row.method, len(row.seeds), *means)
    try:
        with wandb.init(project=project, job_type="probe") as run:
            run.log({"probe": table})
    except wandb.errors.Error as error:
        raise InputError(
            f"--wandb {project}: {error}; run 'wandb login', or set WANDB_MODE=offline."
        ) from error
