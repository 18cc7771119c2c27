"""Bad input by the hundred thousand, in forked children: `python tests/fuzz.py 100000 --seed 20`.

YAML, command lines, records and report folders, each made from what bench itself says is allowed: its parts,
its commands, `bench.store.shapes`. So a new part, command or key of a record is fuzzed by existing. A case
fails by a traceback, by more than SECONDS, by text that is not for its place, by a process or a connection it
starts, and by what it reads or writes outside of its folder. `--case N` does one again.
"""

from __future__ import annotations

import argparse
import faulthandler
import gc
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

import conftest  # noqa: F401  one thread a process, before torch is imported
import pytest
import torch
import typer
from fuzz_cases import ODD, ROOT, SECRET, TEXTS, a_folder, a_line, a_record, a_yaml, canary, state, template
from fuzz_tensors import a_deep, a_judged, a_npz, prepare
from test_fuzz_cli import begin_nothing
from test_hostile import PAGE, Tags, rendered

from bench.cli import main
from bench.tracking.store import connect

KINDS = {  # how many of a hundred, and what makes them
    "yaml": (57.5, a_yaml), "line": (22, a_line), "record": (9, a_record), "folder": (4, a_folder),
    "npz": (6, a_npz), "judged": (1, a_judged), "deep": (0.5, a_deep),
}  # fmt: skip
MEMORY_DISK = "/dev/shm" if Path("/dev/shm").is_dir() else None  # noqa: S108
SECONDS = 20  # of processor time that a case may take
WAITING = 5  # times as many of a clock, on a machine that does much else
LOW = 1  # how nice its processes are to others
MEMORY = 6_000_000_000  # bytes of address space that a child may take beyond what it begins with
STARTS = ("subprocess.Popen", "os.exec", "os.posix_spawn", "os.system", "os.fork", "os.forkpty", "os.spawn",
          "pty.spawn", "socket.connect", "socket.getaddrinfo")  # fmt: skip
READABLE = (
    ROOT, *filter(None, sys.path), sys.base_prefix, "/usr", "/lib", "/etc/fonts", "/etc/ssl",
    "/etc/mime.types", "/etc/localtime", "/etc/mlflow", "/proc", "/sys", "/dev/null", "/dev/urandom",
)  # fmt: skip


