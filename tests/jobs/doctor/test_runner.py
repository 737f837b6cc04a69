"""All checks of a site: a healthy one passes, an exception is a result, nothing changes, the page is up to date."""

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
from jobs.doctor.runner import CHECKS, find_target, run_checks
from jobs.doctor.target import Role, Target
from tests.jobs.doctor import page, site_copy
from tests.jobs.doctor.site_copy import SiteCopy, listener

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[3]
#: What depends on the machine that the tests run on, and may warn there.
MACHINE = {"clock.synchronised", "volume.lasting", "volume.space", "memory", "cpu", "gpu"}


def test_a_healthy_silo_passes(silo: SiteCopy, server_startup: Path) -> None:
    with listener(server_startup) as port:
        silo.point("localhost", port)
        found = site_copy.results(silo)
    problems = {name: line for name, line in found.items() if line.status is not Status.PASS and name not in MACHINE}
    assert not problems
    assert found.keys() == {check.name for check in CHECKS if Role.SILO in check.roles} - {"ready"}


def test_a_healthy_aggregator_passes(aggregator: SiteCopy) -> None:
    found = site_copy.results(aggregator)
    problems = {name: line for name, line in found.items() if line.status is not Status.PASS and name not in MACHINE}
    assert not problems
    assert found.keys() == {check.name for check in CHECKS if Role.AGGREGATOR in check.roles} - {"ready"}


def test_a_healthy_admin_passes(admin: SiteCopy, server_startup: Path) -> None:
    with listener(server_startup) as port:
        admin.point("localhost", port)
        found = site_copy.results(admin)
    assert {name for name, line in found.items() if line.status is not Status.PASS} <= MACHINE
    assert "lead: submits" in found["kit.role"].found


def tree(root: Path) -> dict[str, tuple[int, int, str]]:
    """Path → mode, time of change, digest: of everything below."""
    found = {}
    for path in [root, *sorted(root.rglob("*"))]:
        content = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        found[str(path.relative_to(root))] = (path.stat().st_mode, path.stat().st_mtime_ns, content)
    return found


def test_the_checks_change_nothing(silo: SiteCopy, aggregator: SiteCopy) -> None:
    for site in (silo, aggregator):
        before = tree(site.home_folder), tree(site.kit_folder)
        list(run_checks(site.target()))
        assert (tree(site.home_folder), tree(site.kit_folder)) == before


def test_an_exception_is_a_result_and_the_others_are_made(silo: SiteCopy, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(target: Target) -> None:
        raise ZeroDivisionError("a bug\nwith more lines")

    def lacking(target: Target) -> None:
        raise ModuleNotFoundError("No module named 'x.y'", name="x.y")

    looks = {"clock": broken, "lacking": lacking, "other": lambda target: ok("made")}
    monkeypatch.setattr(runner, "CHECKS", [replace(clock.clock, name=name, look=look) for name, look in looks.items()])
    first, middle, second = run_checks(silo.target())
    assert first.status is Status.FAIL and first.found == "could not be checked: ZeroDivisionError: a bug"
    assert first.remedy
    assert middle.found == "could not be checked: x is not installed here" and "packages" in middle.remedy
    assert (second.name, second.found) == ("other", "made")


def test_what_depends_on_a_fail_is_not_checked(silo: SiteCopy) -> None:
    (silo.home_folder / "silo.json").unlink()
    found = site_copy.results(silo)
    assert found["home"].status is Status.FAIL
    for name in ("home.keys", "volume.writable", "charter", "journal", "data"):
        assert found[name].status is Status.WARN
        assert found[name].found == "not checked, because home failed"


def test_what_depends_on_a_skipped_check_is_not_checked(silo: SiteCopy, monkeypatch: pytest.MonkeyPatch) -> None:
    def one(name: str, *after: str) -> Check:
        return replace(clock.clock, name=name, after=after, look=lambda target: fail("bad") if name == "a" else ok(""))

    monkeypatch.setattr(runner, "CHECKS", (one("a"), one("b", "a"), one("c", "b"), one("d")))
    found = site_copy.results(silo)
    assert found["c"].found == "not checked, because a failed" and found["d"].status is Status.PASS


def test_the_role_is_that_of_the_kit_or_of_the_home(silo: SiteCopy, aggregator: SiteCopy, admin: SiteCopy) -> None:
    assert find_target(None, None, admin.kit).role is Role.ADMIN
    assert find_target(None, aggregator.home, None).role is Role.AGGREGATOR
    assert find_target(None, silo.home, None).role is Role.SILO
    assert find_target(None, None, silo.kit).home_if_any is not None, "a demonstration's kit names its home"
    silo.edit("local/consilium.json", lambda value: value.pop("home"))
    assert find_target(None, None, silo.kit).home_if_any is None
    silo.kit_folder.rename(silo.home_folder / "kit")
    assert find_target(None, silo.home, None).kit == silo.home_folder / "kit"
    with pytest.raises(SpecError, match="want the home of a silo"):
        find_target(None, silo.home_folder / "runs", None)
    with pytest.raises(SpecError, match="--role"):
        find_target("visitor", silo.home, None)


def doctor(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "jobs.cli", "doctor", *words], capture_output=True, text=True, timeout=120, check=False
    )


