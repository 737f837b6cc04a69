"""What the doctor checks: a role, its home and its kit, each read once and only when a check asks.

A kit's ``startup/`` shows whose it is: ``fed_client.json`` a silo's, ``fed_server.json`` the aggregator's,
``fed_admin.json`` an administrator's. Read here without NVFlare, so that a kit can be looked at where that is missing.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Self

from cryptography import x509

from aggregator.home import AggregatorHome
from crypto.charter import Charter
from crypto.errors import FederationError, SpecError
from crypto.home import Home
from silo_agent.home import SiloHome


class Role(StrEnum):
    SILO = "silo"
    AGGREGATOR = "aggregator"
    ADMIN = "admin"


#: The file in ``startup/`` that makes a kit this role's, and the one in a home.
KIT_FILE: Final = {Role.SILO: "fed_client.json", Role.AGGREGATOR: "fed_server.json", Role.ADMIN: "fed_admin.json"}
HOME_FILE: Final = {Role.SILO: "silo.json", Role.AGGREGATOR: "aggregator.json"}


@dataclass(frozen=True, slots=True)
class Startup:
    """A kit's startup file. ``site``: whose kit it is. ``host``, ``port``: of the aggregator's NVFlare server."""

    role: Role
    federation: str
    site: str
    host: str
    port: int
    certificate: Path
    key: Path
    root: Path

    @classmethod
    def read(cls, kit: Path) -> Self:
        """Raises SpecError for a folder that is no kit."""
        role = role_of_kit(kit)
        if role is None:
            raise SpecError(
                str(kit),
                got="no startup/fed_client.json, fed_server.json or fed_admin.json",
                want="a startup kit",
                remedy="Unpack the kit that `fed provision` made for this site, or name its folder with --kit.",
            )
        path = kit / "startup" / KIT_FILE[role]
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            if role is Role.ADMIN:
                admin = found["admin"]
                names = (admin["project_name"], admin["username"], admin["host"], admin["port"])
                files = (admin["client_cert"], admin["client_key"], admin["ca_cert"])
            else:
                server = found["servers"][0]
                host, _, port = str(server["service"]["target"]).rpartition(":")
                own = found["client"] if role is Role.SILO else server
                site = own["fqsn"] if role is Role.SILO else host
                names = (server["name"], site, host, port)
                files = (own["ssl_cert"], own["ssl_private_key"], own["ssl_root_cert"])
            name, site, host, port = names
            return cls(role, str(name), str(site), str(host), int(port), *(kit / "startup" / str(one) for one in files))
        except (OSError, ValueError, KeyError, IndexError, TypeError) as bad:
            raise SpecError(
                str(path), got=repr(bad), want="what NVFlare's provisioning writes", remedy="Unpack the kit again."
            ) from bad


@dataclass(frozen=True)
class Target:
    """``home_if_any``, ``kit``: None where none was given. ``now``: seconds since 1970, UTC. ``metrics_port``: 0 for
    any. ``starting``: a service that is about to start there makes the checks."""

    role: Role
    home_if_any: Home | None = None
    kit: Path | None = None
    now: float = field(default_factory=time.time)
    metrics_port: int = 0
    starting: bool = False

    @property
    def home(self) -> Home:
        """The home, for checks that come after `home`. Raises SpecError where none was given."""
        if self.home_if_any is None:
            raise SpecError("--home", got=None, want="the home of this site")
        return self.home_if_any

    @property
    def home_file(self) -> Path:
        """The file that makes the home this role's; a running service has it locked."""
        return self.home.root / HOME_FILE[self.role]

    @property
    def silo_home(self) -> SiloHome:
        return SiloHome(self.home.root)

    @property
    def aggregator_home(self) -> AggregatorHome:
        return AggregatorHome(self.home.root)

    @cached_property
    def startup(self) -> Startup:
        if self.kit is None:
            raise SpecError("--kit", got=None, want="this site's startup kit")
        return Startup.read(self.kit)

    @cached_property
    def local(self) -> dict[str, Any]:
        """``local/consilium.json`` of the kit; empty where it has none."""
        return kit_settings(self.kit) if self.kit is not None else {}

    @cached_property
    def certificate(self) -> x509.Certificate:
        return read_certificate(self.startup.certificate)

    @cached_property
    def root(self) -> x509.Certificate:
        return read_certificate(self.startup.root)

    @cached_property
    def silo(self) -> str:
        """The id in the home's ``silo.json``."""
        return self.silo_home.silo

    @cached_property
    def charter(self) -> Charter:
        """The pinned one, its signature checked. Raises SpecError, BadSignature."""
        return self.home.charter()

    @property
    def charter_if_any(self) -> Charter | None:
        """None where none is pinned or it cannot be read: the check `charter` reports that."""
        try:
            return self.charter if self.home_if_any is not None else None
        except (FederationError, OSError):
            return None


def role_of_kit(kit: Path) -> Role | None:
    return next((role for role, name in KIT_FILE.items() if (kit / "startup" / name).is_file()), None)


def role_of_home(home: Home) -> Role | None:
    return next((role for role, name in HOME_FILE.items() if (home.root / name).is_file()), None)


def kit_settings(kit: Path) -> dict[str, Any]:
    """What our hardening wrote into a kit; empty where there is none. Raises SpecError if it is damaged."""
    path = kit / "local" / "consilium.json"
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return {str(key): value for key, value in found.items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, AttributeError) as bad:
        raise SpecError(str(path), got=repr(bad), want="a JSON object", remedy="Unpack the kit again.") from bad


def read_certificate(path: Path) -> x509.Certificate:
    """Raises SpecError for what is no certificate."""
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except (OSError, ValueError) as bad:
        why = bad.strerror if isinstance(bad, OSError) else "no certificate in PEM"
        raise SpecError(str(path), got=why, want="a certificate", remedy="Unpack the kit again.") from bad
