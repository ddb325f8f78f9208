"""Measure networks that others trained to the end of the paper's schedule, or a fifth beyond.

experiments/reproductions.yaml lists them: public files with their source, licence, SHA-256 and published test error.
Each is probed on all of CIFAR-10; tables, figures and a page land in results/reproductions/, the weights never do.
"""

import degradation.script  # isort: skip  # noqa: F401  first of all
import hashlib
import json
import math
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from degradation.config import ConfigError, refuse_published
from degradation.ending import Parser
from degradation.record import write_atomically
from degradation.report.draw import (
    DASHED,
    PAPER_TOP,
    colour_of,
    draw_facets,
    from_zero,
    log_scale,
    melt_errors,
    new_figure,
    save,
    style_of,
    write_caption,
)
from degradation.report.pages import markdown_table
from degradation.report.statistics import SIGNALS, gain_of_probe, lesion_cost, lesion_errors
from degradation.report.table import ARMS, find_results
from degradation.report.verdicts import load_claims

HERE = Path(__file__).parent
TABLES = ("error", "responses", "information", "gradients", "lesions", "constructed", "curves")
KEPT = (*(f"{kind}.csv" for kind in TABLES[:-1]), "probe.json")  # of a probe
CURVES = "curves.csv"  # of an author's log, where there is one
EPOCH = 391  # iterations of 128 images, the last batch smaller
BATCH = 128  # of all of them
LESION_IMAGES = 1000  # test images, and as many training images, in whole batches, for BN statistics
GUESSING = 90.0  # its error, percent
# What is told of the inside of each network, and in which words.
INSIDE = {
    "gradient": "first over last layer, weight gradient times weights",
    "stem": "linear probe at the stem, error (%)",
    "gain": "change to the last block (points)",
    "cost_error": "one block costs, of the advantage over guessing",
    "cost_error_recalibrated": "the same, BN recalibrated",
    "recovery": "share that comes back",
    "constructed": "largest difference of a logit, deepened",
}
NAMED = ("author", "network", "depth", "label")
ERRORS = {"train_error": "training error, eval mode", "test_error": "test error"}
STATED = {"C6 (56)": "C6", "C6 (56, moving)": "C6 (moving)"}  # of this depth their study speaks


class ReproductionError(Exception):
    """A file is missing or not the published one, or its network does not err as published; one line says which."""


def listed() -> pd.DataFrame:
    """The networks, one row each: author, network, depth, file, sha256, published test error, and how to read them.

    And what they are called: label, such as plain-56; panel, such as plain (a-martyn); name, that of their folder.
    """
    rows = []
    for source in yaml.safe_load((HERE / "reproductions.yaml").read_text()):
        shared = {key: value for key, value in source.items() if key != "networks"}
        rows += [{**shared, **network} for network in source["networks"]]
    table = pd.DataFrame(rows).rename(columns={"test_error": "published"})
    table["label"] = table["network"] + "-" + table["depth"].astype(str)
    table["panel"] = table["network"] + " (" + table["author"] + ")"
    return table.assign(name=table["author"] + "-" + table["label"])


def find_file(folder: Path, file: str, sha256: str, repository: str) -> Path:
    """A published file below a folder, by its name, checked by its SHA-256.

    Raises:
        ReproductionError: it is not there, or another file of that name is.
    """
    found = sorted(folder.rglob(Path(file).name))
    if not found:
        raise ReproductionError(f"{Path(file).name} is not below {folder}; get it from {repository}")
    for path in found:
        if hashlib.sha256(path.read_bytes()).hexdigest() == sha256:
            return path
    raise ReproductionError(f"{found[0]} is not the published file: its SHA-256 is not {sha256}")


def read_log(path: Path) -> pd.DataFrame:
    """An author's log (epoch, train_err, test_err: shares) as curves: iteration, train_error, test_error (percent)."""
    log = pd.read_csv(path)
    return pd.DataFrame(
        {
            "iteration": (log["epoch"] + 1) * EPOCH,
            "train_error": 100 * log["train_err"],
            "test_error": 100 * log["test_err"],
        }
    )


