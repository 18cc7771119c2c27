"""What a request comes to: the data, the device, the folder, and every run with its state and why."""

from __future__ import annotations

import contextlib
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from bench.data.dataset import Dataset, DataUnavailable, split
from bench.data.datasets import load as load_data
from bench.doctor import require_matching_torch
from bench.engine.checkpoint import epoch_kept
from bench.engine.device import pick, stream
from bench.engine.images import data_of
from bench.errors import BenchError, did_you_mean
from bench.evaluation.metrics import METRICS
from bench.runs.memory import check_memory
from bench.runs.request import Request
from bench.spec.experiment import Experiment, Run
from bench.store.changes import changes
from bench.store.experiments import RUNS, SPEC, ExperimentFolder
from bench.store.records import DONE, RunFolder, now, write_json_atomic

# A stand-in's numbers say nothing of the real data: the whole matrix, in under five minutes on two cores
STAND_IN_SEEDS, STAND_IN_EPOCHS = 2, 20


@dataclass(frozen=True)
class Planned:
    """One run of the matrix: its names here and in the store, whether it is to be done now, and why."""

    id: str
    key: str
    run: Run
    todo: bool
    why: str
    resume: int = 0  # the epoch of the checkpoint from which it goes on


@dataclass(frozen=True)
class Plan:
    """Everything that is known before anything trains."""

    request: Request
    experiment: Experiment  # whole, overrides applied, `--only` not: the report covers it all
    data: Dataset
    device: torch.device
    home: ExperimentFolder
    runs: tuple[Planned, ...]
    warnings: tuple[str, ...] = ()

    @property
    def folder(self) -> Path:
        """The experiment's folder."""
        return self.home.path

    @property
    def fallback(self) -> bool:
        """Whether another dataset stands in for the one the YAML declares."""
        return self.request.dataset is None and self.data.name != self.request.declared.dataset

    @property
    def todo(self) -> tuple[Planned, ...]:
        """The runs to do now; what has two names in the matrix is done under the first."""
        first: dict[str, Planned] = {}
        for planned in self.runs:
            if planned.todo:
                first.setdefault(planned.key, planned)
        return tuple(first.values())

    def again(self) -> Plan:
        """Plan again, as the store is now."""
        home = ExperimentFolder(self.folder)
        return replace(self, home=home, runs=_runs(self.request, self.experiment, self.data, home))

    def write(self) -> None:
        """Write experiment.json: the resolved experiment and where its runs lie, all that a report needs."""
        content: dict[str, Any] = self.experiment.model_dump(mode="json")
        variants, planned = self.home.judged()
        content |= {
            "declared_dataset": self.request.declared.dataset,
            "fallback": self.fallback,
            "command": self.request.command(),
            "variants": {**content["variants"], **variants},
            "planned": {
                **{p.id: {"variant": p.run.variant, "seed": p.run.seed, "run": p.key} for p in self.runs},
                **planned,
            },
        }
        if self.request.hours:
            content["budget"] = {"hours": self.request.hours}
        if claims := content.pop("claims"):
            content["claims"] = [self._registered(claim) for claim in claims]
        write_json_atomic(self.folder / SPEC, content)

    def _registered(self, claim: dict[str, Any]) -> dict[str, Any]:
        """Note when a claim was made, in which experiment, and how many runs that it is about were done."""
        before = ExperimentFolder(self.folder)
        for known in (before.spec.get("claims") or ()) if before.exists else ():
            if isinstance(known, dict) and {k: v for k, v in known.items() if k != "registered"} == claim:
                return known
        about = {claim["better"] or claim["equal"], claim["than"] or claim["to"]}
        runs = [planned for planned in self.runs if planned.run.variant in about]
        records = (RunFolder(self.home.runs / planned.key).read() for planned in runs)
        finished = sum(record is not None and record["status"] in DONE for record in records)
        return claim | {
            "registered": {"at": now(), "finished": finished, "experiment": self.experiment.digest()}
        }


def make_plan(request: Request, *, download: bool = True) -> Plan:
    """Resolve a request; creates nothing.

    Raises BenchError for anything that would keep the matrix from running: the device, a mismatched torch and
    torchvision, absent or damaged data, a model that does not fit into memory, a reports folder that cannot
    be written, damaged records.
    """
    experiment = request.experiment
    for claim in experiment.claims:
        known = [metric.name for metric in METRICS if metric.direction]
        known += [each.name for each in next(iter(experiment.variants.values())).metrics if each.direction]
        if claim.on not in known:
            what = f"{experiment.path}: claim {claim.name}: {claim.on!r} is no metric that has a better"
            raise BenchError(f"{what}{did_you_mean(claim.on, known)}")
    require_matching_torch()
    device = pick(request.device)
    _check_writable(request.reports)
    warnings: tuple[str, ...] = ()
    try:
        data = data_of(experiment.dataset, experiment.own_data, request.data_dir, download=download)
    except DataUnavailable as error:  # a damaged file is an error, never a reason to fall back
        if experiment.offline_fallback is None:
            raise
        data = load_data(experiment.offline_fallback, request.data_dir)
        warnings = (
            f"{experiment.dataset} can't be had, so {data.name} stands in for it with at most "
            f"{STAND_IN_SEEDS} seeds and {STAND_IN_EPOCHS} epochs unless --seeds and --epochs say otherwise: "
            f"these numbers say nothing about {experiment.dataset}. {error}",
        )
        experiment = _shortened(experiment, request).with_overrides(dataset=data.name)
    _check_batches(experiment, data)
    check_memory(experiment, data.shape, device)
    home = ExperimentFolder(request.reports / _folder_name(request, data.name))
    if taken := experiment.variants.keys() & home.judged()[0].keys():
        what = f"{experiment.path}: variant {min(taken)}: a model judged in {home.path} has that name"
        raise BenchError(f"{what}; rename the variant, or give another --reports")
    runs = _runs(request, experiment, data, home)
    return Plan(request, experiment, data, device, home, runs, warnings)


