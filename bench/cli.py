"""The commands: parse, call, print.

Results go to stdout, progress to stderr; heavy imports wait until a command needs them.

Exit codes: 0 all finished, 1 some runs failed or diverged, 2 bad input, 130 interrupted.
"""

from __future__ import annotations

import os
import sys
import webbrowser
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bench import __version__
from bench.errors import BenchError

if TYPE_CHECKING:
    from bench.plan import Request

# What a wrong command line raises; Typer carries Click's class without exporting it
UsageError: type[typer.BadParameter] = typer.BadParameter.__mro__[1]

app = typer.Typer(
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="The fair, reproducible comparison of variational autoencoders.",
    epilog="Exit codes: 0 all finished, 1 some runs failed or diverged, 2 bad input, 130 interrupted.",
)

Spec = Annotated[Path, typer.Argument(help="The experiment, a YAML file.", show_default=False)]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")]
Seeds = Annotated[str | None, typer.Option(help="How many (3), or which (0,4,7; a single one as 4,).")]
Only = Annotated[list[str] | None, typer.Option(help="Variants matching this glob only; repeatable.")]
Epochs = Annotated[int | None, typer.Option(help="Instead of each variant's own.")]
DatasetName = Annotated[str | None, typer.Option("--dataset", help="Instead of the experiment's own.")]
DataDir = Annotated[Path | None, typer.Option(help="Where data sets lie (also BENCH_DATA_DIR).")]
Uri = Annotated[
    str | None, typer.Option("--tracking-uri", help="The MLflow store (also MLFLOW_TRACKING_URI).")
]
Reports = Annotated[Path, typer.Option(help="The folder for reports and records.")]
Fresh = Annotated[bool, typer.Option("--fresh", help="Do finished runs again.")]
Quick = Annotated[bool, typer.Option("--quick", help="On digits with three seeds: minutes, no download.")]
Workers = Annotated[int | None, typer.Option(min=1, help="Runs at a time; by default one a core.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress on stderr.")]


@app.command(epilog="Example: bench run experiments/all.yaml --quick")
def run(
    spec: Spec,
    device: Device = "auto",
    seeds: Seeds = None,
    only: Only = None,
    epochs: Epochs = None,
    dataset: DatasetName = None,
    data_dir: DataDir = None,
    tracking_uri: Uri = None,
    reports: Reports = Path("reports"),
    fresh: Fresh = False,
    quick: Quick = False,
    workers: Workers = None,
    quiet: Quiet = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan and stop.")] = False,
) -> None:
    """Train, evaluate and track every run of an experiment that is not done yet, and write its report."""
    request = _request(
        spec, device, seeds, only, epochs, dataset, data_dir, tracking_uri, reports, fresh, quick, workers
    )
    from bench.campaign import predict, run_matrix
    from bench.plan import make_plan
    from bench.printing import print_end, print_plan

    plan = make_plan(request, download=not dry_run)
    seconds, total = predict(plan)
    print_plan(plan, seconds, total, every_run=dry_run, quiet=quiet and not dry_run)
    if not dry_run and not print_end(run_matrix(plan, seconds, total, quiet=quiet)):
        raise typer.Exit(1)


@app.command(epilog="Example: bench plan experiments/all.yaml --seeds 1")
def plan(
    spec: Spec,
    device: Device = "auto",
    seeds: Seeds = None,
    only: Only = None,
    epochs: Epochs = None,
    dataset: DatasetName = None,
    data_dir: DataDir = None,
    reports: Reports = Path("reports"),
    fresh: Fresh = False,
    quick: Quick = False,
    workers: Workers = None,
) -> None:
    """Print every run with its state and why, and the time it should take; nothing is created."""
    request = _request(
        spec, device, seeds, only, epochs, dataset, data_dir, None, reports, fresh, quick, workers
    )
    from bench.campaign import predict
    from bench.plan import make_plan
    from bench.printing import print_plan

    made = make_plan(request, download=False)
    print_plan(made, *predict(made), every_run=True, quiet=False)


@app.command(epilog="Example: bench report reports/all")
def report(
    folder: Annotated[
        Path, typer.Argument(help="An experiment's folder, or its YAML file.", show_default=False)
    ],
    reports: Reports = Path("reports"),
) -> None:
    """Write an experiment's report again, from its records alone."""
    from bench.report import write_report

    if folder.suffix in (".yaml", ".yml"):
        folder = reports / folder.stem
    if not (folder / "experiment.json").is_file():
        raise BenchError(
            f"{folder} holds no experiment.json; give a folder that bench run has written: reports/all"
        )
    print(write_report(folder))


