"""Runs that stopped go on in the same MLflow run, whole and without duplicates. Real sqlite stores."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from small_matrix import Fault
from tracked import artifacts, assert_whole_once, attempts, record, run_folder, start, steps

from bench.tracking import Tracker, TrackingError, owner

pytestmark = [
    # Third parties' own deprecations, raised while MLflow loads and builds its tables.
    pytest.mark.filterwarnings("ignore::DeprecationWarning:mlflow"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:pydantic"),
    pytest.mark.filterwarnings("ignore:.*loader strategy is deprecated"),
]
SETTINGS = {"encoder": {"name": "mlp", "options": {"hidden": [512, 256]}}, "beta": 1.0, "epochs": 5}


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('store')}/mlflow.db"


@pytest.fixture
def tracker(uri: str, request: pytest.FixtureRequest, tmp_path: Path) -> Tracker:
    return Tracker(uri, request.node.name, reports=tmp_path)


def again(tracker: Tracker, monkeypatch: pytest.MonkeyPatch) -> Tracker:
    """The tracker of a later process, after this one died."""
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    for run in tracker._client.search_runs([tracker.experiment_id]):
        if run.info.status == "RUNNING":
            tracker._client.set_tag(run.info.run_id, "bench.pid", str(dead.pid))
            tracker._client.set_tag(run.info.run_id, "bench.process", "the one that died")
    return Tracker(tracker.uri, tracker.experiment, reports=tracker.reports)


def begun(tracker: Tracker, made: dict[str, Any], epochs: int) -> str:
    """A run up to an epoch, its first picture among that."""
    run = start(tracker, made)
    folder = run_folder(tracker.reports, made)
    for row in made["curves"][:epochs]:
        tracker.epoch(run, row["epoch"], row)
    tracker._send(run)
    tracker.image(run, folder.pictures / "samples-epoch-001.png", "samples", 1)
    return run


@pytest.mark.parametrize("stop", ["killed", "healed", "interrupted", "failed", "still open here"])
def test_a_run_goes_on_where_it_stopped(stop: str, tracker: Tracker, monkeypatch: pytest.MonkeyPatch) -> None:
    made = record(settings=SETTINGS)
    run = begun(tracker, made, 3)
    if stop in ("interrupted", "failed"):
        half = {**made, "status": stop, "reason": "stopped", "curves": made["curves"][:3]}
        tracker.finish(run, half, tracker.reports / "records" / made["id"])
    if stop != "still open here":
        tracker = again(tracker, monkeypatch)
    if stop == "healed":
        assert tracker.heal() == 1
        assert tracker._client.get_run(run).data.tags["bench.healed"]

    assert start(tracker, made, resume=True) == run
    stored = tracker._client.get_run(run)
    assert stored.info.status == "RUNNING"
    assert not {"outcome", "reason", "bench.healed", "bench.recorded"} & stored.data.tags.keys()
    assert owner.ours(stored.data.tags)
    for row in made["curves"]:  # a worker tells the epochs before the checkpoint again
        tracker.epoch(run, row["epoch"], row)
    folder = run_folder(tracker.reports, made)
    tracker.image(run, folder.pictures / "samples-epoch-001.png", "samples", 1)
    tracker.finish(run, made, folder.path)
    assert assert_whole_once(tracker, made) == run
    assert len(attempts(tracker, made)) == 1
    total = tracker._client.get_run(run).data.metrics["time/total_seconds"]
    assert total == sum(row["train_seconds"] for row in made["curves"])


@pytest.mark.parametrize("why", ["from scratch", "another machine", "a living process", "whole before"])
def test_a_run_that_may_not_go_on_is_another_attempt(
    why: str, tracker: Tracker, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = record(settings=SETTINGS)
    run = begun(tracker, made, 3)
    tracker = again(tracker, monkeypatch)
    if why == "another machine":
        tracker._client.set_tag(run, "bench.host", "elsewhere")
    if why == "a living process":
        tracker._client.set_tag(run, "bench.pid", str(os.getppid()))
        tracker._client.set_tag(run, "bench.begun", owner.begun(os.getppid()))
    if why == "whole before":
        run = tracker.deliver(made, tracker.reports / "records" / made["id"])
    new = start(tracker, made, resume=why != "from scratch")
    assert new != run
    tracker.finish(new, made, tracker.reports / "records" / made["id"])
    if why in ("another machine", "a living process"):
        assert tracker._client.get_run(run).info.status == "RUNNING", "another process may still write it"
        tracker._client.set_terminated(run, "KILLED")
    assert assert_whole_once(tracker, made) == new


def faulty(client: Any, name: str, faults: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A request that fails before, or after, the store took it, as often as told."""
    real = getattr(client, name)

    def call(*words: Any, **more: Any) -> Any:
        fault = faults.pop() if faults else ""
        done = real(*words, **more) if fault != "before" else None
        if fault:
            raise OSError("gone")
        return done

    monkeypatch.setattr(client, name, call)


