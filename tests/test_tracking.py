"""A run in MLflow is whole and there once, whatever stopped in between. Real sqlite stores."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tracked import (
    artifacts,
    assert_whole_once,
    attempts,
    begin,
    curve,
    known,
    record,
    run_folder,
    steps,
    until,
)

from bench import tracking
from bench.store.records import RunFolder
from bench.tracking import Attempt, Tracker, TrackingError, Writer, entries, images, owner, ui, views


@pytest.fixture
def tracker(uri: str, request: pytest.FixtureRequest) -> Tracker:
    return Tracker(uri, f"{request.node.name} · digits")


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return run_folder(tmp_path, record())


def status(tracker: Tracker, run: str) -> str:
    return str(tracker._client.get_run(run).info.status)


# What is logged


def test_a_run_from_start_to_finish(tracker: Tracker, folder: RunFolder) -> None:
    options = {f"option{i}": i for i in range(120)}  # more parameters than a request may hold
    made = record(settings={"prior": None, "note": "x" * 7000, **options})
    attempt = begin(tracker, made, folder.path, 2)
    tracker.deliver(known(made, 3), attempt)
    run = tracker.deliver(made, attempt)

    stored = tracker._client.get_run(run)
    assert (stored.info.status, stored.info.run_name) == ("FINISHED", "mlp · s0")
    params, metrics, tags = stored.data.params, stored.data.metrics, stored.data.tags
    assert (params["encoder"], params["encoder.hidden"]) == ("mlp", "[512, 256]")
    assert params["prior"] == "null"
    assert (params["variant"], params["seed"], params["option119"]) == ("mlp", "0", "119")
    assert len(params["note"]) == 6000
    assert steps(tracker, run, "test/elbo") == steps(tracker, run, "time/total_seconds") == [1, 2, 3, 4, 5]
    assert metrics["time/total_seconds"] == 2.5
    assert steps(tracker, run, "elbo_bernoulli") == [0], "final numbers have no step"
    assert metrics["time/evaluation_seconds"] == 3.5
    assert metrics["monte_carlo_error/iwae_bernoulli"] == 0.01
    assert metrics["diverged"] == 0
    assert not {"gaussian_bits_per_dim", "validation/loss"} & set(metrics), "what is missing is not logged"
    assert tags["mlflow.source.git.commit"] == "abc123"
    assert [tags[name] for name in ("git.dirty", "document", "device")] == ["true", "000", "cpu"]
    assert tags["sweep"] == tracker.experiment.removesuffix(" · digits")
    assert "secret" not in json.dumps(tags)
    assert "bench run all.yaml" in tags["mlflow.note.content"]
    assert tags["mlflow.loggedImages"] == "True"
    assert artifacts(tracker, run) == ["images", "pictures", "record.json", "weights.safetensors"]
    assert artifacts(tracker, run, "pictures") == ["pictures/manifold.png"]
    assert {name.partition("+timestamp")[0] for name in artifacts(tracker, run, "images")} == {
        "images/manifold+step+5", "images/samples+step+1", "images/samples+step+5"
    }  # fmt: skip
    (dataset,) = stored.inputs.dataset_inputs
    assert (dataset.dataset.name, dataset.dataset.digest) == ("digits", "d" * 12)


@pytest.mark.parametrize(
    ("outcome", "expected"),
    [("finished", "FINISHED"), ("diverged", "FAILED"), ("failed", "FAILED"), ("interrupted", "KILLED")],
)
def test_the_status_follows_the_record(
    tracker: Tracker, folder: RunFolder, outcome: str, expected: str
) -> None:
    made = record(status=outcome)
    if outcome == "diverged":
        made["diverged"] = {"epoch": 3, "term": "kl"}
        made["curves"][4].pop("elbo")
    run = tracker.deliver(made, Attempt(folder.path))
    stored = tracker._client.get_run(run)
    assert stored.info.status == expected
    assert stored.info.end_time - stored.info.start_time == 10_000
    assert stored.data.metrics.get("diverged") == {"finished": 0, "diverged": 1}.get(outcome)
    assert tracker.lacking([made]) == []
    assert tracker.lacking([{**made, "finished": "2026-01-02T00:00:00+00:00"}]), "a later attempt is another"
    if outcome == "diverged":
        assert (stored.data.tags["diverged.epoch"], stored.data.tags["diverged.term"]) == ("3", "kl")
        assert steps(tracker, run, "test/elbo") == [1, 2, 3, 4]


def test_numbers_that_are_not_finite_are_not_logged() -> None:
    made = record(status="diverged") | {"metrics": {"kl": float("inf"), "mse": 1.0}}
    assert {"kl", "mse"} & entries.final_metrics(made).keys() == {"mse"}
    assert "test/elbo" not in entries.curve_point({"epoch": 1, "elbo": float("nan")}, 1.0)


@pytest.mark.parametrize("width", [56, 300])
def test_pictures_are_enlarged_without_smoothing(width: int, tmp_path: Path) -> None:
    Image.fromarray(np.eye(width, dtype=np.uint8) * 255).save(tmp_path / "x.png")
    images.convert((tmp_path / "x.png", "x", 3), tmp_path)
    name = "x+step+3+timestamp+3+bench"  # as the UI parses it, and the same each time
    with (
        Image.open(tmp_path / f"{name}.png") as large,
        Image.open(tmp_path / f"{name}+compressed.webp") as small,
    ):
        assert large.width >= 256
        assert large.width % width == 0
        assert {*np.unique(np.asarray(large))} == {0, 255}
        assert max(small.size) == 256


# Once, and whole


def test_finished_work_is_delivered_once_and_whole(tracker: Tracker, folder: RunFolder) -> None:
    made = record()
    made["curves"] = [curve(epoch) for epoch in range(1, 151)]  # more metrics than a request may hold
    abandoned = begin(tracker, made, folder.path, 1).mlflow_id
    run = tracker.deliver(made, Attempt(folder.path))
    assert tracker.deliver(made, Attempt(folder.path)) == run != abandoned
    assert assert_whole_once(tracker, made) == run
    old = tracker._client.get_run(abandoned)
    assert (old.info.status, old.data.tags["bench.attempt"]) == ("KILLED", "superseded")


def gone() -> str:
    """The number of a process that ended."""
    process = subprocess.Popen(["true"])
    process.wait()
    return str(process.pid)


def again(tracker: Tracker, **tags: str) -> Tracker:
    """The tracker of a later process, after this one died, or what else these tags say of it."""
    for run in tracker._client.search_runs([tracker.experiment_id]):
        if run.info.status == "RUNNING":
            for key, value in ({"bench.pid": gone(), "bench.begun": "then"} | tags).items():
                tracker._client.set_tag(run.info.run_id, key, value)
    return Tracker(tracker.uri, tracker.experiment)


@pytest.mark.parametrize("stop", ["killed", "healed", "interrupted", "failed", "still open here"])
def test_a_run_goes_on_where_it_stopped(stop: str, tracker: Tracker, folder: RunFolder) -> None:
    made = record()
    attempt = begin(tracker, made, folder.path, 3)
    run = attempt.mlflow_id
    if stop in ("interrupted", "failed"):
        half = {**made, "status": stop, "reason": "stopped", "curves": made["curves"][:3]}
        tracker.deliver(half, attempt)
    if stop != "still open here":
        tracker = again(tracker)
    if stop == "healed":
        assert tracker.heal() == 1
        assert tracker._client.get_run(run).data.tags["bench.healed"]

    attempt = begin(tracker, made, folder.path, 4, resume=True)
    assert attempt.mlflow_id == run
    stored = tracker._client.get_run(run)
    assert stored.info.status == "RUNNING"
    assert not {"outcome", "reason", "bench.healed", "bench.recorded"} & stored.data.tags.keys()
    assert owner.ours(stored.data.tags)
    tracker.deliver(made, attempt)
    assert assert_whole_once(tracker, made) == run
    assert len(attempts(tracker, made)) == 1
    total = tracker._client.get_run(run).data.metrics["time/total_seconds"]
    assert total == sum(row["train_seconds"] for row in made["curves"])


@pytest.mark.parametrize("why", ["from scratch", "another machine", "a living process", "whole before"])
def test_a_run_that_may_not_go_on_is_another_attempt(why: str, tracker: Tracker, folder: RunFolder) -> None:
    made = record()
    run = begin(tracker, made, folder.path, 3).mlflow_id
    living = {"bench.pid": str(os.getppid()), "bench.begun": owner.begun(os.getppid())}
    tracker = again(
        tracker, **{"another machine": {"bench.host": "elsewhere"}, "a living process": living}.get(why, {})
    )
    if why == "whole before":
        run = tracker.deliver(made, Attempt(folder.path))
    new = begin(tracker, made, folder.path, 0, resume=why != "from scratch")
    assert new.mlflow_id != run
    tracker.deliver(made, new)
    if why in ("another machine", "a living process"):
        assert status(tracker, run) == "RUNNING", "another process may still write it"
        tracker._client.set_terminated(run, "KILLED")
    assert assert_whole_once(tracker, made) == new.mlflow_id


@pytest.mark.parametrize("resume", [False, True])
def test_whatever_request_fails_the_run_is_there_once(
    resume: bool, tracker: Tracker, folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each kind of request fails twice: before the store took it, and after."""
    made = record()
    if resume:
        begin(tracker, made, folder.path, 3)
        tracker = again(tracker)
    for name in ("search_runs", "create_run", "update_run", "log_batch", "log_inputs", "get_metric_history",
                 "log_artifacts", "set_tag", "log_artifact", "log_text", "set_terminated"):  # fmt: skip
        faulty(tracker._client, name, ["before", "after"], monkeypatch)
    attempt, failures = Attempt(folder.path, resume), 0
    while True:
        try:
            run = tracker.deliver(made, attempt)
            break
        except TrackingError:
            failures += 1
    assert failures >= 18
    assert assert_whole_once(tracker, made) == run


