"""The charter that a home has pinned: ``consortium.pub``, ``charter.bin`` and every epoch so far in ``charters/``.

Silos' homes and the aggregator's hold the same three. ``charter.bin`` is the epoch in force; nothing is believed unless
the pinned consortium key signed it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from crypto import durable
from crypto.charter import Charter, SignedCharter
from crypto.errors import SpecError
from crypto.keys import PublicIdentity

CONSORTIUM_FILE: Final = "consortium.pub"
CHARTER_FILE: Final = "charter.bin"


@dataclass(frozen=True, slots=True)
class PinnedCharter:
    """``root``: the home, or another folder with a charter and the key to check it with."""

    root: Path

    @property
    def path(self) -> Path:
        """The signed epoch in force."""
        return self.root / CHARTER_FILE

    @property
    def consortium_path(self) -> Path:
        """The consortium's public key, 32 bytes."""
        return self.root / CONSORTIUM_FILE

    @property
    def epochs_folder(self) -> Path:
        return self.root / "charters"

    def epoch_path(self, epoch: int) -> Path:
        """Where an epoch that was pinned stays: also the file to hand out to the other members."""
        return self.epochs_folder / f"{epoch:06d}.bin"

    def epoch_files(self) -> list[Path]:
        """What lies in ``charters/``, by name. Not checked, and perhaps never in force."""
        return sorted(self.epochs_folder.glob("*.bin"))

    def exists(self) -> bool:
        return self.path.exists()

    def consortium(self) -> PublicIdentity:
        """The pinned key. Raises FileNotFoundError where nothing is pinned."""
        return PublicIdentity(self.consortium_path.read_bytes())

    def read(self) -> Charter:
        """The charter in force, its signature checked. Raises SpecError where nothing is pinned, BadSignature, and
        Malformed for one of an earlier protocol: ``newest`` reads that too."""
        return self._read(earlier=False)

    def newest(self) -> Charter:
        """The last epoch pinned here, which the next one follows: perhaps one of an earlier protocol. Raises SpecError,
        BadSignature."""
        return self._read(earlier=True)

    def _read(self, *, earlier: bool) -> Charter:
        try:
            consortium, data = self.consortium(), self.path.read_bytes()
        except FileNotFoundError as missing:
            raise SpecError(
                str(missing.filename),
                got="no file",
                want="a pinned charter",
                remedy=f"Pin the charter that the consortium signed: {CHARTER_FILE} and {CONSORTIUM_FILE}.",
            ) from missing
        return SignedCharter.open(data, consortium, earlier=earlier)

    def epochs(self) -> tuple[tuple[Charter, bytes], ...]:
        """Every epoch pinned here so far with its signed bytes, oldest first; the last is the newest.

        Each is checked under the pinned consortium key. What a crash left in ``charters/`` before it was in force is
        not among them. Raises SpecError, BadSignature.
        """
        pinned, consortium = self.newest(), self.consortium()
        found = {pinned.epoch: (pinned, self.path.read_bytes())}
        for path in self.epoch_files():
            data = path.read_bytes()
            charter = SignedCharter.open(data, consortium, earlier=True)
            if charter.epoch < pinned.epoch:
                found[charter.epoch] = (charter, data)
        return tuple(found[epoch] for epoch in sorted(found))

    def pin(self, charter: SignedCharter, consortium: PublicIdentity) -> None:
        """Put the charter and the consortium's public key here; every epoch stays in ``charters/``.

        Where a charter is pinned only its next epoch is taken, signed by the same consortium: SpecError, BadSignature.
        """
        if self.exists():
            old, pinned = self.newest(), self.consortium()
            SignedCharter.open(bytes(charter), pinned).check_succeeds(old)
            if consortium != pinned:
                raise SpecError(
                    "consortium", got=consortium.fingerprint, want=f"{pinned.fingerprint}, the key that is pinned here"
                )
            durable.replace(self.epoch_path(old.epoch), self.path.read_bytes())
        SignedCharter.open(bytes(charter), consortium)
        durable.replace(self.epoch_path(charter.charter.epoch), bytes(charter))
        durable.replace(self.consortium_path, consortium.raw)
        durable.replace(self.path, bytes(charter))
