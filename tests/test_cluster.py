"""A matrix on a Ray cluster of two nodes, here: the results of one machine, whatever becomes of the nodes."""

from __future__ import annotations

import contextlib
import csv
import os
import platform
import secrets
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from factory import a_record
from forked import bench
from test_cli import SPEC
from test_groups import CPU, Ears, check_equal, jobs_of, workshop

from bench.cli import main
from bench.errors import BenchError
from bench.runs import cluster
from bench.runs.cluster import take
from bench.runs.execute import Job, SharedContext, execute
from bench.runs.groups import TaskGroup
from bench.store.experiments import ExperimentFolder
from bench.store.records import RunFolder, read


def needs_ray(test: Any) -> Any:
    absent = pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed")
    together = pytest.mark.xdist_group("ray")
    return pytest.mark.ray(pytest.mark.around(together(absent(test))))


EPOCHS = 30  # enough for a node to be lost in the midst of them
# Ray listens on every interface, for those who know this; it reads it once, when it is first imported
os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(16)}


@pytest.fixture(scope="module")
def shared() -> SharedContext:
    return workshop()


# Without a cluster


def test_without_ray_the_command_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "tiny.yaml").write_text(SPEC)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.setattr(sys, "argv", ["bench", "run", "tiny.yaml", "--executor", "ray"])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2
    assert capsys.readouterr().err == (
        "bench: --executor ray needs Ray, which is not installed: pip install 'bench-vae[ray]'\n"
    )
    assert {p.name for p in tmp_path.iterdir()} == {"tiny.yaml"}


def test_a_group_tells_once_what_two_attempts_did(tmp_path: Path) -> None:
    (job,) = jobs_of(tmp_path, [3])
    ears = Ears()
    group = TaskGroup([job], ears, cluster.ATTEMPTS)
    assert group.name == "small · seed 3"
    group.begin()
    take((job.id, "epoch", {"epoch": 1}, {}), group)
    first, again = {"pictures/a.png": b"first"}, {"pictures/a.png": b"second"}
    take((job.id, "image", {"path": "elsewhere", "key": "a", "step": 1}, first), group)
    group.lose("its node was lost")
    assert group.jobs[job.id].about["retried"] == "its node was lost"
    group.begin()
    take((job.id, "epoch", {"epoch": 1}, {}), group)
    take((job.id, "image", {"path": "elsewhere", "key": "a", "step": 1}, again), group)
    take((job.id, "epoch", {"epoch": 2}, {}), group)
    take((job.id, "done", a_record(job.id), {"weights": b"w"}), group)
    assert not group.jobs
    assert [what[1:3] for what in ears.heard] == [
        ("starting",), ("epoch", 1), ("image", None), ("retry", None), ("epoch", 2), ("ended",)
    ]  # fmt: skip
    assert (job.folder / "pictures/a.png").read_bytes() == b"second", "the record speaks of the last attempt"
    assert (read(job.folder) or {})["status"] == "finished"
    assert RunFolder(job.folder).artifacts().keys() == {"pictures/a.png", "weights"}


def test_a_group_that_keeps_losing_its_process_fails(tmp_path: Path) -> None:
    one, two = jobs_of(tmp_path, [0, 1])
    ears = Ears()
    group = TaskGroup([one, two], ears, 3)
    assert group.name == "small · seeds 0,1"
    for attempt in (1, 2, 3):
        assert group.jobs
        group.begin()
        if attempt == 2:
            group.hear(one.id, "done", a_record(one.id))
        group.lose("gone")
    assert not group.jobs
    assert ears.records[one.id]["status"] == "finished", "what is recorded stays"
    assert (ears.records[two.id]["status"], ears.records[two.id]["reason"]) == ("failed", "gone")
    assert read(two.folder) == {"format": 2, **ears.records[two.id]}


def test_a_run_that_the_environment_ended_goes_once_more(tmp_path: Path) -> None:
    (job,) = jobs_of(tmp_path, [0])
    ears = Ears()
    group = TaskGroup([job], ears, 2)
    failed = {"id": job.id, "status": "failed", "reason": "OSError: full", "environmental": True}
    for attempt in (1, 2):
        group.begin()
        group.hear(job.id, "done", failed)
        assert bool(group.jobs) == (attempt < 2)
    assert ears.count("retry") == 1
    assert ears.records[job.id]["status"] == "failed"


