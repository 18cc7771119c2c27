"""MLflow's UI on a store: the command that serves it, here or behind a login, and links to its pages."""

from __future__ import annotations

import ipaddress
import json
import os
import secrets
import sys
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from urllib.parse import quote

from bench.errors import BenchError, printable, redacted
from bench.tracking import views
from bench.tracking.store import MARK, connect, is_server, reason, search

PASSWORD = "MLFLOW_AUTH_ADMIN_PASSWORD"  # noqa: S105  the name of a variable
CONFIG = "MLFLOW_AUTH_CONFIG_PATH"  # MLflow's file that says where accounts are kept, and more
SECRET = "MLFLOW_FLASK_SERVER_SECRET_KEY"  # noqa: S105  the name of a variable
SHORTEST = 12  # characters of a password that MLflow accepts
COMPARED = 30  # runs on the compare page at most: a link has to fit a browser's address bar
FINISHED = "tags.`bench.attempt` = 'latest' AND tags.outcome = 'finished'"


def ui_command(uri: str, port: int, host: str = "127.0.0.1") -> list[str]:
    """Give the command that shows a database store in MLflow's UI; run it with `ui_environment(uri)`.

    Raises BenchError for a server, which has a UI already; for an address that others can reach without a
    login; and for a login that MLflow would not start with.
    """
    if is_server(uri):
        raise BenchError(f"{redacted(uri)} is a server with a UI of its own; open it in a browser")
    password = os.environ.get(PASSWORD, "")
    login = bool(password or os.environ.get(CONFIG))
    if password and len(password) < SHORTEST:
        raise BenchError(f"{PASSWORD} has {len(password)} characters; MLflow takes {SHORTEST} or more")
    if login and find_spec("flask_wtf") is None:
        raise BenchError(
            f"{PASSWORD} is set, but MLflow's login is not installed; pip install 'mlflow[auth]'"
        )
    if not (login or _loopback(host)):
        raise BenchError(
            f"--host {printable(host)} lets anyone who reaches it read and delete runs; set {PASSWORD} "
            f"({SHORTEST} characters or more) for a login, or keep 127.0.0.1 and forward the port with ssh -L"
        )
    command = [sys.executable, "-m", "mlflow", "server", *(["--app-name", "basic-auth"] if login else [])]
    command += ["--host", host, "--port", str(port), "--workers", "1"]
    # A password on a command line is there for every user of the machine to read.
    return command if redacted(uri) != uri else [*command, "--backend-store-uri", uri]


def ui_environment(uri: str) -> dict[str, str]:
    """Give the environment for `ui_command`: the store's address, no telemetry, no job runner."""
    return {
        SECRET: secrets.token_hex(32),  # signs MLflow's forms; new with each start
        **os.environ,
        "MLFLOW_BACKEND_STORE_URI": uri,
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_LOGGING_LEVEL": "WARNING",
    }


def ui_address(host: str, port: int) -> str:
    """Give the address at which a browser on this machine finds the UI."""
    if host in ("0.0.0.0", "::"):  # noqa: S104  every address of the machine, this one among them
        host = "127.0.0.1"
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _loopback(host: str) -> bool:
    """Tell whether only this machine reaches the address; a name could mean anything."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def links(
    base: str, experiment_id: str, saved: Mapping[str, str] | None = None, runs: Sequence[str] = ()
) -> dict[str, str]:
    """Link to an experiment in the UI at `base`, its views, and the comparison of `runs` (MLflow ids).

    `saved` are the views that the experiment's tags hold, name by key.
    """
    page = f"{base.rstrip('/')}/#/experiments/{experiment_id}/runs"
    found = {"experiment": page}
    for key, name in (saved or {}).items():
        found[name] = f"{page}?viewStateShareKey={key}&compareRunsMode=CHART"
    if runs:
        ids, within = quote(json.dumps(list(runs))), quote(json.dumps([experiment_id]))
        found["compare"] = f"{base.rstrip('/')}/#/compare-runs?runs={ids}&experiments={within}"
    return found


def pages(uri: str, base: str) -> Iterator[tuple[str, str]]:
    """Give name and link of each page of the experiments that bench wrote, the latest experiment first.

    The comparison is of each variant's best seed. Raises BenchError when the store cannot be read.
    """
    client = connect(uri)
    try:
        for experiment in client.search_experiments(order_by=["last_update_time DESC"]):
            if MARK in experiment.tags:
                best: dict[str, str] = {}
                for run in search(
                    client, experiment.experiment_id, FINISHED, ["metrics.elbo_bernoulli DESC"]
                ):
                    best.setdefault(run.data.tags.get("variant", ""), str(run.info.run_id))
                compared = [*best.values()][:COMPARED] if len(best) > 1 else []
                for name, link in links(
                    base, experiment.experiment_id, views.saved(experiment.tags), compared
                ).items():
                    yield f"{experiment.name} · {name}", link
    except Exception as error:
        raise BenchError(f"cannot read {redacted(uri)}: {reason(error)}") from None
