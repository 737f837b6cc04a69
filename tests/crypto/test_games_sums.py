"""Security games of the proven sums: a server tells false results, to all, to one, or with a member's help.

As in ``test_games``: each ends in the named refusal, and after each the verdict is taken on the raw bytes.
"""

from dataclasses import replace

import numpy as np
import pytest

from crypto import tags
from crypto.cohort import words_digest
from crypto.errors import SumNotProven
from crypto.messages import TagRequest, Tags
from crypto.proof import Sum, check_bounds, check_result, coin_key
from tests.evil_server import EvilServer
from tests.federation import Federation, holding, small_plan

FED = Federation(5)  # c = 1, m = 2, t(5) = 4
PLAN = small_plan()


@pytest.fixture
def play():
    """Makes evil servers, and takes the verdict on each after the game."""
    made: list[EvilServer] = []

    def make(fed=FED, plan=PLAN, **options):
        made.append(EvilServer(fed, plan, **options))
        return made[-1]

    yield make
    for evil in made:
        evil.verdict()


# --- false results: the proven sums -------------------------------------------------------------------------------


def forged(evil: EvilServer, sums: dict[str, Sum]) -> TagRequest:
    """What a server announces to make these sums pass."""
    _, request = evil.announce()
    told = tuple(
        replace(one, words=words_digest(sums[one.lane].words), carries=words_digest(sums[one.lane].carries))
        for one in request.result.sums
    )
    return TagRequest(replace(request.result, sums=told), request.seeds)


def trap(evil: EvilServer) -> dict[str, Sum]:
    """The honest sums with one word of the trunk changed."""
    sums = {lane: Sum(found.words.copy(), found.carries.copy()) for lane, found in evil.announce()[0].sums.items()}
    sums["trunk"].words[3] += np.uint32(1 << 20)
    return sums


def proves(evil: EvilServer, request: TagRequest, sums: dict[str, Sum], signed: list[bytes]) -> bool:
    try:
        check_result(evil.fed.charter, evil.plan, request.result, sums, signed)
    except SumNotProven:
        return False
    return True


def test_c1_a_false_sum_told_to_all(play):
    evil = play().until("unmask_lanes")
    sums = trap(evil)
    request = forged(evil, sums)
    evil.tag(lambda silo: request)
    assert not evil.refused and len(evil.tags) == 5  # nobody sees the words yet
    signed = list(evil.tags.values())
    assert not proves(evil, request, sums, signed)
    honest, true = evil.announce()
    assert not proves(evil, true, honest.sums, signed)  # and what they signed proves no other result
    assert not proves(evil, request, honest.sums, signed)


def test_c1_a_false_sum_told_to_one(play):
    """One honest signature, and the colluder's for all other uploads: 1 + c members are fewer than m + c."""
    evil = play(colluders=["silo-5"]).until("unmask_lanes")
    sums, true = trap(evil), evil.announce()[1]
    request = forged(evil, sums)
    evil.tag(lambda silo: request if silo == "silo-1" else true)
    one = Tags.open(evil.tags["silo-1"], lambda m: FED.charter.member(m.silo).agent)
    key = {lane.lane: coin_key(request.result, lane.lane) for lane in request.result.sums}
    wanted = {lane: tags.tag(found.words, key[lane], carries=found.carries) for lane, found in sums.items()}
    mine = dict(zip(("trunk", "quiet"), map(tags.read, one.tags), strict=True))
    lied = []
    for owner in FED.silos[1:]:  # the colluder makes up the difference, all in silo-2's name and silo-3's
        made = []
        for lane in request.result.sums:
            if owner in lane.uploaders:
                first = next(silo for silo in lane.uploaders if silo != "silo-1")
                rest = tuple(a - b for a, b in zip(wanted[lane.lane], mine.get(lane.lane, (0,) * 5), strict=True))
                made.append(tags.write(rest if owner == first else (0,) * 5))
        told = Tags(silo="silo-5", t3=one.t3, owner=owner, result=request.result.digest, tags=tuple(made))
        lied.append(told.sign(FED.identities["silo-5"]))
    with pytest.raises(SumNotProven, match="2 members signed"):
        check_result(FED.charter, PLAN, request.result, sums, [evil.tags["silo-1"], *lied])
    with pytest.MonkeyPatch.context() as patch:  # the count of signatures is what refuses it
        patch.setitem(vars(FED.charter), "honest", 1)
        check_result(FED.charter, PLAN, request.result, sums, [evil.tags["silo-1"], *lied])


@pytest.mark.parametrize("to", [("silo-3",), FED.silos])
@pytest.mark.parametrize("change", ["slots", "weight", "contributors", "uploaders", "lane", "t3", "chain", "step"])
def test_h3_invented_slots_weights_and_places(play, to, change):
    """Whoever is told so refuses before it computes a tag."""
    evil = play().until("unmask_lanes")
    _, true = evil.announce()
    result, first = true.result, true.result.sums[0]
    lanes = {"weight": 4, "contributors": 3, "uploaders": first.uploaders[1:], "lane": "ward"}
    fields = {"slots": (1, 2), "t3": bytes(32), "chain": bytes(32), "step": 1}
    if change in lanes:
        false = replace(result, sums=(replace(first, **{change: lanes[change]}), *result.sums[1:]))
    else:
        false = replace(result, **{change: fields[change]})
    evil.tag(lambda silo: TagRequest(false, true.seeds) if silo in to else true)
    assert evil.codes() == dict.fromkeys(to, "SUM_NOT_PROVEN") and set(evil.tags) == set(FED.silos) - set(to)


def test_a_shut_lane_gets_no_tag_and_stays_shut(play):
    evil = play(weights=holding(FED.silos, quiet=2)).until("unmask_lanes")
    _, true = evil.announce()
    lane = replace(true.result.sums[0], lane="quiet", weight=2, contributors=2)
    request = TagRequest(replace(true.result, sums=(*true.result.sums, lane)), (*true.seeds, true.seeds[0]))
    evil.tag(lambda silo: request)
    assert set(evil.codes().values()) == {"SUM_NOT_PROVEN"} and len(evil.refused) == 5 and not evil.tags
    evil.assert_shut("quiet")


def test_limit_a_colluding_survivor_moves_the_sum_within_the_clip(play):
    """The stated limit: with the server, a member can choose its tag after it has seen the sum. It could have uploaded
    the same difference; the clip bounds both, and nobody else can."""
    evil = play(colluders=["silo-5"]).until("unmask_lanes")
    sums = trap(evil)
    request = forged(evil, sums)
    evil.tag(lambda silo: request)
    last = Tags.open(evil.tags["silo-5"], lambda m: FED.charter.member(m.silo).agent)
    unit = np.zeros(35, np.uint32)
    unit[3] = 1 << 20
    more = tags.add([tags.read(last.tags[0]), tags.tag(unit, coin_key(request.result, "trunk"))])
    lied = replace(last, tags=(tags.write(more), *last.tags[1:])).sign(FED.identities["silo-5"])
    assert proves(evil, request, sums, [*(evil.tags[silo] for silo in FED.silos[:4]), lied])
    sums["trunk"].words[3] += np.uint32(1 << 30)
    again = replace(request.result, sums=forged(evil, sums).result.sums)
    with pytest.raises(SumNotProven, match="beyond the clip"):
        check_bounds(FED.charter, PLAN, 0, again.sums[0], sums["trunk"].words)
