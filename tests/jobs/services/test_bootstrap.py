"""What a service is handed before it starts: kits that lie, kits of others, identities, charters, volumes."""

from __future__ import annotations

import errno
import gzip
import io
import json
import os
import socket
import stat
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from aggregator.home import AggregatorHome
from crypto.errors import FederationError, NoSpace, SpecError
from crypto.home import Home
from crypto.keys import Identity
from jobs.doctor.single_instance import release
from jobs.doctor.target import Role, Target
from jobs.flare import log_config
from jobs.flare.hardening import harden_server
from jobs.flare.project import Admin, Project
from jobs.provisioning import archive
from jobs.provisioning.provision import archive_path, provision, renew
from jobs.services import bootstrap
from jobs.services.bootstrap import ServiceOptions
from silo_agent.home import SiloHome
from tests.members import Bare, files


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Sites:
    """A federation of three with kits for sites elsewhere."""

    def __init__(self, root: Path) -> None:
        self.members = Bare(root, 3, "clinics")
        silos = dict.fromkeys(self.members.silos, "clinic")
        admins = {"kim@example.org": Admin("consortium", "lead")}
        self.project = Project("clinics", "consortium", "localhost", free_port(), silos, admins)
        self.kits = root / "kits"
        provision(self.project, self.kits)

    def request(self, silo: str = "silo-1", **how: object) -> ServiceOptions:
        made = ServiceOptions(role="silo", kit=archive_path(self.kits, silo), home=self.members.home(silo))
        return replace(made, **how)  # type: ignore[arg-type]

    def aggregator(self, **how: object) -> ServiceOptions:
        made = ServiceOptions(role="aggregator", kit=archive_path(self.kits, "server"), home=self.members.aggregator)
        return replace(made, **how)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Sites:
    return Sites(tmp_path_factory.mktemp("sites"))


@pytest.fixture
def start(made: Sites) -> Callable[[ServiceOptions], bootstrap.InstalledSite]:
    """``install``, and the home given back at once."""

    def start(options: ServiceOptions) -> bootstrap.InstalledSite:
        site = bootstrap.install(options)
        release(Target(Role(options.role), site.home))
        return site

    return start


Start = Callable[[ServiceOptions], bootstrap.InstalledSite]


def test_an_archive_is_unpacked_into_the_home(made: Sites, start: Start) -> None:
    site = start(made.request())
    assert (site.kit, site.home.root) == (made.members.home("silo-1") / "kit", made.members.home("silo-1"))
    written = files(site.kit / "local")
    assert json.loads(written.pop("log_config.json")) == log_config.log_config("info", "text")
    assert written == files(made.kits / "silo-1" / "local")
    assert files(site.kit / "startup") == files(made.kits / "silo-1" / "startup")
    for path in site.kit.rglob("*"):
        want = 0o700 if path.is_dir() or path.suffix == ".sh" else 0o600
        assert stat.S_IMODE(path.stat().st_mode) == want
    assert not (site.home.root / "kit.new").exists()


def test_the_level_and_the_form_of_the_log_are_those_of_this_start(made: Sites, start: Start) -> None:
    for level, form in (("debug", "json"), ("info", "text")):
        site = start(replace(made.request(), log_level=level, log_format=form))
        written = json.loads((site.kit / "local" / "log_config.json").read_text())
        assert written == log_config.log_config(level, form)
    with pytest.raises(SpecError, match="--log-level"):
        start(replace(made.request(), log_level="loud"))


def test_a_renewed_kit_takes_the_place_of_the_old_and_leaves_the_rest(made: Sites, start: Start) -> None:
    site = start(made.request("silo-2"))
    before = (site.kit / "startup" / "client.crt").read_bytes()
    (site.kit / "left-by-nvflare").write_text("a job's log")
    (site.kit / "local" / "stray.json").write_text("{}")
    renew(made.project, made.kits, "silo-2")
    assert start(made.request("silo-2")) == site
    assert (site.kit / "startup" / "client.crt").read_bytes() != before
    assert (site.kit / "left-by-nvflare").exists() and not (site.kit / "local" / "stray.json").exists()


