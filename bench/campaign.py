"""The matrix from plan to report.

Yardstick, workers, tracking, and a report that is valid after every finished run.
"""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench.baselines import baselines
from bench.device import one_thread
from bench.executor import default_workers, run_all
from bench.forecast import forecast
from bench.pictures import epochs_shown
from bench.plan import Plan, Planned, command, write_experiment
from bench.progress import Display
from bench.records import Record, write_json_atomic
from bench.report import write_report
from bench.runner import Job, Workshop
from bench.samples import Reference, classifier, yardstick
from bench.tracking import Tracker, TrackingError, run_tags

REPORT_SHARE = 0.05  # of the time since the last report that writing one may take, while runs go on


def predict(plan: Plan) -> tuple[dict[str, float], float]:
    """Predicted seconds of each run to do, and of all of them on the workers at hand."""
    runs = [planned.run for planned in plan.todo]
    seconds = forecast(runs, len(plan.data.train_images), len(plan.data.test_images), plan.device)
    by_id = {planned.id: s for planned, s in zip(plan.todo, seconds, strict=True)}
    return by_id, max(sum(seconds) / worker_count(plan), max(seconds, default=0.0))


def worker_count(plan: Plan) -> int:
    """How many runs go on at a time."""
    return min(plan.request.workers or default_workers(plan.device), max(1, len(plan.todo)))


def run_matrix(plan: Plan, seconds: dict[str, float], total: float, *, quiet: bool) -> Campaign:
    """Do what the plan says is to be done.

    Raises KeyboardInterrupt after everything under way was recorded.
    """
    tracker = Tracker(plan.request.tracking_uri, experiment_name(plan), reports=plan.folder)
    display = Display(seconds, total, quiet=quiet)
    campaign = Campaign(plan, tracker, display)
    one_thread(plan.device)
    signal.signal(
        signal.SIGTERM, signal.default_int_handler
    )  # what a machine asks before it kills: as Ctrl-C
    with display:
        campaign.open()
        try:
            if plan.todo:
                shop = workshop(plan, display)
                run_all(campaign.jobs(seconds), shop, worker_count(plan), campaign)
        finally:
            campaign.close()
    return campaign


def experiment_name(plan: Plan) -> str:
    """The MLflow experiment: the folder's name and the dataset that was really used."""
    return f"{plan.folder.name} · {plan.data.name}"


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

    def __init__(self, plan: Plan, tracker: Tracker, display: Display) -> None:
        self.plan = plan
        self.tracker = tracker
        self.display = display
        self.outcomes: dict[str, Record] = {}
        self.mlflow_ids: dict[str, str] = {}
        self.faults: list[str] = []
        self._last_report = 0.0
        self._report_cost = 0.0

    def open(self) -> None:
        """Set up the store's experiment and the folder; send finished work that this store lacks."""
        write_experiment(self.plan)
        with self._tracking():
            self.tracker.heal()
            # The last epoch of which every variant has pictures
            shown = set.intersection(
                *(epochs_shown(v.epochs) for v in self.plan.experiment.variants.values())
            )
            self.tracker.save_views(seed=self.plan.experiment.seeds[0], epochs=max(shown))
        for planned in self.plan.runs:
            record = self.plan.records.get(planned.id)
            if record and not planned.todo and record["status"] in ("finished", "diverged"):
                with self._tracking():
                    if not self.tracker.has(planned.id):
                        self.tracker.deliver(record, self._folder(planned.id))

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
            Job(p.id, p.run, self._folder(p.id), about | self._about(p), full=p.run.seed == first)
            for p in sorted(self.plan.todo, key=order)
        ]

    def close(self) -> None:
        """Write the last report and hand it to MLflow."""
        self._report()
        with self._tracking():
            self.tracker.describe(self._description())
            self.tracker.summary(self.plan.folder)
        self.faults += self.tracker.warnings

    # What the executor tells

    def starting(self, job: Job) -> None:
        """A worker is about to take the run: open it in MLflow, so that its record knows where."""
        self.display.start(job.id, _title(job), job.run.epochs)
        with self._tracking():
            described = {**job.about, "run": job.run.model_dump(mode="json"), "environment": self._device()}
            mlflow_id = self.tracker.start(
                job.run.model_dump(mode="json"),
                run_id=job.id,
                variant=job.run.variant,
                seed=job.run.seed,
                tags=run_tags(described),
                data={"name": self.plan.data.name, "digest": self.plan.data.digest},
            )
            self.mlflow_ids[job.id] = mlflow_id
            job.about["mlflow"] = {"experiment_id": self.tracker.experiment_id, "run_id": mlflow_id}

    def event(self, job: Job, kind: str, data: dict[str, Any]) -> None:
        """An epoch ended, a picture was drawn, or evaluation began."""
        mlflow_id = self.mlflow_ids.get(job.id)
        if kind == "epoch":
            self.display.epoch(job.id, data)
        if kind == "evaluate":
            self.display.note(job.id, "evaluating")
        elif mlflow_id:
            with self._tracking():
                if kind == "epoch":
                    self.tracker.epoch(mlflow_id, int(data["epoch"]), data)
                elif kind == "image":
                    self.tracker.image(mlflow_id, Path(data["path"]), data["key"], int(data["step"]))

    def ended(self, job: Job, record: Record) -> None:
        """The run has its record."""
        self.outcomes[job.id] = record
        self.display.end(job.id, _title(job), record)
        if job.id in self.mlflow_ids:
            with self._tracking():
                self.tracker.finish(self.mlflow_ids[job.id], record, job.folder)
        if time.monotonic() - self._last_report > self._report_cost / REPORT_SHARE:
            self._report()

    def _report(self) -> None:
        started = time.monotonic()
        write_report(self.plan.folder)
        self._last_report = time.monotonic()
        self._report_cost = self._last_report - started

    def _about(self, planned: Planned) -> dict[str, Any]:
        run = planned.run
        repeat = command(self.plan.request, only=run.variant, seed=run.seed)
        return {"axes": self.plan.experiment.variants[run.variant].axes, "command": repeat}

    def _device(self) -> dict[str, str]:
        return {"device": str(self.plan.device)}

    def _folder(self, run_id: str) -> Path:
        return self.plan.folder / "records" / run_id

    def _description(self) -> str:
        banner = "".join(f"**{warning}**\n\n" for warning in self.plan.warnings)
        report = (self.plan.folder / "report.md").read_text(encoding="utf-8")
        answer = report.partition("## Answer")[2].partition("\n## ")[0].strip()
        return f"{banner}{self.plan.experiment.question}\n\n{answer}\n\n```\n{self.plan.command}\n```"

    @contextmanager
    def _tracking(self) -> Iterator[None]:
        """Turn MLflow's faults into one line each: records are sent again at the next start."""
        try:
            yield
        except TrackingError as error:
            if str(error) not in self.faults:
                self.faults.append(str(error))
                self.display.say(f"warning: {error}; training goes on, the next bench run sends it again")


def git_state() -> dict[str, Any]:
    """Commit of bench's own checkout and whether it has changes; {} where it is not a checkout."""
    here = Path(__file__).resolve().parent

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
    if commit is None or git("ls-files", "--error-unmatch", "campaign.py") is None:
        return {}
    return {"commit": commit, "dirty": bool(git("status", "--porcelain", "--untracked-files=no"))}


def _title(job: Job) -> str:
    return f"{job.run.variant} · seed {job.run.seed}"
