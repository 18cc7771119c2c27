"""The commands: parse, call, print.

Results go to stdout, progress to stderr; heavy imports wait until a command needs them.

Exit codes: 0 all finished, 1 some runs failed or diverged, 2 bad input, 3 undecided, 4 seeds are left by
--hours, 130 interrupted.
"""

from __future__ import annotations

import errno
import io
import os
import sys

import typer

from bench.cli import matrix, sharing, tools
from bench.cli.app import app
from bench.errors import BenchError, printable, redacted

__all__ = ["app", "main", "matrix", "sharing", "tools"]

# What is wrong with a path that was given, or with the disk, wherever it shows: no bug of ours
USER_ERRNOS = {
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ENOSPC,
    errno.EDQUOT,
    errno.ENAMETOOLONG,
    errno.ELOOP,
}
LONGEST = 2_000  # characters of a line about an error
# What a wrong command line raises; Typer carries Click's class without exporting it
UsageError: type[typer.BadParameter] = typer.BadParameter.__mro__[1]


def main() -> None:
    """Entry point: expected errors are one line and exit 2; tracebacks are for our own bugs."""
    code = 2
    os.environ["MPLBACKEND"] = "agg"  # bench draws without a screen; an unknown one would end it
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal may not know every letter
            stream.reconfigure(errors="replace")
    try:
        code = app(prog_name="bench", standalone_mode=False) or 0
    except BenchError as error:
        print(_line(str(error)), file=sys.stderr)
    except OSError as error:
        if error.errno not in USER_ERRNOS:
            raise
        what = f"{str(error.filename or 'a file')[:200]}: {error.strerror}"
        print(_line(f"{what}; give another path, or allow it to be used"), file=sys.stderr)
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
    what = " ".join(error.format_message().split()).rstrip(".")
    return _line(f"{what}; see {command} --help")


def _line(text: str) -> str:
    """What standard error gets: one line that cannot drive a terminal, and tells no secret."""
    line = printable(redacted(text))
    return f"bench: {line if len(line) <= LONGEST else line[:LONGEST] + '…'}"
