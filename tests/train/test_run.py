"""Runs from config to record: matched, exact across interruption, and honest about every bad end.

The runs are tiny, of a second each; interruptions happen to the real command line in a process of its own.
"""

import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import pytest
import torch
from hydra.errors import ConfigCompositionException
from torch import Tensor

from degradation.cli import main
from degradation.config import Architecture, Config, find_published, find_records
from degradation.data.resident import Normalizer
from degradation.ending import EXIT_FAILED, EXIT_STOPPED, Stop
from degradation.net.foreign import load_network
from degradation.net.network import Network
from degradation.probe.views import Views, evaluate, exact_batchnorm, layout
from degradation.record import (
    COLUMNS,
    Record,
    RecordError,
    find_begun,
    load_gradients,
    load_metrics,
    load_responses,
    load_runs,
    load_wrong,
    read_summary,
    settled_error,
    sign,
)
from degradation.report.table import unfinished_runs
from degradation.train.machine import resolve
from degradation.train.outcome import EXIT_BUDGET, EXIT_DIVERGED, Outcome, exit_status, finished_before
from degradation.train.plan import check, estimate_seconds
from degradation.train.run import load_images, train
from degradation.train.step import DegradationModule, warmup_ends
from tests.conftest import TINY, Compose, Fork, Start
from tests.data.test_folders import write_tree
from tests.faults.kills import training
from tests.forked import Forked
from tests.needs import needs_compiler, needs_cuda

# Long enough to be interrupted, with a warm-up that ends and a validation set, so that all there is must resume.
LONG = [
    "protocol.iterations=160",
    "protocol.milestones=[100,130]",
    "protocol.log_every=2",
    "protocol.evaluate_every=40",
    "protocol.warmup.min_depth=8",
    "protocol.warmup.until_error=88",
    "protocol.warmup.window=14",
    "data.validation_images=100",
    "machine.checkpoint_seconds=0",
]


def record_of(results: Path) -> Path:
    (folder,) = (results / "runs").iterdir()
    return folder


def summary_of(folder: Path) -> dict[str, object]:
    return json.loads((folder / "summary.json").read_text())


def metrics_of(folder: Path) -> pd.DataFrame:
    """As written, to the last digit, but for the time it took."""
    return pd.read_csv(folder / "metrics.csv", dtype=str, keep_default_na=False).drop(columns="seconds")


def assert_same_record(folder: Path, expected: Path) -> None:
    pd.testing.assert_frame_equal(metrics_of(folder), metrics_of(expected))
    for probe in ("responses.csv", "gradients.csv", "wrong.csv"):
        assert (folder / probe).read_text() == (expected / probe).read_text()
    for key in ("final", "outcome", "iteration", "warmup_ended_at", "run_id"):
        assert summary_of(folder)[key] == summary_of(expected)[key]
    ours, theirs = (torch.load(f / "network.pt", weights_only=True) for f in (folder, expected))
    assert set(ours) == set(theirs)
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


@pytest.fixture(scope="module")
def uninterrupted(compose: Compose, tmp_path_factory: pytest.TempPathFactory) -> Path:
    results = tmp_path_factory.mktemp("uninterrupted")
    assert train(compose(*TINY, *LONG, f"paths.results={results}")).status == "finished"
    folder = record_of(results)
    assert 0 < summary_of(folder)["warmup_ended_at"] < 50  # type: ignore[operator]  # before runs are interrupted
    return folder


class Spy:
    """What every iteration was given: images, labels, learning rate; the weights, and settings, before the first."""

    def __init__(self, patch: pytest.MonkeyPatch):
        self.batches: list[tuple[Tensor, Tensor]] = []
        self.rates: list[float] = []
        self.initial: dict[str, Tensor] = {}
        self.module: Any = None
        iterate = DegradationModule.iterate

        def watch(module: DegradationModule, x: Tensor, y: Tensor, optimizer: torch.optim.Optimizer) -> None:
            if not self.batches:
                self.module, self.groups = module, [dict(group) for group in optimizer.param_groups]
                self.initial = {key: value.clone() for key, value in module.network.state_dict().items()}
            self.batches.append((x.clone(), y.clone()))
            self.rates.append(float(optimizer.param_groups[0]["lr"]))
            iterate(module, x, y, optimizer)

        patch.setattr(DegradationModule, "iterate", watch)


def spied(config: Config) -> Spy:
    with pytest.MonkeyPatch.context() as patch:
        spy = Spy(patch)
        train(config)
    return spy


# What a run does


