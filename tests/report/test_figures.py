"""From records to figures, tables and gallery: what is drawn is what was recorded."""

import errno
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import jupytext
import matplotlib as mpl
import nbclient
import numpy as np
import pandas as pd
import pytest
import report
from matplotlib.colors import to_rgb
from PIL import Image

from degradation.config import run_id
from degradation.record import (
    RecordError,
    check_identity,
    check_network,
    is_signed,
    load_metrics,
    load_responses,
    write_summary,
)
from degradation.report import draw
from degradation.report.diagram import draw_matched_pair
from degradation.report.figures import FIGURES, TABLES, caption_of, title_of, write_figures
from degradation.report.pages import write_gallery
from degradation.report.studies import (
    draw_by_settings,
    draw_gap,
    draw_gradients,
    draw_lesions,
    draw_matched_pairs,
    tabulate_by_settings,
)
from degradation.report.table import (
    condition_folder,
    conditions,
    load_table,
    paired_differences,
    select,
    table6,
)
from tests.conftest import TINY, Compose
from tests.report.conftest import put

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def results(compose: Compose, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Records of a whole small study, one matched pair by training: both arms, two depths, two seeds."""
    from degradation.train.run import train

    folder = tmp_path_factory.mktemp("study")
    for network in ("plain", "residual"):
        for depth in (8, 14):
            for seed in (0, 1):
                which = [*TINY, f"network={network}", f"depth={depth}"]
                if (depth, seed) == (8, 0):
                    which += ["machine.precision=fp32"]  # as those made up
                    assert train(compose(*which, "seed=0", f"paths.results={folder}")).status == "finished"
                else:
                    put(folder, seed, *which, error=20.0 + depth + 5 * seed, varied={})
    return folder


@pytest.fixture(scope="module")
def runs(results: Path) -> pd.DataFrame:
    (condition, *_) = conditions(load_table(results))
    return condition[1]


@pytest.fixture(scope="module")
def reported(results: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of it with all that experiments/report.py makes of it, run as a command."""
    folder = tmp_path_factory.mktemp("reported")
    shutil.copytree(results, folder, dirs_exist_ok=True)
    for path in ("mine/notes.txt", "smoke/fig6.pptx", "gone/fig6.png"):  # the user's; of a condition of before
        (folder / "figures" / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / "figures" / path).touch()
    command = [sys.executable, str(ROOT / "experiments" / "report.py"), "--results", str(folder)]
    subprocess.run(command, check=True, capture_output=True)
    return folder


def made(folder: Path) -> dict[Path, bytes]:
    """The figures, tables and pages below a results folder."""
    paths = [path for kind in ("figures", "tables") for path in (folder / kind).rglob("*") if path.is_file()]
    pages = [folder / "gallery.md", folder / "claims.md"]
    return {path.relative_to(folder): path.read_bytes() for path in sorted(paths) + pages}


def lines_of(ax: object) -> dict[str, np.ndarray]:
    return {line.get_label(): np.asarray(line.get_xydata()) for line in ax.get_lines()}  # type: ignore[attr-defined]


def test_figure6_plots_the_mean_over_seeds_of_the_recorded_errors(runs: pd.DataFrame) -> None:
    figure = draw.draw_figure6(runs)
    for ax, network in zip(figure.axes, ("plain", "residual"), strict=True):
        lines = lines_of(ax)
        assert set(lines) == {f"{network}-{depth} {kind}" for depth in (8, 14) for kind in ("training", "test")}
        for depth in (8, 14):
            folders = runs[(runs["network"] == network) & (runs["depth"] == depth)]["folder"]
            metrics = pd.concat([load_metrics(folder) for folder in folders]).groupby("iteration")
            for kind, column in (("training", "train_error"), ("test", "test_error")):
                expected = metrics[column].mean().dropna()
                drawn = lines[f"{network}-{depth} {kind}"]
                np.testing.assert_allclose(drawn[:, 0], expected.index / 1000)
                np.testing.assert_allclose(drawn[:, 1], expected)
        assert ax.get_xlabel() == "iterations (thousands)"
    assert figure.axes[0].get_ylabel() == "error (%)"


def test_figure6_draws_seeds_as_a_band_and_training_dashed(runs: pd.DataFrame) -> None:
    ax = draw.draw_figure6(runs).axes[0]
    assert len(ax.collections) == 4
    for line in ax.get_lines():
        assert line.is_dashed() == line.get_label().endswith("training")


def test_figure1_plots_plain_networks_alone_whatever_their_depths(runs: pd.DataFrame) -> None:
    between = runs[runs["depth"] == 8].assign(depth=11, label="plain-11")
    training, test = draw.draw_figure1(pd.concat([runs, between])).axes
    assert set(lines_of(training)) == {f"plain-{depth} training" for depth in (8, 11, 14)}
    assert set(lines_of(test)) == {f"plain-{depth} test" for depth in (8, 11, 14)}
    assert draw.draw_figure1(runs[runs["network"] == "residual"]) is None


def test_figure7_plots_every_layer_in_order_and_sorted(runs: pd.DataFrame) -> None:
    in_order, ranked = draw.draw_figure7(runs).axes
    for row in runs[runs["seed"] == 0].itertuples():
        pair = runs[(runs["network"] == row.network) & (runs["depth"] == row.depth)]["folder"]
        stds = np.array([load_responses(folder)["std"] for folder in pair])
        assert stds.shape == (2, row.depth - 1)
        name = f"{row.network}-{row.depth}"
        np.testing.assert_allclose(lines_of(in_order)[name][:, 1], stds.mean(0))
        np.testing.assert_allclose(lines_of(ranked)[name][:, 1], np.sort(stds, axis=1)[:, ::-1].mean(0))


def test_responses_ten_times_those_of_most_stand_apart(runs: pd.DataFrame, monkeypatch: pytest.MonkeyPatch) -> None:
    far = runs.loc[runs["label"] == "plain-14", "folder"].tolist()

    def load(folder: Path) -> pd.DataFrame:
        rows = load_responses(folder)
        return rows.assign(std=rows["std"] * (1000 if folder in far else 1))

    monkeypatch.setattr(draw, "load_responses", load)
    usual, _, apart, _ = draw.draw_figure7(runs).axes
    assert set(lines_of(usual)) == {"plain-8", "residual-8", "residual-14"}
    assert set(lines_of(apart)) == {"plain-14"}
    assert apart.get_title() == "plain-14"


def test_what_the_shortcut_gains_is_the_difference_of_pairs(runs: pd.DataFrame) -> None:
    axes = draw_matched_pairs(runs).axes
    for ax, column in zip(axes, ("train_error", "test_error"), strict=True):
        means = runs.groupby(["network", "depth"])[column].mean()
        drawn = ax.get_lines()[0].get_xydata()
        np.testing.assert_allclose(drawn[:, 0], [8, 14])
        np.testing.assert_allclose(drawn[:, 1], means["plain"] - means["residual"])
        assert len(ax.containers) == 1  # intervals
        assert [label.get_text() for label in ax.get_xticklabels()] == ["8", "14"]
    assert not axes[0].figure.legends  # the paper's are of other networks
    images = runs.assign(depth=runs["depth"].map({8: 18, 14: 34}), **{"network.family": "imagenet"})
    beside = draw_matched_pairs(images)
    gains = [[y for line in ax.get_lines() if line.get_marker() == "x" for y in line.get_ydata()] for ax in beside.axes]
    np.testing.assert_allclose(gains, [[31 - 30, 32 - 24.5], [31.3 - 31.0, 32.5 - 28.2]])
    assert draw_matched_pairs(runs[runs["network"] == "plain"]) is None


def test_the_interval_of_a_mean_is_students(runs: pd.DataFrame) -> None:
    _, ax = draw.new_figure(1, 1, 1)
    rows = pd.DataFrame({"x": [1, 1, 1, 2], "y": [1.0, 2.0, 3.0, 5.0]})
    draw.draw_intervals(ax[0], rows, "x", "y", color="0")
    (bar, _) = ax[0].containers[0].lines[2][0].get_segments()
    assert bar[:, 1].tolist() == pytest.approx([2 - 4.3027 / 3**0.5, 2 + 4.3027 / 3**0.5], abs=1e-3)


def test_losses_and_the_gap_are_those_recorded(runs: pd.DataFrame) -> None:
    plain, _ = draw.draw_loss(runs).axes
    folders = runs[runs["label"] == "plain-14"]["folder"]
    losses = pd.concat([load_metrics(folder) for folder in folders]).groupby("iteration")["train_loss"].mean()
    np.testing.assert_allclose(lines_of(plain)["plain-14 training"][:, 1], losses)
    (alone,) = draw_gap(runs[runs["depth"] == 8]).axes
    assert alone.get_xlim() == (4, 12)  # both arms beside the tick
    (ax,) = draw_gap(runs).axes
    gaps = (runs["test_error"] - runs["train_error_eval"]).groupby([runs["network"], runs["depth"]]).mean()
    np.testing.assert_allclose(ax.get_lines()[0].get_xydata()[:, 1], gaps["plain"])


def test_a_sweep_of_ones_own_is_one_figure(runs: pd.DataFrame) -> None:
    swept = runs[runs["depth"] == 8]
    swept = swept.assign(varied=[{"protocol.lr": 0.5}] * len(swept), train_error=7.0, **{"protocol.lr": 0.5})
    both = pd.concat([runs, swept])
    training, test = draw_by_settings(both, ["protocol.lr"]).axes
    assert set(lines_of(training)) >= {"plain-8 training", "residual-8 training"}
    usual = runs["protocol.lr"].iloc[0]
    mean = runs[runs["label"] == "plain-8"]["train_error"].mean()
    joined = [line.get_xydata() for line in training.get_lines() if line.get_label() == "plain-8 training"]
    assert len(joined) == 2  # a line joins the runs of a seed
    np.testing.assert_allclose(np.mean(joined, axis=0), sorted([(usual, mean), (0.5, 7.0)]))
    assert test.get_xlabel() == "protocol.lr"
    row = tabulate_by_settings(both, ["protocol.lr"]).set_index(["value", "network", "depth"]).loc[usual, "plain", 8]
    assert (row["n"], row["train_error_mean"]) == (2, pytest.approx(mean))
    words = both.assign(**{"network.norm": ["none" if varied else "batch" for varied in both["varied"]]})
    words["varied"] = [varied and {**varied, "network.norm": "none"} for varied in words["varied"]]
    ticks = draw_by_settings(words, ["protocol.lr", "network.norm"]).axes[0].get_xticklabels()
    assert [tick.get_text() for tick in ticks] == sorted([f"lr={usual}, norm=batch", "lr=0.5, norm=none"])
    assert draw_by_settings(runs, ["protocol.lr"]) is None


def test_named_places_are_joined_where_they_are_neighbours(runs: pd.DataFrame) -> None:
    kinds = ("one", "two", "three", "last")
    held = pd.concat([runs[runs["label"] == "plain-8"].assign(kind_of=kind, line="plain") for kind in kinds])
    held = held[(held["kind_of"] != "two") | (held["seed"] != held["seed"].min())]  # which one seed lacks
    training, _ = draw.draw_errors(held, "kind_of", "", {kind: kind for kind in kinds})[1]
    joined = [line.get_xdata().tolist() for line in training.get_lines() if line.get_linestyle() != "None"]
    assert sorted(joined) == [[0], [0, 1, 2, 3], [2, 3]]


def test_the_matched_pair_differs_in_one_shortcut() -> None:
    plain, residual = draw_matched_pair().axes
    texts = [[text.get_text().strip() for text in ax.texts] for ax in (plain, residual)]
    assert [text for text in texts[1] if text not in texts[0]] == ["+", "identity shortcut", "ReLU(F(x) + x)"]
    assert len(residual.get_lines()) == len(plain.get_lines()) + 1


def test_lecture_size_is_the_same_width_in_pixels_on_smaller_paper(tmp_path: Path) -> None:
    for size, dpi in draw.SIZES.items():
        with mpl.rc_context({"savefig.dpi": dpi}):
            figure, _ = draw.new_figure(6, 3, 1)
            draw.save(figure, tmp_path, size)
    width, lecture = (Image.open(tmp_path / f"{size}.png").width for size in draw.SIZES)
    assert width == pytest.approx(lecture, abs=2)
    assert figure.get_figwidth() < 5


def test_the_responses_of_one_network_need_nothing_but_its_table(runs: pd.DataFrame) -> None:
    rows = load_responses(runs["folder"].iloc[0])
    in_order, ranked = draw.draw_responses(rows, "of one").axes
    np.testing.assert_allclose(lines_of(in_order)["std"][:, 1], rows["std"])
    np.testing.assert_allclose(lines_of(in_order)["BN gamma, root mean square"][:, 1], rows["gamma_rms"])
    np.testing.assert_allclose(lines_of(ranked)["std"][:, 1], sorted(rows["std"], reverse=True))
    assert [text.get_text() for text in in_order.texts] == ["stage 1", "stage 2", "stage 3"]


def test_probed_gradients_and_lesions_are_drawn_as_measured() -> None:
    signals = pd.DataFrame({"layer": [1, 2, 3], "stage": [0, 1, 2], "grad_response": [3.0, 2, 1], "grad_weight": 1.0})
    first, second = draw_gradients(signals, "").axes
    assert first.get_lines()[0].get_ydata().tolist() == [3, 2, 1]
    assert second.get_lines()[0].get_ydata().tolist() == [1, 1, 1]
    rows = [("delete_one", 1, 0, "stage1.block2", 30.0), ("delete_one", 1, 0, "stage4.block1", 40.0)]
    rows += [("delete", 0, 0, "", 10.0), ("delete", 2, 0, "", 50.0), ("delete", 2, 1, "", 70.0), ("swap", 0, 0, "", 10)]
    lesions = pd.DataFrame(rows, columns=["kind", "count", "draw", "blocks", "error"])
    each, several = draw_lesions(lesions, "").axes
    assert lines_of(each)["one block deleted"].tolist() == [[1, 30], [2, 40]]
    assert each.get_lines()[0].get_markevery() is None  # every block has its point
    assert lines_of(several)["blocks deleted, 2 draws"].tolist() == [[0, 10], [2, 60]]
    assert not any("swapped" in name for name in lines_of(several))
    assert [text.get_text() for text in each.texts] == ["intact", "stage 1", "stage 4"]


def test_an_arm_is_one_hue_and_a_deeper_network_darker() -> None:
    def luminance(colour: str) -> float:
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)]
        return float(np.dot((0.2126, 0.7152, 0.0722), linear))

    depths = (8, 14, 20, 32, 44, 56, 110, 1202)
    plain, residual = ([luminance(draw.colour_of(arm, depth)) for depth in depths] for arm in ("plain", "residual"))
    for shades in (plain, residual):
        assert shades == sorted(set(shades), reverse=True)
        assert all(1.05 / (shade + 0.05) >= 3 for shade in shades)
    np.testing.assert_allclose(plain, residual, atol=0.02)  # in grey, a depth is a depth and the marker tells the arm


