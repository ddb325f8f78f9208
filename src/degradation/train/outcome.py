"""How a run ends, and what is told of it; without torch, as the process of a sweep does not import it."""

import os
import time
from dataclasses import dataclass
from pathlib import Path

from degradation.config import Config
from degradation.ending import EXIT_FAILED, EXIT_STOPPED
from degradation.record import RecordError, epoch_of, load_metrics, read_summary, settled_error

EXIT_DIVERGED, EXIT_BUDGET = 3, 75
EXITS = {"stopped": EXIT_STOPPED, "out of budget": EXIT_BUDGET, "failed": EXIT_FAILED, "diverged": EXIT_DIVERGED}
EXITS |= {"finished": 0, "skipped": 0, "published": 0}  # of several runs, the first that is found
BEGAN = "DEGRADATION_BEGAN"  # when the sweep began (seconds since the epoch): the budget is the whole command's


@dataclass(frozen=True)
class Outcome:
    """How one run ended: finished, skipped (already finished), diverged, stopped, out of budget, or failed."""

    run_id: str
    status: str
    message: str = ""
    final: dict[str, float] | None = None
    label: str = ""  # the network, what it varies, and the seed
    folder: str = ""  # the name of its record's

    @property
    def exit_status(self) -> int:
        return EXITS[self.status]


def exit_status(outcomes: list[Outcome]) -> int:
    """Of a whole sweep: 0 only where every run is finished or already was.

    That the same command would continue comes first: whoever repeats it until it is done learns of failures then.
    """
    ends = {outcome.status for outcome in outcomes}
    return next(status for end, status in EXITS.items() if end in ends)


def finished_before(config: Config) -> Outcome | None:
    """What an earlier command left of a run: its end, or None where it did not come to one.

    Raises:
        RecordError: its record is damaged, or of another run than is asked for, though their names are the same.
    """
    if not (config.folder / "summary.json").exists():
        return None
    summary, elsewhere = read_summary(config.folder), "name another folder with RESULTS_DIR= or paths.results="
    for word, key in {"on": "device", "in": "precision"}.items():
        asked, there = getattr(config.machine, key), summary[key]
        if asked not in ("auto", there):
            raise RecordError(f"{config.folder} is finished {word} {there}, not {word} {asked}; {elsewhere}")
    built = (summary.get("initial") or {}).get("parent")
    if config.parent is not None and built not in (None, config.parent.run_id):
        raise RecordError(f"{config.folder} was built from {built}, not from {config.parent.run_id}; {elsewhere}")
    if summary["outcome"] == "diverged":
        message = f"{summary['message']} (recorded; delete {config.folder} to run again)"
        return Outcome(config.run_id, "diverged", message)
    final = final_errors(config.folder, config)
    return Outcome(config.run_id, "skipped", f"already in {config.folder}", final)


def final_errors(folder: Path, config: Config) -> dict[str, float]:
    """The final numbers of a record; training error is, as in figures, over the last epoch or `evaluate_every`."""
    data, protocol, summary = config.data, config.protocol, read_summary(folder)
    training = (summary.get("images") or {}).get("training")
    epoch = epoch_of(data.name, data.validation_images, protocol.batch_size, protocol.log_every, training)
    trained = settled_error(load_metrics(folder), max(epoch, protocol.evaluate_every))
    return {**summary["final"], "train_error": trained}


def budget_spent(config: Config, began: float) -> bool:
    """Whether `budget_minutes` are over: of the whole sweep, else since the run itself began (s since the epoch)."""
    if config.budget_minutes is None:
        return False
    return time.time() - float(os.environ.get(BEGAN, began)) >= 60 * config.budget_minutes


def format_seconds(seconds: float) -> str:
    """Such as 45 s, 12 min, 3 h 05 min."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"