def test_both_arms_see_the_same_batches_and_start_from_the_same_tensors(tiny: Compose) -> None:
    warm = ("protocol.warmup.min_depth=8", "protocol.warmup.until_error=200")
    plain, residual = (spied(tiny(f"network={arm}", "network.width=2", *warm)) for arm in ("plain", "residual"))
    other = spied(tiny("network=plain", "seed=1"))
    assert plain.rates == residual.rates
    assert len({*plain.rates}) > 2  # a warm-up that ends, and a decay
    assert len(plain.batches) == len(residual.batches) == 24
    for (x, y), (x_twin, y_twin) in zip(plain.batches, residual.batches, strict=True):
        assert torch.equal(x, x_twin)
        assert torch.equal(y, y_twin)
    assert set(plain.initial) == set(residual.initial)
    assert all(torch.equal(plain.initial[key], residual.initial[key]) for key in plain.initial)
    assert not torch.equal(plain.batches[0][0], other.batches[0][0])
    assert not torch.equal(plain.initial["stem.weight"], other.initial["stem.weight"])


@pytest.mark.parametrize("tasks", ["4", "1"])
def test_a_batch_systems_tasks_and_checkpoints_are_none_of_a_runs(
    tasks: str, tiny: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"NTASKS": tasks, "JOB_ID": "1", "JOB_NAME": "mine", "PROCID": "0", "LOCALID": "0"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "hpc_ckpt_1.ckpt").write_bytes(b"of another run")  # which Lightning writes, and loads, under SLURM
    assert train(tiny("network=plain")).status == "finished"


def test_a_run_whose_last_step_explodes_has_diverged(tiny: Compose) -> None:
    alone = ("protocol.iterations=1", "protocol.milestones=[]", "protocol.log_every=1", "protocol.evaluate_every=1")
    config = tiny("network=plain", "network.norm=none", "protocol.lr=1e12", *alone)
    outcome = train(config)
    assert outcome.status == "diverged"
    assert "in eval mode is not finite at iteration 1" in outcome.message
    summary = read_summary(config.folder)
    assert (summary["outcome"], summary["final"]) == ("diverged", None)


def test_the_record_of_a_run(tiny: Compose) -> None:
    config = tiny("network=plain", "data.validation_images=100", "machine.channels_last=true")  # as it is by default
    outcome = train(config, origin={"varied": {"protocol.lr": 0.1}, "made_by_study": ["protocol.lr"]})
    folder = record_of(Path(config.paths.results))
    assert (outcome.status, outcome.exit_status, outcome.run_id) == ("finished", 0, config.run_id)
    assert folder.name == config.run_id.replace("-smoke-", "-smoke-lr=0.1-")  # what it varies is in the folder's name
    assert outcome.folder == config.folder.name == folder.name
    assert train(config).status == "skipped"
    assert {path.name for path in folder.iterdir()} - {".lock"} == {
        "config.yaml",
        "metrics.csv",
        "network.pt",
        "gradients.csv",
        "responses.csv",
        "sessions.jsonl",
        "summary.json",
        "wrong.csv",
    }
    metrics, summary, signals = load_metrics(folder), summary_of(folder), load_gradients(folder)
    assert list(metrics) == COLUMNS
    assert signals["iteration"].unique().tolist() == [0, 1, 2, 4, 8, 12, 24]  # the first steps, then about ten
    assert signals.groupby("iteration")["lr"].first().tolist() == pytest.approx([0.1] * 5 + [0.01, 0.001])
    assert (signals["weight_norm"] > 0).all()
    assert metrics["iteration"].tolist() == [4, 8, 12, 16, 20, 24]
    assert metrics["lr"].tolist() == pytest.approx([0.1] * 3 + [0.01, 0.001, 0.001])
    assert metrics["train_error"].notna().all()
    for column in ("test_error", "test_loss", "val_error", "val_loss"):
        assert metrics.loc[metrics[column].notna(), "iteration"].tolist() == [12, 24]
    settled = settled_error(metrics, 16)  # what figures have is what is told: an epoch of 500 images
    assert outcome.final == {**summary["final"], "train_error": settled}
    final = dict(summary["final"])  # type: ignore[call-overload]
    assert 100 * len(load_wrong(folder)) / summary["images"]["test"] == pytest.approx(final["test_error"])
    for key in ("train_error", "train_loss", "test_error", "test_loss", "val_error", "val_loss"):
        assert final[key] == pytest.approx(metrics[key].iloc[-1], rel=1e-5)  # the headline is the final iteration
    assert {"train_error_eval", "train_loss_eval"} < set(final)
    assert summary["varied"] == {"protocol.lr": 0.1}
    assert summary["made_by_study"] == ["protocol.lr"]
    assert summary["iteration"] == 24
    layers = load_responses(folder)
    assert layers["layer"].tolist() == list(range(1, 8))
    assert (layers["std_exact"] > 0).all()
    known = layers.dropna(subset=["probe_error"])["name"].tolist()
    assert known == ["stem", *(f"stage{n}.block1.conv2" for n in (1, 2, 3))]


