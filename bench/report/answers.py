"""What the results say, one sentence a question: only what the statistics support, with n and interval."""

from __future__ import annotations

import re
from collections.abc import Sequence

from bench.metrics import Metric
from bench.report.cells import NOTHING, code, exact, fixed, spread, table, text, words
from bench.report.contrasts import (
    Contrast,
    axes,
    beta_pairs,
    contrast,
    levels,
    linear_pairs,
    significant,
)
from bench.report.published import compare, switched_off
from bench.report.results import Results, Variant, number
from bench.report.statistics import MIN_SEEDS, Difference, Estimate, estimate, paired, rank
from bench.report.tables import ranking

QUESTIONS = {
    "likelihood": "BCE or squared error (likelihood)?",
    "beta": "Which β?",
    "architecture": "Which architecture?",
    "encoder": "Which encoder?",
    "latent": "Which latent size?",
}


def sentences(results: Results) -> list[str]:
    """The answers, each one Markdown sentence headed by its question."""
    if not results.finished:
        return ["No run has finished yet, so there is nothing to answer from."]
    found = [_best(results, metric) for metric in results.measured("common")]
    found += [sentence for axis in axes(results.variants) for sentence in _axis(results, axis)]
    found += [*_claim(results), *_linear(results), *_effective_beta(results), *_printed(results)]
    return [sentence for sentence in found if sentence]


def _best(results: Results, metric: Metric) -> str:
    order = ranking(results.variants, metric)
    named = {v.name: v for v in results.variants}
    which = f"**Best by *{text(metric.title)}*?**"
    if order.leader is None:
        return ""
    leader = named[order.leader]
    value = _measured(leader.estimate(metric.name), metric)
    if order.best is None:
        return f"{which} Not told apart yet ({order.advice}); the best mean is {_label(leader)}'s, {value}."
    ties = [_label(named[t]) for t in order.ties]
    if not ties:
        others = "other that is ranked" if any(v.lost for v in results.variants) else "other"
        return f"{which} {_label(leader)}, {value}: significantly better than every {others}."
    some = words(ties) if len(ties) <= 4 else f"{', '.join(ties[:3])} and {len(ties) - 3} more"
    return f"{which} {_label(leader)}, {value}; not significantly different from it: {some} ({order.advice})."


def _axis(results: Results, axis: str) -> list[str]:
    by_level = levels(results.variants, axis)
    question = QUESTIONS.get(axis, f"Which {text(axis)}?")
    metrics = [m for m in results.measured("common") if m.direction]
    found = [(m, c) for m in metrics if (c := contrast(by_level, m.name)) is not None]
    if not found:
        return [f"**{question}** No setting has finished for two values of {code(axis)} yet."]
    told = _of_two if len(found[0][1].column) == 2 else _of_many
    return [f"**{question}** {told(found)} {_basis(found[0][1])}"]


def _basis(c: Contrast) -> str:
    n = len(next(iter(c.column.values())))
    told = f"n = {_count(n, 'seed')}, {_count(c.settings, 'setting')} of all else, equal on both sides"
    left_out = f"; {_count(c.left_out, 'setting')} left out, where a seed was lost" if c.left_out else ""
    return f"({told}{left_out})"


def _of_two(found: Sequence[tuple[Metric, Contrast]]) -> str:
    a, b = found[0][1].column
    differences = [c.difference(a, b) for _, c in found]
    kept = significant(differences)
    clauses: dict[str, list[str]] = {a: [], b: [], "": []}
    for (metric, c), d, sure in zip(found, differences, kept, strict=True):
        if d is None:
            continue
        winner = a if (d.mean > 0) == (metric.direction == "higher") else b
        title = f"*{text(metric.title)}*"
        agree = (
            f" (in only {c.agreeing(a, b)} of {c.settings} settings)" if c.agreeing(a, b) < c.settings else ""
        )
        if sure:
            clauses[winner].append(f"on {title} by {_measured_difference(d, metric, absolute=True)}{agree}")
        else:
            clauses[""].append(f"{title} {_measured_difference(d, metric)}")
    parts = [f"{code(level)} is better {words(clauses[level])}" for level in (a, b) if clauses[level]]
    if clauses[""]:
        few = max((d.n for d in differences if d), default=0) < MIN_SEEDS
        why = "too few seeds to tell apart, add at least 2" if few else "no difference is shown"
        parts.append(f"{why} ({code(a)} less {code(b)}: {'; '.join(clauses[''])})")
    return _sentence("; ".join(parts))


def _of_many(found: Sequence[tuple[Metric, Contrast]]) -> str:
    clauses = []
    for metric, c in found:
        order = rank(c.column, metric.direction)
        means = {level: estimate(list(seeds.values())) for level, seeds in c.column.items()}
        sign = 1 if metric.direction == "higher" else -1
        worst = min(means, key=lambda level: sign * means[level].mean)
        if order.leader is None:
            continue
        ties = f", not separated from {words([code(t) for t in order.ties])}" if order.ties else ""
        unsure = f" [{order.advice}]" if order.best is None else ""
        ends = f"best {code(order.leader)}{unsure} {spread(means[order.leader])}{ties}"
        clauses.append(f"*{text(metric.title)}*: {ends}, worst {code(worst)} {spread(means[worst])}")
    return _sentence("; ".join(clauses))