def test_a_folder_that_cannot_be_written_is_no_finished_run(tmp_path: Path) -> None:
    (job,) = jobs_of(tmp_path, [0])
    ears = Ears()
    group = TaskGroup([job], ears, 1)
    group.begin()
    job.folder.write_text("in the way")
    take((job.id, "done", a_record(job.id), {"weights": b"w"}), group)
    assert ears.records[job.id]["status"] == "failed"
    assert "could not be written" in ears.records[job.id]["reason"]


def test_a_file_that_was_not_written_is_missed(tmp_path: Path) -> None:
    (job,) = jobs_of(tmp_path, [0])
    ears = Ears()
    group = TaskGroup([job], ears, 1)
    group.begin()
    listed = {"pictures/kl.png": "0" * 64}
    take((job.id, "done", a_record(job.id) | {"artifacts": listed}, {}), group)
    assert "pictures/kl.png is missing" in ears.records[job.id]["reason"]


# With Ray


@needs_ray
@pytest.mark.parametrize(
    ("uri", "hosts", "refused"),
    [
        ("sqlite:////a/mlflow.db", ["10.0.0.1", "10.0.0.2"], True),
        ("sqlite:////a/mlflow.db", ["10.0.0.1", "10.0.0.1"], False),
        ("http://host:5000", ["10.0.0.1", "10.0.0.2"], False),
    ],
)
def test_a_database_file_is_refused_where_others_cannot_see_it(
    uri: str, hosts: list[str], refused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    found = [{"Alive": True, "NodeManagerHostname": f"host-{a[-1]}", "NodeManagerAddress": a} for a in hosts]
    monkeypatch.setattr(ray, "nodes", lambda: found)
    monkeypatch.setattr(ray.util, "get_node_ip_address", lambda: "10.0.0.1")
    if not refused:
        cluster._check_store(uri)
        return
    with pytest.raises(
        BenchError, match=r"other hosts \(host-2\).*start `mlflow server.*postgresql://"
    ) as told:
        cluster._check_store(uri)
    assert "\n" not in str(told.value)


@needs_ray
@pytest.mark.parametrize("address", ["127.0.0.1:9", "nowhere.invalid:6379", "auto"])
def test_a_cluster_that_does_not_answer_is_bad_input_within_seconds(
    address: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))  # `auto` finds no cluster of this machine's others
    before = time.monotonic()
    with pytest.raises(BenchError, match=r"no Ray cluster answers at --address .*; start one") as told:
        cluster.connect(address, None)
    assert time.monotonic() - before < 20
    assert "\n" not in str(told.value)


@needs_ray
def test_a_clients_address_is_refused_with_the_way_out() -> None:
    with pytest.raises(BenchError, match=r"^--address ray://head:10001 is for a Ray Client.* --address auto"):
        cluster.connect("ray://head:10001", None)


@pytest.fixture(scope="module")
def nodes() -> Iterator[Any]:
    """A cluster of two nodes of one core, apart from any other; this process has joined it."""
    import ray
    from ray.cluster_utils import Cluster

    short = tempfile.TemporaryDirectory(prefix="ray-")  # names of sockets have about a hundred letters
    with pytest.MonkeyPatch.context() as patch, short as folder:
        patch.setenv("RAY_TMPDIR", folder)
        patch.delenv("RAY_ADDRESS", raising=False)
        here = {"num_cpus": 1, "object_store_memory": 100 << 20, "include_dashboard": False}
        made = Cluster(initialize_head=True, head_node_args=here)
        made.add_node(num_cpus=1, object_store_memory=100 << 20)
        try:
            cluster.connect(made.address, "sqlite:///mlflow.db")
            yield made
        finally:
            ray.shutdown()
            made.shutdown()


