"""``fed provision``: NVFlare startup kits for remote sites, from a project file.

    <out>/server/ · <silo>/ · <admin>/          a kit each, 0700
    <out>/<site>.kit.tar.gz                     the same as one file, 0600: to send, or to put into a Secret
    <out>/ca/cert.json                          the root: certificate and private key, 0600
    <out>/ca/issued.json                        what it signed: site, role, fingerprint, dates; no secret

The root stays with the federation's administrator, offline: it signs new sites and renewals. NVFlare's own state would
keep every site's private key next to it; ours does not, so a site's key is in its kit only. Kits name no home: the
operator who starts one does. The same kit gives the same archive, byte for byte.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import shutil
import tarfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256

from crypto import durable
from crypto.errors import SpecError
from jobs.flare.project import Project

ARCHIVE: Final = ".kit.tar.gz"
#: A Kubernetes Secret holds at most this.
MOST_BYTES: Final = 1 << 20
SERVER: Final = "server"
_ROOT, _ISSUED = "ca/cert.json", "ca/issued.json"


@dataclass(frozen=True, slots=True)
class Issued:
    """A certificate that the root signed, and the kit it is in. ``not_after``: UTC, ISO 8601."""

    site: str
    kind: str
    org: str
    role: str
    fingerprint: str
    not_before: str
    not_after: str

    @property
    def days_left(self) -> int:
        return (datetime.fromisoformat(self.not_after) - datetime.now(UTC)).days

    def facts(self, out: Path) -> dict[str, Any]:
        """For ``--json``: with the kit's paths and the digest of its archive."""
        archive = archive_path(out, self.site)
        return {
            **{name: getattr(self, name) for name in self.__slots__},
            "days_left": self.days_left,
            "folder": str(out / self.site),
            "archive": str(archive),
            "sha256": sha256(archive.read_bytes()).hexdigest(),
        }


@dataclass(frozen=True, slots=True)
class Provisioned:
    """``sites``: those whose kits were made now. ``before``: the certificate that a renewal replaces."""

    out: Path
    root_fingerprint: str
    root_not_after: str
    sites: tuple[Issued, ...]
    before: Issued | None = None

    def facts(self) -> dict[str, Any]:
        old, replaced = self.before, {}
        if old is not None:
            facts = {"fingerprint": old.fingerprint, "not_after": old.not_after, "days_left": old.days_left}
            replaced = {"replaced": facts}
        return {
            "out": str(self.out),
            "root": {"fingerprint": self.root_fingerprint, "not_after": self.root_not_after},
            "sites": [one.facts(self.out) for one in self.sites],
            **replaced,
        }

    def hints(self) -> list[str]:
        """The commands that put the kits of server and silos into Kubernetes."""
        return [
            f"kubectl create secret generic {one.site}-kit --from-file=kit.tar.gz={archive_path(self.out, one.site)}"
            for one in self.sites
            if one.kind != "admin"
        ]


def archive_path(out: Path, site: str) -> Path:
    """The kit of a site as one file."""
    return out / f"{site}{ARCHIVE}"


def provision(project: Project, out: Path) -> Provisioned:
    """Kits for all sites of a project, under a new root. Raises SpecError for a folder that exists already."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise SpecError(
            "--out",
            got=str(out),
            want="a new folder",
            remedy="Kits are never overwritten: --add makes one for a new site, --renew renews one.",
        )
    return _make(project, out, [SERVER, *project.silos, *project.admins], None)


def add(project: Project, out: Path, site: str) -> Provisioned:
    """A kit for one more silo or admin of the project file; the others' kits are unchanged, byte for byte."""
    issued = _issued(project, out)
    if site in issued or (out / site).exists() or archive_path(out, site).exists():
        raise SpecError(
            "--add", got=site, want="a site without a kit", remedy=f"To renew its certificate: --renew {site}."
        )
    _check_known("--add", project, site)
    return _make(project, out, [site], issued)


def renew(project: Project, out: Path, site: str) -> Provisioned:
    """A new key and certificate for one site, under the same root; only its kit is replaced."""
    issued = _issued(project, out)
    if site not in issued:
        raise SpecError("--renew", got=site, want=f"one of {', '.join(issued)}")
    _check_known("--renew", project, site)
    return _make(project, out, [site], issued)


def listing(project: Project, out: Path) -> tuple[Issued, ...]:
    """Every certificate that is in a kit of this folder."""
    return tuple(_issued(project, out).values())