def _runs(
    request: Request, experiment: Experiment, data: Dataset, home: ExperimentFolder
) -> tuple[Planned, ...]:
    """Every run with its state in the store."""
    found = []
    for run in experiment.runs():
        key = run.key(data.digest)
        folder = RunFolder(home.runs / key)
        todo, why = False, "left out by --only"
        if run.variant in request.chosen:
            todo, why = _state(request, run, folder, home)
        resume = epoch_kept(folder.path) if todo and not request.fresh else 0
        why += f"; goes on after epoch {resume}" if resume else ""
        found.append(Planned(run.name_of(key), key, run, todo, why, resume))
    return tuple(found)


def _state(request: Request, run: Run, folder: RunFolder, home: ExperimentFolder) -> tuple[bool, str]:
    """Whether a run is to be done, and why."""
    if request.fresh:
        return True, "asked for by --fresh"
    record = folder.read()
    if record and record["status"] in DONE:
        of = record.get("experiment")
        made = f", made for {of}" if of and of != request.declared.name else ""
        made = f", joined from {origin}" if (origin := record.get("joined")) else made
        how = "finished" if record["status"] == "finished" else f"diverged: {record['reason']}"
        return False, how + made
    if record:
        return True, f"{record['status']} before: {record.get('reason')}"
    differ: set[str] = set()
    twins = []
    for plan in (home.planned if home.exists else {}).values():
        if (plan["variant"], plan["seed"]) == (run.variant, run.seed):
            twins += [twin] if (twin := RunFolder(home.runs / plan["run"]).read()) else []
    for twin in twins:
        differ.update(changes(twin.get("run") or {}, run.model_dump(mode="json")))
    if differ:
        return True, f"changed: {', '.join(sorted(differ)[:3])}"
    return True, "another version of the data or of bench ran before" if twins else "never run"


def _shortened(experiment: Experiment, request: Request) -> Experiment:
    """The matrix as a stand-in runs it: fewer seeds and epochs, unless the request names its own."""
    seeds = request.seeds or experiment.seeds[:STAND_IN_SEEDS]
    epochs = request.epochs or STAND_IN_EPOCHS
    variants = {
        name: variant.model_copy(update={"epochs": min(variant.epochs, epochs)})
        for name, variant in experiment.variants.items()
    }
    return experiment.with_overrides(seeds=seeds).model_copy(update={"variants": variants})


def _folder_name(request: Request, dataset: str) -> str:
    """The experiment's name, with a suffix where options make it another matrix.

    A stand-in has a suffix where the folder holds real results.
    """
    declared = request.declared
    name = declared.name
    if request.dataset and request.dataset != declared.dataset:
        name += f"-{request.dataset}"
    elif dataset != declared.dataset:
        home = ExperimentFolder(request.reports / name)
        records = home.records().values() if home.exists else ()
        real = any((record.get("data") or {}).get("name") == declared.dataset for record in records)
        name += f"-{dataset}" if real else ""
    name += f"-epochs-{request.epochs}" if request.epochs else ""
    if any(variant.precision != request.precision for variant in declared.variants.values()):
        name += f"-{request.precision}" if request.precision else ""
    if name == RUNS:
        raise BenchError(f"{declared.path}: {RUNS} is the folder of all runs; give the file another name")
    return name


def _check_batches(experiment: Experiment, data: Dataset) -> None:
    """Refuse a variant whose every epoch would be empty."""
    held_out = dict.fromkeys(variant.validation for variant in experiment.variants.values())
    images = {count: len(split(data, count, stream(0, "split"))[0]) for count in held_out}
    for name, variant in experiment.variants.items():
        left = images[variant.validation]
        if variant.drop_last and left < variant.batch_size:
            raise BenchError(
                f"{name}: drop_last leaves no batch, as batch_size {variant.batch_size} is more than the "
                f"{left} training images of {data.name}; give a smaller batch_size, or drop_last: false"
            )


def _check_writable(reports: Path) -> None:
    """Refuse a reports folder that cannot be written; what is made to find out is removed again."""
    missing = [path for path in (reports, *reports.absolute().parents) if not path.exists()]
    try:
        for path in reversed(missing):
            path.mkdir()
        with tempfile.TemporaryFile(dir=reports):
            pass
    except OSError as error:
        raise BenchError(f"--reports {reports}: {error.strerror}; give a folder you may write to") from None
    finally:
        for path in missing:
            with contextlib.suppress(OSError):
                path.rmdir()
