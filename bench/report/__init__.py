"""The report of an experiment, made from its records alone: `write_report(folder)`."""

from __future__ import annotations

from pathlib import Path

from bench.errors import BenchError
from bench.report import contact, copies, effects, published, render
from bench.report.frame import csv, results_csv
from bench.report.latex import render as tables_in_latex
from bench.report.results import Results, load, summary_csv
from bench.store.files import PICTURE, is_own, no_link, read_regular
from bench.store.whole import replacing

__all__ = ["answer_of", "write_report"]


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
        figured = _write_figures(folder, results, draw=figures)
        captions = {file: sheet.caption for file, sheet in contact.sheets(results).items()}
        pictures = copies.collect(results, captions)
        for copy, source in pictures.copies.items():
            _replace(folder / copy, read_regular(source, PICTURE, under=3))
        _replace(folder / "results.csv", results_csv(results.table))
        _replace(folder / "summary.csv", summary_csv(results))
        context = render.context(results, figured, pictures)
        rows = context["rows"]
        _optional(folder / "effects.csv", csv(effects.frame(rows, results.margin)) if rows else None)
        _optional(folder / "published.csv", published.published_csv(context["comparisons"]))
        report = folder / "report.md"
        if latex or (folder / "tables.tex").exists():
            _replace(folder / "tables.tex", tables_in_latex(context).encode())
        _optional(folder / "report.html", render.html(context).encode() if html else None)
        _replace(report, render.markdown(context).encode())
        for path in (folder / copies.COPIES).glob("*.*"):  # no longer shown, and the run has its own
            if path.relative_to(folder).as_posix() not in pictures.copies and not copies.stands_for_its_run(
                folder, path
            ):
                path.unlink(missing_ok=True)
    except OSError as error:
        raise BenchError(
            f"cannot write the report in {folder}: {error.strerror}; choose another --reports DIR"
        ) from error
    return report


def answer_of(folder: Path) -> str:
    """Give the answer of an experiment's report in Markdown, from its records; raises BenchError as that."""
    results = load(folder)
    text = render.markdown(render.context(results, {}, copies.collect(results, {})))
    return text.partition("## Answer")[2].partition("\n## ")[0].strip()


def _write_figures(folder: Path, results: Results, *, draw: bool) -> dict[str, str]:
    """Draw what there is data for, drop what there is none for; relative path -> caption of what is there.

    A contact sheet that pictures are lacking for stays as it is.
    """
    from bench.report import figures  # matplotlib, only where it is used

    if draw:
        drawn = {file: content for file, (_, content) in figures.draw(results).items()}
        sheets = contact.draw(results)
        for file, content in (drawn | sheets).items():
            if content:
                _replace(folder / "figures" / file, content)
        for path in (folder / "figures").glob("*.png"):
            if path.name not in drawn | sheets and (path.name in figures.FIGURES or contact.is_sheet(path)):
                path.unlink()
    there = ((f"figures/{file}", caption) for file, (caption, _) in figures.FIGURES.items())
    return {path: caption for path, caption in there if (folder / path).exists()}


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
