"""Copies of one working federation's home and kit, in each of which a test injects one fault."""

from __future__ import annotations

import json
import shutil
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from crypto.home import Home
from jobs.doctor.check import CheckResult, Status
from jobs.doctor.runner import CHECKS, run_checks
from jobs.doctor.target import KIT_FILE, Role, Target


@dataclass(frozen=True)
class SiteCopy:
    """A copy of a site's home and kit. ``now``: the time of the checks."""

    role: Role
    home: Path | None
    kit: Path | None
    now: float

    @property
    def home_folder(self) -> Path:
        assert self.home is not None
        return self.home

    @property
    def kit_folder(self) -> Path:
        assert self.kit is not None
        return self.kit

    def target(self, **changes: Any) -> Target:
        return Target(self.role, Home(self.home) if self.home else None, self.kit, **{"now": self.now, **changes})

    def later(self, days: float) -> SiteCopy:
        return replace(self, now=self.now + days * 86400)

    def edit(self, name: str, change: Any) -> None:
        """Change a JSON file of the kit."""
        path = self.kit_folder / name
        value = json.loads(path.read_text())
        change(value)
        path.write_text(json.dumps(value))

    def point(self, host: str, port: int) -> None:
        """Have the kit name another server."""
        if self.role is Role.ADMIN:
            self.edit("startup/fed_admin.json", lambda value: value["admin"].update(host=host, port=port))
        else:
            target = f"{host}:{port}"
            self.edit(
                f"startup/{KIT_FILE[self.role]}", lambda value: value["servers"][0]["service"].update(target=target)
            )


def copy_of(source: Path, target: Path) -> Path:
    shutil.copytree(source, target, symlinks=True)
    target.chmod(0o700)
    return target


def result_of(site: SiteCopy, name: str, **changes: Any) -> CheckResult | None:
    """The result of one check, with nothing read before."""
    (found,) = (check for check in CHECKS if check.name == name)
    assert site.role in found.roles
    return found.run(site.target(**changes))


def passes(site: SiteCopy, name: str, **changes: Any) -> str:
    """Check that it passes; what it found."""
    line = result_of(site, name, **changes)
    assert line is not None and (line.status, line.remedy) == (Status.PASS, ""), line
    return line.found


def finds(
    site: SiteCopy, name: str, text: str, *, warns: bool = False, remedy: str = "", **changes: Any
) -> CheckResult:
    """Check that it fails, or warns, with this text and a remedy."""
    line = result_of(site, name, **changes)
    assert line is not None and line.status is (Status.WARN if warns else Status.FAIL), line
    assert text in line.found and line.remedy and remedy in line.remedy, line
    return line


def results(site: SiteCopy, **changes: Any) -> dict[str, CheckResult]:
    return {line.name: line for line in run_checks(site.target(**changes))}


# --- certificates and a server --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Root:
    """A root of TLS certificates, as provisioning makes one."""

    name: str
    key: rsa.RSAPrivateKey
    certificate: x509.Certificate

    @classmethod
    def make(cls, name: str) -> Root:
        key = rsa.generate_private_key(65537, 2048)
        return cls(name, key, _certificate(name, key, name, key, (-1, 400), authority=True))

    def put(self, folder: Path, stem: str, name: str, days: tuple[float, float] = (-1, 360)) -> None:
        """``stem``.crt and ``stem``.key for a name, and rootCA.pem. ``days``: from and until, counted from now."""
        folder.mkdir(parents=True, exist_ok=True)
        key = rsa.generate_private_key(65537, 2048)
        made = _certificate(name, key, self.name, self.key, days)
        (folder / f"{stem}.crt").write_bytes(made.public_bytes(serialization.Encoding.PEM))
        secret = folder / f"{stem}.key"
        secret.touch(mode=0o600)
        secret.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
            )
        )
        (folder / "rootCA.pem").write_bytes(self.certificate.public_bytes(serialization.Encoding.PEM))


def _certificate(
    name: str,
    key: rsa.RSAPrivateKey,
    issuer: str,
    signer: rsa.RSAPrivateKey,
    days: tuple[float, float],
    *,
    authority: bool = False,
) -> x509.Certificate:
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder(
        x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, issuer)]),
        x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)]),
        key.public_key(),
        x509.random_serial_number(),
        now + timedelta(days=days[0]),
        now + timedelta(days=days[1]),
    )
    if authority:
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    else:
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
    return builder.sign(signer, hashes.SHA256())


@contextmanager
def listener(startup: Path | None, *, answers: bool = True, stays: bool = True) -> Iterator[int]:
    """A server with the certificate of a kit's ``startup/`` that wants one of the same root; its port.

    ``None``: it speaks no TLS and hangs up. ``answers``: whether it says a word after the handshake. ``stays``:
    or hangs up.
    """
    context = None
    if startup is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(startup / "server.crt", startup / "server.key")
        context.load_verify_locations(startup / "rootCA.pem")
        context.verify_mode = ssl.CERT_REQUIRED
        context.set_alpn_protocols(["h2"])
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while True:
                try:
                    raw, _ = server.accept()
                except OSError:
                    return  # closed: the test is over
                with raw:
                    raw.settimeout(10)
                    try:
                        if context is None:
                            continue
                        with context.wrap_socket(raw, server_side=True) as spoken:
                            heard = spoken.recv(64)
                            if answers and heard:
                                spoken.sendall(bytes(9))
                            while stays and spoken.recv(64):
                                pass
                    except OSError:
                        continue  # the other side went, or its certificate was refused

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield server.getsockname()[1]
        finally:
            server.shutdown(socket.SHUT_RDWR)
            server.close()
            thread.join()
