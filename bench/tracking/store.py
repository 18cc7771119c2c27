"""Where runs are tracked: the store's URI, how it is opened once and checked.

MLflow is imported inside functions only, after the environment below is set: importing this costs nothing.
"""

from __future__ import annotations

import logging
import os
import re
import socket
import sqlite3
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from filelock import FileLock

from bench.errors import BenchError, redacted
from bench.store.lock import held

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Experiment

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
PATIENCE = 4  # seconds that a store may take to answer at the start

# No usage telemetry, from this process or from any it starts; the only choice a user may not overlook.
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
# MLflow's own lines would tear the live display; its errors reach the user as BenchError or TrackingError.
os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "CRITICAL")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
# A server that goes away mid-run is given up on after seconds: finished work is delivered later.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")


def resolve_uri(uri: str | None) -> str:
    """The store's URI: as given, else MLFLOW_TRACKING_URI, else `mlflow.db` in the working directory.

    A relative sqlite path becomes absolute, so that the UI finds the same file from anywhere. Raises
    BenchError for a plain path or a folder (MLflow's file store is retired) and for a database in memory.
    """
    uri = (uri or os.environ.get("MLFLOW_TRACKING_URI") or DEFAULT_URI).strip()
    if not re.match(r"[A-Za-z][\w+.-]+:", uri) or uri.startswith("file:"):
        raise BenchError(
            f"tracking URI {redacted(uri)!r} is a path; write sqlite:///FILE.db or http://HOST:PORT"
        )
    if not uri.startswith("sqlite:"):
        return uri.rstrip("/") if is_server(uri) else uri
    path = uri.removeprefix("sqlite:///")
    if path in ("", ":memory:") or path == uri:
        raise BenchError(f"tracking URI {uri!r} names no file; write sqlite:///FILE.db")
    return f"sqlite:///{Path(path).expanduser().absolute()}"


def reason(error: Exception) -> str:
    """What went wrong in one line, without secrets."""
    lines = redacted(str(error)).strip().splitlines()
    told = [line for line in lines if not line.startswith("(raised as a result of")]  # SQLAlchemy's aside
    return (told or [type(error).__name__])[0][:300]


def is_server(uri: str) -> bool:
    """Whether the store is an MLflow server, which has a UI and an artifact store of its own."""
    return uri.startswith(("http://", "https://"))


def database_file(uri: str) -> Path | None:
    """The file of an sqlite store, None for any other."""
    return Path(uri.removeprefix("sqlite:///")) if uri.startswith("sqlite:///") else None


def artifact_location(uri: str, experiment: str) -> str | None:
    """Where an experiment's artifacts go: `mlartifacts/` beside the database; None lets a server decide."""
    if is_server(uri) or uri.startswith("databricks"):
        return None
    beside = (database_file(uri) or Path.cwd() / "mlflow.db").parent
    return (
        beside / "mlartifacts" / (re.sub(r"[^\w.-]+", "-", experiment).strip("-.") or "experiment")
    ).as_uri()


def connect(uri: str) -> MlflowClient:
    """A client of a store that answered; the database is created here, once, before anything trains.

    Raises BenchError within seconds when the store is unreachable, unwritable, or of another MLflow's schema.
    """
    file = database_file(uri)
    try:
        if file is None:
            if not is_server(uri):
                _knock(uri)
            return _client(uri)
        file.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{file}.lock", timeout=MAKING):  # one makes the tables, the others wait for them
            if not file.exists():
                _make_tables(file)
            _prepare_sqlite(file)
            return _client(uri)
    except Exception as error:  # MLflow, SQLAlchemy, requests and the system each raise their own
        why = reason(error)  # the chain would print the password
        raise BenchError(f"cannot track runs in {redacted(uri)}: {why}; {_way_out(uri, why)}") from None


def _make_tables(file: Path) -> None:
    """Make the tables beside the file, so that a kill or a full disk leaves no half of them in it."""
    new = file.with_name(f".{file.name}.new")
    for left in file.parent.glob(f"{new.name}*"):
        left.unlink()
    _client(f"sqlite:///{new}")
    new.replace(file)


def _client(uri: str) -> MlflowClient:
    from mlflow import MlflowClient

    logging.getLogger("urllib3").setLevel(logging.ERROR)  # its retry warnings print the address in full
    client = MlflowClient(tracking_uri=uri, registry_uri=uri)
    with _impatient():
        client.search_experiments(max_results=1)
    return client


def _way_out(uri: str, why: str) -> str:
    if "out-of-date" in why:
        return f"run `mlflow db upgrade {redacted(uri)}`, after a backup"
    if "file lock" in why:
        return f"another bench has been opening it for {MAKING} s; end that one and try again"
    if "is locked" in why:
        return f"another program has been writing to it for {BUSY} s; end that one and try again"
    return "start that server, or give --tracking-uri sqlite:///FILE.db in a folder you may write to"


def experiment_id(client: MlflowClient, uri: str, name: str) -> str:
    """The id of the experiment of that name, made where there is none.

    Raises BenchError where that fails, and for an experiment that was deleted.
    """
    try:
        found = client.get_experiment_by_name(name) or _create(client, uri, name)
        for key in EXPERIMENT_TAGS.keys() - found.tags.keys():  # someone else made it
            client.set_experiment_tag(found.experiment_id, key, EXPERIMENT_TAGS[key])
    except Exception as error:
        where, why = redacted(uri), redacted(str(error))
        raise BenchError(f"cannot open the experiment {name!r} in {where}: {why}") from None
    if found.lifecycle_stage != "active":
        raise BenchError(
            f"experiment {name!r} was deleted in {redacted(uri)}; bring it back with "
            f"`mlflow experiments restore -x {found.experiment_id}`, or give another --tracking-uri"
        )
    return str(found.experiment_id)


def _create(client: MlflowClient, uri: str, name: str) -> Experiment:
    try:
        made = client.create_experiment(name, artifact_location(uri, name), tags=EXPERIMENT_TAGS)
        return client.get_experiment(made)
    except Exception:
        found = client.get_experiment_by_name(name)  # another process was faster
        if found is None:
            raise
        return found


def claimed(uri: str, experiment_id: str, name: str) -> AbstractContextManager[None]:
    """Keep other processes from writing this experiment: a lock beside an sqlite file, nothing elsewhere.

    Different experiments share a store. Raises BenchError where another process holds the lock.
    """
    file = database_file(uri)
    if file is None:
        return nullcontext()
    lock = file.with_name(f"{file.name}.experiment-{experiment_id}.lock")
    return held(lock, f"the MLflow experiment {name!r} in {uri}", "give another --tracking-uri")


def _prepare_sqlite(file: Path) -> None:
    """Check that the file is a database we may write, and let readers (the UI) not wait for the writer."""
    with closing(sqlite3.connect(file, timeout=BUSY)) as database:
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("BEGIN IMMEDIATE")
        database.rollback()


def _knock(uri: str) -> None:
    """MLflow retries a dead database server for minutes; ask for an open port first."""
    parts = urlsplit(uri)
    port = parts.port or PORTS.get(parts.scheme.split("+")[0])
    if parts.hostname and port:
        socket.create_connection((parts.hostname, port), timeout=PATIENCE).close()


@contextmanager
def _impatient() -> Iterator[None]:
    """One retry and few seconds for the first question to a store."""
    limits = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": str(PATIENCE)}
    before = {name: os.environ.get(name) for name in limits}
    os.environ.update(limits)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
