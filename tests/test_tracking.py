"""A run in MLflow is whole, found by its id, and never the reason that training stops. Real sqlite stores."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tracked import artifacts, curve, record, run_folder, start, steps

from bench import tracking
from bench.errors import BenchError
from bench.store.records import RunFolder
from bench.tracking import Tracker, TrackingError, entries, images, owner, store, views

pytestmark = [
    # Third parties' own deprecations, raised while MLflow loads and builds its tables.
    pytest.mark.filterwarnings("ignore::DeprecationWarning:mlflow"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:pydantic"),
    pytest.mark.filterwarnings("ignore:.*loader strategy is deprecated"),
]


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('a store')}/mlflow.db"


@pytest.fixture
def tracker(uri: str, request: pytest.FixtureRequest, tmp_path: Path) -> Tracker:
    return Tracker(uri, request.node.name, reports=tmp_path)


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return run_folder(tmp_path, record())


def test_a_run_from_start_to_finish(tracker: Tracker, folder: RunFolder) -> None:
    made = record()
    run = start(tracker, made)
    for row in made["curves"]:
        tracker.epoch(run, row["epoch"], row)
        tracker.epoch(run, row["epoch"], row)  # a caller that retries
    tracker.image(run, folder.pictures / "samples-epoch-005.png", "samples", 5)
    tracker.finish(run, made, folder.path)

    stored = tracker._client.get_run(run)
    assert (stored.info.status, stored.info.run_name) == ("FINISHED", "mlp · seed 0")
    params, metrics, tags = stored.data.params, stored.data.metrics, stored.data.tags
    assert (params["encoder"], params["encoder.hidden"]) == ("mlp", "[512, 256]")
    assert params["prior"] == "null"
    assert (params["variant"], params["seed"], params["option119"]) == ("mlp", "0", "119")
    assert len(params["note"]) == 6000
    assert steps(tracker, run, "test/elbo") == [1, 2, 3, 4, 5]
    assert steps(tracker, run, "time/total_seconds") == [1, 2, 3, 4, 5]
    assert metrics["time/total_seconds"] == 2.5
    assert steps(tracker, run, "elbo_bernoulli") == [0], "final numbers have no step"
    assert metrics["time/evaluation_seconds"] == 3.5
    assert metrics["monte_carlo_error/log_px_bernoulli"] == 0.01
    assert metrics["diverged"] == 0
    assert not {"elbo_gaussian", "validation/loss"} & set(metrics), (
        "what is missing is not logged as a number"
    )
    assert tags["mlflow.source.git.commit"] == "abc123"
    assert (tags["git.dirty"], tags["document"], tags["sweep"], tags["device"]) == (
        "true",
        "000",
        "all",
        "cpu",
    )
    assert "secret" not in json.dumps(tags)
    assert "bench run all.yaml" in tags["mlflow.note.content"]
    assert artifacts(tracker, run) == ["images", "pictures", "record.json", "weights.safetensors"]
    assert artifacts(tracker, run, "pictures") == ["pictures/manifold.png"]
    assert len(artifacts(tracker, run, "images")) == 6, "each picture once, and the UI's copy of it"
    assert set(images.in_store(tracker._client, run).items()) == {
        (("manifold", 5), ""), (("samples", 1), ""), (("samples", 5), ""),
    }  # fmt: skip
    (dataset,) = stored.inputs.dataset_inputs
    assert (dataset.dataset.name, dataset.dataset.digest) == ("digits", "d" * 12)


@pytest.mark.parametrize(
    ("status", "expected"),
    [("finished", "FINISHED"), ("diverged", "FAILED"), ("failed", "FAILED"), ("interrupted", "KILLED")],
)
def test_the_status_follows_the_record(
    tracker: Tracker, folder: RunFolder, status: str, expected: str
) -> None:
    made = record(status=status)
    if status == "diverged":
        made["diverged"] = {"epoch": 3, "term": "kl"}
        made["metrics"]["kl"] = float("inf")  # a bug elsewhere must not become 1.8e308 here
        made["curves"][4]["elbo"] = float("nan")
    run = start(tracker, made)
    if status == "diverged":
        with pytest.raises(TrackingError, match="JSON"):
            tracker.finish(run, made, folder.path)
        made["metrics"].pop("kl")
        made["curves"][4].pop("elbo")
    tracker.finish(run, made, folder.path)
    stored = tracker._client.get_run(run)
    assert stored.info.status == expected
    assert stored.data.metrics.get("diverged") == {"finished": 0, "diverged": 1}.get(status)
    assert tracker.lacking([made]) == []
    assert tracker.lacking([{**made, "finished": "2026-01-02T00:00:00+00:00"}]), "a later attempt is another"
    if status == "diverged":
        assert (stored.data.tags["diverged.epoch"], stored.data.tags["diverged.term"]) == ("3", "kl")
        assert "kl" not in stored.data.metrics
        assert steps(tracker, run, "test/elbo") == [1, 2, 3, 4]


def test_finished_work_is_delivered_once_and_whole(tracker: Tracker, folder: RunFolder) -> None:
    made = record()
    made["curves"] = [curve(epoch) for epoch in range(1, 151)]  # more metrics than a request may hold
    abandoned = start(tracker, made)
    run = tracker.deliver(made, folder.path)
    assert tracker.deliver(made, folder.path) == run != abandoned
    stored = tracker._client.get_run(run)
    assert steps(tracker, run, "test/elbo") == list(range(1, 151))
    assert len(artifacts(tracker, run, "images")) == 6
    assert stored.info.end_time - stored.info.start_time == 10_000
    old = tracker._client.get_run(abandoned)
    assert (old.info.status, old.data.tags["bench.attempt"]) == ("KILLED", "superseded")
    assert stored.data.tags["bench.attempt"] == "latest"


def test_only_what_the_dead_left_running_is_closed(tracker: Tracker, monkeypatch: pytest.MonkeyPatch) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    runs = {}
    for name, changes in {
        "ours": {},
        "dead": {"bench.pid": str(dead.pid), "bench.process": "other"},
        "same number, earlier process": {"bench.process": "other"},
        "living": {
            "bench.pid": str(os.getppid()),
            "bench.begun": owner.begun(os.getppid()),
            "bench.process": "other",
        },
        "living, it does not say since when": {
            "bench.pid": str(os.getppid()),
            "bench.begun": "",
            "bench.process": "other",
        },
        "another machine": {"bench.host": "elsewhere", "bench.pid": str(dead.pid)},
    }.items():
        tags = {**owner.owner_tags(), **changes}
        monkeypatch.setattr(owner, "owner_tags", lambda tags=tags: tags)
        runs[name] = start(tracker, {**record(), "id": name})
        monkeypatch.undo()
    assert tracker.heal() == 2
    status = {name: tracker._client.get_run(run).info.status for name, run in runs.items()}
    assert {name for name, value in status.items() if value == "KILLED"} == {
        "dead",
        "same number, earlier process",
    }
    assert tracker.heal() == 0


def test_the_summary_run_is_one_and_holds_the_report(tracker: Tracker, tmp_path: Path) -> None:
    report = tmp_path / "reports"
    (report / "figures").mkdir(parents=True)
    (report / "report.md").write_text("# first")
    (report / "results.csv").write_text("a,b\n")
    Image.fromarray(np.zeros((300, 300), np.uint8)).save(report / "figures" / "contact-sheet.png")
    run = tracker.summary(report)
    (report / "report.md").write_text("# second")
    assert tracker.summary(report) == run
    assert artifacts(tracker, run) == ["figures", "images", "report.md", "results.csv"]
    assert len(artifacts(tracker, run, "images")) == 2, "an unchanged sheet is not logged again"
    assert Path(tracker._client.download_artifacts(run, "report.md", str(tmp_path))).read_text() == "# second"


def test_views_are_written_read_back_and_left_alone_once_edited(tracker: Tracker) -> None:
    tracker.save_views(seed=3, epochs=20)
    tracker.describe("**Which is best?** postgresql://u:p@h/db")
    assert tracker.warnings == []
    tags = tracker._client.get_experiment(tracker.experiment_id).tags
    assert tags["mlflow.note.content"] == "**Which is best?** postgresql://***@h/db"
    assert tags["mlflow.experiment.primaryMetric.name"] == "elbo_bernoulli"
    for view in views.saved_views(20):
        envelope = json.loads(tags[views.TAG + view.key])
        state = json.loads(envelope["state"])
        assert envelope["name"] == view.name
        assert len(state["compareRunCharts"]) == sum(map(len, view.sections.values()))
        assert ("seed` = '3'" in state["searchFilter"]) == view.first_seed_only
        runs = tracker._client.search_runs([tracker.experiment_id], state["searchFilter"])
        assert list(runs) == [], "the filter is one MLflow understands"

    key = views.TAG + views.saved_views(1)[0].key
    mine = json.dumps({**json.loads(tags[key]), "updatedAt": 1, "name": "mine"})
    tracker._client.set_experiment_tag(tracker.experiment_id, key, mine)
    tracker.save_views()
    assert tracker._client.get_experiment(tracker.experiment_id).tags[key] == mine


def test_a_view_that_cannot_be_written_is_a_warning(
    tracker: Tracker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bench.tracking.tracker.version", lambda _: "4.0.0")
    tracker.save_views()
    assert tracker.warnings == [
        "saved views were not written to MLflow: MLflow 4.0.0 may read them otherwise than 3.17 does"
    ]


def test_what_goes_wrong_mid_run_is_a_tracking_error(
    tracker: Tracker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bench.tracking.curves.SEND_EVERY", 0.0)
    run = start(tracker, record())

    def gone(*_: object, **__: object) -> None:
        raise OSError("http://me:secret@host went away")

    with monkeypatch.context() as patched:
        patched.setattr(tracker._client, "log_batch", gone)
        for _ in range(2):
            with pytest.raises(
                TrackingError, match=r"^MLflow failed while logging epoch 1: http://\*\*\*@host went"
            ) as caught:
                tracker.epoch(run, 1, curve(1))
        assert caught.value.__suppress_context__, "a traceback would print the password"
    tracker.epoch(run, 2, curve(2))
    tracker.finish(run, record(), tracker.reports)
    assert sorted(steps(tracker, run, "test/elbo")) == [1, 2, 3, 4, 5], "what failed is sent with the rest"


def test_epochs_within_a_second_share_a_request(
    tracker: Tracker, folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What tracking costs is its requests, so they are counted and no time is taken."""
    now = 1000.0
    clock = SimpleNamespace(monotonic=lambda: now, time=time.time)
    for module in (tracking.tracker, tracking.curves):
        monkeypatch.setattr(module, "time", clock)
    run = start(tracker, record())
    sent: list[int] = []
    send = tracker._client.log_batch

    def counted(mlflow_id: str, **kinds: Any) -> None:
        sent.append(epoch)
        send(mlflow_id, **kinds)

    monkeypatch.setattr(tracker._client, "log_batch", counted)
    for epoch in range(1, 21):
        tracker.epoch(run, epoch, curve(epoch))
        now += 0.3
    assert sent == [5, 9, 13, 17], "the clock read 1.2 s more at each"
    tracker.finish(run, record(), folder.path)
    assert steps(tracker, run, "test/elbo") == list(range(1, 21))


