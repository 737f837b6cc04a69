"""Kits for sites elsewhere: the project file, what is issued, what stays as it is."""

from __future__ import annotations

import io
import json
import stat
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from crypto.errors import SpecError
from jobs.flare.project import Project
from jobs.provisioning.provision import MOST_BYTES, add, archive, archive_path, listing, provision, renew
from tests.members import files

pytestmark = pytest.mark.slow

PROJECT = """
federation = "clinics"
org = "consortium"
server = {host = "fed.example.org", port = 8002}
[silos.anna]
org = "anna_hospital"
[silos.berg]
org = "berg"
[admins."kim@example.org"]
org = "consortium"
role = "lead"
[admins."lee@example.org"]
org = "berg"
role = "member"
"""
SITES = ("server", "anna", "berg", "kim@example.org", "lee@example.org")


def project(folder: Path, text: str = PROJECT) -> Project:
    folder.mkdir(exist_ok=True)
    (folder / "project.toml").write_text(text)
    return Project.load(folder / "project.toml")


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("provisioned")
    provision(project(root), root / "kits")
    return root / "kits"


def certificate(kit: Path) -> x509.Certificate:
    name = "server.crt" if kit.name == "server" else "client.crt"
    return x509.load_pem_x509_certificate((kit / "startup" / name).read_bytes())


def test_each_site_has_a_kit_as_a_folder_and_as_the_same_archive(out: Path) -> None:
    assert {path.name for path in out.iterdir()} == {"ca", *SITES, *(f"{site}.kit.tar.gz" for site in SITES)}
    for site in SITES:
        data = archive_path(out, site).read_bytes()
        assert len(data) < MOST_BYTES and data == archive(out / site, site)
        assert stat.S_IMODE(archive_path(out, site).stat().st_mode) == 0o600
        with tarfile.open(fileobj=io.BytesIO(data)) as tar:
            entries = tar.getmembers()
            assert {(entry.uid, entry.gid, entry.mtime) for entry in entries} == {(0, 0, 0)}
            assert {entry.mode for entry in entries} <= {0o600, 0o700}
            packed = {entry.name: tar.extractfile(entry) for entry in entries if entry.isreg()}
            assert {name: file.read() for name, file in packed.items() if file} == {
                f"{site}/{name}": content for name, content in files(out / site).items()
            }


def test_everything_is_for_its_owner_alone(out: Path) -> None:
    for path in [out, *out.rglob("*")]:
        want = {0o700} if path.is_dir() or path.suffix == ".sh" else {0o600}
        assert stat.S_IMODE(path.stat().st_mode) in want, path


def test_a_sites_key_lies_in_its_kit_and_nowhere_else(out: Path) -> None:
    root = json.loads((out / "ca" / "cert.json").read_text())
    assert set(root) == {"root_cert", "root_pri_key"}
    for site in SITES:
        name = "server.key" if site == "server" else "client.key"
        key = (out / site / "startup" / name).read_text()
        plain = [path for path in out.rglob("*") if path.is_file() and path.suffix != ".gz"]
        assert [path for path in plain if key.splitlines()[1] in path.read_text()] == [out / site / "startup" / name]
        assert root["root_pri_key"].splitlines()[1] not in "".join(map(str, files(out / site).values()))


def test_kits_name_no_home_and_the_server_listens_on_loopback(out: Path) -> None:
    for site in SITES[:3]:
        assert "home" not in json.loads((out / site / "local" / "consilium.json").read_text())
    server = json.loads((out / "server" / "startup" / "fed_server.json").read_text())["servers"][0]
    assert (server["name"], server["service"]["target"]) == ("clinics", "localhost:8002")
    client = json.loads((out / "anna" / "startup" / "fed_client.json").read_text())["servers"][0]
    assert (client["service"]["target"], client["identity"]) == ("fed.example.org:8002", "fed.example.org")
    assert "/tmp" not in (out / "server" / "local" / "resources.json").read_text()
    names = certificate(out / "server").extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert "fed.example.org" in names.get_values_for_type(x509.DNSName)


def test_roles_and_organisations_are_in_the_certificates(out: Path) -> None:
    found = {one.site: (one.kind, one.org, one.role) for one in listing(project(out.parent), out)}
    assert found == {
        "server": ("server", "consortium", ""),
        "anna": ("silo", "anna_hospital", ""),
        "berg": ("silo", "berg", ""),
        "kim@example.org": ("admin", "consortium", "lead"),
        "lee@example.org": ("admin", "berg", "member"),
    }
    for site, (_, org, role) in found.items():
        subject = {attribute.oid: attribute.value for attribute in certificate(out / site).subject}
        assert subject[x509.NameOID.ORGANIZATION_NAME] == org
        assert subject.get(x509.NameOID.UNSTRUCTURED_NAME, "") == role if role else True


def test_a_newcomer_changes_nobody_elses_kit(tmp_path: Path) -> None:
    out = tmp_path / "kits"
    provision(project(tmp_path), out)
    before = files(out)
    more = project(tmp_path, PROJECT + '[silos.clin]\norg = "clin"\n')
    made = add(more, out, "clin")
    after = files(out)
    assert {name for name in after if before.get(name) != after[name]} == {
        "ca/issued.json",
        "clin.kit.tar.gz",
        *(f"clin/{name}" for name in files(out / "clin")),
    }
    root = x509.load_pem_x509_certificate((out / "server" / "startup" / "rootCA.pem").read_bytes())
    certificate(out / "clin").verify_directly_issued_by(root)
    assert [one.site for one in made.sites] == ["clin"] and len(listing(more, out)) == 6
    for site in ("clin", "anna", "dorn", "server", "ca", "../up"):
        with pytest.raises(SpecError, match="--add"):
            add(more, out, site)
    assert files(out) == after