def test_every_figure_says_protocol_and_n(runs: pd.DataFrame) -> None:
    for name, drawing in FIGURES.items():
        assert title_of(name)
        assert caption_of(name)
        if (figure := drawing(runs)) is not None and name != "verdicts":
            assert "protocol smoke" in figure.get_supxlabel(), name
            # Of the made-up seed there is no first step.
            n = "1 to 2 seeds" if name.startswith("lesions") else "1 seed" if name == "first_steps" else "2 seeds"
            assert f"n = {n} each" in figure.get_supxlabel(), name


def test_the_paper_protocol_is_zoomed_as_in_the_paper(runs: pd.DataFrame) -> None:
    paper = runs.assign(protocol="paper")
    assert draw.draw_figure6(paper).axes[0].get_ylim() == (0, 20)
    training, test = draw.draw_error_by_depth(paper).axes
    assert training.get_ylim() == test.get_ylim() == (0, 20)
    means = runs.groupby(["network", "depth"])["train_error"].mean()  # what is above is said
    assert [text.get_text() for text in training.texts] == [f"{mean:.0f} ↑" for mean in means if mean > 20]


def test_tables_give_n_mean_and_sample_std(runs: pd.DataFrame) -> None:
    table = table6(runs).set_index("network")
    for network in ("plain", "residual"):
        errors = runs[(runs["network"] == network) & (runs["depth"] == 8)]["test_error"]
        row = table.loc[f"{network}-8"]
        assert row["n"] == 2
        assert row["test_error"] == pytest.approx(errors.mean())
        assert row["test_error_std"] == pytest.approx(np.std(errors, ddof=1))


