"""The paper's claims as verdicts that follow from records: a statistic per seed, its interval, a stated threshold.

Each file in conf/experiment/ states the claims that its runs decide, as data:

    claims:
      C1:
        sentence: what the paper says
        statistic: a name in STATISTICS below; `of:` holds its arguments
        above: 0.0      (or below:, or within: for "at most so far from zero", of ratios "at most this factor from 1")
                        the threshold, in the statistic's unit

Every statistic gives one number per seed, so that the interval over seeds is that of a mean. No torch here.
"""

import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from scipy import stats
from statsmodels.stats.power import TTestPower

from degradation.config import LATER
from degradation.record import load_gradients, load_metrics, load_responses, load_runs
from degradation.report.table import PROTOCOLS

CONF = Path(__file__).parents[3] / "conf"
LEVEL, POWER = 0.95, 0.8
CHANCE = 90.0  # percent
SHORT_NAMES = {"network.name": "network", "network.depth": "depth"}
LENGTH_SETTINGS = {"protocol.iterations", "protocol.milestones"}
Filter = dict[str, Any]


class ClaimError(Exception):
    """A study's claims are not well-formed; the message names the file and the claim."""


@dataclass(frozen=True)
class Claim:
    """One claim, its statistic and the threshold that decides it."""

    id: str
    sentence: str
    statistic: str
    unit: str
    study: str
    above: float | None = None
    below: float | None = None
    within: float | None = None
    of: dict[str, Any] = field(default_factory=dict)
    figure: str = ""

    @property
    def threshold(self) -> str:
        """In words, with the unit."""
        if self.within is not None:
            by_factor = f"within a factor of {self.within:g} of 1 {self.unit}"
            return by_factor if self.statistic in RATIOS else f"from -{self.within:g} to {self.within:g} {self.unit}"
        word, value = ("above", self.above) if self.above is not None else ("below", self.below)
        return f"{word} {value:g} {self.unit}"


@dataclass(frozen=True)
class Verdict:
    """What the records say of a claim; `effects` holds the statistic of every seed (and precision)."""

    claim: Claim
    verdict: str
    effects: dict[str, float]
    mean: float = np.nan
    low: float = np.nan
    high: float = np.nan
    seeds_needed: int | None = None


def list_studies(conf: Path = CONF) -> list[str]:
    """The names of the study files; first the one whose runs others build on.

    Raises:
        ClaimError: there are none.
    """
    names = sorted(path.stem for path in (conf / "experiment").glob("*.yaml"))
    if not names:
        raise ClaimError(f"{conf / 'experiment'} holds no study")
    return sorted(names, key=lambda name: name != "degradation_cifar")


def study_settings(study: str, conf: Path = CONF) -> set[str]:
    """The scientific settings that a study's file makes or sweeps over, such as protocol.iterations."""
    file = yaml.safe_load((conf / "experiment" / f"{study}.yaml").read_text())
    groups = [(group, key) for group in ("network", "data", "protocol") for key in file.get(group) or {}]
    return {f"{group}.{key}" for group, key in groups} | set(file["hydra"]["sweeper"]["params"])


def load_claims(conf: Path = CONF) -> list[Claim]:
    """The claims of every study file, in the order of their numbers.

    Raises:
        ClaimError: a claim lacks a part, has an unknown one, or states no single threshold.
    """
    found = []
    for path in (conf / "experiment" / f"{name}.yaml" for name in list_studies(conf)):
        for name, entry in (yaml.safe_load(path.read_text()).get("claims") or {}).items():
            try:
                claim = Claim(id=name, study=path.stem, **entry)
            except TypeError as error:
                raise ClaimError(f"{path}, claim {name}: {error}") from None
            if claim.statistic not in STATISTICS:
                raise ClaimError(f"{path}, claim {name}: {claim.statistic} is not one of {', '.join(STATISTICS)}")
            if sum(value is not None for value in (claim.above, claim.below, claim.within)) != 1:
                raise ClaimError(f"{path}, claim {name}: state one of above, below and within")
            found.append(claim)
    number = {claim.id: re.match(r"C(\d+)", claim.id) for claim in found}
    return sorted(found, key=lambda claim: int(match[1]) if (match := number[claim.id]) else len(found) + 100)


