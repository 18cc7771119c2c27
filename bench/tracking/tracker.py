"""One experiment in one MLflow store, written by explicit run ids: no global state, one owner of a status."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.errors import BenchError
from bench.records import FORMAT, RECORD, RunFolder, digest
from bench.tracking import entries, owner, views
from bench.tracking.curves import Curves
from bench.tracking.store import artifact_location, connect, is_server, redacted, resolve_uri

if TYPE_CHECKING:
    import numpy as np
    from mlflow.entities import Experiment, Run
    from numpy.typing import NDArray

BATCH = {"metrics": 1000, "params": 100, "tags": 100}  # what one request of MLflow may hold


class TrackingError(Exception):
    """MLflow refused or went away after the start; training need not stop for it."""


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
        self._curves: dict[str, Curves] = {}
        self.experiment_id = self._find_or_create()

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
    ) -> str:
        """Open an MLflow run for `run_id` (ours) and give its id; earlier attempts are tagged superseded.

        `run` is the resolved run, logged as parameters; `tags` come from `run_tags`; `data` is the record's
        `data` (name, digest, sizes), logged as the run's data set; `started` an ISO time, now if absent.
        """
        from mlflow.entities import Param

        tags = dict(tags or {})
        marks = {
            **owner.owner_tags(),
            "bench.id": run_id,
            "bench.experiment": self.experiment,
            "bench.attempt": "latest",
            "variant": variant,
            "seed": str(seed),
            "mlflow.runColor": entries.color(variant),
            "mlflow.source.name": "bench",
            "mlflow.source.type": "LOCAL",
            "mlflow.note.content": entries.description(
                tags.get("command"), self.reports / "records" / run_id
            ),
        }
        params = {**dict(entries.flatten(run)), "variant": variant, "seed": str(seed)}
        with _tracking(f"starting {run_id}"):
            self._supersede(run_id)
            opened = self._client.create_run(
                self.experiment_id,
                start_time=entries.milliseconds(started),
                run_name=entries.run_name(variant, seed),
                tags={**tags, **marks},
            )
            mlflow_id = str(opened.info.run_id)
            self._log(mlflow_id, params=[Param(key, value[:6000]) for key, value in params.items()])
            if data:
                self._log_data(mlflow_id, data)
        self._curves[mlflow_id] = Curves()
        return mlflow_id

    def epoch(self, mlflow_run_id: str, epoch: int, metrics: Mapping[str, Any]) -> None:
        """Log one row of the record's `curves`; epochs count from 1, and one logged before is left as it is.

        Epochs that follow each other within a second share a request.
        """
        with _tracking(f"logging epoch {epoch}"):
            curves = self._curves.setdefault(mlflow_run_id, Curves())
            curves.take(epoch, metrics, _now())
            if time.monotonic() >= curves.due:
                self._send(mlflow_run_id, curves)

    def image(
        self, mlflow_run_id: str, picture: Path | str | NDArray[np.generic], key: str, step: int
    ) -> None:
        """Log a picture under `key` at an epoch: a file, or pixels [H, W(, 3)], uint8 or in [0, 1]."""
        with _tracking(f"logging the picture {key}"):
            image = entries.as_image(picture)
            self._client.log_image(mlflow_run_id, image, key=key, step=step, synchronous=True)

    def finish(self, mlflow_run_id: str, record: Mapping[str, Any], folder: Path | str) -> None:
        """Log the final metrics, the curves still missing and the artifacts; close the run by its status."""
        from mlflow.entities import Metric, RunTag

        with _tracking(f"finishing {record['id']}"):
            end = entries.milliseconds(record.get("finished")) or _now()
            first = entries.milliseconds(record.get("started")) or end
            curves = self._curves.setdefault(mlflow_run_id, Curves())
            for row in record.get("curves") or []:
                curves.take(row["epoch"], row, min(end, first + int(curves.seconds * 1000)))
            self._send(mlflow_run_id, curves)
            final = entries.final_metrics(record).items()
            self._log(mlflow_run_id, metrics=[Metric(key, value, end, 0) for key, value in final])
            self._artifacts(mlflow_run_id, record, RunFolder(folder))
            # The tags come last: they say that everything before them arrived.
            tags = entries.outcome_tags(record).items()
            self._log(mlflow_run_id, tags=[RunTag(key, value[:5000]) for key, value in tags])
            self._client.set_terminated(mlflow_run_id, entries.STATUS[record["status"]], end)
        self._curves.pop(mlflow_run_id, None)

    # Order in the store

    def heal(self) -> int:
        """Close as KILLED what dead processes of this machine left RUNNING here; gives how many.

        A live process's runs, and those of other machines, are never touched.
        """
        healed = 0
        with _tracking("closing abandoned runs"):
            for run in list(self._search("attributes.status = 'RUNNING'")):
                if owner.abandoned(run.data.tags):
                    self._kill(run, f"process {run.data.tags['bench.pid']} ended without closing this run")
                    healed += 1
        return healed

    def has(self, bench_id: str) -> bool:
        """Whether the store holds a finished (or diverged) run of this id, whole."""
        with _tracking(f"looking for {bench_id}"):
            return any(_whole(run) for run in self._attempts(bench_id))

    def deliver(self, record: Mapping[str, Any], folder: Path | str) -> str:
        """Log a record into a store that lacks it, and give its MLflow run id; delivering twice is once."""
        with _tracking(f"looking for {record['id']}"):
            for run in self._attempts(record["id"]):
                if _whole(run):
                    return str(run.info.run_id)
        mlflow_id = self.start(
            record["run"],
            run_id=record["id"],
            variant=record["variant"],
            seed=record["seed"],
            tags=entries.run_tags(record),
            data=record.get("data"),
            started=record.get("started"),
        )
        for file in sorted(RunFolder(folder).pictures.glob("*.png")):
            if found := entries.EPOCH_PICTURE.fullmatch(file.stem):
                self.image(mlflow_id, file, found["key"], int(found["step"]))
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
        folder = Path(report_folder)
        with _tracking("logging the report"):
            mlflow_id = self._summary_run()
            for file in [*folder.glob("report.md"), *folder.glob("*.csv"), *folder.glob("figures/**/*.*")]:
                inside = file.parent.relative_to(folder).as_posix()
                self._client.log_artifact(mlflow_id, str(file), None if inside == "." else inside)
            logged = self._client.get_run(mlflow_id).data.tags
            for file in sorted(folder.glob("figures/**/contact*.png")):
                if logged.get(f"bench.image.{file.stem}") != digest(file):
                    self.image(mlflow_id, file, file.stem, 1)
                    self._client.set_tag(mlflow_id, f"bench.image.{file.stem}", digest(file))
        return mlflow_id

    def links(self, base: str | None = None, runs: Sequence[str] = ()) -> dict[str, str]:
        """Links by name in a UI at `base`: `experiment`, each saved view, `compare` for `runs` (MLflow ids).

        `base` None is the server itself, or http://127.0.0.1:5000 for a database.
        """
        base = base or (self.uri if is_server(self.uri) else "http://127.0.0.1:5000")
        return views.links(redacted(base).replace("***@", ""), self.experiment_id, runs)

    # Inside

    def _find_or_create(self) -> str:
        try:
            found = self._client.get_experiment_by_name(self.experiment) or self._create()
            for key in views.EXPERIMENT_TAGS.keys() - found.tags.keys():  # someone else made it
                self._client.set_experiment_tag(found.experiment_id, key, views.EXPERIMENT_TAGS[key])
        except Exception as error:
            where = redacted(self.uri)
            why = redacted(str(error))
            raise BenchError(f"cannot open the experiment {self.experiment!r} in {where}: {why}") from None
        if found.lifecycle_stage != "active":
            raise BenchError(
                f"experiment {self.experiment!r} was deleted in {redacted(self.uri)}; bring it back with "
                f"`mlflow experiments restore -x {found.experiment_id}`, or give another --tracking-uri"
            )
        return str(found.experiment_id)

    def _create(self) -> Experiment:
        location = artifact_location(self.uri, self.experiment)
        try:
            new = self._client.create_experiment(self.experiment, location, tags=views.EXPERIMENT_TAGS)
            return self._client.get_experiment(new)
        except Exception:
            found = self._client.get_experiment_by_name(self.experiment)  # another process was faster
            if found is None:
                raise
            return found

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

    def _supersede(self, bench_id: str) -> None:
        for run in self._attempts(bench_id):
            self._client.set_tag(run.info.run_id, "bench.attempt", "superseded")
            if run.info.status == "RUNNING" and owner.ours(run.data.tags):
                self._kill(run, "a later attempt took its place")

    def _kill(self, run: Run, why: str) -> None:
        self._client.set_tag(run.info.run_id, "bench.healed", why)
        self._client.set_terminated(run.info.run_id, "KILLED")

    def _send(self, mlflow_id: str, curves: Curves) -> None:
        from mlflow.entities import Metric

        with curves.sending() as points:
            self._log(mlflow_id, metrics=[Metric(*point) for point in points])

    def _log(self, mlflow_id: str, **kinds: list[Any]) -> None:
        for kind, items in kinds.items():
            for first in range(0, len(items), BATCH[kind]):
                self._client.log_batch(mlflow_id, **{kind: items[first : first + BATCH[kind]]})

    def _log_data(self, mlflow_id: str, data: Mapping[str, Any]) -> None:
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
        tag = InputTag("mlflow.data.context", "train")
        self._client.log_inputs(mlflow_id, datasets=[DatasetInput(dataset, [tag])])

    def _artifacts(self, mlflow_id: str, record: Mapping[str, Any], folder: RunFolder) -> None:
        """The weights, the record, and the pictures that the image grid does not hold."""
        if folder.weights.exists():
            self._client.log_artifact(mlflow_id, str(folder.weights))
        for file in sorted(folder.pictures.glob("*.*")):
            if not entries.EPOCH_PICTURE.fullmatch(file.stem):
                self._client.log_artifact(mlflow_id, str(file), "pictures")
        text = json.dumps({"format": FORMAT, **record}, indent=1, ensure_ascii=False, allow_nan=False)
        self._client.log_text(mlflow_id, text, RECORD)

    def _summary_run(self) -> str:
        for run in self._search("tags.`bench.summary` = 'report'"):
            return str(run.info.run_id)
        tags = {"bench.summary": "report", "mlflow.source.name": "bench", "mlflow.source.type": "LOCAL"}
        run = self._client.create_run(self.experiment_id, run_name=f"report · {self.experiment}", tags=tags)
        self._client.set_terminated(run.info.run_id)
        return str(run.info.run_id)


@contextmanager
def _tracking(doing: str) -> Iterator[None]:
    """Whatever MLflow, its database or the network raises becomes a TrackingError without secrets."""
    try:
        yield
    except TrackingError:
        raise
    except Exception as error:
        why = redacted(str(error)).strip().splitlines() or [type(error).__name__]
        raise TrackingError(f"MLflow failed while {doing}: {why[0][:300]}") from None


def _whole(run: Run) -> bool:
    tags = run.data.tags
    return tags.get("bench.attempt") == "latest" and tags.get("outcome") in ("finished", "diverged")


def _now() -> int:
    return int(time.time() * 1000)
