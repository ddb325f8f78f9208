"""What computes a run is decided once, and what cannot be is refused in one line."""

import os
import platform
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from degradation import processes
from degradation.config import ConfigError
from degradation.ending import EXIT_STOPPED
from degradation.sweep import _train
from degradation.train import machine as machines
from degradation.train.plan import describe_grid
from degradation.train.run import train
from tests.conftest import Compose
from tests.needs import without_cuda


@without_cuda
def test_auto_on_a_cpu(compose: Compose) -> None:
    machine = machines.resolve(compose("protocol=smoke").machine, jobs=2)
    assert (machine.device, machine.execution, machine.activation_checkpointing) == ("cpu", "eager", False)
    assert machine.precision == ("bf16" if machines.cpu_has_bf16() else "fp32")
    assert machine.threads == max(1, machines.available_cores() // 2)


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["machine=cpu", "machine.execution=captured"], "machine.execution=captured needs a CUDA device"),
        (["machine=cpu", "machine.precision=tf32"], "machine.precision=tf32 exists on CUDA devices only"),
        (
            ["machine.execution=compiled", "machine.activation_checkpointing=true"],
            "activation_checkpointing goes with machine.execution=eager or captured",
        ),
    ],
)
def test_what_a_machine_cannot_do(compose: Compose, overrides: list[str], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        machines.resolve(compose("protocol=smoke", *overrides).machine)


@without_cuda
def test_a_device_that_torch_cannot_use_is_none(
    tiny: Compose, compose: Compose, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # As where the driver is too old for this torch: by its own account, there is one.
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: os.environ["CUDA_VISIBLE_DEVICES"] != "")
    machines.cuda_trouble.cache_clear()
    try:
        config = compose("protocol=smoke")
        assert machines.resolve(config.machine).device == "cpu"
        assert not torch.cuda.is_available()  # to Lightning, which would fail with it
        told = r"torch [\w.+]+ cannot use the CUDA device that is visible here \(.+\)"
        with pytest.raises(ConfigError, match=f"^machine.device=cuda, but {told}; use machine=cpu"):
            machines.resolve(compose("protocol=smoke", "machine=gpu").machine)
        assert re.search(rf"at once on cpu, .* thread\(s\) each, as {told}; records in", describe_grid([config], 1))
        assert not re.search("as torch", describe_grid([compose("protocol=smoke", "machine=cpu")], 1))
        run = tiny("machine=auto", "machine.threads=1", "machine.channels_last=false")
        assert train(run).status == "finished"
        assert re.search(f"on the CPU, as {told}", capsys.readouterr().out)
        lost = _train(None, "cuda", run)
        assert (lost.status, lost.message.endswith("; the same command continues")) == ("failed", True)
    finally:
        machines.cuda_trouble.cache_clear()


@pytest.mark.parametrize(("told", "most"), [("max 100000", 8), ("250000 100000", 2), ("50000 100000", 1), ("", 8)])
def test_no_more_cores_than_a_containers_quota(
    told: str, most: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(8)), raising=False)
    monkeypatch.setattr(machines, "CGROUP", tmp_path / "cpu.max")
    assert machines.available_cores() == 8
    (tmp_path / "cpu.max").write_text(f"{told}\n")
    assert machines.available_cores() == most


@pytest.mark.skipif(sys.platform == "darwin", reason="where sysctl tells it")
@pytest.mark.parametrize(
    ("lines", "name"),
    [
        ("model name\t: AMD EPYC\nflags\t: a:b\n\nmodel name\t: AMD EPYC\n", "AMD EPYC"),
        ("CPU implementer\t: 0x41\nCPU part\t: 0xd40\n", f"{platform.machine()}, implementer 0x41, part 0xd40"),
        ("", platform.processor() or platform.machine()),
    ],
)
def test_the_name_of_a_processor(lines: str, name: str, tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text(lines)
    assert machines._cpu_name(tmp_path / "cpuinfo") == name


@pytest.mark.parametrize("daemon", [None, "exit 1", "exit 0"])
def test_without_a_working_mps_nothing_changes(
    daemon: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # No daemon; one that does not start; one that starts, where torch then finds no CUDA device, or not by a server.
    if daemon:
        program = tmp_path / "nvidia-cuda-mps-control"
        program.write_text(f"#!/bin/sh\n{daemon}\n")
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin" if daemon else str(tmp_path))
    monkeypatch.delenv("CUDA_MPS_PIPE_DIRECTORY", raising=False)
    before = dict(os.environ)
    with processes.multi_process_service() as serves:
        assert not serves
        assert dict(os.environ) == before
    assert dict(os.environ) == before


@pytest.mark.parametrize("servers", ["", "4711"])
def test_an_mps_serves_where_what_computes_has_started_its_server(
    servers: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, program, client = (tmp_path / name for name in ("log", "nvidia-cuda-mps-control", "python"))
    devices = '"${CUDA_VISIBLE_DEVICES-all}"'
    answers = f'read word; echo "$word" >> {log}; [ "$word" != get_server_list ] || echo {servers}'
    program.write_text(f'#!/bin/sh\necho daemon {devices} >> {log}\n[ -n "$1" ] || {{ {answers}; }}\n')
    client.write_text(f"#!/bin/sh\necho client {devices} >> {log}\n")
    for script in (program, client):
        script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")  # of the client alone: the daemon numbers what it sees anew
    monkeypatch.delenv("CUDA_MPS_PIPE_DIRECTORY", raising=False)
    monkeypatch.setattr(sys, "executable", str(client))
    with processes.multi_process_service() as serves:
        assert serves == bool(servers)
        assert ("CUDA_MPS_PIPE_DIRECTORY" in os.environ) == serves
    told = ["daemon all", "client 1", "daemon all", "get_server_list", "daemon all", "quit -t 10"]
    assert log.read_text().splitlines() == told


def test_an_mps_of_the_users_own_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_MPS_PIPE_DIRECTORY", str(tmp_path))
    with processes.multi_process_service() as serves:
        assert serves
    assert os.environ["CUDA_MPS_PIPE_DIRECTORY"] == str(tmp_path)


def test_an_mps_that_was_started_ends_with_a_process_that_ends_at_once(tmp_path: Path) -> None:
    log, program = tmp_path / "log", tmp_path / "nvidia-cuda-mps-control"
    program.write_text(f'#!/bin/sh\necho "$* $([ -n "$1" ] || cat)" >> {log}\n')
    program.chmod(0o755)
    work = "from degradation import ending, processes\nwith processes.multi_process_service(): ending.leave()"
    environment = {key: value for key, value in os.environ.items() if key != "CUDA_MPS_PIPE_DIRECTORY"}
    environment |= {"PATH": f"{tmp_path}:{environment['PATH']}", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run([sys.executable, "-c", work], env=environment, capture_output=True)
    assert done.returncode == EXIT_STOPPED
    assert log.read_text().split() == ["-d", "quit", "-t", "10"]
