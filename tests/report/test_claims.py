"""Verdicts from made-up records: in a world where the paper is right all claims are supported, else refuted."""

import hashlib
import json
import re
import shutil
import sys
import warnings
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import report
import yaml
from matplotlib.figure import Figure
from scipy import stats

from degradation.record import epoch_of, load_metrics, running_error, settled_error, write_summary
from degradation.report import draw
from degradation.report.figures import FIGURES, write_figures
from degradation.report.forest import DEVIATIONS, deviations, section_of, standardise, value_of
from degradation.report.pages import write_claims, write_gallery
from degradation.report.statistics import (
    STATISTICS,
    applied_decay,
    at_rates_of_others,
    contrast,
    first_below,
    growth_per_layer,
    iterations_to_error,
    iterations_to_share,
    lesion_difference,
    lesion_recovery,
    level,
    probe_gain,
    response_ratio,
    share_closed,
    share_cured,
    slope_in_depth,
    weight_growth,
)
from degradation.report.studies import by_settings, tabulate_by_settings
from degradation.report.table import conditions, load_probe, load_table, probes_folder, select
from degradation.report.verdicts import (
    CONF,
    Claim,
    ClaimError,
    Verdict,
    decide,
    judge,
    load_claims,
    shared_images,
)
from tests.report.conftest import put

SEEDS = (0, 1, 2)
CLAIM = Claim("X", "it is so", "level", "points", "study", above=0.0)


SHARES = {
    "share_cured": ["Cure (ramp)", "Cure (held norms)", "Cure (clipping)"],
    "share_closed": [f"Shortcuts ({way})" for way in ("Dirac", "looks linear", "tailored", "Fixup")],
    "share_of_gain": ["C8 (B)", "C8 (C)"],
}  # of a gap between plain and residual, or deep and shallow


def build_world(results: Path, right: bool) -> None:
    """Records for every claim: as the paper says, or the other way round."""
    # In both the residual networks are trained as far as the claims need them to be.
    plain = {20: 10.0, 56: 30.0, 110: 70.0} if right else {20: 1.5, 56: 1.0, 110: 0.8}
    residual = {20: 1.8, 56: 1.2, 110: 1.0, 1202: 0.01} if right else {20: 1.7, 56: 1.8, 110: 1.9, 1202: 5.0}
    gradient = 1.02 if right else 0.8
    near = 0.2 if right else 9.0
    apart = 1e-6 if right else 0.1
    hurt = {"plain": 60.0, "residual": 5.0} if right else {"plain": 1.0, "residual": 9.0}
    pace = {"plain": 1.0 if right else 3.0, "residual": 1.0}
    more = {"kept": 0.3, "lost": -20.0, "grown": 100.0} if right else {"kept": 0.9, "lost": 20.0, "grown": 2.0}
    for seed in SEEDS:
        for name, errors in (("plain", plain), ("residual", residual)):
            for depth, error in errors.items():
                size = (2.0 if name == "plain" else 1.0 - depth / 1000) if right else (0.5 + depth / 1000)
                size *= 1.0 if right or name == "plain" else 3.0
                arm = [f"network={name}", f"depth={depth}"]
                tests = {20: 1.8, 56: 1.2, 110: 0.1, 1202: 8.0} if right else {20: 5.0, 56: 15.0, 110: 25.0, 1202: 1.0}
                overfit = {"test": tests[depth]} if name == "residual" else {}
                told = {**overfit, **more, "response": size, "gradient": gradient, "hurt": hurt[name], "apart": apart}
                told["pace"] = pace[name]
                put(results, seed, *arm, error=error, **told)
        deep, shallow = plain[56], plain[20]
        child = ["network=plain", "depth=56", "network.parent_depth=20"]
        put(
            results,
            seed,
            *child,
            error=9.0 if right else 40.0,
            initial={"largest_difference": apart * (1 + seed / 100)},
        )
        put(results, seed, *child, "rate=0.01", rate=0.01, error=9.5 if right else 5.0)
        restarted = ["network=plain", "depth=20", "network.parent_depth=20"]
        put(results, seed, *restarted, error=10.5 if right else 1.4)
        put(results, seed, "network=plain", "depth=56", "length=2", error=29.0 if right else 1.0)
        for depth, size in ((20, 2.0), (56, 1.0 if right else 3.0)):
            undecayed = ["network=residual", f"depth={depth}", "protocol.decay_batchnorm=false"]
            put(results, seed, *undecayed, error=5.0, response=size)
        for rate in ("0.02", "0.05"):
            without = ["network=plain", "network.norm=none", f"protocol.lr={rate}"]
            put(results, seed, *without, error=shallow + (40 if right else -1))
        for rate in ("0.02", "0.002"):
            cold = ["network=plain", "depth=110", "protocol.warmup.min_depth=111", f"protocol.lr={rate}"]
            put(results, seed, *cold, error=65.0 if right else 5.0, gradient=gradient)
        for rate in ("0.02", "0.05"):  # of which the best is to be chosen
            arm = ["network=plain", "depth=56", f"protocol.lr={rate}"]
            for cure in ("protocol.ramp=0.05", "protocol.hold_norms=true", "protocol.clip=1.0"):
                put(results, seed, *arm, cure, error=11.0 if right else 1.05)
            for way in ("dirac", "looks_linear", "tailored", "fixup"):
                put(results, seed, *arm, f"flip={way}", error=2.0 if right else 1.05)
        put(results, seed, "network=residual", "depth=56", "protocol.lr=0.05", error=residual[56])
        for option in "BC":
            put(results, seed, "network=residual", f"network.shortcut={option}", error=residual[20] + near)
        for depth, error in ((20, shallow), (56, deep)):
            put(results, seed, "network=plain", f"depth={depth}", "length=3", error=error)
            put(results, seed, "network=plain", f"depth={depth}", "protocol.lr=0.05", error=0.9 * error)
        late = ["network=residual", "depth=110", "protocol.warmup.min_depth=111"]
        told = {"test": 0.1 if right else 11.0, "pace": 0.5 if right else 5.0}
        put(results, seed, *late, error=residual[110] + near, **told)
        put(results, seed, "network=residual", "depth=56", "network.alpha=0.5", error=8.0 if right else 60.0)
        for depth in (20, 56):
            grid = ["experiment=gradients", "network=plain", f"depth={depth}"]
            put(results, seed, *grid, error=90.0, gradient=gradient)
            put(results, seed, *grid, "network.norm=none", error=90.0, gradient=0.8 if right else 1.02)


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, Path]:
    built = {right: tmp_path_factory.mktemp("right" if right else "wrong") for right in (True, False)}
    for right, results in built.items():
        build_world(results, right)
    return built


@pytest.fixture(scope="module")
def loaded(worlds: dict[bool, Path]) -> pd.DataFrame:
    """Of the world in which the paper is right."""
    return load_table(worlds[True])


@pytest.fixture
def table(loaded: pd.DataFrame) -> pd.DataFrame:
    """The same, to be changed at will."""
    return loaded.copy()


@pytest.fixture(scope="module")
def verdicts(loaded: pd.DataFrame) -> list[Verdict]:
    """All claims in it."""
    return judge(load_claims(), loaded)


@pytest.fixture(scope="module")
def drawn(loaded: pd.DataFrame) -> dict[str, Figure]:
    """Every figure that it has."""
    ((condition, table),) = conditions(loaded)
    assert condition == "quick"
    found = {name: drawing(table) for name, drawing in FIGURES.items()}
    return {name: figure for name, figure in found.items() if figure is not None}


