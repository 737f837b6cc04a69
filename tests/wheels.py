"""The example package of docs/examples, built and installed into folders of a test, without the network."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from crypto.errors import SpecError
from tests.models import params

EXAMPLE = Path(__file__).resolve().parents[1] / "docs" / "examples" / "ward-net"


def build(place: Path) -> Path:
    """The wheel, from a copy of the sources in ``place``."""
    shutil.copytree(EXAMPLE, place / "source")
    _pip("wheel", "--no-deps", "--no-index", "--no-build-isolation", "-w", str(place), str(place / "source"))
    (made,) = place.glob("*.whl")
    return made


def install(wheel: Path, site: Path) -> None:
    _pip("install", "--no-deps", "--no-index", "--target", str(site), str(wheel))


def forget() -> None:
    """As if the package had never been imported."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "ward_net"]:
        del sys.modules[name]


def refusal(**more: object) -> SpecError:
    """Of a job on the package's model."""
    with pytest.raises(SpecError) as caught:
        params("ward-net", "64", 10, **more)
    return caught.value


def digest_here() -> str:
    """What the refusal of a job without a digest says it is."""
    found = re.search(r"[0-9a-f]{64}", refusal().want)
    assert found is not None
    return found[0]


def _pip(*words: str) -> None:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", *words]
    subprocess.run(command, check=True, capture_output=True, timeout=300)
