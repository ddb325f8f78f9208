"""The figures of the studies beyond the paper's own, and those of experiments/probe.py; encoded as draw.py says."""

import math
import textwrap
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from degradation.record import load_gradients, load_metrics, load_responses
from degradation.report import draw
from degradation.report.draw import DASHED, NEUTRAL, describe, draw_facets, left_out, write_caption
from degradation.report.statistics import RATIOS, first_below, growth_per_layer
from degradation.report.table import Filter, finished, gather, load_probe, probed_images, select
from degradation.report.verdicts import judge, load_claims

LESIONS = {"delete": "blocks deleted", "swap": "pairs of blocks swapped"}
VERDICTS = {"supported": ("#2f6b4f", "o"), "refuted": ("0.0", "X"), "undecided": ("0.42", "D")}  # no arm's colours


def _draw_by_setting(
    table: pd.DataFrame, setting: str, where: Filter, title: str, names: dict[Any, str]
) -> Figure | None:
    # Final errors against one setting, the protocol's others, a panel per depth at which it was varied.
    rows = select(table, where, (setting,))
    rows = rows[rows.groupby("depth")[setting].transform("nunique") > 1].sort_values(["depth", "network"])
    if rows.empty:
        return None
    errors = draw.melt_errors(rows.assign(column=f"{title}, " + rows["depth"].astype(str) + " layers"))
    errors["line"] = errors["label"] + ", " + errors["kind"]
    shown = {value: name for value, name in names.items() if (rows[setting] == value).any()}
    figure, axes = draw.draw_errors(errors, setting, shown, "" if names else setting.split(".")[-1])
    for ax, depth in zip(axes, rows["depth"].unique(), strict=True):
        plain = select(table, {"network": "plain", "depth": depth})["train_error"]
        if "network" in where and len(plain):
            colour = draw.colour_of("plain", depth)
            ax.axhline(plain.mean(), color=colour, linestyle=DASHED, label=f"plain-{depth}, training")
            ax.axhspan(plain.min(), plain.max(), color=colour, alpha=0.15, linewidth=0)
            ax.legend()
    draw.from_zero(axes, "final error (%)")
    return write_caption(figure, describe(rows))


def draw_shortcut_options(table: pd.DataFrame) -> Figure | None:
    """Shortcut options (Table 3): final error with A, B and C

    Differences small against the distance to the plain network (its training error is the horizontal line) mean that
    projections are not essential. Every run a point, filled and dashed training error, open and solid test error.
    """
    names = {"A": "A (zeros)", "B": "B (some projections)", "C": "C (all)"}
    return _draw_by_setting(table, "network.shortcut", {"network": "residual"}, "shortcut options", names)


def draw_without_bn(table: pd.DataFrame) -> Figure | None:
    """Final error with and without batch normalisation (section 4.1)

    Points are runs; filled and dashed training error, open and solid test error.
    """
    return _draw_by_setting(table, "network.norm", {}, "batch normalisation", {"batch": "with", "none": "without"})


def draw_shortcut_strength(table: pd.DataFrame) -> Figure | None:
    """From plain to residual: final error against alpha in alpha x + F(x)

    Beyond the paper: how much shortcut degradation takes to vanish. The line across is the plain network's training
    error.
    """
    return _draw_by_setting(table, "network.alpha", {"network": "residual"}, "alpha x + F(x)", {})


