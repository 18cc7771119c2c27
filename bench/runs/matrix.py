"""The matrix from plan to report.

Yardstick, workers, tracking, and a report that is valid after every finished run.
"""

from __future__ import annotations

import json
import signal
import subprocess
import time
from dataclasses import asdict, replace
from pathlib import Path
from types import ModuleType
from typing import Any

from bench.engine.device import one_thread
from bench.errors import BenchError
from bench.evaluation.baselines import baselines
from bench.evaluation.samples import Reference, classifier, yardstick
from bench.report import write_report
from bench.runs import cluster, sync
from bench.runs import workers as executor
from bench.runs.execute import Job, Workshop
from bench.runs.forecast import forecast
from bench.runs.plan import Plan, Planned, command, make_plan, write_experiment
from bench.runs.progress import Display
from bench.runs.takeover import take_over
from bench.store import records
from bench.store.lock import LOCK, held
from bench.store.records import CHECKPOINT, DONE, Record, write_json_atomic
from bench.tracking import Tracker, Writer

HERE = Path(__file__).resolve().parent
REPORT_SHARE = 0.05  # of the time since the last report that writing one may take, while runs go on


def predict(plan: Plan) -> tuple[dict[str, float], float]:
    """Predicted seconds of each run to do, and of all of them on the workers at hand."""
    runs = [planned.run for planned in plan.todo]
    seconds = forecast(runs, len(plan.data.train_images), len(plan.data.test_images), plan.device)
    by_id = {planned.id: s for planned, s in zip(plan.todo, seconds, strict=True)}
    return by_id, max(sum(seconds) / worker_count(plan), max(seconds, default=0.0))


def worker_count(plan: Plan) -> int:
    """How many runs go on at a time."""
    workers = plan.request.workers or _executor(plan).default_workers(plan.device)
    return min(workers, max(1, len(plan.todo)))


def _executor(plan: Plan) -> ModuleType:
    """What does the runs: processes of this machine, or a Ray cluster, which is joined here."""
    if plan.request.executor == "local":
        return executor
    cluster.connect(plan.request.address, plan.request.tracking_uri)
    return cluster


class _StopMatrixError(Exception):
    """A run failed, and nothing was to be done after that."""


def run_matrix(
    plan: Plan, seconds: dict[str, float], total: float, *, quiet: bool, fail_fast: bool = False
) -> Campaign:
    """Do what the plan says is to be done; with `fail_fast` until a run fails or diverges.

    Raises KeyboardInterrupt after everything under way was recorded, BenchError where another process does
    the same experiment or the folder can no longer be written.
    """
    tracker = Tracker(plan.request.tracking_uri, sync.experiment_name(plan.folder, plan.data.name))
    one_thread(plan.device)
    signal.signal(
        signal.SIGTERM, signal.default_int_handler
    )  # what a machine asks before it kills: as Ctrl-C
    with held(plan.folder / LOCK, str(plan.folder), "give another --reports"), tracker.claimed():
        plan = _taken_over(_renewed(plan))
        with Display({p.id: seconds.get(p.id, 0.0) for p in plan.todo}, total, quiet=quiet) as display:
            campaign = Campaign(plan, tracker, display, fail_fast=fail_fast)
            campaign.open()
            try:
                if plan.todo or plan.taken:  # the report needs the baselines of what is taken over too
                    shop = workshop(plan, display)
                if plan.todo:
                    _executor(plan).run_all(campaign.jobs(seconds), shop, worker_count(plan), campaign)
            except _StopMatrixError:
                pass
            finally:
                campaign.close()
    return campaign


def _renewed(plan: Plan) -> Plan:
    """The plan as things are now that nobody else writes the folder: what was done meanwhile is not to do."""
    return plan if records.find(plan.folder) == plan.records else make_plan(plan.request, download=False)


def _taken_over(plan: Plan) -> Plan:
    """Copy here what is finished in other reports; what is no longer whole there is to do after all."""

    def taken(planned: Planned) -> Planned:
        axes = plan.experiment.variants[planned.run.variant].axes
        target = plan.folder / "records" / planned.id
        if planned.source is None or take_over(planned.source, target, planned.run, axes):
            return planned
        return replace(planned, todo=True, why="no longer whole where it was finished", source=None)

    runs = [taken(planned) for planned in plan.runs]
    return replace(plan, runs=tuple(runs), records=records.find(plan.folder)) if plan.taken else plan


