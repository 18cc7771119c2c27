"""Links into the UI of a store: what `bench ui` prints."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.errors import BenchError
from bench.tracking import views
from bench.tracking.store import connect, redacted

if TYPE_CHECKING:
    from mlflow import MlflowClient

COMPARED = 20  # runs on one comparison page: more make an address that browsers cut
FINISHED = "tags.`bench.attempt` = 'latest' AND tags.outcome = 'finished'"


def store_links(uri: str, base: str) -> dict[str, str]:
    """Links by name into the UI at `base`, for every experiment that bench keeps in the store `uri`.

    Per experiment: its page, its saved views, and the comparison of each variant's best seed
    (by `elbo_bernoulli`). Raises BenchError when the store cannot be read.
    """
    client = connect(uri)
    found: dict[str, str] = {}
    try:
        for experiment in client.search_experiments():
            if views.MARK in experiment.tags:
                ids = str(experiment.experiment_id)
                links = views.links(base, ids, best_of_each_variant(client, ids))
                found |= {f"{experiment.name} · {name}": link for name, link in links.items()}
    except Exception as error:
        raise BenchError(f"cannot read {redacted(uri)}: {redacted(str(error))}") from None
    return found or {"MLflow": base}


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
