"""The commands beside a matrix: begin, draw, list, look, check."""

from __future__ import annotations

import os
import webbrowser
from pathlib import Path
from typing import Annotated

import typer

from bench.cli.app import app
from bench.cli.options import DataDir, Device, Reports, Uri
from bench.errors import BenchError, did_you_mean, printable


@app.command(epilog="Example: bench generate 001-mlp-512-512-2 --experiment all --kind manifold")
def generate(
    what: Annotated[
        str, typer.Argument(help="A run's folder, id or MLflow run id, or a variant.", show_default=False)
    ],
    kind: Annotated[
        str, typer.Option(help="samples, manifold, reconstructions or interpolations.")
    ] = "samples",
    n: Annotated[int, typer.Option("--n", min=1, max=10_000, help="How many images.")] = 100,
    seed: Annotated[
        int, typer.Option(min=0, max=2**32 - 1, help="Of the noise, and of the choice of test images.")
    ] = 0,
    out: Annotated[
        Path | None, typer.Option(help="The PNG; by default VARIANT-KIND.png.", show_default=False)
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the PNG if it exists.")] = False,
    from_images: Annotated[
        list[Path] | None,
        typer.Option(help="A PNG or JPEG, light on dark, in place of test images; repeatable."),
    ] = None,
    data_dir: DataDir = None,
    experiment: Annotated[str | None, typer.Option(help="Look in this folder of --reports only.")] = None,
    reports: Reports = Path("reports"),
    tracking_uri: Uri = None,
) -> None:
    """Draw with a trained model: samples, its manifold, reconstructions or interpolations, as a PNG.

    Of a variant it takes the finished run of the smallest seed. Images given are scaled to the size that the
    run was trained on, in grey.
    """
    from bench.runs.generate import Drawing, Places
    from bench.runs.generate import generate as draw

    drawing = Drawing(kind, n, seed, tuple(from_images or ()), data_dir)
    print(draw(what, drawing, Places(reports, experiment, tracking_uri), out, force=force))


@app.command(epilog="Example: bench experiments")
def experiments() -> None:
    """List the experiments that ship with bench, with the question of each."""
    from bench.spec.resolve import load
    from bench.spec.shipped import shipped

    for name, file in shipped().items():
        print(f"{name:<12} {load(file).question}")


@app.command(epilog="Example: bench new mine.yaml")
def new(
    file: Annotated[Path, typer.Argument(help="The YAML file to write.", show_default=False)],
) -> None:
    """Write an experiment to start from, with comments, that runs as it is."""
    from bench.spec.shipped import begin

    begin(file)
    print(f"{printable(str(file))}: bench run {printable(str(file))} trains it, and writes its report")


@app.command(epilog="Example: bench parts likelihood")
def parts(
    kind: Annotated[str | None, typer.Argument(help="One kind only.", show_default=False)] = None,
) -> None:
    """List every part that a YAML file can name, with its options, and of one kind what each allows.

    Networks, likelihoods, metrics and the rest.
    """
    from bench.evaluation.metrics import METRICS
    from bench.spec.check import annotated, describe
    from bench.spec.registry import REGISTRIES, entries
    from bench.spec.source import given_text

    kinds = (*REGISTRIES, "metric")
    if kind is not None and kind not in kinds:
        raise BenchError(f"unknown kind of part {given_text(kind)}{did_you_mean(kind, kinds)}")
    for each in kinds if kind is None else (kind,):
        print(each)
        for entry in entries(each).values() if each in REGISTRIES else ():
            options = f"({', '.join(entry.options)})" if entry.options else ""
            print(f"  {entry.name}{options}: {entry.summary}")
            for name, field in entry.model.model_fields.items() if each == kind else ():
                print(f"    {name}: {describe(annotated(field))}")
        for metric in METRICS if each == "metric" else ():
            print(f"  {metric.name}: {metric.description or metric.title}")


@app.command(epilog="Example: bench check mine.py")
def check(
    file: Annotated[Path, typer.Argument(help="A Python file with parts of your own.", show_default=False)],
    name: Annotated[str | None, typer.Option(help="One class or function only.")] = None,
    kind: Annotated[str | None, typer.Option(help="What it is to be, such as encoder.")] = None,
) -> None:
    """Hold parts of your own to their protocols on random input, running their file with your rights."""
    from bench.parts.check import check_file

    found = check_file(file, name, kind)
    print(f"{printable(str(file))}, run with your rights:")
    for part in found:
        print(printable(f"{part.name}: {part.fault or f'good as {part.kind}'}"))
    if wrong := sum(bool(part.fault) for part in found):
        raise BenchError(
            f"{wrong} of {len(found)} parts of {file} would not work; correct them and check again"
        )


@app.command(
    epilog="Example: bench judge adapter.py --weights w.safetensors --as theirs --report reports/all"
)
def judge(
    adapter: Annotated[
        Path, typer.Argument(help="A Python file whose class makes the model.", show_default=False)
    ],
    weights: Annotated[
        list[Path],
        typer.Option(
            help="Its state_dict: safetensors, or torch's; repeatable, each a seed.", show_default=False
        ),
    ],
    name: Annotated[str, typer.Option("--as", help="The variant's name in the report.", show_default=False)],
    report: Annotated[Path, typer.Option(help="An experiment's folder, or its YAML file.")] = Path(
        "reports/all"
    ),
    part: Annotated[str | None, typer.Option("--name", help="The class, where the file has several.")] = None,
    data_dir: DataDir = None,
    device: Device = "auto",
    reports: Reports = Path("reports"),
) -> None:
    """Measure a model that was trained elsewhere, as a row of a report; runs the adapter with your rights."""
    from bench.runs.judge import judge as measure
    from bench.runs.judge import read_adapter
    from bench.store.experiments import named

    folder = named(report, reports)
    measured = measure(read_adapter(adapter, part), weights, name, folder, data_dir, device)
    told = f"{measured} measured" if measured else "measured before"
    print(f"{name}: {told}, by {printable(str(adapter))}, run with your rights")
    print(folder / "report.md")


@app.command(epilog="Example: bench ui")
def ui(
    tracking_uri: Uri = None,
    host: Annotated[
        str, typer.Option(help="Any other than this machine needs MLFLOW_AUTH_ADMIN_PASSWORD.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 5000,
    open_browser: Annotated[bool, typer.Option("--open", help="Open it in a browser.")] = False,
) -> None:
    """Start the MLflow UI on the store in use, by default on this machine only, and print its links."""
    from bench.tracking import pages, resolve_uri, ui_address, ui_command, ui_environment

    uri = resolve_uri(tracking_uri)
    base = ui_address(host, port)
    words = ui_command(uri, port, host)
    for name, link in pages(uri, base):
        print(f"{printable(name)}: {link}", flush=True)
    if open_browser:
        webbrowser.open(base)
    os.execve(words[0], words, ui_environment(uri))  # noqa: S606  our own command, no shell


@app.command(epilog="Example: bench doctor --data-dir ~/data")
def doctor(data_dir: DataDir = None, tracking_uri: Uri = None) -> None:
    """Check python, torch and torchvision, devices, data and the tracking store."""
    from bench.doctor import check
    from bench.tracking import resolve_uri

    findings = check(data_dir, resolve_uri(tracking_uri))
    for finding in findings:
        state = "ok  " if finding.ok else "FAIL" if finding.required else "no  "
        print(f"{state}  {finding.name}: {finding.detail}")
    if any(finding.required and not finding.ok for finding in findings):
        raise typer.Exit(1)
