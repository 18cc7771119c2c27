"""What of a run goes into MLflow, under which name: parameters, curves, final metrics, tags, pictures."""

from __future__ import annotations

import colorsys
import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.errors import printable, redacted
from bench.store.records import read_json

if TYPE_CHECKING:
    from mlflow.entities import DatasetInput

# The part before the slash is the section of the UI that a curve is drawn in.
CURVES = {
    "train_loss": "train/loss",
    "train_loss_nats": "train/loss_nats",
    "learning_rate": "train/learning_rate",
    "test_loss": "test/loss",
    "test_loss_nats": "test/loss_nats",
    "validation_loss": "validation/loss",
    "validation_loss_nats": "validation/loss_nats",
    "elbo": "test/elbo",
    "reconstruction": "test/reconstruction",
    "kl": "test/kl",
    "active_units": "latent/active_units",
    "train_seconds": "time/seconds",
    "images_per_second": "time/images_per_second",
}
TOTAL_SECONDS = "time/total_seconds"  # training seconds so far: the x axis of "Time against ELBO"

STATUS = {"finished": "FINISHED", "diverged": "FAILED", "failed": "FAILED", "interrupted": "KILLED"}
WHOLE = ("finished", "diverged")  # a run that is over for good
OUTCOME_TAGS = ("outcome", "reason", "diverged.epoch", "diverged.term", "bench.recorded", "bench.healed")


def run_name(variant: str, seed: int) -> str:
    """How a run is called in the UI's table."""
    return f"{variant} · seed {seed}"


def color(variant: str) -> str:
    """A colour for a variant, the same for all its seeds and in every session, as #rrggbb."""
    hue, shade, *_ = hashlib.sha256(variant.encode()).digest()
    rgb = colorsys.hls_to_rgb(hue / 256, (0.3, 0.45, 0.6)[shade % 3], 0.7)
    return "#" + "".join(f"{round(255 * part):02x}" for part in rgb)


def flatten(value: object, prefix: str = "") -> Iterator[tuple[str, str]]:
    """A part as `encoder` -> `mlp` and `encoder.hidden` -> `[512, 256]`; text as it is, the rest as JSON."""
    if isinstance(value, Mapping):
        items = value
        if value.keys() == {"name", "options"}:
            yield prefix, str(value["name"])
            items = value["options"]
        for key, item in items.items():
            yield from flatten(item, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def finite(values: Mapping[str, Any] | None) -> dict[str, float]:
    """The numbers that may be logged: MLflow would store NaN as 0 and infinity as 1.8e308."""
    numbers = {k: v for k, v in (values or {}).items() if isinstance(v, (int, float))}
    return {key: float(value) for key, value in numbers.items() if math.isfinite(value)}


def curve_point(row: Mapping[str, Any]) -> dict[str, float]:
    """One epoch of `curves` under the names it has in MLflow."""
    return {CURVES.get(key, f"test/{key}"): value for key, value in finite(row).items() if key != "epoch"}


def final_metrics(record: Mapping[str, Any]) -> dict[str, float]:
    """The numbers a run ends with, logged without a step: drawn as bars, sortable in the table.

    None while it may still go on: they would be logged twice.
    """
    if record["status"] not in WHOLE:
        return {}
    errors = finite(record.get("monte_carlo_error"))
    return {
        **finite(record.get("metrics")),
        **{f"monte_carlo_error/{name}": value for name, value in errors.items()},
        **finite({"beta_eff": record.get("beta_eff"), "diverged": float(record["status"] == "diverged")}),
        "time/evaluation_seconds": sum(finite(record.get("evaluation_seconds")).values()),
    }


def run_tags(record: Mapping[str, Any]) -> dict[str, str]:
    """Tags from a record, or from as much of one as is known when the run starts.

    Reads `experiment`, `run.document`, `likelihood_class`, `git`, `environment`, `command`, where present.
    """
    git, run = record.get("git") or {}, record.get("run") or {}
    tags = {
        "sweep": record.get("experiment"),
        "document": run.get("document"),
        "likelihood_class": record.get("likelihood_class"),
        "mlflow.source.git.commit": git.get("commit"),
        "git.dirty": json.dumps(bool(git["dirty"])) if "dirty" in git else None,
        "command": record.get("command"),
        **(record.get("environment") or {}),
    }
    return {key: redacted(str(value)) for key, value in tags.items() if value is not None}


def sweep(folder: Path, record: Mapping[str, Any]) -> str | None:
    """The experiment of a run's folder: a record that was taken over names the one that it was made in."""
    try:
        name = read_json(folder / "experiment.json")["name"]
    except (OSError, ValueError, TypeError, KeyError):  # records may lie alone
        name = record.get("experiment")
    return name if isinstance(name, str) else None


def marks(run_id: str, experiment: str, variant: str, seed: int) -> dict[str, str]:
    """The tags by which a run is found, drawn and told from other attempts."""
    return {
        "bench.id": run_id,
        "bench.experiment": experiment,
        "bench.attempt": "latest",
        "variant": variant,
        "seed": str(seed),
        "mlflow.runColor": color(variant),
        "mlflow.source.name": "bench",
        "mlflow.source.type": "LOCAL",
    }


def outcome_tags(record: Mapping[str, Any]) -> dict[str, str]:
    """How the run ended, and, if it went wrong, where and why."""
    where = record.get("diverged") or {}
    tags = {
        "outcome": record["status"],
        "bench.recorded": record.get("finished"),
        "reason": record.get("reason"),
        "diverged.epoch": where.get("epoch"),
        "diverged.term": where.get("term"),
        "likelihood_class": record.get("likelihood_class"),
    }
    return {key: redacted(str(value)) for key, value in tags.items() if value is not None}


def dataset_input(data: Mapping[str, Any]) -> DatasetInput:
    """The data set under our own digest: MLflow's covers the first few images only."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    sizes = {key: value for key, value in data.items() if isinstance(value, int)}
    dataset = Dataset(
        name=str(data["name"]),
        digest=str(data["digest"])[:12],
        source_type="local",
        source=json.dumps({"uri": str(data["name"])}),
        profile=json.dumps(sizes),
    )
    return DatasetInput(dataset, [InputTag("mlflow.data.context", "train")])


def description(command: str | None, folder: Path) -> str:
    """The run's description (Markdown): how to repeat it and where its record lies."""
    line = " ".join(redacted(command or "").split())  # on one line nothing inside can end the block
    repeat = f"Repeat this run:\n\n```\n{line}\n```\n\n" if line else ""
    return f"{repeat}Its record: `{printable(folder.as_posix()).replace('`', '?')}/record.json`"


def milliseconds(time: str | None) -> int | None:
    """An ISO time of a record in MLflow's unit, milliseconds since 1970."""
    return int(datetime.fromisoformat(time).timestamp() * 1000) if time else None
