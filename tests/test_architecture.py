"""The house rules of docs/architecture.md, held against the source.

`python tests/test_architecture.py` prints the rooms, the floors, the longest chain of imports and the lines.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from functools import cache
from graphlib import TopologicalSorter
from itertools import pairwise
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BENCH = ROOT / "bench"

# Imports go down only: a room (a folder, or a module beside the folders) imports from rows below its own.
# Nothing is exempt: imports inside functions and for type checkers count too.
LAYERS = (
    ("__init__", "__main__"),
    ("cli",),
    ("runs", "verify"),
    ("pictures", "report", "tracking", "doctor", "saved"),
    ("evaluation",),
    ("engine",),
    ("parts", "data", "store"),
    ("spec",),
    ("errors",),
)
HEAVY = {"torch", "torchvision", "mlflow", "sklearn", "matplotlib", "pandas", "scipy"}
CHAIN = "cli → runs"  # how the line of layers in docs/architecture.md starts


def module(path: Path) -> str:
    """`bench.report.tables` of bench/report/tables.py, and `bench.report` of bench/report/__init__.py."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def room(name: str) -> str:
    """`report` of bench.report.tables, and `doctor` of bench.doctor."""
    return name.split(".")[1] if "." in name else "__init__"


MODULES = {module(path): path for path in sorted(BENCH.rglob("*.py"))}


@cache
def tree(name: str) -> ast.Module:
    return ast.parse(MODULES[name].read_text(encoding="utf-8"))


@cache
def imported(name: str) -> frozenset[str]:
    """Dotted names of what a module imports, wherever it does; `from a import b` is a.b."""
    found = set()
    for node in ast.walk(tree(name)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name} imports relatively"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return frozenset(found)


@cache
def modules_imported(name: str) -> frozenset[str]:
    """The modules of bench that a module imports: the innermost that each dotted name leads to."""
    found = set()
    for full in imported(name):
        words = full.split(".")
        paths = (".".join(words[:n]) for n in range(len(words), 0, -1))
        found |= {next((path for path in paths if path in MODULES), name)}
    return frozenset(found - {name})


def reachable(start: str) -> set[str]:
    """The modules of bench that importing one of them may bring in, and itself."""
    found: set[str] = set()
    waiting = {start}
    while waiting:
        found.add(here := waiting.pop())
        waiting |= modules_imported(here) - found
    return found


def roots(names: set[str]) -> set[str]:
    """The packages that these modules import."""
    return {full.split(".")[0] for name in names for full in imported(name)}


def rank(name: str) -> int:
    found = [row for row, names in enumerate(LAYERS) if name in names]
    assert found, f"bench/{name} has no layer: give it a row in LAYERS"
    return found[0]


def longest_chain(graph: dict[str, set[str]]) -> list[str]:
    """The longest chain in which each imports the next; graphlib.CycleError where imports go in a circle."""
    chains: dict[str, list[str]] = {}
    for name in TopologicalSorter(graph).static_order():
        below = max((chains[other] for other in graph.get(name, ())), key=len, default=[])
        chains[name] = [name, *below]
    return max(chains.values(), key=len)


def of_modules() -> dict[str, set[str]]:
    return {name: set(modules_imported(name)) for name in MODULES}


def of_rooms() -> dict[str, set[str]]:
    rooms: dict[str, set[str]] = {}
    for name in MODULES:
        rooms.setdefault(room(name), set()).update(
            room(other) for other in modules_imported(name) if room(other) != room(name)
        )
    return rooms


@pytest.mark.parametrize("name", MODULES)
def test_imports_go_down_only(name: str) -> None:
    here = rank(room(name))
    upwards = {n for n in modules_imported(name) if room(n) != room(name) and rank(room(n)) <= here}
    assert not upwards, f"{name} (row {here}) imports {upwards} of its own row or above"


def test_imports_go_in_no_circle() -> None:
    """Rooms and modules alike, whichever way an import is written."""
    assert longest_chain(of_modules())
    assert longest_chain(of_rooms())


def test_the_house_is_low() -> None:
    chain = longest_chain(of_rooms())
    floors = [name for name in chain if name not in ("__main__", "__init__")]
    assert len(floors) <= 8, " → ".join(chain)
    entries = [path for path in BENCH.iterdir() if not path.name.startswith("_")]
    assert len(entries) <= 16


