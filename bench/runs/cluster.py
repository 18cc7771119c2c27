"""The groups of a matrix as tasks of a Ray cluster: same results, records and report as on one machine.

A node needs bench's dependencies and no disk of this process: bench itself, the data and the yardstick come
once through Ray, and what a task makes comes back as the items of its stream. This process alone writes run
folders, MLflow and the report, so that a group that had to be done twice is recorded once.

Ray is imported inside functions only: importing this costs nothing.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import torch

from bench.engine.device import deterministic, one_thread
from bench.errors import BenchError, redacted
from bench.runs.budget import Budget
from bench.runs.execute import Job, SharedContext, execute_all
from bench.runs.groups import Listener, TaskGroup, Waiting, broken, groups
from bench.store.records import CHECKPOINT, DONE, Record, RunFolder
from bench.store.whole import replacing
from bench.tracking import resolve_uri

ATTEMPTS = 3  # at a run whose process or node is lost
GPU_SHARE = 0.25  # of a GPU that a group asks for: models of this size leave most of one idle
PATIENCE = 5  # seconds that a cluster's address may take to answer
CHECKPOINT_SECONDS = 300.0  # between those that are sent of a run: it loses no more when its node is lost
IMAGES = ("train_images", "train_labels", "test_images", "test_labels")

Item = tuple[str, str, dict[str, Any], dict[str, bytes]]  # run id, kind, data, files of the run's folder

# As in bench.tracking: no usage reports. The other: CPU tasks see no GPU, as Ray's own notice asks to choose.
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "1")

# Joining a cluster


def require_ray() -> None:
    """Raise BenchError where Ray is not installed; imports nothing."""
    if find_spec("ray") is None:
        raise BenchError("--executor ray needs Ray, which is not installed: pip install 'bench-vae[ray]'")


def connect(address: str | None, tracking_uri: str | None) -> None:
    """Join the cluster at `address`, unless this process has joined one.

    `auto` is the one that this machine is a node of; None is that of RAY_ADDRESS, else that of this machine,
    else a new one on this machine alone. Raises BenchError where there is none, and where the cluster has
    other hosts and the tracking store is a file that they cannot look into.
    """
    require_ray()
    import ray

    if ray.is_initialized():
        return
    where = address or os.environ.get("RAY_ADDRESS") or ""
    if where.startswith("ray://"):
        raise BenchError(
            f"--address {where} is for a Ray Client, and bench hears of its tasks as a node only: start "
            "it on one, with --address auto or HOST:6379"
        )
    try:
        host, _, port = where.rpartition(":")
        if host and port.isdecimal():  # Ray itself would ask for minutes, then end the process
            socket.create_connection((host.strip("[]"), int(port)), timeout=PATIENCE).close()
        ray.init(
            address=address,
            log_to_driver=False,
            logging_level="ERROR",
            runtime_env={"py_modules": [str(Path(__file__).parents[1])]},  # every node runs this very code
        )
    except (OSError, RuntimeError, ValueError) as error:
        why = str(error).strip().partition("\n")[0] or type(error).__name__
        raise BenchError(
            f"no Ray cluster answers at --address {where or 'auto'}: {why}; start one with "
            "`ray start --head`, or leave --address out for this machine alone"
        ) from None
    _check_store(tracking_uri)


def default_workers(device: torch.device) -> int:
    """Count the groups that fit into the cluster at a time; raises BenchError where it has no such device."""
    import ray

    resources = ray.cluster_resources()
    places = resources.get("CPU", 0.0)
    if device.type != "cpu":
        places = min(places, resources.get("GPU", 0.0) / GPU_SHARE)
    if device.type not in ("cpu", "cuda") or places < 1:
        has = ", ".join(f"{resources.get(kind, 0):.0f} {kind}s" for kind in ("CPU", "GPU"))
        raise BenchError(
            f"--device {device}: the Ray cluster has {has}; give --device cpu or cuda, or add nodes"
        )
    return int(places)


def _check_store(tracking_uri: str | None) -> None:
    """Refuse a database file where runs are done on hosts whose people cannot look into it."""
    import ray

    here = ray.util.get_node_ip_address()
    others = {n["NodeManagerHostname"] for n in ray.nodes() if n["Alive"] and n["NodeManagerAddress"] != here}
    uri = resolve_uri(tracking_uri)
    if others and uri.startswith("sqlite:"):
        raise BenchError(
            f"the cluster has other hosts ({', '.join(sorted(others)[:3])}) and {redacted(uri)} is a file of "
            "this one; start `mlflow server --host 0.0.0.0 --app-name basic-auth --backend-store-uri "
            "postgresql://…` (docs/scaling.md) and give --tracking-uri http://HOST:5000"
        )


# Here: groups on their way through the cluster


def run_all(
    jobs: Iterable[Job],
    shared: SharedContext,
    workers: int,
    listener: Listener,
    budget: Budget | None = None,
) -> None:
    """Do the jobs in order, `workers` groups at a time, on the cluster that `connect` joined.

    A group whose node or process is lost goes first again, without the runs that it has recorded. On
    KeyboardInterrupt, and when the budget is over, tasks are cancelled and runs under way get a record
    "interrupted"; it is raised again.
    """
    import ray

    waiting = Waiting(groups(jobs, shared.device, listener, ATTEMPTS), budget)
    launch = _launcher(shared)
    under_way: dict[Any, TaskGroup] = {}  # by the stream of its task
    with contextlib.redirect_stdout(sys.stderr):  # Ray tells of lost workers; results alone go to stdout
        try:
            while waiting or under_way:
                while len(under_way) < workers and (group := waiting.take()):
                    under_way[launch(group)] = group
                waiting.check()
                for stream in _ready([*under_way]):
                    if not _hear(stream, under_way[stream]):
                        group = under_way.pop(stream)
                        if group.jobs:
                            waiting.again(group)
        except BaseException:
            for stream in under_way:
                ray.cancel(stream, force=True)
            for group in under_way.values():
                group.end("interrupted", "stopped before it ended")
            raise


def _ready(streams: list[Any]) -> list[Any]:
    """Give the streams that have something to tell, after a second at most."""
    import ray

    if not streams:
        return []
    found: list[Any] = ray.wait(streams, num_returns=len(streams), timeout=0)[0]
    return found or ray.wait(streams, timeout=1)[0]


def _launcher(shared: SharedContext) -> Callable[[TaskGroup], Any]:
    """Make what begins a group's task; data and yardstick are put into the object store here, once."""
    import ray

    parcel = ray.put(pack(shared))
    gpu = 0.0 if shared.device.type == "cpu" else GPU_SHARE
    # Processes are kept for the next group; a lost group is ours to repeat, as we know what of it is recorded
    task = ray.remote(num_cpus=1, num_gpus=gpu, max_calls=0, max_retries=0)(work)

    def launch(group: TaskGroup) -> Any:
        jobs, left = group.begin(), left_of(group)
        return task.options(name=group.name, num_returns="streaming").remote(jobs, left, [parcel])

    return launch


