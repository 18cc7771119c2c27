"""Read YAML to data that knows where it was written: file, line and column of every key and leaf.

Values are those of `yaml.safe_load`, less its objects: text, numbers, true, false and null. Refused is what
turns a slip into a wrong experiment, or a small file into a large one: duplicate keys, anchors and aliases,
merge keys, tags, several documents. A leaf keeps its text as written: `000` can still be a name, and `32/784`
a label.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import yaml
from yaml.constructor import SafeConstructor
from yaml.resolver import Resolver

from bench.errors import BenchError, printable

MAX_BYTES = 256_000
MAX_DEPTH = 32
MAX_DIGITS = 30

_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_RESOLVER: Any = Resolver()  # of the types of YAML 1.1
# What YAML 1.1 allows in a stream, one line's control characters excepted
_UNPRINTABLE = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_DECIMAL = re.compile(r"[-+]?(0|[1-9][0-9_]*)")
_EXPONENT = re.compile(r"([-+]?[0-9][0-9_]*)(\.[0-9_]*)?[eE]([-+]?)([0-9]+)")


@dataclass(frozen=True, slots=True)
class Place:
    """Where something was written; lines and columns count from 1."""

    file: str
    line: int
    column: int

    def __str__(self) -> str:
        return f"{printable(self.file)}:{self.line}:{self.column}"

    def error(self, message: str) -> BenchError:
        """Make the error to raise about what stands here."""
        return BenchError(f"{self}: {message}")


class _Placed:
    def __init__(self, place: Place) -> None:
        super().__init__()
        self.place = place

    def error(self, message: str) -> BenchError:
        """Make the error to raise about this node."""
        return self.place.error(message)


@dataclass(frozen=True)
class Leaf(_Placed):
    """A scalar: its text as written, and the value YAML gives it."""

    text: str
    value: bool | int | float | str | None
    place: Place
    plain: bool = True  # written without quotes


class Sequence(_Placed, list["Node"]):
    """A list, with its place."""


class Mapping(_Placed, dict[str, "Node"]):
    """A mapping from keys as written, with the place of each key."""

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self.places: dict[str, Place] = {}

    def put(self, key: str, node: Node, place: Place) -> Mapping:
        """Set `key`, remembering where it was written; returns the mapping."""
        self[key] = node
        self.places[key] = place
        return self

    def take(self, *keys: str) -> Mapping:
        """Copy the entries that have one of these keys, in their order here."""
        taken = Mapping(self.place)
        for key in self:
            if key in keys:
                taken.put(key, self[key], self.places[key])
        return taken

    def over(self, below: Mapping) -> Mapping:
        """Lay this mapping over another: the entries of both, this one's where both have the key."""
        result = Mapping(self.place)
        for source in (below, self):
            for key, node in source.items():
                result.put(key, node, source.places[key])
        return result


Node: TypeAlias = Leaf | Mapping | Sequence


def read(path: Path) -> Mapping:
    """Read a YAML file whose top level is a mapping.

    Raises BenchError, with the place where there is one, for what `content` refuses and for a file that is
    empty, not UTF-8, not YAML, or YAML that is refused (see the module).
    """
    data = content(path, "a YAML file")
    try:
        return read_text(data.decode("utf-8-sig"), str(path))
    except UnicodeDecodeError as error:
        before = data[: error.start].decode("utf-8")
        what = f"byte 0x{data[error.start]:02x} is not UTF-8 text; allowed: YAML in UTF-8"
        raise _end(str(path), before).error(f"{what}; is this the right file?") from None


def content(path: Path, kind: str) -> bytes:
    """Read a regular file of 256 kB at most; `kind` says in errors what is allowed. Raises BenchError."""
    file = printable(str(path))
    try:
        if not path.is_file():
            there = "is a directory" if path.is_dir() else "is not a regular file"
            what = there if path.exists() else "no such file"
            raise BenchError(f"{file}: {what}; allowed: {kind}; correct the path")
        with path.open("rb") as stream:
            data = stream.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        raise BenchError(f"{file}: cannot be read ({error}); check the path and its permissions") from None
    if len(data) > MAX_BYTES:
        raise BenchError(f"{file}: is larger than 256 kB; allowed: {kind}; is this the right one?")
    return data


def read_text(text: str, file: str) -> Mapping:
    """Read YAML text whose top level is a mapping; `file` is what errors call it. Raises BenchError."""
    if bad := _UNPRINTABLE.search(text):
        what = f"control character {bad.group()!a}; allowed: text"
        raise _end(file, text[: bad.start()]).error(f"{what}; is this the right file?")
    try:
        return _Reader(text, file).document()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = Place(file, mark.line + 1, mark.column + 1) if mark else Place(file, 1, 1)
        problem = printable(error.problem or error.context or "cannot be parsed")
        raise place.error(f"is not YAML: {problem}; check indentation, colons and brackets here") from None
    except (yaml.YAMLError, RecursionError, UnicodeError):
        raise Place(file, 1, 1).error("is not YAML; is this the right file?") from None


def _end(file: str, text: str) -> Place:
    """Find the place after some text."""
    return Place(file, text.count("\n") + 1, len(text) - text.rfind("\n"))


