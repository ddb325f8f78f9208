"""What `make claims` starts, and for which runs; what is started is tested where it lives."""

import sys
from pathlib import Path

import claims
import pytest

from degradation.config import find_published
from degradation.train.outcome import BEGAN
from tests.report.conftest import put

SPARED = f"paths.published={find_published()}"


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
    for folder in (tmp_path / "runs").iterdir():
        (folder / "network.pt").touch()
        (tmp_path / "probes" / folder.name / "probe.json").unlink()
    assert ask(monkeypatch, tmp_path, "--studies", study) == 0
    probed = {Path(command[1]).name.split("-")[0] for command in started if command[0].endswith("probe.py")}
    assert probed == {"plain", "residual"}  # whichever study trained them


def test_a_study_s_networks_are_those_of_its_file() -> None:
    assert claims.networks_of("lesions") == {(arm, depth) for arm in ("plain", "residual") for depth in (20, 56)}
