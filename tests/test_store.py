"""Runs stored once: named by each experiment, claimed by one process."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from factory import a_run

from bench.errors import BenchError
from bench.store.experiments import ExperimentFolder, experiments
from bench.store.lock import claimed
from bench.store.records import RunFolder

DIGEST = "0123456789abcdef" * 2


def made(variant: str = "small", seed: int = 0, **more: Any) -> dict[str, Any]:
    """The record of a finished run."""
    run = a_run(variant=variant, seed=seed)
    return {
        "id": run.identity(DIGEST), "experiment": "one", "variant": variant, "seed": seed,
        "run": run.model_dump(mode="json"), "data": {"name": "tiny", "digest": DIGEST},
        "status": "finished", "metrics": {"elbo": -100.0 - seed}, **more,
    }  # fmt: skip


def experiment(folder: Path, planned: dict[str, dict[str, Any]], **variants: Any) -> ExperimentFolder:
    """An experiment's folder with these planned runs."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "experiment.json").write_text(json.dumps({"variants": variants, "planned": planned}))
    return ExperimentFolder(folder)


# Names


def test_a_run_has_the_name_that_each_experiment_gives_it(tmp_path: Path) -> None:
    record = made()
    key = a_run().key(DIGEST)
    RunFolder(tmp_path / "runs" / key).write_record(record)
    plan = {"variant": "small", "seed": 0, "run": key}
    one = experiment(tmp_path / "one", {record["id"]: plan}, small={"document": None})
    two = experiment(tmp_path / "two", {"other-s0-0": plan | {"variant": "other"}}, other={"document": "001"})
    assert one.records() == {record["id"]: {"format": 2, **record}}
    named = two.record("other-s0-0")
    assert named is not None
    assert (named["id"], named["variant"], named["trained_as"]) == ("other-s0-0", "other", record["id"])
    assert (named["run"]["variant"], named["run"]["document"]) == ("other", "001")
    assert named["metrics"] == record["metrics"]
    assert [found.path.name for found in experiments(tmp_path)] == ["one", "two"]


def test_a_run_that_is_to_come_has_no_record(tmp_path: Path) -> None:
    home = experiment(tmp_path / "one", {"a-s0-0": {"variant": "a", "seed": 0, "run": f"{0:016x}-s0"}}, a={})
    assert home.record("a-s0-0") is None
    assert home.records() == {}


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ('{"planned": {}}', "variants: Field required"),
        (
            '{"variants": {}, "planned": {"a": {"variant": "a", "seed": 0, "run": "../../etc"}}}',
            "run: String",
        ),
        ('{"variants": {}, "planned": {"a": {"variant": "a", "seed": 0}}}', "run: Field required"),
        ("[1]", "is not a resolved experiment"),
        ("{", "is not a resolved experiment"),
    ],
)
def test_an_experiment_that_cannot_be_used_is_refused(tmp_path: Path, content: str, why: str) -> None:
    (tmp_path / "experiment.json").write_text(content)
    with pytest.raises(BenchError, match=why):
        _ = ExperimentFolder(tmp_path).planned


def test_the_store_lies_beside_an_experiment_however_that_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "reports/all").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "reports/all")
    assert ExperimentFolder(Path()).runs.resolve() == tmp_path / "reports/runs"
    assert ExperimentFolder(Path("../all")).runs.resolve() == tmp_path / "reports/runs"
    (tmp_path / "reports/all/figures").mkdir()
    assert ExperimentFolder(Path("figures/..")).runs.resolve() == tmp_path / "reports/runs"


# Claims

CLAIM = """
import sys, time
from pathlib import Path
from bench.store.lock import claimed
with claimed(Path(sys.argv[1]), sys.argv[2:]):
    print("claimed", flush=True)
    time.sleep(60)
"""


def test_a_run_is_done_by_one_process_at_a_time(tmp_path: Path) -> None:
    words = [sys.executable, "-c", CLAIM, str(tmp_path), "a", "b"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "claimed\n"
        with claimed(tmp_path, ["c"]):  # other runs of the same store
            pass
        with (
            pytest.raises(BenchError, match=f"1 of these runs are being done by process {other.pid} "),
            claimed(tmp_path, ["c", "b"]),
        ):
            pass
        other.kill()
        other.wait()
    with claimed(tmp_path, ["b"]):  # its claim ended with it
        assert len([*tmp_path.glob(".claim-*")]) == 1
    assert not [*tmp_path.glob(".claim-*")]
