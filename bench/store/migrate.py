"""Bring reports of the first edition up to date: their runs move into the store, and every number stays.

The first edition kept the runs of each experiment in its folder, `records/<id>/`, and copied what two had in
common. Here each run moves to `runs/<key>/`, one of equal copies stays, and experiment.json names the keys.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from bench.errors import BenchError
from bench.spec.experiment import Run, Variant
from bench.store import records
from bench.store.experiments import OLD_RUNS, RUNS, SPEC
from bench.store.lock import LOCK, claimed, held
from bench.store.records import DONE, RECORD, Record, RunFolder, write_json_atomic
from bench.store.shapes import Value

NAMES = ("id", "variant", "run", "axes", "trained_as")  # what copies of a run differ in


def migrate(reports: Path) -> Iterator[str]:
    """Move the runs of every experiment in a folder of reports, and say of each what was done.

    What did not finish is left where it is: `bench run` does it again. A process that is killed leaves
    nothing half done; the same call goes on. Raises BenchError where there is nothing to move, where an
    experiment is in use, and where two runs of one key differ.
    """
    old = [file.parent for file in sorted(reports.glob(f"*/{SPEC}")) if (file.parent / OLD_RUNS).is_dir()]
    if not old:
        raise BenchError(
            f"{reports} holds no experiment of the first edition; give the folder of its reports"
        )
    for folder in old:
        with held(folder / LOCK, str(folder), "give another folder"):
            spec, of = _json(folder / SPEC), _json(folder / "baselines.json").get("of")
            try:
                keys = _keys(spec, of.get("data") if isinstance(of, dict) else None)
            except (AttributeError, KeyError, TypeError):
                raise BenchError(f"{folder / SPEC} is no resolved experiment; bring it back") from None
            moved, kept = _move_runs(folder, reports / RUNS)
            for run_id, plan in spec["planned"].items():
                plan["run"] = moved.get(run_id) or keys[run_id]
            spec["planned"] = {name: plan for name, plan in spec["planned"].items() if plan["run"]}
            write_json_atomic(folder / SPEC, spec)
            if not kept:  # last, as it is what tells that there is something to do
                shutil.rmtree(folder / OLD_RUNS)
        left = f", {kept} unfinished left in {folder / OLD_RUNS}" if kept else ""
        yield f"{folder}: {len(moved)} runs moved{left}"


def _move_runs(folder: Path, store: Path) -> tuple[dict[str, str], int]:
    """Move the finished runs of one experiment; returns their keys by id, and how many runs are left."""
    moved = {}
    store.mkdir(exist_ok=True)
    found = [(path, _finished(path)) for path in sorted((folder / OLD_RUNS).glob("[!.]*"))]
    done = [
        (path, record, store / Run.model_validate(record["run"]).key(record["data"]["digest"]))
        for path, record in found
        if record is not None
    ]
    with claimed(store, [target.name for _, _, target in done]):
        for path, record, target in done:
            _move(path, record, target)
            moved[record["id"]] = target.name
    left = [path for path in (folder / OLD_RUNS).iterdir() if not path.name.startswith(".")]
    return moved, len(left)


def _move(path: Path, record: Record, target: Path) -> None:
    """Move one run to its place in the store, unless an equal one is there."""
    twin = RunFolder(target).read()
    if twin and {**twin, **dict.fromkeys(NAMES)} != {**record, **dict.fromkeys(NAMES)}:
        raise BenchError(f"{path} and {target} are the same run with other results; remove one of the two")
    # Keep the copy that has its files, and of two alike the one that was trained under its own name
    better = (not RunFolder(path).bare(record), "trained_as" not in record)
    if twin and better <= (not RunFolder(target).bare(twin), "trained_as" not in twin):
        shutil.rmtree(path)
    else:
        shutil.rmtree(target, ignore_errors=True)
        path.replace(target)


def _finished(path: Path) -> Record | None:
    """The record of a run that is done and is what its name says, else None."""
    record = RunFolder(path).read() if (path / RECORD).is_file() else None
    if record is None or record["status"] not in DONE:
        return None
    try:
        digest = str((record.get("data") or {}).get("digest"))
        named = Run.model_validate(record.get("run")).identity(digest)
    except ValidationError:
        return None
    return record if named == path.name else None


def _keys(spec: dict[str, Any], digest: str | None) -> dict[str, str | None]:
    """The keys of runs by id, from experiment.json; None for a variant that is of another version."""
    keys: dict[str, str | None] = {}
    for run_id, plan in spec["planned"].items():
        keys[run_id] = plan.get("run")
        with contextlib.suppress(ValidationError):
            variant = Variant.model_validate_json(json.dumps(spec["variants"][plan["variant"]]))
            keys[run_id] = keys[run_id] or (variant.run(plan["seed"]).key(digest) if digest else None)
    return keys


def _json(file: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = records.read_json(file, dict[str, Value]) if file.is_file() else {}
    except (OSError, ValueError):
        raise BenchError(f"{file} is damaged; bring it back, or remove it") from None
    return found
