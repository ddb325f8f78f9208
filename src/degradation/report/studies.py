"""The figures of the studies beyond the paper's own, and those of experiments/probe.py; encoded as draw.py says."""

import math
from collections.abc import Callable, Sequence
from itertools import groupby
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from degradation.record import load_gradients, load_metrics, load_responses
from degradation.report import draw
from degradation.report.draw import NEUTRAL, describe, draw_facets, left_out, melt, with_n, write_caption
from degradation.report.imagenet import PAPER_FIGURE4
from degradation.report.statistics import first_below, growth_per_layer, shared
from degradation.report.table import ARMS, ERRORS, describe_probe, finished, gather, load_probe, select, word_of

LESIONS = {"delete": "blocks deleted", "swap": "pairs of blocks swapped"}
# Plain minus residual as the paper gives it, training and test error in points: ImageNet, read off Fig. 4, and what it
# is at least in test error on CIFAR-10 at 110 layers, where the plain network is "higher than 60 %" (section 4.2).
_ENDS = {name: np.array(errors, dtype=float) for name, errors in PAPER_FIGURE4.items()}
PAPER_GAIN = {depth: _ENDS[f"plain-{depth}"] - _ENDS[f"residual-{depth} A"] for depth in (18, 34)}
PAPER_GAIN_110 = 110, 60 - 6.43


def draw_matched_pairs(table: pd.DataFrame) -> Figure | None:
    """Plain minus residual: what the shortcut gains, against depth

    Error of the plain network minus that of the residual network of equal depth and seed: above zero, the residual
    network errs less. Markers with bars are means over pairs with their 95 % intervals, and every pair is a dot. The
    choice of test images, which all seeds share, is not in the intervals. Crosses beside ImageNet networks are the
    paper's values (centre crop, read off Fig. 4). An arrow beside the CIFAR-10 networks of 110 layers is also the
    paper's, and says that its value is more than this (section 4.2).
    """
    runs, index = finished(table), ["kind", "depth", "seed", "precision", "protocol"]
    errors = draw.melt_errors(runs).pivot_table("value", index, "network").reindex(columns=ARMS)
    pairs = (errors["plain"] - errors["residual"]).dropna().rename("gain").reset_index()[::-1]  # training error first
    if pairs.empty:
        return None
    pairs = pairs.assign(network="plain", column=pairs["kind"] + " error", line="", style="pair")
    labels, styles = ("depth (weighted layers)", "plain minus residual (points)"), {"pair": NEUTRAL[0]}
    figure, axes = draw_facets(pairs, "depth", "gain", labels, (4.2, 3), styles=styles, plot=draw.draw_intervals)
    n = pairs.groupby("depth")["seed"].nunique()
    told = "\nn = " + n.astype(str) if n.nunique() > 1 else ""
    draw.mark_values(axes, dict(zip(n.index, n.index.astype(str) + told, strict=True)))
    for ax in axes:
        ax.axhline(0, color="0.2", linewidth=1)
    look: dict[str, Any] = {"linestyle": "none", "color": "0.4"}
    handles: list[Line2D] = []
    if runs["network.family"].iloc[0] == "imagenet":
        for ax, number in zip(axes, (0, 1), strict=True):
            theirs = {depth: gain[number] for depth, gain in PAPER_GAIN.items() if depth in n}
            if theirs:
                handles = ax.plot([*theirs], [*theirs.values()], marker="x", label="the paper (Fig. 4)", **look)
    elif 110 in n:
        look |= {"marker": "$\\uparrow$", "markersize": 12}
        told = "the paper, {} layers: more than {:.0f}".format(*PAPER_GAIN_110)
        handles += axes[1].plot(*PAPER_GAIN_110, label=told, **look)
    if handles:
        draw.one_legend(figure, handles)
    draw.zoom(axes, pairs, "gain")
    return write_caption(figure, describe(runs[runs["depth"].isin(n.index)], left_out(table)))


def draw_gap(table: pd.DataFrame) -> Figure | None:
    """Test minus training error: it is not overfitting

    Test error minus training error of the final networks, both in eval mode and on un-augmented images. Markers with
    bars are means over seeds with their 95 % intervals, and every seed is a dot. The choice of test images, which all
    seeds share, is not in the intervals. An overfitting network errs little in training and far more on test images,
    which makes the gap large.
    """
    runs = finished(table)
    runs = runs.assign(gap=runs["test_error"] - runs["train_error_eval"]).dropna(subset=["gap"])
    if runs.empty:
        return None
    rows = runs.assign(column="", line=runs["network"])
    apart = 0.03 * rows["depth"].min()  # so as to stand beside each other
    rows["place"] = rows["depth"] + rows["network"].map({"plain": -apart, "residual": apart})
    labels = ("depth (weighted layers)", "test minus training error (points)")
    figure, axes = draw_facets(rows, "place", "gap", labels, (5, 3.2), plot=draw.draw_intervals)
    draw.mark_values(axes, rows["depth"])
    axes[0].axhline(0, color="0.2", linewidth=1)
    return write_caption(figure, describe(runs, left_out(table)))


