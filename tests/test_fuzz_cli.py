"""Arbitrary words for every command: an exit code of the contract, one line on stderr, nothing left."""

from __future__ import annotations

import random
import sys
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import pytest
import typer
from test_fuzz_specs import NASTY, SMALL

from bench.cli import app, main
from bench.errors import BenchError, redacted
from bench.store.lock import LOCK

CASES = 150
COMMANDS: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]
FILES = {
    "ok.yaml": SMALL.replace("mnist", "digits"),
    "bad.yaml": SMALL.replace("epochs: 2", "epochs: 0"),
    "list.yaml": "[1, 2]",
    "empty.yaml": "",
    "text.txt": "no picture, no folder",
    "reports/all/experiment.json": "[]",
    "reports/cut/experiment.json": '{"variants": {"a',
    "reports/odd/experiment.json": '{"variants": {"a": 1}, "planned": {"x": []}}',
    "reports/runs/0123456789abcdef-s0/record.json": '{"format": 2, "id": "a-s0-0", "status": "finished"}',
}
WORDS = [
    *FILES, *(word for word in NASTY if "\0" not in word), ".", "..", "reports", "reports/all",
    "reports/cut", "reports/odd", "reports/runs/0123456789abcdef-s0", "none/at/all", "a", "b",
    "net-bernoulli-beta-1", "*", "[", "**", "digits", "mnist", "mnits", "cpu", "cuda:99", "mps", "tpu", "3",
    "0,4", "4,", ",", "0,0", "1,x", "-1", "1001", "1e9", "0" * 40, "f" * 32, "sqlite:///",
    "sqlite:///:memory:", "file:/x", "mlruns", "http://[", "http://u:secret@127.0.0.1:9", "samples",
    "manifold", "--", "-", "--help", "--force", "-h",
]  # fmt: skip
GOOD = ["ok.yaml", "ok.yaml", "3", "0,4", "digits", "cpu", "encoder", "*", "here"]


def begin_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a folder of files, good and bad, the one to give commands in; nothing long can start there."""

    def stop(*_: object, **__: object) -> Any:
        raise BenchError("here a command would begin its work")

    import bench.cli.outlook
    import bench.cli.printing
    import bench.doctor
    import bench.runs.matrix
    import bench.tracking  # noqa: F401  imported before they are patched
    from bench.runs.order import Prediction

    for name, content in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content, encoding="utf-8")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
    for name in ("BENCH_DATA_DIR", "MLFLOW_TRACKING_URI", "MLFLOW_AUTH_ADMIN_PASSWORD"):
        monkeypatch.delenv(name, raising=False)
    nothing = Prediction(defaultdict(float), rounds={0: 0.0})
    monkeypatch.setattr("bench.runs.predict.predict", lambda plan: nothing)
    monkeypatch.setattr("webbrowser.open", lambda *_: True)
    monkeypatch.setattr("bench.runs.matrix.run_matrix", lambda *_, **__: None)
    monkeypatch.setattr("bench.cli.closing.print_end", lambda _: 0)
    for begin in ("doctor.check", "tracking.pages", "data.datasets.fetch"):
        monkeypatch.setattr(f"bench.{begin}", stop)
    monkeypatch.setattr("os.execve", stop)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which nothing long can start."""
    begin_nothing(tmp_path, monkeypatch)
    return tmp_path


def word(rng: random.Random) -> str:
    return rng.choice(GOOD if rng.random() < 0.5 else WORDS)


def line(rng: random.Random) -> list[str]:
    """A command line: a command, now and then none; words for its arguments and for some of its options."""
    name = rng.choice([*COMMANDS, *COMMANDS, rng.choice(WORDS)])
    known = COMMANDS[name].params if name in COMMANDS else []
    wanted = sum(param.param_type_name == "argument" and param.required for param in known)
    words = [name, *(word(rng) for _ in range(max(0, wanted + rng.choice((-1, 0, 0, 0, 0, 0, 1)))))]
    options = [param for param in known if param.param_type_name == "option"]
    for option in rng.sample(options, min(len(options), rng.choice((0, 0, 1, 1, 2, 4)))):
        words += [option.opts[-1]] if option.is_flag else [option.opts[-1], word(rng)]
    if rng.random() < 0.1:
        words.insert(
            rng.randrange(len(words)), rng.choice(("--nope", "--seed", "-x", "---", "-h", "--x=1", "--"))
        )
    return words


