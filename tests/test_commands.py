"""docs/commands.md names every command, option and example, and none that is not there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from bench.cli import app, main
from bench.spec.registry import REGISTRIES, entries

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs/commands.md").read_text(encoding="utf-8")
COMMANDS: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]
SECTIONS = {
    found[1]: found[2]
    for found in re.finditer(r"^## bench (\w+)\n(.*?)(?=^## |\Z)", TEXT, re.MULTILINE | re.DOTALL)
}
BLOCKS = TEXT.split("```")[1::2]
EXAMPLES = [
    line.partition("  #")[0].strip()
    for line in "".join(BLOCKS).splitlines()
    if line.startswith("bench ") and "COMMAND" not in line
]


def options(command: str) -> set[str]:
    """The long options of a command, but for those that every command has."""
    return {name for param in COMMANDS[command].params for name in param.opts if name[:2] == "--"} - {
        "--help"
    }


def test_every_command_has_a_section_and_a_row() -> None:
    assert SECTIONS.keys() == COMMANDS.keys()
    for name in COMMANDS:
        assert f"| [`bench {name}`](#bench-{name}) |" in TEXT


@pytest.mark.parametrize("name", COMMANDS)
def test_a_section_names_every_option_of_its_command(name: str) -> None:
    named = set(re.findall(r"--[a-z][a-z0-9-]*", SECTIONS[name]))
    assert options(name) <= named
    assert named <= set().union(*map(options, COMMANDS)), "an option that no command has"


def parsed(line: str) -> None:
    """Parse a command line as bench would, running nothing."""
    program, *words = shlex.split(line)
    assert program == "bench"
    if words[0] == "--version":
        return
    COMMANDS[words[0]].make_context(words[0], words[1:])


@pytest.mark.parametrize("line", EXAMPLES)
def test_an_example_parses(line: str) -> None:
    parsed(line)


@pytest.mark.parametrize("name", COMMANDS)
def test_help_is_one_sentence_and_an_example_that_parses(name: str) -> None:
    first = COMMANDS[name].help.split("\n\n")[0]
    assert first.endswith(".")
    assert ". " not in first
    example = COMMANDS[name].epilog.removeprefix("Example: ")
    assert example.startswith(f"bench {name}")
    parsed(example)


def test_every_exit_code_has_a_row() -> None:
    told = re.findall(r"(\d+) ", app.info.epilog or "")
    assert told == re.findall(r"^\| (\d+) \|", TEXT, re.MULTILINE)


def interrupted(kind: str | None) -> list[str]:
    raise KeyboardInterrupt


def broken(kind: str | None) -> list[str]:
    raise ZeroDivisionError


def test_an_interrupt_says_how_to_go_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("bench.spec.registry.entries", interrupted)
    monkeypatch.setattr("sys.argv", ["bench", "parts"])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 130
    assert "goes on with the rest" in capsys.readouterr().err


@pytest.mark.parametrize("kind", [*REGISTRIES])
def test_of_one_kind_each_option_stands_with_what_it_allows(kind: str) -> None:
    lines = CliRunner().invoke(app, ["parts", kind]).stdout.splitlines()
    said = [line.strip().partition(": ") for line in lines if line.startswith("    ")]
    assert [name for name, _, _ in said] == [
        o.partition("=")[0] for e in entries(kind).values() for o in e.options
    ]
    assert all(allowed for _, _, allowed in said)
    assert kind != "prior" or lines[2:4] == [
        "  mixture(components=10): A learned mixture of diagonal Gaussians: weights, means and scales.",
        "    components: a whole number of at least 1",
    ]


def test_a_bug_of_ours_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.spec.registry.entries", broken)
    monkeypatch.setattr("sys.argv", ["bench", "parts"])
    with pytest.raises(ZeroDivisionError):
        main()
