"""The speed comparison: work counted, both sides the same training, laps, and what the report says."""

from __future__ import annotations

import csv
import importlib.util
import io
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from factory import a_dataset, a_run, part

from bench.data.datasets import Dataset
from bench.engine.device import available_cores
from bench.engine.images import untrained
from bench.engine.train import make_step
from bench.errors import BenchError
from bench.parts.vae import VAE
from bench.spec.experiment import Run
from bench.spec.resolve import load
from benchmarks.speed import compare, limits, race, speed
from benchmarks.speed.limits import Peaks, Work, work_of
from benchmarks.speed.race import Contestant, Lap, Pace, Task, lap
from benchmarks.speed.report import render, results_csv
from benchmarks.speed.rounds import Measured, Result, Spread, contestants_on, measure
from benchmarks.speed.scaling import Cell, measure_scaling

ROOT = Path(__file__).parents[1]
USUAL = ROOT / "benchmarks" / "usual_loop.py"
EXPERIMENT = load(ROOT / "benchmarks" / "speed.yaml")
RUNS = {name: variant.run(0) for name, variant in EXPERIMENT.variants.items()}
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def usual_loop() -> ModuleType:
    spec = importlib.util.spec_from_file_location("usual_loop", USUAL)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# MACs and parameters by hand: layer sizes multiplied, and biases added
BY_HAND = {
    "mlp-512-256-2": (784 * 512 + 512 * 256 + 256 * 4 + 2 * 256 + 256 * 784, 736_532, 0.361),
    "linear-400-20": (651_200, 652_824, 0.420),
    "mlp-100-100-32": (186_400, 187_648, 0.123),
    "conv-bn-16": (1_135_616, 96_481, 0.859),
}


@pytest.mark.parametrize("name", BY_HAND)
def test_work_is_what_counting_by_hand_gives(name: str) -> None:
    work = work_of(RUNS[name])
    macs, parameters, gflop = BY_HAND[name]
    assert (work.macs, work.parameters) == (macs, parameters)
    assert work.flops / 1e9 == pytest.approx(gflop, abs=5e-4)
    assert work.traffic == 40 * parameters


def test_work_of_the_deeper_decoder_that_was_measured_first() -> None:
    run = RUNS["mlp-512-256-2"].model_copy(update={"decoder": part("mlp", hidden=[256, 512])})
    work = work_of(run)
    assert (work.macs, work.parameters) == (1_066_496, 1_068_820)
    assert work.flops / 1e9 == pytest.approx(0.560, abs=5e-4)


def test_the_floor_adds_or_overlaps_arithmetic_and_traffic() -> None:
    work = Work(macs=10, first_macs=4, parameters=3, batch_size=5)
    assert work.flops == 2 * 26 * 5
    peaks = Peaks(flops=260.0, bandwidth=60.0)
    assert peaks.floor(work) == (pytest.approx(1 + 2), pytest.approx(2))


def bring_weights(vae: VAE, usual: torch.nn.Module) -> None:
    """Parameters in their common order: both sides list encoder, heads, decoder."""
    with torch.no_grad():
        for mine, theirs in zip(vae.parameters(), usual.parameters(), strict=True):
            theirs.copy_(mine)


