"""What the results say, one sentence a question: only what the statistics support, with n and interval."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence

from bench.evaluation.metrics import Metric
from bench.report import rate
from bench.report.cells import NOTHING, code, exact, fixed, plain, spread, text, words
from bench.report.claims import claim, linear, sentence
from bench.report.contrasts import Contrast, axes, contrast, levels, winner
from bench.report.depends import turns
from bench.report.inference import rank
from bench.report.published import compare, final_values, switched_off
from bench.report.results import Results, Variant, number, numbers
from bench.report.statistics import MIN_SEEDS, Estimate, average, estimate, rejected, too_few
from bench.report.tables import baseline_name
from bench.report.wording import by, signed, tests, unequal

QUESTIONS = {
    "likelihood": "Which likelihood, BCE or squared error?",
    "beta": "Which β?",
    "architecture": "Which architecture?",
    "encoder": "Which encoder?",
    "latent": "Which latent size?",
    "precision": "Does precision matter?",
}


def sentences(results: Results) -> list[str]:
    """The answers, each one Markdown sentence headed by its question."""
    if not results.finished:
        return ["No run has finished yet, so there is nothing to answer from."]
    found = [*_lost(results), *_collapsed(results)]  # what is in no ranking, before the rankings
    found += [_best(results, metric) for metric in results.measured("common")]
    found += _baselines(results)
    found += [answer for axis in axes(results.variants) for answer in _axis(results, axis)]
    found += [*rate.sentences(results), *claim(results), *linear(results)]
    found += [*_effective_beta(results), *_effective_variance(results), *_printed(results)]
    return [answer for answer in found if answer]


def _best(results: Results, metric: Metric) -> str:
    order = results.rankings[metric.name]
    named = {v.name: v for v in results.variants}
    which = f"**Best by *{text(metric.title)}*?**"
    if order.leader is None:
        return ""
    leader = named[order.leader]
    value = _measured(leader.estimate(metric.name), metric)
    if order.best is None:
        return f"{which} Not told apart yet ({order.advice}); the best mean is {_label(leader)}'s, {value}."
    ties, untested = ([_label(named[n]) for n in names] for names in (order.ties, order.untested))
    rest = f"; too few seeds to test {_some(untested)}" if untested else ""
    if ties:
        tied = f"not distinguishable from the best: {_some(ties)} ({order.advice})"
        return f"{which} {_label(leader)}, {value}; {tied}{rest}."
    if not order.beaten:
        return f"{which} The best mean is {_label(leader)}'s, {value}{rest}."
    lost = any(v.lost for v in results.variants)
    others = "other that is tested" if untested else "other that is ranked" if lost else "other"
    reserve = "provisionally " if order.provisional else ""
    return f"{which} {_label(leader)}, {value}: {reserve}better than every {others}{rest}."


def _some(names: Sequence[str]) -> str:
    return words(names) if len(names) <= 4 else f"{', '.join(names[:3])} and {len(names) - 3} more"


def _baselines(results: Results) -> list[str]:
    """Variants that a baseline of no more latents beats, by one-sample t-tests."""
    rows = [r for r in results.baselines.get("rows") or () if isinstance(r, Mapping)]
    told, compared = [], False
    for metric in results.measured("common"):
        sign = 1 if metric.direction == "higher" else -1
        known = [(r, x) for r in rows if (x := number(r.get(metric.name))) is not None]
        fair = {
            v.name: [
                (sign * x, baseline_name(r)) for r, x in known if _size(r.get("latent")) <= (v.latent or 0)
            ]
            for v in results.variants
        }
        best = {name: max(found) for name, found in fair.items() if found}
        order = results.rankings[metric.name]
        compared |= any(order.members[name].p is not None for name in best if name in order.members)
        apart = order.apart_from({name: sign * value for name, (value, _) in best.items()})
        beaten: dict[str, list[str]] = {}
        for v in results.variants:
            if sign * apart.get(v.name, 0) < 0:
                value, title = best[v.name]
                beaten.setdefault(f"{text(title)} ({plain(sign * value)})", []).append(_label(v))
        if beaten:
            clauses = [f"{baseline} beats {_some(labels)}" for baseline, labels in beaten.items()]
            told.append(f"on *{text(metric.title)}* {words(clauses)}")
    if not compared:
        return []
    question = "Which variants does a baseline of no more latents beat?"
    how = "(one-sample t, Holm over each column)"
    return [f"**{question}** {sentence('; '.join(told) or 'none, in any column')} {how}"]


def _size(latents: object) -> float:
    return number(latents) or 0


def _axis(results: Results, axis: str) -> list[str]:
    by_level = levels(results.variants, axis)
    question = QUESTIONS.get(axis, f"Which {text(axis)}?")
    metrics = [m for m in results.measured("common") if m.direction]
    found = [c for m in metrics if (c := contrast(by_level, m)) is not None]
    if not found:
        return [f"**{question}** No setting has finished for two values of {code(axis)} yet."]
    told = _of_two(found, results.margin) if len(found[0].cells) == 2 else _of_many(found)
    return [f"**{question}** {told} {_basis(found[0])}"]


def _basis(c: Contrast) -> str:
    told = f"n = {_count(c.n, 'seed')}, {_count(len(c.settings), 'setting')} of all else, equal on both sides"
    left_out = f"; {_count(c.left_out, 'setting')} left out, where a seed was lost" if c.left_out else ""
    levels = list(c.cells)
    how = tests([c.effect(*levels)]) if len(levels) == 2 else "compared with the best (MCB)"
    return f"({told}{left_out}{f'; {how}' if how and c.n >= MIN_SEEDS else ''})"


def _of_two(found: Sequence[Contrast], margin: float) -> str:
    """Averages over settings that agree in sign; where they do not, where it turns."""
    a, b = found[0].cells
    turned = [c for c in found if c.turns(a, b)]
    agreed = [c for c in found if c not in turned]
    effects = [c.effect(a, b) for c in agreed]
    clauses: dict[str, list[str]] = {a: [], b: [], "": []}
    for c, effect, sure in zip(agreed, effects, rejected([e.p if e else None for e in effects]), strict=True):
        if effect is None:
            continue
        title = f"*{text(c.metric.title)}*"
        if sure:
            clauses[winner(effect, c.metric, a, b)].append(f"on {title} by {by(effect, c.metric)}")
        else:
            verdict = f": {unequal(effect, c.metric, margin, len(effects))}" if effect.p is not None else ""
            clauses[""].append(f"{title} {signed(effect)} {text(c.metric.unit)}{verdict}")
    parts = [f"{code(level)} is better {words(clauses[level])}" for level in (a, b) if clauses[level]]
    if clauses[""]:
        few = f"{too_few(found[0].n)}: " if found[0].n < MIN_SEEDS else ""
        parts.append(f"{few}{code(a)} against {code(b)}, {'; '.join(clauses[''])}")
    return " ".join(filter(None, [turns(turned, a, b), sentence("; ".join(parts))]))


def _of_many(found: Sequence[Contrast]) -> str:
    """The best of several values on the average, if it is in every setting; else how often each is."""
    clauses = []
    for c in found:
        sign = 1 if c.metric.direction == "higher" else -1
        firsts = {
            setting: max(c.cells, key=lambda level: sign * _mean(c, level, setting)) for setting in c.settings
        }
        if len(set(firsts.values())) > 1:
            counts = Counter(firsts.values()).most_common()
            told = words([f"{code(level)} in {n}" for level, n in counts])
            clauses.append(f"*{text(c.metric.title)}*: none is best in all {len(firsts)} settings, {told}")
            continue
        order = rank(
            {level: [*cells.values()] for level, cells in c.cells.items()}, c.metric.direction, c.metric.scale
        )
        if order.leader is None:
            continue
        sizes = {level: m.mean_size for level, m in order.members.items()}
        worst = min(order.members, key=lambda level: sign * order.members[level].value)
        near = [code(name) for name in (*order.ties, *order.untested)]
        ties = f", not distinguishable from it {words(near)}" if near else ""
        unsure = f" [{order.advice}]" if order.best is None else ""
        ends = f"best {code(order.leader)}{unsure} {spread(sizes[order.leader])}{ties}"
        clauses.append(f"*{text(c.metric.title)}*: {ends}, worst {code(worst)} {spread(sizes[worst])}")
    return sentence("; ".join(clauses))


def _mean(c: Contrast, level: str, setting: Hashable) -> float:
    return estimate([*c.cells[level][setting].values()], c.metric.scale).mean


def _lost(results: Results) -> list[str]:
    told = []
    for v in results.variants:
        epochs = [e for r in v.runs if r.status == "diverged" and (e := number(r.diverged.get("epoch")))]
        if epochs:
            terms = dict.fromkeys(str(r.diverged["term"]) for r in v.runs if r.diverged.get("term"))
            when = (
                f"{plain(min(epochs))} to {plain(max(epochs))}" if len(set(epochs)) > 1 else plain(epochs[0])
            )
            first = f", {text(words(list(terms)))} first" if terms else ""
            told.append(f"{_label(v)} in {len(epochs)} of {len(v.runs)} seeds (epoch {when}{first})")
    sound = [v for v in results.variants if len(v.finished) == len(v.runs)]
    rest = (
        f"; all seeds of {_count(len(sound), 'variant')} finished"
        if sound
        else "; no variant finished all its seeds"
    )
    return [f"**Which diverges, and when?** {sentence(words(told) + rest)}"] if told else []


def _collapsed(results: Results) -> list[str]:
    told = [
        f"{_label(v)} in {v.collapsed} of {len(v.finished)} seeds" for v in results.variants if v.collapsed
    ]
    why = "no active unit, or a KL under 0.1 nats"
    return [f"**Which collapses ({why})?** {sentence(words(told))}"] if told else []


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


def _effective_variance(results: Results) -> list[str]:
    """What squared error weighted by β stands for, in grey levels: SSE/2σ² + β·KL is β times SSE/2βσ² + KL.

    The likeliest variance is that of the errors, which calibration fits (Rybkin et al. 2021, the optimal
    σ-VAE).
    """
    groups: dict[str, list[Variant]] = {}
    for v in results.variants:
        kind, options = v.part("likelihood")
        target, pixels = v.part("target")
        variance, unit = number(options.get("variance")), number(pixels.get("std")) or 1.0
        if kind == "gaussian" and target != "threshold" and variance and v.beta_eff and v.finished:
            groups.setdefault(exact(variance * unit**2 * v.beta_eff, 3), []).append(v)
    told = []
    for stands_for, variants in groups.items():
        fits = [
            numbers(run.record.get("calibration")).get("variance") for v in variants for run in v.finished
        ]
        left = [fit for fit in fits if fit is not None]
        span = " to ".join(dict.fromkeys(plain(f, 2) for f in (min(left), max(left)))) if left else NOTHING
        told.append(f"for {stands_for}, {_some([_label(v) for v in variants])} (errors: {span})")
    if not told:
        return []
    return [
        "**Which variance does squared error stand for?** Weighted by β, a Gaussian of variance σ² has the"
        f" optimum of one of βσ² at β = 1, here in grey levels: {'; '.join(told)}. Where that is above the"
        " variance of the errors left on training images, a smaller one is likelier; below it, a larger one."
    ]


def _printed(results: Results) -> list[str]:
    """What a published loss is in nats; which printed loss is not the negative ELBO of what is sampled."""
    told = []
    if not switched_off(results):
        for c in final_values(compare(results)):
            value, metric = number(c.row.get("value")), str(c.row.get("metric", "loss")).replace("_", " ")
            if value is not None and c.nats is not None:
                epoch = f" at epoch {text(c.row['epoch'])}" if c.row.get("epoch") is not None else ""
                which = f"{_label(c.variant)}'s published {text(metric)}"
                told.append(f"{which} {exact(value)}{epoch} is {fixed(c.nats, 2)}")
    unlike = [answer for v in results.variants if (answer := _unlike(v))]
    if not told and not unlike:
        return []
    nats = sentence("; ".join(told) + " nats per image") if told else ""
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
    d = average([(v.values("test_loss_nats"), negative)], "linear", twins=True)  # of the same runs
    if d is None or abs(d.value) < 0.001 * abs(estimate(list(negative.values())).mean):
        return ""
    loss, bound = v.estimate("test_loss_nats"), estimate(list(negative.values()))
    return (
        f"{_label(v)}'s printed loss, {spread(loss) if loss else NOTHING}, is not the negative ELBO of the"
        f" distribution it samples, {spread(bound)} ({signed(d)} nats, n = {d.n}, run by run)."
    )


def _label(variant: Variant) -> str:
    return code(variant.title)


def _measured(value: Estimate | None, metric: Metric) -> str:
    if value is None:
        return NOTHING
    n = f"n = {value.n}" if value.n > 1 else "one seed gives no interval"
    return f"{spread(value)} {text(metric.unit)} ({n})"


def _count(n: int, what: str) -> str:
    return f"{n} {what}" if n == 1 else f"{n} {what}s"
