"""A user's own runs beside the published ones, the paper's numbers, and networks that others trained.

The verdict on a network follows a rule that was fixed before its runs. It is the first of these that applies:

- **equal to the last digit**: every run has a published twin of the same config whose tables hold the same digits (but
  for the seconds);
- **within the spread of seeds**: against n published seeds, training and test error both lie in the interval in which
  95 % of new means would lie (Student's t, two errors: each at 97.5 %);
- **different**: at least one of the two errors lies outside that interval; what differs besides is listed;
- **nothing to compare with**: any other case.

With fewer than three published seeds, that interval would hold nearly any error.
"""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from scipy import stats

from degradation.config import describe_varied
from degradation.report.draw import KINDS, describe, new_figure, style_of, write_caption
from degradation.report.table import PAPER_RESIDUAL, conditions, settings_of

LEVEL = 0.95
FEWEST = 3  # published seeds that an interval is made of
EQUAL, WITHIN, DIFFERENT, NOTHING = (
    "equal to the last digit",
    "within the spread of seeds",
    "different",
    "nothing to compare with",
)
TWINS = ("metrics.csv", "gradients.csv", "responses.csv", "wrong.csv")
# What two runs of one config may still differ in, as their records hold it.
CAUSES = {
    "precision": "precision",
    "hardware.threads": "threads",
    "hardware.cpu": "processor",
    "hardware.gpu": "GPU",
    "versions.torch": "torch",
    "data": "data",
}


def are_equal(ours: Path, theirs: Path) -> bool:
    """Whether two records hold the same digits in every column that both have, but for the seconds."""
    for name in TWINS:
        if not (ours / name).exists() or not (theirs / name).exists():
            continue
        mine, other = (pd.read_csv(folder / name, dtype=str) for folder in (ours, theirs))
        if name == "gradients.csv":  # later versions look at more iterations, too
            pairs = ((mine, other), (other, mine))
            mine, other = (a[a["iteration"].isin(b["iteration"])].reset_index(drop=True) for a, b in pairs)
        shared = [column for column in mine if column in other and column != "seconds"]
        if not mine[shared].equals(other[shared]):
            return False
    return True


def predict(values: pd.Series, new: int) -> tuple[float, float]:
    """Where the mean of so many new seeds lies in 97.5 % of cases, if nothing but the seed differs.

    Within 0 and 100 %; nan where there are fewer than three values, or they are equal.
    """
    n, spread = len(values), float(values.std()) if len(values) >= FEWEST else 0.0
    if not spread:
        return math.nan, math.nan
    half = stats.t.ppf(1 - (1 - LEVEL) / 4, n - 1) * spread * math.sqrt(1 / n + 1 / new)
    return max(0.0, values.mean() - half), min(100.0, values.mean() + half)


def _of_one_precision(published: pd.DataFrame, ours: Any) -> pd.DataFrame:
    # Ours, if there are several such, or no more of another; else, of those with the most, that of another device.
    n = published.groupby("precision").size().sort_values(ascending=False, kind="stable")
    most = [precision for precision in n.index if n[precision] == n.max()]
    alike = [precision for precision in most if precision.partition("-")[0] == ours.partition("-")[0]]
    chosen = ours if n.get(ours, 0) >= FEWEST or ours in most else next(iter([*alike, *most]), None)
    return published[published["precision"] == chosen]


def _judge(ours: pd.DataFrame, every: pd.DataFrame, theirs: pd.DataFrame, row: dict[str, Any]) -> tuple[str, str]:
    if theirs.empty:
        return NOTHING, "no such run is published"
    twins = every[every["precision"] == ours["precision"].iloc[0]].set_index("run_id")["folder"]
    if all(run.run_id in twins and are_equal(run.folder, twins[run.run_id]) for run in ours.itertuples()):
        mine, other = ours["precision"].iloc[0], theirs["precision"].iloc[0]
        return EQUAL, f"to the one in {mine}; n and mean are of those in {other}" if mine != other else ""
    found = {
        name: [
            set(runs[key].dropna().map("{:g}".format if key.endswith("threads") else str)) for runs in (ours, theirs)
        ]
        for key, name in CAUSES.items()
        if key in ours and key in theirs
    }
    causes = [
        f"{name} {' and '.join(sorted(yours))}, published {' and '.join(sorted(published))}"
        for name, (yours, published) in found.items()
        if not yours <= published
    ]
    told = "; ".join([*causes, *_tell_settings(ours, theirs)])
    if any(row[error] < row[f"{error}_low"] or row[error] > row[f"{error}_high"] for error in KINDS):
        return DIFFERENT, told or "in nothing that the records name"
    if any(math.isnan(row[f"{error}_low"]) and row[error] != row[f"{error}_mean"] for error in KINDS) or (
        len(theirs) < FEWEST
    ):
        seeds = f"{len(theirs)} published seed{'s' * (len(theirs) > 1)}"
        return NOTHING, "; ".join([f"the spread of {seeds} says nothing", *filter(None, [told])])
    return WITHIN, told


