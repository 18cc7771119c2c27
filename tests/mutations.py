"""Mutated experiment files by the thousand: each is accepted or refused in one line with its place.

`python tests/mutations.py FOLDER FIRST LAST` works on a copy of experiments/ in FOLDER, in a process of its
own whose memory the system bounds, and prints what became of the cases as JSON.
"""

from __future__ import annotations

import json
import random
import re
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from types import FrameType

from bench.errors import BenchError
from bench.spec.experiment import MAX_RUNS, MAX_VARIANTS, Run
from bench.spec.registry import REGISTRIES
from bench.spec.resolve import load

MEMORY = 1 << 30  # bytes of address space, the interpreter's and its libraries' included
SECONDS = 10.0  # of processor time for one case; a hundred times what an honest file takes
PLACE = re.compile(r"\S*\.yaml(:\d+:\d+)?: .")
LONGEST = 2_000  # characters of a refusal

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
    "", "~", "null", "on", "No", "true", "0", "-1", "1", "-0", "+1", "1e3", "1e-3", "1.0e+400", "-1.0e+308",
    "1.0e-320", "0.1", ".5", "5.", "1_0", "010", "0x1f", "0b11", "0o17", "10:30", "190:20:30.15", "09:59",
    ".nan", ".inf", "-.inf", "9" * 38, "9" * 50, "9" * 5000, "1/0", "1/3", "dz/dx", "32/784", "1/-2",
    "2026-01-01", "2001-12-14t21:59:43.10-05:00", "1000000000", "1001", "10001", "60001", "4294967296",
    "18446744073709551616", "=", "<<", "<<: {a: 1}", "*a", "&a ", "&a [*a]",
    "!!python/object/apply:os.system [ls]", "!!python/name:os.system", "!!str 1", "!!binary aGk=", "!own 1",
    "!!set {a, b}", "!!timestamp 2026-01-01", "{", "}", "[", "]", "{}", "[]", "[[[[]]]]",
    "{a: {a: {a: 1}}}", "- ", "? ", ": ", ", ", "|", ">", "|2-", "'", '"', "%YAML 1.2", "---", "...",
    "\n---\n", "# ", "\t", "\n", "\r", "  ", "@", "`", "\0", "\x07", "\x1b[31m", "\x7f", "\x85", "\u2028",
    "\u202e", "\u200b", "\ufeff", "\ufffe", "\ud7ff", "é", "“", "一", "\U0001f600", "a" * 81, "a" * 1025,
    "../", "../../etc/passwd", "/etc/passwd", "/dev/zero", "nul", "con", "-rf", ".", "..", "~root",
    "f.yaml", "g.yaml", "own.py", "{file: own.py, name: Mine}", "all.yaml",
    "documents.yaml", "<b>x</b>", "<script>alert(1)</script>", "$(id)",
    "`id`", "=cmd()", "a|b", "[x](javascript:x)", "mlp", "linear", "conv-bn", "gaussian", "bernoulli",
    "adam", "normalised",
]  # fmt: skip
KEYS = [
    "question", "dataset", "seeds", "evaluation", "defaults", "architectures", "variants", "matrix",
    "extends", "exclude", "architecture", "latent", "batch_size", "epochs", "shuffle", "drop_last",
    "validation", "precision", "document", "published", "note", "name", "hidden", "activation", "beta",
    "lr", "label", "axes", "file", *REGISTRIES,
]  # fmt: skip
TOKEN = re.compile(r"[\w./-]+|[^\w\s]|\s+")
VALUE = re.compile(r"(?<=: )[^\s{}\[\],][^{}\[\],\n]*")
Edit = Callable[[random.Random, str], str]


# One edit of a text each


def bits(rng: random.Random, text: str) -> str:
    data = bytearray(text.encode("utf-8", "surrogateescape"))
    for _ in range(rng.choice((1, 1, 2, 8))):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return data.decode("utf-8", "surrogateescape")


def piece(rng: random.Random, text: str) -> str:
    """A piece taken out, repeated, or put in; or the end cut off."""
    at, length = rng.randrange(len(text)), rng.choice((1, 10, 100))
    noise = rng.randbytes(rng.choice((1, 3, 40))).decode("utf-8", "surrogateescape")
    instead = rng.choice(("", noise, text[at : at + length] * rng.choice((2, 3, 50))))
    return text[:at] + instead + text[at + length :] * rng.choice((0, 1, 1, 1))


