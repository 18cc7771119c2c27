"""A real MLflow server, killed and started again: whatever happened, each run is there once and whole."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from small_matrix import LONGEST, Fault
from tracked import assert_whole_once, described, record, run_folder

from bench.errors import BenchError
from bench.runs.sync import sync
from bench.tracking import Tracker, Writer, writer

pytestmark = [
    pytest.mark.faults,
    # Third parties' own deprecations, raised while MLflow loads and builds its tables.
    pytest.mark.filterwarnings("ignore::DeprecationWarning:mlflow"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:pydantic"),
    pytest.mark.filterwarnings("ignore:.*loader strategy is deprecated"),
]
SETTINGS = {"encoder": {"name": "mlp", "options": {"hidden": [512, 256]}}, "beta": 1.0, "epochs": 5}


class Server:
    """An MLflow server of its own on a free port, which can be killed and started again."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.folder = folder
        self.uri = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port),
                   "--workers", "1", "--backend-store-uri", f"sqlite:///{self.folder}/server.db",
                   "--artifacts-destination", str(self.folder / "artifacts")]  # fmt: skip
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                command, stdout=log, stderr=log, start_new_session=True, cwd=self.folder,
                env={**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true",
                     "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
            )  # fmt: skip
        deadline = time.monotonic() + LONGEST
        while True:
            try:
                with urllib.request.urlopen(f"{self.uri}/health", timeout=1):  # noqa: S310  our own
                    return
            except OSError:
                assert time.monotonic() < deadline, (self.folder / "server.log").read_text()
                time.sleep(0.1)

    def kill(self) -> None:
        if self.process:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(timeout=LONGEST)
            self.process = None


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    made = Server(tmp_path_factory.mktemp("server"))
    try:
        made.start()
        yield made
    finally:
        made.kill()


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setattr(writer, "FIRST_PAUSE", 0.2)
    monkeypatch.setattr(writer, "LONGEST_PAUSE", 0.5)
    monkeypatch.setattr("bench.tracking.curves.SEND_EVERY", 0.0)


def until(said: list[str], words: str) -> None:
    deadline = time.monotonic() + LONGEST
    while not any(words in line for line in said):
        assert time.monotonic() < deadline, said
        time.sleep(0.05)


def whole_run(writes: Writer, reports: Path, seed: int) -> dict[str, Any]:
    made = record(seed, settings=SETTINGS)
    folder = run_folder(reports, made)
    writes.start(made["id"], **described(made))
    for row in made["curves"]:
        writes.epoch(made["id"], row)
    writes.finish(made["id"], made, folder.path)
    return made


def test_a_server_that_dies_and_comes_back_has_every_run_once(
    server: Server, tmp_path: Path, fault: Fault
) -> None:
    said: list[str] = []
    tracker = Tracker(server.uri, "killed", reports=tmp_path)
    writes = Writer(tracker, said.append)
    before = whole_run(writes, tmp_path, 0)
    live = record(1, settings=SETTINGS)
    folder = run_folder(tmp_path, live)
    writes.start(live["id"], **described(live))
    writes.epoch(live["id"], live["curves"][0])
    writes.image(live["id"], folder.pictures / "samples-epoch-001.png", "samples", 1)
    time.sleep(0.5)  # somewhere in between
    server.kill()
    started = time.perf_counter()
    for row in live["curves"][1:4]:
        writes.epoch(live["id"], row)
    meanwhile = whole_run(writes, tmp_path, 2)
    assert time.perf_counter() - started < 5, "a call waited for the server"
    until(said, "training goes on")
    server.start()
    until(said, "answers again")
    writes.epoch(live["id"], live["curves"][4])
    writes.finish(live["id"], live, folder.path)
    writes.close(lambda tracker: tracker.describe("done"), lambda _: None)
    assert (writes.fault, writes.left) == ("", 0)
    for made in (before, live, meanwhile):
        assert_whole_once(tracker, made)
    fault("tracking server killed and restarted", injected=1, survived=1, lost=0, doubled=0)


def test_what_a_server_missed_is_sent_later(server: Server, tmp_path: Path, fault: Fault) -> None:
    tracker = Tracker(server.uri, "missed · digits", reports=tmp_path / "missed")
    writes = Writer(tracker, lambda _: None)
    live = record(1, settings=SETTINGS)
    folder = run_folder(tracker.reports, live)
    writes.start(live["id"], **described(live))
    writes.epoch(live["id"], live["curves"][0])
    time.sleep(0.5)
    server.kill()
    meanwhile = whole_run(writes, tracker.reports, 2)
    writes.finish(live["id"], live, folder.path)
    started = time.perf_counter()
    writes.close(lambda tracker: tracker.describe("done"), lambda _: None)
    assert time.perf_counter() - started < 60
    assert writes.left == 2
    assert writes.fault
    with pytest.raises(BenchError, match="cannot track runs in http://127"):
        list(sync([tracker.reports], tmp_path, server.uri))
    server.start()
    assert [(done.sent, done.there) for done in sync([tracker.reports], tmp_path, server.uri)] == [(2, 0)]
    assert [(done.sent, done.there) for done in sync([tracker.reports], tmp_path, server.uri)] == [(0, 2)]
    for made in (live, meanwhile):
        assert_whole_once(tracker, made)
    fault("tracking server killed for good, then bench sync", injected=1, survived=1, lost=0, doubled=0)
