"""Add your finished records to results/published/, and rebuild its pages.

A record is evidence where others can repeat it: it is finished (or diverged, which is an outcome), was made by a commit
without changes, and belongs to a study. Whatever else is named is refused, and nothing is published. A long run that is
not finished can be published with its checkpoint (--unfinished), for others, or another machine, to go on with: it is
shown apart, and its record takes its place.
"""

import degradation.script  # isort: skip  # noqa: F401  first of all
import json
import re
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from report import report
from reproductions import unmeasured, write_page

from degradation.config import ConfigError, find_published, find_records, refuse_published
from degradation.ending import Parser
from degradation.record import (
    RecordError,
    can_go_on,
    check_identity,
    copy_unfinished,
    count_done,
    load_unfinished,
    name_precision,
    read_sessions,
    read_summary,
    read_varied,
)
from degradation.report.imagenet import path_of_tests
from degradation.report.table import find_results, load_table, probes_folder
from degradation.report.verdicts import ClaimError, list_studies

ASIDE = (".lock", "checkpoint.ckpt", "network.pt")  # of a record, what stays on the machine that made it


class PublishError(Exception):
    """What was named is not evidence, or is there already; the message says which and why."""


def check_sessions(folder: Path) -> None:
    """A PublishError where a process that worked on a run was of modified or unknown code, or of no study."""
    for session in read_sessions(folder):
        check_commit(session, folder.name)
        if session.get("study", "degradation_cifar") not in list_studies():  # which younger records tell
            raise PublishError(f"{folder.name} belongs to no study of conf/experiment (study={session['study']})")


def check_commit(described: dict[str, Any], name: str) -> None:
    commit = str(described.get("commit", "unknown"))
    if commit == "unknown" or commit.endswith("-dirty"):
        raise PublishError(
            f"{name} was made by modified or unknown code (commit {commit}); run it from a clean checkout"
        )


def has_weights(summary: dict[str, Any], config: dict[str, Any]) -> bool:
    """Whether weights are published, too: of seed 0 of the default grid, at quick and at the paper's protocol."""
    grid = config["network"]["depth"] in (20, 56)  # of 110 layers they are 7 MB each
    protocols = ("quick", "paper")
    return config["protocol"]["name"] in protocols and grid and config["seed"] == 0 and not read_varied(summary)


def check_run(folder: Path, replace: bool) -> None:
    """A PublishError where a record is not evidence, or is there already."""
    summary = read_summary(folder)
    check_commit(summary, folder.name)
    check_sessions(folder)
    check_probes(folder, summary)
    if summary.get("study") not in list_studies():
        raise PublishError(f"{folder.name} belongs to no study of conf/experiment (study={summary.get('study')})")
    if any(not can_go_on(twin) for twin in find_twins(summary)) and not replace:
        raise PublishError(f"{folder.name} is published already; --replace puts yours in its place")


def check_probes(folder: Path, summary: dict[str, Any]) -> None:
    """A PublishError where what was measured of a run was by modified or unknown code, or of other weights."""
    if (path := probes_folder(folder) / "probe.json").exists():
        described = json.loads(path.read_text())
        check_commit(described, str(path))
        ours, theirs = summary["seal"].get("network.pt"), described.get("weights")
        if theirs and ours != theirs:
            raise PublishError(f"{path} is of other weights than {folder.name} has; probe it again, or delete {path}")
    if (tested := path_of_tests(folder)).exists():
        for commit in pd.read_csv(tested)["commit"].unique():
            check_commit({"commit": commit}, str(tested))


def find_twins(told: Mapping[str, Any] | pd.Series) -> list[Path]:
    """What is published of the same run, in the same precision on such a device: one folder, or none."""
    there = find_records(find_published(), told["run_id"])
    return [folder for folder in there if folder.parent.name == name_precision(told)]


def check_unfinished(folder: Path, runs: pd.DataFrame) -> None:
    """A PublishError where a folder holds no unfinished run that others can go on with, or less than is published."""
    if not can_go_on(folder) or folder not in set(runs.get("folder", [])):
        raise PublishError(f"{folder} holds no unfinished run with a checkpoint and rows of metrics")
    told = runs[runs["folder"] == folder].iloc[0]
    check_sessions(folder)
    if any(not can_go_on(twin) or count_done(twin) > told["iteration"] for twin in find_twins(told)):
        raise PublishError(f"{folder.name} is published already, and further")


