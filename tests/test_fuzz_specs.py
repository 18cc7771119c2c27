"""Experiment files out of any hand: mutated by the thousand, and made up whole with a flaw here and there."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy
from mutations import NASTY, SMALL, accepted, mutant

from bench.errors import LISTED, BenchError, did_you_mean
from bench.spec.experiment import MAX_RUNS, Experiment
from bench.spec.registry import entries
from bench.spec.resolve import load

ROOT = Path(__file__).parents[1]
CASES, SHARE = 10_000, 2_500


def corpus(folder: Path) -> Path:
    return Path(shutil.copytree(ROOT / "experiments", folder / "c"))


@pytest.mark.parametrize("first", range(0, CASES, SHARE))
def test_every_mutant_is_accepted_or_refused_in_one_line(first: int, tmp_path: Path) -> None:
    """In a process that may take 1 GB in all and 10 s of processor time a case."""
    words = [sys.executable, ROOT / "tests/mutations.py", corpus(tmp_path), first, first + SHARE]
    done = subprocess.run(
        list(map(str, words)), capture_output=True, text=True, timeout=280, check=False,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    told = json.loads(done.stdout)
    assert not told["failures"], told["failures"][0]
    assert told["accepted"] + told["refused"] == SHARE
    assert min(told["accepted"], told["refused"]) > SHARE // 10, told


def test_a_case_is_the_same_whenever_it_is_asked_for() -> None:
    texts = [SMALL, "question: Why?\n"]
    assert [mutant(case, texts) for case in range(99)] == [mutant(case, texts) for case in range(99)]
    assert len({mutant(case, texts) for case in range(99)}) > 90


def test_what_is_checked_of_a_case_can_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "f.yaml").write_text(SMALL)
    assert accepted(tmp_path / "f.yaml")
    (tmp_path / "f.yaml").write_text("question: [")
    assert not accepted(tmp_path / "f.yaml")
    for message in ("nowhere", "f.yaml:1:1: two\nlines", "f.yaml:1:1: \x1b[31m", "f.yaml:1:1: " + "x" * 9999):

        def refuse(path: Path, message: str = message) -> Experiment:
            raise BenchError(message)

        monkeypatch.setattr("mutations.load", refuse)
        with pytest.raises(AssertionError):
            accepted(tmp_path / "f.yaml")


# Files made up whole


def flawed(strategy: SearchStrategy[object]) -> SearchStrategy[object]:
    """Mostly what the strategy gives, now and then anything at all."""
    return st.integers(0, 99).flatmap(lambda n: ANYTHING if n == 50 else strategy)


def named(kind: str, **options: SearchStrategy[object]) -> SearchStrategy[object]:
    name = st.sampled_from(list(entries(kind)))
    return name | st.fixed_dictionaries({"name": flawed(name)}, optional=options)


WORDS = st.sampled_from([word for word in NASTY if len(word) < 90]) | st.text(max_size=20)
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3),
    max_leaves=6,
)
NUMBER = st.integers(0, 40) | st.floats(0.015625, 9) | st.sampled_from(["1/2", "dz/dx", "32/784"])
WIDTHS = st.lists(flawed(st.integers(1, 600)), min_size=1, max_size=3)
MLP: dict[str, SearchStrategy[object]] = {"name": st.just("mlp"), "hidden": WIDTHS}
ACTIVATION = st.sampled_from(["relu", "tanh", "identity"])
SETTINGS: dict[str, SearchStrategy[object]] = {
    "encoder": st.just("conv-bn") | st.fixed_dictionaries(MLP, optional={"activation": ACTIVATION}),
    "decoder": st.just("conv-bn") | st.fixed_dictionaries(MLP),
    "latent": st.integers(1, 64),
    "posterior": named("posterior"),
    "input": named("input"),
    "target": named("target"),
    "likelihood": named("likelihood", variance=flawed(NUMBER), mean=st.sampled_from(["sigmoid", "linear"])),
    "objective": named("objective", beta=flawed(NUMBER), kl=st.sampled_from(["sum", "batchmean", "mean"])),
    "optimizer": named("optimizer", lr=flawed(NUMBER)),
    "batch_size": st.integers(1, 60_000),
    "epochs": st.integers(1, 200),
    "shuffle": st.booleans(),
    "precision": st.sampled_from(["fp32", "bf16"]),
}  # fmt: skip
ABOUT = {
    "document": WORDS.map("x{}".format),
    "note": flawed(st.just("words")),
    "extends": flawed(st.just("a")),
}
FLAWED = {key: flawed(strategy) for key, strategy in SETTINGS.items()}
NETWORKS = {key: FLAWED[key] for key in ("encoder", "decoder", "latent")}
VARIANT = st.fixed_dictionaries({}, optional=FLAWED | ABOUT)
AXES = {
    "beta": st.lists(flawed(NUMBER), min_size=1, max_size=4),
    "latent": st.lists(flawed(st.integers(1, 40)), min_size=1, max_size=4),
    "likelihood": st.lists(st.sampled_from(list(entries("likelihood"))), min_size=1, max_size=3),
    "optimizer.lr": st.lists(flawed(NUMBER), min_size=1, max_size=3),
    "exclude": st.lists(st.dictionaries(st.sampled_from(["beta", "latent"]), NUMBER, min_size=1), max_size=2),
}


def with_a(variants: dict[str, object]) -> dict[str, object]:
    return {**variants, "a": {}}


FILE = st.fixed_dictionaries(
    {
        "question": st.just("Why?"),
        "defaults": st.fixed_dictionaries(NETWORKS, optional={k: FLAWED[k] for k in ("optimizer", "epochs")}),
        "variants": st.dictionaries(flawed(st.sampled_from("bcd")).map(str), VARIANT, max_size=3).map(with_a),
    },
    optional={
        "dataset": flawed(st.sampled_from(list(entries("dataset")))),
        "seeds": flawed(st.integers(1, 9) | st.lists(st.integers(0, 99), min_size=1, unique=True)),
        "evaluation": flawed(st.fixed_dictionaries({"importance_samples": st.integers(0, 500)})),
        "matrix": flawed(st.fixed_dictionaries({}, optional=AXES)),
        "architectures": flawed(st.dictionaries(st.sampled_from("xy"), st.fixed_dictionaries(NETWORKS))),
    },
)


@settings(max_examples=600, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(FILE)
def test_a_file_made_up_is_accepted_or_refused_in_one_line(
    tmp_path_factory: pytest.TempPathFactory, content: object
) -> None:
    path = tmp_path_factory.getbasetemp() / "f.yaml"
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8", errors="replace")
    event("accepted" if accepted(path) else "refused")


# What fuzzing found, each alone

NET = "encoder: {name: linear, hidden: 4}, decoder: {name: mlp, hidden: [5]}, latent: 2"
HEAD = f"question: Why?\ndefaults: {{{NET}}}\n"


def refusal(folder: Path, text: str) -> str:
    (folder / "f.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(BenchError) as caught:
        load(folder / "f.yaml")
    return str(caught.value)


def test_the_variants_of_all_files_together_are_limited(tmp_path: Path) -> None:
    sizes = ", ".join(str(i + 1) for i in range(1_500))
    (tmp_path / "g.yaml").write_text(f"{HEAD}matrix: {{batch_size: [{sizes}], latent: [3]}}")
    text = f"extends: g.yaml\nmatrix: {{batch_size: [{sizes}], latent: [4]}}"
    assert "3000 variants in all; allowed: at most 2000" in refusal(tmp_path, text)


@pytest.mark.parametrize("block", ["variants", "architectures"])
def test_blocks_of_thousands_are_refused(tmp_path: Path, block: str) -> None:
    text = HEAD + f"{block}:\n" + "".join(f"  v{i}: {{latent: 2}}\n" for i in range(2_001))
    assert f"f.yaml:4:3: 2001 {block}; allowed: at most 2000; split" in refusal(tmp_path, text)


def test_the_runs_are_limited_in_the_file_and_on_the_command_line(tmp_path: Path) -> None:
    text = HEAD + f"matrix: {{batch_size: [{', '.join(str(i + 1) for i in range(101))}]}}\n"
    told = f"101 variants with 1000 seeds are 101000 runs; allowed: at most {MAX_RUNS}"
    assert f"f.yaml:4:8: {told}" in refusal(tmp_path, text + "seeds: 1000")
    (tmp_path / "f.yaml").write_text(text)
    with pytest.raises(BenchError, match=told):
        load(tmp_path / "f.yaml").with_overrides(seeds=range(1000))


def test_a_list_of_too_many_seeds_is_refused_by_its_length(tmp_path: Path) -> None:
    text = HEAD + f"variants: {{a: {{}}}}\nseeds: [{', '.join(map(str, range(35_000)))}]"
    assert "f.yaml:4:8: the experiment: seeds is a list; allowed: a whole number from 1 to 1000" in refusal(
        tmp_path, text
    )


def test_a_width_no_machine_holds_is_refused(tmp_path: Path) -> None:
    text = f"question: Why?\nvariants: {{a: {{{NET.replace('[5]', '[' + '9' * 38 + ']')}}}}}"
    assert "allowed: a list of 1 to 16 whole numbers from 1 to 16384" in refusal(tmp_path, text)


def test_two_long_words_are_not_compared_letter_by_letter(tmp_path: Path) -> None:
    """A hundred different letters defeat difflib's short cuts: this took minutes."""
    one, other = ("".join(chr(0xB0 + i * step % 120) for i in range(12_000)) for step in (7, 11))
    text = f"{HEAD}matrix: {{precision: ['{one}'], exclude: [{{precision: '{other}'}}]}}"
    started = time.process_time()
    assert "is no value of axis precision; known: " in refusal(tmp_path, text)
    assert time.process_time() - started < 3


