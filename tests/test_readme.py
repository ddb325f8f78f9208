"""The numbers in README.md and docs/findings.md are those of the published records.

Whoever publishes further runs is told what to rewrite.
"""

import re

import numpy as np
import pandas as pd
import pytest
import reproductions
from scipy import stats

from degradation.config import find_published
from degradation.record import load_gradients, load_responses
from degradation.report.figures import FIGURES
from degradation.report.statistics import applied_decay, lesion_cost, weight_growth
from degradation.report.table import conditions, load_probe, load_table, select
from degradation.report.verdicts import Verdict, judge, load_claims
from tests.conftest import ROOT

JUDGED = [
    ("quick", "C1", "{mean:.1f} points of training error per 10 layers [{low:.1f}, {high:.1f}]"),
    ("quick", "C11", "{mean:.0f} % [{low:.0f}, {high:.0f}] with its warm-up"),
    ("quick", "C11 (no warm-up)", "{mean:.0f} % [{low:.0f}, {high:.0f}] without"),
    ("quick (fp32)", "C1 (best rate)", "plain-56 is {mean:.0f} points behind plain-20 [{low:.0f}, {high:.0f}]"),
    ("quick", "C1 (test)", "the test error rises, too, by {mean:.1f} points per 10 layers [{low:.1f}, {high:.1f}]"),
    ("quick", "C1 (best rate)", "in bf16 and the one seed tried, {mean:.0f})"),
    ("quick", "C12", "after them it is {mean:.0f} points [{low:.0f}, {high:.0f}] (plain-20"),
    ("quick", "C9 (60 %)", "plain-20 takes {mean:.1f} times the iterations [{low:.1f}, {high:.1f}]"),
    ("quick", "C9", "gone 0.8 of its own way, this is undecided: {mean:.1f} times [{low:.1f}, {high:.1f}]"),
    ("quick", "C5 (20)", "At 20 layers the factor is {mean:.1f} [{low:.1f}, {high:.1f}]"),
    ("quick", "BN (56)", "first layer has {mean:.1f} of the last one's gradient [{low:.2f}, {high:.1f}]"),
    (
        "quick (fp32)",
        "C5 (trained)",
        "is {mean:.1f} times that of the last 3x3 layer in plain-56 [{low:.1f}, {high:.0f}]",
    ),
    ("quick", "C5 (trained, 110)", "{mean:.1f} times in plain-110 [{low:.4f}, {high:.0f}], and"),
    ("quick", "C5 (cold, 110)", "{mean:.3f} times in plain-110 without warm-up [{low:.5f}, {high:.1f}]"),
    ("paper", "C3 (20)", "Residual-20 ends {mean:.1f} points of training error below plain-20"),
    ("paper", "C9", "while plain-20 takes {mean:.1f} and"),
    ("paper", "C9 (60 %)", "and {mean:.1f} times the iterations."),
    ("paper", "Recovery (residual-20)", "measured again, {percent:.0f} % of that loss comes back in residual-20"),
    ("paper", "Recovery (plain-20)", "in residual-20 and {percent:.0f} % in plain-20"),
    ("short", "C4 (not found)", "Plain-56 ends {mean:.0f} points of training error above plain-20"),
    ("quick", "C3 (20)", "by {mean:.0f} points at 20 layers [{low:.0f}, {high:.0f}]"),
    ("quick", "C3 (56)", "and {mean:.0f} at 56 [{low:.0f}, {high:.0f}]"),
    (
        "quick",
        "C4 (not found)",
        "From scratch plain-56 ends {mean:.0f} points above that plain-20 [{low:.0f}, {high:.0f}]",
    ),
    ("quick", "C4 (kept)", "plain-56 ends {mean:.0f} points above plain-20 [{low:.0f}, {high:.0f}]"),
    ("quick", "C4 (kept, restart)", "restarted from itself ends {mean:.0f} points below it [{low:.0f}, {high:.0f}]"),
    (
        "quick",
        "C4 (kept, low rate)",
        "plain-56 ends {opposite:.0f} points below plain-20 [{opposites[0]:.0f}, {opposites[1]:.0f}]",
    ),
    ("quick", "Alpha (0.5)", "residual-56 ends {mean:.0f} points below plain-56 [{low:.0f}, {high:.0f}]"),
    (
        "quick",
        "C4 (start)",
        "ends {opposite:.0f} points below the plain-56 from scratch [{opposites[0]:.0f}, {opposites[1]:.0f}]",
    ),
    ("quick", "C2", "110 layers, {mean:.1f} points per 10 layers [{low:.1f}, {high:.1f}], under a quarter"),
    ("quick (fp32)", "C1", "only 20 and 56 layers were run, {mean:.1f} [{low:.1f}, {high:.1f}])"),
    ("short", "C6 (moving)", "on the other side of both claims: residual-56's are {mean:.1f} of plain-56's"),
    ("short", "C7 (moving)", "(median over layers), and {mean:.1f} of residual-20's (means"),
    ("quick", "Growth (56)", "grow by {mean:.2f} a layer toward the input in plain-56 [{low:.2f}, {high:.2f}]"),
    ("quick", "C5 (56)", "{mean:.0f} times that of the last 3x3 layer's in plain-56 [{low:.0f}, {high:.0f}]"),
    ("quick (fp32)", "Explosion (56)", "plain-56's first layer grow {mean:.0f}-fold [{low:.0f}, {high:.0f}]"),
    ("quick (fp32)", "C5 (update)", "{inverse:.0f} times less after the last iteration"),
    ("quick (fp32)", "C5 (update)", "after the last iteration [{inverses[1]:.0f}, {inverses[0]:,.0f}]."),
    ("quick (fp32)", "C5 (forward)", "(difference {mean:.0f} points [{low:.0f}, {high:.0f}])"),
    (
        "quick (fp32)",
        "Cure (ramp)",
        "a linear rise of the rate closes {percent:.0f} % [{percents[0]:.0f}, {percents[1]:.0f}]",
    ),
    (
        "quick (fp32)",
        "Cure (held norms)",
        "their first norm close {percent:.0f} % [{percents[0]:.0f}, {percents[1]:.0f}]",
    ),
    (
        "quick (fp32)",
        "Shortcuts (Dirac)",
        "close {percent:.0f} % of the gap to residual-56 [{percents[0]:.0f}, {percents[1]:.0f}]",
    ),
    ("quick (fp32)", "Cure (clipping)", "seed, {percent:.0f} % [{percents[0]:.0f}, {percents[1]:.0f}]: that these"),
    (
        "imagenet_quick",
        "C14 (plain)",
        "lain-34 ends {mean:.0f} points of training error above plain-18 [{low:.0f}, {high:.0f}]",
    ),
    ("imagenet_quick", "C14 (34 layers)", "residual-34 {mean:.0f} below plain-34 [{low:.0f}, {high:.0f}]"),
    ("quick (fp32)", "Recovery (residual-20)", "residual-20 gets {percent:.0f} % of it back"),
    ("quick (fp32)", "Recovery (residual-56)", "residual-56 {percent:.0f} %, plain-56"),
    ("quick (fp32)", "Recovery (plain-56)", "plain-56 {percent:.0f} % and plain-20"),
    ("quick (fp32)", "Recovery (plain-20)", "and plain-20 {percent:.0f} %."),
    ("imagenet_quick", "C14 (residual)", "it ends {mean:.0f} points above"),
]
TRAINED = [
    (
        "quick",
        "plain-20 ends at {plain-20:.0f} % training error, plain-56 at {plain-56:.0f}, plain-110 at {plain-110:.0f}",
    ),
    ("quick", "where residual-110 ends at {residual-110:.0f} and"),
    ("quick", "{residual-20:.0f}, {residual-56:.0f} and {residual-110:.0f} % at 20, 56 and 110 layers"),
    ("paper", "({residual-20:.1f} and {plain-20:.1f} %) and"),
    ("imagenet_short", "plain-34 ends at {plain-34:.1f} % training error"),
    ("imagenet_short", "residual-34 at {residual-34:.1f} %"),
]


