"""What an MLflow store holds of an experiment, and what it lacks: sent from the records alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.errors import BenchError
from bench.pictures.shown import epochs_shown
from bench.report import answer_in, cells, texts
from bench.store.experiments import SPEC, ExperimentFolder, named
from bench.store.files import is_own
from bench.store.lock import LOCK, held
from bench.store.records import Record
from bench.tracking import Attempt, Tracker, TrackingError

SENT = ("finished", "diverged", "failed")  # an interrupted run is done again


@dataclass
class Synced:
    """How many runs of an experiment the store held already, and how many were sent to it.

    Of those sent, `bare` had neither weights nor pictures here.
    """

    experiment: str
    there: int
    sent: int = 0
    bare: int = 0


def sync(given: Sequence[Path], reports: Path, uri: str | None) -> Iterator[Synced]:
    """Send what a store lacks of each experiment, runs and report, and say so one by one.

    `given` are folders or YAML files, by default every experiment under `reports`; `uri` as for Tracker. An
    experiment that is in use is refused. Raises BenchError, also for a store that goes away meanwhile.
    """
    for folder in folders(given, reports):
        tracker, home = Tracker(uri, experiment_name(folder)), ExperimentFolder(folder)
        with held(folder / LOCK, str(folder), "give other folders", needed=False), tracker.claimed():
            try:
                tracker.heal()
                views(tracker, folder)
                missing, there = lacking(tracker, folder)
                done = Synced(tracker.experiment, there)
                for record in missing:
                    run = home.run(record["id"])
                    tracker.deliver(record, Attempt(run.path))
                    done.sent += 1
                    done.bare += run.bare(record)
                describe(tracker, folder)
            except TrackingError as error:
                kept = "what was sent is kept, the same command goes on"
                raise BenchError(f"{folder}: {error}; {kept}") from None
        yield done


def folders(given: Sequence[Path], reports: Path) -> list[Path]:
    """Find the folders of the experiments that are meant; raises BenchError for one that is none."""
    found = [named(path, reports) for path in given] or sorted(
        file.parent for file in reports.glob(f"**/{SPEC}")
    )
    if not found:
        raise BenchError(f"{reports} holds no experiment; give another --reports, or a folder")
    return found


def experiment_name(folder: Path, dataset: str | None = None) -> str:
    """Name the MLflow experiment by the folder and the data set that was really used."""
    dataset = dataset or ExperimentFolder(folder).spec.get("dataset")
    if dataset is None:
        raise BenchError(
            f"{folder} does not say which data it is on; give a folder that bench run has written"
        )
    return f"{folder.resolve().name} · {dataset}"


def lacking(tracker: Tracker, folder: Path) -> tuple[list[Record], int]:
    """List the records that the store lacks, and count those that it holds."""
    found = [r for r in ExperimentFolder(folder).records().values() if r["status"] in SENT]
    missing = tracker.lacking(found)
    return missing, len(found) - len(missing)


def describe(tracker: Tracker, folder: Path) -> None:
    """Put an experiment's question, its answer and its report into the store, from its records alone.

    What lies in the folder of a report's text may be a stranger's, and is not sent.
    """
    page = folder / "report.html"
    report = texts(folder, html=is_own(page)) if is_own(folder / "report.md") else {}
    spec = ExperimentFolder(folder).spec
    banner = ""
    if spec.get("fallback"):
        asked, used = cells.text(spec.get("declared_dataset")), cells.text(spec["dataset"])
        banner = f"**{used} stands in for {asked}: these numbers say nothing about {asked}.**"
    question = cells.paragraph(spec.get("question") or "")
    answer = answer_in(report.get("report.md", ""))
    command = cells.block(spec["command"]) if spec.get("command") else ""
    tracker.describe("\n\n".join(filter(None, (banner, question, answer, command))))
    if report:
        tracker.summary(folder, report)


def views(tracker: Tracker, folder: Path) -> None:
    """Write the saved views; pictures open at the last epoch of which every variant has some."""
    spec = ExperimentFolder(folder).spec
    shown = [
        {epoch for epoch in epochs_shown(epochs) if epoch <= (each.get("patience") or epochs) + 1}
        for each in spec["variants"].values()
        if (epochs := each.get("epochs"))
    ]
    if shown:
        seed = (spec.get("seeds") or [0])[0]
        tracker.save_views(spec["variants"], seed=seed, epochs=max(set.intersection(*shown), default=1))