def _make(project: Project, out: Path, sites: list[str], before: Mapping[str, Issued] | None) -> Provisioned:
    from jobs.flare.kit_builder import Roster, build, root_certificate

    roster = Roster(
        name=project.federation,
        host=project.host,
        port=project.port,
        org=project.org,
        silos={silo: org for silo, org in project.silos.items() if silo in sites},
        admins={name: (admin.org, admin.role) for name, admin in project.admins.items() if name in sites},
    )
    root = None if before is None else (out / _ROOT).read_bytes()
    with build(roster, root) as built:
        for private in (out, out / "ca"):
            private.mkdir(mode=0o700, parents=True, exist_ok=True)
            private.chmod(0o700)
        if before is None:
            durable.replace(out / _ROOT, built.root)
        made = {}
        for site in sites:
            raw = built.folder / (project.host if site == SERVER else site)
            made[site] = _finish(project, raw, site)
            _place(raw, out, site)
        issued = {**(before or {}), **made}
        certificate = root_certificate(built.root)
    durable.replace(out / _ISSUED, _encode(project, issued.values()))
    return Provisioned(
        out,
        _fingerprint(certificate),
        certificate.not_valid_after_utc.isoformat(),
        tuple(made.values()),
        (before or {}).get(sites[0]) if len(sites) == 1 else None,
    )


def _finish(project: Project, kit: Path, site: str) -> Issued:
    """Harden a raw kit for a remote site; the facts of its certificate."""
    from jobs.flare.hardening import harden_server, harden_silo

    org, role = _org_and_role(project, site)
    kind = "server" if site == SERVER else "silo" if site in project.silos else "admin"
    if kind == "server":
        harden_server(kit, home=None, org=org)
    elif kind == "silo":
        harden_silo(kit, home=None, site=site, org=org)
    name = "server.crt" if kind == "server" else "client.crt"
    certificate = x509.load_pem_x509_certificates((kit / "startup" / name).read_bytes())[0]
    return Issued(
        site,
        kind,
        org,
        role,
        _fingerprint(certificate),
        certificate.not_valid_before_utc.isoformat(),
        certificate.not_valid_after_utc.isoformat(),
    )


def _place(kit: Path, out: Path, site: str) -> None:
    """Store a finished kit as a folder and as an archive, replacing an older one."""
    target, new = out / site, out / f"{site}.new"
    shutil.rmtree(new, ignore_errors=True)
    shutil.copytree(kit, new)
    for path in [new, *new.rglob("*")]:
        path.chmod(_mode(path))
    data = archive(new, site)
    if len(data) >= MOST_BYTES:
        raise SpecError(site, got=f"a kit of {len(data)} bytes", want="less than 1 MiB, so that one Secret holds it")
    shutil.rmtree(target, ignore_errors=True)
    os.replace(new, target)
    durable.replace(archive_path(out, site), data)


def archive(kit: Path, name: str) -> bytes:
    """A kit as a tar.gz under the folder ``name``; the same files give the same bytes."""
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for path in [kit, *sorted(kit.rglob("*"))]:
            entry = tarfile.TarInfo(str(Path(name) / path.relative_to(kit)))
            entry.mode = _mode(path)
            if path.is_dir():
                entry.type = tarfile.DIRTYPE
                tar.addfile(entry)
            else:
                data = path.read_bytes()
                entry.size = len(data)
                tar.addfile(entry, io.BytesIO(data))
    return gzip.compress(plain.getvalue(), mtime=0)


def _mode(path: Path) -> int:
    return 0o700 if path.is_dir() or path.suffix == ".sh" else 0o600


def _issued(project: Project, out: Path) -> dict[str, Issued]:
    """What was issued here before. Raises SpecError if the project file is not the one of this folder."""
    try:
        found = json.loads((out / _ISSUED).read_text(encoding="utf-8"))
        issued = {one["site"]: Issued(**one) for one in found["sites"]}
        (out / _ROOT).stat()
    except (OSError, ValueError, KeyError, TypeError) as bad:
        raise SpecError(
            "--out",
            got=str(out),
            want="the folder of an earlier `fed provision`, with its ca",
            remedy="The root that signed the other kits is in its ca folder.",
        ) from bad
    for field in ("federation", "host", "port", "org"):
        if found[field] != (now := getattr(project, field)):
            raise SpecError(
                field,
                got=now,
                want=f"{found[field]!r}, as in the kits made before",
                remedy="Provision all sites again.",
            )
    return issued


def _check_known(option: str, project: Project, site: str) -> None:
    if site != SERVER and site not in project.silos and site not in project.admins:
        names = [SERVER, *project.silos, *project.admins]
        raise SpecError(
            option, got=site, want=f"one of {', '.join(names)}", remedy="Put it into the project file first."
        )


def _org_and_role(project: Project, site: str) -> tuple[str, str]:
    """Organisation and role of a site."""
    if site in project.admins:
        return project.admins[site].org, project.admins[site].role
    return project.silos.get(site, project.org), ""


def _encode(project: Project, issued: Iterable[Issued]) -> bytes:
    about = {name: getattr(project, name) for name in ("federation", "host", "port", "org")}
    sites = [{name: getattr(one, name) for name in one.__slots__} for one in issued]
    return json.dumps({**about, "sites": sites}, indent=1).encode() + b"\n"


def _fingerprint(certificate: x509.Certificate) -> str:
    """SHA-256 of a certificate, as ``openssl x509 -fingerprint -sha256`` has it, in lower case without colons."""
    return certificate.fingerprint(SHA256()).hex()
