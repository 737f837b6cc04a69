"""The journal's record of what opened: written before shares leave, read in all runs, told as far as it is proven."""

from __future__ import annotations

import errno
from base64 import b64encode
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest

from crypto import durable
from crypto.charter import Member
from crypto.errors import JournalLost, NoSpace
from crypto.messages import Attestation
from crypto.opened_sets import OpenedSet, SessionSets, Told
from silo_agent.journal import Boot, Journal, Opened, Released, parse_record
from tests.federation import Federation, identity

RUN, OTHER_RUN = "aa" * 32, "bb" * 32
ROWS, UPDATE = b"r" * 32, b"u" * 32
FEDERATION = Federation(5)
#: t(n_min): so many signatures prove a set.
LEAST = FEDERATION.charter.threshold(FEDERATION.charter.n_min)
ALL = frozenset(f"{silo}:00" for silo in FEDERATION.silos)
FOUR = ALL - {"silo-5:00"}


def told(sets: Iterable[OpenedSet], *, t3: bytes = b"t" * 32, signed: int = LEAST, opened: object = None) -> Told:
    """What the survivors of a session attested to, as one of them records it. ``opened``: all of the sets, or some."""
    sets = list(sets)
    session = SessionSets.of(t3, b"s" * 32, ALL, sets)
    attestations = [
        Attestation(silo=silo, t3=t3, sets=session.digest).sign(FEDERATION.identities[silo])
        for silo in FEDERATION.silos[:signed]
    ]
    return Told.of(session, sets if opened is None else opened, attestations)  # type: ignore[arg-type]


def test_what_opened_is_known_in_every_run_and_after_a_restart(tmp_path: Path) -> None:
    with Journal(tmp_path / "j") as journal:
        journal.open(RUN, 0, told([(ROWS, ALL), (UPDATE, ALL)]))
        journal.open(OTHER_RUN, 3, told([(ROWS, FOUR)], t3=b"v" * 32))
        before = {quantity: journal.openings(quantity) for quantity in (ROWS, UPDATE, b"x" * 32)}
    assert [found.sets for found in before.values()] == [{ALL, FOUR}, {ALL}, frozenset()]
    with Journal(tmp_path / "j") as again:
        assert {quantity: again.openings(quantity) for quantity in before} == before


def test_only_what_this_silo_let_open_counts(tmp_path: Path) -> None:
    """The digest that all signed is of every set of the session; a section or lane that stayed shut is not opened."""
    with Journal(tmp_path / "j") as journal:
        journal.open(RUN, 0, told([(ROWS, ALL), (UPDATE, FOUR)], opened=[(UPDATE, FOUR)]))
        assert not journal.openings(ROWS).sets and journal.openings(UPDATE).sets == {FOUR}
        (one,) = journal.told([ROWS, UPDATE], FEDERATION.charter)
        assert one.sets == ((UPDATE, FOUR),) and not journal.told([ROWS], FEDERATION.charter)
    with Journal(tmp_path / "j") as again:
        again.open(RUN, 1, told([(ROWS, ALL)], opened=[]))
        assert not again.openings(ROWS).sets
    assert (tmp_path / "j").read_text().count('"opened"') == 1, "nothing opened, nothing to record"


def test_the_record_has_these_bytes_on_disk(tmp_path: Path) -> None:
    one = told([(ROWS, ALL)])
    with Journal(tmp_path / "j") as journal:
        journal.open(RUN, 2, one)
    line = (tmp_path / "j").read_bytes().splitlines(keepends=True)[-1]
    text = b64encode(bytes(one)).decode()
    want = f'{{"kind":"opened","run":"{RUN}","step":2,"told":"{text}"}}\n'
    assert line == want.encode() == bytes(parse_record(line[:-1]))