def test_every_claim_is_supported_where_the_paper_is_right(verdicts: list[Verdict]) -> None:
    assert {v.claim.id: v.verdict for v in verdicts} == {v.claim.id: "supported" for v in verdicts}
    assert all(len(v.effects) == len(SEEDS) for v in verdicts)


def test_every_claim_is_refuted_where_it_is_wrong(worlds: dict[bool, Path]) -> None:
    verdicts = judge(load_claims(), load_table(worlds[False]))
    moot = [v for v in verdicts if v.notes and v.notes[0].startswith("what it is a share of")]  # without degradation
    assert {v.claim.id for v in moot} == {id for ids in SHARES.values() for id in ids}
    assert {v.verdict for v in moot} == {"undecided"}
    assert {v.claim.id: v.verdict for v in verdicts if v not in moot} == {
        v.claim.id: "refuted" for v in verdicts if v not in moot
    }


@pytest.mark.parametrize("statistic", ["share_cured", "share_closed", "share_of_gain"])
def test_shares_of_what_there_is_are_refuted_where_they_are_small(table: pd.DataFrame, statistic: str) -> None:
    kept = {
        "share_cured": "ramp|hold_norms|clip",
        "share_closed": "network.init|network.norm",
        "share_of_gain": "shortcut",
    }
    helped = table["variation"].str.contains(kept[statistic])
    table.loc[helped, ["train_error_eval", "test_error"]] += 17.0
    claims = [claim for claim in load_claims() if claim.id in SHARES[statistic]]
    assert [v.verdict for v in judge(claims, table)] == ["refuted"] * len(SHARES[statistic])


def test_records_that_hold_what_varied_as_text_are_judged_alike(
    worlds: dict[bool, Path], table: pd.DataFrame, verdicts: list[Verdict], tmp_path: Path
) -> None:
    shutil.copytree(worlds[True], tmp_path, dirs_exist_ok=True)
    for path in tmp_path.glob("runs/*/summary.json"):
        summary = json.loads(path.read_text())
        varied = summary.pop("varied")
        del summary["made_by_study"]
        text = ", ".join(f"{key}={value}" for key, value in sorted(varied.items()))
        write_summary(path.parent, {**summary, "variant": text})
    older = load_table(tmp_path)
    assert older["varied"].tolist() == table["varied"].tolist()
    assert repr(judge(load_claims(), older)) == repr(verdicts)


def test_a_study_allows_what_its_file_sets_and_no_more(table: pd.DataFrame, tmp_path: Path) -> None:
    where = {"study": "gradients", "network": "plain", "depth": 56, "network.norm": "batch"}
    found = select(table, where)["folder"]
    assert len(found) == len(SEEDS)
    for folder in found:
        shutil.copytree(folder, tmp_path / "runs" / folder.name)
    path = tmp_path / "runs" / found.iloc[0].name / "summary.json"
    summary = json.loads(path.read_text())
    summary["varied"]["protocol.lr"] = 0.5  # the user's, not the study's
    write_summary(path.parent, summary)
    assert len(select(load_table(tmp_path), where)) == len(SEEDS) - 1


def test_claims_cover_the_papers_on_cifar() -> None:
    told = {claim.id.split(" ")[0] for claim in load_claims()}
    assert {f"C{n}" for n in range(1, 14)} <= told


@pytest.mark.parametrize(
    ("effects", "verdict", "needed"),
    [
        ([], "not run", None),
        ([5.0], "undecided", None),
        ([5.0, 5.1, 4.9], "supported", None),
        ([-5.0, -5.1, -4.9], "refuted", None),
        ([5.0, -4.0, 2.0], "undecided", (74, 1567)),
        ([0.0, 0.0, 0.0], "undecided", None),
        ([5.0, 5.0, 5.0], "undecided", None),  # no spread, no interval: such numbers are coarse, or made up
        ([5.0, 5.0], "undecided", None),
        ([10.0, 12.0], "undecided", (3, 11)),
        ([5.0, 5.1, float("nan"), 4.9], "supported", None),
    ],
)
def test_verdicts_follow_the_interval(effects: list[float], verdict: str, needed: tuple[int, int] | None) -> None:
    found = decide(CLAIM, pd.Series(dict(enumerate(effects)), dtype=float))
    assert found.verdict == verdict
    assert found.seeds_needed == needed


def test_the_interval_is_students() -> None:
    # t(0.975, 2) = 4.303; mean 2, standard error 1 / sqrt(3)
    found = decide(CLAIM, pd.Series({0: 1.0, 1: 2.0, 2: 3.0}))
    assert (found.low, found.high) == pytest.approx((2 - 4.3027 / 3**0.5, 2 + 4.3027 / 3**0.5), abs=1e-3)


def test_ratios_spread_by_factors() -> None:
    claim = Claim("X", "it is so", "gradient_ratio", "(ratio)", "study", above=0.1)
    found = decide(claim, pd.Series({0: 0.5, 1: 1.0, 2: 2.0}))
    assert found.mean == pytest.approx(1.0)
    assert found.low * found.high == pytest.approx(1.0)
    assert found.low == pytest.approx(2 ** -(4.3027 / 3**0.5), rel=1e-3)
    assert found.verdict == "supported"
    assert decide(claim, pd.Series({0: 1e-3, 1: 2e-3, 2: 0.0})).verdict == "undecided"  # 0 is far off, not left out
    assert decide(claim, pd.Series({0: 1e-3, 1: 2e-3, 2: 4e-3})).verdict == "refuted"


@pytest.mark.parametrize(
    ("value", "verdict"), [(0.5, "supported"), (3.0, "refuted"), (-3.0, "refuted"), (1.0, "undecided")]
)
def test_within_is_two_sided(value: float, verdict: str) -> None:
    claim = Claim("X", "it is so", "level", "points", "study", within=1.0)
    assert decide(claim, pd.Series({0: value, 1: value + 0.01, 2: value - 0.01})).verdict == verdict


def test_a_selection_takes_no_variant_unasked(table: pd.DataFrame) -> None:
    assert len(select(table, {"network": "plain", "depth": 56})) == len(SEEDS)
    swept = select(table, {"network": "plain", "depth": 56}, ("protocol.lr",))
    assert sorted(swept["protocol.lr"].unique()) == [0.02, 0.05]
    slow = select(table, {"network": "plain", "depth": 56, "network.parent_depth": 20, "rate": 0.01})
    assert slow["protocol.lr"].unique().tolist() == [0.0002]
    assert len(select(table, {"network": "plain", "depth": 56, "length": 3})) == len(SEEDS)


@pytest.mark.parametrize("factor", [0.9, 1.0, 1.21])
def test_growth_is_the_factor_per_layer_whatever_the_stages_levels(factor: float) -> None:
    layers = np.arange(1, 20)
    stage = np.repeat([0, 1, 2, 3], [1, 6, 6, 6])
    rows = pd.DataFrame({"layer": layers, "stage": stage, "grad_response": 7.0**stage * factor**-layers})
    assert growth_per_layer(rows) == pytest.approx(factor)