def draw_warmup(table: pd.DataFrame) -> Figure | None:
    """With and without warm-up: running training error (section 4.2)

    The paper warms residual-110 up at 0.01, and finds that 0.1 from the start only begins later.
    """
    rows = select(table, {}, ("protocol.warmup.min_depth",))
    rows = rows.assign(warm=rows["depth"] >= rows["protocol.warmup.min_depth"])
    rows = rows[rows.groupby("depth")["warm"].transform("nunique") > 1]
    if rows.empty:
        return None
    groups = rows.groupby(["label", "warm"])
    ended = groups["outcome"].transform(lambda outcomes: "" if (outcomes == "finished").all() else " (diverged)")
    error = groups["test_error"].transform("mean").map("{:.1f} %".format)
    line = rows["warm"].map({True: "with warm-up", False: "without warm-up"}) + ended + ": test error " + error
    curves = gather(rows.assign(line=line, column=rows["label"], style=1 - rows["warm"]), load_metrics)
    curves["thousands"], every = curves["iteration"] / 1000, max(1, curves["iteration"].nunique() // 10)
    styles = {n: {**NEUTRAL[n], "linestyle": DASHED, "markersize": 4, "markevery": every} for n in (0, 1)}
    labels = ("iterations (thousands)", "training error, running (%)")
    figure, axes = draw_facets(curves, "thousands", "train_error", labels, (4.4, 3.0), styles=styles)
    for ax in axes:
        ax.set_ylim(0, 100)
        ax.legend(loc="lower left")
    return write_caption(figure, describe(rows))


def draw_constructed(table: pd.DataFrame) -> Figure | None:
    """The constructed solution (section 1): test error from scratch and from identity layers

    A trained shallow network deepened by identity layers starts as good as its parent: does training keep the solution
    that it does not find from scratch? A line per seed; the bars at the end are training error in eval mode.
    """
    rows = select(table, {}, ("network.parent_depth",))
    kinds = rows.groupby(["network", "depth", "network.parent_depth"])
    if not len(kinds):
        return None
    scratch = rows[rows["network.parent_depth"].isna()]
    figure, axes = draw.new_figure(1.5 + 4.2 * len(kinds), 4.0, len(kinds), sharey=True)
    drawn = []
    for ax, ((network, deep, parent), children) in zip(axes, kinds, strict=True):
        shallow, ours = int(parent), scratch[scratch["network"] == network]
        for label, runs, style in (
            (f"{network}-{deep} from scratch", ours[ours["depth"] == deep], draw.style_of(network, deep)),
            (f"{network}-{deep} built from {network}-{shallow}", children, NEUTRAL[1]),
            (f"{network}-{shallow}, the parent", ours[ours["depth"] == shallow], draw.style_of(network, shallow)),
        ):
            drawn.append(runs)
            line = {**style, "linestyle": "-", "linewidth": 1.3, "markersize": 4, "markevery": 4}
            end = {"marker": "_", "markersize": 14, "markeredgewidth": 2, "color": style["color"]}
            for number, run in enumerate(runs.to_dict("records")):
                start = pd.DataFrame({"iteration": [0], "test_error": [run.get("initial.test_error", math.nan)]})
                curve = pd.concat([start, load_metrics(run["folder"])])[["iteration", "test_error"]].dropna()
                ax.plot(curve["iteration"] / 1000, curve["test_error"], label=None if number else label, **line)
                ax.plot([curve["iteration"].max() / 1000], [run["train_error_eval"]], **end)
        ax.set(xlabel="iterations (thousands)", xlim=(0, None), title=f"{network} networks")
        ax.legend()
    draw.from_zero(axes, "error (%)")
    return write_caption(figure, describe(pd.concat(drawn), "lines: test error; bars at the end: training error, eval"))


def draw_initial_signals(table: pd.DataFrame) -> Figure | None:
    """Signals at initialisation, with and without batch normalisation (section 4.1)

    Top, the std of each layer's response on one batch; bottom, the norm of the gradient there. In the legends the
    factor by which gradients grow from layer to layer backward: below 1 they vanish, above they explode.
    """
    rows = select(table, {"study": "gradients"}).sort_values(["network.norm", "network", "depth"])
    if rows.empty:
        return None
    signals = gather(rows, load_gradients)
    signals = signals[signals["iteration"] == 0]
    kinds = signals.groupby(["network.norm", "label"], sort=False)
    mean = kinds[["layer", "stage", "grad_response"]]
    growth = mean.apply(lambda part: growth_per_layer(part.groupby(["layer", "stage"], as_index=False).mean()))
    factors = [growth[kind] for kind in signals[["network.norm", "label"]].itertuples(index=False, name=None)]
    signals["line"] = signals["label"] + pd.Series(factors, signals.index).map(": x{:.2f}".format)
    signals["column"] = signals["network.norm"].map({"batch": "with batch normalisation", "none": "without"})
    texts = {"std": "std of responses", "grad_response": "gradient norm of responses"}
    both = pd.concat([signals.assign(row=row, value=signals[row]) for row in texts])
    figure, axes = draw_facets(both, "layer", "value", ("layer index", texts), (5, 2.8), "row")
    for place, ax in enumerate(axes):
        ax.set_yscale("log")
        if place >= len(axes) // 2:
            ax.legend(fontsize=7, ncols=2, title="gradient growth per layer backward", title_fontsize=7)
    return write_caption(figure, describe(rows, "at initialisation, mean and range over seeds"))


def draw_gradients_in_training(table: pd.DataFrame) -> Figure | None:
    """Weight gradients along training (section 4.1)

    The norm of the gradient of each layer's weights, at four moments: vanishing gradients would fall to the left.
    """
    return _signals_in_training(table, "grad_weight", "gradient norm of weights")


def draw_signals_in_training(table: pd.DataFrame) -> Figure | None:
    """Responses along training (section 4.1)

    The std of each layer's response at four moments: forward signals that die out would fall to the right.
    """
    return _signals_in_training(table, "std", "std of responses")


def _signals_in_training(table: pd.DataFrame, column: str, ylabel: str) -> Figure | None:
    # A column of gradients.csv by layer: a row per depth, a column per arm and norm; moments are told apart by grey.
    rows = select(table, {}, ("network.norm",)).sort_values(["depth", "network.norm", "network"])
    rows = rows[[(folder / "gradients.csv").exists() for folder in rows["folder"]]]
    if rows.empty:
        return None
    norm = rows["network.norm"].map({"batch": "", "none": ", no BN"})
    kind = rows["label"] + norm
    diverged = (rows["outcome"] == "diverged").groupby(kind).transform("any").map({True: ", diverged", False: ""})
    rows = rows.assign(row=rows["depth"], column=rows["network"] + norm, title=kind + diverged)
    parts = []
    for _, part in gather(rows, load_gradients).groupby("title", sort=False):
        moments = sorted(part["iteration"].unique())
        chosen = [moments[round(share * (len(moments) - 1))] for share in (0, 0.1, 0.5, 1)]
        parts.append(part.assign(style=part["iteration"].map({at: n for n, at in enumerate(chosen)})))
    signals = pd.concat(parts).dropna(subset=["style"])
    signals["line"] = signals["iteration"].map("iteration {:,}".format)
    styles = {number: {"color": grey} for number, grey in enumerate(("0.58", "0.42", "0.25", "0.0"))}
    figure, axes = draw_facets(signals, "layer", column, ("layer index", ylabel), (3.4, 2.6), "all", styles)
    axes[0].set_yscale("log")
    draw.one_legend(figure, axes)
    return write_caption(figure, describe(rows, "one fixed batch, training mode, mean and range over seeds"))


def draw_longer(table: pd.DataFrame) -> Figure | None:
    """Longer training (section 4.1, footnote): plain networks after the protocol's iterations and after more

    If degradation were slow convergence, the right-hand lines would not rise with depth. Points are runs; filled and
    dashed training error, open and solid test error.
    """
    rows = pd.concat([select(table, {"network": "plain", "length": n}) for n in sorted(table["length"].unique())])
    rows = rows[rows.groupby("depth")["length"].transform("nunique") > 1]
    if rows.empty:
        return None
    errors = draw.melt_errors(rows.assign(column=rows["iterations"].map("{:,} iterations".format)))
    errors["line"] = errors["kind"]
    depths = {depth: str(depth) for depth in sorted(rows["depth"].unique())}
    figure, _ = draw.draw_errors(errors, "depth", depths, "depth of the plain network")
    return write_caption(figure, describe(rows))


def draw_learning_rates(table: pd.DataFrame) -> Figure | None:
    """Is it only the learning rate? Final training error by rate and depth

    At its best rate (framed) each network is judged on the training set; a white cell was not run.
    """
    rows = select(table, {}, ("protocol.lr",))
    rows = rows[rows.groupby("depth")["protocol.lr"].transform("nunique") > 1]
    if rows.empty:
        return None
    rates, depths, arms = (sorted(rows[column].unique()) for column in ("protocol.lr", "depth", "network"))
    figure, axes = draw.new_figure(1 + 4.5 * len(arms), 1.8 + 0.7 * len(depths), len(arms))
    most = rows["guessing"].max()
    for ax, network in zip(axes, arms, strict=True):
        cells = rows[rows["network"] == network].groupby(["depth", "protocol.lr"])["train_error"]
        grid = cells.mean().unstack().reindex(index=depths, columns=rates).to_numpy(dtype=float)
        image = ax.imshow(grid, cmap="cividis", vmin=0, vmax=most, aspect="auto")
        for (depth, rate), errors in cells:
            spread = f" ± {errors.std():.1f}" if len(errors) > 1 else ""
            font = {"size": 8, "color": "white" if errors.mean() < most / 2 else "black"}
            place = (rates.index(rate), depths.index(depth))
            ax.text(*place, f"{errors.mean():.1f}{spread}\nn = {len(errors)}", font, ha="center", va="center")
        for line, row in enumerate(grid):
            if np.isfinite(row).sum() > 1:
                corner = (int(np.nanargmin(row)) - 0.46, line - 0.46)
                ax.add_patch(Rectangle(corner, 0.92, 0.92, fill=False, edgecolor="white", linewidth=2.5))
        ax.set_xticks(range(len(rates)), [f"{rate:g}" for rate in rates])
        ax.set_yticks(range(len(depths)), [str(depth) for depth in depths])
        ax.grid(False)
        ax.set(xlabel="learning rate", ylabel="depth", title=f"{network}: final training error (%)")
    figure.colorbar(image, ax=axes, label="%")
    return write_caption(figure, describe(rows, "framed: the best rate of each depth"))


def draw_convergence(table: pd.DataFrame) -> Figure | None:
    """Early convergence (section 4.1, Fig. 4): iterations until the training error falls to a level

    Every seed a point, lines are means; a level that a network never reached has no point.
    """
    levels, runs = list(range(80, 0, -10)), finished(table)
    depths = draw.two_depths(runs)
    runs = runs[runs["depth"].isin(depths)]
    if runs.empty:
        return None
    runs, lowest = runs.assign(line=draw.with_n(runs)), levels[0]
    figure, axes = draw.new_figure(1.5 + 4 * len(depths), 3.8, len(depths), sharey=True)
    for (depth, network, line), part in runs.groupby(["depth", "network", "line"]):
        ax, style = axes[depths.index(depth)], draw.style_of(network, depth)
        found = [[first_below(metrics, level) for level in levels] for metrics in map(load_metrics, part["folder"])]
        reached = pd.DataFrame(found, columns=levels, dtype=float)
        ax.plot(levels, reached.T, linestyle="none", alpha=0.5, **style)
        # A mean of those seeds alone that got there would flatter.
        ax.plot(levels, reached.mean(skipna=False), linestyle=DASHED, label=line, **style)
        lowest = min([lowest, *reached.columns[reached.notna().any()]])
        ax.set(xlabel="training error (%), running, falls to", title=f"{depth} layers")
        ax.legend()
    for ax in axes:
        ax.set_xlim(85, lowest - 5)
    draw.from_zero(axes, "iterations until then")
    return write_caption(figure, describe(runs, left_out(table)))


def draw_response_parts(table: pd.DataFrame) -> Figure | None:
    """What the responses of Fig. 7 are made of: BN's gamma and beta, with and without weight decay on them

    In training mode the variance of a response is that of beta over channels plus the mean square of gamma, so decay on
    gamma may shape Fig. 7. Test set, eval mode; mean over seeds, bands their range.
    """
    decay = "protocol.decay_batchnorm"
    rows = select(table, {}, (decay,)).sort_values(["depth", "network", decay], ascending=[True, True, False])
    rows = rows[(rows["outcome"] == "finished") & rows["depth"].isin(draw.two_depths(finished(table)))]
    if rows.empty:
        return None
    without = rows[decay].map({True: "", False: ", no weight decay on BN"})
    rows = rows.assign(row=rows["depth"], column=rows["network"] + without, title=rows["label"] + without)
    layers = gather(rows, load_responses)
    names = {"std": "std of the response", "gamma_rms": "gamma, root mean square", "beta_rms": "beta, root mean square"}
    parts = [layers.assign(line=name, style=part, value=layers.get(part)) for part, name in names.items()]
    styles = {part: {**style, "marker": None} for part, style in zip(names, NEUTRAL, strict=True)}
    labels = ("layer index", "test set, eval mode")
    values = pd.concat(parts).dropna(subset=["value"])
    figure, axes = draw_facets(values, "layer", "value", labels, (3, 2.6), "all", styles)
    axes[0].set_yscale("log")
    draw.one_legend(figure, axes)
    return write_caption(figure, describe(rows))


def draw_lesion_study(table: pd.DataFrame) -> Figure | None:
    """Lesions (beyond the paper): test error against blocks deleted and pairs swapped

    After Fig. 5 of Veit et al. 2016, where residual networks lose little with a few blocks and VGG nearly all. Means
    over seeds and draws, bands their range; blocks that keep the shape.
    """
    runs = finished(table)
    runs = runs[[len(load_probe(folder, "lesions")) > 0 for folder in runs["folder"]]]
    if runs.empty:
        return None
    lesions = gather(runs.sort_values("depth"), lambda folder: load_probe(folder, "lesions"))
    lesions = lesions[lesions["kind"].isin(LESIONS)].sort_values("kind", kind="stable")
    title = lesions["label"].str.split("-").str[1] + " layers, " + lesions["kind"].map(LESIONS)
    lesions = lesions.assign(row=lesions["kind"], column=lesions["depth"], title=title, line=lesions["label"])
    labels = ("blocks deleted, or pairs of blocks swapped", "test error (%)")
    figure, axes = draw_facets(lesions, "count", "error", labels, (4, 2.8))
    for ax in axes:
        ax.set_ylim(0, 100)
        ax.legend()
    images = " or ".join(f"{n:,}" for n in sorted({probed_images(folder, "lesions") for folder in runs["folder"]}))
    return write_caption(figure, describe(runs, f"{images} test images"))


def draw_gradients(rows: pd.DataFrame, caption: str) -> Figure:
    """Section 4.1 of one network: norms of the backward signal by layer, at the responses and at the weights."""
    texts = {"grad_response": "gradient norm at the responses", "grad_weight": "gradient norm at the weights"}
    both = [rows.assign(column=text, line="", style=0, value=rows[name]) for name, text in texts.items()]
    labels, styles = ("layer index (1 is the stem)", "norm"), {0: {"color": "0.1", "marker": "."}}
    figure, axes = draw_facets(pd.concat(both), "layer", "value", labels, sharey=False, styles=styles)
    for ax, name in zip(axes, texts, strict=True):
        draw.mark_stages(ax, rows["stage"])
        if (rows[name] > 0).all():
            ax.set_yscale("log")  # whole decades: a change by half must not look like a collapse
            low, high = np.log10(rows[name].agg(["min", "max"]))
            ax.set_ylim(10 ** math.floor(low), 10 ** max(math.ceil(high), math.floor(low) + 1))
    return write_caption(figure, caption)


def draw_lesions(rows: pd.DataFrame, caption: str) -> Figure:
    """Veit et al., Fig. 3 and 5 of one network: error with each block deleted (left), with several (right).

    Right, lines are means over draws and bands their range; both panels show the intact network dotted.
    """
    one = rows[rows["kind"] == "delete_one"].reset_index(drop=True)
    one = one.assign(count=one.index + 1, style="one", line="one block deleted", column="each that keeps the shape")
    several = rows[rows["kind"].isin(LESIONS) & (rows.groupby("kind")["count"].transform("nunique") > 1)]
    draws = f", {rows['draw'].max() + 1} draws"
    several = several.assign(style=several["kind"], line=several["kind"].map(LESIONS) + draws, column="several")
    dots = {"color": "0.0", "marker": "o", "linestyle": "none"}
    styles = {"one": dots, "delete": NEUTRAL[0], "swap": NEUTRAL[1]}
    labels = ("which block, or how many blocks or pairs", "error (%)")
    figure, axes = draw_facets(pd.concat([one, several]), "count", "error", labels, styles=styles)
    for ax in axes:
        ax.axhline(rows.loc[rows["count"] == 0, "error"].iloc[0], color="0.35", linestyle=":", label="intact")
        ax.legend()
    if "stage" not in one:  # earlier versions told it in the block's name alone
        one["stage"] = one["blocks"].str.extract(r"^stage(\d+)")[0].fillna(0).astype(int)
    draw.mark_stages(axes[0], one["stage"])
    axes[0].set_ylim(0, 100)  # so that figures of two networks compare
    return write_caption(figure, caption)


def draw_verdicts(table: pd.DataFrame) -> Figure | None:
    """Every claim with its interval over seeds and its threshold

    A claim is supported where the whole interval lies on the claimed side of the dotted line. Strokes are seeds, the
    marker their mean; each axis has its own scale.
    """
    verdicts = [verdict for verdict in judge(load_claims(), table) if verdict.effects]
    if not verdicts:
        return None
    lines = math.ceil(len(verdicts) / 2)
    figure, axes = draw.new_figure(12, 0.6 + 1.15 * lines, 2, rows=lines)
    for ax in axes[len(verdicts) :]:
        ax.set_axis_off()
    for ax, verdict in zip(axes, verdicts, strict=False):
        colour, marker = VERDICTS[verdict.verdict]
        claim, points = verdict.claim, list(verdict.effects.values())
        edges = [edge for edge in claim.bounds if math.isfinite(edge)]
        ends = [end for end in (verdict.low, verdict.high) if not math.isnan(end)]
        for edge in edges:
            ax.axvline(edge, color="0.2", linestyle=":", linewidth=1.4)
        ax.plot(ends, [0] * len(ends), color=colour, linewidth=3, solid_capstyle="butt", alpha=0.6)
        ax.scatter(points, [0] * len(points), color="0.1", s=12, marker="|", zorder=3)
        ax.scatter([verdict.mean], [0], color=colour, marker=marker, s=55, zorder=4)
        low, high = min([*edges, *points, *ends]), max([*edges, *points, *ends])
        if claim.statistic in RATIOS and 0 < 10 * low < high:
            ax.set_xscale("log")
            ax.set_xlim(low / 2, high * 2)
        else:
            room = 0.12 * (high - low) or 0.1
            ax.set_xlim(low - room, high + room)
        ax.set(ylim=(-1, 1), yticks=[])
        ax.spines["left"].set_visible(False)
        ax.tick_params(labelsize=8)
        ax.set_xlabel(claim.unit, fontsize=7, labelpad=1)
        title = textwrap.shorten(f"{claim.id}: {claim.sentence}", 102, placeholder=" ...")
        ax.set_title(f"{title}\n{verdict.verdict}, n = {len(points)}", fontsize=8, loc="left", color=colour)
    return write_caption(figure, describe(table, "mean and 95 % interval over seeds, dotted: the stated threshold"))
