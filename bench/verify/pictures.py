"""The pictures of a report: all there, none damaged, copies equal to what they were copied from."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import unquote

from PIL import Image

from bench.report.contact import SHEETS
from bench.report.copies import COPIES, pictures
from bench.store.records import Record, digest
from bench.verify.findings import Findings

LINK = re.compile(r"!\[[^\]]*\]\(([^)]*)\)")


def bring_pictures(folder: Path, again: Path) -> None:
    """Lay where a report is made anew what that may rest on besides records: copies and contact sheets."""
    sheets = (folder / "figures" / file for file in SHEETS)
    for path in (*(folder / COPIES).glob("*.*"), *sheets):
        if path.is_file():
            target = again / path.relative_to(folder)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)


def check_pictures(
    findings: Findings, folder: Path, due: Path | None, found: Mapping[str, Record] | None = None
) -> None:
    """Compare a report's pictures with those made anew in `due`; without it, with the links of report.md.

    What is drawn depends on the versions of fonts and of Matplotlib: such a figure has to be there and whole,
    and where it is not the same byte for byte that is told, not called a difference. Where a run's picture is
    not here, its copy is held against the SHA-256 in its record, out of `found`.
    """
    linked = _linked(folder)
    lost = {name for name in linked if name.startswith(COPIES) and not (folder / name).is_file()}
    wanted = _under(due) | lost if due else linked
    recorded = _recorded(folder, found or {})
    there = _under(folder) | {name for name in wanted if (folder / name).is_file()}
    otherwise = []
    for name in sorted(wanted | there):
        if not findings.present("files", name, found=name in there, due=name in wanted):
            continue
        alike = due is None or (folder / name).read_bytes() == (due / name).read_bytes()
        if name in recorded:
            found_digest = digest(folder / name)
            findings.compare(
                "pictures", found_digest == recorded[name], f"{name}, sha256", found_digest, recorded[name]
            )
        elif due and name.startswith(COPIES):
            findings.check("pictures", alike, f"{name}: differs from the picture in its run's folder")
        else:
            findings.check("pictures", _whole(folder / name), f"{name}: damaged, it cannot be read")
            otherwise += [] if alike else [name]
    if otherwise:
        findings.unchecked.append(
            f"what {', '.join(otherwise)} show: they are whole, but drawn anew they have other bytes"
            " (fonts, Matplotlib or bench changed, or what they show)"
        )


def _recorded(folder: Path, found: Mapping[str, Record]) -> dict[str, str]:
    """The copies that stand for pictures which are not here -> the SHA-256 that their run's record lists."""
    return {
        picture.copy: record["artifacts"][picture.listed]
        for name, record in found.items()
        for picture in pictures(folder, name, record)
        if picture.source == folder / picture.copy
    }


def _under(folder: Path) -> set[str]:
    files = (folder / "figures").rglob("*")
    return {f.relative_to(folder).as_posix() for f in files if f.is_file() and not f.name.startswith(".")}


def _linked(folder: Path) -> set[str]:
    """The pictures that report.md shows."""
    try:
        text = (folder / "report.md").read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return set()
    return {unquote(link) for link in LINK.findall(text)}


def _whole(path: Path) -> bool:
    """Whether a picture's checksums and pixels can be read."""
    try:
        with Image.open(path) as picture:
            picture.verify()
        with Image.open(path) as picture:
            picture.load()
    except Exception:  # Pillow raises what its decoders do: SyntaxError, OSError, struct.error and more
        return False
    return True
