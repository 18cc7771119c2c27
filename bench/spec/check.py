"""What a value must be, in words, and the refusal of one that is not, with the place where it was written."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable
from fractions import Fraction
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from bench.errors import did_you_mean
from bench.spec.source import Leaf, Mapping, Node, Sequence, given, given_text, misread, trap

M = TypeVar("M", bound=BaseModel)

_NOUNS = {int: ("a whole number", "whole numbers"), float: ("a number", "numbers"), str: ("text", "texts")}


def describe(annotation: Any, *, plural: bool = False) -> str:
    """What an annotation allows, in words: `Positive` is "a number above 0"."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _described(arguments[0], _limits(arguments[1:]), plural)
    if origin in (Union, UnionType):
        first, *others = [a for a in arguments if a is not NoneType]
        words = [describe(first, plural=plural)]
        words += ["a list of these" if _items(a) == first else describe(a, plural=plural) for a in others]
        return ", or ".join(words)
    return _described(annotation, {}, plural)


def _items(annotation: Any) -> Any:
    """What a list is of, None if it is none."""
    listed = get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation
    return get_args(listed)[0] if get_origin(listed) is list else None


def _described(annotation: Any, limits: dict[str, Any], plural: bool) -> str:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        *most, last = [str(a) for a in arguments]
        return f"{', '.join(most)} or {last}" if most else last
    if origin in (list, tuple):
        count = f" of {limits['min_length']} to {limits['max_length']}" if "max_length" in limits else " of"
        return f"a list{count} {describe(arguments[0], plural=True)}"
    if annotation is bool:
        return "true or false"
    return _NOUNS.get(annotation, ("a value", "values"))[plural] + _range(limits)


def _range(limits: dict[str, Any]) -> str:
    if "ge" in limits and "le" in limits:
        return f" from {limits['ge']} to {limits['le']}"
    words = {"gt": "above", "ge": "of at least", "lt": "below", "le": "of at most"}
    return "".join(f" {words[k]} {v}" for k, v in limits.items() if k in words)


def _limits(metadata: tuple[Any, ...]) -> dict[str, Any]:
    names = ("gt", "ge", "lt", "le", "min_length", "max_length")
    parts = [part for item in metadata for part in (item, *getattr(item, "metadata", ()))]
    return {n: getattr(p, n) for p in parts for n in names if getattr(p, n, None) is not None}


def checked(model: type[M], node: Mapping, values: dict[str, Any], what: str) -> M:
    """The model made of `values`, which `plain` made of `node`. Raises BenchError for the first bad value.

    `what` names the thing for the error, such as "encoder mlp"; words and place of the error are our own.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        problems = error.errors(include_url=False, include_context=False)
    # A misspelt key says more than the missing one it was meant to be
    problem = next((p for p in problems if p["type"] == "extra_forbidden"), problems[0])
    first = str(problem["loc"][0])
    if problem["type"] == "extra_forbidden":
        known = did_you_mean(first, model.model_fields)
        raise node.places[first].error(f"unknown key {given_text(first)} in {what}{known}")
    annotation = _annotation(model, first)
    allowed = describe(annotation)
    if problem["type"] == "missing":
        raise node.error(f"{what} has no {first}; allowed: {allowed}; add `{first}: ...`")
    # Each member of a union reports; the report that got furthest into the value says most
    walks = [_walk(node, p["loc"]) for p in problems if str(p["loc"][0]) == first]
    depth, bad = max(walks, key=lambda walk: walk[0])
    verb = "holds" if depth > 1 else "is"
    raise bad.error(f"{what}: {first} {verb} {given(bad)}; allowed: {allowed}; {_advice(bad, annotation)}")


def _annotation(model: type[BaseModel], name: str) -> Any:
    field = model.model_fields[name]
    return Annotated[field.annotation, *field.metadata] if field.metadata else field.annotation


def _advice(node: Node, annotation: Any) -> str:
    """What to do about a bad value: mind its trap, or write the nearest word, or what is allowed."""
    if hint := trap(node):
        return hint
    if isinstance(node, Leaf) and not node.plain and _decimal(node.text):
        return "remove the quotes"
    words = _words(annotation)
    near = difflib.get_close_matches(node.text, words, n=1, cutoff=0.5) if isinstance(node, Leaf) else []
    return f"did you mean {near[0]!r}?" if near else "write such a value"


def _words(annotation: Any) -> list[str]:
    if get_origin(annotation) is Literal:
        return [str(a) for a in get_args(annotation)]
    return [word for a in get_args(annotation) for word in _words(a)]


def _walk(node: Node, location: tuple[int | str, ...]) -> tuple[int, Node]:
    """How deep a location leads into a node and what lies there; pydantic's tags of unions are no step."""
    depth = 0
    for step in location:
        if isinstance(node, Mapping) and step in node:
            node = node[str(step)]
        elif isinstance(node, Sequence) and isinstance(step, int) and step < len(node):
            node = node[step]
        else:
            continue
        depth += 1
    return depth, node


