"""The bad input of `fuzz.py`, made from what bench says is allowed: YAML, command lines, records, folders."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
from pathlib import Path
from typing import Any

import synthetic
from factory import SHAPE, a_run, part
from safetensors.torch import save
from test_fuzz_cli import COMMANDS, line
from test_fuzz_files import JUNK, damaged, places
from test_fuzz_specs import NASTY, SMALL, accepted, mutant
from test_hostile import HOSTILE

from bench.parts.vae import build
from bench.store.records import RunFolder
from bench.store.shapes import Baselines, Recorded, Spec, shape

ROOT = Path(__file__).resolve().parents[1]
SECRET = "hunter2-f00d"  # noqa: S105
DIGITS = "@digits@"  # a word in JSON that becomes a number of 5,000 digits


# What is made

RUN = a_run(
    encoder=part("mlp", hidden=[6]), decoder=part("mlp", hidden=[5]), latent=2, dataset="digits", epochs=3
)
VARIANTS = {
    name: synthetic.settings(latent=2, likelihood=likelihood, published=[published], epochs=3, document=name,
                             axes={"likelihood": likelihood}, note="plain",
                             importance_samples=5)
    for name, likelihood in (("a", "bernoulli"), ("b", "gaussian"))
    for published in ({"value": 1.5, "metric": "test_loss", "epoch": 1, "source": "README", "unit": "nats"},)
}  # fmt: skip


def template(folder: Path) -> dict[str, bytes]:
    """Two experiments of two variants and seeds, as `bench run` leaves them; what lies there by path."""
    home = synthetic.write(folder / "reports/odd", VARIANTS, (0, 1), pictures=True)
    of = {"of": {"data": "0f1e2d3c", "latents": [2]}, "classifier": {"accuracy": 0.5, "digest": "untrained"}}
    synthetic.save(home / "baselines.json", synthetic.baselines() | of)
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
    text = SMALL.replace("mnist", "digits")
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
            if how < 4 and name in ("odd.yaml", ODD, "reports/runs"):  # a link there is a user's own
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


TEXTS = {
    path.name: path.read_text(encoding="utf-8") for path in sorted((ROOT / "experiments").glob("*.yaml"))
}
