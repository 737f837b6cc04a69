"""Roles by pattern: exactly one for each name, and no pattern that matches nothing."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from fnmatch import fnmatchcase

from crypto.errors import SpecError
from silo_agent.models.description import REST

#: Names that an error lists.
_SHOWN = 5


def assigned(
    patterns: Mapping[str, str], names: Collection[str], allowed: Collection[str], where: str
) -> dict[str, str]:
    """Name → role, for every name that a pattern matches.

    ``allowed``: the roles there are. ``where``: what the error names, such as "params.model roles". Raises SpecError
    for an unknown role, a name with two roles, a pattern that matches nothing.
    """
    for pattern, role in patterns.items():
        if role not in allowed:
            raise SpecError(f"{where}, {pattern!r}", got=role, want=f"one of {', '.join(allowed)}")
    found: dict[str, tuple[str, str]] = {}
    for pattern, role in patterns.items():
        if pattern == REST:
            continue
        matched = [name for name in names if fnmatchcase(name, pattern)]
        if not matched:
            raise SpecError(
                f"{where}, {pattern!r}",
                got="a pattern that matches nothing",
                want=f"a pattern over names such as {listed(names)}",
                remedy="A pattern is a whole dotted name, or a glob: fc1 does not match fc1.weight, fc1.* does.",
            )
        for name in matched:
            if name in found and found[name][1] != role:
                both = f"{found[name][0]!r} gives {found[name][1]}, {pattern!r} gives {role}"
                raise SpecError(f"{where}, {name}", got=f"two roles: {both}", want="one role for each name")
            found[name] = pattern, role
    roles = {name: role for name, (_, role) in found.items()}
    if REST in patterns:
        rest = [name for name in names if name not in roles]
        if not rest:
            raise SpecError(
                f"{where}, {REST!r}",
                got="a pattern that matches nothing: every name has a role already",
                want="no such pattern, or others that match less",
            )
        roles |= dict.fromkeys(rest, patterns[REST])
    return roles


def listed(names: Collection[str]) -> str:
    """The first few names, for an error."""
    first = ", ".join(list(names)[:_SHOWN])
    return f"{first} and {len(names) - _SHOWN} more" if len(names) > _SHOWN else first or "none"
