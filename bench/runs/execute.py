"""One run: build, train, evaluate, record.

Whatever happens to it becomes a record, never the end of the matrix.
"""

from __future__ import annotations

import gc
import shutil
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from bench.data.dataset import Dataset
from bench.engine.checkpoint import Checkpoint, Pace, State
from bench.engine.device import describe, reset_peak_memory
from bench.engine.images import Images, Labels, divide, untrained
from bench.engine.loop import Row, Training, train
from bench.errors import BenchError
from bench.evaluation.measure import Measured
from bench.evaluation.metrics import YARDSTICK
from bench.evaluation.samples import Reference
from bench.parts.files import keep
from bench.parts.lookup import objective_of
from bench.parts.protocols import TwoTermObjective
from bench.parts.vae import VAE, likelihood_class
from bench.pictures.album import Album, Emit
from bench.spec.experiment import Run
from bench.store.files import no_link
from bench.store.records import DONE, Record, RunFolder, now
from bench.store.whole import replacing

GroupEmit = Callable[[str, str, dict[str, Any]], None]  # the same, told of the run with this id


@dataclass(frozen=True)
class Job:
    """One run to do: under which id, in which folder, and what its record says of the experiment."""

    id: str
    run: Run
    folder: Path
    about: dict[str, Any]  # experiment, git, command: copied into the record
    full: bool = False  # draw what takes seconds too: t-SNE
    resume: int = 0  # go on from the checkpoint of this epoch, if it can be trusted; 0 is from scratch


@dataclass(frozen=True)
class SharedContext:
    """What every run of a process shares: the data and the yardstick of the sample metrics."""

    data: Dataset
    device: torch.device
    reference: Reference | None  # None of data without labels


def environment(shared: SharedContext) -> dict[str, Any]:
    """Describe where a run is measured, and by which networks its samples are."""
    networks = {"feature_networks": shared.reference.digest} if shared.reference else {}
    return describe(shared.device) | networks


def divided_data(data: Dataset, images: Images, labels: Labels | None) -> dict[str, Any]:
    """Describe the data and how they are divided, as a record does."""
    return {
        "name": data.name,
        "digest": data.digest,
        "shape": [*data.shape],
        "train": len(images.train),
        "validation": 0 if images.validation is None else len(images.validation),
        "test": len(images.test),
        **({} if labels else {"unlabelled": True}),
        **({"split": data.split} if data.split else {}),
    }


def execute_all(jobs: Sequence[Job], shared: SharedContext, emit: GroupEmit) -> Iterator[Record]:
    """Do the runs of a group as the device wants it: one by one on a CPU, together on an accelerator."""
    if shared.device.type != "cpu":
        return execute_group(jobs, shared, emit)
    return (execute(job, shared, partial(emit, job.id)) for job in jobs)


def execute(job: Job, shared: SharedContext, emit: Emit) -> Record:
    """Do one run and write its folder; returns the record, whose status says how it went."""
    return _alone(_Attempt(job, shared, emit, Pace()))


def execute_group(jobs: Sequence[Job], shared: SharedContext, emit: GroupEmit) -> Iterator[Record]:
    """Do runs that differ in their seed only: train them as one model, then measure and record each.

    Gives each record as soon as it is written. Where they can't be trained together (memory, a part without
    a stacked form) they are done one by one, epochs told again, and their records say why.
    """
    pace = Pace()
    by_epoch: dict[int, list[_Attempt]] = {}  # those that go on, from the same epoch only
    for job in jobs:
        attempt = _Attempt(job, shared, partial(emit, job.id), pace, stacked=True)
        by_epoch.setdefault(attempt.start.epoch if attempt.start else 0, []).append(attempt)
    for epoch in sorted(by_epoch):
        yield from _level(by_epoch.pop(epoch), shared, emit)


