"""Experiments by name: what a word means, and the file that one starts from."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.errors import BenchError
from bench.runs.request import Request
from bench.spec.resolve import load
from bench.spec.shipped import begin, find, same_name_here, shipped
from bench.store.experiments import named


def test_a_word_that_ships_is_that_experiment_whatever_lies_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert same_name_here(Path("beta")) == ""
    for name in ("beta", "beta.yaml", "mine"):
        Path(name).write_text("question: Mine?")
    assert find(Path("beta")) == shipped()["beta"]
    assert same_name_here(Path("beta")) == "beta"
    for path in (Path("beta.yaml"), tmp_path / "beta", Path("mine")):
        assert find(path) == path
        assert same_name_here(path) == ""
    with pytest.raises(BenchError, match=r"'bet' is no file, and no experiment .*did you mean 'beta'"):
        find(Path("bet"))


def test_a_shipped_experiment_repeats_by_its_name() -> None:
    assert Request(load(Path("beta"))).command() == "bench run beta"
    assert Request(load(shipped()["beta"])).command() == "bench run beta"


def test_a_file_extends_a_shipped_experiment(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("question: Mine?\nextends: beta\n")
    assert load(tmp_path / "mine.yaml").variants == load(Path("beta")).variants


def test_a_report_is_found_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    reports = Path("reports")
    for absent in ("all", "all.yaml", "x/all"):
        with pytest.raises(BenchError, match=r"all holds no experiment\.json; give a folder"):
            named(Path(absent), reports)
    for folder in (reports / "all", Path("here"), reports / "here", Path("x/all")):
        folder.mkdir(parents=True)
        (folder / "experiment.json").touch()
    assert named(Path("all"), reports) == named(Path("all.yaml"), reports) == reports / "all"
    assert named(Path("here"), reports) == Path("here")
    assert named(Path("x/all"), reports) == Path("x/all")


def test_what_one_starts_from_is_a_whole_experiment(tmp_path: Path) -> None:
    begin(tmp_path / "mine.yaml")
    experiment = load(tmp_path / "mine.yaml", code=False)
    assert (experiment.dataset, len(experiment.variants), len(experiment.claims)) == ("digits", 4, 1)


@pytest.mark.parametrize(
    ("name", "told"),
    [("there.yaml", "is there already"), ("mine", "write mine.yaml"), ("x/a.yaml", "No such")],
)
def test_nothing_is_written_over(tmp_path: Path, name: str, told: str) -> None:
    (tmp_path / "there.yaml").write_text("mine")
    with pytest.raises(BenchError, match=told):
        begin(tmp_path / name)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("there.yaml", "mine")]
