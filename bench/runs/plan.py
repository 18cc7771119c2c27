"""What a command line asks for, made concrete.

The experiment, its data, its folder, and every run with its state.
"""

from __future__ import annotations

import contextlib
import json
import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from bench.data.datasets import Dataset, DataUnavailable, split
from bench.data.datasets import load as load_data
from bench.doctor import require_matching_torch
from bench.engine.checkpoint import epoch_kept
from bench.engine.device import pick, stream
from bench.errors import BenchError, redacted
from bench.runs.takeover import finished_in, neighbours, offers
from bench.spec.experiment import Experiment, Run
from bench.spec.resolve import load
from bench.store import records
from bench.store.records import DONE, Record, write_json_atomic

# A stand-in's numbers say nothing of the real data: the whole matrix, in under five minutes on two cores
STAND_IN_SEEDS, STAND_IN_EPOCHS = 2, 20


@dataclass(frozen=True)
class Request:
    """The options of `bench run`, as parsed."""

    spec: Path
    device: str = "auto"
    seeds: tuple[int, ...] | None = None
    only: tuple[str, ...] = ()
    epochs: int | None = None
    dataset: str | None = None
    data_dir: Path | None = None
    tracking_uri: str | None = None
    reports: Path = Path("reports")
    fresh: bool = False
    workers: int | None = None
    importance_samples: int | None = None
    executor: str = "local"  # or "ray"
    address: str | None = None  # of the Ray cluster


@dataclass(frozen=True)
class Planned:
    """One run of the matrix, whether it is to be done now, and why."""

    id: str
    run: Run
    todo: bool
    why: str
    resume: int = 0  # the epoch of the checkpoint from which it goes on
    source: Path | None = None  # its folder in another report, where it is finished: to be taken over


@dataclass(frozen=True)
class Plan:
    """Everything that is known before anything trains."""

    request: Request
    experiment: Experiment  # whole, overrides applied, `--only` not: the report covers it all
    declared: str  # the dataset that the YAML names
    data: Dataset
    device: torch.device
    folder: Path
    runs: tuple[Planned, ...]
    warnings: tuple[str, ...] = ()
    records: dict[str, Record] = field(default_factory=dict)

    @property
    def fallback(self) -> bool:
        """Whether another dataset stands in for the one the YAML declares."""
        return self.request.dataset is None and self.data.name != self.declared

    @property
    def todo(self) -> tuple[Planned, ...]:
        """The runs to do now."""
        return tuple(planned for planned in self.runs if planned.todo)

    @property
    def taken(self) -> tuple[Planned, ...]:
        """The runs to take over from other reports."""
        return tuple(planned for planned in self.runs if planned.source)

    @property
    def command(self) -> str:
        """The command that repeats the matrix: the whole of it, as the report covers."""
        return command(replace(self.request, only=()))


def make_plan(request: Request, *, download: bool = True) -> Plan:
    """Read, check and resolve a request; creates nothing.

    Raises BenchError for anything that would keep the matrix from running: the spec, the device, a mismatched
    torch and torchvision, absent or damaged data, a reports folder that cannot be written, damaged records.
    """
    declared = load(request.spec)
    experiment = declared.with_overrides(seeds=request.seeds, epochs=request.epochs, dataset=request.dataset)
    chosen = experiment.select(request.only) if request.only else experiment
    require_matching_torch()
    device = pick(request.device)
    _check_writable(request.reports)
    data, warnings = _data(experiment, request, download=download)
    if data.name != experiment.dataset:
        experiment = _shortened(experiment, request).with_overrides(dataset=data.name)
    folder = _folder(request, declared, data.name)
    found = records.find(folder)
    offered = {} if request.fresh else offers(neighbours(folder))
    runs = []
    for run in experiment.runs():
        _check_batches(run, data)
        run_id = run.identity(data.digest)
        if run.variant not in chosen.variants:
            runs.append(Planned(run_id, run, todo=False, why="left out by --only"))
            continue
        planned = _planned(run, run_id, folder, found, fresh=request.fresh)
        source = finished_in(offered, run, run_id) if planned.todo else None
        runs.append(_taken(planned, source) if source else planned)
    return Plan(request, experiment, declared.dataset, data, device, folder, tuple(runs), warnings, found)


def write_experiment(plan: Plan) -> None:
    """Write experiment.json.

    The resolved experiment and the ids of its runs, all that a report needs besides records.
    """
    content: dict[str, Any] = json.loads(plan.experiment.to_json())
    content |= {
        "declared_dataset": plan.declared,
        "fallback": plan.fallback,
        "command": plan.command,
        "planned": {p.id: {"variant": p.run.variant, "seed": p.run.seed} for p in plan.runs},
    }
    write_json_atomic(plan.folder / "experiment.json", content)


