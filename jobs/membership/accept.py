"""How a home accepts the next epoch of the charter, and how it gets onto the ledger.

A home accepts an epoch only between runs, only the one after its own, signed by the consortium key that it has pinned;
a silo only with its own keys in it. A silo that an epoch leaves out pins it too, as its last: from then on its agent
declines every job with an error code. Every epoch stays in ``charters/``, so what was signed under it can be verified.

New keys come into use with an epoch as well: ``keygen.renew`` stores them next to the old ones, and accepting the epoch
that names them replaces the old ones. After a crash, all of it can be repeated until it is done.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from aggregator.home import AggregatorHome
from aggregator.ledger.format import of_kind, read
from aggregator.ledger.log import Ledger
from aggregator.ledger.records import CharterRecorded
from crypto import durable
from crypto.charter import SignedCharter
from crypto.errors import BadSignature, Malformed, SpecError
from crypto.home import Home
from crypto.keys import PublicIdentity, public_of
from jobs.membership.diff import CharterDiff
from jobs.membership.propose import ROLES, UNSIGNED, check_keys, parse
from jobs.security_log.events import Event
from jobs.security_log.writer import SecurityLog
from silo_agent.home import SiloHome


def read_epoch(path: Path) -> bytes:
    """The bytes of an epoch's file, its signature not checked. Raises SpecError for what is no charter's file."""
    try:
        data = path.read_bytes()
        parse(data)
    except OSError as missing:
        raise SpecError(str(path), got=missing.strerror, want="a charter's file") from missing
    except Malformed as bad:
        raise SpecError(str(path), got=bad.detail, want="a charter's file, whole") from bad
    return data


def preview(
    home: Home, signed: bytes, *, consortium: PublicIdentity | None = None, expect_fingerprint: str | None = None
) -> CharterDiff:
    """What accepting this epoch would change here. Checks all that ``accept`` checks; changes nothing.

    ``consortium``: its public key, for a home that has pinned none yet. ``expect_fingerprint``: of that key, confirmed
    by the consortium out of band. Raises BadSignature, SpecError.
    """
    key = _consortium(home, consortium, expect_fingerprint)
    if parse(signed).signature == UNSIGNED:
        raise BadSignature("This epoch is not signed yet.", remedy="The consortium runs `fed charter sign`.")
    new = SignedCharter.open(signed, key)
    before = home.pinned.epochs() if home.pinned.exists() else ()
    old = before[-1][0] if before else None
    done = old is not None and old.digest == new.digest
    diff = CharterDiff(new, old, _silo(home), done)
    if done:
        return diff
    if old is not None:
        new.check_succeeds(old)
    elif diff.out:
        raise SpecError(
            str(home.root),
            got=f"{diff.silo}, which epoch {new.epoch} does not name",
            want="a member",
            remedy="Send the member file that `fed keygen` wrote to the consortium, for its next epoch.",
        )
    check_keys(new, [charter for charter, _ in before])
    for path, want in _keys_wanted(home, diff):
        _new_key(path, want)
    return diff


def accept(
    home: Home, signed: bytes, *, consortium: PublicIdentity | None = None, expect_fingerprint: str | None = None
) -> CharterDiff:
    """Pin an epoch at a silo or at the aggregator, there also on the ledger. Steps that are done already are skipped.

    Raises what ``preview`` raises, and SpecError while a run is under way.
    """
    with between_runs(home):
        return accept_between_runs(home, signed, consortium=consortium, expect_fingerprint=expect_fingerprint)


def accept_between_runs(
    home: Home, signed: bytes, *, consortium: PublicIdentity | None = None, expect_fingerprint: str | None = None
) -> CharterDiff:
    """``accept`` for a caller that holds ``between_runs``."""
    diff = preview(home, signed, consortium=consortium, expect_fingerprint=expect_fingerprint)
    if not diff.done:
        security_log = SecurityLog(home)
        for path, want in _keys_wanted(home, diff):
            if (new := _new_key(path, want)) is not None:
                _replace_key(path, new, diff.new.epoch - 1)
                security_log(Event.KEY_REPLACED, role=path.stem, new=want.fingerprint)
        home.pinned.pin(parse(signed), _consortium(home, consortium, expect_fingerprint))
        before = {} if diff.old is None else {"before": diff.old.digest.hex()}
        security_log(Event.CHARTER_ACCEPTED, epoch=diff.new.epoch, charter=diff.new.digest.hex(), **before)
    if diff.out:
        _forget_personal(SiloHome(home.root))
    if aggregator := _aggregator(home):
        record_charter(Ledger.open(aggregator.ledger_path, aggregator.identity()), aggregator)
    return diff


def record_charter(ledger: Ledger, home: AggregatorHome) -> None:
    """Append every epoch pinned in the aggregator's home that the ledger lacks, oldest first."""
    known = {entry.record.charter_digest for entry in of_kind(read(ledger.path), CharterRecorded)}
    for charter, signed in home.pinned.epochs():
        if (digest := charter.digest.hex()) not in known:
            ledger.append(CharterRecorded(epoch=charter.epoch, charter_digest=digest, charter=signed.hex()))