def left_of(group: TaskGroup) -> dict[str, dict[str, bytes]]:
    """Read the files of each run that goes on from a checkpoint."""
    left = {}
    for job in group.jobs.values():
        if job.resume:
            left[job.id] = {f: (job.folder / f).read_bytes() for f in RunFolder(job.folder).files()}
    return left


def _hear(stream: Any, group: TaskGroup) -> bool:
    """Take the next item of a task; whether there may be more. Runs that ended too early stay in `group`."""
    import ray
    from ray.exceptions import RayError, RayTaskError, TaskCancelledError

    try:
        take(ray.get(next(stream)), group)
        return True
    except StopIteration:
        pass
    except RayTaskError as error:  # what is no run's own fault: a full disk, say
        group.end("failed", f"its task failed: {type(error.cause).__name__}: {error.cause}")
    except TaskCancelledError:
        group.end("interrupted", "its task was cancelled")
    except RayError as error:
        group.lose(f"its process or node was lost: {type(error).__name__}")
    return False


def take(item: Item, group: TaskGroup) -> None:
    """Write what came of a run, and pass it on; a run whose files cannot be written here has failed."""
    run_id, kind, data, files = item
    job = group.jobs[run_id]
    try:
        for name, content in files.items():
            with replacing(job.folder / name) as part:  # an earlier attempt's file may be being read
                part.write_bytes(content)
        if kind == "done":
            if missing := [name for name in data.get("artifacts") or () if not (job.folder / name).exists()]:
                raise OSError(f"{missing[0]} is missing")
            RunFolder(job.folder).write_record(data)
            if data["status"] in DONE:
                (job.folder / CHECKPOINT).unlink(missing_ok=True)
    except (OSError, BenchError) as error:  # this machine's disk is full, say
        if kind == "done":
            data = broken(job, "failed", f"its folder could not be written: {error}")
    if kind == "image":
        data = data | {"path": str(job.folder / next(iter(files)))}
    group.hear(run_id, kind, data)


