"""The report in words: templates hold every sentence, this module what they are told and how they escape.

Both dialects use the same words (`words.j2`). What a template prints is escaped unless it is marked as safe,
in Markdown too: the text of a variant's name or a question stays text.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from bench.report import answers, cells, claims, effects, embed, published, rate, tables, undecided
from bench.report.copies import Gallery
from bench.report.frame import FALL, number, numbers
from bench.report.inference import CERTAIN
from bench.report.references import references
from bench.report.results import SATURATED, Results
from bench.report.statistics import MIN_SEEDS
from bench.report.tables import Table
from bench.store.times import duration

TEMPLATES = files("bench.report") / "templates"
STATES = ("finished", "diverged", "failed", "interrupted", "unreadable", "missing")
CALIBRATED = {  # what a record says was fitted to training images
    "temperature": "temperature", "bias": "bias",
    "temperature_threshold": "temperature of thresholded pixels", "bias_threshold": "their bias",
    "variance": "σ²",
}  # fmt: skip
DISTURBED = 1.5  # times as fast as another seed: more than two runs at once take from each other


def context(results: Results, figures: Mapping[str, str], gallery: Gallery) -> dict[str, Any]:
    """Collect everything that a report says. `figures` maps the path of each figure to its caption."""
    found, comparisons = answers.answers(results), published.compare(results)
    at_equal_rate = rate.compared(results)
    rows = [
        *(row for axis in results.axes for row in effects.of_axis(results, axis)),
        *effects.of_small_beta(results),
        *effects.of_linear(results),
        *(row for _, by_metric in at_equal_rate for of_metric in by_metric for row in of_metric),
    ]
    counts = Counter(run.status for run in results.runs)
    judged = claims.verdicts(results)
    return {
        "results": results, "title": results.experiment.get("name") or results.folder.name,
        "question": results.experiment.get("question"), "command": results.experiment.get("command"),
        "counts": [(state, counts[state]) for state in STATES if counts[state]],
        "done": len(results.runs) - counts["missing"], "elsewhere": _elsewhere(results),
        "origins": _origins(results),
        "mixed": [v for v in results.variants if v.axes and v.table.origin.notna().any()],
        "twins": [v for v in results.variants if v.same_as],
        "claims": judged, "undecided": undecided.undecided(results, judged),
        "rows": rows, "comparisons": comparisons,
        "top": found[: answers.MOST], "rest": found[answers.MOST :],
        "matrix": tables.matrix(results), "footing": tables.one_footing(results),
        "samples": tables.footing(results, "samples"),
        "classifier": numbers(results.baselines.get("classifier")),
        "other_networks": _other_networks(results),
        "finals": published.table(published.final_values(comparisons)),
        "published": published.table(comparisons), "off": published.switched_off(results),
        "quoted": [v for v in results.variants if v.settings.get("published")],
        "notes": [v for v in results.variants if v.settings.get("note")],
        "figures": figures, "gallery": gallery, "effects": effects.table(rows, results.margin),
        "rates": rate.tables(at_equal_rate),
        "left_out": max((pair.left_out for pair, _ in at_equal_rate), default=0.0),
        "details": tables.footing(results, "details"), "own": tables.own_terms(results),
        "latent": tables.latent(results), "settings": tables.settings(results),
        "saturated": [v for v in results.variants if v.saturated],
        "meanings": [answers.weights(results), answers.variances(results), answers.unlike(results)],
        "cost": tables.cost(results), "evaluation": tables.evaluation(results),
        "spent": tables.spent(results),
        "machines": tables.machines(results), "speed_spread": tables.speed_spread(results),
        "failures": [run for run in results.runs if run.status not in ("finished", "missing")],
        "missing": Counter(run.variant for run in results.runs if run.status == "missing").most_common(),
        "protocol": _protocol(results), "references": references(results),
        "latents": {v.latent for v in results.started if v.latent},
    }  # fmt: skip


def markdown(told: Mapping[str, Any]) -> str:
    """Render report.md."""
    text = _environment("md").get_template("body.j2").render(told)
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def html(told: Mapping[str, Any]) -> str:
    """Render report.html: one file, with its pictures, that loads nothing and runs no script but its own."""
    return _tight(_environment("html").get_template("report.html.j2").render(told))


def _source(file: str) -> Markup:
    """Read a part of the page: bench's own."""
    return Markup(_tight((TEMPLATES / file).read_text(encoding="utf-8")))  # noqa: S704


