"""Devices, random streams that pair the seeds of all variants, synchronised timing and peak memory."""

from __future__ import annotations

import ctypes
import os
import platform
import re
import resource
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from bench.errors import BenchError

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of mallopt(3)


def pick(name: str) -> torch.device:
    """Give the device called `name`: auto, cpu, cuda, cuda:N or mps; auto is the best one present.

    Raises BenchError for an unknown name and for a device that this machine does not have.
    """
    names = present()
    if name == "auto":
        return torch.device(names[-1])
    if not re.fullmatch(r"cpu|mps|cuda(:\d+)?", name):
        raise BenchError(f"--device {name!r} is no device; give auto, cpu, cuda, cuda:N or mps")
    full = "cuda:0" if name == "cuda" else name
    if full not in names:
        raise BenchError(
            f"--device {name}: this machine (torch {torch.__version__}) has {', '.join(names)}; "
            "give one of these or auto"
        )
    return torch.device(full)


def present() -> list[str]:
    """List the names of this machine's devices; the one that `auto` takes is last."""
    mps = ["mps"] if torch.backends.mps.is_available() else []
    return ["cpu", *mps, *(f"cuda:{index}" for index in reversed(range(torch.cuda.device_count())))]


def stream(seed: int, purpose: str, epoch: int = 0, device: str | torch.device = "cpu") -> torch.Generator:
    """Give the random stream of one seed, purpose and epoch.

    Its state is NumPy's `SeedSequence([seed, crc32(purpose), epoch])`: streams are independent of each other
    and of everything else that a variant draws. Seed s means the same data order and noise in every variant,
    so seeds pair.
    """
    return torch.Generator(device).manual_seed(_state(seed, purpose, epoch))


def evaluation_noise(seed: int, count: int, latent: int, device: torch.device) -> torch.Tensor:
    """Draw the standard normal noise [N, Z] that a set is judged with: the same each epoch and variant."""
    return torch.randn(count, latent, generator=stream(seed, "evaluation")).to(device)


@contextmanager
def initialised(seed: int) -> Iterator[None]:
    """Make torch's global CPU stream the initialisation stream of `seed`; afterwards it is what it was.

    Build modules on the CPU inside and move them afterwards: a seed is then the same weights on every device.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(_state(seed, "initialisation", 0))
        yield


@contextmanager
def drawing(seed: int, epoch: int, device: torch.device) -> Iterator[None]:
    """Make torch's global streams those of an epoch, for layers that draw such as dropout.

    Afterwards they are what they were.
    """
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(_state(seed, "layers", epoch))
        yield


def _state(seed: int, purpose: str, epoch: int) -> int:
    entropy = np.random.SeedSequence([seed, zlib.crc32(purpose.encode()), epoch])
    return int(entropy.generate_state(1, np.uint64)[0])


def deterministic() -> None:
    """Set this process so that one seed gives the same bits again on one device, in full single precision.

    An operation without a deterministic form warns and goes on. TF32, which is not fp32, is switched off.
    Call it before the first use of a GPU: cuBLAS reads its setting only once.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # costs time
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False


def available_cores() -> list[int]:
    """List the cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def pin(core: int) -> None:
    """Keep this process to one core, where the system can."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {core})


def one_thread(device: torch.device) -> None:
    """Keep this process to one thread on a CPU, BLAS and OpenMP included.

    Runs go on beside each other, one on each core. Results do not depend on how many cores there are.
    """
    if device.type == "cpu":
        torch.set_num_threads(1)
        threadpool_limits(1)


def keep_freed_memory() -> None:
    """Let this process keep the memory that it frees, where the C library is glibc.

    By default what a step frees goes back to the system, and the next step faults it in again, page by page:
    an eighth of the time of a convolutional model's step. Blocks over 32 MB still go back.
    """
    with suppress(AttributeError, OSError):  # another C library, or none to be had by ctypes
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_THRESHOLD, 1 << 25)
        libc.mallopt(_M_TRIM_THRESHOLD, 1 << 30)


def wide(device: torch.device) -> torch.dtype:
    """Give the type in which many numbers are added up: float64, or on mps float32, its widest."""
    return torch.float32 if device.type == "mps" else torch.float64


def synchronise(device: torch.device) -> None:
    """Wait until the device has done what it was asked for, so that a clock can be read."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def reset_peak_memory(device: torch.device) -> None:
    """Start counting `peak_memory_mb` anew: a run is not charged for the one before it."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif device.type == "cpu" and sys.platform == "linux":
        with suppress(AttributeError, OSError):  # what was kept of the run before it goes back first
            ctypes.CDLL(None).malloc_trim(0)
        with suppress(OSError):  # a sandbox may forbid it; the peak is then that of the whole process
            Path("/proc/self/clear_refs").write_text("5")  # "5" resets the high-water mark, see proc(5)


def peak_memory_mb(device: torch.device) -> float:
    """Give the peak memory in MB (10^6 bytes): torch's allocations on a GPU, the resident set on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    if device.type == "mps":
        return torch.mps.driver_allocated_memory() / 1e6
    unit = 1 if sys.platform == "darwin" else 1024  # macOS counts in bytes, Linux in KiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def describe(device: torch.device) -> dict[str, str | int]:
    """Describe the environment for a record: the device and its name, threads, versions, platform.

    Versions of packages come from their metadata, so that nothing is imported for them.
    """
    return {
        "device": str(device),
        "device_name": _device_name(device),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": _version("torchvision"),
        "mlflow": _version("mlflow"),
        "bench": version("bench-vae"),
        "platform": platform.platform(),
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "absent"


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    with suppress(OSError):  # Linux's name for the model; platform.processor() is empty or "x86_64" there
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
