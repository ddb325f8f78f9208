"""results/README.md, generated from records, figures and tables: what was run, what it shows, how to do it again."""

import json
import math
import re
from pathlib import Path
from typing import Any

import pandas as pd

from degradation.record import write_atomically
from degradation.report.draw import PROTOCOL_NOTES, describe
from degradation.report.statistics import Verdict, judge, load_claims, load_probe, load_tables, probed_images, select
from degradation.report.table import error_by_depth, paired_differences, studies, study_folder, table6

FIGURES = {
    "fig1": ("Fig. 1: plain networks, training and test error", "notebooks/plain_vs_residual.py"),
    "fig6": ("Fig. 6: plain and residual networks", "notebooks/plain_vs_residual.py"),
    "error_by_depth": ("Final error by depth", "notebooks/plain_vs_residual.py"),
    "fig7": ("Fig. 7: standard deviation of layer responses", "notebooks/responses.py"),
}


DEVIATIONS = {
    "protocol.decay_batchnorm",
    "network.pad_side",
    "network.fan_mode",
    "protocol.batchnorm",
    "data.last_batch",
    "data.normalization",
    "data.augmentation",
}


def _cell(value: object) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, float):
        return f"{value:.2f}"
    return f"{value:,}" if isinstance(value, int) and value > 9999 else str(value)


