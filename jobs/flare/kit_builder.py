"""NVFlare's provisioner, called quietly: who is to get a kit goes in, a folder of raw kits and the root come out.

The root is the certificate authority of a federation's mTLS. NVFlare's own state keeps the private keys of all
participants beside it; here only the root's certificate and key are handed back: that is all that signing a newcomer or
a renewal takes, and a site's key then lies in its kit and nowhere else.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from cryptography import x509
from nvflare.lighter.constants import CtxKey
from nvflare.lighter.entity import Project
from nvflare.lighter.impl.cert import CertBuilder
from nvflare.lighter.impl.signature import SignatureBuilder
from nvflare.lighter.impl.static_file import StaticFileBuilder
from nvflare.lighter.impl.workspace import WorkspaceBuilder
from nvflare.lighter.provisioner import Provisioner

from crypto.errors import FederationError, SpecError

#: How long a new root is valid. Certificates of sites are valid for NVFlare's 360 days, and never longer than the root.
ROOT_DAYS: Final = 3650
_ROOT: Final = ("root_cert", "root_pri_key")


@dataclass(frozen=True, slots=True, kw_only=True)
class Roster:
    """Who gets a kit. ``host``, ``port``: where the silos find the server. ``org``: the server's.

    ``silos``: id → organisation. ``admins``: name → (organisation, role).
    """

    name: str
    host: str
    port: int
    org: str
    silos: Mapping[str, str] = field(default_factory=dict)
    admins: Mapping[str, tuple[str, str]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Built:
    """``folder``: a raw kit each, by name; the server's by its host. ``root``: what signs again, secret."""

    folder: Path
    root: bytes


@contextmanager
def build(roster: Roster, root: bytes | None = None) -> Iterator[Built]:
    """Raw kits in a folder that is gone at the end. ``root``: of an earlier ``Built``, so that it signs again.

    NVFlare makes a server's kit each time. Raises SpecError for names that NVFlare refuses, FederationError.
    """
    project = _project(roster)
    place = Path(tempfile.mkdtemp(prefix="consilium-kits-"))
    try:
        state = place / roster.name / "state"
        days = ROOT_DAYS
        if root is not None:
            state.mkdir(parents=True)
            (state / "cert.json").write_bytes(_root_only(root))
            certificate = root_certificate(root)
            days = (certificate.not_valid_after_utc - certificate.not_valid_before_utc).days
        builders = [
            WorkspaceBuilder(),
            StaticFileBuilder(config_folder="config", scheme="grpc", require_signed_jobs=True),
            CertBuilder(days),
            SignatureBuilder(),
        ]
        notes = _Notes()
        context = Provisioner(str(place), builders).provision(project, logger=notes)
        if context.get(CtxKey.BUILD_ERROR):
            problems = " ".join(notes.errors)
            raise FederationError(f"NVFlare could not provision: {problems}", remedy="Check names and disk.")
        yield Built(place / roster.name / "prod_00", _root_only((state / "cert.json").read_bytes()))
    finally:
        shutil.rmtree(place, ignore_errors=True)


def root_certificate(root: bytes) -> x509.Certificate:
    """The certificate in what ``Built.root`` holds."""
    return x509.load_pem_x509_certificate(str(json.loads(root)["root_cert"]).encode())


def _root_only(state: bytes) -> bytes:
    found = json.loads(state)
    return json.dumps({key: found[key] for key in _ROOT}, indent=1).encode() + b"\n"


def _project(roster: Roster) -> Project:
    try:
        project = Project(roster.name, "provisioned by consilium")
        project.set_server(roster.host, roster.org, {"fed_learn_port": roster.port, "admin_port": roster.port})
        for silo, org in roster.silos.items():
            project.add_client(silo, org, {})
        for admin, (org, role) in roster.admins.items():
            project.add_admin(admin, org, {"role": role})
    except ValueError as bad:
        names = [roster.name, roster.host, roster.org, *roster.silos, *roster.admins]
        raise SpecError("federation", got=names, want=f"names NVFlare accepts: {bad}") from bad
    return project


class _Notes:
    """NVFlare's provisioner prints unless it is given these four methods; only the errors are kept."""

    def __init__(self) -> None:
        self.errors: list[str] = []

    def debug(self, text: str) -> None:
        pass

    info = warning = debug

    def error(self, text: str) -> None:
        self.errors.append(text)
