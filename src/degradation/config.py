"""The schema of conf/: types, ranges, and the identity of a run. The numbers themselves live in conf/ alone."""

import hashlib
import json
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

# Settings younger than the first records. At the value that those had without naming it, a setting stays out of the
# identity, so that no finished run is run again because a new question can be asked.
LATER: dict[str, dict[str, Any]] = {"network": {"alpha": 1.0, "norm": "batch", "parent_depth": None}}


class ConfigError(ValueError):
    """A setting is unknown, of the wrong type or out of range; the message names it."""


def _require(owner: str, values: dict[str, Any], allowed: dict[str, tuple[str, ...]]) -> None:
    for key, options in allowed.items():
        if values[key] not in options:
            raise ConfigError(f"{owner}.{key}={values[key]} is not one of {', '.join(options)}")


def _at_least(owner: str, values: dict[str, Any], bounds: dict[str, float], exclusive: bool = False) -> None:
    for key, bound in bounds.items():
        value = values[key]
        if not (value > bound if exclusive else value >= bound) or value == float("inf"):
            name = f"{owner}.{key}" if owner else key
            raise ConfigError(f"{name}={value} must be {'above' if exclusive else 'at least'} {bound}")


@dataclass(frozen=True)
class NetworkConfig:
    name: str
    shortcut: str
    depth: int
    width: int
    classes: int
    pad_side: str
    fan_mode: str
    alpha: float
    norm: str
    parent_depth: int | None

    def __post_init__(self) -> None:
        options = {
            "shortcut": ("none", "A", "B", "C"),
            "pad_side": ("end", "both"),
            "fan_mode": ("fan_in", "fan_out"),
            "norm": ("batch", "none"),
        }
        _require("network", vars(self), options)
        _at_least("network", vars(self), {"width": 1, "classes": 10, "alpha": 0})
        if self.shortcut == "none" and self.alpha != 1:
            raise ConfigError(f"network.alpha={self.alpha} is the strength of a shortcut, and a plain network has none")
        if self.parent_depth is not None and self.parent_depth >= self.depth:
            raise ConfigError(f"network.parent_depth={self.parent_depth} must be below depth={self.depth}")
        if self.parent_depth is not None and (self.norm != "batch" or self.alpha != 1):
            raise ConfigError(
                "network.parent_depth needs norm=batch and alpha=1: added layers are identities only then"
            )
        from degradation.net.network import blocks_per_stage  # late: records are read without torch

        try:
            blocks_per_stage(self.depth)
            if self.parent_depth is not None:
                blocks_per_stage(self.parent_depth)
        except ValueError as error:
            raise ConfigError(str(error)) from None


@dataclass(frozen=True)
class DataConfig:
    name: str
    validation_images: int
    normalization: str
    augmentation: str
    last_batch: str

    def __post_init__(self) -> None:
        options = {
            "name": ("cifar10", "cifar10_mini", "synthetic"),
            "normalization": ("pixel_mean", "channel"),
            "augmentation": ("crop_flip", "none"),
            "last_batch": ("drop", "keep"),
        }
        _require("data", vars(self), options)
        _at_least("data", vars(self), {"validation_images": 0})


@dataclass(frozen=True)
class WarmupConfig:
    min_depth: int
    lr: float
    until_error: float
    window: int

    def __post_init__(self) -> None:
        _at_least("protocol.warmup", vars(self), {"window": 1})
        _at_least("protocol.warmup", vars(self), {"lr": 0, "until_error": 0}, exclusive=True)


@dataclass(frozen=True)
class ProtocolConfig:
    name: str
    iterations: int
    batch_size: int
    lr: float
    milestones: tuple[int, ...]
    decay: float
    momentum: float
    weight_decay: float
    decay_batchnorm: bool
    warmup: WarmupConfig
    batchnorm: str
    log_every: int
    evaluate_every: int

    def __post_init__(self) -> None:
        _require("protocol", vars(self), {"batchnorm": ("moving", "exact")})
        _at_least("protocol", vars(self), {"iterations": 1, "batch_size": 1, "log_every": 1, "evaluate_every": 1})
        _at_least("protocol", vars(self), {"lr": 0, "decay": 0}, exclusive=True)
        _at_least("protocol", vars(self), {"momentum": 0, "weight_decay": 0})
        if list(self.milestones) != sorted(self.milestones):
            raise ConfigError(f"protocol.milestones={list(self.milestones)} must be in increasing order")
        if self.evaluate_every % self.log_every:
            raise ConfigError(
                f"protocol.evaluate_every={self.evaluate_every} must be a multiple of log_every={self.log_every}"
            )


