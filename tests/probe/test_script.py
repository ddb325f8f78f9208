"""experiments/probe.py in a real process: tables, figures and summary of a checkpoint, or one line and nothing."""

import json
import os
import re
import runpy
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pandas as pd
import pytest
import torch

from degradation.data.images import make_synthetic
from degradation.data.resident import ChannelNormalizer
from degradation.net.network import Network
from degradation.probe.lesions import deletable
from degradation.probe.views import Views, evaluate
from degradation.train.machine import NO_CUDA
from degradation.train.run import train
from tests.conftest import ROOT, Compose
from tests.net.test_foreign import make_network, torchvision_names

SCRIPT = ROOT / "experiments" / "probe.py"
TABLES = {
    "error.csv": ["set", "images", "error", "loss"],
    "responses.csv": ["layer", "name", "stage", "std", "mean", "gamma_rms", "beta_rms", "std_exact"],
    "information.csv": ["layer", "name", "stage", "cosine", "rank", "probe_error"],
    "gradients.csv": ["layer", "name", "stage", "std", "grad_response", "grad_weight"],
    "lesions.csv": ["kind", "count", "draw", "blocks", "error", "loss", "stage"],
    "constructed.csv": ["depth", "largest_difference", "parent_error", "error"],
}
FIGURES = {"responses.png", "information.png", "gradients.png", "lesions.png"}


Probe = Callable[..., tuple[int, str, str]]


