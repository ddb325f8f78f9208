"""What computes a run: device, precision, threads, and their description for the record."""

import importlib.metadata
import os
import platform
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from degradation.config import ConfigError, MachineConfig


@dataclass(frozen=True)
class Machine:
    """A MachineConfig with every `auto` decided."""

    device: str
    precision: str
    channels_last: bool
    threads: int
    iterations_per_step: int


def available_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cpu_has_bf16() -> bool:
    """Whether the CPU multiplies bf16 natively (AVX512-BF16 or AMX)."""
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def resolve(config: MachineConfig, jobs: int = 1) -> Machine:
    """Decide every `auto`, for one of `jobs` runs at once.

    Raises:
        ConfigError: CUDA is asked for where there is none, or tf32 on a CPU.
    """
    device = config.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("machine.device=cuda, but no CUDA device is visible here; use machine=cpu or machine=auto")
    precision = config.precision
    if precision == "auto":
        native = torch.cuda.is_bf16_supported(including_emulation=False) if device == "cuda" else cpu_has_bf16()
        precision = "bf16" if native else "fp32"
    if precision == "tf32" and device == "cpu":
        raise ConfigError("machine.precision=tf32 exists on CUDA devices only; use fp32 or bf16")
    threads = max(1, available_cores() // jobs) if config.threads == "auto" else int(config.threads)
    length = (
        (50 if device == "cuda" else 10) if config.iterations_per_step == "auto" else int(config.iterations_per_step)
    )
    return Machine(device, precision, config.channels_last, threads, length)


def apply(machine: Machine) -> None:
    """Set the process-wide switches."""
    torch.set_num_threads(machine.threads)
    torch.backends.cuda.matmul.allow_tf32 = machine.precision == "tf32"
    torch.backends.cudnn.allow_tf32 = machine.precision == "tf32"


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _commit() -> str:
    # Of the checkout this code runs from; a suffix tells that it differed from the commit.
    try:
        command = [
            "git",
            "-C",
            str(Path(__file__).parent),
            "describe",
            "--always",
            "--abbrev=12",
            "--exclude=*",
            "--dirty",
        ]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def describe(machine: Machine) -> dict[str, Any]:
    """Hardware, versions and commit, as plain data."""
    hardware: dict[str, Any] = {"cpu": _cpu_name(), "cores": available_cores(), "threads": machine.threads}
    if machine.device == "cuda":
        hardware["gpu"] = torch.cuda.get_device_name()
    packages = ("torch", "torchvision", "pytorch-lightning", "hydra-core", "numpy")
    versions = {name: importlib.metadata.version(name) for name in packages}
    return {
        "device": machine.device,
        "precision": machine.precision,
        "channels_last": machine.channels_last,
        "hardware": hardware,
        "versions": {"python": platform.python_version(), **versions},
        "commit": _commit(),
    }
