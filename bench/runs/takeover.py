"""A run that is finished in another report beside this one is taken over from there, not trained again.

Equal hashes are equal runs on equal data, whatever their variants are called: the id ends in the hash of all
that a run resolves to.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from bench.errors import BenchError
from bench.spec.experiment import Run
from bench.store import records
from bench.store.records import RECORD, WEIGHTS, Record, RunFolder

PARTIAL = (
    ".taken-"  # how the folder starts in which a copy is made; hidden, so that nobody takes it for a run
)


Offers = Mapping[tuple[str, ...], Sequence[Path]]


def neighbours(folder: Path) -> list[Path]:
    """The other experiments' folders beside a report's, that have records."""
    own = folder.resolve()
    found = (records_folder.parent for records_folder in sorted(folder.parent.glob("*/records")))
    return [other for other in found if other.resolve() != own]


def offers(others: Sequence[Path]) -> Offers:
    """The run folders of these experiments, by what their names say of the result: seed and hash."""
    found: dict[tuple[str, ...], list[Path]] = {}
    for run in (run for other in others for run in sorted((other / "records").glob("[!.]*"))):
        found.setdefault(_result(run.name), []).append(run)
    return found


def finished_in(offered: Offers, run: Run, run_id: str) -> Path | None:
    """The folder of an equal run, finished and whole; None where there is none.

    Whole is a readable record, and every file that it lists, byte for byte. A run of the same name is
    preferred to one of another.
    """
    twins = sorted(offered.get(_result(run_id), ()), key=lambda twin: twin.name != run_id)
    return next((twin for twin in twins if (twin / RECORD).is_file() and _whole(twin, run)), None)


def take_over(source: Path, target: Path, run: Run, axes: Mapping[str, str]) -> bool:
    """Copy an equal run's folder in the place of `target`; whether that could be done.

    The record says what it said, under the names that `run` and the axes have here; one that was called
    otherwise has its own name under `trained_as`. Only who holds the lock of the target's experiment may
    call this. What is copied is checked again, and appears whole or not at all.
    """
    scratch = target.parent / f"{PARTIAL}{os.getpid()}"
    with contextlib.suppress(OSError):
        for left in target.parent.glob(f"{PARTIAL}*"):  # by a process that was killed: the lock was free
            shutil.rmtree(left, ignore_errors=True)
        try:
            made = scratch / source.name
            made.mkdir(parents=True)
            if not _copied(source, made, run):
                return False
            if source.name != target.name:
                _rename(RunFolder(made), target.name, run, axes)
            shutil.rmtree(target, ignore_errors=True)  # an attempt that did not end
            made.replace(target)
            return True
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    return False


def _rename(made: RunFolder, run_id: str, run: Run, axes: Mapping[str, str]) -> None:
    record = records.read(made.path) or {}
    made.write_record(
        {"trained_as": record["id"]}  # the first name, should it be taken over again
        | record
        | {"id": run_id, "variant": run.variant, "run": run.model_dump(mode="json"), "axes": dict(axes)}
    )


def _copied(source: Path, made: Path, run: Run) -> bool:
    """Copy the record and the files that it lists; whether that is a whole run."""
    _copy(source / RECORD, made / RECORD)
    record = _finished(made, run)
    if record is None:
        return False
    for name in _listed(record):
        if not _inside(source, name):
            return False
        (made / name).parent.mkdir(parents=True, exist_ok=True)
        _copy(source / name, made / name)
    return RunFolder(made).artifacts() == _listed(record)


def _whole(twin: Path, run: Run) -> bool:
    record = _finished(twin, run)
    if record is None:
        return False
    try:
        return all(_inside(twin, f) and records.digest(twin / f) == sha for f, sha in _listed(record).items())
    except (OSError, ValueError):  # gone, or a name that no file can have
        return False


def _finished(twin: Path, run: Run) -> Record | None:
    """The record of an equal run that is finished and lists its weights."""
    try:
        record = records.read(twin)
    except BenchError:
        return None
    named = {"variant": run.variant, "document": run.document}
    fits = (
        record
        and record["id"] == twin.name
        and record["status"] == "finished"
        and WEIGHTS in _listed(record)
        # Eight digits of a hash may be equal by chance
        and {**(record.get("run") or {}), **named} == run.model_dump(mode="json")
    )
    return record if fits else None


def _result(run_id: str) -> tuple[str, ...]:
    """Seed and hash, as in `<variant>-s<seed>-<hash>`."""
    return tuple(run_id.rsplit("-", 2)[1:])


def _listed(record: Record) -> Mapping[str, str]:
    return record.get("artifacts") or {}


def _inside(run: Path, name: str) -> bool:
    """Whether a name stands for a regular file in a run's folder."""
    file = run / name
    return file.is_file() and file.resolve().is_relative_to(run.resolve())


def _copy(source: Path, target: Path) -> None:
    """Copy a file and flush it to the disk: a record stands for what it lists, after a power cut too."""
    with source.open("rb") as read, target.open("wb") as write:
        shutil.copyfileobj(read, write)
        write.flush()
        os.fsync(write.fileno())
