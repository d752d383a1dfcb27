"""Distributions that are installed without network into a folder, and commands that run with what lies there."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def install(site: Path, *folders: Path) -> None:
    """Build the distributions in `folders` and install them into the folder `site`."""
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation"]
    done = subprocess.run([*pip, "--target", site, *folders], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def python(site: Path, folder: Path, *arguments: str | Path, fails: int = 0) -> str:
    """Run Python in `folder` with what is installed in `site`; return what it prints, or what it complains of."""
    inherited = {name: os.environ[name] for name in ("HOME", "OMP_NUM_THREADS", "TMPDIR") if name in os.environ}
    own = {"PYTHONPATH": str(site), "PATH": "", "FEWCORE_CACHE": str(site.parent / "cache"), "MPLBACKEND": "agg"}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=inherited | own, capture_output=True, text=True, check=False
    )
    assert done.returncode == fails, done.stdout + done.stderr
    return done.stderr if fails else done.stdout
