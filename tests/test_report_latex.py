"""tables.tex: the main tables as LaTeX that compiles, with ±, bold and daggers."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import synthetic
from synthetic import settings

from bench.cli.matrix import report as command
from bench.errors import BenchError
from bench.report import write_report
from bench.report.latex import SYMBOLS, escaped

HOSTILE = r"[1] 50% of $x_1$ & {a}\input{/etc/passwd} #~^<|>"
TEX = shutil.which("pdflatex") or shutil.which("tectonic")


@pytest.fixture(scope="module")
def tex(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("reports") / "all"
    variants = {**synthetic.matrix(), HOSTILE: settings(), "003": synthetic.documents()["003-linear-20"]}
    synthetic.write(folder, variants, (0, 1, 2))
    synthetic.save(folder / "baselines.json", synthetic.baselines())
    write_report(folder, figures=False, latex=True)
    return (folder / "tables.tex").read_text(encoding="utf-8")


def test_a_tabular_for_each_main_table(tex: str):
    titles = re.findall(r"^% (.*)$", tex, re.MULTILINE)
    assert titles[0].startswith("Tables of the experiment synthetic")
    assert titles[1] == "One footing"
    assert titles[-2:] == ["Samples", "Published and measured"]
    assert any(title.startswith("MSE $") for title in titles[2:-2])
    assert tex.count(r"\toprule") == tex.count(r"\bottomrule") == len(titles) - 1
    for shown in (r"$\pm$", r"\textbf{", r"\textdagger", r"\textit{pixel mean}", r"$\beta$"):
        assert shown in tex


def test_rows_have_the_columns_and_braces_close(tex: str):
    for columns, body in re.findall(r"\\begin\{tabular\}\{(\w+)\}\n(.*?)\\end\{tabular\}", tex, re.DOTALL):
        rows = re.findall(r"^(.*) \\\\$", body, re.MULTILINE)
        assert rows
        assert {len(re.findall(r"(?<!\\)&", row)) + 1 for row in rows} == {len(columns)}
        for row in rows:
            plain = re.sub(r"\\[{}$]", "", row)
            assert plain.count("{") == plain.count("}")
            assert plain.count("$") % 2 == 0
            assert not row.startswith(("[", "*"))


def test_foreign_text_is_no_command(tex: str):
    assert r"\input{" not in tex
    assert r"{[}1] 50\% of \$x\_1\$ \& \{a\}\textbackslash{}input\{/etc/passwd\} \#" in tex
    for character in SYMBOLS:
        assert escaped(character) == SYMBOLS[character]
    assert escaped("a\nb\x00") == "a b"


@pytest.mark.skipif(TEX is None, reason="neither pdflatex nor tectonic is installed")
def test_it_compiles(tex: str, tmp_path: Path):
    (tmp_path / "tables.tex").write_text(tex, encoding="utf-8")
    head = r"\documentclass{article}\usepackage[T1]{fontenc}\usepackage{booktabs}\begin{document}"
    (tmp_path / "a.tex").write_text(head + r"\input{tables}\end{document}")
    words = [TEX, "a.tex"] if "tectonic" in str(TEX) else [TEX, "-halt-on-error", "a.tex"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:]


def test_it_is_written_when_asked_for_and_kept_up_to_date(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    folder = synthetic.write(tmp_path / "tiny", {"a": settings(), "b": settings(beta=0.5)}, (0, 1, 2))
    write_report(folder, figures=False)
    assert not (folder / "tables.tex").exists()
    command(folder, tables="latex")
    assert capsys.readouterr().out.split() == [str(folder / "report.md"), str(folder / "tables.tex")]
    (folder / "tables.tex").write_text("old")
    write_report(folder, figures=False)
    assert r"\toprule" in (folder / "tables.tex").read_text()
    with pytest.raises(BenchError, match="--tables 'word'; give latex"):
        command(folder, tables="word")