@pytest.fixture
def probe(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Probe:
    """(folder, arguments) -> exit status, stdout and stderr of the script's main, in this process and on the CPU."""
    monkeypatch.setattr("degradation.train.machine.cuda_trouble", lambda: NO_CUDA)
    main = runpy.run_path(str(SCRIPT), run_name="probe")["main"]

    def run(folder: Path, *arguments: str) -> tuple[int, str, str]:
        monkeypatch.chdir(folder)
        monkeypatch.setattr(sys, "argv", [str(SCRIPT), *arguments])
        try:
            status = main()
        except SystemExit as exit:
            status = exit.code
        return (status, *capsys.readouterr())

    return run


def write_foreign(path: Path, network: Network) -> None:
    tensors = {f"module.{name}": tensor for name, tensor in torchvision_names(network.state_dict()).items()}
    torch.save({"state_dict": tensors, "epoch": 7}, path)


def test_a_checkpoint_of_other_code_from_end_to_end(tmp_path: Path, probe: Probe) -> None:
    network = make_network("A", depth=14, width=2)
    write_foreign(tmp_path / "other.th", network)
    constants = ["--mean", "0.485,0.456,0.406", "--std", "0.229,0.224,0.225"]
    small = ["--data", "synthetic", "--lesion-images", "100", "--draws", "2"]
    command = [sys.executable, str(SCRIPT), "other.th", "--shortcut", "A", *small, *constants]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=300, env=environment)
    assert done.returncode == 0, done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines() if " measuring " not in line] == [
        "other:",
        "on",
        "error",
        "responses",
        "information",
        "gradients",
        "lesions",
        "constructed",
        "tables",
    ]
    assert "depth 14, shortcut A, width 2" in done.stdout
    out = tmp_path / "inspect" / "other"
    assert {path.name for path in out.iterdir()} >= set(TABLES) | FIGURES
    assert sorted(path.name for path in tmp_path.iterdir()) == ["inspect", "other.th"]
    assert [path.name for path in out.parent.iterdir()] == ["other"]
    tables = {name: pd.read_csv(out / name, keep_default_na=False) for name in TABLES}
    for name, columns in TABLES.items():
        assert list(tables[name])[: len(columns)] == columns
    assert len(tables["responses.csv"]) == len(tables["gradients.csv"]) == 13
    assert tables["information.csv"]["name"].tolist() == ["stem", *(f"{name}.conv2" for name in network.blocks())]
    assert tables["information.csv"]["layer"].tolist() == [1, 3, 5, 7, 9, 11, 13]
    assert tables["constructed.csv"]["depth"].tolist() == [20, 32, 44, 56, 110]
    assert tables["constructed.csv"]["largest_difference"].astype(float).max() < 1e-4
    lesions = tables["lesions.csv"]
    one = lesions[lesions["kind"] == "delete_one"]
    assert one["blocks"].tolist() == deletable(network)
    assert one["stage"].tolist() == ["1", "1", "2", "3"]
    assert set(lesions["stage"]) == {"1", "2", "3", ""}
    recalibrated = lesions["error_recalibrated"] != ""  # the whole network, too, in whole batches
    assert recalibrated.tolist() == [
        kind == "delete_one" or n == 0 for kind, n in zip(lesions["kind"], lesions["count"], strict=True)
    ]
    assert json.loads((out / "probe.json").read_text())["recalibrated_on"] == 103

    normalize = ChannelNormalizer([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    for row, images in zip(tables["error.csv"].itertuples(), make_synthetic(512, 256), strict=True):
        error, loss = evaluate(network, Views(images, normalize))
        assert row.images == len(images)
        assert row.error == pytest.approx(error, rel=1e-5, abs=0.05)  # threads may round a tie the other way
        assert row.loss == pytest.approx(loss, rel=1e-4)

    again = probe(tmp_path, "other.th", "--shortcut", "A", *small, "--probes", "responses")
    assert again[0] == 0, again
    assert {path.name for path in out.iterdir()} == {
        "probe.json",
        *(f"responses.{kind}" for kind in ("csv", "png", "svg", "pdf")),
    }


def test_a_run_is_probed_on_its_own_data_and_normalisation(tiny: Compose, tmp_path: Path, probe: Probe) -> None:
    config = tiny("network=residual", "data.normalization=channel", "data.validation_images=12")
    outcome = train(config)
    assert outcome.final is not None
    status, said, complaint = probe(tmp_path, f"runs/{config.run_id}", "--out", "here")
    assert (status, complaint) == (0, "")
    assert "on synthetic, channel" in said
    assert "shortcut A" in said
    error = pd.read_csv(tmp_path / "here" / "error.csv").set_index("set")
    assert error.loc["train", "images"] == 500
    assert error.loc["train", "loss"] == pytest.approx(outcome.final["train_loss_eval"], rel=0.02)  # bf16 or not
    responses, recorded = (pd.read_csv(folder / "responses.csv") for folder in (tmp_path / "here", config.folder))
    told = pd.read_csv(tmp_path / "here" / "information.csv").set_index("name")
    recorded = recorded.set_index("name")
    assert responses["std_exact"].to_numpy() == pytest.approx(recorded["std_exact"].to_numpy(), rel=1e-4)
    for column in ("cosine", "rank", "probe_error"):  # in float32, as the run recorded it
        assert told[column].to_numpy() == pytest.approx(recorded[column].dropna().to_numpy(), rel=1e-3)


@pytest.mark.parametrize(
    ("depth", "shortcut", "told"),
    [
        (18, "A", r"^constructed largest difference .* 34 layers 0\.0e\+00, on 20 test images$"),
        (50, "none", r"^constructed does not apply: no plain bottleneck is an identity"),
        (34, "B", r"^constructed does not apply: the paper has no network deeper than 34 layers with the same blocks$"),
    ],
)
def test_networks_of_the_other_family(tmp_path: Path, probe: Probe, depth: int, shortcut: str, told: str) -> None:
    changes = {"family": "imagenet", "stride_in": "3x3", "pool": "padded"}
    write_foreign(tmp_path / "other.pt", make_network(shortcut, depth, 2, **changes))
    known = ["other.pt", "--stride-in", "3x3", "--pool", "padded", "--data", "synthetic", "--lesion-images", "20"]
    known += [] if shortcut == "B" else ["--shortcut", shortcut]
    status, said, complaint = probe(tmp_path, *known, "--draws", "1")
    assert (status, complaint) == (0, "")
    assert re.search(told, said, re.MULTILINE)
    made = {path.name for path in (tmp_path / "inspect" / "other").iterdir()}
    assert made >= FIGURES | set(TABLES) - {"constructed.csv"}
    assert ("constructed.csv" in made) is (depth == 18)
    provenance = json.loads((tmp_path / "inspect" / "other" / "probe.json").read_text())
    assert provenance["network"] == asdict(make_network(shortcut, depth, 2, **changes).architecture)
    assert ("constructed" in provenance["probes"]) is (depth == 18)
    if depth != 18:
        status, _, complaint = probe(tmp_path, *known, "--probes", "constructed")
        assert (status, complaint.count("\n")) == (2, 1)
        assert complaint.startswith("error: other.pt: constructed does not apply: ")


def test_bad_input_is_one_line_and_nothing_is_written(tmp_path: Path, probe: Probe) -> None:
    work = tmp_path / "work"
    work.mkdir()
    network, hundred = make_network("A", depth=8, width=2), make_network("A", depth=8, width=2, classes=100)
    write_foreign(tmp_path / "other.pt", network)
    write_foreign(tmp_path / "hundred.pt", hundred)
    write_foreign(tmp_path / "thousand.pt", make_network("B", depth=18, width=2, classes=1000, family="imagenet"))
    network.head.weight.data[3, 1] = torch.nan
    write_foreign(tmp_path / "nan.pt", network)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    known = ["../other.pt", "--shortcut", "A", "--data", "cifar10_mini"]
    for arguments, message in [
        (["../none.pt"], "../none.pt is not a file"),
        (["../other.pt"], "../other.pt: no projection, so the shortcut is none or A"),
        (["../other.pt", "--shortcut", "D"], "argument --shortcut: invalid choice: 'D'"),
        (
            [*known, "--probes", "error,x"],
            "--probes: x is not one of error, responses, information, gradients, lesions, c",
        ),
        ([*known, "--mean", "0.5,0.5,0.5"], "--mean and --std go together"),
        ([*known, "--mean", "0.5,0.5,0.5", "--std", "0,1,1"], "argument --std: 0 divides nothing"),
        ([*known, "--mean", "0.5,0.5", "--std", "1,1,1"], "argument --mean: invalid triple value"),
        ([*known, "--out", "../mine"], "../mine holds other things"),
        ([*known[:3], "--data-dir", "absent"], "absent/cifar-10-batches-py/data_batch_1 is missing"),
        (["../hundred.pt", *known[1:]], "../hundred.pt: the network has 100 classes, and cifar10_mini has 10"),
        (["../thousand.pt"], "../thousand.pt: the network has 1000 classes, and cifar10 has 10, of 32x32 pixels"),
        (["../nan.pt", *known[1:]], "../nan.pt: module.fc.weight [10, 8] holds values that are not finite"),
        ([*known, "--pool", "torch"], "argument --pool: invalid choice: 'torch'"),
    ]:
        status, said, complaint = probe(work, *arguments)
        assert (status, said) == (2, "")
        assert complaint.startswith(f"error: {message}")
        assert complaint.count("\n") == 1
        assert list(work.iterdir()) == []


def test_a_run_without_weights_is_told_which_have_them(tmp_path: Path, probe: Probe) -> None:
    bare = next((ROOT / "results" / "published" / "runs" / "bf16").glob("plain-20-quick-s1-*"))
    status, said, complaint = probe(tmp_path, str(bare))
    assert (status, said, complaint.count("\n")) == (2, "", 1)
    assert "has no network.pt: train it here, or name one of " in complaint
    assert "runs/fp32/plain-20-quick-s0-" in complaint


def test_a_probe_that_fails_leaves_nothing(tmp_path: Path, probe: Probe, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("out of memory")

    write_foreign(tmp_path / "other.pt", make_network("A", depth=8, width=2))
    monkeypatch.setattr("matplotlib.backends.backend_agg.FigureCanvasAgg.print_png", fail)
    with pytest.raises(RuntimeError):
        probe(tmp_path, "other.pt", "--shortcut", "A", "--data", "synthetic", "--out", "here")
    assert [path.name for path in tmp_path.iterdir()] == ["other.pt"]
