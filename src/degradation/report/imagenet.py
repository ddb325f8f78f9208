"""The ImageNet half of the paper: Fig. 4, and Tables 1 to 5 with its numbers beside ours."""

import inspect
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.text import Text

from degradation.record import RecordError
from degradation.report import draw
from degradation.report.table import beside, finished, select, weights_of

# Parameters, multiply-adds of the convolutions and of the fully connected layers, for one image of 224 pixels: of the
# networks at full width, and of torchvision's VGG; last what the paper prints (10^9). A test counts them.
ARCHITECTURES = {
    "plain-18, residual-18 A": (11_515_688, 1_794_293_760, 512_000, 1.8),
    "plain-34, residual-34 A": (21_623_848, 3_643_981_824, 512_000, 3.6),
    "residual-34 B": (21_797_672, 3_663_249_408, 512_000, None),
    "residual-34 C": (22_716_840, 3_830_235_136, 512_000, None),
    "residual-50 B": (25_557_032, 3_855_925_248, 2_048_000, 3.8),
    "residual-101 B": (44_549_160, 7_568_146_432, 2_048_000, 7.6),
    "residual-152 B": (60_192_808, 11_280_367_616, 2_048_000, 11.3),
    "VGG-16": (138_357_544, 15_346_630_656, 123_633_664, 15.3),
    "VGG-19": (143_667_240, 19_508_428_800, 123_633_664, 19.6),
}
TABLE1 = {
    "network": "network",
    "parameters": "parameters (10^6)",
    "convolutions": "multiply-adds of convolutions (10^9)",
    "all": "with fully connected layers (10^9)",
    "paper": "the paper's (10^9)",
}
Errors = dict[str, tuple[float | None, float | None]]
# The paper's errors on the validation set (%), top-1 and top-5: of Tables 2 and 3 by ten crops, of Table 4 multi-scale.
PAPER_TABLE2: Errors = {
    "plain-18": (27.94, None),
    "plain-34": (28.54, None),
    "residual-18 A": (27.88, None),
    "residual-34 A": (25.03, None),
}
PAPER_TABLE3: Errors = {
    "VGG-16": (28.07, 9.33),
    "plain-34": (28.54, 10.02),
    "residual-34 A": (25.03, 7.76),
    "residual-34 B": (24.52, 7.46),
    "residual-34 C": (24.19, 7.40),
    "residual-50 B": (22.85, 6.71),
    "residual-101 B": (21.75, 6.05),
    "residual-152 B": (21.43, 5.71),
}
PAPER_TABLE4: Errors = {
    "residual-34 B": (21.84, 5.71),
    "residual-34 C": (21.53, 5.60),
    "residual-50 B": (20.74, 5.25),
    "residual-101 B": (19.87, 4.60),
    "residual-152 B": (19.38, 4.49),
}
PAPER_TABLE5 = {
    "networks": "the paper's six (test set)",
    "members": 6,
    "way": "multi_scale",
    "top5": 3.57,
}
# Training and validation error (centre crop) at the end of Fig. 4, read off (+- 0.2).
PAPER_FIGURE4: Errors = {
    "plain-18": (31, 31.3),
    "plain-34": (32, 32.5),
    "residual-18 A": (30, 31.0),
    "residual-34 A": (24.5, 28.2),
}
COMMAND = "`python experiments/evaluate.py results/runs/<run> ...`"
PAPER_FIGURE4_RANGE = (20, 60)  # of its vertical axis
COLUMNS = {
    "name": "network",
    "networks": "networks",
    "members": "members",
    "way": "way",
    "n": "n",
    "train_error": "training error (%)",
    "test_error": "validation error, centre crop (%)",
    "test_error_std": "std over seeds",
    "tested": "n tested",
    "batchnorm": "BN statistics",
    "precision": "tested in",
    "top1": "top-1 error (%)",
    "top5": "top-5 error (%)",
    "paper_top1": "the paper's top-1, of 1,000 classes",
    "paper_top5": "the paper's top-5, of 1,000 classes",
    "paper_train_error": "Fig. 4, training",
    "paper_test_error": "Fig. 4, centre crop",
}
# What experiments/evaluate.py writes of each.
TESTED = ["networks", "way", "batchnorm", "precision", "images", "top1", "top5"]


