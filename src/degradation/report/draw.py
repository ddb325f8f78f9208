"""One style for every figure, and the paper's own: each takes a condition's table and returns a figure, or None.

An arm has one hue and one marker, a depth one luminance in that hue (deeper is darker), dashed is training error and
solid anything else. Whatever else a figure compares (settings, moments, parts) is told apart by NEUTRAL.
"""

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from degradation.record import load_metrics, load_responses
from degradation.report.table import ARMS, PROTOCOLS, finished, gather, select

# Of 8, 50 and 110 layers: the lightest has a contrast of 3.3 to 1 on white, the darkest one of 18.
HUES = {"plain": ("#e2605a", "#a31c2a", "#2e0308"), "residual": ("#4a90d0", "#1b5199", "#051226")}
SHARES = {8: 0.0, 20: 0.2, 50: 1.0, 110: 2.0}  # depth -> how far along the three; in between by its logarithm
MARKERS = {"plain": "o", "residual": "s"}
DASHED: Any = (0, (3, 1.5))
NEUTRAL: tuple[dict[str, Any], ...] = (
    {"color": "0.0", "linestyle": "-", "marker": "^"},
    {"color": "0.4", "linestyle": "-.", "marker": "D"},
    {"color": "0.55", "linestyle": ":", "marker": "v"},
)
STYLE: dict[Any, Any] = {
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "font.size": 10,
    "legend.fontsize": 8,
    "svg.fonttype": "none",
    "svg.hashsalt": "degradation",
}


def colour_of(network: str, depth: int = 20) -> str:
    """An arm's hue at the luminance of a depth, the same in every figure."""
    share = np.interp(np.log(depth), np.log(list(SHARES)), list(SHARES.values()))
    channels = np.array([to_rgb(colour) for colour in HUES[network]]).T
    return to_hex([np.interp(share, (0, 1, 2), channel) for channel in channels])


