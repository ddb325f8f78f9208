"""From records to figures, tables and gallery: what is drawn is what was recorded."""

import json
import subprocess
import sys
from pathlib import Path

import jupytext
import numpy as np
import pandas as pd
import pytest

from degradation.record import RecordError, load_metrics, load_responses
from degradation.report import draw as figures
from degradation.report import table as analysis
from degradation.report.pages import what_it_shows
from tests.conftest import TINY, Compose

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def results(compose: Compose, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Records of a whole small study, made by training: both arms, two depths, two seeds."""
    from degradation.train.run import train

    folder = tmp_path_factory.mktemp("study")
    for network in ("plain", "residual"):
        for depth in (8, 14):
            for seed in (0, 1):
                which = [f"network={network}", f"depth={depth}", f"seed={seed}", f"paths.results={folder}"]
                assert train(compose(*TINY, *which)).status == "finished"
    return folder


@pytest.fixture(scope="module")
def runs(results: Path) -> pd.DataFrame:
    ((_, runs),) = analysis.studies(results)
    return runs


def lines_of(ax: object) -> dict[str, np.ndarray]:
    return {line.get_label(): np.asarray(line.get_xydata()) for line in ax.get_lines()}  # type: ignore[attr-defined]


def test_figure6_plots_the_mean_over_seeds_of_the_recorded_errors(runs: pd.DataFrame) -> None:
    figure = figures.draw_figure6(analysis.curves(runs), runs)
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
    ax = figures.draw_figure6(analysis.curves(runs), runs).axes[0]
    assert len(ax.collections) == 4
    for line in ax.get_lines():
        assert line.is_dashed() == line.get_label().endswith("training")


def test_figure1_plots_plain_networks_alone(runs: pd.DataFrame) -> None:
    training, test = figures.draw_figure1(analysis.curves(runs), runs, depths=(8, 14)).axes
    assert set(lines_of(training)) == {"plain-8 training", "plain-14 training"}
    assert set(lines_of(test)) == {"plain-8 test", "plain-14 test"}


def test_figure7_plots_every_layer_in_order_and_sorted(runs: pd.DataFrame) -> None:
    in_order, ranked = figures.draw_figure7(analysis.responses(runs), runs).axes
    for row in runs[runs["seed"] == 0].itertuples():
        pair = runs[(runs["network"] == row.network) & (runs["depth"] == row.depth)]["folder"]
        stds = np.array([load_responses(folder)["std"] for folder in pair])
        assert stds.shape == (2, row.depth - 1)
        name = f"{row.network}-{row.depth}"
        np.testing.assert_allclose(lines_of(in_order)[name][:, 1], stds.mean(0))
        np.testing.assert_allclose(lines_of(ranked)[name][:, 1], np.sort(stds, axis=1)[:, ::-1].mean(0))


def test_every_figure_says_protocol_and_n(runs: pd.DataFrame) -> None:
    said = figures.draw_figure7(analysis.responses(runs), runs).get_supxlabel()
    assert "protocol smoke" in said
    assert "n = 2 seeds" in said


def test_the_paper_protocol_is_zoomed_as_in_the_paper(runs: pd.DataFrame) -> None:
    paper = runs.assign(protocol="paper", study="paper")
    assert figures.draw_figure6(analysis.curves(runs), paper).axes[0].get_ylim() == (0, 20)


def test_tables_give_n_mean_and_sample_std(runs: pd.DataFrame) -> None:
    table = analysis.table6(runs).set_index("network")
    for network in ("plain", "residual"):
        errors = runs[(runs["network"] == network) & (runs["depth"] == 8)]["test_error"]
        row = table.loc[f"{network}-8"]
        assert row["n"] == 2
        assert row["test_error"] == pytest.approx(errors.mean())
        assert row["test_error_std"] == pytest.approx(np.std(errors, ddof=1))


def test_the_papers_numbers_stand_beside_residual_networks_alone(runs: pd.DataFrame) -> None:
    table = analysis.table6(runs.assign(depth=runs["depth"].replace({8: 20, 14: 110}))).set_index("network")
    assert table["paper_test_error"].to_dict() == pytest.approx(
        {"plain-20": np.nan, "plain-110": np.nan, "residual-20": 8.75, "residual-110": 6.43}, nan_ok=True
    )


def test_pairs_are_of_equal_depth_and_seed(runs: pd.DataFrame) -> None:
    pairs = analysis.paired_differences(runs)
    by_key = runs.set_index(["network", "depth", "seed"])["train_error"]
    assert len(pairs) == 4
    for pair in pairs.itertuples():
        key = (pair.depth, pair.seed)
        assert pair.difference == pytest.approx(by_key["plain", *key] - by_key["residual", *key])


@pytest.mark.parametrize(("plain", "residual"), [(80.0, 20.0), (20.0, 80.0)])
def test_the_gallery_says_which_way_it_came_out(runs: pd.DataFrame, plain: float, residual: float) -> None:
    deep = {"plain": plain, "residual": residual}
    made = runs.assign(train_error=[deep[r.network] if r.depth == 14 else 50.0 for r in runs.itertuples()])
    said = " ".join(what_it_shows(made))
    assert f"plain-14 ends 30.0 points {'above' if plain > 50 else 'below'} plain-8" in said
    assert f"60.0 points {'below' if plain > residual else 'above'} its plain twin" in said


def test_settings_that_differ_are_another_study(runs: pd.DataFrame, results: Path, compose: Compose) -> None:
    assert set(runs["study"]) == {"smoke"}
    folder = analysis.study_folder("quick (protocol.lr=0.1, data.name=cifar10)")
    assert folder == "quick++protocol.lr=0.1++data.name=cifar10"


def test_report_draws_everything_from_records_alone_and_twice_the_same(results: Path) -> None:
    command = [sys.executable, str(ROOT / "experiments" / "report.py"), "--results", str(results)]
    written = []
    for _ in range(2):
        subprocess.run(command, check=True, capture_output=True, cwd=results)
        made = sorted(p for kind in ("figures", "tables") for p in (results / kind).rglob("*") if p.is_file())
        written.append({p.relative_to(results): p.read_bytes() for p in [*made, results / "README.md"]})
    assert written[0] == written[1]
    names = {path.name for path in written[0]}
    assert {"fig6.png", "fig6.svg", "fig7.png", "error_by_depth.png", "table6.csv", "README.md"} <= names
    gallery = (results / "README.md").read_text()
    for link in ("figures/smoke/fig6.png", "figures/smoke/fig7.png"):
        assert link in gallery
        assert (results / link).stat().st_size > 10_000


def test_figures_need_no_torch() -> None:
    code = "import sys, degradation.gallery, degradation.figures; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_damaged_record_is_told_and_nothing_is_drawn_from_it(results: Path, tmp_path: Path) -> None:
    folder = next((results / "runs").iterdir())
    copy = tmp_path / "runs" / folder.name
    copy.mkdir(parents=True)
    for name in ("config.yaml", "metrics.csv", "responses.csv"):
        (copy / name).write_text((folder / name).read_text())
    (copy / "summary.json").write_text((folder / "summary.json").read_text()[:40])
    with pytest.raises(RecordError, match=r"summary\.json is damaged"):
        analysis.tidy_runs(tmp_path)
    command = [sys.executable, str(ROOT / "experiments" / "report.py"), "--results", str(tmp_path)]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 1
    assert ended.stderr.count("\n") == 1
    assert "summary.json is damaged" in ended.stderr
    (copy / "summary.json").write_text((folder / "summary.json").read_text())
    assert len(analysis.tidy_runs(tmp_path)) == 1


@pytest.mark.parametrize("script", sorted((ROOT / "notebooks").glob("*.py")), ids=lambda path: path.stem)
def test_notebook_scripts_open_as_notebooks(script: Path) -> None:
    assert script.stem != "degradation"  # beside a notebook of that name, the package could not be imported
    kinds = [cell["cell_type"] for cell in jupytext.read(script)["cells"]]
    assert "markdown" in kinds
    assert "code" in kinds


def test_shipped_records_are_whole() -> None:
    """Every committed record is finished, its config hashes to its name, and it says what produced it."""
    shipped = analysis.tidy_runs(ROOT / "results")
    quick = shipped[shipped["study"] == "quick"].set_index(["network", "depth"])
    assert {(n, d) for n in ("plain", "residual") for d in (20, 56)} <= set(quick.index)
    for folder in shipped["folder"]:
        summary = json.loads((folder / "summary.json").read_text())
        assert {"hardware", "versions", "commit", "precision"} <= set(summary)
        assert load_metrics(folder)["iteration"].iloc[-1] == summary["iteration"]
        assert "dirty" not in summary["commit"]