def _tight(text: str) -> str:
    return re.sub(r"\n\s*\n", "\n", text)


def _digest(source: str) -> Markup:
    """Name a part of the page as a content security policy does."""
    return Markup("sha256-" + base64.b64encode(hashlib.sha256(source.encode()).digest()).decode())  # noqa: S704


@cache
def _environment(dialect: str) -> Environment:
    """The templates' environment: `code`, `emphasis`, `strong`, `link` and `image` speak the dialect."""
    made = Environment(  # escapes by default: S701 is about those that do not
        loader=PackageLoader("bench.report"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
        finalize=_literal if dialect == "md" else _line,
    )  # fmt: skip
    made.globals |= {
        "MIN_SEEDS": MIN_SEEDS, "CERTAIN": CERTAIN, "FALL": FALL, "SATURATED": SATURATED,
        "DISTURBED": DISTURBED, "marks": lambda tables: set().union(*(table.marks for table in tables)),
        "ends": lambda items: [items[0], items[-1]] if len(items) > 1 else items,
        **(MARKDOWN if dialect == "md" else HTML),
    }  # fmt: skip
    made.filters |= {
        "spread": lambda estimate: Markup(cells.spread(estimate)),  # noqa: S704
        "plain": lambda value, digits=4: Markup(cells.plain(value, digits)),  # noqa: S704
        "exact": lambda value, digits=7: Markup(cells.exact(value, digits)),  # noqa: S704
        "by": lambda row: Markup(effects.by(row.effect, row.metric)),  # noqa: S704
        "signed": lambda effect: Markup(effects.signed(effect)),  # noqa: S704
        "unequal": effects.unequal,
        "lasting": duration,
        "listed": _listed,
    }
    return made


def _literal(value: object) -> object:
    """Escape what is foreign as Markdown, unless it is marked as safe; HTML escaping leaves that alone."""
    return value if isinstance(value, Markup) else Markup(cells.text(value))  # noqa: S704


def _line(value: object) -> object:
    """Foreign text for HTML: one line of what can be seen, escaped afterwards."""
    return value if isinstance(value, Markup) else cells.line(value)


def _listed(items: Sequence[Any], most: int = 4) -> Markup:
    """a, b and c; of more than `most` the first and how many more."""
    shown = [escape(item) if not isinstance(item, Markup) else item for item in items]
    if len(shown) > most:
        shown = [*shown[: most - 1], Markup(f"{len(items) - most + 1} more")]  # noqa: S704
    return Markup(cells.words(shown))  # noqa: S704


def _safe(make: Callable[..., str]) -> Callable[..., Markup]:
    return lambda *given: Markup(make(*given))  # noqa: S704  each of them escapes what it is given


def _md_table(table: Table) -> str:
    """A table of Markdown: words and the first column left, numbers right."""

    def cell(one: tables.Cell) -> str:
        text = f"**{_literal(one.text)}**" if one.best else _literal(one.text)
        return f"*{text}*" if one.faint and text != cells.NOTHING else f"{text}{one.mark}"

    head = [
        cells.text(c.title) + c.arrow + (f" ({cells.text(c.unit)})" if c.unit else "") for c in table.columns
    ]
    return cells.table(head, [[*map(cell, row)] for row in table.rows])


def _tag(name: str) -> Callable[[object], str]:
    return lambda value: f"<{name}>{escape(_line(value))}</{name}>"


MARKDOWN: dict[str, Any] = {
    "code": _safe(cells.code), "block": _safe(cells.block), "paragraph": _safe(cells.paragraph),
    "image": _safe(cells.image), "markdown_table": _safe(_md_table), "dialect": "markdown.j2",
    "emphasis": _safe(lambda value: f"*{cells.text(value)}*"),
    "strong": _safe(lambda value: f"**{cells.text(value)}**"),
    "link": _safe(lambda value, anchor: f"[{_literal(value)}](#{anchor})"),
}  # fmt: skip
HTML: dict[str, Any] = {
    "code": _safe(_tag("code")), "paragraph": lambda value: escape(_line(value)),
    "block": _safe(lambda value: f"<pre>{escape(cells.lines(value))}</pre>"),
    "emphasis": _safe(_tag("em")), "strong": _safe(_tag("strong")),
    "link": _safe(lambda value, anchor: f'<a href="#{escape(anchor)}">{escape(_line(value))}</a>'),
    "dialect": "html.j2", "embed": embed.embed, "source": _source, "digest": _digest,
}  # fmt: skip


def _elsewhere(results: Results) -> list[tuple[str, int]]:
    """How many runs were made for another experiment, with the same settings, seed and data."""
    own = results.experiment.get("name")
    made = [run.record for run in results.runs if run.record and not run.origin]
    made_for = Counter(str(record.get("experiment") or "") for record in made)
    return [(name, n) for name, n in made_for.items() if name not in ("", own)]


def _other_networks(results: Results) -> list[str]:
    """Name the variants with runs whose samples were scored by other networks than the baselines'."""
    here = (results.baselines.get("classifier") or {}).get("digest")
    said = ((run.variant, run.record.get("environment") or {}) for run in results.finished)
    theirs = ((variant, where.get("feature_networks")) for variant, where in said)
    return [*dict.fromkeys(variant for variant, digest in theirs if here and digest and digest != here)]


def _origins(results: Results) -> list[dict[str, Any]]:
    """Whose the runs are, where some were joined: own ones first, each with what their records say."""
    found: dict[str, dict[str, Any]] = {}
    for variant in results.variants:
        for run in variant.runs:
            if not run.record:
                continue
            environment, git, node = (run.record.get(key) or {} for key in ("environment", "git", "node"))
            device = environment.get("device_name") or environment.get("device")
            torch = f"torch {environment.get('torch')}"
            told = {
                "variants": variant.title, "experiments": run.record.get("experiment"),
                "commits": git.get("commit"),
                "devices": ", ".join([str(device), torch, *([f"on {node}"] if node else [])]),
            }  # fmt: skip
            name = run.origin or ""
            whose = found.setdefault(name, {"name": name, "runs": 0})
            whose["runs"] += 1
            for what, said in told.items():
                whose.setdefault(what, {}).update({str(said): None} if said else {})  # each once, in order
    return sorted(found.values(), key=lambda whose: bool(whose["name"])) if any(found) else []


def _protocol(results: Results) -> dict[str, Any]:
    """What the runs say of how they were made, each thing once, with how many say it."""
    runs = [run for run in results.runs if run.record]
    calibration = [numbers(run.record.get("calibration")) for run in runs if run.status == "finished"]
    ranges = {
        what: (min(values), max(values))
        for key, what in CALIBRATED.items()
        if (values := [found[key] for found in calibration if key in found])
    }
    said: dict[str, list[str]] = {"data": [], "environment": [], "commit": [], "samples": [], "yardstick": []}
    for run in runs:
        data, git, environment = (run.record.get(key) or {} for key in ("data", "git", "environment"))
        sizes = [
            f"{cells.plain(n)} {s}" for s in ("train", "validation", "test") if (n := number(data.get(s)))
        ]
        digest = f", digest {data['digest']}" if data.get("digest") else ""
        notes = ["no labels"] if data.get("unlabelled") else []
        notes += [str(data["split"])] if data.get("split") else []
        told = "; ".join([f"{data.get('name', '')}: {', '.join(sizes)}{digest}", *notes])
        said["data"] += [told] if data else []
        machine = (f"{key} {value}" for key, value in environment.items() if value is not None)
        said["environment"] += filter(None, [", ".join(machine)])
        dirty = " with uncommitted changes" if git.get("dirty") else ""
        said["commit"] += [f"{git['commit']}{dirty}"] if git.get("commit") else []
        samples = (run.record.get("run") or {}).get("importance_samples")
        said["samples"] += [str(samples)] if samples else []
        said["yardstick"] += [str(run.yardstick)] if run.status == "finished" else []
    return {
        **{what: Counter(told).most_common() for what, told in said.items()},
        "seeds": results.experiment.get("seeds") or sorted({run.seed for run in results.runs}),
        "calibration": ranges, "patient": [run for run in results.finished if "chosen" in run.record],
    }  # fmt: skip
