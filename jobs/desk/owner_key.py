"""The data owner's key at the desk: not locked, locked by a passphrase, or kept elsewhere.

A passphrase unlocks it for one session. Wrong ones are counted for all sessions together, and each after the third
has to wait for longer.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Final

from crypto.errors import FederationError, KeyLocked
from crypto.keys import Identity, PublicIdentity, is_locked, public_of

#: Seconds without a signature after which an unlocked key is forgotten.
IDLE: Final = 15 * 60
#: Wrong passphrases before the first wait, and the longest wait in seconds.
FREE, LONGEST = 3, 300


class KeyState(StrEnum):
    PLAIN = "plain"
    LOCKED = "locked"
    UNLOCKED = "unlocked"
    ELSEWHERE = "elsewhere"
    OTHER = "other"
    """The file is another key than the charter's, or cannot be read."""


class OwnerKeyFile:
    """``path``: where the key is, if it is here. ``clock``: seconds."""

    def __init__(self, path: Path, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.path = path
        self.clock = clock
        self._wrong = 0
        self._not_before = 0.0
        self._lock = threading.Lock()

    def state(self, want: PublicIdentity) -> KeyState:
        """Of the file. ``want``: the key that the charter names."""
        if not self.path.exists():
            return KeyState.ELSEWHERE
        try:
            if public_of(self.path) != want:
                return KeyState.OTHER
            return KeyState.LOCKED if is_locked(self.path) else KeyState.PLAIN
        except FederationError:
            return KeyState.OTHER

    def open(self, passphrase: bytes) -> Identity:
        """Raises KeyLocked for a wrong passphrase, and for any while the desk waits: one try at a time."""
        with self._lock:
            if (wait := self._not_before - self.clock()) > 0:
                raise KeyLocked(
                    "The passphrase was wrong several times in a row.", remedy=f"Wait {int(wait) + 1} seconds."
                )
            try:
                found = Identity.load(self.path, passphrase)
            except KeyLocked:
                self._wrong += 1
                if self._wrong >= FREE:
                    self._not_before = self.clock() + min(2 ** (self._wrong - FREE + 2), LONGEST)
                raise
            self._wrong = 0
            return found


class Unlocked:
    """The key of one session, while it is unlocked."""

    def __init__(self, file: OwnerKeyFile) -> None:
        self.file = file
        self._key: Identity | None = None
        self._used = 0.0

    def state(self, want: PublicIdentity) -> KeyState:
        found = self.file.state(want)
        return KeyState.UNLOCKED if found is KeyState.LOCKED and self._there() is not None else found

    def unlock(self, passphrase: bytes) -> None:
        """Raises what ``OwnerKeyFile.open`` raises."""
        self._key, self._used = self.file.open(passphrase), self.file.clock()

    def identity(self) -> Identity:
        """The key, to sign with. Raises KeyLocked while it is locked, SpecError where there is none."""
        if (key := self._there()) is not None:
            self._used = self.file.clock()
            return key
        return Identity.load(self.file.path)

    def forget(self) -> None:
        self._key = None

    def _there(self) -> Identity | None:
        if self._key is not None and self.file.clock() - self._used > IDLE:
            self.forget()
        return self._key
