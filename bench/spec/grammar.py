"""The grammar of an experiment file: what extends what, and every variant's merged settings, unchecked."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from bench.spec.check import mapping_of, refuse_unknown_keys, text_of, word_of
from bench.spec.experiment import ABOUT, MAX_VARIANTS, PARTS, SETTINGS, SLUG, names_folder
from bench.spec.matrix import cells, written
from bench.spec.source import Leaf, Mapping, Node, Place, given, given_text, read, read_text, trap

HEAD = ("question", "dataset", "seeds", "evaluation")
BLOCKS = ("defaults", "architectures", "variants", "matrix")
NETWORK = ("encoder", "decoder", "latent")  # what an architecture says
MAX_CHAIN = 32  # files, or variants, that extend one another

# Encoder, decoder and latent size have no default
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
def _defaults() -> Mapping:
    text = read_text(_DEFAULTS, "defaults")
    return overlaid(Mapping(text.place), text)


@dataclass(frozen=True)
class Sketch:
    """A variant as merged nodes: its settings, what is said about it, and where it stands."""

    label: str
    axes: dict[str, str]
    settings: Mapping
    about: Mapping
    place: Place


@dataclass
class Draft:
    """A file with all it extends: the keys about the whole experiment, and its variants by name."""

    head: Mapping
    defaults: Mapping = field(default_factory=_defaults)
    architectures: dict[str, Mapping] = field(default_factory=dict)
    sketches: dict[str, Sketch] = field(default_factory=dict)


def expand(path: Path, children: tuple[Path, ...] = ()) -> Draft:
    """Read an experiment file and the files it extends. Raises BenchError with the place of what is wrong."""
    top = read(path)
    if "exclude" in top:
        raise top.places["exclude"].error("exclude at the top level; allowed: inside `matrix`; move it there")
    refuse_unknown_keys(top, ("extends", *HEAD, *BLOCKS), "an experiment")
    draft = _parent(path, top, children) if "extends" in top else Draft(Mapping(top.place))
    draft.head = top.take(*HEAD).over(draft.head)
    architectures = _block(top, "architectures", "{name: {encoder: ...}}")
    for name, node in architectures.items():
        place = slug(name, architectures.places[name], "architecture")
        own = mapping_of(node, f"architecture {name}", f"{name}: {{encoder: ..., decoder: ..., latent: 2}}")
        refuse_unknown_keys(own, NETWORK, f"architecture {name}")
        draft.architectures[name] = overlaid(draft.architectures.get(name, Mapping(place)), own)
    block = _block(top, "defaults", "{epochs: 20}")
    refuse_unknown_keys(block, ("architecture", *SETTINGS), "defaults")
    draft.defaults = _settled(draft, draft.defaults, block)
    _add_variants(draft, _block(top, "variants", "{name: {encoder: ...}}"))
    for cell in cells(_block(top, "matrix", "{beta: [1, 32/784]}")) if "matrix" in top else ():
        place = slug(cell.name, cell.place, "generated variant")
        if cell.name in draft.sketches:
            what = (
                f"the matrix gives variant {cell.name}, which {draft.sketches[cell.name].place} gives already"
            )
            raise place.error(f"{what}; allowed: each name once; exclude it or rename the other")
        settings = draft.defaults
        for block in cell.blocks:
            settings = _settled(draft, settings, block)
        draft.sketches[cell.name] = Sketch(cell.label, cell.axes, settings, Mapping(place), place)
    _refuse_many(len(draft.sketches), top.place, "variants in all")
    return draft


def _block(top: Mapping, key: str, example: str) -> Mapping:
    """Take a block of the file; one that is not there is empty."""
    block = mapping_of(top.get(key, Mapping(top.place)), key, f"{key}: {example}")
    _refuse_many(len(block), block.place, key)
    return block


def _refuse_many(count: int, place: Place, what: str) -> None:
    if count > MAX_VARIANTS:
        raise place.error(f"{count} {what}; allowed: at most {MAX_VARIANTS}; split the experiment")


def _parent(path: Path, top: Mapping, children: tuple[Path, ...]) -> Draft:
    node = top["extends"]
    target = path.parent / text_of(node, "extends")
    shown, family = given_text(str(target)), (*children, path)
    try:
        usable = target.suffix in (".yaml", ".yml") and target.is_file()  # errors quote what it holds
        circular = usable and any(target.samefile(member) for member in family)
    except (OSError, ValueError):
        usable = circular = False
    if not usable:
        what = f"extends {shown}, which is no file; allowed: a YAML file (.yaml, .yml), relative to this one"
        raise node.error(f"{what}; correct the path")
    if circular:
        raise node.error(f"extends {shown}, which extends this file; remove one of the two")
    if len(family) > MAX_CHAIN:
        raise node.error(f"more than {MAX_CHAIN} files extend one another; write this one out")
    return expand(target, family)


def _add_variants(draft: Draft, block: Mapping) -> None:
    """Add the named variants of one file; each starts from the one it extends, which may stand below it."""
    inherited = dict(draft.sketches)
    made: dict[str, Sketch] = {}

    def base_of(name: str, node: Node, pending: tuple[str, ...]) -> Mapping:
        if name in inherited:
            what = f"variant {name} comes from the extended file already; allowed: settings to change in it"
            raise node.error(f"{what}; remove this line or choose another name")
        other = word_of(node, "variant", (*inherited, *block))
        if other in pending:
            what = f"variant {name} extends {other}, which extends {name}"
            raise node.error(f"{what}; allowed: no circle; remove one `extends`")
        if len(pending) > MAX_CHAIN:
            raise node.error(f"more than {MAX_CHAIN} variants extend one another; write this one out")
        if other in block and other not in made:
            made[other] = sketch(other, pending)
        return (made[other] if other in block else inherited[other]).settings

    def sketch(name: str, pending: tuple[str, ...] = ()) -> Sketch:
        place = slug(name, block.places[name], "variant")
        own = mapping_of(block[name], f"variant {name}", f"{name}: {{encoder: ...}}")
        refuse_unknown_keys(own, ("extends", "architecture", *SETTINGS, *ABOUT), f"variant {name}")
        below = inherited.get(name, Sketch(name, {}, draft.defaults, Mapping(place), place))
        base = base_of(name, own["extends"], (*pending, name)) if "extends" in own else below.settings
        about = own.take(*ABOUT).over(below.about)
        return Sketch(below.label, below.axes, _settled(draft, base, own), about, place)

    for name in block:
        if name not in made:
            made[name] = sketch(name)
    draft.sketches |= {name: made[name] for name in block}


def slug(name: str, place: Place, what: str) -> Place:
    """Return the place of a name that is fit for folders, links and tables. Raises BenchError for another."""
    if not names_folder(name, SLUG):
        allowed = (
            "a-z, 0-9, dot and hyphen, at most 80, a letter or digit first, no device such as con or nul"
        )
        raise place.error(f"{what} named {given_text(name)}; allowed: {allowed}; rename it")
    return place


def _settled(draft: Draft, base: Mapping, block: Mapping) -> Mapping:
    """Lay a block over settings: its architecture replaces their networks, its settings merge on top."""
    if "architecture" in block:
        networks = draft.architectures[word_of(block["architecture"], "architecture", draft.architectures)]
        base = overlaid(base.take(*(key for key in base if key not in networks)), networks)
    return overlaid(base, block)


def overlaid(base: Mapping, over: Mapping) -> Mapping:
    """Lay the settings of a block over others; keys that are no settings are left out.

    A part of another name, or of another file, replaces the one below, options and all; otherwise they merge.
    """
    result = over.take(*SETTINGS).over(base)
    for kind in PARTS:
        if kind in over:
            below, part = base.get(kind), _as_part(over[kind], kind)
            same = isinstance(below, Mapping) and all(
                key not in part or (key in below and written(part[key]) == written(below[key]))
                for key in ("name", "file")
            )
            result[kind] = part.over(below) if isinstance(below, Mapping) and same else part
    return result


def _as_part(node: Node, kind: str) -> Mapping:
    """Write a part as a mapping: `mlp` is {name: mlp}. Raises BenchError for a list or nothing."""
    if isinstance(node, Mapping):
        return node
    if not isinstance(node, Leaf) or node.value is None:
        what = f"{kind} is {given(node)}; allowed: a name, or {{name: ..., options}}"
        raise node.error(f"{what}; {trap(node) or 'write its name'}")
    return Mapping(node.place).put("name", node, node.place)
