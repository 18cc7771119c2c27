"""The matrix from plan to report: runs done, tracked, and in a report that is valid after each of them."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from bench.engine.device import one_thread
from bench.errors import BenchError
from bench.evaluation.baselines import baselines
from bench.evaluation.samples import Reference, yardstick
from bench.report import write_report
from bench.runs import sync
from bench.runs.budget import Budget, StopMatrixError
from bench.runs.execute import Job, SharedContext
from bench.runs.executor import executor_of, worker_count
from bench.runs.groups import broken, recorded
from bench.runs.order import Prediction, in_order
from bench.runs.plan import Plan, Planned, make_plan
from bench.runs.predict import predict
from bench.runs.progress import Display
from bench.runs.request import Request
from bench.store.experiments import BASELINES, ExperimentFolder
from bench.store.lock import LOCK, claimed, held
from bench.store.records import CHECKPOINT, Record, write_json_atomic
from bench.tracking import Tracker, Writer

HERE = Path(__file__).resolve().parent
REPORT_SHARE = 0.05  # of the time since the last report that writing one may take, while runs go on


def run_matrix(plan: Plan, foreseen: Prediction, *, quiet: bool, fail_fast: bool = False) -> Matrix:
    """Do what the plan says is to be done, within its budget; with `fail_fast` until a run fails or diverges.

    Raises KeyboardInterrupt after everything under way was recorded, BenchError where another process works
    on the same experiment or does one of its runs, or the folder can no longer be written.
    """
    tracker = Tracker(plan.request.tracking_uri, sync.experiment_name(plan.folder, plan.data.name))
    one_thread(plan.device)
    # A machine asks by SIGTERM before it kills: treat it as Ctrl-C
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with held(plan.folder / LOCK, str(plan.folder), "give another --reports"), tracker.claimed():
        keys = {planned.key for planned in plan.todo}
        with (
            claimed(plan.home.runs, keys),
            Display(foreseen.seconds, foreseen.total, quiet=quiet) as display,
        ):
            plan = plan.again()  # nobody else does these runs now: skip those finished since
            if not keys.issuperset(planned.key for planned in plan.todo):
                raise BenchError(f"runs of {plan.folder} were removed meanwhile; give the command again")
            hours, workers = plan.request.hours, worker_count(plan)
            budget = Budget(3600 * hours, foreseen, workers) if hours else None
            matrix = Matrix(plan, tracker, display, fail_fast=fail_fast, budget=budget)
            matrix.open()
            try:
                if plan.todo or not (plan.folder / BASELINES).exists():
                    shared = shared_context(plan, display)
                if plan.todo:
                    jobs = matrix.jobs(foreseen.seconds)
                    executor_of(plan).run_all(jobs, shared, workers, matrix, budget)
            except StopMatrixError:
                pass
            finally:
                matrix.close()
    return matrix


def run_here(request: Request, *, quiet: bool) -> Path:
    """Do what a request asks for, in a process that goes on; returns the experiment's folder."""
    threads, handler = torch.get_num_threads(), signal.getsignal(signal.SIGTERM)
    try:
        plan = make_plan(request)
        run_matrix(plan, predict(plan), quiet=quiet)
    finally:
        torch.set_num_threads(threads)
        signal.signal(signal.SIGTERM, handler)
    return plan.folder


def shared_context(plan: Plan, display: Display) -> SharedContext:
    """Share the data and the yardstick of the sample metrics with workers; writes baselines.json."""
    data = plan.data.share()
    display.say(
        f"yardstick: the feature networks of {data.name}, trained where none are kept, and the baselines"
    )
    reference = Reference.of_data(data)
    latents = sorted({variant.latent for variant in plan.experiment.variants.values()})
    key = {"data": data.digest, "classifier": reference and reference.digest, "latents": latents}
    known: dict[str, Any] = {}
    with contextlib.suppress(BenchError):  # damaged: it is made again
        known = ExperimentFolder(plan.folder).baselines()
    if known.get("of") != key:
        content = baselines(data, latents) | {"of": key}
        if reference:
            content["samples"] = {name: asdict(s) for name, s in yardstick(data, reference).items()}
            named = {"digest": reference.digest, "networks": len(reference.nets)}
            content["classifier"] = {"accuracy": reference.accuracy(data), **named}
        write_json_atomic(plan.folder / BASELINES, content)
    return SharedContext(data, plan.device, reference)