def test_only_equal_seeds_and_precisions_are_compared(table: pd.DataFrame) -> None:
    first, second = {"network": "plain", "depth": 56}, {"network": "residual", "depth": 56}
    assert len(contrast(table, first, second).dropna()) == 3
    one = table.copy()
    one.loc[(one["network"] == "plain") & (one["seed"] == 1), "pair"] = "1 bf16"
    assert len(contrast(one, first, second).dropna()) == 2


def test_the_best_rate_needs_the_same_rates_on_both_sides(table: pd.DataFrame) -> None:
    kinds = {"first": {"network": "plain", "depth": 56}, "second": {"network": "plain", "depth": 20}}
    assert len(contrast(table, **kinds, over="protocol.lr").dropna()) == 3
    swept = (table["protocol.lr"] == 0.05) & (table["depth"] == 20) & (table["seed"] == 2)
    assert len(contrast(table[~swept], **kinds, over="protocol.lr").dropna()) == 2


def test_slopes_are_over_the_same_depths_for_every_seed(table: pd.DataFrame) -> None:
    plain = table[table["network"] == "plain"]
    assert len(slope_in_depth(plain, "plain")) == 3
    apart = plain[(plain["depth"] == 20) & (plain["seed"] == 0) | (plain["depth"] == 56) & (plain["seed"] == 1)]
    assert slope_in_depth(apart, "plain").empty
    ragged = plain[(plain["depth"] < 110) | (plain["seed"] == 0)]
    assert slope_in_depth(ragged, "plain").tolist() == pytest.approx([10 * 20 / 36] * 3, rel=1e-2)
    odd = plain[(plain["seed"] > 0) | (plain["depth"] != 56)]
    assert len(slope_in_depth(odd, "plain")) == 3  # all have 20 and 110
    odd = plain[(plain["depth"] < 110) & (plain["seed"] > 0) | (plain["depth"] > 20) & (plain["seed"] == 0)]
    assert len(slope_in_depth(odd, "plain")) == 2


def test_a_diverged_run_counts_as_guessing(worlds: dict[bool, Path], tmp_path: Path) -> None:
    for folder in worlds[True].glob("runs/plain-110-quick-s*"):
        shutil.copytree(folder, tmp_path / "runs" / folder.name)
    for path in tmp_path.glob("runs/plain-110-quick-s0-*/summary.json"):
        summary = json.loads(path.read_text())
        write_summary(path.parent, {**summary, "outcome": "diverged", "final": None})
    found = level(load_table(tmp_path), {"network": "plain", "depth": 110})
    assert found.tolist() == pytest.approx([90.0, 70.0, 70.0], abs=0.06)


def test_a_network_that_diverged_never_converged(table: pd.DataFrame) -> None:
    kinds = {"first": {"network": "plain", "depth": 20}, "second": {"network": "residual", "depth": 20}}
    usual = iterations_to_error(table, **kinds, error=60.0)
    lost = (table["network"] == "plain") & (table["depth"] == 20) & (table["seed"] == 1)
    table = table.assign(outcome=table["outcome"].where(~lost, "diverged"))
    found = iterations_to_error(table, **kinds, error=60.0)
    assert found["0 fp32"] == usual["0 fp32"]
    assert found["1 fp32"] > 2 * usual["1 fp32"]
    assert not found.attrs["notes"]  # this favours the other side
    late = iterations_to_error(table, kinds["second"], kinds["first"], error=60.0)
    assert late.attrs["notes"] == [f"too large in 1 of {len(late)} pairs, whose second never got there"]


@pytest.mark.parametrize("diverged", [(), (20, 56)])
def test_figures_of_networks_that_did_not_learn(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    diverged: tuple[int, ...],
) -> None:
    for network in ("plain", "residual"):
        for depth in (20, 56):
            put(tmp_path, 0, f"network={network}", f"depth={depth}", error=95.0)
    for path in tmp_path.glob("runs/*/summary.json"):
        if int(path.parent.name.split("-")[1]) in diverged:
            write_summary(path.parent, {**json.loads(path.read_text()), "outcome": "diverged", "final": None})
    for module in (draw, report):  # laid out, which is where figures complain, and not written
        monkeypatch.setattr(module, "save", lambda figure, *_: figure.draw_without_rendering())
    monkeypatch.setattr(sys, "argv", ["report.py", "--results", str(tmp_path)])
    with warnings.catch_warnings():
        for kind in (UserWarning, RuntimeWarning, FutureWarning):
            warnings.simplefilter("error", kind)
        assert report.main() == 0
    assert capsys.readouterr().err == ""
    assert "| C3 (56) |" in (tmp_path / "claims.md").read_text()


def test_every_claim_has_its_figure(drawn: dict[str, Figure]) -> None:
    assert {claim.figure for claim in load_claims() if claim.figure} <= set(FIGURES)
    assert set(FIGURES) - set(drawn) == {"fig4"}  # of the networks on ImageNet, which are not in it


def test_no_figure_has_two_legends(drawn: dict[str, Figure]) -> None:
    for name, figure in drawn.items():
        told = [text.get_text() for legend in figure.legends for text in legend.get_texts()]
        assert len(told) == len(set(told)), name
        assert len(figure.legends) <= 1, name
        assert [ax for ax in figure.axes if ax.get_legend()] == [], name


def test_the_ledger_is_of_changes_at_equal_seed(table: pd.DataFrame) -> None:
    changes = deviations(table)
    assert {*changes["variation"]} == {"protocol.decay_batchnorm=False"}
    deep = changes[(changes["label"] == "residual-56") & (changes["kind"] == "test")].set_index("pair")
    where = {"network": "residual", "depth": 56}
    assert (
        deep["change"].to_dict()
        == contrast(table, {**where, "protocol.decay_batchnorm": False}, where, "test_error").to_dict()
    )
    # three seeds: t(0.975, 2) = 4.303, and two runs differ by the square root of two as much as one spreads
    spread = select(table, where)["test_error"].std()
    assert deep["noise"].tolist() == pytest.approx([4.3027 * 2**0.5 * spread] * 3, rel=1e-4)


@pytest.mark.parametrize("of", [{"above": 0.5}, {"below": 0.5}, {"within": 0.5}])
@pytest.mark.parametrize("statistic", ["level", "gradient_ratio"])
def test_right_of_one_is_supported_and_left_of_minus_one_refuted(of: dict[str, float], statistic: str) -> None:
    of = {"within": 2.0} if statistic == "gradient_ratio" and "within" in of else of
    claim = Claim("X", "it is so", statistic, "", "study", **of)
    seen = set()
    for mean in (0.05, 0.3, 0.48, 0.52, 0.9, 5.0):
        verdict = decide(claim, pd.Series([mean * 0.97, mean, mean * 1.03]))
        distance = standardise(verdict)[1]
        assert verdict.verdict == ("supported" if distance > 1 else "refuted" if distance < -1 else "undecided")
        seen.add(verdict.verdict)
    assert len(seen) > 1
    assert standardise(decide(claim, pd.Series([0.1])))[1] in (-np.inf, np.inf)


def test_every_claim_of_the_paper_has_its_section() -> None:
    beyond = {claim.id for claim in load_claims() if section_of(claim.id) == "Beyond the paper"}
    assert not [name for name in beyond if re.match(r"C\d", name)]
    assert section_of("C4 (kept)") == "The constructed solution (section 1)"


