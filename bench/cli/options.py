"""The options that commands share, and the request that `run` and `plan` make of them."""

from __future__ import annotations

import sys
from dataclasses import fields
from glob import escape, glob
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bench.errors import BenchError, printable

if TYPE_CHECKING:
    from bench.runs.request import Request


def _experiments(incomplete: str) -> list[str]:
    """Complete the name of an experiment that ships, or the path of a YAML file."""
    from bench.spec.shipped import SUFFIXES, shipped

    paths = sorted(glob(f"{escape(incomplete)}*"))
    files = [f"{p}/" if Path(p).is_dir() else p for p in paths if Path(p).is_dir() or p.endswith(SUFFIXES)]
    return [*(name for name in shipped() if name.startswith(incomplete)), *files]


Spec = Annotated[
    Path,
    typer.Argument(
        help="The experiment: a YAML file, or a name of bench experiments.",
        show_default=False,
        autocompletion=_experiments,
    ),
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")]
Seeds = Annotated[str | None, typer.Option(help="How many (3), or which (0,4,7; a single one as 4,).")]
Only = Annotated[list[str] | None, typer.Option(help="Variants matching this glob only; repeatable.")]
Epochs = Annotated[int | None, typer.Option(help="Instead of each variant's own.")]
DatasetName = Annotated[str | None, typer.Option("--dataset", help="Instead of the experiment's own.")]
Precision = Annotated[str | None, typer.Option(help="fp32 or bf16, instead of each variant's own.")]
DataDir = Annotated[Path | None, typer.Option(help="Where data sets lie (also BENCH_DATA_DIR).")]
Uri = Annotated[
    str | None, typer.Option("--tracking-uri", help="The MLflow store (also MLFLOW_TRACKING_URI).")
]
Reports = Annotated[Path, typer.Option(help="The folder for reports and records.")]
Fresh = Annotated[bool, typer.Option("--fresh", help="Do finished runs again.")]
Quick = Annotated[bool, typer.Option("--quick", help="On digits with three seeds: minutes, no download.")]
Report = Annotated[
    Path, typer.Argument(help="An experiment's folder, its YAML file or its name.", show_default=False)
]
Workers = Annotated[int | None, typer.Option(min=1, help="Runs at a time; by default one a core.")]
Hours = Annotated[
    float | None,
    typer.Option(help="A budget: as many whole rounds of seeds as fit; exit 4 where some are left."),
]
Executor = Annotated[str, typer.Option(help="local, or ray: the nodes of a Ray cluster.")]
Address = Annotated[
    str | None, typer.Option(help="The Ray cluster's, auto or HOST:PORT; by default this machine's.")
]
NoCode = Annotated[bool, typer.Option("--no-code", help="Refuse an experiment that names a Python file.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress on stderr.")]


def request_of(context: typer.Context) -> Request:
    """Make one value of the options of `run` or `plan`; the spec is read here, once, without torch.

    Raises BenchError for a spec, seeds, a glob or an executor that cannot be used.
    """
    from bench.runs.request import Request
    from bench.spec.resolve import load
    from bench.spec.shipped import same_name_here

    given = dict(context.params)
    if other := same_name_here(given["spec"]):
        told = f"{given['spec']} is the experiment that ships with bench; {other} is not read"
        print(f"bench: {printable(told)}", file=sys.stderr)
    seeds, dataset = seeds_of(given["seeds"]), given["dataset"]
    if given["quick"]:
        dataset, seeds = dataset or "digits", seeds or (0, 1, 2)
    changed = {"seeds": seeds, "dataset": dataset, "only": tuple(given["only"] or ())}
    names = {field.name for field in fields(Request)} & given.keys()
    request = Request(
        load(given["spec"], code=not given["no_code"]), **{name: given[name] for name in names} | changed
    )
    check_executor(request.executor, request.address)
    assert request.chosen  # noqa: S101  a glob that matches nothing is refused here, before torch is imported
    return request


def check_executor(executor: str, address: str | None) -> None:
    """Raise BenchError for an unknown executor, for Ray where it is not installed, and for a lone address."""
    if executor not in ("local", "ray"):
        raise BenchError(f"--executor {executor!r}; give local or ray")
    if executor == "local" and address is not None:
        raise BenchError(f"--address {address} is a Ray cluster's; add --executor ray, or leave it out")
    if executor == "ray":
        from bench.runs.cluster import require_ray

        require_ray()


def seeds_of(text: str | None) -> tuple[int, ...] | None:
    """`3` is the seeds 0, 1 and 2; `0,4,7` is those; `4,` is one."""
    if text is None:
        return None
    try:
        numbers = tuple(int(word) for word in text.split(",") if word.strip())
    except ValueError:
        raise BenchError(f"--seeds {text!r}; give how many (3) or which (0,4,7)") from None
    if "," in text:
        return numbers
    if len(numbers) != 1 or not 1 <= numbers[0] <= 1000:
        raise BenchError(f"--seeds {text}: allowed are 1 to 1000 seeds; give how many (3) or which (0,4,7)")
    return tuple(range(numbers[0]))
