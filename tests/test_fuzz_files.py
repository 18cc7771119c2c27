"""Damaged data, weights and records: each is refused in a line that names it, or is whole."""

from __future__ import annotations

import copy
import gzip
import hashlib
import json
import os
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from factory import SHAPE, a_run
from safetensors.torch import load, save
from torch import Tensor

from bench.data.datasets import _Idx
from bench.errors import BenchError
from bench.parts.vae import build
from bench.runs.generate import Drawing, Places, generate
from bench.saved import load_model
from bench.store import records
from bench.store.records import WEIGHTS, RunFolder

JUNK = [
    None, True, 0, -1, 1.5, 10**30, 1e308, "", "x", "../x", [], [1], {}, {"a": 1}, [[[]]],
    "x" * 5000, "\x1b[31m",
]  # fmt: skip


def damaged(rng: random.Random, content: bytes) -> bytes:
    """The same bytes with a bit flipped, a stretch lost, doubled or overwritten, an end cut off or added."""
    data = bytearray(content)
    at, length = rng.randrange(len(data)), rng.choice((1, 2, 8, 64))
    how = rng.randrange(6)
    if how == 0:
        data[at] ^= 1 << rng.randrange(8)
    elif how == 1:
        del data[at : at + length]
    elif how == 2:
        data[at:at] = data[at : at + length]
    elif how == 3:
        data[at : at + length] = rng.randbytes(length)
    elif how == 4:
        del data[at:]
    else:
        data += rng.randbytes(length)
    return bytes(data)


def line(error: BaseException, file: Path) -> str:
    """The refusal, if it is one line that names the file."""
    message = str(error)
    assert isinstance(error, BenchError)
    assert str(file) in message, message
    assert message.isprintable(), message
    assert len(message) < 2_000, message[:300]
    return message


# IDX files

IDX_SHAPE = (7, 5, 3)
PIXELS = np.random.default_rng(0).integers(0, 256, IDX_SHAPE, dtype=np.uint8)
IDX = bytes([0, 0, 8, 3]) + b"".join(n.to_bytes(4, "big") for n in IDX_SHAPE) + PIXELS.tobytes()
PACKED = gzip.compress(IDX, mtime=0)


def md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "packed"])
@pytest.mark.parametrize("sums", [{"md5": md5(IDX)}, {"packed_md5": md5(PACKED)}], ids=["content", "archive"])
def test_an_idx_file_is_read_whole_or_refused(tmp_path: Path, packed: bool, sums: dict[str, str]) -> None:
    rng, ends = random.Random(1), Counter[str]()
    idx = _Idx("images", IDX_SHAPE, **sums)
    path = tmp_path / ("images.gz" if packed else "images")
    for _ in range(200):
        content = damaged(rng, PACKED if packed else IDX)
        path.write_bytes(content)
        try:
            read = idx.read(tmp_path)
        except BenchError as error:
            told = line(error, path)
            assert told.endswith("delete it so that it is fetched again, or put the original file there")
            ends[told.partition(str(path))[2][:12]] += 1
        else:  # where no sum of the content is published, its form counts
            assert read.shape == IDX_SHAPE
            whole = np.array_equal(read, PIXELS)
            assert whole or ("packed_md5" in sums and not packed)
            ends["whole" if whole else "another"] += 1
    assert sum(ends.values()) - ends["whole"] - ends["another"] > 80, ends


def test_a_pipe_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "images")
    with pytest.raises(BenchError, match=r"images cannot be read \(no regular file\)"):
        _Idx("images", IDX_SHAPE).read(tmp_path)


def test_a_damaged_file_is_no_reason_for_a_stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from bench.runs.plan import make_plan
    from bench.runs.request import Request
    from bench.spec.resolve import load

    raw = tmp_path / "MNIST/raw"
    raw.mkdir(parents=True)
    for name in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"):
        (raw / f"{name}-ubyte").write_bytes(IDX)
    spec = tmp_path / "f.yaml"
    networks = "encoder: {name: mlp, hidden: [4]}, decoder: {name: mlp, hidden: [4]}, latent: 2"
    dataset = "dataset: {name: mnist, offline_fallback: digits}"
    spec.write_text(f"question: Why?\n{dataset}\nvariants: {{a: {{{networks}}}}}\n")
    monkeypatch.delenv("BENCH_DATA_DIR", raising=False)
    with pytest.raises(BenchError, match="train-images-idx3-ubyte is not the published file"):
        make_plan(Request(load(spec), data_dir=tmp_path, reports=tmp_path / "reports"), download=False)


# Weights and records

RUN = a_run(encoder="mlp", decoder="mlp", dataset="digits")


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    """The folder of a run that finished, its model as it was initialised."""
    made = RunFolder(tmp_path / "reports/runs/0123456789abcdef-s0")
    made.path.mkdir(parents=True)
    made.weights.write_bytes(save(build(RUN, SHAPE).state_dict()))
    record(made)
    assert load_model(made.path).latent == RUN.latent
    return made


