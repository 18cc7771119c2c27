"""The experiments that ship with bench: YAML files that a name is enough for, without a clone too."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from bench.errors import BenchError, did_you_mean, printable
from bench.spec.experiment import FILE_STEM, names_folder
from bench.spec.source import given_text

SUFFIXES = (".yaml", ".yml")
BENCH = Path(__file__).resolve().parents[1]


@cache
def shipped() -> dict[str, Path]:
    """List the experiments that ship with bench, by name."""
    # The wheel has them inside the package; a clone has them beside it
    folders = (BENCH / "experiments", BENCH.parent / "experiments")
    folder = next((folder for folder in folders if folder.is_dir()), folders[0])
    return {file.stem: file for file in sorted(folder.glob("*.yaml"))}


def is_name(given: Path) -> bool:
    """Tell whether this is one word without a suffix: a name, where it is known, and no path."""
    return len(given.parts) == 1 and given.suffix not in SUFFIXES


def find(given: Path) -> Path:
    """Find the file of an experiment, given as a path or by the name of one that ships with bench.

    A word that ships is always the name, whatever lies here: `all` is bench's, `all.yaml` a file of yours.
    Raises BenchError for a word that is neither a name nor a file.
    """
    if not is_name(given):
        return given
    if str(given) in shipped():
        return shipped()[str(given)]
    try:
        exists = given.exists()
    except (OSError, ValueError):
        exists = False
    if not exists:
        what = f"{given_text(str(given))} is no file, and no experiment that ships with bench"
        raise BenchError(f"{what}{did_you_mean(str(given), shipped())}; bench experiments lists them")
    return given


def same_name_here(given: Path) -> str:
    """Name a file here that could be meant by the name of a shipped experiment, or "" where there is none."""
    if not (is_name(given) and str(given) in shipped()):
        return ""
    files = (given, *(given.with_name(given.name + suffix) for suffix in SUFFIXES))
    return next((str(file) for file in files if file.is_file()), "")


def begin(file: Path) -> None:
    """Write an experiment to start from. Raises BenchError for a path that is taken or cannot be written."""
    shown = printable(str(file))
    if file.suffix not in SUFFIXES or not names_folder(file.stem, FILE_STEM):
        what = f"{shown}: allowed: a YAML file, named by letters, digits, dot, hyphen, underscore"
        raise BenchError(f"{what}; write mine.yaml")
    try:
        with file.open("x", encoding="utf-8") as stream:
            stream.write((BENCH / "spec" / "starting.yaml").read_text(encoding="utf-8"))
    except FileExistsError:
        raise BenchError(f"{shown} is there already, and stays as it is; give another name") from None
    except OSError as error:
        raise BenchError(f"cannot write {shown}: {error.strerror}; give another path") from None
