"""What this silo has attested, released and spent: append-only, synced to disk before the bytes it records leave.

A silo that lost its record of a release could be made to release again. So shares leave only after a record of them
is on disk; a run whose journal is gone is refused; and a lock keeps a second agent from using the same identity.

One JSON object a line: ``kind``, and the fields of that kind's class in ``KINDS``. Every reader of a journal decodes
lines with ``parse_record``. An unknown kind is refused: it may be a promise that this software does not know. Nothing
in a journal is secret.

What private jobs spent of a data set is in the journal too, since a lost or older journal must not give it back. Peers
notice one by its releases; that spending is missing is noticed here: a file beside the journal has its number.
"""

from __future__ import annotations

import json
import os
import re
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Final, Self, get_type_hints

from crypto import durable
from crypto.atoms import Openings
from crypto.charter import Charter
from crypto.errors import FULL, AlreadyReleased, JournalLost, Malformed, NoSpace, Replay, SpecError
from crypto.opened_sets import OpenedSet, Told
from crypto.transcript import PROTOCOL

# --- records ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Record:
    """One line. ``run``: the whole run id; ``t3``, ``approval``: digests; all in hex. ``step``: its number, from 0."""

    kind: ClassVar[str]

    def __bytes__(self) -> bytes:
        """The line, with its newline."""
        found = {"kind": self.kind, **asdict(self)}
        return json.dumps(found, sort_keys=True, separators=(",", ":")).encode() + b"\n"


@dataclass(frozen=True, slots=True)
class Boot(Record):
    """An agent was started. ``nonce``: random. ``protocol``: of the releases that follow; old journals name none, and
    have no records of what opened."""

    kind = "boot"

    nonce: str
    protocol: str = ""


@dataclass(frozen=True, slots=True)
class Joined(Record):
    """The silo takes part in a run from its start. ``approval``: the one that it uses; old journals name none."""

    kind = "joined"

    run: str
    approval: str = ""


@dataclass(frozen=True, slots=True)
class Advertised(Record):
    """An advert is about to be signed."""

    kind = "advertised"

    run: str
    step: int
    attempt: int


@dataclass(frozen=True, slots=True)
class Attested(Record):
    """A survivor set is about to be signed."""

    kind = "attested"

    run: str
    step: int
    attempt: int
    t3: str


@dataclass(frozen=True, slots=True)
class Released(Record):
    """Shares of a step are about to leave. ``cohort``: the silos of U3, in order."""

    kind = "released"

    run: str
    step: int
    t3: str
    cohort: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Opened(Record):
    """Shares of sections or lanes are about to leave. ``told``: over which sets, as other silos are told
    (``crypto.opened_sets.Told``), in base64."""

    kind = "opened"

    run: str
    step: int
    told: str


@dataclass(frozen=True, slots=True)
class Peers(Record):
    """``releases``: peer → its release counter, of those whose counter is higher than before."""

    kind = "peers"

    releases: Mapping[str, int]


#: The form of ``Spent`` that this release writes, and the newest that it can add up.
ACCOUNT: Final = 1


@dataclass(frozen=True, slots=True)
class Spent(Record):
    """A noised contribution of a private job is about to leave. ``data``: commitment of the rows, ``job``: digest of
    the job, both in hex. ``noise``, ``rate``, ``count``: of its gradient steps, as
    ``silo_agent.privacy.accountant.Release``; the first two as Python writes the float, so that they are the same
    number again. ``accountant``: name and version that allowed it. ``account``: the form of this record."""

    kind = "spent"

    run: str
    step: int
    job: str
    data: str
    unit: str
    mechanism: str
    noise: str
    rate: str
    count: int
    accountant: str
    account: int = ACCOUNT


KINDS: Final[Mapping[str, type[Record]]] = {
    cls.kind: cls for cls in (Boot, Joined, Advertised, Attested, Released, Opened, Peers, Spent)
}


def _of(kind: type) -> Callable[[Any], Any]:
    def load(value: Any) -> Any:
        if type(value) is not kind:
            raise ValueError(f"{type(value).__name__} instead of {kind.__name__}")
        return value

    return load


_text, _count, _list, _map = _of(str), _of(int), _of(list), _of(dict)

