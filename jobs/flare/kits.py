"""Startup kits: provisioned with NVFlare's API, then hardened.

A kit is what an institution installs: mTLS certificates, connection target, and in ``local/`` the site's own rules.
Provisioning alone allows 88 NVFlare classes, custom code for leads, log streaming to the server and shell commands for
the administrator. ``harden_*`` cuts that down to what this project needs and is safe to run on any NVFlare 2.9 kit,
also on one that was made elsewhere. What a hardened silo still shows the server: liveness, job status, our messages.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from nvflare.lighter.constants import CtxKey
from nvflare.lighter.entity import Project
from nvflare.lighter.impl.cert import CertBuilder
from nvflare.lighter.impl.signature import SignatureBuilder
from nvflare.lighter.impl.static_file import StaticFileBuilder
from nvflare.lighter.impl.workspace import WorkspaceBuilder
from nvflare.lighter.provisioner import Provisioner

from aggregator.ledger import write_synced
from crypto.charter import SILO_ID
from crypto.errors import FederationError, SpecError
from jobs.flare.folder import CONTROLLER, EXECUTOR

HOST: Final = "localhost"
#: The only classes a job may name. Site components (launchers, filters) are the site's own and are not looked up here.
CLASS_ALLOW_LIST: Final = (CONTROLLER, EXECUTOR)
SCOPE: Final = "consilium"
#: Folders beside the silos' kits: no silo is called so.
RESERVED: Final = {"server", "admin", "ca", HOST}

_NONE: Final = "none"
#: Rights that no remote user has at any site, whatever the role: custom code, shell, configuration, free text.
_DENIED: Final = {
    "byoc": _NONE,
    "server-predeployed-flwr": _NONE,
    "clone_job": _NONE,
    "operate": _NONE,
    "shell_commands": _NONE,
    "show_errors": _NONE,
    "show_stats": _NONE,
    "reset_errors": _NONE,
    "configure_job_log": _NONE,
}
_SILO_ROLE: Final = {
    **_DENIED,
    "submit_job": "any",
    "manage_job": "n:submitter",
    "view": "any",
    "download_job": _NONE,
    "delete_workspace": _NONE,
}
_SERVER_ROLE: Final = {
    **_DENIED,
    "submit_job": "any",
    "manage_job": "n:submitter",
    "view": "any",
    "download_job": "n:submitter",
}
_VIEWER: Final = {**_DENIED, "submit_job": _NONE, "manage_job": _NONE, "download_job": _NONE, "view": "any"}


@dataclass(frozen=True, slots=True)
class Kits:
    """Where the kits of one federation lie. ``admin_name`` is who the admin kit logs in as."""

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


def check_port(port: int) -> None:
    """Raises SpecError if nothing can listen on 127.0.0.1:port."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except (OSError, OverflowError) as taken:
            raise SpecError(
                "port", got=port, want="a free port on 127.0.0.1", remedy="Stop what listens there or choose another."
            ) from taken


def provision(
    out: Path,
    *,
    name: str,
    silos: Sequence[str],
    port: int,
    server_home: Path,
    silo_homes: Mapping[str, Path],
    org: str = "consilium",
    admin: str = "admin@consilium.example",
) -> Kits:
    """Kits for a federation on this machine: ``out/server``, ``out/<silo>``, ``out/admin``, ``out/ca`` (0700).

    The server listens on 127.0.0.1:``port`` only (its kit's target is localhost). ``out/ca`` holds the root key of the
    TLS certificates; it belongs to whoever provisions, not to the aggregator. Raises SpecError for a taken port, a bad
    name or a path that NVFlare cannot start processes in.
    """
    _check(out, silos, silo_homes)
    check_port(port)
    made = _provision(name, silos, port, org, admin)
    try:
        out.mkdir(mode=0o700, parents=True, exist_ok=True)
        prod = made / name / "prod_00"
        kits = Kits(out, port, admin, out / "server", out / "admin", {silo: out / silo for silo in silos})
        for source, target in {HOST: kits.server, admin: kits.admin, **kits.silos}.items():
            shutil.move(str(prod / source), str(target))
        shutil.move(str(made / name / "state"), str(out / "ca"))
    finally:
        shutil.rmtree(made, ignore_errors=True)
    harden_server(kits.server, home=server_home, org=org)
    for silo, kit in kits.silos.items():
        harden_silo(kit, home=silo_homes[silo], site=silo, org=org)
    for private in (out / "ca", kits.server, kits.admin, *kits.silos.values()):
        private.chmod(0o700)
    return kits


