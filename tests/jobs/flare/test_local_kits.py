"""Kits as an institution gets them, and the job folder: what NVFlare allows after hardening."""

from __future__ import annotations

import json
import socket
import stat
import zipfile
from pathlib import Path
from typing import Any

import pytest
from nvflare.apis.fl_constant import FLContextKey
from nvflare.apis.fl_context import FLContext
from nvflare.apis.fl_exception import UnsafeComponentError
from nvflare.apis.workspace import Workspace
from nvflare.app_common.widgets.component_path_authorizer import ComponentPathAuthorizer
from nvflare.fuel.sec.authz import AuthzContext, Person
from nvflare.private.fed.server.job_meta_validator import JobMetaValidator
from nvflare.security.security import FLAuthorizer

from aggregator.home import AggregatorHome
from crypto.errors import SpecError
from jobs.flare import folder, nvflare_mains
from jobs.flare.local_kits import Kits, check_port, free_port, provision
from silo_agent.home import SiloHome

SILOS = ("silo-1", "silo-2", "silo-3")
JOB = json.dumps({"name": "demo", "params": {"note": "{JOB_ID} ${secret:X}"}})


@pytest.fixture(scope="module")
def kits(tmp_path_factory: pytest.TempPathFactory) -> Kits:
    root = tmp_path_factory.mktemp("federation")
    homes = {silo: SiloHome(root / "silos" / silo) for silo in SILOS}
    return provision(
        root / "kits",
        name="demo",
        silos=SILOS,
        port=free_port(),
        server_home=AggregatorHome(root / "aggregator"),
        silo_homes=homes,
    )


def local(kit: Path, name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((kit / "local" / name).read_text())
    return loaded


def every(kits: Kits) -> list[Path]:
    return [kits.server, *kits.silos.values()]


def may(kit: Path, role: str, right: str) -> bool:
    """What the site itself would decide for a remote user of the same organisation."""
    policy = FLAuthorizer("consilium", local(kit, "authorization.json"))
    user = Person(name="admin@consilium.example", org="consilium", role=role)
    allowed, _ = policy.evaluate(AuthzContext(right=right, user=user, submitter=user))
    return bool(allowed)


def test_everything_binds_and_connects_to_this_machine_only(kits: Kits) -> None:
    server = json.loads((kits.server / "startup" / "fed_server.json").read_text())["servers"][0]
    assert server["service"] == {"target": f"localhost:{kits.port}", "scheme": "grpc"}
    assert server["connection_security"] == "mtls"
    for silo in kits.silos.values():
        client = json.loads((silo / "startup" / "fed_client.json").read_text())
        assert client["servers"][0]["service"] == {"target": f"localhost:{kits.port}", "scheme": "grpc"}
        assert client["client"]["connection_security"] == "mtls"
        assert client["require_signed_jobs"] is True
    assert "0.0.0.0" not in "".join(path.read_text() for kit in every(kits) for path in kit.rglob("*.json"))


def component(kit: Path, path: str) -> None:
    context = FLContext()
    context.set_prop(FLContextKey.WORKSPACE_OBJECT, Workspace(str(kit)), private=True, sticky=False)
    ComponentPathAuthorizer().authorize_component_config({"path": path, "args": {}}, fl_ctx=context)


def test_a_job_may_name_our_two_classes_and_no_other(kits: Kits) -> None:
    for kit in every(kits):
        assert local(kit, "resources.json")["class_list_enforcement_mode"] == "enforce"
        component(kit, folder.CONTROLLER)
        component(kit, folder.EXECUTOR)
        for foreign in (
            "nvflare.app_common.workflows.fedavg.FedAvg",
            "nvflare.app_common.executors.client_api_executor.ClientAPIExecutor",
            "jobs.flare.session.AdminSession",
            "jobs.runtime.compose.open_agent",
            "subprocess.Popen",
        ):
            with pytest.raises(UnsafeComponentError):
                component(kit, foreign)


@pytest.mark.parametrize("role", ["project_admin", "lead", "org_admin", "member"])
def test_no_role_brings_code_or_reads_files_at_a_site(kits: Kits, role: str) -> None:
    for kit in every(kits):
        for right in ("byoc", "cat", "ls", "grep", "tail", "shutdown", "restart", "sys_info", "report_env", "call"):
            assert not may(kit, role, right), (kit, right)
    for silo in kits.silos.values():
        for right in ("show_errors", "show_stats", "configure_job_log", "configure_site_log", "download_job"):
            assert not may(silo, role, right), (silo, right)


def test_an_admin_may_submit_watch_and_stop(kits: Kits) -> None:
    for kit in every(kits):
        assert all(may(kit, "lead", right) for right in ("submit_job", "check_status", "abort_job", "list_jobs"))
        assert not may(kit, "member", "submit_job")


def test_logs_stay_at_the_silo(kits: Kits) -> None:
    for silo in kits.silos.values():
        resources = local(silo, "resources.json")
        assert resources["allow_log_streaming"] is False
        assert "log" not in json.dumps([one["id"] for one in resources["components"]])
    assert "log_receiver" not in {one["id"] for one in local(kits.server, "resources.json")["components"]}


def test_the_filter_is_forced_at_every_silo(kits: Kits) -> None:
    for silo in kits.silos.values():
        privacy = local(silo, "privacy.json")
        assert [scope["name"] for scope in privacy["scopes"]] == [privacy["default_scope"]]
        assert privacy["scopes"][0]["task_data_filters"] == [{"path": "jobs.flare.filters.OnlyMessagesIn"}]
        assert privacy["scopes"][0]["task_result_filters"] == [{"path": "jobs.flare.filters.OnlyMessagesOut"}]


def test_launchers_reconciler_and_job_store_are_ours(kits: Kits) -> None:
    server = {one["id"]: one for one in local(kits.server, "resources.json")["components"]}
    assert server["process_launcher"]["path"] == "jobs.flare.launcher.AggregatorLauncher"
    assert server["job_reconciler"]["path"] == "jobs.flare.reconciler.JobReconciler"
    assert server["job_scheduler"]["args"]["min_schedule_interval"] == 1.0
    home = Path(nvflare_mains.settings(kits.server)["home"])
    assert Path(server["job_manager"]["args"]["uri_root"]).is_relative_to(home)
    assert "/tmp/nvflare" not in (kits.server / "local" / "resources.json").read_text()
    for silo in kits.silos.values():
        launcher = {one["id"]: one["path"] for one in local(silo, "resources.json")["components"]}["process_launcher"]
        assert launcher == "jobs.flare.launcher.SiloLauncher"


def test_a_kit_knows_its_home_and_keeps_its_keys(kits: Kits) -> None:
    for silo, kit in kits.silos.items():
        assert nvflare_mains.settings(kit)["site"] == silo
        assert Path(nvflare_mains.settings(kit)["home"]).name == silo
        assert stat.S_IMODE(kit.stat().st_mode) == 0o700
        assert stat.S_IMODE((kit / "startup" / "client.key").stat().st_mode) == 0o600
    assert stat.S_IMODE((kits.root / "ca").stat().st_mode) == 0o700


def test_an_unhardened_kit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="hardened"):
        nvflare_mains.settings(tmp_path)


