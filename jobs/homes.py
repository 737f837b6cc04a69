"""The folders of a federation: one home per silo, one for the aggregator, and what lies in them.

    <silo home>/        silo.json · keys/{agent,owner}.key · salt · consortium.pub · charter.bin · charters/ ·
                        policy.toml · syft/ · approvals/ · journal.jsonl · runs/ · receipts/ · security.jsonl ·
                        metrics/ · evidence/
    <aggregator home>/  aggregator.json · keys/aggregator.key · consortium.pub · charter.bin · charters/ · ledger/ ·
                        jobs/<run>/ · mlflow.db · security.jsonl · metrics/

Keys are made where they are used, are 0600 and never move. A home is 0700.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from aggregator.ledger.log import sync_folder, write_synced
from crypto.charter import Charter, Member, SignedCharter
from crypto.errors import SpecError
from crypto.keys import Identity, PublicIdentity
from jobs import release
from jobs.runtime import drain
from jobs.security_log.events import Event
from jobs.security_log.writer import SecurityLog
from silo_agent.approvals import Approvals
from silo_agent.journal import Journal
from silo_agent.policy import Policy
from silo_agent.pysyft.catalogue import Catalogue

if TYPE_CHECKING:
    from silo_agent.agent import Site

DAY = 86400
#: Files in a silo's ``evidence/``.
MOST_EVIDENCE = 16


@dataclass(frozen=True, slots=True)
class Floors:
    """The numbers of a charter. The demonstration's: c = 1, m = 2, m_e = 3."""

    colluders: int = 1
    honest: int = 2
    lane_floor: int = 3
    void_budget: int = 4
    difference_budget: int = 16

    def n_min(self, silos: int) -> int:
        """Smallest n with n > (N + c) / 2."""
        return (silos + self.colluders) // 2 + 1

    def check(self, silos: int) -> None:
        """Raise SpecError if so few silos can't make a charter."""
        if silos < max(3, self.n_min(silos)) or silos < self.honest + self.colluders:
            raise SpecError("silos", got=silos, want="at least 3")


def make_silo(home: Path, silo: str, settings: Mapping[str, object] | None = None) -> Member:
    """A silo's home with keys and salt of its own; the member to enrol. ``settings``: more for ``silo.json``."""
    _folder(home)
    for sub in ("keys", "metrics"):
        _folder(home / sub)
    agent, owner = Identity.generate(), Identity.generate()
    agent.save(home / "keys" / "agent.key")
    owner.save(home / "keys" / "owner.key")
    _private(home / "salt", os.urandom(32))
    (home / "silo.json").write_text(json.dumps({"silo": silo, **(settings or {})}) + "\n")
    return Member(silo, agent.public, owner.public)


def make_aggregator(home: Path) -> PublicIdentity:
    """The aggregator's home; its public key."""
    _folder(home)
    for sub in ("keys", "metrics", "jobs"):
        _folder(home / sub)
    identity = Identity.generate()
    identity.save(home / "keys" / "aggregator.key")
    (home / "aggregator.json").write_text("{}\n")
    return identity.public


def make_charter(
    name: str, members: Sequence[Member], aggregator: PublicIdentity, consortium: Identity, floors: Floors | None = None
) -> SignedCharter:
    """Epoch 1 of a federation, valid for a year from now."""
    floors = floors or Floors()
    now = int(time.time())
    charter = Charter(
        federation=name,
        epoch=1,
        previous=bytes(32),
        members=tuple(sorted(members, key=lambda member: member.silo)),
        aggregator=aggregator,
        n_min=floors.n_min(len(members)),
        colluders=floors.colluders,
        honest=floors.honest,
        lane_floor=floors.lane_floor,
        void_budget=floors.void_budget,
        difference_budget=floors.difference_budget,
        not_before=now - DAY,
        not_after=now + 365 * DAY,
    )
    return SignedCharter.sign(charter, consortium)


def pin(home: Path, charter: SignedCharter, consortium: PublicIdentity) -> None:
    """Put the charter and the consortium's public key into a home; every epoch stays in ``charters/``.

    A home that has a charter takes only the next epoch of it, signed by the same consortium: SpecError, BadSignature.
    """
    if (home / "charter.bin").exists():
        old, pinned = read_charter(home), PublicIdentity((home / "consortium.pub").read_bytes())
        SignedCharter.open(bytes(charter), pinned).check_succeeds(old)
        if consortium != pinned:
            raise SpecError(
                "consortium", got=consortium.fingerprint, want=f"{pinned.fingerprint}, the key that is pinned here"
            )
        replace_file(epoch_path(home, old.epoch), (home / "charter.bin").read_bytes())
    SignedCharter.open(bytes(charter), consortium)
    replace_file(epoch_path(home, charter.charter.epoch), bytes(charter))
    replace_file(home / "consortium.pub", consortium.raw)
    replace_file(home / "charter.bin", bytes(charter))


