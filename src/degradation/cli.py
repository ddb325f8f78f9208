"""The command line of experiments/train.py: Hydra composes; every bad input is one line and an exit status."""

import argparse
import os
import re
import sys
from typing import Any

import hydra
import yaml
from hydra.errors import HydraException, MissingConfigException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from degradation import processes
from degradation.config import SCIENCE, Config, ConfigError, DataError, complete, find_conf, find_root, flatten, parse
from degradation.ending import Stop, leave
from degradation.record import RecordError

EXIT_INPUT = 2  # nothing was started; argparse, which Hydra uses, gives the same
INPUT_ERRORS = (ConfigError, DataError, MemoryError, RecordError, HydraException, OmegaConfBaseException, OSError)


def origin(config: Config) -> dict[str, Any]:
    """Where the settings of a run come from, as its record tells it.

    Returns:
        `varied`: the scientific settings (dotted) that differ from those of the named protocol and network, with their
        values; empty for a canonical run. `made_by_study`: those that have a value its study's file sets or
        sweeps over.
    """
    network, protocol = config.network, config.protocol
    named = [f"protocol={protocol.name}", f"network={network.name}", f"depth={network.depth}", f"seed={config.seed}"]
    named += [f"paths.data={quote(str(config.paths.data))}"]  # where classes are counted of a set of the user's own
    ours = flatten(complete(config.science))

    def base(*more: str) -> dict[str, Any]:
        return flatten(complete(parse(hydra.compose("train", [*named, *more])).science))

    try:
        try:
            usual = base()
        except ConfigError:  # its depth is of the other family's networks than the protocol's
            usual = {**base(f"network.family={network.family}"), "network.family": None}
    except (HydraException, ConfigError):  # a protocol or network of the user's own making is its own base
        usual = ours
    idle = {"protocol.warmup.lr"} if config.warmup_lr is None else set()  # of a warm-up that there is not
    made = []
    if (path := find_conf() / "experiment" / f"{config.study}.yaml").is_file():
        study = yaml.safe_load(path.read_text()) or {}
        fixed = flatten({group: study.get(group) or {} for group in SCIENCE})
        sweeper = (study.get("hydra") or {}).get("sweeper") or {}
        swept = {key: str(values).split(",") for key, values in (sweeper.get("params") or {}).items()}
        files = {key: [yaml.safe_load(value) for value in values] for key, values in swept.items()}
        files |= {key: [value] for key, value in fixed.items()}
        made = [key for key, value in ours.items() if value in files.get(key, ())]
    return {
        "varied": {key: value for key, value in ours.items() if usual.get(key) != value and key not in idle},
        "made_by_study": sorted(made),
    }


def task(cfg: DictConfig) -> None:
    """One run, alone; those of a sweep are started by degradation.sweep."""
    from degradation.sweep import closing_table, describe_time, find_published, is_finished
    from degradation.train.machine import resolve
    from degradation.train.plan import check, describe_grid, estimate_seconds
    from degradation.train.run import train

    try:
        config = parse(cfg)
        published, words = find_published([config], resolve(config.machine))
        if published:
            print(closing_table([*published.values()]))
            return
        todo = [] if is_finished(config) else [config]
        sizes = check(todo)
        print(describe_grid([config], 1), flush=True)
        if todo:
            print(words + describe_time(todo, estimate_seconds(todo, sizes, 1), 0, 1), flush=True)
        told = origin(config)
        if Stop.requested:  # and something on the way has swallowed what it raised
            leave()
        outcome = train(config, origin=told)
    except INPUT_ERRORS as error:
        sys.exit(_fail(error))  # not as an exception: Hydra would add lines of its own
    if outcome.exit_status:
        sys.exit(outcome.exit_status)


def _fail(error: BaseException) -> int:
    if Stop.requested:  # Hydra and OmegaConf may make an error of their own of what interrupted them
        leave()
    if isinstance(error, MissingConfigException):  # an OSError, too
        text = f"{str(error.missing_cfg_file).replace('/', '=', 1)} is not one of {', '.join(error.options or ())}"
    elif isinstance(error, OSError):
        place = f" {error.filename}" if error.filename else ""
        text = (
            f"cannot write{place} ({error.strerror or error}); name another folder with RESULTS_DIR= or paths.results="
        )
    else:
        text = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        if "not in struct" in (cause := str(error.__cause__)):
            text = f"{text} {cause.splitlines()[0]}; --help lists the settings"
        if found := re.match(r"Ambiguous value for argument '(.*)'", text):
            text = f"{found[1]} has several values, which makes it a sweep: experiments/train.py -m {found[1]}"
    print(f"error: {text}", file=sys.stderr)
    return EXIT_INPUT


HELP = """Train plain and residual networks, matched in everything but the shortcut.

  python experiments/train.py network=plain depth=56 seed=0           one network
  python experiments/train.py -m network=plain,residual depth=20,56   a sweep
  python experiments/train.py experiment=degradation_cifar            the study behind make degradation-cifar

Any setting is an override, `protocol.lr=0.05` or `network.shortcut=B`; `--cfg job` prints them
as they are composed, before the protocol is chosen and `length=` and `rate=` are applied.
"""