# What it says in words.
VERDICTS = {
    ("quick", "C1"): "supported",
    ("quick", "C1 (test)"): "supported",
    ("quick (fp32)", "C1 (best rate)"): "supported",
    ("quick", "C3 (20)"): "supported",
    ("quick", "C3 (56)"): "supported",
    ("quick", "C4 (exists)"): "supported",
    ("quick", "C4 (start)"): "supported",
    ("quick", "C8 (B)"): "undecided",
    ("quick", "C8 (C)"): "undecided",
    ("quick", "C9"): "undecided",
    ("quick", "C9 (60 %)"): "undecided",
    ("quick", "C11"): "supported",
    ("quick", "C12"): "supported",
    ("quick", "C6 (moving)"): "not testable",
    ("quick", "Lesion (20)"): "supported",
    ("quick", "Lesion (56)"): "supported",
    ("quick (fp32)", "C5 (trained)"): "undecided",
    ("quick", "C5 (trained, 110)"): "undecided",
    ("quick", "C5 (cold, 110)"): "undecided",
    ("quick", "C2"): "not testable",
    ("quick", "C4 (kept)"): "undecided",
    ("quick", "C4 (kept, restart)"): "undecided",
    ("quick", "C4 (kept, low rate)"): "supported",
    ("quick", "Alpha (0.5)"): "undecided",
    ("quick", "C5 (56)"): "supported",
    ("quick", "C5 (healthy)"): "refuted",
    ("quick (fp32)", "Explosion (56)"): "undecided",
    ("quick (fp32)", "C5 (update)"): "undecided",
    ("quick (fp32)", "C5 (forward)"): "not testable",
    ("quick (fp32)", "Cure (ramp)"): "refuted",
    ("quick (fp32)", "Cure (held norms)"): "undecided",
    ("quick (fp32)", "Shortcuts (Dirac)"): "undecided",
    ("quick (fp32)", "Cure (clipping)"): "undecided",
    ("quick (fp32)", "Recovery (plain-20)"): "refuted",
    ("quick (fp32)", "Recovery (residual-20)"): "undecided",
    ("quick (fp32)", "Recovery (residual-56)"): "undecided",
    ("quick (fp32)", "Recovery (plain-56)"): "undecided",
    ("imagenet_quick", "C14 (plain)"): "supported",
    ("imagenet_quick", "C14 (34 layers)"): "supported",
    ("imagenet_quick", "C14 (residual)"): "not testable",
}


