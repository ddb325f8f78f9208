"""One style for every figure, and the paper's own: each takes a condition's table and returns a figure, or None.

An arm has one hue and one marker, a depth one luminance, the same in both hues (deeper is darker); dashed is training
error or loss and solid anything else. Whatever else a figure compares (settings, moments, parts) is told apart by
NEUTRAL. One legend above all panels says what they have in common.
"""

import math
import textwrap
from collections.abc import Callable, Iterable, Sequence
from itertools import product, zip_longest
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_pdf import FigureCanvasPdf
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.colors import LinearSegmentedColormap, to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import (
    LogFormatterSciNotation,
    LogLocator,
    MaxNLocator,
    NullFormatter,
    NullLocator,
    StrMethodFormatter,
)
from scipy import stats

from degradation.record import load_metrics, load_responses
from degradation.report.table import PAPER_RESIDUAL, PROTOCOLS, finished, gather, select
from degradation.report.verdicts import LEVEL

# Equal steps in lightness, 58, 36 and 13 of 100 (CIELAB): the lightest has a contrast of 3.4 to 1 on white.
HUES = {"plain": ("#ea5c5d", "#a6192b", "#4c0008"), "residual": ("#3f8bf2", "#0253a9", "#01214a")}
SHARES = {8: 0.0, 20: 0.1, 50: 0.5, 110: 0.85, 1202: 1.0}  # depth -> how far along the three; between by its logarithm
MARKERS = {"plain": "o", "residual": "s"}
DASHED: Any = (0, (3, 1.5))
NEUTRAL: tuple[dict[str, Any], ...] = (
    {"color": "0.0", "linestyle": "-", "marker": "^", "markersize": 4},
    {"color": "0.4", "linestyle": "-.", "marker": "D", "markersize": 4},
    {"color": "0.55", "linestyle": ":", "marker": "v", "markersize": 4},
    {"color": "0.7", "linestyle": (0, (5, 1, 1, 1, 1, 1)), "marker": "x", "markersize": 4},
)
KINDS = {"train_error": "training", "test_error": "test"}
PAPER_TOP = 20  # %: how far the axes of Fig. 1 and 6 go
PLACE = "place"  # of a value that has a name, from 0
KIND_LOOKS = {"training": {"linestyle": DASHED, "linewidth": 1.2}, "test": {"linestyle": "-", "linewidth": 1.8}}
# Pixels per inch: a figure is as many pixels wide in every size, and on the smaller paper text and lines are larger.
SIZES = {"page": 150, "lecture": 195}
CANVASES = (
    ("png", "Software", FigureCanvasAgg),
    ("svg", "Date", FigureCanvasSVG),
    ("pdf", "CreationDate", FigureCanvasPdf),
)
mpl.rcParams.update({"axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.25})
mpl.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "degradation", "pdf.fonttype": 42})
mpl.rcParams.update({"savefig.dpi": SIZES["page"], "legend.frameon": False})


def colour_of(network: str, depth: int = 20) -> str:
    """An arm's hue at the luminance of a depth, the same in every figure."""
    share = np.interp(np.log(depth), np.log(list(SHARES)), list(SHARES.values()))
    return to_hex(LinearSegmentedColormap.from_list(network, HUES[network], 20_001)(float(share)))


def style_of(network: str, depth: int = 20) -> dict[str, Any]:
    """Colour and marker of a network's line."""
    return {"color": colour_of(network, depth), "marker": MARKERS[network], "markersize": 4}


def new_figure(
    width: float, height: float, columns: int, sharey: Any = False, rows: int = 1
) -> tuple[Figure, list[Axes]]:
    """A figure of rows x columns panels, and its axes row by row; sizes in inches of a page."""
    scale = SIZES["page"] / mpl.rcParams["savefig.dpi"]
    figure = Figure(figsize=(scale * width, (1 + scale) / 2 * height), layout="constrained")
    return figure, list(figure.subplots(rows, columns, squeeze=False, sharey=sharey).flat)


