"""The schema of conf/: types, ranges, and the identity of a run. The numbers themselves live in conf/ alone. No torch.

A setting with a default here is younger than the first records: the default is what those had without naming it, and
at that value it stays out of the identity, so that no finished run is run again because a new question can be asked.
"""

import functools
import hashlib
import json
import math
import re
from collections.abc import Iterator
from dataclasses import MISSING, fields, is_dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError, model_validator
from pydantic.dataclasses import dataclass

SCIENCE = ("network", "data", "protocol", "seed")  # the parts of a config that its result depends on

Shortcut = Literal["none", "A", "B", "C"]
PadSide = Literal["end", "both"]
Family = Literal["cifar", "imagenet"]
Name = Annotated[str, Field(pattern=r"^\w[\w.+-]*$")]  # a word that can be part of a folder's name
Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, allow_inf_nan=False)]
SMALL = ("cifar10", "cifar10_mini", "synthetic")  # sets of images of 32x32 pixels
IMAGENETTE = {"imagenette2": "full", "imagenette2-320": "320px", "imagenette2-160": "160px"}  # folder -> size
# Training and test images of the sets that have a name.
IMAGES = {"cifar10": (50_000, 10_000), "cifar10_mini": (5000, 1000), "synthetic": (512, 256)}
IMAGES |= {"imagenet": (1_281_167, 50_000), "imagenette_mini": (2000, 1000)}
IMAGES |= dict.fromkeys(IMAGENETTE, (9469, 3925))
STRICT = ConfigDict(strict=True, extra="forbid")


class ConfigError(ValueError):
    """A setting is unknown, of the wrong type or out of range; the message names it."""


class DataError(Exception):
    """The images cannot be had; the message says which file, and what to do."""


class Size(NamedTuple):
    """The images that were found, and the seconds in which one process reads one of them, where files are read."""

    training: int
    test: int
    held_out: int
    seconds: float


def find_conf() -> Path:
    """The folder conf/ of the checkout that this code runs from."""
    conf = Path(__file__).parents[2] / "conf"
    if not (conf / "train.yaml").is_file():
        raise ConfigError(f"no configs in {conf}: install the package in its checkout, pip install -e .")
    return conf


def find_published() -> Path:
    """The evidence that comes with the code, results/published/ of the checkout; experiments/publish.py writes it."""
    return find_conf().parent / "results" / "published"


def refuse_published(results: str | Path) -> None:
    """A ConfigError where a folder to be written is, or is part of, the published evidence."""
    if Path(results).resolve().is_relative_to(published := find_published().resolve()):
        raise ConfigError(f"{published} is read-only evidence; name another folder with RESULTS_DIR= or paths.results=")


class Plan(NamedTuple):
    """What a depth stands for: the stem, the layers of a block's F, and the number of blocks of every stage."""

    stem: tuple[int, int]  # kernel and stride of the first convolution
    pool: bool  # whether a 3x3 max pool of stride 2 follows it
    layers: tuple[tuple[int, int], ...]  # kernel, and multiple of the stage's width, of every convolution of F
    blocks: tuple[int, ...]
    image: int  # pixels of an image's side


BASIC, BOTTLENECK = ((3, 1), (3, 1)), ((1, 1), (3, 1), (1, 4))
TABLE_1 = {
    18: (BASIC, (2, 2, 2, 2)),
    34: (BASIC, (3, 4, 6, 3)),
    50: (BOTTLENECK, (3, 4, 6, 3)),
    101: (BOTTLENECK, (3, 4, 23, 3)),
    152: (BOTTLENECK, (3, 8, 36, 3)),
}