def test_the_page_says_which_protocol_it_judges(worlds: dict[bool, Path], table: pd.DataFrame) -> None:
    page = write_claims(worlds[True], table).read_text()
    assert "## Protocol quick\n\n5,000 embedded images: not the paper's protocol." in page
    assert "**supported (quick)**" in page
    glance, _, rest = page.partition("## Protocol quick")
    assert "**supported**" not in rest.partition("## How it is judged")[0]
    assert "| [quick](#protocol-quick) |" in glance
    (row,) = (line for line in glance.splitlines() if line.startswith("| C1: A deeper plain network"))
    assert row.endswith("| **supported** |")
    (row,) = (line for line in rest.splitlines() if line.startswith("| C1: A deeper plain network"))
    assert "points per 10 layers, n = 3 | **supported (quick)** |" in row
    assert "Not judged" not in page
    assert "| plain-20 | 56 | 3 | 1.0e-06 | yes | 500 |" in page
    assert "| plain-20 | 110 | 3 | 1.0e-06 | no | 500 |" in page
    page = write_claims(worlds[False], load_table(worlds[False])).read_text()
    moot = sum(map(len, SHARES.values()))
    assert page.count("**refuted (quick)**") == sum(claim.family == "cifar" for claim in load_claims()) - moot


def test_one_seed_is_a_line_and_what_is_not_run_a_list(tmp_path: Path) -> None:
    for network, error in (("plain", 30.0), ("residual", 20.0)):
        put(tmp_path, 0, f"network={network}", "depth=56", error=error)
    page = write_claims(tmp_path, load_table(tmp_path)).read_text()
    glance = page.partition("## Protocol quick")[0]
    assert re.search(r"\| C3 \(56\): .* \| claimed side, n = 1 \|", glance)
    assert re.search(r"there is no verdict yet: .*\bC12\b", glance)
    assert "<summary>One seed each, which decides nothing (" in page
    assert re.search(r"\| C3 \(56\): residual-56 beats .* \| [\d.]+ points, n = 1 \| on the claimed side \|", page)
    lines = [line for line in page.splitlines() if line.startswith("- ") and ": `make claims" in line]
    again = 'make claims PROTOCOL=quick ARGS="--studies longer_training machine.device=cpu machine.precision=fp32"'
    assert re.search(rf"- C12\b.*: `{again}` \(cost of longer_training: ", page)
    ((_, table),) = conditions(load_table(tmp_path))
    lacking = {(v.claim.study, *v.claim.needs) for v in judge(load_claims(), table) if not v.effects}
    assert len(lines) == len(lacking) > 5


def test_networks_of_others_stand_beside_the_verdicts(tmp_path: Path) -> None:
    for network in ("plain", "residual"):
        put(tmp_path, 0, f"network={network}", "depth=56", error=30.0)
    (tmp_path / "reproductions").mkdir()
    rows = ["claim,verdict", "C1,agrees", "C1,agrees", "C2,agrees", "C2,disagrees", "C3 (20),disagrees"]
    (tmp_path / "reproductions" / "claims.csv").write_text("\n".join(rows))
    page = write_claims(tmp_path, load_table(tmp_path)).read_text()
    told = {"C1": "agrees, n = 2", "C2": "1 of 2 agree", "C3 (20)": "disagrees, n = 1", "C3 (56)": ""}
    for claim, cell in told.items():
        (row,) = (line for line in page.splitlines() if line.startswith(f"| {claim}: ") and line.count("|") == 4)
        assert row.split("|")[2].strip() == cell


def test_the_runs_that_a_claim_asks_for_are_enough_to_judge_it(tmp_path: Path) -> None:
    tables: dict[tuple[str, ...], list[pd.DataFrame]] = {}
    for claim in load_claims():
        studies = (claim.study, *claim.needs)
        for study in studies:
            if (tmp_path / study).exists():
                continue
            protocol = "imagenet_quick" if study.endswith("_imagenet") else "quick"
            params = yaml.safe_load((CONF / "experiment" / f"{study}.yaml").read_text())["hydra"]["sweeper"]["params"]
            axes = [[f"{key}={value}" for value in str(values).split(",")] for key, values in params.items()]
            seeds = (0, 1) if study in ("first_steps", "without_shortcuts") else (0,)  # rates chosen on others
            more = {"initial": {"largest_difference": 1e-6}} if study == "constructed_solution" else {}
            for seed, overrides in product(seeds, product(*axes)):
                named = (f"protocol={protocol}", f"experiment={study}", *overrides)
                put(tmp_path / study, seed, *named, error=1.5, hurt=5.0, **more)
        if studies not in tables:
            tables[studies] = [runs for _, runs in conditions(load_table(*(tmp_path / study for study in studies)))]
        (runs,) = tables[studies]
        for part in (claim, *claim.testable):
            found = pd.DataFrame(STATISTICS[part.statistic](runs, **part.of))
            assert len(found.dropna()), f"{claim.id}: {part.sentence}"


def test_what_is_not_testable_takes_no_side_with_one_seed(tmp_path: Path) -> None:
    put(tmp_path, 0, "network=residual", error=20.0)
    put(tmp_path, 0, "network=residual", "depth=56", error=10.0)
    page = write_claims(tmp_path, load_table(tmp_path)).read_text()
    needs = r"not testable at this protocol \(quick\): needs residual-20 under 2 % training error"
    seen = r" \(a condition written when seeds 0, 1, 2 of this protocol had been seen\)"
    assert re.search(rf"\| C2: .* \| -[\d.]+ points per 10 layers, n = 1 \| {needs}{seen} \|", page)
    assert re.search(r"\| C2: .* \| not testable \|", page.partition("## Protocol quick")[0])
    put(tmp_path, 1, "network=residual", error=20.0)
    put(tmp_path, 1, "network=residual", "depth=56", error=10.0)
    page = write_claims(tmp_path, load_table(tmp_path)).read_text()  # what several seeds say is told all the same
    assert re.search(rf"\| C2: .*, n = 2 \| {needs}{seen}; as it is, on the claimed side \|", page)
    assert re.search(r"\| C2: .* \| not testable \(claimed side\) \|", page.partition("## Protocol quick")[0])


def test_every_choice_that_is_flipped_has_its_line_in_the_ledger() -> None:
    study = yaml.safe_load((CONF / "experiment" / "deviations.yaml").read_text())
    for flip in study["hydra"]["sweeper"]["params"]["flip"].split(","):
        changes = yaml.safe_load((CONF / "flip" / f"{flip}.yaml").read_text()) or {}
        assert {f"{part}.{key}" for part, settings in changes.items() for key in settings} <= DEVIATIONS, flip


@pytest.mark.parametrize(
    ("entry", "told"),
    [
        ("{sentence: s, statistic: guess, unit: u, above: 0}", "guess is not one of"),
        ("{sentence: s, statistic: level, unit: u}", "state one of above, below and within"),
        ("{sentence: s, statistic: level, unit: u, above: 0, below: 1}", "state one of"),
        ("{sentence: s, statistic: level, unit: u, abvoe: 0}", "abvoe"),
    ],
)
def test_malformed_claims_are_named(tmp_path: Path, entry: str, told: str) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text(f"claims:\n  C1: {entry}\n")
    with pytest.raises(ClaimError, match=told):
        load_claims(tmp_path)


