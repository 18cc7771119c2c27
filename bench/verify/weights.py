"""Measure finished runs again from their weights and the data, and the baselines from the data.

Measured again is what does not depend on the device that trained. So the importance-weighted bounds are left
out, whose random stream is the device's own (and which take the longest), and so is the cost.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from operator import attrgetter
from pathlib import Path
from typing import Any

import torch

from bench.data.dataset import Dataset
from bench.engine.device import one_thread
from bench.engine.images import data_of, divide
from bench.engine.loop import Training
from bench.errors import BenchError
from bench.evaluation.baselines import baselines
from bench.evaluation.measure import Measured
from bench.evaluation.metrics import METRICS
from bench.evaluation.samples import Reference, yardstick
from bench.parts.vae import likelihood_class
from bench.saved import Saved, model_of, read_saved
from bench.store.experiments import JUDGED, ExperimentFolder
from bench.store.records import Record
from bench.verify.findings import Findings
from bench.verify.runs import numbers_in

# The device that trained gives the same numbers again. Another one adds up in another order, which may bring
# an image to another side of a border, and end a fit a step earlier or later
FITTED = ("temperature", "bias", "temperature_threshold", "bias_threshold")  # by L-BFGS
RELATIVE = {"frechet_distance": 1e-3} | dict.fromkeys(FITTED, 1e-3)  # of others: 1e-5
SHARES = ("linear_probe_accuracy", "knn_accuracy", "accuracy", "density", "recall", "coverage")
ABSOLUTE = dict.fromkeys(SHARES, 5e-3) | {"active_units": 1.0} | dict.fromkeys(FITTED, 1e-3)
# Of a random stream that is the device's own, and dear
DRAWN = ("binarised.", "thresholded.", "encoder_bound.", "bdmc_gap")
AGAIN = [
    m for m in METRICS if (m.footing != "cost" and not m.value.startswith(DRAWN)) or m.name == "parameters"
]
OPEN = "ln p(x), its bounds, and what training cost: these were not measured again"


def measure_again(
    findings: Findings, home: ExperimentFolder, found: Mapping[str, Record], data_dir: Path | None
) -> None:
    """Hold finished runs that have files against their weights, and the baselines against the data.

    Raises BenchError where the data are not to be had.
    """
    one_thread(torch.device("cpu"))  # as runs on a CPU do
    here = {k: r for k, r in found.items() if r["status"] == "finished" and not home.run(k).bare(r)}
    finished = {k: record for k, record in here.items() if record.get("origin") != JUDGED}
    findings.unchecked.append(OPEN)
    if judged := len(here) - len(finished):  # a record names no code to run
        findings.unchecked.append(f"models trained elsewhere, which need their adapters: {judged}")
    saved: dict[str, Saved] = {}
    for run_id, record in finished.items():
        try:
            saved[run_id] = read_saved(home.run(run_id).path, record)
        except BenchError as error:
            findings.check("measurements", False, f"{run_id}: cannot be measured again: {error}")
    own = {each.run.dataset: each.run.own_data for each in saved.values()}
    for dataset, part in own.items():
        data = data_of(dataset, part, data_dir)
        reference = Reference.of_data(data)
        table = home.baselines()
        same_net = table.get("classifier", {}).get("digest") == (reference and reference.digest)
        # The baselines
        due = baselines(data, table.get("of", {}).get("latents", ()))
        if same_net and reference:
            scores = {name: asdict(score) for name, score in yardstick(data, reference).items()}
            due |= {"samples": scores, "classifier": {"accuracy": reference.accuracy(data)}}
        elif reference:
            findings.unchecked.append("sample metrics: the classifier here is another one than the report's")
        _hold(findings, "baselines.json", table, due, "the data give")
        # The runs
        for run_id, each in saved.items():
            if each.run.dataset == dataset:
                _run(findings, each, run_id, data, reference, samples=same_net)


def _run(
    findings: Findings,
    saved: Saved,
    run_id: str,
    data: Dataset,
    reference: Reference | None,
    *,
    samples: bool,
) -> None:
    """Hold one record against its data, its model, and every metric that can be measured again."""
    try:
        model = model_of(saved)
    except BenchError as error:
        findings.check("measurements", False, f"{run_id}: cannot be measured again: {error}")
        return
    record = saved.record
    place, kind = f"{run_id}, likelihood_class", record.get("likelihood_class")
    findings.compare("measurements", place, kind, likelihood_class(model), "the model gives")
    digest = (record.get("data") or {}).get("digest")
    other = f"{run_id}, data.digest: found {digest}, here is {data.digest}"
    if not findings.check("measurements", digest == data.digest, other):
        return
    images, labels = divide(saved.run, data, torch.device("cpu"))
    chosen = (record.get("chosen") or {}).get("epoch", saved.run.epochs)
    measured = Measured(saved.run, model, Training("verify", chosen=chosen), images, labels, reference)
    if not findings.check("measurements", measured.finite, f"{run_id}: its weights give no finite numbers"):
        return
    rows = (metric for metric in AGAIN if samples or metric.footing != "samples")
    values = {metric.name: attrgetter(metric.value)(measured) for metric in rows}
    due = {
        # An objective may not say its loss in nats
        "metrics": {name: float(value) for name, value in values.items() if value is not None},
        "calibration": asdict(measured.calibration),
        "kl_per_unit": measured.kl_per_unit(),
    }
    _hold(findings, run_id, record, due, "its weights give")


def _hold(findings: Findings, name: str, stands: Any, due: Any, source: str) -> None:
    """Compare every finite number that is due with what stands at the same place."""
    there = dict(numbers_in(stands))
    for place, value in numbers_in(due):
        last = place.rpartition(".")[2]
        tolerance = {"rel_tol": RELATIVE.get(last, 1e-5), "abs_tol": ABSOLUTE.get(last, 1e-6)}
        agrees = math.isclose(there.get(place, math.nan), value, **tolerance)
        told = f"{name}, {place}: found {there.get(place, 'nothing')!r}, {source} {value!r}"
        findings.check("measurements", agrees or not math.isfinite(value), told)
