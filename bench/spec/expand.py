"""The grammar of an experiment file: what extends what, and every variant's merged settings, unchecked."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from bench.spec import axes
from bench.spec.check import text_of, word_of
from bench.spec.experiment import MAX_VARIANTS, SLUG, names_folder
from bench.spec.settings import (
    ABOUT,
    NETWORK,
    SETTINGS,
    defaults,
    mapping_of,
    overlaid,
    refuse_unknown_keys,
    replaced,
)  # fmt: skip
from bench.spec.source import Mapping, Node, Place, given_text, read

HEAD = ("question", "dataset", "seeds", "evaluation")
BLOCKS = ("defaults", "architectures", "variants", "matrix")
MAX_CHAIN = 32  # files, or variants, that extend one another


@dataclass(frozen=True)
class Sketch:
    """A variant as merged nodes: its settings, what is said about it, and where it stands."""

    name: str
    label: str
    axes: dict[str, str]
    settings: Mapping
    about: Mapping
    place: Place


@dataclass(frozen=True)
class Draft:
    """A file with all it extends: the keys about the whole experiment, and its variants by name."""

    place: Place
    head: dict[str, Node] = field(default_factory=dict)
    defaults: Mapping = field(default_factory=defaults)
    architectures: dict[str, Mapping] = field(default_factory=dict)
    sketches: dict[str, Sketch] = field(default_factory=dict)


def expand(path: Path, children: tuple[Path, ...] = ()) -> Draft:
    """Read an experiment file and the files it extends. Raises BenchError with the place of what is wrong."""
    top = read(path)
    if "exclude" in top:
        raise top.places["exclude"].error("exclude at the top level; allowed: inside `matrix`; move it there")
    refuse_unknown_keys(top, ("extends", *HEAD, *BLOCKS), "an experiment")
    parent = _parent(path, top, children)
    own_architectures = mapping_of(
        top.get("architectures"), "architectures", "architectures: {name: {encoder: ...}}"
    )
    _refuse_many(len(own_architectures), own_architectures.place, "architectures")
    architectures = parent.architectures | {
        name: _architecture(name, own_architectures, parent.architectures) for name in own_architectures
    }
    block = mapping_of(top.get("defaults"), "defaults", "defaults: {epochs: 20}")
    refuse_unknown_keys(block, ("architecture", *SETTINGS), "defaults")
    draft = Draft(
        top.place,
        parent.head | {key: top[key] for key in HEAD if key in top},
        _settled(parent.defaults, block, architectures),
        architectures,
        dict(parent.sketches),
    )
    variants = mapping_of(top.get("variants"), "variants", "variants: {name: {encoder: ...}}")
    _refuse_many(len(variants), variants.place, "variants")
    draft.sketches.update(_Variants(draft, variants).all())
    if "matrix" in top:
        _add_matrix(draft, mapping_of(top["matrix"], "matrix", "matrix: {beta: [1, 32/784]}"))
    _refuse_many(len(draft.sketches), top.place, "variants in all")
    return draft


def _refuse_many(count: int, place: Place, what: str) -> None:
    if count > MAX_VARIANTS:
        raise place.error(f"{count} {what}; allowed: at most {MAX_VARIANTS}; split the experiment")


def _parent(path: Path, top: Mapping, children: tuple[Path, ...]) -> Draft:
    if "extends" not in top:
        return Draft(top.place)
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


def _architecture(name: str, block: Mapping, inherited: dict[str, Mapping]) -> Mapping:
    slug(name, block.places[name], "architecture")
    own = mapping_of(
        block[name], f"architecture {name}", f"{name}: {{encoder: ..., decoder: ..., latent: 2}}"
    )
    refuse_unknown_keys(own, NETWORK, f"architecture {name}")
    return overlaid(inherited.get(name, Mapping(own.place)), own)


def _settled(base: Mapping, block: Mapping, architectures: dict[str, Mapping]) -> Mapping:
    """Settings from a block: its architecture replaces the base's networks, its settings merge on top."""
    if "architecture" in block:
        name = word_of(block["architecture"], "architecture", architectures)
        base = replaced(base, architectures[name])
    return overlaid(base, block)


class _Variants:
    """The named variants of one file: each starts from the one it extends, which may stand further down."""

    def __init__(self, draft: Draft, block: Mapping) -> None:
        self.draft = draft
        self.block = block
        self.settled: dict[str, Sketch] = {}
        self.pending: list[str] = []

    def all(self) -> dict[str, Sketch]:
        for name in self.block:
            self.settle(name)
        return {name: self.settled[name] for name in self.block}

    def settle(self, name: str) -> Sketch:
        if name not in self.settled:
            self.pending.append(name)
            self.settled[name] = self.sketch(name)
            self.pending.pop()
        return self.settled[name]

    def sketch(self, name: str) -> Sketch:
        place = slug(name, self.block.places[name], "variant")
        own = mapping_of(self.block[name], f"variant {name}", f"{name}: {{encoder: ...}}")
        refuse_unknown_keys(own, ("extends", "architecture", *SETTINGS, *ABOUT), f"variant {name}")
        inherited = self.draft.sketches.get(name)  # this file changes a variant of the file it extends
        if "extends" in own:
            base = self.base(name, own["extends"], inherited)
        else:
            base = inherited.settings if inherited else self.draft.defaults
        about = Mapping(place)
        for source in (inherited.about if inherited else about, own):
            for key in ABOUT:
                if key in source:
                    about.put(key, source[key], source.places[key])
        label, axes = (inherited.label, inherited.axes) if inherited else (name, {})
        return Sketch(name, label, axes, _settled(base, own, self.draft.architectures), about, place)

    def base(self, name: str, node: Node, inherited: Sketch | None) -> Mapping:
        if inherited:
            what = f"variant {name} comes from the extended file already; allowed: settings to change in it"
            raise node.error(f"{what}; remove this line or choose another name")
        other = word_of(node, "variant", (*self.draft.sketches, *self.block))
        if other in self.pending:
            what = f"variant {name} extends {other}, which extends {name}"
            raise node.error(f"{what}; allowed: no circle; remove one `extends`")
        if len(self.pending) > MAX_CHAIN:
            raise node.error(f"more than {MAX_CHAIN} variants extend one another; write this one out")
        return (self.settle(other) if other in self.block else self.draft.sketches[other]).settings


def _add_matrix(draft: Draft, block: Mapping) -> None:
    for cell in axes.cells(block):
        place = slug(cell.name, cell.place, "generated variant")
        if cell.name in draft.sketches:
            first = draft.sketches[cell.name].place
            what = f"the matrix gives variant {cell.name}, which {first} gives already"
            raise place.error(f"{what}; allowed: each name once; exclude it or rename the other")
        settings = _settled(draft.defaults, cell.block, draft.architectures)
        draft.sketches[cell.name] = Sketch(cell.name, cell.label, cell.axes, settings, Mapping(place), place)


def slug(name: str, place: Place, what: str) -> Place:
    """The place, if the name is fit for folders, links and tables. Raises BenchError if it is not."""
    if not names_folder(name, SLUG):
        allowed = (
            "a-z, 0-9, dot and hyphen, at most 80, a letter or digit first, no device such as con or nul"
        )
        raise place.error(f"{what} named {given_text(name)}; allowed: {allowed}; rename it")
    return place