def test_the_store_lies_where_it_was_asked_for(uri: str, tracker: Tracker) -> None:
    file = store.database_file(uri)
    assert file is not None
    assert file.with_name("mlflow.db-wal").exists(), "readers do not wait for the writer"
    location = tracker._client.get_experiment(tracker.experiment_id).artifact_location
    assert location == (file.parent / "mlartifacts" / "test_the_store_lies_where_it_was_asked_for").as_uri()


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("sqlite:////tmp/x.db", "sqlite:////tmp/x.db"),
        ("http://host:5000/", "http://host:5000"),
        ("postgresql://u:p@h/db", "postgresql://u:p@h/db"),
    ],
)
def test_uris_that_are_understood(given: str, expected: str) -> None:
    assert tracking.resolve_uri(given) == expected


def test_the_default_uri(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_a_store_that_cannot_be_opened_is_bad_input(tmp_path: Path) -> None:
    (tmp_path / "junk.db").write_bytes(b"not a database" * 100)
    for name in ("junk.db", "junk.db/mlflow.db"):
        with pytest.raises(BenchError, match=r"cannot track runs in .*give --tracking-uri"):
            Tracker(f"sqlite:///{tmp_path}/{name}", "x", reports=tmp_path)


@pytest.mark.parametrize("scheme", ["http", "postgresql"])
def test_an_unreachable_server_is_bad_input_within_seconds(scheme: str, tmp_path: Path) -> None:
    with socket.socket() as taken:  # bound, not listening: connections are refused
        taken.bind(("127.0.0.1", 0))
        before = time.monotonic()
        with pytest.raises(BenchError, match="cannot track runs in") as caught:
            Tracker(f"{scheme}://me:secret@127.0.0.1:{taken.getsockname()[1]}/x", "x", reports=tmp_path)
    assert time.monotonic() - before < 8
    assert "secret" not in str(caught.value)
    assert caught.value.__suppress_context__


def test_a_deleted_experiment_is_bad_input(uri: str, tmp_path: Path) -> None:
    tracker = Tracker(uri, "deleted", reports=tmp_path)
    tracker._client.delete_experiment(tracker.experiment_id)
    with pytest.raises(BenchError, match="mlflow experiments restore"):
        Tracker(uri, "deleted", reports=tmp_path)


def test_secrets_are_redacted_and_nothing_else() -> None:
    assert (
        tracking.redacted("see http://a:b@c@host/x and sqlite:////a@b.db")
        == "see http://***@host/x and sqlite:////a@b.db"
    )
    assert (
        tracking.redacted("postgresql://h/db?user=u&password=p&sslmode=on")
        == "postgresql://h/db?user=u&password=***&sslmode=on"
    )


def test_links_lead_into_the_ui(tracker: Tracker) -> None:
    links = tracker.links("http://u:p@127.0.0.1:8000", ["r1", "r2"])
    page = f"http://127.0.0.1:8000/#/experiments/{tracker.experiment_id}/runs"
    assert links["experiment"] == page
    assert links["One footing"] == f"{page}?viewStateShareKey=bench-one-footing&compareRunsMode=CHART"
    assert links["compare"].endswith(
        f"runs=%5B%22r1%22%2C%20%22r2%22%5D&experiments=%5B%22{tracker.experiment_id}%22%5D"
    )
    assert "compare" not in tracker.links()


def test_the_pages_of_a_store_compare_the_best_seed_of_each_variant(tracker: Tracker, tmp_path: Path) -> None:
    best = []
    for rank, variant in enumerate(("conv", "mlp")):
        runs = [tracker.deliver(ranked(variant, seed, rank), tmp_path) for seed in (1, 2)]
        best.append(runs[0])
    tracker.deliver({**ranked("worst", 0, 9), "status": "failed"}, tmp_path)
    links = dict(tracking.pages(tracker.uri, "http://127.0.0.1:8000"))
    page = tracker.links("http://127.0.0.1:8000", best)
    assert links[f"{tracker.experiment} · compare"] == page["compare"]
    assert links[f"{tracker.experiment} · One footing"] == page["One footing"]


def test_the_documented_searches_are_understood(tracker: Tracker) -> None:
    text = (Path(__file__).parents[1] / "docs" / "mlflow.md").read_text(encoding="utf-8")
    block = text.partition("Searches that help")[2].split("```")[1].strip()
    assert len(block.splitlines()) == 3
    for search in block.splitlines():
        assert list(tracker._client.search_runs([tracker.experiment_id], search)) == []


def ranked(variant: str, seed: int, rank: int) -> dict[str, Any]:
    made = record(seed=seed, variant=variant)
    return {**made, "metrics": {"elbo_bernoulli": -100.0 - 10 * rank - seed}}


def test_the_ui_command_binds_to_loopback_and_hides_passwords(uri: str) -> None:
    command = tracking.ui_command(uri, 5001)
    assert command[command.index("--host") + 1] == "127.0.0.1"
    assert uri in command
    assert "secret" not in " ".join(tracking.ui_command("postgresql://u:secret@h/db", 5001))
    assert tracking.ui_environment(uri)["MLFLOW_BACKEND_STORE_URI"] == uri
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"
    with pytest.raises(BenchError, match="UI of its own"):
        tracking.ui_command("http://host:5000", 5001)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, bool])