#: Type of a field → how its value is made from JSON. Each raises ValueError for another shape.
_LOADS: Final[Mapping[Any, Callable[[Any], Any]]] = {
    str: _text,
    int: _count,
    tuple[str, ...]: lambda value: tuple(map(_text, _list(value))),
    Mapping[str, int]: lambda value: {key: _count(count) for key, count in _map(value).items()},
}


def _fields(cls: type[Record]) -> dict[str, Callable[[Any], Any]]:
    hints = get_type_hints(cls)
    return {one.name: _LOADS[hints[one.name]] for one in fields(cls)}


_FIELDS: Final = {cls: _fields(cls) for cls in KINDS.values()}


def parse_record(line: bytes) -> Record:
    """The record of a line without its newline. Raises ValueError for anything else."""
    try:
        found = json.loads(line)
        cls = KINDS[found.pop("kind")]
        return cls(**{name: _FIELDS[cls][name](value) for name, value in found.items()})
    except (KeyError, TypeError, AttributeError, RecursionError) as bad:
        raise ValueError(f"not a record of a journal: {bad}") from bad


def mark_of(journal: Path) -> Path:
    """The file beside a journal with its number of records of spending."""
    return journal.with_suffix(".spent")


def read_mark(path: Path) -> int:
    """The number in it; 0 where there is no file. Raises JournalLost for anything else in it."""
    try:
        text = path.read_text(encoding="ascii")
        if not re.fullmatch(r"(0|[1-9][0-9]{0,17})", text):
            raise ValueError(text[:20])
        return int(text)
    except FileNotFoundError:
        return 0
    except (OSError, ValueError) as bad:
        raise JournalLost(
            f"{path.name} cannot be read: it says how much privacy was spent here.",
            remedy="Restore it, or write the number of lines of kind spent in the latest journal into it.",
        ) from bad


