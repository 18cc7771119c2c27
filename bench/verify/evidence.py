"""The records that a report rests on: their files, what they are of, and the laws within them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from bench.errors import BenchError
from bench.spec.experiment import ENGINE, Run
from bench.store import records
from bench.store.experiments import ExperimentFolder
from bench.store.records import RECORD, Record, RunFolder
from bench.verify.findings import Findings
from bench.verify.laws import laws

UNLISTED = (RECORD, records.CHECKPOINT)  # what a record does not list: itself, and what training kept


def check_records(findings: Findings, folder: Path) -> dict[str, Record]:
    """Check every record of an experiment's folder; returns those that can be read, by the folder's name."""
    found: dict[str, Record] = {}
    pending = 0
    home = ExperimentFolder(folder)
    for run_id in home.planned:
        try:
            record = home.record(run_id)
        except BenchError as error:
            findings.check("records", False, str(error))
            continue
        if record is None:
            pending += 1
        else:
            found[run_id] = record
    if pending:
        findings.unchecked.append(f"runs without a record, under way or to be done: {pending}")
    digest = _digest(findings, folder, found)
    planned = _planned(folder)
    bare = 0
    for name, record in found.items():
        findings.counts["records"] += 1
        _identity(findings, name, record, digest)
        _settings(findings, name, record, *planned.get(name, ({}, {})))
        bare += _artifacts(findings, name, home.run(name), record)
        for law in laws(record):
            if law.holds is None:
                findings.unchecked.append(f"{name}: {law.told}")
            else:
                findings.check("laws", law.holds, f"{name}: {law.told}")
    if bare:
        findings.unchecked.append(f"weights and pictures of {bare} run{'s' * (bare > 1)} are not here")
    return found


def _digest(findings: Findings, folder: Path, found: Mapping[str, Record]) -> str | None:
    """The digest of the data that the runs saw: one and the same, as the baselines'."""
    digests = Counter((record.get("data") or {}).get("digest") for record in found.values())
    digests.pop(None, None)
    told = ", ".join(f"{digest} ({n})" for digest, n in digests.items())
    findings.check("data", len(digests) < 2, f"records: of different data, digests {told}")
    digest = next((str(digest) for digest, _ in digests.most_common()), None)
    of = (_json(folder / "baselines.json").get("of") or {}).get("data")
    if of and digest:
        findings.compare("data", of == digest, "baselines.json, data", of, digest)
    return digest


def _planned(folder: Path) -> dict[str, tuple[Mapping[str, Any], Mapping[str, Any]]]:
    """Run id -> its plan (variant, seed) and its variant's settings, as experiment.json has them."""
    experiment = _json(folder / "experiment.json")
    variants = experiment.get("variants") or {}
    plans = experiment.get("planned") or {}
    return {run_id: (plan, variants.get(plan.get("variant")) or {}) for run_id, plan in plans.items()}


def _identity(findings: Findings, name: str, record: Record, digest: str | None) -> None:
    """The id is the folder's name, and the hash of the run and its data."""
    findings.compare("identities", record["id"] == name, f"{name}, id", record["id"], name)
    own = (record.get("data") or {}).get("digest") or digest  # a run that did not finish names no data
    try:
        run = Run.model_validate(record.get("run"))
    except ValidationError:
        findings.unchecked.append(f"{name}: its identity, as it is of another version of bench")
        return
    if own is None:
        findings.unchecked.append(f"{name}: its identity, as no record says which data it is of")
        return
    engine = next((e for e in range(ENGINE, 0, -1) if run.identity(own, e) == name), ENGINE)
    due = run.identity(own, engine)
    findings.compare("identities", due == name, f"{name}, identity of its run and data", name, due)
    if engine < ENGINE:
        findings.unchecked.append(
            f"{name}: of engine {engine}, bench now has {ENGINE}: it gives other numbers"
        )
    for key in ("variant", "seed"):
        due_value = getattr(run, key)
        findings.compare(
            "identities", record.get(key) == due_value, f"{name}, {key}", record.get(key), due_value
        )


def _settings(
    findings: Findings, name: str, record: Record, plan: Mapping[str, Any], settings: Mapping[str, Any]
) -> None:
    """What the report says of a variant is what the run was."""
    run = record.get("run") or {}
    for key in plan.keys() & run.keys():
        findings.compare(
            "settings", plan[key] == run[key], f"experiment.json, {name}, {key}", plan[key], run[key]
        )
    for key in settings.keys() & run.keys():
        agrees = settings[key] == run[key]
        place = f"experiment.json, {plan.get('variant')}, {key}"
        findings.compare("settings", agrees, place, settings[key], run[key])


def _artifacts(findings: Findings, name: str, run: RunFolder, record: Record) -> bool:
    """Every listed file is there, byte for byte, and no other; or none, as published: whether it is so."""
    listed: Mapping[str, str] = record.get("artifacts") or {}
    folder = run.path
    bare = run.bare(record)
    for file_name, digest in listed.items():
        file = folder / file_name
        if not file.resolve().is_relative_to(folder.resolve()):
            findings.check("artifacts", False, f"{name}: the record names {file_name}, outside its folder")
        elif file.is_file():
            found = records.digest(file)
            findings.compare("artifacts", found == digest, f"{name}/{file_name}, sha256", found, digest)
        elif not bare:
            findings.check("artifacts", False, f"{name}/{file_name}: missing")
    if record["status"] == "finished":
        findings.check("laws", records.WEIGHTS in listed, f"{name}: the record lists no {records.WEIGHTS}")
    for file_name in run.files():
        if file_name not in listed and file_name not in UNLISTED:
            findings.check("artifacts", False, f"{name}/{file_name}: the record does not list it")
    return bare


def _json(path: Path) -> dict[str, Any]:
    """A JSON object; empty where there is none to read."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}