def test_small_pictures_are_enlarged_without_smoothing(dtype: type) -> None:
    pixels = np.eye(28).astype(dtype) * (255 if dtype is np.uint8 else 1)
    image = np.asarray(images.as_image(pixels))
    assert image.shape == (280, 280)
    assert set(np.unique(image)) == {0, 255}


def test_a_variant_has_one_colour_and_variants_differ() -> None:
    colours = {entries.color(f"variant-{i}") for i in range(30)}
    assert len(colours) >= 28
    assert all(len(colour) == 7 and int(colour[1:], 16) for colour in colours)


def test_importing_bench_tracking_does_not_import_mlflow() -> None:
    code = "import sys, bench.tracking; sys.exit('mlflow' in sys.modules or 'torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_nothing_is_printed(tmp_path: Path) -> None:
    """A new store, a run and an unreachable server: not one line of MLflow's on the terminal."""
    code = f"""
from bench.tracking import Tracker
t = Tracker("sqlite:///{tmp_path}/new.db", "x", reports="{tmp_path}")
r = t.start({{"a": 1}}, run_id="a-s0-00000000", variant="a", seed=0)
t.finish(r, {{"id": "a-s0-00000000", "status": "finished"}}, "{tmp_path}")
try:
    Tracker("http://127.0.0.1:9", "x", reports="{tmp_path}")
except Exception as error:
    assert type(error).__name__ == "BenchError", error
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
