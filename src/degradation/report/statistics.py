"""What claims are judged by: each statistic gives one number per pair (seed and precision), from a protocol's runs.

Every function takes a protocol's part of the table of load_table and returns a Series indexed by `pair`, or of shares
a DataFrame, so indexed, of `part` and `whole`; pairs that lack a run, or whose run diverged and left nothing to
measure, or whose record is older than what is asked, are missing or NaN. Errors are in percent.
"""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from degradation.record import load_gradients, load_metrics, load_responses, running_error
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
        values, pairs = shared(common)
        kinds = [rows[rows["pair"].isin(pairs) & rows[over].isin(values)] for rows in kinds]
    found = _by_pair(kinds[0], column) - _by_pair(kinds[1], column)
    found.attrs["notes"] = _tell_best(kinds, column, over) if over else []
    return found


def _tell_best(kinds: list[pd.DataFrame], column: str, over: str) -> list[str]:
    # A note for whoever judges a number at the best value of a setting: of how many, and whose may lie beyond them.
    values, told = sorted(set().union(*(rows[over] for rows in kinds))), []
    for rows in kinds:
        best = rows.sort_values(column, kind="stable").drop_duplicates("pair")
        if ends := best[over].isin([*values[:1], *values[-1:]]).sum():
            told.append(f"{best['label'].iloc[0]} in {ends} of {len(best)}")
    edges = f", the best is the lowest or highest for {', '.join(told)} seeds" if told else ""
    return [f"of {len(values)} values of {over}{edges}"] if values else []


def shared(found: dict[str, frozenset[Any]]) -> tuple[list[Any], list[str]]:
    """Of the sets of two members or more, the one that most pairs include (then the largest, then the lowest), sorted.

    And those pairs. Of their intersections, where the sets are so unlike that none is of more than half of the pairs.
    Both are empty where there is none.
    """

    def including(members: frozenset[Any]) -> list[str]:
        return [pair for pair, theirs in found.items() if members <= theirs]

    def choose(candidates: set[frozenset[Any]]) -> frozenset[Any]:
        large = sorted((members for members in candidates if len(members) > 1), key=sorted)
        return max(large, key=lambda members: (len(including(members)), len(members)), default=frozenset())

    every = set(found.values())
    best = choose(every)
    if not best or 2 * len(including(best)) <= len(found):
        for members in found.values():
            every |= {members & other for other in every}
        best = choose(every)
    return sorted(best), including(best) if best else []


def _share(part: pd.Series, whole: pd.Series) -> pd.DataFrame:
    return pd.DataFrame({"part": part, "whole": whole}, dtype=float).dropna()


def share_of_gain(
    table: pd.DataFrame, first: Filter, second: Filter, plain: Filter, column: str = "test_error"
) -> pd.DataFrame:
    """The first kind of run minus the second, as a share of what the second gains over a plain network.

    A scale of its own for every protocol: in Table 3, options B and C are 0.15 and 0.24 of the gain better than A.
    """
    return _share(contrast(table, first, second, column), contrast(table, plain, second, column))


def at_rates_of_others(table: pd.DataFrame, kinds: Sequence[Filter], column: str) -> list[pd.Series]:
    """A final number of each kind of run, at the learning rate that is best, in the mean, for the other seeds.

    So no seed chooses its own; seeds are those of one precision. Of the rates that all kinds were run at in most
    seeds, two or more; seeds that lack one do not count. One seed alone says nothing. Each has attrs["edges"]:
    `lowest` and `highest` where such a rate was chosen, as beyond it there may be a better one.
    """
    errors = [select(table, where, ("protocol.lr",)).pivot_table(column, "pair", "protocol.lr") for where in kinds]
    rates: dict[str, dict[str, frozenset[Any]]] = {}
    for pair in set.intersection(*(set(wide.index) for wide in errors)):
        common = frozenset.intersection(*(frozenset(wide.loc[pair].dropna().index) for wide in errors))
        rates.setdefault(str(pair).split(" ")[-1], {})[pair] = common
    found: list[dict[str, float]] = [{} for _ in kinds]
    edges: list[set[str]] = [set() for _ in kinds]
    for alike, pairs in map(shared, rates.values()):
        for values, ends, wide in zip(found, edges, errors, strict=True):
            for pair in pairs if alike and len(pairs) > 1 else ():
                best = wide.loc[pairs, alike].drop(index=pair).mean().idxmin()
                values[pair] = wide.loc[pair, best]
                ends |= {name for name, rate in (("lowest", alike[0]), ("highest", alike[-1])) if best == rate}
    series = [pd.Series(values, dtype=float).sort_index() for values in found]
    for each, ends in zip(series, edges, strict=True):
        each.attrs["edges"] = sorted(ends)
    return series