def test_the_papers_numbers_stand_beside_residual_networks_alone(runs: pd.DataFrame) -> None:
    table = table6(runs.assign(depth=runs["depth"].replace({8: 20, 14: 110}))).set_index("network")
    assert table["paper_test_error"].to_dict() == pytest.approx(
        {"plain-20": np.nan, "plain-110": np.nan, "residual-20": 8.75, "residual-110": 6.43}, nan_ok=True
    )


def test_pairs_are_of_equal_depth_and_seed(runs: pd.DataFrame) -> None:
    pairs = paired_differences(runs)
    by_key = runs.set_index(["network", "depth", "seed"])["train_error"]
    assert len(pairs) == 4
    for pair in pairs.itertuples():
        key = (pair.depth, pair.seed)
        assert pair.difference == pytest.approx(by_key["plain", *key] - by_key["residual", *key])


def test_what_a_user_varies_is_a_condition_of_its_own(results: Path, tmp_path: Path) -> None:
    shutil.copytree(results, tmp_path, dirs_exist_ok=True)
    for path in tmp_path.glob("runs/*-s1-*/summary.json"):
        varied = {"protocol.lr": 0.5, "protocol.milestones": [1, 2]}
        write_summary(path.parent, {**json.loads(path.read_text()), "varied": varied})
    (usual, whole), (own, part) = conditions(load_table(tmp_path))
    assert (usual, len(whole), len(select(whole, {}))) == ("smoke", 8, 4)
    assert (own, len(part), len(select(part, {}))) == ("smoke (protocol.lr=0.5, protocol.milestones=[1, 2])", 4, 4)
    assert {*table6(part)["n"]} == {1}
    assert "protocol smoke (protocol.lr=0.5" in draw.draw_figure6(part).get_supxlabel()
    page = write_gallery(tmp_path, load_table(tmp_path)).read_text()
    grid = "PROTOCOL=smoke DEPTHS=8,14 SEEDS=1"
    shared = "machine.device=cpu machine.precision=fp32 protocol.lr=0.5 protocol.milestones=[1,2]"
    assert f'`make degradation-cifar {grid} ARGS="{shared}"`' in page
    assert condition_folder("quick (protocol.lr=0.1, data.name=cifar10)") == "quick+protocol.lr=0.1+data.name=cifar10"


