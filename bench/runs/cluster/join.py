"""Joining a cluster: where it is, what it has, and whether its people can see what is tracked."""

from __future__ import annotations

import os
import socket
from importlib.util import find_spec
from pathlib import Path

import torch

from bench.errors import BenchError
from bench.tracking import redacted, resolve_uri

GPU_SHARE = 0.25  # of a GPU that a group asks for: models of this size leave most of one idle
PATIENCE = 5  # seconds that a cluster's address may take to answer

# As in bench.tracking: no usage reports. The other: CPU tasks see no GPU, as Ray's own notice asks to choose.
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "1")


def require_ray() -> None:
    """Raise BenchError where Ray is not installed; imports nothing."""
    if find_spec("ray") is None:
        raise BenchError("--executor ray needs Ray, which is not installed: pip install 'bench-vae[ray]'")


def connect(address: str | None, tracking_uri: str | None) -> None:
    """Join the cluster at `address`, unless this process has joined one.

    `auto` is the one that this machine is a node of; None is that of RAY_ADDRESS, else that of this machine,
    else a new one on this machine alone. Raises BenchError where there is none, and where the cluster has
    other hosts and the tracking store is a file that they cannot look into.
    """
    require_ray()
    import ray

    if ray.is_initialized():
        return
    where = address or os.environ.get("RAY_ADDRESS") or ""
    if where.startswith("ray://"):
        raise BenchError(
            f"--address {where} is for a Ray Client, and bench hears of its tasks as a node only: start "
            "it on one, with --address auto or HOST:6379"
        )
    try:
        host, _, port = where.rpartition(":")
        if host and port.isdecimal():  # Ray itself would ask for minutes, then end the process
            socket.create_connection((host.strip("[]"), int(port)), timeout=PATIENCE).close()
        ray.init(
            address=address,
            log_to_driver=False,
            logging_level="ERROR",
            runtime_env={"py_modules": [str(Path(__file__).parents[2])]},  # every node runs this very code
        )
    except (OSError, RuntimeError, ValueError) as error:
        why = str(error).strip().partition("\n")[0] or type(error).__name__
        raise BenchError(
            f"no Ray cluster answers at --address {where or 'auto'}: {why}; start one with "
            "`ray start --head`, or leave --address out for this machine alone"
        ) from None
    _check_store(tracking_uri)


def default_workers(device: torch.device) -> int:
    """The groups that fit into the cluster at a time; raises BenchError where it has no such device."""
    import ray

    resources = ray.cluster_resources()
    places = resources.get("CPU", 0.0)
    if device.type != "cpu":
        places = min(places, resources.get("GPU", 0.0) / GPU_SHARE)
    if device.type not in ("cpu", "cuda") or places < 1:
        has = ", ".join(f"{resources.get(kind, 0):.0f} {kind}s" for kind in ("CPU", "GPU"))
        raise BenchError(
            f"--device {device}: the Ray cluster has {has}; give --device cpu or cuda, or add nodes"
        )
    return int(places)


def _check_store(tracking_uri: str | None) -> None:
    """Refuse a database file where runs are done on hosts whose people cannot look into it."""
    import ray

    here = ray.util.get_node_ip_address()
    others = {n["NodeManagerHostname"] for n in ray.nodes() if n["Alive"] and n["NodeManagerAddress"] != here}
    uri = resolve_uri(tracking_uri)
    if others and uri.startswith("sqlite:"):
        raise BenchError(
            f"the cluster has other hosts ({', '.join(sorted(others)[:3])}) and {redacted(uri)} is a file of "
            "this one; start `mlflow server --host 0.0.0.0 --app-name basic-auth --backend-store-uri "
            "postgresql://…` (docs/scaling.md) and give --tracking-uri http://HOST:5000"
        )
