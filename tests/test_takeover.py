"""A run that is finished in another report is copied from there: whole or not at all."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from factory import a_cache, a_run
from forked import bench
from test_cli import SPEC as MATRIX
from test_cli import files
from test_generate import TINY, leave

from bench.runs import takeover
from bench.runs.plan import Request, make_plan
from bench.runs.takeover import finished_in, neighbours, offers, take_over
from bench.saved import read_saved
from bench.spec.experiment import Run
from bench.store.records import RECORD, WEIGHTS

pytestmark = [
    # Third parties' own deprecations, raised while MLflow loads and builds its tables.
    pytest.mark.filterwarnings("ignore::DeprecationWarning:mlflow"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:pydantic"),
    pytest.mark.filterwarnings("ignore:.*loader strategy is deprecated"),
]
ONE = """
question: Does the first experiment train?
dataset: digits
seeds: 2
evaluation: {importance_samples: 3}
defaults: {epochs: 2, batch_size: 256, latent: 2}
variants:
  small-bernoulli: {encoder: {name: mlp, hidden: [16]}, decoder: {name: mlp, hidden: [16]}}
"""
TWO = """
question: Does the second take over what the first has?
extends: one.yaml
variants:
  wide: {extends: small-bernoulli, decoder: {name: mlp, hidden: [24]}}
"""
THREE = """
question: Is there a report of what was taken over alone, under another name too?
extends: one.yaml
variants:
  the-same: {extends: small-bernoulli}
"""


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The folder of a finished run, with a picture."""
    folder = leave(tmp_path / "reports", a_run())
    (folder / "pictures").mkdir()
    (folder / "pictures/kl.png").write_bytes(b"a picture")
    listed = {"pictures/kl.png": takeover.records.digest(folder / "pictures/kl.png")}
    change(folder, artifacts=json.loads((folder / RECORD).read_text())["artifacts"] | listed)
    return folder


def found(folder: Path, run: Run) -> Path | None:
    """The run in the experiments beside this one."""
    return finished_in(offers(neighbours(folder)), run, run.identity(TINY.digest))


def change(run: Path, **more: object) -> None:
    (run / RECORD).write_text(json.dumps(json.loads((run / RECORD).read_text()) | more))


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_a_run_is_copied_whole(run: Path, tmp_path: Path) -> None:
    (run / "checkpoint.safetensors").touch()  # of no use to a finished run
    target = tmp_path / "reports/two/records" / run.name
    target.mkdir(parents=True)
    (target / "checkpoint.safetensors").touch()  # an attempt of its own that did not end
    (target.parent / f"{takeover.PARTIAL}1/x").mkdir(parents=True)  # of a process that was killed
    assert neighbours(tmp_path / "reports/two") == [tmp_path / "reports/one"]
    assert found(tmp_path / "reports/two", a_run()) == run
    assert take_over(run, target, a_run(), {})
    (run / "checkpoint.safetensors").unlink()
    assert contents(target) == contents(run)
    assert [path.name for path in target.parent.iterdir()] == [run.name]


def test_an_equal_run_of_another_name_is_called_as_here(run: Path, tmp_path: Path) -> None:
    other = a_run(variant="as-here-s1", document="003")
    target = tmp_path / "reports/two/records" / other.identity(TINY.digest)
    target.parent.mkdir(parents=True)
    assert found(tmp_path / "reports/two", other) == run
    assert take_over(run, target, other, {"latent": "3"})
    before, after = (json.loads(contents(folder)[RECORD]) for folder in (run, target))
    assert after == before | {
        "id": target.name,
        "variant": "as-here-s1",
        "run": other.model_dump(mode="json"),
        "axes": {"latent": "3"},
        "trained_as": run.name,
    }
    assert read_saved(target).run == other
    assert contents(target).keys() == contents(run).keys()
    third = a_run(variant="third")
    again = tmp_path / "reports/three/records" / third.identity(TINY.digest)
    again.parent.mkdir(parents=True)
    assert take_over(target, again, third, {})
    assert json.loads((again / RECORD).read_text())["trained_as"] == run.name
    assert found(tmp_path / "reports/four", other) == target  # the one of the same name


def test_another_run_is_not_equal(run: Path, tmp_path: Path) -> None:
    for other in (a_run(seed=1), a_run(epochs=3)):
        assert found(tmp_path / "reports/two", other) is None
    chance = run.with_name(a_run(variant="small", epochs=3).identity(TINY.digest))
    run.rename(chance)  # as if the eight digits were equal by chance
    change(chance, id=chance.name)
    assert found(tmp_path / "reports/two", a_run(epochs=3)) is None
    assert not take_over(chance, run, a_run(epochs=3), {})


def truncated(run: Path) -> None:
    (run / RECORD).write_text((run / RECORD).read_text()[:-9])


def outside(run: Path) -> None:
    shutil.copy(run / "pictures/kl.png", run.parent / "kl.png")
    listed = json.loads((run / RECORD).read_text())["artifacts"]
    change(run, artifacts=listed | {"../kl.png": listed["pictures/kl.png"]})


def linked(run: Path) -> None:
    shutil.copy(run / "pictures/kl.png", run.parent / "kl.png")
    (run / "pictures/kl.png").unlink()
    (run / "pictures/kl.png").symlink_to(run.parent / "kl.png")