def add_silo_kit(out: Path, *, silo: str, home: Path) -> Path:
    """A kit for one more silo of a federation that was provisioned into ``out``; its folder.

    The new certificate is signed by the same root (``out/ca``). Nobody else's kit changes by a byte and nothing is
    restarted: NVFlare's server takes any client whose certificate this root signed, and jobs name their sites by the
    charter. Raises SpecError for a name that has a kit or that NVFlare won't take, and where ``out`` is no such folder.
    """
    kit = out / silo
    try:
        server = json.loads((out / "server" / "startup" / "fed_server.json").read_text())["servers"][0]
        org = str(json.loads((out / "server" / "local" / "consilium.json").read_text())["org"])
        name, port = str(server["name"]), int(str(server["service"]["target"]).rpartition(":")[2])
        state = (out / "ca" / "cert.json").read_bytes()
    except (OSError, ValueError, KeyError, IndexError, TypeError) as bad:
        raise SpecError(
            str(out), got=type(bad).__name__, want="the folder that `fed up` provisioned: server and ca in it"
        ) from bad
    if not SILO_ID.fullmatch(silo) or silo in RESERVED:
        raise SpecError("silo", got=silo, want=f"a silo's id, none of {sorted(RESERVED)}")
    if kit.exists():
        raise SpecError("silo", got=silo, want="a silo without a kit", remedy="Kits are never overwritten.")
    made = _provision(name, [silo], port, org, None, state=state)
    try:
        new = made / name / "prod_00" / silo
        harden_silo(new, home=home, site=silo, org=org)
        new.chmod(0o700)
        following = out / "ca" / "cert.json.new"
        write_synced(following, (made / name / "state" / "cert.json").read_bytes())
        os.replace(following, out / "ca" / "cert.json")
        shutil.move(str(new), str(kit))
    finally:
        shutil.rmtree(made, ignore_errors=True)
    return kit


def harden_server(kit: Path, *, home: Path, org: str) -> None:
    """The server's rules: our classes, our launcher and reconciler, jobs stored in ``home``, no log receiver."""
    resources = _default(kit)
    _allow_ours(resources)
    store = home.resolve() / "nvflare"
    store.mkdir(mode=0o700, parents=True, exist_ok=True)
    resources["servers"][0].update(
        heart_beat_timeout=120,
        download_job_url="",
        check_engine_frequency=0.5,  # how fast the job process notices that its run is over; default 3 s
    )
    resources["snapshot_persistor"]["args"]["storage"]["args"]["root_dir"] = str(store / "snapshots")
    components = {one["id"]: one for one in resources["components"] if one["id"] != "log_receiver"}
    components["job_scheduler"]["args"].update(min_schedule_interval=1.0)
    components["job_manager"]["args"]["uri_root"] = str(store / "jobs")
    components["process_launcher"] = _component("process_launcher", "jobs.flare.launcher.AggregatorLauncher")
    components["job_reconciler"] = _component("job_reconciler", "jobs.flare.reconciler.JobReconciler")
    resources["components"] = list(components.values())
    _write(kit, "resources.json", resources)
    _write(kit, "authorization.json", _policy(_SERVER_ROLE))
    _write(kit, "consilium.json", {"home": str(home.resolve()), "org": org, "site": "server"})


