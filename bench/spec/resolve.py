"""From merged YAML to a checked experiment: each value allowed, each combination sensible."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

from bench.errors import BenchError, printable
from bench.spec import registry as parts
from bench.spec.check import checked, plain, text_of, word_of
from bench.spec.expand import Draft, Sketch, expand
from bench.spec.experiment import (
    FILE_STEM,
    Experiment,
    Part,
    Published,
    Settings,
    Size,
    Variant,
    names_folder,
    too_many_runs,
)
from bench.spec.settings import ABOUT, PARTS, mapping_of, refuse_unknown_keys
from bench.spec.source import Leaf, Mapping, Node, Sequence, given, trap

PIXELS = 784  # dx: every dataset comes as 28×28 images
SEEDS = 5
UNIT_INTERVAL = ("bernoulli", "continuous-bernoulli")  # likelihoods of pixels in [0, 1]


def load(path: Path) -> Experiment:
    """The experiment in a YAML file. Raises BenchError with file, line and column of what is wrong."""
    draft = expand(path)
    if not names_folder(path.stem, FILE_STEM):
        what = f"{printable(str(path))}: the file's name names a folder of reports"
        raise BenchError(
            f"{what}; allowed: letters, digits, dot, hyphen, underscore, at most 80; rename the file"
        )
    if "question" not in draft.head:
        raise draft.place.error("the experiment has no question; allowed: text; add `question: ...`")
    dataset, fallback = _dataset(draft.head.get("dataset"))
    for name, block in draft.architectures.items():
        _check_architecture(f"architecture {name}", block)
    variants = {name: _variant(sketch, dataset, draft) for name, sketch in draft.sketches.items()}
    if not variants:
        raise draft.place.error(
            "the experiment has no variants; allowed: variants, a matrix; add `variants:`"
        )
    _refuse_same(variants, draft)
    seeds = _seeds(draft.head.get("seeds"))
    if fault := too_many_runs(len(variants), len(seeds)):
        raise draft.head.get("seeds", draft.place).error(fault)
    return Experiment(
        name=path.stem,
        path=path,
        question=text_of(draft.head["question"], "question"),
        dataset=dataset,
        offline_fallback=fallback,
        seeds=seeds,
        variants=variants,
    )


def _dataset(node: Node | None) -> tuple[str, str | None]:
    """The dataset and its offline fallback."""
    known = parts.names("dataset")
    if node is None:
        return "mnist", None
    if not isinstance(node, Mapping):
        return word_of(node, "dataset", known), None
    refuse_unknown_keys(node, ("name", "offline_fallback"), "dataset")
    if "name" not in node:
        raise node.error(f"dataset has no name; allowed: {', '.join(known)}; add `name: ...`")
    name = word_of(node["name"], "dataset", known)
    fallback = node.get("offline_fallback")
    return name, None if fallback is None else word_of(fallback, "dataset", known)


def _seeds(node: Node | None) -> tuple[int, ...]:
    allowed = "allowed: a count from 1 to 1000, or a list of different whole numbers from 0"
    if node is None:
        return tuple(range(SEEDS))
    if isinstance(node, Sequence) and not 1 <= len(node) <= 1000:
        raise node.error(f"seeds: {len(node)} of them; {allowed}; write another number")
    seeds = []
    for leaf in node if isinstance(node, Sequence) else [node]:
        number = leaf.value if isinstance(leaf, Leaf) and not trap(leaf) else None
        if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number < 2**32:
            advice = trap(leaf) or "write `seeds: 5` or `seeds: [0, 1, 2]`"
            raise leaf.error(f"seeds: {given(leaf)}; {allowed}; {advice}")
        if number in seeds:
            raise leaf.error(f"seeds: {number} again; {allowed}; remove one")
        seeds.append(number)
    if isinstance(node, Sequence):
        return tuple(seeds)
    if not 1 <= seeds[0] <= 1000:
        raise node.error(f"seeds: {seeds[0]} of them; {allowed}; write another number")
    return tuple(range(seeds[0]))


def _variant(sketch: Sketch, dataset: str, draft: Draft) -> Variant:
    what = f"variant {sketch.name}"
    ratio = _ratio(sketch.settings, what)
    for kind in ("encoder", "decoder"):
        if kind not in sketch.settings:
            known = ", ".join(parts.names(kind))
            raise sketch.place.error(
                f"{what} has no {kind}; allowed: {known}; add `{kind}: ...` or `architecture: ...`"
            )
    evaluation = mapping_of(
        draft.head.get("evaluation"), "evaluation", "evaluation: {importance_samples: 200}"
    )
    refuse_unknown_keys(evaluation, ("importance_samples",), "evaluation")
    node = sketch.settings.merged(evaluation)
    scalars = Mapping(sketch.place)
    for key in (*node, *ABOUT):
        source = sketch.about if key in ABOUT else node
        if key not in PARTS and key in source:
            scalars.put(key, source[key], source.places[key])
    published = _published(scalars.pop("published", None), what)
    values: dict[str, Any] = plain(Variant, scalars, what, ratio)
    values |= {kind: _part(kind, node[kind], what, ratio) for kind in PARTS}
    values |= {"name": sketch.name, "label": sketch.label, "axes": sketch.axes}
    variant = checked(Variant, node, values | {"dataset": dataset, "published": published}, what)
    _refuse_target(variant, sketch)
    return variant


def _check_architecture(what: str, block: Mapping) -> None:
    """Check a block that perhaps no variant uses."""
    ratio = _ratio(block, what) if "latent" in block else None
    for kind in ("encoder", "decoder"):
        if kind in block:
            _part(kind, block[kind], what, ratio)


def _ratio(settings: Mapping, what: str) -> Fraction:
    """The number that `dz/dx` stands for."""
    latent = Mapping(settings.place)
    if "latent" in settings:
        latent.put("latent", settings["latent"], settings.places["latent"])
    return Fraction(checked(Size, latent, plain(Size, latent, what), what).latent, PIXELS)


def _part(kind: str, node: Node, what: str, ratio: Fraction | None) -> Part:
    known = parts.names(kind)
    assert isinstance(node, Mapping)  # noqa: S101  # settings.overlaid made it one
    if "name" not in node:
        raise node.error(f"{what}: {kind} has no name; allowed: {', '.join(known)}; add `name: ...`")
    name = word_of(node["name"], kind, known)
    options = Mapping(node["name"].place)
    for key, value in node.items():
        if key != "name":
            options.put(key, value, node.places[key])
    title = f"{kind} {name}"
    model = parts.part(kind, name).model
    values = checked(model, options, plain(model, options, title, ratio), title).model_dump()
    hidden, activation = values.get("hidden"), values.get("activation")
    if isinstance(hidden, list) and isinstance(activation, list) and len(hidden) != len(activation):
        given_ = f"{len(activation)} activations for {len(hidden)} hidden layers"
        raise options["activation"].error(
            f"{title}: {given_}; allowed: one, or one per layer; write {len(hidden)}"
        )
    return Part(name=name, options=values)


def _published(node: Node | None, what: str) -> tuple[Published, ...]:
    if node is None:
        return ()
    if not isinstance(node, Sequence):
        allowed = "allowed: a list of rows; write `published: [{value: 106.66, ...}]`"
        raise node.error(f"{what}: published is {given(node)}; {allowed}")
    rows = []
    for item in node:
        row = mapping_of(
            item, f"{what}: a row of published", "{value: 106.66, metric: test_loss, source: ...}"
        )
        title = f"{what}: published"
        rows.append(checked(Published, row, plain(Published, row, title), title))
    return tuple(rows)


def _refuse_target(variant: Variant, sketch: Sketch) -> None:
    if variant.target.name == "normalised" and variant.likelihood.name in UNIT_INTERVAL:
        what = f"variant {variant.name}: a normalised target under likelihood {variant.likelihood.name}"
        message = f"{what}; allowed: a target in [0, 1]; write `target: grey` or `likelihood: gaussian`"
        raise sketch.settings["target"].error(message)


def _refuse_same(variants: dict[str, Variant], draft: Draft) -> None:
    """Two cells of a matrix that resolve to the same settings, such as β 1 and 1.0, are a slip."""
    seen: dict[str, str] = {}
    for name, variant in variants.items():
        if variant.axes:
            settings = variant.model_dump_json(include=set(Settings.model_fields))
            if (first := seen.setdefault(settings, name)) != name:
                what = f"variants {first} and {name} have the same settings"
                raise draft.sketches[name].place.error(
                    f"{what}; allowed: different ones; exclude one of them"
                )
