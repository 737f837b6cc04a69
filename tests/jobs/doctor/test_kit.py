"""Faults of a startup kit, and of the way to its server."""

from __future__ import annotations

import json
import shutil
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest

from crypto.home import Home
from jobs.demo.federation import Federation
from jobs.doctor.check import Status
from jobs.doctor.runner import CHECKS
from jobs.doctor.target import Role, Target
from jobs.flare.local_kits import Kits
from tests.jobs.doctor.site_copy import Root, SiteCopy, copy_of, finds, listener, passes, result_of, results

Made = tuple[Federation, Kits]


@pytest.fixture(scope="module")
def stranger() -> Root:
    """The root of another federation."""
    return Root.make("elsewhere")


# --- the kit itself --------------------------------------------------------------------------------------------------


def test_a_missing_kit(silo: SiteCopy, admin: SiteCopy, tmp_path: Path) -> None:
    gone = replace(silo, kit=tmp_path / "nowhere")
    finds(gone, "kit", "nowhere", remedy="Unpack the kit")
    assert results(gone)["server.tls"].found == "not checked, because kit failed"
    finds(replace(silo, kit=None), "kit", "no kit was given", warns=True, remedy="--kit")
    finds(replace(admin, kit=None), "kit", "no kit was given")
    targets = (Target(role, Home(silo.home_folder) if role is Role.SILO else None, None) for role in Role)
    for target in targets:  # nothing of a kit that was not given
        for check in CHECKS:
            if check.name.startswith(("kit.", "server.")) and target.role in check.roles and target.role is Role.SILO:
                assert check.run(target) is None


def test_a_kit_that_lacks_a_file(silo: SiteCopy) -> None:
    (silo.kit_folder / "startup" / "rootCA.pem").unlink()
    finds(silo, "kit", "rootCA.pem is missing", remedy="whole")


def test_a_kit_of_another_role(silo: SiteCopy, aggregator: SiteCopy) -> None:
    finds(replace(silo, kit=aggregator.kit), "kit", "is a kit for aggregator, not for silo")


def test_a_damaged_startup_file(silo: SiteCopy) -> None:
    (silo.kit_folder / "startup" / "fed_client.json").write_text("{}")
    finds(silo, "kit", "fed_client.json", remedy="Unpack the kit again")


def test_a_key_that_others_may_read(silo: SiteCopy) -> None:
    (silo.kit_folder / "startup" / "client.key").chmod(0o640)
    finds(silo, "kit.key", "mode 640", remedy="renewed")


def test_a_key_of_another_certificate(silo: SiteCopy, made: Made) -> None:
    shutil.copy(made[1].silos["silo-2"] / "startup" / "client.key", silo.kit_folder / "startup" / "client.key")
    finds(silo, "kit.key", "is not the key of client.crt")
    (silo.kit_folder / "startup" / "client.key").write_text("no key")
    finds(silo, "kit.key", "is no key")


def test_two_kits_mixed(silo: SiteCopy, stranger: Root, tmp_path: Path) -> None:
    stranger.put(tmp_path / "other", "client", "silo-1")
    shutil.copy(tmp_path / "other" / "rootCA.pem", silo.kit_folder / "startup" / "rootCA.pem")
    finds(silo, "kit.certificate", "was not signed by the rootCA.pem", remedy="two kits are mixed")


def test_a_certificate_out_of_date(silo: SiteCopy) -> None:
    assert "signed by test" in passes(silo, "kit.certificate")
    finds(silo.later(400), "kit.certificate", "the certificate expired on", remedy="renewed kit")
    finds(silo.later(-2), "kit.certificate", "is not valid before", remedy="clock")
    (silo.kit_folder / "startup" / "client.crt").write_text("no certificate")
    finds(silo, "kit.certificate", "want a certificate")


def test_a_root_out_of_date(silo: SiteCopy, tmp_path: Path) -> None:
    """A certificate that outlives its root is of no use after it."""
    root = Root.make("test")
    root.put(silo.kit_folder / "startup", "client", "silo-1", (-1, 800))
    finds(silo.later(500), "kit.certificate", "the root certificate expired")
    finds(silo.later(395.5), "kit.days", "4 days left", warns=True)


def test_few_days_left(silo: SiteCopy, stranger: Root) -> None:
    stranger.put(silo.kit_folder / "startup", "client", "silo-1", (-1, 13.5))
    finds(silo, "kit.days", "13 days left", warns=True, remedy="fed provision")
    stranger.put(silo.kit_folder / "startup", "client", "silo-1", (-1, 14.5))
    assert "14 days left" in passes(silo, "kit.days")


def test_an_admin_without_a_role(admin: SiteCopy, stranger: Root) -> None:
    stranger.put(admin.kit_folder / "startup", "client", "admin@consilium.example")
    finds(admin, "kit.role", "the role is none", remedy="lead")


