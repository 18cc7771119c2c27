"""The commands that go between people: publish what one has, join what others have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bench.cli.app import app
from bench.cli.options import Report, Reports
from bench.errors import printable


@app.command(epilog="Example: bench publish reports/mine shared")
def publish(
    folder: Report,
    out: Annotated[Path, typer.Argument(help="The folder to write, for others.", show_default=False)],
    weights: Annotated[bool, typer.Option("--weights", help="Weights and pictures of runs too.")] = False,
    by: Annotated[str | None, typer.Option(help="Whose runs they are, for those who join them.")] = None,
    reports: Reports = Path("reports"),
) -> None:
    """Write an experiment's report and records to a folder that others can read, and say its size."""
    from bench.store.experiments import named
    from bench.verify.publish import publish as write

    sizes = write(named(folder, reports), out, weights=weights, by=by)
    whole = sizes.pop("all")
    for kind, size in sizes.items():
        print(f"{kind:<8} {size / 1000:10,.0f} kB")
    print(f"{printable(str(out))}: {whole / 1000:,.0f} kB in all")


@app.command(epilog="Example: bench join reports/all shared")
def join(
    folder: Report,
    published: Annotated[Path, typer.Argument(help="A folder that bench publish wrote.", show_default=False)],
    name: Annotated[str | None, typer.Option("--as", help="Whose runs they are.")] = None,
    reports: Reports = Path("reports"),
) -> None:
    """Add runs that others published to an experiment, checked first and marked with their origin."""
    from bench.store.experiments import named
    from bench.verify.join import join as add

    folder = named(folder, reports)
    told = add(folder, published, name)
    for run, why in told.refused.items():
        print(f"refused {printable(run)}: {why}")
    counts = {
        "added": told.added,
        "here already": told.here,
        "here with other numbers, which stay": told.other,
        "without a result, left out": told.unfinished,
        "refused": told.refused,
    }
    print(", ".join(f"{len(runs)} {what}" for what, runs in counts.items() if runs) or "no runs there")
    print(folder / "report.md")
    if told.refused:
        raise typer.Exit(1)
