"""Where the pictures of a run lie: in its folder, or, where that was published without, beside a report.

The report copies the last picture of each kind of the runs that it shows, so that its folder stands alone.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from glob import escape
from pathlib import Path
from typing import Any

from bench.errors import BenchError
from bench.report.results import Results, Variant
from bench.store.experiments import ExperimentFolder
from bench.store.files import PICTURE, is_own, read_regular

COPIES = "figures/runs"
MANY = 12  # variants, above which a page of all their pictures is one that nobody looks through
KINDS = ("samples", "progress", "reconstructions", "interpolations", "manifold", "latent", "tsne", "kl")
_LISTED = re.compile(r"pictures/(?P<kind>[^/]+?)(?:-epoch-(?P<epoch>\d+))?\.(?:png|gif)")


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
    report, where the run's own is not here, or else beside the report of another experiment that has the run.
    """
    run = ExperimentFolder(folder).run(run_id)
    own = {f"pictures/{path.name}" for path in run.pictures.glob("*.*") if is_own(path, under=3)}
    chosen = (record.get("chosen") or {}).get("epoch", math.inf)
    matches = filter(None, map(_LISTED.fullmatch, own | set(record.get("artifacts") or ())))
    found = sorted((match["kind"], int(match["epoch"] or -1), match[0]) for match in matches)
    found = [each for each in found if each[1] <= chosen]
    last = {kind: name for kind, _, name in found}
    made, elsewhere = [], None
    for kind, epoch, name in found:
        source = run.path / name
        copy = f"{COPIES}/{run_id}-{kind}{source.suffix}"
        if not is_own(source, under=3) and name == last[kind]:
            source = folder / copy
            if not is_own(source, under=3):
                elsewhere = _elsewhere(folder, run_id) if elsewhere is None else elsewhere
                source = elsewhere.get(str((record.get("artifacts") or {}).get(name)), source)
        here = source if is_own(source, under=3) else None
        made.append(Picture(kind, None if epoch < 0 else epoch, name, here, copy))
    return made


def _elsewhere(folder: Path, run_id: str) -> dict[str, Path]:
    """Find the copies of a run's pictures beside other reports, by the SHA-256 of their content.

    There the variant may have another name; seed and key end the run's id in every experiment.
    """
    tail = escape("-".join(run_id.split("-")[-2:]))
    found: dict[str, Path] = {}
    for path in sorted(folder.absolute().parent.glob(f"*/{COPIES}/*-{tail}-*"), reverse=True):
        if is_own(path, under=4, most=PICTURE):
            with suppress(OSError):  # what cannot be read is not here
                found[hashlib.sha256(read_regular(path, PICTURE, under=4)).hexdigest()] = path
    return found


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


@dataclass(frozen=True)
class Gallery:
    """The contact sheets (path and caption), and by kind each variant's last picture of it."""

    sheets: tuple[tuple[str, str], ...]
    kinds: tuple[tuple[str, tuple[tuple[Variant, Picture], ...]], ...]
    many: int = 0  # variants, where they are too many to show one by one

    @property
    def copies(self) -> dict[str, Path]:
        """Where the pictures shown lie beside the report, and where they come from."""
        return {p.copy: p.source for _, shown in self.kinds for _, p in shown if p.source}


def collect(results: Results, captions: Mapping[str, str]) -> Gallery:
    """Find the sheets that were drawn, and the pictures of each variant's finished run of the smallest seed.

    `captions` has those of the sheets by file name. Of more than MANY variants these alone are
    shown.
    """
    named = ((f"figures/{file}", caption) for file, caption in captions.items())
    sheets = tuple((path, told) for path, told in named if (results.folder / path).exists())
    if len(results.variants) > MANY:
        return Gallery(sheets, (), len(results.variants))
    found: dict[str, list[tuple[Variant, Picture]]] = {kind: [] for kind in KINDS}
    for variant in results.variants:
        if (run := variant.first) is not None:
            last = {p.kind: p for p in pictures(results.folder, run.id, run.record) if p.source}
            for kind in sorted(last):
                found.setdefault(kind, []).append((variant, last[kind]))
    return Gallery(sheets, tuple((kind, tuple(shown)) for kind, shown in found.items() if shown))
