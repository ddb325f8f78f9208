"""The files of a run: locked, checked, rewound, finished at once or not at all."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from degradation.config import Config
from degradation.record import COLUMNS, Record, RecordError, load_metrics, load_responses, load_runs, read_varied

SUMMARY = {"outcome": "finished", "final": {"train_error": 12.5, "test_error": 25.0}}
HEADER = ",".join(COLUMNS) + "\n"


@pytest.fixture
def config(tiny: Callable[..., Config]) -> Config:
    return tiny()


@pytest.fixture
def record(config: Config) -> Iterator[Record]:
    record = Record(config)
    yield record
    record.close()


def rows(*iterations: int) -> list[dict[str, float]]:
    return [{"iteration": i, "lr": 0.1, "train_error": i / 3, "train_loss": 1.0, "seconds": 0.5} for i in iterations]


def test_two_processes_cannot_write_one_run(config: Config, record: Record) -> None:
    with pytest.raises(RecordError, match=f"another process is writing {record.path}"):
        Record(config)
    record.close()
    Record(config).close()


def test_other_runs_are_not_locked(record: Record, tiny: Callable[..., Config]) -> None:
    Record(tiny("seed=1")).close()


def test_the_record_holds_the_whole_scientific_config(config: Config, record: Record) -> None:
    assert record.path.name == config.run_id
    assert yaml.safe_load((record.path / "config.yaml").read_text()) == {"run_id": config.run_id, **config.science}


def test_a_folder_that_cannot_be_made_is_named(compose: Callable[..., Config], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RecordError, match=rf"cannot write results to {tmp_path}/file/runs/.*paths.results="):
        Record(compose("protocol=smoke", f"paths.results={tmp_path}/file"))


@pytest.mark.parametrize("text", ["", '{"outcome": "fini', "{}", "[]", "null", '"outcome"'])
def test_a_damaged_summary_is_no_finished_run(config: Config, record: Record, text: str) -> None:
    assert record.summary is None
    record.finish(SUMMARY)
    assert record.summary == SUMMARY
    (record.path / "summary.json").write_text(text)
    for read in (lambda: record.summary, lambda: load_runs(config.paths.results)):
        with pytest.raises(RecordError, match=r"summary.json is damaged"):
            read()


def test_a_config_changed_under_its_record_is_refused(config: Config, record: Record) -> None:
    record.finish(SUMMARY)
    record.close()
    path = record.path / "config.yaml"
    original = path.read_text()
    path.write_text(original.replace("iterations: 24", "iterations: 25"))
    assert path.read_text() != original
    for read in (lambda: Record(config), lambda: load_runs(config.paths.results)):
        with pytest.raises(RecordError, match=rf"{path} was changed under its record"):
            read()
    path.write_text(original)
    Record(config).close()
    assert len(load_runs(config.paths.results)) == 1


@pytest.mark.parametrize("text", ["", "network: [", "just words", "seed: 0\n"])
def test_a_damaged_config_is_refused(config: Config, record: Record, text: str) -> None:
    record.close()
    (record.path / "config.yaml").write_text(text)
    with pytest.raises(RecordError, match=r"config.yaml is missing or damaged"):
        Record(config)


def test_a_record_without_its_config_is_refused(config: Config, record: Record) -> None:
    record.append(rows(4)[0])
    record.close()
    (record.path / "config.yaml").unlink()
    with pytest.raises(RecordError, match=r"config.yaml is missing beside a record"):
        Record(config)


def test_a_refused_record_is_not_left_locked(config: Config, record: Record) -> None:
    record.close()
    (record.path / "config.yaml").write_text("")
    for _ in range(2):
        with pytest.raises(RecordError, match="damaged"):
            Record(config)


def test_metrics_are_what_was_appended(record: Record) -> None:
    for row in rows(4, 8):
        record.append(row)
    record.append({**rows(12)[0], "test_error": 100 / 3, "test_loss": None})
    lines = (record.path / "metrics.csv").read_text().splitlines()
    assert lines == [
        ",".join(COLUMNS),
        "4,0.1,1.33333,1,,,,,0.5",
        "8,0.1,2.66667,1,,,,,0.5",
        "12,0.1,4,1,33.3333,,,,0.5",
    ]
    assert load_metrics(record.path)["test_error"].dropna().tolist() == [33.3333]


@pytest.mark.parametrize("torn", ["", "1", "12,0.1", "8,0.1,2", "12,0.1,4,1,,,,,0."])
def test_rewind_drops_later_rows_and_a_torn_line(record: Record, torn: str) -> None:
    for row in rows(4, 8, 12):
        record.append(row)
    path = record.path / "metrics.csv"
    whole = path.read_text().splitlines(keepends=True)
    path.write_text("".join(whole) + torn)
    record.rewind(8)
    assert path.read_text() == "".join(whole[:3])
    record.append(rows(12)[0])
    assert path.read_text() == "".join(whole)
    record.rewind(0)
    assert not path.exists()


def test_rewind_without_metrics(record: Record) -> None:
    record.rewind(0)
    with pytest.raises(RecordError, match=r"metrics.csv is missing beside a checkpoint"):
        record.rewind(4)


@pytest.mark.parametrize(
    "text",
    ["", "iteration,lr\n4,0.1\n", HEADER + "8,,,,,,,,\n4,,,,,,,,\n", HEADER + ",0.1,,,,,,,\n", HEADER + '4,"0.1'],
)
def test_damaged_metrics_are_not_drawn(record: Record, text: str) -> None:
    (record.path / "metrics.csv").write_text(text)
    with pytest.raises(RecordError, match=r"metrics.csv is damaged"):
        load_metrics(record.path)


def test_metrics_of_other_versions_load_and_keep_their_columns(record: Record) -> None:
    path = record.path / "metrics.csv"
    path.write_text("iteration,train_error,test_error,top5_error\n4,50,60,10\n")
    metrics = load_metrics(record.path)
    assert list(metrics) == [*COLUMNS, "top5_error"]
    assert metrics["test_error"].tolist() == [60]
    assert metrics["val_error"].isna().all()
    record.append(rows(8)[0])
    assert path.read_text().splitlines()[-1] == "8,2.66667,,"


@pytest.mark.parametrize(
    ("told", "varied"),
    [
        ({}, {}),
        ({"variant": ""}, {}),
        ({"variant": "network.norm=none"}, {"network.norm": "none"}),
        (
            {"variant": "protocol.decay_batchnorm=False, protocol.lr=0.005, protocol.milestones=[3750, 5625]"},
            {"protocol.decay_batchnorm": False, "protocol.lr": 0.005, "protocol.milestones": [3750, 5625]},
        ),
        (
            {"variant": "protocol.log_every=1, protocol.milestones=[]"},
            {"protocol.log_every": 1, "protocol.milestones": []},
        ),
        ({"varied": {"protocol.lr": 0.5}}, {"protocol.lr": 0.5}),
    ],
)
def test_what_a_run_varied_is_read_from_either_form(told: dict[str, object], varied: dict[str, object]) -> None:
    assert read_varied(told) == varied


def test_what_varied_and_what_the_study_made_stay_whole(config: Config, record: Record) -> None:
    record.finish({**SUMMARY, "varied": {"protocol.lr": 0.5, "network.norm": "none"}, "made_by_study": ["protocol.lr"]})
    runs = load_runs(config.paths.results)
    assert runs["varied"].tolist() == [{"protocol.lr": 0.5, "network.norm": "none"}]
    assert runs["made_by_study"].tolist() == [["protocol.lr"]]
    assert not [column for column in runs if column.startswith("varied.")]


def test_a_full_disk_leaves_no_summary(record: Record, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_file: int) -> None:
        raise OSError(28, "No space left on device")

    record.checkpoint.touch()
    before = sorted(record.path.iterdir())
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            record.finish(SUMMARY)
    assert record.summary is None
    assert sorted(record.path.iterdir()) == before  # the checkpoint is still there, half a summary is not


def test_finish_replaces_the_checkpoint_by_the_summary_in_one_move(
    record: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    moves, replace = [], os.replace

    def watch(source: Path, target: Path) -> None:
        moves.append((json.loads(Path(source).read_text()), Path(target).exists(), record.checkpoint.exists()))
        replace(source, target)

    record.checkpoint.touch()
    monkeypatch.setattr(os, "replace", watch)
    record.finish(SUMMARY)
    assert moves == [(SUMMARY, False, True)]
    assert not record.checkpoint.exists()


def test_what_is_not_finite_is_null(record: Record) -> None:
    record.finish({"outcome": "diverged", "final": {"loss": float("nan"), "error": float("inf"), "n": 1.5}})
    assert record.summary == {"outcome": "diverged", "final": {"loss": None, "error": None, "n": 1.5}}


def test_load_runs_gives_finished_runs_alone(config: Config, tiny: Callable[..., Config]) -> None:
    assert load_runs(config.paths.results).empty
    for seed, end in ((0, True), (1, False), (2, True)):
        record = Record(tiny(f"seed={seed}"))
        record.append(rows(4)[0])
        record.checkpoint.touch()
        if end:
            record.finish({**SUMMARY, "final": {"train_error": float(seed)}})
        record.close()
    runs = load_runs(config.paths.results)
    assert runs["seed"].tolist() == [0, 2]
    assert runs["final.train_error"].tolist() == [0.0, 2.0]
    assert runs["network.depth"].tolist() == [8, 8]
    assert runs["protocol.warmup.window"].tolist() == [6, 6]
    assert [folder.name for folder in runs["folder"]] == runs["run_id"].tolist()


def test_a_record_under_another_name_is_refused(config: Config, record: Record) -> None:
    record.finish(SUMMARY)
    shutil.copytree(record.path, record.path.with_name("plain-20-paper-s0-00000000"))
    with pytest.raises(RecordError, match="was changed under its record"):
        load_runs(config.paths.results)


def test_a_run_keeps_its_precision(record: Record) -> None:
    record.start_session({"precision": "fp32", "commit": "a"})
    record.start_session({"precision": "fp32", "commit": "b"})
    with pytest.raises(RecordError, match=r"begun with precision=fp32, not bf16; .*machine.precision=fp32"):
        record.start_session({"precision": "bf16"})
    assert [session["commit"] for session in record.sessions()] == ["a", "b"]


def test_tables_read_back(record: Record) -> None:
    record.write_table("responses.csv", [{"layer": 1, "name": "stem", "stage": 0, "std": 0.5, "gamma_rms": 1.0}])
    assert load_responses(record.path).to_dict("records") == [
        {"layer": 1, "name": "stem", "stage": 0, "std": 0.5, "gamma_rms": 1.0}
    ]