def _with_edges(share: pd.DataFrame, **kinds: pd.Series) -> pd.DataFrame:
    # Notes for whoever judges the share (attrs), of the kinds whose best rate may lie beyond those that were run.
    told = {name.replace("_", " "): " and ".join(each.attrs["edges"]) for name, each in kinds.items()}
    share.attrs["notes"] = [f"{name} at its {edges} rate of those run" for name, edges in told.items() if edges]
    return share


def share_cured(
    table: pd.DataFrame, shallow: Filter, deep: Filter, remedy: dict[str, Any], column: str = "train_error_eval"
) -> pd.DataFrame:
    """How much of what a deep kind of run is behind a shallow one, both as they are, it gains by a remedy.

    The shallow one with the remedy does not come into it: that it is harmed, too, is no cure. 1 where the deep one gets
    as far as the shallow one as it is. Each at the best of the rates that all three have (at_rates_of_others).
    """
    sick, cured, well = at_rates_of_others(table, [deep, {**deep, **remedy}, shallow], column)
    return _with_edges(_share(sick - cured, sick - well), deep=sick, deep_with_remedy=cured, shallow=well)


def share_closed(
    table: pd.DataFrame, first: Filter, start: Filter, end: Filter, column: str = "train_error_eval"
) -> pd.DataFrame:
    """How far the first kind of run is from `start` toward `end`: 0 as the one, 1 as the other.

    The two ends at the best of the rates that both have (at_rates_of_others), the first kind at the best of its own:
    without BN another range of rates is the fair one.
    """
    (reached,), (begun, aimed) = (at_rates_of_others(table, kinds, column) for kinds in ([first], [start, end]))
    return _with_edges(_share(begun - reached, begun - aimed), start=begun, end=aimed, first=reached)


def level(table: pd.DataFrame, where: Filter, column: str = "train_error", over: str | None = None) -> pd.Series:
    """A final number; with `over`, that at the best value of that setting.

    There, of the values that most seeds have, two or more; seeds that lack one do not count.
    """
    rows = select(table, where, (over,) if over else ())
    if over:
        values, pairs = shared(rows.groupby("pair")[over].agg(frozenset).to_dict())
        rows = rows[rows["pair"].isin(pairs) & rows[over].isin(values)]
    found = _by_pair(rows, column)
    found.attrs["notes"] = _tell_best([rows], column, over) if over else []
    return found


def applied_decay(table: pd.DataFrame, where: Filter) -> pd.Series:
    """Sum over a run's iterations of rate times weight decay, of the rates that it had, over one minus momentum.

    Decay goes through the velocity: alone it leaves exp(-this) of a parameter. What it shapes, such as BN's gamma, is
    as it began where that is 1.
    """
    settings = table.set_index("folder")
    decay = settings["protocol.weight_decay"] / (1 - settings["protocol.momentum"])

    def total(folder: Path) -> float:
        metrics = load_metrics(folder)
        return decay[folder] * (metrics["lr"] * metrics["iteration"].diff().fillna(metrics["iteration"])).sum()

    return _of_runs(table, where, total)


def slope_in_depth(table: pd.DataFrame, network: str, column: str = "train_error") -> pd.Series:
    """Least-squares slope of a final number in depth up to 110, per 10 layers (section 4.2, Fig. 6).

    Over the depths that most seeds have, two or more, so that every seed's slope is of the same networks.
    """
    rows = select(table, {"network": network})
    rows = rows[rows["depth"] <= 110]
    common, pairs = shared({pair: frozenset(part["depth"]) for pair, part in rows.groupby("pair")})
    if not common:
        return pd.Series(dtype=float)
    wide = rows.pivot_table(index="pair", columns="depth", values=column).reindex(index=pairs, columns=common)
    depths = np.array(common, dtype=float)
    return wide.apply(lambda errors: 10 * stats.linregress(depths, errors.to_numpy(dtype=float)).slope, axis=1)


def iterations_to_error(table: pd.DataFrame, first: Filter, second: Filter, error: float) -> pd.Series:
    """First over second: the ratio of the iterations at which the running training error first is under `error`.

    A network that never gets there, or diverges, counts with all its iterations. Where it is the first this is on the
    careful side; where it is the second the ratio is too large, and attrs["notes"] says so.
    """
    reached = [_of_runs(table, where, _reach(table, lambda _: error)) for where in (first, second)]
    bounds = [_by_pair(select(table, where), "iterations") for where in (first, second)]
    ratio = reached[0].combine_first(bounds[0]) / reached[1].combine_first(bounds[1])
    ratio = ratio.dropna()[lambda pairs: pairs.index.isin([*reached[0].index, *reached[1].index])]
    late = len(ratio.index.difference(reached[1].index))
    ratio.attrs["notes"] = [f"too large in {late} of {len(ratio)} pairs, whose second never got there"] * (late > 0)
    return ratio


