"""The startup kits of a federation on one machine, as ``fed up`` makes them: built, then hardened.

A kit is what an institution installs: mTLS certificates, connection target, and in ``local/`` the site's own rules.
``building`` makes raw kits with NVFlare's API, ``hardening`` cuts down what they allow. Kits for sites elsewhere are
``jobs.provisioning.provision``'s.
"""

from __future__ import annotations

import json
import shutil
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from aggregator.home import AggregatorHome
from crypto import durable
from crypto.charter import check_new_id
from crypto.errors import SpecError
from jobs.flare.hardening import CLASS_ALLOW_LIST as CLASS_ALLOW_LIST
from jobs.flare.hardening import harden_server, harden_silo
from jobs.flare.kit_builder import Roster, build
from silo_agent.home import SiloHome

HOST: Final = "localhost"


@dataclass(frozen=True, slots=True)
class Kits:
    """The folders of one federation's kits. ``admin_name``: the user that the admin kit logs in as."""

    root: Path
    port: int
    admin_name: str
    server: Path
    admin: Path
    silos: Mapping[str, Path] = field(default_factory=dict)


def free_port() -> int:
    """A TCP port that is free on 127.0.0.1 now. Another process may take it before you do."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def check_port(port: int, host: str = "127.0.0.1") -> None:
    """Raises SpecError if nothing can listen on host:port."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except (OSError, OverflowError) as taken:
            raise SpecError(
                "port", got=port, want=f"a free port on {host}", remedy="Stop what listens there or choose another."
            ) from taken


def provision(
    out: Path,
    *,
    name: str,
    silos: Sequence[str],
    port: int,
    server_home: AggregatorHome,
    silo_homes: Mapping[str, SiloHome],
    org: str = "consilium",
    admin: str = "admin@consilium.example",
) -> Kits:
    """Kits for a federation on this machine: ``out/server``, ``out/<silo>``, ``out/admin``, ``out/ca`` (0700).

    The server listens on 127.0.0.1:``port`` only (its kit's target is localhost). ``out/ca`` holds the root key of the
    TLS certificates; it belongs to the provisioner, not to the aggregator. Raises SpecError for a taken port, or a bad
    name.
    """
    _check(out, silos, silo_homes)
    check_port(port)
    roster = Roster(
        name=name, host=HOST, port=port, org=org, silos=dict.fromkeys(silos, org), admins={admin: (org, "lead")}
    )
    kits = Kits(out, port, admin, out / "server", out / "admin", {silo: out / silo for silo in silos})
    with build(roster) as built:
        out.mkdir(mode=0o700, parents=True, exist_ok=True)
        for source, target in {HOST: kits.server, admin: kits.admin, **kits.silos}.items():
            shutil.move(str(built.folder / source), str(target))
        durable.replace(root_path(out), built.root)
    harden_server(kits.server, home=server_home, org=org)
    for silo, kit in kits.silos.items():
        harden_silo(kit, home=silo_homes[silo], site=silo, org=org)
    for private in (kits.server, kits.admin, *kits.silos.values()):
        private.chmod(0o700)
    return kits


def add_silo_kit(out: Path, *, silo: str, home: SiloHome) -> Path:
    """A kit for one more silo of a federation that was provisioned into ``out``; its folder.

    The new certificate is signed by the same root (``out/ca``). Nobody else's kit changes by a byte and nothing is
    restarted: NVFlare's server takes any client whose certificate this root signed and that the charter names. Raises
    SpecError for a name that has a kit or that NVFlare won't take, and where ``out`` is no such folder.
    """
    kit = out / silo
    try:
        server = json.loads((out / "server" / "startup" / "fed_server.json").read_text(encoding="utf-8"))["servers"][0]
        org = str(json.loads((out / "server" / "local" / "consilium.json").read_text(encoding="utf-8"))["org"])
        name, port = str(server["name"]), int(str(server["service"]["target"]).rpartition(":")[2])
        root = root_path(out).read_bytes()
    except (OSError, ValueError, KeyError, IndexError, TypeError) as bad:
        raise SpecError(
            str(out), got=type(bad).__name__, want="the folder that `fed up` provisioned: server and ca in it"
        ) from bad
    check_new_id(silo)
    if kit.exists():
        raise SpecError("silo", got=silo, want="a silo without a kit", remedy="Kits are never overwritten.")
    with build(Roster(name=name, host=HOST, port=port, org=org, silos={silo: org}), root) as built:
        new = built.folder / silo
        harden_silo(new, home=home, site=silo, org=org)
        new.chmod(0o700)
        shutil.move(str(new), str(kit))
    return kit


def root_path(out: Path) -> Path:
    """Where the root of what was provisioned into ``out`` lies: certificate and private key, 0600."""
    return out / "ca" / "cert.json"


def _check(out: Path, silos: Sequence[str], silo_homes: Mapping[str, SiloHome]) -> None:
    if not silos or len(set(silos)) != len(silos):
        raise SpecError("silos", got=list(silos), want="one or more distinct names")
    for silo in silos:
        check_new_id(silo, "silos")
    if missing := sorted(set(silos) - set(silo_homes)):
        raise SpecError("silo_homes", got=sorted(silo_homes), want=f"also a home for {missing}")
    if out.exists() and any(out.iterdir()):
        raise SpecError("out", got=str(out), want="an empty or new folder", remedy="Kits are never overwritten.")
