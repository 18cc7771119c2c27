"""A run's record and weights out of an MLflow store."""

from __future__ import annotations

import os
import re
from pathlib import Path

from bench.errors import BenchError, redacted
from bench.store.records import RECORD, WEIGHTS
from bench.tracking.store import connect, database_file, reason, resolve_uri

MLFLOW_ID = re.compile("[0-9a-f]{32}")


def fetch(uri: str | None, mlflow_run_id: str, folder: Path) -> Path:
    """Copy record.json and weights.safetensors of an MLflow run into `folder`; return that folder.

    `uri` as in `resolve_uri`; the store is never made or changed. Raises BenchError for a store that cannot
    be read, a run that it lacks, and a run without such files.
    """
    uri = resolve_uri(uri)
    shown, file = redacted(uri), database_file(uri)
    if file is not None and not file.is_file():
        raise BenchError(f"there is no MLflow store {shown}; give the right one with --tracking-uri")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    client = connect(uri)
    why = "give the id that the run's page in `bench ui` shows, or another --tracking-uri"
    try:
        client.get_run(mlflow_run_id)
    except Exception:
        raise BenchError(f"{shown} holds no run {mlflow_run_id}; {why}") from None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in (RECORD, WEIGHTS):
            client.download_artifacts(mlflow_run_id, name, str(folder))
    except Exception as error:
        raise BenchError(
            f"the run {mlflow_run_id} in {shown} has no {RECORD} and {WEIGHTS} to give ({reason(error)}); "
            "give a run of bench that finished"
        ) from None
    return folder
