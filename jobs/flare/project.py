"""The project file of ``fed provision``: who is to get an NVFlare startup kit. TOML, every field checked by its path.

federation = "clinics"                      # as in the charter
org = "consortium"                          # whose the server is
server = {host = "fed.example.org", port = 8002}

[silos.anna]                                # ids as in the charter
org = "anna_hospital"

[admins."kim@example.org"]
org = "consortium"
role = "lead"                               # lead submits and aborts; org_admin and member look on
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from crypto import text_files
from crypto.charter import check_new_id
from crypto.errors import SpecError

ROLES: Final = ("lead", "org_admin", "member")
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_ORG: Final = re.compile(r"[A-Za-z0-9_]{1,63}")
_AN_ORG: Final = "an organisation: letters, digits and _"
_HOST: Final = re.compile(
    r"(?=.{1,64}$)(?!.*\.\d+$)(?!\d+$)[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*"
)
#: Administrators' names. No silo's id has an @.
ADMIN_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,30}@[A-Za-z0-9][A-Za-z0-9.-]{0,30}")


@dataclass(frozen=True, slots=True)
class Admin:
    org: str
    role: str


@dataclass(frozen=True, slots=True)
class Project:
    """``host``, ``port``: where silos and admins find the server. ``silos``: id → organisation."""

    federation: str
    org: str
    host: str
    port: int
    silos: Mapping[str, str]
    admins: Mapping[str, Admin]

    @classmethod
    def load(cls, path: Path) -> Project:
        """Raises SpecError, which names the field."""
        table = _Table(str(path), text_files.read_toml(path, "a project file"))
        server = table.table("server")
        project = cls(
            federation=table.text("federation", _NAME, "a name of letters, digits, . _ and -, at most 63"),
            org=table.text("org", _ORG, _AN_ORG),
            host=server.text("host", _HOST, "a DNS name of at most 64 characters, no address: certificates name it"),
            port=server.port("port"),
            silos={name: one.text("org", _ORG, _AN_ORG) for name, one in table.tables("silos", _silo)},
            admins={
                name: Admin(one.text("org", _ORG, _AN_ORG), one.word("role", ROLES))
                for name, one in table.tables("admins", _admin)
            },
        )
        table.end()
        if project.host in project.silos:
            raise SpecError(f"{path}: silos", got=project.host, want="ids other than the server's host")
        return project


def _silo(where: str, name: str) -> None:
    check_new_id(name, where)


def _admin(where: str, name: str) -> None:
    if not ADMIN_NAME.fullmatch(name):
        raise SpecError(where, got=name, want="an admin's name, like kim@example.org")


class _Table:
    """A table of the file, taken apart field by field; ``end`` refuses what nobody asked for."""

    def __init__(self, path: str, found: Mapping[str, Any]) -> None:
        self._path = path
        self._left = dict(found)
        self._below: list[_Table] = []

    def _take(self, name: str, want: str) -> Any:
        if name not in self._left:
            raise SpecError(f"{self._path}: {name}", got="nothing", want=want)
        return self._left.pop(name)

    def text(self, name: str, pattern: re.Pattern[str], want: str) -> str:
        value = self._take(name, want)
        if not isinstance(value, str) or not pattern.fullmatch(value):
            raise SpecError(f"{self._path}: {name}", got=value, want=want)
        return value

    def word(self, name: str, words: tuple[str, ...]) -> str:
        value = self._take(name, want := " | ".join(words))
        if value not in words:
            raise SpecError(f"{self._path}: {name}", got=value, want=want)
        return str(value)

    def port(self, name: str) -> int:
        value = self._take(name, want := "a port, 1 to 65535")
        if type(value) is not int or not 1 <= value <= 65535:
            raise SpecError(f"{self._path}: {name}", got=value, want=want)
        return value

    def table(self, name: str) -> _Table:
        value = self._take(name, "a table")
        if not isinstance(value, dict):
            raise SpecError(f"{self._path}: {name}", got=value, want="a table")
        below = _Table(f"{self._path}: {name}", value)
        self._below.append(below)
        return below

    def tables(self, name: str, check: Callable[[str, str], None]) -> list[tuple[str, _Table]]:
        """The tables in a table, by their names. ``check(where, name)`` raises for a bad name."""
        outer = self.table(name)
        if not outer._left:
            raise SpecError(f"{self._path}: {name}", got="nothing", want="one or more")
        for key in outer._left:
            check(f"{self._path}: {name}", key)
        return [(key, outer.table(key)) for key in list(outer._left)]

    def end(self) -> None:
        for below in self._below:
            below.end()
        if self._left:
            raise SpecError(self._path, got=sorted(self._left), want="no other fields")