# On a node: what a task does, and what crosses the network to it and from it


def pack(shared: SharedContext) -> tuple[SharedContext, dict[str, Any]]:
    """Pack what runs share for the object store, its images apart.

    Arrays in the store are mapped into every task of a node; tensors would be copied.
    """
    none: dict[str, Any] = dict.fromkeys(IMAGES)
    tensors = {name: getattr(shared.data, name) for name in IMAGES}
    images = {name: tensor.numpy() for name, tensor in tensors.items() if tensor is not None}
    return replace(shared, data=replace(shared.data, **none)), images


def work(group: list[Job], left: Mapping[str, Mapping[str, bytes]], parcel: list[Any]) -> Iterator[Item]:
    """Do a group in a folder of this node: the task. Each thing that happens is an item of its stream.

    `left` are the files that runs go on from, `parcel` holds the reference to what `pack` made.
    """
    items: SimpleQueue[Item | None] = SimpleQueue()
    with tempfile.TemporaryDirectory(prefix="bench-") as scratch, ThreadPoolExecutor(1) as pool:
        here = [replace(job, folder=Path(scratch) / job.id / job.folder.name) for job in group]
        for job in here:
            for name, content in left.get(job.id, {}).items():
                (job.folder / name).parent.mkdir(parents=True, exist_ok=True)
                (job.folder / name).write_bytes(content)
        training = pool.submit(_train, here, _unpack(parcel[0]), _Post(here, items.put))
        training.add_done_callback(lambda _: items.put(None))
        for item in iter(items.get, None):  # noqa: UP028  Ray sends to it, as to a generator only
            yield item
        training.result()


def _train(group: list[Job], shared: SharedContext, post: _Post) -> None:
    deterministic()
    one_thread(shared.device)
    for record in execute_all(group, shared, post.event):
        post.done(record)
    if shared.device.type == "cuda":
        torch.cuda.empty_cache()  # the other groups on this GPU may need it


class _Post:
    """What is sent of the folders of a group: every file once, checkpoints now and then."""

    def __init__(self, group: list[Job], send: Callable[[Item], None]) -> None:
        self.folders = {job.id: job.folder for job in group}
        self.send = send
        self.sent: set[Path] = set()
        self.due = dict.fromkeys(self.folders, time.monotonic() + CHECKPOINT_SECONDS)

    def event(self, run_id: str, kind: str, data: dict[str, Any]) -> None:
        """Send what happened in a run, with the picture that it left, if any."""
        files = self._read(run_id, [Path(data["path"])] if kind == "image" else [])
        checkpoint = self.folders[run_id] / CHECKPOINT
        if time.monotonic() >= self.due[run_id] and checkpoint.exists():
            files[CHECKPOINT] = checkpoint.read_bytes()
            self.due[run_id] = time.monotonic() + CHECKPOINT_SECONDS
        self.send((run_id, kind, data, files))

    def done(self, record: Record) -> None:
        """Send a run's record, with the rest of its folder."""
        made = [self.folders[record["id"]] / name for name in record["artifacts"]]
        files = self._read(record["id"], [path for path in made if path not in self.sent])
        self.send((record["id"], "done", record | {"node": socket.gethostname()}, files))

    def _read(self, run_id: str, paths: list[Path]) -> dict[str, bytes]:
        self.sent.update(paths)
        return {path.relative_to(self.folders[run_id]).as_posix(): path.read_bytes() for path in paths}


@lru_cache(maxsize=1)
def _unpack(parcel: Any) -> SharedContext:
    """Take what runs share out of the object store, once a process; `parcel` is the reference to it."""
    import ray

    shared: SharedContext
    shared, images = ray.get(parcel)
    with warnings.catch_warnings():  # the store's memory is read-only, and nothing here writes into data
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        tensors: dict[str, Any] = {name: torch.from_numpy(array) for name, array in images.items()}
    # Ray shows a task its own GPUs only, counted from 0
    device = torch.device("cuda:0") if shared.device.type == "cuda" else shared.device
    return replace(shared, data=replace(shared.data, **tensors), device=device)
