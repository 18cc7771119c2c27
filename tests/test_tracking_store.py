"""Where runs are tracked: which stores are understood, how they are opened, and the UI that shows them."""

from __future__ import annotations

import os
import socket
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from bench import tracking
from bench.errors import BenchError
from bench.tracking import Tracker, store


def test_uris_that_are_understood_and_the_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for given in ("sqlite:////tmp/x.db", "http://host:5000/", "postgresql://u:p@h/db"):
        assert tracking.resolve_uri(given) == given.rstrip("/")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert tracking.resolve_uri(None) == f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://host")
    assert tracking.resolve_uri(None) == "http://host"


@pytest.mark.parametrize(
    "given", ["mlruns", "./mlflow.db", "file:///tmp/mlruns", "sqlite://", "sqlite:///:memory:"]
)
def test_uris_that_cannot_be_used(given: str) -> None:
    with pytest.raises(BenchError, match=r"write sqlite:///FILE\.db"):
        tracking.resolve_uri(given)


def test_the_store_lies_where_it_was_asked_for(uri: str) -> None:
    tracker, file = Tracker(uri, "lies here"), store.database_file(uri)
    assert file is not None
    assert file.with_name("mlflow.db-wal").exists(), "readers do not wait for the writer"
    location = tracker._client.get_experiment(tracker.experiment_id).artifact_location
    assert location == (file.parent / "mlartifacts" / "lies-here").as_uri()


def test_a_store_that_cannot_be_opened_is_bad_input(tmp_path: Path) -> None:
    (tmp_path / "junk.db").write_bytes(b"not a database" * 100)
    for name in ("junk.db", "junk.db/mlflow.db"):
        with pytest.raises(BenchError, match=r"cannot track runs in .*give --tracking-uri"):
            Tracker(f"sqlite:///{tmp_path}/{name}", "x")
    for place in (tmp_path, "/proc/x.db"):  # a folder; where no file can be made, and no lock
        with pytest.raises(BenchError, match=r"cannot track runs in .*give --tracking-uri"):
            Tracker(f"sqlite:///{place}", "x")
    assert not tmp_path.with_name(f"{tmp_path.name}.lock").exists()


def test_a_database_server_that_never_answers_is_given_up_on(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("psycopg")
    assert int(os.environ["PGCONNECT_TIMEOUT"]) * store.ATTEMPTS + store.PATIENCE < 15
    monkeypatch.setenv("PGCONNECT_TIMEOUT", "2")
    monkeypatch.setattr(store, "ATTEMPTS", 1)
    told = pytest.raises(BenchError, match="cannot track runs in")
    with socket.create_server(("127.0.0.1", 0)) as silent, told as caught:
        Tracker(f"postgresql+psycopg://me:hunter2@127.0.0.1:{silent.getsockname()[1]}/x", "x")
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("scheme", ["http", "postgresql"])
def test_an_unreachable_server_is_bad_input(scheme: str) -> None:
    with socket.socket() as taken:  # bound, not listening: connections are refused
        taken.bind(("127.0.0.1", 0))
        with pytest.raises(BenchError, match="cannot track runs in") as caught:
            Tracker(f"{scheme}://me:secret@127.0.0.1:{taken.getsockname()[1]}/x", "x")
    assert "secret" not in str(caught.value)
    assert caught.value.__suppress_context__, "a traceback would print the password"


def test_a_deleted_experiment_is_bad_input(uri: str) -> None:
    tracker = Tracker(uri, "deleted")
    tracker._client.delete_experiment(tracker.experiment_id)
    with pytest.raises(BenchError, match="mlflow experiments restore"):
        Tracker(uri, "deleted")


def test_a_locked_database_is_bad_input(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    Tracker(uri, "x")
    monkeypatch.setattr(store, "BUSY", 0.2)
    with closing(sqlite3.connect(uri.removeprefix("sqlite:///"))) as database:
        database.execute("BEGIN IMMEDIATE")
        with pytest.raises(BenchError, match=r"database is locked; another program has been writing to it"):
            Tracker(uri, "x")


def test_an_experiment_of_an_sqlite_store_has_one_writer_and_others_share_it(uri: str) -> None:
    one, same, other = (Tracker(uri, name) for name in ("x · a", "x · a", "x · b"))
    refused = pytest.raises(BenchError, match=r"the MLflow experiment 'x · a' in .* is in use by process")
    with one.claimed(), other.claimed(), refused:
        same.claimed().__enter__()
    with same.claimed():
        pass


def test_the_ui_command_shows_a_store_and_not_a_server(uri: str) -> None:
    command = tracking.ui_command(uri, 5001)
    assert uri in command
    assert tracking.ui_environment(uri)["MLFLOW_BACKEND_STORE_URI"] == uri
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"
    with pytest.raises(BenchError, match="UI of its own"):
        tracking.ui_command("http://host:5000", 5001)


def test_nothing_is_imported_early_and_nothing_is_printed(tmp_path: Path) -> None:
    """Make a store, a run, and ask an unreachable server: not one line of MLflow's on the terminal."""
    code = f"""
import sys
from pathlib import Path
from bench.tracking import Attempt, Tracker
assert not {{"mlflow", "torch"}} & sys.modules.keys()
made = {{"id": "a-s0-00000000", "variant": "a", "seed": 0, "run": {{"a": 1}}, "status": "finished"}}
Tracker("sqlite:///{tmp_path}/new.db", "x").deliver(made, Attempt(Path("{tmp_path}")))
try:
    Tracker("http://127.0.0.1:9", "x")
except Exception as error:
    assert type(error).__name__ == "BenchError", error
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
