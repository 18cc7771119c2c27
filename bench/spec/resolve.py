"""Turn a YAML file into a checked experiment: each value allowed, each combination sensible."""

from __future__ import annotations

import math
from collections.abc import Iterable
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from bench.errors import BenchError, printable
from bench.spec import registry
from bench.spec.check import check, list_of, mapping_of, refuse_unknown_keys, text_of, word_of
from bench.spec.experiment import (
    FILE_STEM,
    PARTS,
    Claim,
    Experiment,
    OwnMetric,
    Part,
    Published,
    Seeds,
    Settings,
    Size,
    Variant,
    names_folder,
    too_many_runs,
)
from bench.spec.grammar import Draft, expand
from bench.spec.images import npz_shape
from bench.spec.matrix import Cell
from bench.spec.options import Added, Positive
from bench.spec.own import own_metric
from bench.spec.shipped import find
from bench.spec.source import Mapping, Node, Sequence, given

LOSSES = ("train_loss", "test_loss", "validation_loss")  # of the curves
UNIT_INTERVAL = ("bernoulli", "continuous-bernoulli")  # likelihoods of pixels in [0, 1]


class Head(BaseModel):
    """What is said once a file, the data and the evaluation aside."""

    model_config = ConfigDict(strict=True, defer_build=True)
    question: str
    seeds: Annotated[int, Field(ge=1, le=1000)] | Seeds = 5  # a count, or which
    equivalence_margin: Positive = 1.0


def load(path: Path, *, code: bool = True) -> Experiment:
    """Read the experiment in a YAML file, or of a name that ships; without `code` it may name no Python file.

    Raises BenchError with file, line and column of what is wrong.
    """
    path = find(path)
    draft = expand(path)
    if not names_folder(path.stem, FILE_STEM):
        what = f"{printable(str(path))}: the file's name names a folder of reports"
        allowed = "allowed: letters, digits, dot, hyphen, underscore, at most 80"
        raise BenchError(f"{what}; {allowed}; rename the file")
    head = check(Head, draft.head.take("question", "seeds", "equivalence_margin"), "the experiment")
    seeds = tuple(range(head.seeds) if isinstance(head.seeds, int) else head.seeds)
    written = draft.head.get("seeds")
    for i, leaf in enumerate(written if isinstance(written, Sequence) else ()):
        if seeds[i] in seeds[:i]:
            raise leaf.error(f"seeds: {seeds[i]} again; allowed: different whole numbers; remove one")
    resolver = _Resolver(draft, code=code)
    for name, block in draft.architectures.items():
        resolver.check_architecture(f"architecture {name}", block)
    variants = {
        name: resolver.variant(name, node, draft.cells.get(name)) for name, node in draft.variants.items()
    }
    if not variants:
        what = "the experiment has no variants; allowed: variants, a matrix"
        raise draft.head.error(f"{what}; add `variants:`")
    _refuse_same(variants, draft)
    if fault := too_many_runs(len(variants), len(seeds)):
        raise draft.head.get("seeds", draft.head).error(fault)
    return Experiment(
        name=path.stem,
        path=path,
        question=head.question,
        dataset=resolver.dataset,
        offline_fallback=resolver.fallback,
        seeds=seeds,
        equivalence_margin=head.equivalence_margin,
        claims=_claims(draft.head.get("claims"), variants),
        variants=variants,
    )


def _claims(node: Node | None, variants: Iterable[str]) -> tuple[Claim, ...]:
    """Read the claims; each names two variants of the experiment."""
    example = "{name: ..., better: A, than: B, on: elbo_bernoulli, by: 0.5}"
    claims: list[Claim] = []
    for item in list_of(node, "claims", f"claims: [{example}]"):
        said = mapping_of(item, "a claim", example, Claim.model_fields)
        claim = check(Claim, said, "a claim")
        pairs = [("better", "than"), ("equal", "to")]
        named = [keys for keys in pairs if any(key in said for key in keys)]
        if len(named) != 1 or any(key not in said for key in named[0]):
            allowed = "allowed: better and than, or equal and to"
            raise said.error(f"claim {claim.name} needs two variants; {allowed}; write `{example}`")
        for key in named[0]:
            word_of(said[key], f"claim {claim.name}: {key}", variants)
        if claim.name in [other.name for other in claims]:
            raise said["name"].error(f"claim {claim.name} again; allowed: different names; rename one")
        claims.append(claim)
    return tuple(claims)


