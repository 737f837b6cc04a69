"""The next epoch: who joins, leaves and changes keys; floors that follow; whatever is unsafe is refused by name."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest

from crypto.charter import Charter, Member, SignedCharter
from crypto.charter_defaults import Floors
from crypto.errors import BadSignature, Malformed, SpecError
from crypto.keys import Identity
from jobs.membership.diff import CharterDiff, charter_facts, charter_lines
from jobs.membership.propose import DAY, UNSIGNED, check_keys, first_epoch, next_epoch, parse, sign, unsigned

NOW = 1_800_000_000


def member(silo: str) -> Member:
    return Member(silo, Identity.generate().public, Identity.generate().public)


MEMBERS = tuple(member(f"silo-{i}") for i in range(1, 9))
AGGREGATOR = Identity.generate().public


def first(silos: int = 8, floors: Floors | None = None) -> Charter:
    return first_epoch("test", MEMBERS[:silos][::-1], AGGREGATOR, floors=floors, now=NOW)


def test_the_first_epoch_has_its_members_in_order_and_the_floors_of_its_size() -> None:
    charter = first()
    assert charter.silos == tuple(f"silo-{i}" for i in range(1, 9))
    assert (charter.epoch, charter.previous, charter.n_min, charter.lane_floor) == (1, bytes(32), 6, 3)
    assert charter.not_before < NOW < charter.not_after == NOW + 365 * DAY


def test_the_next_epoch_names_the_one_before_and_keeps_all_that_was_not_changed() -> None:
    old = first()
    new = next_epoch(old, remove=["silo-3"], now=NOW)
    new.check_succeeds(old)
    assert new.silos == tuple(silo for silo in old.silos if silo != "silo-3")
    assert all(new.member(silo) == old.member(silo) for silo in new.silos)
    same = ("colluders", "honest", "lane_floor", "not_before", "not_after")
    assert all(getattr(new, name) == getattr(old, name) for name in same)
    assert (new.n_min, next_epoch(old, remove=["silo-3", "silo-4", "silo-5"], now=NOW).n_min) == (5, 4)
    ninth = member("silo-9")
    later = next_epoch(new, add=[ninth], now=NOW)
    assert later.member("silo-9") == ninth and later.epoch == 3 and len(later.silos) == 8


def test_an_epoch_is_the_same_bytes_whenever_it_is_made() -> None:
    """Withdrawing again after a crash makes the epoch that was made before."""
    old = first()
    assert bytes(next_epoch(old, remove=["silo-3"], now=NOW)) == bytes(next_epoch(old, remove=["silo-3"], now=NOW + 99))


def test_a_stricter_minimum_stays_as_much_stricter() -> None:
    old = replace(first(), n_min=8)  # two more than the least
    assert next_epoch(old, remove=["silo-3"], now=NOW).n_min == 7
    assert next_epoch(old, add=[member("silo-9"), member("silo-a")], now=NOW).n_min == 9
    with pytest.raises(SpecError, match="at least 7"):
        next_epoch(old, remove=["silo-3", "silo-4", "silo-5", "silo-6"], now=NOW)


@pytest.mark.parametrize(("before", "after"), [(5, 6), (6, 6), (7, 7), (8, 8)])
def test_the_minimum_of_an_earlier_protocol_becomes_large_enough_and_no_smaller(before: int, after: int) -> None:
    old = replace(first(), version=1, budgets=(4, 16), n_min=before)
    new = next_epoch(old, now=NOW)
    assert (new.version, new.budgets, new.n_min, new.previous) == (2, (), after, old.digest)


def test_floors_and_validity_change_only_when_told_to() -> None:
    new = next_epoch(first(), floors=Floors(colluders=2, honest=3, lane_floor=4), not_after=NOW + 9 * DAY, now=NOW)
    assert (new.colluders, new.honest, new.lane_floor, new.n_min, new.not_after) == (2, 3, 4, 6, NOW + 9 * DAY)
    with pytest.raises(SpecError, match="not_after"):
        next_epoch(first(), not_after=NOW - 1, now=NOW)
    with pytest.raises(SpecError, match="not_after"):
        next_epoch(first(), now=NOW + 366 * DAY)


@pytest.mark.parametrize(("silos", "floors"), [(3, None), (4, Floors(2, 2, 4)), (4, Floors(lane_floor=4))])
def test_too_few_silos_are_refused_with_the_number_that_would_do(silos: int, floors: Floors | None) -> None:
    old = first(silos, floors)
    with pytest.raises(SpecError, match=f"charter.members: got '{silos - 1} silos', want at least {silos} "):
        next_epoch(old, remove=["silo-1"], now=NOW)
    with pytest.raises(SpecError, match="at least"):
        first(silos - 1, floors)


@pytest.mark.parametrize("silos", range(3, 13))
@pytest.mark.parametrize("floors", [Floors(), Floors(2, 2, 4), Floors(3, 4, 5), Floors(1, 5, 3), Floors(0, 2, 2)])
def test_a_number_of_silos_that_is_said_to_do_makes_a_charter_and_one_fewer_none(silos: int, floors: Floors) -> None:
    members = [member(f"silo-{i}") for i in range(10, 10 + silos)]
    try:
        first_epoch("test", members, AGGREGATOR, floors=floors, now=NOW)
    except SpecError as refused:
        least = int(str(refused).partition("at least ")[2].split()[0])
        assert least > silos
        more = [*members, *(member(f"more-{i}") for i in range(least - silos))]
        first_epoch("test", more, AGGREGATOR, floors=floors, now=NOW)


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ({"remove": ["silo-9"]}, "silo-9"),
        ({"remove": ["silo-1", "silo-1"]}, "silo-1"),
        ({"add": [MEMBERS[0]]}, "no member"),
        ({"add": [member("silo-1")]}, "no member"),
        ({"remove": ["silo-1"], "add": [member("silo-1")]}, "no member"),
        ({"add": [member("silo-9"), member("silo-9")]}, "no member"),
        ({"change": [member("silo-9")]}, "silo-9"),
        ({"change": [MEMBERS[0]]}, "the keys it has"),
        ({"add": [replace(member("silo-9"), agent=MEMBERS[0].agent)]}, "a key used twice"),
        ({"add": [replace(member("silo-9"), owner=AGGREGATOR)]}, "a key used twice"),
        ({"remove": ["silo-1"], "add": [replace(MEMBERS[0], silo="silo-9")]}, "silo-1's agent key in epoch 1"),
        (
            {"change": [replace(member("silo-1"), agent=MEMBERS[0].owner)]},
            "silo-1's owner key in epoch 1",
        ),
        ({"add": [member("Silo")]}, "a silo's id"),
        ({"add": [member("st.mary")]}, "a silo's id"),
    ],
)
def test_what_may_not_be_is_refused_by_name(how: dict[str, object], says: str) -> None:
    with pytest.raises(SpecError, match=says):
        next_epoch(first(), now=NOW, **how)  # type: ignore[arg-type]


def test_a_lost_key_is_replaced_and_a_key_of_long_ago_is_nobody_elses() -> None:
    old = first()
    new = next_epoch(old, change=[replace(MEMBERS[0], owner=Identity.generate().public)], now=NOW)
    assert new.member("silo-1").agent == old.member("silo-1").agent
    assert new.member("silo-1").owner != old.member("silo-1").owner
    later = next_epoch(new, add=[replace(member("silo-9"), owner=old.member("silo-1").owner)], now=NOW)
    with pytest.raises(SpecError, match=r"silo-9\.owner.*silo-1's owner key in epoch 1"):
        check_keys(later, [old, new])
    check_keys(next_epoch(new, change=[MEMBERS[0]], now=NOW), [old, new])  # its own old key again: its own affair
    with pytest.raises(SpecError, match="the aggregator's aggregator key"):
        check_keys(replace(new, aggregator=Identity.generate().public, members=(
            replace(new.members[0], agent=AGGREGATOR), *new.members[1:])), [old])  # fmt: skip


# --- files -------------------------------------------------------------------------------------------------------


def test_a_file_is_signed_or_it_is_not() -> None:
    charter, consortium = first(), Identity.generate()
    draft = unsigned(charter)
    assert parse(bytes(draft)) == draft and draft.signature == UNSIGNED
    with pytest.raises(BadSignature):
        SignedCharter.open(bytes(draft), consortium.public)
    signed = sign(charter, consortium, pinned=consortium.public)
    assert SignedCharter.open(bytes(signed), consortium.public) == parse(bytes(signed)).charter == charter
    with pytest.raises(SpecError, match="the members have pinned"):
        sign(charter, Identity.generate(), pinned=consortium.public)
    for bad in (bytes(signed)[:-1], bytes(signed) + b"\0", b"", bytes(charter)):
        with pytest.raises(Malformed):
            parse(bad)


# --- what people see ---------------------------------------------------------------------------------------------


def test_changes_name_who_comes_and_goes_and_whose_keys() -> None:
    old, ninth, key = first(), member("silo-9"), Identity.generate().public
    new = next_epoch(
        old,
        add=[ninth],
        remove=["silo-3", "silo-4"],
        change=[replace(MEMBERS[0], owner=key)],
        not_after=NOW + 999 * DAY,
        now=NOW,
    )
    changes = CharterDiff(new, old, "silo-3")
    facts = changes.facts()
    assert [one["silo"] for one in facts["joins"]] == ["silo-9"] and facts["leaves"] == ["silo-3", "silo-4"]
    was = MEMBERS[0].owner.fingerprint
    assert facts["keys"] == [{"silo": "silo-1", "role": "owner", "before": was, "now": key.fingerprint}]
    assert facts["numbers"].keys() == {"n_min", "not_after"}
    assert facts["member"] is False and facts["pinned_already"] is False
    text = "\n".join(changes.lines())
    for said in (ninth.agent.fingerprint, ninth.owner.fingerprint, key.fingerprint, was, "leaves     silo-3", "NOT"):
        assert said in text
    assert "UTC" in text and "approvals" in text and "already" not in text
    assert "NOT" not in "\n".join(CharterDiff(new, old, "silo-1").lines())
    assert "NOT" not in "\n".join(CharterDiff(new, old).lines())
    assert "has it already" in "\n".join(CharterDiff(new, new, done=True).lines())


def test_numbers_that_move_are_shown_and_the_first_epoch_is_shown_whole() -> None:
    old = first()
    changes = CharterDiff(next_epoch(old, floors=Floors(lane_floor=4), now=NOW), old)
    assert changes.numbers == {"lane_floor": (3, 4)} and not changes.out
    assert "lane_floor: 3 → 4" in "\n".join(changes.lines())
    begin = CharterDiff(old, None, "silo-1")
    assert begin.joins == old.members and begin.leaves == () and begin.keys == () and begin.numbers == {}


def test_a_charter_is_shown_whole() -> None:
    charter = replace(first(), not_after=2**64 - 1)
    assert charter_facts(charter)["members"][0]["agent"] == MEMBERS[0].agent.fingerprint
    text = "\n".join(charter_lines(charter))
    assert all(one.owner.fingerprint in text for one in MEMBERS) and f"{2**64 - 1} s" in text
    assert charter.digest.hex()[:4] in text and time.strftime("%Y", time.gmtime(charter.not_before)) in text
