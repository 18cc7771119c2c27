"""What can be named in YAML: the registries of parts, read from source without importing torch.

A registry is a dict literal at the top level of its module, `name -> class or function`. A part's options are
the keyword-only parameters of its constructor (or of itself, a function), typed by `bench.spec.options`.
"""

from __future__ import annotations

import ast
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, create_model

from bench.errors import BenchError, did_you_mean
from bench.spec import options as option_types
from bench.spec.check import describe
from bench.spec.source import given_text

# kind -> module, registry
REGISTRIES = {
    "encoder": ("parts/networks.py", "ENCODERS"),
    "decoder": ("parts/networks.py", "DECODERS"),
    "posterior": ("parts/posteriors.py", "POSTERIORS"),
    "input": ("parts/pixels.py", "PIXELS"),
    "target": ("parts/pixels.py", "PIXELS"),
    "likelihood": ("parts/likelihoods.py", "LIKELIHOODS"),
    "objective": ("parts/objectives.py", "OBJECTIVES"),
    "optimizer": ("parts/optimizers.py", "OPTIMIZERS"),
    "schedule": ("parts/optimizers.py", "SCHEDULES"),
    "dataset": ("data/datasets.py", "DATASETS"),
    "metric": ("evaluation/metrics.py", "METRICS"),
}

_NAMESPACE = {**vars(typing), **vars(option_types)}


@dataclass(frozen=True)
class Option:
    """An option of a part: its name, what it allows in words, its default as written (None: none)."""

    name: str
    allowed: str
    default: str | None

    @property
    def signature(self) -> str:
        """How a listing shows the option: `lr=0.001`, or `hidden=…` where it has no default."""
        return f"{self.name}={self.default or '…'}"


@dataclass(frozen=True)
class Entry:
    """What can be named, with its first docstring line and the model that checks its options."""

    kind: str
    name: str
    summary: str
    options: tuple[Option, ...]
    model: type[BaseModel]
    unit: str = ""  # of a metric
    reference: str = ""  # of a metric


def part_kinds() -> tuple[str, ...]:
    """The kinds of parts, datasets and metrics included, in the order that `bench parts` prints them."""
    return tuple(REGISTRIES)


def entries(kind: str) -> dict[str, Entry]:
    """Everything of one kind that can be named. Raises BenchError for an unknown kind."""
    if kind not in REGISTRIES:
        raise BenchError(f"unknown kind of part {given_text(kind)}{did_you_mean(kind, REGISTRIES)}")
    module, registry = REGISTRIES[kind]
    return read_registry(Path(__file__).parents[1] / module, registry, kind)


def names(kind: str) -> tuple[str, ...]:
    """The names of one kind, in the registry's order."""
    return tuple(entries(kind))


def part(kind: str, name: str) -> Entry:
    """One part. Raises BenchError, with the nearest known name, for an unknown one."""
    known = entries(kind)
    if name not in known:
        raise BenchError(f"unknown {kind} {given_text(name)}{did_you_mean(name, known)}")
    return known[name]


@lru_cache
def read_registry(path: Path, registry: str, kind: str) -> dict[str, Entry]:
    """Read a registry from a module's source. Raises BenchError where it is none."""
    module = _module(path)
    value = module.assigned.get(registry)
    if isinstance(value, ast.Tuple):
        rows = (_metric(module, kind, row) for row in value.elts if isinstance(row, ast.Call))
        return {row.name: row for row in rows}
    if not isinstance(value, ast.Dict):
        raise BenchError(
            f"{path}: no dict literal {registry}; a registry is `{registry} = {{'name': Part, ...}}`"
        )
    result = {}
    for key, item in zip(value.keys, value.values, strict=True):
        if (
            not isinstance(key, ast.Constant)
            or not isinstance(item, ast.Name)
            or item.id not in module.defined
        ):
            raise BenchError(
                f"{path}:{item.lineno}: {registry} holds other than 'name': a class or function of this file"
            )
        result[str(key.value)] = _entry(module, kind, str(key.value), item.id)
    return result


@dataclass(frozen=True)
class _Module:
    path: Path
    defined: dict[str, ast.ClassDef | ast.FunctionDef]
    assigned: dict[str, ast.expr]


