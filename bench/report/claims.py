"""Two claims put to the test: document 004's on a small β, and document 003's encoder without activation."""

from __future__ import annotations

from bench.metrics import Metric
from bench.report.cells import NOTHING, spread, table, text
from bench.report.contrasts import beta_pairs, contrast, linear_pairs, significant
from bench.report.results import Results
from bench.report.statistics import MIN_SEEDS, Difference, Estimate


def claim(results: Results) -> list[str]:
    """Document 004: a small β is fine for reconstruction, but the latents drift and samples get worse."""
    rows = _claim_rows(results)
    if not rows:
        return []
    told = [
        f"{verdict} for {text(kind)} at β = {text(beta)}"
        f" (KL(q(z) ‖ p(z)) {signed(drift)}, Fréchet distance {signed(frechet)})"
        for kind, beta, drift, frechet, _, verdict in rows
    ]
    few = all(d is None or d.n < MIN_SEEDS for row in rows for d in row[2:4])
    why = " Too few seeds: add at least 2." if few else ""
    return [
        "**Does a small β make the latents drift and samples worse (document 004)?**"
        f" {sentence('; '.join(told))} Differences are to β = 1, all else equal.{why}"
    ]


ClaimRow = tuple[str, str, Difference | None, Difference | None, Difference | None, str]


def _claim_rows(results: Results) -> list[ClaimRow]:
    names = ("aggregate_kl", "frechet_distance", "mse")
    pairs = beta_pairs(results.variants)
    found = {
        key: [c.difference("small", "one") if (c := contrast(pair, n)) else None for n in names]
        for key, pair in pairs.items()
    }
    judged = [d for row in found.values() for d in row[:2]]
    sure = iter(significant(judged))
    rows = []
    for (kind, beta), (drift, frechet, mse) in found.items():
        certain = (next(sure), next(sure))
        if drift or frechet or mse:
            texts = [v.beta_text for v in pairs[kind, beta]["small"].values()]
            written = next((t for t in texts if "/" in t), texts[0])
            rows.append((kind, written, drift, frechet, mse, _claim_verdict(drift, frechet, certain)))
    return rows


def _claim_verdict(drift: Difference | None, frechet: Difference | None, sure: tuple[bool, bool]) -> str:
    signs = [
        0 if d is None or not s else (1 if d.mean > 0 else -1)
        for d, s in zip((drift, frechet), sure, strict=True)
    ]
    if signs == [1, 1]:
        return "supported"
    return "contradicted" if -1 in signs else "undecided"


def claim_table(results: Results) -> str:
    """β below 1 against β = 1, all else equal: drift, samples and reconstruction, by likelihood class."""
    return table(
        ["likelihood", "β", "Δ KL(q(z) ‖ p(z)) (nats)", "Δ Fréchet distance", "Δ MSE", "n", "the claim is"],
        [
            [text(kind) or NOTHING, text(beta), signed(drift), signed(frechet), signed(mse),
             _n(drift or frechet or mse), verdict]
            for kind, beta, drift, frechet, mse, verdict in _claim_rows(results)
        ],
    )  # fmt: skip


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
