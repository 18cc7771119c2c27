"""Check YAML against pydantic models: what a value must be, in words, and where a wrong one was written."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from fractions import Fraction
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from bench.errors import did_you_mean
from bench.spec.options import Says
from bench.spec.source import Leaf, Mapping, Node, Sequence, given, given_text, trap

M = TypeVar("M", bound=BaseModel)

_NOUNS = {int: ("a whole number", "whole numbers"), float: ("a number", "numbers"), str: ("text", "texts")}
LARGEST = (
    1e30  # what a product of two such fits into single precision: larger ones overflow before they train
)
_BOUNDS = {"gt": "above", "ge": "of at least", "lt": "below", "le": "of at most"}


def describe(annotation: Any, *, plural: bool = False) -> str:
    """Say in words what an annotation allows: `Positive` is "a number above 0"."""
    annotation, limits = _bare(annotation)
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin in (Union, UnionType):
        first, *others = [a for a in arguments if a is not NoneType]
        words = [describe(first, plural=plural)]
        for other in others:
            inner = _bare(other)[0]
            same = get_origin(inner) is list and get_args(inner)[0] == first
            words.append("a list of these" if same else describe(other, plural=plural))
        return ", or ".join(words)
    if origin is Literal:
        *most, last = [str(a) for a in arguments]
        return f"{', '.join(most)} or {last}" if most else last
    if origin in (list, tuple):
        count = f" of {limits['min_length']} to {limits['max_length']}" if "max_length" in limits else " of"
        return f"a list{count} {describe(arguments[0], plural=True)}"
    if annotation is bool:
        return "true or false"
    noun = limits.get("says") or _NOUNS.get(annotation, ("a value", "values"))[plural]
    if "ge" in limits and "le" in limits:
        return f"{noun} from {limits['ge']} to {limits['le']}"
    return noun + "".join(f" {_BOUNDS[k]} {v}" for k, v in limits.items() if k in _BOUNDS)


def annotated(field: FieldInfo) -> Any:
    """Put a field's annotation and its limits together again, for `describe`."""
    return Annotated[field.annotation, *field.metadata] if field.metadata else field.annotation


def _bare(annotation: Any) -> tuple[Any, dict[str, Any]]:
    """Split an annotation into its type and the limits that `Field` sets."""
    if get_origin(annotation) is not Annotated:
        return annotation, {}
    bare, *metadata = get_args(annotation)
    items = [part for item in metadata for part in (item, *getattr(item, "metadata", ()))]
    names = (*_BOUNDS, "min_length", "max_length", "says")
    return bare, {n: getattr(i, n) for i in items for n in names if getattr(i, n, None) is not None}


def check(model: type[M], node: Mapping, what: str, ratio: Fraction | None = None, /, **beside: Any) -> M:
    """Make a model of a mapping's values and of those `beside` it, which are checked already.

    Fractions are numbers, and so is `dz/dx` where its `ratio` is known; text is as written. `what` names the
    thing for errors, such as "encoder mlp". Raises BenchError for the first bad value, at its place.
    """
    refuse_unknown_keys(node, model.model_fields, what)
    texts = {name for name, field in model.model_fields.items() if field.annotation in (str, str | None)}
    values = {
        key: text_of(child, f"{what}: {key}") if key in texts else _plain(child, f"{what}: {key}", ratio)
        for key, child in node.items()
    }
    try:
        return model.model_validate(values | beside)
    except ValidationError as error:
        problems = error.errors(include_url=False, include_context=False)
    first = str(problems[0]["loc"][0])
    field = model.model_fields[first]
    annotation = annotated(field)
    allowed = describe(annotation)
    if problems[0]["type"] == "missing":
        raise node.error(f"{what} has no {first}; allowed: {allowed}; add `{first}: ...`")
    if first not in node:
        what = f"{what}: the default of {first} is {repr(field.default)[:60]}"
        raise node.error(f"{what}; allowed: {allowed}; correct it, or write `{first}: ...` here")
    # Each member of a union reports; the report that got furthest into the value says most
    walks = [(*_walk(node, p["loc"]), p) for p in problems if str(p["loc"][0]) == first]
    depth, bad, problem = max(walks, key=lambda walk: walk[0])
    verb = "holds" if depth > 1 else "is"
    reason = problem["msg"].partition("Value error, ")[2] if isinstance(bad, Mapping) else ""
    shown = f"{given(bad)} with {reason}" if reason else given(bad)
    raise bad.error(f"{what}: {first} {verb} {shown}; allowed: {allowed}; {_advice(bad, annotation)}")