def test_a_taken_port_is_named() -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        with pytest.raises(SpecError, match=str(port)):
            check_port(port)


def test_provisioning_refuses_what_would_fail_later(kits: Kits, tmp_path: Path) -> None:
    def again(out: Path, silos: tuple[str, ...]) -> None:
        homes = {silo: SiloHome(tmp_path / silo) for silo in silos}
        server_home = AggregatorHome(tmp_path / "agg")
        provision(out, name="demo", silos=silos, port=free_port(), server_home=server_home, silo_homes=homes)

    for out, silos in (
        (kits.root, SILOS),
        (tmp_path / "a", ()),
        (tmp_path / "a", ("silo-1", "silo-1")),
        (tmp_path / "a", ("server",)),
        (tmp_path / "a", ("st.mary",)),
    ):
        with pytest.raises(SpecError):
            again(out, silos)


# --- the job folder ----------------------------------------------------------------------------------------------


def test_the_job_folder_is_two_configurations_and_no_code(tmp_path: Path) -> None:
    made = folder.write_job(tmp_path / "job", name="demo", job=JOB, plan="cGxhbg==", silos=SILOS)
    files = sorted(str(path.relative_to(made)) for path in made.rglob("*") if path.is_file())
    assert files == ["app/config/config_fed_client.json", "app/config/config_fed_server.json", "meta.json"]
    server = json.loads((made / "app/config/config_fed_server.json").read_text())
    client = json.loads((made / "app/config/config_fed_client.json").read_text())
    assert [one["path"] for one in server["workflows"]] == [folder.CONTROLLER]
    assert [one["executor"]["path"] for one in client["executors"]] == [folder.EXECUTOR]
    assert not server["components"] and not client["components"]


def test_nvflare_accepts_the_folder_and_finds_no_custom_code(tmp_path: Path) -> None:
    made = folder.write_job(tmp_path / "job", name="demo", job=JOB, plan="", silos=SILOS)
    archive = tmp_path / "job.zip"
    with zipfile.ZipFile(archive, "w") as out:
        for path in sorted(made.rglob("*")):
            out.write(path, path.relative_to(tmp_path))
    valid, error, meta = JobMetaValidator().validate("job", archive.read_bytes())
    assert (valid, error) == (True, "")
    assert "byoc" not in meta and meta["mandatory_clients"] == [] and meta["min_clients"] == 2


def test_nvflares_own_command_line_keeps_the_folder_as_it_is(tmp_path: Path) -> None:
    # It writes every file again, and loses all but the first value if that value is a table.
    made = folder.write_job(tmp_path / "job", name="demo", job=JOB, plan="", silos=SILOS)
    for path in made.rglob("*.json"):
        first = next(iter(json.loads(path.read_text()).values()))
        assert isinstance(first, str | int), path


def test_the_job_text_has_nothing_that_nvflare_would_replace(tmp_path: Path) -> None:
    made = folder.write_job(tmp_path / "job", name="demo", job=JOB, plan="", silos=SILOS)
    text = json.loads((made / "app/config/config_fed_server.json").read_text())["workflows"][0]["args"]["job"]
    assert not set("{}$") & set(text)
    assert folder.decode_job(text) == JOB
    with pytest.raises(SpecError):
        folder.decode_job("{not base64}")


@pytest.mark.parametrize(
    "change", [{"name": "../up"}, {"silos": ()}, {"silos": ("server",)}, {"poll_s": 0.0}, {"min_silos": 4}]
)
def test_a_wrong_job_folder_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    right: dict[str, Any] = {"name": "demo", "job": "{}", "plan": "", "silos": SILOS}
    with pytest.raises(SpecError):
        folder.write_job(tmp_path / "job", **{**right, **change})
    assert not (tmp_path / "job").exists()