@pytest.mark.parametrize("arm", ["plain", "residual"])
@pytest.mark.parametrize(("batchnorm", "precision"), [("moving", "bf16"), ("exact", "fp32")])
def test_final_errors_are_those_of_the_final_weights(
    tiny: Compose, arm: str, batchnorm: Literal["moving", "exact"], precision: str
) -> None:
    how = [f"protocol.batchnorm={batchnorm}", "protocol.batchnorm_groups=2", f"machine.precision={precision}"]
    config = tiny(f"network={arm}", *how, "data.validation_images=100")
    outcome = train(config)
    train_set, test, validation = load_images(config)
    assert validation is not None
    assert outcome.final is not None
    machine = resolve(config.machine)
    normalize = Normalizer(train_set.sample, config.data.normalization)
    views = Views(train_set, normalize, machine.evaluation_batch, precision, machine.channels_last)
    network = load_network(config.folder).to(memory_format=layout(machine.channels_last))  # type: ignore[call-overload]
    if batchnorm == "exact":
        network = exact_batchnorm(network, replace(views, batch_size=16))
    for images, name in ((test, "test_{}"), (validation, "val_{}"), (train_set, "train_{}_eval")):
        error, loss = evaluate(network, views.of(images))
        assert outcome.final[name.format("error")] == pytest.approx(error, rel=1e-5)
        assert outcome.final[name.format("loss")] == pytest.approx(loss, rel=1e-5)


@pytest.mark.parametrize("arm", ["plain", "residual"])
def test_the_first_step_is_that_of_the_published_records(compose: Compose, tmp_path: Path, arm: str) -> None:
    # Weights, batches, crops and flips are functions of the seed alone, and stay what they were.
    quick = ["protocol=quick", "depth=20", "machine=cpu", "machine.precision=fp32", "machine.threads=1", "logger=none"]
    config = compose(*quick, f"network={arm}", "budget_minutes=0", f"paths.results={tmp_path}")
    assert train(config).status == "out of budget"
    (published,) = (folder for folder in find_records(find_published(), config.run_id) if folder.parent.name == "fp32")
    ours, theirs = (load_gradients(folder).set_index(["iteration", "layer"]) for folder in (config.folder, published))
    for column in ("std", "grad_response", "grad_weight", "weight_norm"):
        for iteration in (0, 1):
            found, known = (rows.loc[iteration, column].to_numpy() for rows in (ours, theirs))
            # Gradients are exact to a few hundredths: through twenty layers they carry how a processor rounds.
            rel = 0.1 if column.startswith("grad") else 1e-3
            assert found == pytest.approx(known, rel=rel), (column, iteration)


