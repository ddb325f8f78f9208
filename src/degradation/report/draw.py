"""One style, one function per figure of the paper; each takes tidy tables and returns a matplotlib figure. No torch."""

import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from degradation.record import load_responses, write_atomically
from degradation.report.table import ARMS, curve_over_seeds

# Dark to light by luminance, so that depths stay apart in greyscale; hue helps where there is colour.
DEPTH_COLOURS = {20: "#e8a33d", 32: "#5fb0a5", 44: "#3b82c4", 56: "#b5243c", 110: "#111111", 1202: "#7d4fa0"}
SPARE_COLOURS = ["#8a8a8a", "#c26fa8", "#6b8e23", "#4a3728"]
NETWORK_STYLES = {"plain": ("#b5243c", "o"), "residual": ("#1f5f99", "s")}
STYLE: dict[Any, Any] = {
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "font.size": 10,
}
PROTOCOL_NOTES = {
    "paper": "the paper's protocol",
    "short": "the paper's schedule shrunk eightfold: not the paper's protocol",
    "quick": "5,000 embedded images: not the paper's protocol",
    "smoke": "a smoke test: its errors mean nothing",
}


def colour_of(depth: int, depths: list[int]) -> str:
    """The paper's depths keep their colour in every figure; other depths take spare ones."""
    others = [d for d in depths if d not in DEPTH_COLOURS]
    return DEPTH_COLOURS.get(depth) or SPARE_COLOURS[others.index(depth) % len(SPARE_COLOURS)]


def new_figure(
    width: float, height: float, columns: int, sharey: Any = False, rows: int = 1
) -> tuple[Figure, list[Axes]]:
    """A figure of rows x columns panels in the house style, and its axes row by row; sizes in inches."""
    import matplotlib as mpl

    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False, sharey=sharey)
    return figure, list(axes.flat)


def write_caption(figure: Figure, text: str) -> None:
    """The line under every figure, broken where the figure is too narrow for it."""
    figure.supxlabel(textwrap.fill(text, int(13 * figure.get_figwidth())), fontsize=8, color="0.35")


def describe(runs: pd.DataFrame) -> str:
    """The line on every figure: protocol, data, iterations, n."""
    finished = runs[runs["outcome"] == "finished"]
    counts = finished.groupby(["network", "depth"]).size()
    n = f"n = {counts.min()}" if counts.min() == counts.max() else f"n = {counts.min()} to {counts.max()}"
    run = finished.iloc[0]
    note = PROTOCOL_NOTES.get(run.protocol, "")
    seeds = "seed" if counts.max() == 1 else "seeds"
    diverged = (runs["outcome"] != "finished").sum()
    return (
        f"protocol {run.study}: {run.iterations:,} iterations on {run.data}, {n} {seeds} each"
        + (f", {diverged} diverged and not shown" if diverged else "")
        + (f" ({note})" if note else "")
    )


def _curve(ax: Axes, table: pd.DataFrame, network: str, depth: int, column: str, colour: str) -> None:
    line = curve_over_seeds(table, network, depth, column)
    if line.empty:
        return
    training = column == "train_error"
    thousands = line.index.to_numpy() / 1000
    ax.plot(
        thousands,
        line["mean"],
        linestyle=(0, (3, 1.5)) if training else "-",
        linewidth=1.0 if training else 1.8,
        color=colour,
        label=f"{network}-{depth} {'training' if training else 'test'}",
    )
    if line["count"].max() > 1:
        ax.fill_between(thousands, line["min"], line["max"], color=colour, alpha=0.15, linewidth=0)


def _zoom(ax: Axes, table: pd.DataFrame, protocol: str) -> None:
    # The paper shows 0 to 20 %. Other protocols end elsewhere: from 0 to a little above where the second half starts.
    if protocol == "paper":
        ax.set_ylim(0, 20)
        return
    half = table["iteration"] >= 0.3 * table["iteration"].max()
    top = table.loc[half, ["train_error", "test_error"]].max().max()
    ax.set_ylim(0, min(100, 1.08 * top))


def _axis_labels(ax: Axes, error: bool = True) -> None:
    ax.set_xlabel("iterations (thousands)")
    ax.set_xlim(left=0)
    if error:
        ax.set_ylabel("error (%)")


def _style_key() -> list[Line2D]:
    return [
        Line2D([], [], color="0.3", linestyle=(0, (3, 1.5)), linewidth=1.0, label="training (running)"),
        Line2D([], [], color="0.3", linewidth=1.8, label="test"),
    ]


