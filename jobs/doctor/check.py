"""What a check is, and what it finds.

A check is one function of a ``Target`` with its row of the table in docs/doctor.md. It changes nothing. It finds
``pass``, ``warn`` (works, but an operator should look) or ``fail`` (does not work, or must not go on), or None where
there is nothing to check. An error of ours is a fail with its own remedy. An unexpected exception is a fail, never a
pass.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar, Final

from crypto.errors import FederationError
from jobs.doctor.target import Role, Target


class Status(StrEnum):
    PASS = "pass"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Finding:
    """``found``: a sentence with what is there. ``remedy``: what to do, where the check's own does not fit."""

    status: Status
    found: str
    remedy: str = ""


def ok(found: str) -> Finding:
    return Finding(Status.PASS, found)


def warn(found: str, remedy: str = "") -> Finding:
    return Finding(Status.WARN, found, remedy)


def fail(found: str, remedy: str = "") -> Finding:
    return Finding(Status.FAIL, found, remedy)


@dataclass(frozen=True, slots=True)
class CheckResult:
    """A finding under its check's name: what ``fed doctor`` prints. ``remedy`` is "" for a pass."""

    name: str
    status: Status
    found: str
    remedy: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """``looks``, ``fails``, ``remedy``: its row of docs/doctor.md. ``start``: roles whose start its fail refuses.
    ``after``: the checks it depends on; if one of them has failed, it is skipped."""

    name: str
    roles: frozenset[Role]
    looks: str
    fails: str
    remedy: str
    look: Callable[[Target], Finding | None]
    start: frozenset[Role] = frozenset()
    after: tuple[str, ...] = ()

    def run(self, target: Target) -> CheckResult | None:
        """What the check finds at a site. Never raises."""
        try:
            found = self.look(target)
        except FederationError as bad:
            found = fail(bad.detail, bad.remedy)
        except ModuleNotFoundError as missing:
            package = (missing.name or "a package").partition(".")[0]
            found = fail(f"could not be checked: {package} is not installed here", "See the check `packages`.")
        except Exception as broken:  # noqa: BLE001 - a check that breaks is a finding, not a traceback
            text = f"could not be checked: {type(broken).__name__}: {str(broken).partition(chr(10))[0][:200]}"
            found = fail(text, "Look at what is named; if it is in order, this is a bug of ours: report it.")
        if found is None:
            return None
        remedy = "" if found.status is Status.PASS else found.remedy or self.remedy
        return CheckResult(self.name, found.status, found.found, remedy)


#: The roles whose check it is.
SILO: Final = frozenset({Role.SILO})
AGGREGATOR: Final = frozenset({Role.AGGREGATOR})
ADMIN: Final = frozenset({Role.ADMIN})
SERVICES: Final = SILO | AGGREGATOR
CLIENTS: Final = frozenset({Role.SILO, Role.ADMIN})
ALL: Final = frozenset(Role)


def check(
    name: str,
    roles: frozenset[Role],
    *,
    looks: str,
    fails: str,
    remedy: str,
    start: frozenset[Role] = frozenset(),
    after: tuple[str, ...] = (),
) -> Callable[[Callable[[Target], Finding | None]], Check]:
    """Make a check of the decorated function."""
    return lambda look: Check(
        name=name, roles=roles, looks=looks, fails=fails, remedy=remedy, look=look, start=start, after=after
    )


class Unfit(FederationError):
    """A check failed that a start needs; ``check`` is its name. Nothing was started."""

    code: ClassVar[str] = "UNFIT"
    exit_code: ClassVar[int] = 70

    def __init__(self, result: CheckResult) -> None:
        self.check = result.name
        super().__init__(f"{result.name}: {result.found}", remedy=result.remedy)
