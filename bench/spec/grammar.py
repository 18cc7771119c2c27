"""The grammar of an experiment file: what extends what, and every variant's merged settings, unchecked."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from bench.spec.check import mapping_of, refuse_unknown_keys, text_of, word_of
from bench.spec.experiment import ABOUT, COMPOSED, MAX_VARIANTS, PARTS, SETTINGS, SLUG, names_folder
from bench.spec.matrix import Cell, cells, written
from bench.spec.shipped import shipped
from bench.spec.source import Leaf, Mapping, Node, Place, given, given_text, read, read_text, trap

HEAD = ("question", "dataset", "seeds", "evaluation", "metrics", "equivalence_margin", "claims")
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
patience: 0
clip_norm: 0
shuffle: true
drop_last: false
validation: 0
precision: fp32
"""


@cache
def _defaults() -> Mapping:
    text = read_text(_DEFAULTS, "defaults")
    return _overlaid(Mapping(text.place), text)


@dataclass
class Draft:
    """A file with all it extends, as merged nodes: the keys about the whole experiment, and its variants.

    A variant holds its settings and what is said about it; its place is that of its name.
    """

    head: Mapping
    defaults: Mapping = field(default_factory=_defaults)
    architectures: dict[str, Mapping] = field(default_factory=dict)
    variants: dict[str, Mapping] = field(default_factory=dict)
    cells: dict[str, Cell] = field(default_factory=dict)  # of the variants that a matrix made


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
        place = _slug(name, architectures.places[name], "architecture")
        example = f"{name}: {{encoder: ..., decoder: ..., latent: 2}}"
        own = mapping_of(node, f"architecture {name}", example, NETWORK)
        draft.architectures[name] = _overlaid(draft.architectures.get(name, Mapping(place)), own)
    block = _block(top, "defaults", "{epochs: 20}", ("architecture", *SETTINGS))
    draft.defaults = _settled(draft, draft.defaults, block)
    _add_variants(draft, _block(top, "variants", "{name: {encoder: ...}}"))
    for cell in cells(_block(top, "matrix", "{beta: [1, 32/784]}")) if "matrix" in top else ():
        place = _slug(cell.name, cell.place, "generated variant")
        if cell.name in draft.variants:
            first = draft.variants[cell.name].place
            what = f"the matrix gives variant {cell.name}, which {first} gives already"
            raise place.error(f"{what}; allowed: each name once; exclude it or rename the other")
        settings = draft.defaults
        for block in cell.blocks:
            settings = _settled(draft, settings, block)
        settings.place = place
        draft.variants[cell.name], draft.cells[cell.name] = settings, cell
    _refuse_many(len(draft.variants), top.place, "variants in all")
    return draft


def _block(top: Mapping, key: str, example: str, known: Iterable[str] | None = None) -> Mapping:
    """Take a block of the file; one that is not there is empty."""
    block = mapping_of(top.get(key, Mapping(top.place)), key, f"{key}: {example}", known)
    _refuse_many(len(block), block.place, key)
    return block


def _refuse_many(count: int, place: Place, what: str) -> None:
    if count > MAX_VARIANTS:
        raise place.error(f"{count} {what}; allowed: at most {MAX_VARIANTS}; split the experiment")


def _parent(path: Path, top: Mapping, children: tuple[Path, ...]) -> Draft:
    node = top["extends"]
    word = text_of(node, "extends")
    target = shipped().get(word, path.parent / word)
    shown, family = given_text(str(target)), (*children, path)
    try:
        usable = target.suffix in (".yaml", ".yml") and target.is_file()  # errors quote what it holds
        circular = usable and any(target.samefile(member) for member in family)
    except (OSError, ValueError):
        usable = circular = False
    if not usable:
        what = f"extends {shown}, which is no file; allowed: a YAML file (.yaml, .yml), relative to this one"
        raise node.error(f"{what}, or a name of bench experiments; correct the path")
    if circular:
        raise node.error(f"extends {shown}, which extends this file; remove one of the two")
    if len(family) > MAX_CHAIN:
        raise node.error(f"more than {MAX_CHAIN} files extend one another; write this one out")
    return expand(target, family)


def _add_variants(draft: Draft, block: Mapping) -> None:
    """Add the named variants of one file; each starts from the one it extends, which may stand below it."""
    inherited = dict(draft.variants)
    made: dict[str, Mapping] = {}

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
        found = variant(other, pending) if other in block else inherited[other]
        return found.take(*SETTINGS)

    def variant(name: str, pending: tuple[str, ...] = ()) -> Mapping:
        if name not in made:
            place = _slug(name, block.places[name], "variant")
            known = ("extends", "architecture", *SETTINGS, *ABOUT)
            own = mapping_of(block[name], f"variant {name}", f"{name}: {{encoder: ...}}", known)
            base = inherited.get(name, draft.defaults)
            if "extends" in own:
                base = base_of(name, own["extends"], (*pending, name))
            made[name] = _settled(draft, base, own)
            made[name].place = place
        return made[name]

    draft.variants |= {name: variant(name) for name in block}


def _slug(name: str, place: Place, what: str) -> Place:
    """Return the place of a name that is fit for folders, links and tables. Raises BenchError for another."""
    if not names_folder(name, SLUG):
        what = f"{what} named {given_text(name)}; allowed: a-z, 0-9, dot and hyphen, at most 80"
        raise place.error(f"{what}, a letter or digit first, no device such as con or nul; rename it")
    return place


def _settled(draft: Draft, base: Mapping, block: Mapping) -> Mapping:
    """Lay a block over settings: its architecture replaces their networks, its settings merge on top."""
    if "architecture" in block:
        networks = draft.architectures[word_of(block["architecture"], "architecture", draft.architectures)]
        base = _overlaid(base.take(*(key for key in base if key not in networks)), networks)
    return _overlaid(base, block)


def _overlaid(base: Mapping, over: Mapping) -> Mapping:
    """Lay the settings of a block over others; keys that are no settings are left out.

    A part of another name, or of another file, replaces the one below, options and all; otherwise they merge.
    A whole model replaces the parts that bench would compose one of, and they replace it.
    """
    composed = [kind for kind in COMPOSED if kind in over]
    if "model" in over and composed:
        what = f"{composed[0]} beside model; allowed: a whole model, or {', '.join(COMPOSED)}"
        raise over.places[composed[0]].error(f"{what}; remove one of the two")
    if "model" in over:
        base = base.take(*(key for key in base if key not in COMPOSED))
    elif composed and "model" in base:
        base = base.take(*(key for key in base if key != "model")).over(_defaults().take(*COMPOSED))
    result = over.take(*SETTINGS, *ABOUT).over(base)
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
