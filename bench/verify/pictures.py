"""The pictures of a report: all there, none damaged, copies equal to what they were copied from."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote

from PIL import Image

from bench.report.gallery import COPIES
from bench.verify.findings import Findings

LINK = re.compile(r"!\[[^\]]*\]\(([^)]*)\)")


def check_pictures(findings: Findings, folder: Path, due: Path | None) -> None:
    """Compare a report's pictures with those made anew in `due`; without it, with the links of report.md.

    What is drawn depends on the versions of fonts and of Matplotlib: such a figure has to be there and whole,
    and where it is not the same byte for byte that is told, not called a difference.
    """
    wanted = _under(due) if due else _linked(folder)
    there = _under(folder) | {name for name in wanted if (folder / name).is_file()}
    otherwise = []
    for name in sorted(wanted | there):
        if not findings.present("files", name, found=name in there, due=name in wanted):
            continue
        alike = due is None or (folder / name).read_bytes() == (due / name).read_bytes()
        if due and name.startswith(COPIES):
            findings.check("pictures", alike, f"{name}: differs from the picture in its run's folder")
        else:
            findings.check("pictures", _whole(folder / name), f"{name}: damaged, it cannot be read")
            otherwise += [] if alike else [name]
    if otherwise:
        findings.unchecked.append(
            f"what {', '.join(otherwise)} show: they are whole, but drawn anew they have other bytes"
            " (fonts, Matplotlib or bench changed, or what they show)"
        )


def _under(folder: Path) -> set[str]:
    files = (folder / "figures").rglob("*")
    return {f.relative_to(folder).as_posix() for f in files if f.is_file() and not f.name.startswith(".")}


def _linked(folder: Path) -> set[str]:
    """The pictures that report.md shows."""
    text = (folder / "report.md").read_text(encoding="utf-8", errors="replace")
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
