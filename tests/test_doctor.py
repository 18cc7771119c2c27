"""The doctor: a mismatched pair, a store that cannot be written to and missing data are each told apart."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from bench import doctor
from bench.errors import BenchError


def install(monkeypatch: pytest.MonkeyPatch, torch: str, torchvision: str, requirement: str) -> None:
    """Pretend that these versions are installed."""
    versions = {"torch": torch, "torchvision": torchvision}
    monkeypatch.setattr(doctor, "version", lambda name: versions.get(name, "99.0"))
    lines = ["numpy", requirement, "torch-nothing==9 ; extra == 'x'"]
    monkeypatch.setattr(doctor, "requires", {"torchvision": lines, "bench-vae": ["mlflow>=3"]}.get)


@pytest.mark.parametrize(
    ("torch", "requirement"),
    [
        ("2.11.0", "torch==2.11.0"),
        ("2.11.0+cu130", "torch==2.11.0"),
        ("2.13.0+cpu", "torch (==2.13.0)"),
        ("2.15.0+cu132", "torch (>=2.14.0)"),
        ("2.14.0", "torch<2.16,>=2.14"),
        ("2.16.0.dev20270101+cpu", "torch>=2.14"),
    ],
)
def test_a_pair_built_for_each_other_passes(
    monkeypatch: pytest.MonkeyPatch, torch: str, requirement: str
) -> None:
    install(monkeypatch, torch, "0.99.0", requirement)
    doctor.require_matching_torch()


@pytest.mark.parametrize(
    ("torch", "requirement"),
    [("2.12.0", "torch==2.11.0"), ("2.11.1+cu130", "torch==2.11.0"), ("2.13.0", "torch (>=2.14.0)")],
)
def test_a_mismatched_pair_is_refused(monkeypatch: pytest.MonkeyPatch, torch: str, requirement: str) -> None:
    install(monkeypatch, torch, "0.26.0", requirement)
    with pytest.raises(BenchError) as error:
        doctor.require_matching_torch()
    assert torch in str(error.value)
    assert "torchvision 0.26.0 needs torch" in str(error.value)
    assert "make setup" in str(error.value)
    findings = doctor.check(None, "sqlite:///mlflow.db")
    assert "torch" in [f.name for f in findings if f.required and not f.ok]
    assert not any(f.name.startswith("data") for f in findings), "a mismatched pair is not imported"


def test_the_installed_pair_matches() -> None:
    doctor.require_matching_torch()


def test_a_machine_with_digits_and_a_folder_lacks_nothing_that_is_required(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("BENCH_DATA_DIR", raising=False)
    findings = {f.name: f for f in doctor.check(tmp_path, f"sqlite:///{tmp_path}/mlflow.db")}
    assert not [f for f in findings.values() if f.required and not f.ok and f.name != "disk"]
    assert "1,437 + 360 images" in findings["data digits"].detail
    assert not findings["data mnist"].ok
    assert not findings["data mnist"].required
    assert not list(tmp_path.iterdir()), "looking creates nothing"


def test_a_damaged_file_is_no_mere_absence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (tmp_path / "MNIST" / "raw").mkdir(parents=True)
    (tmp_path / "MNIST" / "raw" / "train-images-idx3-ubyte").write_bytes(b"junk")
    finding = next(f for f in doctor._data(tmp_path) if f.name == "data mnist")
    assert (finding.ok, finding.required) == (False, True)


@pytest.mark.parametrize(
    ("uri", "ok"),
    [
        ("sqlite:///{folder}/mlflow.db", True),
        ("sqlite:///{folder}/absent/mlflow.db", False),
        ("file:{folder}/mlruns", False),
        ("mlruns", False),
        ("http://127.0.0.1:9", False),
        ("http://[", False),
        ("postgresql://host/base", True),
    ],
)
def test_a_store(tmp_path: Path, uri: str, ok: bool) -> None:
    finding = doctor._store(uri.format(folder=tmp_path))
    assert finding.ok == ok
    assert finding.detail


class Health(BaseHTTPRequestHandler):
    """A server of which only /health answers."""

    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/health" else 404)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), Health) as http:
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{http.server_port}"
        http.shutdown()
        thread.join()


@pytest.mark.parametrize(("tail", "ok"), [("", True), ("/", True), ("/elsewhere", False)])
def test_a_server_is_asked_for_its_health(server: str, tail: str, ok: bool) -> None:
    assert doctor._store(server + tail).ok == ok
