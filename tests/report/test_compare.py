"""Own runs beside the published: each verdict from runs that call for it, by the rule that compare.py states."""

import math
from itertools import product
from pathlib import Path

import pandas as pd
import pytest
from matplotlib.axes import Axes
from scipy import stats

from degradation.report.compare import (
    DIFFERENT,
    EQUAL,
    NOTHING,
    WITHIN,
    are_equal,
    compare,
    compare_each,
    draw_comparison,
    predict,
    sentence,
)
from degradation.report.table import conditions, load_table
from tests.report.conftest import put

OTHERS = pd.DataFrame({"someone": {"residual-20": 8.3}})


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, object]]:
    own, published = tmp_path_factory.mktemp("own"), tmp_path_factory.mktemp("published")
    for seed in range(4):
        put(published, seed, "network=residual", "depth=20", error=30.0, hardware={"threads": 1})
        put(published, seed, "network=plain", "depth=20", error=40.0, hardware={"threads": 1})
        put(published, seed, "network=plain", "depth=56", error=80.0, hardware={"threads": 1})
    put(published, 0, "network=plain", "depth=32", error=50.0, hardware={"threads": 1})
    put(own, 0, "network=residual", "depth=20", error=30.0, hardware={"threads": 1})
    put(own, 0, "network=plain", "depth=20", error=40.05, precision="bf16", hardware={"threads": 1})
    put(own, 7, "network=plain", "depth=56", error=60.0, hardware={"threads": 2})
    put(own, 0, "network=plain", "depth=32", error=51.0, hardware={"threads": 1})
    put(own, 0, "network=plain", "depth=20", "protocol.lr=0.05", error=41.0)
    ours = load_table(own)
    found = compare_each(ours, ours, load_table(published), OTHERS)
    assert list(found) == ["quick", "quick (bf16)"]  # which make no pairs with each other
    return {row["network"]: row for rows in found.values() for row in rows.to_dict("records")}


def test_the_rule(rows: dict[str, dict[str, object]]) -> None:
    told = {name: (row["verdict"], row["besides"]) for name, row in rows.items()}
    assert told["residual-20"] == (EQUAL, "")
    assert told["plain-20"] == (WITHIN, "precision bf16, published fp32")
    assert told["plain-56"] == (DIFFERENT, "threads 2, published 1")
    assert told["plain-32"] == (NOTHING, "the spread of 1 published seed says nothing")
    assert told["plain-20 lr=0.05"] == (NOTHING, "no such run is published")


def test_a_grid_of_ones_own_is_compared_once(tmp_path: Path) -> None:
    for network, depth in product(("plain", "residual"), (20, 56)):
        put(tmp_path, 0, f"network={network}", f"depth={depth}", "protocol.lr=0.01", error=30.0, study="single")
    ours = load_table(tmp_path)
    assert [name for name, _ in conditions(ours)] == ["quick", "quick (protocol.lr=0.01)"]
    (rows,) = compare_each(ours, ours, ours.iloc[:0], OTHERS).values()
    assert sorted(rows["network"]) == [f"{n}-{d} lr=0.01" for n, d in product(("plain", "residual"), (20, 56))]


def test_a_protocol_that_says_something_else_now_is_told(tmp_path: Path) -> None:
    own, published = tmp_path / "own", tmp_path / "published"
    for seed in range(3):
        put(published, seed, "network=plain", "depth=20", "protocol.name=mine", error=30.0 + seed)
    put(own, 7, "network=plain", "depth=20", "protocol.name=mine", "protocol.lr=0.005", error=60.0)
    ours = load_table(own)
    ((row,),) = (found.to_dict("records") for found in compare_each(ours, ours, load_table(published), OTHERS).values())
    assert row["verdict"] == DIFFERENT
    assert row["besides"] == "protocol.lr 0.005, published 0.02"


def test_published_runs_of_the_same_precision_come_first(tmp_path: Path) -> None:
    own, published = tmp_path / "own", tmp_path / "published"
    put(own, 0, "network=plain", "depth=20", error=40.0)
    for precision, seeds, error in (("bf16", range(4), 50.0), ("fp32", range(1), 40.0)):
        for seed in seeds:
            put(published / precision, seed, "network=plain", "depth=20", error=error, precision=precision)
    ours, both = load_table(own), load_table(published / "bf16", published / "fp32")
    (row,) = compare_each(ours, ours, both, OTHERS)["quick"].to_dict("records")
    assert (row["verdict"], row["published_n"]) == (EQUAL, 4)
    assert row["besides"] == "to the one in fp32; n and mean are of those in bf16"
    for seed in (1, 2):
        put(published / "fp32", seed, "network=plain", "depth=20", error=40.0)
    both = load_table(published / "bf16", published / "fp32")
    (row,) = compare_each(ours, ours, both, OTHERS)["quick"].to_dict("records")
    assert (row["verdict"], row["published_n"]) == (EQUAL, 3)


