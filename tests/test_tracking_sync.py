"""A store gets what it lacks from a folder alone; a folder and an experiment have one writer at a time."""

from __future__ import annotations

import json
import os
import platform
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import synthetic
from small_matrix import Fault
from tracked import assert_whole_once, attempts, described, record, run_folder, start

from bench.errors import BenchError
from bench.runs.sync import experiment_name, folders, sync
from bench.store.lock import LOCK, held
from bench.tracking import Tracker, Writer, store

pytestmark = [
    # Third parties' own deprecations, raised while MLflow loads and builds its tables.
    pytest.mark.filterwarnings("ignore::DeprecationWarning:mlflow"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:pydantic"),
    pytest.mark.filterwarnings("ignore:.*loader strategy is deprecated"),
]
SETTINGS = {"encoder": {"name": "mlp", "options": {"hidden": [512, 256]}}, "beta": 1.0, "epochs": 5}
HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('store')}/mlflow.db"


@pytest.fixture
def folder(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """The folder of an experiment with two finished runs and a report."""
    folder = tmp_path / "reports" / request.node.name
    for seed in (0, 1):
        run_folder(folder, record(seed, settings=SETTINGS))
    spec = {"question": "Which is best?", "dataset": "digits", "declared_dataset": "mnist", "fallback": True,
            "seeds": [0, 1], "variants": {"mlp": {"epochs": 5}}, "command": "bench run x.yaml"}  # fmt: skip
    (folder / "experiment.json").write_text(json.dumps(spec))
    (folder / "report.md").write_text("# x\n\n## Answer\n\nThe mlp is.\n\n## More\n")
    return folder


def test_a_store_gets_what_it_lacks_once(uri: str, folder: Path) -> None:
    interrupted = record(2, "interrupted", settings=SETTINGS)
    run_folder(folder, interrupted)
    (first,) = sync([folder], folder, uri)
    assert (first.sent, first.there) == (2, 0)
    tracker = Tracker(uri, first.experiment, reports=folder)
    tags = tracker._client.get_experiment(tracker.experiment_id).tags
    assert tags["mlflow.note.content"] == (
        "**digits stands in for mnist: these numbers say nothing about mnist.**\n\n"
        "Which is best?\n\nThe mlp is.\n\n```\nbench run x.yaml\n```"
    )
    assert any(key.startswith("mlflow.sharedViewState.") for key in tags)
    (report,) = tracker._client.search_runs([tracker.experiment_id], "tags.`bench.summary` = 'report'")
    assert [f.path for f in tracker._client.list_artifacts(report.info.run_id)] == ["report.md"]
    again = {**record(1, settings=SETTINGS), "finished": "2026-01-02T00:00:00+00:00"}  # by --fresh
    run_folder(folder, again)
    failed = {**record(3, "failed", settings=SETTINGS), "reason": "out of memory", "metrics": {}}
    run_folder(folder, failed)
    (second,) = sync([folder], folder, uri)
    assert (second.sent, second.there) == (2, 1)
    (third,) = sync([folder], folder, uri)
    assert (third.sent, third.there) == (0, 3)
    for made in (record(0, settings=SETTINGS), again):
        assert_whole_once(tracker, made)
    (lost,) = attempts(tracker, failed)
    assert (lost.info.status, lost.data.tags["reason"]) == ("FAILED", "out of memory")
    assert attempts(tracker, interrupted) == []


def test_records_alone_will_do(uri: str, folder: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere" / "alone"
    shutil.copytree(folder / "records", elsewhere / "records")
    (done,) = sync([elsewhere], folder, uri)
    assert (done.experiment, done.sent) == ("alone · digits", 2)


def test_which_folders_are_meant(folder: Path, tmp_path: Path) -> None:
    reports = folder.parent
    run_folder(reports / "mnist" / "nested", record())
    (reports / "mnist" / "nested" / "experiment.json").write_text('{"dataset": "mnist"}')
    assert folders([], reports) == sorted([reports / "mnist" / "nested", folder])
    assert folders([Path(f"experiments/{folder.name}.yaml")], reports) == [folder]
    assert experiment_name(reports / "mnist" / "nested") == "nested · mnist"
    for given, where in (([tmp_path], reports), ([], tmp_path / "nowhere")):
        with pytest.raises(BenchError, match="holds no"):
            folders(given, where)


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="whoever runs this may write everywhere")
def test_a_folder_that_cannot_be_written_can_be_sent(uri: str, folder: Path) -> None:
    folder.chmod(0o555)
    try:
        (done,) = sync([folder], folder, uri)
        with pytest.raises(BenchError, match=r"^cannot write .*\.lock: Permission denied; give another"):
            held(folder / LOCK, "x", "give another").__enter__()
    finally:
        folder.chmod(0o755)
    assert done.sent == 2


def test_a_folder_that_takes_no_lock_can_be_sent(uri: str, folder: Path) -> None:
    (folder / LOCK).mkdir()  # nobody may lock this, root neither
    (done,) = sync([folder], folder, uri)
    assert done.sent == 2
    with pytest.raises(BenchError, match=r"^cannot write .*\.lock: .*; give another --reports$"):
        held(folder / LOCK, "x", "give another --reports").__enter__()


# One writer at a time


@pytest.fixture
def other(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process, which holds the folder's lock."""
    code = f"""
from bench.store.lock import held
from pathlib import Path
with held(Path({str(folder / LOCK)!r}), "x", "wait"):
    print("held", flush=True)
    input()
"""
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_a_folder_in_use_is_refused_until_its_process_dies(
    uri: str, folder: Path, other: subprocess.Popen[str]
) -> None:
    told = rf"^{folder} is in use by process {other.pid} on {platform.node()} since \d{{4}}-.*; wait for it"
    for _ in range(2):  # who is refused leaves the lock as it is
        with pytest.raises(BenchError, match=told):
            list(sync([folder], folder, uri))
    other.send_signal(signal.SIGKILL)
    other.wait()
    assert [done.sent for done in sync([folder], folder, uri)] == [2]


def test_an_experiment_of_an_sqlite_store_has_one_writer_and_others_share_it(
    uri: str, tmp_path: Path
) -> None:
    one, same, other = (Tracker(uri, name, reports=tmp_path) for name in ("x · a", "x · a", "x · b"))
    refused = pytest.raises(BenchError, match=r"the MLflow experiment 'x · a' in .* is in use by process")
    with one.claimed(), other.claimed(), refused:
        same.claimed().__enter__()
    with same.claimed():
        pass


@pytest.mark.faults
def test_two_processes_share_a_new_store(tmp_path: Path, fault: Fault) -> None:
    """Two experiments at once, from before the database exists: everything of both, once."""
    uri = f"sqlite:///{tmp_path}/new.db"
    code = f"""
import sys
sys.path.insert(0, {str(HERE)!r})
from tracked import *
from bench.tracking import Writer
reports = Path({str(tmp_path)!r}) / sys.argv[1]
tracker = Tracker({uri!r}, sys.argv[1], reports=reports)
with tracker.claimed():
    writer = Writer(tracker, print)
    for seed in range(4):
        made = record(seed, settings={SETTINGS!r})
        folder = run_folder(reports, made)
        writer.start(made["id"], **described(made))
        for row in made["curves"]:
            writer.epoch(made["id"], row)
        writer.finish(made["id"], made, folder.path)
    writer.close(lambda tracker: tracker.describe("done"), lambda left: None)
    assert not writer.fault, writer.fault
"""
    both = [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", code, name], stdout=subprocess.PIPE, text=True
        )
        for name in ("one", "two")
    ]
    assert [process.communicate(timeout=400)[0] for process in both] == ["", ""]
    assert [process.returncode for process in both] == [0, 0]
    for name in ("one", "two"):
        tracker = Tracker(uri, name, reports=tmp_path / name)
        for seed in range(4):
            made = record(seed, settings=SETTINGS)
            assert_whole_once(tracker, made)
            assert len(attempts(tracker, made)) == 1
    fault("two experiments at once on one new store", injected=1, survived=1, lost=0, doubled=0)


# A database that others lock


def test_a_locked_database_is_bad_input(uri: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = store.database_file(uri)
    assert file is not None
    Tracker(uri, "x", reports=folder)
    monkeypatch.setattr(store, "BUSY", 0.2)
    with closing(sqlite3.connect(file)) as database:
        database.execute("BEGIN IMMEDIATE")
        with pytest.raises(BenchError, match=r"database is locked; another program has been writing to it"):
            Tracker(uri, "x", reports=folder)


def test_the_reason_is_told_and_not_the_aside() -> None:
    error = Exception("(raised as a result of autoflush)\n(sqlite3.OperationalError) database is locked")
    assert store.reason(error) == "(sqlite3.OperationalError) database is locked"
    assert store.reason(KeyError()) == "KeyError"


def test_a_database_that_is_locked_meanwhile_costs_nothing(uri: str, folder: Path) -> None:
    tracker = Tracker(uri, "locked", reports=folder)
    file = store.database_file(uri)
    assert file is not None
    writer = Writer(tracker, lambda _: None)
    made = record(settings=SETTINGS)
    with closing(sqlite3.connect(file)) as database:
        database.execute("BEGIN IMMEDIATE")
        started = time.perf_counter()
        writer.start(made["id"], **described(made))
        for row in made["curves"]:
            writer.epoch(made["id"], row)
        writer.finish(made["id"], made, folder / "records" / made["id"])
        assert time.perf_counter() - started < 5, "a call waited for the database"
        time.sleep(1)
        database.rollback()
    writer.close(lambda _: None, lambda _: None)
    assert (writer.fault, writer.left) == ("", 0)
    assert_whole_once(tracker, made)


def test_names_from_files_are_harmless(uri: str, tmp_path: Path) -> None:
    """Quotes, markup, control characters and paths are text to the store, and only text."""
    for number, name in enumerate(
        ("a' OR tags.x = 'y", "<script>", "../../etc", "tab\tand `tick`", "ü" * 300)
    ):
        tracker = Tracker(uri, f"x · {number}", reports=tmp_path / str(number))
        made = record(variant="mlp", settings={**SETTINGS, "note": name}) | {"variant": name}
        run_folder(tracker.reports, made)
        run = start(tracker, made)
        tracker.finish(run, made, tracker.reports / "records" / made["id"])
        assert_whole_once(tracker, made)
        assert tracker._client.get_run(run).data.params["note"] == name


def test_a_report_of_synthetic_records_is_sent(uri: str, tmp_path: Path) -> None:
    folder = synthetic.write(tmp_path / "synthetic", {"mlp": synthetic.settings()}, seeds=(0, 1))
    (done,) = sync([folder], tmp_path, uri)
    assert (done.sent, done.experiment) == (2, "synthetic · mnist")
