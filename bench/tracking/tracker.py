"""One experiment in one MLflow store, written by explicit run ids: no global state, one owner of a status."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.errors import redacted
from bench.store.records import FORMAT, RECORD, Record, RunFolder
from bench.tracking import entries, images, owner, summary, views
from bench.tracking.curves import Curves, Point
from bench.tracking.store import claimed, connect, experiment_id, is_server, reason, resolve_uri

if TYPE_CHECKING:
    import numpy as np
    from mlflow.entities import Run
    from numpy.typing import NDArray

BATCH = {"metrics": 1000, "params": 100, "tags": 100}  # what one request of MLflow may hold


class TrackingError(Exception):
    """MLflow refused or went away after the start; training need not stop for it."""


@dataclass
class _Open:
    """A run that this process writes: when it began (ms since 1970) and what of it the store has."""

    began: int
    curves: Curves = field(default_factory=Curves)
    pictures: images.There | None = None  # None is to be asked of the store


class Tracker:
    """One MLflow experiment and the runs in it.

    `uri` None means MLFLOW_TRACKING_URI, else `sqlite:///mlflow.db` in the working directory; `reports` is
    the experiment's reports folder. Raises BenchError, before anything trains, when the store cannot be used
    or the experiment was deleted in it. `warnings` collects what went wrong but not enough to raise.
    """

    def __init__(self, uri: str | None, experiment: str, *, reports: Path) -> None:
        self.uri = resolve_uri(uri)
        self.experiment = experiment
        self.reports = Path(reports)
        self.warnings: list[str] = []
        self._client = connect(self.uri)
        self._open: dict[str, _Open] = {}
        self.experiment_id = experiment_id(self._client, self.uri, experiment)

    def claimed(self) -> AbstractContextManager[None]:
        """Keep other processes from writing this experiment, in an sqlite store; BenchError if one does."""
        return claimed(self.uri, self.experiment_id, self.experiment)

    # The life of a run

    def start(
        self,
        run: Mapping[str, Any],
        *,
        run_id: str,
        variant: str,
        seed: int,
        tags: Mapping[str, str] | None = None,
        data: Mapping[str, Any] | None = None,
        started: str | None = None,
        resume: bool = False,
    ) -> str:
        """Open an MLflow run for `run_id` (ours) and give its id; earlier attempts are tagged superseded.

        `run` is the resolved run, logged as parameters; `tags` come from `run_tags`; `data` is the record's
        `data` (name, digest, sizes), logged as the run's data set; `started` an ISO time, now if absent. With
        `resume` the last attempt goes on where it stopped, if it is here and nobody else writes it.
        """
        from mlflow.entities import Param, RunTag

        tags = {
            **(tags or {}),
            **owner.owner_tags(),
            **entries.marks(run_id, self.experiment, variant, seed),
            "mlflow.note.content": entries.description(
                (tags or {}).get("command"), self.reports / "records" / run_id
            ),
        }
        params = {**dict(entries.flatten(run)), "variant": variant, "seed": str(seed)}
        with _tracking(f"starting {run_id}"):
            attempts = self._attempts(run_id)
            before = next(filter(_unfinished, attempts), None) if resume else None
            self._supersede(attempt for attempt in attempts if attempt is not before)
            if before:
                mlflow_id = self._reopen(before)
                self._log(mlflow_id, tags=[RunTag(key, value) for key, value in tags.items()])
            else:
                mlflow_id = self._create(entries.run_name(variant, seed), tags, started)
            self._log(mlflow_id, params=[Param(key, value[:6000]) for key, value in params.items()])
            if data:
                self._client.log_inputs(mlflow_id, datasets=[entries.dataset_input(data)])
        return mlflow_id

    def epoch(self, mlflow_run_id: str, epoch: int, metrics: Mapping[str, Any]) -> None:
        """Log one row of the record's `curves`; epochs count from 1, and one logged before is left as it is.

        Epochs that follow each other within a second share a request.
        """
        with _tracking(f"logging epoch {epoch}"):
            curves = self._open[mlflow_run_id].curves
            curves.take(epoch, metrics, _now())
            if time.monotonic() >= curves.due:
                self._send(mlflow_run_id)

    def image(
        self, mlflow_run_id: str, picture: Path | str | NDArray[np.generic], key: str, step: int
    ) -> None:
        """Log a picture under `key` at an epoch: a file, or pixels [H, W(, 3)], uint8 or in [0, 1].

        One that is there already is left as it is.
        """
        with _tracking(f"logging the picture {key}"):
            run = self._open[mlflow_run_id]
            there = images.in_store(self._client, mlflow_run_id) if run.pictures is None else run.pictures
            run.pictures = None  # until this one is known to have arrived
            images.log(self._client, mlflow_run_id, picture, key, step, there)
            run.pictures = there

    def finish(self, mlflow_run_id: str, record: Mapping[str, Any], folder: Path | str) -> None:
        """Make the run whole from its record and folder, whatever was logged before, and close it."""
        from mlflow.entities import Metric, RunTag

        run, files = self._open[mlflow_run_id], RunFolder(folder)
        with _tracking(f"finishing {record['id']}"):
            # A clock that was put back must not end a run before it began
            end = max(entries.milliseconds(record.get("finished")) or _now(), run.began)
            first = entries.milliseconds(record.get("started")) or end
            for row in record.get("curves") or []:
                run.curves.take(row["epoch"], row, min(end, first + int(run.curves.seconds * 1000)))
            self._send(mlflow_run_id)
            final = entries.final_metrics(record).items()
            self._log(mlflow_run_id, metrics=[Metric(key, value, end, 0) for key, value in final])
            epochs = (record.get("run") or {}).get("epochs", run.curves.epoch)
            for picture in images.in_folder(files.pictures, epochs):
                self.image(mlflow_run_id, *picture)
            self._artifacts(mlflow_run_id, record, files)
            # The tags come last: they say that everything before them arrived.
            tags = entries.outcome_tags(record).items()
            self._log(mlflow_run_id, tags=[RunTag(key, value[:5000]) for key, value in tags])
            self._client.set_terminated(mlflow_run_id, entries.STATUS[record["status"]], end)
        del self._open[mlflow_run_id]

    # Order in the store

    def heal(self) -> int:
        """Close what dead processes of this machine left RUNNING here, as KILLED or as it says that it ended.

        Gives how many. A live process's runs, and those of other machines, are never touched.
        """
        healed = 0
        with _tracking("closing abandoned runs"):
            for run in list(self._search("attributes.status = 'RUNNING'")):
                if owner.abandoned(run.data.tags):
                    self._kill(run, f"process {run.data.tags['bench.pid']} ended without closing this run")
                    healed += 1
        return healed

    def lacking(self, records: Iterable[Record]) -> list[Record]:
        """Those of the records whose run the store does not hold, whole."""
        with _tracking("looking for what was sent"):
            latest = list(self._search("tags.`bench.attempt` = 'latest'"))
        there = {run.data.tags.get("bench.id"): run for run in latest}
        return [record for record in records if not _holds(there.get(record["id"]), record)]

    def deliver(self, record: Mapping[str, Any], folder: Path | str) -> str:
        """Log a record into a store that lacks it, and give its MLflow run id; delivering twice is once."""
        with _tracking(f"looking for {record['id']}"):
            for run in self._attempts(record["id"]):
                if _holds(run, record):
                    return str(run.info.run_id)
        mlflow_id = self.start(
            record["run"],
            run_id=record["id"],
            variant=record["variant"],
            seed=record["seed"],
            tags=entries.run_tags({**record, "experiment": entries.sweep(self.reports, record)}),
            data=record.get("data"),
            started=record.get("started"),
        )
        self.finish(mlflow_id, record, folder)
        return mlflow_id

    # The experiment as people find it

    def describe(self, text: str) -> None:
        """Set the experiment's description (Markdown)."""
        with _tracking("describing the experiment"):
            text = redacted(text)[: views.LONGEST]
            self._client.set_experiment_tag(self.experiment_id, "mlflow.note.content", text)

    def save_views(self, *, seed: int = 0, epochs: int = 1) -> None:
        """Write the saved views; pictures are shown of `seed`, at epoch `epochs`.

        A view that a user edited is left alone. What goes wrong becomes a line of `warnings`, never an error.
        """
        try:
            if not views.known(version("mlflow")):
                raise ValueError(f"MLflow {version('mlflow')} may read them otherwise than 3.17 does")
            present = self._client.get_experiment(self.experiment_id).tags
            for view in views.saved_views(epochs):
                key, value = view.tag(seed, _now())
                if not views.edited(present.get(key)):
                    self._client.set_experiment_tag(self.experiment_id, key, value)
        except Exception as error:
            self.warnings.append(f"saved views were not written to MLflow: {redacted(str(error))}")

    def summary(self, report_folder: Path | str) -> str:
        """Keep one run that holds the report, tables and figures, replaced each time; gives its MLflow id.

        Figures named `contact….png` are logged as images too, so that the UI draws them in its image grid.
        """
        with _tracking("logging the report"):
            return summary.keep(self._client, self.experiment_id, self.experiment, Path(report_folder))

    def links(self, base: str | None = None, runs: Sequence[str] = ()) -> dict[str, str]:
        """Links by name in a UI at `base`: `experiment`, each saved view, `compare` for `runs` (MLflow ids).

        `base` None is the server itself, or http://127.0.0.1:5000 for a database.
        """
        base = base or (self.uri if is_server(self.uri) else "http://127.0.0.1:5000")
        return views.links(redacted(base).replace("***@", ""), self.experiment_id, runs)

    # Inside

    def _create(self, name: str, tags: Mapping[str, str], started: str | None) -> str:
        began = entries.milliseconds(started) or _now()
        run = self._client.create_run(self.experiment_id, start_time=began, run_name=name, tags=dict(tags))
        mlflow_id = str(run.info.run_id)
        self._open[mlflow_id] = _Open(began, pictures={})
        return mlflow_id

    def _reopen(self, run: Run) -> str:
        """Let an attempt go on: nothing of how it stopped, and all that it logged."""
        mlflow_id = str(run.info.run_id)
        for tag in run.data.tags.keys() & set(entries.OUTCOME_TAGS):
            self._client.delete_tag(mlflow_id, tag)
        self._client.update_run(mlflow_id, "RUNNING")
        history = self._client.get_metric_history(mlflow_id, entries.TOTAL_SECONDS)
        last = max(history, key=lambda point: point.step, default=None)
        curves = Curves(last.step, last.value) if last else Curves()
        self._open[mlflow_id] = _Open(run.info.start_time, curves)
        return mlflow_id

    def _search(self, filter_string: str) -> Iterator[Run]:
        token: str | None = None
        while True:
            page = self._client.search_runs([self.experiment_id], filter_string, page_token=token)
            yield from page
            token = page.token
            if not token:
                return

    def _attempts(self, bench_id: str) -> list[Run]:
        return list(self._search(f"tags.`bench.id` = '{bench_id}'"))

    def _supersede(self, attempts: Iterable[Run]) -> None:
        for run in attempts:
            self._client.set_tag(run.info.run_id, "bench.attempt", "superseded")
            tags = run.data.tags
            if run.info.status == "RUNNING" and (owner.ours(tags) or owner.abandoned(tags)):
                self._kill(run, "a later attempt took its place")

    def _kill(self, run: Run, why: str) -> None:
        status = entries.STATUS.get(run.data.tags.get("outcome", ""), "KILLED")
        if status == "KILLED":
            self._client.set_tag(run.info.run_id, "bench.healed", why)
        self._client.set_terminated(run.info.run_id, status, max(_now(), run.info.start_time))

    def _send(self, mlflow_id: str) -> None:
        from mlflow.entities import Metric

        def send(points: list[Point]) -> None:
            self._log(mlflow_id, metrics=[Metric(*point) for point in points])

        self._open[mlflow_id].curves.send(send)

    def _log(self, mlflow_id: str, **kinds: list[Any]) -> None:
        for kind, items in kinds.items():
            for first in range(0, len(items), BATCH[kind]):
                self._client.log_batch(mlflow_id, **{kind: items[first : first + BATCH[kind]]})

    def _artifacts(self, mlflow_id: str, record: Mapping[str, Any], folder: RunFolder) -> None:
        """The weights, the record, and the pictures that the image grid does not hold."""
        if folder.weights.exists():
            self._client.log_artifact(mlflow_id, str(folder.weights))
        for file in sorted(folder.pictures.glob("*.*")):
            if not images.EPOCH_PICTURE.fullmatch(file.stem):
                self._client.log_artifact(mlflow_id, str(file), "pictures")
        text = json.dumps({"format": FORMAT, **record}, indent=1, ensure_ascii=False, allow_nan=False)
        self._client.log_text(mlflow_id, text, RECORD)


@contextmanager
def _tracking(doing: str) -> Iterator[None]:
    """Whatever MLflow, its database or the network raises becomes a TrackingError without secrets."""
    try:
        yield
    except TrackingError:
        raise
    except Exception as error:
        raise TrackingError(f"MLflow failed while {doing}: {reason(error)}") from None


def _holds(run: Run | None, record: Mapping[str, Any]) -> bool:
    """Whether a run in the store is this very record, whole."""
    tags = run.data.tags if run else {}
    return (
        run is not None
        and tags.get("bench.attempt") == "latest"
        and tags.get("outcome") == record["status"]
        and tags.get("bench.recorded") in (None, record.get("finished"))  # stores of bench 0.1 lack it
        and run.info.status == entries.STATUS[record["status"]]
    )


def _unfinished(run: Run) -> bool:
    """Whether a run in the store may be taken up again."""
    tags = run.data.tags
    free = run.info.status != "RUNNING" or owner.ours(tags) or owner.abandoned(tags)
    return free and tags.get("bench.attempt") == "latest" and tags.get("outcome") not in entries.WHOLE


def _now() -> int:
    return int(time.time() * 1000)
