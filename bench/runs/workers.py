"""Many runs over worker processes: one thread and one core each on a CPU, one process on an accelerator.

Workers train, measure and write run folders; the parent alone talks to MLflow and writes the report. On a CPU
a worker has one run at a time, on an accelerator the seeds of a variant as a group, trained together. One
that dies takes its runs with it, nothing else: they are recorded as failed, and a new worker goes on.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import parent_process, resource_tracker
from multiprocessing.connection import Connection, wait
from threading import Thread
from typing import Any, Protocol

import torch
import torch.multiprocessing as mp

from bench.engine.checkpoint import epoch_kept
from bench.engine.device import available_cores, deterministic, one_thread, pin
from bench.runs.execute import GroupEmit, Job, SharedContext, execute, execute_group
from bench.store.records import Record, RunFolder

GROUP = 10  # seeds of a variant that are trained together at most: they share the device's memory


class Listener(Protocol):
    """What the parent does as runs go on."""

    def starting(self, job: Job) -> None:
        """A worker is about to take the run."""

    def event(self, job: Job, kind: str, data: dict[str, Any]) -> None:
        """An epoch ended, a picture was drawn, evaluation began, a run was resumed or is tried once more."""

    def ended(self, job: Job, record: Record) -> None:
        """The run has its record."""


def default_workers(device: torch.device) -> int:
    """One worker a core that this process may use on a CPU (eight at most); one on an accelerator."""
    return min(8, len(available_cores())) if device.type == "cpu" else 1


def run_all(jobs: Iterable[Job], shared: SharedContext, workers: int, listener: Listener) -> None:
    """Do the jobs in order, `workers` at a time.

    On KeyboardInterrupt the workers are stopped and runs under way get a record "interrupted"; it is raised
    again.
    """
    waiting = deque(groups(jobs, shared.device))
    retried: set[str] = set()
    cores = available_cores()
    count = min(workers, len(waiting))
    # Pinned only where every core has its worker: fewer may have to give way to somebody else's
    pins: list[int | None] = [*cores] if count == len(cores) else [None] * count
    crew = [_Worker(shared, pins[i % len(pins)]) for i in range(count)]
    try:
        while waiting or any(worker.jobs for worker in crew):
            for worker in crew:
                if not worker.jobs and waiting:
                    for job in waiting[0]:
                        listener.starting(job)
                    worker.give(waiting.popleft())
            for ready in wait([worker.connection for worker in crew if worker.jobs], timeout=1):
                worker = next(w for w in crew if w.connection is ready)
                waiting.extendleft(_hear(worker, listener, retried))
    except BaseException:
        for worker in crew:
            worker.kill()
            for job in worker.jobs.values():
                listener.ended(job, broken(job, "interrupted", "stopped before it ended"))
        raise
    finally:
        for worker in crew:
            worker.dismiss()


def groups(jobs: Iterable[Job], device: torch.device) -> list[list[Job]]:
    """What a worker takes at a time, in the order of the first of each.

    One run on a CPU; on an accelerator runs that differ in their seed only, GROUP at most.
    """
    if device.type == "cpu":
        return [[job] for job in jobs]
    found: list[list[Job]] = []
    latest: dict[str, list[Job]] = {}
    for job in jobs:
        key = job.run.model_dump_json(exclude={"seed"})
        if key not in latest or len(latest[key]) == GROUP:
            latest[key] = []
            found.append(latest[key])
        latest[key].append(job)
    return found


def _hear(worker: _Worker, listener: Listener, retried: set[str]) -> list[list[Job]]:
    """Pass on one message of a worker; a closed line means that its process died.

    Returns the group to be done once more, if any: runs that ended by no fault of theirs for the first time.
    """
    try:
        run_id, kind, data = worker.connection.recv()
    except (EOFError, ConnectionResetError):
        lost = list(worker.jobs.values())
        code = worker.replace()
        how = f"signal {signal.Signals(-code).name}" if code and code < 0 else f"exit code {code}"
        reason = f"its worker process ended with {how}"
        ended = [(job, broken(job, "failed", reason) | {"environmental": True}) for job in lost]
    else:
        if kind != "done":
            listener.event(worker.jobs[run_id], kind, data)
            return []
        ended = [(worker.jobs.pop(run_id), data)]
    again = []
    for job, record in ended:
        if record.get("environmental") and job.id not in retried:
            retried.add(job.id)
            again.append(once_more(job, record["reason"], listener))
        else:
            listener.ended(job, record)
    return [again] if again else []


def once_more(job: Job, reason: str, listener: Listener) -> Job:
    """The run as it is taken up again after what was no fault of its own: from its checkpoint, if any."""
    listener.event(job, "retry", {"reason": reason})
    return replace(job, about=job.about | {"retried": reason}, resume=epoch_kept(job.folder))


def broken(job: Job, status: str, reason: str) -> Record:
    """Record, in the worker's place, a run that could not record itself."""
    folder = RunFolder(job.folder)
    record: Record = {
        "id": job.id,
        "variant": job.run.variant,
        "seed": job.run.seed,
        "run": job.run.model_dump(mode="json"),
        **job.about,
        "status": status,
        "reason": reason,
        "artifacts": folder.artifacts(),
    }
    with contextlib.suppress(Exception):  # a full disk must not hide why the run ended
        folder.write_record(record)
    return record