def test_report_draws_everything_from_records_alone(reported: Path) -> None:
    written = made(reported)
    assert {Path("figures/mine/notes.txt"), Path("figures/smoke/fig6.pptx")} < set(written)
    assert Path("figures/gone/fig6.png") not in written
    names = {path.name for path in written}
    assert {"fig1.png", "fig6.png", "fig6.svg", "fig7.png", "convergence.png", "table6.csv", "gallery.md"} <= names
    gallery = written[Path("gallery.md")].decode()
    for picture, content in written.items():
        if picture.suffix == ".png":
            assert f"({picture})" in gallery
            assert len(content) > 10_000
            assert b"<text" in written[picture.with_suffix(".svg")]


def test_a_damaged_record_is_told_and_nothing_is_drawn_from_it(
    results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = next((results / "runs").iterdir())
    copy = tmp_path / "runs" / folder.name
    shutil.copytree(folder, copy)
    (copy / "summary.json").write_text((folder / "summary.json").read_text()[:40])
    with pytest.raises(RecordError, match=r"summary\.json is damaged"):
        load_table(tmp_path)
    monkeypatch.setattr(sys, "argv", ["report.py", "--results", str(tmp_path)])
    assert report.main() == 1
    complaint = capsys.readouterr().err
    assert complaint.count("\n") == 1
    assert "summary.json is damaged" in complaint
    (copy / "summary.json").write_text((folder / "summary.json").read_text())
    assert len(load_table(tmp_path)) == 1


def test_one_run_of_a_users_own_is_enough_to_draw(tmp_path: Path) -> None:
    put(tmp_path, 0, *TINY, "network.shortcut=B", error=40.0, study="single")
    write_figures(tmp_path, load_table(tmp_path))
    assert "## Protocol smoke" in write_gallery(tmp_path, load_table(tmp_path)).read_text()


def test_first_steps_that_were_not_measured_are_not_drawn(tmp_path: Path) -> None:
    put(tmp_path, 0, "network=plain", "depth=8", "protocol=smoke", error=20.0)  # at its start and its end alone
    ((_, runs),) = conditions(load_table(tmp_path))
    assert FIGURES["first_steps"](runs) is None
    assert FIGURES["weight_norms"](runs) is not None


def test_nothing_is_made_of_no_records(tmp_path: Path) -> None:
    assert load_table(tmp_path).empty
    assert list(conditions(load_table(tmp_path))) == []
    assert "No finished run yet" in write_gallery(tmp_path, load_table(tmp_path)).read_text()


@pytest.mark.parametrize("script", sorted((ROOT / "notebooks").glob("*.py")), ids=lambda path: path.stem)
def test_notebooks_name_what_there_is(script: Path) -> None:
    assert script.stem != "degradation"  # beside a notebook of that name, the package could not be imported
    cells = jupytext.read(script)["cells"]
    assert {"markdown", "code"} == {cell["cell_type"] for cell in cells}
    for cell in cells:  # nothing else that could fail
        shows = re.fullmatch(r"from degradation\.report\.figures import show|show\([^()]*\)", cell["source"].strip())
        assert shows or cell["cell_type"] == "markdown", cell["source"]
    names = re.findall(r'"(\w+)"', " ".join(re.findall(r"show\((.*?)\)", script.read_text())))
    assert names
    assert set(names) <= {*FIGURES, *TABLES}


def test_a_notebook_shows_its_figures_and_writes_nothing(
    results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(results / "runs", tmp_path / "results" / "runs")
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.setenv("RESULTS_DIR", str(tmp_path / "results"))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path for path in sys.path if path))
    notebook = jupytext.read(ROOT / "notebooks" / "plain_vs_residual.py")
    nbclient.NotebookClient(notebook, timeout=120, kernel_name="python3").execute(cwd=str(tmp_path))
    outputs = [output for cell in notebook["cells"] for output in cell.get("outputs", [])]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert sorted(tmp_path.rglob("*")) == before