def markdown_table(table: pd.DataFrame, titles: dict[str, str]) -> str:
    """A table in Markdown, numbers to two decimals, absent values empty."""
    rows = [[_cell(value) for value in row] for row in table[list(titles)].astype(object).itertuples(index=False)]
    lines = [list(titles.values()), ["---"] * len(titles), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def what_it_shows(runs: pd.DataFrame) -> list[str]:
    """The comparisons of Fig. 6 that the records allow, in words and numbers, whichever way they come out."""
    table = error_by_depth(runs).set_index(["network", "depth"])
    said = []
    depths = {network: sorted(d for n, d in table.index if n == network) for network in ("plain", "residual")}

    def train(network: str, depth: int) -> float:
        return float(table.loc[(network, depth), "train_error_mean"])

    for network, claim in (("plain", "Plain networks"), ("residual", "Residual networks")):
        if len(depths[network]) > 1:
            shallow, deep = depths[network][0], depths[network][-1]
            change = train(network, deep) - train(network, shallow)
            said.append(
                f"{claim}: {network}-{deep} ends {abs(change):.1f} points {'above' if change > 0 else 'below'} "
                f"{network}-{shallow} in training error "
                f"({train(network, deep):.1f} % against {train(network, shallow):.1f} %)."
            )
    for depth, pairs in paired_differences(runs).groupby("depth"):
        gain, n = pairs["difference"].mean(), len(pairs)
        said.append(
            f"At equal depth {depth} the residual network ends {abs(gain):.1f} points "
            f"{'below' if gain > 0 else 'above'} its plain twin in training error"
            + (f" (mean of {n} pairs of equal seed)." if n > 1 else ".")
        )
    if diverged := (runs["outcome"] != "finished").sum():
        said.append(f"Not in these numbers: {diverged} {'runs' if diverged > 1 else 'run'} that diverged.")
    return said


def _as_overrides(variant: str) -> str:
    return re.sub(r",\s+(?=[^\[\]]*\])", ",", variant).replace(", ", " ")  # no spaces within a list


def _section(results: Path, study: str, runs: pd.DataFrame) -> str:
    folder = study_folder(study)
    protocol, variant = runs.iloc[0]["protocol"], runs.iloc[0]["variant"]
    depths = ",".join(str(d) for d in sorted(runs["depth"].unique()))
    seeds = ",".join(str(s) for s in sorted(runs["seed"].unique()))
    extra = f' ARGS="{_as_overrides(variant)}"' if variant else ""
    parts = [f"## {study}", describe(runs) + "."]
    parts.append(f"Reproduce: `make degradation-cifar PROTOCOL={protocol} DEPTHS={depths} SEEDS={seeds}{extra}`")
    parts.append("\n".join(f"- {sentence}" for sentence in what_it_shows(runs)))
    for name, (title, script) in FIGURES.items():
        if (results / "figures" / folder / f"{name}.png").exists():
            links = f"[SVG](figures/{folder}/{name}.svg), drawn by `{script}`"
            parts.append(f"### {title}\n\n![{title}](figures/{folder}/{name}.png)\n\n{links}")
    titles = {
        "network": "network",
        "parameters": "parameters",
        "n": "n",
        "train_error": "training error, running (%)",
        "train_error_eval": "training error, eval mode (%)",
        "test_error": "test error (%)",
        "test_error_std": "std over seeds",
        "paper_test_error": "the paper's test error (%)",
    }
    table = markdown_table(table6(runs), titles)
    note = "" if protocol == "paper" else f" The paper's column is its own protocol's, not {protocol}'s."
    parts.append(f"### Table 6, ours beside the paper's\n\nErrors of the final iteration.{note}\n\n{table}")
    listing = runs.assign(
        minutes=runs["seconds"] / 60,
        run=[f"[{run_id}](runs/{run_id}/)" for run_id in runs["run_id"]],
    )
    columns = {key: key for key in ("run", "outcome", "precision", "minutes", "commit")}
    parts.append("### Records\n\n" + markdown_table(listing, columns))
    return "\n\n".join(parts)


def write_gallery(results: str | Path) -> Path:
    """Write results/README.md.

    Raises:
        RecordError: a record is damaged.
    """
    folder = Path(results)
    parts = [
        "# Results\n\nGenerated by `make figures` from the records in `runs/`; do not edit. Each record holds its"
        " config, metrics, layer responses and a summary with hardware, versions and commit.\n\n"
        "Training error is running (augmented mini-batches, training-mode BN) unless it says eval mode (un-augmented"
        " images, moving BN averages); test error is in eval mode. All are of the final iteration; nothing is selected"
        " on the test set.\n\nThe paper's claims, judged from these records: [claims.md](claims.md)."
    ]
    parts += [
        f"Training speed, measured: [bench/{page.parent.name}](bench/{page.parent.name}/README.md)."
        for page in sorted(folder.glob("bench/*/README.md"))
    ]
    head = len(parts)
    parts += [_section(folder, study, runs) for study, runs in studies(folder)]
    if len(parts) == head:
        parts.append("No finished run yet: `make degradation-cifar`.")
    path = folder / "README.md"
    write_atomically(path, "\n\n".join(parts) + "\n")
    return path


CLAIMS = """# Claims

Generated by `make figures` from the records in `runs/`; do not edit. Each claim's statistic, one number per seed, and
its threshold stand in its study's file in `conf/experiment/`. A claim is supported where the whole 95 % interval of
the mean over seeds (Student's t; of ratios, the geometric mean) lies on the claimed side of the threshold, refuted
where all of it lies on the other, undecided else; the number of seeds that would decide is that of a t-test of power
0.8. Runs are compared at equal seed and precision. One that diverged counts with the 90 % of guessing, and as never
having reached an error; it has no responses, gradients or lesions to compare. Training error is running, as defined in
[README.md](README.md). A verdict belongs to its protocol: only those of the paper's protocol are about the paper's
claim as it stands.

Most thresholds are the sign that the paper claims (0, or a ratio of 1). They were written when seed 0 of the quick
grid and depth 20 at short had been run, and nothing else; C5 (healthy), C5 (forward), C5 (trained, 110), BN (56) and
C4 (kept) were added, and C8's and C10's tightened, when quick records of C4 and C5 and one seed of C8 were there. None
was written with a number of the paper's protocol at hand.

Train what a study still lacks: `make claims` (all of them, three seeds), or `python experiments/train.py
experiment=<study> protocol=<protocol> seed=0,1,2`."""


def _interval(verdict: Verdict) -> str:
    shown = f"{verdict.mean:.3g}"
    return shown if math.isnan(verdict.low) else f"{shown} [{verdict.low:.3g}, {verdict.high:.3g}]"


def _judgement(verdict: Verdict, protocol: str) -> str:
    qualified = verdict.verdict if protocol == "paper" else f"{verdict.verdict} ({protocol})"
    if len(verdict.effects) == 1:
        return f"{qualified}; an interval takes 2 seeds at least"
    if verdict.verdict == "undecided" and verdict.seeds_needed:
        number = f"about {verdict.seeds_needed}" if verdict.seeds_needed <= 100 else "more than 100"
        return f"{qualified}; {number} seeds would decide"
    return f"**{qualified}**"


def _verdicts(results: Path, protocol: str, verdicts: list[Verdict]) -> str:
    rows = []
    judged = [verdict for verdict in verdicts if verdict.effects]
    for verdict in judged:
        claim = verdict.claim
        picture = f"figures/{protocol}/{claim.figure}.png"
        rows.append(
            {
                "claim": claim.id,
                "sentence": claim.sentence,
                "supported if": claim.threshold,
                "mean [95 % interval]": _interval(verdict),
                "n": len(verdict.effects),
                "verdict": _judgement(verdict, protocol),
                "figure": f"[{claim.figure}]({picture})" if claim.figure and (results / picture).exists() else "",
                "study": f"`{claim.study}`",
            }
        )
    table = pd.DataFrame(rows)
    missing = ", ".join(f"{verdict.claim.id} (`{verdict.claim.study}`)" for verdict in verdicts if not verdict.effects)
    left = f"\n\nNot run at this protocol: {missing}." if missing else ""
    return markdown_table(table, {column: column for column in table}) + left


def _constructed(table: pd.DataFrame) -> str:
    rows = []
    for network in ("plain", "residual"):
        for depth in sorted(table["depth"].unique()):
            folders = select(table, {"network": network, "depth": depth})["folder"]
            probed = {folder: found for folder in folders if len(found := load_probe(folder, "constructed"))}
            if probed:
                together = pd.concat(probed.values())
                images = min(probed_images(folder, "constructed") for folder in probed)
                worst = together.groupby("depth")["largest_difference"].max()
                same = (together["error"] == together["parent_error"]).groupby(together["depth"]).all()
                for deep, difference in worst.items():
                    rows.append(
                        {
                            "trained network": f"{network}-{depth}",
                            "deepened to": str(deep),
                            "n": len(probed),
                            "largest difference": f"{difference:.1e}",
                            "equal test error": "yes" if same[deep] else "no",
                            "test images": images,
                        }
                    )
    if not rows:
        return ""
    found = pd.DataFrame(rows)
    return (
        "### The constructed solution before any training\n\nThe largest difference of any logit between a trained"
        " network and the deeper one that identity layers make of it, in float32 and eval mode, as a fraction of the"
        " largest logit; the worst seed of n.\n\n" + markdown_table(found, {column: column for column in found})
    )


def _ledger(table: pd.DataFrame) -> str:
    rows = []
    varied = {next(iter(keys)) for keys in table["varied"] if len(keys) == 1} & set(DEVIATIONS)
    for setting in sorted(varied):
        for network in ("plain", "residual"):
            flipped = select(table, {"network": network, "depth": 20}, (setting,))
            usual = flipped[~flipped["varied"].map(bool)]
            for value, part in flipped[flipped["varied"].map(bool)].groupby(setting):
                pairs = part.merge(usual, on="pair", suffixes=("", "_usual"))
                row = {"setting": f"`{setting}={value}`", "network": f"{network}-20", "n": len(pairs)}
                for column, title in (("train_error", "training error"), ("test_error", "test error")):
                    change = (pairs[column] - pairs[f"{column}_usual"]).astype(float)
                    spread = f" ± {change.std():.1f}" if len(change) > 1 else ""
                    row[title] = f"{change.mean():+.1f}{spread}" if len(change) else ""
                rows.append(row)
    if not rows:
        return ""
    ledger = pd.DataFrame(rows)
    spreads = []
    for network in ("plain", "residual"):
        usual = select(table, {"network": network, "depth": 20})
        if len(usual) > 1:
            spreads.append(f"{network}-20 {usual['train_error'].std():.1f} and {usual['test_error'].std():.1f}")
    scale = (
        f" For scale, the standard deviation over seeds without any change: {', '.join(spreads)}." if spreads else ""
    )
    return (
        "### Deviation ledger\n\nChange of the final error in points at equal seed (mean ± standard deviation over"
        f" seeds) when one choice that the paper leaves open is made the other way.{scale}\n\n"
        + markdown_table(ledger, {column: column for column in ledger})
    )


def write_claims(results: str | Path) -> Path:
    """Write results/claims.md: every claim with its statistic, interval, n and verdict, protocol by protocol.

    Raises:
        RecordError, ClaimError: a record is damaged, or a study's claims are.
    """
    folder = Path(results)
    stated = load_claims()
    parts = [CLAIMS]
    for protocol, table in load_tables(folder).items():
        verdicts = judge(stated, table)
        if protocol == "smoke" or not any(verdict.effects for verdict in verdicts):
            continue
        note = "" if protocol == "paper" else f" ({PROTOCOL_NOTES.get(protocol, 'of your own')})"
        parts.append(f"## Protocol {protocol}{note}")
        if (folder / "figures" / protocol / "verdicts.png").exists():
            parts.append(f"![every claim's interval and threshold](figures/{protocol}/verdicts.png)")
        sections = (_verdicts(folder, protocol, verdicts), _constructed(table), _ledger(table))
        parts += [section for section in sections if section]
    if len(parts) == 1:
        parts.append("Nothing to judge yet (smoke runs are not judged): `make claims`.")
    path = folder / "claims.md"
    write_atomically(path, "\n\n".join(parts) + "\n")
    return path


_BENCH_TABLES = {
    "throughput": (
        "Training speed",
        {
            "depth": "depth",
            "variant": "variant",
            "images_per_second": "images/s",
            "lowest": "lowest",
            "highest": "highest",
            "ratio_to_usual": "ratio to the usual recipe",
            "ratio_to_bare": "ratio to the bare loop",
            "gflops": "GFLOP/s",
            "fraction_of_matrix_peak": "fraction of the matrix rate",
        },
    ),
    "growth": (
        "Time as depth and batch grow",
        {"depth": "depth", "batch": "batch", "seconds_per_iteration": "seconds per iteration"},
    ),
    "memory": (
        "Memory of one training process, batch 128",
        {
            "depth": "depth",
            "activation_checkpointing": "activation checkpointing",
            "peak_gb": "peak (GB)",
            "before_gb": "of it before the first iteration (GB)",
            "seconds_per_iteration": "seconds per iteration",
        },
    ),
}


def write_bench(folder: Path, described: dict[str, Any]) -> Path:
    """Write bench.json and README.md beside the tables and the plot that `make bench` left in a folder."""
    write_atomically(folder / "bench.json", json.dumps(described, indent=2) + "\n")
    hardware = ", ".join(f"{key} {value}" for key, value in described["hardware"].items())
    versions = ", ".join(f"{key} {value}" for key, value in described["versions"].items())
    parts = [
        f"# Training speed: {described['device']}",
        f"Generated by `make bench` on {described['date']} at commit {described['commit']}; do not edit.\n\n"
        f"- {hardware}; precision {described['precision']}\n- {versions}\n"
        f"- large matrix products in that precision here: {described['matrix_peak_gflops']:,.1f} GFLOP/s, the floor",
        "The usual recipe: torchvision's CIFAR10 with PIL transforms, a DataLoader, eager float32 NCHW, `.item()` every"
        " step. The ratio is to the better of its two forms, within each round; the median over rounds is told.",
    ]
    for name, (title, columns) in _BENCH_TABLES.items():
        if (folder / f"{name}.csv").exists():
            table = pd.read_csv(folder / f"{name}.csv")
            picture = f"![{title.lower()}]({name}.png)\n\n" if (folder / f"{name}.png").exists() else ""
            for column in {"images_per_second", "lowest", "highest", "gflops"} & set(table):
                table[column] = table[column].round().astype(int)
            for column in {"seconds_per_iteration"} & set(table):
                table[column] = table[column].map("{:.3g}".format)
            parts.append(f"## {title}\n\n{picture}" + markdown_table(table, columns))
    for key, text in (
        ("seconds_to_first_iteration", "From starting `experiments/train.py` to its first iteration"),
        ("seconds_for_figures_of_50_records", "Figures, tables and gallery of 50 full-length records"),
    ):
        if key in described:
            parts.append(f"{text}: {described[key]:.1f} s.")
    path = folder / "README.md"
    write_atomically(path, "\n\n".join(parts) + "\n")
    return path
