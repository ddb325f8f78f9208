"""From records to figures, tables and gallery: what is drawn is what was recorded."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jupytext
import nbclient
import numpy as np
import pandas as pd
import pytest
import report
from matplotlib.colors import to_rgb

from degradation.record import RecordError, load_metrics, load_responses, write_summary
from degradation.report import draw
from degradation.report.figures import FIGURES, caption_of, title_of, write_figures
from degradation.report.pages import write_gallery
from degradation.report.studies import draw_gradients, draw_lesions
from degradation.report.table import (
    condition_folder,
    conditions,
    load_table,
    paired_differences,
    select,
    table6,
)
from tests.conftest import TINY, Compose
from tests.report.conftest import Put, put

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def results(compose: Compose, put_record: Put, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Records of a whole small study, one matched pair by training: both arms, two depths, two seeds."""
    from degradation.train.run import train

    folder = tmp_path_factory.mktemp("study")
    for network in ("plain", "residual"):
        for depth in (8, 14):
            for seed in (0, 1):
                which = [*TINY, f"network={network}", f"depth={depth}"]
                if (depth, seed) == (8, 0):
                    assert train(compose(*which, "seed=0", f"paths.results={folder}")).status == "finished"
                else:
                    put_record(folder, seed, *which, error=20.0 + depth + 5 * seed, varied={})
    return folder


@pytest.fixture(scope="module")
def runs(results: Path) -> pd.DataFrame:
    (condition, *_) = conditions(load_table(results))
    return condition[1]


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


def test_figure1_plots_plain_networks_alone_of_the_shallowest_and_the_deepest(runs: pd.DataFrame) -> None:
    between = runs[runs["depth"] == 8].assign(depth=11, label="plain-11")
    training, test = draw.draw_figure1(pd.concat([runs, between])).axes
    assert set(lines_of(training)) == {"plain-8 training", "plain-14 training"}
    assert set(lines_of(test)) == {"plain-8 test", "plain-14 test"}
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
    assert lines_of(several)["blocks deleted, 2 draws"].tolist() == [[0, 10], [2, 60]]
    assert not any("swapped" in name for name in lines_of(several))
    assert [text.get_text() for text in each.texts] == ["stage 1", "stage 4"]
    told = draw_lesions(lesions.assign(stage=7), "").axes[0]
    assert [text.get_text() for text in told.texts] == ["stage 7"]


def test_an_arm_is_one_hue_and_a_deeper_network_darker() -> None:
    def luminance(colour: str) -> float:
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)]
        return float(np.dot((0.2126, 0.7152, 0.0722), linear))

    for network in ("plain", "residual"):
        shades = [luminance(draw.colour_of(network, depth)) for depth in (2, 8, 14, 20, 32, 44, 56, 110, 1202)]
        assert shades == sorted(shades, reverse=True)
        assert all(1.05 / (shade + 0.05) >= 3 for shade in shades)


def test_every_figure_says_protocol_and_n(runs: pd.DataFrame) -> None:
    for name, drawing in FIGURES.items():
        assert title_of(name)
        assert caption_of(name)
        if (figure := drawing(runs)) is not None and name != "verdicts":
            assert "protocol smoke" in figure.get_supxlabel(), name
            assert ("n = 1 to 2 seeds" if name == "lesions" else "n = 2 seeds") in figure.get_supxlabel(), name


def test_the_paper_protocol_is_zoomed_as_in_the_paper(runs: pd.DataFrame) -> None:
    assert draw.draw_figure6(runs.assign(condition="paper")).axes[0].get_ylim() == (0, 20)


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
    assert f'`make degradation-cifar {grid} ARGS="protocol.lr=0.5 protocol.milestones=[1,2]"`' in page
    assert condition_folder("quick (protocol.lr=0.1, data.name=cifar10)") == "quick++protocol.lr=0.1++data.name=cifar10"


