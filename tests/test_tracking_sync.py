"""`bench sync`: a store gets what it lacks from a folder alone, which has one writer at a time."""

from __future__ import annotations

import json
import os
import platform
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tracked import assert_whole_once, attempts, record, run_folder

from bench.errors import BenchError
from bench.report import texts
from bench.runs.sync import describe, experiment_name, folders, sync, views
from bench.store.files import PICTURE
from bench.store.lock import LOCK, held
from bench.tracking import Tracker


@pytest.fixture
def folder(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """The folder of an experiment with two finished runs and a report."""
    folder = tmp_path / "reports" / request.node.name
    spec = {"question": "Which is best?", "dataset": "digits", "declared_dataset": "mnist", "fallback": True,
            "seeds": [0, 1], "variants": {"mlp": {"epochs": 5}}, "command": "bench run x.yaml"}  # fmt: skip
    folder.mkdir(parents=True)
    (folder / "experiment.json").write_text(json.dumps(spec))
    for seed in (0, 1):
        run_folder(folder, record(seed))
    (folder / "report.md").write_text("# x\n\n## Answer\n\n![theirs](http://e/x.png)\n")
    return folder


def test_a_store_gets_what_it_lacks_once(uri: str, folder: Path) -> None:
    interrupted = record(2, "interrupted")
    run_folder(folder, interrupted)
    (first,) = sync([folder], folder, uri)
    assert (first.sent, first.there) == (2, 0)
    tracker = Tracker(uri, first.experiment)
    tags = tracker._client.get_experiment(tracker.experiment_id).tags
    answer = texts(folder)["report.md"].split("## Answer")[1].split("\n## ")[0].strip()
    assert tags["mlflow.note.content"] == (
        "**digits stands in for mnist: these numbers say nothing about mnist.**\n\n"
        f"Which is best?\n\n{answer}\n\n```\nbench run x.yaml\n```"
    )
    assert "No run has finished yet" in answer  # that it has not planned
    assert any(key.startswith("mlflow.sharedViewState.") for key in tags)
    (report,) = tracker._client.search_runs([tracker.experiment_id], "tags.`bench.summary` = 'report'")
    sent = [f.path for f in tracker._client.list_artifacts(report.info.run_id)]
    assert sent == ["report.md", "results.csv", "summary.csv"]
    again = {**record(1), "finished": "2026-01-02T00:00:00+00:00"}  # by --fresh
    run_folder(folder, again)
    failed = {**record(3, "failed"), "reason": "out of memory", "metrics": {}}
    run_folder(folder, failed)
    (second,) = sync([folder], folder, uri)
    assert (second.sent, second.there) == (2, 1)
    (third,) = sync([folder], folder, uri)
    assert (third.sent, third.there) == (0, 3)
    for made in (record(), again):
        assert_whole_once(tracker, made)
    (lost,) = attempts(tracker, failed)
    assert (lost.info.status, lost.data.tags["reason"]) == ("FAILED", "out of memory")
    assert attempts(tracker, interrupted) == []


def test_a_run_that_was_joined_says_whose_it_is(uri: str, folder: Path) -> None:
    run_folder(folder, {**record(2), "joined": "A. Lab"})
    (done,) = sync([folder], folder, uri)
    tracker = Tracker(uri, done.experiment)
    whose = [attempts(tracker, record(seed))[0].data.tags.get("joined") for seed in (0, 1, 2)]
    assert whose == [None, None, "A. Lab"]


def test_what_is_too_large_for_a_report_or_no_picture_is_not_sent(uri: str, folder: Path) -> None:
    (folder / "figures").mkdir()
    for name, size in (("a.png", PICTURE), ("b.png", PICTURE + 1), ("c.html", 9)):
        (folder / "figures" / name).write_bytes(b"")
        os.truncate(folder / "figures" / name, size)
    (done,) = sync([folder], folder, uri)
    tracker = Tracker(uri, done.experiment)
    (report,) = tracker._client.search_runs([tracker.experiment_id], "tags.`bench.summary` = 'report'")
    assert [f.path for f in tracker._client.list_artifacts(report.info.run_id, "figures")] == [
        "figures/a.png"
    ]


def test_which_folders_are_meant(folder: Path, tmp_path: Path) -> None:
    reports = folder.parent
    nested = reports / "mnist" / "nested" / "experiment.json"
    nested.parent.mkdir(parents=True)
    nested.write_text('{"variants": {}, "dataset": "mnist"}')
    assert folders([], reports) == sorted([reports / "mnist" / "nested", folder])
    assert folders([Path(f"experiments/{folder.name}.yaml")], reports) == [folder]
    assert experiment_name(reports / "mnist" / "nested") == "nested · mnist"
    for given, where in (([tmp_path], reports), ([], tmp_path / "nowhere")):
        with pytest.raises(BenchError, match="holds no"):
            folders(given, where)


@pytest.mark.parametrize("why", ["read-only", "a folder in place of the lock"])
def test_a_folder_that_takes_no_lock_can_be_sent(uri: str, folder: Path, why: str) -> None:
    if why != "read-only":  # which does not stop root
        (folder / LOCK).mkdir()
    elif os.geteuid() == 0:
        pytest.skip("whoever runs this may write everywhere")
    folder.chmod(0o555)
    try:
        (done,) = sync([folder], folder, uri)
        with pytest.raises(BenchError, match=r"^cannot write .*\.lock: .*; give another --reports$"):
            held(folder / LOCK, "x", "give another --reports").__enter__()
    finally:
        folder.chmod(0o755)
    assert done.sent == 2


# One writer at a time


@pytest.fixture
def other(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process, which holds the folder's lock."""
    code = f"""
from bench.store.lock import held
from pathlib import Path
from types import SimpleNamespace
from typing import Any
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


def test_an_experiment_that_lacks_what_views_are_made_of_is_sent_nevertheless(tmp_path: Path) -> None:
    spec = {"variants": {"a": {}, "b": {"epochs": 3}}, "dataset": "digits", "fallback": True}
    (tmp_path / "experiment.json").write_text(json.dumps(spec))
    saved: list[Any] = []
    store: Any = SimpleNamespace(
        save_views=lambda variants, **given: saved.append((variants, given)), describe=lambda _: None
    )
    views(store, tmp_path)
    describe(store, tmp_path)
    assert saved == [(spec["variants"], {"seed": 0, "epochs": 3})]
