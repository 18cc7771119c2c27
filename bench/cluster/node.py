"""What a task does on its node, and what crosses the network to it and from it."""

from __future__ import annotations

import socket
import tempfile
import warnings
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import torch

from bench.device import deterministic, one_thread
from bench.executor import records_of
from bench.runner import Job, Workshop

IMAGES = ("train_images", "train_labels", "test_images", "test_labels")

Item = tuple[str, str, dict[str, Any], dict[str, bytes]]  # run id, kind, data, files of the run's folder


def pack(shop: Workshop) -> tuple[Workshop, dict[str, Any]]:
    """The workshop as it goes into the object store, its images apart.

    Arrays in the store are mapped into every task of a node; tensors would be copied.
    """
    none: dict[str, Any] = dict.fromkeys(IMAGES)
    images = {name: getattr(shop.data, name).numpy() for name in IMAGES}
    return replace(shop, data=replace(shop.data, **none)), images


def work(group: list[Job], parcel: list[Any]) -> Iterator[Item]:
    """The task: do a group in a folder of this node, and give each thing that happens as an item."""
    items: SimpleQueue[Item | None] = SimpleQueue()
    with tempfile.TemporaryDirectory(prefix="bench-") as scratch, ThreadPoolExecutor(1) as pool:
        here = [replace(job, folder=Path(scratch) / job.id) for job in group]
        training = pool.submit(_train, here, _unpack(parcel[0]), items)
        training.add_done_callback(lambda _: items.put(None))
        for item in iter(items.get, None):  # noqa: UP028  Ray sends to it, as to a generator only
            yield item
        training.result()


def _train(group: list[Job], shop: Workshop, items: SimpleQueue[Item | None]) -> None:
    deterministic()
    one_thread(shop.device)
    folders = {job.id: job.folder for job in group}
    sent: set[Path] = set()

    def files(run_id: str, paths: Iterable[Path]) -> dict[str, bytes]:
        new = [path for path in paths if path not in sent]
        sent.update(new)
        return {path.relative_to(folders[run_id]).as_posix(): path.read_bytes() for path in new}

    def emit(run_id: str, kind: str, data: dict[str, Any]) -> None:
        items.put((run_id, kind, data, files(run_id, [Path(data["path"])] if kind == "image" else [])))

    for record in records_of(group, shop, emit):
        run_id = record["id"]
        made = [folders[run_id] / name for name in record["artifacts"]]
        items.put((run_id, "done", record | {"node": socket.gethostname()}, files(run_id, made)))
    if shop.device.type == "cuda":
        torch.cuda.empty_cache()  # the other groups on this GPU may need it


@lru_cache(maxsize=1)
def _unpack(parcel: Any) -> Workshop:
    """The workshop out of the object store, once a process; `parcel` is the reference to it."""
    import ray

    shop: Workshop
    shop, images = ray.get(parcel)
    with warnings.catch_warnings():  # the store's memory is read-only, and nothing here writes into data
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        tensors: dict[str, Any] = {name: torch.from_numpy(array) for name, array in images.items()}
    # Ray shows a task its own GPUs only, counted from 0
    device = torch.device("cuda:0") if shop.device.type == "cuda" else shop.device
    return replace(shop, data=replace(shop.data, **tensors), device=device, net=shop.net.to(device))