def say_validation(figure: Figure, runs: pd.DataFrame) -> Figure:
    """Where the runs are ImageNet's, "validation" where a figure says "test" (but in a claim's name, "C14 (test)")."""
    for text in figure.findobj(Text) if (runs["network.family"] == "imagenet").all() else ():
        assert isinstance(text, Text)
        text.set_text(re.sub(r"\btest\b(?!\))", "validation", text.get_text()))
    return figure


def draw_figure4(table: pd.DataFrame) -> Figure | None:
    """Fig. 4: plain and residual networks of Table 1

    Training error (thin and dashed, running) and validation error of the centre crop (bold) along training. Lines are
    means over seeds, bands their range. The paper claims that plain-34 has higher training error than plain-18
    throughout, and that with shortcuts 34 layers are better than 18.
    """
    runs = finished(table)
    runs = runs[runs["network.family"] == "imagenet"]
    if runs.empty:
        return None
    named = runs.assign(line=draw.with_n(runs))
    figure, axes = draw.draw_curves(named, lambda rows: rows["network"] + " networks")
    solid = draw.KIND_LOOKS["test"]["linewidth"]
    parts: list[Any] = [*axes, *figure.legends]
    for line in [line for part in parts for line in part.get_lines()]:
        if line.is_dashed():
            line.set_linewidth(0.8)
        elif line.get_linewidth() == solid:
            line.set_linewidth(2.4)
    if runs["protocol"].iloc[0] == "imagenet_paper":
        axes[0].set_ylim(*PAPER_FIGURE4_RANGE)
    return draw.write_caption(figure, draw.describe(runs, draw.left_out(table)))


def table1() -> pd.DataFrame:
    """Table 1: parameters and multiply-adds of the networks, and of VGG; TABLE1 says what its columns are."""
    found = pd.DataFrame(ARCHITECTURES.values(), columns=["parameters", "convolutions", "full", "paper"])
    millions, billions = found["parameters"] / 1e6, found[["convolutions", "full"]] / 1e9
    found = found.assign(network=[*ARCHITECTURES], parameters=millions, convolutions=billions["convolutions"])
    return found.assign(all=billions.sum(axis=1))[[*TABLE1]]


def path_of_tests(run_folder: Path) -> Path:
    """results/tests/<run>.csv: what experiments/evaluate.py measured of a network, and of ensembles that it leads."""
    folder = beside(run_folder, "tests")
    return folder.with_name(f"{folder.name}.csv")  # a name may have dots


def load_tests(runs: pd.DataFrame) -> pd.DataFrame:
    """What experiments/evaluate.py measured of these runs, a row per network or ensemble, way and BN statistics.

    Columns TESTED: `networks`, one run id, or several between spaces; top1 and top5, errors in percent. What says that
    it is of other weights, of a run before it was run again, is left out. A RecordError where a file is damaged.
    """
    parts = [pd.DataFrame(columns=TESTED)]
    ours = {run: weights_of(folder) for run, folder in zip(runs.get("run_id", ()), runs["folder"], strict=True)}
    for path in filter(Path.exists, map(path_of_tests, runs["folder"])):
        try:
            read = pd.read_csv(path)
            if "weights" in read:  # which younger files tell
                both = read[["networks", "weights"]].fillna("").itertuples(index=False, name=None)
                known = [zip(names.split(), files.split(), strict=False) for names, files in both]
                read = read[[all(ours.get(name) in (None, file) for name, file in each) for each in known]]
            parts.append(read[TESTED])
        except (OSError, ValueError, KeyError) as error:
            raise RecordError(f"{path} is damaged; delete it, and test the network again") from error
    found, ids = pd.concat(parts[1:] or parts, ignore_index=True), {*runs.get("run_id", ())}
    return found[found["networks"].map(lambda networks: ids.issuperset(networks.split())).astype(bool)]


def _runs(table: pd.DataFrame) -> pd.DataFrame:
    # Of the ImageNet networks, whatever the shortcut; `name` is what the tables call a network, such as residual-34 B.
    runs = select(table, {}, ("network.shortcut",))
    runs = runs[runs["network.family"] == "imagenet"].sort_values(["network", "depth", "network.shortcut"])
    option = (" " + runs["network.shortcut"]).where(runs["network"] != "plain", "")
    return runs.assign(name=runs["label"] + option)


def _told(errors: Errors, *columns: str) -> pd.DataFrame:
    return pd.DataFrame.from_dict(errors, "index", columns=columns, dtype=float)