def test_what_fails_halfway_through_the_end_is_finished_without_duplicates(
    tracker: Tracker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every request of the end fails once, before or after the store took it."""
    made = record(settings=SETTINGS)
    folder = run_folder(tracker.reports, made)
    run = start(tracker, made)
    for name in ("log_batch", "log_image", "log_artifact", "log_text", "set_terminated"):
        faulty(tracker._client, name, ["before", "after"], monkeypatch)
    failures = 0
    while True:
        try:
            tracker.finish(run, made, folder.path)
            break
        except TrackingError:
            failures += 1
    assert failures == 9, "log_image calls log_artifact"
    assert assert_whole_once(tracker, made) == run


def test_the_dead_are_closed_as_they_say_that_they_ended(
    tracker: Tracker, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = record(settings=SETTINGS)
    folder = run_folder(tracker.reports, made)
    run = start(tracker, made)
    with monkeypatch.context() as patched:
        faulty(tracker._client, "set_terminated", ["before"], patched)  # the last request
        with pytest.raises(TrackingError):
            tracker.finish(run, made, folder.path)
    tracker = again(tracker, monkeypatch)
    assert tracker.lacking([made]) == [made], "it is not closed"
    assert tracker.heal() == 1
    assert tracker.lacking([made]) == []
    assert assert_whole_once(tracker, made) == run


@pytest.mark.skipif(not owner.begun(os.getpid()), reason="the system does not say when a process began")
def test_a_number_that_another_process_has_now_keeps_no_run_open(
    tracker: Tracker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a restart of the machine, or of a container, where numbers come again."""
    tags = owner.owner_tags() | {"bench.process": "other", "bench.pid": str(os.getppid())}
    monkeypatch.setattr(owner, "owner_tags", lambda: tags)
    run = start(tracker, record(settings=SETTINGS))
    assert tracker.heal() == 1
    assert tracker._client.get_run(run).info.status == "KILLED"


def test_a_clock_that_is_put_back_ends_no_run_before_it_began(tracker: Tracker) -> None:
    an_hour_ago = (datetime.now(UTC) - timedelta(hours=1)).isoformat(timespec="seconds")
    made = record(settings=SETTINGS) | {"started": an_hour_ago, "finished": an_hour_ago}
    folder = run_folder(tracker.reports, made)
    run = start(tracker, made)
    for row in made["curves"]:
        tracker.epoch(run, row["epoch"], row)
    tracker.finish(run, made, folder.path)
    assert_whole_once(tracker, made)
    delivered = record(seed=1, settings=SETTINGS) | {"started": made["started"]}
    delivered["finished"] = "2026-01-01T00:00:00+00:00"
    tracker.deliver(delivered, run_folder(tracker.reports, delivered).path)
    assert_whole_once(tracker, delivered)


def test_the_time_does_not_matter_to_the_curves(tracker: Tracker, monkeypatch: pytest.MonkeyPatch) -> None:
    made = record(settings=SETTINGS)
    run = start(tracker, made)
    clock = iter(range(2_000_000_000, 1_000_000_000, -100_000_000))
    monkeypatch.setattr("bench.tracking.tracker._now", lambda: next(clock) * 1000)
    for row in made["curves"]:
        tracker.epoch(run, row["epoch"], row)
    tracker._send(run)
    assert sorted(steps(tracker, run, "test/elbo")) == [1, 2, 3, 4, 5]
    latest = tracker._client.get_run(run).data.metrics["test/elbo"]
    assert latest == made["curves"][-1]["elbo"], "the last step, not the last time"
    assert artifacts(tracker, run) == []


@pytest.mark.faults
def test_a_process_killed_at_any_moment_leaves_a_run_that_goes_on(
    uri: str, tmp_path: Path, fault: Fault
) -> None:
    """Kill -9 in the midst of tracking, again and again, then finish: one MLflow run, whole."""
    made = record(settings=SETTINGS)
    run_folder(tmp_path, made)
    code = f"""
import sys, time
sys.path.insert(0, {str(Path(__file__).parent)!r})
from tracked import *
from bench.tracking import curves
curves.SEND_EVERY = 0
made = record(settings={SETTINGS!r})
tracker = Tracker({uri!r}, "killed", reports={str(tmp_path)!r})
tracker.heal()
print("go", flush=True)
run = start(tracker, made, resume=True)
folder = RunFolder({str(tmp_path)!r} + "/records/" + made["id"])
for row in made["curves"]:
    tracker.epoch(run, row["epoch"], row)
    if row["epoch"] in (1, 5):
        tracker.image(run, folder.pictures / f"samples-epoch-00{{row['epoch']}}.png", "samples", row["epoch"])
tracker.finish(run, made, folder.path)
"""
    for wait in (0.05, 0.2, None):
        process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", code], stdout=subprocess.PIPE, env={**os.environ}
        )
        assert process.stdout is not None
        assert process.stdout.readline() == b"go\n"
        if wait is None:
            assert process.wait(400) == 0
        else:
            try:
                process.wait(wait)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
    tracker = Tracker(uri, "killed", reports=tmp_path)
    assert_whole_once(tracker, made)
    fault("kill -9 in the midst of tracking", injected=2, survived=2, lost=0, doubled=0)
