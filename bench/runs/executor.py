"""What does the runs: worker processes of this machine, or the nodes of a Ray cluster."""

from __future__ import annotations

from types import ModuleType

from bench.runs.plan import Plan


def executor_of(plan: Plan) -> ModuleType:
    """Give the module that does a plan's runs; a cluster is joined here."""
    if plan.request.executor == "local":
        from bench.runs import workers

        return workers
    from bench.runs import cluster

    cluster.connect(plan.request.address, plan.request.tracking_uri)
    return cluster


def worker_count(plan: Plan) -> int:
    """Count the runs that go on at a time."""
    count = plan.request.workers or executor_of(plan).default_workers(plan.device)
    return min(count, max(1, len(plan.todo)))