@pytest.mark.parametrize("site", ["anna", "server", "kim@example.org"])
def test_a_renewal_replaces_one_kit_under_the_same_root(tmp_path: Path, site: str) -> None:
    out = tmp_path / "kits"
    wanted = project(tmp_path)
    provision(wanted, out)
    before, old = files(out), certificate(out / site)
    made = renew(wanted, out, site)
    after, new = files(out), certificate(out / site)
    changed = {name for name in after if before.get(name) != after[name]}
    assert changed - {"ca/issued.json", f"{site}.kit.tar.gz"} <= {f"{site}/{name}" for name in files(out / site)}
    assert before["ca/cert.json"] == after["ca/cert.json"] and set(before) == set(after)
    assert new.serial_number != old.serial_number and new.subject == old.subject
    assert new.public_key() != old.public_key()
    new.verify_directly_issued_by(x509.load_pem_x509_certificate((out / site / "startup" / "rootCA.pem").read_bytes()))
    assert made.before is not None and made.before.days_left in (359, 360)
    assert made.before.fingerprint != made.sites[0].fingerprint
    facts = made.facts()
    assert facts["replaced"]["fingerprint"] == made.before.fingerprint and facts["replaced"]["days_left"] >= 359
    with pytest.raises(SpecError, match="--renew"):
        renew(wanted, out, "clin")


def test_a_root_outlives_the_certificates_that_it_renews(out: Path) -> None:
    root = x509.load_pem_x509_certificate((out / "server" / "startup" / "rootCA.pem").read_bytes())
    assert (root.not_valid_after_utc - certificate(out / "server").not_valid_after_utc).days > 3000


def test_kits_are_never_overwritten_and_only_their_own_project_goes_on(out: Path, tmp_path: Path) -> None:
    wanted, before = project(out.parent), files(out)
    with pytest.raises(SpecError, match="never overwritten"):
        provision(wanted, out)
    for change, field in (
        ('federation = "clinics"', "federation"),
        ('org = "consortium"\nserver', "org"),
        ("fed.example.org", "host"),
        ("8002", "port"),
    ):
        other = PROJECT.replace(
            change, change.replace("clinics", "other").replace("consortium", "x").replace("8002", "1")
        )
        other = other.replace("fed.example.org", "a.example.org") if field == "host" else other
        with pytest.raises(SpecError, match=f"^{field}"):
            renew(project(tmp_path, other), out, "anna")
    with pytest.raises(SpecError, match="--out"):
        renew(wanted, tmp_path / "none", "anna")
    assert files(out) == before


@pytest.mark.parametrize(
    ("old", "new", "where"),
    [
        ('federation = "clinics"', "", "federation"),
        ('"clinics"', '"no blanks"', "federation"),
        ('"clinics"', '"../up"', "federation"),
        ('org = "consortium"\nserver', "server", "org"),
        ('org = "consortium"\nserver', 'org = "a-b"\nserver', "org"),
        ("server = {", "serve = {", "server"),
        ('host = "fed.example.org", ', "", "server: host"),
        ("fed.example.org", "10.0.0.7", "server: host"),
        ("fed.example.org", "http://fed", "server: host"),
        ("fed.example.org", "a" * 65, "server: host"),
        ("8002", "0", "server: port"),
        ("8002", "true", "server: port"),
        ("8002", '"8002"', "server: port"),
        ("8002}", "8002, tls = false}", "tls"),
        ("[silos.anna]", "[silos.Anna]", "silos"),
        ("[silos.anna]", "[silos.server]", "silos"),
        ("[silos.anna]", '[silos."../up"]', "silos"),
        ('"anna_hospital"', '"Anna Hospital"', "silos: anna: org"),
        ('"anna_hospital"', '"anna"\nhome = "x"', "home"),
        ('"lead"', '"project_admin"', "admins: kim@example.org: role"),
        ("kim@example.org", "kim", "admins"),
        ("kim@example.org", "a/../kim@example.org", "admins"),
        ('role = "lead"', "", "role"),
        ("[silos.anna]", "[[silos.anna]]", "silos: anna"),
        ("=", "", "project file"),
    ],
)
def test_every_field_is_checked_by_its_path(tmp_path: Path, old: str, new: str, where: str) -> None:
    assert old in PROJECT
    with pytest.raises(SpecError) as refused:
        project(tmp_path, PROJECT.replace(old, new))
    assert where in str(refused.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"none\.toml"):
        Project.load(tmp_path / "none.toml")


def test_the_verb_prints_what_to_do_next(tmp_path: Path) -> None:
    project(tmp_path)

    def fed(*words: str) -> tuple[str, dict[str, Any]]:
        command = [sys.executable, "-m", "jobs.cli", "provision", "project.toml", "--out", "kits", *words]
        plain = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
        assert plain.returncode == 0, plain.stderr
        return plain.stdout, json.loads(plain.stdout.splitlines()[-1]) if "--json" in words else {}

    said, _ = fed()
    for site in ("server", "anna", "berg"):
        assert f"kubectl create secret generic {site}-kit --from-file=kit.tar.gz=kits/{site}.kit.tar.gz" in said
    assert "kim@example.org-kit" not in said
    _, listed = fed("--list", "--json")
    assert [one["site"] for one in listed["sites"]] == list(SITES)
    assert listed["sites"][0]["fingerprint"] and listed["sites"][0]["not_after"] > "2026"
    said, renewed = fed("--renew", "anna", "--json")
    assert renewed["replaced"]["fingerprint"] == listed["sites"][1]["fingerprint"]
    assert "private" not in json.dumps(renewed).lower() and said.count("\n") == 1
