"""Known vulnerabilities of the packages in requirements.lock, from OSV (https://osv.dev).

Prints a line for each and exits 1; exits 0 where there is none, or no answer, and says which.
What pyproject.toml lists under [tool.audit.accepted] with a reason is printed and does not count.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tomllib
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

ROOT = Path(__file__).parents[1]
PIN = re.compile(r"^([A-Za-z0-9._-]+)==([^\s;\\]+)", re.MULTILINE)
SERVICE = "https://api.osv.dev/v1/querybatch"
PATIENCE = 20  # seconds


def known(pins: list[tuple[str, str]], service: str) -> list[tuple[str, str, str]]:
    """Package, version and id of every known vulnerability. Raises OSError or ValueError for no answer."""
    queries = [{"package": {"name": n, "ecosystem": "PyPI"}, "version": v} for n, v in pins]
    body = json.dumps({"queries": queries}).encode()
    request = Request(service, body, {"Content-Type": "application/json"})  # noqa: S310  http, https
    with urlopen(request, timeout=PATIENCE) as answer:  # noqa: S310
        results: list[dict[str, Any]] = json.load(answer)["results"]
    pairs = zip(pins, results, strict=True)
    return [(name, version, v["id"]) for (name, version), found in pairs for v in found.get("vulns") or ()]


def main() -> int:
    """Check the lock; the exit status."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--lock", type=Path, default=ROOT / "requirements.lock")
    options.add_argument("--project", type=Path, default=ROOT / "pyproject.toml")
    options.add_argument("--service", default=SERVICE)
    given = options.parse_args()
    project = tomllib.loads(given.project.read_text(encoding="utf-8"))
    accepted = project["tool"].get("audit", {}).get("accepted", {})
    pins = PIN.findall(given.lock.read_text(encoding="utf-8"))
    try:
        found = known(pins, given.service)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        print(f"audit: not checked: no answer from the vulnerability database ({type(error).__name__})")
        return 0
    for name, version, vulnerability in found:
        print(f"audit: {name} {version}: {vulnerability}", accepted.get(vulnerability, "see https://osv.dev"))
    print(f"audit: {len(pins)} packages, {len(found)} known vulnerabilities")
    return any(vulnerability not in accepted for *_, vulnerability in found)


if __name__ == "__main__":
    sys.exit(main())