@pytest.mark.parametrize("what", ["kit", "home", "settings"])
def test_a_kit_of_another_site(silo: SiteCopy, made: Made, tmp_path: Path, what: str) -> None:
    if what == "kit":
        other = replace(silo, kit=copy_of(made[1].silos["silo-2"], tmp_path / "other"))
    elif what == "home":
        other = replace(silo, home=copy_of(made[0].silo("silo-2"), tmp_path / "other"))
    else:
        silo.edit("local/consilium.json", lambda value: value.update(site="silo-2"))
        other = silo
    line = finds(other, "kit.site", "silo-2", remedy="this site's own")
    assert "silo-1" in line.found


def test_a_kit_of_another_federation(silo: SiteCopy, aggregator: SiteCopy) -> None:
    silo.edit("startup/fed_client.json", lambda value: value["servers"][0].update(name="elsewhere"))
    finds(silo, "kit.federation", "the kit is of 'elsewhere', the charter of 'test'", remedy="federation")
    aggregator.edit("startup/fed_server.json", lambda value: value["servers"][0].update(name="elsewhere"))
    finds(aggregator, "kit.federation", "the kit is of 'elsewhere'")
    (silo.home_folder / "charter.bin").unlink()
    assert result_of(silo, "kit.federation") is None  # nothing to compare with; the check of the charter says so


# --- its own rules ---------------------------------------------------------------------------------------------------


def test_a_kit_that_was_never_hardened(silo: SiteCopy) -> None:
    (silo.kit_folder / "local" / "consilium.json").unlink()
    finds(silo, "kit.hardened", "never hardened", remedy="fed provision")


def test_rules_that_were_loosened(silo: SiteCopy, aggregator: SiteCopy) -> None:
    def grant(value: dict[str, dict[str, dict[str, str]]]) -> None:
        value["permissions"]["lead"]["byoc"] = "any"

    resources, rights, scopes = (f"local/{name}.json" for name in ("resources", "authorization", "privacy"))
    for name, change, words in (
        (rights, grant, "local/authorization.json: permissions.lead.byoc is any, want none"),
        (resources, lambda value: value["class_allow_list"].append("evil.Class"), "class_allow_list is ["),
        (resources, lambda value: value.update(class_list_enforcement_mode="warn"), "enforcement_mode is warn"),
        (resources, lambda value: value.update(allow_log_streaming=True), "allow_log_streaming is true"),
        (scopes, lambda value: value.update(default_scope="open"), "default_scope is open"),
        (scopes, lambda value: value["scopes"][0].pop("task_result_filters"), "local/privacy.json: scopes"),
        ("startup/fed_client.json", lambda value: value["client"].update(connection_security="clear"), "is clear"),
    ):
        before = (silo.kit_folder / name).read_bytes()
        silo.edit(name, change)
        finds(silo, "kit.hardened", words, remedy="harden")
        (silo.kit_folder / name).write_bytes(before)
    passes(silo, "kit.hardened")
    aggregator.edit(rights, grant)
    finds(aggregator, "kit.hardened", "permissions.lead.byoc is any")


def test_a_silo_that_let_custom_code_in_does_not_start(silo: SiteCopy) -> None:
    silo.edit("local/resources.json", lambda value: value.update(class_list_enforcement_mode="warn"))
    assert results(silo, starting=True)["kit.hardened"].status is Status.FAIL


def test_other_components(silo: SiteCopy) -> None:
    def launcher(value: dict[str, list[dict[str, object]]]) -> None:
        (one,) = (one for one in value["components"] if one["id"] == "process_launcher")
        one["path"] = "elsewhere.Launcher"

    def gpus(value: dict[str, list[dict[str, dict[str, object]]]]) -> None:
        value["components"][0]["args"]["expiration_period"] = 1

    silo.edit("local/resources.json", gpus)
    passes(silo, "kit.components")  # arguments are the site's
    (silo.kit_folder / "local" / "more__p_resources.json").write_text("{}")
    finds(silo, "kit.components", "more__p_resources.json", warns=True, remedy="Remove it")
    silo.edit("local/resources.json", launcher)
    passes(silo, "kit.hardened")
    finds(silo, "kit.components", "process_launcher is elsewhere.Launcher", warns=True)


# --- the way to the server -------------------------------------------------------------------------------------------