def load_tables(results: str | Path) -> dict[str, pd.DataFrame]:
    """Protocol -> every finished run of it and of its variants: flattened config, `final.` numbers without prefix.

    `varied` holds the settings in which a run differs from the protocol and network as named. `pair` holds seed and
    precision: only runs that share both are compared. Runs that diverged count with the error of guessing.
    """
    runs = load_runs(results)
    if runs.empty:
        return {}
    errors = ["final.train_error", "final.train_error_eval", "final.test_error"]
    runs = runs.reindex(columns=list(dict.fromkeys([*runs, "study", "variant", "length", "precision", *errors])))
    for group, settings in LATER.items():
        for key, default in settings.items():
            column = f"{group}.{key}"
            if default is not None:
                runs[column] = runs[column].fillna(default) if column in runs else default
    runs["length"] = runs["length"].fillna(1)
    runs["varied"] = [
        frozenset(part.split("=")[0] for part in text.split(", ") if "=" in part) for text in runs["variant"].fillna("")
    ]
    runs["pair"] = runs["seed"].astype(str) + " " + runs["precision"].fillna("").astype(str)
    for column in errors:
        # A diverged network guesses: leaving it out would hide exactly the runs that failed.
        runs[column] = runs[column].astype(float).where(runs["outcome"] == "finished", CHANCE)
    runs["mean_response"] = [
        load_responses(run.folder)["std"].mean() if run.outcome == "finished" else np.nan for run in runs.itertuples()
    ]
    final = {column: column.removeprefix("final.") for column in runs if column.startswith("final.")}
    runs = runs.rename(columns={**SHORT_NAMES, **final})
    names = sorted(runs["protocol.name"].unique(), key=lambda name: (PROTOCOLS.get(name, 9), name))
    return {name: runs[runs["protocol.name"] == name] for name in names}


def select(table: pd.DataFrame, where: Filter, over: tuple[str, ...] = ()) -> pd.DataFrame:
    """The runs with the given settings, and the protocol's in all others but those named in `over`.

    Naming the `study` takes its runs with the settings that its file makes.
    """
    named = set(where) | set(over)
    if where.get("length", 1) != 1:
        named |= LENGTH_SETTINGS
    if "study" in where:
        named |= study_settings(where["study"])
    chosen = table[pd.Series([varied <= named for varied in table["varied"]], index=table.index, dtype=bool)]
    for key, value in where.items():
        if key not in chosen:
            return chosen.iloc[:0]
        chosen = chosen[chosen[key] == value]
    return chosen


def _by_pair(rows: pd.DataFrame, column: str) -> pd.Series:
    # Where several runs of a seed qualify (a setting swept over), the best of them.
    return rows.groupby("pair")[column].min().astype(float) if column in rows else pd.Series(dtype=float)


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
    if not candidates:
        return [], []
    best = max(candidates, key=lambda members: (len(including(members)), len(members)))
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


def slope_in_depth(table: pd.DataFrame, network: str, column: str = "train_error", up_to: int = 110) -> pd.Series:
    """Least-squares slope of a final number in depth, per 10 layers.

    Over the depths that most seeds have, two or more, so that every seed's slope is of the same networks.
    """
    rows = select(table, {"network": network})
    rows = rows[rows["depth"] <= up_to]
    shared, pairs = _shared({pair: frozenset(part["depth"]) for pair, part in rows.groupby("pair")})
    if not shared:
        return pd.Series(dtype=float)
    wide = rows.pivot_table(index="pair", columns="depth", values=column).loc[pairs, shared]
    depths = np.array(shared, dtype=float)
    return wide.apply(lambda errors: 10 * stats.linregress(depths, errors.to_numpy(dtype=float)).slope, axis=1)


def _finished(table: pd.DataFrame, where: Filter) -> dict[str, Path]:
    # Pair -> folder, of runs that have probe tables.
    rows = select(table, where)
    return dict(rows.loc[rows["outcome"] == "finished", ["pair", "folder"]].itertuples(index=False, name=None))


def iterations_to_error(table: pd.DataFrame, first: Filter, second: Filter, error: float) -> pd.Series:
    """First over second: the ratio of the iterations at which the running training error first is under `error`.

    A network that never gets there, or diverges, counts with all its iterations: a bound on the careful side.
    """

    def measure(where: Filter) -> tuple[pd.Series, pd.Series]:
        reached, at = {}, {}
        for run in select(table, where).to_dict("records"):
            found = first_below(load_metrics(run["folder"]), error) if run["outcome"] == "finished" else None
            reached[run["pair"]], at[run["pair"]] = found is not None, found or run["protocol.iterations"]
        return pd.Series(reached, dtype=bool), pd.Series(at, dtype=float)

    (ours_there, ours), (theirs_there, theirs) = measure(first), measure(second)
    pairs = [pair for pair in ours.index.intersection(theirs.index) if ours_there[pair] or theirs_there[pair]]
    return ours[pairs] / theirs[pairs]


