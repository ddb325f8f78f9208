"""Networks that others trained: the files are the published ones, the numbers the authors', the claims follow."""

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import reproductions
from reproductions import (
    ReproductionError,
    draw_errors,
    find_file,
    judge,
    listed,
    load,
    measure,
    unmeasured,
    write_page,
)

from tests.conftest import ROOT


def test_every_listed_network_was_measured_and_errs_as_published() -> None:
    table = load(ROOT / "results" / "published" / "reproductions")
    assert list(table["name"]) == list(listed()["name"])
    assert len(table) == 12
    assert (table["test_error"].round(2) == table["published"]).all()
    for row in table.itertuples():
        assert len(row.responses) == row.depth - 1
    published = pd.read_csv(ROOT / "results" / "published" / "reproductions" / "claims.csv", dtype=str)
    assert published.equals(judge(table).astype(str))


def test_a_file_is_found_by_its_name_and_told_by_its_checksum(tmp_path: Path) -> None:
    content = b"weights"
    asked = ("pretrained/net.pt", "0" * 64, "https://example.org/nets")
    with pytest.raises(ReproductionError, match=r"net\.pt is not below .*; get it from https://example\.org/nets"):
        find_file(tmp_path, *asked)
    (tmp_path / "clone").mkdir()
    (tmp_path / "clone" / "net.pt").write_bytes(content)
    with pytest.raises(ReproductionError, match="is not the published file: its SHA-256 is not 0000"):
        find_file(tmp_path, *asked)
    asked = (asked[0], hashlib.sha256(content).hexdigest(), asked[2])
    assert find_file(tmp_path, *asked) == tmp_path / "clone" / "net.pt"


def probe_of(error: float) -> Callable[[list[str]], SimpleNamespace]:
    """A stand-in for experiments/probe.py, whose network errs so on the test images."""

    def probe(command: list[str]) -> SimpleNamespace:
        made = Path(command[command.index("--out") + 1])
        made.mkdir()
        for name in reproductions.KEPT:
            table = f"set,images,error,loss\ntrain,50000,1.0,0\ntest,10000,{error},0\n"
            (made / name).write_text("{}" if name == "probe.json" else table)
        return SimpleNamespace(returncode=0)

    return probe


