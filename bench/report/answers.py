"""What a report answers, as data: five to eight questions with their evidence. Templates have the words."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from bench.evaluation.metrics import Metric
from bench.report import effects, pairs, rate
from bench.report.cells import exact, plain
from bench.report.effects import EffectRow
from bench.report.frame import number, numbers
from bench.report.inference import Ranking
from bench.report.published import COMPATIBLE, compare, final_values
from bench.report.results import Results, Variant
from bench.report.statistics import average, estimate
from bench.report.tables import SAMPLES, Cell, Column, Table, amount, baseline_rows, interval, shown

MOST = 8  # answers on top; what is beyond stands below


@dataclass(frozen=True)
class Answer:
    """One question: its kind, by which a template finds its words, the section that shows more, and data."""

    kind: str
    link: str
    data: Mapping[str, Any] = field(default_factory=dict)


def answers(results: Results) -> list[Answer]:
    """Answer what the records can answer, the most important first; nothing before a run has finished."""
    if not results.finished:
        return []
    return [
        *_trouble(results),
        *_best(results, results.fit),
        *_best(results, results.metric(SAMPLES)),
        *_published(results),
        *(each for axis in results.axes for each in _axis(results, axis)),
        *(Answer("rate", "at-equal-rate", {"pair": pair, "metrics": by_metric})
          for pair, by_metric in rate.compared(results)),
        *_small_beta(results),
        *(Answer("linear", "effects", {"rows": rows, "margin": results.margin})
          for rows in [effects.of_linear(results)] if rows),
        *_best(results, results.metric("mse")),
        *_baselines(results),
    ]  # fmt: skip


def _trouble(results: Results) -> Iterator[Answer]:
    """Who diverged, and when; who collapsed. These are in no ranking."""
    diverged = []
    for v in results.variants:
        gone = [run.diverged for run in v.runs if run.status == "diverged"]
        epochs = {int(e) for where in gone if (e := number(where.get("epoch")))}
        terms = dict.fromkeys(str(where["term"]) for where in gone if where.get("term"))
        diverged += [(v, sorted(epochs), list(terms))] if gone else []
    collapsed = [v for v in results.variants if v.collapsed and not v.same_as]
    failed = [v for v in results.variants if any(run.status == "failed" for run in v.runs)]
    if diverged or collapsed or failed:
        link = "what-failed" if diverged or failed else "latent-space"
        yield Answer("trouble", link, {"diverged": diverged, "collapsed": collapsed, "failed": failed})


def _best(results: Results, metric: Metric | None) -> Iterator[Answer]:
    """Who leads a column, by how much, and who may be the best as well."""
    order = results.rankings.get(metric.name, Ranking()) if metric else Ranking()
    if metric is None or order.leader is None:
        return
    named = {v.name: v for v in results.variants}
    sign = 1 if metric.direction == "higher" else -1
    leader = named[order.leader]
    others = [name for name in order.members if name != order.leader]
    second = named[max(others, key=lambda name: sign * order.members[name].value)]
    yield Answer("best", "samples" if metric.footing == "samples" else "one-footing", {
        "metric": metric, "order": order, "leader": leader, "second": second,
        "near": [named[name] for name in (*order.ties, *order.untested)],
        "gap": average([(leader.values(metric.name), second.values(metric.name))], metric.scale),
        "untested": bool(order.untested), "lost": any(v.lost for v in results.variants),
    })  # fmt: skip


def _published(results: Results) -> Iterator[Answer]:
    """How many of the final values that were published come out."""
    finals = [c for c in final_values(compare(results)) if c.verdict.endswith(COMPATIBLE)]
    if finals:
        off = [c for c in finals if c.verdict != COMPATIBLE]
        yield Answer("published", "published-and-measured", {"of": len(finals), "off": off})


def _axis(results: Results, axis: str) -> Iterator[Answer]:
    """Which value of an axis fits better; of several values the best on the average, and how often it is."""
    rows = effects.of_axis(results, axis)
    if not rows:
        return
    whole = [row for row in rows if not row.where]
    first = next((row for row in whole if row.metric == results.fit), whole[0])
    c = next(c for c in effects.contrasts(results, axis) if c.metric == first.metric)
    data: dict[str, Any] = {
        "axis": axis, "first": first, "n": c.n, "margin": results.margin,
        "apart": [row for row in rows if row.where and row.metric == first.metric],
    }  # fmt: skip
    if len(c.cells) <= 2:
        said = first.verdict(results.margin)  # the same of another metric is no exception
        others = (row for row in whole if row is not first)
        rest = [row for row in others if row.sure or row.turns or row.verdict(results.margin) != said]
        yield Answer("axis", "effects", data | {"rest": rest})
        return
    order, sign = c.ranking(), 1 if c.metric.direction == "higher" else -1
    means = {
        level: {s: estimate([*values.values()], c.metric.scale).mean for s, values in cells.items()}
        for level, cells in c.cells.items()
    }
    firsts = Counter(max(c.cells, key=lambda level: sign * means[level][s]) for s in c.settings)
    worst = min(order.members, key=lambda level: sign * order.members[level].value)
    otherwise: dict[str, list[str]] = {}  # what is best by other metrics, and by which
    for name, row in {row.metric.title: row for row in whole}.items():
        if row.a != order.leader:
            otherwise.setdefault(row.a, []).append(name)
    levels = {
        "order": order,
        "firsts": firsts.most_common(),
        "settings": len(c.settings),
        "worst": worst,
        "otherwise": otherwise,
    }
    yield Answer("levels", "effects", data | levels)


def _small_beta(results: Results) -> Iterator[Answer]:
    """Whether samples are worse at a small β, by three metrics; mixed where metrics or settings disagree.

    `open` holds what no single difference is shown of: of what turns with the setting or not, the metrics by
    where that is.
    """
    groups: dict[tuple[str, str], list[EffectRow]] = {}
    unsure: dict[tuple[bool, str], list[tuple[str, str]]] = {}
    for row in effects.of_small_beta(results):
        groups.setdefault((row.where, row.a), []).append(row)
        if row.aside is None and not row.sure:
            unsure.setdefault((row.turns, row.metric.title), []).append((row.where, row.a))
    told = []
    verdicts: dict[str, dict[str, list[str]]] = {}
    for (kind, beta), rows in groups.items():
        pair = pairs.beta_pairs(results.variants)[kind, beta]
        better = set()
        for row in rows:
            if row.metric.name in effects.OF_SAMPLES:
                c = effects.contrast(pair, row.metric) if row.turns else None
                better |= {one.better for one in (effects.apart(row, c) if c else [row]) if one.sure}
        verdict = "undecided" if not better else "worse" if better == {"1"} else "better"
        verdict = "mixed" if len(better) > 1 else verdict
        told.append((kind, beta, rows, verdict))
        verdicts.setdefault(kind, {}).setdefault(verdict, []).append(beta)
    several = len(verdicts) > 1
    open_: dict[bool, dict[tuple[str, ...], list[str]]] = {}
    for (turns, metric), places in unsure.items():
        where = tuple(f"{kind}, β = {beta}" if several else f"β = {beta}" for kind, beta in places)
        open_.setdefault(turns, {}).setdefault(where, []).append(metric)
    if told:
        yield Answer("small_beta", "effects", {"rows": told, "verdicts": verdicts, "open": open_})


def _baselines(results: Results) -> Iterator[Answer]:
    """Variants that a baseline of no more latents beats, by one-sample t-tests, Holm over each column."""
    beaten: list[tuple[Metric, str, list[Variant]]] = []
    compared = False
    for metric in results.measured("common"):
        order, sign = results.rankings[metric.name], 1 if metric.direction == "higher" else -1
        known = [
            (sign * value, title, number(row.get("latent")) or 0)
            for title, row in baseline_rows(results)
            if (value := number(row.get(metric.name))) is not None
        ]
        best: dict[str, tuple[float, str]] = {}
        for v in results.variants:
            fair = [(value, title) for value, title, latent in known if latent <= (v.latent or 0)]
            if fair and v.name in order.members:
                best[v.name] = max(fair)
        compared |= any(order.members[name].p is not None for name in best)
        apart = order.apart_from({name: sign * value for name, (value, _) in best.items()})
        groups: dict[str, list[Variant]] = {}
        for v in results.variants:
            if sign * apart.get(v.name, 0) < 0:
                groups.setdefault(best[v.name][1], []).append(v)
        beaten += [(metric, title, members) for title, members in groups.items()]
    if compared:
        yield Answer("baselines", "one-footing", {"beaten": beaten})


# What the numbers in the settings mean: no question, but what readers trip over


def weights(results: Results) -> Table:
    """Show the weight on the KL as it is written, and with both terms as sums over one image."""
    rows = []
    for v in results.variants:
        if v.beta and v.beta_eff is not None and abs(v.beta_eff / v.beta - 1) > 1e-6:
            how = v.part("objective")[1]
            given = [str(how.get(key) or "sum") for key in ("reconstruction", "kl")]
            rows.append([Cell(v.title), amount(v.beta, 4), *map(Cell, given), amount(v.beta_eff, 4)])
    return Table([*map(Column, ("variant", "β as written", "reconstruction", "KL", "β_eff"))], rows)


def variances(results: Results) -> Table:
    """Show which variance, in grey levels, a squared error weighted by β stands for.

    The likeliest variance is that of the errors, which calibration fits (Rybkin et al. 2021, the optimal
    σ-VAE).
    """
    rows = []
    for v in results.variants:
        kind, options = v.part("likelihood")
        target, pixels = v.part("target")
        variance, unit = number(options.get("variance")), number(pixels.get("std")) or 1.0
        if kind == "gaussian" and target != "threshold" and variance and v.beta_eff and v.finished:
            fits = [numbers(run.record.get("calibration")).get("variance") for run in v.finished]
            left = [fit for fit in fits if fit is not None]
            stands_for = variance * unit**2 * v.beta_eff
            span = " to ".join(dict.fromkeys(plain(f, 2) for f in (min(left), max(left)))) if left else "–"
            rows.append([Cell(v.title), Cell(v.beta_text, v.beta), amount(float(exact(stands_for, 3)), 3),
                         Cell(shown(span), min(left, default=None))])  # fmt: skip
    heads = ("variant", "β", "variance it stands for", "variance of the errors left")
    return Table([*map(Column, heads)], rows)


def unlike(results: Results) -> Table:
    """List printed losses that differ from −ELBO: their KL belongs to another distribution than z's.

    At β_eff = 1 a Bernoulli's loss is −ELBO otherwise.
    """
    rows = []
    for v in results.variants:
        bernoulli = re.match("bernoulli", v.likelihood_class, re.IGNORECASE)
        if bernoulli and v.beta_eff is not None and abs(v.beta_eff - 1) < 1e-9:
            negative = {seed: -value for seed, value in v.values("elbo").items()}
            d = average([(v.values("test_loss_nats"), negative)], "linear", twins=True)  # of the same runs
            if d.n and abs(d.value) >= 0.001 * abs(estimate([*negative.values()]).mean):
                loss, bound = v.estimate("test_loss_nats"), estimate([*negative.values()])
                more = interval(d.size, "+" if d.value > 0 else "")
                rows.append([Cell(v.title), interval(loss), interval(bound), more])
    heads = ("variant", "printed loss", "−ELBO of what it samples", "difference")
    return Table([*map(Column, heads)], rows)
