"""The bad input of `fuzz.py` that holds arrays: data sets as .npz, weights to judge, weights of runs."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import math
import os
import pickle
import random
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from factory import a_dataset
from fuzz_cases import ODD, altered, words
from plain_vae import VAE
from safetensors.torch import load, save
from test_bring_your_own import block
from test_fuzz_files import damaged
from test_fuzz_specs import NASTY, NET, mutant
from torch import Tensor

from bench.data.dataset import Dataset
from bench.data.own import read
from bench.engine.images import data_of
from bench.errors import BenchError
from bench.evaluation.samples import FeatureNet, Reference
from bench.spec import images
from bench.store.shapes import Baselines, Recorded, Spec

TINY = replace(a_dataset(130, 70), digest="0f1e2d3c")  # the digest that synthetic records have
ADAPTER = block("A model trained elsewhere").replace("= 20", "= 2").replace("= 400", "= 5")
SPEC = f"question: Why?\ndataset: {{file: x.npz}}\nvariants: {{a: {{{NET}}}}}\n"
VAST = 10**12
with torch.random.fork_rng():
    torch.manual_seed(0)
    GOOD = dict(VAE(5, 2).state_dict())


def prepare(patch: pytest.MonkeyPatch) -> None:
    """Give the commands that measure a data set of 200 images, and a classifier that nobody trained."""
    net = FeatureNet(TINY.shape, TINY.classes).eval()

    def load(name: str, own: Any, folder: Path | None = None) -> Dataset:
        return (
            TINY
            if own is None and name in ("mnist", "digits")
            else data_of(name, own, folder, download=False)
        )

    for module in ("bench.verify.weights", "bench.runs.judge"):
        patch.setattr(f"{module}.data_of", load)
    reference = Reference.of([net], TINY.test_images.flatten(1).float() / 255)
    patch.setattr(Reference, "of_data", lambda data: reference if data is TINY else None)
    patch.setattr("bench.pictures.plots.tsne", lambda *_: None)
    patch.setattr("bench.runs.judge.git_state", dict)
    patch.setattr("bench.evaluation.bound.refit", lambda pixels, prior, start, *_: start)
    patch.setattr("bench.evaluation.quadrature.SIDES", {1: (50,), 2: (30,)})


# Data sets

NAMES = (*images.WHOLE, *images.DIVIDED, *images.IGNORED)
SIZES = (0, 1, 3, images.FEWEST, 2 * images.FEWEST, 40, *images.SIDES, -1, 255, 4096, 2**31, 2**63, VAST)
KINDS = ["|u1", "|u1", "|i1", "<i8", ">i4", "<u8", "<f4", "<f8", "|b1", "|O", "<U9", "|S3", "<c16", "<M8[s]",
         "|V9", "|V2000000000", "|u9", "O", "u1,u1"]  # fmt: skip
DTYPES = (*KINDS, "", [("a", "|u1")], [("a", "|O")], [], None)


def array(rng: random.Random, name: str) -> bytes:
    """An .npy of what is allowed, or whose header says anything."""
    label = name.endswith("labels")
    count = rng.choice((20, 40, 40))
    shape: Any = (count,) if label else (count, 8, 9, *rng.choice(((), (), (1,), (3,))))
    dtype: Any = rng.choice(("<i8", "|u1")) if label else "|u1"
    content = bytes(rng.choices((0, 1, 2, 200), k=math.prod(shape))) if dtype == "|u1" else b""
    content = content or np.array(rng.choices((0, 1, 2), k=count), np.int64).tobytes()
    if odd := rng.random() < 0.4:
        dtype = rng.choice((dtype, rng.choice(DTYPES)))
        shape = rng.choice(
            (shape, tuple(rng.choices(SIZES, k=rng.randrange(6))), [20], (True, 8, 8), (20.0,), 20, None)
        )
        content = rng.choice((content, content, b"", content * 3, bytes(rng.choice((160, 100_000)))))
        content = rng.choice((content, pickle.dumps(Runs()), content[:7], np.full(20, np.nan).tobytes()))
    header = repr({"descr": dtype, "fortran_order": rng.choice((False, False, True)), "shape": shape})
    if odd and rng.random() < 0.3:
        header = rng.choice(
            (
                "(" * 9000,
                "{'a':" * 2000,
                "9" * 5000,
                "{" + "1:1," * 2000,
                mutant(rng, header or "x").decode("latin-1"),
            )
        )
    written = header.encode("latin-1", "replace")
    version = rng.choice((1, 1, 1, 2, 3, 9)) if odd else 1
    size = len(written).to_bytes(2 if version == 1 else 4, "little", signed=False)
    return b"\x93NUMPY" + bytes((version, 0)) + size + written + content


def npz(rng: random.Random) -> bytes:
    """A zip of arrays: packed in any way, its directory not always true."""
    names = list(rng.choice((images.WHOLE, images.WHOLE[:1], images.DIVIDED, images.DIVIDED[::2], NAMES[2:])))
    if rng.random() < 0.2:
        names += [rng.choice((*NAMES, str(words(rng)), "../../x"))]
    made = io.BytesIO()
    how = rng.choice(
        (zipfile.ZIP_STORED,) * 4 + (zipfile.ZIP_DEFLATED,) * 4 + (zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
    )
    with zipfile.ZipFile(made, "w", how) as archive:
        for name in names:
            content = array(rng, name) + (bytes(50_000_000) if rng.random() < 0.003 else b"")
            with contextlib.suppress(UnicodeError):
                archive.writestr(f"{name}{'.npy' if rng.random() < 0.97 else ''}", content)
        if rng.random() < 0.1:
            for entry in archive.filelist:  # what the directory says, not what is there
                setattr(
                    entry,
                    rng.choice(("file_size", "compress_size", "header_offset", "CRC")),
                    rng.choice((0, 9, 2**31)),
                )
    return damaged(rng, made.getvalue()) if rng.random() < 0.25 else made.getvalue()


def a_npz(rng: random.Random, files: dict[str, bytes]) -> list[str]:
    """A data set; every eighth is planned, the others only read."""
    path = Path("x.npz")
    path.write_bytes(npz(rng))
    Path("n.yaml").write_text(SPEC)
    if rng.random() < 0.12:
        return ["plan", "n.yaml", "--seeds", "1", "--device", "cpu"]
    try:
        found = read(path, path.name)
    except BenchError as error:
        told = str(error)
        assert told.isprintable(), f"more than a line of text: {told[:300]!r}"
        assert len(told) < 1_000, f"{len(told)} characters: {told[:300]!r}"
        assert "x.npz" in told, f"names no file: {told!r}"
    else:
        assert found.train_images.dtype == torch.uint8, found.train_images.dtype
        assert found.classes <= images.CLASSES, found.classes
    return []


# Weights


class Runs:
    """An object whose pickle runs a command where it is read."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, ("touch ../canary/run",)


