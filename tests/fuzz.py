"""Bad input by the hundred thousand, in forked children: `python tests/fuzz.py 100000 --seed 20`.

YAML, command lines, records and report folders, each made from what bench itself says is allowed: its parts,
its commands, `bench.store.shapes`. So a new part, command or key of a record is fuzzed by existing. A case
fails by a traceback, by more than SECONDS, by text that is not for its place, by a process or a connection it
starts, and by what it reads or writes outside of its folder. `--case N` does one again.
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import io
import json
import mmap
import os
import random
import resource
import shutil
import signal
import struct
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import synthetic
import torch
import typer
from factory import SHAPE, a_run, part
from safetensors.torch import save
from test_fuzz_cli import COMMANDS, begin_nothing, line
from test_fuzz_files import JUNK, damaged, places
from test_fuzz_specs import NASTY, SMALL, accepted, mutant
from test_hostile import HOSTILE, PAGE, Tags, rendered

from bench.cli import main
from bench.parts.vae import build
from bench.store.records import RunFolder
from bench.store.shapes import Baselines, Recorded, Spec, shape
from bench.tracking.store import connect

ROOT = Path(__file__).resolve().parents[1]
MEMORY_DISK = "/dev/shm" if Path("/dev/shm").is_dir() else None  # noqa: S108
SECONDS = 20  # of processor time that a case may take
WAITING = 5  # times as many of a clock, on a machine that does much else
LOW = 1  # how nice its processes are to others
MEMORY = 6_000_000_000  # bytes of address space that a child may take beyond what it begins with
SECRET = "hunter2-f00d"  # noqa: S105
KINDS = {"yaml": 60, "line": 26, "record": 9, "folder": 5}  # per cent
STARTS = ("subprocess.Popen", "os.exec", "os.posix_spawn", "os.system", "os.fork", "os.forkpty", "os.spawn",
          "pty.spawn", "socket.connect", "socket.getaddrinfo")  # fmt: skip
READABLE = (
    ROOT, *filter(None, sys.path), sys.base_prefix, "/usr", "/lib", "/etc/fonts", "/etc/ssl",
    "/etc/mime.types", "/etc/localtime", "/etc/mlflow", "/proc", "/sys", "/dev/null", "/dev/urandom",
)  # fmt: skip
DIGITS = "@digits@"  # a word in JSON that becomes a number of 5,000 digits


# What is made

RUN = a_run(
    encoder=part("mlp", hidden=[6]), decoder=part("mlp", hidden=[5]), latent=2, dataset="digits", epochs=3
)
VARIANTS = {
    name: synthetic.settings(latent=2, likelihood=likelihood, published=[published], epochs=3, document=name,
                             axes={"likelihood": likelihood}, note="plain")
    for name, likelihood in (("a", "bernoulli"), ("b", "gaussian"))
    for published in ({"value": 1.5, "metric": "test_loss", "epoch": 1, "source": "README", "unit": "nats"},)
}  # fmt: skip


def template(folder: Path) -> dict[str, bytes]:
    """Two experiments of two variants and seeds, as `bench run` leaves them; what lies there by path."""
    home = synthetic.write(folder / "reports/odd", VARIANTS, (0, 1), pictures=True)
    synthetic.save(
        home / "baselines.json", synthetic.baselines() | {"of": {"data": "0f1e2d3c", "latents": [2]}}
    )
    runs = folder / "reports/runs"
    for path in runs.iterdir():
        run = RunFolder(path)
        run.weights.write_bytes(save(build(RUN, SHAPE).state_dict()))
        record = json.loads(run.record.read_text())
        record |= {
            "run": RUN.model_dump(mode="json") | {"seed": record["seed"]},
            "artifacts": run.artifacts(),
        }
        record |= {"chosen": {"epoch": 3}, "kl_per_unit": [1.0, 2.0], "mlflow": {}, "diverged": None}
        synthetic.save(run.record, record)
    spec = json.loads((home / "experiment.json").read_text())
    synthetic.save(folder / "reports/other/experiment.json", spec | {"name": "other"})
    (folder / "reports/odd/report.md").write_text("# old\n")
    text = SMALL.replace("mnist", "digits").replace("[4, 3]", "[4]")
    (folder / "odd.yaml").write_text(text)
    return {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()}


def canary(folder: Path) -> None:
    """What no case may read or write."""
    folder.mkdir()
    for name in (
        "record.json",
        "weights.safetensors",
        "samples-epoch-001.png",
        "experiment.json",
        "x.yaml",
        ".lock",
    ):
        (folder / name).write_text(json.dumps({"secret": SECRET}))
    (folder / "pictures").mkdir()
    synthetic.picture(folder / "pictures/samples-epoch-003.png", 3)
    (folder / "runs").mkdir()


def state(folder: Path) -> dict[str, tuple[int, bytes]]:
    """When each file was changed, and what it holds."""
    return {str(f): (f.lstat().st_mtime_ns, b"" if f.is_dir() else f.read_bytes()) for f in folder.rglob("*")}


def words(rng: random.Random) -> Any:
    """A text that looks for a way out, or anything else."""
    return rng.choice((rng.choice(HOSTILE), rng.choice(NASTY), rng.choice(JUNK), "http://u:pass@h/?token=x"))


def value(rng: random.Random, schema: dict[str, Any], kinds: dict[str, Any], depth: int = 0) -> Any:  # noqa: C901, PLR0911  each kind of a schema
    """A value at the border of what a JSON schema allows, to either side of it."""
    if "$ref" in schema:
        schema = kinds[schema["$ref"].rpartition("/")[2]]
    if "anyOf" in schema:
        return value(rng, rng.choice(schema["anyOf"]), kinds, depth)
    low = schema.get("minimum", -(2**63))
    high = schema.get("maximum", schema.get("exclusiveMaximum", 2**63))
    most = schema.get("maxLength", 100) + 1
    kind = schema.get("type")
    if depth > 3 or rng.random() < 0.1:
        return words(rng)
    if "enum" in schema:
        return rng.choice(schema["enum"])
    if kind == "integer":
        return rng.choice(
            (low, low, low + 1, low - 1, high, high - 1, high + 1, 0, 1, 2, 3, DIGITS, 1.5, True)
        )
    if kind == "number":
        return rng.choice(
            (low, high, 10 * high, 0.0, 5e-324, -1e-9, 1e15, 1e308, float("nan"), float("inf"), 0.1)
        )
    if kind == "string":
        return rng.choice((*[words(rng) for _ in range(9)], "x" * most, "\ud800", "a\0b"))
    if kind == "array":
        many = rng.choice((0, 1, 2, 3, 3, schema.get("maxItems", 3) + 1 if rng.random() < 0.1 else 5))
        return [value(rng, schema.get("items", {}), kinds, depth + 1)] * many
    if kind == "object":
        known = schema.get("properties", {})
        made = {key: value(rng, known[key], kinds, depth + 1) for key in known if rng.random() < 0.7}
        more = schema.get(
            "additionalProperties", next(iter(schema.get("patternProperties", {}).values()), {})
        )
        for _ in range(rng.choice((0, 1, 2)) if rng.random() < 0.99 else 2000):
            made[str(words(rng))] = value(rng, more if isinstance(more, dict) else {}, kinds, depth + 1)
        return made
    return None


def altered(rng: random.Random, good: Any, kind: Any) -> bytes:
    """JSON of a kind in `bench.store.shapes`, one to four places as odd as they may be, or odder."""
    schema = SCHEMAS[kind]
    made = json.loads(json.dumps(good))
    for _ in range(rng.choice((1, 1, 2, 4))):
        if rng.random() < 0.6:
            key = rng.choice([*schema["properties"]])
            if rng.random() < 0.1:
                made.pop(key, None)
            else:
                made[key] = value(rng, schema["properties"][key], schema.get("$defs", {}))
        else:
            at = rng.choice([*places(made)])
            inside = made
            for key in at[:-1]:
                inside = inside[key]
            if rng.random() < 0.15:
                del inside[at[-1]]
            else:
                inside[at[-1]] = rng.choice(
                    (words(rng), rng.choice((0, -1, 1e60, 2**62, 1e-320, [], {}, None)))
                )
    text = json.dumps(made, ensure_ascii=rng.random() < 0.5)
    content = (
        text.replace(f'"{DIGITS}"', "9" * 5000).replace("Infinity", "1e999").encode("utf-8", "surrogatepass")
    )
    return damaged(rng, content) if rng.random() < 0.05 else content


SCHEMAS = {kind: shape(kind).json_schema() for kind in (Recorded, Spec, Baselines)}


# What is done

ODD = "reports/odd"


def over_folders(rng: random.Random, runs: list[str]) -> list[str]:
    """A command that reads report folders; a command that bench has and that is not here is a KeyError."""
    run = rng.choice(runs)
    database = f"mlflow-{rng.getrandbits(40)}.db"  # MLflow keeps a connection to each that it has seen
    store = ["--tracking-uri", f"sqlite:///{database}"]
    picture = ["--kind", rng.choice(("samples", "manifold")), "--n", "4", "--out", "x.png", "--force"]
    lines: dict[str, list[list[str]]] = {
        "report": [[ODD], [ODD, "--tables", "latex"]],
        "verify": [[ODD]],
        "compare": [["a", "b", "--report", ODD], [ODD, "reports/other"],
                    ["a", "b", "--report", ODD, "--json"],
                    ["a", "b", "--report", ODD, "--gate", "elbo_bernoulli >= -0.5"]],
        "plan": [["odd.yaml", "--seeds", "1"]],
        "generate": [[run, *picture], ["a", *picture], ["b", "--experiment", "odd", *picture]],
        "migrate": [["reports"]],
        "sync": [[ODD, *store]],
        "publish": [[ODD, "shared"]],
        "join": [["reports/other", ODD], ["reports/new", ODD]],
        "run": [], "parts": [], "check": [], "ui": [], "doctor": [], "experiments": [], "new": [],
        "judge": [],
    }  # fmt: skip
    often = ("report", "verify", "compare", "plan", "generate")
    name = (
        rng.choice(often) if rng.random() < 0.95 else rng.choice([name for name in COMMANDS if lines[name]])
    )
    if name == "sync":
        Path("mlflow.db").rename(database)
    return [name, *rng.choice(lines[name])]


def a_yaml(rng: random.Random, files: dict[str, bytes]) -> list[str]:
    """An experiment file; every tenth is planned, the others only read."""
    text = rng.choice([SMALL] * 8 + [each for name, each in TEXTS.items() if name.endswith(".yaml")])
    Path("f.yaml").write_bytes(mutant(rng, text))
    if rng.random() < 0.9:
        accepted(Path("f.yaml"))
        return []
    return ["plan", "f.yaml", "--dataset", "digits", "--seeds", "1", "--no-code"]


def a_line(rng: random.Random, files: dict[str, bytes]) -> list[str]:
    return line(rng)


def a_record(rng: random.Random, files: dict[str, bytes]) -> list[str]:
    """A report folder with odd records, or an odd experiment.json or baselines.json."""
    runs = sorted({name.rpartition("/")[0] for name in files if name.endswith("record.json")})
    for path in rng.sample(runs, rng.choice((0, 1, 1, 2, 4))):
        Path(path, "record.json").write_bytes(
            altered(rng, json.loads(files[f"{path}/record.json"]), Recorded)
        )
    for name, kind in (("experiment.json", Spec), ("baselines.json", Baselines)):
        if rng.random() < 0.3:
            Path(ODD, name).write_bytes(altered(rng, json.loads(files[f"{ODD}/{name}"]), kind))
    return over_folders(rng, runs)


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n"


def a_folder(rng: random.Random, files: dict[str, bytes]) -> list[str]:  # noqa: C901  each way
    """A report folder in which files and folders are links, pipes, devices, folders, damaged, or gone."""
    runs = sorted({name.rpartition("/")[0] for name in files if name.endswith("record.json")})
    names = [*files, *runs, *(f"{run}/pictures" for run in runs), f"{ODD}/figures",
             f"{ODD}/figures/runs", ODD,
             f"{ODD}/figures/contact-variants.png", f"{ODD}/report.html", f"{ODD}/results.csv",
             f"{ODD}/.lock",
             f"{ODD}/effects.csv", f"{ODD}/tables.tex", "reports/runs/.lock", "reports/runs",
             "mlflow.db",
             f"{ODD}/figures/runs/{rng.choice(NASTY[-40:]).replace('/', '')}.png"]  # fmt: skip
    for name in rng.sample(names, rng.choice((1, 1, 2, 3))):
        path = Path(name)
        if any(above.is_symlink() for above in path.parents):
            continue
        old = path.read_bytes() if path.is_file() and not path.is_symlink() else EPS
        how = rng.randrange(10)
        with contextlib.suppress(OSError):  # one inside of what another has changed
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            path.unlink(missing_ok=True)
            path.parent.mkdir(parents=True, exist_ok=True)
            if how < 4 and name in (ODD, "reports/runs"):  # a link there is a user's own
                path.mkdir()
            elif how < 3:
                path.symlink_to(rng.choice([*Path("../canary").resolve().rglob("*")]))
            elif how == 3:
                path.symlink_to(
                    rng.choice(("/dev/zero", "../../..", path.name, "/dev/stdin", "/proc/self/environ"))
                )
            elif how == 4:
                os.mkfifo(path)
            elif how == 5:
                path.mkdir()
            elif how == 6:
                path.write_bytes(
                    rng.choice((EPS, b"", b"\xff\xfe", b"GIF89a" + b"\xff" * 99, b"[" * 100_000))
                )
            elif how == 7:
                with path.open("wb") as stream:
                    stream.write(old[:200])
                    stream.truncate(200_000_000_000)
            elif how == 8:
                path.write_bytes(damaged(rng, old or EPS))
    return over_folders(rng, runs)


MAKERS: dict[str, Callable[[random.Random, dict[str, bytes]], list[str]]] = {
    "yaml": a_yaml, "line": a_line, "record": a_record, "folder": a_folder,
}  # fmt: skip
TEXTS = {
    path.name: path.read_text(encoding="utf-8") for path in sorted((ROOT / "experiments").glob("*.yaml"))
}


class Place:
    """A child's folder, what it may touch, and what it did nevertheless."""

    def __init__(self, root: Path, patch: pytest.MonkeyPatch) -> None:
        self.root, self.here = root, root / "here"
        self.faults: list[str] = []
        self.watched = False
        self.named: tuple[str, ...] = ()  # paths that a command line names: a user's own choice
        self.figures = self.line = False
        self.here.mkdir(parents=True)
        canary(root / "canary")
        (root / "tmp").mkdir()
        (root / "made").mkdir()
        begin_nothing(self.here, patch)
        os.chdir(self.here)
        for name, text in TEXTS.items():
            (self.here / name).write_text(text, encoding="utf-8")
        shutil.rmtree(self.here / "reports")
        (self.here / "own.py").write_text("def Mine(*, width: PositiveInt): ...\nraise SystemExit\n")
        template(self.here)
        connect(f"sqlite:///{self.here}/mlflow.db")
        for path in self.here.glob("*.db-*"):
            path.unlink()
        self.files = {
            str(f.relative_to(self.here)): f.read_bytes() for f in self.here.rglob("*") if f.is_file()
        }
        self.canary = state(root / "canary")
        tempfile.tempdir = str(root / "tmp")
        from bench.report import figures

        draw = figures.draw
        patch.setattr("bench.report.figures.draw", lambda results: draw(results) if self.figures else {})
        patch.setattr("bench.tracking.store.MAKING", 5)
        patch.setattr("typer.main.get_command", cache(typer.main.get_command))
        self.writable = tuple(map(str, (self.here, root / "tmp", self.here / "cache")))
        self.readable = (*self.writable, *map(str, READABLE), *map(os.path.realpath, map(str, READABLE)))
        self.dirty = False
        sys.addaudithook(self.audit)

    def audit(self, event: str, given: tuple[Any, ...]) -> None:
        """Note what is opened elsewhere; start no process and no connection."""
        if not self.watched:
            return
        if event in STARTS:
            if not (self.line and event.startswith("socket.")):  # a server that it names
                self.faults.append(f"{event} {given!r:.200}")
            raise PermissionError(event)
        if event not in (
            "open",
            "os.remove",
            "os.rename",
            "os.mkdir",
            "os.rmdir",
            "os.symlink",
            "os.truncate",
        ):
            return
        path = given[1] if event == "os.rename" else given[0]
        if not isinstance(path, str | bytes | os.PathLike):
            return
        self.watched = False
        try:
            shown = os.fsdecode(path)
            parent, name = os.path.split(shown)
            flags = given[2] if event == "open" and isinstance(given[2], int) else os.O_RDWR
            follows = event == "open" and not flags & os.O_NOFOLLOW
            real = os.path.realpath(shown) if follows else os.path.join(os.path.realpath(parent or "."), name)
            writes = event != "open" or flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC)
            allowed = self.writable if writes else self.readable
            if not real.startswith((*allowed, *self.named)):
                where = "".join(traceback.format_stack(limit=7)[:-1])
                self.faults.append(f"{event} {shown} ({real}), {'writing' if writes else 'reading'}\n{where}")
        except (OSError, ValueError):
            pass
        finally:
            self.watched = True

    def restore(self) -> None:
        """Put back what the last case changed."""
        for path in self.here.iterdir():
            if path.is_symlink() or not path.is_dir():
                path.unlink()
            elif path.name != "cache":
                shutil.rmtree(path)
        for name, content in self.files.items():
            path = self.here / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)

    def case(self, seed: int, number: int, *, loud: bool = False) -> tuple[str, list[str]]:
        """Do one case; its kind, and what went wrong with it."""
        rng = random.Random(f"{seed} {number}")
        kind = rng.choices([*KINDS], [*KINDS.values()])[0]
        if kind != "yaml" or self.dirty:
            self.restore()
        self.dirty = kind != "yaml"
        self.figures = rng.random() < 0.01
        self.faults, self.named, self.line = [], (), kind == "line"
        words: list[str] = []
        try:
            if kind == "yaml":
                self.watched = True
            words = MAKERS[kind](rng, self.files)
            if kind == "line":
                paths = [os.path.realpath(word) for word in words if "/" in word and "://" not in word]
                self.named = tuple(path for path in paths if not str(self.root).startswith(path))
            self.watched = True
            if words:
                self.command(words, rng, loud=loud)
        except BaseException:
            self.faults.append(traceback.format_exc(limit=-8))
        finally:
            self.watched = False
        if kind in ("folder", "record"):
            self.faults += self.left(rng)
        if (now := state(self.root / "canary")) != self.canary:
            self.faults.append(f"the canary changed: {sorted(dict(now.items() ^ self.canary.items()))}")
            shutil.rmtree(self.root / "canary")
            canary(self.root / "canary")
            self.canary = state(self.root / "canary")
        return kind, [f"{kind} {number}: bench {words!r:.300}: {fault}" for fault in self.faults]

    def command(self, words: list[str], rng: random.Random, *, loud: bool) -> None:
        """`bench ...` on a terminal of any encoding, held to what every command promises."""
        encoding = rng.choice(("utf-8", "utf-8", "ascii", "latin-1"))
        raw = io.BytesIO(), io.BytesIO()
        kept = sys.argv, sys.stdout, sys.stderr
        sys.argv = ["bench", *words]
        sys.stdout, sys.stderr = (io.TextIOWrapper(stream, encoding=encoding) for stream in raw)
        try:
            main()
        except SystemExit as end:
            code = int(end.code or 0)
        finally:
            for stream in (sys.stdout, sys.stderr):
                stream.flush()
            told = [stream.getvalue().decode(encoding) for stream in raw]
            sys.argv, sys.stdout, sys.stderr = kept
            if loud:
                print(words, *told, sep="\n")
        assert code in (0, 1, 2, 3), f"exit {code}"
        for text in told:
            assert SECRET not in text, f"a secret: {text!r:.500}"
            bad = {c for c in text if not c.isprintable() and c not in "\n\xa0"}
            assert not bad, f"not for a terminal: {bad}: {text!r:.500}"
        if code == 2 and "Usage: " not in told[1]:
            *_, last = told[1].splitlines() or [""]
            assert last.startswith("bench: "), f"no line: {told[1]!r:.500}"
            assert len(last) < 3_000, f"a line of {len(last)} characters: {last:.300}"

    def left(self, rng: random.Random) -> Iterator[str]:
        """What is wrong with the files that a command wrote: a secret, or text that is more than text."""
        report = self.here / ODD
        for name in (
            "report.md",
            "report.html",
            "results.csv",
            "summary.csv",
            "effects.csv",
            "published.csv",
            "tables.tex",
        ):
            file = report / name
            if (
                file.is_symlink()
                or not file.is_file()
                or file.stat().st_size > 50_000_000
                or name in self.files
            ):
                continue
            content = file.read_bytes()
            if name in ("report.md", "report.html") and SECRET.encode() in content:
                yield f"a secret in {name}"
            text = content.decode("utf-8", "replace")
            if text == "# old\n" or "\0" in text:
                continue
            if name == "report.md" and rng.random() < 0.3:
                yield from unsafe(rendered(text), PAGE, "figures/")
            elif name == "report.html":
                yield from unsafe(text, None, "data:image/")


