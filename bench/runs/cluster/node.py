"""What a task does on its node, and what crosses the network to it and from it."""

from __future__ import annotations

import socket
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import torch

from bench.engine.device import deterministic, one_thread
from bench.runs.execute import Job, SharedContext
from bench.runs.workers import records_of
from bench.store.records import CHECKPOINT, Record

CHECKPOINT_SECONDS = 300.0  # between those that are sent of a run: it loses no more when its node is lost
IMAGES = ("train_images", "train_labels", "test_images", "test_labels")

Item = tuple[str, str, dict[str, Any], dict[str, bytes]]  # run id, kind, data, files of the run's folder


def pack(shared: SharedContext) -> tuple[SharedContext, dict[str, Any]]:
    """The workshop as it goes into the object store, its images apart.

    Arrays in the store are mapped into every task of a node; tensors would be copied.
    """
    none: dict[str, Any] = dict.fromkeys(IMAGES)
    images = {name: getattr(shared.data, name).numpy() for name in IMAGES}
    return replace(shared, data=replace(shared.data, **none)), images


def work(group: list[Job], left: Mapping[str, Mapping[str, bytes]], parcel: list[Any]) -> Iterator[Item]:
    """The task: do a group in a folder of this node, and give each thing that happens as an item.

    `left` are the files that runs go on from, `parcel` holds the reference to what `pack` made.
    """
    items: SimpleQueue[Item | None] = SimpleQueue()
    with tempfile.TemporaryDirectory(prefix="bench-") as scratch, ThreadPoolExecutor(1) as pool:
        here = [replace(job, folder=Path(scratch) / job.id) for job in group]
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
    for record in records_of(group, shared, post.event):
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
        """Something happened in a run, that has left a picture perhaps."""
        files = self._read(run_id, [Path(data["path"])] if kind == "image" else [])
        checkpoint = self.folders[run_id] / CHECKPOINT
        if time.monotonic() >= self.due[run_id] and checkpoint.exists():
            files[CHECKPOINT] = checkpoint.read_bytes()
            self.due[run_id] = time.monotonic() + CHECKPOINT_SECONDS
        self.send((run_id, kind, data, files))

    def done(self, record: Record) -> None:
        """A run has its record: the rest of its folder."""
        made = [self.folders[record["id"]] / name for name in record["artifacts"]]
        files = self._read(record["id"], [path for path in made if path not in self.sent])
        self.send((record["id"], "done", record | {"node": socket.gethostname()}, files))

    def _read(self, run_id: str, paths: list[Path]) -> dict[str, bytes]:
        self.sent.update(paths)
        return {path.relative_to(self.folders[run_id]).as_posix(): path.read_bytes() for path in paths}


@lru_cache(maxsize=1)
def _unpack(parcel: Any) -> SharedContext:
    """The shared context out of the object store, once a process; `parcel` is the reference to it."""
    import ray

    shared: SharedContext
    shared, images = ray.get(parcel)
    with warnings.catch_warnings():  # the store's memory is read-only, and nothing here writes into data
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        tensors: dict[str, Any] = {name: torch.from_numpy(array) for name, array in images.items()}
    # Ray shows a task its own GPUs only, counted from 0
    device = torch.device("cuda:0") if shared.device.type == "cuda" else shared.device
    shared.reference.net.to(device)
    return replace(shared, data=replace(shared.data, **tensors), device=device)
