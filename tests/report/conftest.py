"""Made-up records: finished runs with the numbers that a test gives them, written in a few milliseconds."""

import functools
import zlib
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from degradation.cli import origin
from degradation.config import Config
from degradation.record import Record
from degradation.report.table import probes_folder
from tests.conftest import compose_config, composed


@functools.cache
def compose(*overrides: str) -> tuple[Config, dict[str, Any]]:
    """The config of the quick protocol with these overrides, and what it varies; Hydra takes its time."""
    config = compose_config("protocol=quick", *overrides)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("degradation.cli.hydra", SimpleNamespace(compose=lambda _, named: composed(*named)))
        return config, origin(config)["varied"]


def put(results: Path, seed: int, *overrides: str, error: float, gradient: float = 1.0, **summary: Any) -> None:
    """A finished record with the given final errors, of the quick protocol unless named."""
    config, found = compose(*overrides)
    # As if measured on 10,000 test images: of 1,000 their choice alone hides half a point.
    if config.data.name == "cifar10_mini":  # with ten times the batch, so that an epoch is as long
        protocol = replace(config.protocol, batch_size=10 * config.protocol.batch_size)
        config = replace(config, data=replace(config.data, name="cifar10"), protocol=protocol)
    config = replace(config, seed=seed, paths=replace(config.paths, results=str(results)))
    record = Record(config)
    # Of every run its own, so that differences between runs of equal seed have a spread, too.
    drawn = zlib.crc32(record.id.encode())
    noise = 0.02 * seed + 0.01 * drawn / 2**32
    depth, protocol = config.network.depth, config.protocol
    slow, pace = error + noise, summary.pop("pace", 1.0)
    every = max(1, protocol.iterations // 50)
    shift = drawn % 7 if every > 7 else 0
    for iteration in [*range(every - shift, protocol.iterations, every), protocol.iterations]:
        passed = iteration * 2500 / protocol.iterations
        running = max(slow, 100 - 0.02 * pace * passed * 100 / (10 + slow))
        tested = {"test_error": running + 1, "test_loss": 1.0} if iteration % (2 * every) == 0 else {}
        row = {
            "iteration": iteration,
            "lr": 10_000 / protocol.iterations,
            "train_error": running,
            "train_loss": 1.0,
            "seconds": 1.0,
        }
        record.append({**row, **tested})
    layers = [(n, 0 if n == 1 else 1 + 3 * (n - 2) // (depth - 2)) for n in range(1, depth)]
    kept = summary.pop("kept", 0.5) * (1 + noise / 10)
    hurt, apart = summary.pop("hurt", 0.0) * (1 + noise / 10), summary.pop("apart", 0.0) * (1 + noise)
    scale = summary.pop("response", 1.0) * (1 + noise / 100)
    sizes = {"std": scale, "std_exact": scale, "gamma_rms": scale, "beta_rms": 0.1 * scale}
    lost, grown = summary.pop("lost", -20.0) * (1 + noise), summary.pop("grown", 100.0) * (1 + noise / 100)
    known = [{"cosine": 0.5, "rank": 10.0, "probe_error": 60 + lost * n / depth} for n, _ in layers]
    told = [{"layer": n, "name": "", "stage": s, **sizes, **k} for (n, s), k in zip(layers, known, strict=True)]
    record.write_table("responses.csv", told)
    factor = gradient * (1 + noise / 100)
    signals = [
        {
            "layer": n,
            "name": "",
            "stage": s,
            "std": min(1.0, factor) ** n,
            "grad_response": factor**-n,
            "grad_weight": factor ** (1 - n),
        }
        for n, s in layers
    ]
    for iteration in sorted({0, min(64, protocol.iterations), protocol.iterations}):
        norm = {"weight_norm": grown if iteration else 1.0, "lr": 0.1}
        record.append_gradients(iteration, [{**row, **norm} for row in signals])
    varied = summary.pop("varied", None)
    varied = found if varied is None else varied
    test = summary.pop("test", error) + 2 * noise
    trained = max(error + noise, noise / 10)  # no error is below 0
    final = {"train_error": trained, "train_error_eval": trained, "test_error": test}
    study = "varied" if varied and config.study == "single" else config.study  # not to be drawn as a grid of its own
    described = {"run_id": record.id, "varied": varied, "made_by_study": sorted(varied), "study": study}
    described["rate"] = config.rate
    parts = {
        "seconds": 1.0,
        "device": "cpu",
        "precision": "fp32",
        "parameters": 1,
        "multiply_adds": 1,
        "commit": "none",
        **summary,
    }
    record.finish({"outcome": "finished", **described, "length": config.length, "final": final, **parts})
    probed = probes_folder(record.path)
    probed.mkdir(parents=True)
    rows = ["kind,count,draw,blocks,error,loss,error_recalibrated"]
    rows += [f"delete,0,0,,{error},1,{error}", f"delete_one,1,0,a,{error + hurt},1,{error + kept * hurt}"]
    (probed / "lesions.csv").write_text("\n".join(rows) + "\n")
    rows = ["depth,largest_difference,parent_error,error", f"56,{apart},1.0,1.0", f"110,{apart},1.0,1.1"]
    told = '{"probes": {"lesions": 500, "constructed": 500}, "recalibrated_on": 480, "commit": "0123abcd"}'
    (probed / "probe.json").write_text(told)
    (probed / "constructed.csv").write_text("\n".join(rows) + "\n")
    record.close()