def test_a_folder_that_can_only_be_read_will_do(made: Sites, start: Start, tmp_path: Path) -> None:
    # As Kubernetes mounts it: links into ..data, files for root and group.
    data = tmp_path / "..2026" / "startup", tmp_path / "..2026" / "local"
    for folder in data:
        folder.mkdir(parents=True)
        for name, content in files(made.kits / "silo-3" / folder.name).items():
            (folder / name).write_bytes(content)
            (folder / name).chmod(0o440)
    (tmp_path / "..data").symlink_to("..2026")
    for folder in data:
        (tmp_path / folder.name).symlink_to(f"..data/{folder.name}")
    site = start(made.request("silo-3", kit=tmp_path))
    assert files(site.kit / "startup") == files(made.kits / "silo-3" / "startup")
    assert stat.S_IMODE((site.kit / "startup" / "client.key").stat().st_mode) == 0o600


def test_a_server_listens_where_its_operator_says_and_keeps_jobs_in_its_home(made: Sites, start: Start) -> None:
    home = made.members.aggregator
    for listen, target in (("127.0.0.1", "localhost"), ("0.0.0.0", "0.0.0.0"), ("127.0.0.1", "localhost")):
        site = start(made.aggregator(listen=listen))
        server = json.loads((site.kit / "startup" / "fed_server.json").read_text())["servers"][0]
        assert server["service"]["target"] == f"{target}:{made.project.port}"
        resources = json.loads((site.kit / "local" / "resources.json").read_text())
        (manager,) = [one for one in resources["components"] if one["id"] == "job_manager"]
        assert manager["args"]["uri_root"] == str(home.resolve() / "nvflare" / "jobs")
    with pytest.raises(SpecError, match="--listen"):
        start(made.aggregator(listen="10.0.0.7"))


def test_a_kit_that_names_its_home_is_used_where_it_lies(made: Sites, start: Start, tmp_path: Path) -> None:
    kit = tmp_path / "server"
    archive.write(archive.read(made.kits / "server"), kit)
    harden_server(kit, home=AggregatorHome(made.members.aggregator), org="consortium")
    assert start(ServiceOptions(role="aggregator", kit=kit)) == bootstrap.InstalledSite(
        kit, Home(made.members.aggregator.resolve())
    )


def test_a_kit_that_names_no_home_needs_one(made: Sites, start: Start) -> None:
    with pytest.raises(SpecError, match="--home"):
        start(made.request(home=None))


# --- archives that lie -------------------------------------------------------------------------------------------


def packed(*entries: tuple[tarfile.TarInfo, bytes]) -> bytes:
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w") as tar:
        for entry, data in entries:
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return gzip.compress(plain.getvalue())


def entry(name: str, kind: bytes = tarfile.REGTYPE, to: str = "") -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type, made.linkname = kind, to
    return made


WHOLE = (
    (entry("silo-1/startup/fed_client.json"), b"{}"),
    (entry("silo-1/local/consilium.json"), b'{"site": "silo-1", "org": "x"}'),
)


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        ((entry("silo-1/../../up"), b"x"), "inside the kit"),
        ((entry("/silo-1/startup/up"), b"x"), "inside the kit"),
        ((entry("silo-1/startup/../../../up"), b"x"), "inside the kit"),
        ((entry("silo-1/startup/link", tarfile.SYMTYPE, "/etc/passwd"), b""), "no links"),
        ((entry("silo-1/startup/link", tarfile.LNKTYPE, "silo-1/local/consilium.json"), b""), "no links"),
        ((entry("silo-1/startup/pipe", tarfile.FIFOTYPE), b""), "no devices"),
        ((entry("silo-1/startup/disk", tarfile.BLKTYPE), b""), "no devices"),
        ((entry("silo-1/startup/big"), bytes(archive.MOST_BYTES)), "at most"),
        ((entry("silo-1/other/big"), bytes(2 * archive.MOST_BYTES)), "at most"),
    ],
)
def test_an_archive_that_reaches_out_is_refused(tmp_path: Path, bad: tuple[tarfile.TarInfo, bytes], why: str) -> None:
    path = tmp_path / "in" / "silo-1.kit.tar.gz"
    path.parent.mkdir()
    path.write_bytes(packed(*WHOLE))
    assert len(archive.read(path)) == 2
    path.write_bytes(packed(*WHOLE, bad))
    with pytest.raises(SpecError, match=why):
        archive.read(path)


