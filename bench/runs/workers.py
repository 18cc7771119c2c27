"""Many runs over worker processes: one thread and one core each on a CPU, one process on an accelerator.

Workers train, measure and write run folders; the parent alone talks to MLflow and writes the report. A worker
that dies takes its runs with it, nothing else: they are tried once more, by a new worker.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterable, Iterator
from multiprocessing import parent_process, resource_tracker
from multiprocessing.connection import Connection, wait
from threading import Thread
from typing import Any

import torch
import torch.multiprocessing as mp

from bench.engine.device import available_cores, deterministic, one_thread, pin
from bench.runs.budget import Budget
from bench.runs.execute import Job, SharedContext, execute_all
from bench.runs.groups import Listener, TaskGroup, Waiting, groups

ATTEMPTS = 2  # at a run that ends by no fault of its own
# What every run needs; torch._dynamo is imported by the first optimizer that is made
IMPORTED = [__name__, "torch._dynamo", "bench.pictures.plots", "sklearn.linear_model", "sklearn.neighbors"]
OVER = "over"  # what a worker says when each run of its group has a record


def default_workers(device: torch.device) -> int:
    """Count one worker for each usable core of a CPU, eight at most; one on an accelerator."""
    return min(8, len(available_cores())) if device.type == "cpu" else 1


def run_all(
    jobs: Iterable[Job],
    shared: SharedContext,
    workers: int,
    listener: Listener,
    budget: Budget | None = None,
) -> None:
    """Do the jobs in order, `workers` groups at a time, as many rounds of seeds as a budget allows.

    On KeyboardInterrupt, and when the budget is over, the workers are stopped and runs under way get a record
    "interrupted"; it is raised again.
    """
    waiting = Waiting(groups(jobs, shared.device, listener, ATTEMPTS), budget)
    cores = available_cores()
    count = min(workers, len(waiting))
    # Pin only where every core has its worker: fewer may have to give way to somebody else's
    pins: list[int | None] = [*cores] if count == len(cores) else [None] * count
    crew = [_Worker(shared, pins[i % len(pins)]) for i in range(count)]
    try:
        while waiting or any(worker.group for worker in crew):
            for worker in crew:
                if worker.group is None and (group := waiting.take()):
                    worker.give(group)
            waiting.check()
            for ready in wait([worker.connection for worker in crew if worker.group], timeout=1):
                worker = next(w for w in crew if w.connection is ready)
                if left := worker.hear():
                    waiting.again(left)
    except BaseException:
        for worker in crew:
            worker.process.kill()
            worker.process.join(timeout=10)
            if worker.group:
                worker.group.end("interrupted", "stopped before it ended")
        raise
    finally:
        for worker in crew:
            worker.dismiss()


class _Worker:
    """One process that does one group of runs at a time."""

    def __init__(self, shared: SharedContext, core: int | None) -> None:
        self.group: TaskGroup | None = None
        self._work = (shared, core)
        self._start()

    def _start(self) -> None:
        # On a CPU workers are forked from a process that has imported all they need, which takes seconds. It
        # may have called an accelerator's driver meanwhile, which does not survive that.
        forked = self._work[0].device.type == "cpu" and "forkserver" in mp.get_all_start_methods()
        context: Any = mp.get_context("forkserver" if forked else "spawn")  # Windows can only spawn
        context.set_forkserver_preload(IMPORTED)
        self.connection, there = context.Pipe()
        self.process: Any = context.Process(target=_work, args=(there, *self._work), daemon=True)
        with _sigint_blocked():
            self.process.start()
        there.close()  # so that the worker's death closes the line

    def give(self, group: TaskGroup) -> None:
        """Hand over a group of runs."""
        self.group = group
        with contextlib.suppress(BrokenPipeError):  # it died idle: `hear` finds out
            self.connection.send(group.begin())

    def hear(self) -> TaskGroup | None:
        """Pass on one message; returns the group once it is over, if runs of it are to be tried again."""
        assert self.group is not None  # noqa: S101  an idle worker is not listened to
        try:
            run_id, kind, data = self.connection.recv()
        except (EOFError, ConnectionResetError):
            self.process.join(timeout=10)
            code = self.process.exitcode
            self._start()
            how = f"signal {signal.Signals(-code).name}" if code and code < 0 else f"exit code {code}"
            self.group.lose(f"its worker process ended with {how}")
        else:
            if kind != OVER:
                self.group.hear(run_id, kind, data)
                return None
        group, self.group = self.group, None
        return group if group.jobs else None

    def dismiss(self) -> None:
        """Let an idle process go home."""
        with contextlib.suppress(OSError, ValueError):
            self.connection.send(None)
        self.process.join(timeout=10)
        if self.process.is_alive():
            self.process.kill()
        self.connection.close()


@contextlib.contextmanager
def _sigint_blocked() -> Iterator[None]:
    """Block SIGINT while a child process starts: during its imports it could only print a traceback."""
    resource_tracker.ensure_running()  # whose own start would unblock it
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _work(connection: Connection, shared: SharedContext, core: int | None) -> None:
    """Take groups of jobs until told to stop, or until the parent is gone: a worker's life."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    Thread(target=_leave_with_parent, daemon=True).start()
    deterministic()
    one_thread(shared.device)
    if shared.device.type == "cpu" and core is not None:
        pin(core)

    def emit(run_id: str, kind: str, data: dict[str, Any]) -> None:
        try:
            connection.send((run_id, kind, data))
        except OSError:  # the parent is gone: leave its run as a death would, without a record
            os._exit(1)

    with contextlib.suppress(EOFError):
        while (group := connection.recv()) is not None:
            for record in execute_all(group, shared, emit):
                emit(record["id"], "done", record)
            emit("", OVER, {})


def _leave_with_parent() -> None:
    """End this process when its parent has died: another `bench run` may take up the run at any moment."""
    parent = parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