def unsafe(page: str, known: set[str] | None, source: str) -> Iterator[str]:
    """What a page of a report may not hold: other tags, links elsewhere, scripts of others."""
    for tag, attributes in Tags(page).found:
        if known is not None and tag not in known:
            yield f"<{tag} {attributes}> in report.md"
        for key, given in attributes.items():
            said = str(given)
            if (
                key.startswith("on")
                or (key == "href" and not said.startswith("#"))
                or (key == "src" and not said.startswith(source))
            ):
                yield f"<{tag} {key}={said:.100}>"


# The children

SLOT = struct.Struct("qddq")  # a child's case, since when, its processor time then, and how many it has done


def cpu(pid: int) -> float:
    """The seconds of processor time that a process has had."""
    spent = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()[11:13]
    return sum(map(int, spent)) / os.sysconf("SC_CLK_TCK")


def child(
    root: Path, first: int, last: int, step: int, seed: int, slot: memoryview, out: int, until: float
) -> None:
    """Do every `step`th case from `first`; what goes wrong is a line of JSON in `out`."""
    os.nice(LOW)
    os.setsid()
    torch.set_num_threads(1)
    quiet = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(quiet, stream)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    place = Place(root, pytest.MonkeyPatch())
    done = SLOT.unpack(slot)[3]
    for number in range(first, last, step):
        if time.time() > until:
            break
        SLOT.pack_into(slot, 0, number, time.time(), time.process_time(), done)
        kind, faults = place.case(seed, number)
        done += 1
        for fault in faults or [""]:
            os.write(out, json.dumps([kind, fault[:3000]]).encode() + b"\n")
    SLOT.pack_into(slot, 0, -1, 0.0, 0.0, done)