def _beside(table: pd.DataFrame, paper: Errors, way: str, shortcuts: tuple[str, ...] = ()) -> pd.DataFrame:
    # The paper's networks, and more of ours with these shortcuts (without any: all that were tested that way); a
    # network has a row for each kind of BN statistics, and each precision, that it was tested with. Empty where none of
    # ours is among them.
    runs = _runs(table)
    tests = load_tests(runs)
    tests = tests[tests["way"] == way].merge(runs[["run_id", "name"]], left_on="networks", right_on="run_id")
    tests = tests.groupby(["name", "batchnorm", "precision"])[["top1", "top5"]].agg(["mean", "size"])
    ours = runs[runs["network.shortcut"].isin(shortcuts) | (runs["name"].isin(tests.index.levels[0]) & (not shortcuts))]
    if ours.empty:
        return pd.DataFrame({"name": []})
    groups = runs.groupby("name")
    found = groups[["train_error", "test_error"]].mean()
    found = found.assign(n=groups.size(), test_error_std=groups["test_error"].std()).join(
        pd.DataFrame(
            {"tested": tests["top1", "size"], "top1": tests["top1", "mean"], "top5": tests["top5", "mean"]}
        ).reset_index(["batchnorm", "precision"])
    )
    theirs = _told(paper, "paper_top1", "paper_top5")
    names = list(dict.fromkeys([*paper, *ours["name"]]))
    rows = pd.DataFrame({"name": names}).join(found, "name").join(theirs, "name")
    return rows.astype({"n": "Int64", "tested": "Int64"})


def table2(table: pd.DataFrame) -> pd.DataFrame:
    """Table 2: plain and residual networks (option A) by ten crops

    Both errors at the end of Fig. 4, read off the figure (± 0.2), stand beside them.
    """
    rows = _beside(table, PAPER_TABLE2, "ten_crop", ("none", "A"))
    ends = _told(PAPER_FIGURE4, "paper_train_error", "paper_test_error")
    return rows.join(ends, "name") if len(rows) else rows


def table3(table: pd.DataFrame) -> pd.DataFrame:
    """Table 3: shortcut options, and deeper networks, by ten crops"""
    return _beside(table, PAPER_TABLE3, "ten_crop", ("B", "C"))


def table4(table: pd.DataFrame) -> pd.DataFrame:
    """Table 4: single networks, whole images at five sizes

    Sizes are in the paper's proportion to the crop. After crops of 64 or 96 pixels, the last feature maps are 2x2 or
    3x3. Networks that have seen no maps of other sizes err more on larger images, residual networks most where the side
    of a map is odd.
    """
    return _beside(table, PAPER_TABLE4, "multi_scale")


def table5(table: pd.DataFrame) -> pd.DataFrame:
    """Table 5: ensembles, by the average of their softmax scores"""
    runs = _runs(table)
    tests = load_tests(runs)
    tests = tests[tests["networks"].str.contains(" ")]
    if tests.empty:
        return tests
    names = runs.set_index("run_id").apply(lambda run: f"{run['name']} seed {run['seed']}", axis=1)
    members = tests["networks"].str.split()
    told = members.map(lambda ids: ", ".join(names[ids]))
    ours = tests.assign(networks=told, members=members.map(len))
    return pd.concat([ours, pd.DataFrame([PAPER_TABLE5])], ignore_index=True)


TABLES: dict[str, Callable[[pd.DataFrame], pd.DataFrame]] = {
    "table2": table2,
    "table3": table3,
    "table4": table4,
    "table5": table5,
}


def sections(condition: str, table: pd.DataFrame) -> Iterator[tuple[str, str, pd.DataFrame]]:
    """Of each table that these runs have: its title, what is to be known of it, and itself with columns in words."""
    for make in TABLES.values():
        if (found := make(table)).empty:
            continue
        title, _, more = (inspect.getdoc(make) or "").partition("\n\n")
        images = " or ".join(f"{n:,.0f}" for n in sorted(load_tests(_runs(table))["images"].unique()))
        tested = (
            f"tested on {images} validation images" if images else f"of the centre crop alone until {COMMAND} is run"
        )
        said = f"Our numbers are of protocol {condition}, {tested}; the paper's are of ImageNet. {more}".strip()
        shown = found.dropna(axis="columns", how="all").rename(columns=COLUMNS)
        yield title, said, shown[[name for name in COLUMNS.values() if name in shown]]