def test_a_network_that_errs_otherwise_leaves_no_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reproductions.subprocess, "run", probe_of(8.28))
    entry = next(listed().itertuples())
    with pytest.raises(ReproductionError, match=r"errs on 8\.28 % of the test images, published are 9\.69 %"):
        measure(entry, tmp_path / "net.pt", "data", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    measure(entry._replace(published=8.28), tmp_path / "net.pt", "data", tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} == set(reproductions.KEPT)


def inside(right: bool, network: str, std: float) -> dict[str, pd.DataFrame]:
    """The tables of one network, as the claims have them, or the other way."""
    plain = network == "plain"
    cost = 60 if plain == right else 5
    back = 0.8 if right else 0.2
    lesions = pd.DataFrame(
        {
            "kind": ["delete", "delete_one", "delete_one"],
            "count": [0, 1, 1],
            "error": [8.0, 8.0 + cost, 8.0 + cost],
            "error_recalibrated": [8.0, *[8.0 + (1 - back) * cost] * 2],
        }
    )
    return {
        "responses": pd.DataFrame({"std": [std], "std_exact": [std]}),
        "information": pd.DataFrame({"probe_error": [60.0, 20.0 if right else 70.0]}),
        "gradients": pd.DataFrame({"grad_weight": [1.0 if right else 0.01, 1.0], "weight_norm": [1.0, 1.0]}),
        "lesions": lesions,
        "constructed": pd.DataFrame({"depth": [56], "largest_difference": [1e-6 if right else 0.1]}),
    }


@pytest.mark.parametrize(("right", "errors"), [(True, [1, 2, 0.9, 0.1]), (False, [2, 1, 2.1, 2.2])])
def test_the_claims_follow_from_the_numbers(right: bool, errors: list[float]) -> None:
    stds = [1.0, 1.0, 0.8, 0.4] if right else [1.0, 1.0, 1.2, 1.6]
    rows = [
        {"author": "someone", "network": network, "depth": depth, "train_error": error, "test_error": error + 5}
        | {"label": f"{network}-{depth}", "mean_std": std, "mean_std_exact": std, **inside(right, network, std)}
        for (network, depth), error, std in zip(
            [("plain", 20), ("plain", 56), ("residual", 20), ("residual", 56)], errors, stds, strict=True
        )
    ]
    table = pd.DataFrame(rows)
    judged = judge(table).set_index("claim")["verdict"]
    outer = ["C1", "C1 (test)", "C2", "C2 (test)", "C3 (20)", "C3 (56)"]
    responses = ["C6 (20)", "C6 (20, moving)", "C6", "C6 (moving)", "C7", "C7 (moving)"]
    inner = ["C4 (exists)", "C5 (forward)", "C5 (trained)"]
    inner += [f"Lesion ({depth}{kind})" for depth in (20, 56) for kind in ("", ", recalibrated")]
    inner += [f"Recovery ({arm}-{depth})" for arm in ("plain", "residual") for depth in (20, 56)]
    assert sorted(judged.index) == sorted([*outer, *responses, *inner])
    assert set(judged) == {"agrees" if right else "disagrees"}
    assert [list(line.get_ydata()) for line in draw_errors(table).axes[0].lines] == [errors[:2], errors[2:]]


def test_the_page_shows_what_was_measured_of_whom(tmp_path: Path) -> None:
    names = list(listed()["name"])
    shutil.copytree(ROOT / "results" / "published" / "reproductions", tmp_path, dirs_exist_ok=True)
    for name in names:
        folder, network = tmp_path / name, name.split("-")[-2]
        (folder / "curves.csv").unlink(missing_ok=True)
        for kind, rows in inside(True, network, 1.0).items():
            rows = rows.assign(layer=range(1, len(rows) + 1), stage=0) if kind == "information" else rows
            rows.to_csv(folder / f"{kind}.csv", index=False)
    curves = pd.DataFrame({"iteration": [391, 782], "train_error": [30.0, 2.0], "test_error": [30.0, 9.0]})
    for name in names[:2]:
        curves.to_csv(tmp_path / name / "curves.csv", index=False)
    page = write_page(tmp_path).read_text()
    for figure in ("error_by_depth", "fig6", "fig7", "lesions", "information"):
        assert f"]({figure}.png)" in page
        assert (tmp_path / f"{figure}.png").stat().st_size > 10_000
    assert "as a-martyn logged it" in page
    assert "| a-martyn | plain-20 | 1 | 60.00 | -40.00 | 0.73 | 0.15 | 0.80 | 1e-06 |" in page


def test_a_log_must_end_where_its_network_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reproductions.subprocess, "run", probe_of(9.69))
    (log := tmp_path / "log.csv").write_text("epoch,train_loss,train_err,test_err\n0,1.5,0.6,0.61\n1,1.0,0.5,0.0969\n")
    entry = next(listed().itertuples())
    measure(entry, tmp_path / "net.pt", "data", tmp_path / "out", log)
    curves = pd.read_csv(tmp_path / "out" / "curves.csv")
    assert curves["iteration"].tolist() == [391, 782]
    assert curves["test_error"].tolist() == [61, 9.69]
    log.write_text(log.read_text().replace("0.0969", "0.0970"))
    with pytest.raises(ReproductionError, match=r"log\.csv errs on 9\.70 % of the test images, published are 9\.69 %"):
        measure(entry, tmp_path / "net.pt", "data", tmp_path / "other", log)
    assert not (tmp_path / "other").exists()


def test_nothing_measured_is_nothing_judged(tmp_path: Path) -> None:
    assert not len(judge(load(tmp_path)))
    assert unmeasured(tmp_path) == list(listed()["name"])
