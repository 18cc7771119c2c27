"""The run that holds an experiment's report, tables and figures."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from bench.store.records import digest
from bench.tracking.images import as_image

if TYPE_CHECKING:
    from mlflow import MlflowClient


def keep(client: MlflowClient, experiment_id: str, experiment: str, folder: Path) -> str:
    """Put a folder's report in the place of the one before; gives the MLflow id of the run that holds it.

    Figures named `contact….png` are logged as images too, so that the UI draws them in its image grid.
    """
    mlflow_id = _run(client, experiment_id, experiment)
    for file in [*folder.glob("report.md"), *folder.glob("*.csv"), *folder.glob("figures/**/*.*")]:
        inside = file.parent.relative_to(folder).as_posix()
        client.log_artifact(mlflow_id, str(file), None if inside == "." else inside)
    logged = client.get_run(mlflow_id).data.tags
    for file in sorted(folder.glob("figures/**/contact*.png")):
        tag, content = f"bench.image.{file.stem}", digest(file)
        if logged.get(tag) != content:
            client.log_image(mlflow_id, as_image(file), key=file.stem, step=1, synchronous=True)
            client.set_tag(mlflow_id, tag, content)
    return mlflow_id


def _run(client: MlflowClient, experiment_id: str, experiment: str) -> str:
    for run in client.search_runs([experiment_id], "tags.`bench.summary` = 'report'"):
        if run.info.status == "RUNNING":  # whoever made it died at once
            client.set_terminated(run.info.run_id)
        return str(run.info.run_id)
    tags = {"bench.summary": "report", "mlflow.source.name": "bench", "mlflow.source.type": "LOCAL"}
    run = client.create_run(experiment_id, run_name=f"report · {experiment}", tags=tags)
    client.set_terminated(run.info.run_id)
    return str(run.info.run_id)