def epoch_path(home: Path, epoch: int) -> Path:
    """Where an epoch that was pinned stays: also the file to hand out to the other members."""
    return home / "charters" / f"{epoch:06d}.bin"


def pinned_epochs(home: Path) -> tuple[tuple[Charter, bytes], ...]:
    """Every epoch pinned here so far with its signed bytes, oldest first; the last is the one in force.

    Each is checked under the pinned consortium key. What a crash left in ``charters/`` before it was in force is not
    among them. Raises SpecError, BadSignature.
    """
    pinned, consortium = read_charter(home), PublicIdentity((home / "consortium.pub").read_bytes())
    found = {pinned.epoch: (pinned, (home / "charter.bin").read_bytes())}
    for path in (home / "charters").glob("*.bin"):
        data = path.read_bytes()
        charter = SignedCharter.open(data, consortium)
        if charter.epoch < pinned.epoch:
            found[charter.epoch] = (charter, data)
    return tuple(found[epoch] for epoch in sorted(found))


def read_charter(home: Path) -> Charter:
    """The pinned charter, its signature checked under the pinned consortium key."""
    try:
        consortium = PublicIdentity((home / "consortium.pub").read_bytes())
        data = (home / "charter.bin").read_bytes()
    except FileNotFoundError as missing:
        raise SpecError(
            str(missing.filename),
            got="no file",
            want="a pinned charter",
            remedy="Pin the charter that the consortium signed: charter.bin and consortium.pub.",
        ) from missing
    return SignedCharter.open(data, consortium)


def read_salt(home: Path) -> bytes:
    return (home / "salt").read_bytes()


def silo_settings(home: Path) -> dict[str, object]:
    """``silo.json``: at least ``silo``, the id. Raises SpecError for a folder that is no silo's home."""
    try:
        settings: dict[str, object] = json.loads((home / "silo.json").read_text())
        str(settings["silo"])
    except (OSError, ValueError, KeyError, TypeError) as bad:
        raise SpecError(str(home), got="no silo.json with an id", want="a silo's home") from bad
    return settings


def open_site(home: Path) -> Site:
    """Everything a silo's agent stands on. Raises SpecError where something is missing or in use."""
    from silo_agent.agent import Site  # not above: it counts for Prometheus, which must be set up before it is imported

    charter = read_charter(home)
    silo = str(silo_settings(home)["silo"])
    identity = Identity.load(home / "keys" / "agent.key")
    policy = Policy.load(home / "policy.toml")
    told = SecurityLog(home)
    if charter.member(silo).agent != identity.public:
        want, found = charter.member(silo).agent.fingerprint, identity.public.fingerprint
        told(Event.KEY_MISMATCH, role="agent", expected=want, found=found)
        raise SpecError(
            f"{silo} agent key",
            got=identity.public.fingerprint,
            want=charter.member(silo).agent.fingerprint,
            remedy="The charter names another key for this silo: restore the key, or have a new epoch signed.",
        )
    _drop_old_notes(home)
    journal = Journal(home / "journal.jsonl")
    told.policy(policy.digest.hex())
    told(
        Event.AGENT_STARTED,
        fingerprint=identity.public.fingerprint,
        charter=charter.digest.hex(),
        epoch=charter.epoch,
        policy=policy.digest.hex(),
        software=release.digest().hex(),
    )
    return Site(
        silo=silo,
        identity=identity,
        charter=charter,
        policy=policy,
        approvals=Approvals(home / "approvals", charter.member(silo).owner),
        journal=journal,
        runs=home / "runs",
        code=release.digest(),
        now=lambda: int(time.time()),
        keep=lambda name, evidence: keep_evidence(home, name, evidence),
        file=lambda name, receipt: write_once(home / "receipts", name, receipt),
        security=told,
        leaving=lambda: drain.begun(home),
    )


def _drop_old_notes(home: Path) -> None:
    """Notes of runs that this silo has countersigned, after a day in which the server might still have come back."""
    for notes in (home / "runs").glob("*.safetensors"):
        receipt = home / "receipts" / f"{notes.stem}.bin"
        if receipt.exists() and receipt.stat().st_mtime < time.time() - DAY:
            notes.unlink()


