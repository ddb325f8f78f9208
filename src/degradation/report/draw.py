"""One style for every figure, and the paper's own: each takes a condition's table and returns a figure, or None.

An arm has one hue and one marker, a depth one luminance in that hue (deeper is darker), dashed is training error and
solid anything else. Whatever else a figure compares (settings, moments, parts) is told apart by NEUTRAL.
"""

import textwrap
from collections.abc import Callable, Iterable, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from degradation.record import load_metrics, load_responses
from degradation.report.table import ARMS, PROTOCOLS, finished, gather, select

# Of 8, 50 and 110 layers: the lightest has a contrast of 3.3 to 1 on white, the darkest one of 18.
HUES = {"plain": ("#e2605a", "#a31c2a", "#2e0308"), "residual": ("#4a90d0", "#1b5199", "#051226")}
SHARES = {8: 0.0, 20: 0.1, 50: 0.5, 110: 1.0}  # depth -> how far along the three; in between by its logarithm
MARKERS = {"plain": "o", "residual": "s"}
DASHED: Any = (0, (3, 1.5))
NEUTRAL: tuple[dict[str, Any], ...] = (
    {"color": "0.0", "linestyle": "-", "marker": "^"},
    {"color": "0.4", "linestyle": "-.", "marker": "D"},
    {"color": "0.55", "linestyle": ":", "marker": "v"},
)
KINDS = {"train_error": "training", "test_error": "test"}
mpl.rcParams.update({"axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.25})
mpl.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "degradation"})


def colour_of(network: str, depth: int = 20) -> str:
    """An arm's hue at the luminance of a depth, the same in every figure."""
    share = np.interp(np.log(depth), np.log(list(SHARES)), list(SHARES.values()))
    return to_hex(LinearSegmentedColormap.from_list(network, HUES[network], 20_001)(float(share)))


def style_of(network: str, depth: int = 20, points: int = 0) -> dict[str, Any]:
    """Colour and marker of a network's line; with `points`, about ten markers on a line of so many."""
    every = max(1, points // 10)
    return {"color": colour_of(network, depth), "marker": MARKERS[network], "markersize": 4, "markevery": every}


def new_figure(
    width: float, height: float, columns: int, sharey: Any = False, rows: int = 1
) -> tuple[Figure, list[Axes]]:
    """A figure of rows x columns panels, and its axes row by row; sizes in inches."""
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, list(figure.subplots(rows, columns, squeeze=False, sharey=sharey).flat)


def save(figure: Figure, folder: Path, name: str) -> None:
    """Write name.png and name.svg; the same data give the same bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    figure.savefig(folder / f"{name}.png", dpi=150, metadata={"Software": None})
    figure.set_layout_engine("none")  # laid out already, which takes as long as the drawing
    figure.savefig(folder / f"{name}.svg", metadata={"Date": None})


def write_caption(figure: Figure, text: str) -> Figure:
    """The line under every figure, broken where the figure is too narrow for it; the figure itself is returned."""
    figure.supxlabel(textwrap.fill(text, int(16 * figure.get_figwidth())), fontsize=8, color="0.35")
    return figure


def describe(runs: pd.DataFrame, what: str = "") -> str:
    """The line on every figure, of the runs in it: protocol, iterations, data, n seeds, who diverged."""
    condition, lengths = runs["condition"].iloc[0], sorted(runs["iterations"].unique())
    counts = runs.groupby(["label", "variation"])["seed"].nunique()
    n = " to ".join(str(n) for n in sorted({counts.min(), counts.max()}))
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
    diverged = (select(table, {})["outcome"] != "finished").sum()
    return f"{diverged} diverged and not shown" if diverged else ""


def two_depths(runs: pd.DataFrame, arms: Sequence[str] = ARMS) -> list[int]:
    """Fig. 1's depths, 20 and 56, where all arms have both; else the shallowest and the deepest that all arms have."""
    common = sorted(set.intersection(*({*runs.loc[runs["network"] == arm, "depth"]} for arm in arms)))
    return [20, 56] if {20, 56} <= {*common} else sorted({*common[:1], *common[-1:]})


def with_n(runs: pd.DataFrame) -> pd.Series:
    """The label of each run, with n where it is not the same for all networks."""
    n = runs.groupby("label")["seed"].transform("nunique").astype(str)
    return runs["label"] + (" (n = " + n + ")" if n.nunique() > 1 else "")


def draw_band(ax: Axes, rows: pd.DataFrame, x: str, y: str, **style: Any) -> None:
    """The mean of y at every x as a line, and its range as a band where there are several values."""
    values = rows.dropna(subset=[y]).groupby(x)[y].agg(["mean", "min", "max"])
    ax.plot(values.index, values["mean"], **style)
    if (values["max"] > values["min"]).any():
        ax.fill_between(values.index, values["min"], values["max"], color=style["color"], alpha=0.18, linewidth=0)


def draw_points(ax: Axes, rows: pd.DataFrame, x: str, y: str, **style: Any) -> None:
    """Every value of y a point, filled where dashed (training), and their mean a line."""
    look = {key: style[key] for key in ("color", "marker")}
    look |= {"markersize": 5, "markerfacecolor": style["color"] if style.get("linestyle") == DASHED else "white"}
    line = {"linestyle": style.get("linestyle", "-"), "linewidth": 1.2}
    means = rows.groupby(x)[y].mean()
    ax.plot(means.index, means, color=style["color"], **line)
    ax.plot(rows[x], rows[y], linestyle="none", **look)
    ax.plot([], [], label=style["label"], **look, **line)


def draw_facets(
    rows: pd.DataFrame,
    x: str,
    y: str,
    labels: tuple[str, Any],
    size: tuple[float, float] = (4.2, 3.2),
    sharey: Any = True,
    styles: dict[Any, dict[str, Any]] | None = None,
    plot: Callable[..., None] = draw_band,
) -> tuple[Figure, list[Axes]]:
    """A panel for each `row` and `column` of the rows, in the order of their coming; in it a plot of each `line`.

    Panels without data are left out. A panel's title is its `title`, else its column. A line has the style of its
    `style`, if there are any, else of its network and depth, and dashes where its `kind` is training. Labels are those
    of the axes, the second one for all rows or a dict; size is that of a panel in inches.
    """
    rows = rows.assign(row=rows.get("row", ""), title=rows.get("title", rows["column"]))
    down, along = (list(dict.fromkeys(rows[place])) for place in ("row", "column"))
    figure, axes = new_figure(1 + size[0] * len(along), 0.8 + size[1] * len(down), len(along), sharey, len(down))
    panels = dict(zip(product(down, along), axes, strict=True))
    for place, part in rows.groupby(["row", "column"], sort=False):
        ax = panels.pop(place)
        for label, line in part.groupby("line", sort=False):
            first = line.iloc[0]
            style = styles[first["style"]] if styles else style_of(first["network"], first["depth"], line[x].nunique())
            if (kind := first.get("kind")) in KINDS.values():
                told = {"linestyle": DASHED, "linewidth": 1.2} if kind == "training" else {"linewidth": 1.8}
                style = {**style, **told, "marker": style["marker"] if plot is draw_points else None}
            plot(ax, line, x, y, **{"linewidth": 1.4, "label": label, **style})
        ax.set(title=part["title"].iloc[0], xlabel=labels[0])
        if x == "thousands":
            ax.set_xlim(left=0)
        elif (rows[x] % 1 == 0).all():
            ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        if place[1] == along[0]:
            ax.set_ylabel(labels[1] if isinstance(labels[1], str) else labels[1][place[0]])
    for ax in panels.values():
        ax.remove()
    return figure, figure.axes


def one_legend(figure: Figure, axes: Iterable[Axes]) -> None:
    """Above all panels, what stands for the same in each."""
    found = {label: handle for ax in axes for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)}
    figure.legend(found.values(), found.keys(), ncols=4, loc="outside upper center")