def _level(attempts: list[_Attempt], shared: SharedContext, emit: GroupEmit) -> Iterator[Record]:
    jobs = [attempt.job for attempt in attempts]
    ends: list[Training] = []
    note = ""
    try:
        reset_peak_memory(shared.device)
        divided: tuple[Images, Labels | None] | None = None
        for attempt in attempts:
            attempt.begin(divided)
            if attempt.images.validation is None:  # then every seed has the same images
                divided = attempt.images, attempt.labels
        ends = _trained(attempts, stacked=True)
    except Exception as error:  # most likely memory: a run alone is never worse off
        first_line = str(error).partition("\n")[0]
        note = f"not stacked: {type(error).__name__}: {first_line}"
    if ends:
        for r, attempt in enumerate(attempts):
            yield attempt.ended(partial(ends.__getitem__, r))
        return
    attempts.clear()  # and with them what lies on the device
    gc.collect()
    if shared.device.type == "cuda":
        torch.cuda.empty_cache()
    for job in jobs:
        yield _alone(_Attempt(job, shared, partial(emit, job.id), Pace(), note=note))


class _Attempt:
    """One run under way: its record so far, and once begun its data, model and pictures."""

    def __init__(
        self,
        job: Job,
        shared: SharedContext,
        emit: Emit,
        pace: Pace,
        *,
        stacked: bool = False,
        note: str = "",
    ) -> None:
        self.checkpoint = Checkpoint(
            job.folder,
            {
                "run": job.folder.name,  # its key: another experiment may have begun it under another id
                "torch": torch.__version__,
                "device": str(shared.device),
                "stacked": stacked,
            },
        )
        no_link(job.folder, RunFolder(job.folder).pictures, RunFolder(job.folder).parts)
        self.start = self.checkpoint.load() if job.resume else None
        if self.start is None:
            shutil.rmtree(job.folder, ignore_errors=True)  # an earlier attempt: the record is written last
        self.resumed: list[int] = []  # the epochs after which it was taken up again
        self.pace = pace
        self.job = job
        self.run = job.run
        self.shared = shared
        self.emit = emit
        self.note = note  # why it is not trained with others
        self.folder = RunFolder(job.folder)
        self.record: Record = {
            "id": job.id,
            "variant": job.run.variant,
            "seed": job.run.seed,
            "yardstick": YARDSTICK,
            "run": job.run.model_dump(mode="json"),
            **job.about,
            "environment": self._environment(),
            "started": now(),
        }

    def begin(self, divided: tuple[Images, Labels | None] | None = None) -> None:
        """Make the model, and the data where they are not given."""
        self.images, self.labels = divided or divide(self.run, self.shared.data, self.shared.device)
        self.model = untrained(self.run, self.shared.data.shape).to(self.shared.device)
        keep(self.run.parts, self.folder.parts)
        self.record |= self._known()
        test = self.images.test.unflatten(1, self.shared.data.shape)
        labels = self.labels.test if self.labels else None
        self.album = Album(self.run, test, labels, self.folder, self.emit, full=self.job.full)
        if self.start:
            try:
                self._take_up(self.start)
            except OSError:  # a picture is lost: from scratch, which draws it again
                self.start = None

    def _take_up(self, state: State) -> None:
        """Tell again what was told before the checkpoint, which tracking may have missed."""
        self.album.take_up(state.epoch)
        self.emit("resumed", {"epoch": state.epoch})
        for row in state.curves:
            self.emit("epoch", dict(row))
        self.record["resumed"] = self.resumed = [*state.resumed, state.epoch]

    def keep(self, state: State) -> None:
        """Write a checkpoint, if it is time for one."""
        if self.pace.keeps(state.epoch):
            with self.pace.writing():
                self.checkpoint.keep(replace(state, resumed=self.resumed))

    def epoch(self, row: Row, model: VAE) -> None:
        """Tell of an epoch, and draw what is shown of it."""
        self.emit("epoch", dict(row))
        self.album.epoch(model, int(row["epoch"] or 0))

    def ended(self, train: Callable[[], Training]) -> Record:
        """Measure what training came to and write the folder; returns the record."""
        try:
            training = train()
            _save_weights(training.weights, self.folder)
            self.record |= self._diverged(training) if training.diverged else self._measured(training)
            if self.run.patience:
                self.record["chosen"] = self._chosen(training)
        except Exception as error:  # isolation: the matrix goes on without this run, and the record tells why
            reason = f"{type(error).__name__}: {error}"
            self.record |= {"status": "failed", "reason": reason, "traceback": traceback.format_exc()}
            self.record["environmental"] = environmental(error)
        self.record |= {"finished": now(), "artifacts": self.folder.artifacts()}
        try:
            self.folder.write_record(self.record)
        except BenchError as error:  # the disk is full, say: the parent is told, and the checkpoint stays
            return self.record | {"status": "failed", "reason": str(error), "environmental": True}
        if self.record["status"] in DONE:
            self.checkpoint.remove()
        return self.record

    def _chosen(self, training: Training) -> dict[str, Any]:
        """Say which epoch's model is measured, and why training ended."""
        ended = "all epochs are trained"
        if training.diverged:
            ended = "it diverged"
        elif training.over(self.run):
            ended = f"no lower validation loss in {self.run.patience} epochs"
        return {"epoch": training.chosen, "ended": ended}

    def _diverged(self, training: Training) -> dict[str, Any]:
        assert training.diverged is not None  # noqa: S101  whoever asks knows; mypy does not
        epoch, term = training.diverged
        return {
            "status": "diverged",
            "reason": f"{term} became non-finite in epoch {epoch}",
            "diverged": {"epoch": epoch, "term": term},
            "curves": training.curves,
            "environment": self._environment(training),
        }

    def _measured(self, training: Training) -> dict[str, Any]:
        self.emit("evaluate", {})
        measured = Measured(self.run, self.model, training, self.images, self.labels, self.shared.reference)
        metrics = measured.metrics()
        self.album.close(self.model, measured.q, training.chosen)
        return {
            "status": "finished",
            "reason": None,
            "metrics": metrics,
            **measured.undefined(metrics),
            "monte_carlo_error": measured.monte_carlo_error(),
            "kl_per_unit": measured.kl_per_unit(),
            "calibration": vars(measured.calibration),
            "curves": training.curves,
            "evaluation_seconds": measured.seconds | {"pictures": self.album.seconds},
            "environment": self._environment(training),
        }

    def _known(self) -> dict[str, Any]:
        """Describe what holds however training ends."""
        images, objective = self.images, objective_of(self.run)
        sizes = (self.run.batch_size, images.train.shape[1], self.run.latent)
        return {
            "beta_eff": objective.beta_eff(*sizes) if isinstance(objective, TwoTermObjective) else None,
            "likelihood_class": likelihood_class(self.model),
            "data": divided_data(self.shared.data, images, self.labels),
        }

    def _environment(self, training: Training | None = None) -> dict[str, Any]:
        """Describe where it runs, and once trained how: engine, replicas, why not a faster engine."""
        where = environment(self.shared) | {"precision": self.run.precision}
        how = {"engine": training.engine, "replicas": training.replicas} if training else {}
        note = self.note or (training and training.note)
        return where | how | ({"engine_note": note} if note else {})


def _alone(attempt: _Attempt) -> Record:
    def train_alone() -> Training:
        reset_peak_memory(attempt.shared.device)
        attempt.begin()
        return _trained([attempt], stacked=False)[0]

    return attempt.ended(train_alone)


def _trained(attempts: list[_Attempt], *, stacked: bool) -> list[Training]:
    """Train runs that have begun; those that are stacked differ in their seed only."""
    return train(
        [attempt.run for attempt in attempts],
        [attempt.model for attempt in attempts],
        [attempt.images for attempt in attempts],
        lambda replica, row, model: attempts[replica].epoch(row, model),
        [attempt.start for attempt in attempts if attempt.start],
        lambda replica, state: attempts[replica].keep(state),
        stacked=stacked,
    )


def _save_weights(weights: dict[str, Tensor], folder: RunFolder) -> None:
    """The state_dict as safetensors; nothing where no epoch was finite."""
    if weights:
        with replacing(folder.weights) as part:
            save_file({name: value.contiguous().cpu() for name, value in weights.items()}, part)


def environmental(error: Exception) -> bool:
    """Tell whether an error is not the run's own doing, so that it may go through another time."""
    if isinstance(error, (OSError, MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)  # torch, on a CPU
