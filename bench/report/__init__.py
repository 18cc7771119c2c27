"""The report of an experiment, made from its records alone: `write_report(folder)`."""

from __future__ import annotations

from pathlib import Path

from bench.errors import BenchError
from bench.report import contact, copies, effects, published, render
from bench.report.copies import Gallery
from bench.report.frame import csv, results_csv
from bench.report.latex import render as tables_in_latex
from bench.report.results import Results, load, summary_csv
from bench.store.files import PICTURE, is_own, no_link, read_regular
from bench.store.whole import replacing

__all__ = ["answer_in", "texts", "write_report"]


def write_report(folder: Path, figures: bool = True, *, html: bool = True, latex: bool = False) -> Path:
    """Write `report.md`, `report.html`, their tables as CSV and `figures/` of an experiment's folder.

    Valid from no finished run on; every file is replaced whole, the report last, and equal records give equal
    bytes. With `figures=False` none is drawn and those already there are linked. Of runs whose pictures are
    not here, as reports are published, the copies beside the report are shown and kept. `tables.tex` is made
    with `latex=True`, and again where there is one; with `html=False` no `report.html` is, and one of before
    is gone.

    Raises:
        BenchError: the folder holds no `experiment.json`, or cannot be written.
    """
    results = load(folder)
    try:
        no_link(folder / "figures", folder / copies.COPIES)
        if figures:
            _draw(folder, results)
        pictures = _pictures(results)
        for copy, source in pictures.copies.items():
            _replace(folder / copy, read_regular(source, PICTURE, under=3))
        latex = latex or (folder / "tables.tex").exists()
        for name, content in _texts(results, pictures, html=html, latex=latex).items():
            _optional(folder / name, content)
        for path in (folder / copies.COPIES).glob("*.*"):  # no longer shown, and the run has its own
            if path.relative_to(folder).as_posix() not in pictures.copies and not copies.stands_for_its_run(
                folder, path
            ):
                path.unlink(missing_ok=True)
    except OSError as error:
        raise BenchError(
            f"cannot write the report in {folder}: {error.strerror}; choose another --reports DIR"
        ) from error
    return folder / "report.md"


def texts(folder: Path, *, html: bool = True) -> dict[str, str]:
    """Give what `write_report` would write, but for figures, by file name; raises BenchError as that."""
    results = load(folder)
    made = _texts(results, _pictures(results), html=html, latex=False)
    return {name: content.decode() for name, content in made.items() if content is not None}


def answer_in(text: str) -> str:
    """Cut the answer out of a report.md; empty where there is none."""
    return text.partition("## Answer")[2].partition("\n## ")[0].strip()


def _texts(results: Results, pictures: Gallery, *, html: bool, latex: bool) -> dict[str, bytes | None]:
    """Render every file that is no picture, the report last; None for one that there is nothing for."""
    from bench.report import figures  # matplotlib, only where it is used

    there = ((f"figures/{file}", caption) for file, (caption, _) in figures.FIGURES.items())
    figured = {path: caption for path, caption in there if (results.folder / path).exists()}
    context = render.context(results, figured, pictures)
    rows = context["rows"]
    return {
        "results.csv": results_csv(results.table),
        "summary.csv": summary_csv(results),
        "effects.csv": csv(effects.frame(rows, results.margin)) if rows else None,
        "published.csv": published.published_csv(context["comparisons"]),
        "tables.tex": tables_in_latex(context).encode() if latex else None,
        "report.html": render.html(context).encode() if html else None,
        "report.md": render.markdown(context).encode(),
    }


def _pictures(results: Results) -> Gallery:
    return copies.collect(results, {file: sheet.caption for file, sheet in contact.sheets(results).items()})


def _draw(folder: Path, results: Results) -> None:
    """Draw what there is data for, and drop figures that there is none for.

    A contact sheet that pictures are lacking for stays as it is.
    """
    from bench.report import figures

    drawn = {file: content for file, (_, content) in figures.draw(results).items()}
    sheets = contact.draw(results)
    for file, content in (drawn | sheets).items():
        if content:
            _replace(folder / "figures" / file, content)
    for path in (folder / "figures").glob("*.png"):
        if path.name not in drawn | sheets and (path.name in figures.FIGURES or contact.is_sheet(path)):
            path.unlink()


def _optional(path: Path, content: bytes | None) -> None:
    """Write a file that there is nothing for in every experiment, or drop the one of before."""
    if content is None:
        path.unlink(missing_ok=True)
    else:
        _replace(path, content)


def _replace(path: Path, content: bytes) -> None:
    """Write a file whole or not at all; one that holds the same bytes is left alone."""
    if is_own(path) and path.stat().st_size == len(content) and path.read_bytes() == content:
        return
    with replacing(path) as partial:
        partial.write_bytes(content)