def _draw_against(
    rows: pd.DataFrame, x: str, xlabel: str, names: dict[Any, str] | None = None, told: str = ""
) -> Figure | None:
    # Final errors by x, of the networks of those depths at which it was varied.
    rows = rows[rows.groupby("depth")[x].transform("nunique") > 1].sort_values(["depth", "network"])
    if rows.empty:
        return None
    shown = {value: name for value, name in (names or {}).items() if (rows[x] == value).any()}
    figure, _ = draw.draw_errors(rows.assign(line=rows["label"]), x, xlabel, shown)
    return write_caption(figure, describe(rows, told))


def by_settings(table: pd.DataFrame, settings: Sequence[str]) -> pd.DataFrame:
    """The runs that differ from their protocol in these settings alone, and those that do not differ at all.

    `value` is the setting's where one with numbers varies, else the values in words; no rows where nothing varies.
    """
    rows = select(table, {}, tuple(settings))
    varied = [name for name in settings if name in rows and rows[name].map(word_of).nunique() > 1]
    if len(varied) == 1 and all(
        isinstance(value, Real) and not isinstance(value, bool) for value in rows[varied[0]].astype(object)
    ):
        values = rows[varied[0]].astype(float)
        if values.notna().all():
            return rows.assign(value=values)
    told = rows[varied].rename(columns=lambda name: name.split(".")[-1]).to_dict("records")
    rows = rows.assign(value=[", ".join(f"{name}={word_of(value)}" for name, value in run.items()) for run in told])
    return rows if varied else rows.iloc[:0]


def draw_by_settings(table: pd.DataFrame, settings: Sequence[str]) -> Figure | None:
    """Final errors by the values of one's own settings: a line per network, training error left, test error right."""
    rows = by_settings(table, settings)
    numbers = pd.api.types.is_numeric_dtype(rows["value"])
    names = None if numbers else {value: value for value in sorted(rows["value"].unique())}
    return _draw_against(rows, "value", ", ".join(settings) if numbers else "", names)


def tabulate_by_settings(table: pd.DataFrame, settings: Sequence[str]) -> pd.DataFrame:
    """The same as a table: per value, network and depth the number of seeds, mean and sample std of the errors (%)."""
    groups = by_settings(table, settings).groupby(["value", "network", "depth"])
    found = groups[list(ERRORS)].agg(["mean", "std"])
    found.columns = [f"{column}_{kind}" for column, kind in found.columns]
    return found.assign(n=groups["seed"].nunique()).reset_index()


def _draw_shortcuts(
    table: pd.DataFrame, setting: str, none: Any, xlabel: str = "", names: dict[Any, str] | None = None
) -> Figure | None:
    # Residual networks by a setting of their shortcut, and the plain ones where they belong: at none.
    residual = select(table, {"network": "residual"}, (setting,))
    plain = select(table, {"network": "plain"}).assign(**{setting: none})
    varied = residual.groupby("depth")[setting].nunique()
    both = pd.concat([plain, residual])
    return _draw_against(both[both["depth"].isin(varied.index[varied > 1])], setting, xlabel, names)


def draw_shortcut_options(table: pd.DataFrame) -> Figure | None:
    """Shortcut options (Table 3): final error with A, B and C

    Final errors of residual networks with shortcut option A, B or C, and of the plain network. Every run is a point,
    and lines join the runs of a seed. If the differences between the options are small against the distance to the
    plain network, projections are not essential.
    """
    names = {"": "none\n(plain)", "A": "A\n(zeros)", "B": "B (some\nprojections)", "C": "C\n(all)"}
    return _draw_shortcuts(table, "network.shortcut", "", "", names)


def draw_shortcut_strength(table: pd.DataFrame) -> Figure | None:
    """From plain to residual: final error against alpha in alpha x + F(x)

    Final training and test error by alpha, the strength of the shortcut; at 0 the network is the plain one. Every run
    is a point, and lines join the runs of a seed. The figure goes beyond the paper: it asks how much shortcut it takes
    for degradation to vanish.
    """
    return _draw_shortcuts(table, "network.alpha", 0.0, "alpha")


def draw_without_bn(table: pd.DataFrame) -> Figure | None:
    """Final error with and without batch normalisation (section 4.1)

    Final training and test error of networks with and without batch normalisation. Each kind of run is shown at the
    learning rate with the best mean training error, out of the two or more rates at which its network was run both with
    and without it. Every run is a point, and lines join the runs of a seed. If batch normalisation did nothing, the
    lines would be level.
    """
    rows = select(table, {}, ("network.norm", "protocol.lr"))
    rows = rows[rows.groupby(["label", "protocol.lr"])["network.norm"].transform("nunique") > 1]
    rows = rows[rows.groupby("label")["protocol.lr"].transform("nunique") > 1]  # of one rate none is the best
    ways = {"batch": "with BN", "none": "without"}
    rows = rows.assign(way=rows["label"] + " " + rows["network.norm"].map(ways))
    rows, told = _at_best_rates(rows, "train_error")
    return _draw_against(rows, "network.norm", "", ways, told)


def _at_best_rates(rows: pd.DataFrame, error: str) -> tuple[pd.DataFrame, str]:
    # Of each `way`, the runs at the rate with the least mean error, out of the two or more that most of its seeds have,
    # as the claims take them: means of other seeds would not compare. And these rates in words.
    parts, told = [rows.iloc[:0]], []
    for way, runs in rows.groupby("way", sort=False):
        rates, pairs = shared(runs.groupby("pair")["protocol.lr"].agg(frozenset).to_dict())
        rates = rates or [runs["protocol.lr"].value_counts().index[0]]
        runs = runs[runs["pair"].isin(pairs or runs["pair"]) & runs["protocol.lr"].isin(rates)]
        best = runs.groupby("protocol.lr")[error].mean().fillna(np.inf).idxmin()
        parts.append(runs[runs["protocol.lr"] == best])
        told.append(f"{way} {best:g}" + " (no other was run)" * (len(rates) == 1))
    return pd.concat(parts), f"rate of {', '.join(told)}"


