"""The doctor at a real federation: services that run, NVFlare's own TLS, and starts that are refused by name."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.jobs.doctor.site_copy import Root
from tests.shared import Up, fed

pytestmark = pytest.mark.federation

#: What depends on the machine, or on how a demonstration is approved: for a day.
MAY_WARN = {"clock.synchronised", "volume.lasting", "volume.space", "memory", "cpu", "gpu", "approvals"}


def kits(up: Up) -> Path:
    return up.federation.root / "kits"


def by_name(report: dict[str, Any]) -> dict[str, dict[str, str]]:
    return {line["name"]: line for line in report["checks"]}


@pytest.mark.parametrize("who", ["silo-1", "server", "admin"])
def test_a_running_federation_is_well(up: Up, who: str) -> None:
    report = fed("doctor", "--kit", str(kits(up) / who))
    found = by_name(report)
    assert {name for name, line in found.items() if line["status"] != "pass"} <= MAY_WARN, found
    if who == "admin":
        assert report["role"] == "admin"
    else:
        assert found["ready"]["found"].startswith("ready, port ")
        pid = int(found["alone"]["found"].rpartition(" ")[2])
        assert pid in {process.pid for process in up.tree()}
        assert who in " ".join(psutil.Process(pid).cmdline())
    if who == "silo-1":
        assert "runs joined" in found["journal"]["found"]
    if who != "server":
        assert found["server.tls"]["found"] == "TLSv1.3, certificates accepted on both sides"


def test_the_real_server_and_a_kit_of_another_federation(up: Up, tmp_path: Path) -> None:
    """Wholly another's: our side refuses the server. With the right root and another's certificate: the server does."""
    root = Root.make("shared")
    for right_root, words in ((False, "was not signed by this kit's root"), (True, "refuses this kit's")):
        kit = tmp_path / str(right_root)
        shutil.copytree(kits(up) / "admin", kit)
        own = (kit / "startup" / "rootCA.pem").read_bytes()
        root.put(kit / "startup", "client", "admin@consilium.example")
        if right_root:
            (kit / "startup" / "rootCA.pem").write_bytes(own)
            script = (
                "from pathlib import Path; from jobs.doctor import server; from jobs.doctor.target import Target, Role;"
                f"print(server.server_tls.run(Target(Role.ADMIN, None, Path({str(kit)!r}))).found)"
            )
            done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
            assert words in done.stdout, done.stdout
        else:
            line = by_name(fed("doctor", "--kit", str(kit), code=70))["server.tls"]
            assert words in line["found"] and "another federation's" in line["remedy"]


def refused(kit: Path, role: str) -> str:
    """What a start says that ends with UNFIT."""
    done = subprocess.run(
        [sys.executable, "-m", "jobs.cli", role, "run", "--kit", str(kit), "--metrics-port", "0"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 70, f"{done.returncode} {done.stdout}{done.stderr}"
    return done.stderr


@pytest.mark.parametrize(("who", "role"), [("silo-2", "silo"), ("server", "aggregator")])
def test_a_second_service_with_one_identity_is_refused(up: Up, who: str, role: str) -> None:
    said = refused(kits(up) / who, role)
    assert "error [UNFIT]: alone: process " in said and "two agents with one identity" in said
    assert by_name(fed("doctor", "--kit", str(kits(up) / who)))["ready"]["status"] == "pass", "the first one goes on"


def copied(up: Up, silo: str, tmp_path: Path) -> tuple[Path, Path]:
    """(kit, home) of a silo, as if on another machine."""
    kit, home = tmp_path / "kit", tmp_path / "home"
    shutil.copytree(kits(up) / silo, kit)
    shutil.copytree(up.federation.silo(silo), home)
    about = kit / "local" / "consilium.json"
    about.write_text(json.dumps(json.loads(about.read_text()) | {"home": str(home)}))
    return kit, home


def test_a_restored_old_journal_is_refused(up: Up, tmp_path: Path) -> None:
    kit, home = copied(up, "silo-3", tmp_path)
    lines = (home / "journal.jsonl").read_bytes().splitlines(keepends=True)
    first = next(place for place, line in enumerate(lines) if b'"kind":"released"' in line)
    (home / "journal.jsonl").write_bytes(b"".join(lines[: first + 1]))
    said = refused(kit, "silo")
    assert "error [UNFIT]: journal.newest: " in said and "Restore the latest journal" in said


def test_a_kit_of_another_federation_is_refused(up: Up, tmp_path: Path) -> None:
    kit, _ = copied(up, "silo-4", tmp_path)
    path = kit / "startup" / "fed_client.json"
    path.write_text(path.read_text().replace('"name": "shared"', '"name": "elsewhere"'))
    assert "error [UNFIT]: kit.federation: the kit is of 'elsewhere', the charter of 'shared'" in refused(kit, "silo")
