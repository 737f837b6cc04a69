"""The unit examples: hardened, draining, and such that systemd takes them."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import typer.main

from jobs.cli.main import app
from jobs.services.run import DRAIN_S

UNITS = Path(__file__).parents[3] / "docs" / "systemd"
HARDENED = {
    "NoNewPrivileges": "yes",
    "ProtectSystem": "strict",
    "ProtectHome": "yes",
    "PrivateTmp": "yes",
    "PrivateDevices": "yes",
    "ProtectKernelTunables": "yes",
    "ProtectKernelModules": "yes",
    "ProtectKernelLogs": "yes",
    "ProtectControlGroups": "yes",
    "ProtectClock": "yes",
    "ProtectHostname": "yes",
    "ProtectProc": "invisible",
    "RestrictAddressFamilies": "AF_INET AF_INET6 AF_UNIX",
    "RestrictNamespaces": "yes",
    "RestrictRealtime": "yes",
    "RestrictSUIDSGID": "yes",
    "LockPersonality": "yes",
    "CapabilityBoundingSet": "",
    "AmbientCapabilities": "",
    "SystemCallArchitectures": "native",
    "SystemCallFilter": "@system-service",
    "UMask": "0077",
}
NAMES = ("silo", "aggregator")


def fields(name: str, *, examples: bool = False) -> list[tuple[str, str]]:
    """The settings of a unit; with ``examples`` also those that are commented out."""
    text = (UNITS / f"consilium-{name}.service").read_text()
    if examples:
        text = re.sub(r"^#(?=[A-Z]\w+=)", "", text, flags=re.MULTILINE)
    lines = [line for line in text.splitlines() if line and line[0] not in "#["]
    return [(key, value) for key, _, value in (line.partition("=") for line in lines)]


@pytest.mark.parametrize("name", NAMES)
def test_a_unit_is_hardened_and_drains(name: str) -> None:
    found = dict(fields(name))
    assert {key: found[key] for key in HARDENED} == HARDENED
    assert found["User"] == found["Group"] == "consilium"
    assert (found["StateDirectory"], found["StateDirectoryMode"]) == ("consilium", "0700")
    assert found["Restart"] == "on-failure" and found["KillMode"] == "mixed"
    environment = dict(value.split("=", 1) for key, value in fields(name) if key == "Environment")
    drain = float(environment["CONSILIUM_DRAIN_SECONDS"])
    assert drain == DRAIN_S and float(found["TimeoutStopSec"]) >= drain + 20


@pytest.mark.parametrize("name", NAMES)
def test_what_a_unit_names_is_ours(name: str) -> None:
    program, *words = dict(fields(name))["ExecStart"].split()
    assert (Path(program).name, words) == ("fed", [name, "run"])
    verb = typer.main.get_command(app).commands[name].commands["run"]  # type: ignore[attr-defined]
    known = {option.envvar for option in verb.params}
    given = {value.split("=")[0] for key, value in fields(name, examples=True) if key == "Environment"}
    assert given <= known and {"CONSILIUM_KIT", "CONSILIUM_HOME"} <= given
    assert "CONSILIUM_TRACKING_URI" not in given, "an address may hold a password"


@pytest.mark.parametrize("name", NAMES)
def test_secrets_come_as_credentials(name: str) -> None:
    loaded = [value.split(":")[0] for key, value in fields(name, examples=True) if key == "LoadCredential"]
    assert (
        loaded[0] == "kit.tar.gz"
        and set(loaded[1:])
        == {
            "silo": {"agent.key", "salt"},
            "aggregator": {"aggregator.key"},
        }[name]
    )


@pytest.mark.parametrize("name", NAMES)
def test_systemd_takes_a_unit(name: str, tmp_path: Path) -> None:
    """Where there is a systemd to ask; a misspelt setting is found by the tests above, or not at all."""
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        return
    text = (UNITS / f"consilium-{name}.service").read_text()
    unit = tmp_path / f"consilium-{name}.service"
    unit.write_text(text.replace("/opt/consilium/bin/fed", "/bin/true"))
    command = [analyze, "verify", "--man=no", str(unit)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    said = [line for line in (done.stdout + done.stderr).splitlines() if unit.name in line]
    assert done.returncode == 0 and said == [], done.stdout + done.stderr