def _advice(node: Node, annotation: Any) -> str:
    """Say what to do about a bad value: mind its trap, or write the nearest word, or what is allowed."""
    if hint := trap(node):
        return hint
    if not isinstance(node, Leaf):
        return "write such a value"
    if not node.plain and _decimal(node.text):
        return "remove the quotes"
    near = difflib.get_close_matches(node.text, _words(annotation), n=1, cutoff=0.5)
    return f"did you mean {near[0]!r}?" if near else "write such a value"


def _words(annotation: Any) -> list[str]:
    if get_origin(annotation) is Literal:
        return [str(a) for a in get_args(annotation)]
    if isinstance(annotation, Says):
        return [*annotation.words]
    return [word for a in get_args(annotation) for word in _words(a)]


def _walk(node: Node, location: tuple[int | str, ...]) -> tuple[int, Node]:
    """Follow a location into a node: how deep it leads and what lies there. Tags of unions are no step."""
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


def _plain(node: Node, what: str, ratio: Fraction | None) -> Any:
    """Turn a node into plain data. Raises BenchError for a number that nobody means, such as 10:30."""
    if isinstance(node, Mapping):
        return {key: _plain(child, what, ratio) for key, child in node.items()}
    if isinstance(node, Sequence):
        return [_plain(child, what, ratio) for child in node]
    if type(node.value) in (int, float) and (hint := trap(node)):
        raise node.error(f"{what} is {given(node)}; allowed: a plain decimal number; {hint}")
    number = _fraction(node, ratio) if isinstance(node.value, str) else None
    value: Any = node.value if number is None else number
    if (number is not None or isinstance(value, float)) and abs(value) > LARGEST:
        raise node.error(f"{what} is {given(node)}; allowed: at most {LARGEST:g}; write a smaller number")
    return value


def _fraction(node: Leaf, ratio: Fraction | None) -> float | None:
    """Work out `32/784` or `dz/dx`; whole numbers are int. None for any other text."""
    parts = node.text.split("/")
    if node.text == "dz/dx":
        if ratio is None:
            what = "dz/dx; allowed: in a variant, where the latent size and the shape of the images are known"
            raise node.error(f"{what}; write the number")
        value = ratio
    elif len(parts) == 2 and len(node.text) <= 40 and all(_decimal(part.strip()) for part in parts):
        above, below = (Fraction(part.strip()) for part in parts)
        if below == 0:
            what = f"{given(node)} divides by zero; allowed: a finite number"
            raise node.error(f"{what}; write another fraction")
        value = above / below
    else:
        return None
    return value.numerator if value.denominator == 1 else float(value)


def _decimal(text: str) -> bool:
    digits = text.lstrip("+-").replace(".", "", 1)
    return digits.isascii() and digits.isdigit() and len(text) - len(text.lstrip("+-")) <= 1


def text_of(node: Node, what: str) -> str:
    """Take the text of a leaf as written, on one line. Raises BenchError for a list, a mapping or nothing."""
    if not isinstance(node, Leaf) or node.value is None or not node.text.strip():
        raise node.error(f"{what} is {given(node)}; allowed: text; write some, in quotes")
    return " ".join(node.text.split())


def word_of(node: Node, what: str, known: Iterable[str]) -> str:
    """Take a leaf that is one of the known names. Raises BenchError with the nearest known name."""
    names = tuple(known)
    text = text_of(node, what)
    if text not in names:
        raise node.error(f"unknown {what} {given(node)}{did_you_mean(text, names)}")
    return text


def mapping_of(node: Node, what: str, example: str, known: Iterable[str] | None = None) -> Mapping:
    """Take a node that is a mapping, with known keys where they are given. Raises BenchError."""
    if not isinstance(node, Mapping):
        raise node.error(f"{what} is {given(node)}; allowed: a mapping; write `{example}`")
    if known is not None:
        refuse_unknown_keys(node, known, what)
    return node


def list_of(node: Node | None, what: str, example: str, kind: str = "a list") -> Iterable[Node]:
    """Take what a list holds, nothing where none is written. Raises BenchError."""
    if not isinstance(node, Sequence | None):
        raise node.error(f"{what} is {given(node)}; allowed: {kind}; write `{example}`")
    return node or ()


def refuse_unknown_keys(node: Mapping, known: Iterable[str], what: str) -> None:
    """Raise BenchError at the first key that is not known."""
    names = tuple(known)
    for key, place in node.places.items():
        if key not in names:
            hint = did_you_mean(key, names) if names else "; it has no options"
            raise place.error(f"unknown key {given_text(key)} in {what}{hint}")