def workshop(plan: Plan, display: Display) -> Workshop:
    """The data in shared memory and the yardstick of the sample metrics; writes baselines.json."""
    data = plan.data.share()
    display.say(f"yardstick: the classifier of {data.name} (trained once, then cached) and the baselines")
    net, accuracy, digest = classifier(data)
    reference = Reference.of(net.features(data.test_images.flatten(1).float() / 255))
    path = plan.folder / "baselines.json"
    latents = sorted({variant.latent for variant in plan.experiment.variants.values()})
    key = {"data": data.digest, "classifier": digest, "latents": latents}
    if not path.exists() or json.loads(path.read_text(encoding="utf-8")).get("of") != key:
        scores = {name: asdict(s) for name, s in yardstick(data, net, reference).items()}
        content = baselines(data, latents) | {
            "of": key,
            "samples": scores,
            "classifier": {"accuracy": accuracy, "digest": digest},
        }
        write_json_atomic(path, content)
    return Workshop(data, plan.device, net, reference)


class Campaign:
    """The parent's side of the runs: MLflow, the display and the report.

    Tracking faults never stop training.
    """

    def __init__(self, plan: Plan, tracker: Tracker, display: Display, *, fail_fast: bool = False) -> None:
        self.plan = plan
        self.tracker = tracker
        self.display = display
        self.outcomes: dict[str, str] = {}  # statuses: records of a large matrix would fill the memory
        self.faults: list[str] = []
        self.stopped = ""  # why the rest of the matrix was not done
        self._fail_fast = fail_fast
        self._writer = Writer(tracker, display.say)
        self._last_report = 0.0
        self._report_cost = 0.0

    def open(self) -> None:
        """Set up the folder, and the store's experiment; finished work that this store lacks is sent."""
        write_experiment(self.plan)
        for run_id, record in self.plan.records.items():
            if record["status"] in DONE:  # in case bench was killed between writing this and removing that
                (self._folder(run_id) / CHECKPOINT).unlink(missing_ok=True)
        self._writer.later(Tracker.heal)
        self._writer.later(lambda tracker: sync.views(tracker, self.plan.folder))
        self._writer.later(self._send_what_is_done)

    def jobs(self, seconds: dict[str, float]) -> list[Job]:
        """The runs to do: seed by seed, so that early reports compare every variant.

        In a seed the longest first.
        """
        about = {
            "experiment": self.plan.experiment.name,
            "git": git_state(),
        }

        def order(planned: Planned) -> tuple[int, float]:
            return planned.run.seed, -seconds.get(planned.id, 0.0)

        first = min(self.plan.experiment.seeds)  # whose pictures the report shows
        return [
            Job(
                p.id,
                p.run,
                self._folder(p.id),
                about | self._about(p),
                full=p.run.seed == first,
                resume=p.resume,
            )
            for p in sorted(self.plan.todo, key=order)
        ]

    def close(self) -> None:
        """Write the last report, and wait until MLflow has what it lacks, as long as it answers."""
        try:
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
                self._writer.finish(record, self._folder(record["id"]))

    # What the executor tells

    def starting(self, job: Job) -> None:
        """A worker is about to take the run: open it in MLflow, or the attempt that it goes on with."""
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
        """An epoch ended, a picture was drawn, evaluation began, or the run goes on or begins again."""
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
        """The run has its record. The first that fails ends the matrix, where that was asked for."""
        self.outcomes[job.id] = record["status"]
        self.display.end(job.id, _title(job), record)
        self._writer.finish(record, job.folder)
        if self.stopped:
            return
        if self._fail_fast and record["status"] in ("failed", "diverged"):
            self.stopped = f"{_title(job)} {record['status']}: {record['reason']}"
            raise _StopMatrixError
        if time.monotonic() - self._last_report > self._report_cost / REPORT_SHARE:
            self._report()

    def _report(self) -> None:
        started = time.monotonic()
        try:
            write_report(self.plan.folder)
        except BenchError as error:
            self.stopped = str(error)
            raise
        self._last_report = time.monotonic()
        self._report_cost = self._last_report - started

    def _about(self, planned: Planned) -> dict[str, Any]:
        run = planned.run
        repeat = command(self.plan.request, only=run.variant, seed=run.seed)
        return {"axes": self.plan.experiment.variants[run.variant].axes, "command": repeat}

    def _folder(self, run_id: str) -> Path:
        return self.plan.folder / "records" / run_id


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