def test_the_command_prints_each_line_with_its_remedy(aggregator: SiteCopy) -> None:
    (aggregator.home_folder / "keys" / "aggregator.key").chmod(0o644)
    words = ("--home", str(aggregator.home), "--kit", str(aggregator.kit))
    plain, printed = doctor(*words), doctor(*words, "--json")
    assert plain.returncode == printed.returncode == Unfit.exit_code == 70
    found = json.loads(printed.stdout)
    assert found["role"] == "aggregator"
    (keys,) = (line for line in found["checks"] if line["name"] == "home.keys")
    assert set(keys) == {"name", "status", "found", "remedy"}
    assert keys["status"] == "fail" and "mode 644" in keys["found"] and "chmod 600" in keys["remedy"]
    assert f"✗ home.keys           {keys['found']}\n{'':<22}→ {keys['remedy']}\n" in plain.stdout
    assert "Traceback" not in plain.stderr + printed.stderr


def test_the_command_ends_well_where_nothing_fails(aggregator: SiteCopy) -> None:
    done = doctor("--home", str(aggregator.home), "--kit", str(aggregator.kit), "--json")
    assert done.returncode == 0, done.stdout
    assert not [line for line in json.loads(done.stdout)["checks"] if line["status"] == "fail"]


def test_a_kit_may_come_as_an_archive(silo: SiteCopy, tmp_path: Path) -> None:
    import tarfile

    archive = tmp_path / "silo-1.kit.tar.gz"
    with tarfile.open(archive, "w:gz") as packed:
        packed.add(silo.kit_folder, "silo-1")
    with runner.unpacked(archive) as kit:
        assert kit is not None and site_copy.result_of(replace(silo, kit=kit), "kit.site").status is Status.PASS
    assert not kit.exists()
    archive.write_bytes(b"no archive")
    with pytest.raises(SpecError, match=r"want a kit"), runner.unpacked(archive):
        pass


def test_no_secret_is_printed(silo: SiteCopy) -> None:
    (silo.home_folder / "policy.toml").write_text("floors = 1")
    text = "".join(f"{line.found}{line.remedy}" for line in run_checks(silo.target()))
    secrets = [(silo.home_folder / name).read_bytes() for name in ("keys/agent.key", "keys/owner.key", "salt")]
    assert not any(secret.hex() in text for secret in secrets)
    assert "PRIVATE" not in text


def test_a_start_is_checked_without_what_must_come_later(silo: SiteCopy) -> None:
    """prometheus_client must not be imported before its folder is set, and the others would only take time."""
    code = (
        "import sys; from pathlib import Path; import jobs.doctor.runner, jobs.services.run\n"
        "from crypto.home import Home; from jobs.doctor import refuse_start\n"
        "refuse_start('silo', Path(sys.argv[1]), Home(Path(sys.argv[2])))\n"
        "print([name for name in ('prometheus_client', 'torch', 'mlflow') if name in sys.modules])"
    )
    words = [sys.executable, "-c", code, str(silo.kit_folder), str(silo.home_folder)]
    assert subprocess.run(words, capture_output=True, text=True, check=True).stdout == "[]\n"


def test_names_are_distinct_and_grounds_come_first() -> None:
    names = [check.name for check in CHECKS]
    assert len(set(names)) == len(names)
    for place, check in enumerate(CHECKS):
        assert set(check.after) <= set(names[:place]), check.name
        assert check.start <= check.roles and check.looks and check.fails and check.remedy


def test_every_check_has_its_fault() -> None:
    """Of each check there is a test that makes it fail or warn; ``software`` and ``requests`` only inform."""
    text = "".join(path.read_text() for path in Path(__file__).parent.glob("test_*.py"))
    provoked = set(re.findall(r'finds\([^"]+?"([a-z.-]+)"', text))
    assert {check.name for check in CHECKS} - provoked == {"software", "requests"}


def test_the_page_has_the_checks_of_the_code() -> None:
    text = page.PAGE.read_text()
    assert page.rewritten(text) == text and runner.table() in text, "run: python -m tests.jobs.doctor.page"


def test_a_check_for_one_role_is_not_made_for_another(silo: SiteCopy, monkeypatch: pytest.MonkeyPatch) -> None:
    def only(roles: frozenset[Role], name: str) -> Check:
        return replace(clock.clock, name=name, roles=roles, look=lambda target: ok(""))

    monkeypatch.setattr(runner, "CHECKS", (only(SILO, "mine"), only(AGGREGATOR, "other")))
    assert [line.name for line in run_checks(silo.target())] == ["mine"]