def record(folder: RunFolder, **more: Any) -> dict[str, Any]:
    """Write the record of the weights as they lie there, and give it."""
    written = {
        "id": folder.path.name, "experiment": "all", "variant": "small", "seed": 0, "status": "finished",
        "run": RUN.model_dump(mode="json"), "metrics": {"elbo": -1.0}, "curves": [{"epoch": 1, "elbo": -1.0}],
        "environment": {"device": "cpu"}, "data": {"name": "digits", "digest": "0" * 32}, "git": {},
        "artifacts": folder.artifacts(), **more,
    }  # fmt: skip
    folder.write_record(written)
    return written


def refused(folder: RunFolder) -> str:
    """How the run is refused, "" where its model is given."""
    try:
        load_model(folder.path)
    except BenchError as error:
        return line(error, folder.path)
    return ""


def test_damaged_weights_that_are_recorded_as_they_are_never_crash(folder: RunFolder) -> None:
    """As where someone else wrote weights and record."""
    rng, content, ends = random.Random(3), folder.weights.read_bytes(), Counter[bool]()
    header = 8 + int.from_bytes(content[:8], "little")
    for case in range(150):
        head, rest = content[:header], content[header:]
        folder.weights.write_bytes(damaged(rng, head) + rest if case % 2 else damaged(rng, content))
        record(folder)
        told = refused(folder)
        assert not told or "does not fit the model" in told
        ends[not told] += 1
    assert min(ends.values()) > 7, ends


def foreign(state: dict[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    first = "encoder.trunk.0.weight"
    yield {}
    yield {name: value for name, value in state.items() if name != first}
    yield {**state, "more": torch.zeros(1)}
    yield {**state, first: state[first].flatten()}
    yield {**state, first: torch.zeros(0)}
    yield {**state, first: state[first][:1].expand(1, -1).contiguous()}
    yield {f"module.{name}": value for name, value in state.items()}
    yield build(a_run(latent=5), SHAPE).state_dict()
    yield build(a_run(encoder="conv-bn", decoder="conv-bn"), SHAPE).state_dict()


def test_weights_of_another_model_are_refused(folder: RunFolder) -> None:
    state = load(folder.weights.read_bytes())
    for other in foreign(state):
        folder.weights.write_bytes(save({name: value.contiguous() for name, value in other.items()}))
        record(folder)
        assert "does not fit the model that its record.json describes" in refused(folder)


def test_a_record_of_a_vast_model_takes_no_memory(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """The weights are held against its shapes; it is never built."""

    def never(seed: int) -> None:
        raise AssertionError("built")

    monkeypatch.setattr("bench.saved.initialised", never)
    run = RUN.model_dump(mode="json")
    for hidden in ([16_384] * 16, [10**12], [10**30], [4] * 10_000):
        run["encoder"]["options"]["hidden"] = hidden
        record(folder, run=run)
        told = refused(folder)
        assert "does not fit the model" in told or "another version of bench" in told


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of everything inside."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield (*path, key)
        yield from places(inner, (*path, key))


def test_a_record_of_wrong_types_is_refused_or_serves(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder.path.parents[3])
    rng, ends = random.Random(4), Counter[bool]()
    good = json.loads(folder.record.read_text())
    every = list(places(good))
    for case in range(200):
        bad = copy.deepcopy(good)
        at = every[case % len(every)]
        inside = bad
        for key in at[:-1]:
            inside = inside[key]
        if rng.random() < 0.15:
            del inside[at[-1]]
        else:
            inside[at[-1]] = rng.choice(JUNK)
        folder.record.write_text(json.dumps(bad))
        told = refused(folder)
        ends[not told] += 1
        if told and case % 8 == 0:
            with pytest.raises(BenchError):
                generate(str(folder.path), Drawing(), Places(Path("reports"), None, None))
    assert min(ends.values()) > 25, ends


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 200_000, b'{"a":' * 200_000, b"NaN", b"9" * 10_000,
     b'{"format": 2, "id": "x", "status": "finished", "metrics": {"elbo": NaN}}',
     b'{"format": 2, "id": "x", "status": "finished", "artifacts": {"weights.safetensors": 1}}'],
    ids=lambda content: content[:12].decode("latin-1"),
)  # fmt: skip
def test_a_record_that_is_none_is_refused(folder: RunFolder, content: bytes) -> None:
    folder.record.write_bytes(content)
    assert "remove its folder" in refused(folder)


def test_a_record_without_end_is_read_to_a_limit(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "MOST", 1_000)
    assert "more than 1,000 bytes" in refused(folder)
    folder.record.unlink()
    os.mkfifo(folder.record)
    assert "no regular file" in refused(folder)


def test_the_weights_are_never_a_pickle(folder: RunFolder) -> None:
    torch.save(build(RUN, SHAPE).state_dict(), folder.weights)
    record(folder)
    assert f"{WEIGHTS} does not fit the model" in refused(folder)
