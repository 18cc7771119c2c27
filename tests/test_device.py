"""Devices and random streams: the same seed is the same numbers, and nothing else is."""

from __future__ import annotations

import itertools
import subprocess
import sys

import pytest
import torch

from bench.engine.device import (
    describe,
    evaluation_noise,
    initialised,
    peak_memory_mb,
    pick,
    present,
    reset_peak_memory,
    stream,
    synchronise,
)
from bench.errors import BenchError

CPU = torch.device("cpu")


def draw(*key: int | str) -> list[float]:
    return torch.randn(7, generator=stream(*key)).tolist()  # type: ignore[arg-type]


def test_a_stream_is_a_function_of_seed_purpose_and_epoch() -> None:
    keys = list(itertools.product([0, 1, 12345], ["order", "noise", "split"], [0, 1, 90]))
    draws = [draw(*key) for key in keys]
    assert draws == [draw(*key) for key in reversed(keys)][::-1]
    assert len({tuple(d) for d in draws}) == len(keys)


def test_the_derivation_of_a_stream_is_the_documented_one() -> None:
    """Records quote seeds: the numbers behind them may not change under a reader's feet."""
    assert stream(3, "order", 2).initial_seed() == 4_780_865_090_881_906_281


def test_evaluation_noise_is_the_same_each_time() -> None:
    a, b, other = (evaluation_noise(seed, 17, 5, CPU) for seed in (3, 3, 4))
    assert torch.equal(a, b)
    assert a.shape == (17, 5)
    assert not torch.equal(a, other)


def test_streams_do_not_touch_the_global_one() -> None:
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    draw(0, "noise")
    assert torch.equal(torch.rand(3), expected)


def test_initialisation_is_paired_and_leaves_the_global_stream_alone() -> None:
    before = torch.random.get_rng_state()
    weights = []
    for seed in (5, 6, 5):
        with initialised(seed):
            weights.append(torch.nn.Linear(3, 2).weight.detach())
    assert torch.equal(weights[0], weights[2])
    assert not torch.equal(weights[0], weights[1])
    assert torch.equal(torch.random.get_rng_state(), before)


def test_auto_is_a_device_that_is_present() -> None:
    assert str(pick("auto")) in present()
    assert pick("cpu") == CPU


@pytest.mark.parametrize("name", ["cuda:97", "gpu", "cuda:", "cuda:x", "", "CPU", "cpu:0", "meta"])
def test_a_device_that_is_not_there_is_refused_in_one_line(name: str) -> None:
    with pytest.raises(BenchError) as refusal:
        pick(name)
    assert f"--device {name}:" in str(refusal.value) or f"--device {name!r}" in str(refusal.value)
    assert "cpu" in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_peak_memory_sees_an_allocation() -> None:
    reset_peak_memory(CPU)
    before = peak_memory_mb(CPU)
    torch.ones(50_000_000)
    synchronise(CPU)
    assert before > 10
    assert peak_memory_mb(CPU) - before > 100  # 200 MB of floats, less what the allocator held already


def test_the_description_has_the_fields_of_a_record() -> None:
    found = describe(CPU)
    about, versions = "device device_name threads platform", "python torch torchvision mlflow bench"
    assert set(found) == {*about.split(), *versions.split()}
    assert found["device"] == "cpu"
    assert found["device_name"]
    assert found["torchvision"] != "absent"


def test_settings_are_made_and_no_package_is_imported_for_its_version() -> None:
    """In a process of its own, because the settings are global and others have imported everything here."""
    code = (
        "import sys, torch; from bench.engine.device import deterministic, describe; deterministic(); "
        "assert torch.are_deterministic_algorithms_enabled(); assert not torch.backends.cudnn.benchmark; "
        "assert not torch.backends.cudnn.allow_tf32; assert not torch.backends.cuda.matmul.allow_tf32; "
        "describe(torch.device('cpu')); assert not {'torchvision', 'mlflow', 'sklearn'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)