@app.command(epilog="Example: bench generate 001-mlp-512-512-2 --experiment all --kind manifold")
def generate(
    what: Annotated[
        str, typer.Argument(help="A run's folder, id or MLflow run id, or a variant.", show_default=False)
    ],
    kind: Annotated[
        str, typer.Option(help="samples, manifold, reconstructions or interpolations.")
    ] = "samples",
    n: Annotated[int, typer.Option("--n", help="How many images.")] = 100,
    seed: Annotated[int, typer.Option(help="Of the noise, and of the choice of test images.")] = 0,
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

    Of a variant it takes the finished run of the smallest seed. Images given are scaled to 28 x 28 grey.
    """
    from bench.generate import Source, Wish
    from bench.generate import generate as draw

    wish = Wish(kind, n, seed, tuple(from_images or ()), data_dir)
    print(draw(what, wish, Source(reports, experiment, tracking_uri), out, force=force))


@app.command(epilog="Example: bench compare 003-linear-400-20 001-mlp-512-512-20 --report reports/all")
def compare(
    a: Annotated[str, typer.Argument(help="A variant, or a report's folder.", show_default=False)],
    b: Annotated[str, typer.Argument(help="Another one.", show_default=False)],
    report: Annotated[Path, typer.Option(help="The report's folder that holds both variants.")] = Path(
        "reports/all"
    ),
) -> None:
    """Compare two variants, or two reports in the variants that both have, by the report's statistics."""
    from bench.printing import comparison_lines
    from bench.report.compare import compare as comparisons

    for line in comparison_lines(comparisons(a, b, report)):
        print(line)


@app.command(epilog="Example: bench parts likelihood")
def parts(
    kind: Annotated[str | None, typer.Argument(help="One kind only.", show_default=False)] = None,
) -> None:
    """List every part that a YAML file can name, with its options.

    Networks, likelihoods, metrics and the rest.
    """
    from bench.parts import listing

    for line in listing(kind):
        print(line)


@app.command(epilog="Example: bench ui")
def ui(
    tracking_uri: Uri = None,
    port: Annotated[int, typer.Option(min=1, max=65535)] = 5000,
    open_browser: Annotated[bool, typer.Option("--open", help="Open it in a browser.")] = False,
) -> None:
    """Start the MLflow UI on the store in use, on this machine only, and print its links."""
    from bench.tracking import pages, resolve_uri, ui_command, ui_environment

    uri = resolve_uri(tracking_uri)
    base = f"http://127.0.0.1:{port}"
    words = ui_command(uri, port)
    for name, link in pages(uri, base):
        print(f"{name}: {link}", flush=True)
    if open_browser:
        webbrowser.open(base)
    os.execve(words[0], words, ui_environment(uri))  # noqa: S606  our own command, no shell


@app.command(epilog="Example: bench speed --data-dir ~/data")
def speed(
    data_dir: DataDir = None,
    device: Device = "auto",
    only: Only = None,
    seconds: Annotated[float, typer.Option(min=0.1, help="About how long each measurement lasts.")] = 3.0,
    steps: Annotated[int | None, typer.Option(min=1, help="So many steps each, in place of seconds.")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Measurements of each contestant.")] = 5,
    reports: Reports = Path("reports"),
    scaling: Annotated[
        bool, typer.Option("--scaling", help="Also cost by seeds, batch size, width, latent size.")
    ] = False,
) -> None:
    """Measure training beside the loop everybody writes and the machine's limits; needs a clone."""
    from bench.speed import speed as measure
    from bench.speed.race import Pace

    pace = Pace(seconds, steps)
    print(measure(data_dir, device, tuple(only or ()), pace, rounds, reports, scaling=scaling))


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


def main() -> None:
    """Entry point: expected errors are one line and exit 2; tracebacks are for our own bugs."""
    code = 2
    try:
        code = app(standalone_mode=False) or 0
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
    except UsageError as error:
        print(_usage(error), file=sys.stderr)
    except (KeyboardInterrupt, typer.Abort):
        code = 130
    if code == 130:
        print(
            "bench: interrupted; finished runs are kept, the same command goes on with the rest",
            file=sys.stderr,
        )
    sys.exit(code)


def _usage(error: typer.BadParameter) -> str:
    """A wrong command line in one line; the whole help where nothing was asked for."""
    context = error.ctx
    if type(error).__name__ == "NoArgsIsHelpError":
        return error.format_message()
    command = context.command_path if context else "bench"
    return f"bench: {' '.join(error.format_message().split()).rstrip('.')}; see {command} --help"


def _version(show: bool) -> None:
    if show:
        print(f"bench {__version__}")
        raise typer.Exit


@app.callback()
def _app(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


def _request(
    spec: Path,
    device: str,
    seeds: str | None,
    only: list[str] | None,
    epochs: int | None,
    dataset: str | None,
    data_dir: Path | None,
    tracking_uri: str | None,
    reports: Path,
    fresh: bool,
    quick: bool,
    workers: int | None,
) -> Request:
    """The options as one value; the spec is read first, so that its errors need no torch."""
    from bench.spec import load

    chosen = _seeds(seeds)
    if quick:
        dataset, chosen = dataset or "digits", chosen or (0, 1, 2)
    load(spec).with_overrides(seeds=chosen, epochs=epochs, dataset=dataset).select(only or ["*"])
    from bench.plan import Request

    return Request(
        spec=spec,
        device=device,
        seeds=chosen,
        only=tuple(only or ()),
        epochs=epochs,
        dataset=dataset,
        data_dir=data_dir,
        tracking_uri=tracking_uri,
        reports=reports,
        fresh=fresh,
        workers=workers,
    )


def _seeds(text: str | None) -> tuple[int, ...] | None:
    """`3` is the seeds 0, 1 and 2; `0,4,7` is those; `4,` is one."""
    if text is None:
        return None
    try:
        numbers = tuple(int(word) for word in text.split(",") if word.strip())
    except ValueError:
        raise BenchError(f"--seeds {text!r}; give how many (3) or which (0,4,7)") from None
    if "," in text:
        return numbers
    if not 1 <= numbers[0] <= 1000:
        raise BenchError(f"--seeds {text}: allowed are 1 to 1000 seeds; give how many (3) or which (0,4,7)")
    return tuple(range(numbers[0]))


if __name__ == "__main__":
    main()