def test_shipped_records_are_whole(compose: Compose) -> None:
    """Every committed record is finished, its config hashes to its name, and it says what produced it."""
    shipped = load_table(ROOT / "results" / "published")
    quick = select(shipped[shipped["protocol"] == "quick"], {}).set_index(["network", "depth"])
    assert {(n, d) for n in ("plain", "residual") for d in (20, 56)} <= set(quick.index)
    evidence = ROOT / "results" / "published" / "runs"
    for weights in evidence.glob("*/*/network.pt"):
        check_network(weights.parent)
    for checkpoint in evidence.glob("*/*/checkpoint.ckpt"):
        assert is_signed(checkpoint.read_bytes())
        config = check_identity(checkpoint.parent)
        grid = [config["network"]["name"], config["network"]["depth"], config["protocol"]["name"], config["seed"]]
        named = compose(f"network={grid[0]}", *map("{}={}".format, ("depth", "protocol", "seed"), grid[1:]))
        assert named.run_id == run_id(config)  # so that a command goes on with it
    for folder in shipped["folder"]:
        summary = json.loads((folder / "summary.json").read_text())
        assert {"hardware", "versions", "commit", "precision"} <= set(summary)
        assert load_metrics(folder)["iteration"].iloc[-1] == summary["iteration"]
        assert "dirty" not in summary["commit"]