@pytest.fixture(scope="module")
def readme() -> str:
    return " ".join((ROOT / "README.md").read_text().split())


@pytest.fixture(scope="module")
def told() -> str:
    """What docs/findings.md says."""
    return " ".join((ROOT / "docs" / "findings.md").read_text().split())


@pytest.fixture(scope="module")
def published() -> dict[str, pd.DataFrame]:
    return dict(conditions(load_table(find_published())))


@pytest.fixture(scope="module")
def judged(published: dict[str, pd.DataFrame]) -> dict[str, dict[str, Verdict]]:
    """Every claim at every condition that is told of, corrected for being many."""
    names = dict.fromkeys(condition for condition, *_ in JUDGED)
    return {name: {found.claim.id: found for found in judge(load_claims(), published[name])} for name in names}


def say(found: Verdict, words: str) -> str:
    """The words with the numbers of a verdict in their places."""
    percents = [100 * found.low, 100 * found.high]
    inverses = [round(1 / found.low, -2) if found.low else 0, 1 / found.high if found.high else 0]
    numbers = {
        "mean": found.mean,
        "low": found.low,
        "high": found.high,
        "opposite": -found.mean,
        "opposites": (-found.high, -found.low),
    }
    return words.format(
        **numbers, inverse=1 / found.mean, inverses=inverses, percent=100 * found.mean, percents=percents
    )


