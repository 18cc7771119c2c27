"""Two claims put to the test: document 004's on a small β, and document 003's encoder without activation."""

from __future__ import annotations

from dataclasses import dataclass

from bench.evaluation.metrics import Metric
from bench.report.cells import NOTHING, spread, table, text
from bench.report.contrasts import Contrast, beta_pairs, contrast, linear_pairs, significant
from bench.report.results import Results
from bench.report.statistics import MIN_SEEDS, Difference, Estimate


def claim(results: Results) -> list[str]:
    """Document 004: a small β is fine for reconstruction, but the latents drift and samples get worse."""
    rows = _claim_rows(results)
    if not rows:
        return []
    told = [
        f"{row.verdict} for {text(row.kind)} at β = {text(row.beta)} (KL(q(z) ‖ p(z))"
        f" {row.shown_drift}, Fréchet distance {row.shown_frechet})"
        for row in rows
    ]
    few = all(d is None or d.n < MIN_SEEDS for row in rows for d in (row.drift, row.frechet))
    why = " Too few seeds: add at least 2." if few else ""
    return [
        "**Does a small β make the latents drift and samples worse (document 004)?**"
        f" {sentence('; '.join(told))} Differences are to β = 1, all else equal.{why}"
    ]


@dataclass(frozen=True)
class _ClaimRow:
    """A β below 1 less β = 1, all else equal, within a likelihood class."""

    kind: str
    beta: str
    drift: Difference | None
    frechet: Difference | None
    mse: Difference | None
    verdict: str
    bound: bool  # I(x; z) is at its ceiling, so that the drift is an upper bound
    exceptions: str  # in how many settings of all else samples are worse, where they are not in all

    @property
    def shown_drift(self) -> str:
        """The drift with its interval, and whether it is a bound."""
        return f"≤ {signed(self.drift)}" if self.bound and self.drift else signed(self.drift)

    @property
    def shown_frechet(self) -> str:
        """How much worse samples are, and in how many settings where not in all."""
        return f"{signed(self.frechet)} {self.exceptions}".rstrip()


def _claim_rows(results: Results) -> list[_ClaimRow]:
    names = ("aggregate_kl", "frechet_distance", "mse")
    pairs = beta_pairs(results.variants)
    contrasts = {key: [contrast(pair, name) for name in names] for key, pair in pairs.items()}
    found = {
        key: [c.difference("small", "one") if c else None for c in of_pair]
        for key, of_pair in contrasts.items()
    }
    sure = iter(significant([d for row in found.values() for d in row[:2]]))
    rows = []
    for (kind, beta), (drift, frechet, mse) in found.items():
        certain = (next(sure), next(sure))
        if drift or frechet or mse:
            small = pairs[kind, beta]["small"].values()
            texts = [v.beta_text for v in small]
            written = next((t for t in texts if "/" in t), texts[0])
            bound = any(v.saturated for v in small)
            verdict = _claim_verdict(drift, frechet, certain, bound=bound)
            c = contrasts[kind, beta][1]
            but = exceptions(c, "small", "one") if c else ""
            rows.append(_ClaimRow(kind, written, drift, frechet, mse, verdict, bound, but))
    return rows


def _claim_verdict(
    drift: Difference | None, frechet: Difference | None, sure: tuple[bool, bool], *, bound: bool
) -> str:
    """An upper bound of the drift says nothing for it, so that samples alone decide there."""
    signs = [
        0 if d is None or not s else (1 if d.mean > 0 else -1)
        for d, s in zip((drift, frechet), sure, strict=True)
    ]
    if -1 in signs:
        return "contradicted"
    if signs[1] == 1 and bound:
        return "supported by the samples"
    return "supported" if signs == [1, 1] else "undecided"


def claim_table(results: Results) -> str:
    """β below 1 against β = 1, all else equal: drift, samples and reconstruction, by likelihood class."""
    rows = _claim_rows(results)
    shown = table(
        ["likelihood", "β", "Δ KL(q(z) ‖ p(z)) (nats)", "Δ Fréchet distance", "Δ MSE", "n", "the claim is"],
        [
            [text(row.kind) or NOTHING, text(row.beta), row.shown_drift, signed(row.frechet), signed(row.mse),
             _n(row.drift or row.frechet or row.mse), row.verdict]
            for row in rows
        ],
    )  # fmt: skip
    if not any(row.bound for row in rows):
        return shown
    return (
        f"{shown}\n\n≤: an upper bound, as I(x; z) is all that the test images can show and the rest of the"
        " KL counts as drift. The samples alone decide there."
    )


def _linear_rows(results: Results) -> list[tuple[int, Metric, Difference, bool]]:
    metric = results.metric("elbo_bernoulli")
    if metric is None:
        return []
    pairs = linear_pairs(results.variants)
    found = {
        z: c.difference("linear", "other") for z, pair in pairs.items() if (c := contrast(pair, metric.name))
    }
    sure = significant(list(found.values()))
    return [(z, metric, d, s) for (z, d), s in zip(found.items(), sure, strict=True) if d is not None]


def linear(results: Results) -> list[str]:
    """What an encoder without activation costs, by latent size."""
    rows = _linear_rows(results)
    if not rows:
        return []
    groups: dict[str, list[str]] = {}
    for z, metric, d, sure in rows:
        kind = "no difference is shown" if not sure else "it costs" if d.mean < 0 else "it gains"
        groups.setdefault(kind, []).append(f"{difference_text(d, metric, absolute=sure)} at latent size {z}")
    few = all(d.n < MIN_SEEDS for _, _, d, _ in rows)
    told = "; ".join(f"{kind}: {', '.join(items)}" for kind, items in groups.items())
    why = " Too few seeds: add at least 2." if few else ""
    title = f"*{text(rows[0][1].title)}*"
    return [
        f"**What does a linear encoder cost?** On {title}, linear against not, all else equal: {told}.{why}"
    ]


def linear_table(results: Results) -> str:
    """The linear encoder less the other at each latent size."""
    return table(
        ["latent size", "ELBO, linear less not (nats/image)", "n", "verdict"],
        [
            [
                str(z),
                signed(d),
                str(d.n),
                "costs" if s and d.mean < 0 else "gains" if s else "no difference shown",
            ]
            for z, _, d, s in _linear_rows(results)
        ],
    )


def exceptions(c: Contrast, a: str, b: str) -> str:
    """In how many settings of all else a − b has the sign it has on the whole; empty where in all of them."""
    agreeing = c.agreeing(a, b)
    return f"in only {agreeing} of {c.settings} settings" if agreeing < c.settings else ""


def difference_text(d: Difference, metric: Metric, *, absolute: bool = False) -> str:
    """A difference with its interval and unit; its size alone where the words say the sign."""
    shown = spread(Estimate(abs(d.mean), d.half_width, d.n)) if absolute else signed(d)
    return f"{shown} {text(metric.unit)}".rstrip()


def signed(d: Difference | None) -> str:
    """A difference with its sign and interval."""
    if d is None:
        return NOTHING
    shown = spread(Estimate(d.mean, d.half_width, d.n))
    return f"+{shown}" if d.mean > 0 else shown


def _n(d: Difference | None) -> str:
    return str(d.n) if d else "0"


def sentence(told: str) -> str:
    """A capital at the start, a full stop at the end."""
    return f"{told[:1].upper()}{told[1:]}." if told else ""
