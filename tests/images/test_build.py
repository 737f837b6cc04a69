"""What `make images` takes from the machine that builds, and how it restricts what it runs."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from images import build, container
from images.container import Mount, seccomp, specification

CONFIG = {"User": "10001:10001", "Env": ["PATH=/bin", "HOME=/nowhere"], "WorkingDir": "/home", "Entrypoint": ["fed"]}


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for folder in ("wheels", "index/simple"):
        (tmp_path / folder).mkdir(parents=True)
    monkeypatch.setattr(build, "BUILD", tmp_path)
    return tmp_path


def test_pips_own_places_are_mounted_read_only(places: Path) -> None:
    settings = {
        "find-links": f"{places}/wheels",
        "extra-index-url": f"file://{places}/index/simple https://pypi.example/simple file:///absent/simple",
        "timeout": "180",
    }
    assert build.local_places(settings) == [places / "index", places / "wheels"]
    mounts = build.pip_mounts(settings)
    assert mounts[::2] == ["--volume"] * 3
    assert mounts[1::2] == [
        f"{places}/pip.conf:/etc/pip.conf:ro",
        f"{places}/index:{places}/index:ro",
        f"{places}/wheels:{places}/wheels:ro",
    ]
    assert f"find-links = {places}/wheels\n" in (places / "pip.conf").read_text()


def test_a_wheel_of_torch_at_hand_is_found(places: Path) -> None:
    settings = {"find-links": f"{places}/wheels"}
    assert build.wheel_at_hand(settings) == ""
    (places / "wheels" / "torch-2.13.0+cpu-cp311-cp311-linux.whl").touch()
    (places / "wheels" / "torchvision-1-cp311-cp311-linux.whl").touch()
    assert build.wheel_at_hand(settings) == "torch-2.13.0+cpu-cp311-cp311-linux.whl"


def test_variables_win_over_files(monkeypatch: pytest.MonkeyPatch) -> None:
    listed = ":env:.find-links='/by/variable'\nglobal.find-links='/by/file'\nglobal.extra-index-url='a\\nb'\n"
    monkeypatch.setattr(build.subprocess, "run", lambda *args, **kwargs: SimpleNamespace(stdout=listed))
    assert build.pip_settings() == {"find-links": "/by/variable", "extra-index-url": "a b"}


@pytest.fixture
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    profile = tmp_path / "seccomp.json"
    profile.write_text('{"defaultAction": "SCMP_ACT_ERRNO", "archMap": [], "syscalls": []}')
    monkeypatch.setattr(container, "PROFILE", profile)
    image = SimpleNamespace(name="aggregator", root=tmp_path, config=CONFIG)
    return specification(image, ["fed", "--help"], [Mount(tmp_path, "/data")], {"HOME": "/home"})  # type: ignore[arg-type]


def test_a_container_has_no_rights(bundle: dict[str, object]) -> None:
    process = bundle["process"]
    assert isinstance(process, dict)
    assert process["user"] == {"uid": 10001, "gid": 10001} and process["noNewPrivileges"] is True
    assert set(map(tuple, process["capabilities"].values())) == {()}
    assert bundle["root"] == {"path": bundle["root"]["path"], "readonly": True}  # type: ignore[index]
    assert {"HOME=/home", "PATH=/bin"} <= set(process["env"]) and process["args"] == ["fed", "--help"]
    assert bundle["mounts"][-1]["options"] == ["rbind", "nosuid", "nodev", "ro"]  # type: ignore[index]


def test_an_image_for_root_is_not_run() -> None:
    image = SimpleNamespace(name="aggregator", root=Path(), config={**CONFIG, "User": ""})
    with pytest.raises(RuntimeError, match="runs as ''"):
        specification(image, [], [], {})  # type: ignore[arg-type]


def test_the_profile_is_that_of_a_container_without_capabilities(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(container.platform, "machine", lambda: "x86_64")
    allow = {"action": "SCMP_ACT_ALLOW", "args": None}
    profile = {
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": 38,
        "archMap": [
            {"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86"]},
            {"architecture": "SCMP_ARCH_S390X", "subArchitectures": ["SCMP_ARCH_S390"]},
        ],
        "syscalls": [
            {"names": ["read"], **allow},
            {"names": ["mount"], **allow, "includes": {"caps": ["CAP_SYS_ADMIN"]}},
            {"names": ["mount"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1, "excludes": {"caps": ["CAP_SYS_ADMIN"]}},
            {"names": ["arch_prctl"], **allow, "includes": {"arches": ["amd64"]}},
            {"names": ["s390_runtime_instr"], **allow, "includes": {"arches": ["s390x"]}},
            {"names": ["clone"], **allow, "excludes": {"arches": ["amd64"]}},
        ],
    }
    made = seccomp(profile)
    assert made["architectures"] == ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"] and made["defaultErrnoRet"] == 38
    rules = [(rule["names"][0], rule["action"][9:], rule.get("errnoRet")) for rule in made["syscalls"]]
    assert rules == [("read", "ALLOW", None), ("mount", "ERRNO", 1), ("arch_prctl", "ALLOW", None)]