def draw_longer(table: pd.DataFrame) -> Figure | None:
    """Longer training (section 4.1, footnote): plain networks after the protocol's iterations and after more

    Final training and test error of plain networks by the number of iterations. Every run is a point, and lines join
    the runs of a seed. If degradation were slow convergence, the line of the deeper network would come down to that of
    the other.
    """
    rows = [select(table, {"network": "plain", "length": length}) for length in sorted(table["length"].unique())]
    return _draw_against(pd.concat(rows), "iterations", "iterations")


def draw_learning_rates(table: pd.DataFrame) -> Figure | None:
    """Is it only the learning rate? Final error by rate

    Final training and test error by learning rate. Every run is a point, and lines join the runs of a seed. For each
    seed, a network is judged at the rate that is best on the training set, which is the lowest point of a dashed line.
    """
    return _draw_against(select(table, {}, ("protocol.lr",)), "protocol.lr", "learning rate")


def draw_warmup(table: pd.DataFrame) -> Figure | None:
    """With and without warm-up (section 4.2)

    Training error (dashed, running) and test error (solid) along training, with and without warm-up. Lines are means
    over seeds, bands their range. The paper warms residual-110 up at a rate of 0.01, and finds that with 0.1 from the
    start it only begins later; plain-110 fails.
    """
    rows = select(table, {}, ("protocol.warmup.min_depth",))
    rows = rows.assign(warm=rows["depth"] >= rows["protocol.warmup.min_depth"])
    rows = rows[rows.groupby("depth")["warm"].transform("nunique") > 1]
    if gather(rows, load_metrics).empty:  # all that there are diverged at once, perhaps
        return None
    ended = rows.groupby(["label", "warm"])["outcome"].transform(
        lambda ends: "" if (ends == "finished").all() else ", diverged"
    )
    line = rows["label"] + rows["warm"].map({True: ", with warm-up", False: ", without"}) + ended
    figure, _ = draw.draw_curves(
        rows.assign(line=line, style=rows["warm"].map({True: "", False: "without"})),
        lambda curves: curves["label"],
        styles={"without": NEUTRAL[1]},
    )
    return write_caption(figure, describe(rows))


def draw_constructed(table: pd.DataFrame) -> Figure | None:
    """The constructed solution (section 1): errors from scratch and from identity layers

    Training error (dashed, running) and test error (solid) of a deep network trained from scratch, of the one that
    identity layers make of a trained shallow network (its parent), and of the parent. Lines are means over seeds, bands
    their range; the test error of the constructed network is shown from before the first iteration on. The constructed
    network starts as good as its parent: does training keep the solution that it does not find from scratch? Its curve
    comes after all of its parent's iterations and a restart of the rate, so it has had twice as much training as the
    others here (the figure `constructed_controls` gives them as much).
    """
    rows = select(table, {}, ("network.parent_depth",))
    children = rows.dropna(subset=["network.parent_depth"])
    children = children[children["network.parent_depth"] < children["depth"]]  # one as deep is its parent, restarted
    if children.empty:
        return None
    starts, parts = children.set_index("folder").get("initial.test_error", pd.Series(dtype=float)), []
    for (network, deep, parent), built in children.groupby(["network", "depth", "network.parent_depth"]):
        ours, shallow = finished(table).query("network == @network"), int(parent)
        for kind, line, style in (
            (ours[ours["depth"] == deep], f"{network}-{deep} from scratch", ""),
            (built, "deepened from the parent", "built"),
            (ours[ours["depth"] == shallow], f"{network}-{shallow}, the parent", ""),
        ):
            told = "" if style else f" (n = {kind['seed'].nunique()})"
            title = f"{network}-{deep} from {network}-{shallow}, n = {built['seed'].nunique()}"
            parts.append(kind.assign(line=line + told, style=style, column=title))

    def load(folder: Path) -> pd.DataFrame:
        start = pd.DataFrame({"iteration": [0], "test_error": [starts.get(folder, math.nan)]}).dropna()
        return pd.concat([part for part in (start, load_metrics(folder)) if len(part)] or [start])

    drawn, styles = pd.concat(parts), {"built": NEUTRAL[1]}
    figure, _ = draw.draw_curves(drawn, lambda curves: curves["column"], styles=styles, load=load)
    return write_caption(figure, describe(drawn))