def keep_evidence(home: Path, name: str, evidence: bytes) -> None:
    """Put evidence into ``evidence/``, synced. The first of a name stays, and there is an end: whoever makes evidence
    against itself must not fill our disk. Raises OSError."""
    folder = home / "evidence"
    _folder(folder)
    if sum(1 for _ in folder.iterdir()) < MOST_EVIDENCE:
        write_once(folder, name, evidence)


def write_once(folder: Path, name: str, data: bytes) -> None:
    """A new private file, synced; one that is there stays as it is. Raises OSError."""
    _folder(folder)
    if (folder / name).exists():
        return
    with os.fdopen(os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as out:
        out.write(data)
        out.flush()
        os.fsync(out.fileno())


def open_aggregator(home: Path) -> tuple[Charter, Identity]:
    """The pinned charter and the aggregator's key."""
    charter = read_charter(home)
    charter.check_validity(int(time.time()))
    return charter, Identity.load(home / "keys" / "aggregator.key")


def _folder(path: Path) -> None:
    path.mkdir(mode=0o700, parents=True, exist_ok=True)


def replace_file(path: Path, data: bytes) -> None:
    """Write a file whole or not at all, and make it durable."""
    _folder(path.parent)
    new = path.with_name(path.name + ".new")
    write_synced(new, data)
    os.replace(new, path)
    sync_folder(path.parent)


def _private(path: Path, data: bytes) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as out:
        out.write(data)


@dataclass(frozen=True)
class Federation:
    """A federation whose homes are all on this machine: the demonstration's, and the tests'."""

    root: Path
    name: str
    silos: tuple[str, ...]

    @property
    def aggregator(self) -> Path:
        return self.root / "aggregator"

    def silo(self, silo: str) -> Path:
        return self.root / "silos" / silo

    @property
    def homes(self) -> dict[str, Path]:
        return {silo: self.silo(silo) for silo in self.silos}

    @classmethod
    def make(
        cls,
        root: Path,
        name: str,
        data: Mapping[str, Mapping[str, np.ndarray]],
        dataset: str,
        *,
        settings: Mapping[str, object] | None = None,
    ) -> Federation:
        """Homes, keys, charter and registered data for these silos. Jobs still need each data owner's approval.

        Raises SpecError if the folder is there already: a federation is never overwritten.
        """
        if root.exists():
            raise SpecError(
                "--name", got=root.name, want="a name that is not taken", remedy=f"Choose another, or remove {root}."
            )
        federation = cls(root, name, tuple(sorted(data)))
        Floors().check(len(data))
        _folder(root)
        consortium = Identity.generate()
        _folder(root / "consortium")
        consortium.save(root / "consortium" / "consortium.key")
        aggregator = make_aggregator(federation.aggregator)
        members = [make_silo(home, silo, settings) for silo, home in federation.homes.items()]
        charter = make_charter(name, members, aggregator, consortium)
        for home in (federation.aggregator, *federation.homes.values()):
            pin(home, charter, consortium.public)
        for silo, home in federation.homes.items():
            add_data(home, silo, dataset, data[silo])
        return federation


def add_data(home: Path, silo: str, name: str, arrays: Mapping[str, np.ndarray]) -> None:
    """Register a data set in a silo's catalogue, as ``fed data add`` does, with made-up rows as its mock."""
    with tempfile.TemporaryDirectory(prefix="consilium-", dir=home) as place:
        private, mock = Path(place) / "private.npz", Path(place) / "mock.npz"
        np.savez(private, allow_pickle=False, **dict(arrays))
        np.savez(mock, allow_pickle=False, **made_up(arrays))
        Catalogue(home, silo).add(name, private, mock, summary="made by the demonstration")


def made_up(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Rows of the same shape, types and range that tell nothing of the real ones: noise with labels in turn.

    Inputs that are whole numbers are tokens, and labels are the next ones.
    """
    rng = np.random.default_rng()
    classes = int(arrays["classes"])
    mock: dict[str, np.ndarray] = {"classes": np.array(classes)}
    for part, rows in (("train", 64), ("test", 32)):
        x = arrays[f"x_{part}"]
        shape = (rows, x.shape[1])
        made = rng.integers(classes, size=shape) if x.dtype.kind in "iu" else rng.normal(size=shape)
        mock[f"x_{part}"] = made.astype(x.dtype)
        mock[f"y_{part}"] = (np.arange(rows) % classes).astype(arrays[f"y_{part}"].dtype)
    return mock
