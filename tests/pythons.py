"""The base install on other Pythons than the one of the suite: usage: python -m tests.pythons 3.12 3.13.

For each that is at hand: a virtual environment `.venv-X.Y` with our package without extras, the tests that need no more
than that, and `fed verify` of the bundle in tests/vectors as a process. One that is not at hand is named and skipped.
Needs the standard library only.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TOOLS = ("pytest", "pytest-timeout", "hypothesis")
#: Tests of the base install: they import neither torch, MLflow, NVFlare, PySyft nor prometheus-client.
BASE = (
    "tests/crypto",
    "tests/aggregator/ledger",
    "tests/aggregator/rounds/test_catch_up.py",
    "tests/aggregator/rounds/test_storage.py",
    "tests/aggregator/verify/test_old_bundle.py",
)
VECTORS = ROOT / "tests" / "vectors"


def find(version: str) -> str | None:
    """An interpreter of this version: on the path, or among pyenv's. A shim of pyenv that leads nowhere is none."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    named = [shutil.which(f"python{version}"), *sorted(map(str, pyenv.glob(f"{version}.*/bin/python{version}")))]
    for python in filter(None, named):
        asked = [python, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"]
        if subprocess.run(asked, capture_output=True, text=True).stdout.strip() == version:
            return python
    return None


def installed(version: str, python: str) -> Path:
    """The environment's interpreter. The base install is made anew each time: it is small."""
    place = ROOT / f".venv-{version}"
    inside = place / "bin" / "python"
    if not inside.exists():
        subprocess.run([python, "-m", "venv", str(place)], check=True)
    pip = [str(inside), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-c", "constraints.txt"]
    subprocess.run([*pip, "-e", ".", *TOOLS], check=True, cwd=ROOT)
    return inside


def passes(python: Path) -> bool:
    """Whether the base tests pass and ``fed verify`` of the bundle holds."""
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
    environment.pop("PYTHONPATH", None)
    tests = [str(python), "-m", "pytest", "-q", "-p", "no:cacheprovider", *BASE]
    consortium = json.loads((VECTORS / "bundle_v1.json").read_text())["consortium"]
    verify = [str(python.with_name("fed")), "verify", str(VECTORS / "bundle_v1.zip"), "--consortium", consortium]
    return all(subprocess.run(command, cwd=ROOT, env=environment).returncode == 0 for command in (tests, verify))


def main(versions: list[str]) -> int:
    """0 unless an interpreter that is at hand fails."""
    failed, skipped = [], []
    for version in versions:
        if (python := find(version)) is None:
            skipped.append(version)
            continue
        print(f"--- Python {version}: {python}", flush=True)
        if not passes(installed(version, python)):
            failed.append(version)
    for version in skipped:
        print(f"skipped: Python {version}, which is not on this machine")
    for version in failed:
        print(f"failed: Python {version}")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
