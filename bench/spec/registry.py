"""Read what YAML can name from Python source, without importing it: names, options, first docstring lines.

A registry is a dict literal at the top level of its module, `name -> class or function`. A part's options are
the keyword-only parameters of its constructor (or of itself, a function), typed by `bench.spec.options`. A
file of the user's own is read by the same rule: its classes and functions are what it has.
"""

from __future__ import annotations

import ast
import hashlib
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import GenericAlias
from typing import Any, Literal, get_origin

from pydantic import BaseModel, ConfigDict, create_model

from bench.errors import BenchError, did_you_mean, printable
from bench.spec import options as option_types
from bench.spec.check import describe
from bench.spec.source import content, given_text

# kind -> module, registry
REGISTRIES = {
    "encoder": ("parts/networks.py", "ENCODERS"),
    "decoder": ("parts/networks.py", "DECODERS"),
    "posterior": ("parts/posteriors.py", "POSTERIORS"),
    "prior": ("parts/priors.py", "PRIORS"),
    "input": ("parts/pixels.py", "INPUTS"),
    "target": ("parts/pixels.py", "PIXELS"),
    "likelihood": ("parts/likelihoods.py", "LIKELIHOODS"),
    "objective": ("parts/objectives.py", "OBJECTIVES"),
    "optimizer": ("parts/optimizers.py", "OPTIMIZERS"),
    "schedule": ("parts/optimizers.py", "SCHEDULES"),
    "dataset": ("data/datasets.py", "DATASETS"),
}
VISION = ("data/vision.py", "VISION")  # torchvision's: the shape of an image, its file, what it is
BENCH = Path(__file__).parents[1]

# What an option can be annotated with, beside Literal, list and |
TYPES: dict[str, Any] = {"int": int, "float": option_types.Real, "bool": bool, "str": str} | {
    name: value for name, value in vars(option_types).items() if get_origin(value) is not None
}
# Names that the checking model has for itself, or that YAML has
RESERVED = {"name", "file", *dir(BaseModel)}
CONFIG = ConfigDict(
    strict=True, extra="forbid", frozen=True, defer_build=True, validate_default=True, protected_namespaces=()
)


@dataclass(frozen=True)
class Entry:
    """What can be named: its first docstring line, its options as `lr=0.001`, the model that checks them."""

    name: str
    summary: str
    options: tuple[str, ...]
    model: type[BaseModel]


@dataclass(frozen=True, eq=False)
class Module:
    """A Python file as parsed: what it defines and what it assigns at its top level."""

    path: Path
    defined: dict[str, ast.ClassDef | ast.FunctionDef]
    assigned: dict[str, ast.expr]
    sha256: str

    def said(self, symbol: str) -> dict[str, object]:
        """Read the literals that a class assigns to its attributes; nothing of a function."""
        node = self.defined[symbol]
        values = _assigned(node.body) if isinstance(node, ast.ClassDef) else {}
        return {name: value.value for name, value in values.items() if isinstance(value, ast.Constant)}

    def entry(self, kind: str, symbol: str, name: str) -> Entry:
        """Read a class or function as the part `name`. Raises BenchError where its options cannot be read."""
        fields: dict[str, Any] = {}
        shown = []
        for argument, default in _keyword_only(self, self.defined[symbol]):
            where = f"{self.path.name}:{argument.lineno}: option {argument.arg} of {symbol}"
            if argument.arg.startswith("_") or argument.arg in RESERVED:
                raise BenchError(f"{where}: this name is taken; allowed: another name; rename it")
            annotation = _type(argument.annotation, where)
            try:
                value = ... if default is None else ast.literal_eval(default)
            except (ValueError, TypeError, MemoryError, RecursionError):
                what = f"{where}: its default is computed; allowed: a literal such as 0.1"
                raise BenchError(f"{what}; write the value out") from None
            fields[argument.arg] = (annotation, value)
            shown.append(f"{argument.arg}={'…' if default is None else ast.unparse(default)}")
        summary = (ast.get_docstring(self.defined[symbol]) or "").partition("\n")[0]
        return Entry(name, summary, tuple(shown), _model(kind, name, fields))


def _model(kind: str, name: str, fields: dict[str, Any]) -> type[BaseModel]:
    return create_model(f"{kind} {name}", __config__=CONFIG, **fields)


@lru_cache
def entries(kind: str) -> dict[str, Entry]:
    """Read everything of one kind that can be named, in the registry's order, a library's own last."""
    module, registry = REGISTRIES[kind]
    theirs = _table(module, f"TORCH_{registry}")
    if kind == "dataset":
        theirs = {name: (told, {}) for name, (_, _, told) in _table(*VISION).items()}
    found = read_registry(BENCH / module, registry, kind)
    return found | {name: _of_torch(kind, name, *said) for name, said in theirs.items()}


def _of_torch(kind: str, name: str, summary: str, options: dict[str, Any]) -> Entry:
    """Make the entry of a class that torch or torchvision has."""
    types, fields = option_types.TORCH_OPTIONS, {}
    for key, default in options.items():
        other = bool if isinstance(default, bool) else option_types.NonNegative
        fields[key] = (types.get(f"{name}.{key}", types.get(key, other)), default)
    shown = tuple(f"{key}={'…' if default is ... else default}" for key, default in options.items())
    return Entry(name, summary, shown, _model(kind, name, fields))


