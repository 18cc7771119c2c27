"""A share of the fuzz of `tests/fuzz.py`, which a machine that does nothing else does whole in an hour."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from small_matrix import Fault

pytestmark = pytest.mark.faults


def test_bad_input_ends_in_one_line(fault: Fault, tmp_path: Path) -> None:
    words = [sys.executable, str(Path(__file__).with_name("fuzz.py")), "100000", "--seconds", "20"]
    elsewhere = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}  # as another test may have left it
    done = subprocess.run(words, env=elsewhere, capture_output=True, text=True, timeout=300, check=False)
    *told, last = done.stdout.strip().splitlines()
    counts = json.loads(last)
    wrong = counts.get("faults", 0)
    fault("bad input", injected=counts["cases"], survived=counts["cases"] - wrong)
    assert done.returncode == 0, told
