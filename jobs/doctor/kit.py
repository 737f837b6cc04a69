"""The startup kit: complete, this site's, of this federation, and not expired."""

from __future__ import annotations

import math
import stat

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization

from jobs.doctor.check import ADMIN, ALL, CLIENTS, SERVICES, SILO, Finding, Status, check, fail, ok, warn
from jobs.doctor.target import Role, Target

DAY = 86400
#: Fewer days left of a certificate than this is a warning, as in the alert rules.
FEW_DAYS = 14
_RENEW = "Ask the federation's administrator for a renewed kit (`fed provision`), and put it in place of this one."


@check(
    "kit",
    ALL,
    looks="the startup kit: its files are there and it is this role's",
    fails="a file is missing or damaged, or it is another role's kit",
    remedy="Unpack the kit that was made for this site, whole, and name its folder with --kit.",
    start=SERVICES,
)
def kit(target: Target) -> Finding | None:
    if target.kit is None:
        if target.role is Role.ADMIN:
            return fail("no kit was given")
        return warn("no kit was given, so nothing of it is checked", "Name it: --kit KIT.")
    startup = target.startup
    if startup.role is not target.role:
        return fail(f"{target.kit} is a kit for {startup.role}, not for {target.role}")
    for path in (startup.certificate, startup.key, startup.root):
        if not path.is_file():
            return fail(f"{path} is missing")
    if target.role is Role.AGGREGATOR:
        return ok(f"for the server, port {startup.port}")
    return ok(f"for {startup.site}, server {startup.host}:{startup.port}")


@check(
    "kit.key",
    ALL,
    looks="the TLS key in the kit: private, and the certificate's",
    fails="others may read it, or it belongs to another certificate",
    remedy="chmod 600 the key; if others could read it, have the kit renewed.",
    start=SERVICES,
    after=("kit",),
)
def kit_key(target: Target) -> Finding | None:
    if target.kit is None:
        return None
    path = target.startup.key
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        return fail(f"{path} has mode {mode:o}, want 600")
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    except (ValueError, TypeError):
        return fail(f"{path} is no key", "Unpack the kit again.")
    if _raw(key.public_key()) != _raw(target.certificate.public_key()):
        return fail(f"{path.name} is not the key of {target.startup.certificate.name}", "Unpack the kit again, whole.")
    return ok("0600, the certificate's")


@check(
    "kit.certificate",
    ALL,
    looks="the kit's certificate: signed by the kit's root, and valid now",
    fails="another root signed it, or today is outside its dates",
    remedy=_RENEW,
    start=SERVICES,
    after=("kit",),
)
def kit_certificate(target: Target) -> Finding | None:
    if target.kit is None:
        return None
    try:
        target.certificate.verify_directly_issued_by(target.root)
    except (ValueError, TypeError, InvalidSignature):
        return fail(
            f"the certificate of {common_name(target.certificate)} was not signed by the rootCA.pem beside it",
            "Parts of two kits are mixed here: unpack this site's kit again, whole.",
        )
    for what, one in (("certificate", target.certificate), ("root certificate", target.root)):
        begins, ends = one.not_valid_before_utc.timestamp(), one.not_valid_after_utc.timestamp()
        if target.now < begins:
            remedy = "Correct this machine's clock; if it is correct, ask the federation's administrator."
            return fail(f"the {what} is not valid before {_day(one.not_valid_before_utc)}", remedy)
        if target.now > ends:
            return fail(f"the {what} expired on {_day(one.not_valid_after_utc)}")
    return ok(f"signed by {common_name(target.root)}")


@check(
    "kit.days",
    ALL,
    looks="days left of the kit's certificate and of its root's",
    fails=f"never: fewer than {FEW_DAYS} days are a warning",
    remedy=_RENEW,
    after=("kit", "kit.certificate"),
)
def kit_days(target: Target) -> Finding | None:
    if target.kit is None:
        return None
    ends = min(target.certificate.not_valid_after_utc, target.root.not_valid_after_utc)
    left = math.floor((ends.timestamp() - target.now) / DAY)
    return Finding(Status.WARN if left < FEW_DAYS else Status.PASS, f"{left} days left, until {_day(ends)}")


@check(
    "kit.role",
    ADMIN,
    looks="the administrator's role in the certificate",
    fails="it names none of the roles lead, org_admin, member",
    remedy="Ask the federation's administrator for a kit with a role; only a lead can submit and abort.",
    after=("kit",),
)
def kit_role(target: Target) -> Finding | None:
    names = target.certificate.subject.get_attributes_for_oid(x509.NameOID.UNSTRUCTURED_NAME)
    role = str(names[0].value) if names else "none"
    if role not in ("project_admin", "lead", "org_admin", "member"):
        return fail(f"the role is {role}")
    return ok(f"{role}: submits and aborts" if role in ("project_admin", "lead") else f"{role}: read only")


@check(
    "kit.site",
    CLIENTS,
    looks="the site that kit, certificate and home name",
    fails="they name different sites",
    remedy="Put this site's own kit beside this site's own home.",
    start=SILO,
    after=("kit", "home"),
)
def kit_site(target: Target) -> Finding | None:
    if target.kit is None:
        return None
    names = {"its startup file": target.startup.site, "its certificate": common_name(target.certificate)}
    if target.role is Role.SILO:
        if "site" in target.local:
            names["its local/consilium.json"] = str(target.local["site"])
        if target.home_if_any is not None:
            names["the home"] = target.silo
    if len(set(names.values())) > 1:
        return fail("; ".join(f"{what} names {name}" for what, name in names.items()))
    return ok(target.startup.site)


@check(
    "kit.federation",
    SERVICES,
    looks="the federation that the kit and the pinned charter name",
    fails="the kit is of another federation than the charter",
    remedy="Use the kit of the federation whose charter is pinned in this home, or the home of the kit's federation.",
    start=SERVICES,
    after=("kit", "home"),
)
def kit_federation(target: Target) -> Finding | None:
    charter = target.charter_if_any
    if target.kit is None or charter is None:
        return None
    if charter.federation != target.startup.federation:
        return fail(f"the kit is of {target.startup.federation!r}, the charter of {charter.federation!r}")
    return ok(charter.federation)


def common_name(certificate: x509.Certificate) -> str:
    """The subject's common name, "" where it has none."""
    names = certificate.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
    return str(names[0].value) if names else ""


def _raw(key: object) -> bytes:
    return key.public_bytes(  # type: ignore[attr-defined,no-any-return]
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def _day(when: object) -> str:
    return f"{when:%Y-%m-%d}"


CHECKS = (kit, kit_key, kit_certificate, kit_days, kit_role, kit_site, kit_federation)