def draw_initial_signals(table: pd.DataFrame) -> Figure | None:
    """Signals at initialisation, with and without batch normalisation (section 4.1)

    Signals of networks at initialisation on one batch, with batch normalisation and without. The rows show, from the
    top: the standard deviation (std) of each layer's response; the norm of the gradient at that response; the norm of
    the gradient of the layer's weights; and the factor by which the gradient at the responses grows from layer to layer
    backward, within stages. Where this factor is below 1, gradients vanish; above 1, they explode. Lines are means over
    seeds, bands their range.
    """
    runs = select(table, {"study": "gradients"}).sort_values(["network.norm", "depth", "network"])
    if runs.empty:
        return None
    runs["column"] = runs["network.norm"].map({"batch": "with batch normalisation", "none": "without"})
    signals = gather(runs.assign(line=with_n(runs)), load_gradients)
    signals = signals[signals["iteration"] == 0].assign(place=lambda rows: rows["layer"])
    growth = signals.groupby("folder").apply(growth_per_layer, include_groups=False).rename("value")
    per_run = signals.drop_duplicates("folder").merge(growth, left_on="folder", right_index=True)
    per_run = per_run.assign(row="growth", place=per_run["depth"])
    texts = {"std": "std of responses", "grad_response": "gradient norm,\nresponses"}
    texts |= {"grad_weight": "gradient norm,\nweights", "growth": "gradient growth\nper layer, backward"}
    rows = pd.concat([melt(signals, ["std", "grad_response", "grad_weight"], "row"), per_run])
    places = {row: "depth (weighted layers)" if row == "growth" else "layer index" for row in texts}
    figure, axes = draw_facets(rows, "place", "value", (places, texts), (4.8, 2.2), "row", named=True)
    columns = len(axes) // len(texts)
    _log_rows(axes[:-columns])
    draw.mark_values(axes[-columns:], runs["depth"])
    for ax in axes[-columns:]:
        ax.axhline(1, color="0.2", linewidth=1)
    return write_caption(figure, describe(runs, "at initialisation", ranged=True))


def draw_gradients_in_training(table: pd.DataFrame) -> Figure | None:
    """Weight gradients along training (section 4.1)

    Norm of the gradient of each layer's weights, at four moments of training. Lines are means over seeds, bands their
    range; each depth has an axis of its own. At initialisation, vanishing gradients would show as lines that fall
    toward the left. Later, the norm tells of the weights' own scale, too: before BN, gradients are inversely
    proportional to the norm of the weights (the figure `weight_norms` takes that out).
    """
    return _signals_in_training(table, "grad_weight", "gradient norm of weights")


def draw_signals_in_training(table: pd.DataFrame) -> Figure | None:
    """Responses along training (section 4.1)

    Standard deviation (std) of each layer's response, at four moments of training. Lines are means over seeds, bands
    their range; each depth has an axis of its own. With BN, the std is the size of gamma, and near 1 at initialisation
    whatever the images; what is passed on is shown by the figure `information`. Without BN, forward signals that die
    out would show as lines that fall toward the right.
    """
    return _signals_in_training(table, "std", "std of responses")


def _log_rows(axes: Sequence[Axes]) -> None:
    # Of panels that share their vertical axis by row.
    for _, row in groupby(axes, key=lambda ax: round(ax.get_position().y0, 3)):
        draw.log_scale(list(row))


def _signals_in_training(table: pd.DataFrame, column: str, ylabel: str) -> Figure | None:
    # A column of gradients.csv by layer: a row per depth and norm, a column per arm; moments are told apart by grey.
    rows = select(table, {}, ("network.norm",)).sort_values(["network.norm", "depth", "network"])
    rows = rows[[(folder / "gradients.csv").exists() for folder in rows["folder"]]]
    if rows.empty:
        return None
    kind = rows["label"] + rows["network.norm"].map({"batch": "", "none": ", no BN"})
    n = rows.groupby(kind)["seed"].transform("nunique").map(" (n = {})".format)
    diverged = (rows["outcome"] == "diverged").groupby(kind).transform("any").map({True: ", diverged", False: ""})
    place = rows["network.norm"] + rows["depth"].astype(str)
    rows = rows.assign(row=place, column=rows["network"], title=kind + diverged + n)
    parts = []
    for _, part in gather(rows, load_gradients).groupby("title", sort=False):
        moments = sorted(part["iteration"].unique())
        chosen = [min(moments, key=lambda at: abs(at - share * moments[-1])) for share in (0, 0.1, 0.5, 1)]
        parts.append(part.assign(style=part["iteration"].map({at: n for n, at in enumerate(chosen)})))
    signals = pd.concat(parts).dropna(subset=["style"])
    signals["line"] = signals["iteration"].map("iteration {:,}".format)
    looks = (("0.5", ":"), ("0.6", "-"), ("0.35", "-"), ("0.0", "-"))
    styles = {number: {"color": grey, "linestyle": line} for number, (grey, line) in enumerate(looks)}
    figure, axes = draw_facets(signals, "layer", column, ("layer index", ylabel), (4.2, 2.1), "row", styles)
    _log_rows(axes)
    return write_caption(figure, describe(rows, "one fixed batch, training mode", ranged=True))


