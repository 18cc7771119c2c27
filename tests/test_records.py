"""A record is there whole or not at all, holds finite numbers only, and is never trusted blindly."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.errors import BenchError
from bench.store import records
from bench.store.records import RunFolder

RECORD = {
    "format": 2, "id": "mlp-s0-0123abcd", "variant": "mlp", "seed": 0, "run": {}, "status": "finished",
    "metrics": {"elbo": -105.125},
}  # fmt: skip


def test_a_record_reads_back_as_it_was_written(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "records" / "mlp-s0-0123abcd")
    assert folder.read() is None
    folder.write_record(RECORD)
    assert folder.read() == RECORD
    assert records.read(folder.record) == RECORD
    assert os.listdir(folder.path) == ["record.json"], "no temporary file stays behind"


def test_a_record_of_another_format_is_refused_with_a_way_out(tmp_path: Path) -> None:
    for other in (1, 3):
        (tmp_path / "record.json").write_text(json.dumps({**RECORD, "format": other}))
        with pytest.raises(
            BenchError, match=r"not a bench record: format: .* 2; remove its folder .* run again"
        ):
            records.read(tmp_path)


@given(st.floats(-1e60, 1e60))
def test_finite_numbers_survive_exactly(value: float) -> None:
    records._check({"a": value}, "x")
    assert json.loads(json.dumps(value)) == value


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_non_finite_numbers_are_refused_by_name(tmp_path: Path, value: float) -> None:
    folder = RunFolder(tmp_path)
    with pytest.raises(ValueError, match=r"record\.json\.curves\[1\]\.elbo is"):
        folder.write_record({**RECORD, "curves": [{"elbo": 1.0}, {"elbo": value}]})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("value", [1.0001e60, -1e308, 10**61])
def test_a_number_that_no_reader_takes_is_refused_by_name(tmp_path: Path, value: float) -> None:
    with pytest.raises(BenchError, match=r"record\.json\.metrics\.mine is .*; allowed: numbers up to 1e\+60"):
        RunFolder(tmp_path).write_record({**RECORD, "metrics": {"mine": value}})
    assert list(tmp_path.iterdir()) == []


def test_types_json_lacks_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"a (Posix|Windows)Path"):
        RunFolder(tmp_path).write_record({**RECORD, "where": tmp_path})
    with pytest.raises(ValueError, match="key 1"):
        RunFolder(tmp_path).write_record({**RECORD, "metrics": {1: 2.0}})


def test_a_failed_write_keeps_the_old_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = RunFolder(tmp_path)
    folder.write_record(RECORD)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(BenchError, match="No space left on device"):
        folder.write_record({**RECORD, "status": "failed"})
    assert folder.read() == RECORD
    assert os.listdir(tmp_path) == ["record.json"]


def test_an_unwritable_folder_is_bad_input(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(BenchError, match="cannot write"):
        RunFolder(tmp_path / "file" / "run").write_record(RECORD)


@pytest.mark.parametrize(
    "content",
    [
        b'{"format": 2, "id": "mlp',
        b"",
        b"\xff\xfe\x00junk",
        b"[1, 2]",
        b'{"format": 3, "id": "a", "status": "finished"}',
        b'{"format": 2, "status": "finished"}',
        b'{"format": 2, "id": "a", "status": "done"}',
    ],
)
def test_a_damaged_or_foreign_record_names_the_file_and_the_way_out(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "record.json").write_bytes(content)
    with pytest.raises(BenchError, match=r"record\.json .*remove its folder"):
        records.read(tmp_path)


def test_artifacts_are_digested_by_relative_path(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.pictures.mkdir()
    folder.weights.write_bytes(b"weights")
    (folder.pictures / "samples-epoch-001.png").write_bytes(b"picture")
    folder.write_record(RECORD)
    assert folder.artifacts() == {
        "pictures/samples-epoch-001.png": hashlib.sha256(b"picture").hexdigest(),
        "weights.safetensors": hashlib.sha256(b"weights").hexdigest(),
    }