def test_what_it_says_of_verdicts(judged: dict[str, dict[str, Verdict]]) -> None:
    assert {(name, claim): judged[name][claim].verdict for name, claim in VERDICTS} == VERDICTS
    for claim in ("Explosion (56)", "C5 (update)", "Cure (held norms)", "Cure (clipping)"):
        word = "supported" if claim == "Explosion (56)" else "refuted"
        assert judged["quick (fp32)"][claim].notes[0].startswith(f"{word} alone, not as one of "), claim


@pytest.mark.parametrize(("condition", "claim", "words"), JUDGED)
def test_what_it_says_of_claims(
    told: str, judged: dict[str, dict[str, Verdict]], condition: str, claim: str, words: str
) -> None:
    assert say(judged[condition][claim], words) in told


@pytest.mark.parametrize(("condition", "words"), TRAINED)
def test_what_it_says_of_training_errors(
    told: str, published: dict[str, pd.DataFrame], condition: str, words: str
) -> None:
    errors = select(published[condition], {}).groupby("label")["train_error"].mean()
    assert words.format(**errors) in told


def test_what_it_says_of_networks_that_others_trained(readme: str, told: str) -> None:
    table = reproductions.load(find_published() / "reproductions").set_index("name")
    inside = reproductions.describe_inside(table.reset_index()).set_index(table.index)
    plain, deep = (table.loc[f"a-martyn-plain-{depth}"] for depth in (20, 56))
    gradient, stem, gain = inside.loc["a-martyn-plain-56", ["gradient", "stem", "gain"]]
    assert f"(times the weights) is {gradient:.1f} times that of its last 3x3 layer" in told
    assert f"errs on {stem:.0f} % of the test images at the stem and on {stem + gain:.0f} % at the last block" in told
    residual = table.loc["a-martyn-residual-56", "information"]["probe_error"]
    assert f"(residual-56: {residual.iloc[0]:.0f} and {residual.iloc[-1]:.0f} %)" in told
    product = deep["gradients"]["grad_weight"] * deep["gradients"]["weight_norm"]
    assert 0.5 < (product / product.iloc[-1]).min() < 0.55  # "nowhere is it below half of that layer's"
    assert f"plain-56's are {deep['mean_std_exact'] / plain['mean_std_exact']:.2f} of plain-20's" in told
    assert f"on {plain['train_error']:.2f} % of the training images" in told
    assert f"the one that was trained errs on {deep['train_error']:.2f} %" in told
    update = deep["gradients"]["grad_weight"] / deep["gradients"]["weight_norm"]
    assert len(update) == 55
    assert f"it is {update.iloc[-1] / update.iloc[0]:.0f} times less.)" in told
    built = plain["constructed"].set_index("depth")["largest_difference"]
    assert "has its logits, to less than a millionth of the largest" in told
    assert built[56] < 1e-6

    def span(column: str, network: str, *depth: int) -> str:
        rows = inside[(inside["network"] == network) & (inside["depth"].isin(depth) | (not depth))]
        ends = sorted({f"{100 * value:.0f}" for value in (rows[column].min(), rows[column].max())}, key=int)
        return " to ".join(ends)

    costs = [span("cost_error", "plain"), span("cost_error", "residual", 20), span("cost_error", "residual", 56)]
    said = "costs plain networks {} % of their advantage over guessing (90 % error), residual-20 {} %, residual-56 {} %"
    assert said.format(*costs) in told
    assert "| plain {} %, residual-20 {} %, residual-56 {} % |".format(*costs) in readme
    assert f"trained plain-56 on {deep['train_error']:.2f} % |" in readme
    assert (
        f"{span('recovery', 'plain')} % of it comes back in plain networks, {span('recovery', 'residual', 20, 56)} % in"
        in told
    )
    judged = reproductions.judge(table.reset_index())
    ratios = judged.groupby("claim")["value"].agg(list)
    assert f"({ratios['C6 (20)'][0]} of them at 20 layers, {ratios['C6'][0]} at 56)" in told
    assert f"(residual-56 {' to '.join(sorted(ratios['C7']))} of residual-20)" in told


