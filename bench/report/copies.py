"""Where the pictures of a run lie: in its folder, or, where that was published without, beside report.md.

The report copies the last picture of each kind of the runs that it shows, so that its folder stands alone.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.errors import BenchError
from bench.store.experiments import ExperimentFolder
from bench.store.files import is_own

COPIES = "figures/runs"
_LISTED = re.compile(r"pictures/(?P<file>[^/]+\.(?:png|gif))")
_EPOCH = re.compile(r"(?P<kind>.+?)-epoch-(?P<epoch>\d+)")


@dataclass(frozen=True)
class Picture:
    """One run's picture of one kind, after an epoch where several are drawn."""

    kind: str
    epoch: int | None
    listed: str  # as its run's record lists it
    source: Path | None  # None where it is not here
    copy: str  # relative to the report


def pictures(folder: Path, run_id: str, record: Mapping[str, Any]) -> list[Picture]:
    """List the pictures that a run's folder holds or its record lists, the last of each kind last.

    Those of epochs after the one that was measured are left out. The last one's source is its copy beside the
    report, where the run's own is not here.
    """
    run = ExperimentFolder(folder).run(run_id)
    own = {f"pictures/{path.name}" for path in run.pictures.glob("*.*") if is_own(path, under=3)}
    names = own | set(record.get("artifacts") or ())
    found = sorted(
        (*_kind(match["file"]), name) for name in names if (match := _LISTED.fullmatch(name)) is not None
    )
    chosen = (record.get("chosen") or {}).get("epoch", math.inf)
    found = [each for each in found if each[1] <= chosen]
    last = {kind: name for kind, _, name in found}
    made = []
    for kind, epoch, name in found:
        source = run.path / name
        copy = f"{COPIES}/{run_id}-{kind}{source.suffix}"
        if not is_own(source, under=3) and name == last[kind]:
            source = folder / copy
        here = source if is_own(source, under=3) else None
        made.append(Picture(kind, None if epoch < 0 else epoch, name, here, copy))
    return made


def stands_for_its_run(folder: Path, copy: Path) -> bool:
    """Tell whether a copy is all that is here of a picture that its run's record lists."""
    home = ExperimentFolder(folder)
    for run_id in home.planned:
        if copy.name.startswith(f"{run_id}-"):
            try:
                record = home.record(run_id) or {}
            except BenchError:
                continue
            if any(picture.source == copy for picture in pictures(folder, run_id, record)):
                return True
    return False


def _kind(file: str) -> tuple[str, int]:
    """Kind and epoch of a picture by its name; -1 where that names none."""
    stem = Path(file).stem
    match = _EPOCH.fullmatch(stem)
    return (match["kind"], int(match["epoch"])) if match else (stem, -1)