def test_report_draws_everything_from_records_alone_and_twice_the_same(
    results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(results, tmp_path, dirs_exist_ok=True)
    command = [sys.executable, str(ROOT / "experiments" / "report.py"), "--results", str(tmp_path)]
    mine, stale = tmp_path / "figures" / "mine" / "notes.txt", tmp_path / "figures" / "gone" / "fig6.png"
    for path in (mine, stale):
        path.parent.mkdir(parents=True)
        path.touch()
    written = []

    monkeypatch.setattr(sys, "argv", command[1:])
    for make in (lambda: subprocess.run(command, check=True, capture_output=True).returncode, report.main):
        assert make() == 0
        pictures = sorted(p for kind in ("figures", "tables") for p in (tmp_path / kind).rglob("*") if p.is_file())
        written.append({p.relative_to(tmp_path): p.read_bytes() for p in [*pictures, tmp_path / "gallery.md"]})
        for path in set(pictures) - {mine}:
            path.unlink()
    assert mine.relative_to(tmp_path) in written[0]
    assert stale.relative_to(tmp_path) not in written[0]
    assert written[0] == written[1]
    names = {path.name for path in written[0]}
    assert {"fig1.png", "fig6.png", "fig6.svg", "fig7.png", "convergence.png", "table6.csv", "gallery.md"} <= names
    gallery = (tmp_path / "gallery.md").read_text()
    for picture, content in written[0].items():
        if picture.suffix == ".png":
            assert f"({picture})" in gallery
            assert len(content) > 10_000
            assert b"<text" in written[0][picture.with_suffix(".svg")]


def test_figures_need_no_torch() -> None:
    code = "import sys, degradation.report.pages, degradation.record; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_damaged_record_is_told_and_nothing_is_drawn_from_it(results: Path, tmp_path: Path) -> None:
    folder = next((results / "runs").iterdir())
    copy = tmp_path / "runs" / folder.name
    shutil.copytree(folder, copy)
    (copy / "summary.json").write_text((folder / "summary.json").read_text()[:40])
    with pytest.raises(RecordError, match=r"summary\.json is damaged"):
        load_table(tmp_path)
    command = [sys.executable, str(ROOT / "experiments" / "report.py"), "--results", str(tmp_path)]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 1
    assert ended.stderr.count("\n") == 1
    assert "summary.json is damaged" in ended.stderr
    (copy / "summary.json").write_text((folder / "summary.json").read_text())
    assert len(load_table(tmp_path)) == 1


def test_nothing_is_made_of_no_records(tmp_path: Path) -> None:
    assert load_table(tmp_path).empty
    assert list(conditions(load_table(tmp_path))) == []
    assert "No finished run yet" in write_gallery(tmp_path, load_table(tmp_path)).read_text()


@pytest.mark.parametrize("script", sorted((ROOT / "notebooks").glob("*.py")), ids=lambda path: path.stem)
def test_notebooks_show_their_figures_and_write_nothing(
    script: Path, results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert script.stem != "degradation"  # beside a notebook of that name, the package could not be imported
    shutil.copytree(results / "runs", tmp_path / "results" / "runs")
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.setenv("RESULTS_DIR", str(tmp_path / "results"))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path for path in sys.path if path))
    notebook = jupytext.read(script)
    assert {"markdown", "code"} <= {cell["cell_type"] for cell in notebook["cells"]}
    nbclient.NotebookClient(notebook, timeout=120, kernel_name="python3").execute(cwd=str(tmp_path))
    outputs = [output for cell in notebook["cells"] for output in cell.get("outputs", [])]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert sorted(tmp_path.rglob("*")) == before


def test_shipped_records_are_whole() -> None:
    """Every committed record is finished, its config hashes to its name, and it says what produced it."""
    shipped = load_table(ROOT / "results" / "published")
    quick = select(shipped[shipped["protocol"] == "quick"], {}).set_index(["network", "depth"])
    assert {(n, d) for n in ("plain", "residual") for d in (20, 56)} <= set(quick.index)
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


def test_the_gallery_says_what_is_in_it_and_where_each_figure_bears(results: Path, tmp_path: Path) -> None:
    shutil.copytree(results, tmp_path, dirs_exist_ok=True)
    write_figures(tmp_path, load_table(tmp_path))
    page = write_gallery(tmp_path, load_table(tmp_path)).read_text()
    assert "- [Protocol smoke](#protocol-smoke)" in page
    above, _, below = page.partition("![Final error by depth](figures/smoke/error_by_depth.png)")
    assert above.splitlines()[-2].endswith("Bears on C1, C1 (test), C2, C2 (test) of [claims.md](claims.md).")
    assert below.strip().startswith("[SVG](figures/smoke/error_by_depth.svg)")
