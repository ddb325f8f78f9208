"""The generated pages: the gallery (what was run, and its figures) and claims.md, the verdicts.

The gallery of the published evidence is results/published/README.md, that of a user's own runs results/gallery.md.
"""

import inspect
import math
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from degradation.config import describe_varied, find_published
from degradation.record import write_atomically
from degradation.report import compare, imagenet
from degradation.report.draw import describe
from degradation.report.figures import FIGURES, UNFINISHED, caption_of, title_of
from degradation.report.forest import SECTIONS, deviations, section_of, standardise, value_of
from degradation.report.studies import tabulate_by_settings
from degradation.report.table import (
    PROTOCOLS,
    TABLE6,
    by_name,
    condition_folder,
    conditions,
    describe_probe,
    load_others,
    load_others_claims,
    load_probe,
    own_settings,
    paired_differences,
    select,
    table6,
    unfinished_runs,
)
from degradation.report.verdicts import CONF, Verdict, judge, load_claims

GALLERY = """# {title}

Generated from records; do not edit. A finished record holds its config, metrics, layer responses, and a summary with\
 hardware, versions and commit.

Training error is running unless eval mode is named. Running training error is that of the augmented mini-batches of\
 the last epoch, or of the last `evaluate_every` iterations where those are more, with BN in training mode. Training\
 error in eval mode is measured after the last iteration, on un-augmented images, with BN's moving averages. Test error\
 is in eval mode. Nothing is selected on the test set.

Where a panel shows several networks, plain networks are red with round markers and residual networks are blue with\
 square ones; the deeper a network, the darker its colour. Dashed lines are training error, solid lines anything else.\
 Whatever else is compared is black and grey.

[claims.md](claims.md) judges the paper's claims from these records."""
OTHERS = """## Networks that others trained

These networks were trained by others, at the full length of the paper's schedule, and measured by this code. Each\
 point or line is one network. [reproductions]({folder}/README.md) says whose they are, and holds every number, the\
 claims judged on them, and what is inside them.

{curves}![networks that others trained: training and test error by depth]({folder}/error_by_depth.png)"""
TABLE1 = """Table 1: the ImageNet networks

The numbers are for networks at full width, for one image of 224 pixels, with the stride of a bottleneck in its first\
 1x1. The small protocols have fewer channels and pixels. Networks without shortcuts and networks with option A have\
 equal numbers of parameters. VGG is as torchvision builds it: the paper's 15.3 for VGG-16 counts the convolutions\
 alone, its 19.6 for VGG-19 counts the fully connected layers, too."""
ON_THE_WAY = """## Not finished yet

These runs are on their way. They are no evidence, and they are in no other figure or table. Training error (running)\
 and test error are those so far."""
GO_ON = """To continue these runs from where they stand, in your own `results/` (on a device of the same kind; another\
 processor gives other last digits):"""
OWN_CLAIMS = """The verdicts on the published records are in [{page}/claims.md]({page}/claims.md). `make claims` judges\
 your runs and the published ones together."""
GLANCE = """The tables give every claim's verdict in a word, by protocol, precision and kind of device: runs are\
 compared only within one protocol, one precision and one kind of device. Only verdicts at the paper's protocol are\
 about the paper's claim as it stands. Numbers, intervals and notes follow below, protocol by protocol, and\
 [how it is judged](#how-it-is-judged) at the end. What a protocol must reach for a claim to be testable was\
 mostly written when runs had been seen, as the rows below say. One seed takes a side and decides nothing. The same\
 holds for the networks that [others trained]({folder}/reproductions/README.md#the-claims) at the length of the\
 paper's schedule, one author's or two's."""