def iterations_to_share(table: pd.DataFrame, first: Filter, second: Filter, share: float) -> pd.Series:
    """First over second: the ratio of the iterations in which a network goes such a share of its own way.

    From the error of guessing to its own final one (running training errors): a lower end alone is no faster start.
    A pair of which one diverged has no such end, and says nothing.
    """
    runs = table.set_index("folder")
    levels = runs["guessing"] + share * (runs["train_error"] - runs["guessing"])
    ours, theirs = (_of_runs(table, where, _reach(table, levels.get)) for where in (first, second))
    return (ours / theirs).dropna()


def first_below(metrics: pd.DataFrame, error: float, epoch: int) -> int | None:
    """The first iteration at which the running training error of the last `epoch` iterations is under `error` percent.

    None if it never is. Single rows are of so few images that the first of them under a level is chance.
    """
    under = metrics.loc[running_error(metrics, epoch) < error, "iteration"]
    return int(under.iloc[0]) if len(under) else None


def _reach(table: pd.DataFrame, level_of: Callable[[Path], Any]) -> Callable[[Path], int | None]:
    epochs = table.set_index("folder")["epoch"]
    return lambda folder: first_below(load_metrics(folder), level_of(folder), int(epochs[folder]))


def response_ratio(table: pd.DataFrame, depth: int, column: str = "std_exact") -> pd.Series:
    """Median over layers of the std of a residual network's response over its plain twin's (Fig. 7).

    With BN statistics that are averages over the training set (std_exact), or as the network is evaluated (std).
    """
    folders = [select(table, {"network": n, "depth": depth, "outcome": "finished"}) for n in ("plain", "residual")]
    plain, residual = (rows.set_index("pair")["folder"].map(load_responses) for rows in folders)
    pairs = [p for p in plain.index.intersection(residual.index) if column in plain[p] and column in residual[p]]
    return pd.Series({p: (residual[p][column] / plain[p][column]).median() for p in pairs}, dtype=float)


def response_change(
    table: pd.DataFrame, shallow: int, deep: int, column: str = "mean_response_exact", **where: Any
) -> pd.Series:
    """Mean std of the layer responses of a deep residual network over that of a shallow one (Fig. 7)."""
    kinds = [{"network": "residual", **where, "depth": depth} for depth in (deep, shallow)]
    ours, theirs = (level(table, kind, column) for kind in kinds)
    return ours / theirs


def probe_gain(table: pd.DataFrame, where: Filter) -> pd.Series:
    """Error of a linear probe on what leaves the last block minus that on what leaves the stem (points).

    Negative where the layers between pass on, and sort, what the images show: the forward signal of section 4.1.
    """

    return _of_runs(table, where, lambda folder: gain_of_probe(load_responses(folder)))


def gain_of_probe(rows: pd.DataFrame) -> float | None:
    """`probe_gain` of one network's table; None where it was not measured."""
    errors = rows.get("probe_error", pd.Series(dtype=float)).dropna()
    return float(errors.iloc[-1] - errors.iloc[0]) if len(errors) > 1 else None


def growth_per_layer(rows: pd.DataFrame) -> float:
    """The factor by which the gradient norm of responses grows per layer backward, by a log-linear fit (section 4.1).

    Of the rows of one network at one iteration; each stage has a level of its own, the factor is common.
    """
    staged = rows[rows["stage"] > 0]
    centred = staged.assign(log=np.log(staged["grad_response"]))[["stage", "layer", "log"]]
    centred = centred - centred.groupby("stage").transform("mean").assign(stage=0)
    return float(np.exp(-stats.linregress(centred["layer"], centred["log"]).slope))


def _first_over_last(value: pd.Series) -> float:
    return value.iloc[0] / value.iloc[-1]


SIGNALS: dict[str, Callable[[pd.DataFrame], float]] = {
    "gradient_growth": growth_per_layer,
    # The norm of the first layer's weight gradient over the last 3x3 layer's: far below 1 where gradients vanish.
    "gradient_ratio": lambda rows: _first_over_last(rows["grad_weight"]),
    # The same of norm times norm of the weights, which their scale before BN does not change.
    "scaled_gradient_ratio": lambda rows: _first_over_last(rows["grad_weight"] * rows["weight_norm"]),
    # And of the share of the weights that a step without momentum replaces: below 1 the first layer is the slower one.
    "relative_update_ratio": lambda rows: _first_over_last(rows["lr"] * rows["grad_weight"] / rows["weight_norm"]),
}
NEEDS = {"scaled_gradient_ratio": "weight_norm", "relative_update_ratio": "weight_norm"}