def _tell_settings(ours: pd.DataFrame, theirs: pd.DataFrame) -> list[str]:
    # What a protocol says by now, and did not when the published runs were made.
    mine, other = settings_of(ours), settings_of(theirs)
    found = {name: [set(each[name].dropna()) for each in (mine, other)] for name in mine if name in other}
    return [
        f"{name} {' and '.join(sorted(yours))}, published {' and '.join(sorted(published))}"
        for name, (yours, published) in found.items()
        if not yours <= published
    ]


def compare(own: pd.DataFrame, published: pd.DataFrame, others: pd.DataFrame) -> pd.DataFrame:
    """A row for each network, and what it varies, of one protocol's own runs.

    Columns: network (with what it varies), label, n, train_error and test_error (%, means over own seeds); published_n,
    and of each error _mean, _std, _low and _high (the interval of `predict`); paper (test error, %), a column for each
    author of `others`; verdict, and `besides`: what is not the same in other respects.
    """
    rows = []
    keys = ["label", "variation"]
    for (label, variation), ours in own.groupby(keys, sort=False):
        every = published[(published["label"] == label) & (published["variation"] == variation)]
        every = every[every["protocol"] == ours["protocol"].iloc[0]]
        theirs = _of_one_precision(every, ours["precision"].iloc[0])
        name, depth = ours["network"].iloc[0], int(ours["depth"].iloc[0])
        told = f"{label} {describe_varied(ours['varied'].iloc[0])}".strip()
        row: dict[str, Any] = {"network": told, "label": label, "n": len(ours)}
        row["published_n"] = len(theirs)
        for error in KINDS:
            low, high = predict(theirs[error], len(ours))
            row |= {error: ours[error].mean(), f"{error}_mean": theirs[error].mean()}
            row |= {f"{error}_std": theirs[error].std(), f"{error}_low": low, f"{error}_high": high}
        row["paper"] = PAPER_RESIDUAL.get(depth, math.nan) if name == "residual" and not variation else math.nan
        known = others.loc[label] if label in others.index and not variation else {}
        row |= {author: known.get(author, math.nan) for author in others}
        row["verdict"], row["besides"] = _judge(ours, every, theirs, row)
        rows.append(row)
    return pd.DataFrame(rows)


def compare_each(
    table: pd.DataFrame, own: pd.DataFrame, published: pd.DataFrame, others: pd.DataFrame
) -> dict[str, pd.DataFrame]:
    """`compare` of one's own runs, protocol by protocol, in a table that may hold the published ones, too.

    A grid of one's own, a condition by itself, is among its protocol's runs.
    """
    each = {condition: runs[runs["folder"].isin(own["folder"])] for condition, runs in conditions(table)}
    grids = {name for name, runs in each.items() if (runs["variation"] != "").all() and not any(runs["varied"])}
    return {name: compare(runs, published, others) for name, runs in each.items() if len(runs) and name not in grids}


def sentence(row: dict[str, Any]) -> str:
    """A row of `compare` in words."""
    seeds = "1 seed" if row["n"] == 1 else f"{row['n']} seeds"
    told = f"{row['network']}: training / test error {row['train_error']:.1f} / {row['test_error']:.1f} % ({seeds})"
    if row["published_n"]:
        means = " / ".join(
            f"{row[f'{error}_mean']:.1f}" + (f" ± {row[f'{error}_std']:.1f}" if row["published_n"] > 1 else "")
            for error in KINDS
        )
        told += f", published {means} % (n = {row['published_n']})"
    return f"{told}: {row['verdict']}{' (' + row['besides'] + ')' if row['besides'] else ''}"


def draw_comparison(rows: pd.DataFrame, runs: pd.DataFrame) -> Figure:
    """Yours beside the published runs

    Final errors of your networks beside the published ones. Filled markers are the means of your seeds. Bars show where
    95 % of new seeds should land, going by the published ones, and the stroke across is the mean of the published ones.
    A stroke alone means fewer than three published seeds, or equal ones.
    """
    places = np.arange(len(rows))[::-1]
    figure, axes = new_figure(11, 1.6 + 0.42 * len(rows), 2, sharey=True)
    for ax, (error, kind) in zip(axes, KINDS.items(), strict=True):
        for place, row in zip(places, rows.to_dict("records"), strict=True):
            width = row[f"{error}_high"] - row[f"{error}_low"]
            ax.barh(place, width, 0.3, row[f"{error}_low"], color="0.78", zorder=1)
            ax.plot(row[f"{error}_mean"], place, "|", color="0.25", markersize=16, markeredgewidth=2, zorder=2)
            network, depth = row["label"].rsplit("-", 1)
            look = {**style_of(network, int(depth)), "markersize": 8}
            ax.plot(row[error], place, linestyle="none", zorder=3, clip_on=False, **look)
            if error == "test_error":
                ax.plot(row["paper"], place, "*", color="0.0", markersize=9, zorder=2)
        ax.set(xlabel=f"final {kind} error (%)", xlim=(0, min(100, ax.get_xlim()[1])), ylim=(-0.6, len(rows) - 0.4))
    axes[0].set_yticks(places, [f"{row.network} (n = {row.n})" for row in rows.itertuples()])
    if rows["paper"].notna().any():
        axes[1].set_title("stars: the paper's, at the end of its schedule", fontsize=9)
    told = "markers: means of your seeds; strokes: the published means; bars: where 95 % of new seeds should land"
    return write_caption(figure, describe(runs, told))
