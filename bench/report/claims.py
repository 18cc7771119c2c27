"""Two claims put to the test: document 004's on a small β, and document 003's encoder without activation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from bench.evaluation.metrics import Metric
from bench.report.cells import NOTHING, table, text
from bench.report.contrasts import Contrast, beta_pairs, contrast, linear_pairs, winner
from bench.report.results import Results
from bench.report.statistics import MIN_SEEDS, Effect, rejected, too_few
from bench.report.wording import by, signed, unequal

SAMPLES = ("frechet_distance", "recall", "coverage")  # what the verdict looks at
DRIFT = ("prior_divergence", "aggregate_kl")  # the first that is measured
SHOWN = (*DRIFT, *SAMPLES, "mse")
SMALL, ONE = "small", "one"  # the levels of `beta_pairs`


@dataclass(frozen=True)
class _ClaimRow:
    """A β below 1 against β = 1, all else equal, within a likelihood class."""

    kind: str
    beta: str
    contrasts: Mapping[str, Contrast]
    sure: Mapping[str, bool]
    bound: bool  # I(x; z) is at its ceiling, so that the drift is an upper bound

    @property
    def effects(self) -> dict[str, Effect]:
        """Small β against 1, by metric."""
        return {name: e for name, c in self.contrasts.items() if (e := c.effect(SMALL, ONE)) is not None}

    def shown(self, name: str) -> str:
        """An effect with its interval; where its sign turns with the setting, in how many it is worse."""
        c = self.contrasts.get(name)
        if c is None:
            return NOTHING
        if c.turns(SMALL, ONE):
            effects = c.effects(SMALL, ONE)
            worse = sum(winner(effect, c.metric, SMALL, ONE) == ONE for effect in effects)
            return f"worse in {worse} of {len(effects)} settings"
        bound = "≤ " if name == "aggregate_kl" and self.bound else ""
        return bound + signed(self.effects.get(name))

    @property
    def verdict(self) -> str:
        """Whether samples get worse, by three metrics; mixed where metrics or settings disagree."""
        signs = set()
        for name in SAMPLES:
            if (c := self.contrasts.get(name)) is None:
                continue
            if c.turns(SMALL, ONE):
                effects = c.effects(SMALL, ONE)
                sure = rejected([effect.p for effect in effects])
                signs |= {winner(e, c.metric, SMALL, ONE) for e, s in zip(effects, sure, strict=True) if s}
            elif self.sure[name]:
                signs.add(winner(self.effects[name], c.metric, SMALL, ONE))
        if len(signs) != 1:
            return "mixed" if signs else "undecided"
        return "supported" if signs == {ONE} else "contradicted"


def _claim_rows(results: Results) -> list[_ClaimRow]:
    """One family: Holm over all likelihoods, β and metrics of the samples."""
    metrics = [m for name in SHOWN if (m := results.metric(name)) is not None]
    rows = []
    for (kind, _), pair in beta_pairs(results.variants).items():
        found = {m.name: c for m in metrics if (c := contrast(pair, m)) is not None}
        texts = [v.beta_text for v in pair[SMALL].values()]
        written = next((t for t in texts if "/" in t), texts[0])
        if found:
            bound = any(v.saturated for v in pair[SMALL].values())
            rows.append(_ClaimRow(kind, written, found, {}, bound))
    tested = [(i, name) for i, row in enumerate(rows) for name in SAMPLES if name in row.effects]
    sure = dict(zip(tested, rejected([rows[i].effects[name].p for i, name in tested]), strict=True))
    return [
        replace(row, sure={name: sure.get((i, name), False) for name in SAMPLES})
        for i, row in enumerate(rows)
    ]


def claim(results: Results) -> list[str]:
    """Document 004: a small β is fine for reconstruction, but the latents drift and samples get worse."""
    rows = _claim_rows(results)
    if not rows:
        return []
    told = [
        f"{row.verdict} for {text(row.kind)} at β = {text(row.beta)} (Fréchet distance"
        f" {row.shown('frechet_distance')}, recall {row.shown('recall')}, coverage {row.shown('coverage')})"
        for row in rows
    ]
    n = min((e.n for row in rows for e in row.effects.values()), default=0)
    why = f" {sentence(too_few(n))}" if n < MIN_SEEDS else ""
    return [
        f"**Does a small β make samples worse (document 004)?** {sentence('; '.join(told))} Against β = 1,"
        f" all else equal.{why}"
    ]


def claim_table(results: Results) -> str:
    """β below 1 against β = 1, all else equal: drift, samples and reconstruction, by likelihood class."""
    rows = _claim_rows(results)
    measured = [m for name in SHOWN if (m := results.metric(name)) is not None]
    metrics = [m for m in measured if m.name != DRIFT[1] or measured[0].name == DRIFT[1]]
    shown = table(
        ["likelihood", "β", *(text(m.title) for m in metrics), "n", "the claim is"],
        [
            [text(row.kind) or NOTHING, text(row.beta), *(row.shown(m.name) for m in metrics),
             str(min((e.n for e in row.effects.values()), default=0)), row.verdict]
            for row in rows
        ],
    )  # fmt: skip
    if "≤" not in shown:
        return shown
    return (
        f"{shown}\n\n≤: an upper bound, as I(x; z) is all that the test images can show and the rest of the"
        " KL counts as drift. The verdict is on the samples alone."
    )


def _linear_rows(results: Results) -> list[tuple[int, Metric, Effect, bool]]:
    metric = results.metric("elbo_bernoulli")
    if metric is None:
        return []
    pairs = linear_pairs(results.variants)
    found = {
        z: c.effect("linear", "other")
        for z, pair in pairs.items()
        if (c := contrast(pair, metric)) is not None
    }
    sure = rejected([effect.p if effect else None for effect in found.values()])
    return [(z, metric, e, s) for (z, e), s in zip(found.items(), sure, strict=True) if e is not None]


def linear(results: Results) -> list[str]:
    """What an encoder without activation costs, by latent size."""
    rows = _linear_rows(results)
    if not rows:
        return []
    groups: dict[str, list[str]] = {}
    for z, metric, e, sure in rows:
        kind = "no difference is shown" if not sure else "it costs" if e.value < 0 else "it gains"
        size = by(e, metric) if sure else f"{signed(e)} {text(metric.unit)}"
        groups.setdefault(kind, []).append(f"{size} at latent size {z}")
    told = "; ".join(f"{kind}: {', '.join(items)}" for kind, items in groups.items())
    n = min(e.n for _, _, e, _ in rows)
    why = f" {sentence(too_few(n))}" if n < MIN_SEEDS else ""
    title = f"*{text(rows[0][1].title)}*"
    return [
        f"**What does a linear encoder cost?** On {title}, linear against not, all else equal: {told}.{why}"
    ]


def linear_table(results: Results) -> str:
    """The linear encoder less the other at each latent size."""
    rows = _linear_rows(results)
    return table(
        ["latent size", "ELBO, linear less not (nats/image)", "n", "verdict"],
        [
            [str(z), signed(e), str(e.n), ("costs" if e.value < 0 else "gains") if sure
             else unequal(e, metric, results.margin, len(rows))]
            for z, metric, e, sure in rows
        ],
    )  # fmt: skip


def sentence(told: str) -> str:
    """A capital at the start, a full stop at the end."""
    return f"{told[:1].upper()}{told[1:]}." if told else ""
