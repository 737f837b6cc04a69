"""Who may see the desk: a token that opens one session, or the institution's own proxy that has asked for a login.

With the token the desk listens on this machine alone, and the printed address works once: it is exchanged for a cookie.
Behind a proxy every request must come from one of the proxy's addresses and carry its header with the user's name.
Either way the name in the address bar must be the desk's (a page of another site could otherwise point its own name
here), and whatever changes something carries a secret of the session that other sites cannot read.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from hmac import compare_digest
from ipaddress import IPv4Network, IPv6Network, ip_address
from typing import Final, Protocol

from jobs.desk.owner_key import Unlocked

#: Seconds after which a session ends, from its beginning and from its last request.
LONGEST, IDLE = 12 * 3600, 3600
#: Most sessions, and most pages of a session that can still be answered.
MOST_SESSIONS, MOST_PAGES = 32, 128
#: Longest name of a user that a proxy may give.
_MOST_NAME: Final = 200


Network = IPv4Network | IPv6Network


class SupportsHeader(Protocol):
    """Headers of a request, whatever the case of their names."""

    def get(self, key: str, default: str) -> str: ...


@dataclass(frozen=True, slots=True)
class Behind:
    """An authenticating proxy. ``header``: where it puts the user's name; ``addresses``: the ranges that it asks from;
    ``hosts``: the names that browsers ask it for, with the port where it is not the scheme's."""

    header: str
    addresses: tuple[Network, ...]
    hosts: frozenset[str]

    def is_from(self, address: str) -> bool:
        """Whether a connection's other end is the proxy."""
        try:
            known = ip_address(address)
        except ValueError:
            return False
        mapped = getattr(known, "ipv4_mapped", None)  # an IPv4 address at a socket of both kinds
        return any((mapped or known) in network for network in self.addresses)


@dataclass(slots=True)
class Page:
    """A page with a form, as it was shown. ``facts``: what it said; ``done``: what its form has led to."""

    job: str
    facts: Mapping[str, object]
    done: str = ""


@dataclass(slots=True)
class Session:
    """``csrf``: the secret of its forms. ``user``: the proxy's name for them, or "". ``pages``: by their number."""

    csrf: str
    user: str
    began: float
    seen: float
    key: Unlocked
    pages: dict[str, Page] = field(default_factory=dict)

    def show(self, job: str, facts: Mapping[str, object]) -> str:
        """Remember a page; its number, which its form carries."""
        number = secrets.token_urlsafe(16)
        self.pages[number] = Page(job, facts)
        for old in list(self.pages)[:-MOST_PAGES]:
            del self.pages[old]
        return number


class Access:
    """The sessions of a desk. ``hosts``: names by which browsers reach it. ``clock``: seconds."""

    def __init__(
        self,
        hosts: frozenset[str],
        *,
        new_key: Callable[[], Unlocked],
        behind: Behind | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.behind = behind
        self._hosts = frozenset(host.lower() for host in (behind.hosts if behind else hosts))
        self._new_key = new_key
        self._clock = clock
        self._token = "" if behind else secrets.token_urlsafe(32)
        self._sessions: dict[str, Session] = {}
        self._lock = threading.Lock()

    @property
    def token(self) -> str:
        """What opens the one session, until it has; "" behind a proxy."""
        return self._token

    def is_ours(self, host: str) -> bool:
        """Whether a browser asked for this desk by one of its names."""
        return host.lower() in self._hosts

    def user(self, address: str, headers: SupportsHeader) -> str | None:
        """The proxy's name for who is asking; None for a request that is not from the proxy, or names nobody."""
        if self.behind is None:
            return ""
        name = headers.get(self.behind.header, "")
        fits = 0 < len(name) <= _MOST_NAME and name.isprintable()
        return name if fits and self.behind.is_from(address) else None

    def enter(self, token: str) -> str | None:
        """Exchange the token for a session; the cookie's value. None for another token, or one that was used."""
        with self._lock:
            if not self._token or not compare_digest(token.encode(), self._token.encode()):
                return None
            self._token = ""
            return self._begin("")

    def welcome(self, user: str) -> str:
        """A session for someone whom the proxy knows; the cookie's value."""
        with self._lock:
            return self._begin(user)

    def find(self, cookie: str, user: str) -> Session | None:
        """The session of a cookie, of the same user."""
        now = self._clock()
        with self._lock:
            for value, session in list(self._sessions.items()):
                if now - session.began > LONGEST or now - session.seen > IDLE:
                    self._end(value)
            found = None
            for value, session in self._sessions.items():  # each is compared: the time tells nothing
                if compare_digest(value.encode(), cookie.encode()) and session.user == user:
                    found = session
            if found is not None:
                found.seen = now
            return found

    def leave(self, session: Session) -> None:
        """End a session, and forget the key that it unlocked."""
        with self._lock:
            for value, one in list(self._sessions.items()):
                if one is session:
                    self._end(value)

    def _begin(self, user: str) -> str:
        now = self._clock()
        while len(self._sessions) >= MOST_SESSIONS:
            self._end(min(self._sessions, key=lambda value: self._sessions[value].seen))
        value = secrets.token_urlsafe(32)
        self._sessions[value] = Session(secrets.token_urlsafe(32), user, now, now, self._new_key())
        return value

    def _end(self, value: str) -> None:
        self._sessions.pop(value).key.forget()