def draw_convergence(table: pd.DataFrame) -> Figure | None:
    """Early convergence (section 4.1, Fig. 4): iterations until the training error falls to a level

    Iterations until the running training error falls to a level. The error is taken over the last epoch, or over all
    iterations so far where those are fewer. Points are seeds, and lines join the levels of each seed; a level that a
    seed never reached has no point. The vertical axis is logarithmic, so that equal distances are equal factors.
    """
    runs, levels = finished(table).sort_values(["depth", "network"]), range(80, 0, -10)
    runs = runs.assign(line=with_n(runs), kind="training", column=runs["depth"].map("{} layers".format))
    metrics = [(load_metrics(folder), epoch) for folder, epoch in zip(runs["folder"], runs["epoch"], strict=True)]
    parts = [
        runs.assign(level=level, reached=[first_below(rows, level, epoch) for rows, epoch in metrics])
        for level in levels
    ]
    shown = [part for part in parts if part["reached"].notna().any()]
    if not shown:
        return None
    rows = pd.concat(shown).astype({"reached": float})
    labels = ("training error (%), running, falls to", "iterations until then")
    figure, axes = draw_facets(rows, "level", "reached", labels, (3.6, 3), plot=draw.draw_points)
    draw.mark_values(axes, rows["level"])
    draw.log_scale(axes)
    for ax in axes:
        ax.set_xlim(rows["level"].max() + 3, rows["level"].min() - 3)
    return write_caption(figure, describe(runs, left_out(table)))


def draw_response_parts(table: pd.DataFrame) -> Figure | None:
    """What the responses of Fig. 7 are made of: BN's gamma and beta (where it is recorded)

    Standard deviation (std) of the responses by layer, and the root mean square of BN's gamma and beta. Responses are
    measured on the test set in eval mode: with BN statistics averaged over the training set (on which claims are
    judged), where these are recorded, and as evaluated. Lines are means over seeds, bands their range. In training
    mode, the variance of a response is that of beta over channels plus the mean square of gamma, so weight decay on
    gamma may shape Fig. 7. Runs without this decay stand beside those with it, where there are any.
    """
    decay = "protocol.decay_batchnorm"
    rows = select(table, {}, (decay,)).sort_values(["depth", "network", decay], ascending=[True, True, False])
    rows = rows[rows["outcome"] == "finished"]
    if rows.empty:
        return None
    without = rows[decay] == False  # noqa: E712
    arms = rows.groupby("depth")["network"].nunique()
    depths = {*rows.loc[without, "depth"]} or {*arms.index[arms == arms.max()][[0, -1]]}
    rows = rows.assign(style=without.map({True: "without", False: ""}))[rows["depth"].isin(depths)]
    line = rows["label"].where(rows["style"] == "", "without weight decay on BN")
    layers = gather(rows.assign(column=rows["label"], line=line), load_responses)
    names = {
        "std_exact": "std, BN averages\nof the training set",
        "std": "std, as evaluated",
        "gamma_rms": "gamma, rms",
        "beta_rms": "beta, rms",
    }
    styles, labels = {"without": {**NEUTRAL[1], "marker": None}}, ("layer index", names)
    figure, axes = draw_facets(melt(layers, [*names], "row"), "layer", "value", labels, (2.9, 1.8), "row", styles)
    _log_rows(axes)
    return write_caption(figure, describe(rows))


def _draw_lesions(table: pd.DataFrame, kinds: dict[str, str], xlabel: str) -> tuple[Figure | None, pd.DataFrame]:
    # A row per kind of lesion, a column per depth; and the lesions, each with the error of its network `intact`.
    runs = finished(table).sort_values(["depth", "network"])
    runs = runs[[len(load_probe(folder, "lesions")) > 0 for folder in runs["folder"]]]
    if runs.empty:
        return None, runs
    lesions = gather(runs.assign(line=with_n(runs)), lambda folder: load_probe(folder, "lesions"))
    lesions["intact"] = lesions["error"].where(lesions["count"] == 0).groupby(lesions["folder"]).transform("first")
    lesions = lesions[lesions["kind"].isin(kinds)].sort_values("kind", kind="stable")
    title = lesions["depth"].map("{} layers".format) + lesions["kind"].map(kinds)
    one = lesions.groupby(["folder", "kind"]).cumcount() + 1
    place = lesions["count"].where(lesions["kind"] != "delete_one", one)
    lesions = lesions.assign(row=lesions["kind"], column=lesions["depth"], title=title, place=place)
    figure, axes = draw_facets(lesions, "place", "error", (xlabel, "test error (%)"), (4.4, 2.6))
    axes[0].set_ylim(0, 100)
    counts = {describe_probe(folder)["probes"]["lesions"] for folder in runs["folder"]}
    images = " or ".join(f"{n:,}" for n in sorted(counts))
    return write_caption(figure, describe(runs, f"{images} test images")), lesions


def draw_lesion_study(table: pd.DataFrame) -> Figure | None:
    """Lesions (beyond the paper): test error against blocks deleted and pairs swapped

    Test error of trained networks by the number of blocks deleted, or of pairs of blocks swapped. Only blocks that keep
    the shape are deleted or swapped. Lines are means over seeds and draws, bands their range. The figure follows Fig. 5
    of Veit et al. 2016, where the loss of a few blocks costs residual networks little, and VGG nearly all.
    """
    kinds = {kind: f", {name}" for kind, name in LESIONS.items()}
    return _draw_lesions(table, kinds, "blocks deleted, or pairs of blocks swapped")[0]


def draw_lesions_by_block(table: pd.DataFrame) -> Figure | None:
    """Lesions (beyond the paper): test error with each block deleted, by its place

    Test error of trained networks with one block deleted, for each block that keeps the shape. Lines are means over
    seeds, bands their range; dotted lines are the intact networks. Where a network lies near its dotted line, it hardly
    needs the block. The figure follows Fig. 3 of Veit et al. 2016.
    """
    figure, lesions = _draw_lesions(
        table, {"delete_one": ""}, "which of the blocks that keep the shape, from the input on"
    )
    if figure:
        for ax, (depth, part) in zip(figure.axes, lesions.groupby("depth"), strict=True):
            for network, intact in part.groupby("network")["intact"]:
                ax.axhline(intact.mean(), color=draw.colour_of(network, depth), linestyle=":")
            draw.mark_stages(ax, _stages(part.drop_duplicates("place")))
    return figure