class _Resolver:
    """What checking the settings of a file takes beside them; each Python file is read once."""

    def __init__(self, draft: Draft, *, code: bool) -> None:
        self.code = code
        said = draft.head.get("evaluation", Mapping(draft.head.place))
        example, known = "evaluation: {importance_samples: 200}", ("importance_samples",)
        self.evaluation = mapping_of(said, "evaluation", example, known)
        self.read = cache(registry.read_module)
        self.entry = cache(registry.Module.entry)
        self.own_data: Part | None = None
        self.fallback: str | None = None  # the dataset to go on with where the first can't be had
        self.shape: tuple[int, ...] | None = None  # of an image; a Python file's are not known here
        self.dataset = self.data(draft.head.get("dataset"))
        self.metrics = self._metrics(draft.head.get("metrics"))

    def variant(self, name: str, node: Mapping, cell: Cell | None) -> Variant:
        what = f"variant {name}"
        ratio = self.ratio(node, what)
        for kind in () if "model" in node else ("encoder", "decoder"):
            if kind not in node:
                known = ", ".join(registry.entries(kind))
                allowed = f"allowed: {known}; add `{kind}: ...` or `architecture: ...`"
                raise node.error(f"{what} has no {kind}; {allowed}")
        kinds = [kind for kind in PARTS if kind in node]
        beside: dict[str, Any] = {kind: self.part(kind, node[kind], what, ratio) for kind in kinds}
        if "prior" in beside and beside["prior"] == Part(name="standard"):
            beside["prior"] = None  # as good as unsaid
        beside |= {"name": name, "label": cell.label if cell else name, "axes": cell.axes if cell else {}}
        beside |= {"dataset": self.dataset, "own_data": self.own_data}
        beside |= {"published": _published(node.get("published"), what)}
        beside |= {"metrics": self.metrics}
        said = self.evaluation.over(node)
        said = said.take(*(key for key in said if key not in beside))
        variant = check(Variant, said, what, ratio, **beside)
        if variant.prior and variant.objective.name == "free-bits" and not variant.objective.sha256:
            what += f": objective free-bits under prior {variant.prior.name}"
            allowed = "allowed: a prior under which each latent has a KL in closed form"
            raise node["objective"].error(f"{what}; {allowed}; write `prior: standard`")
        target, likelihood = variant.target, variant.likelihood
        if target.name == "normalised" and likelihood.name in UNIT_INTERVAL and not likelihood.sha256:
            what += f": a normalised target under likelihood {likelihood.name}"
            allowed = "allowed: a target in [0, 1]; write `target: grey` or `likelihood: gaussian`"
            raise node["target"].error(f"{what}; {allowed}")
        if variant.patience and not variant.validation:
            what += f": patience {variant.patience} without validation images, which it waits for"
            raise node["patience"].error(
                f"{what}; allowed: with some; write `validation: 5000`, or another number"
            )
        return variant

    def _metrics(self, node: Node | None) -> list[OwnMetric]:
        """Read the metrics of the user's own."""
        example = "{file: mine.py, name: Mine}"
        found: dict[str, OwnMetric] = {}
        for item in list_of(node, "metrics", f"metrics: [{example}]"):
            block = mapping_of(item, "a metric", example)
            part = self.part("metric", block, "the experiment", None)
            try:
                metric = own_metric(part, self.module("metric", block["file"]))
            except BenchError as error:
                raise block["name"].error(str(error)) from None
            if found.setdefault(metric.name, metric) is not metric:
                what = f"metric {metric.name} again; allowed: each name once"
                raise block["name"].error(f"{what}; remove one")
        return [*found.values()]

    def check_architecture(self, what: str, block: Mapping) -> None:
        """Check a block that perhaps no variant uses."""
        ratio = self.ratio(block, what) if "latent" in block else None
        for kind in ("encoder", "decoder"):
            if kind in block:
                self.part(kind, block[kind], what, ratio)

    def ratio(self, settings: Mapping, what: str) -> Fraction | None:
        """Work out the number that `dz/dx` stands for; None where the data's shape is not known."""
        latent = check(Size, settings.take("latent"), what).latent
        return Fraction(latent, math.prod(self.shape)) if self.shape else None

    def data(self, node: Node | None) -> str:
        """Read the dataset, which may be one of the user's own, and its offline fallback; give its name."""
        known = registry.entries("dataset")
        if isinstance(node, Mapping) and "file" in node:
            return self.data_of_file(node, node["file"])
        if isinstance(node, Mapping):
            refuse_unknown_keys(node, ("name", "offline_fallback", "file"), "dataset")
            if "name" not in node:
                raise node.error(f"dataset has no name; allowed: {', '.join(known)}; add `name: ...`")
            name = word_of(node["name"], "dataset", known)
            if fallback := node.get("offline_fallback"):
                self.fallback = word_of(fallback, "dataset", known)
                if registry.image_shape(self.fallback) != registry.image_shape(name):
                    what = f"offline_fallback {self.fallback} has images of another shape than {name}"
                    raise fallback.error(f"{what}; allowed: of the same; choose another, or leave it out")
        else:
            name = "mnist" if node is None else word_of(node, "dataset", known)
        self.shape = registry.image_shape(name)
        return name

    def data_of_file(self, block: Mapping, node: Node) -> str:
        """Check an .npz by its headers, or the options of a part of a Python file."""
        file = Path(node.place.file).parent / text_of(node, "dataset: file")
        if file.suffix != ".npz":
            self.own_data = self.part("dataset", block, "the experiment", None)
            return f"{file.stem}.{self.own_data.name}"
        refuse_unknown_keys(block, ("file",), "a dataset of an .npz")
        try:
            self.shape = npz_shape(file)
        except BenchError as error:
            raise node.error(f"dataset: {error}") from None
        self.own_data = Part(name="npz").located(file.resolve())
        return file.name

    def part(self, kind: str, node: Node, what: str, ratio: Fraction | None) -> Part:
        """Check a part and its options: a built-in one, or one of the file that it names."""
        block = mapping_of(node, kind, f"{kind}: {{name: ...}}")
        if kind not in registry.REGISTRIES and "file" not in block:
            what = f"{kind} without a file; allowed: one of your own, as bench has none to name"
            raise block.error(f"{what}; write `file: mine.py, name: Mine`")
        file = self.module(kind, block["file"]) if "file" in block else None
        known = [n for n in file.defined if not n.startswith("_")] if file else [*registry.entries(kind)]
        if "name" not in block:
            raise block.error(f"{what}: {kind} has no name; allowed: {', '.join(known)}; add `name: ...`")
        name = word_of(block["name"], f"{kind} in {file.path.name}" if file else kind, known)
        try:
            entry = self.entry(file, kind, name, name) if file else registry.part(kind, name)
        except BenchError as error:
            raise block["name"].error(str(error)) from None
        title = f"{kind} {name}"
        options = block.take(*(key for key in block if key not in ("name", "file")))
        options.place = block["name"].place
        fields = entry.model.model_fields
        values = {
            key: value
            for key, value in check(entry.model, options, title, ratio).model_dump().items()
            if Added() not in fields[key].metadata or value != fields[key].default
        }
        if file:
            return Part(name=name, options=values, sha256=file.sha256).located(file.path)
        _refuse_misfits(title, values, options)
        return Part(name=name, options=values)

    def module(self, kind: str, node: Node) -> registry.Module:
        """Read the file of a part, which is relative to the YAML file that names it."""
        if not self.code:
            what = f"{kind}: file {given(node)} is code, which --no-code refuses"
            raise node.error(f"{what}; allowed: bench's own parts; read the file, then leave --no-code out")
        file = Path(node.place.file).parent / text_of(node, f"{kind}: file")
        try:
            if file.suffix != ".py":
                what, allowed = "no Python file", "FILE.py"
                if kind == "dataset":
                    what, allowed = "neither an .npz nor a Python file", "FILE.npz, FILE.py"
                raise BenchError(f"{given(node)} is {what}; allowed: {allowed}; correct the path")
            return self.read(file)
        except BenchError as error:
            raise node.error(f"{kind}: {error}") from None