def files(folder: Path) -> set[str]:
    """What is there; a lock that was taken stays, empty, in the folder of a report."""
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.name != LOCK}


def run(
    words: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> tuple[int, str]:
    """Exit code and stderr of a command line in this process."""
    monkeypatch.setattr(sys, "argv", ["bench", *words])
    with pytest.raises(SystemExit) as end:
        main()
    return int(end.value.code or 0), capsys.readouterr().err


def test_any_words_give_an_exit_code_and_a_line(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = random.Random(6)
    before, codes = files(place), Counter[int]()
    tried = Counter[str]()
    for _ in range(CASES):
        words = line(rng)
        code, told = run(words, capsys, monkeypatch)
        codes[code] += 1
        tried[words[0]] += 1
        assert code in (0, 1, 2, 130), words
        if code == 2 and "Usage: " not in told:  # the help, where nothing at all was asked for
            assert told.startswith("bench: "), (words, told)
            assert told.count("\n") == 1, (words, told)
            assert told[:-1].isprintable(), (words, told)
            assert "secret" not in told, (words, told)
        assert files(place) == before, words
    assert codes[0] > CASES // 50
    assert codes[2] > CASES // 2
    assert all(tried[name] > CASES // 100 for name in COMMANDS)


FOUND = {
    "no seeds": (("run", "ok.yaml", "--seeds", ""), "--seeds : allowed are 1 to 1000"),
    "bad seeds": (("run", "ok.yaml", "--seeds", "zero"), "--seeds 'zero'; give how many (3) or which"),
    "no such variant": (("run", "ok.yaml", "--only", "smell-*"), "smell-*"),
    "no such data": (("run", "ok.yaml", "--dataset", "minst"), "did you mean 'mnist'?"),
    "no data folder": (("run", "ok.yaml", "--data-dir", "nowhere"), "--data-dir nowhere is no folder"),
    "no such kind": (("parts", "encodr"), "did you mean 'encoder'?"),
    "a colour": (("report", "\x1b[31mred"), "bench: \\x1b[31mred holds no experiment.json"),
    "a colour for an option": (("report", "--\x1b[31mred"), "\\x1b[31mred"),
    "a name no disk has": (("report", "a" * 300), "File name too long; give another path"),
    "a secret too many": (("verify", "x", "http://u:secret@h"), "(http://***@h)"),
    "a secret for a path": (("compare", "http://u:secret@h", "y"), "bench: http:/***@h and y are not two"),
}


@pytest.mark.parametrize(("words", "told"), FOUND.values(), ids=FOUND.keys())
def test_what_was_found_is_one_line_now(
    words: tuple[str, ...],
    told: str,
    place: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = files(place)
    code, line = run(list(words), capsys, monkeypatch)
    assert code == 2
    assert files(place) == before
    assert told in line
    assert line[:-1].isprintable()
    assert "secret@" not in line


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgresql://u:p/w@h/db", "postgresql://***@h/db"),
        ("http://token@h and http://v:q@i", "http://***@h and http://***@i"),
        ("http:/u:p@h", "http:/***@h"),
        ("see http://a:b@c@host/x and sqlite:////a@b.db", "see http://***@host/x and sqlite:////a@b.db"),
        ("postgresql://h/db?user=u&password=p&x=1", "postgresql://h/db?user=u&password=***&x=1"),
        ("http://h:5000/a?mail=b@c", "http://h:5000/a?mail=b@c"),
        ("http://[::1]:5000/x", "http://[::1]:5000/x"),
        ("http://h/?api_key=k&x=1", "http://h/?api_key=***&x=1"),
    ],
)
def test_no_secret_of_a_uri_is_shown(text: str, shown: str) -> None:
    assert redacted(text) == shown