def part(kind: str, name: str) -> Entry:
    """Read one part. Raises BenchError, with the nearest known name, for an unknown one."""
    known = entries(kind)
    if name not in known:
        raise BenchError(f"unknown {kind} {given_text(name)}{did_you_mean(name, known)}")
    return known[name]


def image_shape(dataset: str) -> tuple[int, ...]:
    """Read the shape of a dataset's images from the table SHAPES beside its registry, or torchvision's."""
    own = _table(REGISTRIES["dataset"][0], "SHAPES")
    shape: tuple[int, ...] = own[dataset] if dataset in own else _table(*VISION)[dataset][0]
    return shape


@lru_cache
def _table(module: str, name: str) -> dict[str, Any]:
    """Read a dict of literals from a module's source; empty where it has none of that name."""
    table = _module(BENCH / module).assigned.get(name)
    return ast.literal_eval(table) if table else {}


def metrics() -> list[str]:
    """Read the names of the table of metrics: the first argument of each of its rows."""
    table = _module(BENCH / "evaluation/metrics.py").assigned["METRICS"]
    rows = table.elts if isinstance(table, ast.Tuple) else []
    return [ast.literal_eval(row.args[0]) for row in rows if isinstance(row, ast.Call)]


@lru_cache
def read_registry(path: Path, registry: str, kind: str) -> dict[str, Entry]:
    """Read a registry from a module's source. Raises BenchError where it is none."""
    module = _module(path)
    value = module.assigned.get(registry)
    if not isinstance(value, ast.Dict):
        what = f"{path}: no dict literal {registry}"
        raise BenchError(f"{what}; a registry is `{registry} = {{'name': Part, ...}}`")
    result = {}
    for key, item in zip(value.keys, value.values, strict=True):
        known = isinstance(item, ast.Name) and item.id in module.defined
        if not isinstance(key, ast.Constant) or not isinstance(item, ast.Name) or not known:
            what = f"{path}:{item.lineno}: {registry} holds other than"
            raise BenchError(f"{what} 'name': a class or function of this file")
        result[str(key.value)] = module.entry(kind, item.id, str(key.value))
    return result


@lru_cache
def _module(path: Path) -> Module:
    try:
        return read_module(path)
    except BenchError as error:
        raise BenchError(f"{error}; the installation is incomplete") from None


def read_module(path: Path) -> Module:
    """Parse a Python file, nothing of which is run. Raises BenchError for one that cannot be parsed."""
    file, source = printable(path.name), content(path, "a Python file (.py)")
    try:
        with warnings.catch_warnings(action="ignore"):  # such as of an escape: no business of a check
            tree = ast.parse(source)
    except SyntaxError as error:
        what = printable(f"{file}:{error.lineno or 1}: is not Python: {error.msg}")
        raise BenchError(f"{what}; correct it") from None
    except (ValueError, RecursionError, MemoryError):
        raise BenchError(f"{file}: is not Python; is this the right file?") from None
    defined = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef | ast.FunctionDef)}
    return Module(path.resolve(), defined, _assigned(tree.body), hashlib.sha256(source).hexdigest())


def _assigned(body: list[ast.stmt]) -> dict[str, ast.expr]:
    """Find what the statements of a module or a class assign to names."""
    found: dict[str, ast.expr] = {}
    for node in body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value:
            found |= {t.id: node.value for t in targets if isinstance(t, ast.Name)}
    return found


def _type(node: ast.expr | None, where: str) -> Any:
    """Work out an annotation of an option: the names in TYPES, Literal, list and |, and nothing else."""
    match node:
        case ast.Name(id=name) if name in TYPES:
            return TYPES[name]
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            return _type(left, where) | _type(right, where)
        case ast.Subscript(value=ast.Name(id="list"), slice=ast.Name() | ast.Subscript() as item):
            inner = _type(item, where)
            if "a list" not in describe(inner):
                return GenericAlias(list, (inner,))
        case ast.Subscript(value=ast.Name(id="Literal"), slice=choices):
            items = choices.elts if isinstance(choices, ast.Tuple) else [choices]
            words = tuple(item.value for item in items if isinstance(item, ast.Constant))
            shown = [str(word) for word in words if isinstance(word, str | int)]
            if len(shown) == len(items) and "".join(shown).isprintable() and len("".join(shown)) < 1000:
                literal: Any = Literal
                return literal[words]
    what = f"{where}: {f'annotation {given_text(ast.unparse(node))}' if node else 'no annotation'}"
    allowed = f"allowed: {', '.join(TYPES)}, Literal[...], list[...] and A | B of these"
    raise BenchError(f"{what}; {allowed}; write one of them")


def _keyword_only(
    module: Module, node: ast.ClassDef | ast.FunctionDef
) -> Iterator[tuple[ast.arg, ast.expr | None]]:
    """Find the keyword-only parameters of a function, or of a class's own or nearest inherited `__init__`."""
    seen = []
    while isinstance(node, ast.ClassDef) and node not in seen:
        seen.append(node)
        own = [n for n in node.body if isinstance(n, ast.FunctionDef) and n.name == "__init__"]
        names = (base.id for base in node.bases if isinstance(base, ast.Name))
        found = [*own, *(module.defined[name] for name in names if name in module.defined)]
        if not found:
            break
        node = found[0]
    if isinstance(node, ast.ClassDef):
        return iter(())
    return zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True)
