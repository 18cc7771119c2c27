"""The house rules of docs/architecture.md, held against the source."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BENCH = ROOT / "bench"

# Imports go down only: a module imports from rows below its own, never from its own row or above.
# A folder is one unit.
LAYERS = (
    ("__main__",),
    ("cli",),
    ("printing",),
    ("campaign", "generate", "verify"),
    ("cluster",),
    ("executor", "plan", "forecast", "progress", "speed", "sync"),
    ("runner", "report", "doctor", "baselines"),
    ("album",),
    ("pictures", "plots"),
    ("evaluate", "replicas"),
    ("train",),
    ("fast", "stacked"),
    ("step", "own", "footing", "latent", "samples"),
    ("objectives", "optimizers", "metrics", "tracking", "saved", "checkpoint", "takeover"),
    ("model",),
    ("data", "pixels", "records", "lock", "tiles"),
    ("resolve",),
    ("expand",),
    ("axes",),
    ("spec", "device"),
    ("parts",),
    ("check", "settings"),
    ("source",),
    ("options",),
    ("errors",),
    ("__init__",),
)
DOORS = {("spec", "resolve")}  # spec.load: what readers call is there, what builds on spec's types is above
LIGHT = (
    "spec",
    "source",
    "parts",
    "errors",
    "options",
)  # and `bench --help`: an answer in under half a second
HEAVY = {"torch", "torchvision", "mlflow", "sklearn", "matplotlib", "pandas", "scipy"}
CHAIN = "cli → executor → runner"  # how the line of layers in docs/architecture.md starts

MODULES = sorted(BENCH.rglob("*.py"))
NAMES = [str(path.relative_to(BENCH)) for path in MODULES]


def unit(path: Path) -> str:
    """`train` of bench/train.py, and `report` of bench/report/tables.py."""
    return path.relative_to(BENCH).parts[0].removesuffix(".py")


@lru_cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def executed(node: ast.AST) -> Iterator[ast.AST]:
    """Every node below, but for what only a type checker sees."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and ast.unparse(child.test) in {"TYPE_CHECKING", "typing.TYPE_CHECKING"}:
            continue
        yield child
        yield from executed(child)


def imported(path: Path) -> Iterator[str]:
    """Dotted names of what a module imports, at its top or inside a function; `from a import b` is a.b."""
    for node in executed(tree(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def units_imported(path: Path) -> set[str]:
    """Units of bench that a module imports, other than its own folder."""
    names = (name.split(".") for name in imported(path))
    found = {parts[1] if is_unit(parts[1]) else "__init__" for parts in names if parts[0] == "bench"}
    return found - {unit(path)}


def is_unit(name: str) -> bool:
    return (BENCH / name).is_dir() or (BENCH / f"{name}.py").exists()


def rank(name: str) -> int:
    found = [row for row, names in enumerate(LAYERS) if name in names]
    assert found, f"bench.{name} has no layer: give it a row in LAYERS"
    return found[0]


def reachable(start: str) -> set[str]:
    """Units of bench that importing one of them may bring in."""
    found: set[str] = set()
    waiting = {start}
    while waiting:
        here = waiting.pop()
        found.add(here)
        waiting |= {name for path in MODULES if unit(path) == here for name in units_imported(path)} - found
    return found - {start}


def test_every_module_has_a_layer() -> None:
    named = [name for row in LAYERS for name in row]
    assert len(named) == len(set(named))
    assert {unit(path) for path in MODULES} <= set(named), "give it a row in LAYERS"


@pytest.mark.parametrize("path", MODULES, ids=NAMES)
def test_imports_go_down_only(path: Path) -> None:
    here = rank(unit(path))
    below = units_imported(path) - {lower for upper, lower in DOORS if upper == unit(path)}
    upwards = {name for name in below if rank(name) <= here}
    assert not upwards, f"{path.name} (row {here}) imports {upwards} of its own row or above"


def test_the_rows_are_those_of_the_documentation() -> None:
    """docs/architecture.md gives the chain in short; no row of LAYERS contradicts it."""
    line = next(
        text for text in (ROOT / "docs/architecture.md").read_text().splitlines() if text.startswith(CHAIN)
    )
    groups = [[rank(name) for name in group.split(" | ")] for group in line.split(" → ")]
    assert len(groups) == 8
    for upper, lower in pairwise(groups):
        assert max(upper) < min(lower)


def test_the_documentation_names_every_module() -> None:
    text = (ROOT / "docs/architecture.md").read_text()
    units = {unit(path) for path in MODULES} - {"__init__", "__main__"}
    absent = {name for name in units if not re.search(rf"── {name}(\.py|/) ", text)}
    assert not absent, "give each a line in the tree of docs/architecture.md"


@pytest.mark.parametrize("name", LIGHT)
def test_what_answers_at_once_imports_nothing_heavy(name: str) -> None:
    units = {name, *reachable(name)}
    roots = {found.split(".")[0] for path in MODULES if unit(path) in units for found in imported(path)}
    assert not roots & HEAVY


def test_help_imports_nothing_heavy() -> None:
    command = [sys.executable, "-X", "importtime", "-m", "bench", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    loaded = {
        line.rsplit("|", 1)[1].strip().split(".")[0] for line in done.stderr.splitlines() if "|" in line
    }
    assert "bench" in loaded
    assert not loaded & HEAVY
    assert "run" in done.stdout


def test_mlflow_is_imported_in_one_place() -> None:
    places = {
        unit(path) for path in MODULES if any(name.split(".")[0] == "mlflow" for name in imported(path))
    }
    assert places <= {"tracking"}


def test_the_report_reads_records_only() -> None:
    assert not reachable("report") & {
        "train",
        "runner",
        "model",
        "evaluate",
        "data",
        "spec",
        "executor",
        "tracking",
    }


@pytest.mark.parametrize("path", MODULES, ids=NAMES)
def test_modules_and_functions_are_short(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) < 350
    functions = [n for n in ast.walk(tree(path)) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
    assert not {f.name for f in functions if (f.end_lineno or 0) - f.lineno >= 50}
    assert path.stem not in {"utils", "common", "core", "base", "helpers", "misc"}


@pytest.mark.parametrize("path", MODULES, ids=NAMES)
def test_what_is_public_says_what_it_is(path: Path) -> None:
    """Modules, top-level classes and functions, and the methods of the classes."""
    assert ast.get_docstring(tree(path)), "the module has no docstring"
    top = [n for n in tree(path).body if isinstance(n, ast.ClassDef | ast.FunctionDef)]
    classes = [n for n in top if isinstance(n, ast.ClassDef) and not n.name.startswith("_")]
    methods = [m for c in classes for m in c.body if isinstance(m, ast.FunctionDef)]
    silent = {n.name for n in (*top, *methods) if not n.name.startswith("_") and not ast.get_docstring(n)}
    assert not silent