def test_the_table_and_the_captions(
    readme: str, published: dict[str, pd.DataFrame], judged: dict[str, dict[str, Verdict]]
) -> None:
    others = reproductions.load(find_published() / "reproductions").set_index("name")
    own = published["paper"].set_index("label")
    for arm, how, which in (
        ("plain", "(dashed, on augmented images, as the author logged it) ", "(solid) "),
        ("residual", "", ""),
    ):
        shallow, deep = (others.loc[f"a-martyn-{arm}-{depth}"] for depth in (20, 56))
        first, last = (net["curves"]["train_error"].iloc[-1] for net in (shallow, deep))
        said = f"training error {how}goes from {first:.1f} to {last:.{1 if last > 0.1 else 2}f} %, "
        said += f"test error {which}from {shallow['test_error']:.1f} to {deep['test_error']:.1f} %"
        assert said in readme
        assert f"| yes: {shallow['train_error']:.2f} % at 20 layers, {deep['train_error']:.2f} % at 56 |" in readme
    author, ours = others["train_error"], own["train_error_eval"]
    said = f"plain-20 errs on {ours['plain-20']:.2f} % (the author's: {author['a-martyn-plain-20']:.2f}) and "
    said += f"residual-20 on {ours['residual-20']:.2f} % ({author['a-martyn-residual-20']:.2f}); on test images on"
    assert f"{said} {own['test_error']['plain-20']:.1f} and {own['test_error']['residual-20']:.1f} %" in readme

    said = (
        "{plain-20:.1f} %, plain-56 {plain-56:.1f} %, residual-20 {residual-20:.1f} %, residual-56 {residual-56:.1f} %"
    )
    assert said.format(**select(published["short"], {}).set_index("label")["train_error"]) in readme
    errors = select(published["quick"], {}).groupby("label")["train_error"].mean()
    for row in (
        "| **supported**: {plain-20:.0f} % at 20 layers, {plain-56:.0f} % at 56, {plain-110:.0f} % at 110; from 20",
        "They are worse: {residual-20:.0f} % at 20 layers, {residual-56:.0f} % at 56 |",
    ):
        assert row.format(**errors) in readme
    for condition, claim, row in (
        ("quick", "C4 (not found)", "from 20 to 56 layers {mean:.0f} points [{low:.0f}, {high:.0f}] |"),
        ("quick", "C3 (20)", "**supported**: by {mean:.0f} points at 20 layers [{low:.0f}, {high:.0f}]"),
        ("quick", "C3 (56)", "by {mean:.0f} at 56 [{low:.0f}, {high:.0f}] |"),
        ("quick (fp32)", "C1 (best rate)", "plain-56 is {mean:.0f} points behind plain-20 [{low:.0f}, {high:.0f}] |"),
        ("quick", "C12", "does not cure it: {mean:.0f} points are left [{low:.0f}, {high:.0f}] |"),
        ("quick", "C5 (56)", "are {mean:.0f} times the last's [{low:.0f}, {high:.0f}]. After"),
        (
            "quick (fp32)",
            "Cure (ramp)",
            "closes {percent:.0f} % of the gap [{percents[0]:.0f}, {percents[1]:.0f}] (that",
        ),
        (
            "quick (fp32)",
            "Shortcuts (Dirac)",
            "closes {percent:.0f} % of its gap to residual-56 [{percents[0]:.0f}, {percents[1]:.0f}]; that",
        ),
        ("short", "C6 (moving)", "(`short`, one seed, moving averages) {mean:.1f} times the plain ones at 56 |"),
        ("imagenet_quick", "C14 (residual)", "residual-34 ends {mean:.0f} points above residual-18"),
        (
            "imagenet_quick",
            "C14 (plain)",
            "Plain-34 ends {mean:.0f} points of training error above plain-18 [{low:.0f}, {high:.0f}]",
        ),
        ("imagenet_quick", "C14 (34 layers)", "residual-34 {mean:.0f} below plain-34 [{low:.0f}, {high:.0f}]"),
    ):
        assert say(judged[condition][claim], row) in readme, claim

    claims = reproductions.judge(others.reset_index())
    claims = claims[claims["networks"] == "a-martyn"].set_index("claim")
    assert set(claims.loc[["C1", "C2", "C3 (20)", "C3 (32)", "C3 (44)", "C3 (56)"], "verdict"]) == {"agrees"}
    value = claims["value"].str.split().str[0]
    assert (
        f"| yes: by {float(value['C3 (20)']):.1f} points at 20 layers, by {float(value['C3 (56)']):.1f} at 56 |"
        in readme
    )
    assert f"{float(value['C1']):.1f} points are left after the whole schedule |" in readme
    assert f"its first layer's are {value['C5 (trained)']} times its last's (times the weights)" in readme
    assert f"| yes: {value['C6 (20)']} of plain ones at 20 layers, {value['C6']} at 56 |" in readme