def _stages(one: pd.DataFrame) -> pd.Series:
    # Of single deleted blocks, by their names: earlier tables have no column of stages.
    return one["blocks"].str.extract(r"^stage(\d+)")[0].fillna("0").astype(int)


def draw_gradients(rows: pd.DataFrame, caption: str) -> Figure:
    """Section 4.1 of one network: norms of the backward signal by layer, at the responses and at the weights."""
    texts = {"grad_response": "gradient norm at the responses", "grad_weight": "gradient norm at the weights"}
    both, labels = melt(rows.assign(line="", style=0), texts, "column"), ("layer index (1 is the stem)", "norm")
    styles = {0: {"color": "0.1", "marker": "."}}
    figure, axes = draw_facets(both, "layer", "value", labels, sharey=False, styles=styles)
    for ax, name in zip(axes, texts, strict=True):
        draw.mark_stages(ax, rows["stage"])
        if (rows[name] > 0).all():
            draw.log_scale([ax])
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
    labels = ("which of these, or how many blocks or pairs", "error (%)")
    figure, axes = draw_facets(pd.concat([one, several]), "count", "error", labels, styles=styles)
    intact = rows.loc[rows["count"] == 0, "error"].iloc[0]
    for ax in axes:
        ax.axhline(intact, color="0.35", linestyle=":")
        ax.annotate("intact", (1, intact), (0, -9), ax.get_yaxis_transform(), "offset points", ha="right", size=8)
    draw.mark_stages(axes[0], _stages(one))
    axes[0].set_ylim(0, 100)  # so that figures of two networks compare
    return write_caption(figure, caption)


def _read(table: pd.DataFrame, column: str, load: Callable[[Path], pd.DataFrame]) -> pd.DataFrame:
    # What `load` reads of the finished runs whose records have a column, which earlier ones lack; a column per arm.
    rows = gather(finished(table).sort_values(["depth", "network"]), load)
    rows = rows.dropna(subset=[column]) if column in rows else rows.iloc[:0]
    return rows.assign(row=rows["depth"], column=rows["network"] + " networks", line=rows["label"])


def draw_first_steps(table: pd.DataFrame) -> Figure | None:
    """The first steps: growth of the weights (beyond the paper)

    Norm of each layer's weights relative to that at initialisation, after the first iterations (later ones are darker).
    Lines are means over seeds, bands their range. Weights before BN have no scale of their own, and their gradients are
    inversely proportional to their norm. So a layer whose weights explode in the first steps hardly moves afterwards.
    """
    signals = _read(table, "weight_norm", load_gradients)
    if signals.empty:
        return None
    first = signals[signals["iteration"] == 0].set_index(["folder", "layer"])["weight_norm"].rename("first")
    steps = [step for step in (1, 4, 16, 64) if step < signals["iteration"].max()]
    signals = signals[signals["iteration"].isin(steps)].join(first, on=["folder", "layer"])
    if signals.empty:  # none of these was measured
        return None
    signals = signals.assign(title=signals["label"], style=signals["iteration"].map(str))
    signals = signals.assign(growth=signals["weight_norm"] / signals["first"], line="iteration " + signals["style"])
    shades = np.linspace(0.75, 0, len(steps))
    styles = {str(step): {"color": str(round(shade, 3))} for step, shade in zip(steps, shades, strict=True)}
    figure, axes = draw_facets(signals, "layer", "growth", ("layer index", "norm of weights / first"), styles=styles)
    draw.log_scale(axes)
    return write_caption(figure, describe(signals, ranged=True))


def draw_weight_norms(table: pd.DataFrame) -> Figure | None:
    """Gradients after training, whatever the scale of the weights (section 4.1)

    Gradients of each layer's weights after the last iteration, in two measures. The top row shows the norm of the
    gradient times the norm of the weights, a product that the scale of the weights does not change: vanishing gradients
    would show as lines that fall toward the left. The bottom row shows the share of the weights that a step without
    momentum replaces, which is small for layers whose weights are large, too. Lines are means over seeds, bands their
    range.
    """
    signals = _read(table, "weight_norm", load_gradients)
    if signals.empty:
        return None
    last = signals[signals["iteration"] == signals.groupby("folder")["iteration"].transform("max")]
    texts = {"scaled": "gradient norm x weight norm", "update": "rate x gradient norm / weight norm"}
    last = last.assign(scaled=last["grad_weight"] * last["weight_norm"])
    last = last.assign(update=last["lr"] * last["grad_weight"] / last["weight_norm"])
    labels = ("layer index", texts)
    figure, axes = draw_facets(melt(last, [*texts], "row"), "layer", "value", labels, (4.4, 2.8), "row")
    _log_rows(axes)
    return write_caption(figure, describe(last, "after the last iteration", ranged=True))


