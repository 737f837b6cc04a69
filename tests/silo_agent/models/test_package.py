"""The example of docs/examples as a wheel, installed for itself: found, bound by its bytes, refused if one changes."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest

from crypto.errors import SpecError
from silo_agent.methods import Limits, method
from silo_agent.models import registry
from silo_agent.models.description import Role
from silo_agent.models.package import digest
from tests import digits, plain, wheels
from tests.models import params
from tests.wheels import digest_here, refusal

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return wheels.build(tmp_path_factory.mktemp("wheel"))


@pytest.fixture
def site(wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that the wheel is installed in, before all others on Python's path."""
    wheels.install(wheel, tmp_path / "site")
    monkeypatch.syspath_prepend(tmp_path / "site")
    yield tmp_path / "site"
    wheels.forget()


def test_a_job_names_the_package_and_trains(site: Path) -> None:
    error = refusal()
    assert error.path == "params.package" and "ward-net 1.0" in error.want and "ward_net" not in sys.modules
    given = params("ward-net", "64", 10, package=digest_here(), rounds=2, model_depth=1, learning_rate=0.1)
    of = registry.experts_of(registry.split(given)[0], 7)
    assert {part.name for part in of.parts if part.role is Role.EXPERT} == {"head.weight", "head.bias"}
    _, published, _ = plain.federate(method("fedavg"), given, digits.silos(digits.turned()), Limits(n_max=8))
    first, end = published.slots["train/0"], published.slots["eval/0"]
    assert end["global.correct"] > 2 * first["global.correct"]


def test_the_digest_is_of_the_bytes_and_not_of_the_installation(site: Path, wheel: Path, tmp_path: Path) -> None:
    one = digest_here()
    wheels.install(wheel, tmp_path / "other")
    (again,) = metadata.distributions(name="ward-net", path=[str(tmp_path / "other")])
    assert digest(again) == one
    (site / "ward_net" / "__pycache__").mkdir(exist_ok=True)
    (site / "ward_net" / "__pycache__" / "x.pyc").write_bytes(b"compiled")
    (info,) = site.glob("ward_net-*.dist-info")
    (info / "INSTALLER").write_text("another")
    assert digest_here() == one


@pytest.mark.parametrize("file", ["ward_net/__init__.py", "*.dist-info/entry_points.txt", "*.dist-info/METADATA"])
def test_one_changed_byte_is_another_package(site: Path, file: str) -> None:
    given = params("ward-net", "64", 10, package=digest_here())
    (path,) = site.glob(file)
    path.write_bytes(path.read_bytes() + b"\n")
    with pytest.raises(SpecError, match=r"params\.package.*files were changed"):
        method("fedavg").plan(given, Limits(n_max=8))


@pytest.mark.parametrize("backport", [False, True])
def test_what_is_no_installed_wheel_is_refused(site: Path, backport: bool) -> None:
    """``backport``: some libraries import importlib_metadata, which then finds all distributions, and lists only the
    files that are there."""
    if backport:
        pytest.importorskip("importlib_metadata")
    (info,) = site.glob("ward_net-*.dist-info")
    (site / "ward_net" / "extra.py").write_text("")
    assert "ward_net/extra.py, which is not in its list" in str(refusal().got)
    (site / "ward_net" / "extra.py").unlink()
    (info / "direct_url.json").write_text(json.dumps({"url": "file:///x", "dir_info": {"editable": True}}))
    assert refusal().got == "an editable installation"
    (info / "direct_url.json").unlink()
    kept = (site / "ward_net" / "__init__.py").read_bytes()
    (site / "ward_net" / "__init__.py").unlink()
    assert "ward_net/__init__.py: No such file" in str(refusal().got)
    (site / "ward_net" / "__init__.py").write_bytes(kept)
    (info / "RECORD").unlink()
    assert refusal().got == "no list of its files"


def test_two_packages_with_one_name_and_a_digest_for_a_built_in_model_are_refused(site: Path, tmp_path: Path) -> None:
    (info,) = site.glob("ward_net-*.dist-info")
    twin = info.with_name("ward_twin-1.0.dist-info")
    shutil.copytree(info, twin)
    text = (twin / "METADATA").read_text()
    (twin / "METADATA").write_text(text.replace("Name: ward-net", "Name: ward-twin"))
    assert "ward-net, ward-twin have" in str(refusal().got)
    with pytest.raises(SpecError, match=r"params\.package"):
        params("cnn", "1 8 8", 10, package="0" * 64)
