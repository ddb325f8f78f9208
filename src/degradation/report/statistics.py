"""What claims are judged by: each statistic gives one number per pair (seed and precision), from a protocol's runs.

Every function takes a protocol's part of the table of load_table and returns a Series indexed by `pair`; pairs that
lack a run, or whose run diverged and left nothing to measure, are missing or NaN. Errors are in percent.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from degradation.record import load_gradients, load_metrics, load_responses
from degradation.report.table import Filter, load_probe, select


def _by_pair(rows: pd.DataFrame, column: str) -> pd.Series:
    # Where several runs of a seed qualify (a setting swept over), the best of them.
    return rows.groupby("pair")[column].min().astype(float) if column in rows else pd.Series(dtype=float)


def _of_runs(table: pd.DataFrame, where: Filter, measure: Callable[[Path], Any]) -> pd.Series:
    # What is measured in the folders of runs that did not diverge; None says nothing.
    rows = select(table, where)
    rows = rows[rows["outcome"] == "finished"]
    found = {pair: measure(folder) for pair, folder in zip(rows["pair"], rows["folder"], strict=True)}
    return pd.Series({pair: value for pair, value in found.items() if value is not None}, dtype=float)


def contrast(
    table: pd.DataFrame, first: Filter, second: Filter, column: str = "train_error", over: str | None = None
) -> pd.Series:
    """The first kind of run minus the second at equal seed; with `over`, each at its best value of that setting.

    There, over the values that both kinds were run at in most seeds, two or more; seeds that lack one do not count.
    """
    kinds = [select(table, where, (over,) if over else ()) for where in (first, second)]
    if over:
        ours, theirs = (rows.groupby("pair")[over].agg(frozenset) for rows in kinds)
        common = {pair: ours[pair] & theirs[pair] for pair in ours.index.intersection(theirs.index)}
        values, pairs = _shared(common)
        kinds = [rows[rows["pair"].isin(pairs) & rows[over].isin(values)] for rows in kinds]
    return _by_pair(kinds[0], column) - _by_pair(kinds[1], column)


def _shared(found: dict[str, frozenset[Any]]) -> tuple[list[Any], list[str]]:
    # Of the sets with two members or more, the one that most pairs include (then the largest), and those pairs.
    def including(members: frozenset[Any]) -> list[str]:
        return [pair for pair, theirs in found.items() if members <= theirs]

    candidates = [members for members in found.values() if len(members) > 1]
    best = max(candidates, key=lambda members: (len(including(members)), len(members)), default=frozenset())
    return sorted(best), including(best)


def share_of_gain(
    table: pd.DataFrame, first: Filter, second: Filter, plain: Filter, column: str = "test_error"
) -> pd.Series:
    """The first kind of run minus the second, as a share of what the second gains over a plain network.

    A scale of its own for every protocol: in Table 3, options B and C are 0.15 and 0.24 of the gain better than A.
    """
    return contrast(table, first, second, column) / contrast(table, plain, second, column)


def level(table: pd.DataFrame, where: Filter, column: str = "train_error") -> pd.Series:
    """A final number."""
    return _by_pair(select(table, where), column)


def slope_in_depth(table: pd.DataFrame, network: str, column: str = "train_error") -> pd.Series:
    """Least-squares slope of a final number in depth up to 110, per 10 layers (section 4.2, Fig. 6).

    Over the depths that most seeds have, two or more, so that every seed's slope is of the same networks.
    """
    rows = select(table, {"network": network})
    rows = rows[rows["depth"] <= 110]
    shared, pairs = _shared({pair: frozenset(part["depth"]) for pair, part in rows.groupby("pair")})
    if not shared:
        return pd.Series(dtype=float)
    wide = rows.pivot_table(index="pair", columns="depth", values=column).loc[pairs, shared]
    depths = np.array(shared, dtype=float)
    return wide.apply(lambda errors: 10 * stats.linregress(depths, errors.to_numpy(dtype=float)).slope, axis=1)


def iterations_to_error(table: pd.DataFrame, first: Filter, second: Filter, error: float) -> pd.Series:
    """First over second: the ratio of the iterations at which the running training error first is under `error`.

    A network that never gets there, or diverges, counts with all its iterations: a bound on the careful side.
    """

    def reach(folder: Path) -> int | None:
        return first_below(load_metrics(folder), error)

    reached = [_of_runs(table, where, reach) for where in (first, second)]
    bounds = [_by_pair(select(table, where), "iterations") for where in (first, second)]
    ratio = reached[0].combine_first(bounds[0]) / reached[1].combine_first(bounds[1])
    return ratio.dropna()[lambda pairs: pairs.index.isin([*reached[0].index, *reached[1].index])]


def first_below(metrics: pd.DataFrame, error: float) -> int | None:
    """The first iteration at which the running training error is under `error` percent; None if it never is."""
    under = metrics.loc[metrics["train_error"] < error, "iteration"]
    return int(under.iloc[0]) if len(under) else None


def response_ratio(table: pd.DataFrame, depth: int) -> pd.Series:
    """Median over layers of the std of a residual network's response over its plain twin's (Fig. 7)."""
    folders = [select(table, {"network": n, "depth": depth, "outcome": "finished"}) for n in ("plain", "residual")]
    plain, residual = (rows.set_index("pair")["folder"].map(load_responses) for rows in folders)
    pairs = plain.index.intersection(residual.index)
    return pd.Series({p: (residual[p]["std"] / plain[p]["std"]).median() for p in pairs}, dtype=float)


def response_change(table: pd.DataFrame, shallow: int, deep: int) -> pd.Series:
    """Mean std of the layer responses of a deep residual network over that of a shallow one (Fig. 7)."""
    ours, theirs = (level(table, {"network": "residual", "depth": d}, "mean_response") for d in (deep, shallow))
    return ours / theirs


def growth_per_layer(rows: pd.DataFrame) -> float:
    """The factor by which the gradient norm of responses grows per layer backward, by a log-linear fit (section 4.1).

    Of the rows of one network at one iteration; each stage has a level of its own, the factor is common.
    """
    staged = rows[rows["stage"] > 0]
    centred = staged.assign(log=np.log(staged["grad_response"]))[["stage", "layer", "log"]]
    centred = centred - centred.groupby("stage").transform("mean").assign(stage=0)
    return float(np.exp(-stats.linregress(centred["layer"], centred["log"]).slope))


SIGNALS: dict[str, Callable[[pd.DataFrame], float]] = {
    "gradient_growth": growth_per_layer,
    # The norm of the first layer's weight gradient over the last 3x3 layer's: far below 1 where gradients vanish.
    "gradient_ratio": lambda rows: rows["grad_weight"].iloc[0] / rows["grad_weight"].iloc[-1],
    # The smallest std of any layer's response in training mode: near 0 where forward signals die out (section 4.1).
    "least_signal": lambda rows: rows["std"].min(),
}


def _of_signals(name: str, table: pd.DataFrame, where: Filter, iteration: str = "first") -> pd.Series:
    # One of SIGNALS, at the `first` recorded iteration or the `last`.
    def read(folder: Path) -> float | None:
        rows = load_gradients(folder)
        rows = rows[rows["iteration"] == (0 if iteration == "first" else rows["iteration"].max())]
        return SIGNALS[name](rows) if len(rows) else None

    return _of_runs(table, where, read)


def constructed_difference(table: pd.DataFrame, network: str, shallow: int, deep: int) -> pd.Series:
    """The largest logit difference, as a share of the largest logit, between a trained network and the deeper one that
    identity layers make of it, before any training (section 1).
    """

    def largest(folder: Path) -> float | None:
        rows = load_probe(folder, "constructed")
        rows = rows[rows["depth"] == deep] if len(rows) else rows
        return rows["largest_difference"].iloc[0] if len(rows) else None

    return _of_runs(table, {"network": network, "depth": shallow}, largest)


def lesion_difference(table: pd.DataFrame, depth: int) -> pd.Series:
    """Share of a network's advantage over guessing that is lost with one block, mean over blocks: plain minus residual.

    A share, because a network that barely learned has little error left to gain.
    """
    guessing = table.set_index("folder")["guessing"]

    def lost(folder: Path) -> float | None:
        rows = load_probe(folder, "lesions")
        if rows.empty:
            return None
        intact = rows.loc[rows["count"] == 0, "error"].iloc[0]
        risen = rows.loc[rows["kind"] == "delete_one", "error"].mean() - intact
        return risen / (guessing[folder] - intact) if intact < guessing[folder] else np.nan

    plain, residual = (_of_runs(table, {"network": n, "depth": depth}, lost) for n in ("plain", "residual"))
    return plain - residual


_DIFFERENCES = (contrast, share_of_gain, level, slope_in_depth, constructed_difference, lesion_difference)
_FACTORS = (iterations_to_error, response_ratio, response_change)
# Ratios and scales spread by factors, not by differences: their means and intervals are those of their logarithms.
RATIOS = {*SIGNALS, *(statistic.__name__ for statistic in _FACTORS)}
STATISTICS: dict[str, Callable[..., pd.Series]] = {f.__name__: f for f in (*_DIFFERENCES, *_FACTORS)}
STATISTICS |= {name: partial(_of_signals, name) for name in SIGNALS}
