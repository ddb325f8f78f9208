"""Every config composes; every scientific setting, and no other, is in the identity of a run."""

import argparse
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import hydra
import pytest
from hydra.core.global_hydra import GlobalHydra

from degradation import cli, processes
from degradation.cli import choose_protocol, origin
from degradation.config import Config, ConfigError, complete, flatten, is_named, name_folder, parse, run_id
from tests.report.conftest import compose as with_varied

CONF = Path(__file__).parents[1] / "conf"
# One other value for every scientific setting, as an override.
CHANGES = {
    "network.name": "plain network.shortcut=none",
    "network.shortcut": "B",
    "network.depth": "14",
    "network.width": "8",
    "network.classes": "11",
    "network.pad_side": "both",
    "network.fan_mode": "fan_out",
    "data.name": "cifar10",
    "data.validation_images": "500",
    "data.normalization": "channel",
    "data.augmentation": "none",
    "data.last_batch": "keep",
    "data.crop": "16",
    "data.shorter_side": "[256,512] data.crop=16",
    "data.colour": "0.1 data.crop=16",
    "data.scale": "255.0",
    "data.padding": "before",
    "network.alpha": "0.5",
    "network.norm": "none",
    "network.parent_depth": "8",
    "network.family": "imagenet",
    "network.stride_in": "3x3",
    "network.pool": "padded network.family=imagenet depth=18",
    "network.bn_eps": "1.0e-3",
    "network.bn_momentum": "0.01",
    "network.head": "uniform",
    "network.init": "dirac network=plain",
    "network.activation": "tailored network.init=orthogonal network.norm=none network=plain",
    "protocol.name": "mine",
    "protocol.iterations": "25",
    "protocol.batch_size": "33",
    "protocol.lr": "0.2",
    "protocol.milestones": "[12,19]",
    "protocol.decay": "0.2",
    "protocol.momentum": "0.8",
    "protocol.momentum_rate": "inside",
    "protocol.ramp": "0.05",
    "protocol.clip": "1.0",
    "protocol.hold_norms": "true",
    "protocol.weight_decay": "2.0e-4",
    "protocol.decay_batchnorm": "false",
    "protocol.warmup.min_depth": "8",
    "protocol.warmup.lr": "0.02",
    "protocol.warmup.until_error": "70",
    "protocol.warmup.window": "7",
    "protocol.batchnorm": "exact",
    "protocol.batchnorm_groups": "2",
    "protocol.log_every": "3",
    "protocol.evaluate_every": "24",
    "seed": "1",
}
OTHERS = [
    "machine=gpu",
    "machine.device=cpu",
    "machine.precision=fp32",
    "machine.channels_last=false",
    "machine.threads=3",
    "machine.iterations_per_step=7",
    "machine.execution=compiled",
    "machine.activation_checkpointing=true",
    "machine.evaluation_batch=9",
    "machine.checkpoint_seconds=1",
    "machine.progress_seconds=1",
    "machine.workers=2",
    "logger=none",
    "logger.project=mine",
    "paths.data=elsewhere",
    "paths.results=elsewhere",
    "study=mine",
    "budget_minutes=3",
]


def options(group: str) -> list[str]:
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


def test_every_pair_of_options_composes_to_what_was_asked() -> None:
    networks, datasets, protocols = map(options, ("network", "data", "protocol"))
    GlobalHydra.instance().clear()
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        ids = set()
        for (number, data), (other, protocol) in product(enumerate(datasets), enumerate(protocols)):
            network = networks[(number + other) % len(networks)]
            config = parse(hydra.compose("train", [f"network={network}", f"data={data}", f"protocol={protocol}"]))
            assert (config.network.name, config.protocol.name) == (network, protocol)
            assert config.data.name == {"imagenette": "imagenette2-160"}.get(data, data)  # that of its folder
            ids.add(config.run_id)
        assert len(ids) == len(datasets) * len(protocols)
        for machine, logger in product(options("machine"), options("logger")):
            assert parse(hydra.compose("train", [f"machine={machine}", f"logger={logger}"])).logger.name == logger


@pytest.mark.parametrize("study", options("experiment"))
def test_every_run_of_every_study_composes(compose: Callable[..., Config], study: str) -> None:
    named = choose_protocol(["protocol=quick", f"experiment={study}"])
    GlobalHydra.instance().clear()
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        params = hydra.compose("train", named, return_hydra_config=True).hydra.sweeper.params
    axes = [[f"{key}={value}" for value in str(values).split(",")] for key, values in params.items()]
    ids = set()
    for overrides in product(*axes):
        config = compose(*named, *overrides)
        assert config.study == study
        assert config.protocol.name == ("imagenet_quick" if study.endswith("_imagenet") else "quick")
        ids.add(config.run_id)
    assert len(ids) == math.prod(map(len, axes))


