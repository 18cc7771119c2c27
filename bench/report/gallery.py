"""Pictures of the runs, side by side: copied beside the report so that its folder stands alone."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from bench.report.cells import image, table, text
from bench.report.results import Results, Run

PER_ROW = 3
COPIES = "figures/runs"
TITLES = {
    "samples": "Samples from the prior",
    "reconstructions": "Reconstructions",
    "manifold": "Latent manifold",
    "latent": "Latent space",
    "interpolations": "Interpolations",
    "kl": "KL per latent",
    "progress": "Progress",
}
_EPOCH = re.compile(r"^(?P<kind>.+?)-epoch-(?P<epoch>\d+)$")


@dataclass(frozen=True)
class Picture:
    """One run's picture of one kind, at its last epoch."""

    kind: str
    epoch: int | None
    source: Path
    copy: str  # relative to the report


def pictures(folder: Path, run: Run) -> dict[str, Picture]:
    """The last picture of each kind of a run."""
    found: dict[str, Picture] = {}
    for path in sorted((folder / "records" / run.id / "pictures").glob("*.png")):
        match = _EPOCH.match(path.stem)
        kind, epoch = (match["kind"], int(match["epoch"])) if match else (path.stem, None)
        if kind not in found or (epoch or 0) >= (found[kind].epoch or 0):
            found[kind] = Picture(kind, epoch, path, f"{COPIES}/{run.id}-{kind}.png")
    return found


def collect(results: Results) -> dict[str, Mapping[str, Picture]]:
    """Variant -> its pictures, of the finished run with the smallest seed."""
    return {v.name: pictures(results.folder, v.first) for v in results.variants if v.first is not None}


def markdown(results: Results, found: Mapping[str, Mapping[str, Picture]]) -> str:
    """One grid per kind: a cell per variant, its name, seed and epoch above the picture."""
    kinds = dict.fromkeys([*TITLES, *sorted({kind for of_run in found.values() for kind in of_run})])
    parts = []
    for kind in kinds:
        cells = []
        for v in results.variants:
            picture = found.get(v.name, {}).get(kind)
            if picture is not None and v.first is not None:
                name = text(v.settings.get("label") or v.name)
                epoch = f", epoch {picture.epoch}" if picture.epoch is not None else ""
                cells.append(
                    (f"{name}<br>seed {v.first.seed}{epoch}", image(f"{kind} of {v.name}", picture.copy))
                )
        if cells:
            parts += [f"### {text(TITLES.get(kind, kind))}", _grid(cells)]
    return "\n\n".join(parts)


def _grid(cells: list[tuple[str, str]]) -> str:
    rows = []
    for start in range(0, len(cells), PER_ROW):
        row = cells[start : start + PER_ROW]
        row += [("", "")] * (PER_ROW - len(row))
        rows.append([f"{caption}<br>{shown}" if caption else "" for caption, shown in row])
    return table([" "] * PER_ROW, rows, left=PER_ROW)