CLAIMS = """## How it is judged

Generated from records; do not edit.

- Each claim has a statistic, which gives one number per seed, and a threshold. Both are stated in its study's file
  in `conf/experiment/`.
- A claim is **supported** if the whole 95 % interval of the mean over seeds lies on the claimed side of the
  threshold, **refuted** if all of it lies on the other side, and undecided otherwise. The interval is Student's t;
  for ratios, the mean is the geometric mean. For shares, the interval is Fieller's, and there is none for shares of
  a gap or gain that is not above 0. The number of seeds that would decide is that of a t-test of power 0.8, given as
  the fewest and the most that the 80 % interval of the spread allows, before the correction for many claims.
- The primary claims are C1, C3, C4 (start) and C4 (not found). The last of these is C1 at two depths, and was made
  primary when three seeds of quick were known. All other claims that are judged at a protocol in one precision are
  corrected by Holm's method: what would be decided alone may be undecided among many. Seeds may be added where the
  first ones left a claim undecided, as the fourth of imagenet_quick was. The intervals do not count such looks.
- A claim is **not testable** at a protocol that does not reach what the claim is about; the side on which its mean
  lies is told all the same. A claim is **exploratory**, until other seeds confirm it, if its statistic, threshold or
  condition was written or changed when more was known than the end of this page says.
- The slope of C1 is that of a line through all depths up to 110, even where the deepest networks are at the error of
  guessing, which no depth exceeds. This makes the slope flatter, and its interval narrower, than those of a line
  through the shallower depths.
- Runs are compared at equal seed, in equal precision and on the same kind of device (`bf16-cuda` is another
  precision than `bf16`, which is a CPU's). A run that diverged counts with the error of guessing, and as never
  having reached an error (C9 at a stated error, where the row says in how many pairs that is the second
  network, as this favours the claim; where C9 is at a share of a network's own way, the pair says nothing). It
  has no responses, gradients or lesions to compare.
- Training error is the running one, over the last epoch, or over the last `evaluate_every` iterations where those
  are more. Errors that are reached (C9) are over an epoch, too. Where training error in eval mode would be judged
  differently, before the correction, the row says so.
- Some claims compare kinds of run at their best rates. Shares of the gap between two networks use, for each seed,
  the rate that is best for the other seeds. So the values of different seeds rest in part on the same seeds, and
  where rates hardly differ the interval is too narrow. Simulated with three equal rates and a share at its
  threshold, 7 % of cases were decided with two seeds, 9 % with three and 12 % with five, instead of 5 %. C1 (best
  rate) and C11 (best rate) use each seed's own best rate, which favours every kind alike. A best rate that is the
  lowest or highest of those that were run may not be the best there is; the row then says so.
- All seeds share the N test images, and the choice of these images adds to the variance of the mean of a test error
  (with the factor 1.96 in the interval, where the spread of seeds has Student's t). Where all records say which
  images are wrong (`wrong.csv`), it adds the variance over images of what the statistic makes of each image, divided
  by N. Otherwise it adds p (100 - p) / N for every kind of run, p being its test error in percent, times the square
  of its weight in the statistic, as if each kind erred on images of its own. As they err on the same images, this is
  on the careful side, and small differences between good networks (C8, C10) can hardly be supported this way.
  Lesions and linear probes are measured on few test images, which are the same for all seeds. Their intervals do not
  count this choice of images: they are of the seeds alone.
- Responses (C6, C7) are with BN statistics averaged over the training set, in float32; where it says so, they are
  with moving averages. Networks with recalibrated lesions are compared with the whole network recalibrated, or,
  where an earlier table lacks that, with the whole network as it was evaluated.
- A verdict belongs to its protocol: only verdicts at the paper's protocol are about the paper's claim as it stands.

Most thresholds are the sign that the paper claims (0, or a ratio of 1). The thresholds for CIFAR-10 were written
when seed 0 of the quick grid and depth 20 at short had been run, and nothing else. Where a threshold, what a claim
needs to be testable, or how it is measured was written or changed later, the claim names the seeds that were known
(`seen:`), and is exploratory on these. For ImageNet, C9's level of 70 % and the quick protocol itself were chosen
with trials of one seed at hand, the protocol as the one of several that showed the effect best. What C14 (residual)
needs to be testable was chosen with three seeds at hand. None of these was written with a number of the paper's
protocol at hand."""