def test_the_rows_are_those_of_the_documentation() -> None:
    """docs/architecture.md gives the rooms from top to bottom; the table LAYERS says the same."""
    lines = (ROOT / "docs/architecture.md").read_text().splitlines()
    line = next(text for text in lines if text.startswith(CHAIN))
    groups = [group.split(" | ") for group in line.split(" → ")]
    for upper, lower in pairwise(groups):
        assert max(map(rank, upper)) < min(map(rank, lower))
    rooms = {room(name) for name in MODULES} - {"__main__", "__init__"}
    assert {name for group in groups for name in group} == rooms


def test_the_documentation_names_every_room() -> None:
    text = (ROOT / "docs/architecture.md").read_text()
    rooms = {room(name) for name in MODULES} - {"__init__", "__main__"}
    absent = {name for name in rooms if not re.search(rf"── {name}(\.py|/) ", text)}
    assert not absent, "give each a line in the tree of docs/architecture.md"


def test_a_spec_is_checked_without_anything_heavy() -> None:
    assert not roots(reachable("bench.spec.resolve") | reachable("bench.spec.registry")) & HEAVY


@pytest.mark.parametrize("words", [["--help"], ["parts"], ["run", "bad.yaml"]], ids=" ".join)
def test_help_parts_and_yaml_errors_import_nothing_heavy(words: list[str], tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("question: 1\nvariants: {}\n")
    command = [sys.executable, "-X", "importtime", "-m", "bench", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == (2 if "bad.yaml" in words else 0), done.stdout
    loaded = {
        line.rsplit("|", 1)[1].strip().split(".")[0] for line in done.stderr.splitlines() if "|" in line
    }
    assert "bench" in loaded
    assert not loaded & HEAVY


def test_mlflow_is_imported_in_one_place() -> None:
    assert {room(name) for name in MODULES if "mlflow" in roots({name})} == {"tracking"}


def test_ray_is_imported_by_functions_of_one_module_when_they_are_called() -> None:
    assert {name for name in MODULES if "ray" in roots({name})} == {"bench.runs.cluster"}
    top = [n for n in tree("bench.runs.cluster").body if isinstance(n, ast.Import | ast.ImportFrom)]
    assert "ray" not in ast.unparse(ast.Module(top, []))


def test_the_report_reads_records_only() -> None:
    below = set().union(*(reachable(name) for name in MODULES if room(name) == "report"))
    assert "torch" not in roots(below)
    assert {room(name) for name in below} <= {"report", "evaluation", "store", "errors", "__init__"}


@pytest.mark.parametrize("name", MODULES)
def test_modules_and_functions_are_short(name: str) -> None:
    assert len(MODULES[name].read_text(encoding="utf-8").splitlines()) < 350
    functions = [n for n in ast.walk(tree(name)) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
    assert not {f.name for f in functions if (f.end_lineno or 0) - f.lineno >= 50}
    assert MODULES[name].stem not in {"utils", "common", "core", "base", "helpers", "misc"}


@pytest.mark.parametrize("name", MODULES)
def test_what_is_public_says_what_it_is(name: str) -> None:
    """Modules, top-level classes and functions, and the methods of the classes."""
    assert ast.get_docstring(tree(name)), "the module has no docstring"
    top = [n for n in tree(name).body if isinstance(n, ast.ClassDef | ast.FunctionDef)]
    classes = [n for n in top if isinstance(n, ast.ClassDef) and not n.name.startswith("_")]
    methods = [m for c in classes for m in c.body if isinstance(m, ast.FunctionDef)]
    silent = {n.name for n in (*top, *methods) if not n.name.startswith("_") and not ast.get_docstring(n)}
    assert not silent


if __name__ == "__main__":
    lines = {name: len(path.read_text().splitlines()) for name, path in MODULES.items()}
    rooms = of_rooms()
    for one in sorted(rooms, key=lambda one: (rank(one), one)):
        size = sum(n for name, n in lines.items() if room(name) == one)
        print(f"{one:12} {size:6} lines, imports {', '.join(sorted(rooms[one])) or 'nothing'}")
    print(f"bench/ {sum(lines.values())} lines in {len(lines)} modules")
    print(f"tests/ {sum(len(path.read_text().splitlines()) for path in ROOT.glob('tests/*.py'))} lines")
    print(f"entries of bench/: {', '.join(sorted(path.name for path in BENCH.iterdir()))}")
    print(f"rooms:   {' → '.join(longest_chain(rooms))}")
    print(f"modules: {' → '.join(longest_chain(of_modules()))}")
