"""bench: the fair, reproducible comparison of variational autoencoders."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd


def load(*folders: str | Path) -> pd.DataFrame:
    """Load the runs of experiments as one tidy table: see `bench.report.results.read`.

    >>> import bench
    >>> runs = bench.load("reports/mnist/beta")
    >>> f"{runs.elbo_bernoulli[runs.beta == 1].mean():.2f}"
    '-103.03'
    """
    from bench.report.results import read  # pandas takes a while to import

    return read(*folders)


def run(
    spec: str | Path,
    *,
    seeds: int | Sequence[int] | None = None,
    only: Sequence[str] = (),
    epochs: int | None = None,
    dataset: str | None = None,
    precision: str | None = None,
    device: str = "auto",
    workers: int | None = None,
    hours: float | None = None,
    data_dir: str | Path | None = None,
    tracking_uri: str | None = None,
    reports: str | Path = "reports",
    quiet: bool = True,
) -> pd.DataFrame:
    """Train, evaluate, track and report what an experiment has to do; returns its runs as `load` does.

    `spec` is a YAML file or the name of an experiment that ships with bench; `seeds` a count or which; the
    rest is as for `bench run`, and so is what is written. Runs that failed or diverged are rows, no errors,
    and so are those that the budget of `hours` left. In a script, call it under
    `if __name__ == "__main__":`, since workers import the script.

    Raises:
        BenchError: bad input, in one line, as the command says it.
    """
    from bench.runs.matrix import run_here  # torch takes seconds to import
    from bench.runs.request import Request
    from bench.spec.resolve import load as resolve

    request = Request(
        resolve(Path(spec)),
        seeds=tuple(range(seeds)) if isinstance(seeds, int) else tuple(seeds) if seeds else None,
        only=(only,) if isinstance(only, str) else tuple(only),
        epochs=epochs,
        dataset=dataset,
        precision=precision,
        device=device,
        workers=workers,
        hours=hours,
        data_dir=Path(data_dir) if data_dir else None,
        tracking_uri=tracking_uri,
        reports=Path(reports),
    )
    return load(run_here(request, quiet=quiet))
