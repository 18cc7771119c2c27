"""Experiment files out of any hand: mutated by the thousand, and what that has found."""

from __future__ import annotations

import random
import re
import shutil
import signal
from collections import Counter
from pathlib import Path

import pytest

from bench.errors import LISTED, BenchError, did_you_mean
from bench.spec.experiment import MAX_RUNS, MAX_VARIANTS, Run
from bench.spec.registry import REGISTRIES
from bench.spec.resolve import load

ROOT = Path(__file__).parents[1]
CASES = 1_000
SECONDS = 10  # of processor time for one case; a hundred times what an honest file takes
LONGEST = 2_000  # characters of a refusal
PLACE = re.compile(r"\S*\.yaml(:\d+:\d+)?: .")
TOKEN = re.compile(r"[\w./-]+|[^\w\s]|\s+")
NET = "encoder: {name: linear, hidden: 4}, decoder: {name: mlp, hidden: [5]}, latent: 2"
SMALL = """question: Why?
dataset: {name: mnist, offline_fallback: digits}
seeds: [0, 1]
evaluation: {importance_samples: 5}
defaults: {optimizer: {name: adam, lr: 1.0e-3}, epochs: 2}
architectures:
  net: {encoder: {name: mlp, hidden: [4, 3], activation: [relu, tanh]}, decoder: conv-bn, latent: 2}
variants:
  a: {architecture: net, document: 000, objective: {beta: dz/dx}}
  b:
    extends: a
    likelihood: {name: gaussian, variance: 1/2}
    published: [{value: 1.5, metric: test_loss, epoch: 1, source: README}]
matrix:
  architecture: [net]
  likelihood: [bernoulli, gaussian]
  beta: [1, 32/784]
  exclude: [{likelihood: gaussian, beta: 1}]
"""

# What people, editors and enemies write where something else is meant
NASTY = [
    "", "~", "No", "true", "0", "-1", "1e3", "1.0e+400", "1.0e-320", ".5", "1_0", "010", "0x1f", "10:30",
    "190:20:30.15", ".nan", "-.inf", "9" * 38, "9" * 5000, "1/0", "1/3", "dz/dx", "2026-01-01", "1001",
    "18446744073709551616", "<<: {a: 1}", "*a", "&a ", "!!python/object/apply:os.system [ls]", "!!str 1",
    "!!binary aGk=", "!!set {a, b}", "{", "}", "[", "]", "{}", "[]", "- ", "? ", ": ", ", ", "|", ">", "'",
    '"', "%YAML 1.2", "---", "\n---\n", "# ", "\t", "\n", "\r", "\0", "\x1b[31m", "\x85", "\u2028",
    "\u202e", "\ufeff", "é", "一", "\U0001f600", "a" * 81, "../", "../../etc/passwd", "/dev/zero", "nul",
    "-rf", ".", "..", "~root", "f.yaml", "all.yaml", "own.py", "{file: own.py, name: Mine}",
    "<script>alert(1)</script>", "`id`", "=cmd()", "a|b", "[x](javascript:x)", "mlp", "conv-bn", "gaussian",
    "adam", "question", "seeds", "defaults", "variants", "matrix", "extends", "exclude", "latent",
    "batch_size", "epochs", "validation", "precision", "published", "hidden", "lr", "axes", "file",
    *REGISTRIES,
]  # fmt: skip
GROWTH = {
    "laughs": "\n".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 12)),
    "deep lists": f"question: {'[' * 50_000}{']' * 50_000}",
    "deep mappings": f"question: {'{a: ' * 50_000}{'}' * 50_000}",
    "deep rows": f"question: {'- ' * 50_000}",
    "a long word": f"question: Why?\nvariants: {{a: {{{NET}, objective: {{name: '{'a' * 200_000}'}}}}}}",
    "a long key": f"question: Why?\n? {'é' * 100_000}\n: 1",
    "a long number": f"question: Why?\nvariants: {{a: {{{NET}, epochs: {'9' * 200_000}}}}}",
    "itself": "question: Why?\nextends: ../c/f.yaml",
    "a folder": "question: Why?\nextends: .",
}


