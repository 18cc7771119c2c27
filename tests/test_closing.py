"""What `bench run` ends with: a table that fits, the answer as sure as the report is, and where to look."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import synthetic
from rich.console import Console
from synthetic import settings

from bench.cli.closing import best, print_end, table
from bench.report.results import load
from bench.runs.matrix import Matrix
from bench.runs.progress import Display


def levels(means: Mapping[str, float], spread: float = 0.1) -> synthetic.Measure:
    """Binarised ELBO by variant: its mean, and three seeds beside each other."""

    def measure(name: str, _: synthetic.Settings, seed: int) -> dict[str, float]:
        return {"elbo_bernoulli": means[name] + spread * (seed - 1), "mse": 0.01 + 0.001 * seed}

    return measure


def folder(path: Path, means: Mapping[str, float], spread: float = 0.1, seeds: int = 3) -> Path:
    variants = {name: settings() for name in means}
    return synthetic.write(path, variants, seeds=range(seeds), measure=levels(means, spread))


@pytest.mark.parametrize(
    ("means", "spread", "seeds", "told"),
    [
        ({"a": -90.0, "b": -100.0}, 0.1, 3, "a: provisionally better than every other by ELBO, binarised"),
        ({"a": -90.0, "b": -100.0}, 0.1, 5, "a: better than every other by ELBO, binarised"),
        ({"a": -90.0, "b": -90.1}, 1.0, 3, "a: best mean by ELBO, binarised, not distinguishable from b"),
        ({"a": -90.0, "b": -90.1, "c": -90.2}, 1.0, 3,
         "a: best mean by ELBO, binarised, not distinguishable from b and 1 more"),
        ({"a": -90.0, "b": -100.0}, 0.1, 2, "a: best mean by ELBO, binarised, not told apart yet"),
    ],
)  # fmt: skip
def test_the_answer_is_as_sure_as_the_ranking(
    means: dict[str, float], spread: float, seeds: int, told: str, tmp_path: Path
) -> None:
    found = best(load(folder(tmp_path, means, spread, seeds)))["best"]
    assert found.startswith(told)
    assert ("not told apart" in told) or found == told


def test_one_variant_is_best_of_nothing(tmp_path: Path) -> None:
    assert best(load(folder(tmp_path, {"a": -90.0}))) == {}


@pytest.mark.parametrize("width", [80, 100])
def test_the_table_fits_and_the_best_come_first(width: int, tmp_path: Path) -> None:
    results = load(synthetic.write(tmp_path, synthetic.matrix()))
    head, *rows = [line.plain for line in table(results, width)]
    assert all(len(line) <= width for line in (head, *rows))
    assert re.split(r"\s{2,}", head)[1] == "ln p(x), binarised ↑"
    assert ("ELBO" in head) == (width == 100)
    order = results.rankings["log_px_bernoulli"]
    assert rows[0].startswith(f"{order.leader} ")
    assert rows[12] == "… and 8 more, in the report"


def a_matrix(path: Path) -> Matrix:
    """Two runs that ended, the first under two names, and one that was there under two."""
    runs = [SimpleNamespace(id=name, todo=todo, key=name[0]) for name, todo in (
        ("a", True), ("a again", True), ("b", True), ("c", False), ("c again", False)
    )]  # fmt: skip
    plan = SimpleNamespace(warnings=(), runs=runs, todo=[runs[0], runs[2]], folder=path)
    tracker = SimpleNamespace(page="http://127.0.0.1:5000/#/experiments/1")
    outcomes = {"a": "finished", "a again": "finished", "b": "failed"}
    return cast(Matrix, SimpleNamespace(
        plan=plan, outcomes=outcomes, faults=(), stopped="", tracker=tracker, budget=None, left=0,
    ))  # fmt: skip


def test_the_end_says_what_became_which_is_best_and_where_to_look(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert print_end(a_matrix(folder(tmp_path, {"a": -90.0, "[bold]b": -100.0}))) == 1
    told = capsys.readouterr().out
    assert "\N{ESCAPE}" not in told  # no terminal, no styles
    assert "[bold]b" in told  # a name is no markup
    table, ends = told.split("\n\n")
    assert table.splitlines()[1].startswith("a ")
    assert [line.split()[0] for line in ends.splitlines() if line[:1] != " "] == [
        "runs", "best", "report", "MLflow"
    ]  # fmt: skip
    assert "1 finished, 1 failed, 1 skipped" in ends
    assert str(tmp_path / "report.md") in ends  # whole, however long


def test_bars_of_long_names_fit_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = io.StringIO()
    console = Console(width=80, force_terminal=True, color_system=None, file=shown)
    monkeypatch.setattr("bench.runs.progress.Console", lambda **_: Console(file=io.StringIO()))
    display = Display({"a": 1.0}, 2.0)
    display.live = True
    display.start("a", f"{'long-' * 12}name · seed 0", 20)
    row: dict[str, Any] = {"epoch": 7, "images_per_second": 12345.6, "elbo": -107.33}
    display.epoch("a", row)
    console.print(display._bars.get_renderable())
    line = shown.getvalue().splitlines()[1]
    assert len(line) <= 80
    for part in ("long-", "… · seed 0", "7/20", "0:00:00", "ELBO −107.33"):
        assert part in line