def command(request: Request, *, only: str | None = None, seed: int | None = None) -> str:
    """The command line of a request, or of one run of it.

    Where data, store and reports lie is left to the reader.
    """
    words = ["bench run", _shown(request.spec)]
    seeds = request.seeds if seed is None else (seed,)
    words += [f"--seeds {','.join(map(str, seeds))}{',' if len(seeds) == 1 else ''}"] if seeds else []
    words += [f"--only '{glob}'" for glob in ([only] if only else request.only)]
    words += [f"--epochs {request.epochs}"] if request.epochs else []
    words += [f"--dataset {request.dataset}"] if request.dataset else []
    words += [f"--device {request.device}"] if request.device != "auto" else []
    return redacted(" ".join(words))


def _shown(spec: Path) -> str:
    """The spec's path as another person can use it: from here, or from the root of bench's own checkout."""
    spec = spec.resolve()
    for root in (Path.cwd(), Path(__file__).parents[2]):
        if spec.is_relative_to(root):
            return spec.relative_to(root).as_posix()
    return spec.name


def _data(experiment: Experiment, request: Request, *, download: bool) -> tuple[Dataset, tuple[str, ...]]:
    """The data, or the declared stand-in for it, loudly.

    A damaged file is an error, never a reason to fall back.
    """
    try:
        return load_data(experiment.dataset, request.data_dir, download=download), ()
    except DataUnavailable as error:
        if experiment.offline_fallback is None:
            raise
        stand_in = load_data(experiment.offline_fallback, request.data_dir)
        warning = (
            f"{experiment.dataset} can't be had, so {stand_in.name} stands in for it with at most "
            f"{STAND_IN_SEEDS} seeds and {STAND_IN_EPOCHS} epochs unless --seeds and --epochs say otherwise: "
            f"these numbers say nothing about {experiment.dataset}. {error}"
        )
        return stand_in, (warning,)


def _shortened(experiment: Experiment, request: Request) -> Experiment:
    """The matrix as a stand-in runs it: fewer seeds and epochs, unless the request names its own."""
    seeds = request.seeds or experiment.seeds[:STAND_IN_SEEDS]
    epochs = request.epochs or STAND_IN_EPOCHS
    variants = {
        name: variant.model_copy(update={"epochs": min(variant.epochs, epochs)})
        for name, variant in experiment.variants.items()
    }
    return experiment.with_overrides(seeds=seeds).model_copy(update={"variants": variants})


def _folder(request: Request, declared: Experiment, dataset: str) -> Path:
    """reports/<experiment>.

    With a suffix where overrides, or a stand-in beside real results, make it another matrix.
    """
    name = declared.name
    if request.dataset and request.dataset != declared.dataset:
        name += f"-{request.dataset}"
    elif dataset != declared.dataset:
        earlier = records.find(request.reports / name).values()
        real = any((record.get("data") or {}).get("name") == declared.dataset for record in earlier)
        name += f"-{dataset}" if real else ""
    if request.epochs:
        name += f"-epochs-{request.epochs}"
    return request.reports / name


def _planned(run: Run, run_id: str, folder: Path, found: dict[str, Record], *, fresh: bool) -> Planned:
    """A run as the folder alone has it: done, to be gone on with, or to be done."""
    todo, why = _state(run, run_id, found, fresh=fresh)
    resume = 0 if fresh or not todo else epoch_kept(folder / "records" / run_id)
    why += f"; goes on after epoch {resume}" if resume else ""
    return Planned(run_id, run, todo, why, resume)


def _taken(planned: Planned, source: Path) -> Planned:
    """The same run, finished in another report; its checkpoint here serves should it be gone there."""
    name = "" if source.name == planned.id else f" as {source.name}"
    why = f"finished in {source.parents[1].name}{name}: taken over"
    return replace(planned, todo=False, why=why, source=source)


def _state(run: Run, run_id: str, found: dict[str, Record], *, fresh: bool) -> tuple[bool, str]:
    """Whether a run is to be done, and why."""
    record = found.get(run_id)
    if fresh:
        return True, "asked for by --fresh"
    if record and record["status"] in DONE:
        return False, record["status"] if record["status"] == "finished" else f"diverged: {record['reason']}"
    if record:
        return True, f"{record['status']} before: {record.get('reason')}"
    twins = [r for r in found.values() if r["variant"] == run.variant and r["seed"] == run.seed]
    changes = {change for twin in twins for change in _changes(twin["run"], run.model_dump(mode="json"))}
    if changes:
        return True, f"changed: {', '.join(sorted(changes)[:3])}"
    return True, "another version of the data or of bench ran before" if twins else "never run"


def _changes(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> list[str]:
    """The settings that differ, as `optimizer.options.lr 0.001 → 0.002`."""
    changes = []
    for key in sorted(set(old) | set(new)):
        a, b = old.get(key), new.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            changes += _changes(a, b, f"{prefix}{key}.")
        elif a != b:
            changes.append(f"{prefix}{key} {a} → {b}")
    return changes


def _check_batches(run: Run, data: Dataset) -> None:
    """Refuse a run whose every epoch would be empty."""
    count = (
        len(split(data, run.validation, stream(run.seed, "split"))[0]) if run.drop_last else run.batch_size
    )
    if count < run.batch_size:
        raise BenchError(
            f"{run.variant}: drop_last leaves no batch, as batch_size {run.batch_size} is more than the "
            f"{count} training images of {data.name}; give a smaller batch_size, or drop_last: false"
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