def tensors(rng: random.Random, good: dict[str, Tensor]) -> Any:
    """A state_dict some of whose tensors are not as they were, or something else."""
    state: dict[Any, Any] = dict(good)
    for name in rng.sample([*state], rng.choice((0, 1, 1, 2))):
        state[name] = rng.choice(TENSORS)(state[name])
    how = rng.randrange(12)
    if how == 0:
        del state[rng.choice([*state])]
    elif how == 1:
        state[
            rng.choice((words(rng) if rng.random() < 0.5 else "more", 3, None, ("a",), "x" * 5000)).__str__()
        ] = torch.zeros(3)
    elif how == 2:
        return rng.choice(
            ({}, [], None, "x", {"a": state, "b": state}, [state], {"m": {"m": state}}, {1: state}, set())
        )
    elif how == 3:
        return {"epoch": 3, rng.choice(("state_dict", "model", "\ud800", "")): state}
    return state


ONE = torch.zeros(1)
TENSORS: tuple[Callable[[Tensor], Tensor], ...] = (
    Tensor.half, Tensor.bfloat16, Tensor.long, Tensor.flatten, Tensor.to_sparse, Tensor.conj,
    torch.nn.Parameter, lambda t: t * math.nan, lambda t: t + math.inf, lambda t: t * 1e30, lambda t: t * 0,
    lambda t: t * -1e38, lambda t: t.double() * 1e300, lambda t: torch.full_like(t, 1e-45),
    lambda t: t.to(torch.complex64), lambda t: t.to(torch.complex64).conj(), lambda t: t > 0,
    lambda t: t.to(torch.float8_e4m3fn), lambda t: t[:0], lambda t: t[None], lambda t: t[:1], lambda t: t.T,
    lambda t: t.to("meta"), lambda t: torch.quantize_per_tensor(t, 0.1, 0, torch.qint8),
    lambda t: torch.nested.nested_tensor([t, t]), lambda _: torch.empty(0, 2**40), lambda _: ONE[0],
    lambda _: ONE.expand(VAST), lambda _: ONE.expand(2_000_000_000),
    lambda _: ONE.as_strided((2**20, 2**20), (0, 0)), lambda t: torch.full_like(t, -1e4),
)  # fmt: skip