class _Reader:
    """Builds nodes from the parser's events, so that an alias is refused before anything expands."""

    def __init__(self, text: str, file: str) -> None:
        self.events: Iterator[Any] = iter(yaml.parse(text, Loader=_LOADER))
        self.file = file

    def document(self) -> Mapping:
        next(self.events)  # the stream's start
        first = next(self.events)
        empty = "the file is empty; allowed: a mapping; start with `question: ...`"
        if isinstance(first, yaml.StreamEndEvent):
            raise Place(self.file, 1, 1).error(empty)
        root = self.node(next(self.events), depth=1)
        next(self.events)  # the document's end
        after = next(self.events)
        if not isinstance(after, yaml.StreamEndEvent):
            what = "a second document starts here; allowed: one a file"
            raise self.place(after).error(f"{what}; remove `---` or split the file")
        if isinstance(root, Leaf) and root.value is None:
            raise root.error(empty)
        if not isinstance(root, Mapping):
            raise root.error(f"got {given(root)}; allowed: a mapping; start with `question: ...`")
        return root

    def place(self, event: Any) -> Place:
        return Place(self.file, event.start_mark.line + 1, event.start_mark.column + 1)

    def node(self, event: Any, depth: int) -> Node:
        place = self.place(event)
        if isinstance(event, yaml.AliasEvent) or event.anchor is not None:
            sigil = "alias *" if isinstance(event, yaml.AliasEvent) else "anchor &"
            what = f"{sigil}{printable(event.anchor)}; anchors and aliases are not allowed"
            raise place.error(f"{what}; use `extends` or write the value out")
        if event.tag is not None:
            raise place.error(f"tag {given_text(event.tag)}; tags are not allowed; write the plain value")
        if depth > MAX_DEPTH:
            raise place.error(f"nested too deep; allowed: {MAX_DEPTH} levels; no key needs that, flatten it")
        if isinstance(event, yaml.ScalarEvent):
            return _leaf(event.value, place, plain=event.implicit[0])
        if isinstance(event, yaml.MappingStartEvent):
            return self.mapping(place, depth)
        sequence = Sequence(place)
        while not isinstance(event := next(self.events), yaml.SequenceEndEvent):
            sequence.append(self.node(event, depth + 1))
        return sequence

    def mapping(self, place: Place, depth: int) -> Mapping:
        mapping = Mapping(place)
        while not isinstance(event := next(self.events), yaml.MappingEndEvent):
            key = self.node(event, depth + 1)
            if not isinstance(key, Leaf) or not key.text:
                what = "empty" if isinstance(key, Leaf) else given(key)
                raise key.error(f"a key is {what}; allowed: a word; write `key: value`")
            if key.text == "<<" and key.plain:
                raise key.error("merge key <<; merge keys are not allowed; use `extends`")
            if key.text in mapping:
                first = mapping.places[key.text]
                what = f"key {given(key)} again, first on line {first.line}; allowed: each key once"
                raise key.error(f"{what}; remove one of the two")
            mapping.put(key.text, self.node(next(self.events), depth + 1), key.place)
        return mapping


def _leaf(text: str, place: Place, *, plain: bool) -> Leaf:
    """Make a leaf with the value that YAML 1.1 gives its text. Raises BenchError for unprintable text."""
    if unprintable := next((c for c in text if not c.isprintable() and c not in "\n\t"), None):
        raise place.error(f"character {unprintable!a} in text; allowed: printable text; remove it")
    if not plain:
        return Leaf(text, text, place, plain=False)
    tag: str = _RESOLVER.resolve(yaml.ScalarNode, text, (True, False))
    kind = tag.rpartition(":")[2]
    if kind in ("int", "float", "bool"):
        if kind != "bool" and len(text) > MAX_DIGITS:
            raise place.error(f"a number of {len(text)} characters; allowed: at most {MAX_DIGITS}; round it")
        construct: Any = getattr(SafeConstructor, f"construct_yaml_{kind}")
        try:
            return Leaf(text, construct(SafeConstructor(), yaml.ScalarNode(tag, text)), place)
        except (ValueError, OverflowError):  # such as 0b_, a number to YAML's grammar only
            return Leaf(text, text, place)
    return Leaf(text, None if kind == "null" else text, place)


def trap(node: Node) -> str:
    """Say what YAML made of a leaf that its writer likely did not mean, and what to write; or ""."""
    if not isinstance(node, Leaf) or not node.plain:
        return ""
    text, value = node.text, node.value
    if value is None:
        return "the value is empty; write one"
    if isinstance(value, bool):
        said = f'YAML reads {text} as {str(value).lower()}; if it is a word, quote it: "{text}"'
        return "" if text.lower() in ("true", "false") else said
    if isinstance(value, str):
        if not (match := _EXPONENT.fullmatch(text)):
            return ""
        whole, point, sign, power = match.groups()
        return f"YAML reads {text} as text; write {whole}{point or '.0'}e{sign or '+'}{power}"
    return _number_trap(text, value)


def _number_trap(text: str, value: float) -> str:
    if ":" in text:
        return f"YAML reads {text} as {value:g}, in base 60; quote it, or write a decimal number"
    if isinstance(value, int) and not _DECIMAL.fullmatch(text):
        decimal = f"write {int(text)}" if text.lstrip("+-").isdecimal() else "write a decimal number"
        return f"YAML reads {text} as {value}, not in base 10; {decimal}, or quote it if it is a name"
    return "" if math.isfinite(value) else "write a finite number"


def given(node: Node) -> str:
    """Quote what was given, for an error: on one line, shortened."""
    if isinstance(node, Mapping):
        return "a mapping"
    if isinstance(node, Sequence):
        return "a list"
    if node.value is None:
        return "nothing"
    return given_text(node.text) if isinstance(node.value, str) else node.text


def given_text(text: str) -> str:
    """Quote text, for an error: on one line, shortened."""
    return repr(text if len(text) <= 60 else text[:59] + "…")
