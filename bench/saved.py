"""A trained model back from the folder that its run left."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load

from bench.engine.device import initialised
from bench.errors import BenchError, printable
from bench.parts.vae import VAE, build
from bench.spec import registry as parts
from bench.spec.experiment import PARTS, Run
from bench.store import records
from bench.store.experiments import JUDGED
from bench.store.files import WEIGHTS as LARGEST
from bench.store.files import read_regular
from bench.store.records import RECORD, WEIGHTS, Record, RunFolder

FIRST_SHAPE = [28, 28]  # of the images of runs from before records said it
LONGEST_SIDE = 4096  # pixels


@dataclass(frozen=True)
class Saved:
    """Hold a run as recorded: its folder, its record, the run that this resolves, the shape of its images."""

    folder: Path
    record: Record
    run: Run
    shape: tuple[int, ...]  # (H, W), or (H, W, 3) in colour


def load_model(folder: Path | str) -> VAE:
    """Load the trained model of a run's folder (`reports/runs/<key>`): on the CPU, in eval mode.

    Of a diverged run, the model after its last finite epoch. Torch's random numbers are left alone.

    Raises BenchError where the folder holds no record, no weights, or other weights than it records.
    """
    return model_of(read_saved(folder))


def read_saved(folder: Path | str, record: Record | None = None) -> Saved:
    """Read what a run's folder, or its record.json, says of the run; `record` is taken in place of its own.

    Raises BenchError for a folder without a record and for a record of another version of bench.
    """
    folder = Path(folder)
    folder = folder.parent if folder.name == RECORD else folder
    record = record or records.read(folder)
    if record is None:
        raise BenchError(f"{folder} holds no {RECORD}; give a run's folder: reports/runs/RUN")
    if record.get("origin") == JUDGED:
        what = f"{folder} holds a model that was trained elsewhere, and a record names no code to make it"
        raise BenchError(f"{what}; bench judge measures it with its adapter")
    shape = (record.get("data") or {}).get("shape", FIRST_SHAPE)
    try:
        sides = shape[:2] if isinstance(shape, list) and shape[2:] in ([], [3]) else []
        if not (len(sides) == 2 and all(map(_is_side, sides))):
            raise BenchError("data.shape: not a height and a width in pixels, and 3 of images in colour")
        run = Run.model_validate(record.get("run"))
        for kind in PARTS:
            part = getattr(run, kind)
            if part and part.sha256 is None:
                parts.part(kind, part.name).model.model_validate(part.options)
    except (ValidationError, BenchError) as error:
        why = f"run.{records.fault(error)}" if isinstance(error, ValidationError) else str(error)
        raise BenchError(
            f"{folder / RECORD} is of another version of bench ({why}); run it again with this one"
        ) from None
    return Saved(folder, record, run, tuple(shape))


def model_of(saved: Saved) -> VAE:
    """Load the trained model of a run as recorded; as `load_model`."""
    file, content = saved.folder / WEIGHTS, _weights(saved)
    try:
        weights = load(content)
        with torch.device("meta"):  # shapes only: what does not fit takes no memory
            build(saved.run, saved.shape).load_state_dict(weights, assign=True)
        with initialised(saved.run.seed):
            model = build(saved.run, saved.shape)
        model.load_state_dict(weights)
    except (KeyError, TypeError, ValueError, RuntimeError, SafetensorError) as error:
        why = printable(str(error).splitlines()[0][:200])
        raise BenchError(
            f"{file} does not fit the model that its {RECORD} describes ({why}); "
            "load it with the version of bench that wrote it, or run it again"
        ) from None
    return model.eval()


def _is_side(value: object) -> bool:
    return type(value) is int and 0 < value <= LONGEST_SIDE


def _weights(saved: Saved) -> bytes:
    """Read the weights, once they are known to be those that were recorded."""
    file = saved.folder / WEIGHTS
    recorded = (saved.record.get("artifacts") or {}).get(WEIGHTS)
    if recorded is None:
        reason = printable(str(saved.record.get("reason") or "no reason given"))[:200]
        raise BenchError(
            f"{saved.folder} is of a run that kept no weights ({saved.record['status']}: {reason}); "
            "give a finished run"
        )
    if RunFolder(saved.folder).bare(saved.record):
        raise BenchError(
            f"{saved.folder} holds a record only, as runs are published: its weights are not here; "
            f"bench run SPEC --fresh --only {saved.run.variant} makes them"
        )
    try:
        content = read_regular(file, LARGEST, under=2)
    except OSError as error:
        raise BenchError(f"cannot read {file}: {error.strerror}; bring it back, or run again") from None
    if hashlib.sha256(content).hexdigest() != recorded:
        raise BenchError(
            f"{file} is truncated or not the file that {RECORD} names (its sha256 differs); "
            f"bring that one back, or remove {saved.folder} and run again"
        )
    return content