def token(rng: random.Random, text: str) -> str:
    tokens = TOKEN.findall(text) or [""]
    at, to = rng.randrange(len(tokens)), rng.randrange(len(tokens))
    how, other = rng.randrange(5), rng.choice((rng.choice(NASTY), rng.choice(KEYS), tokens[to]))
    if how == 4:
        tokens[at], tokens[to] = tokens[to], tokens[at]
    else:
        tokens[at] = (other, "", tokens[at] + other, other + tokens[at])[how]
    return "".join(tokens)


def value(rng: random.Random, text: str) -> str:
    """Another value for a key: of another type, out of range, or just another."""
    places = list(VALUE.finditer(text))
    if not places:
        return token(rng, text)
    place = rng.choice(places)
    others = (rng.choice(NASTY), rng.choice(NASTY), str(rng.randrange(1, 40)), rng.choice(places)[0])
    return text[: place.start()] + rng.choice(others) + text[place.end() :]


def lines(rng: random.Random, text: str) -> str:
    rows = text.splitlines(keepends=True) or [""]
    a, b = rng.randrange(len(rows)), rng.randrange(len(rows))
    how = rng.randrange(4)
    if how == 0:
        rows.insert(b, rows[a])
    elif how == 1:
        del rows[a]
    elif how == 2:
        rows[a], rows[b] = rows[b], rows[a]
    else:
        rows[a] = " " * rng.choice((1, 2, 4)) + rows[a]
    return "".join(rows)


def comment(rng: random.Random, text: str) -> str:
    """What changes nothing, so that not everything is refused."""
    rows = text.splitlines(keepends=True) or [""]
    rows.insert(rng.randrange(len(rows)), rng.choice(("\n", "# words: {\n", "   # β\n")))
    return "".join(rows)


EDITS: tuple[Edit, ...] = (
    bits, piece, piece, piece, token, token, token, value, value, value, value, lines, comment, comment,
)  # fmt: skip


# Whole files that try to grow


NET = "encoder: {name: linear, hidden: 4}, decoder: {name: mlp, hidden: [5]}, latent: 2"


def laughs(rng: random.Random) -> str:
    ten = (", ".join([f"*a{i - 1}" if i else "x"] * 10) for i in range(rng.choice((3, 12))))
    return "\n".join(f"a{i}: &a{i} [{items}]" for i, items in enumerate(ten))


def deep(rng: random.Random) -> str:
    start, end = rng.choice((("[", "]"), ("{a: ", "}"), ("- ", ""), ("? ", "")))
    n = rng.choice((31, 33, 2_000, 50_000))
    return f"question: {start * n}{end * n}"


def explosion(rng: random.Random) -> str:
    axes = ("batch_size", "epochs", "latent", "beta", "optimizer.lr", "validation")[: rng.randrange(1, 7)]
    count = rng.choice((2, 5, 32))
    body = "".join(f"  {axis}: [{', '.join(str(i + 1) for i in range(count))}]\n" for axis in axes)
    return f"question: Why?\nseeds: {rng.choice((1, 1000))}\ndefaults: {{{NET}}}\nmatrix:\n{body}"