def draw_information(table: pd.DataFrame) -> Figure | None:
    """What layers know of their images (section 4.1: the forward signal)

    Three measures of what leaves the stem and every block of the trained networks: the mean cosine between images, the
    effective rank, and the error of a linear classifier (a linear probe). Lines are means over seeds, bands their
    range. Images that look alike have a cosine near 1. The rank is that of the variation that is left, however small.
    Only the linear classifier tells whether a signal dies out: it then has the error of guessing.
    """
    rows = _read(table, "cosine", load_responses)
    if rows.empty:
        return None
    texts = {"cosine": "mean cosine", "rank": "effective rank", "probe_error": "error of a linear probe (%)"}
    labels = ("layer index", texts)
    figure, axes = draw_facets(melt(rows, [*texts], "row"), "layer", "value", labels, (4.4, 2.4), "row")
    if rows["probe_error"].notna().any():
        probes = axes[-rows.loc[rows["probe_error"].notna(), "column"].nunique() :]
        probes[0].set_ylim(top=max(probes[0].get_ylim()[1], 1.05 * rows["guessing"].max()))
        draw.mark_guessing(probes, rows["guessing"].max())
    told = "test images, averages over four quadrants, BN averages of the training set, float32"
    return write_caption(figure, describe(rows, told, ranged=True))


def _draw_two(
    rows: pd.DataFrame, x: str, names: dict[str, str], labels: tuple[str, str], **look: Any
) -> tuple[Figure, list[Axes]]:
    # Two columns of what _read gives, a panel per network.
    both = melt(rows.assign(title=rows["label"]), names, "line")
    styles = {name: {**style, **look} for name, style in zip(names.values(), NEUTRAL, strict=False)}
    return draw_facets(both.assign(style=both["line"]), x, "value", labels, (4, 2.6), styles=styles)


def draw_response_statistics(table: pd.DataFrame) -> Figure | None:
    """Fig. 7 with either BN statistics: averages over the training set, and moving averages

    Standard deviation (std) of the responses by layer, with BN statistics averaged over the training set (float32), and
    as evaluated, with moving averages. Lines are means over seeds, bands their range. Moving averages lag behind
    weights that move fast, and their lag adds up over layers. The claims are judged on the averages over the training
    set (float32).
    """
    rows = _read(table, "std_exact", load_responses)
    if rows.empty:
        return None
    names = {"std_exact": "averages over the training set, float32", "std": "as evaluated"}
    figure, axes = _draw_two(rows, "layer", names, ("layer index", "std of responses"), marker=None)
    draw.log_scale(axes)
    return write_caption(figure, describe(rows, ranged=True))


def draw_constructed_controls(table: pd.DataFrame) -> Figure | None:
    """The constructed solution against its budget (section 1): restarts, twice the iterations, a hundredth of the rate

    Final training and test error of the child, the deep network that is built from a trained shallow one (its parent),
    and of the networks beside it. Points are runs; filled points and dashed lines are training error, open points and
    solid lines test error. The child has had its parent's iterations and a restart before its own, so it stands beside
    networks that had as much.
    """
    built = select(table, {}, ("network.parent_depth",)).groupby(["network", "depth", "network.parent_depth"]).groups
    parts = []
    for network, deep, parent in built:
        shallow, child = int(parent), {"depth": deep, "network.parent_depth": parent}
        for kind, where in (
            (f"{shallow}", {"depth": shallow}),
            (f"{shallow}, restarted", {**child, "depth": shallow}),
            (f"{deep} from it", child),
            (f"{deep}, rate / 100", {**child, "rate": 0.01}),
            (f"{deep} from scratch", {"depth": deep}),
            (f"{deep}, twice as long", {"depth": deep, "length": 2}),
        ):
            if shallow < deep:
                runs = select(table, {"network": network, **where})
                parts.append(runs.assign(kind_of=kind, column=f"{network} networks"))
    rows = pd.concat(parts) if parts else pd.DataFrame({"kind_of": [], "folder": []})
    rows = rows.drop_duplicates(["kind_of", "folder"])  # a parent of several
    kinds = {kind: kind for kind in rows["kind_of"].unique()}
    if len(kinds) < 4:
        return None
    figure, axes = draw.draw_errors(rows.assign(line=rows["network"]), "kind_of", "", kinds)
    for ax in axes:
        ax.tick_params(axis="x", rotation=30)
    return write_caption(figure, describe(rows))


def draw_recalibrated(table: pd.DataFrame) -> Figure | None:
    """Lesions with BN recalibrated: path length or statistics? (beyond the paper)

    Error of trained networks with one block deleted, for each block that keeps the shape: with the BN statistics of the
    whole network, and with statistics measured again without the block (no weight is trained). Beside them stands the
    error of the whole network, with its own statistics and, where that was measured, recalibrated. Lines are means over
    seeds, bands their range. What comes back with recalibration is due to BN.
    """
    lesions = _read(table, "error_recalibrated", lambda folder: load_probe(folder, "lesions"))
    lesions = lesions[lesions["kind"] == "delete_one"] if len(lesions) else lesions
    if lesions.empty:
        return None
    probed = pd.concat([load_probe(folder, "lesions").assign(folder=folder) for folder in lesions["folder"].unique()])
    whole = probed[probed["count"] == 0].drop_duplicates("folder").set_index("folder")
    lesions = lesions.assign(place=lesions.groupby("folder").cumcount() + 1)
    names = {"error": "BN statistics as they were", "error_recalibrated": "recalibrated without the block"}
    for column, name in (("error", "no block deleted"), ("error_recalibrated", "none deleted, recalibrated")):
        lesions[f"whole_{column}"] = lesions["folder"].map(whole[column])
        names[f"whole_{column}"] = name
    figure, axes = _draw_two(lesions, "place", names, ("which of the blocks that keep the shape", "test error (%)"))
    axes[0].set_ylim(0, 100)
    known = {n for folder in whole.index if (n := describe_probe(folder).get("recalibrated_on"))}
    images = " or ".join(f"{n:,}" for n in sorted(known)) or "an unrecorded number of"
    return write_caption(figure, describe(lesions, f"recalibrated on {images} training images", ranged=True))