def style_of(network: str, depth: int = 20, points: int = 0) -> dict[str, Any]:
    """Colour and marker of a network's line; with `points`, about ten markers on a line of so many."""
    style = {"color": colour_of(network, depth), "marker": MARKERS[network], "markersize": 4}
    return {**style, "markevery": max(1, points // 10)} if points else style


def new_figure(
    width: float, height: float, columns: int, sharey: Any = False, rows: int = 1
) -> tuple[Figure, list[Axes]]:
    """A figure of rows x columns panels in the house style, and its axes row by row; sizes in inches."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False, sharey=sharey)
    return figure, list(axes.flat)


def save(figure: Figure, folder: Path, name: str) -> None:
    """Write name.png and name.svg; the same data give the same bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    save_png(figure, folder / f"{name}.png")
    with mpl.rc_context(STYLE):
        figure.savefig(folder / f"{name}.svg", metadata={"Date": None})


def save_png(figure: Figure, to: Path | IO[bytes]) -> None:
    """The picture alone, into a file or a stream."""
    with mpl.rc_context(STYLE):
        figure.savefig(to, format="png", dpi=150, metadata={"Software": None})


def write_caption(figure: Figure, text: str) -> None:
    """The line under every figure, broken where the figure is too narrow for it."""
    figure.supxlabel(textwrap.fill(text, int(16 * figure.get_figwidth())), fontsize=8, color="0.35")


def describe(runs: pd.DataFrame, what: str = "") -> str:
    """The line on every figure, of the runs in it: protocol, iterations, data, n seeds, who diverged."""
    condition = runs["condition"].iloc[0]
    counts = runs.groupby("label")["seed"].nunique()
    n = " to ".join(str(n) for n in sorted({counts.min(), counts.max()}))
    lengths = sorted(runs["iterations"].unique())
    trained = f": {' or '.join(f'{n:,}' for n in lengths)} iteration{'s' if lengths != [1] else ''}"
    diverged = (runs["outcome"] != "finished").sum()
    parts = [
        f"protocol {condition}{trained if len(lengths) < 3 else ''} on {' and '.join(sorted(runs['data'].unique()))}",
        f"n = {n} seed{'s' if counts.max() > 1 else ''} each",
        f"{diverged} diverged (their error is that of guessing)" if diverged else "",
        what,
    ]
    note = PROTOCOLS.get(condition.split(" ")[0], "")
    return ", ".join(part for part in parts if part) + (f" ({note})" if note else "")


def left_out(table: pd.DataFrame) -> str:
    """For the captions of figures that show finished runs alone."""
    diverged = len(select(table, {})) - len(finished(table))
    return f"{diverged} diverged and not shown" if diverged else ""


def two_depths(runs: pd.DataFrame, arms: Sequence[str] = ARMS) -> list[int]:
    """Fig. 1's depths, 20 and 56, where all arms have both; else the shallowest and the deepest that all arms have."""
    common = sorted(set.intersection(*({*runs.loc[runs["network"] == arm, "depth"]} for arm in arms)))
    return [20, 56] if {20, 56} <= {*common} else sorted({*common[:1], *common[-1:]})


def with_n(runs: pd.DataFrame) -> dict[tuple[str, int], str]:
    """(network, depth) -> the words for a legend, with n where it is not the same for all."""
    counts = runs.groupby(["network", "depth"])["seed"].nunique()
    return {key: f"{key[0]}-{key[1]}" + (f" (n = {n})" if counts.nunique() > 1 else "") for key, n in counts.items()}


def draw_band(ax: Axes, rows: pd.DataFrame, x: str, y: str, **style: Any) -> Line2D | None:
    """The mean of y at every x as a line, and its range as a band where there are several values; None of no rows."""
    values = rows.dropna(subset=[y]).groupby(x)[y].agg(["mean", "min", "max"])
    if values.empty:
        return None
    (line,) = ax.plot(values.index, values["mean"], **style)
    if (values["max"] > values["min"]).any():
        ax.fill_between(values.index, values["min"], values["max"], color=line.get_color(), alpha=0.18, linewidth=0)
    return line


def draw_points(ax: Axes, rows: pd.DataFrame, x: str, column: str, label: str, names: dict[Any, str]) -> None:
    """Errors of one arm by the values of x: every run a point, their mean a line; training filled and dashed.

    Values of x that have `names` are evenly spaced in that order, numbers without stand where they belong.
    """
    (network,) = rows["network"].unique()
    place = rows[x].map({value: place for place, value in enumerate(names)}) if names else rows[x]
    colour, training = colour_of(network), column == "train_error"
    style = {"marker": MARKERS[network], "markerfacecolor": colour if training else "white", "color": colour}
    dashes = DASHED if training else "-"
    means = rows.groupby(place)[column].mean()
    ax.plot(place, rows[column], linestyle="none", markersize=5, **style)
    ax.plot(means.index, means, color=colour, linestyle=dashes, linewidth=1.2)
    ax.plot([], [], linestyle=dashes, linewidth=1.2, markersize=5, label=label, **style)
    if names:
        ax.set_xticks(range(len(names)), list(names.values()))
        ax.set_xlim(-0.5, len(names) - 0.5)


def from_zero(axes: Sequence[Axes], label: str) -> None:
    """Vertical axes alike, from 0 to a little above all that is drawn."""
    axes[0].set_ylabel(label)
    top = max(ax.dataLim.ymax for ax in axes)
    for ax in axes:
        ax.set_ylim(0, 1.12 * top)


def whole_numbers(ax: Axes, label: str) -> None:
    """An axis of layers or blocks."""
    ax.set_xlabel(label)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))