class Matrix:
    """The parent's side of the runs: MLflow, the display and the report.

    Tracking faults never stop training.
    """

    def __init__(
        self,
        plan: Plan,
        tracker: Tracker,
        display: Display,
        *,
        fail_fast: bool = False,
        budget: Budget | None = None,
    ) -> None:
        self.plan = plan
        self.tracker = tracker
        self.display = display
        self.outcomes: dict[str, str] = {}  # statuses: records of a large matrix would fill the memory
        self.faults: list[str] = []
        self.stopped = ""  # why the rest of the matrix was not done
        self.budget = budget
        self._fail_fast = fail_fast
        self._writer = Writer(tracker, display.say)
        self._under_way: dict[str, Job] = {}
        self._names: dict[str, list[str]] = defaultdict(list)  # of a run in this experiment, by its key
        for planned in plan.runs:
            self._names[planned.key].append(planned.id)
        self._last_report = 0.0
        self._report_cost = 0.0

    def open(self) -> None:
        """Set up the folder, and the store's experiment; finished work that this store lacks is sent."""
        self.plan.write()
        self._home = ExperimentFolder(self.plan.folder)
        for planned in self.plan.runs:
            # In case bench was killed between writing the record and removing this
            if not planned.todo and planned.run.variant in self.plan.request.chosen:
                (self._folder(planned) / CHECKPOINT).unlink(missing_ok=True)
        self._writer.later(Tracker.heal)
        self._writer.later(lambda tracker: sync.views(tracker, self.plan.folder))
        self._writer.later(self._send_what_is_done)

    def jobs(self, seconds: Mapping[str, float]) -> list[Job]:
        """Make jobs of the runs to do, in order."""
        about = {"experiment": self.plan.experiment.name, "git": git_state()}
        first = min(self.plan.experiment.seeds)  # whose pictures the report shows
        command = self.plan.request.command
        return [
            Job(
                p.id,
                p.run,
                self._folder(p),
                about | {"command": command(p.run.variant, p.run.seed)},
                full=p.run.seed == first,
                resume=p.resume,
            )
            for p in in_order(self.plan.todo, seconds)
        ]

    def close(self) -> None:
        """Write the last report, and wait until MLflow has what it lacks, as long as it answers.

        A run whose end Ctrl-C kept from being told has ended too.
        """
        try:
            for job in [*self._under_way.values()]:
                self._end(job, recorded(job) or broken(job, "interrupted", "stopped before it ended"))
            if not self.stopped or self._fail_fast:
                self._report()
        finally:
            self._writer.close(lambda tracker: sync.describe(tracker, self.plan.folder), self.display.sending)
            self.faults += self.tracker.warnings
            if self._writer.fault:
                lacks = f"{self._writer.left} of the runs" if self._writer.left else "the report"
                self.faults.append(
                    f"MLflow lacks {lacks} ({self._writer.fault}); the records have everything: the next "
                    f"bench run sends it, or bench sync {self.plan.folder}"
                )

    def _send_what_is_done(self, tracker: Tracker) -> None:
        waiting = {planned.id for planned in self.plan.todo}
        for record in sync.lacking(tracker, self.plan.folder)[0]:
            if record["id"] not in waiting:
                self._writer.finish(record, self._home.run(record["id"]).path)

    # What the workers tell

    def starting(self, job: Job) -> None:
        """Open a run in MLflow, or the attempt that it goes on with: a worker is about to take it."""
        self._under_way[job.id] = job
        if self.budget:
            self.budget.starting(job)
        self.display.start(job.id, _title(job), job.run.epochs)
        known = {
            **job.about,
            "id": job.id,
            "variant": job.run.variant,
            "seed": job.run.seed,
            "run": job.run.model_dump(mode="json"),
            "environment": {"device": str(self.plan.device)},
            "data": {"name": self.plan.data.name, "digest": self.plan.data.digest},
        }
        self._writer.start(known, job.folder, resume=job.resume > 0)

    def event(self, job: Job, kind: str, data: dict[str, Any]) -> None:
        """Pass on an epoch, a picture, the start of evaluation, or that the run goes on or begins again."""
        if kind == "epoch":
            self.display.epoch(job.id, data)
            self._writer.epoch(job.id, data)
        elif kind == "image":
            self._writer.image(job.id, Path(data["path"]), data["key"], int(data["step"]))
        elif kind == "evaluate":
            self.display.note(job.id, "evaluating")
        elif kind == "resumed":
            self.display.say(f"{_title(job)}: goes on after epoch {data['epoch']}")
        elif kind == "retry":
            self.display.say(f"{_title(job)}: taken up once more, as {data['reason']}")

    def ended(self, job: Job, record: Record) -> None:
        """Take in a run's record. The first that fails ends the matrix, where that was asked for."""
        self._end(job, record)
        if self.stopped:
            return
        if self._fail_fast and record["status"] in ("failed", "diverged"):
            self.stopped = f"{_title(job)} {record['status']}: {record['reason']}"
            raise StopMatrixError
        if time.monotonic() - self._last_report > self._report_cost / REPORT_SHARE:
            self._report(html=False)  # that compresses every picture: once, at the end

    @property
    def left(self) -> int:
        """Count the runs that a budget left to another command."""
        ended = ("finished", "diverged", "failed")
        done = [planned for planned in self.plan.todo if self.outcomes.get(planned.id) in ended]
        return len(self.plan.todo) - len(done) if self.budget else 0

    def _end(self, job: Job, record: Record) -> None:
        if self.budget:
            self.budget.ended(job, record["status"])
        for run_id in self._names[job.folder.name]:
            self.outcomes[run_id] = record["status"]
            named = record if run_id == job.id else self._home.record(run_id)
            if named:
                self._writer.finish(named, job.folder)
        self.display.end(job.id, _title(job), record)
        self._under_way.pop(job.id, None)

    def _report(self, *, html: bool = True) -> None:
        started = time.monotonic()
        try:
            write_report(self.plan.folder, html=html)
        except BenchError as error:
            self.stopped = str(error)
            raise
        self._last_report = time.monotonic()
        self._report_cost = self._last_report - started

    def _folder(self, planned: Planned) -> Path:
        return self.plan.home.runs / planned.key


def git_state(here: Path = HERE) -> dict[str, Any]:
    """Commit of bench's own checkout and whether it has changes; {} where it is not a checkout."""

    def git(*words: str) -> str | None:
        try:
            done = subprocess.run(  # noqa: S603  fixed words, no shell
                ["git", "-C", str(here), *words],  # noqa: S607
                capture_output=True,
                text=True,
                timeout=10,
                check=True,
            )
        except (OSError, subprocess.SubprocessError):
            return None
        return done.stdout.strip()

    commit = git("rev-parse", "HEAD")
    if commit is None or git("ls-files", "--error-unmatch", "matrix.py") is None:
        return {}
    # What bench itself writes may be tracked: a report under way is no change of the code
    changes = git("status", "--porcelain", "--untracked-files=no", "--", ":/", ":(top,exclude)reports")
    return {"commit": commit, "dirty": bool(changes)}


def _title(job: Job) -> str:
    return f"{job.run.variant} · seed {job.run.seed}"
