"""The report in words: its sections in order, each empty where the records have nothing to say."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from bench.report import answers, claims, gallery, rate, tables
from bench.report.cells import NOTHING, block, code, image, paragraph, plain, table, text, words
from bench.report.copies import Picture
from bench.report.pivot import pivot
from bench.report.published import compare, counted, published_table, switched_off
from bench.report.references import references
from bench.report.results import FALL, Results, Run, number, numbers
from bench.report.wording import PAIRING

STATES = ("finished", "diverged", "failed", "interrupted", "unreadable", "missing")


def render(
    results: Results, figures: Mapping[str, str], pictures: Mapping[str, Mapping[str, Picture]]
) -> str:
    """The whole report. `figures` maps the relative path of each figure to its caption."""
    sections: list[tuple[str, str]] = [
        ("", _opening(results)),
        ("Answer", _answer(results)),
        ("The matrix", _matrix(results)),
        ("Results", _results(results)),
        ("One footing", _one_footing(results)),
        ("At equal rate", _equal_rate(results)),
        ("In their own terms", _own_terms(results)),
        ("Latent space", _latent(results)),
        ("Samples", _samples(results)),
        ("Published and measured", _published(results)),
        ("Figures", "\n\n".join(f"{image(c, path)}\n\n*{text(c)}.*" for path, c in figures.items())),
        ("Pictures", gallery.markdown(results, pictures)),
        ("Cost", _cost(results)),
        ("What failed or was skipped", _failures(results)),
        ("Protocol", _protocol(results)),
        ("References", "\n".join(f"- {text(reference)}" for reference in references(results))),
    ]
    return "\n\n".join(f"## {title}\n\n{body}" if title else body for title, body in sections if body) + "\n"


def _opening(results: Results) -> str:
    name = text(results.experiment.get("name") or results.folder.name)
    parts = [f"# {name}, on {text(results.dataset)}"]
    if results.fallback:
        asked, used = text(results.declared), text(results.dataset)
        parts[0] += f" (NOT {asked})"
        parts.append(
            f"> **WARNING: {asked.upper()} WAS NOT AVAILABLE. EVERY NUMBER HERE IS ON {used.upper()}.**  \n"
            f"> {used} stands in for {asked}; nothing below says anything about {asked}."
        )
    if question := results.experiment.get("question"):
        parts.append(f"**{paragraph(question)}**")
    parts.append(_coverage(results))
    return "\n\n".join(parts)


def _coverage(results: Results) -> str:
    counts = Counter(run.status for run in results.runs)
    done = sum(n for status, n in counts.items() if status != "missing")
    states = [*STATES, *sorted(counts.keys() - set(STATES))]
    told = ", ".join(f"{counts[s]} {text(s)}" for s in states if counts[s]) or "none is planned"
    line = f"Covers {done} of {len(results.runs)} runs: {told}."
    if elsewhere := _made_elsewhere(results, results.runs):
        line += f" Made elsewhere: {elsewhere}; the protocol names their devices, versions and commits."
    return line


def _answer(results: Results) -> str:
    parts = ["\n".join(f"- {sentence}" for sentence in answers.sentences(results))]
    if claim := claims.claim_table(results):
        parts += [
            "Small β against β = 1, all else equal (Welch's t, Holm over all columns of samples; × is a"
            " ratio, odds × an odds ratio):",
            claim,
        ]
    if linear := claims.linear_table(results):
        parts += [
            "The linear encoder by latent size, all else equal (Welch's t, Holm over the sizes):",
            linear,
        ]
    return "\n\n".join(parts)


def _matrix(results: Results) -> str:
    shown = pivot(results)
    told = (
        "Every variant of the matrix in its place, in metrics that compare across all of them; the same"
        " numbers stand below, a row for each variant."
    )
    return f"{told}\n\n{shown}" if shown else ""


def _results(results: Results) -> str:
    told = (
        "In each variant's own terms, so nothing is ranked here: test loss as its script writes it; ELBO,"
        " reconstruction (−E ln p(t|z)) and KL in nats per image, mean ± 95 % half-width over seeds. *Still"
        f" falling*: nats an epoch by which the test loss fell over the {FALL} epochs up to the one measured;"
        " far from 0, more epochs would have changed the numbers here."
    )
    patient = [run for run in results.finished if "chosen" in run.record]
    if patient:
        whole = sum(len(run.curves) == run.record["run"].get("epochs") for run in patient)
        told += (
            " The epoch measured is the best on validation images, one a seed;"
            f" {whole} of {len(patient)} runs trained all the epochs that they were allowed."
        )
    return f"{told}\n\n{tables.headline(results)}"


def _one_footing(results: Results) -> str:
    shown = tables.one_footing(results)
    k = _distinct(results.finished, _importance).replace("<br>", ", ") or "K not recorded"
    told = (
        "Every decoder's mean is judged by the same observation models, calibrated on"
        " training images. These columns compare across all rows; baselines are in italics."
    )
    explained = (
        f"The importance-weighted bound takes its samples from the encoder, {k}. A code length is that of a"
        " Gaussian with one variance for all pixels: it ranks decoder means, and any file format stores these"
        " images in less."
    )
    details = tables.details(results)
    parts = [told, shown] if shown else []
    return "\n\n".join([*parts, *(["### Details", explained, details] if details else [])])


def _equal_rate(results: Results) -> str:
    shown = rate.tables(results)
    told = (
        "At equal β two likelihoods spend different KL. Here each seed's variants of a likelihood are points"
        " of a curve over the KL, and the curves are compared where all of them have a value; nothing is"
        " extrapolated."
    )
    return f"{told}\n\n{shown}" if shown else ""


def _own_terms(results: Results) -> str:
    found = tables.own_terms(results)
    told = "Comparable, and ranked, only inside one likelihood class: same target, same observation model."
    parts = [f"### {text(kind) or 'Likelihood class not recorded'}\n\n{shown}" for kind, shown in found]
    return "\n\n".join([told, *parts]) if parts else ""


def _latent(results: Results) -> str:
    shown = tables.latent(results)
    told = (
        "A variant with no active unit, or a KL under 0.1 nats, is **collapsed**: its latents carry nothing,"
        " and it is not ranked here."
    )
    return f"{told}\n\n{shown}" if shown else ""


def _samples(results: Results) -> str:
    shown = tables.samples(results)
    known = numbers(results.baselines.get("classifier"))
    accuracy, count = known.get("accuracy"), known.get("networks", 1)
    if count > 1:
        whose, kind = "networks", f"{count:g} classifiers with a mean test accuracy of"
    else:
        whose, kind = "network", "a classifier with test accuracy"
    network = f", {kind} {100 * accuracy:.2f} %" if accuracy is not None else ""
    told = (
        f"Measured in the features of bench's own {whose}{network}. Absolute values depend on the"
        f" {whose}: read them between those of training images and of noise."
    )
    return f"{told}\n\n{shown}" if shown else ""


def _published(results: Results) -> str:
    if not any(v.settings.get("published") for v in results.variants):
        return ""
    if off := switched_off(results):
        return off
    comparisons = compare(results)
    told = (
        f"{counted(comparisons)} Compatible: within 1 % of the published value, or within the 95 % interval"
        " of one more run (its half-width stands there, from 3 seeds on), plus what the print leaves open."
        " Differences are measured less published, in nats per image."
    ).strip()
    notes = [
        f"- {text(v.name)}: {text(v.settings['note'])}" for v in results.variants if v.settings.get("note")
    ]
    return "\n\n".join(part for part in (told, published_table(comparisons), "\n".join(notes)) if part)


DISTURBED = 1.5  # times as fast as another seed: more than two runs at once take from each other


def _cost(results: Results) -> str:
    known = tables.machines(results)
    told = "Training only: evaluation, warm-up and tracking are outside the timer."
    if len(known) > 1:
        told += " Quality is pooled over machines, times never:"
        told += "".join(f"\n- M{i}: {text(', '.join(machine))}" for i, machine in enumerate(known, start=1))
    parts = [tables.cost(results), tables.evaluation(results)]
    spread = tables.speed_spread(results)
    if spread > DISTURBED:
        told += (
            f"\n\n**Seeds of one variant trained up to {plain(spread, 2)} times as fast as others on the same"
            " machine: something else was at work there. These times say little; `make speed` measures"
            " speed.**"
        )
    return "\n\n".join([told, *(part for part in parts if part)]) if parts[0] else ""


def _failures(results: Results) -> str:
    lost = [run for run in results.runs if run.status not in ("finished", "missing")]
    rows = [
        [text(r.variant), str(r.seed), text(r.status), text(r.outcome) or NOTHING, code(r.id)] for r in lost
    ]
    missing = [run for run in results.runs if run.status == "missing"]
    skipped = results.experiment.get("skipped") or results.experiment.get("excluded") or ()
    parts = [table(["variant", "seed", "state", "why", "run"], rows, left=5)]
    if missing:
        names = Counter(run.variant for run in missing)
        shown = [f"{text(name)} ({n})" for name, n in list(names.items())[:12]]
        more = f" and {len(names) - 12} more variants" if len(names) > 12 else ""
        parts.append(f"Not run yet: {len(missing)} of {len(results.runs)}, of {', '.join(shown)}{more}.")
    parts += [
        f"- skipped: {text(json.dumps(item) if isinstance(item, Mapping) else item)}" for item in skipped
    ]
    return "\n\n".join(part for part in parts if part) or "Nothing."


def _protocol(results: Results) -> str:
    runs = [run for run in results.runs if run.record]
    rows = [
        ["question", paragraph(results.experiment.get("question") or NOTHING)],
        ["data", _data(results, runs)],
        ["seeds", _seeds(results)],
        ["yardstick", _distinct(results.finished, lambda run: str(run.yardstick))],
        ["pairing", PAIRING],
        [
            "intervals",
            "mean ± 95 % half-width of Student's t over seeds (ddof 1); mean [low, high] where taken on the"
            " logarithm (bounded below) or the logit (fractions); MC: the estimator's standard error",
        ],
        [
            "equality",
            f"by two one-sided tests at 5 % against a margin of {plain(results.margin)} nats",
        ],
        ["importance samples", _distinct(runs, _importance)],
        [
            "calibration",
            "one scalar per model and run, fitted on training images: ε of ε + (1 − 2ε)·m, and σ²"
            + _calibration(runs),
        ],
        ["environment", _distinct(runs, _environment)],
        ["commit", _distinct(runs, _commit)],
        ["made elsewhere", _made_elsewhere(results, runs)],
        [
            "settings",
            "`../runs/<run>/record.json` holds a run's resolved settings, `results.csv` its numbers",
        ],
    ]
    command = results.experiment.get("command")
    parts = [table(["what", "how"], [row for row in rows if row[1]], left=2)]
    parts += [f"The command that repeats it:\n\n{block(command)}"] if command else []
    return "\n\n".join(parts)


def _data(results: Results, runs: Sequence[Run]) -> str:
    def told(run: Run) -> str:
        data: Mapping[str, Any] = run.record.get("data") or {}
        sizes = [
            f"{plain(n)} {split}"
            for split in ("train", "validation", "test")
            if (n := number(data.get(split)))
        ]
        digest = f", digest {code(data['digest'])}" if data.get("digest") else ""
        return f"{text(data.get('name', ''))}: {', '.join(sizes)}{digest}" if data else ""

    return _distinct(runs, told) or text(results.dataset)


def _seeds(results: Results) -> str:
    seeds = results.experiment.get("seeds") or sorted({run.seed for run in results.runs})
    return text(", ".join(map(str, seeds))) if isinstance(seeds, Sequence) else text(seeds)


def _importance(run: Run) -> str:
    samples = number((run.record.get("run") or {}).get("importance_samples"))
    return "" if samples is None else f"K = {plain(samples)}"


def _calibration(runs: Sequence[Run]) -> str:
    found = [numbers(run.record.get("calibration")) for run in runs if run.finished]
    told = []
    for key, sign in (("epsilon", "ε"), ("temperature", "temperature"), ("variance", "σ²")):
        values = [c[key] for c in found if key in c]
        if values:
            told.append(f"{sign} from {plain(min(values), 2)} to {plain(max(values), 2)}")
    return f" ({words(told)})" if told else ""


def _environment(run: Run) -> str:
    environment = run.record.get("environment") or {}
    return ", ".join(f"{text(k)} {text(v)}" for k, v in environment.items() if v is not None)


def _commit(run: Run) -> str:
    git = run.record.get("git") or {}
    dirty = " with uncommitted changes" if git.get("dirty") else ""
    return f"{code(git['commit'])}{dirty}" if git.get("commit") else ""


def _made_elsewhere(results: Results, runs: Sequence[Run]) -> str:
    """How many runs were made for another experiment, with the same settings, seed and data."""
    own = results.experiment.get("name")
    made_for = Counter(str(run.record.get("experiment") or "") for run in runs)
    others = [f"{n} for {code(name)}" for name, n in made_for.items() if name not in ("", own)]
    return f"{words(others)}, of {len(runs)} runs" if others else ""


def _distinct(runs: Sequence[Run], tell: Callable[[Run], str]) -> str:
    """What the runs say, each thing once, with how many say it where they differ."""
    counts = Counter(told for run in runs if (told := tell(run)))
    if len(counts) == 1:
        return next(iter(counts))
    return "<br>".join(f"{told} ({n} runs)" for told, n in counts.items())