def first_below(metrics: pd.DataFrame, error: float) -> int | None:
    """The first iteration at which the running training error is under `error` percent; None if it never is."""
    under = metrics.loc[metrics["train_error"] < error, "iteration"]
    return int(under.iloc[0]) if len(under) else None


def _responses(table: pd.DataFrame, where: Filter) -> dict[str, pd.DataFrame]:
    return {pair: load_responses(folder) for pair, folder in _finished(table, where).items()}


def response_ratio(table: pd.DataFrame, depth: int) -> pd.Series:
    """Median over layers of the std of a residual network's response over its plain twin's (Fig. 7)."""
    plain, residual = (_responses(table, {"network": n, "depth": depth}) for n in ("plain", "residual"))
    return pd.Series(
        {pair: (residual[pair]["std"] / plain[pair]["std"]).median() for pair in plain.keys() & residual.keys()},
        dtype=float,
    )


def response_change(table: pd.DataFrame, shallow: int, deep: int, network: str = "residual") -> pd.Series:
    """Mean std of the layer responses of a deep network over that of a shallow one (Fig. 7)."""
    ours, theirs = (_responses(table, {"network": network, "depth": depth}) for depth in (deep, shallow))
    return pd.Series(
        {pair: ours[pair]["std"].mean() / theirs[pair]["std"].mean() for pair in ours.keys() & theirs.keys()},
        dtype=float,
    )


def _gradients(table: pd.DataFrame, where: Filter, iteration: str) -> dict[str, pd.DataFrame]:
    found = {}
    for pair, folder in _finished(table, where).items():
        rows = load_gradients(folder)
        at = 0 if iteration == "first" else rows["iteration"].max()
        if (rows["iteration"] == at).any():
            found[pair] = rows[rows["iteration"] == at]
    return found


def gradient_growth(table: pd.DataFrame, where: Filter, iteration: str = "first") -> pd.Series:
    """The factor by which the gradient norm of responses grows per layer backward, by a log-linear fit."""
    return pd.Series(
        {pair: growth_per_layer(rows) for pair, rows in _gradients(table, where, iteration).items()}, dtype=float
    )


def growth_per_layer(rows: pd.DataFrame, column: str = "grad_response") -> float:
    """Of the rows of one network at one iteration; each stage has a level of its own, the factor is common."""
    staged = rows[rows["stage"] > 0]
    centred = staged.assign(log=np.log(staged[column]))[["stage", "layer", "log"]]
    centred = centred - centred.groupby("stage").transform("mean").assign(stage=0)
    return float(np.exp(-stats.linregress(centred["layer"], centred["log"]).slope))


def gradient_ratio(table: pd.DataFrame, where: Filter, iteration: str = "first") -> pd.Series:
    """The norm of the first layer's weight gradient over the last 3x3 layer's: far below 1 where gradients vanish."""
    return pd.Series(
        {
            pair: rows["grad_weight"].iloc[0] / rows["grad_weight"].iloc[-1]
            for pair, rows in _gradients(table, where, iteration).items()
        },
        dtype=float,
    )


def load_probe(run_folder: Path, probe: str) -> pd.DataFrame:
    """The table that experiments/probe.py wrote of a run, such as its lesions; empty if none."""
    path = probes_folder(run_folder) / f"{probe}.csv"
    return pd.read_csv(path) if path.exists() else pd.DataFrame()


def probed_images(run_folder: Path, probe: str) -> int:
    """How many images that table is of."""
    return int(json.loads((probes_folder(run_folder) / "probe.json").read_text())["probes"][probe])


def probes_folder(run_folder: Path) -> Path:
    """results/probes/<run id>, beside results/runs/<run id>."""
    return run_folder.parents[1] / "probes" / run_folder.name


def constructed_difference(table: pd.DataFrame, network: str, shallow: int, deep: int) -> pd.Series:
    """The largest logit difference between a trained network and the deeper one built from it, before any training."""
    found = {}
    for pair, folder in _finished(table, {"network": network, "depth": shallow}).items():
        rows = load_probe(folder, "constructed")
        if len(rows) and (rows["depth"] == deep).any():
            found[pair] = rows.loc[rows["depth"] == deep, "largest_difference"].iloc[0]
    return pd.Series(found, dtype=float)