DAMAGE: dict[str, Callable[[Path], object]] = {
    "a truncated record": truncated,
    "no record": lambda run: (run / RECORD).unlink(),
    "another run's record": lambda run: change(run, id="small-s0-00000000"),
    "a run that diverged": lambda run: change(run, status="diverged"),
    "a run that was interrupted": lambda run: change(run, status="interrupted"),
    "no weights listed": lambda run: change(run, artifacts={}),
    "no weights": lambda run: (run / WEIGHTS).unlink(),
    "other weights": lambda run: (run / WEIGHTS).write_bytes(b"others"),
    "no pictures, as published": lambda run: shutil.rmtree(run / "pictures"),
    "a file outside": outside,
    "a link to a file outside": linked,
    "a name that no file can have": lambda run: change(run, artifacts={WEIGHTS: "0", "a\0b": "0"}),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_what_is_not_whole_is_left_where_it_is(
    damage: Callable[[Path], object], run: Path, tmp_path: Path
) -> None:
    damage(run)
    target = tmp_path / "reports/two/records" / run.name
    target.mkdir(parents=True)
    (target / "checkpoint.safetensors").touch()
    assert found(tmp_path / "reports/two", a_run()) is None
    assert not take_over(run, target, a_run(), {})  # nor where the damage came after the plan
    assert contents(target.parent) == {f"{run.name}/checkpoint.safetensors": b""}
    assert len([*target.parent.iterdir()]) == 1


def test_a_report_is_not_its_own_neighbour(run: Path) -> None:
    folder = run.parents[1]
    (folder.parent / "the same").symlink_to(folder)
    assert neighbours(folder) == []


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="whoever runs this may write everywhere")
def test_where_nothing_can_be_written_nothing_is_taken_over(run: Path, tmp_path: Path) -> None:
    records_folder = tmp_path / "reports/two/records"
    records_folder.mkdir(parents=True)
    records_folder.chmod(0o555)
    assert not take_over(run, records_folder / run.name, a_run(), {})


def reasons(folder: Path, name: str, **options: Any) -> list[str]:
    """Why each run of an experiment is to be done, or not."""
    request = Request(folder / f"{name}.yaml", reports=folder / "reports", **options)
    return [planned.why for planned in make_plan(request).runs]


def test_a_second_experiment_trains_what_the_first_has_not(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    cache = a_cache(tmp_path_factory.mktemp("cache"))
    for name, text in (("one", ONE), ("two", TWO), ("three", THREE), ("matrix", MATRIX)):
        (tmp_path / f"{name}.yaml").write_text(text)
    assert bench("run", "one.yaml", "--workers", "1", cwd=tmp_path, **cache).returncode == 0
    before = files(tmp_path)
    plan = bench("plan", "two.yaml", cwd=tmp_path, **cache)
    assert "2 variants × 2 seeds, 2 runs to do, 2 to take over" in plan.stdout
    told = r"^take +–  small-bernoulli-s[01]-[0-9a-f]{8}  finished in one: taken over$"
    assert len(re.findall(told, plan.stdout, re.M)) == 2
    assert reasons(tmp_path, "matrix").count("finished in one: taken over") == 2
    assert reasons(tmp_path, "two", fresh=True) == ["asked for by --fresh"] * 4
    assert "finished in one: taken over" not in reasons(tmp_path, "two", only=("wide",))
    weights = next(tmp_path.glob("reports/one/records/small-bernoulli-s1-*")) / WEIGHTS
    content = weights.read_bytes()
    weights.write_bytes(content[:-1])
    assert reasons(tmp_path, "two").count("finished in one: taken over") == 1
    weights.write_bytes(content)
    assert files(tmp_path) == before

    second = bench("run", "two.yaml", "--workers", "1", cwd=tmp_path, **cache)
    assert second.returncode == 0, second.stderr
    assert "2 finished, 2 taken over\n" in second.stdout
    taken = {path.name: contents(path) for path in tmp_path.glob("reports/one/records/*")}
    assert {name: contents(tmp_path / "reports/two/records" / name) for name in taken} == taken
    assert len([*tmp_path.glob("reports/two/records/*")]) == 4
    assert "Covers 4 of 4 runs: 4 finished." in (tmp_path / "reports/two/report.md").read_text()
    third = bench("run", "three.yaml", cwd=tmp_path, **cache)
    assert third.returncode == 0, third.stderr
    assert "4 taken over\n" in third.stdout
    report = (tmp_path / "reports/three/report.md").read_text()
    assert "*pixel mean*" in report
    assert "4 from `one`, of 4 runs: equal settings, seed and data" in report
    for name in ("one", "two", "three"):
        checked = bench("verify", f"reports/{name}", cwd=tmp_path, **cache)
        assert checked.returncode == 0, checked.stdout
        assert "not checked" not in checked.stdout
    assert "4 skipped" in bench("run", "two.yaml", cwd=tmp_path, **cache).stdout
    _in_mlflow(tmp_path)


def _in_mlflow(folder: Path) -> None:
    """Each experiment has its runs, under its own name and once, with weights."""
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    found = {e.name: e.experiment_id for e in client.search_experiments() if e.name != "Default"}
    assert found.keys() == {"one · digits", "two · digits", "three · digits"}
    for name, count in (("one", 2), ("two", 4), ("three", 4)):
        runs = [r for r in client.search_runs([found[f"{name} · digits"]]) if "variant" in r.data.tags]
        assert len(runs) == count
        for run in runs:
            assert run.info.status == "FINISHED"
            assert run.data.tags["sweep"] == name
            assert run.data.tags["bench.experiment"] == f"{name} · digits"
            assert WEIGHTS in [f.path for f in client.list_artifacts(run.info.run_id)]
            assert f"reports/{name}/records/" in run.data.tags["mlflow.note.content"]
