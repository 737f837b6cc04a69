"""The two state tables of a step. Everything that decides what may follow what lives here.

A session is used once, for one attempt at one step. An event that the table does not allow raises ``Unexpected`` and
leaves the state as it was; any other failure ends in ``REFUSED``, which is terminal and has wiped the secrets. The
tables do not know what the events do: see ``silo_session`` and ``server_session``.
"""

from __future__ import annotations

from enum import StrEnum
from types import TracebackType
from typing import Self

from crypto.errors import Unexpected


class State(StrEnum):
    """Where a session stands. The same names on both sides, so a log of one reads beside a log of the other."""

    FRESH = "fresh"
    ADVERTISED = "advertised"
    DEALT = "dealt"
    READY = "ready"
    UPLOADED = "uploaded"
    COUNTED = "counted"
    ATTESTED = "attested"
    SLOTS_OPEN = "slots-open"
    DONE = "done"
    REFUSED = "refused"


#: silo: (state, event) → state
SILO: dict[tuple[State, str], State] = {
    (State.FRESH, "advert"): State.ADVERTISED,
    (State.ADVERTISED, "deal"): State.DEALT,
    (State.DEALT, "open-rows"): State.READY,
    (State.READY, "upload"): State.UPLOADED,
    (State.UPLOADED, "survivors"): State.COUNTED,
    (State.COUNTED, "attest"): State.ATTESTED,
    (State.ATTESTED, "release-slots"): State.SLOTS_OPEN,
    (State.SLOTS_OPEN, "release-lanes"): State.DONE,
}

#: server: messages of single silos keep the state; closing a phase moves on.
SERVER: dict[tuple[State, str], State] = {
    (State.FRESH, "advert"): State.FRESH,
    (State.FRESH, "close-adverts"): State.ADVERTISED,
    (State.ADVERTISED, "deal"): State.ADVERTISED,
    (State.ADVERTISED, "close-deals"): State.DEALT,
    (State.DEALT, "header"): State.DEALT,
    (State.DEALT, "words"): State.DEALT,
    (State.DEALT, "close-uploads"): State.UPLOADED,
    (State.UPLOADED, "attestation"): State.UPLOADED,
    (State.UPLOADED, "close-attestations"): State.ATTESTED,
    (State.ATTESTED, "slot-shares"): State.ATTESTED,
    (State.ATTESTED, "open-slots"): State.SLOTS_OPEN,
    (State.SLOTS_OPEN, "lane-shares"): State.SLOTS_OPEN,
    (State.SLOTS_OPEN, "open-lanes"): State.DONE,
}


class Transition:
    """``with transition:`` — on success the session moves on; on ``Unexpected`` nothing happened."""

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

    table: dict[tuple[State, str], State]

    def __init__(self) -> None:
        self.state = State.FRESH

    def on(self, event: str, *, fatal: bool = True) -> Transition:
        return Transition(self, event, fatal=fatal)

    def close(self) -> None:
        if self.state is not State.DONE:
            self.state = State.REFUSED
        self.wipe()

    def wipe(self) -> None:
        """Forget every secret. Called on refusal, at the end, and when the owner lets go."""