def lesion_difference(table: pd.DataFrame, depth: int) -> pd.Series:
    """Share of a network's advantage over guessing that is lost with one block, mean over blocks: plain minus residual.

    A share, because a network that barely learned has little error left to gain.
    """

    def lost(network: str) -> pd.Series:
        found = {}
        for pair, folder in _finished(table, {"network": network, "depth": depth}).items():
            rows = load_probe(folder, "lesions")
            if len(rows):
                intact = rows.loc[rows["count"] == 0, "error"].iloc[0]
                risen = rows.loc[rows["kind"] == "delete_one", "error"].mean() - intact
                found[pair] = risen / (CHANCE - intact) if intact < CHANCE else np.nan
        return pd.Series(found, dtype=float)

    return lost("plain") - lost("residual")


def least_signal(table: pd.DataFrame, where: Filter, iteration: str = "first") -> pd.Series:
    """The smallest std of any layer's response in training mode: near 0 where forward signals die out."""
    return pd.Series(
        {pair: rows["std"].min() for pair, rows in _gradients(table, where, iteration).items()}, dtype=float
    )


STATISTICS: dict[str, Callable[..., pd.Series]] = {
    statistic.__name__: statistic
    for statistic in (
        contrast,
        share_of_gain,
        level,
        slope_in_depth,
        iterations_to_error,
        response_ratio,
        response_change,
        gradient_growth,
        gradient_ratio,
        least_signal,
        constructed_difference,
        lesion_difference,
    )
}

# Ratios and scales spread by factors, not by differences: their means and intervals are those of their logarithms.
RATIOS = {
    "iterations_to_error",
    "response_ratio",
    "response_change",
    "gradient_growth",
    "gradient_ratio",
    "least_signal",
}
LEAST_RATIO = 1e-30  # in place of 0, which has no logarithm


def decide(claim: Claim, effects: pd.Series) -> Verdict:
    """The verdict from one number per seed; those that are not finite say nothing.

    Supported where the whole interval over seeds is on the claimed side of the threshold, refuted where all of it is on
    the other, else undecided, with the seeds at which a t-test of power 0.8 would decide (statsmodels). The mean of
    ratios is geometric, and their interval is of factors.
    """
    ratio = claim.statistic in RATIOS
    values = {str(pair): float(value) for pair, value in effects.sort_index().items() if np.isfinite(value)}
    if not values:
        return Verdict(claim, "not run", values)
    scale = _log if ratio else float
    back = math.exp if ratio else float
    numbers = np.array([scale(value) for value in values.values()])
    mean = float(numbers.mean())
    if len(numbers) < 2:
        return Verdict(claim, "undecided", values, back(mean))
    low = high = mean
    if np.ptp(numbers) > 1e-9 * abs(mean):
        interval = stats.ttest_1samp(numbers, 0.0).confidence_interval(LEVEL)
        low, high = float(interval.low), float(interval.high)
    elif len(numbers) < 3:  # two equal numbers may be coarse ones, such as iterations between log rows
        return Verdict(claim, "undecided", values, back(mean), seeds_needed=3)
    told = (back(mean), back(low), back(high))
    bounds = {"above": (claim.above, np.inf), "below": (-np.inf, claim.below)}
    within = None
    if claim.within is not None:
        within = (1 / claim.within if ratio else -claim.within, claim.within)
    lower, upper = within or bounds["above" if claim.above is not None else "below"]
    assert lower is not None and upper is not None  # noqa: PT018
    lower, upper = (scale(edge) if np.isfinite(edge) else edge for edge in (lower, upper))
    if lower < low and high < upper:
        return Verdict(claim, "supported", values, *told)
    if high < lower or low > upper:
        return Verdict(claim, "refuted", values, *told)
    distance = min(abs(mean - edge) for edge in (lower, upper) if np.isfinite(edge))
    return Verdict(claim, "undecided", values, *told, _seeds_needed(distance, numbers))


def _log(ratio: float) -> float:
    return math.log(max(ratio, LEAST_RATIO))


def _seeds_needed(distance: float, numbers: np.ndarray) -> int | None:
    spread = float(numbers.std(ddof=1))
    if not distance or not spread:
        return None
    effect = min(distance / spread, 5.0)  # the solver fails far out
    return max(len(numbers) + 1, int(np.ceil(TTestPower().solve_power(effect, power=POWER, alpha=1 - LEVEL))))


def judge(claims: list[Claim], table: pd.DataFrame) -> list[Verdict]:
    """Every claim's verdict from the runs of one protocol."""
    return [decide(claim, STATISTICS[claim.statistic](table, **claim.of)) for claim in claims]