def _claim(results: Results) -> list[str]:
    """Document 004: a small β is fine for reconstruction but the latents drift and samples get worse."""
    rows = _claim_rows(results)
    if not rows:
        return []
    told = [
        f"{verdict} for {text(kind)} at β = {exact(beta, 3)}"
        f" (KL(q(z) ‖ p(z)) {_plus_minus(drift)}, Fréchet distance {_plus_minus(frechet)})"
        for kind, beta, drift, frechet, _, verdict in rows
    ]
    return [
        "**Does a small β make the latents drift and samples worse (document 004)?**"
        f" {_sentence('; '.join(told))} Differences are to β = 1, all else equal."
    ]


ClaimRow = tuple[str, float, Difference | None, Difference | None, Difference | None, str]


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
            rows.append((kind, beta, drift, frechet, mse, _claim_verdict(drift, frechet, certain)))
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
        [
            "likelihood",
            "β",
            "Δ KL(q(z) ‖ p(z)) (nats)",
            "Δ Fréchet distance",
            "Δ MSE",
            "n",
            "document 004's claim",
        ],
        [
            [
                text(kind) or NOTHING,
                exact(beta, 3),
                *map(_plus_minus, (drift, frechet, mse)),
                _n(drift or frechet),
                verdict,
            ]
            for kind, beta, drift, frechet, mse, verdict in _claim_rows(results)
        ],
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


def _linear(results: Results) -> list[str]:
    rows = _linear_rows(results)
    if not rows:
        return []
    groups: dict[str, list[str]] = {}
    for z, metric, d, sure in rows:
        kind = "no difference is shown" if not sure else "it costs" if d.mean < 0 else "it gains"
        groups.setdefault(kind, []).append(
            f"{_measured_difference(d, metric, absolute=sure)} at latent size {z}"
        )
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
                _plus_minus(d),
                str(d.n),
                "no difference shown" if not s else "costs" if d.mean < 0 else "gains",
            ]
            for z, _, d, s in _linear_rows(results)
        ],
    )


def _effective_beta(results: Results) -> list[str]:
    told = []
    for v in results.variants:
        if v.beta and v.beta_eff is not None and abs(v.beta_eff / v.beta - 1) > 1e-6:
            how = v.part("objective")[1]
            given = [str(how[k]) for k in ("reconstruction", "kl") if how.get(k)]
            reductions = f" with reductions {words([code(g) for g in given])}" if given else ""
            told.append(
                f"{_label(v)} writes {exact(v.beta, 4)}{reductions}, which is β_eff = {exact(v.beta_eff, 4)}"
            )
    if not told:
        return []
    return [
        "**Which weight on the KL is really meant?** With both terms as sums over one image, in nats:"
        f" {'; '.join(told)}."
    ]


def _printed(results: Results) -> list[str]:
    """What a published loss is in nats; which printed loss is not the negative ELBO of what is sampled."""
    told = []
    if not switched_off(results):
        last = {(c.variant.name, c.row.get("metric")): c for c in compare(results) if c.nats is not None}
        for c in last.values():
            value, metric = number(c.row.get("value")), str(c.row.get("metric", "loss")).replace("_", " ")
            if value is not None and c.nats is not None:
                epoch = f" at epoch {text(c.row['epoch'])}" if c.row.get("epoch") is not None else ""
                which = f"{_label(c.variant)}'s published {text(metric)}"
                told.append(f"{which} {exact(value)}{epoch} is {fixed(c.nats, 2)}")
    unlike = [sentence for v in results.variants if (sentence := _unlike(v))]
    if not told and not unlike:
        return []
    nats = _sentence("; ".join(told) + " nats per image") if told else ""
    return [" ".join(["**What does a printed loss mean in nats?**", *filter(None, [nats, *unlike])])]


def _unlike(v: Variant) -> str:
    """At β_eff = 1 a Bernoulli's loss is −ELBO, unless the KL it charges is of another distribution."""
    if (
        not re.match("bernoulli", v.likelihood_class, re.IGNORECASE)
        or v.beta_eff is None
        or abs(v.beta_eff - 1) > 1e-9
    ):
        return ""
    negative = {seed: -value for seed, value in v.values("elbo").items()}
    d = paired(v.values("test_loss_nats"), negative)
    if d is None or abs(d.mean) < 0.001 * abs(estimate(list(negative.values())).mean):
        return ""
    loss, bound = v.estimate("test_loss_nats"), estimate(list(negative.values()))
    gap = f"{_plus_minus(d)} nats, n = {d.n}"
    return (
        f"{_label(v)}'s printed loss, {spread(loss) if loss else NOTHING}, is not the negative ELBO of the"
        f" distribution it samples, {spread(bound)} ({gap})."
    )


def _label(variant: Variant) -> str:
    return code(variant.settings.get("label") or variant.name)


def _measured(value: Estimate | None, metric: Metric) -> str:
    if value is None:
        return NOTHING
    n = f"n = {value.n}" if value.n > 1 else "one seed gives no interval"
    return f"{spread(value)} {text(metric.unit)} ({n})"


def _measured_difference(d: Difference, metric: Metric, *, absolute: bool = False) -> str:
    shown = spread(Estimate(abs(d.mean), d.half_width, d.n)) if absolute else _plus_minus(d)
    return f"{shown} {text(metric.unit)}".rstrip()


def _plus_minus(d: Difference | None) -> str:
    if d is None:
        return NOTHING
    shown = spread(Estimate(d.mean, d.half_width, d.n))
    return f"+{shown}" if d.mean > 0 else shown


def _n(d: Difference | None) -> str:
    return str(d.n) if d else "0"


def _count(n: int, what: str) -> str:
    return f"{n} {what}" if n == 1 else f"{n} {what}s"


def _sentence(told: str) -> str:
    return f"{told[:1].upper()}{told[1:]}." if told else ""