def parts_of(compose: Compose, flip: str, results: Path) -> list[Any]:
    """What a run is made of, of which one choice is made the other way."""
    once = ("data.validation_images=12", "budget_minutes=0", f"paths.results={results}")
    spy = spied(compose(*TINY, *once, f"flip={flip}"))
    norms = [module for module in spy.module.network.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    network = spy.module.network.twin()
    network.load_state_dict(spy.initial)
    return [
        [tensor.tolist() for tensor in spy.initial.values()],
        [(norm.eps, norm.momentum) for norm in norms],
        [tensor.tolist() for tensor in spy.batches[0]],
        spy.module.stream.batches_per_epoch,
        [(len(group["params"]), group["weight_decay"]) for group in spy.groups],
        network(spy.batches[0][0]).tolist(),
    ]


@pytest.fixture(scope="module")
def unflipped(compose: Compose, tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    return parts_of(compose, "none", tmp_path_factory.mktemp("unflipped"))


@pytest.mark.parametrize(
    "flip",
    [
        "none",
        "no_bn_decay",
        "pad_both",
        "fan_out",
        "keep_last",
        "channel_norm",
        "pad_before",
        "bn_eps",
        "bn_momentum",
        "head_uniform",
        "scale_255",
        "no_augmentation",
    ],
)
def test_a_flip_changes_what_a_run_is_made_of(
    compose: Compose, tmp_path: Path, unflipped: list[Any], flip: str
) -> None:
    # The others change steps, or evaluation: test_step.py, and the test of final errors.
    assert (parts_of(compose, flip, tmp_path) == unflipped) == (flip == "none")


def test_the_running_error_counts_every_image_since_the_last_row(tiny: Compose) -> None:
    config = tiny("protocol.log_every=8", "protocol.evaluate_every=24", "protocol.weight_decay=0", "protocol.lr=1e-12")
    spy = spied(config)
    # With next to no learning rate the network is its own start, whatever the iteration.
    network = Network(Architecture.paper(8, "A", width=2))
    expected = []
    for first in (0, 8, 16):
        wrong = [(network(x).argmax(1) != y).float().mean().item() for x, y in spy.batches[first : first + 8]]
        expected.append(100 * sum(wrong) / 8)
    recorded = load_metrics(record_of(Path(config.paths.results)))["train_error"].tolist()
    assert recorded == pytest.approx(expected, abs=2.0)  # bf16 may turn a few of 256 images
    assert recorded[0] != recorded[1]


def test_a_finished_run_is_skipped(tiny: Compose) -> None:
    config = tiny()
    first = train(config)
    folder = record_of(Path(config.paths.results))
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    spy = spied(config)
    again = train(config)
    assert not spy.batches
    assert (again.status, again.exit_status, again.final) == ("skipped", 0, first.final)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_run_in_progress_is_left_alone(tiny: Compose) -> None:
    config = tiny()
    record = Record(config)
    outcome = train(config)
    record.close()
    assert (outcome.status, outcome.exit_status) == ("failed", EXIT_FAILED)
    assert "another process is writing" in outcome.message
    assert not (record.path / "metrics.csv").exists()


def test_a_non_finite_loss_is_an_outcome(tiny: Compose) -> None:
    config = tiny("protocol.lr=1e30")
    outcome = train(config)
    folder = record_of(Path(config.paths.results))
    assert (outcome.status, outcome.exit_status, outcome.final) == ("diverged", EXIT_DIVERGED, None)
    assert "not finite" in outcome.message
    assert summary_of(folder)["outcome"] == "diverged"
    assert summary_of(folder)["final"] is None
    assert not (folder / "responses.csv").exists()
    assert load_wrong(folder) is None
    assert load_runs(config.paths.results)["outcome"].tolist() == ["diverged"]
    again = train(config)  # neither taken for finished nor run again
    assert (again.status, again.exit_status) == ("diverged", EXIT_DIVERGED)
    assert "recorded" in again.message


def test_warmup_ends_and_the_rate_comes_back_up(tiny: Compose) -> None:
    config = tiny("protocol.warmup.min_depth=8", "protocol.warmup.until_error=200")
    spy = spied(config)
    assert spy.rates == pytest.approx([0.01] * 6 + [0.1] * 6 + [0.01] * 6 + [0.001] * 6)
    folder = record_of(Path(config.paths.results))
    assert summary_of(folder)["warmup_ended_at"] == 6
    assert load_metrics(folder)["lr"].tolist() == pytest.approx([0.01, 0.1, 0.1, 0.01, 0.001, 0.001])


def test_warmup_goes_on_while_the_error_is_high(tiny: Compose, monkeypatch: pytest.MonkeyPatch) -> None:
    windows: list[tuple[float, int]] = []

    def watch(wrong: float, images: int, until_error: float) -> bool:
        windows.append((wrong, images))
        return warmup_ends(wrong, images, until_error)

    monkeypatch.setattr("degradation.train.step.warmup_ends", watch)
    config = tiny("protocol.warmup.min_depth=8", "protocol.warmup.until_error=0.001", "protocol.log_every=6")
    spy = spied(config)
    assert spy.rates == pytest.approx([0.01] * 12 + [0.001] * 6 + [0.0001] * 6)
    assert [images for _, images in windows] == [6 * 32] * 4
    errors = load_metrics(record_of(Path(config.paths.results)))["train_error"]  # here a row is a window
    assert [100 * wrong / images for wrong, images in windows] == pytest.approx(errors.tolist(), rel=1e-5)
    assert summary_of(record_of(Path(config.paths.results)))["warmup_ended_at"] is None


def test_how_many_iterations_a_step_holds_changes_nothing(compose: Compose, tmp_path: Path) -> None:
    folders = []
    for length in (1, 3, 10):
        results = tmp_path / str(length)
        warmup = ["protocol.warmup.min_depth=8", "protocol.warmup.until_error=91"]
        step = f"machine.iterations_per_step={length}"
        assert train(compose(*TINY, *warmup, step, f"paths.results={results}")).status == "finished"
        folders.append(record_of(results))
    for folder in folders[1:]:
        assert_same_record(folder, folders[0])


def test_evaluation_leaves_no_trace_in_training(compose: Compose, tmp_path: Path) -> None:
    metrics = []
    for every, batchnorm in ((4, "exact"), (24, "moving")):
        results = tmp_path / f"{every}"
        how = [f"protocol.evaluate_every={every}", f"protocol.batchnorm={batchnorm}"]
        train(compose(*TINY, *how, f"paths.results={results}"))
        metrics.append(metrics_of(record_of(results))[["iteration", "lr", "train_error", "train_loss"]])
    pd.testing.assert_frame_equal(*metrics)


def test_streamed_batches_are_the_same_in_both_arms_and_after_a_stop(compose: Compose, tmp_path: Path) -> None:
    streamed = [*TINY, "data.crop=16", "data.shorter_side=[18,24]", "data.colour=0.1", "data.validation_images=60"]
    streamed += ["machine.iterations_per_step=1", "data.last_batch=keep"]
    plain, residual = (
        spied(compose(*streamed, f"network={arm}", f"paths.results={tmp_path / arm}")) for arm in ("plain", "residual")
    )
    assert all(torch.equal(x, x_twin) for (x, _), (x_twin, _) in zip(plain.batches, residual.batches, strict=True))
    config = compose(*streamed, "network=plain", f"paths.results={tmp_path / 'again'}", "machine.workers=2")
    asked = iter([False] * 9)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Stop, "now", classmethod(lambda cls: next(asked, True)))
        assert train(config).status == "stopped"
    assert (record_of(tmp_path / "again") / "checkpoint.ckpt").exists()
    assert train(config).status == "finished"
    assert_same_record(record_of(tmp_path / "again"), record_of(tmp_path / "plain"))


def test_a_run_goes_on_with_the_files_that_it_began_with(compose: Compose, tmp_path: Path) -> None:
    tree = write_tree(tmp_path / "tiny")
    tiny = [*TINY, "data=imagenet", "data.name=tiny", "data.crop=32", "data.shorter_side=[32,40]"]
    tiny += [f"paths.results={tmp_path}", f"paths.data={tree}", "protocol.batch_size=4"]
    assert train(compose(*tiny, "budget_minutes=0")).exit_status == EXIT_BUDGET
    (lost := next((tree / "train").rglob("*.JPEG"))).rename(tmp_path / "lost.JPEG")
    outcome = train(compose(*tiny))
    assert outcome.status == "failed"
    told = r"with other images \(15 for training, .*\) than there are now \(14 for training, names"
    assert re.search(told, outcome.message)
    (tmp_path / "lost.JPEG").rename(lost)
    assert train(compose(*tiny)).status == "finished"


def test_a_run_with_workers_that_decode_comes_to_its_end(fork: Fork, tmp_path: Path) -> None:
    tree = write_tree(tmp_path / "tiny", 12)
    images = ["data=imagenet", "data.name=tiny", "data.crop=20", "data.shorter_side=[24,40]", "network.classes=3"]
    process = fork(*images, "machine.workers=2", f"paths.data={tree}")
    _, told = process.communicate(timeout=200)  # workers leave signals, also those by which Python would end them
    assert process.returncode == 0, told


def test_weight_decay_on_batchnorm_is_a_choice(tiny: Compose) -> None:
    decay = {}
    for choice in ("true", "false"):
        config = tiny(f"protocol.decay_batchnorm={choice}")
        network = Network(Architecture.paper(8, "A", width=2))
        module = DegradationModule(network, None, config.protocol, config.machine)  # type: ignore[arg-type]
        groups = module.configure_optimizers().param_groups
        decay[choice] = {p: group["weight_decay"] for group in groups for p in group["params"]}
        assert set(decay[choice]) == set(module.network.parameters())
        expected = {True: 1e-4, False: 1e-4 if choice == "true" else 0.0}
        assert all(value == expected[p.ndim > 1] for p, value in decay[choice].items())


def test_the_exit_status_of_a_sweep() -> None:
    def status(*ends: str) -> int:
        return exit_status([Outcome("run", end) for end in ends])

    assert status("finished", "skipped") == 0
    assert status("finished", "diverged", "skipped") == EXIT_DIVERGED
    assert status("diverged", "failed") == status("failed") == EXIT_FAILED
    assert status("diverged", "stopped", "out of budget") == EXIT_STOPPED
    assert status("failed", "out of budget") == EXIT_BUDGET
    assert status("out of budget", "skipped") == EXIT_BUDGET


# Interruption: a resumed run's record is that of an uninterrupted one


def wait_for_checkpoint(process: subprocess.Popen[str] | Forked, results: Path, rows: int) -> Path:
    """Until a run in another process has written so many rows, and a checkpoint."""
    while process.poll() is None:
        for folder in (results / "runs").glob("*/"):
            metrics = folder / "metrics.csv"
            if (folder / "checkpoint.ckpt").exists() and len(metrics.read_text().splitlines()) > rows:
                return folder
        time.sleep(0.005)
    pytest.fail(f"ended with {process.returncode} before it could be interrupted:\n{process.communicate()}")


def test_killed_and_resumed_is_uninterrupted(
    fork: Fork, tmp_path: Path, tiny: Compose, uninterrupted: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    process = fork(*LONG)
    folder = wait_for_checkpoint(process, tmp_path, rows=25)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert not (folder / "summary.json").exists()
    assert load_runs(tmp_path).empty
    with open(folder / "metrics.csv", "a") as file:  # rows after the checkpoint, and a line cut short
        file.write("158,0.9,99,9,,,,,9\n160,0.9,9")

    assert train(tiny(*LONG)).status == "finished"
    assert "resumed at iteration" in capsys.readouterr().out
    assert_same_record(folder, uninterrupted)
    assert not (folder / "checkpoint.ckpt").exists()
    assert len((folder / "sessions.jsonl").read_text().splitlines()) == 2
    assert summary_of(folder)["seconds"] > 0  # type: ignore[operator]


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGINT])
def test_a_stopped_run_leaves_a_checkpoint_and_resumes(
    number: signal.Signals, fork: Fork, tmp_path: Path, tiny: Compose, uninterrupted: Path
) -> None:
    process = fork(*LONG)
    folder = wait_for_checkpoint(process, tmp_path, rows=25)
    process.send_signal(number)
    stdout, stderr = process.communicate()
    assert process.returncode == EXIT_STOPPED, stderr
    assert "stopped: checkpoint at iteration" in stdout
    assert "Traceback" not in stderr
    assert (folder / "checkpoint.ckpt").exists()
    assert not (folder / "summary.json").exists()
    assert train(tiny(*LONG)).status == "finished"
    assert_same_record(folder, uninterrupted)