def many(rng: random.Random) -> str:
    n = rng.choice((3, 100, 2_000, 10_000))
    what = rng.randrange(5)
    if what == 0:
        return f"question: Why?\nseeds: [{', '.join(map(str, range(n)))}]\nvariants: {{a: {{{NET}}}}}\n"
    if what == 1:
        chain = "".join(f"  v{i}: {{extends: v{i + rng.choice((0, 1, 1, 1))}}}\n" for i in range(n))
        return f"question: Why?\nvariants:\n{chain}  v{n}: {{{NET}}}\n"
    if what == 2:
        rows = "".join(f"  v{i}: {{extends: v}}\n" for i in range(n))
        return f"question: Why?\nvariants:\n  v: {{{NET}}}\n{rows}"
    if what == 3:
        return "question: Why?\narchitectures:\n" + "".join(f"  v{i}: {{{NET}}}\n" for i in range(n // 3))
    excludes = ", ".join(f"{{batch_size: {i}}}" for i in range(1, n))
    sizes = ", ".join(str(i) for i in range(1, n + 1))
    return f"question: Why?\ndefaults: {{{NET}}}\nmatrix: {{batch_size: [{sizes}], exclude: [{excludes}]}}\n"


def long(rng: random.Random) -> str:
    n, letter = rng.choice((80, 1_000, 200_000)), rng.choice(("a", "9", "é", "ab", "-", " "))
    word = letter * n
    return rng.choice((
        f"question: {word}\nvariants: {{a: {{{NET}}}}}\n",
        f"question: Why?\nvariants: {{? {word} : {{{NET}}}}}\n",
        f"question: Why?\nvariants: {{a: {{{NET}, epochs: {word}}}}}\n",
        f"question: Why?\nvariants: {{a: {{{NET}, objective: {{name: '{word}'}}}}}}\n",
        f"question: Why?\nvariants: {{a: {{{NET}, note: '{word}', document: '{word}'}}}}\n",
        f"question: Why?\n? {word}\n: 1\n",
        f"question: Why?\nextends: {word}.yaml\n",
        f"question: Why?\ndefaults: {{{NET}}}\nmatrix: {{beta: [1], exclude: [{{beta: '{word}'}}]}}\n",
    ))  # fmt: skip


def circle(rng: random.Random) -> str:
    others = ("f.yaml", "./f.yaml", "../c/f.yaml", "g.yaml", "all.yaml", ".")
    return f"question: Why?\nextends: {rng.choice(others)}\n"


GROWTH = (laughs, deep, explosion, many, long, circle)


def mutant(case: int, texts: list[str]) -> bytes:
    """The file of one case: the same for a number whenever it is asked for."""
    rng = random.Random(case)
    if rng.random() < 0.04:
        text = rng.choice(GROWTH)(rng)
        edits = rng.choice((0, 0, 1))
    else:
        text = rng.choice(texts)
        edits = rng.choice((1, 1, 1, 2, 3, 5))
    for _ in range(edits):
        text = rng.choice(EDITS)(rng, text) or " "
    return text.encode("utf-8", "surrogateescape")


# What must hold of each


def accepted(path: Path) -> bool:
    """Load a file as bench would. Raises AssertionError where it is neither accepted nor refused properly."""
    try:
        made = load(path)
    except BenchError as error:
        message = str(error)
        assert PLACE.match(message), f"no place: {message[:300]!r}"
        assert message.isprintable(), f"more than a line of text: {message[:300]!r}"
        assert len(message) <= LONGEST, f"{len(message)} characters: {message[:300]!r}"
        return False
    assert len(made.variants) <= MAX_VARIANTS
    assert len(made.variants) * len(made.seeds) <= MAX_RUNS
    assert 1 <= len(made.seeds) <= 1000
    runs = list(islice(made.runs(), 30))
    ids = [run.identity("d") for run in runs]
    assert len(set(ids)) == len(ids)
    assert all(re.fullmatch(r"[a-z0-9][a-z0-9.-]{0,79}-s\d+-[0-9a-f]{8}", each) for each in ids), ids
    again = [Run.model_validate_json(run.model_dump_json()) for run in runs]
    assert [run.identity("d") for run in again] == ids
    return True


class TooSlow(BaseException):  # not an Exception: nothing on the way may take it for its own
    """A case took more than its share of processor time."""


def _too_slow(_number: int, _frame: FrameType | None) -> None:
    raise TooSlow


def main(folder: Path, first: int, last: int) -> dict[str, object]:
    """Try the cases [first, last) and say what became of them."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    signal.signal(signal.SIGVTALRM, _too_slow)
    texts = [SMALL] * 8 + [path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.yaml"))]
    (folder / "g.yaml").write_text("question: Why?\nextends: f.yaml\n")
    (folder / "own.py").write_text(
        "def Mine(*, width: PositiveInt, beta: float = 1): ...\nraise SystemExit\n"
    )
    path = folder / "f.yaml"
    counts = {True: 0, False: 0}
    failures, slowest = [], (0.0, -1)
    for case in range(first, last):
        path.write_bytes(mutant(case, texts))
        started = time.process_time()
        signal.setitimer(signal.ITIMER_VIRTUAL, SECONDS)
        try:
            counts[accepted(path)] += 1
        except (Exception, TooSlow):
            failures.append({"case": case, "why": traceback.format_exc(limit=-4)})
        finally:
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        slowest = max(slowest, (time.process_time() - started, case))
    return {"accepted": counts[True], "refused": counts[False], "failures": failures[:20], "slowest": slowest}


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))))
