"""The writer's thread: training never waits for a store, and what that misses it gets later, once."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tracked import curve, described, record, run_folder

from bench.tracking import TrackingError, Writer, writer


class Fake:
    """A store that notes what it takes, each thing by its name, and can be slow or away."""

    def __init__(self) -> None:
        self.taken: list[tuple[str, ...]] = []
        self.delay = 0.0
        self.away = threading.Event()
        self.broken: set[str] = set()  # ids of runs that can never be written
        self.asked = 0

    def _take(self, *what: Any) -> None:
        self.asked += 1
        time.sleep(self.delay)
        if self.away.is_set() or self.broken & set(what):
            raise TrackingError(f"cannot take {what[0]}")
        self.taken.append(tuple(map(str, what)))

    def start(self, *, run_id: str, resume: bool, **_: Any) -> str:
        self._take("start", run_id)
        return run_id

    def epoch(self, mlflow_id: str, epoch: int, row: dict[str, Any]) -> None:
        self._take("epoch", mlflow_id, epoch)

    def image(self, mlflow_id: str, path: Path, key: str, step: int) -> None:
        self._take("image", mlflow_id, key, step)

    def finish(self, mlflow_id: str, made: dict[str, Any], folder: Path) -> None:
        self._take("finish", mlflow_id)

    def deliver(self, made: dict[str, Any], folder: Path) -> None:
        self._take("deliver", made["id"])


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Fake:
    monkeypatch.setattr(writer, "FIRST_PAUSE", 0.02)
    monkeypatch.setattr(writer, "LONGEST_PAUSE", 0.05)
    return Fake()


@pytest.fixture
def lines() -> list[str]:
    return []


@pytest.fixture
def writes(store: Fake, lines: list[str]) -> Iterator[Writer]:
    made = Writer(store, lines.append)  # type: ignore[arg-type]
    yield made
    if made._thread.is_alive():
        store.away.clear()
        store.delay = 0
        made.close(lambda _: None, lambda _: None)


def a_run(writes: Writer, reports: Path, seed: int = 0, status: str = "finished") -> dict[str, Any]:
    """All that a worker tells of one run."""
    made = record(seed=seed, status=status)
    folder = run_folder(reports, made)
    writes.start(made["id"], **described(made))
    for row in made["curves"]:
        writes.epoch(made["id"], row)
    writes.image(made["id"], folder.pictures / "samples-epoch-005.png", "samples", 5)
    writes.finish(made["id"], made, folder.path)
    return made


def whole(made: dict[str, Any]) -> list[tuple[str, ...]]:
    """What a store is told of a run that it could follow, in order."""
    epochs = [("epoch", made["id"], str(epoch)) for epoch in range(1, 6)]
    return [("start", made["id"]), *epochs, ("image", made["id"], "samples", "5"), ("finish", made["id"])]


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_a_slow_store_costs_training_nothing(store: Fake, writes: Writer, tmp_path: Path) -> None:
    store.delay = 0.5
    started = time.perf_counter()
    made = a_run(writes, tmp_path)
    assert time.perf_counter() - started < 2, "the store takes eight times 0.5 s"
    shown: list[int] = []
    writes.close(lambda _: store._take("report"), shown.append)
    *run, report = store.taken
    assert report == ("report",)
    # In one piece where the thread came to it only once it had ended
    assert run in (whole(made), [("deliver", made["id"])])
    assert (writes.fault, writes.left) == ("", 0)
    assert shown[-1] == 0


def test_an_outage_ends_with_everything_there_once(
    store: Fake, writes: Writer, lines: list[str], tmp_path: Path
) -> None:
    live = record(seed=1)
    writes.start(live["id"], **described(live))
    writes.epoch(live["id"], curve(1))
    until(lambda: len(store.taken) == 2)
    store.away.set()
    writes.epoch(live["id"], curve(2))
    made = a_run(writes, tmp_path)
    until(lambda: store.asked > 5)
    assert len([line for line in lines if "training goes on" in line]) == 1
    assert writes.fault
    assert writes.left == 2
    store.away.clear()
    until(lambda: not writes.fault)
    assert "answers again" in lines[-1]
    writes.finish(live["id"], live, run_folder(tmp_path, live).path)
    writes.close(lambda _: None, lambda _: None)
    mine = [what for what in store.taken if what[1] == live["id"]]
    epochs = [("epoch", live["id"], "1"), ("epoch", live["id"], "2")]
    assert mine == [("start", live["id"]), *epochs, ("finish", live["id"])]
    assert [what for what in store.taken if what[1] == made["id"]] == [("deliver", made["id"])], (
        "a run that ended before the store heard of it is sent from its record"
    )


def test_an_outage_is_asked_after_ever_less_often(
    store: Fake, writes: Writer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(writer, "LONGEST_PAUSE", 60.0)
    store.away.set()
    a_run(writes, tmp_path)
    time.sleep(1)
    assert 3 <= store.asked <= 6, "after 0.02, 0.04, 0.08 … seconds"


def test_a_store_that_stays_away_is_given_up_at_the_end(store: Fake, writes: Writer, tmp_path: Path) -> None:
    store.away.set()
    for seed in range(20):
        a_run(writes, tmp_path, seed)
    writes.close(lambda _: store._take("report"), lambda _: None)
    assert writes.left == 20
    assert writes.fault == "cannot take deliver"
    assert store.taken == []
    assert store.asked < 20, "not once for every run"


def test_a_run_that_cannot_be_written_holds_up_no_other(store: Fake, writes: Writer, tmp_path: Path) -> None:
    bad = record(seed=7)["id"]
    store.broken.add(bad)
    a_run(writes, tmp_path, seed=7)
    good = a_run(writes, tmp_path, seed=1)
    writes.close(lambda _: store._take("report"), lambda _: None)
    assert ("finish", good["id"]) in store.taken or ("deliver", good["id"]) in store.taken
    assert ("report",) in store.taken
    assert (writes.left, bool(writes.fault)) == (1, True)


def test_memory_is_bounded_and_no_epoch_is_skipped(
    store: Fake, writes: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "BACKLOG", 10)
    made = record()
    writes.start(made["id"], **described(made))
    until(lambda: len(store.taken) == 1)
    store.away.set()
    for epoch in range(1, 100):
        writes.epoch(made["id"], curve(epoch))
    assert len(writes._runs[made["id"]].rows) <= 10
    store.away.clear()
    until(lambda: len(store.taken) >= 11)
    writes.epoch(made["id"], curve(100))  # its predecessors are in the record only, and so it has to be
    until(lambda: not writes._runs[made["id"]].queued)
    assert [what[2] for what in store.taken if what[0] == "epoch"] == [str(epoch) for epoch in range(1, 11)]


def test_an_interrupted_run_that_the_store_never_saw_is_not_sent(
    store: Fake, writes: Writer, tmp_path: Path
) -> None:
    made = record(status="interrupted")
    writes.finish(made["id"], made, run_folder(tmp_path, made).path)
    writes.close(lambda _: None, lambda _: None)
    assert (store.taken, writes.left) == ([], 0)


def test_a_record_that_could_not_be_written_is_sent_from_memory(
    store: Fake, writes: Writer, tmp_path: Path
) -> None:
    made = record(status="failed")
    writes.finish(made["id"], made, tmp_path / "nothing there")
    writes.close(lambda _: None, lambda _: None)
    assert store.taken == [("deliver", made["id"])]


def test_a_run_that_begins_again_is_another_attempt(store: Fake, writes: Writer) -> None:
    made = record()
    for resume in (False, True, False):  # begun, gone on with in this process, begun again
        writes.start(made["id"], resume=resume, **described(made))
        until(lambda: not writes._runs[made["id"]].queued)
    writes.close(lambda _: None, lambda _: None)
    assert store.taken == [("start", made["id"])] * 2


def test_ctrl_c_at_the_end_leaves_the_rest(store: Fake, writes: Writer, tmp_path: Path) -> None:
    store.delay = 0.3
    a_run(writes, tmp_path)
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        started = time.perf_counter()
        writes.close(lambda _: None, lambda _: None)
        assert time.perf_counter() - started < 1
    finally:
        signal.signal(signal.SIGALRM, before)
    assert (writes.left, writes.fault) == (1, "stopped by Ctrl-C")


def test_a_bug_of_ours_is_not_swallowed(store: Fake, writes: Writer) -> None:
    def broken(_: object) -> None:
        raise ZeroDivisionError

    writes.later(broken)
    with pytest.raises(ZeroDivisionError):
        writes.close(lambda _: None, lambda _: None)
