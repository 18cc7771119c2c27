"""The groups of a matrix as tasks of a Ray cluster: same results, records and report as on one machine.

A node needs bench's dependencies and no disk of this process: bench itself, the data and the yardstick come
once through Ray, and what a task makes comes back as the items of its stream. This process alone writes run
folders, MLflow and the report, so that a group that had to be done twice is recorded once.

Ray is imported inside functions only: importing this costs nothing.
"""

from __future__ import annotations

from bench.runs.cluster.flights import run_all
from bench.runs.cluster.join import connect, default_workers, require_ray

__all__ = ["connect", "default_workers", "require_ray", "run_all"]
