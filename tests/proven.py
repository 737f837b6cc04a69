"""A session whose lanes are open, for tests of its proof: what honest silos sign of any announced result.

``tell`` plays a server that announces what it likes: all that survive sign the result with the tags of their uploads,
as honest silos do, since they don't see the words.
"""

from collections.abc import Callable, Mapping
from copy import copy
from dataclasses import replace

import pytest

from crypto import proof
from crypto.cohort import words_digest
from crypto.errors import SumNotProven
from crypto.messages import StepResult, TagRequest
from crypto.proof import Sum, check_result
from crypto.silo_session import SiloSession
from tests.federation import Federation, Run, small_plan

FED = Federation(5)  # m + c = 3
CHARTER = FED.charter
PLANS = {bits: small_plan(bits=bits) for bits in (32, 24)}
RUNS = {bits: Run(FED, plan, label=f"proof-{bits}") for bits, plan in PLANS.items()}
for each in RUNS.values():
    each.lanes()
RUN, PLAN = RUNS[32], PLANS[32]
RESULT = RUN.server.result
#: For both rings.
BITS = pytest.mark.parametrize("bits", [32, 24])


def sums_of(run: Run) -> dict[str, Sum]:
    return {lane: Sum(found.words.copy(), found.carries.copy()) for lane, found in run.server.sums.items()}


def fork(session: SiloSession) -> SiloSession:
    """The session as it stands before it is asked for tags; a session signs one result only."""
    twin = copy(session)
    twin._released_seeds = {}
    return twin


def announced(result: StepResult, sums: Mapping[str, Sum]) -> StepResult:
    """The result with the digests of these sums."""
    return replace(
        result,
        sums=tuple(
            replace(one, words=words_digest(sums[one.lane].words), carries=words_digest(sums[one.lane].carries))
            for one in result.sums
        ),
    )


def tell(run: Run, sums: Mapping[str, Sum]) -> tuple[StepResult, tuple[bytes, ...]]:
    """The result that announces these sums, and what the honest survivors sign."""
    result = announced(run.server.result, sums)
    request = TagRequest(result, run.request.seeds)
    return result, tuple(fork(run.sessions[silo]).tag(request) for silo in run.survivors)


def assert_refused(run: Run, sums: Mapping[str, Sum], why: str = "is not the sum of its") -> None:
    """Told so, the silos sign; and whoever checks refuses."""
    result, signed = tell(run, sums)
    with pytest.raises(SumNotProven, match=why):
        check_result(CHARTER, run.plan, result, sums, signed)


def changed(run: Run, lane: str, change: Callable[[Sum], None]) -> dict[str, Sum]:
    sums = sums_of(run)
    change(sums[lane])
    return sums


RESULT, PROOF = tell(RUN, sums_of(RUN))
OPENED = [proof.open_tags(CHARTER, RESULT, signed) for signed in PROOF]
