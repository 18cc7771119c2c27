"""Where to look in the UI: the pages of every experiment in a store."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from bench.errors import BenchError, redacted
from bench.tracking import views
from bench.tracking.store import connect

if TYPE_CHECKING:
    from mlflow import MlflowClient

COMPARED = 30  # runs that the compare page is asked for at most: a link has to fit a browser's address bar
FINISHED = "tags.`bench.attempt` = 'latest' AND tags.outcome = 'finished'"


def pages(uri: str, base: str) -> Iterator[tuple[str, str]]:
    """Name and link of each experiment's pages at `base`: its runs, its views, the best seeds side by side.

    Only experiments that bench writes, the latest first. Raises BenchError when the store cannot be read.
    """
    client = connect(uri)
    try:
        for experiment in client.search_experiments(order_by=["last_update_time DESC"]):
            if views.MARK in experiment.tags:
                best = best_of_each_variant(client, experiment.experiment_id)
                links = views.links(base, experiment.experiment_id, best if len(best) > 1 else ())
                yield from ((f"{experiment.name} · {name}", link) for name, link in links.items())
    except Exception as error:
        raise BenchError(f"cannot read {redacted(uri)}: {redacted(str(error))}") from None


def best_of_each_variant(client: MlflowClient, experiment_id: str) -> list[str]:
    """The MLflow id of the finished run with the highest `elbo_bernoulli` of each variant, best first."""
    best: dict[str, str] = {}
    token: str | None = None
    while len(best) < COMPARED:
        page = client.search_runs(
            [experiment_id], FINISHED, order_by=["metrics.elbo_bernoulli DESC"], page_token=token
        )
        for run in page:
            best.setdefault(run.data.tags.get("variant", ""), str(run.info.run_id))
        token = page.token
        if not token:
            break
    return list(best.values())[:COMPARED]
