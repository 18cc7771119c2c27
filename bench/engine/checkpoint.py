"""A run's state after an epoch, from which an interrupted run goes on to the bits that it would have had.

It is one safetensors file in the run's folder: the tensors of model and optimizer, with patience also of the
model of the best epoch, and as its metadata the epoch, the schedule and the curves. No random generator is
kept: every seed, purpose and epoch has a stream of its own (`bench.engine.device.stream`), so the epoch says
which numbers come next.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor
from torch.optim import Optimizer

from bench.store.records import CHECKPOINT
from bench.store.whole import replacing

TENSORS = ("model", "optimizer", "best")
ABOUT = ("epoch", "schedule", "curves", "resumed")
UNREADABLE = (OSError, SafetensorError, ValueError, KeyError, TypeError, RecursionError)
SHARE = 0.05  # of the time may go into checkpoints: every epoch has one, unless epochs are that short


@dataclass(frozen=True)
class State:
    """A run after an epoch: all that the next epoch depends on."""

    epoch: int
    model: dict[str, Tensor]  # the state_dict
    optimizer: dict[str, Tensor]  # "0.exp_avg" of the first parameter
    schedule: dict[str, Any]
    curves: list[dict[str, Any]]
    resumed: list[int] = field(default_factory=list)  # the epochs after which the run was taken up again
    best: dict[str, Tensor] = field(default_factory=dict)  # of the epoch chosen so far, if that is another


class Pace:
    """Choose the epochs to keep: as many as take SHARE of the time, the same for all runs of a group."""

    def __init__(self) -> None:
        self._epoch = 0
        self._kept = True
        self._next = 0.0

    def keeps(self, epoch: int) -> bool:
        """Say whether this epoch is kept; asked again, the answer is the same."""
        if epoch != self._epoch:
            self._epoch, self._kept = epoch, time.monotonic() >= self._next
        return self._kept

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Count what is done inside as the cost of a checkpoint."""
        started = time.monotonic()
        yield
        now = time.monotonic()
        self._next = max(self._next, now) + (now - started) / SHARE


class Checkpoint:
    """The checkpoint in a run's folder; only the same `maker` goes on from it, to have the same bits."""

    def __init__(self, folder: Path, maker: Mapping[str, Any]) -> None:
        self.file = folder / CHECKPOINT
        self.maker = dict(maker)

    def keep(self, state: State) -> None:
        """Replace the file, atomically; if that fails, on a full disk say, the run goes on without."""
        about = json.dumps(self.maker | {name: getattr(state, name) for name in ABOUT})
        tensors = {
            f"{part}/{name}": value.detach().cpu().contiguous()
            for part in TENSORS
            for name, value in getattr(state, part).items()
        }
        # Where that fails the run itself is whole: it merely could not be taken up again
        with suppress(OSError), replacing(self.file) as temporary:
            temporary.write_bytes(save(tensors, {"about": about, "sha256": _digest(about, tensors)}))

    def load(self) -> State | None:
        """Read the state; None where it is absent, damaged, or of another maker."""
        try:
            with safe_open(self.file, framework="pt") as stored:
                metadata = stored.metadata() or {}
                tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118  no mapping
            about = json.loads(metadata["about"])
            if metadata["sha256"] != _digest(metadata["about"], tensors):
                return None
            if any(about[key] != value for key, value in self.maker.items()):
                return None
            fields = {name: about[name] for name in ABOUT}
        except UNREADABLE:
            return None
        parts: dict[str, Any] = {part: {} for part in TENSORS}
        for name, value in tensors.items():
            part, _, inner = name.partition("/")
            parts[part][inner] = value
        return State(**parts, **fields)

    def remove(self) -> None:
        """Remove the file: the run has its record."""
        self.file.unlink(missing_ok=True)


def epoch_kept(folder: Path) -> int:
    """Read the epoch of a folder's checkpoint, not its tensors; 0 where there is none that can be read."""
    try:
        with safe_open(folder / CHECKPOINT, framework="pt") as stored:
            return int(json.loads((stored.metadata() or {})["about"])["epoch"])
    except UNREADABLE:
        return 0


def optimizer_tensors(optimizer: Optimizer, replica: int | None = None) -> dict[str, Tensor]:
    """Collect an optimizer's state by parameter and name; of a stacked model, one replica's part."""
    found: dict[str, Tensor] = {}
    for index, parameter in enumerate(_parameters(optimizer)):
        for name, value in optimizer.state.get(parameter, {}).items():
            if isinstance(value, Tensor):
                mine = replica is not None and value.shape == parameter.shape
                found[f"{index}.{name}"] = value[replica] if mine else value
    return found


def restore_optimizer(
    optimizer: Optimizer, tensors: Sequence[Mapping[str, Tensor]], *, stacked: bool
) -> None:
    """Undo `optimizer_tensors`: for the one run, or for every replica of a stacked model."""
    parameters = _parameters(optimizer)
    for key in tensors[0]:
        index, _, name = key.partition(".")
        parameter = parameters[int(index)]
        values = [of_one[key] for of_one in tensors]
        count = values[0].ndim == 0 and parameter.ndim  # of steps: the same for every replica
        apart = not stacked and values[0].shape != parameter.shape  # as Adafactor's of rows and of columns
        if count or apart:
            value = values[0].to(parameter.device, copy=True)
        else:
            value = torch.empty_like(parameter, requires_grad=False)  # its memory layout is the parameter's
            value.copy_(torch.stack(values).view_as(parameter) if stacked else values[0])
        optimizer.state[parameter][name] = value


def _parameters(optimizer: Optimizer) -> list[Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _digest(about: str, tensors: Mapping[str, Tensor]) -> str:
    found = hashlib.sha256(about.encode())
    for name in sorted(tensors):
        found.update(f"{name} {tensors[name].dtype} {tuple(tensors[name].shape)}".encode())
        found.update(tensors[name].numpy().tobytes())
    return found.hexdigest()
