"""Composed configs, tiny runs of a second, and the command line in a real process."""

import copy
import functools
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import hydra
import pytest
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig

from degradation.config import Config, parse
from degradation.ending import Stop
from tests.forked import Forked, heed_signals

ROOT = Path(__file__).parents[1]
TINY = [
    "protocol=smoke",
    "data=synthetic",
    "network.width=2",
    "depth=8",
    "logger=none",
    "machine=cpu",
    "machine.threads=1",
    "machine.channels_last=false",  # half the time for networks as narrow as these
]
GROUPS = {folder.name for folder in (ROOT / "conf").iterdir() if folder.is_dir()}
Compose = Callable[..., Config]
Start = Callable[..., subprocess.Popen[str]]
Fork = Callable[..., Forked]


@pytest.fixture(scope="session", autouse=True)
def quiet_process() -> Iterator[None]:
    """Runs inside the test process leave its signal handlers alone; one thread is enough, and exact.

    So it is in scripts that are started: two threads of each of two workers would wait for each other.
    """
    import torch  # not above: the process that hands out the tests needs none

    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setattr(os, "fsync", lambda _file: None)  # of thousands of made-up files, which no power loss threatens
        patch.setattr(Stop, "listen", classmethod(lambda cls: None))
        yield


@functools.cache
def composed(*overrides: str) -> DictConfig:
    """What Hydra makes of conf/ with them, which takes it a fifth of a second."""
    with hydra.initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return hydra.compose("train", list(overrides))


def compose_config(*overrides: str) -> Config:
    """As Hydra composes it, and checked; files are read once for each choice of groups, then values put in."""
    groups = [one for one in overrides if re.split("[@=]", one.lstrip("+~"))[0] in GROUPS]
    values = [one for one in overrides if one not in groups]
    config = copy.deepcopy(composed(*groups))
    ConfigLoaderImpl._apply_overrides_to_config(OverridesParser.create().parse_overrides(values), config)
    return parse(config)


@pytest.fixture(scope="session")
def compose() -> Compose:
    """overrides -> the config that conf/ gives with them, checked."""
    return compose_config


@pytest.fixture
def tiny(compose: Compose, tmp_path: Path) -> Compose:
    """overrides -> a run of a second, recorded under tmp_path."""
    return lambda *overrides: compose(*TINY, f"paths.results={tmp_path}", *overrides)


def train_command(results: Path, overrides: tuple[str, ...]) -> list[str]:
    return [str(ROOT / "experiments" / "train.py"), *TINY, f"paths.results={results}", *overrides]


def inherited() -> dict[str, str]:
    hidden = ("WANDB_", "DEGRADATION_", "HYDRA_", "JOBS", "DATA_DIR", "RESULTS_DIR")
    return {**{key: value for key, value in os.environ.items() if not key.startswith(hidden)}, "WANDB_MODE": "offline"}


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """(overrides, environment) -> a running experiments/train.py of the same tiny run; ended with the test."""
    started: list[subprocess.Popen[str]] = []

    def begin(*overrides: str, **environment: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, *train_command(tmp_path, overrides)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=tmp_path,
            env={**inherited(), **environment},
            preexec_fn=heed_signals,
            process_group=0,
        )
        started.append(process)
        return process

    yield begin
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


@pytest.fixture
def fork(tmp_path: Path) -> Iterator[Fork]:
    """The same where its start is not what is tested: forked from a process that has imported all."""
    started: list[Forked] = []

    def begin(*overrides: str, **environment: str) -> Forked:
        started.append(Forked(train_command(tmp_path, overrides), tmp_path, {**inherited(), **environment}))
        return started[-1]

    yield begin
    for process in started:
        process.kill()
        process.wait()