def test_a_name_without_an_address(silo: SiteCopy, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    silo.point("nowhere.invalid", 8002)
    finds(silo, "server.name", "nowhere.invalid: Name or service not known", remedy="DNS")


def test_a_port_where_nobody_answers(silo: SiteCopy) -> None:
    with socket.create_server(("127.0.0.1", 0)) as one:
        port = one.getsockname()[1]
    silo.point("localhost", port)
    finds(silo, "server.port", f"localhost:{port}: Connection refused", remedy="fed aggregator run")
    assert results(silo)["server.tls"].found == "not checked, because server.port failed"


def test_the_way_leads_through_the_proxy_that_is_set(
    silo: SiteCopy, server_startup: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The name is known to the proxy alone."""
    with listener(server_startup) as port, proxy(port) as via:
        monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{via}")
        monkeypatch.delenv("no_proxy", raising=False)
        silo.point("localhost", port)
        assert passes(silo, "server.name") == f"localhost is looked up by the proxy, 127.0.0.1:{via}"
        assert passes(silo, "server.port") == f"localhost:{port} through the proxy 127.0.0.1:{via} answers"
        assert passes(silo, "server.tls") == "TLSv1.3, certificates accepted on both sides"
    silo.point("hub.example", port)
    finds(silo, "server.port", f"hub.example:{port} through the proxy 127.0.0.1:{via}: Connection refused")


@contextmanager
def proxy(to: int) -> Iterator[int]:
    """A proxy that leads every CONNECT to one port of this machine; its own port."""
    threads: list[threading.Thread] = []

    def serve() -> None:
        with suppress(OSError):
            while True:
                one, _ = listening.accept()
                threads.append(threading.Thread(target=lead, args=(one,)))
                threads[-1].start()

    def lead(one: socket.socket) -> None:
        with one, suppress(OSError), socket.create_connection(("127.0.0.1", to)) as other:
            while b"\r\n\r\n" not in one.recv(4096):
                pass
            one.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
            back = threading.Thread(target=pump, args=(other, one))
            back.start()
            pump(one, other)
            back.join()

    def pump(source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        accepting = threading.Thread(target=serve)
        accepting.start()
        yield listening.getsockname()[1]
        listening.shutdown(socket.SHUT_RDWR)
        accepting.join()
        for thread in threads:
            thread.join()


def test_both_sides_take_each_others_certificate(silo: SiteCopy, admin: SiteCopy, server_startup: Path) -> None:
    for site in (silo, admin):
        with listener(server_startup) as port:
            site.point("localhost", port)
            assert passes(site, "server.tls") == "TLSv1.3, certificates accepted on both sides"
            passes(site, "server.port")


def test_a_wrong_host(silo: SiteCopy, server_startup: Path) -> None:
    with listener(server_startup) as port:
        silo.point("127.0.0.1", port)  # the certificate is for localhost
        finds(silo, "server.tls", "the server's certificate is not for 127.0.0.1", remedy="the right name")


def test_a_server_of_another_federation(silo: SiteCopy, stranger: Root, tmp_path: Path) -> None:
    stranger.put(tmp_path / "server", "server", "localhost")
    with listener(tmp_path / "server") as port:
        silo.point("localhost", port)
        finds(silo, "server.tls", "was not signed by this kit's root", remedy="another federation's")


@pytest.mark.parametrize(("days", "words"), [((-9, -1), "has expired"), ((1, 9), "is not valid yet")])
def test_a_server_out_of_date(
    silo: SiteCopy, stranger: Root, tmp_path: Path, days: tuple[float, float], words: str
) -> None:
    stranger.put(silo.kit_folder / "startup", "client", "silo-1")
    stranger.put(tmp_path / "server", "server", "localhost", days)
    with listener(tmp_path / "server") as port:
        silo.point("localhost", port)
        finds(silo, "server.tls", f"the server's certificate {words}", remedy="clock")


def test_a_certificate_that_the_server_refuses(silo: SiteCopy, stranger: Root, server_startup: Path) -> None:
    """Signed by another root, beside the right rootCA.pem: our side is content, the server is not."""
    root = (silo.kit_folder / "startup" / "rootCA.pem").read_bytes()
    stranger.put(silo.kit_folder / "startup", "client", "silo-1")
    (silo.kit_folder / "startup" / "rootCA.pem").write_bytes(root)
    with listener(server_startup) as port:
        silo.point("localhost", port)
        finds(silo, "server.tls", "the server refuses this kit's certificate", remedy="same provisioning")


def test_a_server_that_speaks_no_tls(silo: SiteCopy) -> None:
    with listener(None) as port:
        silo.point("localhost", port)
        finds(silo, "server.tls", "the server ")


def test_a_server_that_says_nothing(silo: SiteCopy, server_startup: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobs.doctor.server.TIMEOUT_S", 0.2)
    with listener(server_startup, answers=False) as port:
        silo.point("localhost", port)
        finds(silo, "server.tls", "then sent nothing", warns=True)


def test_a_server_that_hangs_up_after_the_handshake(silo: SiteCopy, server_startup: Path) -> None:
    with listener(server_startup, answers=False, stays=False) as port:
        silo.point("localhost", port)
        finds(silo, "server.tls", "it closed the connection", remedy="same provisioning")


def test_nvflares_port_taken(aggregator: SiteCopy) -> None:
    port = json.loads((aggregator.kit_folder / "startup" / "fed_server.json").read_text())["servers"][0]["admin_port"]
    assert passes(aggregator, "server.listen") == f"port {port} is free"
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)  # as gRPC does: it would be shared, silently
        other.bind(("127.0.0.1", 0))
        other.listen()
        aggregator.point("localhost", other.getsockname()[1])
        finds(aggregator, "server.listen", "Address already in use", remedy="Stop what listens there")