def titles() -> set[str]:
    """What the processes of tasks are called, as in Ray's dashboard."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # it has just ended
            found.add(path.read_bytes().split(b"\0")[0].decode(errors="replace"))
    return {title.removeprefix("ray::") for title in found if title.startswith("ray::small")}


@needs_ray
def test_places_are_those_of_the_cluster(nodes: Any) -> None:
    assert cluster.default_workers(CPU) == 2
    with pytest.raises(BenchError, match="--device cuda:0: the Ray cluster has 2 CPUs, 0 GPUs; give"):
        cluster.default_workers(torch.device("cuda:0"))


@needs_ray
def test_the_command_does_its_runs_on_the_cluster(nodes: Any, tmp_path: Path) -> None:
    """Its records are those of runs here, as the next test shows; so is the report that is made of them."""
    (tmp_path / "tiny.yaml").write_text(SPEC)
    where = ("--executor", "ray", "--address", nodes.address, "--tracking-uri", "sqlite:///ray.db")
    done = bench("run", "tiny.yaml", "--seeds", "1", *where, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "2 finished" in done.stdout
    home = ExperimentFolder(tmp_path / "reports/tiny")
    records = home.records()
    assert len(records) == 2
    for run_id, record in records.items():
        assert record["node"] == platform.node()
        assert home.run(run_id).artifacts() == record["artifacts"]
    rows = csv.DictReader((home.path / "results.csv").read_text().splitlines())
    assert [row["status"] for row in rows] == ["finished"] * 2


@needs_ray
def test_a_node_is_lost_and_nothing_else(nodes: Any, tmp_path: Path, shared: SharedContext) -> None:
    doomed = nodes.add_node(num_cpus=1, object_store_memory=100 << 20)

    class Killer(Ears):
        def event(self, job: Job, kind: str, data: dict[str, Any]) -> None:
            super().event(job, kind, data)
            under_way = {what[0] for what in self.heard if what[1] == "epoch"} - self.records.keys()
            if doomed in nodes.worker_nodes and len(under_way) == 3:
                nodes.remove_node(doomed, allow_graceful=False)

    jobs, ears = jobs_of(tmp_path / "ray", [0, 1, 2, 3], epochs=EPOCHS), Killer()
    cluster.run_all(jobs, shared, 3, ears)
    assert doomed not in nodes.worker_nodes
    assert ears.count("retry") >= 1
    assert ears.count("epoch") == EPOCHS * len(jobs)
    for job in jobs:
        assert RunFolder(job.folder).artifacts() == ears.records[job.id]["artifacts"]
    again = next(job for job in jobs if (job.id, "retry", None, None, None) in ears.heard)
    other = replace(again, folder=tmp_path / "local" / again.folder.name)
    check_equal(ears.records[again.id], execute(other, shared, lambda kind, data: None))


@needs_ray
def test_cancelled_runs_are_interrupted_and_their_tasks_end(
    nodes: Any, tmp_path: Path, shared: SharedContext
) -> None:
    names: set[str] = set()

    class Impatient(Ears):
        def event(self, job: Job, kind: str, data: dict[str, Any]) -> None:
            super().event(job, kind, data)
            names.update(titles())
            if data.get("epoch") == 5:
                raise KeyboardInterrupt

    jobs, ears = jobs_of(tmp_path, [0, 1, 2], epochs=5000), Impatient()
    with pytest.raises(KeyboardInterrupt):
        cluster.run_all(jobs, shared, 2, ears)
    assert {run_id: record["status"] for run_id, record in ears.records.items()} == {
        "small-s0": "interrupted", "small-s1": "interrupted"
    }  # fmt: skip
    assert (read(jobs[0].folder) or {})["reason"] == "stopped before it ended"
    assert names & {"small · seed 0", "small · seed 1"}
    deadline = time.monotonic() + 20
    while titles():
        assert time.monotonic() < deadline, "a task goes on"
        time.sleep(0.1)


@needs_ray
def test_a_task_that_fails_is_a_failed_run(nodes: Any, tmp_path: Path, shared: SharedContext) -> None:
    good, bad = jobs_of(tmp_path, [0, 1])
    bad = replace(bad, id="no\0folder")  # of this name on any node
    ears = Ears()
    cluster.run_all([bad, good], shared, 1, ears)
    assert ears.records[good.id]["status"] == "finished"
    assert ears.records[bad.id]["status"] == "failed"
    assert ears.records[bad.id]["reason"].startswith("its task failed: ValueError: ")
