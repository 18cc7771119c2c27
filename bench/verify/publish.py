"""Write a folder that others can read: records, report and figures of an experiment, weights where asked for.

    OUT/README.md                what this is, and how to check and join it
    OUT/<experiment>/            experiment.json, report.md, report.html, tables, figures/
    OUT/runs/<key>/record.json   parts/: the Python files that the run's parts come from

So OUT is a folder of reports like any other. Nothing in it is written over.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from bench.errors import BenchError
from bench.store.experiments import BASELINES, RUNS, SPEC, ExperimentFolder
from bench.store.files import WEIGHTS as LARGEST
from bench.store.files import is_own, read_regular
from bench.store.joined import JOINED
from bench.store.records import PARTS, RECORD, RunFolder, write_json_atomic
from bench.store.whole import replacing
from bench.verify.findings import Findings
from bench.verify.runs import check_runs

KINDS = {".png": "figures", ".gif": "figures"} | dict.fromkeys((".md", ".html", ".csv", ".tex"), "report")
ABOUT = f"""# Results of bench

Each folder beside `{RUNS}/` is an experiment: open its `report.html`, or read its `report.md`.
`{RUNS}/` holds a record of every run: settings, curves, metrics, machine, versions.

    bench verify THIS/EXPERIMENT            # every number follows from the records
    bench join reports/YOURS THIS           # these runs beside your own, marked with where they come from
    bench run YOURS.yaml --reports THIS     # or yours beside these

`parts/` beside a record are copies of Python files that its parts come from. Nothing here imports them.
"""


def publish(folder: Path, out: Path, *, weights: bool = False, by: str | None = None) -> Counter[str]:
    """Copy an experiment's folder and its runs to `out`; returns bytes by kind, those of all of `out` last.

    With `weights` all files of the runs go along, pictures among them. `by` says whose they are. Raises
    BenchError where a run does not pass, the experiment is in `out` already, or a run is there with other
    results.
    """
    runs, name = _publishable(folder, out), folder.resolve().name
    sizes: Counter[str] = Counter()
    for run in runs:
        kinds = {file: "parts" if file.startswith(PARTS) else "weights" for file in run.artifacts()}
        for file, kind in {**kinds, RECORD: "records"}.items():  # the record comes last
            if weights or kind != "weights":
                target = out / RUNS / run.path.name / file
                sizes[kind] += _copy(run.path / file, target, file.count("/") + 1)
    # The experiment comes last, and whole: what names runs that are there
    with replacing(out / name) as partial:
        for path, kind in _files(folder):
            sizes[kind] += _copy(folder / path, partial / path, len(path.parts))
        if by:
            spec = json.loads((partial / SPEC).read_text(encoding="utf-8"))
            write_json_atomic(partial / SPEC, spec | {"by": by})
    if not (out / "README.md").exists():
        (out / "README.md").write_text(ABOUT, encoding="utf-8")
    sizes["all"] = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    return sizes


def _publishable(folder: Path, out: Path) -> list[RunFolder]:
    """Find the runs of an experiment that may be published there; raises BenchError as `publish` does."""
    home, findings, there = ExperimentFolder(folder), Findings(), out / folder.resolve().name
    if not is_own(folder / "report.md"):
        raise BenchError(f"{folder} holds no report.md; bench report {folder} writes it")
    runs = [home.run(run_id) for run_id in check_runs(findings, home)]
    if findings.differences:
        told = f"{len(findings.differences)} differences, the first: {findings.differences[0]}"
        raise BenchError(f"{folder} would not pass a check ({told}); bench verify {folder} lists them")
    if there.exists():
        raise BenchError(f"{there} is there already, and stays as it is; give another folder")
    for run in runs:
        twin = RunFolder(out / RUNS / run.path.name)
        if twin.path.exists() and twin.read() != run.read():
            raise BenchError(f"{twin.path} holds other results of a run of {folder}; give another folder")
    return runs


def _files(folder: Path) -> Iterator[tuple[Path, str]]:
    """List what bench writes in an experiment's folder, each with its kind; nothing else is published."""
    for name in (SPEC, BASELINES, JOINED):
        if is_own(folder / name):
            yield Path(name), "records"
    for path in sorted((*folder.glob("*"), *folder.glob("figures/*"), *folder.glob("figures/runs/*"))):
        file = path.relative_to(folder)
        kind = KINDS.get(path.suffix)
        if kind and is_own(path, under=len(file.parts)) and (kind == "figures") == (len(file.parts) > 1):
            yield file, kind


def _copy(source: Path, target: Path, under: int) -> int:
    """Copy a file, unless it is there; returns its bytes."""
    content = read_regular(source, LARGEST, under=under)
    if not target.exists():
        with replacing(target) as partial:
            partial.write_bytes(content)
    return len(content)