def draw_figure1(table: pd.DataFrame, runs: pd.DataFrame, depths: tuple[int, int] = (20, 56)) -> Figure:
    """Fig. 1: training error (left) and test error (right) of two plain networks against iteration."""
    figure, axes = new_figure(8.5, 3.6, 2, sharey=True)
    for ax, column, title in zip(axes, ("train_error", "test_error"), ("training error", "test error"), strict=True):
        for depth in depths:
            _curve(ax, table, "plain", depth, column, colour_of(depth, list(depths)))
            line = curve_over_seeds(table, "plain", depth, column)
            if not line.empty:
                ax.annotate(
                    f"{depth} layers",
                    (line.index[-1] / 1000, line["mean"].iloc[-1]),
                    xytext=(-4, 11),
                    textcoords="offset points",
                    ha="right",
                    color=colour_of(depth, list(depths)),
                )
        _axis_labels(ax, error=column == "train_error")
        ax.set_title(f"plain networks, {title}")
    _zoom(axes[0], table[table["network"] == "plain"], runs["protocol"].iloc[0])
    _caption(figure, runs)
    return figure


def draw_figure6(table: pd.DataFrame, runs: pd.DataFrame) -> Figure:
    """Fig. 6: plain (left) and residual (right), every depth; dashed training error, solid test error."""
    figure, axes = new_figure(11, 4.2, 2, sharey=True)
    depths = sorted(table["depth"].unique())
    for ax, network in zip(axes, ARMS, strict=True):
        for depth in depths:
            colour = colour_of(depth, depths)
            _curve(ax, table, network, depth, "train_error", colour)
            _curve(ax, table, network, depth, "test_error", colour)
        ax.set_title(f"{network} networks")
        _axis_labels(ax, error=network == "plain")
    key = [Line2D([], [], color=colour_of(d, depths), linewidth=3, label=f"{d} layers") for d in depths]
    figure.legend(handles=[*key, *_style_key()], fontsize=8, loc="outside right upper")
    _zoom(axes[0], table, runs["protocol"].iloc[0])
    _caption(figure, runs)
    return figure


def draw_error_by_depth(runs: pd.DataFrame) -> Figure:
    """Fig. 6 in one look: final training and test error against depth, both arms, every seed a point."""
    figure, axes = new_figure(8.5, 3.6, 2)
    finished = runs[runs["outcome"] == "finished"]
    depths = sorted(finished["depth"].unique())
    places = {depth: place for place, depth in enumerate(depths)}
    for ax, column, title in zip(axes, ("train_error", "test_error"), ("training error", "test error"), strict=True):
        for network, (colour, marker) in NETWORK_STYLES.items():
            rows = finished[finished["network"] == network]
            means = rows.groupby("depth")[column].mean()
            linestyle = "--" if network == "plain" else "-"
            ax.plot(
                [places[d] for d in means.index], means, color=colour, marker=marker, linestyle=linestyle, label=network
            )
            ax.scatter(rows["depth"].map(places), rows[column], color=colour, marker=marker, s=14, alpha=0.5)
        ax.set_xticks(list(places.values()), [str(d) for d in depths])
        ax.set_xlim(-0.4, len(depths) - 0.6)
        ax.set_ylim(bottom=0)
        ax.set_xlabel("depth (weighted layers)")
        ax.set_ylabel("error (%)")
        ax.set_title(f"final {title}")
        ax.legend()
    _caption(figure, runs)
    return figure


def draw_figure7(rows: pd.DataFrame, runs: pd.DataFrame) -> Figure:
    """Fig. 7: std of layer responses, in order of depth (left) and sorted by size (right); seeds as mean and band."""
    figure, axes = new_figure(10, 4.0, 2, sharey=True)
    depths = sorted(rows["depth"].unique())
    for network in ARMS:
        for depth in depths:
            part = rows[(rows["network"] == network) & (rows["depth"] == depth)]
            if part.empty:
                continue
            by_layer = part.pivot_table(index="layer", columns="seed", values="std")
            by_rank = by_layer.apply(lambda column: column.sort_values(ascending=False).to_numpy())
            for ax, values in zip(axes, (by_layer, by_rank), strict=True):
                ax.plot(
                    range(1, len(values) + 1),
                    values.mean(axis=1),
                    color=colour_of(depth, depths),
                    linestyle=(0, (3, 1.5)) if network == "plain" else "-",
                    linewidth=1.6,
                    label=f"{network}-{depth}",
                )
                if values.shape[1] > 1:
                    low, high = values.min(axis=1), values.max(axis=1)
                    ax.fill_between(range(1, len(values) + 1), low, high, color=colour_of(depth, depths), alpha=0.15)
    axes[0].set_xlabel("layer index (original order)")
    axes[1].set_xlabel("layer index (sorted by std)")
    for ax in axes:
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes[0].set_ylabel("std of responses")
    if rows["std"].max() > 30 * rows["std"].min() > 0:  # plain-110's would hide all others'
        axes[0].set_yscale("log")
    else:
        axes[0].set_ylim(bottom=0)
    axes[1].legend(fontsize=8)
    axes[0].set_title("3x3 layers, after BN, before ReLU or addition")
    axes[1].set_title("the same, sorted")
    _caption(figure, runs)
    return figure