@pytest.mark.parametrize("name", RUNS)
def test_both_sides_train_the_same(
    name: str, usual_loop: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Same weights, images and noise: the same loss, and the same parameters after a step of Adam."""
    run, data = RUNS[name], a_dataset()
    assert usual_loop.BATCH_SIZE[name] == run.batch_size
    vae = untrained(run).train()
    batch = data.train_images[: run.batch_size]
    noise = torch.randn(len(batch), run.latent, generator=torch.Generator().manual_seed(1))
    images = usual_loop.Images(batch, data.train_labels, usual_loop.transform(name))
    loop = usual_loop.UsualLoop(name, images, run.batch_size)
    bring_weights(vae, loop.model)
    before = [p.detach().clone() for p in vae.parameters()]
    monkeypatch.setattr(torch, "randn_like", lambda std: noise)
    monkeypatch.setattr(torch, "randperm", lambda n, generator=None: torch.arange(n))
    theirs = loop.train(1)
    mine = float(make_step(run, vae)(batch.flatten(1).float() / 255, noise).sum())
    assert mine == pytest.approx(theirs, rel=1e-5)
    old, a, b = (
        torch.cat([p.detach().flatten() for p in parameters])
        for parameters in (before, vae.parameters(), loop.model.parameters())
    )
    # Adam's first step is lr·sign(g): where g is lost in rounding, as before BatchNorm, a sign may differ
    assert ((a - b).abs() < 1e-5).double().mean() > 0.98
    assert 1e-4 < (a - old).abs().max() < 1.01e-3


def test_usual_items_are_torchvisions(usual_loop: ModuleType) -> None:
    """An item in memory equals what torchvision's MNIST gives for the same image."""
    from torchvision.datasets import MNIST

    data = a_dataset()
    mine = usual_loop.Images(data.train_images, data.train_labels, usual_loop.transform("linear-400-20"))
    theirs = MNIST.__new__(MNIST)
    theirs.data, theirs.targets = data.train_images, data.train_labels
    theirs.transform, theirs.target_transform = usual_loop.transform("linear-400-20"), None
    assert torch.equal(mine[3][0], theirs[3][0])
    assert mine[3][1] == theirs[3][1]
    assert mine[3][0].shape == (1, 28, 28)


def tiny(dataset: Dataset, device: torch.device = CPU) -> Task:
    run = a_run(variant="mlp-100-100-32", batch_size=16)
    return Task(run, dataset.train_images, dataset.train_labels, device, USUAL)


def test_stacked_replicas_train_whole_epochs() -> None:
    """What a lap on an accelerator does, here on a CPU."""
    contestant = Contestant("bench, 2 seeds stacked", "stacked", replicas=2)
    taken = race.LOOPS["stacked"](contestant, tiny(a_dataset()))
    assert [taken(1), taken(16), taken(25)] == [8, 16, 24]  # 130 images are 8 whole batches of 16


def test_bench_goes_on_over_epochs() -> None:
    train = race.LOOPS["bench"](Contestant("bench", "bench"), tiny(a_dataset()))
    assert train(19) == 19


def test_a_lap_says_who_died(monkeypatch: pytest.MonkeyPatch) -> None:
    task = tiny(a_dataset())
    with pytest.raises(BenchError, match="'usual loop' died"):
        lap(
            Contestant("usual loop", "usual"),
            Task(**(vars(task) | {"usual": Path("absent.py")})),
            Pace(steps=1),
        )


def test_a_small_comparison_from_end_to_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Real processes, a few steps: every number is there and positive."""
    contestants = [Contestant("usual loop", "usual"), Contestant("bench, 2 runs at once", "bench", 2)]
    monkeypatch.setattr("benchmarks.speed.rounds.contestants_on", lambda _, **__: contestants)
    monkeypatch.setattr("benchmarks.speed.rounds.ATTEMPTS", 1)
    told: list[str] = []
    experiment = EXPERIMENT.select(["mlp-100-*"])
    path = compare(
        experiment, a_dataset(train=140).share(), "cpu", Pace(steps=2), 1, tmp_path, tell=told.append
    )
    assert path == tmp_path / "speed" / "report.md"
    assert sorted(p.name for p in path.parent.iterdir()) == ["report.md", "results.csv"]
    rows = list(csv.DictReader(io.StringIO((path.parent / "results.csv").read_text())))
    assert [row["contestant"] for row in rows] == [c.name for c in contestants]
    for row in rows:
        assert float(row["images_per_second"]) > 0
        assert float(row["peak_mb"]) > 50
        assert row["steps"] == "2"
    assert any("round 1/1" in line for line in told)
    assert "mlp-100-100-32" in path.read_text()


def a_lap(rate: float, **changes: object) -> Lap:
    facts = {
        "images": int(rate),
        "seconds": 1.0,
        "steps": 10,
        "threads": 1,
        "peak_mb": 400.0,
        "healthy": True,
    }
    return Lap(**(facts | changes))  # type: ignore[arg-type]


def a_measurement() -> Measured:
    contestants = [Contestant("usual loop", "usual"), Contestant("bench, 2 runs at once", "bench", 2)]
    result = Result(
        RUNS["linear-400-20"], Work(macs=651_200, first_macs=313_600, parameters=652_824, batch_size=128)
    )
    result.laps = {
        contestants[0].name: [a_lap(1000), a_lap(2000), a_lap(1500)],
        contestants[1].name: [a_lap(rate, peaks=Peaks(3e11, 8e10)) for rate in (6000, 8000, 9000)],
    }
    return Measured(contestants, [result], 3, {"device": "cpu", "threads": 2, "torch": "2"}, "tiny, 3 images")


def test_ratios_are_paired_by_round() -> None:
    measured = a_measurement()
    usual, bench = measured.contestants
    result = measured.results[0]
    assert result.ratio(bench, usual) == Spread(6.0, 4.0, 6.0)
    assert result.rate(usual) == Spread(1500.0, 1000.0, 2000.0)
    apart, overlapping = result.shares(bench)
    floor = result.work.flops / 3e11 + result.work.traffic / 8e10
    assert apart == pytest.approx(floor * 8000 / 128)
    assert apart == pytest.approx(result.floor(bench) / result.seconds(bench))
    assert overlapping < apart


def test_the_report_says_what_was_measured() -> None:
    measured = a_measurement()
    text = render(measured, [])
    assert "| linear-400-20 | 1,500 (1,000–2,000) | 8,000 (6,000–9,000) | **6.00 (4.00–6.00)** |" in text
    assert "651,200" in text
    assert "0 laps failed" in text
    assert "Scaling" not in text
    assert not re.search(r"\d{4}-\d\d-\d\d", text), "the same measurements give the same report"
    measured.repeated, measured.unhealthy = 2, 1
    text = render(measured, [Cell("seeds", 1, Spread(100, 90, 110), usual_value=True)])
    assert "2 laps failed" in text
    assert "**1 laps failed it at every attempt" in text
    assert "| seeds | 1 | 100 (90–110) | 10000.00 | 1.00 |" in text


def test_the_csv_has_a_row_a_lap() -> None:
    rows = list(csv.DictReader(io.StringIO(results_csv(a_measurement()))))
    assert len(rows) == 6
    assert [row["ratio_to_usual"] for row in rows] == ["1.0"] * 3 + ["6.0", "4.0", "6.0"]
    assert rows[0]["stream_bytes_per_second"] == ""
    assert {row["device"] for row in rows} == {"cpu"}


def test_laps_of_threads_on_one_core_are_discarded(monkeypatch: pytest.MonkeyPatch) -> None:
    laps = iter([a_lap(1, healthy=False), a_lap(2), *[a_lap(3, healthy=False)] * 3])
    monkeypatch.setattr("benchmarks.speed.rounds.lap", lambda *_: next(laps))
    alone = [Contestant("usual loop", "usual")]
    monkeypatch.setattr("benchmarks.speed.rounds.contestants_on", lambda _, **__: alone)
    told: list[str] = []
    measured = measure([tiny(a_dataset()).run], a_dataset(), CPU, Pace(), 2, USUAL, told.append)
    assert [one.rate for one in measured.results[0].laps["usual loop"]] == [2, 3]
    assert (measured.repeated, measured.unhealthy) == (3, 1)
    assert sum("discarded" in line for line in told) == 3


def test_on_a_cpu_the_whole_machine_races() -> None:
    usual, one, *crowd = contestants_on(CPU)
    assert (usual.loop, one.loop, one.processes) == ("usual", "bench", 1)
    assert [c.processes for c in crowd] == [n for n in [len(available_cores())] if n > 1]
    *as_before, rounded = contestants_on(CPU, bf16=True)
    assert as_before == [usual, one, *crowd]
    assert (rounded.precision, rounded.processes) == ("bf16", as_before[-1].processes)


def test_a_contestant_trains_in_its_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    trained: list[str] = []

    def noted(run: Run, model: VAE) -> object:
        trained.append(run.precision)
        return make_step(run, model)

    monkeypatch.setattr(race, "make_step", noted)
    for precision in ("fp32", "bf16"):
        race.LOOPS["bench"](Contestant("bench", "bench", precision=precision), tiny(a_dataset()))(3)
    assert trained == ["fp32", "bf16"]


def test_one_thread_is_never_called_unhealthy() -> None:
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        assert limits.gemm_gain() == float("inf")
    finally:
        torch.set_num_threads(threads)


def test_scaling_changes_one_factor_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    raced: list[tuple[Run, Contestant]] = []

    def recorded(contestant: Contestant, task: Task, pace: Pace) -> Lap:
        raced.append((task.run, contestant))
        return a_lap(100)

    monkeypatch.setattr("benchmarks.speed.scaling.lap", recorded)
    run = RUNS["linear-400-20"]
    cells = measure_scaling(run, a_dataset(), CPU, Pace(), 1, lambda line: None)
    assert len(cells) == len(raced)
    assert [c.factor for c in cells if c.usual_value] == ["seeds", "batch size", "width", "latent size"]
    for changed, _ in raced:
        fields = {k for k in Run.model_fields if getattr(changed, k) != getattr(run, k)}
        assert fields in (set(), {"batch_size"}, {"encoder", "decoder"}, {"latent"})
        work_of(changed)


def test_outside_a_clone_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.speed.BENCHMARKS", tmp_path / "benchmarks")
    with pytest.raises(BenchError, match=r"needs .*usual_loop.py.* run it in a clone"):
        speed(None, "cpu", (), Pace(), 1, tmp_path, scaling=False, bf16=False)


def test_too_few_images_are_refused(tmp_path: Path) -> None:
    run = RUNS["mlp-512-256-2"].model_copy(update={"batch_size": 1000})
    with pytest.raises(BenchError, match="130 training images, mlp-512-256-2 takes batches of 1000"):
        measure([run], a_dataset(), CPU, Pace(), 1, USUAL, lambda line: None)


def test_the_usual_loop_runs_without_bench() -> None:
    source = USUAL.read_text(encoding="utf-8")
    assert not re.search(r"^\s*(from|import) bench", source, re.MULTILINE)
    done = subprocess.run([sys.executable, USUAL, "--help"], capture_output=True, text=True, check=True)
    assert "linear-400-20" in done.stdout
