"""Add runs that others published to an experiment, each of them checked first, marked with where it is from.

What lies in the folder is a stranger's: it is read as such, and a run that fails is refused by name. Nothing
here is written over, and a run that is here already stays as it is.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from pydantic import ValidationError

from bench.errors import BenchError, printable
from bench.report import write_report
from bench.report.copies import COPIES, pictures
from bench.report.frame import TIMES
from bench.spec.experiment import MAX_RUNS, MAX_VARIANTS, SLUG, Variant, names_folder
from bench.store.experiments import JUDGED, SPEC, ExperimentFolder, experiments
from bench.store.files import PICTURE, no_link, read_regular
from bench.store.files import WEIGHTS as LARGEST
from bench.store.joined import ABOUT, JOINED, merged
from bench.store.lock import LOCK, claimed, held
from bench.store.records import DONE, RECORD, Record, RunFolder, fault, write_json_atomic
from bench.store.shapes import Planned, Source
from bench.store.whole import replacing
from bench.verify.findings import Findings
from bench.verify.runs import check_run

# What a run leaves; a stranger's record may list any path
_LEFT = re.compile(
    r"weights\.safetensors|pictures/\w[\w.-]{0,99}\.(png|gif)|parts/[0-9a-f]{8}-[^/\\]{1,99}\.py"
)


@dataclass(frozen=True)
class _Run:
    """A stranger's run that has passed: where it lies, what it is called there, and what it is."""

    home: ExperimentFolder
    id: str
    plan: Planned
    record: Record
    settings: dict[str, Any]
    origin: str


@dataclass
class Joined:
    """What became of a stranger's runs, by their ids there."""

    added: list[str] = field(default_factory=list)
    here: list[str] = field(default_factory=list)  # with the same numbers
    other: list[str] = field(default_factory=list)  # here with other numbers, which stay
    unfinished: list[str] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)  # and why


def join(folder: Path, published: Path, name: str | None = None) -> Joined:
    """Add the runs of a published folder, or of one experiment in it, to the experiment in `folder`.

    `name` says whose runs they are, by default as the folder itself does, or is called. Raises BenchError
    where either is no such folder, `folder` is in use, or both together are too large.
    """
    told = Joined()
    with held(folder / LOCK, str(folder), "give another folder"):
        home = ExperimentFolder(folder)
        found = [*_checked(home, _published(published, home), told, name)]
        sources = {source["name"]: source for source in json.loads(json.dumps(home.joined()))}
        planned = {plan["run"] for plan in home.planned.values()}
        for run in found:
            if run.plan["run"] not in planned:
                source = sources.setdefault(run.origin, {"name": run.origin, "variants": {}, "planned": {}})
                _add(source, run)
                planned.add(run.plan["run"])
        both = merged(home.spec, [*sources.values()])
        variants, runs = len(both["variants"]), len(both["planned"])
        if variants > MAX_VARIANTS or runs > MAX_RUNS:
            what = f"{variants} variants and {runs} runs together; allowed: {MAX_VARIANTS} and {MAX_RUNS}"
            raise BenchError(f"{what}; join one of the experiments")
        no_link(folder / "figures", folder / COPIES)
        with claimed(home.runs, [run.plan["run"] for run in found]):
            for run in found:
                _bring(run, home.runs / run.plan["run"], told)
        if (content := [*sources.values()]) != home.joined():
            write_json_atomic(folder / JOINED, {"sources": content})
        _bring_pictures(ExperimentFolder(folder), found)
        write_report(folder)
    return told


def _published(published: Path, home: ExperimentFolder) -> list[ExperimentFolder]:
    """Find the experiments of a published folder."""
    found = [ExperimentFolder(published)] if (published / SPEC).is_file() else experiments(published)
    found = [other for other in found if not other.path.is_symlink() and not other.runs.is_symlink()]
    if not found:
        raise BenchError(f"{published} holds no experiment; give a folder that bench publish has written")
    if any(other.runs.resolve() == home.runs.resolve() for other in found):
        raise BenchError(f"{published} and {home.path} have one store of runs; give somebody else's folder")
    return found


