"""Fig. 4 and Tables 1 to 5: what is drawn and told is what was recorded, the paper's numbers beside it."""

import hashlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.text import Text
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models import vgg16, vgg19

from degradation.config import Architecture, Shortcut
from degradation.net.network import Network, parameter_count
from degradation.record import RecordError, load_metrics, read_summary, write_summary
from degradation.report.draw import draw_figure1, draw_figure6
from degradation.report.figures import TABLES, draw_figure, write_figures
from degradation.report.imagenet import (
    ARCHITECTURES,
    draw_figure4,
    path_of_tests,
    table1,
    table2,
    table3,
    table4,
    table5,
)
from degradation.report.pages import write_gallery
from degradation.report.table import conditions, load_table
from tests.report.conftest import put

ERRORS = {("plain", 18): 50.0, ("plain", 34): 70.0, ("residual", 18): 45.0, ("residual", 34): 55.0}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The grid in two seeds, options B and C at 34 layers in one."""
    folder = tmp_path_factory.mktemp("imagenet")
    for (network, depth), error in ERRORS.items():
        for seed in (0, 1):
            named = ("protocol=imagenet_quick", f"network={network}", f"depth={depth}")
            put(folder, seed, *named, error=error + 2 * seed)
    for option in ("B", "C"):
        put(folder, 0, "protocol=imagenet_quick", "depth=34", f"network.shortcut={option}", error=54.0)
    return folder


@pytest.fixture
def runs(results: Path) -> pd.DataFrame:
    return next(conditions(load_table(results)))[1]


@pytest.fixture
def tested(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs; beside them tests of both residual-34 (A), of one several ways, and of the two together."""
    folders = runs[(runs["label"] == "residual-34") & (runs["variation"] == "")]["folder"].tolist()
    rows = {
        folders[0]: [
            (folders[0].name, "ten_crop", "moving", 40.0, 5.0),
            (folders[0].name, "ten_crop", "exact", 39.0, 4.0),
            (folders[0].name, "multi_scale", "moving", 38.0, 3.0),
            (f"{folders[0].name} {folders[1].name}", "multi_scale", "moving", 30.0, 2.0),
            (f"{folders[0].name} of-another-protocol", "multi_scale", "moving", 1.0, 1.0),
        ],
        folders[1]: [(folders[1].name, "ten_crop", "moving", 44.0, 7.0)],
    }
    for folder, found in rows.items():
        path = path_of_tests(folder)
        path.parent.mkdir(exist_ok=True)
        table = pd.DataFrame(found, columns=["networks", "way", "batchnorm", "top1", "top5"])
        table.assign(images=1000, precision="fp32").to_csv(path, index=False)
    return runs