def test_the_interval_of_a_share_is_fiellers() -> None:
    claim = Claim("X", "it is so", "share_of_gain", "of it", "study", within=0.5)
    shares = pd.DataFrame({"part": [1.0, 2.0, 3.0, 2.0], "whole": [10.0, 11.0, 9.0, 12.0]})
    found = decide(claim, shares)
    assert found.mean == pytest.approx(8 / 42)
    for edge in (found.low, found.high):  # there, and only there, part - edge whole is just off zero
        apart = (shares["part"] - edge * shares["whole"]).to_numpy()
        assert stats.ttest_1samp(apart, 0.0).pvalue == pytest.approx(0.05, rel=1e-6)
    assert found.verdict == "supported"
    assert decide(claim, shares.assign(part=2.0)).high < 0.5  # of equal parts the wholes have a spread
    nothing = decide(claim, shares.assign(whole=[10.0, -11.0, 9.0, -12.0]))  # a share of what may be nothing
    assert nothing.verdict == "undecided"
    assert (nothing.low, nothing.high) == (-np.inf, np.inf)
    assert value_of(nothing) == "no share of it"
    assert standardise(nothing)[1] == 0


def test_a_share_is_of_something() -> None:
    claim = Claim("X", "it is so", "share_cured", "of it", "study", above=0.5)
    parts = [-10.0, -10.4, -9.8]
    harmed = decide(claim, pd.DataFrame({"part": parts, "whole": [-10.0, -10.1, -10.2]}))  # there was nothing to cure
    assert (harmed.verdict, harmed.notes) == ("undecided", ("what it is a share of is -10.1, not above 0",))
    assert (value_of(harmed), standardise(harmed)[1]) == ("no share of it", 0.0)
    # A seed without a gap is one like the others.
    found, near = (
        decide(claim, pd.DataFrame({"part": [6.0, 6.2, 5.9, 0.4], "whole": [8.0, 8.1, 7.9, last]}))
        for last in (0.0, 1e-9)
    )
    assert (found.verdict, near.verdict, len(found.effects)) == ("undecided", "undecided", 4)
    assert found.mean == pytest.approx(near.mean)
    # What would decide it is more seeds of the whole, too.
    loose = decide(claim, pd.DataFrame({"part": [10.5, 9.5, 11.5], "whole": [1.0, -1.0, 1.5]}))
    assert (loose.verdict, loose.low) == ("undecided", -np.inf)
    assert loose.seeds_needed is not None
    assert loose.seeds_needed[0] > 6
    # Seeds as far from the threshold as each other, to the last digit, have no spread there.
    assert decide(claim, pd.DataFrame({"part": [19.0, 19.2], "whole": [40.0, 40.4]})).verdict == "undecided"


def test_test_images_shared_by_all_seeds_widen_the_interval(table: pd.DataFrame, tmp_path: Path) -> None:
    of = {
        "first": {"network": "plain", "depth": 56},
        "second": {"network": "plain", "depth": 20},
        "column": "test_error",
    }
    claim = Claim("X", "it is so", "contrast", "points", "study", above=0.0, of=of)
    errors = [select(table, of[kind])["test_error"].mean() for kind in ("first", "second")]
    variance = float(np.squeeze(shared_images(claim, table)))
    assert variance == pytest.approx(sum(p * (100 - p) for p in errors) / 10_000, rel=1e-3)
    counted = table.assign(**{"images.test": 500})  # of a set of one's own in a known name's folder
    assert float(np.squeeze(shared_images(claim, counted))) == pytest.approx(20 * variance, rel=1e-3)
    alone, shared = decide(claim, contrast(table, **of)), judge([claim], table)[0]
    reach = np.hypot((alone.high - alone.low) / 2, 1.959964 * np.sqrt(variance))
    assert shared.high - shared.mean == pytest.approx(reach, rel=1e-6)
    at_its_edge = replace(claim, above=shared.low)
    assert decide(at_its_edge, contrast(table, **of), variance).p == pytest.approx(0.05, rel=1e-6)
    # Where it is known which images are wrong, what both networks err on does not count.
    for number, run in table[table["variation"] == ""].iterrows():
        table.loc[number, "folder"] = folder = tmp_path / str(number)
        folder.mkdir()
        wrong = [*range(500), *range(1000, 1000 + 10 * run["depth"])]
        (folder / "wrong.csv").write_text("\n".join(["image", *map(str, wrong)]))
    known = 100**2 * (360 / 10_000) * (1 - 360 / 10_000) / 9_999  # of 56 layers' further 360
    assert float(np.squeeze(shared_images(claim, table))) == pytest.approx(known, rel=1e-3)
    # What each seed errs on by itself is in the spread of seeds; more of them leave nothing of it here.
    draw_from = np.random.default_rng(0)
    for folder in table.loc[table["variation"] == "", "folder"]:
        wrong = draw_from.choice(10_000, 900, replace=False)
        (folder / "wrong.csv").write_text("\n".join(["image", *map(str, wrong)]))
    assert float(np.squeeze(shared_images(claim, table))) < 0.1 * variance
    # Of sets of other sizes, or unknown ones, the bound, or nothing.
    other = table.assign(**{"images.test": np.where(table["depth"] == 56, 9_000, 10_000)})
    assert float(np.squeeze(shared_images(claim, other))) > 0.9 * variance
    assert np.isnan(shared_images(claim, table.assign(data="flowers"))).all()
    trained = Claim("X", "it is so", "contrast", "points", "study", above=0.0, of={**of, "column": "train_error"})
    assert shared_images(trained, table) == 0.0
    both = Claim("C8", "it is so", "share_of_gain", "", "study", within=0.25, of={**of, "plain": {"network": "plain"}})
    assert np.shape(shared_images(both, table)) == (2, 2)


def test_what_a_protocol_does_not_reach_is_not_testable(table: pd.DataFrame) -> None:
    (claim,) = (claim for claim in load_claims() if claim.id == "C2")
    assert judge([claim], table)[0].verdict == "supported"
    residual = (table["network"] == "residual") & (table["depth"] == 20)
    table.loc[residual, "train_error_eval"] = 2.5
    found = judge([claim], table)[0]
    assert (found.verdict, found.notes) == ("not testable", ("residual-20 under 2 % training error",))
    assert judge([claim], table[~residual])[0].verdict == "not testable"


def test_eval_mode_that_disagrees_is_told(table: pd.DataFrame) -> None:
    (claim,) = (claim for claim in load_claims() if claim.id == "C1")
    assert judge([claim], table)[0].notes == ()
    table["train_error_eval"] = -table["train_error_eval"]
    assert judge([claim], table)[0].notes[0].startswith("by eval-mode training error refuted (-")
    (one,) = judge([claim], table[table["seed"] == 0])  # which decides nothing, and has a side
    assert one.verdict == "undecided"
    assert one.notes[0].startswith("by eval-mode training error on the other side (-")


def test_all_but_primary_claims_are_corrected_for_being_many() -> None:
    table = pd.DataFrame({"pair": ["0 a", "1 a", "2 a"], "train_error": [5.0, 7.0, 6.0], "network": "plain"})
    table = table.assign(train_error_eval=table["train_error"], varied=[{}] * 3, protocol="quick")
    ones = [Claim(f"X{n}", "it is so", "level", "%", "s", above=2.5, of={"where": {}}) for n in range(3)]
    assert [v.verdict for v in judge(ones[:1], table)] == ["supported"]
    many = judge(ones, table)
    assert {v.verdict for v in many} == {"undecided"}
    assert many[0].notes[0].startswith("supported alone, not as one of 3 (Holm: p = ")
    assert judge([replace(ones[0], primary=True), *ones[1:]], table)[0].verdict == "supported"