def test_the_gallery_shows_networks_that_others_trained(tmp_path: Path) -> None:
    put(tmp_path, 0, "network=plain", "depth=20", error=40.0)
    page = write_gallery(tmp_path, load_table(tmp_path)).read_text()  # those that are published
    assert "results/published/reproductions/error_by_depth.png)" in page
    (row,) = (line for line in page.splitlines() if line.startswith("| plain-20 |"))
    assert "| 9.69 |" in row
    folder = tmp_path / "reproductions" / "some-one-plain-20"  # and those that were measured here before them
    folder.mkdir(parents=True)
    (folder / "error.csv").write_text("set,images,error,loss\ntrain,50000,0.53,0\ntest,10000,9.42,0\n")
    (folder.parent / "README.md").touch()
    page = write_gallery(tmp_path, load_table(tmp_path)).read_text()
    assert "![networks that others trained: training and test error by depth](reproductions/error_by_depth.png)" in page
    assert "| trained by some-one, test error (%) |" in page
    (row,) = (line for line in page.splitlines() if line.startswith("| plain-20 |"))
    assert row.endswith("| 9.42 |")


def test_the_gallery_says_what_is_in_it_and_where_each_figure_bears(reported: Path) -> None:
    page = (reported / "gallery.md").read_text()
    assert "- [Protocol smoke](#protocol-smoke)" in page
    above, _, below = page.partition("![Final error by depth](figures/smoke/error_by_depth.png)")
    assert above.splitlines()[-2].endswith("Bears on C1, C1 (test), C2, C2 (test) of [claims.md](claims.md).")
    assert below.strip().startswith("The figure shows degradation in one look. [SVG](figures/smoke/error_by_depth.svg)")


