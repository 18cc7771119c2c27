"""The matrix of an experiment: every combination of its axes' values less `exclude`, as settings."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass

from bench.errors import did_you_mean
from bench.spec.check import list_of
from bench.spec.experiment import MAX_VARIANTS, PARTS, SETTINGS
from bench.spec.source import Leaf, Mapping, Node, Place, Sequence, given, given_text

SYMBOLS = {"latent": "z", "beta": "β"}


@dataclass(frozen=True)
class Cell:
    """One combination: its generated name, its label, each axis's value as written, and its settings."""

    name: str
    label: str
    axes: dict[str, str]
    blocks: tuple[Mapping, ...]  # to be laid one over the other
    place: Place


def cells(matrix: Mapping) -> Iterator[Cell]:
    """Make every combination less the excluded ones, the last axis fastest. Raises BenchError."""
    axes = {
        name: _axis(name, node, matrix.places[name]) for name, node in matrix.items() if name != "exclude"
    }
    if not axes:
        what = "matrix has no axis; allowed: axis: [values]"
        raise matrix.error(f"{what}; add one, such as `beta: [1, 32/784]`")
    if "beta" in axes and "objective.beta" in axes:
        place = max(matrix.places["beta"], matrix.places["objective.beta"], key=lambda p: (p.line, p.column))
        raise place.error("axes beta and objective.beta are the same; remove one of the two")
    if (size := math.prod(len(values) for values in axes.values())) > MAX_VARIANTS:
        what = f"matrix of {size} variants; allowed: at most {MAX_VARIANTS}"
        raise matrix.error(f"{what}; split the experiment")
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
    kind, _, option = name.partition(".")
    if name not in ("architecture", "beta", *SETTINGS) and (kind not in PARTS or not option):
        hint = did_you_mean(name, ("architecture", "beta", *SETTINGS, "exclude"))
        raise place.error(f"unknown axis {given_text(name)}{hint}, or part.option such as optimizer.lr")
    if not isinstance(node, Sequence) or not node:
        what = "an empty list" if isinstance(node, Sequence) else given(node)
        raise node.error(f"axis {name} is {what}; allowed: a list of values; write `{name}: [...]`")
    return node


def _excludes(node: Node | None, axes: dict[str, Sequence]) -> Iterator[Mapping]:
    for item in list_of(node, "exclude", "exclude: [{axis: value}]", "a list of {axis: value}"):
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
    """Tell whether an axis's value is the one excluded; a part's bare name stands for all of that name."""
    if isinstance(value, Mapping) and isinstance(pattern, Leaf) and "name" in value:
        return _is(value["name"], pattern)
    if isinstance(value, Leaf) and isinstance(pattern, Leaf) and not isinstance(value.value, str):
        return value.value == pattern.value
    return written(value) == written(pattern)


def _cell(point: dict[str, Node], matrix: Mapping) -> Cell:
    def block(axis: str) -> Mapping:
        node, place = point[axis], matrix.places[axis]
        kind, _, option = ("objective.beta" if axis == "beta" else axis).partition(".")
        part = Mapping(place).put(option, node, place) if option else node
        return Mapping(matrix.place).put(kind, part, place)

    # An architecture comes below the settings, an option on top of its part
    order = sorted(point, key=lambda axis: (axis != "architecture", axis == "beta" or "." in axis))
    return Cell(
        name="-".join(_slug(axis, node) for axis, node in point.items()),
        label=" · ".join(_label(axis, node) for axis, node in point.items()),
        axes={axis: written(node) for axis, node in point.items()},
        blocks=tuple(block(axis) for axis in order),
        place=matrix.places[next(iter(point))],
    )


def written(node: Node) -> str:
    """Write a value as its writer did, on one line: `32/784`, `mlp 512-256`, `gaussian variance=0.01`."""
    if isinstance(node, Leaf):
        return " ".join(node.text.split())
    if isinstance(node, Sequence):
        return "-".join(written(item) for item in node)
    bare = ("name", "hidden")
    items = ((key, written(item)) for key, item in node.items() if key != "file")
    return " ".join(text if key in bare else f"{key}={text}" for key, text in items)


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
