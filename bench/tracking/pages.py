"""Where to look in the UI: the pages of every experiment in a store."""

from __future__ import annotations

from collections.abc import Iterator

from bench.tracking import views
from bench.tracking.store import connect

COMPARED = 30  # runs that the compare page is asked for at most: a link has to fit a browser's address bar


def pages(uri: str, base: str) -> Iterator[tuple[str, str]]:
    """Name and link of each experiment's pages at `base`: its runs, its views, the best seeds side by side.

    Raises BenchError when the store cannot be opened.
    """
    client = connect(uri)
    for experiment in client.search_experiments(order_by=["last_update_time DESC"]):
        if experiment.name == "Default":
            continue
        best: dict[str, tuple[float, str]] = {}
        for run in client.search_runs([experiment.experiment_id], "tags.`bench.status` = 'finished'"):
            score = run.data.metrics.get("elbo_bernoulli")
            if score is not None and run.data.tags.get("bench.attempt") == "latest":
                variant = run.data.tags["variant"]
                best[variant] = max(best.get(variant, (float("-inf"), "")), (score, run.info.run_id))
        compared = [run_id for _, run_id in sorted(best.values(), reverse=True)[:COMPARED]]
        links = views.links(base, experiment.experiment_id, compared if len(compared) > 1 else ())
        for name, link in links.items():
            yield f"{experiment.name} · {name}", link