def test_what_one_block_costs(readme: str, told: str, published: dict[str, pd.DataFrame]) -> None:
    costs = []
    for condition in ("quick", "quick (fp32)"):
        runs = select(published[condition], {})
        read = [load_probe(folder, "lesions") for folder in runs["folder"]]
        measured = [lesion_cost(rows, 90) if len(rows) else None for rows in read]
        costs += [(run, 100 * cost) for run, cost in zip(runs["label"], measured, strict=True) if cost is not None]
    assert len(costs) == 4 * 6  # three seeds in two precisions

    def span(*networks: str) -> str:
        found = [cost for network, cost in costs if network in networks]
        return f"{min(found):.0f} to {max(found):.0f} %"

    plain, deep = span("plain-20", "plain-56"), span("residual-56")
    assert f"| plain {plain}, residual-20 {span('residual-20')}, residual-56 {deep} (that it costs plain" in readme
    said = f"costs plain networks {plain} of their advantage over guessing, residual-20 {span('residual-20')}"
    assert f"{said} and residual-56 {deep}" in told
    full = published["paper"].set_index("label")["folder"]
    said = "Deleting a block costs plain-20 {:.0f} % of its advantage over guessing, residual-20 {:.0f} %"
    assert said.format(*(100 * (lesion_cost(load_probe(full[n], "lesions"), 90) or 0) for n in full.index)) in told


def test_what_it_says_of_layers_at_quick(told: str, published: dict[str, pd.DataFrame]) -> None:
    def grown(condition: str, network: str, depth: int) -> pd.Series:
        return weight_growth(published[condition], {"network": network, "depth": depth}, 64)

    for condition, depth in (("quick (fp32)", 56), ("quick", 110)):
        percent = 100 * stats.gmean(grown(condition, "residual", depth)) - 100
        assert f" (residual-{depth}: {percent:.0f} %)" in told
    ends = [
        f"{round(end, -2):,.0f}" for end in (grown("quick", "plain", 110).min(), grown("quick", "plain", 110).max())
    ]
    assert f"grow {ends[0]} to {round(float(ends[1].replace(',', '')), -3):,.0f}-fold in 64 iterations" in told
    for label, said in (
        (
            "plain-110",
            "errs on {:.0f} % of the test images at the stem of plain-110 and on {:.0f} %, as guessing does,",
        ),
        ("residual-110", "last block (residual-110: {:.0f} and {:.0f} %)"),
        ("plain-56", "errs on {:.0f} % of the test images at the stem and {:.0f} % at the last block (difference"),
        ("plain-20", "in plain-20 on {:.0f} and {:.0f} %"),
        ("residual-56", "in residual-56 on {:.0f} and {:.0f} %"),
    ):
        runs = published["quick" if label.endswith("-110") else "quick (fp32)"]
        chosen = select(runs[runs["label"] == label], {})
        probes = [load_responses(folder)["probe_error"].dropna() for folder in chosen["folder"]]
        assert said.format(*(np.mean([probe.iloc[n] for probe in probes]) for n in (0, -1))) in told, label


