"""A run that is finished in another report beside this one is taken over from there, not trained again.

Equal ids are equal runs on equal data: the id is the hash of all that a run resolves to.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from bench import records
from bench.errors import BenchError
from bench.records import RECORD, WEIGHTS, Record, RunFolder

PARTIAL = (
    ".taken-"  # how the folder starts in which a copy is made; hidden, so that nobody takes it for a run
)


def neighbours(folder: Path) -> list[Path]:
    """The other experiments' folders beside a report's, that have records."""
    own = folder.resolve()
    found = (records_folder.parent for records_folder in sorted(folder.parent.glob("*/records")))
    return [other for other in found if other.resolve() != own]


def finished_in(others: Sequence[Path], run_id: str) -> Path | None:
    """The folder of a run that is finished and whole in one of these experiments; None where it is in none.

    Whole is a readable record, and every file that it lists, byte for byte.
    """
    runs = (other / "records" / run_id for other in others)
    return next((run for run in runs if (run / RECORD).is_file() and _whole(run, run_id)), None)


def take_over(source: Path, target: Path) -> bool:
    """Copy a run's folder, its record unchanged, in the place of `target`; whether that could be done.

    Only who holds the lock of the target's experiment may call this. What is copied is checked again, and
    appears whole or not at all.
    """
    scratch = target.parent / f"{PARTIAL}{os.getpid()}"
    with contextlib.suppress(OSError):
        for left in target.parent.glob(f"{PARTIAL}*"):  # by a process that was killed: the lock was free
            shutil.rmtree(left, ignore_errors=True)
        try:
            made = scratch / target.name
            made.mkdir(parents=True)
            if not _copied(source, made):
                return False
            shutil.rmtree(target, ignore_errors=True)  # an attempt that did not end
            made.replace(target)
            return True
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    return False


def _copied(source: Path, made: Path) -> bool:
    """Copy the record and the files that it lists; whether that is a whole run."""
    _copy(source / RECORD, made / RECORD)
    record = _finished(made, source.name)
    if record is None:
        return False
    for name in _listed(record):
        if not _inside(source, name):
            return False
        (made / name).parent.mkdir(parents=True, exist_ok=True)
        _copy(source / name, made / name)
    return RunFolder(made).artifacts() == _listed(record)


def _whole(run: Path, run_id: str) -> bool:
    record = _finished(run, run_id)
    if record is None:
        return False
    try:
        return all(_inside(run, f) and records.digest(run / f) == sha for f, sha in _listed(record).items())
    except (OSError, ValueError):  # gone, or a name that no file can have
        return False


def _finished(run: Path, run_id: str) -> Record | None:
    """The record of a run that is finished and lists its weights."""
    try:
        record = records.read(run)
    except BenchError:
        return None
    fits = record and record["id"] == run_id and record["status"] == "finished" and WEIGHTS in _listed(record)
    return record if fits else None


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