def test_an_archive_with_too_many_files_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "silo-1.kit.tar.gz"
    path.write_bytes(packed(*((entry(f"silo-1/startup/{n}"), b"") for n in range(archive.MOST_FILES + 1))))
    with pytest.raises(SpecError, match="at most"):
        archive.read(path)


def test_what_else_an_archive_holds_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "silo-1.kit.tar.gz"
    more = [(entry(name), b"x") for name in ("silo-1/custom/evil.py", "silo-1/readme.txt", "startup", "silo-1/startup")]
    path.write_bytes(packed(*WHOLE, *more))
    assert {str(name) for name in archive.read(path)} == {"startup/fed_client.json", "local/consilium.json"}


NO_KITS = {
    "nothing": b"",
    "no archive": b"no archive",
    "no tar": gzip.compress(b"no tar"),
    "cut": packed(*WHOLE)[:60],
    "half a kit": packed(WHOLE[0]),
}


@pytest.mark.parametrize("data", NO_KITS.values(), ids=NO_KITS)
def test_what_is_no_kit_is_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "silo-1.kit.tar.gz"
    path.write_bytes(data)
    with pytest.raises(SpecError, match="kit"):
        archive.read(path)


def test_a_folder_with_a_link_that_leads_out_is_refused(tmp_path: Path) -> None:
    kit = tmp_path / "kit"
    for name in ("startup/a", "local/b"):
        (kit / name).parent.mkdir(parents=True)
        (kit / name).write_text("x")
    assert len(archive.read(kit)) == 2
    (tmp_path / "secret").write_text("x")
    (kit / "startup" / "c").symlink_to(tmp_path / "secret")
    with pytest.raises(SpecError, match="out of the kit"):
        archive.read(kit)


# --- others' -----------------------------------------------------------------------------------------------------


def test_a_kit_of_another_site_is_refused_and_changes_nothing(made: Sites, start: Start) -> None:
    site = start(made.request())
    before = files(site.kit)
    with pytest.raises(FederationError, match="silo-2"):
        start(made.request(kit=archive_path(made.kits, "silo-2")))
    with pytest.raises(SpecError, match="the kit of the server"):
        start(made.request(kit=archive_path(made.kits, "server")))
    with pytest.raises(SpecError, match="the kit of silo silo-1"):
        start(made.aggregator(kit=archive_path(made.kits, "silo-1")))
    with pytest.raises(FederationError, match="kit"):
        start(made.request(kit=archive_path(made.kits, "kim@example.org")))
    assert files(site.kit) == before and not (site.home.root / "kit.new").exists()


def test_a_kit_of_another_federation_is_refused(made: Sites, start: Start, tmp_path: Path) -> None:
    provision(replace(made.project, federation="other"), tmp_path / "kits")
    with pytest.raises(FederationError, match="other"):
        start(made.request(kit=archive_path(tmp_path / "kits", "silo-1")))


def test_a_second_service_on_one_home_is_refused_by_name(made: Sites) -> None:
    first = made.request()
    site = bootstrap.install(first)
    try:
        before = files(site.kit)
        with pytest.raises(FederationError, match="already"):
            bootstrap.install(replace(first, kit=made.kits / "silo-1"))
        assert files(site.kit) == before
    finally:
        release(Target(Role.SILO, site.home))


def test_a_taken_port_is_named(made: Sites, start: Start) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", made.project.port))
        holder.listen()
        with pytest.raises(FederationError, match=str(made.project.port)):
            start(made.aggregator())


def test_a_folder_that_is_no_home_is_refused(made: Sites, start: Start, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="fed keygen"):
        start(made.request(home=tmp_path))


@pytest.mark.parametrize(
    ("number", "error", "says"),
    [
        (errno.EROFS, SpecError, "read-only"),
        (errno.EACCES, SpecError, "can write"),
        (errno.ENOSPC, NoSpace, "is full"),
        (errno.EDQUOT, NoSpace, "is full"),
    ],
)
def test_a_volume_that_refuses_is_named(
    made: Sites, monkeypatch: pytest.MonkeyPatch, number: int, error: type[FederationError], says: str
) -> None:
    def refused(files: object, folder: Path) -> None:
        raise OSError(number, os.strerror(number), str(folder))

    monkeypatch.setattr(archive, "write", refused)
    with pytest.raises(error, match=says):
        bootstrap.install(made.request())


