"""Finished runs measured again from their weights and the data, and the baselines from the data.

Measured again is what does not depend on the device that trained: everything but the importance-weighted
bounds, whose random stream is the device's own (and which take the longest), and the cost.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from operator import attrgetter
from pathlib import Path
from typing import Any

import torch

from bench.data.datasets import Dataset, load
from bench.engine.device import one_thread
from bench.engine.images import divide
from bench.engine.train import Training
from bench.errors import BenchError
from bench.evaluation.baselines import baselines
from bench.evaluation.measure import Measured
from bench.evaluation.metrics import METRICS
from bench.evaluation.samples import FeatureNet, Reference, classifier, yardstick
from bench.parts.vae import likelihood_class, parameter_count
from bench.report.results import number, numbers
from bench.saved import Saved, model_of, read_saved
from bench.store.experiments import ExperimentFolder
from bench.store.records import Record
from bench.verify.findings import Findings

# The device that trained gives the same numbers again; another one adds up in another order, which may bring
# an image to another side of a border, and end the fit of ε a step earlier or later
RELATIVE = {"frechet_distance": 1e-3, "epsilon": 2e-2}  # of others: 1e-5
ABSOLUTE = {  # of others: 1e-6
    "linear_probe_accuracy": 5e-3, "knn_accuracy": 5e-3, "precision": 5e-3, "recall": 5e-3, "coverage": 5e-3,
    "accuracy": 5e-3, "active_units": 1.0,
}  # fmt: skip
AGAIN = [m for m in METRICS if m.footing != "cost" and not m.name.startswith("log_px")]
OPEN = "log_px and what training cost: these were not measured again"
Pair = tuple[str, float | None, float]  # place, the number that stands there, the number measured again


def measure_again(
    findings: Findings, folder: Path, found: Mapping[str, Record], data_dir: Path | None
) -> None:
    """Hold the record of every finished run with files against its weights, baselines.json against the data.

    Raises BenchError where the data is not to be had.
    """
    device = torch.device("cpu")
    one_thread(device)  # as runs on a CPU do
    home = ExperimentFolder(folder)
    finished = {
        name: record
        for name, record in found.items()
        if record["status"] == "finished" and not home.run(name).bare(record)
    }
    findings.unchecked.append(OPEN)
    for dataset in dict.fromkeys(record["run"]["dataset"] for record in finished.values()):
        data = load(dataset, data_dir)
        net, accuracy, digest = classifier(data)
        reference = Reference.of(net.features(data.test_images.flatten(1).float() / 255))
        table = json.loads((folder / "baselines.json").read_text(encoding="utf-8"))
        same_net = (table.get("classifier") or {}).get("digest") == digest
        if not same_net:
            findings.unchecked.append("sample metrics: the classifier here is another one than the report's")
        pairs = _baselines(table, data, (net, reference, accuracy) if same_net else None)
        _hold(findings, "baselines.json", pairs, "the data gives")
        for name, record in finished.items():
            if record["run"]["dataset"] == dataset:
                _run(findings, name, home.run(name).path, data, net, reference, samples=same_net)


def _run(
    findings: Findings,
    name: str,
    folder: Path,
    data: Dataset,
    net: FeatureNet,
    reference: Reference,
    *,
    samples: bool,
) -> None:
    """One run: its data, its model, and every metric that can be measured again."""
    try:
        saved = read_saved(folder)
        model = model_of(saved)
    except BenchError as error:
        findings.check("measurements", False, f"{name}: cannot be measured again: {error}")
        return
    digest, kind = saved.record["data"]["digest"], saved.record["likelihood_class"]
    place = f"{name}, data.digest"
    if findings.check(
        "measurements", digest == data.digest, f"{place}: found {digest}, here is {data.digest}"
    ):
        told = f"{name}, likelihood_class: found {kind}, the model gives {likelihood_class(model)}"
        findings.check("measurements", kind == likelihood_class(model), told)
        images, labels = divide(saved.run, data, torch.device("cpu"))
        measured = Measured(saved.run, model, Training("verify"), images, labels, net, reference)
        _hold(findings, name, _pairs(saved, measured, samples=samples), "its weights give")


def _pairs(saved: Saved, measured: Measured, *, samples: bool) -> Iterator[Pair]:
    metrics = numbers(saved.record["metrics"])
    for metric in AGAIN:
        value = (
            float(attrgetter(metric.value)(measured)) if samples or metric.footing != "samples" else math.nan
        )
        if math.isfinite(value):
            yield f"metrics.{metric.name}", metrics.get(metric.name), value
    parameters = parameter_count(measured.model)
    yield "metrics.parameters", metrics.get("parameters"), parameters
    for name, value in asdict(measured.calibration).items():
        yield f"calibration.{name}", number(saved.record["calibration"].get(name)), value
    units = saved.record["kl_per_unit"]
    for i, value in enumerate(measured.kl_per_unit()):
        yield f"kl_per_unit[{i}]", number(units[i]) if i < len(units) else None, value


def _baselines(
    table: Mapping[str, Any], data: Dataset, yard: tuple[FeatureNet, Reference, float] | None
) -> Iterator[Pair]:
    latents = (table.get("of") or {}).get("latents") or ()
    rows = {row.get("name"): row for row in table.get("rows") or ()}
    for row in baselines(data, latents)["rows"]:
        for key, value in numbers(row).items():
            yield f"{row['name']}, {key}", number((rows.get(row["name"]) or {}).get(key)), value
    if yard:
        net, reference, accuracy = yard
        yield "classifier, accuracy", number(table["classifier"].get("accuracy")), accuracy
        for name, scores in yardstick(data, net, reference).items():
            for key, value in asdict(scores).items():
                yield f"{name}, {key}", number(((table.get("samples") or {}).get(name) or {}).get(key)), value


def _hold(findings: Findings, place: str, pairs: Iterator[Pair], source: str) -> None:
    for what, stands, value in pairs:
        name = what.rpartition(".")[2].rpartition(", ")[2]
        tolerance = {"rel_tol": RELATIVE.get(name, 1e-5), "abs_tol": ABSOLUTE.get(name, 1e-6)}
        agrees = stands is not None and math.isclose(stands, value, **tolerance)
        told = "nothing" if stands is None else repr(stands)
        findings.check("measurements", agrees, f"{place}, {what}: found {told}, {source} {value!r}")
