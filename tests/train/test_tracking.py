"""The view in Weights & Biases: a real offline run, read back with W&B's own tools; and never at a run's cost."""

import json
import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import wandb

from degradation.record import load_metrics, load_responses, load_runs
from degradation.train import tracking
from degradation.train.run import train
from degradation.train.tracking import has_key
from tests.conftest import Compose, Fork

WANDB = str(Path(sys.executable).with_name("wandb"))


def ask_wandb(*arguments: str) -> str:
    return subprocess.run([WANDB, *arguments], check=True, capture_output=True, text=True).stdout


def test_an_offline_run_reads_back_with_wandbs_own_tools(fork: Fork, tmp_path: Path) -> None:
    process = fork("logger=wandb", "network=plain", "study=mine", HOME=str(tmp_path))
    stdout, stderr = process.communicate()
    assert process.returncode == 0, stdout + stderr
    (folder,) = (tmp_path / "wandb").glob("offline-run-*")

    records = [json.loads(line) for line in ask_wandb("leet", "inspect", "--json", str(folder)).splitlines()]
    history = [record["history"]["item"] for record in records if record["type"] == "history"]
    curves = [item for item in history if "train_error" in item]
    run = load_runs(tmp_path).iloc[0]
    metrics = load_metrics(run["folder"])
    assert [item["iteration"] for item in curves] == metrics["iteration"].tolist() == [4, 8, 12, 16, 20, 24]
    assert [item["train_error"] for item in curves] == pytest.approx(metrics["train_error"].tolist(), rel=1e-5)
    assert [item["iteration"] for item in curves if "test_error" in item] == [12, 24]
    tested = [item["test_error"] for item in curves if "test_error" in item]
    assert tested == pytest.approx(metrics["test_error"].dropna().tolist(), rel=1e-5)
    (metric,) = (record["metric"] for record in records if record["type"] == "metric")
    assert (metric["glob_name"], metric["step_metric"]) == ("*", "iteration")
    (described,) = (record["run"] for record in records if record["type"] == "run")
    assert described["run_group"] == "mine (smoke)"

    summary = json.loads(ask_wandb("leet", "inspect", "--summary", "--json", str(folder)))
    assert (summary["state"], summary["exit_code"]) == ("finished", 0)
    name = "plain-8 data=synthetic width=2 seed 0"
    assert (summary["name"], summary["project"]) == (name, "degradation")
    assert re.fullmatch(f"{run['run_id']}-[0-9a-f]{{8}}", summary["run_id"])
    assert summary["config"]["network"]["shortcut"] == "none"
    assert summary["config"]["protocol"]["iterations"] == 24
    assert summary["summary"]["final/test_error"] == run["final.test_error"]
    assert summary["summary"]["final/train_error_eval"] == run["final.train_error_eval"]
    assert summary["config"]["study"] == "mine"
    assert summary["config"]["network"]["alpha"] == 1.0  # every setting, those at their default too
    assert summary["config"]["machine"]["precision"] == run["precision"]
    responses = json.loads((folder / "files" / summary["summary"]["layer responses_table"]["path"]).read_text())
    measured = load_responses(run["folder"])
    assert responses["columns"] == list(measured)
    assert [row[responses["columns"].index("std")] for row in responses["data"]] == measured["std"].tolist()

    told = subprocess.run([WANDB, "sync", "--dry-run", str(folder)], check=True, capture_output=True, text=True)
    assert "Would sync 1 run(s)" in told.stdout + told.stderr


def test_no_logger_leaves_no_trace(tiny: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wandb, "init", lambda **_: pytest.fail("wandb.init under logger=none"))
    assert train(tiny("logger=none")).status == "finished"
    assert not (tmp_path / "wandb").exists()


def test_a_wandb_that_does_not_start_costs_nothing(
    tiny: Compose, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(**_: Any) -> None:
        raise wandb.errors.CommError("no route to host")

    monkeypatch.setattr(wandb, "init", refuse)
    config = tiny("logger=wandb")
    outcome = train(config)
    assert (outcome.status, outcome.exit_status) == ("finished", 0)
    assert len(load_runs(config.paths.results)) == 1
    assert capsys.readouterr().err.count("W&B logging is off for this run (CommError: no route to host)") == 1


@pytest.mark.parametrize("fails", ["define_metric", "log", "finish"])
def test_a_wandb_that_fails_on_the_way_costs_nothing(
    fails: str, tiny: Compose, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls: list[str] = []

    class Failing:
        summary: dict[str, float] = {}  # noqa: RUF012

        def __getattr__(self, name: str) -> Any:
            def call(*_: Any, **__: Any) -> None:
                calls.append(name)
                if name == fails:
                    raise RuntimeError("the service is gone")

            return call

    monkeypatch.setattr(wandb, "init", lambda **_: Failing())
    config = tiny("logger=wandb")
    assert train(config).status == "finished"
    assert len(load_metrics(load_runs(config.paths.results)["folder"][0])) == 6
    assert calls.count(fails) == 1
    assert capsys.readouterr().err.count("W&B logging is off for this run (RuntimeError: the service is gone)") == 1


def test_a_key_decides_between_online_and_offline(
    tiny: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    modes: list[str] = []

    def note(**settings: Any) -> None:
        modes.append(settings["mode"])
        raise RuntimeError("enough")

    answers = True
    monkeypatch.setattr(wandb, "init", note)
    monkeypatch.setattr(tracking, "_answers", lambda: answers)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("WANDB_MODE", "WANDB_API_KEY", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    assert not has_key()
    begun = ("logger=wandb", "budget_minutes=0")
    train(tiny(*begun))
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    assert has_key()
    train(tiny(*begun, "seed=1"))
    monkeypatch.setenv("WANDB_MODE", "offline")
    train(tiny(*begun, "seed=2"))
    assert modes == ["offline", "online", "offline"]
    monkeypatch.setenv("WANDB_MODE", "online")
    answers = False
    train(tiny(*begun, "seed=3"))
    assert modes[-1] == os.environ["WANDB_MODE"] == "offline"
    assert capsys.readouterr().err.count("W&B does not answer: logging offline") == 1


def test_a_wandb_that_does_not_answer_is_waited_for_a_few_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as silent:  # takes the connection, and says nothing
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.setenv("no_proxy", "*")  # which would answer
        monkeypatch.setattr(tracking, "PATIENCE", 0.5)
        began = time.monotonic()
        assert not tracking._answers()
        assert time.monotonic() - began < 3


@pytest.mark.parametrize("address", ["api.wandb.example", "http://host:port/"])
def test_an_address_that_is_none_does_not_answer(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_BASE_URL", address)
    monkeypatch.setenv("no_proxy", "*")
    assert not tracking._answers()
