"""bench: the fair, reproducible comparison of variational autoencoders."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd


def load(*folders: str | Path) -> pd.DataFrame:
    """Load the runs of experiments as one tidy table: see `bench.report.results.read`.

    >>> import bench
    >>> runs = bench.load("reports/mnist/beta")
    >>> f"{runs.elbo_bernoulli[runs.beta == 1].mean():.2f}"
    '-102.92'
    """
    from bench.report.results import read  # pandas takes a while to import

    return read(*folders)
