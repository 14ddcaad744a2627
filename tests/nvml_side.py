"""The stand-in for NVML, compiled: tests/connectors/nvml_stub.c says what it can be told to be."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest


def library(folder: Path) -> Path:
    """Compile it into a folder, which is returned; without a compiler the test skips."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler here to make the stand-in for NVML with")
    source = Path(__file__).with_name("connectors") / "nvml_stub.c"
    subprocess.run(
        [compiler, "-shared", "-fPIC", "-o", str(folder / "libnvidia-ml.so.1"), str(source)],
        check=True,
    )
    return folder