def fuzz(  # noqa: C901  one loop over the children
    cases: int,
    seed: int,
    *,
    first: int = 0,
    workers: int = 2,
    seconds: float = 1e9,
    say: Callable[[str], object] = print,
) -> Counter[str]:
    """Do cases `first` to `cases`, as many as there is time for; count them by kind, and `faults`."""
    import mlflow.store.tracking.sqlalchemy_store  # noqa: F401  seconds that no child has to spend again

    counts, until = Counter[str](), time.time() + seconds
    shared = memoryview(mmap.mmap(-1, SLOT.size * workers))
    slots = [shared[k * SLOT.size : (k + 1) * SLOT.size] for k in range(workers)]
    with (
        tempfile.TemporaryDirectory(prefix="bench-fuzz-", dir=MEMORY_DISK) as folder,
        (Path(folder) / "told").open("w+b") as told,
    ):
        out = os.open(told.name, os.O_WRONLY | os.O_APPEND)
        pids: dict[int, int] = {}

        def start(k: int, at: int) -> None:
            SLOT.pack_into(slots[k], 0, at, time.time() + 60, 60.0, SLOT.unpack(slots[k])[3])
            if pid := os.fork():
                pids[pid] = k
                return
            try:
                child(Path(folder) / f"{k}-{at}", at, cases, workers, seed, slots[k], out, until)
            except BaseException:
                os.write(out, json.dumps(["harness", traceback.format_exc()]).encode() + b"\n")
            finally:
                os._exit(0)

        def listen() -> None:
            for row in told.readlines():
                kind, fault = json.loads(row)
                counts[kind] += not fault or kind not in counts
                counts["faults"] += bool(fault)
                if fault:
                    say(fault)

        for k in range(workers):
            start(k, first + k)
        heard = time.time()
        while pids:
            time.sleep(0.3)
            for pid, k in [*pids.items()]:
                number, since, busy, _ = SLOT.unpack(slots[k])
                ended, status = os.waitpid(pid, os.WNOHANG)
                slow = not ended and (cpu(pid) - busy > SECONDS or time.time() - since > WAITING * SECONDS)
                if slow and number >= 0:
                    os.kill(pid, signal.SIGKILL)
                    os.waitpid(pid, 0)
                    ended, status = pid, signal.SIGKILL
                    os.write(
                        out, json.dumps(["hang", f"case {number}: more than {SECONDS} s"]).encode() + b"\n"
                    )
                elif ended and number >= 0 and status:
                    os.write(
                        out,
                        json.dumps(["died", f"case {number}: the process ended, {status}"]).encode() + b"\n",
                    )
                if ended:
                    del pids[pid]
                    if number >= 0 and status:
                        start(k, number + workers)
            listen()
            if time.time() - heard > 60:
                heard = time.time()
                say(f"... {sum(SLOT.unpack(slot)[3] for slot in slots):,} done")
        listen()
        os.close(out)
        counts["cases"] = sum(SLOT.unpack(slot)[3] for slot in slots)
    return counts


def one(seed: int, number: int) -> int:
    """Do one case again, in this process."""
    with tempfile.TemporaryDirectory(dir=MEMORY_DISK) as folder:
        faulthandler.dump_traceback_later(SECONDS, exit=True)
        place = Place(Path(folder) / "one", pytest.MonkeyPatch())
        _, faults = place.case(seed, number, loud=True)
        print(*faults, sep="\n")
        os.chdir("/")
    return len(faults)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("cases", type=int, nargs="?", default=1_000)
    parser.add_argument("--seed", type=int, default=20)
    parser.add_argument("--case", type=int)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=1e9)
    given = parser.parse_args()
    if given.case is not None:
        sys.exit(one(given.seed, given.case) > 0)
    started = time.time()
    counted = fuzz(given.cases, given.seed, first=given.first, workers=given.workers, seconds=given.seconds)
    print(json.dumps({"seed": given.seed, **counted, "seconds": round(time.time() - started)}))
    sys.exit(counted["faults"] > 0)
