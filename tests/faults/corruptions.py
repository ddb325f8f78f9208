"""Corrupt records, checkpoints, weights and images, and see whether anything takes them: tried and held, by class.

    python tests/faults/corruptions.py [--checkout OTHER] [--seed 0]

Run by hand, for some minutes. It held where what was corrupted is refused in one line, or where the run ends with the
very record of an uninterrupted one.
"""

import argparse
import collections
import contextlib
import io
import json
import random
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

Change = Callable[[Path], object]
TINY = ["protocol=smoke", "data=synthetic", "network.width=2", "depth=8", "logger=none", "machine=cpu"]
TINY += ["machine.threads=1", "machine.checkpoint_seconds=0"]


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[random.randrange(len(content))] ^= 1 << random.randrange(8)
    path.write_bytes(content)


def cut(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: random.randrange(len(content))])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def binary(path: Path) -> None:
    path.write_bytes(random.randbytes(1000))


def rows(change: Callable[[list[str]], list[str]]) -> Change:
    """A change of the rows of a table below its header."""

    def write(path: Path) -> None:
        header, *lines = path.read_text().splitlines(keepends=True)
        path.write_text("".join([header, *change(lines)]))

    return write


ROWS: dict[str, Change] = {
    "no rows": rows(lambda lines: []),
    "last rows cut": rows(lambda lines: lines[: len(lines) // 2]),
    "reordered": rows(lambda lines: lines[::-1]),
    "one twice": rows(lambda lines: [lines[0], *lines]),
    "one left out": rows(lambda lines: lines[1:]),
    "numbers NaN": rows(lambda lines: [line.split(",")[0] + ",nan" * line.count(",") + "\n" for line in lines]),
    "one number": rows(lambda lines: [lines[0].replace(",0.", ",0.1", 1), *lines[1:]]),
}
ANY: dict[str, Change] = {"flipped": flip, "cut": cut, "emptied": empty, "binary": binary, "removed": Path.unlink}


def values(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def final(path: Path, **changes: Any) -> None:
    values(path, final={**json.loads(path.read_text())["final"], **changes})


def tensors(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Load, change, and save as torch does."""
    content = torch.load(path, weights_only=True)
    change(content)
    torch.save(content, path)


class Trials:
    def __init__(self, folder: Path, only: str):
        self.folder, self.only = folder, only
        self.tried: collections.Counter[str] = collections.Counter()
        self.held: collections.Counter[str] = collections.Counter()

    def add(self, kind: str, what: str, source: Path, corrupt: Change, attempt: Callable[[Path], str]) -> None:
        """Corrupt a copy and attempt to use it: an empty answer says that it held."""
        if not kind.startswith(self.only):
            return
        results = self.folder / "trial"
        shutil.rmtree(results, ignore_errors=True)
        shutil.copytree(source, results)
        corrupt(results)
        with contextlib.redirect_stdout(io.StringIO()):
            try:
                wrong = attempt(results)
            except Exception as error:
                wrong = f"{type(error).__name__}: {str(error)[:80]}"
        self.tried[kind] += 1
        self.held[kind] += not wrong
        if wrong:
            print(f"  {kind}, {what}: {wrong}", flush=True)


def main() -> int:
    """Exit status 1 where something did not hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkout", type=Path, default=Path(__file__).parents[2], help="default: this one")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="the classes whose name begins so")
    parser.add_argument("--times", type=int, default=4, help="random corruptions of each kind (default: %(default)s)")
    arguments = parser.parse_args()
    random.seed(arguments.seed)
    sys.path.insert(0, str(arguments.checkout / "src"))
    import hydra

    from degradation.config import parse
    from degradation.data.folders import IMAGENETTE_MINI, read_imagenette_mini
    from degradation.data.images import MINI, DataError, load_cifar10_mini
    from degradation.record import Record, RecordError, load_gradients, load_metrics, load_responses
    from degradation.report.table import load_table
    from degradation.train import callbacks
    from degradation.train.run import train

    callbacks.Stop.listen = classmethod(lambda cls: None)  # Ctrl-C ends the trials

    def config(results: Path, *overrides: str) -> Any:
        with hydra.initialize_config_dir(str(arguments.checkout.resolve() / "conf"), version_base="1.3"):
            return parse(hydra.compose("train", [*TINY, f"paths.results={results}", *overrides]))

    def only(results: Path) -> Path:
        return results / "runs" / config(results, "seed=0").run_id

    def read(results: Path) -> str:
        try:
            for folder in load_table(results)["folder"]:
                load_metrics(folder), load_responses(folder), load_gradients(folder)
        except RecordError as error:
            return "" if "\n" not in str(error) else "several lines"
        return "accepted"

    def resume(results: Path) -> str:
        outcome = train(config(results, "seed=0"))
        if outcome.status == "failed":
            return "" if "\n" not in outcome.message and "full trace" not in outcome.message else outcome.message
        if outcome.status != "finished":
            return outcome.status
        ours, theirs = only(results), only(whole)
        for name in ("metrics.csv", "gradients.csv", "responses.csv", "wrong.csv"):
            last = -1 if name == "metrics.csv" else None  # the seconds
            texts = [[line.split(",")[:last] for line in (f / name).read_text().splitlines()] for f in (ours, theirs)]
            if texts[0] != texts[1]:
                return f"finished, with another {name}"
        weights = [torch.load(f / "network.pt", weights_only=True) for f in (ours, theirs)]
        same = all(torch.equal(weights[0][key], weights[1][key]) for key in weights[1])
        return "" if same else "finished, with another network.pt"

    def construct(results: Path) -> str:
        outcome = train(config(results, "seed=0", "depth=14", "network.parent_depth=8"))
        return "" if outcome.status == "failed" and "full trace" not in outcome.message else outcome.status

    def images(results: Path, load: Callable[[Path], object] = load_cifar10_mini) -> str:
        try:
            load(results)
        except DataError:
            return ""
        return "accepted"

    def replaced(results: Path) -> str:
        (results / "runs").mkdir(exist_ok=True)
        first = Record(config(results, "seed=5"))
        shutil.rmtree(first.path)
        second = Record(config(results, "seed=5"))
        row = {"iteration": 4, "lr": 0.1, "train_error": 1.0}
        second.append(row)
        with contextlib.suppress(RecordError):
            first.append(row)
        lines = (second.path / "metrics.csv").read_text().splitlines()
        first.close(), second.close()
        return "" if len(lines) == 2 else "rows doubled"

    folder = Path(tempfile.mkdtemp(prefix="corruptions-"))
    whole, part = folder / "whole", folder / "part"
    with contextlib.redirect_stdout(io.StringIO()):
        for seed in (0, 1):
            assert train(config(whole, f"seed={seed}")).status == "finished"
        asked: Iterator[bool] = iter([False, False, True] * 2)
        spent, callbacks.budget_spent = callbacks.budget_spent, lambda *_: next(asked)
        for seed in (0, 1):
            assert train(config(part, f"seed={seed}")).status == "out of budget"
        callbacks.budget_spent = spent
    other = whole / "runs" / config(whole, "seed=1").run_id
    trials = Trials(folder, arguments.only)

    def each(kind: str, source: Path, names: list[str], changes: dict[str, Change], attempt: Any) -> None:
        for name in names:
            for what, change in changes.items():
                for _ in range(arguments.times if change in (flip, cut) else 1):
                    trials.add(kind, f"{name} {what}", source, lambda r: change(only(r) / name), attempt)  # noqa: B023

    tables = ["metrics.csv", "gradients.csv"]
    kept = [*tables, "responses.csv", "config.yaml", "sessions.jsonl", "summary.json"]
    each("finished: files", whole, kept, {k: v for k, v in ANY.items() if k != "removed"}, read)
    each("finished: files", whole, ["metrics.csv", "responses.csv", "config.yaml"], {"removed": Path.unlink}, read)
    each("finished: rows", whole, [*tables, "responses.csv"], ROWS, read)
    each("finished: of another", whole, kept, {"other": lambda path: shutil.copy(other / path.name, path)}, read)
    edits: dict[str, Change] = {
        "outcome=foo": lambda path: values(path, outcome="foo"),
        "another run's id": lambda path: values(path, run_id=other.name),
        "error -5": lambda path: final(path, train_error=-5),
        "error 500": lambda path: final(path, test_error=500),
        "error NaN": lambda path: final(path, test_error=float("nan")),
        "a better error": lambda path: final(path, test_error=1.0),
        "no errors": lambda path: values(path, final={}),
    }
    each("finished: numbers", whole, ["summary.json"], edits, read)

    each("checkpoint: bytes", part, ["checkpoint.ckpt"], ANY | {"flipped again": flip, "and again": flip}, resume)
    weights = "state_dict"
    edited: dict[str, Change] = {
        "iteration": lambda path: tensors(path, lambda c: c["progress"].update(iteration=8)),
        "NaN weights": lambda path: tensors(path, lambda c: c[weights]["network.stem.weight"].fill_(float("nan"))),
        "other weights": lambda path: tensors(path, lambda c: c[weights]["network.stem.weight"].mul_(2)),
        "no optimizer": lambda path: tensors(path, lambda c: c.pop("optimizer_states")),
        "no progress": lambda path: tensors(path, lambda c: c.pop("progress")),
        "of another run": lambda path: shutil.copy(part / "runs" / other.name / path.name, path),
    }
    each("checkpoint: edited", part, ["checkpoint.ckpt"], edited, resume)
    each("unfinished: rows", part, tables, {**ROWS, **ANY}, resume)

    each("parent: bytes", whole, ["network.pt"], {**ANY, "flipped again": flip}, construct)
    strange: dict[str, Change] = {
        "another seed's": lambda path: shutil.copy(other / path.name, path),
        "other weights": lambda path: tensors(path, lambda c: c["stem.weight"].mul_(2)),
        "unfinished": lambda path: path.with_name("summary.json").unlink(),
        "NaN": lambda path: tensors(path, lambda c: c["bn.running_var"].fill_(float("nan"))),
    }
    each("parent: strange", whole, ["network.pt"], strange, construct)

    def swap(results: Path) -> None:
        (results / "train-00.webp").rename(results / "x")
        (results / "train-01.webp").rename(results / "train-00.webp")
        (results / "x").rename(results / "train-01.webp")

    for _ in range(arguments.times):
        for name in ("train-03.webp", "test-01.webp", "train.csv"):
            trials.add("images", f"{name} flipped", MINI, lambda r: flip(r / name), images)  # noqa: B023
    trials.add("images", "strips swapped", MINI, swap, images)
    for name in ("train.csv", "test.csv"):
        label = lambda r: (r / name).write_text((r / name).read_text().replace(",3\n", ",5\n", 1))  # noqa: B023, E731
        trials.add("images", f"{name} label", MINI, label, images)
    for name in ("train.zip", "val.zip"):
        for what, change in ANY.items():
            for _ in range(arguments.times if change in (flip, cut) else 1):
                zips = (IMAGENETTE_MINI, lambda r: change(r / name), lambda r: images(r, read_imagenette_mini))  # noqa: B023
                trials.add("images: zips", f"{name} {what}", *zips)
    trials.add("folder in use", "removed, begun again", whole, lambda _: None, replaced)

    shutil.rmtree(folder)
    for kind in trials.tried:
        print(f"{kind:<24} tried {trials.tried[kind]:>3}   held {trials.held[kind]:>3}")
    print(f"{'all':<24} tried {trials.tried.total():>3}   held {trials.held.total():>3}")
    return int(trials.tried != trials.held)


if __name__ == "__main__":
    sys.exit(main())
