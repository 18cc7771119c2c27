"""Experiment files out of any hand: mutated by the thousand, and what that has found."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from mutations import NET, SMALL, accepted, mutant

from bench.errors import LISTED, BenchError, did_you_mean
from bench.spec.experiment import MAX_RUNS, Experiment
from bench.spec.resolve import load

ROOT = Path(__file__).parents[1]
CASES, SHARE = 10_000, 2_500


@pytest.mark.parametrize("first", range(0, CASES, SHARE))
def test_every_mutant_is_accepted_or_refused_in_one_line(first: int, tmp_path: Path) -> None:
    """In a process that may take 1 GB in all and 10 s of processor time a case."""
    folder = shutil.copytree(ROOT / "experiments", tmp_path / "c")
    words = [sys.executable, ROOT / "tests/mutations.py", folder, first, first + SHARE]
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


# What fuzzing found, each alone

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
    told = "f.yaml:4:8: the experiment: seeds is a list; allowed: a whole number from 1 to 1000, or a list"
    assert told in refusal(tmp_path, text)


def test_a_width_no_machine_holds_is_refused(tmp_path: Path) -> None:
    text = f"question: Why?\nvariants: {{a: {{{NET.replace('[5]', '[' + '9' * 38 + ']')}}}}}"
    assert "allowed: a list of 1 to 16 whole numbers from 1 to 16384" in refusal(tmp_path, text)


def test_two_long_words_are_not_compared_letter_by_letter(tmp_path: Path) -> None:
    """A hundred different letters defeat difflib's short cuts: comparing them took minutes."""
    one, other = ("".join(chr(0xB0 + i * step % 120) for i in range(12_000)) for step in (7, 11))
    text = f"{HEAD}matrix: {{precision: ['{one}'], exclude: [{{precision: '{other}'}}]}}"
    assert "is no value of axis precision; known: " in refusal(tmp_path, text)


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