def _curves(ax: Axes, curves: pd.DataFrame, network: str, depth: int, column: str) -> Line2D | None:
    training = column == "train_error"
    rows = curves[(curves["network"] == network) & (curves["depth"] == depth)]
    style = {"linestyle": DASHED, "linewidth": 1.2} if training else {"linestyle": "-", "linewidth": 1.8}
    label = f"{network}-{depth} {'training' if training else 'test'}"
    return draw_band(ax, rows, "thousands", column, color=colour_of(network, depth), label=label, **style)


def _read_curves(runs: pd.DataFrame) -> pd.DataFrame:
    return gather(runs, lambda folder: load_metrics(folder).assign(thousands=lambda rows: rows["iteration"] / 1000))


def _zoom(ax: Axes, curves: pd.DataFrame, condition: str) -> None:
    # The paper shows 0 to 20 %. Other protocols end elsewhere: from 0 to a little above where the second half starts.
    half = curves["iteration"] >= 0.3 * curves["iteration"].max()
    top = curves.loc[half, ["train_error", "test_error"]].max().max()
    ax.set_ylim(0, 20 if condition == "paper" else min(100, 1.08 * top))


def time_axis(ax: Axes) -> None:
    """An axis of thousands of iterations."""
    ax.set_xlabel("iterations (thousands)")
    ax.set_xlim(left=0)


def draw_figure1(table: pd.DataFrame) -> Figure | None:
    """Fig. 1: plain networks, training and test error

    Were the deeper network only overfitting, its training error (left) would be the lower one. Lines are means over
    seeds, bands their range; training error is running, test error in eval mode (%).
    """
    runs = finished(table)
    runs = runs[runs["network"] == "plain"]
    depths = two_depths(runs, ("plain",))
    if len(depths) < 2:
        return None
    curves = _read_curves(runs)
    figure, axes = new_figure(8.5, 3.6, 2, sharey=True)
    for ax, column, title in zip(axes, ("train_error", "test_error"), ("training error", "test error"), strict=True):
        for depth in depths:
            line = _curves(ax, curves, "plain", depth, column)
            if line is not None:
                end, style = line.get_xydata()[-1], {"color": colour_of("plain", depth), "ha": "right"}  # type: ignore[index]
                ax.annotate(f"{depth} layers", end, xytext=(-4, 11), textcoords="offset points", **style)
        time_axis(ax)
        ax.set_title(f"plain networks, {title}")
    axes[0].set_ylabel("error (%)")
    _zoom(axes[0], curves, table["condition"].iloc[0])
    write_caption(figure, describe(runs[runs["depth"].isin(depths)], left_out(table)))
    return figure


def draw_figure6(table: pd.DataFrame) -> Figure | None:
    """Fig. 6: plain and residual networks

    Plain networks get worse with depth, on the training set too; their residual twins, equal in all but the shortcut,
    do not or less so. Dashed training error (running), solid test error; means over seeds and their range.
    """
    runs = finished(table)
    if runs.empty:
        return None
    curves, names = _read_curves(runs), with_n(runs)
    figure, axes = new_figure(10, 4.2, 2, sharey=True)
    for ax, network in zip(axes, ARMS, strict=True):
        depths = sorted(runs.loc[runs["network"] == network, "depth"].unique())
        for depth in depths:
            for column in ("train_error", "test_error"):
                _curves(ax, curves, network, depth, column)
        key = [Line2D([], [], color=colour_of(network, d), linewidth=3, label=names[network, d]) for d in depths]
        dashes = [("training", DASHED, 1.2), ("test", "-", 1.8)]
        key += [Line2D([], [], color="0.3", linestyle=dash, linewidth=w, label=name) for name, dash, w in dashes]
        ax.legend(handles=key, loc="lower left", ncols=2)
        ax.set_title(f"{network} networks")
        time_axis(ax)
    axes[0].set_ylabel("error (%)")
    _zoom(axes[0], curves, table["condition"].iloc[0])
    write_caption(figure, describe(runs, left_out(table)))
    return figure