def harden_silo(kit: Path, *, home: Path, site: str, org: str) -> None:
    """A silo's rules: our classes, our launcher, the forced filter, nothing of its logs leaves."""
    resources = _default(kit)
    _allow_ours(resources)
    resources["allow_log_streaming"] = False
    components = {one["id"]: one for one in resources["components"] if one["id"] != "site_log_streamer"}
    components["process_launcher"] = _component("process_launcher", "jobs.flare.launcher.SiloLauncher")
    resources["components"] = list(components.values())
    scope = {
        "name": SCOPE,
        "properties": {},
        "task_data_filters": [{"path": "jobs.flare.filters.OnlyMessagesIn"}],
        "task_result_filters": [{"path": "jobs.flare.filters.OnlyMessagesOut"}],
    }
    _write(kit, "resources.json", resources)
    _write(kit, "authorization.json", _policy(_SILO_ROLE))
    _write(kit, "privacy.json", {"scopes": [scope], "default_scope": SCOPE})
    (kit / "local" / "privacy.json.sample").unlink(missing_ok=True)
    _write(kit, "consilium.json", {"home": str(home.resolve()), "org": org, "site": site})


def _check(out: Path, silos: Sequence[str], silo_homes: Mapping[str, Path]) -> None:
    if not silos or len(set(silos)) != len(silos) or RESERVED & set(silos):
        raise SpecError("silos", got=list(silos), want=f"one or more distinct names, none of {sorted(RESERVED)}")
    if missing := sorted(set(silos) - set(silo_homes)):
        raise SpecError("silo_homes", got=sorted(silo_homes), want=f"also a home for {missing}")
    if any(sign in str(out.resolve()) for sign in " \t\n'\"\\"):
        raise SpecError(
            "out", got=str(out), want="a path without blanks, quotes and backslashes (NVFlare splits at them)"
        )
    if out.exists() and any(out.iterdir()):
        raise SpecError("out", got=str(out), want="an empty or new folder", remedy="Kits are never overwritten.")


def _provision(
    name: str, silos: Sequence[str], port: int, org: str, admin: str | None, *, state: bytes | None = None
) -> Path:
    """A folder with kits for these. ``state``: what an earlier provisioning left, so that its root signs again."""
    try:
        project = Project(name, "provisioned by consilium")
        project.set_server(HOST, org, {"fed_learn_port": port, "admin_port": port})
        for silo in silos:
            project.add_client(silo, org, {})
        if admin is not None:
            project.add_admin(admin, org, {"role": "lead"})
    except ValueError as bad:
        raise SpecError("federation", got=[name, *silos, admin, org], want=f"names NVFlare accepts: {bad}") from bad
    builders = [
        WorkspaceBuilder(),
        StaticFileBuilder(config_folder="config", scheme="grpc", require_signed_jobs=True),
        CertBuilder(),
        SignatureBuilder(),
    ]
    root = Path(tempfile.mkdtemp(prefix="consilium-kits-"))
    if state is not None:
        (root / name / "state").mkdir(parents=True)
        (root / name / "state" / "cert.json").write_bytes(state)
    notes = _Notes()
    context = Provisioner(str(root), builders).provision(project, logger=notes)
    if context.get(CtxKey.BUILD_ERROR):
        shutil.rmtree(root, ignore_errors=True)
        raise FederationError(f"NVFlare could not provision: {' '.join(notes.errors)}", remedy="Check names and disk.")
    return root


class _Notes:
    """NVFlare's provisioner prints unless it is given these four methods; only the errors are kept."""

    def __init__(self) -> None:
        self.errors: list[str] = []

    def debug(self, text: str) -> None:
        pass

    info = warning = debug

    def error(self, text: str) -> None:
        self.errors.append(text)


def _default(kit: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((kit / "local" / "resources.json.default").read_text())
    return loaded


def _allow_ours(resources: dict[str, Any]) -> None:
    resources["class_allow_list"] = list(CLASS_ALLOW_LIST)
    resources["class_list_enforcement_mode"] = "enforce"


def _component(name: str, path: str) -> dict[str, Any]:
    return {"id": name, "path": path, "args": {}}


def _policy(lead: Mapping[str, str]) -> dict[str, Any]:
    admin = {**lead, "manage_job": "any"}
    roles = {"project_admin": admin, "lead": dict(lead), "org_admin": dict(_VIEWER), "member": dict(_VIEWER)}
    return {"format_version": "1.0", "permissions": roles}


def _write(kit: Path, name: str, value: Mapping[str, Any]) -> None:
    path = kit / "local" / name
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    path.chmod(0o600)
