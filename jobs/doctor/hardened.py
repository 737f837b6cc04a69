"""The site's own rules in a kit's ``local/``, compared with what our hardening writes.

The kit's ``*.default`` files are copied, hardened again, and compared. A site may change arguments of components (how
many GPUs, how often to retry) and, with a warning, its launcher; not what a job may bring, whom it may call and what
may leave.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jobs.doctor.check import SERVICES, SILO, Finding, check, fail, ok, warn
from jobs.doctor.target import Role, Target

_HARDEN = "Take the kit that `fed provision` made for this site, or harden it again: jobs.flare.hardening."
_RULES = ("class_allow_list", "class_list_enforcement_mode", "allow_log_streaming")
#: Files and folders of ``local/`` from which NVFlare loads more than ``resources.json`` names.
_EXTRA = ("*__resources.json", "*__p_resources.json", "*__j_resources.json", "job_resources.json", "custom")


@check(
    "kit.hardened",
    SERVICES,
    looks="the class allow list, rights (BYOC denied), forced filter and log streaming in the kit's local/",
    fails="one is not what hardening writes",
    remedy=_HARDEN,
    start=SILO,
    after=("kit",),
)
def hardened(target: Target) -> Finding | None:
    if target.kit is None:
        return None
    if "site" not in target.local:
        return fail("the kit was never hardened: it has no local/consilium.json")
    want = _wanted(target)
    have = {name: _read(target.kit, name) for name in want}
    for rule in _RULES:
        if have["resources.json"].get(rule) != want["resources.json"].get(rule):
            return fail(f"local/resources.json: {rule} is {_shown(have['resources.json'].get(rule))}")
    for name in want.keys() - {"resources.json"}:
        if found := next(_differences(want[name], have[name]), None):
            return fail(f"local/{name}: {found}")
    startup = _startup(target)
    if startup.get("connection_security", "mtls") != "mtls":
        return fail(f"startup: connection_security is {_shown(startup['connection_security'])}, want mtls")
    rights = "BYOC denied, our filter forced, no logs leave" if target.role is Role.SILO else "BYOC denied"
    return ok(f"{len(have['resources.json']['class_allow_list'])} classes allowed, {rights}")


@check(
    "kit.components",
    SERVICES,
    looks="the components of NVFlare that the kit's local/ names, and what else NVFlare would load from there",
    fails="never: others than ours, or code of the site's own, are a warning",
    remedy=_HARDEN,
    after=("kit", "kit.hardened"),
)
def components(target: Target) -> Finding | None:
    if target.kit is None:
        return None
    want, have = (
        _components(rules) for rules in (_wanted(target)["resources.json"], _read(target.kit, "resources.json"))
    )
    for name in sorted(want.keys() | have.keys()):
        if want.get(name) != have.get(name):
            return warn(f"component {name} is {_shown(have.get(name))}, ours is {_shown(want.get(name))}")
    if more := sorted({path.name for pattern in _EXTRA for path in (target.kit / "local").glob(pattern)}):
        return warn(f"NVFlare also loads local/{more[0]}", "Remove it unless this site put it there on purpose.")
    return ok(f"{len(have)}, as hardened")


def _wanted(target: Target) -> dict[str, dict[str, Any]]:
    """What hardening this kit would write, by file; ``consilium.json`` is the site's."""
    from jobs.flare.hardening import harden_server, harden_silo

    assert target.kit is not None
    with tempfile.TemporaryDirectory(prefix="consilium-doctor-") as folder:
        copy = Path(folder)
        (copy / "local").mkdir()
        (copy / "startup").mkdir()
        shutil.copy(target.kit / "local" / "resources.json.default", copy / "local")
        org = str(target.local.get("org", ""))
        if target.role is Role.SILO:
            harden_silo(copy, home=None, site=target.startup.site, org=org)
        else:
            shutil.copy(target.kit / "startup" / "fed_server.json", copy / "startup")
            harden_server(copy, home=None, org=org)
        made = sorted((copy / "local").glob("*.json"))
        return {
            path.name: json.loads(path.read_text(encoding="utf-8")) for path in made if path.name != "consilium.json"
        }


def _read(kit: Path, name: str) -> dict[str, Any]:
    found = json.loads((kit / "local" / name).read_text(encoding="utf-8"))
    return found if isinstance(found, dict) else {}


def _startup(target: Target) -> dict[str, Any]:
    path = target.startup.certificate.parent / ("fed_client.json" if target.role is Role.SILO else "fed_server.json")
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    inner: dict[str, Any] = found["client"] if target.role is Role.SILO else found["servers"][0]
    return inner


def _components(rules: dict[str, Any]) -> dict[str, str]:
    return {str(one.get("id")): str(one.get("path", one.get("name"))) for one in rules.get("components", [])}


def _differences(want: Any, have: Any, where: str = "") -> Iterator[str]:
    """Where two JSON values differ: "permissions.lead.byoc is any, want none"."""
    if isinstance(want, dict) and isinstance(have, dict):
        for key in sorted(want.keys() | have.keys()):
            yield from _differences(want.get(key), have.get(key), f"{where}.{key}".lstrip("."))
    elif want != have:
        yield f"{where} is {_shown(have)}, want {_shown(want)}"


def _shown(value: object) -> str:
    text = "missing" if value is None else value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 120 else f"{text[:117]}..."


CHECKS = (hardened, components)
