"""Where runs are tracked: the store's URI, how it is opened once and checked.

MLflow is imported inside functions only, after the environment below is set: importing this costs nothing.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import socket
import sqlite3
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from filelock import FileLock

from bench.errors import BenchError, redacted

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

MARK = "bench"  # the tag of an experiment that is ours
EXPERIMENT_TAGS = {
    MARK: "experiment",
    "mlflow.experimentKind": "custom_model_development",  # else the UI asks whether this is about prompts
    "mlflow.experiment.primaryMetric.name": "elbo_bernoulli",
    "mlflow.experiment.primaryMetric.greaterIsBetter": "True",
}
DEFAULT_URI = "sqlite:///mlflow.db"
PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}
BUSY = 20  # seconds that an sqlite store may be locked by others, here as in MLflow
MAKING = 180  # seconds that another bench may take to make its tables; its lock ends with it
PATIENCE = 4  # seconds that a database server may take to accept a connection, and to answer
ATTEMPTS = 2  # at opening a database

# No usage telemetry, from this process or from any it starts; the only choice a user may not overlook.
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
# MLflow's own lines would tear the live display; its errors reach the user as BenchError or TrackingError.
os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "CRITICAL")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
# A server that does not answer is given up on after seconds: the writer tries again later.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
os.environ.setdefault("PGCONNECT_TIMEOUT", str(PATIENCE))  # libpq's own is for ever


def resolve_uri(uri: str | None) -> str:
    """Resolve the store's URI: as given, else MLFLOW_TRACKING_URI, else `mlflow.db` where bench is started.

    A relative sqlite path becomes absolute, so that the UI finds the same file from anywhere. Raises
    BenchError for a plain path or a folder (MLflow's file store is retired) and for a database in memory.
    """
    uri = (uri or os.environ.get("MLFLOW_TRACKING_URI") or DEFAULT_URI).strip()
    if not re.match(r"[A-Za-z][\w+.-]+:", uri) or uri.startswith("file:"):
        shown = redacted(uri)
        raise BenchError(f"tracking URI {shown!r} is a path; write sqlite:///FILE.db or http://HOST:PORT")
    if not uri.startswith("sqlite:"):
        return uri.rstrip("/") if is_server(uri) else uri
    path = uri.removeprefix("sqlite:///")
    if path in ("", ":memory:") or path == uri:
        raise BenchError(f"tracking URI {uri!r} names no file; write sqlite:///FILE.db")
    return f"sqlite:///{Path(path).expanduser().absolute()}"


def is_server(uri: str) -> bool:
    """Tell whether the store is an MLflow server, which has a UI and an artifact store of its own."""
    return uri.startswith(("http://", "https://"))


def database_file(uri: str) -> Path | None:
    """Give the file of an sqlite store, None for any other."""
    return Path(uri.removeprefix("sqlite:///")) if uri.startswith("sqlite:///") else None


def reason(error: Exception) -> str:
    """Say what went wrong in one line, without secrets."""
    lines = redacted(str(error)).strip().splitlines()
    told = [line for line in lines if not line.startswith("(raised as a result of")]  # SQLAlchemy's aside
    return (told or [type(error).__name__])[0][:300]


def artifact_location(uri: str, experiment: str) -> str | None:
    """Choose a folder in `mlartifacts/` beside the database for artifacts; None lets a server decide."""
    if is_server(uri) or uri.startswith("databricks"):
        return None
    beside = (database_file(uri) or Path.cwd() / "mlflow.db").parent
    name = re.sub(r"[^\w.-]+", "-", experiment).strip("-.") or "experiment"
    return (beside / "mlartifacts" / name).as_uri()


def connect(uri: str) -> MlflowClient:
    """Connect to a store that answers; a database is created here, once, before anything trains.

    Raises BenchError within seconds when the store is unreachable, unwritable, or of another MLflow's schema.
    """
    parts, file = urlsplit(uri), database_file(uri)
    port = PORTS.get(parts.scheme.split("+")[0])
    try:
        if port and parts.hostname:  # MLflow would retry a dead database server for minutes
            socket.create_connection((parts.hostname, parts.port or port), timeout=PATIENCE).close()
        if file is None:
            return _client(uri)
        file.parent.mkdir(parents=True, exist_ok=True)
        if file.exists() and not file.is_file():
            raise OSError(errno.EINVAL, "no regular file", str(file))
        with tempfile.TemporaryFile(dir=file.parent):  # the lock would be waited for where none can be made
            pass
        with FileLock(f"{file}.lock", timeout=MAKING):  # one makes the tables, the others wait for them
            if not file.exists():  # make them beside it: a kill or a full disk leaves no half of them in it
                new = file.with_name(f".{file.name}.new")
                for left in file.parent.glob(f"{new.name}*"):
                    left.unlink()
                _client(f"sqlite:///{new}")
                new.replace(file)
            with closing(sqlite3.connect(file, timeout=BUSY)) as database:
                database.execute("PRAGMA journal_mode = WAL")  # the UI may read while bench writes
                database.execute("BEGIN IMMEDIATE")  # fails unless we may write
                database.rollback()
            return _client(uri)
    except Exception as error:  # MLflow, SQLAlchemy, requests and the system each raise their own
        why, again = reason(error), "s; end that one and try again"
        remedies = {
            "out-of-date": f"run `mlflow db upgrade {redacted(uri)}`, after a backup",
            "file lock": f"another bench has been opening it for {MAKING} {again}",
            "is locked": f"another program has been writing to it for {BUSY} {again}",
            "": "start that server, or give --tracking-uri sqlite:///FILE.db in a folder you may write to",
        }
        do = next(remedy for sign, remedy in remedies.items() if sign in why)
        raise BenchError(f"cannot track runs in {redacted(uri)}: {why}; {do}") from None  # hides passwords


def _client(uri: str) -> MlflowClient:
    from mlflow import MlflowClient
    from mlflow.store.db import utils

    utils.MAX_RETRY_COUNT = ATTEMPTS  # MLflow tries ten times, for 100 seconds
    logging.getLogger("urllib3").setLevel(logging.ERROR)  # its retry warnings print the address in full
    client = MlflowClient(tracking_uri=uri, registry_uri=uri)
    client.search_experiments(max_results=1)
    return client


def experiment_id(client: MlflowClient, uri: str, name: str) -> str:
    """Give the id of the experiment of that name; make it where there is none.

    Raises BenchError where that fails, and for an experiment that was deleted.
    """
    try:
        if client.get_experiment_by_name(name) is None:
            try:
                client.create_experiment(name, artifact_location(uri, name), tags=EXPERIMENT_TAGS)
            except Exception:
                if client.get_experiment_by_name(name) is None:  # else another process was faster
                    raise
        found = client.get_experiment_by_name(name)
        for key in EXPERIMENT_TAGS.keys() - found.tags.keys():  # someone else made it
            client.set_experiment_tag(found.experiment_id, key, EXPERIMENT_TAGS[key])
    except Exception as error:
        where, why = redacted(uri), reason(error)
        raise BenchError(f"cannot open the experiment {name!r} in {where}: {why}") from None
    if found.lifecycle_stage != "active":
        raise BenchError(
            f"experiment {name!r} was deleted in {redacted(uri)}; bring it back with "
            f"`mlflow experiments restore -x {found.experiment_id}`, or give another --tracking-uri"
        )
    return str(found.experiment_id)


def search(
    client: MlflowClient, experiment_id: str, wanted: str, order_by: Sequence[str] = ()
) -> Iterator[Run]:
    """Find an experiment's runs by MLflow's filter `wanted`, page by page."""
    token: str | None = None
    while True:
        page = client.search_runs([experiment_id], wanted, order_by=order_by, page_token=token)
        yield from page
        if not (token := page.token):
            return