# --- the file --------------------------------------------------------------------------------------------------------


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
        self._released: dict[str, dict[int, str]] = {}  # run → step → T3
        self._peers: dict[str, int] = {}
        self._adverts: dict[str, tuple[int, int]] = {}
        self._opened: dict[bytes, dict[frozenset[str], Told]] = {}  # quantity → set → what was last told of it
        self._protocol = ""  # of the agent that wrote the records being read
        self._earlier: set[frozenset[str]] = set()
        self._joined: dict[str, str] = {}  # run → the approval it was joined on
        self._spent: list[Spent] = []
        self.releases = 0
        try:
            self._replay()
            self._check_mark()
        except BaseException:
            os.close(self._file)
            raise
        self._append(Boot(os.urandom(16).hex(), PROTOCOL))

    def _replay(self) -> None:
        whole, _ = durable.cut_torn_line(self._file)  # the write never returned, so nothing it records has left
        for number, line in enumerate(whole.split(b"\n") if whole else [], start=1):
            try:
                self._take(parse_record(line))
            except (ValueError, Malformed) as bad:
                raise JournalLost(
                    f"Line {number} of {self.path.name} is damaged.",
                    remedy="Restore the journal from its volume; a silo without its journal may only join new runs.",
                ) from bad

    def _take(self, record: Record) -> None:
        match record:
            case Boot(protocol=protocol):
                self._protocol = protocol
            case Released(run, step, t3, cohort):
                self._released.setdefault(run, {})[step] = t3
                self.releases += 1
                if not self._protocol:
                    self._earlier.add(frozenset(cohort))
            case Opened(told=encoded):
                told = Told.from_bytes(b64decode(encoded, validate=True))
                for quantity, silos in told.sets:
                    self._opened.setdefault(quantity, {})[silos] = told
            case Advertised(run, step, attempt):
                self._adverts[run] = (step, attempt)
            case Joined(run, approval):
                self._joined[run] = approval
            case Peers(releases):
                self._peers.update(releases)
            case Spent(account=account):
                if account > ACCOUNT:
                    raise JournalLost(
                        f"{self.path.name} has a privacy account of form {account}; this release knows form {ACCOUNT}.",
                        remedy="Install the release that wrote it, or a newer one.",
                    )
                self._spent.append(record)

    @property
    def mark_path(self) -> Path:
        """How many records of spending there are, in decimal."""
        return mark_of(self.path)

    def _check_mark(self) -> None:
        """Raise JournalLost if there were more records of spending than the journal has."""
        wanted = read_mark(self.mark_path)
        if wanted > len(self._spent):
            raise JournalLost(
                f"{self.path.name} has {len(self._spent)} records of privacy spent; there were {wanted}: it is an "
                "older copy.",
                remedy="Restore the latest journal from its volume: what was spent stays spent.",
            )

    def spend(self, record: Spent) -> None:
        """Record spending, before what it paid for leaves. Raises NoSpace: then nothing may leave, but what is on disk
        counts."""
        self._append(record)
        try:
            durable.replace(self.mark_path, str(len(self._spent)).encode(), hidden=True)
        except OSError as failed:
            raise NoSpace(
                f"{self.mark_path.name} could not be written: {failed.strerror}.",
                remedy="Free space on the agent's volume.",
            ) from failed

    @property
    def spent(self) -> tuple[Spent, ...]:
        """All spending of private jobs, in order."""
        return tuple(self._spent)

    def _append(self, record: Record) -> None:
        """Write one line and sync it, or raise NoSpace and leave the file as it was."""
        try:
            durable.append(self._file, bytes(record))
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
            self._append(Joined(run, approval))

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
        self._append(Advertised(run, step, attempt))

    def attest(self, run: str, step: int, attempt: int, t3: str) -> None:
        """Record a survivor set before signing it. Raises AlreadyReleased if the step, or a later one, is spent."""
        self._check(run, step, t3)
        self._append(Attested(run, step, attempt, t3))

    def release(self, run: str, step: int, t3: str, cohort: tuple[str, ...]) -> None:
        """Record a release before its shares leave: one per (run, step), above every earlier one."""
        self._check(run, step, t3)
        if step not in self._released.get(run, {}):
            self._append(Released(run, step, t3, cohort))

    def open(self, run: str, step: int, told: Told) -> None:
        """Record over which sets sums are about to open, before the shares leave."""
        if told.sets:
            self._append(Opened(run, step, b64encode(bytes(told)).decode()))

    def openings(self, quantity: bytes) -> Openings:
        """The sets over which this silo counts sums of a quantity as opened, in all runs."""
        return Openings(frozenset(self._opened.get(quantity, ())))

    @property
    def earlier_cohorts(self) -> frozenset[frozenset[str]]:
        """The cohorts, as silos, of this silo's releases under a protocol that kept no record of what opened."""
        return frozenset(self._earlier)

    def told(self, quantities: Iterable[bytes], charter: Charter) -> tuple[Told, ...]:
        """What to tell the others of these quantities: each set once, as far as members of this charter prove it."""
        known: set[OpenedSet] = set()
        telling = []
        for quantity in sorted(set(quantities)):
            for silos, told in self._opened.get(quantity, {}).items():
                if (quantity, silos) not in known and (proven := told.under(charter)):
                    known |= set(told.sets)
                    telling.append(proven)
        return tuple(telling)

    def _check(self, run: str, step: int, t3: str) -> None:
        mine = self._released.get(run, {})
        if any(later > step for later in mine) or mine.get(step, t3) != t3:
            raise AlreadyReleased(f"Shares of step {step}, or of a later one, have left this silo.")

    def release_of(self, run: str, step: int) -> str | None:
        """T3 of the release of a step, if this silo made one."""
        return self._released.get(run, {}).get(step)

    def see_peers(self, releases: Mapping[str, int]) -> None:
        """Peers' release counters. Raises JournalLost, which blames the peer, if one went back: that peer runs on an
        old journal, or has announced a false number before. Both are its own trouble: others go on without it."""
        for silo, count in releases.items():
            if count < self._peers.get(silo, 0):
                raise JournalLost(
                    f"{silo!r} announces fewer releases than before: its journal is an old copy.",
                    blame=silo,
                    remedy=f"{silo} must restore its latest journal, or be re-enrolled by a new charter epoch.",
                )
        news = {silo: count for silo, count in releases.items() if count > self._peers.get(silo, 0)}
        if news:
            self._append(Peers(news))

    def close(self) -> None:
        os.close(self._file)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.close()