# --- between runs ------------------------------------------------------------------------------------------------


@contextmanager
def running(home: AggregatorHome) -> Iterator[None]:
    """Held by each run at the aggregator for as long as it lasts. Raises SpecError while the charter is changed."""
    with _locked(
        home.run_lock_path,
        shared=True,
        got="a change of the charter",
        want="a charter that does not change during a run",
    ):
        yield


@contextmanager
def between_runs(home: Home) -> Iterator[None]:
    """Held while no run is under way at this home and none can start. Raises SpecError if one is under way.

    At a silo it takes the agent's own lock, on its journal; at the aggregator the lock that runs hold.
    """
    path = aggregator.run_lock_path if (aggregator := _aggregator(home)) else SiloHome(home.root).journal_path
    with _locked(path, shared=False, got="a run under way", want="no run: a charter changes only between runs"):
        yield


@contextmanager
def _locked(path: Path, *, shared: bool, got: str, want: str) -> Iterator[None]:
    try:
        fd = durable.lock(path, shared=shared, wait=False)
    except BlockingIOError as held:
        raise SpecError(
            str(path.parent), got=got, want=want, remedy="Wait until it has ended, or abort it; then try again."
        ) from held
    try:
        yield
    finally:
        os.close(fd)


# --- whose home it is --------------------------------------------------------------------------------------------


def _aggregator(home: Home) -> AggregatorHome | None:
    """The home, if it is the aggregator's."""
    return found if (found := AggregatorHome(home.root)).exists() else None


def _silo(home: Home) -> str:
    return "" if _aggregator(home) else SiloHome(home.root).silo


def _consortium(home: Home, given: PublicIdentity | None, fingerprint: str | None) -> PublicIdentity:
    """The key that signs epochs: the pinned one, or the given one for a first epoch. Raises SpecError for another."""
    place = home.pinned.consortium_path
    pinned = home.pinned.consortium() if place.exists() else None
    key = pinned or given
    if key is None:
        raise SpecError(
            str(place), got="no file", want="the consortium's public key", remedy="Name it with --consortium."
        )
    if given is not None and given != key:
        raise SpecError("consortium", got=given.fingerprint, want=f"{key.fingerprint}, the key that is pinned here")
    if fingerprint is not None and "".join(fingerprint.split()).lower() != key.fingerprint.replace(" ", ""):
        raise SpecError(
            "consortium",
            got=key.fingerprint,
            want=f"the fingerprint {fingerprint}",
            remedy="Ask the consortium again out of band, not over the channel that the file came by.",
        )
    return key


def _forget_personal(home: SiloHome) -> None:
    """Remove the models that a silo has kept for itself: it leaves, and they contain what others published."""
    security_log = SecurityLog(home)
    for path in sorted(home.personal_folder.glob("*")):
        size = path.stat().st_size
        path.unlink()
        shown = path.relative_to(home.root).as_posix()
        security_log(Event.RECORD_REMOVED, kind="personal-model", path=shown, bytes=size)


# --- keys --------------------------------------------------------------------------------------------------------


def _keys_wanted(home: Home, diff: CharterDiff) -> list[tuple[Path, PublicIdentity]]:
    """Key file → the key that the epoch names for it."""
    if aggregator := _aggregator(home):
        return [(aggregator.identity_path, diff.new.aggregator)]
    if diff.out:
        return []
    member = diff.new.member(diff.silo)
    return [(home.key_path(role), getattr(member, role)) for role in ROLES]


def renewed_path(path: Path) -> Path:
    """The file of the key that is to replace the one at ``path``."""
    return path.with_name(f"{path.stem}.next.key")


def _new_key(path: Path, want: PublicIdentity) -> Path | None:
    """The renewed key's file if the epoch names that one, None if it names the one in place; else SpecError.

    A data owner's key may be kept elsewhere: where there is no file of it there is nothing to compare.
    """
    following = renewed_path(path)
    for place in (path, following):
        if place.exists() and public_of(place) == want:
            return following if place == following else None
    if path.stem == "owner" and not path.exists() and not following.exists():
        return None
    there = public_of(path)
    raise SpecError(
        f"{path.parent.parent.name} {path.stem} key",
        got=f"{want.fingerprint} in the charter",
        want=f"{there.fingerprint}, the key of this home",
        remedy="Restore the key that the charter names, or have the consortium sign an epoch with this one.",
    )


def _replace_key(path: Path, new: Path, epoch: int) -> None:
    """Put the new key in place; the old one is kept under the name of the last epoch that named it."""
    if path.exists():
        durable.move(path, path.with_name(f"{path.stem}.epoch-{epoch:06d}.key"))
    durable.move(new, path)
