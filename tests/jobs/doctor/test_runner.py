"""A whole visit: a healthy site passes, a check that breaks is a line, nothing changes, the page says what is."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from crypto.errors import SpecError
from jobs.doctor import clock, runner
from jobs.doctor.check import AGGREGATOR, SILO, Check, Status, Unfit, fail, ok
from jobs.doctor.runner import CHECKS, examine, find
from jobs.doctor.target import Place, Role
from tests.jobs.doctor import page
from tests.jobs.doctor import patient as patients
from tests.jobs.doctor.patient import Patient, listener

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[3]
#: What depends on the machine that the tests run on, and may warn there.
MACHINE = {"clock.synchronised", "volume.lasting", "volume.space", "memory", "cpu", "gpu"}


def test_a_healthy_silo_passes(silo: Patient, server_startup: Path) -> None:
    with listener(server_startup) as port:
        silo.point("localhost", port)
        found = patients.visit(silo)
    amiss = {name: line for name, line in found.items() if line.status is not Status.PASS and name not in MACHINE}
    assert not amiss
    assert found.keys() == {check.name for check in CHECKS if Role.SILO in check.roles} - {"ready"}


def test_a_healthy_aggregator_passes(aggregator: Patient) -> None:
    found = patients.visit(aggregator)
    amiss = {name: line for name, line in found.items() if line.status is not Status.PASS and name not in MACHINE}
    assert not amiss
    assert found.keys() == {check.name for check in CHECKS if Role.AGGREGATOR in check.roles} - {"ready"}


def test_a_healthy_admin_passes(admin: Patient, server_startup: Path) -> None:
    with listener(server_startup) as port:
        admin.point("localhost", port)
        found = patients.visit(admin)
    assert {name for name, line in found.items() if line.status is not Status.PASS} <= MACHINE
    assert "lead: submits" in found["kit.role"].found


def tree(root: Path) -> dict[str, tuple[int, int, str]]:
    """Path → mode, time of change, digest: of everything below."""
    found = {}
    for path in [root, *sorted(root.rglob("*"))]:
        content = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        found[str(path.relative_to(root))] = (path.stat().st_mode, path.stat().st_mtime_ns, content)
    return found


def test_a_visit_changes_nothing(silo: Patient, aggregator: Patient) -> None:
    for patient in (silo, aggregator):
        before = tree(patient.house), tree(patient.chest)
        list(examine(patient.place()))
        assert (tree(patient.house), tree(patient.chest)) == before


def test_a_check_that_breaks_is_a_line_and_the_others_are_made(silo: Patient, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(place: Place) -> None:
        raise ZeroDivisionError("a bug\nwith more lines")

    def lacking(place: Place) -> None:
        raise ModuleNotFoundError("No module named 'x.y'", name="x.y")

    looks = {"clock": broken, "lacking": lacking, "other": lambda place: ok("made")}
    monkeypatch.setattr(runner, "CHECKS", [replace(clock.clock, name=name, look=look) for name, look in looks.items()])
    first, middle, second = examine(silo.place())
    assert first.status is Status.FAIL and first.found == "could not be checked: ZeroDivisionError: a bug"
    assert first.remedy
    assert middle.found == "could not be checked: x is not installed here" and "packages" in middle.remedy
    assert (second.name, second.found) == ("other", "made")


def test_what_stands_on_a_fail_is_not_checked(silo: Patient) -> None:
    (silo.house / "silo.json").unlink()
    found = patients.visit(silo)
    assert found["home"].status is Status.FAIL
    for name in ("home.keys", "volume.writable", "charter", "journal", "data"):
        assert found[name].status is Status.WARN
        assert found[name].found == "not checked, because home failed"


def test_what_stands_on_what_is_not_checked_is_not_checked(silo: Patient, monkeypatch: pytest.MonkeyPatch) -> None:
    def one(name: str, *after: str) -> Check:
        return replace(clock.clock, name=name, after=after, look=lambda place: fail("bad") if name == "a" else ok(""))

    monkeypatch.setattr(runner, "CHECKS", (one("a"), one("b", "a"), one("c", "b"), one("d")))
    found = patients.visit(silo)
    assert found["c"].found == "not checked, because a failed" and found["d"].status is Status.PASS


def test_the_role_is_that_of_the_kit_or_of_the_home(silo: Patient, aggregator: Patient, admin: Patient) -> None:
    assert find(None, None, admin.kit).role is Role.ADMIN
    assert find(None, aggregator.home, None).role is Role.AGGREGATOR
    assert find(None, silo.home, None).role is Role.SILO
    assert find(None, None, silo.kit).home is not None, "a demonstration's kit names its home"
    silo.edit("local/consilium.json", lambda value: value.pop("home"))
    assert find(None, None, silo.kit).home is None
    silo.chest.rename(silo.house / "kit")
    assert find(None, silo.home, None).kit == silo.house / "kit"
    with pytest.raises(SpecError, match="want the home of a silo"):
        find(None, silo.house / "runs", None)
    with pytest.raises(SpecError, match="--role"):
        find("patient", silo.home, None)


def doctor(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "jobs.cli", "doctor", *words], capture_output=True, text=True, timeout=120, check=False
    )


def test_the_command_prints_each_line_with_its_remedy(aggregator: Patient) -> None:
    (aggregator.house / "keys" / "aggregator.key").chmod(0o644)
    words = ("--home", str(aggregator.home), "--kit", str(aggregator.kit))
    plain, told = doctor(*words), doctor(*words, "--json")
    assert plain.returncode == told.returncode == Unfit.exit_code == 70
    found = json.loads(told.stdout)
    assert found["role"] == "aggregator"
    (keys,) = (line for line in found["checks"] if line["name"] == "home.keys")
    assert set(keys) == {"name", "status", "found", "remedy"}
    assert keys["status"] == "fail" and "mode 644" in keys["found"] and "chmod 600" in keys["remedy"]
    assert f"✗ home.keys           {keys['found']}\n{'':<22}→ {keys['remedy']}\n" in plain.stdout
    assert "Traceback" not in plain.stderr + told.stderr


def test_the_command_ends_well_where_nothing_fails(aggregator: Patient) -> None:
    done = doctor("--home", str(aggregator.home), "--kit", str(aggregator.kit), "--json")
    assert done.returncode == 0, done.stdout
    assert not [line for line in json.loads(done.stdout)["checks"] if line["status"] == "fail"]


def test_a_kit_may_come_as_an_archive(silo: Patient, tmp_path: Path) -> None:
    import tarfile

    archive = tmp_path / "silo-1.kit.tar.gz"
    with tarfile.open(archive, "w:gz") as packed:
        packed.add(silo.chest, "silo-1")
    with runner.unpacked(archive) as kit:
        assert kit is not None and patients.look(replace(silo, kit=kit), "kit.site").status is Status.PASS
    assert not kit.exists()
    archive.write_bytes(b"no archive")
    with pytest.raises(SpecError, match=r"want a kit"), runner.unpacked(archive):
        pass


def test_no_secret_is_printed(silo: Patient) -> None:
    (silo.house / "policy.toml").write_text("floors = 1")
    text = "".join(f"{line.found}{line.remedy}" for line in examine(silo.place()))
    secrets = [(silo.house / name).read_bytes() for name in ("keys/agent.key", "keys/owner.key", "salt")]
    assert not any(secret.hex() in text for secret in secrets)
    assert "PRIVATE" not in text


def test_a_start_is_checked_without_what_must_come_later(silo: Patient) -> None:
    """prometheus_client must not be imported before its folder is set, and the others would only take time."""
    code = (
        "import sys; from pathlib import Path; import jobs.doctor.runner, jobs.services.run\n"
        "from jobs.doctor import refuse_start\n"
        "refuse_start('silo', Path(sys.argv[1]), Path(sys.argv[2]))\n"
        "print([name for name in ('prometheus_client', 'torch', 'mlflow') if name in sys.modules])"
    )
    words = [sys.executable, "-c", code, str(silo.chest), str(silo.house)]
    assert subprocess.run(words, capture_output=True, text=True, check=True).stdout == "[]\n"


def test_names_are_distinct_and_grounds_come_first() -> None:
    names = [check.name for check in CHECKS]
    assert len(set(names)) == len(names)
    for place, check in enumerate(CHECKS):
        assert set(check.after) <= set(names[:place]), check.name
        assert check.start <= check.roles and check.looks and check.fails and check.remedy


def test_every_check_has_its_fault() -> None:
    """Of each check there is a test that makes it fail or warn; ``software`` and ``requests`` only tell."""
    text = "".join(path.read_text() for path in Path(__file__).parent.glob("test_*.py"))
    provoked = set(re.findall(r'amiss\([^"]+?"([a-z.-]+)"', text))
    assert {check.name for check in CHECKS} - provoked == {"software", "requests"}


def test_the_page_has_the_checks_of_the_code() -> None:
    text = page.PAGE.read_text()
    assert page.rewritten(text) == text and runner.table() in text, "run: python -m tests.jobs.doctor.page"


def test_a_check_for_one_role_is_not_made_for_another(silo: Patient, monkeypatch: pytest.MonkeyPatch) -> None:
    def only(roles: frozenset[Role], name: str) -> Check:
        return replace(clock.clock, name=name, roles=roles, look=lambda place: ok(""))

    monkeypatch.setattr(runner, "CHECKS", (only(SILO, "mine"), only(AGGREGATOR, "other")))
    assert [line.name for line in examine(silo.place())] == ["mine"]