def test_what_a_study_makes_are_its_files_values(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def told(*overrides: str) -> dict[str, Any]:
        return origin(parse(hydra.compose("train", ["protocol=quick", *overrides])))

    GlobalHydra.instance().clear()
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        fixed = {
            f"protocol.{name}" for name in ("batch_size", "evaluate_every", "iterations", "log_every", "milestones")
        }
        named = ("experiment=gradients", "network.norm=none", "seed=1")  # BN is one of what it sweeps over
        assert set(told(*named)["made_by_study"]) == {"network.norm", *fixed}
        changed = told(*named, "protocol.batch_size=32", "protocol.milestones=[1]")["made_by_study"]
        assert {"network.norm", *fixed} - set(changed) == {"protocol.batch_size", "protocol.milestones"}
        mine = tmp_path / "experiment" / "mine.yaml"  # without a sweep
        mine.parent.mkdir()
        mine.write_text("# @package _global_\nstudy: mine\nprotocol: {lr: 0.01}\n")
        monkeypatch.setattr("degradation.cli.find_conf", lambda: tmp_path)
        found = told("study=mine", "protocol.lr=0.01")
        assert found == {"varied": {"protocol.lr": 0.01}, "made_by_study": ["protocol.lr"]}


@pytest.mark.parametrize("named", ["qick", "quick,smok", ""])
def test_a_protocol_that_is_not_there_is_told_as_such(named: str) -> None:
    for study in ("experiment=degradation_cifar", "experiment=degradation_imagenet"):  # each tells its half's
        with pytest.raises(ConfigError, match=r"is not one of paper, quick, short, smoke$"):
            choose_protocol([study, f"protocol={named}", "seed=0,1"])
    with pytest.raises(ConfigError, match=f"is not one of {', '.join(options('protocol'))}"):
        choose_protocol([f"protocol={named}"])
    assert choose_protocol(["protocol=quick,smoke"]) == ["protocol=quick,smoke"]


def test_a_study_of_imagenet_takes_the_protocols_of_imagenet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = "experiment=degradation_imagenet"
    assert choose_protocol([study, "protocol=quick,smoke"])[1] == "protocol=imagenet_quick,imagenet_smoke"
    assert choose_protocol([study, "protocol=imagenet_short"])[1] == "protocol=imagenet_short"
    for trouble, images, chosen in (("no GPU", True, "quick"), (None, False, "quick"), (None, True, "paper")):
        monkeypatch.setattr(processes, "ask", lambda work, trouble=trouble: trouble)
        if images:
            (tmp_path / "imagenet" / "train").mkdir(parents=True, exist_ok=True)
        where = tmp_path if images else tmp_path / "none"
        assert choose_protocol([study, f"paths.data={where}"])[-1] == f"protocol=imagenet_{chosen}"


def test_a_python_that_reads_every_help_reads_hydras(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # As Python 3.14 does, whose argparse has this method, and calls it for each argument as it is added.
    container, add = argparse._ActionsContainer, argparse._ActionsContainer.add_argument

    def check_help(self: Any, action: argparse.Action) -> None:
        if action.help:
            try:
                self._get_formatter()._expand_help(action)
            except (ValueError, TypeError, KeyError) as error:
                raise ValueError("badly formed help string") from error

    def add_argument(self: Any, *names: Any, **options: Any) -> argparse.Action:
        action = add(self, *names, **options)
        if hasattr(self, "_get_formatter"):
            self._check_help(action)
        return action

    for name, method in (("_check_help", check_help), ("add_argument", add_argument)):
        monkeypatch.setattr(container, name, method, raising=False)
    monkeypatch.setattr(argparse.ArgumentParser, "_check_help", check_help, raising=False)  # put back afterwards
    monkeypatch.setattr(sys, "argv", ["train.py", "protocol=smoke", "--cfg", "job"])
    monkeypatch.setenv("HYDRA_FULL_ERROR", "")  # which is put back, then
    cli.main()
    assert "name: smoke" in capsys.readouterr().out


@pytest.mark.parametrize("flip", options("flip"))
def test_a_flip_changes_one_choice(flip: str) -> None:
    settings = {"none": 0, "looks_linear": 2, "tailored": 3, "fixup": 2}.get(flip, 1)  # that the choice is made of
    assert len(with_varied("network=plain", f"flip={flip}")[1]) == settings


def test_a_network_of_the_other_family_varies_that() -> None:
    named = ("network=plain", "network.family=imagenet", "depth=18", "protocol.lr=0.5")
    assert with_varied(*named)[1] == {"network.family": "imagenet", "protocol.lr": 0.5}


def test_a_longer_run_moves_its_milestones_along(compose: Callable[..., Config]) -> None:
    long, usual = compose("protocol=paper", "length=3"), compose("protocol=paper")
    assert (long.protocol.iterations, long.protocol.milestones) == (192_000, (96_000, 144_000))
    assert long.run_id != usual.run_id


def test_settings_younger_than_the_first_records_leave_their_identity(compose: Callable[..., Config]) -> None:
    assert compose("protocol=quick", "network=plain", "depth=56").run_id == "plain-56-quick-s0-f9eedbdb"
    for override in ("network.alpha=0.5", "network.norm=none", "network.parent_depth=8"):
        assert compose("protocol=quick", "depth=20", override).run_id != compose("protocol=quick", "depth=20").run_id


def test_a_warmup_that_a_network_does_not_have_is_not_in_its_identity(compose: Callable[..., Config]) -> None:
    for arm, depth, seed, published in (("plain", 20, 0, "bb13397b"), ("residual", 56, 1, "7c3ca54d")):
        usual = ("protocol=quick", f"network={arm}", f"depth={depth}", f"seed={seed}")
        assert compose(*usual).run_id == f"{arm}-{depth}-quick-s{seed}-{published}"
    deep = ("protocol=quick", "depth=110")
    assert compose(*deep).warmup_lr == compose(*deep).protocol.lr / 10 == 0.002
    assert compose(*deep).run_id != compose(*deep, "protocol.warmup.lr=0.01").run_id
    cold = (*deep, "protocol.warmup.min_depth=111")
    assert compose(*cold).run_id == "residual-110-quick-s0-be0c3f78"


def test_a_rate_is_a_factor_on_the_protocols(compose: Callable[..., Config]) -> None:
    slow, named = compose("protocol=quick", "rate=0.25"), compose("protocol=quick", "protocol.lr=0.005")
    assert slow.run_id == named.run_id != compose("protocol=quick").run_id
    assert compose("protocol=quick", "depth=110", "rate=0.5").warmup_lr == 0.001


def test_the_paper_protocol_is_the_papers(compose: Callable[..., Config]) -> None:
    config = compose("protocol=paper", "network=residual", "depth=110")
    p = config.protocol
    assert (p.iterations, p.milestones, p.batch_size, p.lr, p.decay) == (64_000, (32_000, 48_000), 128, 0.1, 0.1)
    assert (p.momentum, p.weight_decay, p.warmup.lr, p.warmup.until_error) == (0.9, 1e-4, 0.01, 80.0)
    assert (config.network.width, config.network.shortcut, config.data.name) == (16, "A", "cifar10")
    assert (config.data.normalization, config.data.augmentation) == ("pixel_mean", "crop_flip")
    assert config.data.validation_images == 0
    assert config.warmup_lr == 0.01
    assert compose("protocol=paper", "depth=56").warmup_lr is None
    assert compose("protocol=short").protocol.iterations * 8 == p.iterations
    assert tuple(8 * m for m in compose("protocol=short").protocol.milestones) == p.milestones


def test_the_paper_protocol_of_imagenet_is_the_papers(compose: Callable[..., Config]) -> None:
    config = compose("protocol=imagenet_paper", "network=residual")
    p, data, network = config.protocol, config.data, config.network
    assert (p.iterations, p.milestones, p.batch_size, p.lr, p.decay) == (600_000, (150_000, 300_000), 256, 0.1, 0.1)
    assert (p.momentum, p.weight_decay, p.batchnorm_groups) == (0.9, 1e-4, 8)
    assert (data.crop, data.shorter_side, data.colour, data.normalization) == (224, (256, 480), 0.1, "pixel_mean")
    assert (network.family, network.depth, network.width, network.classes) == ("imagenet", 34, 64, 1000)
    assert config.warmup_lr is None
    for name in ("quick", "short", "smoke"):  # the range in proportion to the crop
        small = compose(f"protocol=imagenet_{name}").data
        assert small.crop is not None
        assert small.shorter_side == (round(small.crop * 256 / 224), round(small.crop * 480 / 224))


def test_the_arms_differ_in_the_shortcut_alone(compose: Callable[..., Config]) -> None:
    plain, residual = (compose(f"network={arm}", "depth=56").science for arm in ("plain", "residual"))
    assert {**plain, "network": None} == {**residual, "network": None}
    different = {key for key in plain["network"] if plain["network"][key] != residual["network"][key]}
    assert different == {"name", "shortcut"}


def test_every_scientific_setting_changes_the_run_id(compose: Callable[..., Config]) -> None:
    # A depth of both families, and deep enough to be warmed up.
    usual = ("protocol=smoke", "data=synthetic", "depth=50", "protocol.warmup.min_depth=50")
    base = compose(*usual)
    assert set(CHANGES) == set(flatten(complete(base.science)))  # a new setting needs its line here
    ids = [compose(*usual, *f"{key}={value}".split()).run_id for key, value in CHANGES.items()]
    assert len({base.run_id, *ids}) == len(CHANGES) + 1
    # It is the hash that changes, not just the readable part in front of it.
    assert len({name.rsplit("-", 1)[1] for name in (base.run_id, *ids)}) == len(CHANGES) + 1


@pytest.mark.parametrize("override", OTHERS)
def test_machine_logger_and_paths_do_not(compose: Callable[..., Config], override: str) -> None:
    base = compose("protocol=smoke")
    changed = compose("protocol=smoke", override)
    assert changed != base
    assert changed.run_id == base.run_id


def test_a_run_id_reads_well_and_follows_from_the_record_alone(compose: Callable[..., Config]) -> None:
    config = compose("protocol=quick", "network=plain", "depth=56", "seed=3")
    assert config.run_id.startswith("plain-56-quick-s3-")
    assert run_id(dict(reversed(list(config.science.items())))) == config.run_id


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("+network.widht=2", "network.widht"),
        ("+protocol.warmup.untill=2", "protocol.warmup.untill"),
        ("+sede=1", "sede"),
        ("~protocol.lr", "protocol.lr"),
        ("~data", "data"),
        ("protocol.batch_size=abc", "protocol.batch_size=abc"),
        ("protocol.batch_size=1.5", "protocol.batch_size=1.5"),
        ("network.width=true", "network.width=True"),
        ("protocol.lr=fast", "protocol.lr=fast"),
        ("protocol.lr=null", "protocol.lr=None"),
        ("protocol.milestones=12", "protocol.milestones=12"),
        ("protocol.milestones=[1.5]", r"protocol.milestones=\[1.5\]"),
        ("protocol.decay_batchnorm=1", "protocol.decay_batchnorm=1"),
        ("protocol.warmup=none", "protocol.warmup=none"),
        ("seed=null", "seed=None"),
        ("network.width=0", "network.width=0"),
        ("network.width=-16", "network.width=-16"),
        ("network.alpha=-1", "network.alpha=-1"),
        ("network.norm=layer", "network.norm=layer"),
        ("depth=14 network.parent_depth=20", "network.parent_depth=20 must be at most depth=14"),
        ("network.parent_depth=9", "depth=9"),
        ("network.init=dirac", "network.init=dirac needs network.shortcut=none"),
        ("network=plain network.init=fixup", "network.init=fixup needs network.shortcut=A and network.norm=none"),
        (
            "network=plain network.init=looks_linear network.width=3",
            "looks_linear mirrors half .* network.width=3 is odd",
        ),
        (
            "network=plain network.activation=tailored",
            "network.activation=tailored needs network.norm=none and network.init=orthogonal",
        ),
        ("network=plain flip=tailored depth=8", "network.activation=tailored has no slope for depth=8"),
        ("network=plain flip=dirac network.family=imagenet depth=18", "network.init=dirac needs network.family=cifar"),
        ("flip=fixup network.parent_depth=8", "network.parent_depth needs norm=batch and alpha=1"),
        ("network.parent_depth=8 protocol.hold_norms=true", "would undo what network.parent_depth builds"),
        ("flip=fixup protocol.hold_norms=true", "protocol.hold_norms=true would hold layers at zero"),
        ("length=0", "length=0"),
        ("network.classes=0", "network.classes=0"),
        ("depth=0", "depth=0"),
        ("data.validation_images=-1", "data.validation_images=-1"),
        ("protocol.iterations=0", "protocol.iterations=0"),
        ("protocol.batch_size=0", "protocol.batch_size=0"),
        ("protocol.batch_size=-128", "protocol.batch_size=-128"),
        ("protocol.log_every=0", "protocol.log_every=0"),
        ("protocol.evaluate_every=0", "protocol.evaluate_every=0"),
        ("protocol.lr=0", "protocol.lr=0"),
        ("protocol.lr=-0.1", "protocol.lr=-0.1"),
        ("protocol.lr=nan", "protocol.lr=nan"),
        ("protocol.lr=inf", "protocol.lr=inf"),
        ("protocol.weight_decay=-1", "protocol.weight_decay=-1"),
        ("protocol.momentum=-1", "protocol.momentum=-1"),
        ("protocol.warmup.window=0", "protocol.warmup.window=0"),
        ("protocol.warmup.lr=0", "protocol.warmup.lr=0"),
        ("protocol.warmup.until_error=0", "protocol.warmup.until_error=0"),
        ("seed=-1", "seed=-1"),
        ("budget_minutes=-1", "budget_minutes=-1"),
        ("machine.threads=0", "machine.threads=0"),
        ("machine.threads=many", "machine.threads=many"),
        ("machine.iterations_per_step=0", "machine.iterations_per_step=0"),
        ("machine.evaluation_batch=0", "machine.evaluation_batch=0"),
        ("machine.checkpoint_seconds=-1", "machine.checkpoint_seconds=-1"),
        ("machine.device=tpu", "machine.device=tpu"),
        ("machine.execution=fast", "machine.execution=fast"),
        ("machine.precision=fp8", "machine.precision=fp8"),
        ("network.shortcut=D", "network.shortcut=D"),
        ("network.pad_side=start", "network.pad_side=start"),
        ("network.fan_mode=fan", "network.fan_mode=fan"),
        ("network.stride_in=first", "network.stride_in=first"),
        ("network.pool=mean", "network.pool=mean"),
        (
            "data.name=mnist",
            "data.name=mnist is not one of cifar10, cifar10_mini, synthetic, and others need data.crop",
        ),
        ("data.name=../mnist", r"data.name=\.\./mnist"),
        ("data.crop=0", "data.crop=0"),
        ("data.crop=32 data.padding=before", "data.padding=before needs images of 32x32"),
        ("data.crop=300", r"data.shorter_side=\[256, 480\] must be a range from data.crop=300"),
        ("data.shorter_side=[480,256]", r"data.shorter_side=\[480, 256\]"),
        ("data.shorter_side=[480]", r"data.shorter_side=\[480\]"),
        ("data.colour=-1", "data.colour=-1"),
        ("data.colour=0.1", "data.colour=0.1 needs data.crop"),
        ("data.shorter_side=[300,400]", r"data.shorter_side=\(300, 400\) needs data.crop"),
        ("network.pool=padded", "network.pool=padded is of the stem of network.family=imagenet"),
        ("protocol.batchnorm_groups=0", "protocol.batchnorm_groups=0"),
        ("machine.workers=-1", "machine.workers=-1"),
        ("data.last_batch=repeat", "data.last_batch=repeat"),
        ("protocol.batchnorm=batch", "protocol.batchnorm=batch"),
        ("logger.name=csv", "logger.name=csv"),
        ("protocol.milestones=[18,12]", r"protocol.milestones=\[18, 12\]"),
        ("protocol.evaluate_every=6", "protocol.evaluate_every=6"),
        ("study=${missing}", "missing"),
        ("study=???", "study"),
        ("network=plain network.shortcut=B", "network.shortcut=B is not that of a plain network"),
        ("network.family=imagenet", "depth=20 is not one of 18, 34, 50, 101, 152"),
        ("network.name=../../x", "network.name=../../x"),
        ("protocol.name=a/b", "protocol.name=a/b"),
        ("depth=60000002", "depth=60000002"),
        ("machine.threads=100000", "machine.threads=100000"),
    ],
)
def test_bad_settings_are_named_in_one_line(compose: Callable[..., Config], override: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told) as error:
        compose("protocol=smoke", *override.split())
    assert "\n" not in str(error.value)


def test_outside_of_a_checkout_one_line_says_so(tmp_path: Path) -> None:
    shutil.copytree(CONF.parent / "src" / "degradation", tmp_path / "site" / "degradation")
    command = [sys.executable, "-c", "from degradation.cli import main; main()", "protocol=smoke"]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("error: no configs in ")
    assert done.stderr.count("\n") == 1


def test_a_folder_says_what_its_run_varies() -> None:
    name = name_folder("plain-8-smoke-s0-1f", {"protocol.milestones": [40, 50], "network.shortcut": "B"})
    assert name == "plain-8-smoke-shortcut=B,milestones=40,50-s0-1f"
    assert is_named(name, "plain-8-smoke-s0-1f")