# --- identity and charter ----------------------------------------------------------------------------------------


def mounted(home: Path, folder: Path) -> Path:
    """A folder with what a silo's or the aggregator's home has that makes it who it is."""
    folder.mkdir()
    for name in ("keys/agent.key", "keys/aggregator.key", "salt"):
        if (home / name).exists():
            (folder / Path(name).name).write_bytes((home / name).read_bytes())
    return folder


def charter(home: Path, folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    for name in ("charter.bin", "consortium.pub"):
        (folder / name).write_bytes((home / name).read_bytes())
    return folder


def test_an_empty_volume_becomes_a_home(made: Sites, start: Start, tmp_path: Path) -> None:
    source, home = made.members.home("silo-1"), tmp_path / "home"
    given = mounted(source, tmp_path / "identity"), charter(source, tmp_path / "charter")
    options = made.request(home=home, identity=given[0], charter=given[1])
    start(options)
    assert SiloHome(home).settings()["silo"] == "silo-1" and Home(home).charter().epoch == 1
    assert Identity.load(home / "keys" / "agent.key").public == Identity.load(source / "keys" / "agent.key").public
    assert SiloHome(home).salt() == SiloHome(source).salt()
    assert {stat.S_IMODE((home / name).stat().st_mode) for name in ("keys/agent.key", "salt")} == {0o600}
    assert stat.S_IMODE(home.stat().st_mode) == stat.S_IMODE((home / "keys").stat().st_mode) == 0o700
    before = files(home)
    start(options)
    assert files(home) == before


def test_an_empty_volume_becomes_the_aggregators(made: Sites, start: Start, tmp_path: Path) -> None:
    source, home = made.members.aggregator, tmp_path / "home"
    given = mounted(source, tmp_path / "identity"), charter(source, tmp_path / "charter")
    start(made.aggregator(home=home, identity=given[0], charter=given[1]))
    assert (home / "ledger" / "ledger.jsonl").exists(), "the epoch is on the ledger"
    assert (home / "aggregator.pub").read_bytes() == Home(home).charter().aggregator.raw


def test_another_identity_than_the_homes_is_refused(made: Sites, start: Start, tmp_path: Path) -> None:
    home = made.members.home("silo-1")
    before = files(home, but=("security.jsonl", "security.head"))
    other = mounted(made.members.home("silo-2"), tmp_path / "identity")
    with pytest.raises(SpecError, match="One identity per home"):
        start(made.request(identity=other))
    (other / "agent.key").write_bytes(b"short")
    with pytest.raises(SpecError, match="32 bytes"):
        start(made.request(identity=other))
    (other / "agent.key").unlink()
    with pytest.raises(SpecError, match="secret"):
        start(made.request(identity=other))
    assert files(home, but=("security.jsonl", "security.head")) == before


def test_a_newer_charter_waits_for_its_operator_and_an_older_one_is_refused(
    made: Sites, start: Start, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from jobs.membership.accept import accept

    source, home = made.members.home("silo-1"), tmp_path / "home"
    given = mounted(source, tmp_path / "identity"), charter(source, tmp_path / "charter")
    options = made.request(home=home, identity=given[0], charter=given[1])
    start(options)
    _, second = made.members.following(Home(home).charter(), not_after=Home(home).charter().not_after - 1)
    (given[1] / "charter.bin").write_bytes(second)
    start(options)
    assert Home(home).charter().epoch == 1 and "epoch 2, pinned is epoch 1" in caplog.text
    accept(Home(home), second)
    start(options)
    assert Home(home).charter().epoch == 2
    charter(source, given[1])
    with pytest.raises(SpecError, match="epoch 1"):
        start(options)


def test_a_charter_of_another_consortium_is_refused(made: Sites, start: Start, tmp_path: Path) -> None:
    other = Bare(tmp_path / "others", 3, "clinics")
    with pytest.raises(SpecError, match=r"consortium\.pub"):
        start(made.request(charter=charter(other.aggregator, tmp_path / "charter")))
    (tmp_path / "charter" / "consortium.pub").unlink()
    with pytest.raises(SpecError, match=r"consortium\.pub"):
        start(made.request(charter=tmp_path / "charter"))
