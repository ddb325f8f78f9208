"""What computes a run: device, precision, threads, and their description for the record."""

import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import torch

from degradation.config import ConfigError, MachineConfig

CGROUP = Path("/sys/fs/cgroup/cpu.max")


def available_cores() -> int:
    """Those that this process may run on; fewer where a container's quota is of fewer."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = map(int, CGROUP.read_text().split())
    except (OSError, ValueError):  # no such file, or "max"
        return cores
    return min(cores, max(1, quota // period))


def cpu_has_bf16() -> bool:
    """Whether the CPU multiplies bf16 natively (AVX512-BF16 or AMX)."""
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def can_compile() -> bool:
    """Whether torch.compile has what it needs on a CPU: a C++ compiler, and Python's headers."""
    headers = Path(sysconfig.get_path("include"), "Python.h")
    return shutil.which(os.environ.get("CXX", "g++")) is not None and headers.exists()


NO_CUDA = "no CUDA device is present"
MOST_WORKERS = 16  # processes that decode: each has the list of files, and batches in shared memory


@cache
def cuda_trouble() -> str | None:
    """Why torch cannot compute on a CUDA device here; None where it can.

    Tried, and not asked: where the driver is too old for this torch, or the GPU for its kernels, there is one
    all the same, by the driver's account. That is all that Lightning has torch ask for, and then it uses what is there:
    so a device that does not serve is hidden from here on.
    """
    os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")  # as Lightning does, be it imported yet or not
    if not torch.cuda.is_available():
        return NO_CUDA
    try:
        torch.zeros(1, device="cuda").add_(1).item()
    except Exception as error:  # torch raises several kinds, of which not all are a RuntimeError
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
        told = str(error).strip().partition("\n")[0].rstrip(".")
        return f"torch {torch.__version__} cannot use the CUDA device that is visible here ({told})"
    return None


def resolve(config: MachineConfig, jobs: int = 1) -> MachineConfig:
    """With every `auto` decided, for one of `jobs` runs at once; a ConfigError where the device lacks what is asked."""
    cuda = config.device == "cuda" or (config.device == "auto" and cuda_trouble() is None)
    if cuda and (trouble := cuda_trouble()):
        raise ConfigError(
            f"machine.device=cuda, but {trouble}; use machine=cpu or machine=auto (a run that was begun on a GPU goes"
            " on only on one)"
        )
    precision, execution = config.precision, config.execution
    if precision == "auto":
        native = torch.cuda.is_bf16_supported(including_emulation=False) if cuda else cpu_has_bf16()
        precision = "bf16" if native else "fp32"
    if execution == "auto":
        execution = "captured" if cuda else "eager"
    if precision == "tf32" and not cuda:
        raise ConfigError("machine.precision=tf32 exists on CUDA devices only; use fp32 or bf16")
    if precision == "tf32" and not torch.cuda.is_tf32_supported():
        raise ConfigError(f"machine.precision=tf32 is not what {torch.cuda.get_device_name()} has; use fp32")
    if execution == "captured" and not cuda:
        raise ConfigError("machine.execution=captured needs a CUDA device; use eager or compiled")
    if execution == "compiled" and config.activation_checkpointing:
        raise ConfigError("machine.activation_checkpointing goes with machine.execution=eager or captured")
    return replace(
        config,
        device="cuda" if cuda else "cpu",
        precision=precision,
        execution=execution,
        threads=max(1, available_cores() // jobs) if config.threads == "auto" else config.threads,
        iterations_per_step=(50 if cuda else 10)
        if config.iterations_per_step == "auto"
        else config.iterations_per_step,
        # On a CPU they would take the cores from the runs, and decoding costs a run little.
        workers=(min(MOST_WORKERS, max(1, available_cores() // jobs - 1)) if cuda else 0)
        if config.workers == "auto"
        else config.workers,
    )


def apply(machine: MachineConfig) -> None:
    """Set the process-wide switches."""
    torch.set_num_threads(int(machine.threads))
    torch.backends.cuda.matmul.allow_tf32 = machine.precision == "tf32"
    torch.backends.cudnn.allow_tf32 = machine.precision == "tf32"
    torch.backends.cudnn.benchmark = True  # shapes never change: time the algorithms once
    if sys.platform == "darwin":  # there it takes the place of oneDNN, several times slower than what follows it
        torch.backends.nnpack.set_flags(False)


def _cpu_name(info: Path = Path("/proc/cpuinfo")) -> str:
    try:
        if sys.platform == "darwin":
            return subprocess.check_output(["sysctl", "-n", "machdep.cpu.brand_string"], text=True, timeout=10).strip()
        lines = (line.partition(":") for line in info.read_text().splitlines())
        told = {key.strip(): value.strip() for key, _, value in lines}
        if "model name" in told:
            return told["model name"]
        if "CPU part" in told:  # ARM's are numbered
            return f"{platform.machine()}, implementer {told.get('CPU implementer')}, part {told['CPU part']}"
    except (OSError, subprocess.SubprocessError):
        pass
    return platform.processor() or platform.machine()


def _commit() -> str:
    # Of the checkout this code runs from; a suffix tells that it differed from the commit.
    try:
        command = ["git", "describe", "--always", "--abbrev=12", "--exclude=*", "--dirty"]
        here = Path(__file__).parent
        return subprocess.run(command, cwd=here, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def describe(machine: MachineConfig) -> dict[str, Any]:
    """Hardware, versions and commit, as plain data."""
    hardware: dict[str, Any] = {"cpu": _cpu_name(), "cores": available_cores(), "threads": machine.threads}
    if machine.device == "cuda":
        hardware["gpu"] = torch.cuda.get_device_name()
    packages = ("torch", "torchvision", "pytorch-lightning", "hydra-core", "numpy")
    versions = {name: importlib.metadata.version(name) for name in packages}
    settings = ("device", "precision", "channels_last", "execution", "evaluation_batch")
    return {
        **{setting: getattr(machine, setting) for setting in settings},
        "hardware": hardware,
        "versions": {"python": platform.python_version(), **versions},
        "commit": _commit(),
    }
