"""Networks that others trained: the files are the published ones, the numbers the authors', the claims follow."""

import hashlib
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import reproductions
from reproductions import ReproductionError, draw_errors, find_file, judge, listed, load, measure

from tests.conftest import ROOT


def test_every_listed_network_was_measured_and_errs_as_published() -> None:
    table = load(ROOT / "results" / "published" / "reproductions")
    assert list(table["name"]) == list(listed()["name"])
    assert len(table) == 12
    assert (table["measured"].round(2) == table["test_error"]).all()
    for row in table.itertuples():
        assert len(row.responses) == row.depth - 1


def test_a_file_is_found_by_its_name_and_told_by_its_checksum(tmp_path: Path) -> None:
    content = b"weights"
    entry = SimpleNamespace(file="pretrained/net.pt", repository="https://example.org/nets", sha256="0" * 64)
    with pytest.raises(ReproductionError, match=r"net\.pt is not below .*; get it from https://example\.org/nets"):
        find_file(tmp_path, entry)
    (tmp_path / "clone").mkdir()
    (tmp_path / "clone" / "net.pt").write_bytes(content)
    with pytest.raises(ReproductionError, match="is not the published file: its SHA-256 is not 0000"):
        find_file(tmp_path, entry)
    entry.sha256 = hashlib.sha256(content).hexdigest()
    assert find_file(tmp_path, entry) == tmp_path / "clone" / "net.pt"


def test_a_network_that_errs_otherwise_leaves_no_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def probe(command: list[str]) -> SimpleNamespace:
        made = Path(command[command.index("--out") + 1])
        made.mkdir()
        for name in reproductions.KEPT:
            (made / name).write_text("set,images,error,loss\ntrain,50000,1.0,0\ntest,10000,8.28,0\n")
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr(reproductions.subprocess, "run", probe)
    entry = next(listed().itertuples())
    with pytest.raises(ReproductionError, match=r"errs on 8\.28 % of the test images, published are 9\.69 %"):
        measure(entry, tmp_path / "net.pt", "data", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    measure(entry._replace(test_error=8.28), tmp_path / "net.pt", "data", tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} == set(reproductions.KEPT)


@pytest.mark.parametrize(("right", "errors"), [(True, [1, 2, 0.9, 0.1]), (False, [2, 1, 2.1, 2.2])])
def test_the_claims_follow_from_the_numbers(right: bool, errors: list[float]) -> None:
    stds = [1.0, 1.0, 0.8, 0.4] if right else [1.0, 1.0, 1.2, 1.6]
    rows = [
        {"author": "someone", "network": network, "depth": depth, "train_error": error, "test_error": error + 5}
        | {"mean_response": std, "responses": pd.DataFrame({"std": [std]})}
        for (network, depth), error, std in zip(
            [("plain", 20), ("plain", 56), ("residual", 20), ("residual", 56)], errors, stds, strict=True
        )
    ]
    table = pd.DataFrame(rows)
    judged = judge(table).set_index("claim")["verdict"]
    claims = {"C1", "C1 (test)", "C2", "C2 (test)", "C3 (20)", "C3 (56)", "C6 (20)", "C6 (56)", "C7"}
    assert set(judged.index) == claims
    assert set(judged) == {"agrees" if right else "disagrees"}
    assert [list(line.get_ydata()) for line in draw_errors(table).axes[0].lines] == [errors[:2], errors[2:]]
