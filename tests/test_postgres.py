"""The store of a team: `mlflow server` with a login, on PostgreSQL and a folder of artifacts."""

from __future__ import annotations

import contextlib
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

import pytest
import requests
from forked import bench
from servers import free_port, mlflow, service
from test_cli import SPEC as TINY
from tracked import record, run_folder

from bench.errors import BenchError
from bench.tracking import Attempt, Tracker

# Debian keeps the server's programs off the path; the newest version counts
PATHS = [*sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True), *os.get_exec_path()]
INITDB = next((found for path in PATHS if (found := shutil.which("initdb", path=str(path)))), None)
ABSENT = [name for name in ("psycopg", "flask_wtf") if find_spec(name) is None]
ABSENT += [] if INITDB else ["PostgreSQL's initdb (Debian: postgresql)"]
pytestmark = [
    pytest.mark.postgres,
    pytest.mark.around,
    pytest.mark.xdist_group("postgres"),
    pytest.mark.skipif(bool(ABSENT), reason=f"not installed: {', '.join(ABSENT)}"),
]


@dataclass
class Server:
    """An MLflow server, whoever may log in, and its artifacts."""

    uri: str
    artifacts: Path
    admin: tuple[str, str]
    user: tuple[str, str] = field(default_factory=lambda: ("ada", secrets.token_urlsafe(12)))

    def ask(self, who: tuple[str, str] | None, path: str, **body: object) -> requests.Response:
        """One request to the API."""
        return requests.post(f"{self.uri}/api/2.0/mlflow/{path}", json=body, auth=who, timeout=30)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """PostgreSQL and MLflow on loopback, with an ordinary user, until the tests are done."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-postgres-")))
        database = stack.enter_context(postgres(folder / "postgres"))
        admin, config = ("admin", secrets.token_hex(8)), folder / "auth.ini"
        config.write_text(
            "[mlflow]\ndefault_permission = READ\nadmin_username = admin\nauth_cache_ttl_seconds = 60\n"
            f"authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
            f"database_uri = {database}/logins\n"
        )
        environment = {
            "MLFLOW_AUTH_CONFIG_PATH": str(config),
            "MLFLOW_AUTH_ADMIN_PASSWORD": admin[1],
            "MLFLOW_FLASK_SERVER_SECRET_KEY": secrets.token_hex(16),
            "MLFLOW_BACKEND_STORE_URI": f"{database}/mlflow",
        }
        words = ("--app-name", "basic-auth")
        uri = stack.enter_context(mlflow(folder, free_port(), *words, **environment))
        made = Server(uri, folder / "artifacts", admin)
        created = made.ask(made.admin, "users/create", username=made.user[0], password=made.user[1])
        assert created.ok, created.text
        yield made


@contextlib.contextmanager
def postgres(folder: Path) -> Iterator[str]:
    """A server of its own with the databases `mlflow` and `logins`; gives its address with a password."""
    import psycopg

    password, port = secrets.token_hex(8), free_port()
    folder.mkdir()
    (folder / "password").write_text(password)
    run_as: list[str] = []
    if os.getuid() == 0:  # which PostgreSQL refuses
        user = next(name for name in ("postgres", "nobody") if name in {u.pw_name for u in pwd.getpwall()})
        run_as = ["runuser", "-u", user, "--"]
        folder.parent.chmod(0o711)
        for path in (folder, folder / "password"):
            shutil.chown(path, user)
    data, programs = folder / "data", Path(str(INITDB)).resolve().parent
    subprocess.run(
        [*run_as, programs / "initdb", "-D", data, "-U", "mlflow", "-A", "scram-sha-256", "--no-sync",
         "--no-locale", "-E", "UTF8", f"--pwfile={folder / 'password'}"],
        cwd=folder, check=True, capture_output=True,
    )  # fmt: skip
    settings = {"listen_addresses": "127.0.0.1", "port": port, "unix_socket_directories": "", "fsync": "off"}
    options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
    command = [*run_as, str(programs / "postgres"), "-D", str(data), *options]
    address = f"postgresql://mlflow:{password}@127.0.0.1:{port}"

    def there() -> None:
        psycopg.connect(f"{address}/postgres").close()

    with service(command, folder, there, stop=(signal.SIGINT, signal.SIGKILL)):
        connection = psycopg.connect(f"{address}/postgres")
        connection.autocommit = True
        with connection.cursor() as cursor:
            for name in ("mlflow", "logins"):
                cursor.execute(f"CREATE DATABASE {name}")
        connection.close()
        yield address


def check_secret(secret: str, *folders: Path) -> None:
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    assert len(files) > 5
    assert not [path for path in files if secret.encode() in path.read_bytes()]


def test_a_matrix_reaches_the_team(server: Server, tmp_path: Path) -> None:
    user, password = server.user
    login = {"MLFLOW_TRACKING_USERNAME": user, "MLFLOW_TRACKING_PASSWORD": password}
    (tmp_path / "team.yaml").write_text(TINY.replace("seeds: 2", "seeds: 1"))
    words = ("--tracking-uri", server.uri, "--only", "small-gaussian", "--epochs", "1")
    done = bench("run", "team.yaml", *words, cwd=tmp_path, **login)
    assert done.returncode == 0, done.stderr
    assert "1 finished" in done.stdout
    assert "warning" not in done.stderr
    for secret in (password, server.admin[1]):
        assert secret not in done.stdout + done.stderr
        check_secret(secret, tmp_path, server.artifacts)

    (experiment,) = server.ask(
        server.user, "experiments/search", max_results=9, filter="name LIKE 'team%'"
    ).json()["experiments"]
    runs = server.ask(server.user, "runs/search", experiment_ids=[experiment["experiment_id"]]).json()["runs"]
    (run,) = [run for run in runs if any(tag["key"] == "bench.id" for tag in run["data"]["tags"])]
    assert run["info"]["status"] == "FINISHED"
    assert {"elbo_bernoulli", "test/elbo"} <= {metric["key"] for metric in run["data"]["metrics"]}
    (folder,) = server.artifacts.glob(f"*/{run['info']['run_id']}/artifacts")
    assert {path.name for path in folder.iterdir()} == {
        "images", "pictures", "record.json", "weights.safetensors"
    }  # fmt: skip
    (weights,) = (tmp_path / "reports").glob("**/weights.safetensors")
    assert (folder / "weights.safetensors").read_bytes() == weights.read_bytes()
    assert [*(folder / "images").glob("samples*.png")]


def test_who_does_not_log_in_is_refused(server: Server) -> None:
    assert server.ask(None, "experiments/search", max_results=1).status_code == 401
    assert server.ask((server.user[0], "guessed"), "experiments/search", max_results=1).status_code == 401
    assert server.ask(server.user, "experiments/search", max_results=1).status_code == 200
    told = rf"^cannot track runs in {server.uri}: .*(401|authenticat)"
    with pytest.raises(BenchError, match=told) as caught:
        Tracker(server.uri, "team")
    assert "\n" not in str(caught.value)


def test_a_login_in_the_address_works_and_is_shown_nowhere(server: Server, tmp_path: Path) -> None:
    user, password = server.user
    uri = server.uri.replace("//", f"//{user}:{password}@")
    made = record() | {"command": f"bench run team.yaml --tracking-uri {uri}", "reason": f"{uri} is slow"}
    tracker = Tracker(uri, "with a login")
    run = tracker.deliver(made, Attempt(run_folder(tmp_path, made).path))
    assert password not in tracker.page
    told = server.ask(server.user, "runs/search", experiment_ids=[tracker.experiment_id])
    assert run in told.text
    assert password not in told.text
