"""What the two executors cost: seconds of a group on 1 and 2 workers, memory of the process that hands out.

    python benchmarks/scaling_ray.py                  # a Ray of its own on this machine; some minutes, quiet

Groups are small runs on digits. From two sizes of matrix, less what starting costs: the seconds of one more
group, times the workers. What the cluster adds is the difference to the local executor's.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from bench.data.datasets import load
from bench.engine.device import one_thread
from bench.evaluation.samples import Reference
from bench.runs import cluster
from bench.runs.execute import Job, SharedContext
from bench.spec.resolve import load as load_spec
from bench.store.records import Record

SPEC = """
question: What does a group cost?
dataset: digits
evaluation: {importance_samples: 3}
defaults: {epochs: 5, batch_size: 128, likelihood: bernoulli}
variants:
  small: {encoder: {name: mlp, hidden: [64]}, decoder: {name: mlp, hidden: [64]}, latent: 8}
"""
CPU = torch.device("cpu")


class Count:
    """A listener that keeps as little as one can, and counts."""

    def __init__(self) -> None:
        self.epochs = self.ended_runs = 0
        self.failed: list[str] = []

    def starting(self, job: Job) -> None:
        """Nothing."""

    def event(self, job: Job, kind: str, data: dict[str, Any]) -> None:
        """Count epochs."""
        self.epochs += kind == "epoch"

    def ended(self, job: Job, record: Record) -> None:
        """Count runs."""
        self.ended_runs += 1
        if record["status"] != "finished":
            self.failed.append(str(record.get("reason")))


def jobs(folder: Path, count: int) -> list[Job]:
    """So many runs of one variant."""
    spec = folder / "small.yaml"
    spec.write_text(SPEC, encoding="utf-8")
    runs = load_spec(spec).with_overrides(seeds=tuple(range(count))).runs()
    return [Job(f"small-{run.seed}", run, folder / f"{run.seed}", {"experiment": "cost"}) for run in runs]


def cost(run_all: Any, shared: SharedContext, workers: int, count: int) -> tuple[float, float]:
    """Seconds of a matrix of so many runs, and those that this process itself was busy."""
    with tempfile.TemporaryDirectory() as folder:
        ears = Count()
        made = jobs(Path(folder), count)
        started, busy = time.perf_counter(), time.process_time()
        run_all(made, shared, workers, ears)
        seconds = time.perf_counter() - started, time.process_time() - busy
    assert (ears.ended_runs, ears.failed) == (count, []), ears.failed
    return seconds


def megabytes() -> float:
    """This process's resident memory now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e6


def main() -> None:
    """Measure and print a table."""
    options = argparse.ArgumentParser(description="What the two executors cost.")
    options.add_argument("--groups", type=int, default=60, help="of the larger matrix")
    options.add_argument("--address", help="of a cluster that runs already")
    given = options.parse_args()
    one_thread(CPU)
    data = load("digits").share()
    shared = SharedContext(data, CPU, Reference.of_data(data))
    started = time.perf_counter()
    cluster.connect(given.address, "http://nowhere")
    joining = time.perf_counter() - started
    few, many = given.groups // 4, given.groups
    print("| workers | executor | start, s | one more group, s a worker | groups a minute | hands out, s |")
    print("|--:|---|--:|--:|--:|--:|")
    before, costs = megabytes(), {}
    for workers in (1, 2):
        for name, run_all in (("local", workers.run_all), ("ray", cluster.run_all)):
            small, large = (cost(run_all, shared, workers, count) for count in (few, many))
            each, busy = ((b - a) / (many - few) for a, b in zip(small, large, strict=True))
            costs[workers, name] = each * workers
            start = small[0] - few * each + (joining if name == "ray" else 0.0)
            cells = f"{workers} | {name} | {start:.1f} | {each * workers:.3f} | {60 / each:.0f} | {busy:.3f}"
            print(f"| {cells} |", flush=True)
    grown, done = megabytes() - before, 4 * (few + many)
    for workers in (1, 2):
        added = costs[workers, "ray"] - costs[workers, "local"]
        print(f"\n{workers} workers: Ray adds {added:+.3f} s to a group")
    print(f"\nmemory: {before:.0f} MB at first, {grown:+.1f} MB after {done} groups")
    with tempfile.TemporaryDirectory() as folder:
        before = megabytes()
        waiting = jobs(Path(folder), 1000)
        print(f"{len(waiting):,} groups that wait: {megabytes() - before:.1f} MB")


if __name__ == "__main__":
    main()
