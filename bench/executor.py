"""Many runs over worker processes: one thread and one core each on a CPU, one process on an accelerator.

Workers train, measure and write run folders; the parent alone talks to MLflow and writes the report. A worker
that dies takes its run with it, nothing else: the run is recorded as failed, a new worker takes the next one.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any, Protocol

import torch
import torch.multiprocessing as mp

from bench.device import deterministic, one_thread
from bench.records import Record, RunFolder
from bench.runner import Job, Workshop, execute


class Listener(Protocol):
    """What the parent does as runs go on."""

    def starting(self, job: Job) -> None:
        """A worker is about to take the run; what is added to `job.about` goes into its record."""

    def event(self, job: Job, kind: str, data: dict[str, Any]) -> None:
        """An epoch ended, a picture was drawn, or evaluation began."""

    def ended(self, job: Job, record: Record) -> None:
        """The run has its record."""


def default_workers(device: torch.device) -> int:
    """One worker a core that this process may use on a CPU (eight at most); one on an accelerator."""
    return min(8, len(_cores())) if device.type == "cpu" else 1


def run_all(jobs: Iterable[Job], shop: Workshop, workers: int, listener: Listener) -> None:
    """Do the jobs in order, `workers` at a time.

    On KeyboardInterrupt the workers are stopped and runs under way get a record "interrupted"; it is raised
    again.
    """
    waiting = deque(jobs)
    cores = _cores()
    crew = [_Worker(shop, cores[i % len(cores)]) for i in range(min(workers, len(waiting)))]
    try:
        while waiting or any(worker.job for worker in crew):
            for worker in crew:
                if worker.job is None and waiting:
                    listener.starting(waiting[0])
                    worker.give(waiting.popleft())
            for ready in wait([worker.connection for worker in crew if worker.job], timeout=1):
                worker = next(w for w in crew if w.connection is ready)
                _hear(worker, listener)
    except BaseException:
        for worker in crew:
            worker.kill()
            if worker.job:
                listener.ended(worker.job, _broken(worker.job, "interrupted", "stopped before it ended"))
        raise
    finally:
        for worker in crew:
            worker.dismiss()


def _hear(worker: _Worker, listener: Listener) -> None:
    """Pass on one message of a worker; a closed line means that its process died."""
    job = worker.at_work
    try:
        kind, data = worker.connection.recv()
    except (EOFError, ConnectionResetError):
        code = worker.replace()
        how = f"signal {signal.Signals(-code).name}" if code and code < 0 else f"exit code {code}"
        listener.ended(job, _broken(job, "failed", f"its worker process ended with {how}"))
        return
    if kind == "done":
        worker.job = None
        listener.ended(job, data)
    else:
        listener.event(job, kind, data)


def _broken(job: Job, status: str, reason: str) -> Record:
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
    """One process that does one job at a time."""

    def __init__(self, shop: Workshop, core: int) -> None:
        self.shop = shop
        self.core = core
        self.job: Job | None = None
        self._line = self._start()

    @property
    def connection(self) -> Connection:
        """The parent's end of the pipe."""
        return self._line.connection

    @property
    def at_work(self) -> Job:
        """The job that this worker has; a worker without one is never asked."""
        if self.job is None:
            raise RuntimeError("an idle worker was asked for its job")
        return self.job

    def give(self, job: Job) -> None:
        """Hand over a job."""
        self.job = job
        with contextlib.suppress(BrokenPipeError):  # it died idle: the read that follows reports it
            self.connection.send(job)

    def replace(self) -> int | None:
        """Start anew after a death; returns how the process ended."""
        self._line.process.join(timeout=10)
        code: int | None = self._line.process.exitcode
        self.job, self._line = None, self._start()
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
        process = context.Process(target=_work, args=(there, self.shop, self.core), daemon=True)
        process.start()
        there.close()  # so that the worker's death closes the line
        return _Line(here, process)


def _work(connection: Connection, shop: Workshop, core: int) -> None:
    """A worker's life: take jobs until told to stop, or until the parent is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    deterministic()
    one_thread(shop.device)
    if shop.device.type == "cpu" and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {core})
    with contextlib.suppress(EOFError, BrokenPipeError):
        while (job := connection.recv()) is not None:
            connection.send(("done", execute(job, shop, lambda kind, data: connection.send((kind, data)))))


def _cores() -> list[int]:
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))