def melt_errors(runs: pd.DataFrame) -> pd.DataFrame:
    """A row for each training and test error: `kind` names it, `error` is its value (%)."""
    return pd.concat([runs.assign(kind=kind, error=runs[column]) for column, kind in KINDS.items()])


def draw_errors(rows: pd.DataFrame, x: str, names: dict[Any, str], xlabel: str) -> tuple[Figure, list[Axes]]:
    """Final errors by the values of x, a panel per `column`: every run a point, their mean a line; training filled.

    The rows are those of melt_errors; `line` is said in the legend. Values of x that have `names` are evenly spaced in
    that order, numbers without stand where they belong.
    """
    place = rows[x].map({value: place for place, value in enumerate(names)}) if names else rows[x]
    labels = (xlabel, "final error (%)")
    figure, axes = draw_facets(rows.assign(place=place), "place", "error", labels, (4, 2.8), plot=draw_points)
    for ax in axes:
        ax.legend()
        if names:
            ax.set_xticks(range(len(names)), list(names.values()))
            ax.set_xlim(-0.5, len(names) - 0.5)
    from_zero(axes, labels[1])
    return figure, axes


def from_zero(axes: Sequence[Axes], label: str) -> None:
    """Vertical axes alike, from 0 to a little above all that is drawn."""
    axes[0].set_ylabel(label)
    top = max([ax.dataLim.ymax for ax in axes if np.isfinite(ax.dataLim.ymax)], default=1.0)
    for ax in axes:
        ax.set_ylim(0, 1.12 * top)


def _draw_curves(runs: pd.DataFrame, column: Callable[[pd.DataFrame], pd.Series]) -> tuple[Figure, list[Axes]]:
    curves = melt_errors(gather(runs, load_metrics)).dropna(subset=["error"])
    curves = curves.assign(thousands=curves["iteration"] / 1000, line=curves["label"] + " " + curves["kind"])
    labels = ("iterations (thousands)", "error (%)")
    figure, axes = draw_facets(curves.assign(column=column), "thousands", "error", labels, (4.6, 3.3))
    # The paper shows 0 to 20 %. Other protocols end elsewhere: from 0 to a little above where the second half starts.
    top = curves.loc[curves["iteration"] >= 0.3 * curves["iteration"].max(), "error"].max()
    axes[0].set_ylim(0, 20 if runs["condition"].iloc[0] == "paper" else min(100, 1.08 * top))
    return figure, axes


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
    runs = runs[runs["depth"].isin(depths)]
    figure, axes = _draw_curves(runs, lambda rows: "plain networks, " + rows["kind"] + " error")
    for ax in axes:
        for line, depth in zip(ax.get_lines(), depths, strict=True):
            x, y = np.asarray(line.get_xydata())[-1]
            told: dict[str, Any] = {"color": line.get_color(), "ha": "right"}
            ax.annotate(f"{depth} layers", (x, y), (-4, 11), textcoords="offset points", **told)
    return write_caption(figure, describe(runs, left_out(table)))


