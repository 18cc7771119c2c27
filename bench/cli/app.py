"""The application that commands join."""

from __future__ import annotations

from importlib.metadata import version
from typing import Annotated

import typer

app = typer.Typer(
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="The fair, reproducible comparison of variational autoencoders.",
    epilog="Exit codes: 0 all finished, 1 some runs failed or diverged, 2 bad input, 3 undecided, "
    "4 seeds are left by --hours, 130 interrupted.",
)


def _version(show: bool) -> None:
    if show:
        print(f"bench {version('bench-vae')}")
        raise typer.Exit


@app.callback()
def _app(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass
