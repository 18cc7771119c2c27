"""One thread a test process: tests run beside each other, as the runs of a matrix do."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from playwright.sync_api import Browser

# The same examples every time, at whatever speed: a test that fails is then the change's doing
settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch or BLAS is first imported

# In the background of a script Ctrl-C is ignored, which every process started here would inherit
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

COUNTS = ("injected", "survived", "lost", "doubled")
# Files that take longest, begun first: at the end, one of them would keep a single process busy
LONG = ("test_cli", "test_verify", "test_figures", "test_published", "test_checkpoint", "test_budget",
        "test_wheel", "test_cluster", "test_browser")  # fmt: skip
BOUND = 1200  # seconds of a test that injects faults: a backstop, what it waits for has bounds of its own


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the long files; the order is else that of their names."""
    items.sort(key=lambda item: item.path.stem not in LONG)


@pytest.fixture(autouse=True)
def bounded(request: pytest.FixtureRequest) -> Iterator[None]:
    """No fault makes a test wait for ever: TimeoutError where it stands after BOUND seconds."""

    def over(_number: int, _frame: FrameType | None) -> None:
        raise TimeoutError(f"not over after {BOUND} s")

    if request.node.get_closest_marker("faults") is None:
        yield
        return
    before = signal.signal(signal.SIGALRM, over)
    signal.alarm(BOUND)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture
def fault(record_property: Callable[[str, object], None]) -> Callable[..., None]:
    """Notes, for the closing table, a kind of fault, how often it was injected and what came of it."""

    def note(kind: str, **counts: int) -> None:
        record_property("fault", json.dumps({"kind": kind} | counts))

    return note


@pytest.fixture
def double() -> Iterator[None]:
    """Tensors are made in double precision, so that tests of formulas may be exact."""
    import torch

    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MLflow database with its tables, to be copied: made once a session, since that takes seconds."""
    from bench.tracking.store import connect

    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:  # the processes of a session have folders beside each other
        shared = shared.parent
    file = shared / "empty" / "mlflow.db"
    connect(f"sqlite:///{file}")
    return file


@pytest.fixture(scope="session")
def uri(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> str:
    """An MLflow store of sqlite with its tables, for all tests: each takes an experiment of its own name."""
    return f"sqlite:///{shutil.copy(empty_store, tmp_path_factory.mktemp('a store'))}"


@pytest.fixture
def stored(tmp_path: Path, empty_store: Path) -> None:
    """The test's folder holds an MLflow store with its tables already."""
    shutil.copy(empty_store, tmp_path)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Headless Chromium: the one that BENCH_CHROMIUM names, or that is on the PATH."""
    names = ("chromium", "chromium-browser", "google-chrome")
    path = os.environ.get("BENCH_CHROMIUM") or next(filter(None, map(shutil.which, names)), None)
    if path is None:
        pytest.skip("no Chromium on the PATH (BENCH_CHROMIUM names another)")
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    os.environ.setdefault("PW_TEST_SCREENSHOT_NO_FONTS_READY", "1")
    quiet = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
    with sync_api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=path, args=quiet)
        yield opened
        opened.close()


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """The closing table of the fault suite: what was injected, survived, and records lost and doubled."""
    totals: dict[str, Counter[str]] = {}
    for reports in terminalreporter.stats.values():
        for report in reports:
            for name, value in getattr(report, "user_properties", []):
                if name == "fault" and report.when == "call":
                    noted = json.loads(value)
                    totals.setdefault(noted.pop("kind"), Counter()).update(noted)
    if not totals:
        return
    terminalreporter.section("faults")
    lines = [*totals.items(), ("all", sum(totals.values(), Counter()))]
    width = max(len(kind) for kind, _ in lines)
    terminalreporter.write_line("  ".join([" " * width, *COUNTS]))
    for kind, counts in lines:
        cells = [str(counts[name]).rjust(len(name)) for name in COUNTS]
        terminalreporter.write_line("  ".join([kind.ljust(width), *cells]))
