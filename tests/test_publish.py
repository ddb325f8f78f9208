"""Published evidence: only finished records of unchanged code and of a study get in, and nothing else writes there."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import publish
import pytest
import report
import reproductions

from degradation.config import ConfigError, find_published
from degradation.record import Record, sign, write_summary
from degradation.report.draw import draw_unfinished
from degradation.report.imagenet import path_of_tests
from degradation.report.pages import write_claims, write_gallery
from degradation.report.table import conditions, load_table, probes_folder, unfinished_runs
from degradation.train.run import train
from tests.conftest import ROOT, Compose, Fork
from tests.report.conftest import put

Refuse = Callable[[Path, str], None]


@pytest.fixture
def evidence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of published results of the test's own."""
    folder = tmp_path / "published"
    shutil.copytree(find_published() / "reproductions", folder / "reproductions")
    for module in (publish, sys.modules["degradation.report.pages"], sys.modules["degradation.config"]):
        monkeypatch.setattr(module, "find_published", lambda: folder)
    return folder


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures take half a minute: one test of a publication draws them, others write the gallery alone."""
    monkeypatch.setattr(publish, "report", write_gallery)
    monkeypatch.setattr(publish, "write_page", lambda folder: None)


def put_one(results: Path, **told: object) -> Path:
    """A finished record; `sessions` are the commits of the processes that worked on it."""
    depth, error, sessions = told.pop("depth", 8), told.pop("error", 40.0), told.pop("sessions", ["0123abcd"])
    named = {"study": "gradients", "commit": "0123abcd", **told}
    put(results, 0, "network=plain", f"depth={depth}", error=error, **named)
    (folder,) = (results / "runs").iterdir()
    lines = [json.dumps({"commit": commit, "study": "gradients"}) for commit in sessions]
    (folder / "sessions.jsonl").write_text("\n".join(lines) + "\n")
    (folder / "network.pt").write_bytes(b"weights")
    write_summary(folder, json.loads((folder / "summary.json").read_text()))
    return folder


def run_publish(results: Path, *arguments: str, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(sys, "argv", ["publish.py", "--results", str(results), *arguments])
    return publish.main()


@pytest.fixture
def refuse(evidence: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Refuse:
    """folder, why -> it is not published, with these words and status 2."""

    def ask(folder: Path, why: str) -> None:
        assert run_publish(folder.parent.parent, folder.name, monkeypatch=monkeypatch) == 2
        assert why in capsys.readouterr().err
        assert not (evidence / "runs").exists()

    return ask


def test_a_record_is_published_with_what_was_measured_of_it(
    evidence: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = put_one(tmp_path / "own", depth=20)
    assert run_publish(tmp_path / "own", folder.name, monkeypatch=monkeypatch) == 0
    target = evidence / "runs" / "fp32" / folder.name
    assert load_table(evidence)["run_id"].tolist() == [folder.name]
    assert (target / "network.pt").read_bytes() == b"weights"  # of quick's seed 0
    assert not (target / ".lock").exists()
    assert (probes_folder(target) / "lesions.csv").exists()
    assert (evidence / "README.md").read_text().startswith("# Published results")
    assert (evidence / "claims.md").exists()


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize(
    ("told", "why"),
    [
        ({"commit": "0123abcd-dirty"}, "was made by modified or unknown code (commit 0123abcd-dirty)"),
        ({"commit": "unknown"}, "was made by modified or unknown code"),
        ({"study": "single"}, "belongs to no study of conf/experiment (study=single)"),
        ({"sessions": ["0123abcd-dirty", "0123abcd"]}, "was made by modified or unknown code (commit 0123abcd-dirty)"),
    ],
)
def test_what_is_no_evidence_is_refused(
    told: dict[str, object],
    why: str,
    evidence: Path,
    tmp_path: Path,
    refuse: Refuse,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = put_one(tmp_path / "own", **told)
    refuse(folder, why)
    assert run_publish(tmp_path / "own", "all", monkeypatch=monkeypatch) == 0
    assert f"left out: {folder.name} " in capsys.readouterr().out
    assert not (evidence / "runs").exists()


@pytest.mark.parametrize(
    ("told", "why"),
    [
        ({"commit": "0123abcd-dirty"}, "by modified or unknown code"),
        ({"weights": "0" * 64}, "is of other weights than"),
    ],
)
def test_what_was_measured_otherwise_is_refused(told: dict[str, str], why: str, tmp_path: Path, refuse: Refuse) -> None:
    folder = put_one(tmp_path / "own")
    described = probes_folder(folder) / "probe.json"
    described.write_text(json.dumps({**json.loads(described.read_text()), **told}))
    refuse(folder, why)
    if "commit" in told:
        described.unlink()
        (tested := path_of_tests(folder)).parent.mkdir()
        tested.write_text(f"networks,commit\n{folder.name},{told['commit']}\n")
        refuse(folder, why)


@pytest.mark.usefixtures("undrawn")
def test_weights_of_other_depths_than_the_grids_stay(
    evidence: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = put_one(tmp_path / "own")
    assert run_publish(tmp_path / "own", folder.name, monkeypatch=monkeypatch) == 0
    assert not list(evidence.rglob("network.pt"))


@pytest.mark.usefixtures("undrawn")
def test_what_is_published_is_replaced_only_when_asked(
    evidence: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = put_one(tmp_path / "own")
    assert run_publish(tmp_path / "own", folder.name, monkeypatch=monkeypatch) == 0
    assert run_publish(tmp_path / "own", folder.name, monkeypatch=monkeypatch) == 2
    assert "is published already; --replace" in capsys.readouterr().err
    again = put_one(tmp_path / "again", error=50.0)
    assert again.name == folder.name
    shutil.rmtree(probes_folder(again))
    assert run_publish(tmp_path / "again", folder.name, "--replace", monkeypatch=monkeypatch) == 0
    (run,) = load_table(evidence).itertuples()
    assert run.train_error == pytest.approx(50.0, abs=1)
    assert not probes_folder(run.folder).exists()  # they were of the other's weights


@pytest.mark.usefixtures("undrawn")
def test_a_benchmark_is_published_whole_and_of_a_known_commit(
    evidence: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("runs", "bench", "bench/.."):
        assert run_publish(tmp_path, "--also", name, monkeypatch=monkeypatch) == 2
        assert f"--also {name} is neither bench/<device> nor reproductions" in capsys.readouterr().err
    also = ("--also", "bench/cpu")
    assert run_publish(tmp_path, *also, monkeypatch=monkeypatch) == 2
    assert "bench/cpu holds nothing that was measured" in capsys.readouterr().err
    (measured := tmp_path / "bench" / "cpu").mkdir(parents=True)
    (measured / "bench.json").write_text('{"commit": "0123abcd-dirty"}')
    assert run_publish(tmp_path, *also, monkeypatch=monkeypatch) == 2
    assert "bench.json was made by modified or unknown code" in capsys.readouterr().err
    (measured / "bench.json").write_text('{"commit": "0123abcd", "whole": false}')
    assert run_publish(tmp_path, *also, monkeypatch=monkeypatch) == 2
    assert "bench.json is of a part of a benchmark" in capsys.readouterr().err
    assert not (evidence / "bench").exists()
    (measured / "bench.json").write_text('{"commit": "0123abcd"}')
    assert run_publish(tmp_path, *also, monkeypatch=monkeypatch) == 0
    assert (evidence / "bench" / "cpu" / "bench.json").exists()


@pytest.mark.usefixtures("undrawn")
def test_a_run_is_published_once_in_each_precision_and_on_each_kind_of_device(
    evidence: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for precision, device in (("fp32", "cpu"), ("bf16", "cpu"), ("bf16", "cuda")):
        results = tmp_path / f"{precision} {device}"
        folder = put_one(results, precision=precision, device=device)
        assert run_publish(results, folder.name, monkeypatch=monkeypatch) == 0
    folders = ["bf16", "bf16-cuda", "fp32"]
    assert sorted(path.parent.name for path in evidence.glob("runs/*/*/")) == folders
    named = {name: runs["precision"].tolist() for name, runs in conditions(load_table(evidence))}
    assert named == {"quick": ["bf16"], "quick (bf16-cuda)": ["bf16-cuda"], "quick (fp32)": ["fp32"]}
    page = (evidence / "README.md").read_text()
    assert all(f"[plain-8 seed 0](runs/{folder}/" in page for folder in folders)
    assert all(f'ARGS="machine.device={device} machine.precision=bf16"' in page for device in ("cpu", "cuda"))


def put_unfinished(results: Path, compose: Compose, rows: int, *overrides: str, **told: str) -> Path:
    """A run on its way, at a checkpoint after so many rows."""
    record = Record(compose("protocol=quick", "network=plain", "depth=8", f"paths.results={results}", *overrides))
    for later in ({}, {"commit": "4567cdef"}):
        session = {"device": "cpu", "precision": "fp32", "commit": "0123abcd", "study": "degradation_cifar", **told}
        record.start_session({**session, **later})
    for iteration in range(25, 25 * rows + 1, 25):
        tested = {"test_error": 70.0} if iteration % 125 == 0 else {}
        record.append({"iteration": iteration, "lr": 0.02, "train_error": 75.0, "train_loss": 2.0, **tested})
    record.checkpoint.write_bytes(b"where it stands")
    sign(record.checkpoint)
    record.close()
    return record.path


def test_an_unfinished_run_is_published_apart_until_it_is_finished(
    evidence: Path,
    compose: Compose,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(publish, "write_page", lambda folder: None)
    for rows in (5, 7):  # a later state takes the place of the earlier one
        folder = put_unfinished(tmp_path / str(rows), compose, rows)
        assert run_publish(tmp_path / str(rows), "--unfinished", folder.name, monkeypatch=monkeypatch) == 0
    target = evidence / "runs" / "fp32" / folder.name
    assert {path.name for path in target.iterdir()} == {path.name for path in folder.iterdir()} - {".lock"}
    assert len(load_table(evidence)) == 0
    (row,) = unfinished_runs(evidence).itertuples()
    assert (row.label, row.iteration, row.train_error, row.test_error) == ("plain-8", 175, 75.0, 70.0)
    page = (evidence / "README.md").read_text()
    assert f"| [plain-8 seed 0](runs/fp32/{folder.name}/) | quick | fp32 | 175 of 2,500 | 75.00 | 70.00 |" in page
    rest = "study=degradation_cifar machine.device=cpu machine.precision=fp32 paths.published=results/published"
    assert f"train.py -m network=plain depth=8 seed=0 protocol=quick {rest}\n" in page
    assert (evidence / "figures" / "quick" / "unfinished.png").exists()
    # Neither what stands further back nor what cannot go on takes its place, or stands beside it.
    assert run_publish(tmp_path / "5", "--unfinished", folder.name, monkeypatch=monkeypatch) == 2
    assert f"error: {folder.name} is published already, and further" in capsys.readouterr().err
    (tmp_path / "7" / "runs" / folder.name / "checkpoint.ckpt").write_bytes(b"damaged")
    assert run_publish(tmp_path / "7", "--unfinished", folder.name, monkeypatch=monkeypatch) == 2
    assert "checkpoint.ckpt is damaged" in capsys.readouterr().err
    (tmp_path / "7" / "runs" / folder.name / "checkpoint.ckpt").unlink()
    assert run_publish(tmp_path / "7", "--unfinished", folder.name, monkeypatch=monkeypatch) == 2
    assert "holds no unfinished run" in capsys.readouterr().err
    for told, why in ({"commit": "01-dirty"}, "modified or unknown code"), ({"study": "single"}, "belongs to no study"):
        put_unfinished(tmp_path / why, compose, 8, **told)
        assert run_publish(tmp_path / why, "--unfinished", folder.name, monkeypatch=monkeypatch) == 2
        assert why in capsys.readouterr().err
    assert (target / "checkpoint.ckpt").read_bytes().startswith(b"where it stands")


def test_those_who_go_on_start_nothing_else(evidence: Path, compose: Compose, tmp_path: Path) -> None:
    pairs = [("plain", 0), ("residual", 0), ("residual", 1)]
    made = [put_unfinished(tmp_path / "own", compose, 5, f"network={arm}", f"seed={seed}") for arm, seed in pairs]
    for folder in made[:2]:
        shutil.copytree(folder, evidence / "runs" / "fp32" / folder.name)
    commands = re.findall(r"train.py -m (.*) protocol=", write_gallery(evidence, load_table(evidence)).read_text())
    assert commands == ["network=plain,residual depth=8 seed=0"]
    shutil.copytree(made[2], evidence / "runs" / "fp32" / made[2].name)
    commands = re.findall(r"train.py -m (.*) protocol=", write_gallery(evidence, load_table(evidence)).read_text())
    assert commands == [f"network={arm} depth=8 seed={seed}" for arm, seed in pairs]
    figure = draw_unfinished(unfinished_runs(evidence))
    assert [ax.get_title() for ax in figure.axes] == [f"{arm} networks, seed {seed}" for arm, seed in pairs]
    (evidence / "runs" / "plain-8-junk").mkdir()
    for text in ("iteration", "iteration,train_error,test_error\nx,y,z\n"):
        (evidence / "runs" / "plain-8-junk" / "metrics.csv").write_text(text)
        assert len(unfinished_runs(evidence)) == len(pairs)


@pytest.mark.usefixtures("undrawn")
def test_a_finished_record_takes_the_place_of_the_unfinished(
    evidence: Path, compose: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_unfinished(tmp_path / "way", compose, 5)
    finished = put_one(tmp_path / "own")
    # Made-up records are of a data set of their own, and so of another run: as if this were it.
    (way := next((tmp_path / "way" / "runs").iterdir())).rename(way.with_name(finished.name))
    (way.with_name(finished.name) / "config.yaml").write_text((finished / "config.yaml").read_text())
    assert run_publish(tmp_path / "way", "--unfinished", finished.name, monkeypatch=monkeypatch) == 0
    assert run_publish(tmp_path / "own", finished.name, monkeypatch=monkeypatch) == 0
    (target,) = (evidence / "runs" / "fp32").iterdir()
    assert load_table(evidence)["run_id"].tolist() == [finished.name]
    assert not (target / "checkpoint.ckpt").exists()
    assert not len(unfinished_runs(evidence))
    assert run_publish(tmp_path / "way", "--unfinished", finished.name, monkeypatch=monkeypatch) == 2


@pytest.mark.parametrize(("script", "option"), [(report, "--results={}"), (reproductions, "--out={}/x")])
def test_nothing_else_writes_there(
    script: ModuleType, option: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [str(script.__file__), option.format(find_published())])
    assert script.main() == 2
    assert "is read-only evidence; name another folder" in capsys.readouterr().err


def test_published_runs_are_not_run_again_where_that_is_asked(fork: Fork, tiny: Compose, tmp_path: Path) -> None:
    arms = [tiny(f"network={network}") for network in ("plain", "residual")]
    assert [train(config).status for config in arms] == ["finished"] * 2
    folder = arms[0].folder
    (tmp_path / "elsewhere" / "runs").mkdir(parents=True)
    folder.rename(tmp_path / "elsewhere" / "runs" / folder.name)
    for arguments, told in (
        (["network=plain,residual", "-m"], "1 published already; 1 finished already"),
        (
            ["network=plain"],
            "published  ",
        ),
    ):
        process = fork(*arguments, f"paths.published={tmp_path / 'elsewhere'}")
        out, err = process.communicate()
        assert process.returncode == 0, err
        assert told in out
        assert not folder.exists()


def test_the_published_folder_is_no_place_for_runs(compose: Compose) -> None:
    for folder in (find_published(), find_published() / "runs"):
        with pytest.raises(ConfigError, match="is read-only evidence; name another folder"):
            compose("protocol=smoke", f"paths.results={folder}")


def test_the_pages_are_what_this_code_makes_of_the_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    published, copy = find_published(), tmp_path / "published"
    copy.mkdir()
    for path in published.iterdir():
        if path.is_dir():
            (copy / path.name).symlink_to(path)
    for module in ("pages", "table"):
        monkeypatch.setattr(f"degradation.report.{module}.find_published", lambda: copy, raising=False)
    table = load_table(copy)
    for page in (write_gallery(copy, table), write_claims(copy, table)):
        # Where this fails after a change of words: experiments/publish.py without a run draws all anew.
        assert page.read_text() == (published / page.name).read_text()


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="needs the checkout's git")
def test_git_sees_the_published_evidence_and_nothing_that_is_made_here() -> None:
    made = ["runs/x/summary.json", "figures/quick/fig6.png", "gallery.md", "claims.md", "wandb/x", "bench/cpu/x"]
    kept = ["README.md", "published/README.md", "published/runs/x/summary.json", "published/runs/x/network.pt"]
    kept += ["published/runs/bf16/x/checkpoint.ckpt"]
    paths = [f"results/{path}" for path in (*made, *kept)]
    command = ["git", "check-ignore", "--no-index", *paths]
    ignored = subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout.split()
    assert ignored == paths[: len(made)]