def _checked(
    home: ExperimentFolder, others: Sequence[ExperimentFolder], told: Joined, name: str | None
) -> Iterator[_Run]:
    """Yield the runs that pass, and note of the others why they do not."""
    dataset, digest = home.spec.get("dataset"), home.baselines().get("of", {}).get("data")
    own = ((record.get("data") or {}).get("digest") for record in home.records().values())
    digest = digest or next(filter(None, own), None)
    for other in others:
        known = other.baselines().get("of", {}).get("data")
        origin = printable(name or other.spec.get("by") or other.runs.resolve().parent.name)[:100]
        for run_id in other.planned:
            try:
                record = other.run(run_id).read()
                if record is None or record["status"] not in DONE:
                    told.unfinished.append(run_id)
                    continue
                _refuse_false(other, run_id, record, known)
                settings = _settings(other, run_id, record, origin)
                digest = digest or record["data"]["digest"]
                if (settings["dataset"], record["data"]["digest"]) != (dataset, digest):
                    raise BenchError(f"it is on other data, {settings['dataset']}; here is {dataset}")
            except (BenchError, OSError) as error:
                told.refused[run_id] = printable(str(error))
            else:
                whose = record.get("joined") or origin
                yield _Run(other, run_id, other.planned[run_id], record, settings, whose)


def _refuse_false(other: ExperimentFolder, run_id: str, record: Record, data: str | None) -> None:
    """Raise BenchError unless a run's files, identity and laws hold."""
    findings = Findings()
    check_run(findings, other, run_id, record, data)
    if findings.differences:
        raise BenchError(findings.differences[0].removeprefix(run_id).lstrip(":,/ "))
    if not findings.counts["identities"] or not (record.get("data") or {}).get("digest"):
        raise BenchError(next(iter(findings.unchecked), "it does not say which data it is of"))


def _settings(other: ExperimentFolder, run_id: str, record: Record, origin: str) -> dict[str, Any]:
    """Resolve the variant of a run from its record; from its experiment comes what is only said about it."""
    variant = other.planned[run_id]["variant"]
    said = other.spec["variants"].get(variant) or {}
    facts = {k: v for k, v in record["run"].items() if k not in ("variant", "seed", "document", "weights")}
    if record.get("origin") == JUDGED:  # of one adapter there are many models: each is its own
        if not names_folder(variant, SLUG):
            raise BenchError(f"its variant {variant!r} cannot name a folder")
        return facts | {"name": variant, "label": variant, "origin": JUDGED, "whose": f"{origin}: {variant}"}
    about = {"label": variant} | {k: v for k, v in said.items() if k in ABOUT} | {"name": variant}
    try:
        return Variant.model_validate_json(json.dumps(facts | about)).model_dump(mode="json")
    except ValidationError as error:
        raise BenchError(f"its variant is not as bench writes it: {fault(error)}") from None


def _add(source: Source, run: _Run) -> None:
    """Note a run; of two variants of one name, in two experiments of theirs, the second gets another."""
    variant, variants = run.plan["variant"], cast(dict[str, Any], source["variants"])
    while variants.setdefault(variant, run.settings) != run.settings:
        variant = f"{variant[:77]}-2"
    source["planned"][run.id] = {"variant": variant, "seed": run.plan["seed"], "run": run.plan["run"]}


def _bring(run: _Run, target: Path, told: Joined) -> None:
    """Copy a run's files as far as they are there, and its record, which says whose it is; or leave ours."""
    ours = RunFolder(target).read()
    if ours and ours["status"] in DONE:
        both = (each.get("metrics") or {} for each in (ours, run.record))
        a, b = ({k: v for k, v in metrics.items() if k not in TIMES} for metrics in both)
        (told.here if a == b else told.other).append(run.id)
        return
    if target.exists():
        how = ours["status"] if ours else "under way"
        told.refused[run.id] = f"here it is {how}: bench run does it, or remove {target} to take theirs"
        return
    with replacing(target) as partial:
        partial.mkdir()
        folder = run.home.run(run.id).path
        for file, sha256 in (run.record.get("artifacts") or {}).items():
            if _LEFT.fullmatch(file) and (folder / file).is_file():
                content = read_regular(folder / file, LARGEST, under=1 + len(Path(file).parts))
                _write(partial / file, content, sha256)
        write_json_atomic(partial / RECORD, {**run.record, "joined": run.origin})
    told.added.append(run.id)


def _bring_pictures(home: ExperimentFolder, found: Sequence[_Run]) -> None:
    """Copy the pictures that their report shows of runs whose own are not here, under their names here."""
    names = {plan["run"]: run_id for run_id, plan in home.planned.items()}
    for run in found:
        for each in pictures(run.home.path, run.id, run.record):
            target = home.path / COPIES / f"{names[run.plan['run']]}-{each.kind}{Path(each.listed).suffix}"
            if each.source is not None and _LEFT.fullmatch(each.listed) and not target.exists():
                content = read_regular(each.source, PICTURE, under=3)
                _write(target, content, run.record["artifacts"].get(each.listed))


def _write(target: Path, content: bytes, sha256: str | None) -> None:
    """Write a stranger's file, if it is the one that their record lists."""
    if hashlib.sha256(content).hexdigest() == sha256:
        with replacing(target) as partial:
            partial.write_bytes(content)