def test_the_correction_is_holms_and_counts_what_can_be_tested() -> None:
    table = pd.DataFrame({"pair": ["0 a", "1 a", "2 a"], "train_error": [5.0, 7.0, 6.0], "network": "plain"})
    table = table.assign(train_error_eval=table["train_error"], varied=[{}] * 3, protocol="quick")
    far, mid, near = (
        Claim(f"X{above}", "it is so", "level", "%", "s", above=above, of={"where": {}}) for above in (0.3, 2.7, 3.2)
    )
    alone = [judge([each], table)[0].p for each in (far, mid, near)]
    assert 0.005 < alone[0] < 0.015 < 0.025 < alone[1] < alone[2] < 0.05  # twice the last two are too much
    assert [each.verdict for each in judge([far, near], table)] == ["supported", "supported"]
    assert [each.verdict for each in judge([far, mid, near], table)] == ["supported", "undecided", "undecided"]
    moot = replace(mid, testable=(replace(far, above=100.0),))
    assert [each.verdict for each in judge([far, moot, near], table)] == ["supported", "not testable", "supported"]


def test_what_was_seen_is_exploratory_until_new_seeds_confirm_it() -> None:
    table = pd.DataFrame({"pair": ["0 a", "1 a", "2 a", "3 a"], "train_error": [5.0, 5.1, 4.9, 5.2]})
    table = table.assign(train_error_eval=table["train_error"], varied=[{}] * 4, protocol="quick")
    claim = Claim("X", "it is so", "level", "%", "s", above=0.0, of={"where": {}}, seen={"quick": [0, 1]})
    assert judge([claim], table)[0].notes == ("confirmed on new seeds",)
    assert judge([claim], table.iloc[:3])[0].notes == ("exploratory: written after these seeds were seen",)
    # What is not decided among many is not confirmed either.
    spread = pd.DataFrame({"pair": [f"{n} a" for n in range(6)], "train_error": [0.5, 9.0, 14.0, 5.0, 5.1, 5.2]})
    spread = spread.assign(train_error_eval=spread["train_error"], varied=[{}] * 6, protocol="quick")
    claim = replace(claim, above=0.8, seen={"quick": [0, 1, 2]})
    assert judge([claim], spread)[0].notes == ("confirmed on new seeds",)
    (among,) = judge([claim] * 6, spread)[:1]
    assert (among.verdict, len(among.notes)) == ("undecided", 1)
    assert judge([claim], table.assign(protocol="paper"))[0].notes == ()


def by_rate(kind: str, **errors: list[float | None]) -> list[dict[str, object]]:
    """Runs of a kind at the rates 0.1, 0.2, 0.3, 0.4, a list for each seed; None where there is none."""
    return [
        {
            "pair": f"{seed[1:]} a",
            "protocol.lr": lr,
            "train_error_eval": error,
            "varied": {},
            "kind": kind,
            "label": kind,
        }
        for seed, each in errors.items()
        for lr, error in zip((0.1, 0.2, 0.3, 0.4), each, strict=False)
        if error is not None
    ]


def test_the_rate_is_chosen_on_other_seeds() -> None:
    def best(*kinds: list[dict[str, object]]) -> list[dict[str, float]]:
        runs = pd.DataFrame([run for kind in kinds for run in kind])
        names = [{"kind": kind} for kind in dict.fromkeys(runs["kind"])]
        return [values.to_dict() for values in at_rates_of_others(runs, names, "train_error_eval")]

    # Seed 0 would choose 0.1, the two others together choose 0.2; and so on.
    three = by_rate("x", s0=[10.0, 30.0], s1=[40.0, 20.0], s2=[40.0, 30.0])
    assert best(three) == [{"0 a": 30.0, "1 a": 40.0, "2 a": 40.0}]
    # Seeds that were run at one rate alone have no best one, and take none from the others.
    assert best(three + by_rate("x", s3=[1.0], s4=[1.0])) == best(three)
    assert best(by_rate("x", s0=[10.0], s1=[20.0])) == [{}]
    # Grids that overlap share what lies in all.
    grids = pd.DataFrame(by_rate("x", s0=[None, 1.0, 2.0, 9.0], s1=[0.5, 1.0, 2.0]))
    (overlap,) = at_rates_of_others(grids, [{}], "train_error_eval")
    assert overlap.to_dict() == {"0 a": 1.0, "1 a": 1.0}
    lowest = level(grids, {}, "train_error_eval", "protocol.lr")
    assert lowest.to_dict() == {"0 a": 1.0, "1 a": 1.0}
    told = "of 2 values of protocol.lr, the best is the lowest or highest for x in 2 of 2 seeds"
    assert lowest.attrs["notes"] == [told]
    # Where most have a set of their own, one that overlaps does not count.
    most = by_rate("x", s0=[1.0, 2.0, 3.0], s1=[1.0, 2.0, 3.0], s2=[1.0, 2.0, 3.0], s3=[None, 2.0, 3.0, 4.0])
    (kept,) = at_rates_of_others(pd.DataFrame(most), [{}], "train_error_eval")
    assert kept.to_dict() == {"0 a": 1.0, "1 a": 1.0, "2 a": 1.0}
    # A rate that one kind lacks is none of another's either.
    more = by_rate("x", s0=[10.0, 30.0, 1.0], s1=[40.0, 20.0, 1.0], s2=[40.0, 30.0, 1.0])
    (wide,) = at_rates_of_others(pd.DataFrame(by_rate("x", s0=[3, 1, 2], s1=[3, 1, 2])), [{}], "train_error_eval")
    assert wide.attrs["edges"] == []  # the best lies between others
    twin = by_rate("y", s0=[5.0, 6.0], s1=[5.0, 6.0], s2=[5.0, 6.0])
    assert best(more, twin) == [*best(three), {"0 a": 5.0, "1 a": 5.0, "2 a": 5.0}]


def test_harm_to_the_shallow_network_is_no_cure() -> None:
    # Clipping leaves plain-56 as far from learning as it was, and takes plain-20 there, too.
    runs = pd.DataFrame(
        [
            *by_rate("deep", s0=[75.0, 80.0], s1=[75.0, 80.0]),
            *by_rate("shallow", s0=[40.0, 45.0], s1=[40.0, 45.0]),
            *({**run, "clip": 1.0} for run in by_rate("deep", s0=[74.0, 80.0], s1=[74.0, 80.0])),
            *({**run, "clip": 1.0} for run in by_rate("shallow", s0=[70.0, 75.0], s1=[70.0, 75.0])),
        ]
    ).fillna({"clip": 0.0})
    runs["varied"] = [{"clip": 1.0} if clip else {} for clip in runs["clip"]]
    found = share_cured(runs, {"kind": "shallow"}, {"kind": "deep"}, {"clip": 1.0})
    assert found["part"].tolist() == [1.0, 1.0]
    assert found["whole"].tolist() == [35.0, 35.0]
    assert found.attrs["notes"][1] == "deep with remedy at its lowest rate of those run"


def test_a_gap_is_closed_by_another_kind_at_a_rate_of_its_own() -> None:
    runs = pd.DataFrame(
        [
            *by_rate("plain", s0=[75.0, 80.0], s1=[75.0, 80.0]),
            *by_rate("residual", s0=[35.0, 30.0], s1=[35.0, 30.0]),
            *by_rate("other", s0=[None, 60.0, 55.0], s1=[None, 60.0, 55.0]),
        ]
    )
    found = share_closed(runs, {"kind": "other"}, {"kind": "plain"}, {"kind": "residual"})
    assert (found["part"] / found["whole"]).tolist() == pytest.approx([20 / 45] * 2)


