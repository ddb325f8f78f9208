"""What `make claims` starts, and for which runs; what is started is tested where it lives."""

import hashlib
import json
import sys
from collections.abc import Callable
from pathlib import Path

import claims
import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from degradation.cli import quote
from degradation.config import find_published
from degradation.record import read_summary, read_varied, write_summary
from degradation.train.outcome import BEGAN
from tests.report.conftest import put

SPARED = f"paths.published='{find_published()}'"


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    commands: list[list[str]] = []
    monkeypatch.setenv(BEGAN, "0")  # which it would set, for all tests that follow
    monkeypatch.setattr(claims, "run", lambda command: commands.append(command) or 0)
    return commands


def ask(monkeypatch: pytest.MonkeyPatch, results: Path, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["claims.py", "--protocol", "quick", "--results", str(results), *arguments])
    return claims.main()


def test_what_is_published_is_spared_where_it_is_enough(
    started: list[list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    studies = {"degradation_cifar": False, "learning_rate": True, "bn_decay": False}
    assert ask(monkeypatch, tmp_path, "--studies", ",".join(studies), "--seeds", "3,4", "machine=cpu") == 0
    *trained, reported = started
    for (study, spared), command in zip(studies.items(), trained, strict=True):
        assert command[1:5] == ["-m", f"experiment={study}", "seed=3,4", "protocol=quick"]
        assert (SPARED in command, command[-1]) == (spared, "machine=cpu")
    assert reported[1:] == ["--results", str(tmp_path), "--with-published"]
    started.clear()
    assert ask(monkeypatch, tmp_path, "--studies", "learning_rate", "--own") == 0
    assert not any(SPARED in command or "--with-published" in command for command in started)


@pytest.mark.parametrize("study", ["lesions", "constructed_solution"])
def test_networks_of_the_grid_are_probed_once(
    started: list[list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, study: str
) -> None:
    for network, experiment in (("plain", "degradation_cifar"), ("residual", "lesions"), ("plain", "learning_rate")):
        rate = ["protocol.lr=0.01"] if experiment == "learning_rate" else []
        put(tmp_path, 0, f"experiment={experiment}", f"network={network}", "depth=20", *rate, error=30.0)
    folders = sorted((tmp_path / "runs").iterdir())

    def train(folder: Path, weights: str) -> None:
        (folder / "network.pt").write_bytes(weights.encode())
        write_summary(folder, read_summary(folder))

    for folder in folders:
        train(folder, folder.name)

    def probed() -> list[str]:
        started.clear()
        assert ask(monkeypatch, tmp_path, "--studies", study) == 0
        return sorted(Path(command[1]).name for command in started if command[0].endswith("probe.py"))

    usual = [not read_varied(read_summary(folder)) for folder in folders]
    grid = [folder.name for folder, ours in zip(folders, usual, strict=True) if ours]  # whichever study trained them
    assert len(grid) == 2
    assert probed() == grid  # as what is known does not say of which weights
    for folder in folders:
        told = {"weights": hashlib.sha256(folder.name.encode()).hexdigest(), "probes": {"lesions": 9, "constructed": 9}}
        (tmp_path / "probes" / folder.name / "probe.json").write_text(json.dumps(told))
    assert probed() == []
    train(tmp_path / "runs" / grid[0], "run again")
    described = tmp_path / "probes" / grid[1] / "probe.json"
    part = {**json.loads(described.read_text()), "probes": {"lesions": 9}}
    described.write_text(json.dumps(part))
    assert probed() == grid
    described.write_text(json.dumps({**part, "left_out": "there is no deeper network of the same blocks"}))
    assert probed() == grid[:1]


Statuses = Callable[..., list[str]]


@pytest.fixture
def end_with(started: list[list[str]], monkeypatch: pytest.MonkeyPatch) -> Statuses:
    """script=status, ... -> the scripts of two studies that are started where these end so; and the status of all."""

    def ask_with(**statuses: int) -> list[str]:
        started.clear()

        def run(command: list[str]) -> int:
            started.append(command)
            return statuses.get(Path(command[0]).stem, 0)

        monkeypatch.setattr(claims, "run", run)
        status = ask(monkeypatch, Path("nowhere"), "--studies", "learning_rate,warmup")
        return [*(Path(command[0]).stem for command in started), str(status)]

    return ask_with


def test_the_status_is_that_of_the_first_study_that_did_not_finish(end_with: Statuses) -> None:
    assert end_with() == ["train", "train", "report", "0"]
    assert end_with(train=1) == ["train", "train", "report", "1"]  # what there is is judged
    assert end_with(train=3) == ["train", "train", "report", "3"]
    assert end_with(train=3, report=1) == ["train", "train", "report", "1"]  # that a run diverged is no failure
    for at_once in (2, 75, 130):
        assert end_with(train=at_once) == ["train", str(at_once)]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--studies", "nonsense"], "unknown study nonsense; there are "),
        (["--protocol", "nonsense"], "protocol=nonsense is not one of "),
        (["--protocol", "imagenet_quick"], "imagenet_quick is of studies on ImageNet; name quick"),
        (["--nonsense", "1"], "unrecognized arguments: --nonsense"),
    ],
)
def test_what_cannot_be_is_told_in_one_line(
    arguments: list[str],
    told: str,
    started: list[list[str]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", ["claims.py", *arguments])
    with pytest.raises(SystemExit) as ended:
        claims.main()
    error = capsys.readouterr().err
    assert (ended.value.code, error.count("\n"), started) == (2, 1, [])
    assert told in error


def test_each_half_of_the_paper_has_its_own_protocol(
    started: list[list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("degradation.cli.processes.ask", lambda ask_cuda: None)
    monkeypatch.setenv("DATA_DIR", str(tmp_path))  # no ImageNet
    monkeypatch.setattr(sys, "argv", ["claims.py", "--studies", "learning_rate,degradation_imagenet,warmup"])
    claims.main()
    assert [command[4] for command in started[:3]] == ["protocol=paper", "protocol=imagenet_quick", "protocol=paper"]
    started.clear()  # as the pages print it
    monkeypatch.setattr(sys, "argv", ["claims.py", "--protocol", "imagenet_short", "--studies", "deeper_imagenet"])
    claims.main()
    assert started[0][4] == "protocol=imagenet_short"


@pytest.mark.parametrize("path", ["/home/José/x", "/a (copy)/[x]", "a,b{c}=$d", "it's", "x\\", "\\'x", "new\\nline"])
def test_a_path_is_one_value_whatever_is_in_it(path: str) -> None:
    (override,) = OverridesParser.create().parse_overrides([f"paths.results={quote(path)}"])
    assert override.value() == path


def test_a_study_s_networks_are_those_of_its_file() -> None:
    assert claims.networks_of("lesions") == {(arm, depth) for arm in ("plain", "residual") for depth in (20, 56)}
