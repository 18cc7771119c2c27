"""One experiment in an MLflow store. One function, `deliver`, sends what the store lacks of a run."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from importlib.metadata import version
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.errors import redacted
from bench.store.files import PICTURE, is_own
from bench.store.files import WEIGHTS as WEIGHTS_SIZE
from bench.store.lock import held
from bench.store.records import RECORD, Record, RunFolder
from bench.store.shapes import FORMAT
from bench.tracking import entries, images, owner, views
from bench.tracking.store import connect, database_file, experiment_id, is_server, reason, resolve_uri, search
from bench.tracking.ui import links

if TYPE_CHECKING:
    from mlflow.entities import Run

PARAMS = 100  # that one request of MLflow may hold
TOGETHER = 50  # epochs a request: less than 1000 numbers, and a request is stored whole or not at all


class TrackingError(Exception):
    """MLflow refused or went away after the start; training need not stop for it."""


@dataclass
class Attempt:
    """One attempt at a run, and what of it the store holds.

    With `resume` it goes on in the MLflow run of the attempt before, if that stopped and nobody writes it.
    """

    folder: Path  # the run's
    resume: bool = False
    drawn: list[images.Picture] = field(default_factory=list)  # so far; at the end, all in the folder
    asked: bool = False  # the store was asked to open it, and may have done so though the answer was lost
    mlflow_id: str = ""
    began: int = 0  # milliseconds since 1970
    epochs: int | None = None  # the last that the store holds; None before it has the parameters
    pictures: set[images.Picture] = field(default_factory=set)  # that the store holds


class Tracker:
    """One MLflow experiment and the runs in it.

    `uri` None means MLFLOW_TRACKING_URI, else `sqlite:///mlflow.db` in the working directory. Raises
    BenchError, before anything trains, when the store cannot be used or the experiment was deleted in it.
    `warnings` collects what went wrong without being an error.
    """

    def __init__(self, uri: str | None, experiment: str) -> None:
        self.uri = resolve_uri(uri)
        self.experiment = experiment
        self.warnings: list[str] = []
        self._client = connect(self.uri)
        self.experiment_id = experiment_id(self._client, self.uri, experiment)

    @property
    def page(self) -> str:
        """Link to the experiment in the server's UI, or in that of `bench ui`; without credentials."""
        base = self.uri if is_server(self.uri) else "http://127.0.0.1:5000"
        return links(redacted(base).replace("***@", ""), self.experiment_id)["experiment"]

    def claimed(self) -> AbstractContextManager[None]:
        """Keep other processes from writing this experiment: a lock beside an sqlite file, nothing elsewhere.

        Different experiments share a store. Raises BenchError where another process holds the lock.
        """
        file = database_file(self.uri)
        if file is None:
            return nullcontext()
        lock = file.with_name(f"{file.name}.experiment-{self.experiment_id}.lock")
        return held(
            lock, f"the MLflow experiment {self.experiment!r} in {self.uri}", "give another --tracking-uri"
        )

    def deliver(self, record: Record, attempt: Attempt) -> str:
        """Send what the store lacks of a run; close it if its record has a status. Give its MLflow id.

        While a run goes on, its record so far has no status. May be repeated, after a failure too: an epoch,
        a number or a picture sent twice is stored once. A record that the store holds is left alone. Earlier
        attempts at the run are tagged superseded.
        """
        with _tracking(f"sending {record['id']}"):
            if not attempt.mlflow_id:
                earlier = self._search(f"tags.`bench.id` = '{record['id']}'")
                for run in earlier:
                    if _holds(run, record):
                        return str(run.info.run_id)
                self._open(record, attempt, earlier)
            if attempt.epochs is None:
                self._send_settings(record, attempt)
            self._send_epochs(record, attempt)
            drawn = attempt.drawn
            if "status" in record:
                epochs = (record.get("run") or {}).get("epochs") or attempt.epochs or 1
                drawn = [*images.in_folder(RunFolder(attempt.folder).pictures, epochs)]
            new = [picture for picture in drawn if picture not in attempt.pictures and picture[0].exists()]
            attempt.pictures.update(self._log_images(attempt.mlflow_id, new))
            if "status" in record:
                self._close(record, attempt)
        return attempt.mlflow_id

    def lacking(self, records: Iterable[Record]) -> list[Record]:
        """List those of the records whose run the store does not hold whole."""
        with _tracking("looking for what was sent"):
            latest = self._search("tags.`bench.attempt` = 'latest'")
        there = {run.data.tags.get("bench.id"): run for run in latest}
        return [r for r in records if r["id"] not in there or not _holds(there[r["id"]], r)]

    def heal(self) -> int:
        """Close what dead processes of this machine left RUNNING here; give how many runs.

        Each ends as it says that it ended, else KILLED. A living process's runs, and those of other machines,
        are never touched.
        """
        with _tracking("closing abandoned runs"):
            dead = [r for r in self._search("attributes.status = 'RUNNING'") if owner.abandoned(r.data.tags)]
            for run in dead:
                self._kill(run, f"process {run.data.tags['bench.pid']} ended without closing this run")
        return len(dead)

    # The experiment as people find it

    def describe(self, text: str) -> None:
        """Set the experiment's description (Markdown)."""
        with _tracking("describing the experiment"):
            text = redacted(text)[: views.LONGEST]
            self._client.set_experiment_tag(self.experiment_id, "mlflow.note.content", text)

    def save_views(
        self, variants: Mapping[str, Mapping[str, Any]], *, seed: int = 0, epochs: int = 1
    ) -> None:
        """Write the saved views; pictures are shown of `seed`, at epoch `epochs`.

        A view that a user edited is left alone; one of bench's that it makes no more is taken away. What goes
        wrong becomes a line of `warnings`, not an error.
        """
        try:
            here, (first, below) = version("mlflow"), views.VERSIONS
            if not first <= tuple(map(int, here.split(".")[:2])) < below:
                raise ValueError(f"MLflow {here} may read them otherwise than 3.17 does")
            present = self._client.get_experiment(self.experiment_id).tags
            untouched = views.untouched(present)
            wanted = {views.TAG + v.key: v for v in views.saved_views(epochs, variants)}
            for key, view in wanted.items():
                if key not in present or key in untouched:
                    self._client.set_experiment_tag(self.experiment_id, key, view.value(seed, _now()))
            for key in untouched - wanted.keys():
                self._client.delete_experiment_tag(self.experiment_id, key)
        except Exception as error:
            self.warnings.append(f"saved views were not written to MLflow: {redacted(str(error))}")

    def summary(self, folder: Path, texts: Mapping[str, str]) -> str:
        """Put a report's texts and its folder's figures into the run that holds them; give its MLflow id.

        What was there is replaced. Figures named `contact….png` also go into the image grid.
        """
        tags = {"bench.summary": "report", "mlflow.source.name": "bench", "mlflow.source.type": "LOCAL"}
        name = f"report · {self.experiment}"
        with _tracking("logging the report"):
            found = self._search("tags.`bench.summary` = 'report'")
            run = found[0] if found else self._client.create_run(self.experiment_id, None, tags, name)
            mlflow_id = str(run.info.run_id)
            if run.info.status == "RUNNING":  # new, or its process died at once
                self._client.set_terminated(mlflow_id)
            for name, text in texts.items():
                self._client.log_text(mlflow_id, text, name)
            for file in sorted(folder.glob("figures/**/[!.]*.*")):
                inside = file.parent.relative_to(folder)
                whole = is_own(file, under=len(inside.parts) + 1, most=PICTURE)
                if whole and file.suffix in images.SUFFIXES:
                    self._client.log_artifact(mlflow_id, str(file), inside.as_posix())
            self._log_images(mlflow_id, [(f, f.stem, 1) for f in folder.glob("figures/**/contact*.png")])
        return mlflow_id

    # One run, step by step

    def _open(self, record: Record, attempt: Attempt, earlier: list[Run]) -> None:
        """Create the attempt's MLflow run, or reopen that of the attempt before it."""
        attempt.asked = True
        tags = entries.tags(record, self.experiment, attempt.folder) | owner.owner_tags()
        stopped = next(filter(_unfinished, earlier), None) if attempt.resume else None
        for run in earlier:
            if run is not stopped:
                self._client.set_tag(run.info.run_id, "bench.attempt", "superseded")
                theirs = run.data.tags
                if run.info.status == "RUNNING" and (owner.ours(theirs) or owner.abandoned(theirs)):
                    self._kill(run, "a later attempt took its place")
        if stopped is None:
            began = entries.milliseconds(record.get("started")) or _now()
            name = views.run_name(record["variant"], record["seed"])
            stopped = self._client.create_run(self.experiment_id, began, tags, name)
        else:
            for tag in stopped.data.tags.keys() & set(entries.OUTCOME_TAGS):
                self._client.delete_tag(stopped.info.run_id, tag)
            self._set_tags(stopped.info.run_id, tags)
            self._client.update_run(stopped.info.run_id, "RUNNING")
        attempt.mlflow_id, attempt.began = str(stopped.info.run_id), stopped.info.start_time

    def _send_settings(self, record: Record, attempt: Attempt) -> None:
        """Log parameters and data set; find out which epochs an earlier attempt has logged."""
        from mlflow.entities import Param

        named = {"variant": record["variant"], "seed": str(record["seed"])}
        settings = dict(entries.flatten(record.get("run") or {})) | named
        params = [Param(key, value[:6000]) for key, value in settings.items()]
        for first in range(0, len(params), PARAMS):
            self._client.log_batch(attempt.mlflow_id, params=params[first : first + PARAMS])
        if record.get("data"):
            self._client.log_inputs(attempt.mlflow_id, datasets=[entries.dataset_input(record["data"])])
        logged = self._client.get_metric_history(attempt.mlflow_id, entries.TOTAL_SECONDS)
        attempt.epochs = max((point.step for point in logged), default=0)

    def _send_epochs(self, record: Record, attempt: Attempt) -> None:
        """Log the epochs that the store lacks, each at the training time since the run began."""
        from mlflow.entities import Metric

        rows = list(record.get("curves") or ())
        seconds = accumulate(entries.finite(row).get("train_seconds", 0.0) for row in rows)
        timed = zip(rows, seconds, strict=True)
        new = [(row, so_far) for row, so_far in timed if row["epoch"] > (attempt.epochs or 0)]
        for first in range(0, len(new), TOGETHER):
            chunk = new[first : first + TOGETHER]
            points = [
                Metric(key, value, attempt.began + int(1000 * so_far), row["epoch"])
                for row, so_far in chunk
                for key, value in entries.curve_point(row, so_far).items()
            ]
            self._client.log_batch(attempt.mlflow_id, metrics=points)
            attempt.epochs = chunk[-1][0]["epoch"]

    def _close(self, record: Record, attempt: Attempt) -> None:
        """Log final numbers, files and how the run ended; the tags last, as they say that all is there."""
        from mlflow.entities import Metric

        mlflow_id, folder = attempt.mlflow_id, RunFolder(attempt.folder)
        # A clock that was put back must not end a run before it began
        end = max(entries.milliseconds(record.get("finished")) or _now(), attempt.began)
        final = entries.final_metrics(record).items()
        self._client.log_batch(mlflow_id, metrics=[Metric(key, value, end, 0) for key, value in final])
        if is_own(folder.weights, under=2, most=WEIGHTS_SIZE):
            self._client.log_artifact(mlflow_id, str(folder.weights))
        for file in sorted(folder.pictures.glob("[!.]*.*")):
            if is_own(file, under=3, most=PICTURE) and not images.EPOCH_PICTURE.fullmatch(
                file.stem
            ):  # those are in the image grid
                self._client.log_artifact(mlflow_id, str(file), "pictures")
        text = json.dumps({"format": FORMAT, **record}, indent=1, ensure_ascii=False, allow_nan=False)
        self._client.log_text(mlflow_id, text, RECORD)
        self._set_tags(mlflow_id, entries.outcome_tags(record))
        self._client.set_terminated(mlflow_id, entries.STATUS[record["status"]], end)

    def _kill(self, run: Run, why: str) -> None:
        status = entries.STATUS.get(run.data.tags.get("outcome", ""), "KILLED")
        if status == "KILLED":
            self._client.set_tag(run.info.run_id, "bench.healed", why)
        self._client.set_terminated(run.info.run_id, status, max(_now(), run.info.start_time))

    def _set_tags(self, mlflow_id: str, tags: dict[str, str]) -> None:
        from mlflow.entities import RunTag

        self._client.log_batch(mlflow_id, tags=[RunTag(key, value[:5000]) for key, value in tags.items()])

    def _log_images(self, mlflow_id: str, pictures: list[images.Picture]) -> list[images.Picture]:
        """Log pictures and give those that went; one that cannot be read is a line of `warnings`."""
        sent = []
        with tempfile.TemporaryDirectory() as folder:
            for picture in pictures:
                try:
                    images.convert(picture, Path(folder))
                    sent.append(picture)
                except images.UnreadableError as error:
                    if (told := f"MLflow lacks a picture: {error}") not in self.warnings:
                        self.warnings.append(told)
            if sent:
                self._client.log_artifacts(mlflow_id, folder, "images")
                self._client.set_tag(mlflow_id, "mlflow.loggedImages", "True")
        return sent

    def _search(self, wanted: str) -> list[Run]:
        return list(search(self._client, self.experiment_id, wanted))


@contextmanager
def _tracking(doing: str) -> Iterator[None]:
    """Turn whatever MLflow, its database or the network raises into a TrackingError without secrets."""
    try:
        yield
    except Exception as error:
        raise TrackingError(f"MLflow failed while {doing}: {reason(error)}") from None


def _holds(run: Run, record: Record) -> bool:
    """Tell whether a run in the store is this very record, whole."""
    tags, status = run.data.tags, record.get("status")
    same = tags.get("bench.recorded") in (None, record.get("finished"))  # stores of bench 0.1 lack it
    whole = tags.get("outcome") == status and run.info.status == entries.STATUS.get(status or "")
    return same and whole and tags.get("bench.attempt") == "latest"


def _unfinished(run: Run) -> bool:
    """Tell whether a run in the store may be taken up again."""
    tags = run.data.tags
    free = run.info.status != "RUNNING" or owner.ours(tags) or owner.abandoned(tags)
    return free and tags.get("bench.attempt") == "latest" and tags.get("outcome") not in entries.WHOLE


def _now() -> int:
    return int(time.time() * 1000)
