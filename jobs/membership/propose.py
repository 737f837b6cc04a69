"""Epochs of the charter: how the next one is made. ``diff`` shows it to people, ``accept`` puts it into homes.

The consortium's key is offline: ``next_epoch`` and ``sign`` run where it is, from the epoch before and the member
files that silos sent (``keygen``). An epoch in a file is a ``SignedCharter``; until it is signed its signature is all
zeros. Floors are lowered only on request: a change that leaves too few silos is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from crypto.charter import Charter, Member, SignedCharter, check_new_id, threshold
from crypto.charter_defaults import Floors
from crypto.encoding import VERSION, Reader
from crypto.errors import SpecError
from crypto.keys import SIGNATURE_BYTES, Identity, PublicIdentity
from crypto.transcript import DIGEST_BYTES

DAY = 86400  # seconds

#: The signature of an epoch that is not signed yet.
UNSIGNED = bytes(SIGNATURE_BYTES)
ROLES = ("agent", "owner")


# --- making an epoch ---------------------------------------------------------------------------------------------


def first_epoch(
    federation: str,
    members: Sequence[Member],
    aggregator: PublicIdentity,
    *,
    floors: Floors | None = None,
    days: int = 365,
    now: int,
) -> Charter:
    """Epoch 1, valid from a day ago. Raises SpecError for too few silos, an id twice, or a key that serves two."""
    kept = floors or Floors()
    for member in members:
        check_new_id(member.silo)
    _enough(len(members), kept)
    return Charter(
        federation=federation,
        epoch=1,
        previous=bytes(DIGEST_BYTES),
        members=tuple(sorted(members, key=lambda member: member.silo)),
        aggregator=aggregator,
        n_min=kept.n_min(len(members)),
        colluders=kept.colluders,
        honest=kept.honest,
        lane_floor=kept.lane_floor,
        not_before=now - DAY,
        not_after=now + days * DAY,
    )


def next_epoch(
    old: Charter,
    *,
    add: Sequence[Member] = (),
    remove: Sequence[str] = (),
    change: Sequence[Member] = (),
    floors: Floors | None = None,
    not_after: int | None = None,
    now: int,
) -> Charter:
    """The charter that follows ``old``. ``change``: members with new keys. ``floors``: all of them anew, or as before.

    The smallest cohort follows from the number of silos; if it was stricter than needed, it stays stricter by the same
    number. That of an earlier protocol may be too small for this one; then it is as large as needed.

    Raises SpecError for removing a silo that is no member, adding one that is, a key that another holder has or had,
    too few silos left, and an epoch that would not be valid ``now``.
    """
    members = {member.silo: member for member in old.members}
    for silo in remove:
        if members.pop(silo, None) is None:
            raise SpecError("remove", got=silo, want=f"a member of epoch {old.epoch}: {', '.join(old.silos)}")
    for member in change:
        if member.silo not in members:
            raise SpecError("change", got=member.silo, want=f"one of {', '.join(members)}")
        if members[member.silo] == member:
            raise SpecError("change", got=f"{member.silo} with the keys it has", want="a new key")
        members[member.silo] = member
    for member in add:
        check_new_id(member.silo, "add")
        if member.silo in members or member.silo in old.silos:
            raise SpecError(
                "add", got=member.silo, want="a silo that is no member", remedy="New keys of a member: --change."
            )
        members[member.silo] = member
    kept = floors or Floors(old.colluders, old.honest, old.lane_floor)
    stricter = 0 if floors else max(0, old.n_min - kept.n_min(len(old.members)))
    _enough(len(members), kept, stricter)
    charter = replace(
        old,
        epoch=old.epoch + 1,
        version=VERSION,
        budgets=(),
        previous=old.digest,
        members=tuple(members[silo] for silo in sorted(members)),
        n_min=kept.n_min(len(members)) + stricter,
        colluders=kept.colluders,
        honest=kept.honest,
        lane_floor=kept.lane_floor,
        not_after=old.not_after if not_after is None else not_after,
    )
    charter.check_validity(now)
    check_keys(charter, [old])
    return charter


def least_silos(floors: Floors, stricter: int = 0) -> int:
    """Fewest silos that can sum safely, and open a lane that only some hold. ``stricter``: added to the smallest
    cohort."""
    least = max(3, floors.lane_floor, floors.honest + floors.colluders)
    while floors.n_min(least) + stricter > least or not _safe(least, floors, stricter):
        least += 1
    return least


def _enough(silos: int, floors: Floors, stricter: int = 0) -> None:
    """Raise SpecError for fewer than ``least_silos``."""
    if silos < (least := least_silos(floors, stricter)):
        raise SpecError(
            "charter.members",
            got=f"{silos} silos",
            want=f"at least {least} with c = {floors.colluders}, m = {floors.honest}, m_e = {floors.lane_floor}",
            remedy="Enrol another silo first; the floors are never lowered automatically.",
        )


def _safe(silos: int, floors: Floors, stricter: int) -> bool:
    smallest = floors.n_min(silos) + stricter
    t = threshold(smallest, floors.colluders)
    return t <= smallest and t - floors.colluders >= floors.honest


def check_keys(new: Charter, before: Sequence[Charter]) -> None:
    """Raise SpecError if a key was another holder's in an earlier epoch: that holder could sign as the new one."""
    for old in before:
        held = {getattr(member, role): (member.silo, role) for member in old.members for role in ROLES}
        held[old.aggregator] = ("the aggregator", "aggregator")
        for member in new.members:
            for role in ROLES:
                key = getattr(member, role)
                if held.get(key, (member.silo, role)) != (member.silo, role):
                    silo, was = held[key]
                    raise SpecError(
                        f"{member.silo}.{role}",
                        got=f"{key.fingerprint}, {silo}'s {was} key in epoch {old.epoch}",
                        want="a key of its own",
                        remedy=f"{member.silo} makes new keys with `fed keygen`.",
                    )


def sign(charter: Charter, consortium: Identity, *, pinned: PublicIdentity | None = None) -> SignedCharter:
    """The consortium's signature. ``pinned``: the key that the members have pinned; another one is refused."""
    if pinned is not None and consortium.public != pinned:
        raise SpecError(
            "consortium key",
            got=consortium.public.fingerprint,
            want=f"{pinned.fingerprint}, the key that the members have pinned",
            remedy="Use the consortium's own key: no member would accept another's signature.",
        )
    return SignedCharter.sign(charter, consortium)


def unsigned(charter: Charter) -> SignedCharter:
    """The same file, not signed yet."""
    return SignedCharter(charter, UNSIGNED)


def parse(data: bytes) -> SignedCharter:
    """A file's content, its signature *not* checked: to show it, to sign it, to make the next epoch from it. It may be
    of an earlier protocol."""
    src = Reader(data)
    body, signature = src.blob(), src.fixed(SIGNATURE_BYTES)
    src.end()
    return SignedCharter(Charter.from_bytes(body, earlier=True), signature)