def faulty(client: Any, name: str, faults: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a request fail before, or after, the store took it, as often as told."""
    real = getattr(client, name)

    def call(*words: Any, **more: Any) -> Any:
        fault = faults.pop() if faults else ""
        done = real(*words, **more) if fault != "before" else None
        if fault:
            raise OSError("gone")
        return done

    monkeypatch.setattr(client, name, call)


def test_a_picture_that_cannot_be_read_keeps_no_run_from_being_closed(
    tracker: Tracker, folder: RunFolder
) -> None:
    made = record(status="interrupted")
    picture = folder.pictures / "samples-epoch-005.png"
    picture.write_bytes(picture.read_bytes()[:60])
    (folder.pictures / ".samples-epoch-001.png.12").touch()  # of a worker that was killed
    run = tracker.deliver(made, begin(tracker, made, folder.path, 2))
    assert status(tracker, run) == "KILLED"
    assert len(artifacts(tracker, run, "images")) == 4, "the other two, and the UI's copy of each"
    assert artifacts(tracker, run, "pictures") == ["pictures/manifold.png"]
    (told,) = tracker.warnings
    assert told.startswith(f"MLflow lacks a picture: {picture} cannot be read: ")


def test_an_interrupted_run_is_closed_though_the_store_opened_it_unheard(
    tracker: Tracker, folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, said = record(), list[str]()
    faulty(tracker._client, "create_run", ["after"], monkeypatch)
    writes = Writer(tracker, said.append)
    writes.start(known(made), folder.path)
    until(lambda: bool(said))  # from here on it pauses
    writes.finish({**made, "status": "interrupted"}, folder.path)
    writes.close(lambda _: None, lambda _: None)
    assert {run.info.status for run in attempts(tracker, made)} == {"KILLED"}


def test_what_goes_wrong_is_one_line_without_secrets(
    tracker: Tracker, folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(*_: object, **__: object) -> None:
        raise OSError("http://me:secret@host went away\nin two lines")

    monkeypatch.setattr(tracker._client, "log_batch", gone)
    told = r"^MLflow failed while sending mlp-s0-0123abcd: http://\*\*\*@host went away$"
    with pytest.raises(TrackingError, match=told) as caught:
        tracker.deliver(record(), Attempt(folder.path))
    assert caught.value.__suppress_context__, "a traceback would print the password"


def test_only_what_the_dead_left_running_is_closed(tracker: Tracker, folder: RunFolder) -> None:
    dead = gone()
    parent = str(os.getppid())
    runs = {}
    for name, changes in {
        "ours": {},
        "dead": {"bench.pid": dead},
        "our number, earlier process": {"bench.begun": "then"},
        "a living one's number, earlier process": {"bench.pid": parent, "bench.begun": "then"},
        "living": {"bench.pid": parent, "bench.begun": owner.begun(os.getppid())},
        "living, it does not say since when": {"bench.pid": parent, "bench.begun": ""},
        "another machine": {"bench.host": "elsewhere", "bench.pid": dead},
    }.items():
        runs[name] = begin(tracker, {**record(), "id": name.replace("'", "")}, folder.path, 0)
        for key, value in changes.items():
            tracker._client.set_tag(runs[name].mlflow_id, key, value)
    due = {"dead", "our number, earlier process"}
    if owner.begun(os.getpid()):  # the system says when a process began
        due.add("a living one's number, earlier process")
    assert tracker.heal() == len(due)
    assert {name for name, run in runs.items() if status(tracker, run.mlflow_id) == "KILLED"} == due
    assert tracker.heal() == 0


def test_the_dead_are_closed_as_they_say_that_they_ended(
    tracker: Tracker, folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = record()
    with monkeypatch.context() as patched:
        faulty(tracker._client, "set_terminated", ["before"], patched)  # the last request
        with pytest.raises(TrackingError):
            tracker.deliver(made, Attempt(folder.path))
    tracker = again(tracker)
    assert tracker.lacking([made]) == [made], "it is not closed"
    assert tracker.heal() == 1
    assert tracker.lacking([made]) == []
    assert_whole_once(tracker, made)


def test_a_clock_that_is_put_back_ends_no_run_before_it_began(tracker: Tracker, folder: RunFolder) -> None:
    made = record()
    attempt = Attempt(folder.path)
    now = datetime.now(UTC)
    tracker.deliver(known(made, 2) | {"started": now.isoformat()}, attempt)
    made |= {"started": now.isoformat(), "finished": (now - timedelta(hours=1)).isoformat()}
    tracker.deliver(made, attempt)
    assert_whole_once(tracker, made)


# The experiment as people find it


def test_the_summary_run_is_one_and_holds_the_report(tracker: Tracker, tmp_path: Path) -> None:
    report = tmp_path / "reports"
    (report / "figures").mkdir(parents=True)
    Image.fromarray(np.zeros((300, 300), np.uint8)).save(report / "figures" / "contact-sheet.png")
    run = tracker.summary(report, {"report.md": "# first", "results.csv": "a,b\n"})
    assert tracker.summary(report, {"report.md": "# second"}) == run
    assert status(tracker, run) == "FINISHED"
    assert artifacts(tracker, run) == ["figures", "images", "report.md", "results.csv"]
    assert len(artifacts(tracker, run, "images")) == 2, "a sheet replaces the one before"
    assert Path(tracker._client.download_artifacts(run, "report.md", str(tmp_path))).read_text() == "# second"


def a_matrix() -> dict[str, dict[str, Any]]:
    """Twelve variants: four by name that begin as they like, and two networks with four settings each."""
    named: dict[str, dict[str, Any]] = {"000-a": {}, "001-b": {}, "002-c": {}, "own": {}}
    grid = itertools.product(("conv-16", "conv-32"), ("bernoulli", "gaussian"), (1, 4))
    return named | {
        f"{network}-{likelihood}-{beta}": {
            "axes": {"architecture": network, "likelihood": {"name": likelihood}, "beta": beta}
        }
        for network, likelihood, beta in grid
    }


def test_views_are_written_read_back_and_left_alone_once_edited(tracker: Tracker) -> None:
    tracker.save_views(a_matrix(), seed=3, epochs=20)
    tracker.describe("**Which is best?** postgresql://u:p@h/db")
    assert tracker.warnings == []
    tags = tracker._client.get_experiment(tracker.experiment_id).tags
    assert tags["mlflow.note.content"] == "**Which is best?** postgresql://***@h/db"
    assert tags["mlflow.experiment.primaryMetric.name"] == "elbo_bernoulli"
    made = views.saved_views(20, a_matrix())
    assert views.saved(tags) == {view.key: view.name for view in made}
    for view in made:
        state = json.loads(json.loads(tags[views.TAG + view.key])["state"])
        assert len(state["compareRunCharts"]) == sum(map(len, view.sections.values()))
        assert ("seed` = '3'" in state["searchFilter"]) == view.first_seed_only

    key = views.TAG + made[0].key
    mine = json.dumps({**json.loads(tags[key]), "updatedAt": 1, "name": "mine"})
    tracker._client.set_experiment_tag(tracker.experiment_id, key, mine)
    tracker.save_views({"a": {}})
    tags = tracker._client.get_experiment(tracker.experiment_id).tags
    assert tags[key] == mine
    now = views.saved_views(1, {"a": {}})
    assert views.saved(tags) == {view.key: view.name for view in now} | {made[0].key: "mine"}


def test_each_view_of_a_large_experiment_shows_the_runs_of_one_group(
    tracker: Tracker, tmp_path: Path
) -> None:
    for variant, seed in itertools.product(a_matrix(), (0, 1)):
        tracker.deliver(record(seed, variant=variant), Attempt(tmp_path))
    groups = views.groups(a_matrix())
    assert [*groups] == ["by name", "conv-16", "conv-32"]
    for group, names in groups.items():
        for view in views.saved_views(1, a_matrix()):
            if view.name.endswith(f" · {group}"):
                state = json.loads(json.loads(view.value(0, 0))["state"])
                runs = tracker._client.search_runs([tracker.experiment_id], state["searchFilter"])
                assert {run.data.tags["variant"] for run in runs} == set(names)
                assert len(runs) == len(names) * (1 if view.first_seed_only else 2)


@pytest.mark.parametrize("named", [0, 10, 11, 35])
def test_groups_hold_every_variant_once_and_ten_at_most(named: int) -> None:
    variants = {f"v{i}": {} for i in range(named)} | {
        f"m{i}": {"axes": {"coarse": i % 2, "fine": i % 5}} for i in range(30)
    }
    groups = views.groups(variants)
    assert sorted(name for names in groups.values() for name in names) == sorted(variants)
    assert max(map(len, groups.values())) <= views.MOST
    assert {"0", "1", "2", "3", "4"} <= groups.keys(), "the axis that is fine enough"


def test_ten_variants_are_one_group() -> None:
    assert views.groups({f"v{i}": {} for i in range(10)}) == {"": [f"v{i}" for i in range(10)]}
    assert all(view.chosen == "" for view in views.saved_views(1, {"a": {}}))


def test_a_view_that_cannot_be_written_is_a_warning(
    tracker: Tracker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bench.tracking.tracker.version", lambda _: "4.0.0")
    tracker.save_views({"a": {}})
    (told,) = tracker.warnings
    assert told.startswith("saved views were not written to MLflow: MLflow 4.0.0 ")


def test_links_lead_into_the_ui_and_hold_no_credentials(tracker: Tracker) -> None:
    links = ui.links("http://127.0.0.1:8000/", "7", {"bench-one-footing": "One footing"}, ["r1", "r2"])
    page = "http://127.0.0.1:8000/#/experiments/7/runs"
    assert links["experiment"] == page
    assert links["One footing"] == f"{page}?viewStateShareKey=bench-one-footing&compareRunsMode=CHART"
    assert links["compare"].endswith("runs=%5B%22r1%22%2C%20%22r2%22%5D&experiments=%5B%227%22%5D")
    assert "compare" not in ui.links("http://127.0.0.1:8000", "7")
    page = f"/#/experiments/{tracker.experiment_id}/runs"
    assert tracker.page == f"http://127.0.0.1:5000{page}", "where `bench ui` serves"
    tracker.uri = "http://me:secret@host:8000"
    assert tracker.page == f"http://host:8000{page}"


def test_the_pages_of_a_store_compare_the_best_seed_of_each_variant(tracker: Tracker, tmp_path: Path) -> None:
    def ranked(variant: str, seed: int, rank: int) -> dict[str, Any]:
        made = record(seed, variant=variant)
        return {**made, "metrics": {"elbo_bernoulli": -100.0 - 10 * rank - seed}}

    best = []
    for rank, variant in enumerate(("conv", "mlp")):
        runs = [tracker.deliver(ranked(variant, seed, rank), Attempt(tmp_path)) for seed in (1, 2)]
        best.append(runs[0])
    tracker.deliver({**ranked("worst", 0, 9), "status": "failed"}, Attempt(tmp_path))
    tracker.save_views({"conv": {}, "mlp": {}, "worst": {}})
    links = dict(tracking.pages(tracker.uri, "http://127.0.0.1:8000"))
    saved = {"bench-one-footing": "One footing"}
    page = ui.links("http://127.0.0.1:8000", tracker.experiment_id, saved, best)
    assert links[f"{tracker.experiment} · compare"] == page["compare"]
    assert links[f"{tracker.experiment} · One footing"] == page["One footing"]


def test_the_documented_searches_are_understood(tracker: Tracker) -> None:
    text = (Path(__file__).parents[1] / "docs" / "mlflow.md").read_text(encoding="utf-8")
    block = text.partition("Searches that help")[2].split("```")[1].strip()
    assert len(block.splitlines()) == 3
    for search in block.splitlines():
        assert list(tracker._client.search_runs([tracker.experiment_id], search)) == []