def test_what_it_says_of_dirac_kernels(told: str, published: dict[str, pd.DataFrame]) -> None:
    def span(network: str, init: str) -> str:
        kind = {"network": network, "depth": 56, "network.init": init}
        errors = select(published["quick (fp32)"], kind, ("protocol.lr",))["train_error"]
        assert len(errors) == 6  # three seeds at two rates
        return f"{errors.min():.0f} to {errors.max():.0f}"

    said = (
        f"it ends at {span('plain', 'dirac')} % (three seeds, a quarter and half of the rate, float32), where plain-56"
    )
    said += (
        f" as it is ends at {span('plain', 'he')} (half and whole) and residual-56 at {span('residual', 'he')} (half"
    )
    assert said in told


def test_what_it_says_of_explosion_at_the_start(told: str, published: dict[str, pd.DataFrame]) -> None:
    def grown(network: str) -> list[float]:
        runs = select(published["quick"], {"study": "gradients", "network": network, "depth": 56})
        signals = [load_gradients(folder) for folder in runs.loc[runs["network.norm"] == "batch", "folder"]]
        ends = [rows.loc[rows["iteration"] == 0, "grad_response"] for rows in signals]
        return sorted(each.iloc[0] / each.iloc[-1] for each in ends)

    low, *_, high = grown("plain")
    assert f"{round(low, -2):,.0f} to {round(high, -2):,.0f}-fold in all" in told
    low, *_, high = grown("residual")
    assert f"{low:.0f} to {high:.0f}-fold." in told


def test_what_the_index_says_of_figures_that_are_not_published() -> None:
    drawn = {path.stem for path in find_published().glob("figures/*/*.png")}
    missing = " or ".join(f"`{name}`" for name in sorted(set(FIGURES) - drawn))
    said = f"No published run draws {missing} yet."
    assert said in (ROOT / "experiments" / "README.md").read_text()


def test_what_it_says_of_shortcuts_of_part_strength(told: str, published: dict[str, pd.DataFrame]) -> None:
    arms = {"network": "residual", "depth": 56}
    residual = select(published["quick"], {**arms, "seed": 0}, ("network.alpha",)).set_index("network.alpha")
    plain = select(published["quick"], {"network": "plain", "depth": 56}).set_index("seed")["train_error"]
    errors = residual["train_error"]
    shares = [100 * (p - errors[a]) / (p - errors[1.0]) for p in (plain[0], plain.mean()) for a in (0.5, 0.25)]
    assert plain[0] == plain.max()
    assert errors[0.1] > plain[0]
    assert (
        "half strength gives {:.0f} % of the full ones' gain at 56 layers, a quarter {:.0f} %".format(*shares[:2])
        in told
    )
    assert "the first two are {:.0f} and {:.0f} %".format(*shares[2:]) in told


def test_decay_alone_leaves_so_much_of_a_parameter(published: dict[str, pd.DataFrame]) -> None:
    # BN's gamma of a deep plain network, which the loss hardly moves, at a length at which decay is seen.
    short, where = published["short"], {"network": "plain", "depth": 56}
    left = np.exp(-applied_decay(short, where).item())
    (folder,) = select(short, where)["folder"]
    assert load_responses(folder)["gamma_rms"].median() == pytest.approx(left, rel=0.02)


def test_every_link_of_every_page_leads_somewhere() -> None:
    pages = [
        page
        for page in ROOT.rglob("*.md")
        if not any(part.startswith(".") for part in page.relative_to(ROOT).parts)
        and "site-packages" not in page.parts  # of an environment of another name
        and (page.is_relative_to(find_published()) or "results" not in page.parts)
    ]
    headings = {page: re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE) for page in pages}
    anchors = {
        page: {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in found}
        for page, found in headings.items()
    }
    links = [(page, link) for page in pages for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text())]
    assert len(links) > 300
    for page, link in links:
        path, _, anchor = link.partition("#")
        if "://" not in link:
            target = (page.parent / path).resolve() if path else page
            assert target.exists(), f"{page}: {link}"
            assert not anchor or anchor in anchors[target], f"{page}: {link}"
