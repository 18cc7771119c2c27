"""What comes from elsewhere stays text: it is not run, leads out of no folder, and no secret is told on."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
import threading
import tomllib
from base64 import b64encode
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import chain
from pathlib import Path

import pytest
import requests
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from servers import free_port, healthy, service

from bench import tracking
from bench.errors import BenchError

ROOT = Path(__file__).parents[1]
STORE = "sqlite:////somewhere/mlflow.db"
PASSWORD = "correct horse battery"  # noqa: S105
EVERYWHERE = "0.0.0.0"  # noqa: S104


@pytest.fixture(autouse=True)
def no_login(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AUTH_ADMIN_PASSWORD", "AUTH_CONFIG_PATH", "FLASK_SERVER_SECRET_KEY", "TRACKING_URI"):
        monkeypatch.delenv(f"MLFLOW_{name}", raising=False)


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
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stored: None) -> Iterator[str]:
    """The UI on an empty store, behind a login, as `bench ui --host 0.0.0.0` starts it."""
    monkeypatch.setenv("MLFLOW_AUTH_ADMIN_PASSWORD", PASSWORD)
    store, port = f"sqlite:///{tmp_path}/mlflow.db", free_port()
    address = tracking.ui_address(EVERYWHERE, port)
    command = tracking.ui_command(store, port, EVERYWHERE)
    with service(command, tmp_path, healthy(address), tracking.ui_environment(store)):
        yield address


def status(address: str, path: str, user: str = "", host: str = "") -> int:
    """The status of a GET, with a user's name and password and another Host where given."""
    headers = {"Authorization": f"Basic {b64encode(user.encode()).decode()}"} if user else {}
    headers |= {"Host": host} if host else {}
    return requests.get(address + path, headers=headers, timeout=10).status_code


def test_a_login_guards_every_page_and_every_run(served: str) -> None:
    search = "/api/2.0/mlflow/experiments/search?max_results=5"
    for path in ("/", search, search.replace("/api", "/ajax-api"), "/api/2.0/mlflow-artifacts/artifacts"):
        assert status(served, path) == 401
        assert status(served, path, f"admin:{PASSWORD}x") == 401
        assert status(served, path, f"admin:{PASSWORD}") == 200
    assert status(served, "/", f"admin:{PASSWORD}", "evil.example") == 403, "a name that was not allowed"


# What is downloaded