def test_a_refusal_lists_some_names_not_thousands() -> None:
    told = did_you_mean("v100", [f"v{i:03}" for i in range(1_000)])
    assert told.startswith("; did you mean 'v100'? Known: v000, v001, ")
    assert told.endswith(f" and {1_000 - LISTED} more")
    assert did_you_mean("b", "abc") == "; did you mean 'b'? Known: a, b, c"
    assert "\x1b" not in did_you_mean("b", ["\x1b[31m"])


@pytest.mark.parametrize("name", ["con", "nul.x", "aux", "com1", "lpt9.tar", "a."])
def test_a_name_that_windows_keeps_for_itself_is_refused(tmp_path: Path, name: str) -> None:
    assert "allowed: a-z, 0-9" in refusal(tmp_path, f"question: Why?\nvariants: {{{name}: {{{NET}}}}}")
    (tmp_path / f"{name}.yaml").write_text(f"question: Why?\nvariants: {{a: {{{NET}}}}}")
    with pytest.raises(BenchError, match="rename the file"):
        load(tmp_path / f"{name}.yaml")


def test_what_is_extended_is_an_experiment_not_a_secret(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("hunter2\n")
    told = refusal(tmp_path, f"question: Why?\nextends: {tmp_path}/secret")
    assert "which is no file; allowed: a YAML file" in told
    assert "hunter2" not in told
