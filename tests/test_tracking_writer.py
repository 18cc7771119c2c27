"""The writer's thread: training never waits for a store, and what that misses it gets later, once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tracked import curve, known, record, tell, until

from bench.tracking import Attempt, TrackingError, Writer, writer


class Fake:
    """A store that notes of each run what it holds, and can be away."""

    def __init__(self) -> None:
        self.taken: list[tuple[str, ...]] = []  # run, its status, how many epochs and pictures
        self.away = threading.Event()
        self.broken: set[str] = set()  # ids of runs that can never be written
        self.asked = 0

    def _take(self, *what: Any) -> None:
        self.asked += 1
        if self.away.is_set() or self.broken & set(what):
            raise TrackingError(f"cannot take {what[0]}")
        self.taken.append(tuple(map(str, what)))

    def deliver(self, made: dict[str, Any], attempt: Attempt) -> None:
        curves, drawn = len(made["curves"]), len(attempt.drawn)
        self._take(made["id"], made.get("status", "resumed" if attempt.resume else "begun"), curves, drawn)
        attempt.mlflow_id, attempt.asked = made["id"], True


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Fake:
    monkeypatch.setattr(writer, "EVERY", 0.02)
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
        end(made)


def end(writes: Writer) -> None:
    writes.close(lambda _: None, lambda _: None)


def test_a_run_is_followed_while_it_goes_on(store: Fake, writes: Writer, tmp_path: Path) -> None:
    made = record()
    writes.start(known(made), tmp_path)
    until(lambda: (made["id"], "begun", "0", "0") in store.taken)
    writes.epoch(made["id"], curve(1))
    until(lambda: (made["id"], "begun", "1", "0") in store.taken)
    writes.image(made["id"], tmp_path / "x.png", "samples", 1)
    until(lambda: (made["id"], "begun", "1", "1") in store.taken)
    writes.epoch(made["id"], curve(2))
    until(lambda: (made["id"], "begun", "2", "1") in store.taken)


def test_a_slow_store_costs_training_nothing(store: Fake, writes: Writer, tmp_path: Path) -> None:
    released = threading.Event()
    writes.later(lambda _: released.wait())
    run = tell(writes, tmp_path)["id"]
    released.set()  # every call has returned by now
    shown: list[int] = []
    writes.close(lambda _: store._take("report"), shown.append)
    assert store.taken == [(run, "finished", "5", "1"), ("report",)], "what came meanwhile shares a request"
    assert (writes.fault, writes.left) == ("", 0)


def test_a_store_that_goes_away_gets_everything_once_it_is_back(
    store: Fake, writes: Writer, lines: list[str], tmp_path: Path
) -> None:
    live = record(seed=1)
    writes.start(known(live), tmp_path)
    until(lambda: len(store.taken) == 1)
    store.away.set()
    writes.epoch(live["id"], curve(1))
    run = tell(writes, tmp_path)["id"]
    until(lambda: store.asked > 5)
    assert len([line for line in lines if "training goes on" in line]) == 1
    assert writes.fault
    assert writes.left == 2
    store.away.clear()
    until(lambda: not writes.fault)
    assert "answers again" in lines[-1]
    until(lambda: {(live["id"], "begun", "1", "0"), (run, "finished", "5", "1")} <= {*store.taken})
    writes.finish(live, tmp_path)
    end(writes)
    assert store.taken[-1] == (live["id"], "finished", "5", "0")
    assert writes.left == 0


def test_an_outage_is_asked_after_ever_less_often(
    store: Fake, writes: Writer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pauses: list[float] = []
    wait = writes._closing.wait
    monkeypatch.setattr(writes._closing, "wait", lambda seconds: pauses.append(seconds) or wait(0.001))
    monkeypatch.setattr(writer, "EVERY", 0.0)
    monkeypatch.setattr(writer, "FIRST_PAUSE", 5.0)
    monkeypatch.setattr(writer, "LONGEST_PAUSE", 60.0)
    store.away.set()
    tell(writes, tmp_path)
    until(lambda: pauses.count(60.0) >= 2)
    outage = pauses[next(n for n, pause in enumerate(pauses) if pause == 5.0) :]
    assert outage[:6] == [5.0, 10.0, 20.0, 40.0, 60.0, 60.0]


def test_a_store_that_stays_away_is_given_up_at_the_end(store: Fake, writes: Writer, tmp_path: Path) -> None:
    store.away.set()
    for seed in range(20):
        tell(writes, tmp_path, seed)
    writes.close(lambda _: store._take("report"), lambda _: None)
    assert writes.left == 20
    assert writes.fault.startswith("cannot take mlp-s")
    assert store.taken == []
    assert store.asked < 20, "not once for every run"


def test_a_run_that_cannot_be_written_holds_up_no_other(
    store: Fake, writes: Writer, lines: list[str], tmp_path: Path
) -> None:
    bad = record(seed=7)["id"]
    store.broken.add(bad)
    tell(writes, tmp_path, seed=7)
    for seed in range(10, 13):  # their success is no news, as the failure is none
        until(lambda: bool(writes.fault))
        other = tell(writes, tmp_path, seed)["id"]
        until(lambda other=other: (other, "finished", "5", "1") in store.taken)  # type: ignore[misc]
    until(lambda: store.asked > writer.STRIKES)  # more often than the end would try in vain
    good = tell(writes, tmp_path, seed=1)["id"]
    writes.close(lambda _: store._take("report"), lambda _: None)
    assert (good, "finished", "5", "1") in store.taken
    assert ("report",) in store.taken
    assert (writes.left, bool(writes.fault)) == (1, True)
    assert [line.partition(" ")[0] for line in lines] == ["warning:", "MLflow"]


def test_an_interrupted_run_that_the_store_never_saw_is_not_sent(
    store: Fake, writes: Writer, tmp_path: Path
) -> None:
    writes.finish(record(status="interrupted"), tmp_path)
    end(writes)
    assert (store.taken, writes.left) == ([], 0)


def test_ctrl_c_at_the_end_leaves_the_rest(store: Fake, writes: Writer, tmp_path: Path) -> None:
    released = threading.Event()
    writes.later(lambda _: released.wait())
    tell(writes, tmp_path)
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        end(writes)
    finally:
        signal.signal(signal.SIGALRM, before)
        released.set()
    assert (writes.left, writes.fault) == (1, "stopped by Ctrl-C")


def test_a_bug_of_ours_is_not_swallowed(store: Fake, writes: Writer) -> None:
    def broken(_: object) -> None:
        raise ZeroDivisionError

    writes.later(broken)
    with pytest.raises(ZeroDivisionError):
        end(writes)
