"""The site's own rules in a kit's ``local/``, held against what our hardening writes.

What it writes is asked of it: the kit's ``*.default`` files are copied aside, hardened there, and compared. Arguments
of components are the site's to change (how many GPUs, how often to try again), and so is its launcher, with a warning;
what a job may bring, whom it may call and what may leave is not.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jobs.doctor.check import SERVICES, SILO, Finding, check, fail, ok, warn
from jobs.doctor.target import Place, Role

_HARDEN = "Take the kit that `fed provision` made for this site, or harden it again: jobs.flare.hardening."
_RULES = ("class_allow_list", "class_list_enforcement_mode", "allow_log_streaming")
#: Files and folders of ``local/`` by which NVFlare takes in more than ``resources.json`` says.
_BESIDES = ("*__resources.json", "*__p_resources.json", "*__j_resources.json", "job_resources.json", "custom")


@check(
    "kit.hardened",
    SERVICES,
    looks="the class allow list, rights (BYOC denied), forced filter and log streaming in the kit's local/",
    fails="one is not what hardening writes",
    remedy=_HARDEN,
    start=SILO,
    after=("kit",),
)
def hardened(place: Place) -> Finding | None:
    if place.kit is None:
        return None
    if "site" not in place.local:
        return fail("the kit was never hardened: it has no local/consilium.json")
    want = _wanted(place)
    have = {name: _read(place.kit, name) for name in want}
    for rule in _RULES:
        if have["resources.json"].get(rule) != want["resources.json"].get(rule):
            return fail(f"local/resources.json: {rule} is {_shown(have['resources.json'].get(rule))}")
    for name in want.keys() - {"resources.json"}:
        if found := next(_differences(want[name], have[name]), None):
            return fail(f"local/{name}: {found}")
    startup = _startup(place)
    if startup.get("connection_security", "mtls") != "mtls":
        return fail(f"startup: connection_security is {_shown(startup['connection_security'])}, want mtls")
    rights = "BYOC denied, our filter forced, no logs leave" if place.role is Role.SILO else "BYOC denied"
    return ok(f"{len(have['resources.json']['class_allow_list'])} classes allowed, {rights}")


@check(
    "kit.components",
    SERVICES,
    looks="the components of NVFlare that the kit's local/ names, and what else NVFlare would load from there",
    fails="never: others than ours, or code of the site's own, are a warning",
    remedy=_HARDEN,
    after=("kit", "kit.hardened"),
)
def components(place: Place) -> Finding | None:
    if place.kit is None:
        return None
    want, have = (
        _components(rules) for rules in (_wanted(place)["resources.json"], _read(place.kit, "resources.json"))
    )
    for name in sorted(want.keys() | have.keys()):
        if want.get(name) != have.get(name):
            return warn(f"component {name} is {_shown(have.get(name))}, ours is {_shown(want.get(name))}")
    if more := sorted({path.name for pattern in _BESIDES for path in (place.kit / "local").glob(pattern)}):
        return warn(f"NVFlare also takes in local/{more[0]}", "Remove it unless this site put it there on purpose.")
    return ok(f"{len(have)}, as hardened")


def _wanted(place: Place) -> dict[str, dict[str, Any]]:
    """What hardening this kit would write, by file; ``consilium.json`` is the site's."""
    from jobs.flare.hardening import harden_server, harden_silo

    assert place.kit is not None
    with tempfile.TemporaryDirectory(prefix="consilium-doctor-") as folder:
        copy = Path(folder)
        (copy / "local").mkdir()
        (copy / "startup").mkdir()
        shutil.copy(place.kit / "local" / "resources.json.default", copy / "local")
        org = str(place.local.get("org", ""))
        if place.role is Role.SILO:
            harden_silo(copy, home=None, site=place.startup.site, org=org)
        else:
            shutil.copy(place.kit / "startup" / "fed_server.json", copy / "startup")
            harden_server(copy, home=None, org=org)
        made = sorted((copy / "local").glob("*.json"))
        return {path.name: json.loads(path.read_text()) for path in made if path.name != "consilium.json"}


def _read(kit: Path, name: str) -> dict[str, Any]:
    found = json.loads((kit / "local" / name).read_text())
    return found if isinstance(found, dict) else {}


def _startup(place: Place) -> dict[str, Any]:
    path = place.startup.certificate.parent / ("fed_client.json" if place.role is Role.SILO else "fed_server.json")
    found: dict[str, Any] = json.loads(path.read_text())
    inner: dict[str, Any] = found["client"] if place.role is Role.SILO else found["servers"][0]
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