def test_a_spent_budget_resumes_later(fork: Fork, tmp_path: Path, tiny: Compose, uninterrupted: Path) -> None:
    process = fork(*LONG, "budget_minutes=0.0001")
    stdout, stderr = process.communicate()
    assert process.returncode == EXIT_BUDGET == 75, stderr
    assert "out of budget: checkpoint at iteration" in stdout
    folder = record_of(tmp_path)
    assert (folder / "checkpoint.ckpt").exists()
    assert not (folder / "summary.json").exists()
    for _ in range(5):  # one iteration further each time, and so not only where a row of metrics ends
        config = tiny(*LONG, "budget_minutes=0", "machine.iterations_per_step=1")
        assert train(config).exit_status == EXIT_BUDGET
    assert train(tiny(*LONG)).status == "finished"
    assert_same_record(folder, uninterrupted)


def test_a_run_keeps_the_threads_that_it_began_with(tiny: Compose) -> None:
    config = tiny("machine.threads=3", "budget_minutes=0")  # sums of other threads have other last digits
    assert train(config).exit_status == EXIT_BUDGET
    assert train(tiny("machine.threads=auto")).status == "finished"
    torch.set_num_threads(1)
    sessions = (record_of(Path(config.paths.results)) / "sessions.jsonl").read_text().splitlines()
    assert [json.loads(line)["hardware"]["threads"] for line in sessions] == [3, 3]