@lru_cache
def _module(path: Path) -> _Module:
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (OSError, SyntaxError) as error:
        raise BenchError(
            f"{path}: cannot be read as Python ({error}); the installation is incomplete"
        ) from None
    defined = {n.name: n for n in tree.body if isinstance(n, ast.ClassDef | ast.FunctionDef)}
    assigned = {
        t.id: n.value
        for n in tree.body
        if isinstance(n, ast.Assign)
        for t in n.targets
        if isinstance(t, ast.Name)
    }
    assigned |= {
        n.target.id: n.value
        for n in tree.body
        if isinstance(n, ast.AnnAssign) and isinstance(n.target, ast.Name) and n.value
    }
    return _Module(path, defined, assigned)


def _entry(module: _Module, kind: str, name: str, symbol: str) -> Entry:
    node = module.defined[symbol]
    fields = {a.arg: (_annotation(a), default) for a, default in _keyword_only(module, node)}
    shown = tuple(
        Option(key, describe(annotation), None if default is None else ast.unparse(default))
        for key, (annotation, default) in fields.items()
    )
    return Entry(kind, name, _summary(node), shown, _model(f"{kind} {name}", fields))


def _model(title: str, fields: dict[str, tuple[Any, ast.expr | None]]) -> type[BaseModel]:
    config = ConfigDict(strict=True, extra="forbid", frozen=True, defer_build=True, protected_namespaces=())
    checks: dict[str, Any] = {
        key: (annotation, ... if default is None else ast.literal_eval(default))
        for key, (annotation, default) in fields.items()
    }
    return create_model(title, __config__=config, **checks)


def _keyword_only(
    module: _Module, node: ast.ClassDef | ast.FunctionDef
) -> Iterator[tuple[ast.arg, ast.expr | None]]:
    """Keyword-only parameters of a function, or of a class's own or nearest inherited `__init__`."""
    while isinstance(node, ast.ClassDef):
        own = [n for n in node.body if isinstance(n, ast.FunctionDef) and n.name == "__init__"]
        bases = [
            module.defined[b.id] for b in node.bases if isinstance(b, ast.Name) and b.id in module.defined
        ]
        if not (own or bases):
            return iter(())
        node = (own or bases)[0]
    return zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True)


def _annotation(argument: ast.arg) -> Any:
    if argument.annotation is None:
        return Any
    # Our own source, never a user's text: the names of bench.spec.options and typing
    return eval(ast.unparse(argument.annotation), dict(_NAMESPACE))  # noqa: S307


def _summary(node: ast.ClassDef | ast.FunctionDef) -> str:
    return (ast.get_docstring(node) or "").partition("\n")[0]


def _metric(module: _Module, kind: str, row: ast.Call) -> Entry:
    """A row of the table of metrics: its literals, and the module's text constants that it names."""
    definition = module.defined["Metric"]
    order = [
        n.target.id
        for n in definition.body
        if isinstance(n, ast.AnnAssign) and isinstance(n.target, ast.Name)
    ]
    given = dict(zip(order, row.args, strict=False)) | {k.arg: k.value for k in row.keywords if k.arg}
    texts = {}
    for key, value in given.items():
        literal = module.assigned.get(value.id, value) if isinstance(value, ast.Name) else value
        if isinstance(literal, ast.Constant) and isinstance(literal.value, str):
            texts[key] = literal.value
    summary = texts.get("description") or texts.get("title", "")
    model = _model(texts["name"], {})
    return Entry(kind, texts["name"], summary, (), model, texts.get("unit", ""), texts.get("reference", ""))


def listing(kind: str | None = None) -> list[str]:
    """Every part, or those of one kind, a line each: name, options with their defaults, and what it is.

    Raises BenchError for an unknown kind.
    """
    lines = []
    for each in part_kinds() if kind is None else (kind,):
        lines.append(each)
        for entry in entries(each).values():
            options = ", ".join(option.signature for option in entry.options)
            lines.append(f"  {entry.name}{f'({options})' if options else ''}: {entry.summary}")
    return lines
