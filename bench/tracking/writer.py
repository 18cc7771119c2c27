"""The one thread that writes to the store: that may be slow or away; training never waits for it."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from queue import Queue
from typing import Any

from bench.errors import BenchError
from bench.store import records
from bench.store.records import Record
from bench.tracking.tracker import Tracker, TrackingError

FIRST_PAUSE, LONGEST_PAUSE = 5.0, 60.0  # seconds between attempts while the store is away
BACKLOG = 1000  # epochs of a run that wait in memory; its record holds them all
STRIKES = 3  # failures in a row, at the end, after which the rest is left to `bench sync`


@dataclass(eq=False)
class _Task:
    """Something to do in the store once."""

    call: Callable[[Tracker], Any]
    queued: bool = False

    def send(self, tracker: Tracker) -> bool:
        """Do it; whether there is nothing more to do."""
        self.call(tracker)
        return True


@dataclass(eq=False)
class _Run:
    """What is known of a run and not yet in the store."""

    described: Mapping[str, Any]  # for Tracker.start; empty where it ended before this process began
    rows: deque[Record] = field(default_factory=deque)
    pictures: deque[tuple[Path, str, int]] = field(default_factory=deque)
    ended: tuple[Record | None, Path] | None = None  # the record where it is not on disk, and the folder
    mlflow_id: str | None = None
    behind: bool = False  # an epoch found no room: the rest of the curves comes from the record
    queued: bool = False

    def send(self, tracker: Tracker) -> bool:
        """Bring the store up to date; whether the run is whole there. What fails is sent the next time."""
        record = self.ended and (self.ended[0] or records.read(self.ended[1]))
        folder = self.ended and self.ended[1]
        if self.mlflow_id is None:
            if record and folder:
                if record["status"] != "interrupted":  # such a run is done again
                    tracker.deliver(record, folder)
                return True
            self.mlflow_id = tracker.start(**self.described)
        while self.rows:
            tracker.epoch(self.mlflow_id, int(self.rows[0]["epoch"]), self.rows[0])
            self.rows.popleft()
        while self.pictures:
            if self.pictures[0][0].exists():
                tracker.image(self.mlflow_id, *self.pictures[0])
            self.pictures.popleft()
        if record and folder:
            tracker.finish(self.mlflow_id, record, folder)
        return bool(record)


class Writer:
    """Writes runs to an MLflow store from a thread of its own; every method but `close` returns at once.

    What the store does not take is kept and tried again, ever less often: epochs in memory up to a limit,
    everything else as the records and pictures on disk. `say` shows a line to the user.
    """

    def __init__(self, tracker: Tracker, say: Callable[[str], None]) -> None:
        self.tracker = tracker
        self.fault = ""  # why the store lacks something; empty while it answers
        self._say = say
        self._runs: dict[str, _Run] = {}
        self._queue: Queue[_Task | _Run | None] = Queue()
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._told: set[str] = set()
        self._warned = False  # of a fault that is not over
        self._bug: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name="tracking", daemon=True)
        self._thread.start()

    @property
    def left(self) -> int:
        """How many runs the store does not hold as they are known here."""
        return len(self._runs)

    def later(self, call: Callable[[Tracker], Any]) -> None:
        """Do something else with the tracker, when its turn comes."""
        self._put(_Task(call))

    def start(self, run_id: str, *, resume: bool = False, **described: Any) -> None:
        """A run begins, or goes on; `described` as in `Tracker.start`."""
        known = self._runs.get(run_id)
        if not (resume and known and known.ended is None):
            known = self._runs[run_id] = _Run({"run_id": run_id, "resume": resume, **described})
        self._put(known)

    def epoch(self, run_id: str, row: Record) -> None:
        """A run ended an epoch; beyond the backlog its rest comes from the record."""
        if run := self._runs.get(run_id):
            run.behind = run.behind or len(run.rows) >= BACKLOG
            if not run.behind:
                run.rows.append(row)
            self._put(run)

    def image(self, run_id: str, path: Path, key: str, step: int) -> None:
        """A run drew a picture."""
        if run := self._runs.get(run_id):
            run.pictures.append((path, key, step))
            self._put(run)

    def finish(self, run_id: str, record: Record, folder: Path) -> None:
        """A run has its record, on disk or, where that failed, here alone."""
        run = self._runs.setdefault(run_id, _Run({}))
        run.ended = (None if (folder / records.RECORD).exists() else record), folder
        self._put(run)

    def close(self, last: Callable[[Tracker], Any], show: Callable[[int], None]) -> None:
        """Send what is left, then do `last`; meanwhile tell `show` how many runs are left.

        Gives up when the store does not answer, and on Ctrl-C; `fault` then says why.
        """
        self.later(last)
        self._closing.set()
        self._queue.put(None)
        try:
            while self._thread.is_alive():
                self._thread.join(0.5)
                show(self.left)
        except KeyboardInterrupt:
            self.fault = self.fault or "stopped by Ctrl-C"
            self._say = lambda _: None
        if self._bug:
            raise self._bug

    def _put(self, item: _Task | _Run) -> None:
        with self._lock:
            if not item.queued:
                item.queued = True
                self._queue.put(item)

    def _work(self) -> None:
        try:
            self._send_all()
        except BaseException as error:  # a bug of ours: `close` shows it
            self._bug = error

    def _send_all(self) -> None:
        strikes, pause, lost = 0, FIRST_PAUSE, False
        while (item := self._queue.get()) is not None or not self._queue.empty():
            if item is None:  # something was put back after the end was called
                self._queue.put(None)
                continue
            item.queued = False  # before it is sent: what comes meanwhile queues it again
            try:
                if item.send(self.tracker):
                    self._forget(item)
            except (TrackingError, BenchError) as error:
                self._failed(str(error))
                strikes += 1
                if not self._closing.is_set():
                    self._put(item)  # behind the others: its fault may be its own
                    self._closing.wait(pause)
                    pause = min(2 * pause, LONGEST_PAUSE)
                elif strikes >= STRIKES:
                    return
                else:
                    lost = True
            else:
                strikes, pause = 0, FIRST_PAUSE
                if self.fault and not lost:
                    self._recovered()

    def _forget(self, item: _Task | _Run) -> None:
        for run_id, run in list(self._runs.items()):
            if run is item:
                del self._runs[run_id]

    def _failed(self, why: str) -> None:
        self._warned = self._warned or (not self.fault and why not in self._told)
        if self._warned and not self.fault:
            self._told.add(why)  # a fault of one run alone comes again and again
            self._say(f"warning: {why}; training goes on and MLflow gets what it misses when it answers")
        self.fault = why

    def _recovered(self) -> None:
        self.fault = ""
        if self._warned:
            self._say("MLflow answers again and gets what it missed")
        self._warned = False
