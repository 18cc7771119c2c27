"""The main tables as LaTeX: one tabular each, with booktabs, to be put into a paper with `\\input`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from bench.report.cells import line
from bench.report.tables import Cell, Table

PREAMBLE = (
    "% Tables of the experiment {name}, by bench report --tables latex. Needs \\usepackage{{booktabs}}.\n"
)
MAIN = {"footing": "One footing", "matrix": "The matrix", "samples": "Samples",
        "finals": "Published and measured"}  # fmt: skip
SYMBOLS = {  # what tables hold beyond ASCII, and what TeX reads as commands
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "%": r"\%", "#": r"\#",
    "_": r"\_", "^": r"\textasciicircum{}", "~": r"\textasciitilde{}", "<": r"\textless{}",
    ">": r"\textgreater{}", "|": r"\textbar{}", '"': "''",
    "–": "--", "±": r"$\pm$", "−": "$-$", "×": r"$\times$", "↑": r"$\uparrow$", "↓": r"$\downarrow$",
    "≥": r"$\geq$", "≤": r"$\leq$", "≠": r"$\neq$", "‖": r"$\Vert$", "²": "$^2$", "°": r"$^{\circ}$",
    "†": r"\textsuperscript{\textdagger}", "‡": r"\textsuperscript{\textdaggerdbl}", "·": r"$\cdot$",
    "β": r"$\beta$", "σ": r"$\sigma$", "ε": r"$\varepsilon$", "…": r"\ldots{}",
}  # fmt: skip


def render(told: Mapping[str, Any]) -> str:
    """Write the tables of `bench.report.render.context`: ± and intervals, bold, daggers as in the report."""
    blocks = [PREAMBLE.format(name=re.sub(r"[^\w .-]", "", line(told["title"])))]
    for key, title in MAIN.items():
        found = told[key] if isinstance(told[key], list) else [told[key]]
        blocks += [_tabular(table, table.title or title) for table in found if table.rows]
    return "\n".join(blocks)


def escaped(value: object) -> str:
    """Make text that TeX prints as it stands; letters of other scripts are left to the fonts."""
    return "".join(SYMBOLS.get(character, character) for character in line(value))


def _tabular(table: Table, title: str) -> str:
    rows = [" & ".join(map(_cell, row)) + r" \\" for row in table.rows]
    worded = [
        any(c.value is None and c.text[:1].isalpha() for c in column)
        for column in zip(*table.rows, strict=True)
    ]
    heads = (f"{c.title}{c.arrow}{f' ({c.unit})' if c.unit else ''}" for c in table.columns)
    return "\n".join([
        f"% {escaped(title)}",
        rf"\begin{{tabular}}{{l{''.join('l' if is_text else 'r' for is_text in worded[1:])}}}", r"\toprule",
        " & ".join(map(escaped, heads)) + r" \\", r"\midrule", *rows, r"\bottomrule", r"\end{tabular}", "",
    ])  # fmt: skip


def _cell(cell: Cell) -> str:
    text = re.sub(r"^[\[*]", r"{\g<0>}", escaped(cell.text))  # after a row's end TeX takes them for options
    text = rf"\textbf{{\boldmath {text}}}" if cell.best else text
    return rf"\textit{{{text}}}" if cell.faint else text + escaped(cell.mark)