def draw_figure6(table: pd.DataFrame) -> Figure | None:
    """Fig. 6: plain and residual networks

    The paper's claim: plain networks get worse with depth, on the training set too; their residual twins, equal in all
    but the shortcut, do not. Dashed training error (running), solid test error; means over seeds and their range.
    """
    runs = finished(table)
    if runs.empty:
        return None
    figure, axes = _draw_curves(runs, lambda rows: rows["network"] + " networks")
    dashes = [("training", DASHED, 1.2), ("test", "-", 1.8)]
    key = [Line2D([], [], color="0.3", linestyle=dash, linewidth=width, label=name) for name, dash, width in dashes]
    arms = runs.assign(name=with_n(runs)).groupby(["network", "depth"])["name"].first()
    for ax, (_, names) in zip(axes, arms.groupby("network"), strict=True):
        shades = [Line2D([], [], color=colour_of(*arm), linewidth=3, label=name) for arm, name in names.items()]
        ax.legend(handles=[*shades, *key], loc="lower left", ncols=2)
    return write_caption(figure, describe(runs, left_out(table)))


def draw_error_by_depth(table: pd.DataFrame) -> Figure | None:
    """Final error by depth

    Fig. 6 in one look: each point is a seed's error at the last iteration, each line the mean of an arm.
    """
    runs = finished(table)
    depths = {depth: str(depth) for depth in sorted(runs["depth"].unique())}
    if len(depths) < 2:
        return None
    errors = melt_errors(runs).assign(column=lambda rows: rows["kind"] + " error", line=lambda rows: rows["network"])
    figure, _ = draw_errors(errors, "depth", depths, "depth (weighted layers)")
    return write_caption(figure, describe(runs, left_out(table)))


def draw_figure7(table: pd.DataFrame) -> Figure | None:
    """Fig. 7: standard deviation of layer responses

    Of every 3x3 layer's output after BN, before ReLU or addition, on the test set in eval mode, pooled over images,
    positions and channels; left in order of depth, right sorted by size. Means over seeds, bands their range.
    """
    runs = finished(table)
    if runs.empty:
        return None
    rows = gather(runs.assign(line=with_n(runs)), load_responses)
    return draw_responses(rows, describe(runs, left_out(table)))


def draw_responses(rows: pd.DataFrame, caption: str) -> Figure:
    """Fig. 7 of one network, the rows of its responses.csv, or of several: those with network, depth, seed and line.

    Of one network BN's gamma stands beside the std, and lines where its stages begin.
    """
    alone = "network" not in rows
    rows = rows.assign(line="std", seed=0, style=0) if alone else rows
    ranks = rows.groupby(["line", "seed"])["std"].rank(method="first", ascending=False)
    titles = ("3x3 layers, after BN, before ReLU or addition", "the same, sorted by std")
    places = zip(titles, (rows["layer"], ranks), strict=True)
    both = pd.concat([rows.assign(column=title, place=place) for title, place in places])
    labels, styles = ("layer index", "std of responses"), {0: {"color": "0.1", "marker": "."}} if alone else None
    figure, axes = draw_facets(both, "place", "std", labels, (4.6, 3.3), styles=styles)
    from_zero(axes, "std of responses")
    if rows["std"].max() > 30 * rows["std"].min() > 0:  # plain-110's would hide all others'
        axes[0].set_yscale("log")
        axes[0].autoscale(axis="y")
    if alone:
        mark_stages(axes[0], rows["stage"])
        if rows["gamma_rms"].notna().any():
            axes[0].plot(rows["layer"], rows["gamma_rms"], "-.", color="0.4", label="BN gamma, root mean square")
    axes[0 if alone else 1].legend(ncols=1 if alone else 2)
    return write_caption(figure, caption)


def mark_stages(ax: Axes, stages: pd.Series) -> None:
    """Thin lines where a stage begins, and its number above; places are counted from 1, stage 0 is the stem."""
    numbers, font = stages.to_numpy(), {"size": 8, "color": "0.35"}
    for stage in sorted({*numbers} - {0}):
        places = np.flatnonzero(numbers == stage) + 1
        if (numbers[: places[0] - 1] > 0).any():
            ax.axvline(places[0] - 0.5, color="0.75", linewidth=0.8)
        ax.text(places.mean(), 1.01, f"stage {stage}", font, ha="center", transform=ax.get_xaxis_transform())
    ax.set_title(ax.get_title(), pad=16)