def test_without_runs_of_ones_own_nothing_stands_beside_the_published(tmp_path: Path) -> None:
    put(tmp_path, 0, "network=plain", "depth=20", error=40.0)
    published = load_table(tmp_path)
    assert compare_each(published, load_table(tmp_path / "none"), published, OTHERS) == {}


def test_the_papers_and_others_numbers_stand_beside_theirs(rows: dict[str, dict[str, object]]) -> None:
    residual, plain = rows["residual-20"], rows["plain-20"]
    assert (residual["paper"], residual["someone"]) == (8.75, 8.3)
    assert math.isnan(float(str(plain["paper"])))
    assert residual["published_n"] == 4
    assert sentence(residual).endswith(f"published 30.0 ± 0.0 / 30.1 ± 0.1 % (n = 4): {EQUAL}")


def test_the_interval_is_that_of_the_mean_of_new_seeds() -> None:
    values = pd.Series([40.0, 41.0, 43.0])
    low, high = predict(values, 2)
    half = stats.t.ppf(0.9875, 2) * values.std() * math.sqrt(1 / 3 + 1 / 2)
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half))
    for few in (1, 2):  # of two it would be 25 standard deviations to either side
        assert all(map(math.isnan, predict(values[:few], 1)))
    assert all(map(math.isnan, predict(pd.Series([5.0, 5.0, 5.0]), 1)))  # equal ones have no spread
    assert predict(pd.Series([10.0, 50.0, 90.0]), 1) == (0.0, 100.0)  # as errors are


@pytest.mark.parametrize(
    ("published", "verdict"),
    [
        ([(90.0, 90.0)] * 2, NOTHING),
        ([(39.0, 38.0), (40.0, 39.0)], NOTHING),  # 80 % would lie within
        ([(0.0, 20.0), (0.0, 20.5), (0.0, 19.8)], NOTHING),  # no spread to hold 0.1 against
        ([(0.1, 20.0), (0.1, 20.5), (0.1, 19.8)], WITHIN),
        ([(0.1, 80.0), (0.1, 80.5), (0.1, 79.8)], DIFFERENT),
    ],
)
def test_few_or_equal_published_seeds_say_what_they_can(
    tmp_path: Path, published: list[tuple[float, float]], verdict: str
) -> None:
    put(tmp_path / "own", 9, "network=plain", "depth=20", error=1.0)
    for seed in range(len(published)):
        put(tmp_path / "published", seed, "network=plain", "depth=20", error=1.0)
    ours, theirs = load_table(tmp_path / "own"), load_table(tmp_path / "published")
    errors = ["train_error", "test_error"]
    ours[errors], theirs[errors] = [(0.1, 20.2)], published
    (row,) = compare_each(ours, ours, theirs, OTHERS)["quick"].to_dict("records")
    assert row["verdict"] == verdict


def test_records_are_equal_where_all_but_the_seconds_are(tmp_path: Path) -> None:
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    for folder, second, error in ((ours, 1, "1.5"), (theirs, 2, "1.5")):
        folder.mkdir()
        (folder / "metrics.csv").write_text(f"iteration,train_error,seconds\n1,{error},{second}\n")
    assert are_equal(ours, theirs)
    (ours / "metrics.csv").write_text("iteration,train_error,seconds,young\n1,1.5,1,3\n")  # of a later version
    assert are_equal(ours, theirs)
    (ours / "gradients.csv").write_text("iteration,layer,std,young\n0,1,1.0,2\n1,1,0.9,2\n4,1,0.8,2\n")
    (theirs / "gradients.csv").write_text("iteration,layer,std\n0,1,1.0\n4,1,0.8\n")
    assert are_equal(ours, theirs)
    for name, same, other in (("wrong.csv", "image\n3\n", "image\n4\n"), ("responses.csv", "std\n1\n", "std\n2\n")):
        (ours / name).write_text(same)
        assert are_equal(ours, theirs)  # of which one has none
        (theirs / name).write_text(other)
        assert not are_equal(ours, theirs)
        (theirs / name).write_text(same)
    assert are_equal(ours, theirs)
    (ours / "metrics.csv").write_text("iteration,train_error,seconds\n1,1.50001,1\n")
    assert not are_equal(ours, theirs)


def test_the_figure_shows_both(rows: dict[str, dict[str, object]], tmp_path: Path) -> None:
    put(tmp_path, 0, "network=plain", "depth=20", error=40.0)
    ((_, runs),) = conditions(load_table(tmp_path))
    axes: list[Axes] = draw_comparison(pd.DataFrame([*rows.values()]), runs).axes
    assert [ax.get_xlabel() for ax in axes] == ["final training error (%)", "final test error (%)"]
    assert len(axes[0].get_yticklabels()) == 5
    assert compare(runs, runs.iloc[:0], OTHERS)["verdict"].tolist() == [NOTHING]