def _refuse_misfits(title: str, values: dict[str, Any], options: Mapping) -> None:
    """Refuse options of a built-in part that are allowed alone and not together."""
    hidden, activation = values.get("hidden"), values.get("activation")
    if isinstance(hidden, list) and isinstance(activation, list) and len(hidden) != len(activation):
        what = f"{title}: {len(activation)} activations for {len(hidden)} hidden layers"
        raise options["activation"].error(f"{what}; allowed: one, or one per layer; write {len(hidden)}")
    if values.get("nesterov") and (values["momentum"] == 0 or values["dampening"]):
        what = f"{title}: nesterov with momentum {values['momentum']} and dampening {values['dampening']}"
        allowed = "allowed: with a momentum and no dampening"
        raise options["nesterov"].error(f"{what}; {allowed}; write `momentum: 0.9`")


def _published(node: Node | None, what: str) -> tuple[Published, ...]:
    found = list_of(node, f"{what}: published", "published: [{value: 106.66, ...}]", "a list of rows")
    example = "{value: 106.66, metric: test_loss, source: ...}"
    rows = [mapping_of(item, f"{what}: a row of published", example) for item in found]
    for row in rows:
        if "metric" in row:
            word_of(row["metric"], "metric", (*LOSSES, *registry.metrics()))
    return tuple(check(Published, row, f"{what}: published") for row in rows)


def _refuse_same(variants: dict[str, Variant], draft: Draft) -> None:
    """Refuse two cells of a matrix that resolve to the same settings, such as β 1 and 1.0."""
    seen: dict[str, str] = {}
    for name, variant in variants.items():
        if variant.axes:
            settings = variant.model_dump_json(include=set(Settings.model_fields))
            if (first := seen.setdefault(settings, name)) != name:
                what = f"variants {first} and {name} have the same settings"
                place = draft.variants[name].place
                raise place.error(f"{what}; allowed: different ones; exclude one of them")
