"""The two state tables of a step: which event may follow which.

A session is used once, for one attempt at one step. An event that the table does not allow raises ``Unexpected`` and
leaves the state unchanged. Any other failure ends in ``REFUSED``, which is terminal; the secrets are wiped. What the
events do is in ``silo_session`` and ``server_session``.
"""

from __future__ import annotations

from enum import StrEnum
from types import TracebackType
from typing import Self

from crypto.errors import Unexpected


class SessionState(StrEnum):
    """State of a session. Both sides use the same names, so that their logs can be compared."""

    FRESH = "fresh"
    ADVERTISED = "advertised"
    DEALT = "dealt"
    READY = "ready"
    UPLOADED = "uploaded"
    COUNTED = "counted"
    ATTESTED = "attested"
    SLOTS_OPEN = "slots-open"
    LANES_OPEN = "lanes-open"
    DONE = "done"
    REFUSED = "refused"


#: silo: (state, event) → state
SILO: dict[tuple[SessionState, str], SessionState] = {
    (SessionState.FRESH, "advert"): SessionState.ADVERTISED,
    (SessionState.ADVERTISED, "deal"): SessionState.DEALT,
    (SessionState.DEALT, "open-rows"): SessionState.READY,
    (SessionState.READY, "upload"): SessionState.UPLOADED,
    (SessionState.UPLOADED, "survivors"): SessionState.COUNTED,
    (SessionState.COUNTED, "attest"): SessionState.ATTESTED,
    (SessionState.ATTESTED, "release-slots"): SessionState.SLOTS_OPEN,
    (SessionState.SLOTS_OPEN, "release-lanes"): SessionState.LANES_OPEN,
    (SessionState.LANES_OPEN, "tag"): SessionState.DONE,
    (SessionState.DONE, "stand-in"): SessionState.DONE,
}

#: server: messages of single silos keep the state; closing a phase moves on.
SERVER: dict[tuple[SessionState, str], SessionState] = {
    (SessionState.FRESH, "advert"): SessionState.FRESH,
    (SessionState.FRESH, "close-adverts"): SessionState.ADVERTISED,
    (SessionState.ADVERTISED, "deal"): SessionState.ADVERTISED,
    (SessionState.ADVERTISED, "close-deals"): SessionState.DEALT,
    (SessionState.DEALT, "header"): SessionState.DEALT,
    (SessionState.DEALT, "words"): SessionState.DEALT,
    (SessionState.DEALT, "close-uploads"): SessionState.UPLOADED,
    (SessionState.UPLOADED, "attestation"): SessionState.UPLOADED,
    (SessionState.UPLOADED, "close-attestations"): SessionState.ATTESTED,
    (SessionState.ATTESTED, "slot-shares"): SessionState.ATTESTED,
    (SessionState.ATTESTED, "open-slots"): SessionState.SLOTS_OPEN,
    (SessionState.SLOTS_OPEN, "lane-shares"): SessionState.SLOTS_OPEN,
    (SessionState.SLOTS_OPEN, "open-lanes"): SessionState.LANES_OPEN,
    (SessionState.LANES_OPEN, "tags"): SessionState.LANES_OPEN,
    (SessionState.LANES_OPEN, "close-tags"): SessionState.DONE,
}


class Transition:
    """``with transition:`` — on success the session enters its next state; on ``Unexpected`` nothing changes."""

    def __init__(self, session: Session, event: str, *, fatal: bool) -> None:
        self._session = session
        self._event = event
        self._fatal = fatal

    def __enter__(self) -> Self:
        if (self._session.state, self._event) not in self._session.table:
            raise Unexpected(f"Event {self._event!r} is not allowed in state {self._session.state.value!r}.")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        if error is None:
            self._session.state = self._session.table[self._session.state, self._event]
        elif self._fatal:
            self._session.close()


class Session:
    """State and table; ``close`` wipes and is terminal."""

    table: dict[tuple[SessionState, str], SessionState]

    def __init__(self) -> None:
        self.state = SessionState.FRESH

    def on(self, event: str, *, fatal: bool = True) -> Transition:
        return Transition(self, event, fatal=fatal)

    def close(self) -> None:
        if self.state is not SessionState.DONE:
            self.state = SessionState.REFUSED
        self.wipe()

    def wipe(self) -> None:
        """Delete every secret. Called on refusal, at the end, and when the owner of the session drops it."""
