"""The commands that run, check and report a matrix."""

from __future__ import annotations

import sys
import webbrowser
from pathlib import Path
from typing import Annotated

import typer

from bench.cli.app import app
from bench.cli.options import (
    Address,
    DataDir,
    DatasetName,
    Device,
    Epochs,
    Executor,
    Fresh,
    Hours,
    NoCode,
    Only,
    Precision,
    Quick,
    Quiet,
    Report,
    Reports,
    Seeds,
    Spec,
    Uri,
    Workers,
    request_of,
)
from bench.errors import BenchError


@app.command(epilog="Example: bench run experiments/all.yaml --quick")
def run(
    context: typer.Context,
    spec: Spec,
    device: Device = "auto",
    seeds: Seeds = None,
    only: Only = None,
    epochs: Epochs = None,
    dataset: DatasetName = None,
    precision: Precision = None,
    data_dir: DataDir = None,
    tracking_uri: Uri = None,
    reports: Reports = Path("reports"),
    fresh: Fresh = False,
    quick: Quick = False,
    no_code: NoCode = False,
    workers: Workers = None,
    hours: Hours = None,
    executor: Executor = "local",
    address: Address = None,
    quiet: Quiet = False,
    fail_fast: Annotated[
        bool, typer.Option("--fail-fast", help="Stop at the first run that fails or diverges.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan and stop.")] = False,
) -> None:
    """Train, evaluate and track every run of an experiment that is not done yet, and write its report."""
    request = request_of(context)
    from bench.cli.outlook import print_plan
    from bench.runs.plan import make_plan
    from bench.runs.predict import predict

    plan = make_plan(request, download=not dry_run)
    foreseen = predict(plan)
    if dry_run or not quiet:
        print_plan(plan, foreseen, every_run=dry_run)
    if dry_run:
        return
    from bench.cli.closing import print_end
    from bench.runs.matrix import run_matrix

    if code := print_end(run_matrix(plan, foreseen, quiet=quiet, fail_fast=fail_fast)):
        raise typer.Exit(code)


@app.command(epilog="Example: bench plan experiments/all.yaml --seeds 1")
def plan(
    context: typer.Context,
    spec: Spec,
    device: Device = "auto",
    seeds: Seeds = None,
    only: Only = None,
    epochs: Epochs = None,
    dataset: DatasetName = None,
    precision: Precision = None,
    data_dir: DataDir = None,
    reports: Reports = Path("reports"),
    fresh: Fresh = False,
    quick: Quick = False,
    no_code: NoCode = False,
    workers: Workers = None,
    hours: Hours = None,
) -> None:
    """Print every run with its state and why, and the time it should take; nothing is created."""
    request = request_of(context)
    from bench.cli.outlook import print_plan
    from bench.runs.plan import make_plan
    from bench.runs.predict import predict

    made = make_plan(request, download=False)
    print_plan(made, predict(made), every_run=True)


@app.command(epilog="Example: bench report reports/all")
def report(
    folder: Report,
    reports: Reports = Path("reports"),
    open_browser: Annotated[bool, typer.Option("--open", help="Show report.html in a browser.")] = False,
    tables: Annotated[str | None, typer.Option(help="latex: also write tables.tex, for booktabs.")] = None,
) -> None:
    """Write an experiment's report again, from its records alone: report.md and report.html."""
    from bench.report import write_report
    from bench.spec.source import given_text
    from bench.store.experiments import ExperimentFolder, named
    from bench.store.lock import LOCK, held

    if tables not in (None, "latex"):
        raise BenchError(f"--tables {given_text(tables)}; give latex")
    folder = named(folder, reports)
    home = ExperimentFolder(folder)
    if (folder / "report.md").exists() and not any(home.run(run_id).path.is_dir() for run_id in home.planned):
        what = f"{home.runs} holds none of the runs of {folder}, whose report would be emptied"
        raise BenchError(f"{what}; put them there, or do them with bench run")
    with held(folder / LOCK, str(folder), "copy the folder to where you may write and report that"):
        print(write_report(folder, latex=tables is not None))
    if tables:
        print(folder / "tables.tex")
    if open_browser:
        page = folder / "report.html"
        print(page)
        if not webbrowser.open(page.resolve().as_uri()):
            print("no browser could be opened: open the file yourself", file=sys.stderr)


@app.command(epilog="Example: bench sync reports/all --tracking-uri http://host:5000")
def sync(
    folders: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[FOLDER|SPEC]...", help="All of --reports by default.", show_default=False),
    ] = None,
    tracking_uri: Uri = None,
    reports: Reports = Path("reports"),
) -> None:
    """Send to an MLflow store what it lacks of experiments, from their records."""
    from bench.runs.sync import sync as send

    for done in send(folders or [], reports, tracking_uri):
        print(f"{done.experiment}: {done.sent} sent, {done.there} there already")
        if done.bare:
            print(
                f"{done.bare} of them without weights and pictures, which are not here: "
                "bench run SPEC --fresh --only VARIANT makes them"
            )


@app.command(epilog="Example: bench verify reports/all --deep")
def verify(
    folder: Report,
    reports: Reports = Path("reports"),
    deep: Annotated[
        bool, typer.Option("--deep", help="Also measure each finished run again, from its weights.")
    ] = False,
    data_dir: DataDir = None,
) -> None:
    """Recompute every number of a report from its records, and check these and the files they list."""
    from bench.store.experiments import named
    from bench.verify import verify as check

    findings = check(named(folder, reports), deep=deep, data_dir=data_dir)
    for line in findings.lines():
        print(line)
    if findings.differences:
        raise typer.Exit(1)


@app.command(epilog="Example: bench compare 003-linear-400-20 001-mlp-512-512-20 --report reports/all")
def compare(
    a: Annotated[str, typer.Argument(help="A variant, or a report's folder.", show_default=False)],
    b: Annotated[str, typer.Argument(help="Another one.", show_default=False)],
    report: Annotated[Path, typer.Option(help="The experiment of both: a folder, YAML file or name.")] = Path(
        "reports/all"
    ),
    reports: Reports = Path("reports"),
    gate: Annotated[
        str | None,
        typer.Option(metavar="RULE", help="Fail unless A less B keeps it, as 'log_px_bernoulli >= -0.5'."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False,
) -> None:
    """Compare two variants, or two reports in the variants that both have, by the report's statistics."""
    from bench.cli.printing import comparison_json, comparison_lines
    from bench.report.compare import EXITS, parse
    from bench.report.compare import compare as comparisons

    rule = parse(gate) if gate else None
    found = comparisons(a, b, report, reports)
    state, why = rule.judge(found) if rule else ("", "")
    if as_json:
        print(comparison_json(found, gate, state, why))
    else:
        for line in comparison_lines(found):
            print(line)
        if rule:
            print(f"gate {gate}: {state} ({why})")
    if rule and EXITS[state]:
        raise typer.Exit(EXITS[state])