def plan(family: Family, depth: int) -> Plan:
    """The plan of a depth: 6n+2 of the CIFAR networks (section 4.2), 18 to 152 of the ImageNet networks (Table 1)."""
    if family == "imagenet":
        if depth not in TABLE_1:
            raise ValueError(f"depth={depth} is not one of {', '.join(map(str, TABLE_1))} (Table 1)")
        return Plan((7, 2), True, *TABLE_1[depth], 224)
    n, rest = divmod(depth - 2, 6)
    if rest or n < 1:
        nearby = f"depths are {6 * n + 2} and {6 * n + 8}" if n >= 1 else "depth is 8"
        paper = "the paper uses 20, 32, 44, 56, 110, 1202"
        raise ValueError(f"depth={depth} is not of the form 6n+2; the nearest such {nearby} ({paper})")
    return Plan((3, 1), False, BASIC, (n, n, n), 32)


# What settings of a network need others to be; those of the study without_shortcuts are of the CIFAR networks alone.
_PLAIN: dict[str, Any] = {"family": "cifar", "shortcut": "none"}
NEEDS: dict[tuple[str, str], dict[str, Any]] = {
    ("init", "dirac"): _PLAIN,
    ("init", "looks_linear"): _PLAIN,
    ("init", "orthogonal"): _PLAIN,
    ("init", "fixup"): {"family": "cifar", "shortcut": "A", "alpha": 1.0, "norm": "none", "head": "he"},
    ("activation", "tailored"): {**_PLAIN, "norm": "none", "init": "orthogonal"},
}
ETA = 0.9  # of the C map of a whole tailored network at 0


@functools.cache
def tailored_slope(activations: int) -> float:
    """The negative slope of leaky ReLUs, so many in a row, that make the cosine of two orthogonal inputs ETA.

    Zhang, Botev, Martens, "Deep Learning without Shortcuts" (arXiv 2203.08120): of infinitely wide layers that keep
    the mean square of their input, the cosine of two inputs after each is a function of that before, the C map.
    A ValueError where ReLU itself makes less of it.
    """
    from scipy.optimize import brentq  # half a second, which few need

    def beyond(slope: float) -> float:
        cosine = 0.0
        for _ in range(activations):
            bend = math.sqrt(max(0.0, 1 - cosine**2)) - cosine * math.acos(min(1.0, cosine))
            cosine += (1 - slope) ** 2 / (math.pi * (1 + slope**2)) * bend
        return cosine - ETA

    if beyond(0.0) < 0:
        raise ValueError(f"network.activation=tailored has no slope for depth={activations + 1}: it needs 14 or more")
    return float(brentq(beyond, 0.0, 1.0))


