"""When a matrix will be done: its start, its runs round by round of seeds, its report."""

from __future__ import annotations

import math
import time
from datetime import datetime

from bench.engine.device import describe, one_thread
from bench.evaluation.cost import Common
from bench.runs.executor import worker_count
from bench.runs.forecast import forecast, setting, tsne_seconds
from bench.runs.order import Prediction, ends, in_order
from bench.runs.plan import Plan
from bench.store.experiments import BASELINES
from bench.store.records import RunFolder

MOST_START = 20.0  # seconds that a start may take: a program that imports bench may have done other things
BASELINES_SCORED = 4  # times the sample metrics of a run: three sets are scored, and neighbours searched
SAME = ("device", "device_name", "threads", "torch")  # of a machine like this one
RESUMED = {"resumed", "retried"}  # whose times hold a pause
REPORT, REPORT_VARIANT = 4.0, 0.35  # seconds that the last report takes, and each of its variants adds


def predict(plan: Plan) -> Prediction:
    """Predict what a plan takes; what was done before with the same settings on this machine is looked up."""
    if not plan.todo:
        return Prediction()
    # The imports so far; what does the runs imports as much again
    start = 2 * min(time.process_time(), MOST_START / 2)
    first = min(plan.experiment.seeds)
    one_thread(plan.device)  # as the workers do
    common = Common.of(plan.data, plan.device)
    known = done_before(plan, first)
    found = forecast([p.run for p in plan.todo], plan.data, plan.device, common, known, first)
    seconds = {planned.id: s for planned, s in zip(plan.todo, found, strict=True)}
    if not (plan.folder / BASELINES).is_file():
        start += common.classifiers + BASELINES_SCORED * common.samples
    order = in_order(plan.todo, seconds)
    times = ends([seconds[planned.id] for planned in order], worker_count(plan))
    rounds: dict[int, float] = {}
    for planned, end in zip(order, times, strict=True):
        rounds[planned.run.seed] = max(start + end, max(rounds.values(), default=0.0))
    report = REPORT + REPORT_VARIANT * len(plan.experiment.variants)
    return Prediction(seconds, start, rounds, report, max(rounds.values()) + report)


def done_before(plan: Plan, full: int) -> dict[str, float]:
    """Look up the seconds of finished runs on a machine like this one, less t-SNE: the least of a setting."""
    here = describe(plan.device)
    wanted = {setting(planned.run) for planned in plan.todo}
    found: dict[str, float] = {}
    for planned in plan.runs:
        if planned.todo or (key := setting(planned.run)) not in wanted:
            continue
        record = RunFolder(plan.home.runs / planned.key).read() or {}
        there = record.get("environment") or {}
        if (
            record.get("status") != "finished"
            or any(there.get(w) != here[w] for w in SAME)
            or RESUMED & record.keys()
        ):
            continue
        begun, over = (datetime.fromisoformat(record[word]) for word in ("started", "finished"))
        spent = (over - begun).total_seconds() - tsne_seconds(planned.run, plan.data, full)
        found[key] = min(max(spent, 1.0), found.get(key, math.inf))
    return found