def test_a_crash_after_the_last_iteration_loses_nothing(
    tiny: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train(tiny("machine.checkpoint_seconds=0", f"paths.results={tmp_path / 'whole'}"))
    crashing = tiny("machine.checkpoint_seconds=0")
    with monkeypatch.context() as patch:
        full = OSError(28, "No space left on device")
        patch.setattr("degradation.train.run.layer_responses", lambda *_, **__: (_ for _ in ()).throw(full))
        outcome = train(crashing)
    assert outcome.status == "failed"
    assert "No space left on device" in outcome.message
    assert train(crashing).final == whole.final
    assert_same_record(tmp_path / "runs" / crashing.run_id, record_of(tmp_path / "whole"))


@pytest.fixture(scope="module")
def stopped(compose: Compose, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results folder of a run that stopped at a checkpoint, at iteration 12 of 24."""
    results = tmp_path_factory.mktemp("stopped")
    config = compose(*TINY, f"paths.results={results}")
    spent = iter([False] * 4 + [True])  # asked at iterations 1, 2, 4, 8 and 12, where it measures
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("degradation.train.callbacks.budget_spent", lambda *_: next(spent))
        assert train(config).exit_status == EXIT_BUDGET
    assert len(load_metrics(config.folder)) == 3
    return results


@pytest.fixture
def interrupted(stopped: Path, tiny: Compose, tmp_path: Path) -> Config:
    """A copy of that run."""
    shutil.copytree(stopped, tmp_path, dirs_exist_ok=True)
    return tiny()


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def edit_rows(change: Callable[[list[str]], list[str]]) -> Callable[[Path], object]:
    return lambda path: path.write_text("".join(change(path.read_text().splitlines(keepends=True))))


def edit_tensors(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], object]:
    def save(path: Path) -> None:
        content = torch.load(path, weights_only=True)
        change(content)
        torch.save(content, path)

    return save


def of_another_run(path: Path) -> None:
    edit_tensors(lambda saved: saved.update(run_id="plain-8-smoke-s1-00000000"))(path)
    sign(path)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("checkpoint.ckpt", flip),
        ("checkpoint.ckpt", lambda path: path.write_bytes(path.read_bytes()[:1000])),
        ("checkpoint.ckpt", lambda path: path.write_bytes(path.read_bytes()[:-64])),
        ("checkpoint.ckpt", edit_tensors(lambda saved: saved["progress"].update(iteration=8))),
        ("checkpoint.ckpt", edit_tensors(lambda saved: saved["state_dict"]["network.stem.weight"].fill_(math.nan))),
        ("checkpoint.ckpt", of_another_run),
        ("metrics.csv", lambda path: path.write_bytes(b"")),
        ("metrics.csv", Path.unlink),
        ("metrics.csv", edit_rows(lambda lines: lines[:-1])),
        ("metrics.csv", edit_rows(lambda lines: [lines[0], *reversed(lines[1:])])),
        ("metrics.csv", edit_rows(lambda lines: [*lines, lines[-1]][1:])),
        ("metrics.csv", edit_rows(lambda lines: [line.replace("0.1", "nan") for line in lines])),
        ("gradients.csv", flip),
        ("gradients.csv", edit_rows(lambda lines: lines[:-1])),
        ("sessions.jsonl", lambda path: path.write_bytes(path.read_bytes()[:-9])),
    ],
)
def test_what_was_damaged_is_not_continued(interrupted: Config, name: str, change: Callable[[Path], object]) -> None:
    folder = interrupted.folder
    change(folder / name)
    outcome = train(interrupted)
    assert (outcome.status, outcome.exit_status) == ("failed", EXIT_FAILED)
    assert str(folder / name) in outcome.message
    assert "delete " in outcome.message
    assert "trace" not in outcome.message
    assert "\n" not in outcome.message
    assert not (folder / "summary.json").exists()


def test_an_unfinished_run_goes_on_elsewhere(
    interrupted: Config,
    compose: Compose,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = compose(*TINY, f"paths.results={tmp_path / 'whole'}")
    assert train(whole).status == "finished"
    precision = str(resolve(interrupted.machine).precision)
    here = ("cpu", precision)
    (published := tmp_path / "published" / "runs").mkdir(parents=True)
    interrupted.folder.parent.rename(published / precision)
    (folder,) = (published / precision).iterdir()
    with (folder / "metrics.csv").open("a") as file:
        file.write("1")  # as if it had been copied while a row was written
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    there = compose(*TINY, f"paths.results={tmp_path / 'there'}", f"paths.published={published.parent}")
    assert find_begun(there, "cpu", "another") is find_begun(there, "cuda", precision) is None
    assert find_begun(there, *here) == folder
    assert unfinished_runs(published.parent)["iteration"].tolist() == [12]
    sizes = check([there, whole])
    monkeypatch.setattr("degradation.train.plan.calibrate", lambda *_: lambda architecture: 1.0)
    left, all_of_it = (sum(estimate_seconds([config], sizes, 1).values()) for config in (there, interrupted))
    assert left < all_of_it - 11  # of 24 iterations of a second it has done 12
    assert train(there).status == "finished"
    assert f"goes on from {folder}" in capsys.readouterr().out
    assert_same_record(there.folder, whole.folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    # Where its checkpoint is deleted, as a damaged one is to be, all of it is left.
    shutil.copytree(folder, interrupted.folder)
    (interrupted.folder / "checkpoint.ckpt").unlink()
    assert sum(estimate_seconds([interrupted], sizes, 1).values()) > left + 11


# The command line


def test_one_diverging_run_does_not_stop_a_sweep(fork: Fork, tmp_path: Path) -> None:
    process = fork("network=plain", "protocol.lr=1e30,0.2,0.05", "-m", JOBS="2")
    stdout, stderr = process.communicate()
    assert process.returncode == EXIT_DIVERGED, stderr
    assert "Traceback" not in stderr
    runs = load_runs(tmp_path).set_index("protocol.lr")
    assert runs["outcome"].to_dict() == {1e30: "diverged", 0.2: "finished", 0.05: "finished"}
    table = stdout[stdout.rindex("\nrun ") :]
    for rate, outcome in runs["outcome"].items():
        (line,) = (line for line in table.splitlines() if f" lr={rate} seed 0 " in line)
        assert outcome in line.split()
        assert (runs["folder"][rate].name in line) == (outcome == "finished")
        assert ("%" in line) == (outcome == "finished")


def test_a_sweep_asked_to_stop_starts_nothing_more(fork: Fork, tmp_path: Path) -> None:
    process = fork("network=plain,residual", *LONG, "-m", JOBS="1")
    wait_for_checkpoint(process, tmp_path, rows=5)
    process.send_signal(signal.SIGTERM)
    stdout, stderr = process.communicate()
    assert process.returncode == EXIT_STOPPED, stderr
    assert "Traceback" not in stderr
    assert "checkpoint at iteration" in stdout
    assert "not started" in stdout
    assert len(list((tmp_path / "runs").glob("*/checkpoint.ckpt"))) == 1
    assert load_runs(tmp_path).empty


@pytest.mark.skipif(not Path("/proc").exists(), reason="needs /proc")
def test_a_killed_worker_costs_its_own_run(fork: Fork, tmp_path: Path) -> None:
    process = fork("network=plain,residual", "seed=0,1", *LONG, "protocol.iterations=80", "-m", JOBS="2")
    killed = wait_for_checkpoint(process, tmp_path, rows=5)
    (worker,) = (pid for pid, run in training(tmp_path).items() if run == killed.name)
    os.kill(worker, signal.SIGKILL)
    stdout, stderr = process.communicate()
    assert process.returncode == EXIT_FAILED, stderr
    assert "Traceback" not in stdout + stderr
    finished = {folder.name for folder in load_runs(tmp_path)["folder"]}
    assert finished == {folder.name for folder in (tmp_path / "runs").iterdir()} - {killed.name}
    assert len(load_runs(tmp_path)) == 3
    table = stdout[stdout.rindex("\nrun ") :]
    (line,) = (line for line in table.splitlines() if " failed " in line)
    assert "its process was ended by SIGKILL, as when memory runs out; the same command continues it" in line


@pytest.mark.skipif(not Path("/proc").exists(), reason="needs /proc")
def test_workers_end_with_their_sweep(start: Start, tmp_path: Path) -> None:
    process = start("network=plain,residual", *LONG, "protocol.iterations=100000", "-m", JOBS="2")
    wait_for_checkpoint(process, tmp_path, rows=5)
    assert "torch" not in Path(f"/proc/{process.pid}/maps").read_text()  # the sweep itself stays small
    process.kill()
    process.wait()
    deadline = time.monotonic() + 20
    while training(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not training(tmp_path)
    assert list((tmp_path / "runs").glob("*/checkpoint.ckpt"))


def catches(pid: int, number: signal.Signals) -> bool:
    """Whether a process has a handler for a signal; Python's own first moments are not ours."""
    status = Path(f"/proc/{pid}/status").read_text()
    (caught,) = (line.split()[1] for line in status.splitlines() if line.startswith("SigCgt"))
    return bool(int(caught, 16) >> (number - 1) & 1)


@pytest.mark.skipif(not Path("/proc").exists(), reason="needs /proc")
@pytest.mark.parametrize(
    ("number", "after", "send"),
    [
        (signal.SIGINT, 0.0, os.kill),
        (signal.SIGTERM, 0.7, os.kill),
        (signal.SIGTERM, 1.4, os.killpg),  # as `timeout` and batch systems send it, to all that was started
        (signal.SIGINT, 2.0, os.kill),
    ],
)
def test_a_signal_before_training_is_one_sentence(
    start: Start, number: signal.Signals, after: float, send: Callable[[int, int], None]
) -> None:
    process = start("network=plain,residual", *LONG, "-m", JOBS="2")
    while not catches(process.pid, signal.SIGTERM):
        time.sleep(0.01)
    time.sleep(after)
    send(process.pid, number)
    stdout, stderr = process.communicate()
    # On a fast machine the latest of them comes when the sweep has begun its runs, whose closing table tells it then.
    said = "" if re.search(r"^run .*outcome", stdout, re.MULTILINE) else "stopped; the same command continues\n"
    assert (process.returncode, stderr) == (EXIT_STOPPED, said)
    assert said or stdout.count("stopped") >= 2


def test_an_interruption_that_hydra_makes_an_error_of_is_one_still(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(**_: object) -> Callable[..., Callable[[], None]]:
        monkeypatch.setattr(Stop, "requested", True)
        raise ConfigCompositionException

    monkeypatch.setattr("degradation.cli.hydra.main", interrupted)
    monkeypatch.setattr("degradation.cli.leave", lambda: sys.exit(EXIT_STOPPED))
    monkeypatch.setattr(sys, "argv", ["train.py", "protocol=smoke"])
    monkeypatch.setenv("HYDRA_FULL_ERROR", "")
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == EXIT_STOPPED


@needs_cuda
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("execution", ["eager", "captured", pytest.param("compiled", marks=needs_compiler)])
def test_a_run_on_cuda_goes_on_and_ends_in_a_record(tiny: Compose, execution: str, precision: str) -> None:
    options = ["machine=gpu", "data.last_batch=keep"]
    options += [f"machine.execution={execution}", f"machine.precision={precision}"]
    begun = train(tiny(*options, "budget_minutes=0", "machine.iterations_per_step=5"))
    assert begun.exit_status == EXIT_BUDGET, begun.message
    outcome = train(tiny(*options))
    assert (outcome.status, outcome.exit_status) == ("finished", 0), outcome.message
    weights = torch.load(record_of(Path(tiny().paths.results)) / "network.pt", weights_only=True)
    assert {tensor.device.type for tensor in weights.values()} == {"cpu"}


@needs_cuda
def test_an_iteration_is_captured_beside_workers_that_decode(compose: Compose, tmp_path: Path) -> None:
    small = ["protocol=imagenet_smoke", "depth=18", "machine=gpu", "machine.execution=captured", "machine.workers=2"]
    outcome = train(compose(*small, "logger=none", f"paths.results={tmp_path}"))
    assert outcome.status == "finished", outcome.message


def test_what_is_finished_is_not_another_run_of_its_name(tiny: Compose) -> None:
    config = tiny("depth=14", "network=plain", "network.parent_depth=8", "machine=auto", "machine.precision=fp32")
    record = Record(config)
    summary = {"outcome": "finished", "iteration": 24, "final": {"train_error": 12.5, "test_error": 25.0}}
    record.append({"iteration": 24, "train_error": 12.5, "test_error": 25.0})
    built = {"initial": {"parent": "plain-8-smoke-s0-00000000"}}
    record.finish({**summary, "device": "cuda", "precision": "bf16", **built})
    record.close()
    with pytest.raises(RecordError, match=r"is finished in bf16, not in fp32; name another folder with RESULTS_DIR="):
        finished_before(config)
    config = replace(config, machine=replace(config.machine, precision="auto"))  # as it comes
    with pytest.raises(RecordError, match=r"is finished on cuda, not on cpu; name another folder with RESULTS_DIR="):
        finished_before(replace(config, machine=replace(config.machine, device="cpu")))
    with pytest.raises(RecordError, match=r"was built from plain-8-smoke-s0-00000000, not from plain-8-"):
        finished_before(config)