LOCK = (ROOT / "requirements.lock").read_text(encoding="utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def test_every_package_is_pinned_and_has_its_checksums() -> None:
    entries = re.split(r"\n(?=[A-Za-z0-9])", re.sub(r"^ *#.*\n", "", LOCK, flags=re.MULTILINE).strip())
    assert len(entries) > 100
    for entry in entries:
        first, *rest = entry.split("\n")
        assert re.fullmatch(r"[a-z0-9][a-z0-9.-]*==[^\s;]+( ; [^#@]+)? \\", first), first
        assert rest
        assert all(re.fullmatch(r"    --hash=sha256:[0-9a-f]{64}( \\)?", line) for line in rest), first


def test_the_lock_gives_what_the_project_asks_for() -> None:
    pins = dict(re.findall(r"^([a-z0-9.-]+)==(\S+)", LOCK, re.MULTILINE))
    extras = PROJECT["project"]["optional-dependencies"]
    asked = [*map(Requirement, chain(PROJECT["project"]["dependencies"], *extras.values()))]
    assert len(asked) > 20
    for requirement in asked:
        if requirement.name != PROJECT["project"]["name"]:
            name = canonicalize_name(requirement.name)
            assert requirement.specifier.contains(pins[name]), f"{requirement}: make lock"


def test_the_set_up_takes_nothing_without_a_checksum() -> None:
    installs = re.findall(r"pip install (.*)", (ROOT / "Makefile").read_text(encoding="utf-8"))
    assert [line for line in installs if "--require-hashes" not in line] == [
        "--quiet --disable-pip-version-check --no-deps --no-build-isolation -e .",  # bench itself
        "--quiet --disable-pip-version-check uv",  # the tool of `make lock`
    ]


class Advisories(BaseHTTPRequestHandler):
    """A vulnerability database that knows one flaw, of numpy."""

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        flawed = {"name": "numpy", "ecosystem": "PyPI"}
        self.send_response(200)
        self.end_headers()
        found = [
            {"vulns": [{"id": "X-1"}]} if flawed.items() <= q["package"].items() else {}
            for q in body["queries"]
        ]
        answer = {"results": found}
        self.wfile.write(json.dumps(answer).encode())

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.mark.parametrize(
    ("pins", "project", "status", "told"),
    [
        ("numpy==1.0 \\\n    --hash=sha256:0\nscipy==2.0", "", 1, "audit: numpy 1.0: X-1 see"),
        ("scipy==2.0 ; x", "", 0, "audit: 1 packages, 0 known"),
        ("numpy==1.0", "[tool.audit.accepted]\nX-1 = 'not called here'", 0, "numpy 1.0: X-1 not called here"),
        ("numpy==1.0", None, 0, "audit: not checked: no answer from the vulnerability database (URLError)\n"),
    ],
)
def test_a_known_vulnerability_is_red_unless_accepted_with_a_reason(
    tmp_path: Path, pins: str, project: str | None, status: int, told: str
) -> None:
    """What `make check` runs, on another lock and another database, or where none answers."""
    (tmp_path / "lock").write_text(pins)
    (tmp_path / "project").write_text(f"[tool.x]\n{project or ''}")
    environment = {k: v for k, v in os.environ.items() if "proxy" not in k.lower()}
    with ThreadingHTTPServer(("127.0.0.1", 0), Advisories) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        port = 9 if project is None else server.server_address[1]
        done = subprocess.run(
            [sys.executable, ROOT / ".ci/audit.py", "--lock", tmp_path / "lock",
             "--project", tmp_path / "project", "--service", f"http://127.0.0.1:{port}/"],
            capture_output=True, text=True, check=False, env=environment,
        )  # fmt: skip
        server.shutdown()
    assert (done.returncode, done.stderr) == (status, "")
    assert told in done.stdout


# What our own code may call


UNSAFE = {
    "pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve", "joblib", "jsonpickle", "xml",
    "telnetlib", "ftplib",
}  # fmt: skip
CALLS = {
    "eval", "exec", "compile", "__import__", "os.system", "os.popen", "yaml.load", "yaml.load_all",
    "yaml.full_load", "yaml.unsafe_load", "yaml.Loader", "yaml.FullLoader", "yaml.UnsafeLoader",
    "tempfile.mktemp", "hashlib.new",
}  # fmt: skip
ALLOWED = {("parts.py", "eval")}  # annotations of our own source, never a user's text
SOURCES = sorted((ROOT / "bench").rglob("*.py"))


def unsafe(tree: ast.AST) -> Iterator[str]:
    """What a module imports or calls that runs what it reads."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] in UNSAFE)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in UNSAFE:
            yield str(node.module)
        elif isinstance(node, ast.Attribute) and ast.unparse(node) in CALLS:
            yield ast.unparse(node)
        elif isinstance(node, ast.Call):
            named = ast.unparse(node.func)
            keywords = {k.arg: ast.unparse(k.value) for k in node.keywords}
            if named in CALLS:
                yield named
            if named == "torch.load" and keywords.get("weights_only") != "True":
                yield "torch.load without weights_only=True"
            if keywords.get("shell", "False") != "False" or keywords.get("allow_pickle", "False") != "False":
                yield f"{named} with shell or allow_pickle"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_nothing_runs_what_it_reads(path: Path) -> None:
    found = set(unsafe(ast.parse(path.read_text(encoding="utf-8"))))
    assert {name for name in found if (path.name, name) not in ALLOWED} == set()


@pytest.mark.parametrize(
    "code",
    ["import pickle", "from joblib import load", "yaml.load(x)", "yaml.parse(x, Loader=yaml.Loader)",
     "eval(x)", "torch.load(f)", "torch.load(f, weights_only=False)", "subprocess.run(x, shell=True)",
     "os.system(x)", "np.load(f, allow_pickle=True)"],
)  # fmt: skip
def test_what_runs_what_it_reads_is_seen(code: str) -> None:
    assert list(unsafe(ast.parse(code)))
    harmless = "torch.load(f, weights_only=True); yaml.safe_load(x); run(x, shell=False)"
    assert not list(unsafe(ast.parse(harmless)))
