"""What this silo has attested and released: append-only, synced to disk before the bytes it records leave.

A silo that lost its record of a release could be made to release again. So shares leave only after a record of them
is on disk; a run whose journal is gone is refused; and a lock keeps a second agent from using the same identity.

One JSON object a line. Kinds: ``boot`` (nonce of each start), ``joined`` (run, approval), ``advertised`` (run, step,
attempt), ``attested`` (run, step, attempt, T3), ``released`` (run, step, T3, cohort), ``peers`` (highest release
counter seen of each peer). Nothing in it is secret.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from crypto import durable
from crypto.errors import FULL, AlreadyReleased, JournalLost, NoSpace, Replay, SpecError


class Journal:
    """Open it once per agent; ``close`` releases the lock."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._file = durable.lock(path, wait=False)
        except BlockingIOError as held:
            raise SpecError(
                str(path),
                got="a journal in use",
                want="one agent per identity",
                remedy="Stop the other agent of this silo first.",
            ) from held
        self._released: dict[str, dict[int, tuple[str, tuple[str, ...]]]] = {}
        self._peers: dict[str, int] = {}
        self._adverts: dict[str, tuple[int, int]] = {}
        self._joined: dict[str, str] = {}  # run → the approval it was joined on
        self.releases = 0
        self._replay()
        self._append({"kind": "boot", "nonce": os.urandom(16).hex()})

    def _replay(self) -> None:
        whole, _ = durable.cut_torn_line(self._file)  # the write never returned, so nothing it records has left
        for number, line in enumerate(whole.split(b"\n") if whole else [], start=1):
            try:
                self._take(json.loads(line))
            except (ValueError, KeyError, TypeError) as bad:
                raise JournalLost(
                    f"Line {number} of {self.path.name} is damaged.",
                    remedy="Restore the journal from its volume; a silo without its journal may only join new runs.",
                ) from bad

    def _take(self, record: dict[str, object]) -> None:
        kind = record["kind"]
        if kind == "released":
            run, step = str(record["run"]), int(str(record["step"]))
            cohort = tuple(str(silo) for silo in record["cohort"])  # type: ignore[attr-defined]
            self._released.setdefault(run, {})[step] = (str(record["t3"]), cohort)
            self.releases += 1
        elif kind == "advertised":
            self._adverts[str(record["run"])] = (int(str(record["step"])), int(str(record["attempt"])))
        elif kind == "joined":
            self._joined[str(record["run"])] = str(record.get("approval", ""))
        elif kind == "peers":
            counters: dict[str, int] = record["releases"]  # type: ignore[assignment]
            self._peers.update(counters)

    def _append(self, record: dict[str, object]) -> None:
        """Write one line and sync it, or raise NoSpace and leave the file as it was."""
        line = json.dumps(record, sort_keys=True, separators=(",", ":")).encode() + b"\n"
        try:
            durable.append(self._file, line)
        except OSError as failed:
            if failed.errno in FULL:
                raise NoSpace(
                    "The journal's disk is full; nothing was released.", remedy="Free space on the agent's volume."
                ) from failed
            raise
        self._take(record)

    def join(self, run: str, approval: str) -> None:
        """Record that this silo takes part in a run from its start, and the digest of the approval that it uses."""
        if run not in self._joined:
            self._append({"kind": "joined", "run": run, "approval": approval})

    def uses(self, approval: str, *, besides: str = "") -> int:
        """How many runs were joined on an approval, not counting the run ``besides``."""
        return sum(used == approval and run != besides for run, used in self._joined.items())

    def knows(self, run: str) -> bool:
        return run in self._joined

    def advertise(self, run: str, step: int, attempt: int) -> None:
        """Record that an advert is about to be signed for this place: a silo that signed two would be proven a liar.

        Raises Replay if this place, or a later one, had its advert.
        """
        if (step, attempt) <= self._adverts.get(run, (-1, 0)):
            raise Replay(f"Attempt {attempt} of step {step} had its advert, or a later one had.")
        self._append({"kind": "advertised", "run": run, "step": step, "attempt": attempt})

    def attest(self, run: str, step: int, attempt: int, t3: str) -> None:
        """Record a survivor set before signing it. Raises AlreadyReleased if the step, or a later one, is spent."""
        self._check(run, step, t3)
        self._append({"kind": "attested", "run": run, "step": step, "attempt": attempt, "t3": t3})

    def release(self, run: str, step: int, t3: str, cohort: tuple[str, ...]) -> None:
        """Record a release before its shares leave: one per (run, step), above every earlier one."""
        self._check(run, step, t3)
        if step not in self._released.get(run, {}):
            self._append({"kind": "released", "run": run, "step": step, "t3": t3, "cohort": list(cohort)})

    def _check(self, run: str, step: int, t3: str) -> None:
        mine = self._released.get(run, {})
        if any(later > step for later in mine) or (step in mine and mine[step][0] != t3):
            raise AlreadyReleased(f"Shares of step {step}, or of a later one, have left this silo.")

    def release_of(self, run: str, step: int) -> tuple[str, tuple[str, ...]] | None:
        """(T3, cohort) of the release of a step, if this silo made one."""
        return self._released.get(run, {}).get(step)

    def see_peers(self, releases: Mapping[str, int]) -> None:
        """Peers' release counters. Raises JournalLost if one went back: that peer runs on an old journal."""
        for silo, count in releases.items():
            if count < self._peers.get(silo, 0):
                raise JournalLost(
                    f"{silo!r} announces fewer releases than before: its journal is an old copy.",
                    remedy=f"{silo} must restore its latest journal, or be re-enrolled by a new charter epoch.",
                )
        news = {silo: count for silo, count in releases.items() if count > self._peers.get(silo, 0)}
        if news:
            self._append({"kind": "peers", "releases": news})

    def close(self) -> None:
        os.close(self._file)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.close()