def test_a_full_disk_records_no_opening(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(fd: int, data: bytes, **how: bool) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with Journal(tmp_path / "j") as journal:
        before = (tmp_path / "j").read_bytes()
        with monkeypatch.context() as patched:
            patched.setattr(durable, "append", full)
            with pytest.raises(NoSpace):
                journal.open(RUN, 0, told([(ROWS, ALL)]))
        assert (tmp_path / "j").read_bytes() == before and not journal.openings(ROWS).sets


def test_a_torn_record_of_an_opening_never_left_and_is_cut(tmp_path: Path) -> None:
    with Journal(tmp_path / "j") as journal:
        journal.open(RUN, 0, told([(ROWS, ALL)]))
        journal.open(RUN, 1, told([(ROWS, FOUR)]))
    whole = (tmp_path / "j").read_bytes()
    (tmp_path / "j").write_bytes(whole[:-9])
    with Journal(tmp_path / "j") as again:
        assert again.openings(ROWS).sets == {ALL}


@pytest.mark.parametrize("text", ["no base64", b64encode(b"no record").decode(), "", b64encode(bytes(99)).decode()])
def test_a_damaged_record_of_an_opening_is_a_lost_journal(tmp_path: Path, text: str) -> None:
    """Without it this silo would let open what it must not: it takes part in nothing until the journal is back."""
    (tmp_path / "j").write_bytes(bytes(Opened(RUN, 0, text)))
    with pytest.raises(JournalLost, match="Line 1"):
        Journal(tmp_path / "j")


def test_each_set_is_told_once_with_its_latest_proof(tmp_path: Path) -> None:
    first, second = told([(ROWS, ALL), (UPDATE, ALL)]), told([(ROWS, ALL)], t3=b"v" * 32)
    with Journal(tmp_path / "j") as journal:
        for step, one in enumerate((first, second, told([(ROWS, FOUR)], t3=b"w" * 32))):
            journal.open(RUN, step, one)
        telling = journal.told([ROWS], FEDERATION.charter)
        assert sorted(sorted(silos) for one in telling for _, silos in one.sets) == [sorted(FOUR), sorted(ALL)]
        assert second in telling and first not in telling
        assert first in journal.told([UPDATE], FEDERATION.charter)
        assert not journal.told([b"x" * 32], FEDERATION.charter)


def test_what_is_not_proven_counts_here_and_is_not_told(tmp_path: Path) -> None:
    """Peers would refuse the row. That may be a set of another charter's time: with other members, or other keys."""
    with Journal(tmp_path / "j") as journal:
        journal.open(RUN, 0, told([(ROWS, ALL)], signed=LEAST - 1))
        assert journal.openings(ROWS).sets == {ALL}
        assert not journal.told([ROWS], FEDERATION.charter)
        journal.open(RUN, 1, told([(ROWS, ALL)], t3=b"v" * 32))
        assert len(journal.told([ROWS], FEDERATION.charter)) == 1
        silo, *others = FEDERATION.charter.members
        anew = Member(silo.silo, identity("a new key").public, silo.owner)
        assert not journal.told([ROWS], replace(FEDERATION.charter, members=(anew, *others)))
        assert journal.openings(ROWS).sets == {ALL}


def test_releases_of_an_earlier_protocol_are_told_apart(tmp_path: Path) -> None:
    """An old journal names no protocol, and what opened is not in it: its cohorts are all there is to go by."""
    cohort = FEDERATION.silos[:4]
    old = Boot("00").__bytes__().replace(b',"protocol":""', b"") + bytes(Released(RUN, 0, "cc" * 32, cohort))
    (tmp_path / "j").write_bytes(old)
    with Journal(tmp_path / "j") as journal:
        assert journal.earlier_cohorts == {frozenset(cohort)}
        journal.release(OTHER_RUN, 0, "dd" * 32, FEDERATION.silos)
        assert journal.earlier_cohorts == {frozenset(cohort)}
    with Journal(tmp_path / "j") as again:
        assert again.earlier_cohorts == {frozenset(cohort)} and again.releases == 2