def save(figure: Figure, folder: Path, name: str) -> None:
    """Write name.png, name.svg and name.pdf; the same data give the same bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    figure.set_dpi(mpl.rcParams["savefig.dpi"])
    for kind, undated, canvas in CANVASES:
        path = folder / f"{name}.{kind}"
        try:  # what savefig does, which draws everything twice
            getattr(canvas(figure), f"print_{kind}")(path, metadata={undated: None})
        except OSError as error:  # a full disk, say, which names no file
            raise OSError(error.errno, error.strerror, str(path)) from error
        figure.set_layout_engine("none")  # laid out already, which takes as long as the drawing


def write_caption(figure: Figure, text: str) -> Figure:
    """The line under every figure, broken where the figure is too narrow for it; the figure itself is returned."""
    figure.supxlabel(textwrap.fill(text, int(16 * figure.get_figwidth())), fontsize=8, color="0.35")
    return figure


def describe(runs: pd.DataFrame, what: str = "", n: str = "", ranged: bool = False) -> str:
    """The line on every figure, of the runs in it: protocol, iterations, data, n seeds, who diverged.

    `ranged`: means and ranges are drawn, which the line says where there are several seeds.
    """
    condition, lengths = runs["condition"].iloc[0], sorted(runs["iterations"].unique())
    counts = runs.groupby(["label", "variation"])["seed"].nunique()
    seeds = " to ".join(str(count) for count in sorted({counts.min(), counts.max()}))
    trained = f": {' or '.join(f'{n:,}' for n in lengths)} iteration{'s' if lengths != [1] else ''}"
    diverged = (runs["outcome"] != "finished").sum()
    precision = _among(runs["precision"])
    parts = [
        f"protocol {condition}{trained if len(lengths) < 3 else ''} on {_among(runs['data'])}",
        precision if precision not in condition else "",
        n or f"n = {seeds} seed{'s' if counts.max() > 1 else ''} each",
        "mean and range over seeds" if ranged and counts.max() > 1 else "",
        f"{diverged} diverged (their error is that of guessing)" if diverged else "",
        describe_warmup(runs),
        what,
    ]
    note = PROTOCOLS.get(condition.split(" ")[0], "")
    return ", ".join(part for part in parts if part) + (f" ({note})" if note else "")


def _among(values: pd.Series) -> str:
    return " and ".join(sorted(values.dropna().unique()))


def describe_warmup(runs: pd.DataFrame) -> str:
    """The schedule that deep networks really had: when the warm-up of each ended, if it did."""
    warmed = runs[(runs["depth"] >= runs["protocol.warmup.min_depth"]) & (runs["iterations"] > 1)]
    told = []
    for label, networks in warmed.groupby("label"):
        ends = networks["warmup_ended_at"]
        shares = (networks["protocol.warmup.lr"] / networks["protocol.lr"])[ends.isna()].unique()
        never = f"never ended (at {' or '.join(f'{share:.2g}' for share in sorted(shares))} of the rate throughout)"
        span = " to ".join(f"{at:,.0f}" for at in sorted({ends.min(), ends.max()}) if pd.notna(at))
        kinds = [f"ended at iteration {span}"] * bool(span) + [never] * bool(ends.isna().any())
        told.append(f"{label} {' or '.join(kinds)}")
    return f"warm-up of {', '.join(told)}" if told else ""


def left_out(table: pd.DataFrame) -> str:
    """For the captions of figures that show finished runs alone."""
    diverged = (select(table, {})["outcome"] != "finished").sum()
    return f"{diverged} diverged and not shown" if diverged else ""


def with_n(runs: pd.DataFrame) -> pd.Series:
    """The label of each run, with n where it is not the same for all networks."""
    n = runs.groupby("label")["seed"].transform("nunique").astype(str)
    return runs["label"] + (" (n = " + n + ")" if n.nunique() > 1 else "")


def draw_band(ax: Axes, rows: pd.DataFrame, x: str, y: str, **style: Any) -> None:
    """The mean of y at every x as a line, and its range as a band where there are several values."""
    values = rows.dropna(subset=[y]).groupby(x)[y].agg(["mean", "min", "max"])
    if style.get("marker") and style.get("linestyle") != "none":
        style["markevery"] = max(1, len(values) // 8)
    ax.plot(values.index, values["mean"], **style)
    if len(values) == 1:
        ax.vlines(values.index, values["min"], values["max"], color=style["color"], linewidth=1)
    elif (values["max"] > values["min"]).any():
        ax.fill_between(values.index, values["min"], values["max"], color=style["color"], alpha=0.18, linewidth=0)


def draw_points(ax: Axes, rows: pd.DataFrame, x: str, y: str, **style: Any) -> None:
    """Every value of y a point of its network's colour, filled where dashed (training); lines join those of a seed.

    A mean over seeds would bend where not all were run, and flatter where one has no value. Of places that have names
    neighbours alone are joined: a line across one would look like a value there.
    """
    for _, run in rows.sort_values(x).groupby("pair"):
        gaps = (run[x].diff() > 1).cumsum() if x == PLACE else np.zeros(len(run))
        for _, joined in run.groupby(gaps):
            ax.plot(joined[x], joined[y], **{**style, "marker": None, "linewidth": 1, "alpha": 0.7})
    for (network, depth), points in rows.groupby(["network", "depth"]):
        look = {**style_of(network, depth), "markersize": 5, "linestyle": "none"}
        filled = look["color"] if style.get("linestyle") == DASHED else "white"
        ax.plot(points[x], points[y], markerfacecolor=filled, **look)


def draw_intervals(ax: Axes, rows: pd.DataFrame, x: str, y: str, **style: Any) -> None:
    """The mean of y at every x with its 95 % interval (Student's t), and every value a small point."""
    values = rows.groupby(x)[y].agg(["mean", "std", "count"])
    half = stats.t.ppf((1 + LEVEL) / 2, values["count"] - 1) * values["std"] / np.sqrt(values["count"])
    ax.errorbar(values.index, values["mean"], yerr=half, capsize=4, **style)
    ax.plot(rows[x], rows[y], ".", color=style["color"], alpha=0.5)


def draw_facets(
    rows: pd.DataFrame,
    x: str,
    y: str,
    labels: tuple[Any, Any],
    size: tuple[float, float] = (4.2, 3.2),
    sharey: Any = True,
    styles: dict[Any, dict[str, Any]] | None = None,
    plot: Callable[..., None] = draw_band,
    named: bool = False,
) -> tuple[Figure, list[Axes]]:
    """A panel for each `row` and `column` of the rows, in the order of their coming; in it a plot of each `line`.

    Panels without data are left out; more than four in the only row are wrapped. A panel's title is its `title`, else,
    in the first row, its column. A line has the style of its `style` where there is one, else of its network and depth,
    and dashes where its `kind` is training. The legend says lines, and kinds where a panel has both. Labels are those
    of the axes, each for all rows or a dict; size is that of a panel in inches. `named` lines end in
    their depth.
    """
    given = {name: rows.get(name, "") for name in ("row", "title", "kind", "style")}
    rows, styles = rows.assign(**given), styles or {}
    key: dict[str, tuple[Any, Artist]] = {}
    rows["kind"] = rows["kind"].where(rows["kind"].isin(KIND_LOOKS), "")
    down, along = (list(dict.fromkeys(rows[place])) for place in ("row", "column"))
    across = len(along) if len(down) > 1 else math.ceil(len(along) / math.ceil(len(along) / 4))
    lines = math.ceil(len(down) * len(along) / across)
    figure, axes = new_figure(1 + size[0] * across, 1 + size[1] * lines, across, sharey, lines)
    places = list(product(down, along))
    parts = {place: part for place, part in rows.groupby(["row", "column"], sort=False)}
    for number, (ax, place) in enumerate(zip_longest(axes, places)):
        if place not in parts:
            ax.remove()
            continue
        for (label, kind), line in parts[place].groupby(["line", "kind"], sort=False):
            first = line.iloc[0]
            arm = (first["depth"], first["network"]) if first["style"] not in styles else (0, "")
            style = {"linewidth": 1.4, **(styles.get(first["style"]) or style_of(arm[1], arm[0]))}
            shown = dict(style)
            if kind:
                style |= KIND_LOOKS[kind]
                shown |= {"linestyle": "-", "linewidth": 3}
                if plot is draw_band and first["style"] not in styles:  # colours tell arms apart, where panels do not
                    style["marker"] = shown["marker"] = None
            if plot is draw_points:
                shown["linestyle"] = "none"
            key.setdefault(label, (arm, Line2D([], [], label=label, **shown)))
            plot(ax, line, x, y, **{"label": f"{label} {kind}".strip(), **style})
            if named:
                end = line[x].max(), line.loc[line[x] == line[x].max(), y].mean()
                told = {"size": 7, "color": style["color"], "va": "center", "annotation_clip": False}
                twin = parts[place][parts[place]["depth"] == first["depth"]]
                if len(twin := twin[twin["network"] != first["network"]]):  # whose line may end in the same place
                    theirs = twin.loc[twin[x] == twin[x].max(), y].mean()
                    above = end[1] > theirs or (end[1] == theirs and first["network"] == "plain")
                    told["va"] = "bottom" if above else "top"
                ax.annotate(str(first["depth"]), end, (4, 0), textcoords="offset points", **told)
        first = parts[place].iloc[0]
        ax.set_title(first["title"] or (place[1] if number < across else ""))
        xlabel, ylabel = (text.get(place[0], "") if isinstance(text, dict) else text for text in labels)
        below = number + across < len(places) and places[number + across] in parts
        if isinstance(labels[0], dict) or not below:
            ax.set_xlabel(xlabel)
        if number % across == 0:
            ax.set_ylabel(ylabel)
        if x == "thousands":
            ax.set_xlim(left=0)
        elif (rows[x] % 1 == 0).all():
            ax.xaxis.set_major_locator(MaxNLocator(integer=True))
            if rows[x].min() == 1:  # counted from 1
                ax.set_xlim(left=0.5)
    handles = [handle for _, handle in sorted(key.values(), key=lambda entry: entry[0])]
    if max(part["kind"].nunique() for part in parts.values()) > 1:
        handles += [Line2D([], [], color="0.3", label=kind, **look) for kind, look in KIND_LOOKS.items()]
    if len(handles) > 1:
        one_legend(figure, handles)
    return figure, figure.axes


def one_legend(figure: Figure, handles: Iterable[Artist]) -> None:
    """Above all panels, what stands for the same in each, in as few lines as the figure's width allows."""
    handles = list(handles)
    width = 0.6 + 0.075 * max(len(str(handle.get_label())) for handle in handles)
    lines = math.ceil(len(handles) / max(1, figure.get_figwidth() // width))
    figure.legend(handles=handles, ncols=math.ceil(len(handles) / lines), loc="outside upper center")


def melt(rows: pd.DataFrame, columns: dict[str, str] | Sequence[str], place: str) -> pd.DataFrame:
    """The rows once for each of these columns that there is: `value` is it, `place` its name, in words where a dict."""
    names = columns if isinstance(columns, dict) else dict(zip(columns, columns, strict=True))
    parts = [rows.assign(**{place: name, "value": rows[key]}) for key, name in names.items() if key in rows]
    return pd.concat(parts).dropna(subset=["value"])


def melt_errors(rows: pd.DataFrame, quantity: str = "error") -> pd.DataFrame:
    """A row for each training and each test error (%) or loss: `kind` names it, `value` is it."""
    return melt(rows, {column.replace("error", quantity): kind for column, kind in KINDS.items()}, "kind")


def mark_values(axes: Iterable[Axes], values: Iterable[float] | dict[float, str]) -> None:
    """Ticks at the values that there are; a logarithmic axis where a factor of eight would push small ones together.

    What stands beside an only value stays beside it.
    """
    names = values if isinstance(values, dict) else {value: f"{value:g}" for value in values}
    for ax in axes:
        if max(names) > 8 * min(names) > 0:
            ax.set_xscale("log")
        ax.set_xticks(list(names), list(names.values()))
        ax.xaxis.set_minor_locator(NullLocator())
        ax.margins(x=0.12)
        if min(names) == max(names) > 0:
            ax.set_xlim(0.5 * max(names), 1.5 * max(names))


def draw_errors(
    runs: pd.DataFrame, x: str, xlabel: str, names: dict[Any, str] | None = None
) -> tuple[Figure, list[Axes]]:
    """Final training error (left, filled) and test error (right) by the values of x: every run a point.

    The runs' `line` is said in the legend. Values of x that have `names` are evenly spaced in that order, numbers
    without stand where they belong.
    """
    place = runs[x].map({value: place for place, value in enumerate(names)}) if names else runs[x]
    at = PLACE if names else "at"  # not x, which may be a column that melting makes
    errors = melt_errors(runs.assign(**{at: place}))
    errors["column"] = errors["kind"] + " error"
    figure, axes = draw_facets(errors, at, "value", (xlabel, "final error (%)"), (4, 2.8), plot=draw_points)
    if names:
        slanted: dict[str, Any] = {"rotation": 20, "ha": "right"} if max(map(len, names.values())) > 24 else {}
        for ax in axes:
            ax.set_xticks(range(len(names)), list(names.values()), **slanted)
            ax.set_xlim(-0.5, len(names) - 0.5)
    else:
        mark_values(axes, runs[x])
    from_zero(axes)
    return figure, axes


def from_zero(axes: Sequence[Axes]) -> None:
    """Vertical axes alike, from 0 to a little above all that is drawn."""
    top = max([ax.dataLim.ymax for ax in axes if np.isfinite(ax.dataLim.ymax)], default=1.0)
    for ax in axes:
        ax.set_ylim(0, 1.08 * top)


def zoom(axes: Sequence[Axes], rows: pd.DataFrame, y: str) -> None:
    """Of the paper's protocol the axis by depth ends where Fig. 6's does; above it, means of y in words.

    There plain-110 (above 60 %) would hide what the others do. A panel for each `kind` of the rows, in their order.
    """
    if rows["protocol"].iloc[0] != "paper" or rows[y].max() <= PAPER_TOP:
        return
    for ax, (_, part) in zip(axes, rows.groupby("kind", sort=False), strict=True):
        ax.set_ylim(top=PAPER_TOP)
        means = part.groupby(["network", "depth"])[y].mean()
        for (network, depth), mean in means[means > PAPER_TOP].items():
            told: dict[str, Any] = {"color": colour_of(network, depth), "ha": "right", "va": "top"}
            ax.annotate(f"{mean:.0f} ↑", (depth, PAPER_TOP), **told)


def log_scale(axes: Sequence[Axes]) -> None:
    """Vertical axes alike and logarithmic, over a decade at least: a change by half must not look like a collapse."""
    lows, highs = [ax.dataLim.minposy for ax in axes], [ax.dataLim.ymax for ax in axes]
    low, high = min(lows), max(highs)
    if not 0 < low < high < np.inf:
        return
    room = max(1.2, math.sqrt(10 * low / high))
    for ax in axes:
        ax.set_yscale("log")
        ax.set_ylim(low / room, high * room)
        if high < 100 * low:  # numbers as they are read
            ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            powers = LogFormatterSciNotation(minor_thresholds=(np.inf, np.inf))
            ax.yaxis.set_major_formatter(StrMethodFormatter("{x:g}") if low >= 1e-3 and high < 1e4 else powers)
            ax.yaxis.set_minor_formatter(NullFormatter())


def draw_curves(
    runs: pd.DataFrame,
    column: Any,
    quantity: str = "error",
    styles: dict[Any, dict[str, Any]] | None = None,
    load: Callable[[Path], pd.DataFrame] = load_metrics,
) -> tuple[Figure, list[Axes]]:
    """Training (dashed) and test error or loss along training, of each `line` of the runs; means over seeds, range.

    `column` says the panels, given the rows. The paper shows errors of 0 to 20 %, so do figures of its protocol, and
    name what is beyond.
    """
    begun = (runs["outcome"] == "unfinished").any() and runs["train_error"].max() > PAPER_TOP  # all beyond, it may be
    zoomed = quantity == "error" and runs["protocol"].iloc[0] == "paper" and not begun
    if zoomed:
        last = runs.groupby("line")["train_error"].transform("mean")
        if "style" in runs:  # such lines may be of several networks
            last = last.where(runs["style"] == "")
        beyond = last.map(lambda error: f", at {error:.0f} %" if error > PAPER_TOP else "")
        runs = runs.assign(line=runs["line"] + beyond)
    curves = melt_errors(gather(runs, load), quantity)
    curves = curves.assign(thousands=curves["iteration"] / 1000).assign(column=column)
    labels = ("iterations (thousands)", "error (%)" if quantity == "error" else "loss (cross-entropy)")
    figure, axes = draw_facets(curves, "thousands", "value", labels, (4.6, 3.3), styles=styles)
    guessed = 1.3 * math.log(runs["network.classes"].max()) if quantity == "loss" else 100.0
    top = curves.loc[curves["iteration"] > curves["iteration"].min(), "value"].max()
    axes[0].set_ylim(0, PAPER_TOP if zoomed else min(guessed, 1.05 * top))
    if quantity == "loss":
        mark_guessing(axes, guessed / 1.3)
    return figure, axes


def mark_guessing(axes: Iterable[Axes], value: float) -> None:
    """A dotted line at the error or loss of guessing, where the axes go so far."""
    for ax in axes:
        if value <= ax.get_ylim()[1]:
            ax.axhline(value, color="0.6", linestyle=":", linewidth=1)
            place: dict[str, Any] = {"xycoords": ax.get_yaxis_transform(), "textcoords": "offset points"}
            ax.annotate("guessing", (0.99, value), (0, 2), ha="right", size=7, color="0.4", **place)


def draw_figure1(table: pd.DataFrame) -> Figure | None:
    """Fig. 1: plain networks, training and test error

    Training error (left, running) and test error (right, in eval mode) of plain networks along training, in percent.
    Lines are means over seeds, bands their range. If the deeper network were only overfitting, its training error would
    be the lower one.
    """
    runs = finished(table)
    runs = runs[(runs["network"] == "plain") & (runs["network.family"] == "cifar")]
    if runs["depth"].nunique() < 2:
        return None
    figure, _ = draw_curves(runs.assign(line=with_n(runs)), lambda rows: "plain networks, " + rows["kind"] + " error")
    return write_caption(figure, describe(runs, left_out(table)))


def draw_figure6(table: pd.DataFrame) -> Figure | None:
    """Fig. 6: plain and residual networks

    Training error (dashed, running) and test error (solid) of plain and residual networks along training. Lines are
    means over seeds, bands their range. The paper claims that plain networks get worse with depth, on the training set
    too, and that their residual twins, equal in all but the shortcut, do not.
    """
    runs = finished(table)
    runs = runs[runs["network.family"] == "cifar"]  # of the others, Fig. 4
    if runs.empty:
        return None
    figure, _ = draw_curves(runs.assign(line=with_n(runs)), lambda rows: rows["network"] + " networks")
    return write_caption(figure, describe(runs, left_out(table)))


def draw_unfinished(runs: pd.DataFrame) -> Figure:
    """Runs that are not finished, of one protocol, as table.unfinished_runs has them: their curves so far.

    A panel for each arm, and where there are several variants, seeds or precisions, for each of these.
    """
    panel, name = runs["network"] + " networks", runs["label"]
    for column, word in {"told": "", "seed": "seed ", "precision": ""}.items():
        if runs[column].nunique() > 1:
            mark = word + runs[column].astype(str).replace("", "nothing varied")
            panel, name = panel + ", " + mark, name + " " + mark
    runs = runs.assign(line=runs["label"], panel=panel, name=name)
    figure, axes = draw_curves(runs, lambda rows: rows["panel"])
    for ax in axes:
        ax.set_xlim(0, runs["iterations"].max() / 1000)
    far = runs[["name", "iteration", "iterations"]].itertuples(index=False, name=None)
    told = ", ".join(f"{name} at {at:,} of {end:,}" for name, at, end in far)
    protocol = runs["protocol"].iloc[0]
    seed = f", seed {runs['seed'].iloc[0]}" if runs["seed"].nunique() == 1 else ""
    note = f" ({PROTOCOLS[protocol]})" if protocol in PROTOCOLS else ""
    where = f"protocol {protocol} on {_among(runs['data'])}, {_among(runs['precision'])}{seed}{note}"
    return write_caption(figure, f"{where}; not finished, so no evidence yet: {told} iterations")


def draw_loss(table: pd.DataFrame) -> Figure | None:
    """The loss along training: what is minimised, and the same on test images

    Cross-entropy along training: training loss (dashed) is running, over the mini-batches, and test loss (solid) is in
    eval mode. Lines are means over seeds, bands their range. The vertical axis ends at most a little above the loss of
    guessing. If the deeper plain network were only overfitting, its training loss would be the lower one and its test
    loss far above it.
    """
    runs = finished(table)
    if runs.empty:
        return None
    figure, _ = draw_curves(runs.assign(line=with_n(runs)), lambda rows: rows["network"] + " networks", "loss")
    return write_caption(figure, describe(runs, left_out(table)))


def draw_error_by_depth(table: pd.DataFrame) -> Figure | None:
    """Final error by depth

    Final errors by depth, training error on the left: points are final errors, and lines join the networks of a seed.
    The figure shows degradation in one look.
    """
    runs = finished(table)
    if runs["depth"].nunique() < 2:
        return None
    figure, axes = draw_errors(runs.assign(line=runs["network"]), "depth", "depth (weighted layers)")
    if runs["protocol"].iloc[0] == "paper":
        theirs = {depth: error for depth, error in PAPER_RESIDUAL.items() if depth in {*runs["depth"]}}
        crosses = axes[1].plot([*theirs], [*theirs.values()], "x", color="0.0", label="the paper's residual networks")
        axes[1].legend(handles=crosses, loc="center right")
        zoom(axes, melt_errors(runs), "value")
    return write_caption(figure, describe(runs, left_out(table)))


def draw_figure7(table: pd.DataFrame) -> Figure | None:
    """Fig. 7: standard deviation of layer responses

    Standard deviation of the output of every 3x3 layer, after BN and before ReLU or addition. It is measured on the
    test set in eval mode, pooled over images, positions and channels. On the left, layers are in order of depth; on the
    right, they are sorted by the size of the standard deviation. Lines are means over seeds, bands their range.
    Networks that are ten times as deep as most, or have responses ten times as large, have panels of their own.
    """
    runs = finished(table)
    if runs.empty:
        return None
    rows = gather(runs.assign(line=with_n(runs)), load_responses)
    sizes = rows.groupby("line")[["std", "layer"]].max()
    apart = (sizes > 10 * sizes.median()).any(axis=1)
    rows["row"] = rows["line"].where(rows["line"].map(apart), "")
    return draw_responses(rows.sort_values("row", kind="stable"), describe(runs, left_out(table)))


def draw_responses(rows: pd.DataFrame, caption: str) -> Figure:
    """Fig. 7 of one network, the rows of its responses.csv, or of several: those with network, depth, seed and line.

    Of one network BN's gamma stands beside the std, and lines where its stages begin. Each `row` has an axis of
    its own.
    """
    alone = "network" not in rows
    rows = rows.assign(line="std", seed=0, style=0) if alone else rows
    ranks = rows.groupby(["line", "seed"])["std"].rank(method="first", ascending=False)
    titles = ("3x3 layers, after BN, before ReLU or addition", "the same, sorted by std")
    places = zip(titles, (rows["layer"], ranks), strict=True)
    both = pd.concat([rows.assign(column=title, place=place) for title, place in places])
    both["title"] = both["row"].where(both["row"] != "", both["column"]) if "row" in both else both["column"]
    styles = {0: {"color": "0.1", "marker": "."}} if alone else None
    labels = ("layer index", "std of responses")
    figure, axes = draw_facets(both, "place", "std", labels, (4.6, 3.0), "row", styles, named=not alone)
    for ax in axes[1::2]:
        ax.set_xlabel("rank of the layer by std")
    for left, right in zip(axes[::2], axes[1::2], strict=True):
        low, high = left.dataLim.ymin, left.dataLim.ymax
        (log_scale if high > 8 * low > 0 else from_zero)((left, right))
    if alone:
        mark_stages(axes[0], rows["stage"])
        if "std_exact" in rows:
            axes[0].plot(
                rows["layer"], rows["std_exact"], ":", color="0.55", label="std, BN averages of the training set"
            )
        if rows["gamma_rms"].notna().any():
            axes[0].plot(rows["layer"], rows["gamma_rms"], "-.", color="0.4", label="BN gamma, root mean square")
        axes[0].legend()
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
