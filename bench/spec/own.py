"""A metric of the user's own: what its file says of how it is shown. Nothing of the file is run."""

from __future__ import annotations

import re

from bench.errors import BenchError
from bench.spec.experiment import OwnMetric, Part, Run
from bench.spec.registry import Module, metrics
from bench.spec.source import given_text

HEADING = re.compile(r"[\w /%²³√·^().,+-]{0,40}")  # as bench.store.shapes has it
# Columns of results.csv, and what MLflow has beside the metrics
TAKEN = (
    *("experiment", "id", "run", "status", "outcome", "yardstick", "likelihood_class", "beta", "beta_eff"),
    *("chosen_epoch", "diverged", "compute_precision", "device", "device_name", "engine", "replicas"),
    *("threads", "torch"),
)


def own_metric(part: Part, module: Module) -> OwnMetric:
    """Read title, unit and direction of a metric: text that its class assigns; a function has its name alone.

    Raises BenchError for a name that is taken and for what a report cannot show.
    """
    who = f"metric {part.name}"
    if part.name in (*TAKEN, *Run.model_fields, *metrics()):
        raise BenchError(f"{who}: the name is taken; allowed: one that bench has not; rename it in the file")
    said = {"title": part.name} | module.said(part.name)
    shown = {key: said[key] for key in ("title", "unit", "direction") if key in said}
    for key, value in shown.items():
        allowed = "at most 40 letters, digits, spaces and /%²³√·^().,+-"
        fits = isinstance(value, str) and HEADING.fullmatch(value) is not None
        if key == "direction":
            allowed, fits = "'higher', 'lower' or None", value in ("higher", "lower", None)
        if not fits:
            what = f"{who}: {key} is {given_text(repr(value))}"
            raise BenchError(f"{what}; allowed: {allowed}; correct it in the file")
    return OwnMetric.model_validate(dict(part) | shown).located(module.path)