def draw_throughput(table: pd.DataFrame, caption: str) -> Figure:
    """Speed of every variant of `make bench`, a panel per depth: bars in images/s, ratios to the usual recipe."""
    depths = list(dict.fromkeys(table["depth"]))
    figure, axes = new_figure(4.2 + 3 * len(depths), 0.8 + 0.34 * table["variant"].nunique(), len(depths), sharey=True)
    for ax, depth in zip(axes, depths, strict=True):
        part = table[table["depth"] == depth].iloc[::-1]
        rate = part["images_per_second"]
        hatches = ["//" if name.startswith("usual") else "" for name in part["variant"]]
        ours = ["#0072b2" if name.startswith("this suite") else "0.75" for name in part["variant"]]
        spread = [rate - part["lowest"], part["highest"] - rate]
        ax.barh(part["variant"], rate, color=ours, hatch=hatches, edgecolor="0.3", linewidth=0.6, xerr=spread)
        for place, (high, ratio) in enumerate(zip(part["highest"], part["ratio_to_usual"], strict=True)):
            ax.annotate(f"{ratio:.2f}x", (high, place), xytext=(4, 0), textcoords="offset points", va="center")
        ax.set_xlim(0, 1.25 * part["highest"].max())
        ax.set_xlabel("training images / s")
        ax.set_title(f"residual-{depth}, batch 128")
    write_caption(figure, caption)
    return figure


def draw_growth(table: pd.DataFrame, caption: str) -> Figure:
    """Seconds per iteration against depth (batch 128) and against batch (depth 20), each with the line through it."""
    figure, axes = new_figure(8, 3.4, 2)
    parts = {"depth": table[table["batch"] == 128], "batch": table[table["depth"] == 20]}
    for ax, (column, rows) in zip(axes, parts.items(), strict=True):
        slope, start = np.polyfit(rows[column], rows["seconds_per_iteration"], 1)
        ends = np.array([0, rows[column].max()])
        label = f"{1000 * slope:.2f} ms each, {1000 * start:+.0f} ms"
        ax.plot(ends, start + slope * ends, color="0.6", linestyle="--", linewidth=1, label=label)
        ax.scatter(rows[column], rows["seconds_per_iteration"], color="#1f5f99", zorder=3)
        ax.set_xlim(left=0)
        ax.set_ylim(bottom=0)
        ax.set_xlabel("depth (weighted layers), batch 128" if column == "depth" else "images in a batch, depth 20")
        ax.set_ylabel("seconds per iteration")
        ax.legend(fontsize=8)
    write_caption(figure, caption)
    return figure


def draw_run_responses(folder: Path) -> Figure:
    """The layer responses of one run."""
    rows = load_responses(folder)
    figure, (ax,) = new_figure(6, 3.4, 1)
    ax.plot(rows["layer"], rows["std"], color="0.1", marker=".", label="std")
    ax.plot(rows["layer"], rows["gamma_rms"], color="0.6", linestyle="--", label="BN gamma, root mean square")
    ax.set_xlabel("layer index")
    ax.set_ylabel("std of responses")
    ax.set_ylim(bottom=0)
    ax.legend(fontsize=8)
    ax.set_title(folder.name, fontsize=9)
    return figure


def _caption(figure: Figure, runs: pd.DataFrame) -> None:
    write_caption(figure, describe(runs))


def save(figure: Figure, folder: Path, name: str) -> None:
    """Write name.png and name.svg; the same data give the same bytes."""
    import matplotlib as mpl

    folder.mkdir(parents=True, exist_ok=True)
    with mpl.rc_context({"svg.hashsalt": "degradation", **STYLE}):
        figure.savefig(folder / f"{name}.png", dpi=150, metadata={"Software": None})
        figure.savefig(folder / f"{name}.svg", metadata={"Date": None})


def save_table(table: pd.DataFrame, folder: Path, name: str) -> None:
    """Write name.csv, errors to two decimals."""
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / f"{name}.csv", table.to_csv(index=False, float_format="%.2f"))
