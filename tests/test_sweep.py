"""A sweep before its runs: what is refused, and how long it should take."""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hydra.core.global_hydra import GlobalHydra

from degradation import cli, processes
from degradation.config import Config, ConfigError
from degradation.ending import Stop
from degradation.sweep import describe_time, find_published
from degradation.train.plan import check, count_jobs, estimate_seconds
from degradation.train.run import train

from .conftest import TINY, Compose, composed
from .needs import without_cuda
from .report.conftest import put


@pytest.fixture
def refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Callable[..., str]]:
    """overrides -> the one line of a command that says why it made nothing, and ended with status 2."""
    monkeypatch.setenv("HYDRA_FULL_ERROR", "")
    monkeypatch.chdir(tmp_path)

    def refuse(*overrides: str) -> str:
        monkeypatch.setattr(sys, "argv", ["train.py", *TINY, f"paths.results={tmp_path / 'results'}", *overrides])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        stdout, stderr = capsys.readouterr()
        assert (ended.value.code, stdout, stderr.count("\n")) == (cli.EXIT_INPUT, "", 1), stderr
        return stderr

    yield refuse
    GlobalHydra.instance().clear()


@pytest.mark.parametrize("sweep", [[], ["-m", "network=plain,residual"]], ids=["run", "sweep"])
@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["data=cifar10", "paths.data=file/data"], "name that folder as DATA_DIR"),
        (["data=imagenet", "paths.data=nowhere", "network.classes=1000"], "name the folder that holds imagenet/train"),
        (["data.validation_images=512"], "data.validation_images=512 leaves none of 512 images"),
        (["data.validation_images=500"], "protocol.batch_size=32 is more than the 12 training images of synthetic"),
        (["protocol.batch_size=513"], "protocol.batch_size=513 is more than the 512 training images"),
        (["network.classes=11"], "network.classes=11, but synthetic has 10 classes"),
        (["network.widht=2"], "network.widht"),
        (["network=null"], "network=null is not one of plain, residual"),
        (["depth=21"], "depth=21 is not of the form 6n+2; the nearest such depths are 20 and 26"),
        pytest.param(["machine=gpu"], "machine.device=cuda, but no CUDA device is present", marks=without_cuda),
        (["experiment=1"], "experiment=1 is not one of"),
        (["network.width=100000"], "network.width=100000 should be less than or equal to 4096"),
        (["machine.precision=tf32"], "machine.precision=tf32 exists on CUDA devices only"),
        (["seed=-1"], "seed=-1 should be greater than or equal to 0"),
        (["paths.results=file/results"], "file; name another folder with RESULTS_DIR="),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_made(
    refused: Callable[..., str], tmp_path: Path, sweep: list[str], overrides: list[str], told: str
) -> None:
    (tmp_path / "file").touch()  # where nothing can be made
    line = refused(*overrides, *sweep)
    assert line.startswith("error: ")
    assert told in line
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_an_interruption_that_something_swallowed_ends_before_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def leave() -> None:
        raise SystemExit(130)

    monkeypatch.setattr(Stop, "requested", True)
    monkeypatch.setattr(cli, "leave", leave)
    monkeypatch.setattr(cli, "origin", lambda config: {})  # which wants Hydra's own start
    with pytest.raises(SystemExit, match="130"):
        cli.task(composed(*TINY, f"paths.results={tmp_path}"))
    assert not (tmp_path / "runs").exists()


def test_machines_are_not_swept_over(refused: Callable[..., str]) -> None:
    assert "is one run on whatever machine" in refused("-m", "machine.evaluation_batch=100,200")


@pytest.mark.parametrize("jobs", ["0", "-1", "two", "\u00b2"])
def test_jobs_are_a_number(refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch, jobs: str) -> None:
    monkeypatch.setenv("JOBS", jobs)
    assert f"JOBS={jobs} must be auto or at least 1" in refused("-m", "seed=0,1")


def test_one_run_that_cannot_be_refuses_the_sweep(refused: Callable[..., str], tmp_path: Path) -> None:
    assert "batch_size=600" in refused("-m", "protocol.batch_size=8,600,16")
    assert not list(tmp_path.iterdir())


def test_a_run_that_cannot_be_timed_costs_the_estimate_of_itself(
    tiny: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    def allocate(config: Config, jobs: int) -> object:
        return torch.empty(2**60) if config.network.width == 3 else lambda architecture: 0.5

    monkeypatch.setattr("degradation.train.plan.calibrate", allocate)
    todo = [tiny("network.width=2"), tiny("network.width=3")]
    estimate = estimate_seconds(todo, check(todo), 1)
    assert list(estimate) == [todo[0].run_id]
    told = describe_time(todo, estimate, 0, 1)
    assert told.startswith("1 run(s) could not be timed, as where memory does not suffice; about ")


def test_runs_that_share_a_gpu_are_told_as_one_after_another(tiny: Callable[..., Config]) -> None:
    todo = [tiny("seed=0"), tiny("seed=1")]
    estimate = {config.run_id: 3600.0 for config in todo}
    assert describe_time(todo, estimate, 0, 2) == "about 60 min, from a timing of this machine just now"
    assert describe_time(todo, estimate, 0, 2, one_gpu=True).startswith("at most about 2 h 00 min, ")
    assert describe_time(todo, estimate, 0, 1, one_gpu=True).startswith("about 2 h 00 min, ")


@pytest.mark.parametrize(("error", "told"), [(MemoryError(), "out of memory"), (RuntimeError("alloc\nlong"), "alloc")])
def test_memory_that_ends_is_a_run_that_failed(
    tiny: Callable[..., Config], monkeypatch: pytest.MonkeyPatch, error: Exception, told: str
) -> None:
    def allocate(*_: object) -> None:
        raise error

    monkeypatch.setattr("degradation.train.run.Network", allocate)
    outcome = train(tiny())
    assert (outcome.status, outcome.message) == ("failed", told)


def test_what_is_raised_or_killed_elsewhere_is_told_here() -> None:
    with pytest.raises(ConfigError, match="JOBS=two must be auto or at least 1"):
        processes.ask(count_jobs, "two", 1, "cpu")
    with pytest.raises(MemoryError, match=r"nothing was begun: .* was ended by SIGKILL, as when memory runs out"):
        processes.ask(signal.raise_signal, signal.SIGKILL)


def test_a_process_has_the_environment_of_its_start(monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for value in ("first", "later"):  # the server of both has that of the first
        monkeypatch.setenv("DEGRADATION_BEGAN", value)
        process, receive = processes.start(os.getenv, "DEGRADATION_BEGAN")
        found.append(receive.recv())
        process.join()
    assert found == ["first", "later"]


def test_what_is_published_of_another_device_or_precision_does_not_count(compose: Compose, tmp_path: Path) -> None:
    run = ("protocol=quick", "data=cifar10", "network=plain", "depth=8")
    put(tmp_path, 0, *run, error=40.0, device="cuda", precision="bf16")
    config = compose(*run, f"paths.published={tmp_path}")
    published, told = find_published([config], replace(config.machine, device="cuda", precision="bf16"))
    assert (list(published), told) == ([config.run_id], "1 published already; ")
    for device, precision, ours in (("cpu", "bf16", "bf16"), ("cuda", "fp32", "fp32-cuda")):
        published, told = find_published([config], replace(config.machine, device=device, precision=precision))
        line = f"those published in bf16-cuda make no pairs with {ours}, and do not count; "
        assert (published, told) == ({}, line)