@dataclass(frozen=True, config=STRICT)
class Architecture:
    """A network, as data: the group `network` of conf/, and all that `net.network.Network` needs besides a seed."""

    name: Literal["plain", "residual"]
    shortcut: Shortcut  # the one thing in which the arms of a matched pair differ
    depth: Annotated[int, Field(le=10_000)]  # weighted layers
    width: Annotated[int, Field(ge=1, le=4096)]  # channels of the first stage; every further stage doubles them
    classes: Annotated[int, Field(ge=2)]
    pad_side: PadSide  # where option A puts the zero channels
    fan_mode: Literal["fan_in", "fan_out"]  # of He's initialisation
    alpha: Fraction = 1.0  # strength of the shortcut; 0 makes a residual network a plain one
    norm: Literal["batch", "none"] = "batch"  # after every convolution; "none" has a bias in its place
    parent_depth: int | None = None  # start from the trained network of that depth, deepened by identity layers
    family: Family = "cifar"  # section 4.2, or Table 1
    stride_in: Literal["1x1", "3x3"] = "1x1"  # the convolution of a bottleneck that has its stride
    pool: Literal["ceil", "padded"] = "ceil"  # the stem's max pool: unpadded as the authors', or torchvision's
    bn_eps: Positive = 1e-5
    bn_momentum: Annotated[float, Field(gt=0, le=1)] = 0.1  # the share of a new batch in BN's moving averages
    head: Literal["he", "uniform"] = "he"  # initial weights: He's normal ones, or PyTorch's own uniform ones
    # In place of shortcuts, or of BN (conf/experiment/without_shortcuts.yaml; net/network.py says what each is).
    init: Literal["he", "dirac", "looks_linear", "orthogonal", "fixup"] = "he"
    activation: Literal["relu", "tailored"] = "relu"

    @model_validator(mode="after")
    def _check(self) -> "Architecture":
        self.plan  # noqa: B018  a depth that the family lacks
        if (self.name == "plain") != (self.shortcut == "none"):
            raise ValueError(f"network.shortcut={self.shortcut} is not that of a {self.name} network")
        if self.shortcut == "none" and self.alpha != 1:
            raise ValueError(f"network.alpha={self.alpha} is the strength of a shortcut, and a plain network has none")
        if self.pool != "ceil" and not self.plan.pool:
            raise ValueError(f"network.pool={self.pool} is of the stem of network.family=imagenet")
        for (key, value), needed in NEEDS.items():
            unmet = {other: wanted for other, wanted in needed.items() if getattr(self, other) != wanted}
            if getattr(self, key) == value and unmet:
                wants = " and ".join(f"network.{other}={wanted}" for other, wanted in unmet.items())
                raise ValueError(f"network.{key}={value} needs {wants}")
        if self.init == "looks_linear" and self.width % 2:
            raise ValueError(
                f"network.init=looks_linear mirrors half of the channels: network.width={self.width} is odd"
            )
        self.slope  # noqa: B018  none for networks too shallow to be tailored
        if self.parent_depth is not None:
            plan(self.family, self.parent_depth)
            if self.parent_depth > self.depth:  # the same depth is a restart of the parent
                raise ValueError(f"network.parent_depth={self.parent_depth} must be at most depth={self.depth}")
            if self.norm != "batch" or self.alpha != 1:
                raise ValueError(
                    "network.parent_depth needs norm=batch and alpha=1: added layers are identities only then"
                )
        return self

    @property
    def plan(self) -> Plan:
        return plan(self.family, self.depth)

    @property
    def slope(self) -> float:
        """Negative slope of its rectifiers: 0 of ReLU."""
        return tailored_slope(self.depth - 1) if self.activation == "tailored" else 0.0

    @classmethod
    def paper(cls, depth: int, shortcut: Shortcut, family: Family = "cifar", **changes: Any) -> "Architecture":
        """The paper's network of that depth and shortcut, but for the given settings."""
        size = {"width": 16, "classes": 10} if family == "cifar" else {"width": 64, "classes": 1000}
        usual = {"name": "plain" if shortcut == "none" else "residual", "pad_side": "end", "fan_mode": "fan_in", **size}
        return cls(**{**usual, "depth": depth, "shortcut": shortcut, "family": family, **changes})


@dataclass(frozen=True, config=STRICT)
class DataConfig:
    name: Name
    validation_images: Annotated[int, Field(ge=0)]
    normalization: Literal["pixel_mean", "channel"]
    augmentation: Literal["crop_flip", "none"]
    last_batch: Literal["drop", "keep"]
    scale: Positive = 1.0  # images are in [0, scale] before the mean is subtracted
    crop: Count | None = None  # side of what is shown of images of any size (section 3.4); None: they are 32x32
    shorter_side: tuple[Count, ...] = (256, 480)  # range of that of a training image; tested at the least
    colour: Fraction = 0.0  # std of the colour augmentation's draws: 0.1 in AlexNet's
    padding: Literal["after", "before"] = "after"  # zeros around an image of 32x32: after the mean is subtracted

    @model_validator(mode="after")
    def _check(self) -> "DataConfig":
        if self.crop is None and self.name not in SMALL:
            raise ValueError(f"data.name={self.name} is not one of {', '.join(SMALL)}, and others need data.crop")
        if self.crop is not None and self.padding != "after":
            raise ValueError(f"data.padding={self.padding} needs images of 32x32: with data.crop none is padded")
        if len(sides := [self.crop or 0, *self.shorter_side]) != 3 or sides != sorted(sides):
            raise ValueError(f"data.shorter_side={sides[1:]} must be a range from data.crop={self.crop} or above")
        if self.crop is None and (self.colour or self.shorter_side != DataConfig.shorter_side):
            name = "colour" if self.colour else "shorter_side"
            raise ValueError(f"data.{name}={getattr(self, name)} needs data.crop: it does nothing to images of 32x32")
        return self


