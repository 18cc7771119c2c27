"""Real stores and processes, killed, locked and started again: each run is there once and whole."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from servers import free_port, mlflow
from small_matrix import LONGEST, Fault
from tracked import assert_whole_once, attempts, known, record, run_folder, tell, until

from bench.tracking import Tracker, Writer, writer

pytestmark = pytest.mark.faults


class Server:
    """An MLflow server that can be killed and started again."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        self.alive = contextlib.ExitStack()
        self.start()

    def start(self) -> None:
        self.uri = self.alive.enter_context(mlflow(self.folder, self.port))

    def kill(self) -> None:
        self.alive.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("server")
    shutil.copy(empty_store, folder / "server.db")
    made = Server(folder)
    yield made
    made.kill()


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setattr(writer, "FIRST_PAUSE", 0.2)
    monkeypatch.setattr(writer, "LONGEST_PAUSE", 0.5)
    monkeypatch.setattr(writer, "EVERY", 0.05)


def test_a_server_that_dies_and_comes_back_has_every_run_once(
    server: Server, tmp_path: Path, fault: Fault
) -> None:
    said: list[str] = []
    tracker = Tracker(server.uri, "killed")
    writes = Writer(tracker, said.append)
    before = tell(writes, tmp_path, 0)
    live = record(1)
    folder = run_folder(tmp_path, live)
    writes.start(known(live), folder.path)
    writes.epoch(live["id"], live["curves"][0])
    writes.image(live["id"], folder.pictures / "samples-epoch-001.png", "samples", 1)
    time.sleep(0.5)  # somewhere in between
    server.kill()
    for row in live["curves"][1:4]:
        writes.epoch(live["id"], row)
    meanwhile = tell(writes, tmp_path, 2)
    until(lambda: any("training goes on" in line for line in said), LONGEST)
    server.start()
    until(lambda: any("answers again" in line for line in said), LONGEST)
    writes.epoch(live["id"], live["curves"][4])
    writes.finish(live, folder.path)
    writes.close(lambda tracker: tracker.describe("done"), lambda _: None)
    assert (writes.fault, writes.left) == ("", 0)
    for made in (before, live, meanwhile):
        assert_whole_once(tracker, made)
    fault("tracking server killed and restarted", injected=1, survived=1, lost=0, doubled=0)


def test_a_database_that_is_locked_meanwhile_costs_nothing(uri: str, tmp_path: Path, fault: Fault) -> None:
    tracker = Tracker(uri, "locked")
    writes = Writer(tracker, lambda _: None)
    with closing(sqlite3.connect(uri.removeprefix("sqlite:///"))) as database:
        database.execute("BEGIN IMMEDIATE")
        made = tell(writes, tmp_path, 0)
        time.sleep(1)
        database.rollback()
    writes.close(lambda _: None, lambda _: None)
    assert (writes.fault, writes.left) == ("", 0)
    assert_whole_once(tracker, made)
    fault("database locked by another program", injected=1, survived=1, lost=0, doubled=0)


def test_two_processes_share_a_new_store(tmp_path: Path, fault: Fault) -> None:
    """Two experiments at once, from before the database exists: everything of both, once."""
    uri = f"sqlite:///{tmp_path}/new.db"
    code = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from tracked import *
reports = Path({str(tmp_path)!r}) / sys.argv[1]
tracker = Tracker({uri!r}, sys.argv[1])
with tracker.claimed():
    writer = Writer(tracker, print)
    for seed in range(4):
        tell(writer, reports, seed)
    writer.close(lambda tracker: tracker.describe("done"), lambda left: None)
    assert not writer.fault, writer.fault
"""
    names = ("one", "two")
    command = [sys.executable, "-W", "ignore", "-c", code]
    both = [subprocess.Popen([*command, name], stdout=subprocess.PIPE, text=True) for name in names]
    assert [process.communicate(timeout=LONGEST)[0] for process in both] == ["", ""]
    assert [process.returncode for process in both] == [0, 0]
    for name in names:
        tracker = Tracker(uri, name)
        for seed in range(4):
            made = record(seed)
            assert_whole_once(tracker, made)
            assert len(attempts(tracker, made)) == 1
    fault("two experiments at once on one new store", injected=1, survived=1, lost=0, doubled=0)