class Place:
    """A child's folder, what it may touch, and what it did nevertheless."""

    def __init__(self, root: Path, patch: pytest.MonkeyPatch, kind: str | None) -> None:
        self.root, self.here, self.kind = root, root / "here", kind
        self.faults: list[str] = []
        self.watched = False
        self.named: tuple[str, ...] = ()  # paths that a command line names: a user's own choice
        self.given: set[str] = set()  # the same: each itself, whatever lies in it
        self.figures = self.line = False
        self.here.mkdir(parents=True)
        canary(root / "canary")
        (root / "tmp").mkdir()
        (root / "made").mkdir()
        begin_nothing(self.here, patch)
        prepare(patch)
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
            str(f.relative_to(self.here)): f.read_bytes()
            for f in self.here.rglob("*")
            if f.is_file() and not f.is_relative_to(self.here / "cache")
        }
        self.folders = {str(above) for name in self.files for above in Path(name).parents}
        self.canary = state(root / "canary")
        tempfile.tempdir = str(root / "tmp")
        # torch hands the place of its cache on to children: whoever started this may have told another
        patch.setenv("TORCHINDUCTOR_CACHE_DIR", str(root / "tmp" / "torch"))
        from bench.report import figures

        draw = figures.draw
        patch.setattr("bench.report.figures.draw", lambda results: draw(results) if self.figures else {})
        patch.setattr("bench.tracking.store.MAKING", 5)
        patch.setattr("bench.spec.shipped.shipped", lambda: {"all": self.here / "beta.yaml"})
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
            asked = real in self.given or (not writes and str(self.root) in self.given)  # by `--reports ..`
            if not real.startswith((*allowed, *self.named)) and not asked:
                where = "".join(traceback.format_stack(limit=7)[:-1])
                self.faults.append(f"{event} {shown} ({real}), {'writing' if writes else 'reading'}\n{where}")
        except (OSError, ValueError):
            pass
        finally:
            self.watched = True

    def restore(self) -> None:
        """Put back what the last case changed."""
        for folder, folders, names in os.walk(self.here):
            for name in (*folders, *names):
                path = Path(folder, name)
                known = str(path.relative_to(self.here))
                if path.is_symlink() or not path.is_dir():
                    if known not in self.files or path.lstat().st_mtime_ns or not path.is_file():
                        path.unlink()
                elif known == "cache":
                    folders.remove(name)
                elif known not in self.folders:
                    folders.remove(name)
                    shutil.rmtree(path)
        for name, content in self.files.items():
            path = self.here / name
            if not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
                os.utime(path, (0, 0))  # what a case writes is younger

    def case(self, seed: int, number: int, *, loud: bool = False) -> tuple[str, list[str]]:
        """Do one case; its kind, and what went wrong with it."""
        rng = random.Random(f"{seed} {number}")
        any_kind = rng.choices([*KINDS], [share for share, _ in KINDS.values()])[0]
        kind = self.kind or any_kind
        if kind != "yaml" or self.dirty:
            self.restore()
        self.dirty = kind != "yaml"
        self.figures = rng.random() < 0.01
        self.faults, self.named, self.given, self.line = [], (), set(), kind == "line"
        words: list[str] = []
        try:
            if kind in ("yaml", "npz"):  # which are read without a command
                self.watched = True
            words = KINDS[kind][1](rng, self.files)
            if kind == "line":
                paths = [os.path.realpath(word) for word in words if "://" not in word]
                self.given = {*paths, *map(os.path.dirname, paths)}
                self.named = tuple(path for path in paths if not str(self.root).startswith(path))
            self.watched = True
            if words:
                self.command(words, rng, loud=loud)
        except BaseException:
            self.faults.append(traceback.format_exc(limit=-8))
        finally:
            self.watched = False
        if kind in ("folder", "record", "judged"):
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
    root: Path,
    first: int,
    last: int,
    step: int,
    seed: int,
    slot: memoryview,
    out: int,
    until: float,
    kind: str | None,
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
    place = Place(root, pytest.MonkeyPatch(), kind)
    gc.freeze()  # what torch and MLflow have made is not searched again at each collection
    done = SLOT.unpack(slot)[3]
    for number in range(first, last, step):
        if time.time() > until:
            break
        slot[:] = SLOT.pack(number, time.time(), time.process_time(), done)  # at once: another process reads
        kind, faults = place.case(seed, number)
        done += 1
        for fault in faults or [""]:
            os.write(out, json.dumps([kind, fault[:3000]]).encode() + b"\n")
    slot[:] = SLOT.pack(-1, 0.0, 0.0, done)


def fuzz(  # noqa: C901  one loop over the children
    cases: int,
    seed: int,
    *,
    first: int = 0,
    workers: int = 2,
    seconds: float = 1e9,
    kind: str | None = None,
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
            slots[k][:] = SLOT.pack(at, time.time() + 60, 60.0, SLOT.unpack(slots[k])[3])
            if pid := os.fork():
                pids[pid] = k
                return
            try:
                child(Path(folder) / f"{k}-{at}", at, cases, workers, seed, slots[k], out, until, kind)
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


def one(seed: int, number: int, kind: str | None) -> int:
    """Do one case again, in this process."""
    with tempfile.TemporaryDirectory(dir=MEMORY_DISK) as folder:
        faulthandler.dump_traceback_later(WAITING * SECONDS, exit=True)
        place = Place(Path(folder) / "one", pytest.MonkeyPatch(), kind)
        _, faults = place.case(seed, number, loud=True)
        faulthandler.cancel_dump_traceback_later()
        print(*faults, sep="\n")
        os.chdir("/")
    return len(faults)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("cases", type=int, nargs="?", default=1_000)
    parser.add_argument("--seed", type=int, default=20)
    parser.add_argument("--case", type=int)
    parser.add_argument("--kind", choices=KINDS, help="cases of one kind alone")
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=1e9)
    given = parser.parse_args()
    if given.case is not None:
        sys.exit(one(given.seed, given.case, given.kind) > 0)
    started = time.time()
    counted = fuzz(
        given.cases,
        given.seed,
        first=given.first,
        workers=given.workers,
        seconds=given.seconds,
        kind=given.kind,
    )
    print(json.dumps({"seed": given.seed, **counted, "seconds": round(time.time() - started)}))
    sys.exit(counted["faults"] > 0)
