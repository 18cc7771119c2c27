"""Runs that are handed out together: told of once, tried again, recorded where they could not themselves."""

from __future__ import annotations

import contextlib
import shutil
from collections import deque
from collections.abc import Iterable
from dataclasses import replace
from typing import Any, Protocol

import torch

from bench.engine.checkpoint import epoch_kept
from bench.runs.budget import Budget
from bench.runs.execute import Job
from bench.store.records import DONE, Record, RunFolder

MOST = 10  # seeds of a variant that are trained together: they share the device's memory


class Listener(Protocol):
    """What the parent does as runs go on."""

    def starting(self, job: Job) -> None:
        """Take in that a worker is about to take the run."""

    def event(self, job: Job, kind: str, data: dict[str, Any]) -> None:
        """Take in an epoch, a picture, the start of evaluation, or that a run goes on or is tried again."""

    def ended(self, job: Job, record: Record) -> None:
        """Take in the run's record."""


class TaskGroup:
    """Runs that one worker does together, until each has a record.

    The listener hears of each thing once, however often the group is begun. A run that ended by no fault of
    its own is tried again, from its checkpoint if it has one, up to so many `attempts`.
    """

    def __init__(self, jobs: Iterable[Job], listener: Listener, attempts: int) -> None:
        self.jobs = {job.id: job for job in jobs}  # those without a record
        self.seed = min((job.run.seed for job in self.jobs.values()), default=0)
        self.attempt = 0
        self._listener = listener
        self._attempts = attempts
        self._told: set[tuple[Any, ...]] = set()

    @property
    def name(self) -> str:
        """The variant and the seeds, for people."""
        runs = [job.run for job in self.jobs.values()]
        seeds = ",".join(str(run.seed) for run in runs)
        return f"{runs[0].variant} · seed{'s' if len(runs) > 1 else ''} {seeds}"

    def begin(self) -> list[Job]:
        """Begin an attempt; returns the runs to do."""
        if self.attempt == 0:
            for job in self.jobs.values():
                self._listener.starting(job)
                if not job.resume:
                    shutil.rmtree(job.folder, ignore_errors=True)  # of an earlier command
        self.attempt += 1
        return list(self.jobs.values())

    def hear(self, run_id: str, kind: str, data: dict[str, Any]) -> None:
        """Pass on what a worker tells of a run; `kind` "done" brings its record."""
        job = self.jobs[run_id]
        if kind == "done":
            if data.get("environmental") and self.attempt < self._attempts:
                self._try_again(job, data["reason"])
            else:
                self._listener.ended(self.jobs.pop(run_id), data)
            return
        key = (run_id, kind, data.get("epoch"), data.get("key"), data.get("step"))
        if key not in self._told:
            self._told.add(key)
            self._listener.event(job, kind, data)

    def lose(self, reason: str) -> None:
        """Leave the runs to another attempt: their process is gone, by no fault of theirs."""
        self._take_recorded()
        if self.attempt >= self._attempts:
            self.end("failed", reason)
        for job in list(self.jobs.values()):
            self._try_again(job, reason)

    def end(self, status: str, reason: str) -> None:
        """Record the runs that could not record themselves."""
        self._take_recorded()
        while self.jobs:
            job = self.jobs.pop(next(iter(self.jobs)))
            self._listener.ended(job, broken(job, status, reason))

    def _take_recorded(self) -> None:
        """Take in the runs that their worker has recorded, and had no time to tell of."""
        for job in list(self.jobs.values()):
            if record := recorded(job):
                self._listener.ended(self.jobs.pop(job.id), record)

    def _try_again(self, job: Job, reason: str) -> None:
        self._listener.event(job, "retry", {"reason": reason})
        about = job.about | {"retried": reason}
        self.jobs[job.id] = replace(job, about=about, resume=epoch_kept(job.folder))


class Waiting:
    """Groups that wait for a worker, handed out round by round of seeds.

    A budget says of each round whether it is begun; where one is not, nothing more is handed out but what is
    tried again.
    """

    def __init__(self, groups: Iterable[TaskGroup], budget: Budget | None = None) -> None:
        self._groups = deque(groups)
        self._again: deque[TaskGroup] = deque()
        self._budget = budget
        self._round: int | None = None

    def __len__(self) -> int:
        return len(self._again) + len(self._groups)

    def take(self) -> TaskGroup | None:
        """Hand out the next group; None where none is left or no further round fits."""
        if self._again:
            return self._again.popleft()
        if self._groups and self._budget and (seed := self._groups[0].seed) != self._round:
            self._round = seed
            jobs = [job for group in self._groups if group.seed == seed for job in group.jobs.values()]
            if not self._budget.fits(jobs):
                self._groups.clear()
        return self._groups.popleft() if self._groups else None

    def check(self) -> None:
        """Raise once a budget is over."""
        if self._budget:
            self._budget.check()

    def again(self, group: TaskGroup) -> None:
        """Hand a group out next, with the runs of it that are to be tried again."""
        self._again.append(group)


def groups(jobs: Iterable[Job], device: torch.device, listener: Listener, attempts: int) -> list[TaskGroup]:
    """Sort runs into what a worker takes at a time, in the order of the first of each.

    That is one run on a CPU; on an accelerator runs that differ in their seed only, MOST at most.
    """
    found: list[list[Job]] = []
    latest: dict[str, list[Job]] = {}
    for job in jobs:
        key = job.run.model_dump_json(exclude={"seed"})
        if device.type == "cpu" or key not in latest or len(latest[key]) == MOST:
            latest[key] = []
            found.append(latest[key])
        latest[key].append(job)
    return [TaskGroup(group, listener, attempts) for group in found]


def recorded(job: Job) -> Record | None:
    """Read the record of a run that is done, whoever was told of it; None where there is none."""
    record = RunFolder(job.folder).read()
    return record if record and record["status"] in DONE else None


def broken(job: Job, status: str, reason: str) -> Record:
    """Record a run that could not record itself; returns the record."""
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