def weights(rng: random.Random, good: dict[str, Tensor]) -> bytes:
    """A file of weights: of safetensors or of torch, new or old, or a pickle of anything."""
    state, made = tensors(rng, good), io.BytesIO()
    how = rng.randrange(10)
    if how < 4:
        with contextlib.suppress(Exception):  # what safetensors does not write, torch does
            content = save({name: value.contiguous() for name, value in state.items()})
            if rng.random() < 0.3:
                size = 8 + int.from_bytes(content[:8], "little")
                head = mutant(rng, content[8:size].decode()) if rng.random() < 0.5 else VASTLY
                content = len(head).to_bytes(8, "little") + head + content[size:]
            return damaged(rng, content) if rng.random() < 0.2 else content
    if how == 9:
        rest: Any = rng.choice((Runs(), {"w": Runs()}, state, [[[]]] * 99, b"x" * 99, io.BytesIO, 10**400))
        with contextlib.suppress(Exception):
            return pickle.dumps(rest, protocol=rng.choice((0, 2, 4, 5)))
    with contextlib.suppress(Exception):
        torch.save(state, made, _use_new_zipfile_serialization=how < 8)
    content = made.getvalue() or b"x"
    if how == 4:  # the same, packed, beside what unpacks to far more
        with (
            zipfile.ZipFile(io.BytesIO(content)) as old,
            zipfile.ZipFile(made := io.BytesIO(), "w", zipfile.ZIP_DEFLATED) as new,
        ):
            for entry in old.namelist():
                more = bytes(30_000_000) if entry.endswith("/data/0") and rng.random() < 0.3 else b""
                new.writestr(entry, old.read(entry) + more)
        content = made.getvalue()
    return damaged(rng, content) if rng.random() < 0.3 else content


VASTLY = b'{"w":{"dtype":"F32","shape":[1000000000000],"data_offsets":[0,4000000000000]}}'


def a_judged(rng: random.Random, files: dict[str, bytes]) -> list[str]:
    """A model trained elsewhere: odd weights, an odd adapter, or an odd report to enter it in."""
    Path("adapter.py").write_text(ADAPTER)
    Path("w.pt").write_bytes(weights(rng, GOOD))
    if rng.random() < 0.2:
        text = mutant(rng, ADAPTER.replace("latent = 2", f"latent = {rng.choice(NASTY)}"))
        Path("adapter.py").write_bytes(b"raise RuntimeError\n" + text)
    elif rng.random() < 0.05:
        with contextlib.suppress(OSError):
            Path("w.pt").unlink()
            rng.choice((os.mkfifo, os.mkdir))("w.pt")
    if rng.random() < 0.4:
        odd_report(rng, files)
    seeds = ["--weights", "w.pt"] * rng.choice((1, 1, 1, 2))
    name = rng.choice(("theirs", "theirs", "theirs", "a", rng.choice(NASTY).replace("\0", "") or "x"))
    return ["judge", "adapter.py", *seeds, f"--as={name}", "--report", ODD, "--device", "cpu"]


def odd_report(rng: random.Random, files: dict[str, bytes]) -> None:
    for name, kind in (("experiment.json", Spec), ("baselines.json", Baselines)):
        if rng.random() < 0.6:
            Path(ODD, name).write_bytes(altered(rng, json.loads(files[f"{ODD}/{name}"]), kind))


def a_deep(rng: random.Random, files: dict[str, bytes]) -> list[str]:
    """A report folder whose weights are odd, and whose record says that just these are its own."""
    runs = sorted({name.rpartition("/")[0] for name in files if name.endswith("weights.safetensors")})
    *rest, run = rng.sample(runs, len(runs))
    for other in rest:
        Path(other, "weights.safetensors").unlink()  # measuring one run takes long enough
    content = weights(rng, load(files[f"{run}/weights.safetensors"]))
    Path(run, "weights.safetensors").write_bytes(content)
    record = json.loads(files[f"{run}/record.json"])
    record["artifacts"]["weights.safetensors"] = hashlib.sha256(content).hexdigest()
    Path(run, "record.json").write_text(json.dumps(record))
    if rng.random() < 0.4:
        Path(run, "record.json").write_bytes(altered(rng, record, Recorded))
    if rng.random() < 0.3:
        odd_report(rng, files)
    return ["verify", ODD, "--deep"]
