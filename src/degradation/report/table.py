"""Records -> tidy tables: error by depth with its spread over seeds, and Table 6 beside the paper's. No torch here."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd

from degradation.record import load_metrics, load_responses, load_runs

# Table 6, test error (%) of residual networks (option A); 110 layers: the best of five, mean 6.61 +- 0.16.
PAPER_RESIDUAL = {20: 8.75, 32: 7.51, 44: 7.17, 56: 6.97, 110: 6.43, 1202: 7.93}

PROTOCOLS = {"paper": 0, "short": 1, "quick": 2, "smoke": 3}  # in the order in which they are shown
ARMS = ("plain", "residual")
_KEYS = {
    "network.name": "network",
    "network.depth": "depth",
    "seed": "seed",
    "protocol.name": "protocol",
    "protocol.iterations": "iterations",
    "data.name": "data",
    "variant": "variant",
    "study": "experiment",
    "precision": "precision",
    "seconds": "seconds",
    "parameters": "parameters",
    "multiply_adds": "multiply_adds",
    "warmup_ended_at": "warmup_ended_at",
    "commit": "commit",
    "outcome": "outcome",
    "run_id": "run_id",
    "folder": "folder",
    "final.train_error": "train_error",
    "final.train_error_eval": "train_error_eval",
    "final.train_loss": "train_loss",
    "final.test_error": "test_error",
    "final.test_loss": "test_loss",
}


def tidy_runs(results: str | Path) -> pd.DataFrame:
    """One row per finished run, errors in percent of the final iteration; `study` tells apart what must not be mixed.

    A study is a protocol, plus the settings in which its runs differ from the protocol as shipped, if any. Runs that
    diverged keep their row, without errors.

    Raises:
        RecordError: a record is damaged.
    """
    runs = load_runs(results)
    if runs.empty:
        return pd.DataFrame(columns=[*_KEYS.values(), "study"])
    tidy = runs.reindex(columns=list(_KEYS)).rename(columns=_KEYS)
    tidy["variant"] = tidy["variant"].fillna("")
    tidy["study"] = tidy["protocol"] + tidy["variant"].map(lambda v: f" ({v})" if v else "")
    return tidy.sort_values(["study", "network", "depth", "seed"], ignore_index=True)


def study_folder(study: str) -> str:
    """A study's name as a folder name: letters, digits and .=+- only."""
    return "".join(c if c.isalnum() or c in ".=-" else "+" for c in study).strip("+")


def _gather(runs: pd.DataFrame, load: Callable[[Path], pd.DataFrame]) -> pd.DataFrame:
    parts = [
        load(run.folder).assign(network=run.network, depth=run.depth, seed=run.seed)
        for run in runs.itertuples()
        if run.outcome == "finished"
    ]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def curves(runs: pd.DataFrame) -> pd.DataFrame:
    """Every row of metrics.csv of the given runs, with network, depth and seed."""
    return _gather(runs, load_metrics)


def responses(runs: pd.DataFrame) -> pd.DataFrame:
    """Every row of responses.csv of the given runs, with network, depth and seed."""
    return _gather(runs, load_responses)


def curve_over_seeds(table: pd.DataFrame, network: str, depth: int, column: str) -> pd.DataFrame:
    """Mean, min, max and n over seeds of one column against iteration, for one network and depth."""
    rows = table[(table["network"] == network) & (table["depth"] == depth)].dropna(subset=[column])
    return rows.groupby("iteration")[column].agg(["mean", "min", "max", "count"])


def error_by_depth(runs: pd.DataFrame) -> pd.DataFrame:
    """Per network and depth: n seeds, mean and sample std (empty for n = 1) of the final errors, in percent."""
    finished = runs[runs["outcome"] == "finished"]
    columns = ["train_error", "train_error_eval", "test_error"]
    table = finished.groupby(["network", "depth"])[columns].agg(["mean", "std"])
    table.columns = [f"{column}_{kind}" for column, kind in table.columns]
    table.insert(0, "n", finished.groupby(["network", "depth"]).size())
    failed = runs[runs["outcome"] != "finished"].groupby(["network", "depth"]).size()
    table["diverged"] = failed.reindex(table.index).fillna(0).astype(int)
    return table.reset_index()


def table6(runs: pd.DataFrame) -> pd.DataFrame:
    """Table 6 of the paper beside ours: test error (%), parameters, n seeds, mean and sample std."""
    table = error_by_depth(runs)
    parameters = runs.groupby(["network", "depth"])["parameters"].first()
    rows = []
    for row in table.itertuples():
        paper = PAPER_RESIDUAL.get(row.depth) if row.network == "residual" else None
        rows.append(
            {
                "network": f"{row.network}-{row.depth}",
                "parameters": int(parameters[(row.network, row.depth)]),
                "n": row.n,
                "train_error": row.train_error_mean,
                "train_error_eval": row.train_error_eval_mean,
                "test_error": row.test_error_mean,
                "test_error_std": row.test_error_std,
                "paper_test_error": paper,
            }
        )
    return pd.DataFrame(rows)


def paired_differences(runs: pd.DataFrame, column: str = "train_error") -> pd.DataFrame:
    """Plain minus residual at equal depth and seed (equal batches make them pairs), in percentage points.

    Pairs computed in different precisions do not count: nothing but the shortcut may differ.
    """
    finished = runs[runs["outcome"] == "finished"]
    wide = finished.pivot_table(index=["depth", "seed", "precision"], columns="network", values=column)
    if not set(ARMS) <= set(wide):
        return pd.DataFrame(columns=["depth", "seed", "difference"])
    difference = (wide["plain"] - wide["residual"]).dropna()
    return difference.rename("difference").reset_index()[["depth", "seed", "difference"]]


def find_results() -> Path:
    """RESULTS_DIR, else results/ of this folder or of the one above (where a notebook runs)."""
    if named := os.environ.get("RESULTS_DIR"):
        return Path(named)
    here = Path("results")
    return here if here.is_dir() or not Path("../results").is_dir() else Path("../results")


def studies(results: str | Path) -> Iterator[tuple[str, pd.DataFrame]]:
    """Each study with at least one finished run, and its runs; the paper's protocol first."""
    runs = tidy_runs(results)
    # What other experiments vary has figures of its own; a variant of the user's making has the paper's.
    runs = runs[(runs["variant"] == "") | runs["experiment"].isin(["single", "degradation_cifar"])]
    names = sorted(runs["study"].unique(), key=lambda name: (PROTOCOLS.get(name.split(" ")[0], 2), name))
    for name in names:
        part = runs[runs["study"] == name]
        if (part["outcome"] == "finished").any():
            yield name, part
