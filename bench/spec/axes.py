"""The matrix of an experiment: every combination of its axes' values less `exclude`, as settings."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass

from bench.errors import did_you_mean
from bench.spec import registry as parts
from bench.spec.experiment import MAX_VARIANTS
from bench.spec.settings import PARTS, SETTINGS, overlaid
from bench.spec.source import Leaf, Mapping, Node, Place, Sequence, given, given_text

SYMBOLS = {"latent": "z", "beta": "β"}


@dataclass(frozen=True)
class Cell:
    """One combination: its generated name, its label, each axis's value as written, and its settings."""

    name: str
    label: str
    axes: dict[str, str]
    block: Mapping
    place: Place


def cells(matrix: Mapping) -> Iterator[Cell]:
    """Every combination less the excluded ones, the last axis fastest. Raises BenchError with the place."""
    axes = {
        name: _axis(name, node, matrix.places[name]) for name, node in matrix.items() if name != "exclude"
    }
    if not axes:
        raise matrix.error(
            "matrix has no axis; allowed: axis: [values]; add one, such as `beta: [1, 32/784]`"
        )
    _refuse_twice(matrix, axes)
    if (size := math.prod(len(values) for values in axes.values())) > MAX_VARIANTS:
        raise matrix.error(
            f"matrix of {size} variants; allowed: at most {MAX_VARIANTS}; split the experiment"
        )
    points = [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]
    for exclude in _excludes(matrix.get("exclude"), axes):
        left = [point for point in points if not all(_is(point[a], v) for a, v in exclude.items())]
        if len(left) == len(points):
            what = "this exclude matches no combination that is left; allowed: values as the axes write them"
            raise exclude.error(f"{what}; correct or remove it")
        points = left
    if not points:
        raise matrix.error("every combination is excluded; allowed: at least one left; remove an exclude")
    return (_cell(point, matrix) for point in points)


def _axis(name: str, node: Node, place: Place) -> Sequence:
    if name not in ("architecture", "beta", *SETTINGS):
        kind, _, option = name.partition(".")
        if kind not in PARTS or not option:
            hint = did_you_mean(name, ("architecture", "beta", *SETTINGS, "exclude"))
            raise place.error(f"unknown axis {given_text(name)}{hint}, or part.option such as optimizer.lr")
        options = {o.name for entry in parts.entries(kind).values() for o in entry.options}
        if option not in options:
            hint = did_you_mean(option, options) if options else "; it has none"
            raise place.error(f"axis {name}: no {kind} has an option {given_text(option)}{hint}")
    if not isinstance(node, Sequence) or not node:
        what = "an empty list" if isinstance(node, Sequence) else given(node)
        raise node.error(f"axis {name} is {what}; allowed: a list of values; write `{name}: [...]`")
    return node


def _path(axis: str) -> str:
    return "objective.beta" if axis == "beta" else axis


def _refuse_twice(matrix: Mapping, axes: dict[str, Sequence]) -> None:
    paths: dict[str, str] = {}
    for axis in axes:
        if (other := paths.setdefault(_path(axis), axis)) != axis:
            raise matrix.places[axis].error(f"axes {other} and {axis} are the same; remove one of the two")


def _excludes(node: Node | None, axes: dict[str, Sequence]) -> Iterator[Mapping]:
    if node is None:
        return
    if not isinstance(node, Sequence):
        what = f"exclude is {given(node)}; allowed: a list of {{axis: value}}"
        raise node.error(f"{what}; write `exclude: [{{axis: value}}]`")
    for item in node:
        if not isinstance(item, Mapping) or not item:
            raise item.error(f"an exclude is {given(item)}; allowed: {{axis: value}}; name the axes to match")
        for axis, place in item.places.items():
            if axis not in axes:
                raise place.error(f"unknown axis {given_text(axis)} in exclude{did_you_mean(axis, axes)}")
            if not any(_is(value, item[axis]) for value in axes[axis]):
                hint = did_you_mean(written(item[axis]), {written(value) for value in axes[axis]})
                raise item[axis].error(f"{given(item[axis])} is no value of axis {axis}{hint}")
        yield item


def _is(value: Node, pattern: Node) -> bool:
    """Whether an axis's value is the one an exclude names; a part's bare name stands for all of that name."""
    if isinstance(value, Mapping) and isinstance(pattern, Leaf) and "name" in value:
        return _is(value["name"], pattern)
    if isinstance(value, Leaf) and isinstance(pattern, Leaf) and not isinstance(value.value, str):
        return value.value == pattern.value
    return written(value) == written(pattern)


def _cell(point: dict[str, Node], matrix: Mapping) -> Cell:
    block = Mapping(matrix.place)
    for axis in sorted(point, key=lambda name: "." in _path(name)):  # an option goes on top of its part
        field, _, option = _path(axis).partition(".")
        over, node, place = Mapping(matrix.place), point[axis], matrix.places[axis]
        if option:
            part = Mapping(place)
            part.put(option, node, place)
            node = part
        if field == "architecture":
            continue
        over.put(field, node, place)
        block = overlaid(block, over)
    if "architecture" in point:
        block.put("architecture", point["architecture"], matrix.places["architecture"])
    return Cell(
        name="-".join(_slug(axis, node) for axis, node in point.items()),
        label=" · ".join(_label(axis, node) for axis, node in point.items()),
        axes={axis: written(node) for axis, node in point.items()},
        block=block,
        place=matrix.places[next(iter(point))],
    )


def written(node: Node) -> str:
    """A value as its writer wrote it, on one line: `32/784`, `mlp 512-256`, `gaussian variance=0.01`."""
    if isinstance(node, Leaf):
        return " ".join(node.text.split())
    if isinstance(node, Sequence):
        return "-".join(written(item) for item in node)
    bare = ("name", "hidden")
    return " ".join(written(item) if key in bare else f"{key}={written(item)}" for key, item in node.items())


def _label(axis: str, node: Node) -> str:
    if axis == "architecture" or axis in PARTS:
        return written(node)
    last = axis.rpartition(".")[2]
    return f"{SYMBOLS.get(last, last)}={written(node)}"


def _slug(axis: str, node: Node) -> str:
    text = written(node)
    if axis != "architecture" and axis not in PARTS:
        short = "z" if axis == "latent" else axis.rpartition(".")[2]
        text = f"{short}-{'minus-' if text.startswith('-') else ''}{text}"
    return re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-.")