NOT_JUDGED = """Not judged at this protocol, in this precision. These claims were not run, or were run at too few\
 seeds (most best rates are those of the other seeds) or too few rates, or by a version that did not measure them yet.

"""


def _cell(value: Any) -> str:
    if pd.isna(value):
        return ""
    if isinstance(value, float):
        return f"{value:.2f}"
    return f"{value:,}" if isinstance(value, int) and value > 9999 else str(value)


def markdown_table(table: pd.DataFrame, titles: dict[str, str] | None = None) -> str:
    """A table in Markdown, numbers to two decimals, absent values empty; of the columns in `titles`, if given."""
    titles = titles or {column: column for column in table}
    rows = [[_cell(value) for value in row] for row in table[list(titles)].astype(object).itertuples(index=False)]
    lines = [list(titles.values()), ["---"] * len(titles), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _write(path: Path, parts: Iterable[str]) -> Path:
    write_atomically(path, "\n\n".join(part for part in parts if part) + "\n")
    return path


def _link(results: Path, path: Path) -> str:
    return Path(os.path.relpath(path, results)).as_posix()


def _anchor(heading: str) -> str:
    # As GitHub makes it from a heading.
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def _pictures(results: Path, folder: str, table: pd.DataFrame) -> Iterable[str]:
    bearing: dict[str, list[str]] = {}
    for claim in (verdict.claim for verdict in judge(load_claims(), table) if verdict.effects):
        bearing.setdefault(claim.figure, []).append(claim.id)
    for name in FIGURES:
        picture = f"figures/{folder}/{name}"
        if (results / f"{picture}.png").exists():
            title, drawing = title_of(name), f"{FIGURES[name].__module__}.{FIGURES[name].__name__}"
            above, rest = [*re.split(r"(?<=\.) (?=[A-Z])", caption_of(name), maxsplit=1), ""][:2]
            if name in bearing:
                above += f" Bears on {', '.join(bearing[name])} of [claims.md](claims.md)."
            formats = ", ".join(f"[{kind.upper()}]({picture}.{kind})" for kind in ("svg", "pdf"))
            below = f"{rest} {formats}, drawn by `{drawing}`.".strip()
            yield f"### {title}\n\n{above.strip()}\n\n![{title}]({picture}.png)\n\n{below}"


def _half(runs: pd.DataFrame) -> str:
    return str(runs["network.family"].iloc[0])


def _machine(precision: str) -> str:
    # What record.name_precision names, as overrides.
    bare, _, device = precision.partition("-")
    return f"machine.device={device or 'cpu'} machine.precision={bare}"


def _is_named(protocol: str) -> bool:
    # Whether a command can name it.
    return (CONF / "protocol" / f"{protocol}.yaml").exists()


def _section(results: Path, condition: str, table: pd.DataFrame, compared: pd.DataFrame | None) -> list[str]:
    folder, runs, protocol = condition_folder(condition), select(table, {}), table["protocol"].iloc[0]
    parts, others = [f"## Protocol {condition}"], load_others(_evidence(results))
    if len(runs):
        depths, seeds = (",".join(map(str, sorted(runs[column].unique()))) for column in ("depth", "seed"))
        # What a variant's runs share, as overrides: no spaces within a list.
        shared = re.sub(r",\s+(?=[^\[\]]*\])", ",", runs["variation"].iloc[0]).replace(", ", " ")
        shared = f"{_machine(runs['precision'].iloc[0])} {shared}".strip()
        grid = f'PROTOCOL={protocol} DEPTHS={depths} SEEDS={seeds} ARGS="{shared}"'
        command = f"make degradation-{_half(runs)} {grid.replace('imagenet_', '')}"
        beside = " (the grid; experiments/README.md says what the other records are of, and how they are made)"
        told = f"Reproduce: `{command}`{beside * (len(table) > len(runs))}"
        parts += [f"{describe(runs)}.", told * _is_named(protocol)]
    if compared is not None:
        parts.append(_comparison(results, folder, compared, others))
    parts += _pictures(results, folder, table)
    parts += _by_settings(results, folder, table)
    note = "" if protocol == "paper" else f" The others are of the paper's schedule, not of protocol {protocol}."
    for title, told, shown in imagenet.sections(condition, table):
        parts.append(f"### {title}\n\n{told}\n\n{markdown_table(shown)}")
    if len(found := table6(table)):
        shown = found.merge(others, "left", left_on="network", right_index=True)
        titles = {**TABLE6, **_authors(others)}
        told = f"Our numbers are of the final iteration.{note}\n\n{markdown_table(shown, titles)}"
        parts.append(f"### Table 6, ours beside the paper's and others'\n\n{told}")
    pairs = paired_differences(table).groupby("depth")["difference"].agg(["count", "mean", "std"]).reset_index()
    if len(pairs):
        titles = {"depth": "depth", "count": "n pairs", "mean": "plain minus residual (points)", "std": "std"}
        told = "Difference in training error (running) at equal seed, plain minus residual."
        parts.append(f"### Matched pairs\n\n{told}\n\n{markdown_table(pairs, titles)}")
    runs = table.sort_values(["variation", "network", "depth", "seed"])
    records = [
        f"[{f'{run.label} {describe_varied(run.varied)}'.strip()} seed {run.seed}]({_link(results, run.folder)}/)"
        for run in runs.itertuples()
    ]
    listing = runs.assign(minutes=runs["seconds"] / 60, run=records)
    shown = markdown_table(listing[["run", "study", "outcome", "precision", "minutes", "commit"]])
    return [*parts, f"### Records\n\n<details><summary>{len(runs)} runs</summary>\n\n{shown}\n\n</details>"]


def _unfinished(results: Path, runs: pd.DataFrame, ours: bool) -> str:
    # The runs that are on their way, protocol by protocol; those that are published anyone can go on with.
    parts = [ON_THE_WAY]
    for protocol, part in runs.groupby("protocol", sort=False):
        picture = f"figures/{protocol}/{UNFINISHED}.png"
        if (results / picture).exists():
            parts.append(f"![protocol {protocol}: curves so far]({picture})")
        at = [f"{at:,} of {end:,}" for at, end in part[["iteration", "iterations"]].itertuples(index=False)]
        names = (part["label"] + " " + part["told"]).str.strip() + " seed " + part["seed"].astype(str)
        named = zip(names, part["folder"], strict=True)
        shown = part.assign(at=at, run=[f"[{name}]({_link(results, folder)}/)" for name, folder in named])
        titles = {"run": "run", "protocol": "protocol", "precision": "precision", "at": "iterations"}
        titles |= {"train_error": "training error (%)", "test_error": "test error (%)", "commit": "commit"}
        parts.append(markdown_table(shown, titles))
        if ours:
            commands = "\n".join(_go_on(str(protocol), part[part["told"] == ""]))
            parts.append(f"{GO_ON}\n\n```\n{commands}\n```" if commands else "")
    return "\n\n".join(part for part in parts if part)


def _go_on(protocol: str, runs: pd.DataFrame) -> Iterable[str]:
    # A command for all runs of a precision (and so of a device) where these are a grid, else for each.
    axes = ["network", "depth", "seed"]
    for precision, part in runs.groupby("precision"):
        whole = math.prod(part[axis].nunique() for axis in axes) == len(part)
        for _, some in [("", part)] if whole else part.groupby(axes):
            grid = " ".join(f"{axis}={','.join(map(str, sorted(some[axis].unique())))}" for axis in axes)
            rest = f"protocol={protocol} study=degradation_{_half(runs)} {_machine(str(precision))}"
            yield f"python experiments/train.py -m {grid} {rest} paths.published=results/published"


def _by_settings(results: Path, folder: str, table: pd.DataFrame) -> Iterable[str]:
    errors = {"train_error": "training error (%)", "test_error": "test error (%)"}
    titles = {"value": "value", "network": "network", "depth": "depth", "n": "n"}
    for error, text in errors.items():
        titles |= {f"{error}_mean": text, f"{error}_std": "std over seeds"}
    for settings in own_settings(table):
        picture = f"figures/{folder}/{by_name(settings)}.png"
        if (results / picture).exists():
            image = f"![final errors by {', '.join(settings)}]({picture})"
            shown = markdown_table(tabulate_by_settings(table, settings), titles)
            yield f"### By {', '.join(settings)}\n\n{image}\n\n{shown}"


def _authors(others: pd.DataFrame) -> dict[str, str]:
    return {author: f"trained by {author}, test error (%)" for author in others}


def _comparison(results: Path, folder: str, rows: pd.DataFrame, others: pd.DataFrame) -> str:
    rows = rows.dropna(axis="columns", how="all")
    titles = {
        "network": "network",
        "n": "n, yours",
        "train_error": "training error, yours (%)",
        "test_error": "test error, yours (%)",
        "published_n": "n, published",
        "train_error_mean": "training error, published (%)",
        "train_error_std": "std over seeds",
        "test_error_mean": "test error, published (%)",
        "test_error_std": "std over seeds (test)",
        "paper": "the paper's test error (%)",
        **_authors(others),
        "verdict": "verdict",
    }
    shown = markdown_table(rows, {column: title for column, title in titles.items() if column in rows})
    picture = f"figures/{folder}/comparison.png"
    image = f"![yours beside the published runs]({picture})" if (results / picture).exists() else ""
    told = "\n".join(f"- {compare.sentence(row)}" for row in rows.to_dict("records"))
    rule = f"{inspect.getdoc(compare) or ''}".partition("\n\n")[2]
    return "\n\n".join(part for part in ("### Yours beside the published", rule, told, image, shown) if part)


def _evidence(results: Path) -> Path:
    # Where the tables of networks that others trained, and the benchmarks, are: here, or with the published records.
    return results if (results / "reproductions").is_dir() else find_published()


def write_gallery(results: Path, table: pd.DataFrame, compared: dict[str, pd.DataFrame] | None = None) -> Path:
    """Write the gallery of these runs: README.md of the published evidence, gallery.md elsewhere.

    Args:
        table: of load_table.
        compared: by condition, the user's own runs beside the published, as compare.compare gives them.
    """
    ours = results.resolve() == find_published().resolve()
    opening, parts = [GALLERY.format(title="Published results" if ours else "Results")], list[str]()
    if (others := _evidence(results) / "reproductions" / "README.md").exists():
        folder = _link(results, others.parent)
        logged = f"![Fig. 6 at full length, as its author logged it]({folder}/fig6.png)\n\n"
        parts.append(OTHERS.format(folder=folder, curves=logged * (others.parent / "fig6.png").exists()))
    for condition, runs in conditions(table):
        parts += _section(results, condition, runs, (compared or {}).get(condition))
    if len(unfinished := unfinished_runs(results)):
        parts.append(_unfinished(results, unfinished, ours))
    if "imagenet" in set(table.get("network.family", [])):
        parts.append(f"## {TABLE1}\n\n{markdown_table(imagenet.table1(), imagenet.TABLE1)}")
    headings = [part.removeprefix("## ") for part in (p.partition("\n")[0] for p in parts) if part.startswith("## ")]
    opening.append("\n".join(f"- [{heading}](#{_anchor(heading)})" for heading in headings))
    if (results / "figures" / "matched_pair.png").exists():
        opening.append("![the matched pair: a plain block and its residual twin](figures/matched_pair.png)")
    for page in sorted(results.glob("bench/*/README.md")):
        opening.append(f"Training speed, measured: [bench/{page.parent.name}](bench/{page.parent.name}/README.md).")
    empty = "" if len(table) else "No finished run yet: `make degradation-cifar`."
    return _write(results / ("README.md" if ours else "gallery.md"), [*opening, *parts, empty])


def _is_single(verdict: Verdict) -> bool:
    # Of one seed, which decides nothing.
    return len(verdict.effects) == 1 and not math.isinf(verdict.low)


def _judgement(verdict: Verdict, protocol: str) -> str:
    theirs = protocol.removeprefix("imagenet_").startswith("paper")
    qualified = verdict.verdict if theirs else f"{verdict.verdict} ({protocol})"
    if verdict.verdict == "not testable":
        seen = verdict.claim.seen.get(protocol.partition(" ")[0], [])
        plural = "s" * (len(seen) > 1)
        known = f" (a condition written when seed{plural} {', '.join(map(str, seen))} of this protocol had been seen)"
        needed = f"not testable at this protocol ({protocol}): needs {'; '.join(verdict.notes)}{known * bool(seen)}"
        return f"{needed}; as it is, {_on_side(verdict)}" if len(verdict.effects) > 1 else needed
    if _is_single(verdict):
        return "; ".join([_on_side(verdict), *verdict.notes])
    if verdict.verdict == "undecided" and verdict.seeds_needed:
        few, many = verdict.seeds_needed
        number = f"{few} to {many}" if few < many <= 100 else f"{few}" if many <= 100 else f"{few} or many more"
        return "; ".join([f"{qualified}; {number} seeds would decide", *verdict.notes])
    return "; ".join([qualified if verdict.verdict == "undecided" else f"**{qualified}**", *verdict.notes])


def _fold(summary: str, text: str) -> str:
    return f"<details><summary>{summary}</summary>\n\n{text}\n\n</details>"


def _side(verdict: Verdict) -> str:
    distance = standardise(verdict)[1]
    return "claimed side" if distance > 0 else "other side" if distance < 0 else "at the threshold"


def _on_side(verdict: Verdict) -> str:
    side = _side(verdict)
    return f"on the {side}" if side.endswith("side") else side


def _in_a_word(verdict: Verdict | None) -> str:
    if verdict is None:
        return ""
    if verdict.verdict == "not testable":
        return f"not testable ({_side(verdict)})" if len(verdict.effects) > 1 else "not testable"
    if _is_single(verdict):
        return f"{_side(verdict)}, n = 1"
    exploratory = ", exploratory" if any(note.startswith("exploratory") for note in verdict.notes) else ""
    return verdict.verdict if verdict.verdict == "undecided" else f"**{verdict.verdict}**{exploratory}"


def _agreement(agree: int, of: int) -> str:
    word = "agrees" if agree == of else "disagrees" if not agree else f"{agree} of {of} agree"
    return f"{word}, n = {of}" if of and agree in (0, of) else word if of else ""


def _glance(judged: dict[str, dict[str, Verdict]], others: dict[str, tuple[int, int]]) -> Iterable[str]:
    # By condition and claim: a table of the networks for CIFAR-10, one of those for ImageNet, by sections of the paper.
    stated = load_claims()
    for family, data in (("cifar", "CIFAR-10"), ("imagenet", "ImageNet")):
        claims = [claim for claim in stated if claim.family == family]
        shown = {name: found for name, found in judged.items() if any(claim.id in found for claim in claims)}
        if not shown:
            continue
        rows = []
        for section in SECTIONS:
            lines = []
            for claim in (claim for claim in claims if section_of(claim.id) == section):
                told = {"others": _agreement(*others.get(claim.id, (0, 0)))} if family == "cifar" and others else {}
                told |= {name: _in_a_word(found.get(claim.id)) for name, found in shown.items()}
                if any(told.values()):
                    lines.append({"claim": f"{claim.id}: {claim.sentence}", **told})
            rows += [{"claim": f"**{section}**"}, *lines] if lines else []
        titles = {"claim": "claim", "others": "networks of others, full length"}
        titles |= {name: f"[{name}](#{_anchor(f'Protocol {name}')})" for name in shown}
        table = pd.DataFrame(rows)
        missing = [claim.id for claim in claims if claim.id not in {*others}.union(*shown.values())]
        none = f"For these claims there is no verdict yet: {', '.join(missing)}." if missing else ""
        titles = {column: title for column, title in titles.items() if column in table}
        yield "\n\n".join(part for part in (f"### {data}", markdown_table(table, titles), none) if part)


def verdict_table(verdicts: list[Verdict], condition: str, results: Path) -> pd.DataFrame:
    """A row for each claim that was judged, in the words of results/claims.md."""
    rows = []
    for verdict in verdicts:
        claim = verdict.claim
        picture = f"figures/{condition_folder(condition)}/{claim.figure}.png"
        row = {
            "claim": f"{claim.id}: {claim.sentence}",
            "mean [95 % interval], n": f"{value_of(verdict)}, n = {len(verdict.effects)}",
            "verdict": _judgement(verdict, condition),
            "figure": f"[{claim.figure}]({picture})" if claim.figure and (results / picture).exists() else "",
        }
        rows.append(row)
    return pd.DataFrame(rows)


def _not_judged(verdicts: list[Verdict], protocol: str, precision: str) -> str:
    # What each study still lacks, with its cost as its file states it, and the command.
    lacking: dict[tuple[str, ...], list[str]] = {}
    for verdict in verdicts:
        if not verdict.effects:
            lacking.setdefault((*verdict.claim.needs, verdict.claim.study), []).append(verdict.claim.id)
    lines = []
    for studies, ids in lacking.items():
        header = (CONF / "experiment" / f"{studies[-1]}.yaml").read_text().replace("\n# ", " ")
        cost = re.search(r"Costs[:,]? (.*?)\.(?=\s)", header)
        asked = f"--studies {','.join(studies)} {_machine(precision)}"
        command = f'`make claims PROTOCOL={protocol.removeprefix("imagenet_")} ARGS="{asked}"`'
        todo = command if _is_named(protocol) else f"the studies {', '.join(studies)}"
        lines.append(f"- {', '.join(ids)}: {todo}" + (f" (cost of {studies[-1]}: {cost[1]})" if cost else ""))
    return NOT_JUDGED + "\n".join(lines) if lines else ""


def _constructed(table: pd.DataFrame) -> str:
    rows = []
    for (network, depth), runs in select(table, {}).groupby(["network", "depth"]):
        probed = {folder: found for folder in runs["folder"] if len(found := load_probe(folder, "constructed"))}
        for deep, part in pd.concat(probed.values()).groupby("depth") if probed else ():
            row = {
                "trained network": f"{network}-{depth}",
                "deepened to": str(deep),
                "n": len(probed),
                "largest difference": f"{part['largest_difference'].max():.1e}",
                "equal test error": "yes" if (part["error"] == part["parent_error"]).all() else "no",
                "test images": min(describe_probe(folder)["probes"]["constructed"] for folder in probed),
            }
            rows.append(row)
    if not rows:
        return ""
    return (
        "### The constructed solution before any training\n\nEach row compares a trained network with the deeper one"
        " that identity layers make of it, in float32 and eval mode. The largest difference is that of any logit, as a"
        f" fraction of the largest logit, in the worst seed of n.\n\n{markdown_table(pd.DataFrame(rows))}"
    )


def _ledger(results: Path, condition: str, table: pd.DataFrame) -> str:
    changes = deviations(table)
    if changes.empty:
        return ""
    groups = changes.groupby(["variation", "depth", "network", "kind"])["change"]
    told = groups.agg(lambda c: f"{c.mean():+.1f}" + (f" ± {c.std():.1f}" if len(c) > 1 else "")).unstack("kind")
    told = told.assign(n=changes.groupby(["variation", "depth", "network"])["seed"].nunique()).reset_index()
    told["network"] += "-" + told["depth"].astype(str)
    told["variation"] = "`" + told["variation"] + "`"
    titles = {"variation": "setting", "network": "network", "n": "n"}
    titles |= {"training": "training error", "test": "test error"}
    picture = f"figures/{condition_folder(condition)}/deviations.png"
    return (
        "### Deviation ledger\n\nChange of the final error, in points at equal seed, when one choice that the paper"
        " leaves open is made the other way (mean ± standard deviation over seeds).\n\n"
        + (f"![each change beside seed noise]({picture})\n\n" if (results / picture).exists() else "")
        + _fold(f"{len(told)} changes", markdown_table(told, titles))
    )


def _precisions(table: pd.DataFrame) -> str:
    # Of one protocol's runs that were made in several precisions: what another changes, at equal seed.
    runs, errors = select(table, {}), {"train_error": "training error", "test_error": "test error"}
    if runs.empty:
        return ""
    usual, *others = runs["precision"].value_counts().index
    by_precision = runs.set_index(["network", "depth", "seed"])
    rows = []
    for other in others:
        ours, theirs = (by_precision.loc[by_precision["precision"] == each, [*errors]] for each in (other, usual))
        for (network, depth), change in (ours - theirs).dropna().groupby(["network", "depth"]):
            told = {
                text: f"{change[error].mean():+.1f}" + (f" ± {change[error].std():.1f}" if len(change) > 1 else "")
                for error, text in errors.items()
            }
            rows.append(
                {"network": f"{network}-{depth}", "precision": f"{other} for {usual}", "n": len(change), **told}
            )
    return (
        "### In another precision\n\nChange of the final error with another precision, in points at equal seed (mean ±"
        " standard deviation over seeds). Pairs are always of one precision.\n\n"
        f"{markdown_table(pd.DataFrame(rows))}"
        if rows
        else ""
    )


def write_claims(results: Path, table: pd.DataFrame) -> Path:
    """Write results/claims.md of these runs, protocol by protocol; a ClaimError where a claim is damaged."""
    stated, parts, words = load_claims(), list[str](), dict[str, dict[str, Verdict]]()
    for condition, runs in conditions(table):
        verdicts = judge(stated, runs)
        judged = [verdict for verdict in verdicts if verdict.effects]
        protocol, precision = (runs[column].iloc[0] for column in ("protocol", "precision"))
        if condition not in (protocol, f"{protocol} ({precision})") or protocol.endswith("smoke") or not judged:
            continue
        words[condition] = {verdict.claim.id: verdict for verdict in judged}
        note = PROTOCOLS.get(protocol, "a protocol of your own")
        several = [verdict for verdict in judged if len(verdict.effects) > 1]
        single = [verdict for verdict in judged if len(verdict.effects) == 1]
        parts.append(f"## Protocol {condition}\n\n{note[0].upper()}{note[1:]}.")
        if several:
            picture = f"figures/{condition_folder(condition)}/verdicts.png"
            if (results / picture).exists():
                parts.append(f"![every claim's distance from its threshold]({picture})")
            parts.append(markdown_table(verdict_table(several, condition, results)))
        if single:
            told = f"One seed each, which decides nothing ({len(single)} claims)"
            parts.append(_fold(told, markdown_table(verdict_table(single, condition, results))))
        stating = [
            {"claim": v.claim.id, "supported if": v.claim.threshold, "study": f"`{v.claim.study}`"} for v in judged
        ]
        parts.append(_fold("Thresholds and studies", markdown_table(pd.DataFrame(stating))))
        parts += [_not_judged(verdicts, protocol, precision), _constructed(runs), _ledger(results, condition, runs)]
        if condition == protocol:
            parts.append(_precisions(table[table["protocol"] == protocol]))
    empty = "" if parts else "Nothing to judge yet (smoke runs are not judged): `make claims`."
    published = find_published()
    opening = [GLANCE.format(folder=_link(results, _evidence(results)))]
    if results.resolve() != published.resolve():
        opening.append(OWN_CLAIMS.format(page=_link(results, published)))
    glance = _glance(words, load_others_claims(_evidence(results)))
    return _write(results / "claims.md", ["# Claims", *opening, *glance, empty, *parts, CLAIMS])