def quote(value: str) -> str:
    """A value as an override may hold it, whatever is in it: paths have commas, brackets and letters of any kind."""
    escaped = re.sub(r"\\*(?='|$)", lambda found: 2 * found[0], value).replace("'", "\\'")
    return f"'{escaped}'"


def list_groups() -> dict[str, list[str]]:
    """The groups of conf/, and the options of each."""
    folders = sorted(find_conf().glob("*/"))
    return {folder.name: sorted(path.stem for path in folder.glob("*.yaml")) for folder in folders}


def describe_settings() -> str:
    """The text of --help: the groups with their options, and every setting with its comment in conf/."""
    conf = find_conf()
    parts = [HELP, "Groups:", *(f"  {group}={'|'.join(options)}" for group, options in list_groups().items())]
    root = (conf / "train.yaml").read_text().partition("\n\n")[2].partition("\nhydra:")[0]
    parts += ["\nSettings of a run:\n", root]
    for option in ("network/plain", "data/cifar10", "protocol/paper", "machine/auto", "logger/wandb"):
        group, name = option.split("/")
        parts += [f"{group}.*, here those of {group}={name}:\n", (conf / f"{option}.yaml").read_text()]
    return "\n".join(parts)


def ask_cuda() -> str | None:
    """As machine.cuda_trouble, which is imported where it is asked: with torch."""
    from degradation.train.machine import cuda_trouble

    return cuda_trouble()


def choose_protocol(arguments: list[str]) -> list[str]:
    """Without a protocol on the command line: paper where torch can use a CUDA device, quick where not.

    Those of the studies called ..._imagenet are imagenet_paper and so on, of which paper needs the images, too.
    An option that its group has not is told here: Hydra would complain of something else where an axis is swept, too.
    """
    groups = list_groups()
    studies = [a.partition("=")[2] for a in arguments if a.lstrip("+").startswith("experiment=")]
    half = "imagenet_" if any(study.endswith("_imagenet") for study in studies) else ""
    chosen = []
    for argument in arguments:
        group, _, value = argument.lstrip("+").partition("=")
        known, names = groups.get(group, []), value.split(",")
        if known and not set("([") & set(value):  # of more than names
            if group == "protocol":
                names = [half + name if half + name in known else name for name in names]
            if unknown := [name for name in names if name not in known]:
                if group == "protocol" and studies:  # of the study's half of the paper, as it calls them
                    known = [n.removeprefix(half) for n in known if n.startswith("imagenet_") == bool(half)]
                raise ConfigError(f"{group}={unknown[0]} is not one of {', '.join(known)}")
            if group == "protocol":
                argument = f"protocol={','.join(names)}"
        chosen.append(argument)
    asks = any(a.startswith("-") and a not in ("-m", "--multirun") for a in chosen)  # --help, --cfg and the like
    if asks or any(a.lstrip("+").startswith("protocol=") for a in chosen):
        return chosen
    sweeps = studies or {"-m", "--multirun"} & {*arguments}
    trouble = processes.ask(ask_cuda) if sweeps else ask_cuda()
    name, why = ("quick", trouble) if trouble else ("paper", "a CUDA device is present")
    if half and name == "paper":
        said = [a.removeprefix("paths.data=") for a in chosen if a.startswith("paths.data=")]
        if find_root("imagenet", [os.environ.get("DATA_DIR", "data"), *said][-1]) is None:
            name, why = "quick", "DATA_DIR does not hold ImageNet"
    print(f"no protocol named: {half}{name}, {why}", flush=True)
    return [*chosen, f"protocol={half}{name}"]


def _leave_lazy_help_unread() -> None:
    # Python 3.14 looks for a % in every help as an option is added. Hydra's of one option is no string until printed.
    if check := getattr(argparse.ArgumentParser, "_check_help", None):

        def check_strings(parser: argparse.ArgumentParser, action: argparse.Action) -> None:
            if isinstance(action.help, str):
                check(parser, action)

        argparse.ArgumentParser._check_help = check_strings  # type: ignore[attr-defined]


def main() -> None:
    """Run, with one line on stderr and a non-zero exit status for whatever is wrong with the input."""
    if {"--help", "-h"} & {*sys.argv[1:]}:
        print(describe_settings())
        return
    wants_traceback = bool(os.environ.get("HYDRA_FULL_ERROR"))
    os.environ["HYDRA_FULL_ERROR"] = "1"  # so that Hydra hands its errors to us
    try:
        # -m first, wherever it stands: Hydra takes no further override behind it.
        arguments = sorted(sys.argv[1:], key=lambda argument: argument not in ("-m", "--multirun"))
        sys.argv[1:] = choose_protocol(arguments)
        _leave_lazy_help_unread()
        hydra.main(config_path=str(find_conf()), config_name="train", version_base="1.3")(task)()
    except INPUT_ERRORS as error:
        if wants_traceback:
            raise
        sys.exit(_fail(error))