Sizes = dict[DataConfig, Size]


def images_of_group(batch_size: int, groups: int) -> int:
    """The images of the largest of so many parts of a batch."""
    return -(-batch_size // groups)


@dataclass(frozen=True, config=STRICT)
class WarmupConfig:
    min_depth: int
    lr: Positive
    until_error: Positive
    window: Count


@dataclass(frozen=True, config=STRICT)
class ProtocolConfig:
    name: Name
    iterations: Count
    batch_size: Count
    lr: Positive
    milestones: tuple[int, ...]
    decay: Positive
    momentum: Fraction
    weight_decay: Fraction
    decay_batchnorm: bool
    warmup: WarmupConfig
    batchnorm: Literal["moving", "exact"]
    log_every: Count
    evaluate_every: Count
    # Parts of a batch, of equal size or nearly, over which BN takes its statistics: the devices of the paper.
    batchnorm_groups: Count = 1
    # Where the rate stands: PyTorch's v = m v + g, w = w - lr v, or Caffe's v = m v + lr g, w = w - v.
    momentum_rate: Literal["outside", "inside"] = "outside"
    # Against an explosion in the first steps, one by one (conf/experiment/first_steps.yaml).
    ramp: Annotated[float, Field(ge=0, le=1)] = 0.0  # share of the iterations in which the rate rises to what it is
    clip: Positive | None = None  # the norm at which the gradient of all parameters is clipped
    hold_norms: bool = False  # every convolution's weights keep the norm that they begin with

    @model_validator(mode="after")
    def _check(self) -> "ProtocolConfig":
        if list(self.milestones) != sorted(self.milestones):
            raise ValueError(f"protocol.milestones={list(self.milestones)} must be in increasing order")
        if self.batchnorm_groups > self.batch_size:
            groups, size = self.batchnorm_groups, self.batch_size
            raise ValueError(f"protocol.batchnorm_groups={groups} are more than the {size} images of a batch")
        if self.evaluate_every % self.log_every:
            raise ValueError(
                f"protocol.evaluate_every={self.evaluate_every} must be a multiple of log_every={self.log_every}"
            )
        return self

    @property
    def group(self) -> int:
        """The images over which BN takes its statistics."""
        return images_of_group(self.batch_size, self.batchnorm_groups)

    def longer(self, times: int) -> "ProtocolConfig":
        """Its iterations so many times over, its milestones moved along."""
        milestones = tuple(times * milestone for milestone in self.milestones)
        return replace(self, iterations=times * self.iterations, milestones=milestones)

    def faster(self, times: float) -> "ProtocolConfig":
        """Its rate so many times over, and that of its warm-up."""
        if times == 1:
            return self  # to the last digit
        lr, warmup = (float(f"{times * rate:.12g}") for rate in (self.lr, self.warmup.lr))  # as one would write them
        return replace(self, lr=lr, warmup=replace(self.warmup, lr=warmup))


@dataclass(frozen=True, config=STRICT)
class MachineConfig:
    device: Literal["auto", "cpu", "cuda"]
    precision: Literal["auto", "bf16", "fp32", "tf32"]
    channels_last: bool
    threads: Annotated[int, Field(ge=1, le=4096)] | Literal["auto"]
    iterations_per_step: Count | Literal["auto"]
    execution: Literal["auto", "eager", "captured", "compiled"]
    activation_checkpointing: bool
    evaluation_batch: Count
    checkpoint_seconds: Fraction
    progress_seconds: Fraction
    workers: Annotated[int, Field(ge=0)] | Literal["auto"] = "auto"


@dataclass(frozen=True, config=STRICT)
class LoggerConfig:
    name: Literal["wandb", "none"]
    project: str


@dataclass(frozen=True, config=STRICT)
class PathsConfig:
    data: str
    results: str
    published: str | None  # runs finished there are not run again, unfinished ones gone on with


@dataclass(frozen=True, config=STRICT)
class Config:
    """One run. `network`, `data`, `protocol` and `seed` are its science, and alone enter its identity."""

    network: Architecture
    data: DataConfig
    protocol: ProtocolConfig
    machine: MachineConfig
    logger: LoggerConfig
    paths: PathsConfig
    depth: int
    length: Count
    rate: Positive
    seed: Annotated[int, Field(ge=0, lt=2**63)]
    study: Name
    budget_minutes: Fraction | None

    @model_validator(mode="after")
    def _check(self) -> "Config":
        if self.protocol.hold_norms and self.network.init == "fixup":
            raise ValueError("protocol.hold_norms=true would hold layers at zero, where network.init=fixup begins")
        if self.protocol.hold_norms and self.network.parent_depth is not None:
            raise ValueError("protocol.hold_norms=true would undo what network.parent_depth builds: set one of the two")
        return self

    @property
    def science(self) -> dict[str, Any]:
        """What the result depends on, as plain data; the younger settings only where they are not at their default."""
        science = TypeAdapter(Config).dump_python(self, mode="json", include=set(SCIENCE), exclude_defaults=True)
        if self.warmup_lr is None:
            # A warm-up that the network does not have has no effect: its rate is written as the first records have it,
            # so that they keep their names whatever the protocol's has become (quick's was half its rate at first).
            science["protocol"]["warmup"]["lr"] = 0.01
        return science

    @property
    def run_id(self) -> str:
        """A readable name and a hash of the whole scientific config, such as plain-56-quick-s0-1f0c2b9a."""
        return run_id(self.science)

    @property
    def parent(self) -> "Config | None":
        """The run from whose trained network this one's is built, at the rate before `rate`; None without one."""
        depth, network = self.network.parent_depth, self.network
        if depth is None:
            return None
        network = replace(network, depth=depth, parent_depth=None)
        return replace(self, protocol=self.protocol.faster(1 / self.rate), rate=1.0, network=network)

    @property
    def folder(self) -> Path:
        """Where the record of the run is; where there is none, the plainest name that it could have."""
        return next(find_records(self.paths.results, self.run_id), Path(self.paths.results) / "runs" / self.run_id)

    def label(self, varied: dict[str, Any]) -> str:
        """The network, what it varies, and the seed: such as plain-8 lr=0.05 seed 0."""
        parts = [f"{self.network.name}-{self.network.depth}", describe_varied(varied), f"seed {self.seed}"]
        return " ".join(filter(None, parts))

    @property
    def warmup_lr(self) -> float | None:
        """The warm-up's learning rate, where the network is deep enough to have one."""
        warmup = self.protocol.warmup
        return warmup.lr if self.network.depth >= warmup.min_depth else None


def run_id(science: dict[str, Any]) -> str:
    """The identity of a run from its scientific config: network, data, protocol, seed."""
    canonical = json.dumps({key: science[key] for key in SCIENCE}, sort_keys=True)
    digest = hashlib.sha256(canonical.encode()).hexdigest()[:8]
    network = science["network"]
    return f"{network['name']}-{network['depth']}-{science['protocol']['name']}-s{science['seed']}-{digest}"


def name_folder(identity: str, varied: dict[str, Any]) -> str:
    """A folder's name for a run: its id, with what it varies in words, such as plain-56-quick-lr=0.05-s0-1f0c2b9a."""
    network, end = identity.rsplit("-s", 1)
    told = re.sub(r"[^\w.=+-]+", ",", re.sub(r"[\[\]]", "", describe_varied(varied)))
    return "-".join(filter(None, (network, told[:80], f"s{end}")))


def is_named(name: str, identity: str) -> bool:
    """Whether a folder of that name is one of that run."""
    network, end = identity.rsplit("-s", 1)
    return name.startswith(network) and name.endswith(f"-s{end}")


def find_records(results: str | Path, identity: str) -> Iterator[Path]:
    """The folders of that run below the runs/ of a results folder, or below those of its precisions in published/."""
    network, end = identity.rsplit("-s", 1)
    for where in ("", "*/"):
        yield from sorted((Path(results) / "runs").glob(f"{where}{network}*-s{end}"))


def complete(science: dict[str, Any]) -> dict[str, Any]:
    """A record's scientific config with the settings that are younger than it, at what they were when not yet named."""
    kinds: dict[str, Any] = {"network": Architecture, "data": DataConfig, "protocol": ProtocolConfig}
    younger = {
        group: {field.name: field.default for field in fields(kind) if field.default is not MISSING}
        for group, kind in kinds.items()
    }
    return {**science, **{group: {**younger[group], **science[group]} for group in kinds}}


def describe_varied(varied: dict[str, Any]) -> str:
    """Settings in words, without their group: such as lr=0.05 warmup.lr=0.005; of a group's name, the group: data=x."""
    short = {key: key.removesuffix(".name") if key.endswith(".name") else key.split(".", 1)[-1] for key in varied}
    return " ".join(f"{short[key]}={varied[key]}".replace(" ", "") for key in sorted(varied))


def flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested groups as one level of dotted keys, such as protocol.lr."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def _explain(error: ValidationError, value: Any) -> str:
    # The first setting that is wrong, where it is, and all that is wrong with it, in one line.
    kind: Any = Config
    where: list[str] = []
    first = error.errors(include_url=False)[0]
    for part in first["loc"]:
        known = {field.name: field.type for field in fields(kind)} if is_dataclass(kind) else {}
        if part not in known and first["type"] != "unexpected_keyword_argument":
            break  # a branch of a union, or a place in a list
        where.append(str(part))
        kind, value = known.get(str(part)), value.get(str(part)) if isinstance(value, dict) else None
    name = ".".join(where)
    if first["type"] == "value_error":  # one of our own checks: it says which
        return str(first["ctx"]["error"])
    if first["type"] == "missing":
        return f"missing setting {name}"
    if first["type"] == "unexpected_keyword_argument":
        return f"unknown setting {name}; known here: {', '.join(known)}"
    same = [e["msg"] for e in error.errors(include_url=False) if e["loc"][: len(where)] == first["loc"][: len(where)]]
    wrong = " or ".join(dict.fromkeys(message.replace("Input ", "").replace("String ", "") for message in same))
    return f"{name}={value} {wrong}".replace("\n", " ")


def find_root(name: str, data_dir: str | Path) -> Path | None:
    """Which of <data_dir>/<name> and <data_dir> holds a folder train, if one does; one known set is no other."""
    above, known = Path(data_dir).expanduser(), {"imagenet", *IMAGENETTE}
    others = known - {name} if name in known else set()
    return next((p for p in (above / name, above) if (p / "train").is_dir() and p.name not in others), None)


def count_classes(name: str, data_dir: str) -> int:
    """Of a set of images: of a folder of the user's own, as many as it has folders in train."""
    if name in (*SMALL, *IMAGENETTE, "imagenette_mini"):
        return 10
    root = None if name == "imagenet" else find_root(name, data_dir)
    return sum(path.is_dir() for path in (root / "train").iterdir()) if root else 1000


OmegaConf.register_new_resolver("classes_of", count_classes, replace=True)


def parse(cfg: DictConfig) -> Config:
    """The composed Hydra config, checked: a ConfigError is one line that names the setting."""
    own = OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key not in ("hydra", "claims")])
    try:
        values = OmegaConf.to_container(own, resolve=True, throw_on_missing=True)
        assert isinstance(values, dict)
        # As JSON, because then lists are tuples and groups are dataclasses, and nothing else is anything else.
        config = TypeAdapter(Config).validate_json(json.dumps(values))
    except OmegaConfBaseException as error:
        raise ConfigError(str(error).splitlines()[0]) from error
    except ValidationError as error:
        raise ConfigError(_explain(error, values)) from None
    refuse_published(config.paths.results)
    return replace(config, protocol=config.protocol.longer(config.length).faster(config.rate))
