"""The settings of a variant as YAML nodes: which there are, their defaults, how blocks overlay."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache

from bench.errors import did_you_mean
from bench.spec.source import Leaf, Mapping, Node, given, given_text, read_text, trap

PARTS = (
    "encoder", "decoder", "posterior", "input", "target", "likelihood", "objective", "optimizer", "schedule",
)  # fmt: skip
NETWORK = ("encoder", "decoder", "latent")  # what an architecture says
SETTINGS = (*PARTS, "latent", "batch_size", "epochs", "shuffle", "drop_last", "validation", "precision")
ABOUT = ("document", "published", "note")  # true of one variant, never inherited by another

_DEFAULTS = """
posterior: gaussian
input: grey
target: grey
likelihood: bernoulli
objective: elbo
optimizer: adam
schedule: constant
batch_size: 128
epochs: 20
shuffle: true
drop_last: false
validation: 0
precision: fp32
"""


@cache
def defaults() -> Mapping:
    """The settings of a variant that says nothing; encoder, decoder and latent size have no default."""
    return overlaid(Mapping(read_text(_DEFAULTS, "defaults").place), read_text(_DEFAULTS, "defaults"))


def overlaid(base: Mapping, over: Mapping) -> Mapping:
    """The settings of `base` with those of `over` on top; keys that are no settings are left out.

    A part of another name replaces the part below, options and all; the same name or no name merges.
    """
    result = Mapping(over.place)
    for source in (base, over):
        for key, node in source.items():
            if key in PARTS:
                result.put(key, _part_over(result.get(key), as_part(node, key)), source.places[key])
            elif key in SETTINGS:
                result.put(key, node, source.places[key])
    return result


def replaced(base: Mapping, over: Mapping) -> Mapping:
    """The settings of `base` with those of `over` in their place, nothing merged."""
    kept = Mapping(base.place)
    for key, node in base.items():
        if key not in over:
            kept.put(key, node, base.places[key])
    return overlaid(kept, over)


def _part_over(below: Node | None, part: Mapping) -> Mapping:
    if not isinstance(below, Mapping):
        return part
    name, old = part.get("name"), below.get("name")
    same = name is None or (isinstance(name, Leaf) and isinstance(old, Leaf) and name.text == old.text)
    return below.merged(part) if same else part


def as_part(node: Node, kind: str) -> Mapping:
    """A part as a mapping with a name: `mlp` is {name: mlp}. Raises BenchError for a list or nothing."""
    if isinstance(node, Mapping):
        return node
    if not isinstance(node, Leaf) or node.value is None:
        what = f"{kind} is {given(node)}; allowed: a name, or {{name: ..., options}}"
        raise node.error(f"{what}; {trap(node) or 'write its name'}")
    part = Mapping(node.place)
    part.put("name", node, node.place)
    return part


def mapping_of(node: Node | None, what: str, example: str) -> Mapping:
    """The node as a mapping; none at all is an empty one. Raises BenchError for anything else."""
    if node is None:
        return Mapping(defaults().place)
    if not isinstance(node, Mapping):
        raise node.error(f"{what} is {given(node)}; allowed: a mapping; write `{example}`")
    return node


def refuse_unknown_keys(node: Mapping, known: Iterable[str], what: str) -> None:
    """Raise BenchError at the first key that is not known."""
    names = tuple(known)
    for key, place in node.places.items():
        if key not in names:
            raise place.error(f"unknown key {given_text(key)} in {what}{did_you_mean(key, names)}")
