"""The thread that writes to the store: training never waits for MLflow, nor fails because of it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.errors import BenchError
from bench.store.records import Record
from bench.tracking.tracker import Attempt, Tracker, TrackingError

EVERY = 1.0  # seconds between looks at what is to be sent; epochs that come meanwhile share a request
FIRST_PAUSE, LONGEST_PAUSE = 5.0, 60.0  # seconds between tries while the store is away; doubled each time
STRIKES = 3  # failures in a row, at the end, after which the rest is left to `bench sync`

Task = Callable[[Tracker], Any]


class Writer:
    """Sends runs to an MLflow store from a background thread; every method but `close` returns at once.

    A TaskGroup tells it each thing once. What the store does not take is tried again. `say` shows a line to
    the user.
    """

    def __init__(self, tracker: Tracker, say: Callable[[str], None]) -> None:
        self.fault = ""  # why the store lacks something; empty while it answers
        self._tracker = tracker
        self._say = say
        self._runs: dict[str, tuple[Record, Attempt]] = {}  # under way, or not yet whole in the store
        self._due: dict[object, Task] = {}  # what is to be sent, the oldest first; of a run the latest state
        self._lock = threading.Lock()  # of `_due`
        self._closing = threading.Event()
        self._told: set[str] = set()  # the faults that the user knows
        self._warned = False  # of a fault that is not over
        self._bug: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name="tracking", daemon=True)
        self._thread.start()

    @property
    def left(self) -> int:
        """How many runs the store does not hold as they are known here."""
        return len(self._runs)

    def later(self, task: Task) -> None:
        """Do something else with the tracker, when its turn comes."""
        self._put(task, task)

    def start(self, known: Record, folder: Path, *, resume: bool = False) -> None:
        """Note that a run begins, or goes on; `known` is its record so far, `folder` where it is written."""
        self._put_run({**known, "curves": []}, Attempt(folder, resume))

    def epoch(self, run_id: str, row: Record) -> None:
        """Note an epoch."""
        if run_id in self._runs:
            record, attempt = self._runs[run_id]
            record["curves"].append(row)
            self._put_run(record, attempt)

    def image(self, run_id: str, path: Path, key: str, step: int) -> None:
        """Note a picture that was drawn."""
        if run_id in self._runs:
            record, attempt = self._runs[run_id]
            attempt.drawn.append((path, key, step))
            self._put_run(record, attempt)

    def finish(self, record: Record, folder: Path) -> None:
        """Note the record of a run that has ended."""
        _, attempt = self._runs.get(record["id"], (None, Attempt(folder)))
        self._put_run(record, attempt)

    def close(self, last: Task, show: Callable[[int], None]) -> None:
        """Send what is left, then do `last`; meanwhile tell `show` how many runs are left.

        Gives up when the store does not answer, and on Ctrl-C; `fault` then says why.
        """
        self.later(last)
        self._closing.set()
        try:
            while self._thread.is_alive():
                self._thread.join(0.5)
                show(self.left)
        except KeyboardInterrupt:
            self.fault = self.fault or "stopped by Ctrl-C"
            self._say = lambda _: None
        if self._bug:
            raise self._bug

    def _put_run(self, record: Record, attempt: Attempt) -> None:
        self._runs[record["id"]] = record, attempt

        def send(tracker: Tracker) -> None:
            if attempt.asked or record.get("status") != "interrupted":  # else the store never heard of it
                tracker.deliver(record, attempt)
            if "status" in record and self._runs[record["id"]][0] is record:
                del self._runs[record["id"]]

        self._put(record["id"], send)

    def _put(self, key: object, task: Task) -> None:
        with self._lock:
            self._due[key] = task

    def _work(self) -> None:
        try:
            self._send_all()
        except BaseException as error:  # a bug of ours: `close` shows it
            self._bug = error

    def _send_all(self) -> None:
        strikes, pause = 0, 0.0
        while True:
            closing = self._closing.is_set()  # asked first: what is put before that is not missed
            with self._lock:
                key = next(iter(self._due), None)
                task = self._due.pop(key, None)
            if task is None:
                if closing:
                    return
                self._closing.wait(EVERY)
                continue
            try:
                task(self._tracker)
            except (TrackingError, BenchError) as error:
                self._failed(str(error))
                with self._lock:
                    self._due.setdefault(key, task)  # behind the others: its fault may be its own
                if closing:
                    strikes += 1
                    if strikes >= STRIKES:
                        return
                else:
                    pause = min(max(2 * pause, FIRST_PAUSE), LONGEST_PAUSE)
                    self._closing.wait(pause)
            else:
                strikes, pause, self.fault = 0, 0.0, ""
                if self._warned:
                    self._say("MLflow answers again and gets what it missed")
                    self._warned = False

    def _failed(self, why: str) -> None:
        if not self.fault and why not in self._told:  # a fault of one run alone comes again and again
            self._told.add(why)
            self._warned = True
            self._say(f"warning: {why}; training goes on and MLflow gets what it misses when it answers")
        self.fault = why
