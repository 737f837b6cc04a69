"""What is installed: the Python, the packages and their versions, and that ``crypto`` and ``jobs`` are ours.

The required versions are those of our own package's metadata, so an institution needs no other file. Other projects
use the names of our four packages too: PyPI has a ``crypto``.
"""

from __future__ import annotations

import platform
import re
from importlib import metadata, util
from pathlib import Path
from typing import Final

from jobs.doctor.check import ALL, Finding, check, fail, ok
from jobs.doctor.target import Role, Target
from jobs.release import DISTRIBUTION, PACKAGES, digest, requirements

#: The extras that a role needs in addition to the base.
EXTRAS: Final = {Role.SILO: ("silo", "flare"), Role.AGGREGATOR: ("aggregator", "flare"), Role.ADMIN: ("flare",)}
_REINSTALL: Final = (
    "Install our wheel by its path into a fresh virtual environment: pip install -c constraints.txt './WHEEL[EXTRAS]'."
)

_BOUND = re.compile(r"\s*(>=|<=|==|!=|~=|<|>)\s*([0-9][0-9.]*)")


@check(
    "python",
    ALL,
    looks="the version of Python",
    fails="this release does not support it",
    remedy="Make the virtual environment with the Python that is named.",
)
def python(target: Target) -> Finding | None:
    want = metadata.metadata(DISTRIBUTION)["Requires-Python"] or ""
    have = platform.python_version()
    return ok(have) if fits(have, want) else fail(f"{have}, want {want}")


@check(
    "packages",
    ALL,
    looks="the packages that this role needs, and their versions, by our own package's metadata",
    fails="one is missing, or of another version",
    remedy=_REINSTALL,
)
def packages(target: Target) -> Finding | None:
    wanted = {name: bounds for name, bounds, extra in requirements() if extra in ("", *EXTRAS[target.role])}
    problems = []
    for name, bounds in sorted(wanted.items()):
        try:
            have = metadata.version(name)
        except metadata.PackageNotFoundError:
            problems.append(f"{name} is missing")
            continue
        if not fits(have, bounds):
            problems.append(f"{name} is {have}, want {bounds}")
    if problems:
        return fail("; ".join(problems), _REINSTALL.replace("EXTRAS", ",".join(EXTRAS[target.role])))
    return ok(f"{len(wanted)}, all in the required versions")


@check(
    "packages.ours",
    ALL,
    looks=f"where Python finds {', '.join(PACKAGES)}, and who installed packages of these names",
    fails="one of them is another project's, or two projects share a folder",
    remedy="Uninstall the other package, then install our wheel again by its path: some files may not be ours.",
)
def ours(target: Target) -> Finding | None:
    root = Path(__file__).resolve().parents[2]
    owners = metadata.packages_distributions()
    for name in PACKAGES:
        found = util.find_spec(name)
        origin = Path(found.origin).resolve() if found is not None and found.origin else None
        if origin != root / name / "__init__.py":
            return fail(f"{name} is found at {origin}, ours is in {root}")
        if others := sorted(set(owners.get(name, ())) - {DISTRIBUTION}):
            return fail(f"{name} is also installed by {', '.join(others)}")
    return ok(f"in {root}")


@check(
    "software",
    ALL,
    looks="the digest over the source of our packages, which approvals and runs name",
    fails="never: compare it with the other sites'",
    remedy="Install the release that the federation has agreed on.",
)
def software(target: Target) -> Finding | None:
    return ok(digest().hex())


def fits(version: str, bounds: str) -> bool:
    """Whether a version lies within bounds such as ">=2.13,<2.14"; what follows its numbers is ignored."""
    have = _numbers(version)
    for sign, text in _BOUND.findall(bounds):
        want = _numbers(text)
        width = max(len(have), len(want))
        a, b = (numbers + (0,) * (width - len(numbers)) for numbers in (have, want))
        held = {">=": a >= b, "<=": a <= b, "==": a == b, "!=": a != b, "<": a < b, ">": a > b}
        if not held.get(sign, a >= b and have[: len(want) - 1] == want[:-1]):
            return False
    return True


def _numbers(version: str) -> tuple[int, ...]:
    found = re.match(r"\d+(?:\.\d+)*", version)
    return tuple(int(part) for part in found[0].split(".")) if found else ()


CHECKS = (python, packages, ours, software)