def mutant(rng: random.Random, text: str) -> bytes:
    """A file of one to five edits: of a token, a piece, a line, or one that changes nothing."""
    for _ in range(rng.choice((1, 1, 1, 2, 3, 5))):
        text = text or "\n"  # an edit may have left nothing
        how, at, length = rng.randrange(8), rng.randrange(len(text)), rng.choice((1, 10, 100))
        rows, tokens = text.splitlines(keepends=True), TOKEN.findall(text)
        if how < 5:
            word = rng.randrange(len(tokens))
            other = rng.choice((rng.choice(NASTY), str(rng.randrange(40)), rng.choice(tokens)))
            tokens[word] = rng.choice((other, other, "", tokens[word] + other))
            text = "".join(tokens)
        elif how == 5:
            noise = rng.randbytes(length).decode("utf-8", "surrogateescape")
            text = text[:at] + rng.choice(("", noise, text[at : at + length] * 3)) + text[at + length :]
        elif how == 6:
            rows.insert(
                rng.randrange(len(rows)), " " * rng.choice((0, 2)) + rows.pop(rng.randrange(len(rows)))
            )
            text = "".join(rows)
        else:
            rows.insert(rng.randrange(len(rows)), rng.choice(("\n", "# words: {\n", "   # β\n")))
            text = "".join(rows)
    return text.encode("utf-8", "surrogateescape")


class TooSlow(BaseException):  # not an Exception: nothing on the way may take it for its own
    """A case took more than its share of processor time."""


def accepted(path: Path) -> bool:
    """Load a file as bench would. Raises AssertionError where it is neither accepted nor refused properly."""

    def over(*_: object) -> None:
        raise TooSlow

    before = signal.signal(signal.SIGVTALRM, over)
    signal.setitimer(signal.ITIMER_VIRTUAL, SECONDS)
    try:
        made = load(path)
    except BenchError as error:
        message = str(error)
        assert PLACE.match(message), f"no place: {message[:300]!r}"
        assert message.isprintable(), f"more than a line of text: {message[:300]!r}"
        assert len(message) <= LONGEST, f"{len(message)} characters: {message[:300]!r}"
        return False
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)
    assert len(made.variants) <= MAX_VARIANTS
    assert len(made.variants) * len(made.seeds) <= MAX_RUNS
    runs = [variant.run(seed) for variant in [*made.variants.values()][:15] for seed in made.seeds[:2]]
    ids = [run.identity("d") for run in runs]
    assert len(set(ids)) == len(ids)
    assert all(re.fullmatch(r"[a-z0-9][a-z0-9.-]{0,79}-s\d+-[0-9a-f]{8}", each) for each in ids), ids
    assert [Run.model_validate_json(run.model_dump_json()).identity("d") for run in runs] == ids
    return True


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A copy of experiments/ with a part of one's own, which is never run."""
    folder = shutil.copytree(ROOT / "experiments", tmp_path / "c")
    (folder / "own.py").write_text(
        "def Mine(*, width: PositiveInt, beta: float = 1): ...\nraise SystemExit\n"
    )
    return Path(folder)


def test_every_mutant_is_accepted_or_refused_in_one_line(place: Path) -> None:
    texts = [SMALL] * 8 + [path.read_text(encoding="utf-8") for path in sorted(place.glob("*.yaml"))]
    ends = Counter[bool]()
    for case in range(CASES):
        rng = random.Random(case)
        (place / "f.yaml").write_bytes(mutant(rng, rng.choice(texts)))
        ends[accepted(place / "f.yaml")] += 1
    assert min(ends.values()) > CASES // 10, ends


@pytest.mark.parametrize("text", GROWTH.values(), ids=GROWTH.keys())
def test_what_tries_to_grow_is_refused_in_one_line(text: str, place: Path) -> None:
    (place / "f.yaml").write_text(text)
    assert not accepted(place / "f.yaml")


# What fuzzing found, each alone

HEAD = f"question: Why?\ndefaults: {{{NET}}}\n"


