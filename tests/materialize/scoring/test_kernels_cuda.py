"""The CUDA kernels run in Numba's simulator, which is chosen when Numba is imported: in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def test_the_suite_of_devices_passes_in_the_simulator() -> None:
    suite = Path(__file__).with_name("test_devices.py")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", str(suite), "-q", "-p", "no:cacheprovider"],
        env={**os.environ, "NUMBA_ENABLE_CUDASIM": "1"},
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert " passed" in done.stdout
    assert "skipped" not in done.stdout
