"""What comes from elsewhere stays text: it is not run, leads out of no folder, and no secret is told on."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench import tracking
from bench.errors import BenchError

ROOT = Path(__file__).parents[1]
STORE = "sqlite:////somewhere/mlflow.db"
PASSWORD = "correct horse battery"  # noqa: S105
EVERYWHERE = "0.0.0.0"  # noqa: S104


# The UI


@pytest.fixture(autouse=True)
def no_login(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "MLFLOW_AUTH_ADMIN_PASSWORD",
        "MLFLOW_AUTH_CONFIG_PATH",
        "MLFLOW_FLASK_SERVER_SECRET_KEY",
        "MLFLOW_TRACKING_URI",
    ):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_this_machine_needs_no_login(host: str) -> None:
    command = tracking.ui_command(STORE, 5001, host)
    assert command[command.index("--host") + 1] == host
    assert "basic-auth" not in command


@pytest.mark.parametrize(
    "host", [EVERYWHERE, "::", "192.168.1.2", "10.0.0.1", "bench.example", "", "0", "127.1",
             "::ffff:10.0.0.1", "2130706433", "127.0.0.1.example", "localhost.", "\x1b[31m"]
)  # fmt: skip
def test_other_machines_need_a_login(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BenchError, match="set MLFLOW_AUTH_ADMIN_PASSWORD") as caught:
        tracking.ui_command(STORE, 5001, host)
    assert str(caught.value).isprintable()
    monkeypatch.setenv("MLFLOW_AUTH_ADMIN_PASSWORD", PASSWORD)
    command = tracking.ui_command(STORE, 5001, host)
    assert command[command.index("--app-name") + 1] == "basic-auth"
    assert PASSWORD not in command


def test_a_login_that_mlflow_would_refuse_is_refused_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_AUTH_ADMIN_PASSWORD", "short")
    with pytest.raises(BenchError, match=r"has 5 characters; MLflow takes 12") as caught:
        tracking.ui_command(STORE, 5001)
    assert "short" not in str(caught.value)
    monkeypatch.setenv("MLFLOW_AUTH_ADMIN_PASSWORD", PASSWORD)
    monkeypatch.setattr("bench.tracking.ui.find_spec", lambda _: None)
    with pytest.raises(BenchError, match=r"pip install 'mlflow\[auth\]'"):
        tracking.ui_command(STORE, 5001, EVERYWHERE)


def test_forms_are_signed_with_a_new_key_or_the_one_given(monkeypatch: pytest.MonkeyPatch) -> None:
    key = "MLFLOW_FLASK_SERVER_SECRET_KEY"
    assert len({tracking.ui_environment(STORE)[key] for _ in range(5)}) == 5
    monkeypatch.setenv(key, "mine")
    assert tracking.ui_environment(STORE)[key] == "mine"


def test_the_address_is_one_a_browser_here_can_open() -> None:
    assert tracking.ui_address(EVERYWHERE, 5000) == tracking.ui_address("::", 5000) == "http://127.0.0.1:5000"
    assert tracking.ui_address("::1", 80) == "http://[::1]:80"
    assert tracking.ui_address("bench.example", 80) == "http://bench.example:80"


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The UI on an empty store, behind a login, as `bench ui --host 0.0.0.0` starts it."""
    monkeypatch.setenv("MLFLOW_AUTH_ADMIN_PASSWORD", PASSWORD)
    store = f"sqlite:///{tmp_path}/store.db"
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(
            tracking.ui_command(store, port, EVERYWHERE), env=tracking.ui_environment(store), cwd=tmp_path,
            stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
    try:
        address = tracking.ui_address(EVERYWHERE, port)
        deadline = time.monotonic() + 120
        while status(address, "/health") is None:
            assert process.poll() is None, (tmp_path / "log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.3)
        yield address
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def status(address: str, path: str, user: str = "", host: str = "") -> int | None:
    """The status of a GET, with a user's name and password and another Host where given; None: no answer."""
    headers = {"Authorization": f"Basic {b64encode(user.encode()).decode()}"} if user else {}
    headers |= {"Host": host} if host else {}
    request = urllib.request.Request(address + path, headers=headers)  # noqa: S310
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=10) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return None


def test_a_login_guards_every_page_and_every_run(served: str) -> None:
    search = "/api/2.0/mlflow/experiments/search?max_results=5"
    for path in ("/", search, search.replace("/api", "/ajax-api"), "/api/2.0/mlflow-artifacts/artifacts"):
        assert status(served, path) == 401
        assert status(served, path, f"admin:{PASSWORD}x") == 401
        assert status(served, path, f"admin:{PASSWORD}") == 200
    assert status(served, "/", f"admin:{PASSWORD}", "evil.example") == 403, "a name that was not allowed"
