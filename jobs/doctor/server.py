"""The connection to the aggregator: its name, its port, and a TLS handshake with this kit's certificate.

The handshake is mutual, as NVFlare's: the server's certificate must be signed by the kit's root and made for the name
in the kit, and the server must accept ours. A server reports a refusal only after the handshake, so the first bytes of
HTTP/2 are sent and an answer is awaited. There is no login.
"""

from __future__ import annotations

import socket
import ssl
from typing import Final

from jobs.doctor.check import AGGREGATOR, CLIENTS, Finding, check, fail, ok, warn
from jobs.doctor.single_instance import holders
from jobs.doctor.target import Target
from jobs.flare.proxy import proxy_for

#: How long a name, a connection, a handshake and an answer may each take. Seconds.
TIMEOUT_S: Final = 5.0
#: HTTP/2's preface and empty SETTINGS: a server that has accepted our certificate answers with its own.
_PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(3) + b"\x04" + bytes(5)

#: Why a verification fails: OpenSSL's X509_V_ERR_CERT_NOT_YET_VALID, …_HAS_EXPIRED, …_HOSTNAME_ and …_IP_MISMATCH.
_NOT_YET, _EXPIRED, _OTHER_NAME = 9, 10, {62, 64}


@check(
    "server.name",
    CLIENTS,
    looks="the address of the server's name",
    fails="the name in the kit has no address here",
    remedy="Have the name entered in this site's DNS (or /etc/hosts), or have a kit made for the right name.",
    after=("kit",),
)
def server_name(target: Target) -> Finding | None:
    if target.kit is None:
        return None
    host = target.startup.host
    if proxy := proxy_for(host):
        return ok(f"{host} is looked up by the proxy, {proxy.host}:{proxy.port}")
    try:
        found = socket.getaddrinfo(host, target.startup.port, type=socket.SOCK_STREAM)
    except OSError as unknown:
        return fail(f"{host}: {unknown.strerror}")
    return ok(f"{host} is {', '.join(sorted({str(one[4][0]) for one in found}))}")


@check(
    "server.port",
    CLIENTS,
    looks="a TCP connection to the server's port",
    fails="nothing answers there, or a firewall blocks the connection",
    remedy="Check that `fed aggregator run` is up, and that this site's firewall allows that host and port, outgoing.",
    after=("kit", "server.name"),
)
def server_port(target: Target) -> Finding | None:
    if target.kit is None:
        return None
    where = f"{target.startup.host}:{target.startup.port}"
    if proxy := proxy_for(target.startup.host):
        where += f" through the proxy {proxy.host}:{proxy.port}"
    try:
        _connect(target).close()
    except OSError as refused:
        return fail(f"{where}: {refused.strerror or refused}")
    return ok(f"{where} answers")


@check(
    "server.tls",
    CLIENTS,
    looks="a mutual TLS handshake: the server's certificate against the kit's root and name, ours against the server",
    fails="the server is another federation's or has another name, a certificate has expired, or ours is refused",
    remedy="Compare the kit with the one that the aggregator runs: both must come from the same provisioning.",
    after=("kit", "kit.key", "kit.certificate", "server.name", "server.port"),
)
def server_tls(target: Target) -> Finding | None:
    if target.kit is None:
        return None
    startup = target.startup
    context = ssl.create_default_context(cafile=str(startup.root))
    context.load_cert_chain(startup.certificate, startup.key)
    context.set_alpn_protocols(["h2"])
    try:
        with _connect(target) as raw, context.wrap_socket(raw, server_hostname=startup.host) as spoken:
            version = spoken.version()
            spoken.sendall(_PREFACE)
            answered = spoken.recv(1)
    except ssl.SSLCertVerificationError as bad:
        return fail(*_why(startup.host, bad))
    except TimeoutError:
        return warn("the server accepted our certificate, and then sent nothing", "Check whether it is overloaded.")
    except ssl.SSLError as bad:
        return fail(f"the server refuses this kit's certificate: {_reason(bad)}")
    except OSError as cut:
        return fail(f"the server ended the handshake: {cut.strerror or cut}")
    if not answered:
        return fail("the server refuses this kit's certificate: it closed the connection")
    return ok(f"{version}, certificates accepted on both sides")


@check(
    "server.listen",
    AGGREGATOR,
    looks="whether NVFlare's port is free, unless the service that runs here uses it",
    fails="another process listens there",
    remedy="Stop what listens there, or provision with another port.",
    start=AGGREGATOR,
    after=("kit",),
)
def server_listen(target: Target) -> Finding | None:
    if target.kit is None:
        return None
    if target.home_if_any is not None and holders(target.home_file):
        return ok(f"port {target.startup.port} is this service's")
    # NVFlare listens on the loopback address for ``localhost``, else on all.
    return port_finding(target.startup.port, "127.0.0.1" if target.startup.host == "localhost" else "")


def port_finding(port: int, host: str = "127.0.0.1") -> Finding:
    """Whether this machine's port is free. NVFlare's server would share a port that another process listens on."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except (OSError, OverflowError) as taken:
            return fail(f"port {port} cannot be used: {taken.strerror if isinstance(taken, OSError) else taken}")
    return ok(f"port {port} is free")


def _connect(target: Target) -> socket.socket:
    host, port = target.startup.host, target.startup.port
    if proxy := proxy_for(host):
        return proxy.connect(host, port, TIMEOUT_S)
    return socket.create_connection((host, port), timeout=TIMEOUT_S)


def _why(host: str, bad: ssl.SSLCertVerificationError) -> tuple[str, str]:
    """Why the server's certificate does not verify, and what to do."""
    if bad.verify_code in (_NOT_YET, _EXPIRED):
        when = "has expired" if bad.verify_code == _EXPIRED else "is not valid yet"
        remedy = "Compare this machine's clock; if it is right, the aggregator must renew its kit."
        return f"the server's certificate {when}", remedy
    if bad.verify_code in _OTHER_NAME:
        remedy = "Another host answers there, or the kit names the wrong one: have it made for the right name."
        return f"the server's certificate is not for {host}", remedy
    return (
        f"the server's certificate was not signed by this kit's root: {bad.verify_message}",
        "This kit, or the server, is another federation's: use the kit that was made for this one.",
    )


def _reason(bad: ssl.SSLError) -> str:
    return (bad.reason or str(bad)).lower().replace("_", " ")


CHECKS = (server_name, server_port, server_tls, server_listen)