@dataclass
class _Line:
    """A worker's end of the pipe, and the process at the other end."""

    connection: Connection
    process: Any


class _Worker:
    """One process that does one group of jobs at a time."""

    def __init__(self, shared: SharedContext, core: int | None) -> None:
        self.shared = shared
        self.core = core
        self.jobs: dict[str, Job] = {}  # that it has and has not recorded, by id
        self._line = self._start()

    @property
    def connection(self) -> Connection:
        """The parent's end of the pipe."""
        return self._line.connection

    def give(self, group: list[Job]) -> None:
        """Hand over a group of jobs."""
        self.jobs = {job.id: job for job in group}
        with contextlib.suppress(BrokenPipeError):  # it died idle: the read that follows reports it
            self.connection.send(group)

    def replace(self) -> int | None:
        """Start anew after a death; returns how the process ended."""
        self._line.process.join(timeout=10)
        code: int | None = self._line.process.exitcode
        self.jobs, self._line = {}, self._start()
        return code

    def kill(self) -> None:
        """End the process now."""
        self._line.process.kill()
        self._line.process.join(timeout=10)

    def dismiss(self) -> None:
        """Let an idle process go home."""
        with contextlib.suppress(OSError, ValueError):
            self.connection.send(None)
        self._line.process.join(timeout=10)
        if self._line.process.is_alive():
            self.kill()
        self.connection.close()

    def _start(self) -> _Line:
        context = mp.get_context("spawn")
        here, there = context.Pipe()
        process = context.Process(target=_work, args=(there, self.shared, self.core), daemon=True)
        with _deaf_to_ctrl_c():
            process.start()
        there.close()  # so that the worker's death closes the line
        return _Line(here, process)


@contextlib.contextmanager
def _deaf_to_ctrl_c() -> Iterator[None]:
    """A process started inside is born with SIGINT blocked: importing, it could but print a traceback."""
    resource_tracker.ensure_running()  # whose own start would unblock it
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _work(connection: Connection, shared: SharedContext, core: int | None) -> None:
    """A worker's life: take groups of jobs until told to stop, or until the parent is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    Thread(target=_leave_with_parent, daemon=True).start()
    deterministic()
    one_thread(shared.device)
    if shared.device.type == "cpu" and core is not None:
        pin(core)
    shared.reference.net.to(shared.device)  # it looks at what models on the device make

    def emit(run_id: str, kind: str, data: dict[str, Any]) -> None:
        try:
            connection.send((run_id, kind, data))
        except OSError:  # the parent is gone: leave its run as a death would, without a record
            os._exit(1)

    with contextlib.suppress(EOFError):
        while (group := connection.recv()) is not None:
            for record in records_of(group, shared, emit):
                emit(record["id"], "done", record)


def _leave_with_parent() -> None:
    """End this process when its parent has died: another `bench run` may take up the run at any moment."""
    parent = parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def records_of(group: list[Job], shared: SharedContext, emit: GroupEmit) -> Iterator[Record]:
    """Do a group as the device wants it: one by one on a CPU, together on an accelerator."""
    if shared.device.type != "cpu":
        return execute_group(group, shared, emit)
    return (execute(job, shared, partial(emit, job.id)) for job in group)
