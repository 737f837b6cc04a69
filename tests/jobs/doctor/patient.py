"""Patients: copies of one healthy federation's home and kit, in each of which a test injects one fault."""

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

from jobs.doctor.check import Line, Status
from jobs.doctor.runner import CHECKS, examine
from jobs.doctor.target import KIT_FILE, Place, Role


@dataclass(frozen=True)
class Patient:
    """``silo``, ``server``, ``admin``: kits. ``home``: silo-1's. ``now``: when it is looked at."""

    role: Role
    home: Path | None
    kit: Path | None
    now: float

    @property
    def house(self) -> Path:
        assert self.home is not None
        return self.home

    @property
    def chest(self) -> Path:
        assert self.kit is not None
        return self.kit

    def place(self, **changes: Any) -> Place:
        return Place(self.role, self.home, self.kit, **{"now": self.now, **changes})

    def later(self, days: float) -> Patient:
        return replace(self, now=self.now + days * 86400)

    def edit(self, name: str, change: Any) -> None:
        """Change a JSON file of the kit."""
        path = self.chest / name
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


def look(patient: Patient, name: str, **changes: Any) -> Line | None:
    """One check of a place that nobody has looked at."""
    (found,) = (check for check in CHECKS if check.name == name)
    assert patient.role in found.roles
    return found.line(patient.place(**changes))


def well(patient: Patient, name: str, **changes: Any) -> str:
    """What a check that passes says."""
    line = look(patient, name, **changes)
    assert line is not None and (line.status, line.remedy) == (Status.PASS, ""), line
    return line.found


def amiss(patient: Patient, name: str, words: str, *, warns: bool = False, remedy: str = "", **changes: Any) -> Line:
    """That a check finds this, and says what to do."""
    line = look(patient, name, **changes)
    assert line is not None and line.status is (Status.WARN if warns else Status.FAIL), line
    assert words in line.found and line.remedy and remedy in line.remedy, line
    return line


def visit(patient: Patient, **changes: Any) -> dict[str, Line]:
    return {line.name: line for line in examine(patient.place(**changes))}


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