def publish_unfinished(folder: Path, runs: pd.DataFrame) -> None:
    """Copy a run with its checkpoint, in place of what was published when it was less far."""
    told = runs[runs["folder"] == folder].iloc[0]
    target = find_published() / "runs" / name_precision(told) / folder.name
    shutil.rmtree(partial := target.with_name(f".{folder.name}.partial"), ignore_errors=True)
    copy_unfinished(folder, partial)
    for twin in find_twins(told):
        shutil.rmtree(twin)
    partial.rename(target)


def publish_run(folder: Path) -> None:
    """Copy a record, and what experiments/probe.py and evaluate.py measured of it, to those of its precision."""
    config, summary = check_identity(folder), read_summary(folder)
    target = find_published() / "runs" / name_precision(summary) / folder.name
    kept, twins = {"network.pt"} if has_weights(summary, config) else set(), find_twins(summary)
    copy(folder, target, tuple(name for name in ASIDE if name not in kept))
    for twin in twins:
        shutil.rmtree(probes_folder(twin), ignore_errors=True)  # of other weights
        path_of_tests(twin).unlink(missing_ok=True)
        if twin != target:
            shutil.rmtree(twin)
    if (probed := probes_folder(folder)).is_dir():
        copy(probed, probes_folder(target), ())
    if (tested := path_of_tests(folder)).exists():
        (there := path_of_tests(target)).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(tested, there)


def copy(source: Path, target: Path, aside: tuple[str, ...]) -> None:
    """A whole folder or nothing, in place of the one that was there."""
    partial, former = (target.with_name(f".{target.name}.{word}") for word in ("partial", "former"))
    for folder in (partial, former):
        shutil.rmtree(folder, ignore_errors=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copytree(source, partial, ignore=shutil.ignore_patterns(*aside))
    if target.exists():
        target.rename(former)
    partial.rename(target)
    shutil.rmtree(former, ignore_errors=True)


def main() -> int:
    """Exit status 2, with one line and nothing published, where what is named is not evidence."""
    parser = Parser(__doc__)
    parser.add_argument(
        "runs", nargs="*", help="names of folders in results/runs; `all` for every one that is evidence"
    )
    parser.add_argument("--results", type=Path, default=find_results(), help="yours (default: %(default)s)")
    parser.add_argument("--replace", action="store_true", help="also what is published already")
    parser.add_argument("--unfinished", nargs="+", default=[], help="names of folders of runs that are not finished")
    parser.add_argument("--also", nargs="+", default=[], help="bench/<device> or reproductions, from the same folder")
    arguments = parser.parse_args()
    published = find_published()
    try:
        refuse_published(arguments.results)
        every = arguments.runs == ["all"]
        found = sorted(path.parent for path in arguments.results.glob("runs/*/summary.json"))
        chosen = []
        for folder in found if every else [arguments.results / "runs" / name for name in arguments.runs]:
            try:
                check_run(folder, arguments.replace)
                chosen.append(folder)
            except PublishError as error:
                if not every:
                    raise
                print(f"left out: {error}")
        on_the_way = [arguments.results / "runs" / name for name in arguments.unfinished]
        unfinished = load_unfinished(arguments.results)
        for folder in on_the_way:
            check_unfinished(folder, unfinished)
        for name in arguments.also:
            if not re.fullmatch(r"bench/[\w-]+|reproductions", name):
                raise PublishError(f"--also {name} is neither bench/<device> nor reproductions")
            if not (described := list((arguments.results / name).rglob("*.json"))):
                raise PublishError(f"{arguments.results / name} holds nothing that was measured")
            for path in described:
                told = json.loads(path.read_text())
                check_commit(told, str(path))
                if not told.get("whole", True):
                    raise PublishError(f"{path} is of a part of a benchmark; measure the whole")
            if name == "reproductions" and (lacking := unmeasured(arguments.results / name)):
                raise PublishError(f"{arguments.results / name} lacks {', '.join(lacking)}; measure all before")
        for name in arguments.also:
            copy(arguments.results / name, published / name, ())
            print(f"published {name}")
        for folder in chosen:
            publish_run(folder)
            print(f"published {folder.name}")
        for folder in on_the_way:
            publish_unfinished(folder, unfinished)
            print(f"published {folder.name}, unfinished")
        write_page(published / "reproductions")
        print(report(published, load_table(published)))
    except (PublishError, RecordError, ClaimError, ConfigError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
