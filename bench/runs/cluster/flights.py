"""Groups on their way through the cluster, as this process sees them."""

from __future__ import annotations

import contextlib
import shutil
import sys
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.errors import BenchError
from bench.runs.cluster.join import GPU_SHARE
from bench.runs.cluster.node import Item, pack, work
from bench.runs.execute import Job, SharedContext
from bench.runs.workers import Listener, broken, groups, once_more
from bench.store.records import CHECKPOINT, DONE, Record, RunFolder

ATTEMPTS = 3  # that a group is given where nodes that have it are lost


def run_all(jobs: Iterable[Job], shared: SharedContext, workers: int, listener: Listener) -> None:
    """Do the jobs in order, `workers` groups at a time, on the cluster that `connect` joined.

    A group whose node or process is lost goes first again, ATTEMPTS times at most, without the runs that it
    has recorded. On KeyboardInterrupt tasks are cancelled and runs under way get a record "interrupted"; it
    is raised again.
    """
    import ray

    waiting = deque(_Flight({job.id: job for job in group}) for group in groups(jobs, shared.device))
    launch = _launcher(shared)
    air: dict[Any, _Flight] = {}
    with contextlib.redirect_stdout(sys.stderr):  # Ray tells of lost workers; results alone go to stdout
        try:
            while waiting or air:
                while waiting and len(air) < workers:
                    flight = waiting.popleft()
                    flight.prepare(listener)
                    air[launch(flight)] = flight
                for stream in _ready(air):
                    if not _hear(stream, air[stream], listener):
                        flight = air.pop(stream)
                        waiting.extendleft([flight] if flight.jobs else [])
        except BaseException:
            for stream in air:
                ray.cancel(stream, force=True)
            for flight in air.values():
                flight.end(listener, "interrupted", "stopped before it ended")
            raise


@dataclass
class _Flight:
    """A group on its way: its runs that have no record yet, and what of them the listener was told."""

    jobs: dict[str, Job]
    attempt: int = 0
    told: set[tuple[Any, ...]] = field(default_factory=set)
    unwritten: dict[str, str] = field(default_factory=dict)  # runs whose folder lacks something, and why

    @property
    def name(self) -> str:
        """What Ray's dashboard calls it."""
        runs = [job.run for job in self.jobs.values()]
        seeds = ",".join(str(run.seed) for run in runs)
        return f"{runs[0].variant} · seed{'s' if len(runs) > 1 else ''} {seeds}"

    def prepare(self, listener: Listener) -> None:
        """Before an attempt; runs start with the first."""
        if self.attempt == 0:
            for job in self.jobs.values():
                if not job.resume:
                    shutil.rmtree(job.folder, ignore_errors=True)  # of an earlier command
                listener.starting(job)
        self.attempt += 1

    def left(self) -> dict[str, dict[str, bytes]]:
        """What a task goes on from: the files of each folder that has a checkpoint, by run."""
        return {job.id: _files(job.folder) for job in self.jobs.values() if job.resume}

    def take(self, item: Item, listener: Listener) -> None:
        """Write what came of a run, and tell what was not told in an earlier attempt."""
        run_id, kind, data, files = item
        job = self.jobs[run_id]
        self._write(job, files)
        if kind == "image":
            data = data | {"path": str(job.folder / next(iter(files)))}
        if kind != "done":
            self._tell(job, kind, data, listener)
        elif data.get("environmental") and self.attempt < ATTEMPTS:
            self._again(job, data["reason"], listener)
        else:
            listener.ended(self.jobs.pop(run_id), self._record(job, data))

    def lose(self, reason: str, listener: Listener) -> None:
        """The task ended by no fault of its runs."""
        if self.attempt < ATTEMPTS:
            for job in list(self.jobs.values()):
                self._again(job, reason, listener)
        else:
            self.end(listener, "failed", f"{reason}, {ATTEMPTS} times")

    def _write(self, job: Job, files: Mapping[str, bytes]) -> None:
        try:
            for name, content in files.items():
                path = job.folder / name
                path.parent.mkdir(parents=True, exist_ok=True)
                part = path.with_name(f".{path.name}")  # an earlier attempt's file may be being read
                part.write_bytes(content)
                part.replace(path)
        except OSError as error:  # this machine's disk is full, say
            self.unwritten[job.id] = f"its folder could not be written: {error}"

    def _record(self, job: Job, record: Record) -> Record:
        """Write the record as it came, or one of what kept the run's folder from being whole."""
        if job.id not in self.unwritten:
            try:
                RunFolder(job.folder).write_record(record)
                if record["status"] in DONE:
                    (job.folder / CHECKPOINT).unlink(missing_ok=True)
                return record
            except BenchError as error:
                self.unwritten[job.id] = str(error)
        return broken(job, "failed", self.unwritten[job.id])

    def _tell(self, job: Job, kind: str, data: dict[str, Any], listener: Listener) -> None:
        key = (job.id, kind, data.get("epoch"), data.get("key"), data.get("step"))
        if key not in self.told:
            self.told.add(key)
            listener.event(job, kind, data)

    def _again(self, job: Job, reason: str, listener: Listener) -> None:
        """Leave a run for the next attempt."""
        self.jobs[job.id] = once_more(job, reason, listener)

    def end(self, listener: Listener, status: str, reason: str) -> None:
        """Record the runs that could not record themselves."""
        while self.jobs:
            job = self.jobs.pop(next(iter(self.jobs)))
            listener.ended(job, broken(job, status, reason))


def _hear(stream: Any, flight: _Flight, listener: Listener) -> bool:
    """Take the next item of a task; whether there may be more. What ended too early is left in `flight`."""
    import ray
    from ray.exceptions import RayError, RayTaskError, TaskCancelledError

    try:
        flight.take(ray.get(next(stream)), listener)
    except StopIteration:
        return False
    except RayTaskError as error:  # what is no run's own fault: a full disk, say
        flight.end(listener, "failed", f"its task failed: {type(error.cause).__name__}: {error.cause}")
        return False
    except TaskCancelledError:
        flight.end(listener, "interrupted", "its task was cancelled")
        return False
    except RayError as error:
        flight.lose(f"its process or node was lost: {type(error).__name__}", listener)
        return False
    return True


def _ready(air: Mapping[Any, _Flight]) -> list[Any]:
    """The streams with something to take, waited for a second at most."""
    import ray

    ready: list[Any] = ray.wait([*air], num_returns=len(air), timeout=0)[0]
    return ready or list(ray.wait([*air], timeout=1)[0])


def _launcher(shared: SharedContext) -> Any:
    """What makes a task of a flight; data and yardstick are put into the object store here, once."""
    import ray

    parcel = ray.put(pack(shared))
    gpu = 0.0 if shared.device.type == "cpu" else GPU_SHARE
    # Processes are kept for the next group; a lost group is ours to repeat, as we know what of it is recorded
    task = ray.remote(num_cpus=1, num_gpus=gpu, max_calls=0, max_retries=0)(work)

    def launch(flight: _Flight) -> Any:
        made = task.options(name=flight.name, num_returns="streaming")
        return made.remote(list(flight.jobs.values()), flight.left(), [parcel])

    return launch


def _files(folder: Path) -> dict[str, bytes]:
    found = [path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".")]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}
