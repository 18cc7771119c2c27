"""What a person sees while the matrix runs, on stderr.

Bars on a terminal, plain lines elsewhere, nothing when quiet.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Column

from bench.store.times import duration

Record = Mapping[str, Any]

BESIDE = 52  # columns of a terminal that a bar, its counts and its note take


class Display:
    """Progress of a matrix; a context manager.

    `seconds` are the predicted ones of each run, `predicted` of all.
    """

    def __init__(self, seconds: Mapping[str, float], predicted: float, *, quiet: bool = False) -> None:
        self.total = len(seconds)
        self.seconds = seconds
        self.predicted = predicted
        self.done_seconds = 0.0
        self.quiet = quiet
        self.console = Console(stderr=True, quiet=quiet, highlight=False, soft_wrap=True)
        self.live = self.console.is_terminal and not quiet
        self.counts = dict.fromkeys(("finished", "diverged", "failed", "interrupted"), 0)
        self.started = time.monotonic()
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=10),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[note]}", table_column=Column(no_wrap=True)),
            console=self.console,
            disable=not self.live,
        )
        self._tasks: dict[str, TaskID] = {}
        self._sending = 0
        self._matrix = self._bars.add_task("matrix", total=self.total, note=f"about {duration(predicted)}")

    def __enter__(self) -> Display:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def start(self, key: str, title: str, epochs: int) -> None:
        """Show a run that begins, or begins again."""
        if key in self._tasks:
            self._bars.remove_task(self._tasks.pop(key))
        if self.live:
            name = shortened(title, self.console.width - BESIDE)
            self._tasks[key] = self._bars.add_task(name, total=epochs, note="starting")

    def epoch(self, key: str, row: Mapping[str, Any]) -> None:
        """Show an epoch that a run ended."""
        if key in self._tasks:
            note = f"ELBO {_signed(row['elbo'])}  {row['images_per_second']:,.0f}/s"
            self._bars.update(self._tasks[key], completed=int(row["epoch"]), note=note)

    def note(self, key: str, text: str) -> None:
        """Show what else a run is at."""
        if key in self._tasks:
            self._bars.update(self._tasks[key], note=text)

    def end(self, key: str, title: str, record: Record) -> None:
        """Show the end of a run."""
        self.counts[record["status"]] += 1
        self.done_seconds += self.seconds.get(key, 0.0)
        done = sum(self.counts.values())
        if key in self._tasks:
            self._bars.remove_task(self._tasks.pop(key))
        self._bars.update(self._matrix, completed=done, note=self._eta(done))
        if not self.live or record["status"] != "finished":
            self.say(f"[{done}/{self.total}] {title}: {outcome(record)}; {self._eta(done)}")

    def sending(self, left: int) -> None:
        """Show that only MLflow lacks something; called twice a second."""
        runs = f"{left} run{'s' * (left != 1)} and " if left else ""
        note = f"sending {runs}the report to MLflow; Ctrl-C leaves the rest to bench sync"
        self._sending += 1
        if self.live:
            short = (
                f"{left} run{'s' * (left != 1)} to send to MLflow" if left else "sending the report to MLflow"
            )
            self._bars.update(self._matrix, note=f"{short} (Ctrl-C: later)")
        elif self._sending == 5:
            self.say(note)

    def say(self, text: str) -> None:
        """Print one plain line, above the bars where there are any."""
        self.console.print(text, markup=False)

    def _eta(self, done: int) -> str:
        """The rest: the prediction, corrected by how it has fared so far."""
        if done >= self.total:
            return "done"
        share = self.done_seconds / (sum(self.seconds.values()) or 1.0)
        spent = time.monotonic() - self.started
        rest = spent * (1 - share) / share if share else self.predicted
        return f"about {duration(rest)} to go"


def shortened(title: str, width: int) -> str:
    """Cut a title in its middle, so that the seed stays."""
    width = max(width, 20)
    return title if len(title) <= width else f"{title[: width - 10]}…{title[-9:]}"


def outcome(record: Record) -> str:
    """Say in a few words how a run went."""
    if record["status"] != "finished":
        return f"{record['status']}, {record['reason']}"
    metrics = record["metrics"]
    bound = metrics.get("elbo_bernoulli", math.nan)
    shown = [f"binarised ELBO {_signed(bound)}"] if math.isfinite(bound) else []
    return ", ".join(["finished", *shown, duration(metrics.get("train_seconds", 0.0))])


def _signed(value: float) -> str:
    return f"{value:.2f}".replace("-", "−")