def test_figures_take_their_places_when_all_are_drawn_and_are_the_same_every_time(
    results: Path, reported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(results, tmp_path, dirs_exist_ok=True)
    before = tmp_path / "figures" / "smoke" / "fig6.png"
    before.parent.mkdir(parents=True)
    before.write_bytes(b"of before")

    def full(self: object, path: Path, **_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(sys, "argv", ["report.py", "--results", str(tmp_path)])
    with monkeypatch.context() as patch:
        patch.setattr("matplotlib.backends.backend_svg.FigureCanvasSVG.print_svg", full)
        assert report.main() == 1
    assert re.search(r"No space left on device: '.*\.svg'", capsys.readouterr().err)
    assert before.read_bytes() == b"of before"
    assert not (tmp_path / ".report").exists()
    (tmp_path / ".report").mkdir()  # as a kill would leave it
    few = {name: FIGURES[name] for name in ("fig6", "error_by_depth", "gradients_in_training", "verdicts")}
    monkeypatch.setattr("degradation.report.figures.FIGURES", few)
    assert report.main() == 0
    again, first = made(tmp_path), made(reported)
    drawn = {path.stem for path in again if path.parts[0] == "figures"}
    assert drawn >= {"fig6", "error_by_depth", "gradients_in_training", "matched_pair"}
    assert again.items() - first.items() == {(path, again[path]) for path in again if path.name == "gallery.md"}


def test_captions_tell_the_ends_of_warm_ups_as_a_range() -> None:
    schedule = {"protocol.warmup.min_depth": 110, "protocol.lr": 0.02, "protocol.warmup.lr": 0.002}
    runs = pd.DataFrame({"label": "plain-110", "depth": 110, **schedule, "iterations": 2500}, range(4))
    never = "never ended (at 0.1 of the rate throughout)"
    told = f"warm-up of plain-110 ended at iteration 400 to 1,250 or {never}"
    assert draw.describe_warmup(runs.assign(warmup_ended_at=[600, 1250, None, 400])) == told
    assert draw.describe_warmup(runs.assign(warmup_ended_at=400.0)) == "warm-up of plain-110 ended at iteration 400"
    assert draw.describe_warmup(runs.assign(warmup_ended_at=None)) == f"warm-up of plain-110 {never}"


def test_a_second_report_of_a_folder_waits_for_the_first(tmp_path: Path) -> None:
    entered = threading.Event()

    def draw() -> None:
        with report.drawn_aside(tmp_path):
            entered.set()

    with report.drawn_aside(tmp_path):
        second = threading.Thread(target=draw)
        second.start()
        assert not entered.wait(0.3)
    second.join(10)
    assert entered.is_set()