def test_lesions_are_compared_with_the_whole_network_under_the_same_statistics(tmp_path: Path) -> None:
    for network in ("plain", "residual"):
        put(tmp_path, 0, f"network={network}", error=40.0)
    table = load_table(tmp_path)

    def write(network: str, whole: str) -> None:
        folder = probes_folder(table.loc[table["network"] == network, "folder"].iloc[0])
        rows = [
            "kind,count,error,error_recalibrated",
            f"delete,0,40,{whole}",
            "delete_one,1,80,50",
            "delete_one,1,60,54",
        ]
        (folder / "lesions.csv").write_text("\n".join(rows) + "\n")

    write("plain", "42")
    write("residual", "")
    (plain,) = lesion_recovery(table, "plain", 20).to_numpy()
    assert plain.tolist() == [30 - 10, 30]  # of 70 - 40, 52 - 42 is left
    (earlier,) = lesion_recovery(table, "residual", 20).to_numpy()
    assert earlier.tolist() == [30 - 12, 30]
    assert lesion_difference(table, 20).item() == 0
    both = lesion_difference(table, 20, "error_recalibrated").item()
    assert both == pytest.approx(10 / (90 - 42) - 12 / (90 - 40))


def test_the_last_rows_are_averaged() -> None:
    metrics = pd.DataFrame({"iteration": [25, 50, 75, 100], "train_error": [9.0, 3.0, 1.0, 2.0]})
    assert settled_error(metrics, 50) == 1.5
    short = pd.DataFrame({"iteration": [25, 50, 75, 76], "train_error": [50.0, 50.0, 50.0, 76.0]})  # of one batch
    assert settled_error(short, 50) == pytest.approx((50 * 50 + 76) / 51)
    assert running_error(short, 50).iloc[-1] == pytest.approx((50 * 50 + 76) / 51)


def test_what_is_read_from_a_runs_folder(tmp_path: Path) -> None:
    put(tmp_path, 0, "network=plain", error=20.0)
    table, where = load_table(tmp_path), {"network": "plain"}
    folder = table["folder"].iloc[0]
    (folder / "metrics.csv").write_text("iteration,lr,train_error,test_error\n10,0.1,50,50\n30,0.01,50,50\n")
    table["protocol.weight_decay"] = 0.5
    assert applied_decay(table, where).item() == pytest.approx(0.5 * (10 * 0.1 + 20 * 0.01) / (1 - 0.9))
    described = probes_folder(folder) / "probe.json"
    for known, of_these in ((b"", True), (b"weights", False)):
        described.write_text(json.dumps({"weights": hashlib.sha256(b"weights before").hexdigest()}))
        (folder / "network.pt").write_bytes(known)
        if known:
            write_summary(folder, json.loads((folder / "summary.json").read_text()))
        assert bool(len(load_probe(folder, "lesions"))) == of_these
    put(tmp_path, 0, "network=residual", error=10.0)
    both = load_table(tmp_path).set_index("network")
    for network, stds in (("plain", (1.0, 1.0, 1.0)), ("residual", (1.0, 2.0, 9.0))):
        rows = "".join(f"{layer},{std}\n" for layer, std in enumerate(stds, 1))
        (both["folder"][network] / "responses.csv").write_text(f"layer,std_exact\n{rows}")
    assert response_ratio(both.reset_index(), int(both["depth"].iloc[0])).item() == 2.0  # the median of layers
    (folder / "responses.csv").write_text("layer,probe_error\n1,70\n2,\n3,60\n4,55\n")
    assert probe_gain(table, where).item() == -15.0  # the last block's minus the stem's
    rows = "0,1,2.0\n0,2,3.0\n64,1,10.0\n64,2,3.0\n"
    (folder / "gradients.csv").write_text(f"iteration,layer,weight_norm\n{rows}")
    assert weight_growth(table, where, 64).item() == 5.0
    assert weight_growth(table, where, 16).empty


def test_an_epoch_is_of_whole_rows() -> None:
    assert epoch_of("cifar10_mini", 0, 32, 25) == 175  # 156.25 iterations
    assert epoch_of("cifar10_mini", 500, 32, 25) == 150  # 140.625
    assert epoch_of("cifar10", 0, 128, 50) == 400
    assert epoch_of("flowers", 0, 128, 50) == 50  # one's own set: a row
    assert epoch_of("flowers", 100, 32, 25, 20_000) == 625  # or as many as its record says were trained on


def test_with_and_without_bn_are_shown_at_the_best_rate_that_both_have(tmp_path: Path) -> None:
    for norm, errors in (("batch", {0.02: 20.0, 0.05: 30.0, 0.1: 10.0}), ("none", {0.02: 60.0, 0.05: 50.0})):
        for rate, error in errors.items():
            put(tmp_path, 0, "network=plain", f"network.norm={norm}", f"protocol.lr={rate}", error=error)
    figure = FIGURES["without_bn"](next(conditions(load_table(tmp_path)))[1])
    assert figure is not None
    assert "rate of plain-20 with BN 0.02, plain-20 without 0.05" in figure.get_supxlabel().replace("\n", " ")
    shown = [y for line in figure.axes[0].get_lines() for y in np.ravel(line.get_ydata())]
    assert {round(float(y)) for y in shown} == {20, 50}


def test_a_level_is_reached_by_the_last_epoch_not_by_one_row_of_it() -> None:
    errors = [90.0, 58.0, 70.0, 62.0, 57.0, 58.0]
    metrics = pd.DataFrame({"iteration": range(25, 175, 25), "train_error": errors})
    assert running_error(metrics, 50).tolist() == [90, 74, 64, 66, 59.5, 57.5]
    assert running_error(metrics, 50).iloc[-1] == settled_error(metrics, 50)
    assert first_below(metrics, 60.0, 25) == 50
    assert first_below(metrics, 60.0, 50) == 125
    assert first_below(metrics, 50.0, 50) is None


def test_a_share_of_ones_own_way_has_no_start_in_the_end(tmp_path: Path) -> None:
    for network, error, pace in (("plain", 50.0, 1.0), ("residual", 10.0, 1.0)):
        put(tmp_path, 0, f"network={network}", error=error, pace=pace)
    table, kinds = load_table(tmp_path), ({"network": "plain"}, {"network": "residual"})
    found = iterations_to_share(table, *kinds, 0.8).item()
    reached = []
    for run, error in zip(table.itertuples(), table["train_error"] * 0.8 + 18, strict=True):
        reached.append(first_below(load_metrics(run.folder), error, 175))
    assert found == reached[0] / reached[1]
    assert iterations_to_share(table.assign(outcome=["diverged", "finished"]), *kinds, 0.8).empty