def _of_signals(name: str, table: pd.DataFrame, where: Filter, iteration: str = "first") -> pd.Series:
    # One of SIGNALS, at the `first` recorded iteration or the `last`.
    def read(folder: Path) -> float | None:
        rows = load_gradients(folder)
        rows = rows[rows["iteration"] == (0 if iteration == "first" else rows["iteration"].max())]
        return SIGNALS[name](rows) if len(rows) and NEEDS.get(name, "layer") in rows else None

    return _of_runs(table, where, read)


def weight_growth(table: pd.DataFrame, where: Filter, until: int) -> pd.Series:
    """The factor by which the norm of the first layer's weights grows in so many iterations from the start."""

    def grown(folder: Path) -> float | None:
        rows = load_gradients(folder)
        rows = rows[rows["layer"] == 1].set_index("iteration")
        known = until in rows.index and "weight_norm" in rows
        return rows["weight_norm"][until] / rows["weight_norm"][0] if known else None

    return _of_runs(table, where, grown)


def constructed_difference(table: pd.DataFrame, network: str, shallow: int, deep: int) -> pd.Series:
    """The largest logit difference, as a share of the largest logit, between a trained network and the deeper one that
    identity layers make of it, before any training (section 1).
    """

    def largest(folder: Path) -> float | None:
        rows = load_probe(folder, "constructed")
        rows = rows[rows["depth"] == deep] if len(rows) else rows
        return rows["largest_difference"].iloc[0] if len(rows) else None

    return _of_runs(table, {"network": network, "depth": shallow}, largest)


def lesion_errors(rows: pd.DataFrame, column: str) -> tuple[float, float] | None:
    """Of one network's lesions the error of the whole, and the mean over single deleted blocks, with equal kinds of BN.

    None where they were not measured. Earlier tables have no recalibrated whole network: there the one as it was
    evaluated stands for it.
    """
    if column not in rows:
        return None
    intact = rows[rows["count"] == 0].iloc[0]
    whole = intact["error"] if pd.isna(intact[column]) else intact[column]
    return whole, rows.loc[rows["kind"] == "delete_one", column].mean()


def lesion_difference(table: pd.DataFrame, depth: int, column: str = "error") -> pd.Series:
    """Share of a network's advantage over guessing that is lost with one block, mean over blocks: plain minus residual.

    A share, because a network that barely learned has little error left to gain. With column error_recalibrated, of
    networks whose BN statistics are those that they have without the block, beside the whole network's measured alike.
    """
    guessing = table.set_index("folder")["guessing"]

    def lost(folder: Path) -> float | None:
        return lesion_cost(load_probe(folder, "lesions"), guessing[folder], column)

    plain, residual = (_of_runs(table, {"network": n, "depth": depth}, lost) for n in ("plain", "residual"))
    return plain - residual


def lesion_cost(rows: pd.DataFrame, guessing: float, column: str = "error") -> float | None:
    """Of one network the share of its advantage over guessing (error, percent) that is lost with one block."""
    if (errors := lesion_errors(rows, column)) is None:
        return None
    whole, without = errors
    return (without - whole) / (guessing - whole) if whole < guessing else np.nan


def lesion_recovery(table: pd.DataFrame, network: str, depth: int) -> pd.DataFrame:
    """Of the advantage over guessing that is lost with one block, the share that comes back with recalibrated BN.

    What is left of the loss is that of the recalibrated network beside the whole one, recalibrated, too.
    """

    def rise(column: str, folder: Path) -> float | None:
        errors = lesion_errors(load_probe(folder, "lesions"), column)
        return errors[1] - errors[0] if errors else None

    where = {"network": network, "depth": depth}
    lost, left = (_of_runs(table, where, partial(rise, column)) for column in ("error", "error_recalibrated"))
    return _share(lost - left, lost)


_SHARES = (share_of_gain, share_cured, share_closed, lesion_recovery)
_DIFFERENCES = (contrast, level, slope_in_depth, constructed_difference, lesion_difference, probe_gain, applied_decay)
_FACTORS = (iterations_to_error, iterations_to_share, response_ratio, response_change, weight_growth)
# Ratios and scales spread by factors, not by differences: their means and intervals are those of their logarithms.
RATIOS = {*SIGNALS, *(statistic.__name__ for statistic in _FACTORS)}
STATISTICS: dict[str, Callable[..., Any]] = {f.__name__: f for f in (*_SHARES, *_DIFFERENCES, *_FACTORS)}
STATISTICS |= {name: partial(_of_signals, name) for name in SIGNALS}
