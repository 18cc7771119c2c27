"""What of a record goes into MLflow, under which name: parameters, curves, final metrics, tags."""

from __future__ import annotations

import colorsys
import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.errors import printable, redacted
from bench.store.records import Record

if TYPE_CHECKING:
    from mlflow.entities import DatasetInput

# The part before the slash is the section of the UI that a curve is drawn in.
CURVES = {
    "train_loss": "train/loss",
    "train_loss_nats": "train/loss_nats",
    "learning_rate": "train/learning_rate",
    "validation_loss": "validation/loss",
    "validation_loss_nats": "validation/loss_nats",
    "test_loss": "test/loss",
    "test_loss_nats": "test/loss_nats",
    "active_units": "latent/active_units",
    "train_seconds": "time/seconds",
    "images_per_second": "time/images_per_second",
}  # any other is `test/NAME`
TOTAL_SECONDS = "time/total_seconds"  # training seconds so far: the x axis of "Time against ELBO"

STATUS = {"finished": "FINISHED", "diverged": "FAILED", "failed": "FAILED", "interrupted": "KILLED"}
WHOLE = ("finished", "diverged")  # a run that is over for good
PLAIN = re.compile(r"[a-z][a-z0-9_]*")
OUTCOME_TAGS = ("outcome", "reason", "diverged.epoch", "diverged.term", "bench.recorded", "bench.healed")


def color(variant: str) -> str:
    """Choose a colour for all seeds of a variant, the same in every session, as #rrggbb."""
    hue, shade, *_ = hashlib.sha256(variant.encode()).digest()
    rgb = colorsys.hls_to_rgb(hue / 256, (0.3, 0.45, 0.6)[shade % 3], 0.7)
    return "#" + "".join(f"{round(255 * part):02x}" for part in rgb)


def flatten(value: object, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Spread a part as `encoder` -> `mlp` and `encoder.hidden` -> `[512, 256]`; text as it is, else JSON."""
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
    """Keep the numbers that may be logged: MLflow would store NaN as 0 and infinity as 1.8e308."""
    numbers = {k: v for k, v in (values or {}).items() if isinstance(v, (int, float))}
    return {key: float(value) for key, value in numbers.items() if math.isfinite(value)}


def curve_point(row: Mapping[str, Any], seconds: float) -> dict[str, float]:
    """Give one epoch of `curves` its names in MLflow; `seconds` of training so far."""
    named = {CURVES.get(key, f"test/{key}"): value for key, value in finite(row).items() if key != "epoch"}
    return named | {TOTAL_SECONDS: seconds}


def final_metrics(record: Record) -> dict[str, float]:
    """Collect the numbers that a run ends with, logged without a step: drawn as bars, sortable in the table.

    A run that may still go on has none: they would be logged twice.
    """
    if record["status"] not in WHOLE:
        return {}
    errors = finite(record.get("monte_carlo_error"))
    return {
        **finite(record.get("metrics")),
        **{f"monte_carlo_error/{name}": value for name, value in errors.items()},
        **finite({"beta_eff": record.get("beta_eff"), "diverged": float(record["status"] == "diverged")}),
        **finite({"chosen_epoch": (record.get("chosen") or {}).get("epoch")}),
        "time/evaluation_seconds": sum(finite(record.get("evaluation_seconds")).values()),
    }


def tags(record: Record, experiment: str, folder: Path) -> dict[str, str]:
    """Tag a run with what it is and what it came from, as far as its record knows; `folder` holds it."""
    git, run = record.get("git") or {}, record.get("run") or {}
    variant = record.get("variant", "")
    environment = record.get("environment") or {}
    known = {  # a stranger's record names no tag of MLflow's, such as that of a link
        **{key: environment[key] for key in environment if PLAIN.fullmatch(key) and key not in OUTCOME_TAGS},
        "variant": variant,
        "seed": record.get("seed"),
        "sweep": experiment.partition(" · ")[0],
        "document": run.get("document"),
        "likelihood_class": record.get("likelihood_class"),
        "command": record.get("command"),
        "git.dirty": json.dumps(bool(git["dirty"])) if "dirty" in git else None,
        "joined": record.get("joined"),
        "bench.id": record.get("id"),
        "bench.experiment": experiment,
        "bench.attempt": "latest",
        "mlflow.note.content": description(record.get("command"), folder),
        "mlflow.runColor": color(variant),
        "mlflow.source.name": "bench",
        "mlflow.source.type": "LOCAL",
        "mlflow.source.git.commit": git.get("commit"),
    }
    return _shown(known)


def outcome_tags(record: Record) -> dict[str, str]:
    """Tag a run with how it ended and, if it went wrong, where and why."""
    where = record.get("diverged") or {}
    known = {
        "outcome": record["status"],
        "bench.recorded": record.get("finished"),
        "reason": record.get("reason"),
        "diverged.epoch": where.get("epoch"),
        "diverged.term": where.get("term"),
        "likelihood_class": record.get("likelihood_class"),
    }
    return _shown(known)


def _shown(known: Mapping[str, object]) -> dict[str, str]:
    return {key: redacted(str(value)) for key, value in known.items() if value is not None}


def dataset_input(data: Mapping[str, Any]) -> DatasetInput:
    """Describe the data set under bench's own digest: MLflow's covers the first few images only."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    name, digest = str(data["name"]), str(data["digest"])[:12]
    sizes = json.dumps({key: value for key, value in data.items() if isinstance(value, int)})
    dataset = Dataset(name, digest, source_type="local", source=json.dumps({"uri": name}), profile=sizes)
    return DatasetInput(dataset, [InputTag("mlflow.data.context", "train")])


def description(command: str | None, folder: Path) -> str:
    """Describe a run (Markdown): how to repeat it and where its record lies."""
    line = " ".join(printable(redacted(command or "")).split())
    fence = "`" * max(3, 1 + line.count("`"))  # nothing inside ends the block
    repeat = f"Repeat this run:\n\n{fence}\n{line}\n{fence}\n\n" if line else ""
    return f"{repeat}Its record: `{printable(folder.as_posix()).replace('`', '?')}/record.json`"


def milliseconds(time: str | None) -> int | None:
    """Convert an ISO time of a record to MLflow's unit, milliseconds since 1970."""
    return int(datetime.fromisoformat(time).timestamp() * 1000) if time else None