def count(network: nn.Module) -> tuple[int, int, int]:
    """Parameters, and multiply-adds of convolutions and of linear layers at 224 pixels (torch counts two for each)."""
    network.eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.empty(1, 3, 224, 224, device="meta"))
    found = {str(kind): number // 2 for kind, number in counter.get_flop_counts()["Global"].items()}
    assert set(found) == {"aten.convolution", "aten.addmm"}
    return parameter_count(network), found["aten.convolution"], found["aten.addmm"]


@pytest.mark.parametrize("names", ARCHITECTURES)
def test_table_1_is_counted(names: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Network, "initialise", lambda *_: None)
    for name in names.split(", "):
        label, _, option = name.partition(" ")
        shortcut: Shortcut = option or "none"  # type: ignore[assignment]
        with torch.device("meta"):
            if name.startswith("VGG"):
                network: nn.Module = {"VGG-16": vgg16, "VGG-19": vgg19}[name](init_weights=False)
            else:
                network = Network(Architecture.paper(int(label.split("-")[1]), shortcut, "imagenet"))
        assert count(network) == ARCHITECTURES[names][:3]


def test_the_papers_multiply_adds_are_told_by_one_column_or_the_other() -> None:
    rows = table1().set_index("network")
    for name, row in rows.dropna().iterrows():
        printed = row["convolutions"] if name == "VGG-16" else row["all"]  # the paper cuts 3.86 to 3.8
        assert row["paper"] in (round(printed, 1), int(10 * printed) / 10), name
    assert round(rows.loc["VGG-16", "all"], 1) != rows.loc["VGG-16", "paper"]
    assert round(rows.loc["VGG-19", "convolutions"], 1) != rows.loc["VGG-19", "paper"]


def test_figure4_is_thin_in_training_and_bold_in_validation(runs: pd.DataFrame) -> None:
    figure = draw_figure4(runs)
    assert figure is not None
    for ax, network in zip(figure.axes, ("plain", "residual"), strict=True):
        lines = {str(line.get_label()): line for line in ax.get_lines()}
        assert {*lines} == {f"{network}-{depth} {kind}" for depth in (18, 34) for kind in ("training", "test")}
        for name, line in lines.items():
            assert (line.get_linewidth(), line.is_dashed()) == ((0.8, True) if "training" in name else (2.4, False))
        own = runs[(runs["label"] == f"{network}-34") & (runs["variation"] == "")]
        read = pd.concat([load_metrics(folder) for folder in own["folder"]]).groupby("iteration")
        drawn = np.asarray(lines[f"{network}-34 training"].get_xydata())
        np.testing.assert_allclose(drawn[:, 1], read["train_error"].mean())
    (legend,) = figure.legends
    widths = {
        text.get_text(): line.get_linewidth() for text, line in zip(legend.get_texts(), legend.get_lines(), strict=True)
    }
    assert (widths["training"], widths["test"]) == (0.8, 2.4)
    assert "protocol imagenet_quick" in figure.get_supxlabel()
    paper = draw_figure4(runs.assign(protocol="imagenet_paper"))
    assert paper is not None
    assert paper.axes[0].get_ylim() == (20, 60)


def test_figures_of_imagenet_say_validation(runs: pd.DataFrame) -> None:
    for name in ("fig4", "error_by_depth", "loss"):
        figure = draw_figure(name, runs)
        assert figure is not None
        words = " ".join(text.get_text() for text in figure.findobj(Text))
        assert "validation" in words, name
        assert "test" not in words, name
    figure = draw_figure("verdicts", runs)
    assert figure is not None
    assert any(text.get_text().startswith("C14 (test): ") for text in figure.findobj(Text))


def test_figures_beside_those_of_a_condition_say_it_too(tmp_path: Path) -> None:
    for rate in (0.01, 0.02):
        named = ("protocol=imagenet_quick", "network=plain", "depth=18", f"protocol.lr={rate}")
        put(tmp_path, 0, *named, error=50.0, study="single")
    runs = load_table(tmp_path)
    write_figures(tmp_path, runs, runs[:1].assign(told="", iteration=100))
    for name in ("learning_rate", "unfinished"):  # a study's, which by_lr would repeat
        (drawn,) = tmp_path.glob(f"figures/*/{name}.svg")
        assert "validation" in drawn.read_text(), name


def test_a_half_has_its_own_figures_and_tables(runs: pd.DataFrame, tmp_path: Path) -> None:
    assert draw_figure1(runs) is draw_figure6(runs) is None
    for depth in (20, 56):
        put(tmp_path, 0, "network=plain", f"depth={depth}", error=40.0)
    cifar = next(conditions(load_table(tmp_path)))[1]
    assert draw_figure4(cifar) is None
    assert all(table(cifar).empty for table in (table2, table3, table4, table5))
    halves = [{name for name, make in TABLES.items() if len(make(half))} for half in (runs, cifar)]
    assert halves == [{"table2", "table3", "error_by_depth", "paired_differences"}, {"table6", "error_by_depth"}]
    assert "Table 1" not in write_gallery(tmp_path, cifar).read_text()


def test_tables_2_and_3_have_the_papers_numbers_beside_ours(runs: pd.DataFrame) -> None:
    two, three = (make(runs).set_index("name") for make in (table2, table3))
    assert [*two.index] == ["plain-18", "plain-34", "residual-18 A", "residual-34 A"]
    assert two["n"].tolist() == [2] * 4
    own = runs[(runs["label"] == "residual-34") & (runs["variation"] == "")]
    assert two.loc["residual-34 A", "test_error"] == pytest.approx(own["test_error"].mean())
    assert two.loc["residual-34 A", "test_error_std"] == pytest.approx(own["test_error"].std())
    assert two["paper_top1"].tolist() == [27.94, 28.54, 27.88, 25.03]
    assert two["paper_train_error"].tolist() == [31, 32, 30, 24.5]
    assert two["tested"].isna().all()
    assert three["n"].dropna().to_dict() == {"plain-34": 2, "residual-34 A": 2, "residual-34 B": 1, "residual-34 C": 1}
    assert three.loc["VGG-16", ["paper_top1", "paper_top5"]].tolist() == [28.07, 9.33]
    assert three.loc["residual-152 B", "paper_top5"] == 5.71
    assert table3(runs[~runs["network.shortcut"].isin(["B", "C"])]).empty
    assert table4(runs).empty
    assert table5(runs).empty


def test_further_depths_of_ours_stand_below_the_papers(tmp_path: Path) -> None:
    put(tmp_path, 0, "protocol=imagenet_quick", "network=plain", "depth=50", error=60.0)
    put(tmp_path, 0, "protocol=imagenet_quick", "depth=50", error=60.0)
    table = table2(next(conditions(load_table(tmp_path)))[1])
    assert table["name"].tolist()[4:] == ["plain-50", "residual-50 A"]
    assert table["paper_top1"].isna().tolist() == [False] * 4 + [True] * 2


def test_what_was_tested_stands_in_the_tables_by_its_bn_statistics(tested: pd.DataFrame, results: Path) -> None:
    rows = table2(tested).set_index("name").loc["residual-34 A"].set_index("batchnorm")
    assert rows["tested"].to_dict() == {"exact": 1, "moving": 2}
    assert rows["top1"].to_dict() == {"exact": 39.0, "moving": 42.0}
    assert rows["top5"].to_dict() == {"exact": 4.0, "moving": 6.0}
    several = table4(tested).set_index("name")
    assert [*several.index][-1] == "residual-34 A"
    assert several.loc["residual-34 A", "top1"] == 38
    ensembles = table5(tested)
    assert ensembles["networks"].tolist()[0] == "residual-34 A seed 0, residual-34 A seed 1"
    assert ensembles["top1"].tolist()[0] == 30
    assert ensembles["top5"].tolist() == [2.0, 3.57]
    page = write_gallery(results, load_table(results)).read_text()
    for title in (
        "### Table 2: plain",
        "### Table 3: shortcut",
        "### Table 4: single",
        "### Table 5: ens",
        "## Table 1: the",
    ):
        assert f"\n{title}" in page
    assert "Table 6" not in page
    assert "tested on 1,000 validation images" in page
    # Of a network that was trained before the present one, and says so.
    folder = next(folder for folder in tested["folder"] if path_of_tests(folder).exists())
    (folder / "network.pt").write_bytes(b"weights")
    write_summary(folder, read_summary(folder))
    for first, n in (("0" * 64, 1), (hashlib.sha256(b"weights").hexdigest(), 2)):
        told = pd.read_csv(path_of_tests(folder))
        told.assign(weights=f"{first} {'1' * 64}").to_csv(path_of_tests(folder), index=False)
        assert table2(tested).set_index(["name", "batchnorm"]).loc[("residual-34 A", "moving"), "tested"] == n
    # Of one in another precision, too: another row.
    told = pd.read_csv(path_of_tests(folder))
    pd.concat([told, told.assign(precision="bf16", top1=90.0)]).to_csv(path_of_tests(folder), index=False)
    both = table2(tested).set_index(["name", "batchnorm", "precision"])["top1"].loc["residual-34 A", "moving"]
    assert both.to_dict() == {"fp32": 42.0, "bf16": 90.0}
    path_of_tests(tested["folder"].iloc[-1]).write_text("nothing\n1\n")
    with pytest.raises(RecordError, match=r"residual-34.*\.csv is damaged"):
        table2(tested)
    path_of_tests(tested["folder"].iloc[-1]).unlink()
