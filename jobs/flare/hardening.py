"""What a kit allows at its site, cut down to what this project needs: ``harden_server``, ``harden_silo``.

Provisioning alone allows 88 NVFlare classes, custom code for leads, log streaming to the server and shell commands for
the administrator. Hardening is safe to run on any NVFlare 2.9 kit, also on one that was made elsewhere. What a hardened
silo still shows the server: liveness, job status, our messages. A kit for a site elsewhere names no home: the
command that starts it does, and ``localise`` then writes what depends on it into the site's own copy.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from aggregator.home import AggregatorHome
from crypto.home import Home
from jobs.flare.folder import CONTROLLER, EXECUTOR
from silo_agent.home import SiloHome

#: The only classes a job may name. Site components (launchers, filters) are the site's own and are not looked up here.
CLASS_ALLOW_LIST: Final = (CONTROLLER, EXECUTOR)
SCOPE: Final = "consilium"
#: Where the server keeps its jobs until a home is known: in its own folder.
_STORE: Final = Path("nvflare")
LOOPBACK: Final = "127.0.0.1"

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
#: What every role may look at, at the server alone: a running job's status and the aggregator's own log of it.
_WATCHING: Final = {"show_stats": "any", "get_job_log": "any"}
_VIEWER: Final = {**_DENIED, "submit_job": _NONE, "manage_job": _NONE, "download_job": _NONE, "view": "any"}


def harden_server(kit: Path, *, home: AggregatorHome | None, org: str) -> None:
    """The server's rules: our classes, launcher, admission, what keeps runs going; no log receiver; 127.0.0.1 only."""
    resources = _default(kit)
    _allow_ours(resources)
    resources["servers"][0].update(
        heart_beat_timeout=120,
        download_job_url="",
        check_engine_frequency=0.5,  # how fast the job process notices that its run is over; default 3 s
    )
    components = {one["id"]: one for one in resources["components"] if one["id"] != "log_receiver"}
    # One job at a time: a silo has one agent and one journal, so a second job would find no silo. It waits instead.
    # And thirty tries at starting it, 1 s to 10 min apart: three and a half hours for silos to come back.
    components["job_scheduler"]["args"].update(min_schedule_interval=1.0, max_schedule_count=30, max_jobs=1)
    components["process_launcher"] = _component("process_launcher", "jobs.flare.launcher.AggregatorLauncher")
    components["job_reconciler"] = _component("job_reconciler", "jobs.flare.reconciler.JobReconciler")
    components["job_outcomes"] = _component("job_outcomes", "jobs.flare.outcomes.JobOutcomes")
    components["resumer"] = _component("resumer", "jobs.flare.resumer.Resumer")
    components["rejoin"] = _component("rejoin", "jobs.flare.rejoin.Rejoin")
    components["admission"] = _component("admission", "jobs.flare.admission.Admission")
    resources["components"] = list(components.values())
    _write(kit, "resources.json", resources)
    _write(kit, "authorization.json", _policy(_SERVER_ROLE, _WATCHING))
    _write(kit, "consilium.json", _about(home, org, "server"))
    localise(kit, home)


def localise(kit: Path, home: AggregatorHome | None, listen: str = LOOPBACK) -> None:
    """Writes into a server's kit what depends on where it runs: the job store in ``home``, the address it listens on.

    NVFlare listens on 127.0.0.1 (``localhost`` as its target) or, for any other host, on all addresses.
    """
    store = home.nvflare_folder.resolve() if home else _STORE
    if home:
        store.mkdir(mode=0o700, parents=True, exist_ok=True)
    resources = json.loads((kit / "local" / "resources.json").read_text(encoding="utf-8"))
    resources["snapshot_persistor"]["args"]["storage"]["args"]["root_dir"] = str(store / "snapshots")
    for component in resources["components"]:
        if component["id"] == "job_manager":
            component["args"]["uri_root"] = str(store / "jobs")
    _write(kit, "resources.json", resources)
    startup = kit / "startup" / "fed_server.json"
    server = json.loads(startup.read_text(encoding="utf-8"))
    service = server["servers"][0]["service"]
    port = service["target"].rpartition(":")[2]
    service["target"] = f"{'localhost' if listen == LOOPBACK else listen}:{port}"
    startup.write_text(json.dumps(server, indent=2) + "\n", encoding="utf-8")


def harden_silo(kit: Path, *, home: SiloHome | None, site: str, org: str) -> None:
    """A silo's rules: our classes, launcher and connection watchdog, the forced filter, nothing of its logs leaves."""
    resources = _default(kit)
    _allow_ours(resources)
    resources["allow_log_streaming"] = False
    components = {one["id"]: one for one in resources["components"] if one["id"] != "site_log_streamer"}
    components["process_launcher"] = _component("process_launcher", "jobs.flare.launcher.SiloLauncher")
    components["connection_watchdog"] = _component(
        "connection_watchdog", "jobs.flare.connection_watchdog.ConnectionWatchdog"
    )
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
    _write(kit, "consilium.json", _about(home, org, site))


def _about(home: Home | None, org: str, site: str) -> dict[str, str]:
    return {**({"home": str(home.root.resolve())} if home else {}), "org": org, "site": site}


def _default(kit: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((kit / "local" / "resources.json.default").read_text(encoding="utf-8"))
    return loaded


def _allow_ours(resources: dict[str, Any]) -> None:
    resources["class_allow_list"] = list(CLASS_ALLOW_LIST)
    resources["class_list_enforcement_mode"] = "enforce"


def _component(name: str, path: str) -> dict[str, Any]:
    return {"id": name, "path": path, "args": {}}


def _policy(lead: Mapping[str, str], everybody: Mapping[str, str] | None = None) -> dict[str, Any]:
    """``lead``: the rights of that role; a project_admin also manages others' jobs. ``everybody``: more for all."""
    roles = {"project_admin": {**lead, "manage_job": "any"}, "lead": lead, "org_admin": _VIEWER, "member": _VIEWER}
    permissions = {role: {**rights, **(everybody or {})} for role, rights in roles.items()}
    return {"format_version": "1.0", "permissions": permissions}


def _write(kit: Path, name: str, value: Mapping[str, Any]) -> None:
    path = kit / "local" / name
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    path.chmod(0o600)