def test_records_without_the_younger_measures_say_nothing_of_them(worlds: dict[bool, Path], tmp_path: Path) -> None:
    shutil.copytree(worlds[True], tmp_path, dirs_exist_ok=True)
    for path, columns in (
        ("responses", ["std_exact", "cosine", "rank", "probe_error"]),
        ("gradients", ["weight_norm", "lr"]),
    ):
        for file in tmp_path.glob(f"runs/*/{path}.csv"):
            pd.read_csv(file).drop(columns=columns).to_csv(file, index=False)
    for file in tmp_path.glob("runs/*/summary.json"):
        write_summary(file.parent, json.loads(file.read_text()))
    verdicts = {v.claim.id: v.verdict for v in judge(load_claims(), load_table(tmp_path))}
    younger = {"C5 (trained)", "C5 (update)", "C5 (trained, 110)", "C5 (cold, 110)", "C5 (forward)", "Explosion (56)"}
    younger |= {"C6", "C7", "C7 (110)", "C7 (no decay)"}
    assert {name for name, verdict in verdicts.items() if verdict == "not run"} == younger
    ((_, table),) = conditions(load_table(tmp_path))
    younger = {"first_steps", "weight_norms", "information", "fig7_statistics"}  # figures of the two files
    older = {"fig7", "response_parts", "gradients", "gradients_in_training", "signals_in_training"}
    assert {name for name in younger | older if FIGURES[name](table) is not None} == older


def test_another_precision_is_compared_at_equal_seed_and_judged_apart(tmp_path: Path) -> None:
    for precision, change in (("bf16", 0.0), ("fp32", 1.5)):
        for seed in range(2 if precision == "bf16" else 1):
            for network, error in (("plain", 40.0), ("residual", 30.0)):
                arms = (f"network={network}", "depth=20")
                put(tmp_path / precision, seed, *arms, error=error + change, precision=precision)
    table = load_table(tmp_path / "bf16", tmp_path / "fp32")
    page = write_claims(tmp_path, table).read_text()
    told = page.partition("### In another precision")[2]
    assert "| plain-20 | fp32 for bf16 | 1 | +1.5 | +1.5 |" in told
    assert "## Protocol quick\n" in page
    assert "## Protocol quick (fp32)\n" in page
    assert "In another precision" not in write_claims(tmp_path, load_table(tmp_path / "bf16")).read_text()


def test_the_bar_of_a_verdict_is_its_interval() -> None:
    claim = Claim("X", "it is so", "share_of_gain", "of it", "study", within=0.25)
    near = Verdict(claim, "undecided", {"0 a": 0.0, "1 a": 0.0}, 0.05, -0.35, 0.45)
    # In widths toward the nearer bound, 0.25: the ends lie 0.10 and 0.20 outside; nothing lies farther inside than 0.
    assert standardise(near) == pytest.approx(np.array([-0.2, 0.2, 0.25]) / 0.4)
    one = replace(claim, within=None, above=0.5)
    skewed = Verdict(one, "undecided", {"0 a": 0.0, "1 a": 0.0}, 0.3, -1.7, 0.9)
    assert standardise(skewed) == pytest.approx(np.array([-2.2, -0.2, 0.4]) / 0.6)


def test_runs_that_their_records_call_the_same_are_told_apart(tmp_path: Path) -> None:
    for lr in (0.5, 0.05):
        for network in ("plain", "residual"):
            named = (f"network={network}", "depth=56", "protocol.name=mine", f"protocol.lr={lr}")
            put(tmp_path, 0, *named, error=30.0)
    table = load_table(tmp_path)
    assert sorted(table["variation"]) == ["protocol.lr=0.05"] * 2 + ["protocol.lr=0.5"] * 2
    assert select(table, {}).empty
    put(tmp_path, 0, "network=plain", "depth=20", "protocol.name=mine", error=30.0)
    page = write_claims(tmp_path, load_table(tmp_path)).read_text()
    assert "PROTOCOL=mine" not in page  # which no file names


def test_a_protocol_that_was_changed_between_seeds_is_two(tmp_path: Path) -> None:
    for seed, lr in enumerate((0.02, 0.02, 0.02, 0.005)):
        put(tmp_path, seed, "network=plain", "depth=20", "protocol.name=mine", f"protocol.lr={lr}", error=30.0)
    table = load_table(tmp_path)
    assert table.set_index("seed")["variation"].to_dict() == {0: "", 1: "", 2: "", 3: "protocol.lr=0.005"}
    assert select(table, {})["seed"].tolist() == [0, 1, 2]


def test_what_is_not_set_is_a_value_among_ones_own(tmp_path: Path) -> None:
    for seed, more in enumerate(([], ["protocol.clip=1.0"], ["protocol.hold_norms=true"])):
        put(tmp_path, seed, "network=plain", "depth=20", *more, error=30.0 + seed)
    table = next(conditions(load_table(tmp_path)))[1]
    assert by_settings(table, ("protocol.clip",))["value"].tolist() == ["clip=none", "clip=1.0"]
    assert by_settings(table, ("protocol.hold_norms",))["value"].tolist() == ["hold_norms=False", "hold_norms=True"]
    assert by_settings(table, ("protocol.lr",)).empty
    found = tabulate_by_settings(table, ("protocol.clip",))
    assert found["value"].tolist() == ["clip=1.0", "clip=none"]
    assert found["train_error_mean"].round().tolist() == [31, 30]


def test_the_best_rate_is_of_seeds_that_have_the_same_rates(tmp_path: Path) -> None:
    for rate, errors in {0.01: (50.0, 52.0), 0.02: (51.0, 53.0)}.items():
        for seed, error in enumerate(errors):
            put(tmp_path, seed, "network=plain", "depth=56", f"protocol.lr={rate}", error=error)
            put(tmp_path, seed, "network=plain", "depth=56", "network.init=dirac", f"protocol.lr={rate}", error=error)
    # A lucky seed at one more rate is not the best of the others'.
    named = ("network=plain", "depth=56", "network.init=dirac", "protocol.lr=0.04")
    put(tmp_path, 2, *named, error=20.0)
    figure = FIGURES["without_shortcuts"](next(conditions(load_table(tmp_path)))[1])
    assert figure is not None
    assert "rate of plain 0.01, Dirac kernels 0.01" in figure.get_supxlabel().replace("\n", " ")
    shown = [y for line in figure.axes[0].get_lines() for y in np.ravel(line.get_ydata())]
    assert {round(float(y)) for y in shown} == {50, 52}


def test_a_restarted_parent_is_no_deepened_network(tmp_path: Path) -> None:
    put(tmp_path, 0, "network=plain", "depth=20", error=30.0)
    put(tmp_path, 0, "network=plain", "depth=20", "network.parent_depth=20", error=28.0)
    assert FIGURES["constructed"](next(conditions(load_table(tmp_path)))[1]) is None


def test_a_figure_says_it_bears_on_claims_that_its_runs_can_show(tmp_path: Path) -> None:
    put(tmp_path, 0, "network=plain", "depth=20", error=30.0)
    put(tmp_path, 0, "network=residual", "depth=20", error=25.0)
    table = load_table(tmp_path)
    write_figures(tmp_path, table)
    bears = set(re.findall(r"Bears on ([^\[]*) of \[claims", write_gallery(tmp_path, table).read_text()))
    told = {claim for each in bears for claim in each.split(", ")}
    assert "C3 (20)" in told
    assert not told & {"C1", "C3 (56)", "C6", "C6 (moving)", "C7", "Lesion (56)"}


def test_runs_that_all_vary_something_are_judged_without_a_usual_one(tmp_path: Path) -> None:
    for depth in (20, 56):
        for lr in (0.05, 0.01):
            put(tmp_path, 0, "network=plain", f"depth={depth}", f"protocol.lr={lr}", error=30.0)
    assert "C1 (best rate)" in write_claims(tmp_path, load_table(tmp_path)).read_text()
