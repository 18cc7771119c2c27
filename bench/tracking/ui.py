"""MLflow's UI on a database store: on this machine alone, or behind a login for others."""

from __future__ import annotations

import ipaddress
import os
import secrets
import sys
from importlib.util import find_spec

from bench.errors import BenchError, printable, redacted
from bench.tracking.store import is_server

PASSWORD = "MLFLOW_AUTH_ADMIN_PASSWORD"  # noqa: S105  the name of a variable
CONFIG = "MLFLOW_AUTH_CONFIG_PATH"  # MLflow's file that says where accounts are kept, and more
SECRET = "MLFLOW_FLASK_SERVER_SECRET_KEY"  # noqa: S105  the name of a variable
SHORTEST = 12  # characters of a password that MLflow accepts


def ui_command(uri: str, port: int, host: str = "127.0.0.1") -> list[str]:
    """The command that shows a database store in MLflow's UI; run it with `ui_environment(uri)`.

    Raises BenchError for a server, which has a UI already; for an address that others can reach without a
    login; and for a login that MLflow would not start with.
    """
    if is_server(uri):
        raise BenchError(f"{redacted(uri)} is a server with a UI of its own; open it in a browser")
    login = with_login()
    if not (login or _loopback(host)):
        raise BenchError(
            f"--host {printable(host)} lets anyone who reaches it read and delete runs; set {PASSWORD} "
            f"({SHORTEST} characters or more) for a login, or keep 127.0.0.1 and forward the port with ssh -L"
        )
    app = ["--app-name", "basic-auth"] if login else []
    command = [sys.executable, "-m", "mlflow", "server", *app, "--host", host, "--port", str(port)]
    command += ["--workers", "1"]
    # A password on a command line is there for every user of the machine to read.
    return command if redacted(uri) != uri else [*command, "--backend-store-uri", uri]


def ui_environment(uri: str) -> dict[str, str]:
    """The environment for `ui_command`: the store's address, no telemetry, no job runner."""
    return {
        # It signs what MLflow's forms send; new with each start, as nothing has to outlast one
        SECRET: secrets.token_hex(32),
        **os.environ,
        "MLFLOW_BACKEND_STORE_URI": uri,
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_LOGGING_LEVEL": "WARNING",
    }


def ui_address(host: str, port: int) -> str:
    """Where a browser on this machine finds the UI."""
    if host in ("0.0.0.0", "::"):  # noqa: S104  every address of the machine, this one among them
        host = "127.0.0.1"
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def with_login() -> bool:
    """Whether the UI asks for a name and a password; raises BenchError where MLflow could not start it so."""
    password = os.environ.get(PASSWORD, "")
    if not (password or os.environ.get(CONFIG)):
        return False
    if password and len(password) < SHORTEST:
        raise BenchError(f"{PASSWORD} has {len(password)} characters; MLflow takes {SHORTEST} or more")
    if find_spec("flask_wtf") is None:
        raise BenchError(
            f"{PASSWORD} is set, but MLflow's login is not installed; pip install 'mlflow[auth]'"
        )
    return True


def _loopback(host: str) -> bool:
    """Whether only this machine reaches the address; a name that could mean anything does not count."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