@dataclass(frozen=True)
class MachineConfig:
    device: str
    precision: str
    channels_last: bool
    threads: int | str
    iterations_per_step: int | str
    execution: str
    activation_checkpointing: bool
    evaluation_batch: int
    checkpoint_seconds: float
    progress_seconds: float

    def __post_init__(self) -> None:
        options = {
            "device": ("auto", "cpu", "cuda"),
            "precision": ("auto", "bf16", "fp32", "tf32"),
            "execution": ("auto", "eager", "captured", "compiled"),
        }
        _require("machine", vars(self), options)
        for key in ("threads", "iterations_per_step"):
            value = getattr(self, key)
            if value != "auto" and not (isinstance(value, int) and value >= 1):
                raise ConfigError(f"machine.{key}={value} must be auto or at least 1")
        _at_least("machine", vars(self), {"evaluation_batch": 1, "checkpoint_seconds": 0, "progress_seconds": 0})


@dataclass(frozen=True)
class LoggerConfig:
    name: str
    project: str

    def __post_init__(self) -> None:
        _require("logger", vars(self), {"name": ("wandb", "none")})


@dataclass(frozen=True)
class PathsConfig:
    data: str
    results: str


@dataclass(frozen=True)
class Config:
    """One run. `network`, `data`, `protocol` and `seed` are its science, and alone enter its identity."""

    network: NetworkConfig
    data: DataConfig
    protocol: ProtocolConfig
    machine: MachineConfig
    logger: LoggerConfig
    paths: PathsConfig
    depth: int
    length: int
    seed: int
    study: str
    budget_minutes: float | None

    def __post_init__(self) -> None:
        _at_least("", vars(self), {"seed": 0, "length": 1})
        if self.budget_minutes is not None:
            _at_least("", vars(self), {"budget_minutes": 0})

    @property
    def science(self) -> dict[str, Any]:
        """What the result depends on, as plain data."""
        science = {key: _plain(getattr(self, key)) for key in ("network", "data", "protocol", "seed")}
        for group, settings in LATER.items():
            science[group] = {k: v for k, v in science[group].items() if k not in settings or v != settings[k]}
        return science

    @property
    def run_id(self) -> str:
        """A readable name and a hash of the whole scientific config, such as plain-56-quick-s0-1f0c2b9a."""
        return run_id(self.science)

    @property
    def warmup_lr(self) -> float | None:
        """The warm-up's learning rate, where the network is deep enough to have one."""
        warmup = self.protocol.warmup
        return warmup.lr if self.network.depth >= warmup.min_depth else None


def _plain(value: Any) -> Any:
    return json.loads(json.dumps(asdict(value))) if hasattr(value, "__dataclass_fields__") else value


def run_id(science: dict[str, Any]) -> str:
    """The identity of a run from its scientific config: network, data, protocol, seed."""
    canonical = json.dumps({key: science[key] for key in ("network", "data", "protocol", "seed")}, sort_keys=True)
    digest = hashlib.sha256(canonical.encode()).hexdigest()[:8]
    network = science["network"]
    return f"{network['name']}-{network['depth']}-{science['protocol']['name']}-s{science['seed']}-{digest}"


def _build(kind: Any, values: Any, where: str = "") -> Any:
    # OmegaConf's own structured configs know neither tuples nor unions well enough; this is all that is needed.
    if not isinstance(values, dict):
        raise ConfigError(f"{where or 'the config'}={values} must be a group of settings")
    known: dict[str, Any] = {field.name: field.type for field in fields(kind)}
    if unknown := sorted(set(values) - set(known)):
        raise ConfigError(f"unknown setting {where + '.' if where else ''}{unknown[0]}; known here: {', '.join(known)}")
    if missing := sorted(set(known) - set(values)):
        raise ConfigError(f"missing setting {where + '.' if where else ''}{missing[0]}")
    built = {}
    for key, want in known.items():
        value, name = values[key], f"{where}.{key}" if where else key
        if isinstance(want, type) and hasattr(want, "__dataclass_fields__"):
            built[key] = _build(want, value, name)
        elif want == tuple[int, ...]:
            if not isinstance(value, list) or any(type(v) is not int for v in value):
                raise ConfigError(f"{name}={value} must be a list of whole numbers")
            built[key] = tuple(value)
        elif want in (float, float | None) and type(value) is int:
            built[key] = float(value)
        elif not isinstance(value, want) or (isinstance(value, bool) and want is not bool):
            raise ConfigError(f"{name}={value} must be {getattr(want, '__name__', want)}")
        else:
            built[key] = value
    return kind(**built)


def parse(cfg: DictConfig) -> Config:
    """The composed Hydra config, checked.

    Raises:
        ConfigError: with one line that names the setting.
    """
    settings = OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key not in ("hydra", "claims")])
    try:
        values = OmegaConf.to_container(settings, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise ConfigError(str(error).splitlines()[0]) from error
    config = _build(Config, values)
    if config.length == 1:
        return config
    protocol = config.protocol
    longer = replace(
        protocol,
        iterations=config.length * protocol.iterations,
        milestones=tuple(config.length * milestone for milestone in protocol.milestones),
    )
    return replace(config, protocol=longer)