REMEDIES: dict[str, dict[str, Any]] = {
    "as it is": {},
    "rate ramped": {"protocol.ramp": 0.05},
    "norms held": {"protocol.hold_norms": True},
    "gradients clipped": {"protocol.clip": 1.0},
}


def draw_cures(table: pd.DataFrame) -> Figure | None:
    """Is degradation the first steps' explosion? Final training error with each remedy, by rate (beyond the paper)

    Final training error in eval mode by learning rate, with a panel for each remedy and one for no remedy. Every run is
    a point, and lines join the runs of a seed. A cure brings plain-56, at whatever rate suits it, down toward plain-20
    as it is, whatever it does to plain-20. The claims choose the rate on the other seeds.
    """
    found = [select(table, where, ("protocol.lr",)).assign(column=name) for name, where in REMEDIES.items()]
    remedied = pd.concat(found[1:])
    parts = [
        rows[rows["label"].isin(remedied["label"]) & rows["protocol.lr"].isin(remedied["protocol.lr"])]
        for rows in found
    ]
    rows = pd.concat(parts).sort_values(["network", "depth"], kind="stable")
    if remedied.empty:
        return None
    labels = ("learning rate", "training error, eval mode (%)")
    lines = rows.assign(line=rows["label"], kind="training")
    figure, axes = draw_facets(lines, "protocol.lr", "train_error_eval", labels, (2.4, 3), plot=draw.draw_points)
    draw.mark_values(axes, rows["protocol.lr"])
    draw.from_zero(axes)
    return write_caption(figure, describe(rows))


WITHOUT_SHORTCUTS: dict[str, dict[str, Any]] = {
    "plain": {"network": "plain"},
    "Dirac\nkernels": {"network": "plain", "network.init": "dirac"},
    "looks\nlinear": {"network": "plain", "network.init": "looks_linear", "network.norm": "none"},
    "tailored\nReLUs": {
        "network": "plain",
        "network.init": "orthogonal",
        "network.activation": "tailored",
        "network.norm": "none",
    },
    "Fixup\n(residual)": {"network": "residual", "network.init": "fixup", "network.norm": "none"},
    "residual": {"network": "residual"},
}


def draw_without_shortcuts(table: pd.DataFrame) -> Figure | None:
    """Are shortcuts necessary? Final errors of plain networks by other means, and of residual ones without BN

    Final training and test error of each kind of network, at the learning rate with the best mean training error in
    eval mode. Every run is a point. All kinds but plain, Dirac and residual are without BN. The claims choose the rate
    on the other seeds. The figure goes beyond the paper.
    """
    found = [select(table, where, ("protocol.lr",)).assign(kind_of=name) for name, where in WITHOUT_SHORTCUTS.items()]
    rows = pd.concat(found).dropna(subset=["train_error_eval"])
    rows = rows[rows["depth"].isin(rows.loc[~rows["kind_of"].isin(("plain", "residual")), "depth"])]
    if rows.empty:
        return None
    of_depth = ("-" + rows["depth"].astype(str)) if rows["depth"].nunique() > 1 else ""
    rows, told = _at_best_rates(rows.assign(way=rows["kind_of"].str.replace("\n", " ") + of_depth), "train_error_eval")
    seeds = rows.groupby(["kind_of", "depth"])["seed"].nunique().groupby("kind_of").agg(["min", "max"])
    n = {way: " to ".join(str(n) for n in sorted({*counts})) for way, *counts in seeds.itertuples()}
    names = {way: f"{way}\nn = {n[way]}" for way in WITHOUT_SHORTCUTS if way in n}
    figure, _ = draw.draw_errors(rows.assign(line=rows["label"]), "kind_of", "", names)
    return write_caption(figure, describe(rows, told))


def draw_layer_information(rows: pd.DataFrame, caption: str) -> Figure:
    """What the layers of one network know of its images, as draw_information has it of runs."""
    texts = {"cosine": "mean cosine", "rank": "effective rank", "probe_error": "error of a linear probe (%)"}
    parts = [rows.assign(column=text, line="", style=0, value=rows[name]) for name, text in texts.items()]
    labels, styles = ("layer index (1 is the stem)", ""), {0: {"color": "0.1", "marker": "."}}
    figure, axes = draw_facets(pd.concat(parts), "layer", "value", labels, (3.4, 2.8), sharey=False, styles=styles)
    layers = range(1, rows["layer"].max() + 1)  # of a block its last alone is in the table
    stages = rows.set_index("layer")["stage"].reindex(layers).bfill().astype(int)
    for ax in axes:
        draw.mark_stages(ax, stages)
    return write_caption(figure, caption)