def plain(model: type[BaseModel], node: Mapping, what: str, ratio: Fraction | None = None) -> dict[str, Any]:
    """The values of a mapping as plain data: fractions and `dz/dx` (`ratio`) are numbers, text is as written.

    Raises BenchError for a leaf that YAML takes for a number its writer cannot have meant, such as 10:30.
    """
    texts = {name for name, field in model.model_fields.items() if field.annotation in (str, str | None)}
    return {
        key: text_of(child, f"{what}: {key}") if key in texts else _plain(child, f"{what}: {key}", ratio)
        for key, child in node.items()
    }


def _plain(node: Node, what: str, ratio: Fraction | None) -> Any:
    if isinstance(node, Mapping):
        return {key: _plain(child, what, ratio) for key, child in node.items()}
    if isinstance(node, Sequence):
        return [_plain(child, what, ratio) for child in node]
    if misread(node):
        raise node.error(f"{what} is {given(node)}; allowed: a plain decimal number; {trap(node)}")
    if isinstance(node.value, str) and (number := fraction(node, ratio)) is not None:
        return number
    return node.value


def fraction(node: Leaf, ratio: Fraction | None = None) -> float | None:
    """The number that `32/784` or `dz/dx` stands for (whole ones are int), None for any other text."""
    parts = node.text.split("/")
    if node.text == "dz/dx":
        if ratio is None:
            raise node.error(
                "dz/dx; allowed: in a variant, where the latent size dz is known; write the number"
            )
        value = ratio
    elif len(parts) == 2 and len(node.text) <= 40 and all(_decimal(part.strip()) for part in parts):
        above, below = (Fraction(part.strip()) for part in parts)
        if below == 0:
            raise node.error(
                f"{given(node)} divides by zero; allowed: a finite number; write another fraction"
            )
        value = above / below
    else:
        return None
    number = value.numerator if value.denominator == 1 else float(value)
    if not math.isfinite(number):
        raise node.error(f"{given(node)} is too large; allowed: a finite number; write another fraction")
    return number


def _decimal(text: str) -> bool:
    digits = text.lstrip("+-").replace(".", "", 1)
    return digits.isascii() and digits.isdigit() and len(text) - len(text.lstrip("+-")) <= 1


def text_of(node: Node, what: str) -> str:
    """The text of a leaf as written, on one line. Raises BenchError for a list, a mapping or nothing."""
    if not isinstance(node, Leaf) or node.value is None or not node.text.strip():
        raise node.error(f"{what} is {given(node)}; allowed: text; write some, in quotes")
    return " ".join(node.text.split())


def word_of(node: Node, what: str, known: Iterable[str]) -> str:
    """A leaf that is one of the known names. Raises BenchError with the nearest known name."""
    names = tuple(known)
    text = text_of(node, what)
    if text not in names:
        raise node.error(f"unknown {what} {given(node)}{did_you_mean(text, names)}")
    return text