def measure(entry: Any, file: Path, data_dir: str, out: Path, log: Path | None = None) -> None:
    """Probe one network; its tables are kept only where it errs on the test set as its authors published.

    Raises:
        ReproductionError: the probe fails, or the test error is another, of the network or at the end of its log.
    """
    constants = [",".join(map(str, values)) for values in (entry.mean, entry.std)]
    told = ["--shortcut", "none" if entry.network == "plain" else "A", "--pad-side", entry.pad_side]
    told += ["--mean", constants[0], "--std", constants[1], "--data-dir", data_dir]
    told += ["--lesion-images", str(LESION_IMAGES), "--draws", "1"]
    with tempfile.TemporaryDirectory() as temporary:
        made = Path(temporary) / entry.name
        command = [sys.executable, str(HERE / "probe.py"), str(file), *told, "--data", "cifar10", "--out", str(made)]
        if subprocess.run(command).returncode:
            raise ReproductionError(f"probing {file} failed; the line above says why")
        errors = pd.read_csv(made / "error.csv").set_index("set")["error"]
        found = {file: errors["test"]}
        if log is not None:
            curves = read_log(log)
            curves.to_csv(made / CURVES, index=False, float_format="%.6g")
            found[log] = curves["test_error"].iloc[-1]
        for source, error in found.items():
            if round(error, 2) != round(entry.published, 2):
                raise ReproductionError(
                    f"{source} errs on {error:.2f} % of the test images, published are {entry.published:.2f} %"
                )
        partial = out.with_name(f".{out.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        for path in (made / name for name in (*KEPT, CURVES)):
            if path.exists():
                shutil.copyfile(path, partial / path.name)
        shutil.rmtree(out, ignore_errors=True)
        partial.rename(out)


def unmeasured(folder: Path) -> list[str]:
    """The listed networks of which a table is missing in a folder of results, or all are of another file, by name."""

    def is_measured(row: Any) -> bool:
        files = [folder / row.name / file for file in (*KEPT, *[CURVES] * isinstance(row.log, str))]
        if not all(map(Path.exists, files)):
            return False
        described = json.loads(files[KEPT.index("probe.json")].read_text())
        return bool(described.get("weights", row.sha256) == row.sha256)

    return [row.name for row in listed().itertuples(index=False) if not is_measured(row)]


def load(folder: Path) -> pd.DataFrame:
    """The listed networks that were measured, with train_error, test_error (percent), mean_std, mean_std_exact.

    And with their tables; that of `curves` is empty where the author left no log.
    """
    table = listed()
    table = table[[all((folder / name / file).exists() for file in KEPT) for name in table["name"]]].copy()
    for kind in TABLES:
        paths = [folder / name / f"{kind}.csv" for name in table["name"]]
        table[kind] = [pd.read_csv(path) if path.exists() else pd.DataFrame() for path in paths]
    errors = [rows.set_index("set")["error"] for rows in table["error"]]
    table["train_error"], table["test_error"] = [e["train"] for e in errors], [e["test"] for e in errors]
    for column in ("std", "std_exact"):
        table[f"mean_{column}"] = [rows[column].mean() for rows in table["responses"]]
    return table


def describe_inside(table: pd.DataFrame) -> pd.DataFrame:
    """What the claims about the inside of a network are judged by, of each: columns in the order of INSIDE."""
    rows = []
    for net in table.to_dict("records"):
        told: dict[str, Any] = {key: net[key] for key in NAMED}
        told["gradient"] = SIGNALS["scaled_gradient_ratio"](net["gradients"])
        told |= {"stem": net["information"]["probe_error"].iloc[0], "gain": gain_of_probe(net["information"])}
        rises = []  # of the error without one block, with BN statistics as they were, and measured again
        for column in ("error", "error_recalibrated"):
            told[f"cost_{column}"] = lesion_cost(net["lesions"], GUESSING, column)
            whole, without = lesion_errors(net["lesions"], column) or (math.nan, math.nan)
            rises.append(without - whole)
        told["recovery"] = 1 - rises[1] / rises[0] if rises[0] > 0 else None
        told["constructed"] = net["constructed"]["largest_difference"].max()
        rows.append(told)
    return pd.DataFrame(rows, columns=[*NAMED, *INSIDE])


def judge(table: pd.DataFrame) -> pd.DataFrame:
    """What the claims of Fig. 6, Fig. 7 and Table 6, and of the inside of trained networks, come to on these networks.

    One row per claim and author: one network a depth is no sample, so that there is a direction and no interval.
    """
    rows, stated = [], {claim.id: claim for claim in load_claims()}

    def say(claim: str, author: str, sentence: str, value: float | None, unit: str = "") -> None:
        if value is None or pd.isna(value):
            return
        like = re.sub(r"\(\d+", "(56", claim)  # where no study states it at this depth, it is the same claim there
        low, high = stated[STATED.get(like, like)].bounds
        verdict = "agrees" if low < value < high else "disagrees"
        number = f"{value:+.2f} {unit}" if unit in ("points", "of the advantage") else f"{value:.2g} {unit}".strip()
        named = {"claim": STATED.get(claim, claim), "networks": author}
        rows.append({**named, "statistic": sentence, "value": number, "verdict": verdict})

    for author, part in table.groupby("author"):
        inside = describe_inside(part)
        arms = {arm: part[part["network"] == arm].set_index("depth").sort_index() for arm in ARMS}
        within = {arm: inside[inside["network"] == arm].set_index("depth") for arm in ARMS}
        for arm, claim in (("plain", "C1"), ("residual", "C2")):
            nets = arms[arm]
            for depth in (20, 56):
                sentence = (
                    f"{arm}-{depth} without one block: share of what is lost that comes back with BN recalibrated"
                )
                say(f"Recovery ({arm}-{depth})", author, sentence, within[arm]["recovery"].get(depth))
            if len(nets) < 2:
                continue
            shallow, deep = nets.index[0], nets.index[-1]
            for column, what in (("train_error", "training"), ("test_error", "test")):
                change = nets[column][deep] - nets[column][shallow]
                sentence = f"{arm}-{deep} minus {arm}-{shallow}, {what} error"
                name = f"{claim} ({what})" if what == "test" else claim
                say(name, author, sentence, change, "points")
            if arm == "residual":
                for name, column in (("C7", "mean_std_exact"), ("C7 (moving)", "mean_std")):
                    sentence = f"mean response of {arm}-{deep} over that of {arm}-{shallow}"
                    say(name, author, sentence, nets[column][deep] / nets[column][shallow])
            else:
                differs = nets["constructed"][shallow].set_index("depth")["largest_difference"].get(deep)
                sentence = f"plain-{deep} built from plain-{shallow}: largest difference of a logit, of the largest"
                say("C4 (exists)", author, sentence, differs)
                sentence = f"first over last layer of plain-{deep}, weight gradient times weights"
                say("C5 (trained)", author, sentence, within[arm]["gradient"].get(deep))
                sentence = f"plain-{deep}, linear probe: error at the last block minus at the stem"
                say("C5 (forward)", author, sentence, within[arm]["gain"].get(deep), "points")
        for depth in arms["plain"].index.intersection(arms["residual"].index):
            plain, residual = (arms[arm].loc[depth] for arm in ARMS)
            gain = plain["train_error"] - residual["train_error"]
            say(f"C3 ({depth})", author, f"plain-{depth} minus residual-{depth}, training error", gain, "points")
            for name, column in ((f"C6 ({depth})", "std_exact"), (f"C6 ({depth}, moving)", "std")):
                ratio = (residual["responses"][column] / plain["responses"][column]).median()
                say(name, author, f"response of residual-{depth} over plain-{depth}, median over layers", ratio)
            for name, column in (
                (f"Lesion ({depth})", "error"),
                (f"Lesion ({depth}, recalibrated)", "error_recalibrated"),
            ):
                plain_cost, residual_cost = (within[arm].loc[depth, f"cost_{column}"] for arm in ARMS)
                sentence = f"what one block costs: plain-{depth} minus residual-{depth}"
                say(name, author, sentence, plain_cost - residual_cost, "of the advantage")
    rows.sort(key=lambda row: (int(found[1]) if (found := re.match(r"C(\d+)", row["claim"])) else 99, row["claim"]))
    return pd.DataFrame(rows, columns=["claim", "networks", "statistic", "value", "verdict"])


def caption(table: pd.DataFrame) -> str:
    """The line on every figure."""
    authors = " and ".join(sorted(table["author"].unique()))
    trained = f"trained by others ({authors}) to the end of the paper's schedule or a fifth beyond"
    return f"{trained}; measured here on CIFAR-10, one network each"


def draw_errors(table: pd.DataFrame) -> Figure:
    """Error against depth: training in eval mode (left, logarithmic), test (right); a line per author and arm."""
    figure, axes = new_figure(8.5, 3.8, 2)
    for ax, (column, title) in zip(axes, ERRORS.items(), strict=True):
        for (author, network), part in table.sort_values("depth").groupby(["author", "network"]):
            style = {**style_of(network, 44), "linestyle": DASHED if column == "train_error" else "-", "markersize": 6}
            filled = style["color"] if author == sorted(table["author"])[0] else "white"
            ax.plot(part["depth"], part[column], markerfacecolor=filled, label=f"{network} ({author})", **style)
        ax.set_xticks(sorted(table["depth"].unique()))
        ax.set_xlabel("depth (weighted layers)")
        ax.set_ylabel("error (%), logarithmic" if column == "train_error" else "error (%)")
        ax.set_title(title)
    log_scale(axes[:1])  # 0.01 beside 2 %
    axes[1].set_ylim(bottom=0)
    axes[1].legend(loc="lower left")
    return write_caption(figure, caption(table))


def draw_curves(table: pd.DataFrame) -> Figure | None:
    """Fig. 6 as an author logged it: training (dashed) and test error along training; None without a log."""
    logged = table[table["curves"].map(len) > 0]
    parts = [
        melt_errors(net["curves"]).assign(network=net["network"], depth=net["depth"], line=net["label"])
        for net in logged.to_dict("records")
    ]
    if not parts:
        return None
    rows = pd.concat(parts)
    rows = rows.assign(thousands=rows["iteration"] / 1000, column=rows["network"] + " networks")
    labels = ("iterations (thousands)", "error (%)")
    figure, axes = draw_facets(rows, "thousands", "value", labels, (4.6, 3.3))
    axes[0].set_ylim(0, PAPER_TOP)
    for ax, (_, part) in zip(axes, rows.groupby("column", sort=False), strict=True):
        last = part[part["iteration"] == part["iteration"].max()]
        name_ends(ax, last.sort_values("value"), 0.65)
    authors = " and ".join(sorted(logged["author"].unique()))
    told = "errors in eval mode after every epoch, training images augmented; axes as in the paper, to 20 %"
    return write_caption(figure, f"trained and logged by {authors}, one network each; {told}")


def name_ends(ax: Axes, ends: pd.DataFrame, apart: float) -> None:
    """The depth beside the end of each line, from below, so far apart as to be read, and a thin line to it."""
    place, right = -math.inf, 1.025 * ax.get_xlim()[1]
    for end in ends.itertuples():
        place = max(end.value, place + apart)
        colour = colour_of(end.network, end.depth)
        told: dict[str, Any] = {"size": 7, "color": colour, "va": "center", "annotation_clip": False}
        line = {"arrowstyle": "-", "color": colour, "linewidth": 0.6, "shrinkA": 0, "shrinkB": 0}
        ax.annotate(str(end.depth), (end.thousands, end.value), (right, place), arrowprops=line, **told)


def draw_inside(table: pd.DataFrame, kind: str, x: str, column: str, labels: tuple[str, str], told: str) -> Figure:
    """A column of one of the tables of each network, a panel per author and arm, a line per depth."""
    parts = [
        net[kind].assign(network=net["network"], depth=net["depth"], line=net["label"], column=net["panel"])
        for net in table.sort_values(["author", "network", "depth"]).to_dict("records")
    ]
    figure, axes = draw_facets(pd.concat(parts), x, column, labels, (3.3, 2.8), named=True)
    from_zero(axes)
    return write_caption(figure, f"{caption(table)}; {told}")


def draw_responses(table: pd.DataFrame) -> Figure:
    """Fig. 7: std of the layer responses sorted by size, with BN statistics averaged over the training set."""
    responses = [rows.sort_values("std_exact", ascending=False) for rows in table["responses"]]
    ranked = table.assign(responses=[rows.assign(place=range(1, len(rows) + 1)) for rows in responses])
    told = "3x3 layers after BN, before ReLU or addition; test set, BN statistics averaged over the training set"
    return draw_inside(ranked, "responses", "place", "std_exact", ("layer, sorted by std", "std of responses"), told)


def draw_recalibrated(table: pd.DataFrame) -> Figure:
    """Test error with each block deleted, BN statistics as they were and measured again; a panel per author, depth."""
    parts = []
    looks = {"error": ("BN as it was", "-"), "error_recalibrated": ("BN measured again", DASHED)}
    for net in table.sort_values(["author", "depth", "network"]).to_dict("records"):
        one = net["lesions"][net["lesions"]["kind"] == "delete_one"].reset_index(drop=True)
        one = one.assign(place=one.index + 1, title=f"{net['depth']} layers ({net['author']})")
        one = one.assign(network=net["network"], column=net["depth"], row=net["author"])
        for column, (name, _) in looks.items():
            line = {"line": f"{net['network']}, {name}", "style": f"{net['network']} {column}"}
            parts.append(one.assign(value=one[column], **line))
    styles = {}
    for arm in ARMS:
        for column, (_, dashes) in looks.items():
            look = {"linestyle": dashes, "markerfacecolor": "white" if dashes == DASHED else None}
            styles[f"{arm} {column}"] = {**style_of(arm, 44), **look}
    labels = ("which of the blocks that keep the shape", "test error (%)")
    figure, axes = draw_facets(pd.concat(parts), "place", "value", labels, (3.0, 2.6), styles=styles)
    from_zero(axes)
    told = f"{LESION_IMAGES:,} test images; blocks that keep the shape of their input"
    return write_caption(figure, f"{caption(table)}; {told}")


PAGE = """# Networks that others trained

Generated by `python experiments/reproductions.py FOLDER` from the measured tables beside it; do not edit.

Two public reproductions hold networks trained to the end of the paper's schedule (one of them a fifth beyond).
**None of this is our training**: we read their files through `experiments/probe.py`, and measured the networks in
float32. Errors and responses are measured on all of CIFAR-10, in eval mode; the rest is measured as stated. Each
network has the test error that its authors published, to the digit, or its tables would not be here. There is one
network for each author, arm and depth, so what follows is a direction, not a statistic. It is corroboration beside
our own runs, which [claims.md](../claims.md) judges."""


CURVES_TOLD = """## Fig. 6, as {authors} logged it

Training error (dashed) and test error (solid) over the whole of the paper's schedule, from the author's log of every\
 epoch (checked: it ends at the published error, to the digit). Deeper plain networks (left) end above shallower ones,\
 in training error, too. Deeper residual networks (right) end below shallower ones."""
LESIONS_TOLD = """## Without one block

Test error on {images:,} test images when one block is deleted, for each block that keeps the shape of its input. This\
 follows Veit et al. 2016, on networks trained to the end; nothing is trained again. Open markers show the error with\
 BN statistics measured again without the block, on {again:,} training images."""
INFORMATION_TOLD = """## What layers tell of images

Error of a linear classifier on what leaves the stem and every block: the forward signal of section 4.1, in networks\
 that are trained to the end. The classifier is ridge regression on the means of every channel over four quadrants. It\
 is learnt from 2,000 training images and tested on 2,000 test images."""
INSIDE_TOLD = """## Inside, network by network

Gradients are of the mean loss over 128 training images, in training mode. Their norm is multiplied by that of the\
 weights, because the scale of weights before BN means nothing. What a block costs is a mean over blocks, as drawn\
 above. Where that is little, the share that comes back rests on few images. The last column is about the solution by\
 construction of section 1: the deeper networks that identity layers make of this one, before any training. The column\
 gives the worst of them, on {images:,} test images."""


def write_page(folder: Path) -> Path:
    """The figures and results/reproductions/README.md, from the tables below the folder."""
    table = load(folder)
    probe_labels = ("layer index (1 is the stem)", "error of a linear probe (%)")
    told = "BN statistics averaged over the training set; what leaves the stem and every block"
    figures = {
        "error_by_depth": draw_errors(table),
        "fig6": draw_curves(table),
        "fig7": draw_responses(table),
        "lesions": draw_recalibrated(table),
        "information": draw_inside(table, "information", "layer", "probe_error", probe_labels, told),
    }
    for name, figure in figures.items():
        if figure is not None:
            save(figure, folder, name)
    judged, counts = judge(table), {"images": LESION_IMAGES, "again": LESION_IMAGES // BATCH * BATCH}
    networks = table.sort_values(["author", "name"])
    errors = {
        "author": "trained by",
        "label": "network",
        "train_error": "training error, eval mode (%)",
        "test_error": "test error (%)",
        "published": "published (%)",
        "mean_std_exact": "mean std of responses",
        "mean_std": "the same, moving averages",
    }
    sources = networks.drop_duplicates("author")
    described = [
        f"- **{s.author}**: [{s.repository}]({s.repository}), {s.licence}. {s.trained}" for s in sources.itertuples()
    ]
    files = networks.assign(file="`" + networks["file"] + "`", sha256="`" + networks["sha256"] + "`")
    logged = " and ".join(sorted(table.loc[table["curves"].map(len) > 0, "author"].unique()))
    inside = describe_inside(networks)
    for column in ("gradient", "constructed"):
        inside[column] = inside[column].map(lambda value: f"{value:.2g}", na_action="ignore")
    parts = [
        PAGE,
        "## Error by depth\n\nTraining error is in eval mode on all 50,000 un-augmented images, test error on all"
        " 10,000. One image is 0.002 points of training error and 0.01 points of test error, so residual networks of 44"
        " and 56 layers differ by two or three training images. The axis of training error is logarithmic.\n\n"
        "![training and test error by depth](error_by_depth.png)\n\n" + markdown_table(networks, errors),
        f"{CURVES_TOLD.format(authors=logged)}\n\n![training and test error along training](fig6.png)"
        if logged
        else "",
        "## The claims\n\nWhere no study states a claim at some depth, it is the same claim at that depth.\n\n"
        + markdown_table(judged),
        "## Layer responses (Fig. 7)\n\n![std of layer responses](fig7.png)",
        f"{LESIONS_TOLD.format(**counts)}\n\n![test error without each block](lesions.png)",
        f"{INFORMATION_TOLD}\n\n![linear probes by layer](information.png)",
        f"{INSIDE_TOLD.format(**counts)}\n\n"
        + markdown_table(inside, {"author": "trained by", "label": "network", **INSIDE}),
        "## Sources\n\n" + "\n".join(described),
        markdown_table(files, {"author": "trained by", "label": "network", "file": "file", "sha256": "SHA-256"}),
        "To repeat this, clone the repositories into one folder, then run `python experiments/reproductions.py FOLDER"
        " --data-dir DATA_DIR`.",
    ]
    write_atomically(folder / "claims.csv", judged.to_csv(index=False))
    path = folder / "README.md"
    write_atomically(path, "\n\n".join(part for part in parts if part) + "\n")
    return path


def main() -> int:
    """Exit status 2, with one line, where a file is not the published one or errs otherwise."""
    parser = Parser(__doc__)
    parser.add_argument(
        "files", type=Path, nargs="?", help="folder that holds the files; without it, the page is redrawn"
    )
    parser.add_argument("--data-dir", default=os.environ.get("DATA_DIR", "data"), help="default: %(default)s")
    parser.add_argument("--out", type=Path, default=find_results() / "reproductions", help="default: %(default)s")
    arguments = parser.parse_args()
    try:
        refuse_published(arguments.out)
        if arguments.files:
            found = []
            for entry in listed().itertuples():
                names = {entry.file: entry.sha256}
                names |= {} if pd.isna(entry.log) else {entry.log: entry.log_sha256}
                found.append((entry, [find_file(arguments.files, *each, entry.repository) for each in names.items()]))
            lacking = unmeasured(arguments.out)
            for number, (entry, files) in enumerate(found, 1):
                done = entry.name not in lacking
                out = arguments.out / entry.name
                told = f": measured already (delete {out} to measure it again)" if done else ""
                print(f"[{number}/{len(found)}] {entry.name}{told}", flush=True)
                if not done:
                    measure(entry, files[0], arguments.data_dir, out, *files[1:])
        if not arguments.out.is_dir() or load(arguments.out).empty:
            raise ReproductionError(f"nothing is measured in {arguments.out}; name the folder that holds the files")
        print(write_page(arguments.out))
    except (ReproductionError, ConfigError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