def refusal(folder: Path, text: str) -> str:
    (folder / "f.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(BenchError) as caught:
        load(folder / "f.yaml")
    return str(caught.value)


def test_the_variants_of_all_files_together_are_limited(tmp_path: Path) -> None:
    sizes = ", ".join(str(i + 1) for i in range(1_500))
    (tmp_path / "g.yaml").write_text(f"{HEAD}matrix: {{batch_size: [{sizes}], latent: [3]}}")
    text = f"extends: g.yaml\nmatrix: {{batch_size: [{sizes}], latent: [4]}}"
    assert "3000 variants in all; allowed: at most 2000" in refusal(tmp_path, text)


@pytest.mark.parametrize("block", ["variants", "architectures"])
def test_blocks_of_thousands_are_refused(tmp_path: Path, block: str) -> None:
    text = HEAD + f"{block}:\n" + "".join(f"  v{i}: {{latent: 2}}\n" for i in range(2_001))
    assert f"f.yaml:4:3: 2001 {block}; allowed: at most 2000; split" in refusal(tmp_path, text)


def test_the_runs_are_limited_in_the_file_and_on_the_command_line(tmp_path: Path) -> None:
    text = HEAD + f"matrix: {{batch_size: [{', '.join(str(i + 1) for i in range(101))}]}}\n"
    told = f"101 variants with 1000 seeds are 101000 runs; allowed: at most {MAX_RUNS}"
    assert f"f.yaml:4:8: {told}" in refusal(tmp_path, text + "seeds: 1000")
    (tmp_path / "f.yaml").write_text(text)
    with pytest.raises(BenchError, match=told):
        load(tmp_path / "f.yaml").with_overrides(seeds=range(1000))


def test_a_list_of_too_many_seeds_is_refused_by_its_length(tmp_path: Path) -> None:
    text = HEAD + f"variants: {{a: {{}}}}\nseeds: [{', '.join(map(str, range(35_000)))}]"
    told = "f.yaml:4:8: the experiment: seeds is a list; allowed: a whole number from 1 to 1000, or a list"
    assert told in refusal(tmp_path, text)


def test_a_width_no_machine_holds_is_refused(tmp_path: Path) -> None:
    text = f"question: Why?\nvariants: {{a: {{{NET.replace('[5]', '[' + '9' * 30 + ']')}}}}}"
    assert "allowed: a list of 1 to 16 whole numbers from 1 to 16384" in refusal(tmp_path, text)


@pytest.mark.parametrize("beta", ["1.0e+308", f"{'9' * 30}/0.1", "-1.0e+31"])
def test_a_number_that_overflows_at_once_is_refused(tmp_path: Path, beta: str) -> None:
    text = f"question: Why?\nvariants: {{a: {{{NET}, objective: {{beta: {beta}}}}}}}"
    assert "allowed: at most 1e+30; write a smaller number" in refusal(tmp_path, text)


def test_two_long_words_are_not_compared_letter_by_letter(tmp_path: Path) -> None:
    """A hundred different letters defeat difflib's short cuts: comparing them took minutes."""
    one, other = ("".join(chr(0xB0 + i * step % 120) for i in range(12_000)) for step in (7, 11))
    text = f"{HEAD}matrix: {{precision: ['{one}'], exclude: [{{precision: '{other}'}}]}}"
    assert "is no value of axis precision; known: " in refusal(tmp_path, text)


def test_a_refusal_lists_some_names_not_thousands() -> None:
    told = did_you_mean("v100", [f"v{i:03}" for i in range(1_000)])
    assert told.startswith("; did you mean 'v100'? Known: v000, v001, ")
    assert told.endswith(f" and {1_000 - LISTED} more")
    assert did_you_mean("b", "abc") == "; did you mean 'b'? Known: a, b, c"
    assert "\x1b" not in did_you_mean("b", ["\x1b[31m"])


@pytest.mark.parametrize("name", ["con", "nul.x", "aux", "com1", "lpt9.tar", "a."])
def test_a_name_that_windows_keeps_for_itself_is_refused(tmp_path: Path, name: str) -> None:
    assert "allowed: a-z, 0-9" in refusal(tmp_path, f"question: Why?\nvariants: {{{name}: {{{NET}}}}}")
    (tmp_path / f"{name}.yaml").write_text(f"question: Why?\nvariants: {{a: {{{NET}}}}}")
    with pytest.raises(BenchError, match="rename the file"):
        load(tmp_path / f"{name}.yaml")


def test_what_is_extended_is_an_experiment_not_a_secret(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("hunter2\n")
    told = refusal(tmp_path, f"question: Why?\nextends: {tmp_path}/secret")
    assert "which is no file; allowed: a YAML file" in told
    assert "hunter2" not in told