def draw_error_by_depth(table: pd.DataFrame) -> Figure | None:
    """Final error by depth

    Fig. 6 in one look: each point is a seed's error at the last iteration, each line the mean of an arm.
    """
    runs = finished(table)
    depths = sorted(runs["depth"].unique())
    if len(depths) < 2:
        return None
    figure, axes = new_figure(8.5, 3.6, 2)
    for ax, column, title in zip(axes, ("train_error", "test_error"), ("training error", "test error"), strict=True):
        for network, rows in runs.groupby("network"):
            draw_points(ax, rows, "depth", column, network, {depth: str(depth) for depth in depths})
        ax.set_xlabel("depth (weighted layers)")
        ax.set_title(f"final {title}")
        ax.legend()
    from_zero(axes, "error (%)")
    write_caption(figure, describe(runs, left_out(table)))
    return figure


def draw_figure7(table: pd.DataFrame) -> Figure | None:
    """Fig. 7: standard deviation of layer responses

    Of every 3x3 layer's output after BN, before ReLU or addition, on the test set in eval mode, pooled over images,
    positions and channels; left in order of depth, right sorted by size. Means over seeds, bands their range.
    """
    runs = finished(table)
    if runs.empty:
        return None
    return draw_responses(gather(runs, load_responses), describe(runs, left_out(table)), with_n(runs))


def draw_responses(rows: pd.DataFrame, caption: str, names: dict[tuple[str, int], str] | None = None) -> Figure:
    """Fig. 7 of one network or several: rows of responses.csv, of several with columns network, depth and seed.

    Of one network BN's gamma stands beside the std, and lines where its stages begin.
    """
    figure, axes = new_figure(10, 4.0, 2, sharey=True)
    alone = "network" not in rows
    rows = rows.assign(network="", depth=0, seed=0) if alone else rows
    rows = rows.assign(rank=rows.groupby(["network", "depth", "seed"])["std"].rank(method="first", ascending=False))
    for (network, depth), part in rows.groupby(["network", "depth"]):
        style = {"color": "0.1", "marker": "."} if alone else style_of(network, depth, part["layer"].nunique())
        for ax, x in zip(axes, ("layer", "rank"), strict=True):
            draw_band(ax, part, x, "std", linewidth=1.5, label=f"{network}-{depth}" if names else "std", **style)
    if alone:
        mark_stages(axes[0], rows["stage"])
        if rows["gamma_rms"].notna().any():
            draw_band(
                axes[0],
                rows,
                "layer",
                "gamma_rms",
                label="BN gamma, root mean square",
                **{**NEUTRAL[1], "marker": None},
            )
            axes[0].legend()
    whole_numbers(axes[0], "layer index (original order)")
    whole_numbers(axes[1], "layer index (sorted by std)")
    from_zero(axes, "std of responses")
    if rows["std"].max() > 30 * rows["std"].min() > 0:  # plain-110's would hide all others'
        axes[0].set_yscale("log")
        axes[0].autoscale(axis="y")
    if names:
        axes[1].legend(axes[1].get_lines(), names.values(), ncols=2)
    axes[0].set_title("3x3 layers, after BN, before ReLU or addition", fontsize=10, pad=16 if alone else None)
    axes[1].set_title("the same, sorted", fontsize=10)
    write_caption(figure, caption)
    return figure


def mark_stages(ax: Axes, stages: pd.Series) -> None:
    """Thin lines where a stage begins, and its number above; places are counted from 1, stage 0 is the stem."""
    numbers = stages.to_numpy()
    for stage in sorted({*numbers} - {0}):
        places = np.flatnonzero(numbers == stage) + 1
        if (numbers[: places[0] - 1] > 0).any():
            ax.axvline(places[0] - 0.5, color="0.75", linewidth=0.8)
        where = {"xycoords": ("data", "axes fraction"), "xytext": (0, 3), "textcoords": "offset points"}
        ax.annotate(f"stage {stage}", (places.mean(), 1), ha="center", fontsize=8, color="0.35", **where)
