"""One silo that breaks the protocol while the aggregator and the others follow it.

Whoever owns a silo's machine may run what they like there. On NVFlare that silo's kit names another launcher
(``EvilLauncher``), which starts this module in the place of the silo's job process; the job, the other kits and the
aggregator are those of every federation. Each misdeed happens in step 1, the first that trains.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from nvflare.apis.fl_context import FLContext

from aggregator.ledger.records import Refusal, StepClosed, StepVoid
from aggregator.run_record import RunRecord
from crypto import tags
from crypto.blocks import Encoded
from crypto.charter import Charter
from crypto.keys import SessionKey
from crypto.messages import DECLINE, Decline, Message, Tags, unsigned_request
from crypto.plan import Step
from jobs.demo.federation import Federation, add_data
from jobs.flare import executor
from jobs.flare.launcher import SiloLauncher
from jobs.flare.nvflare_mains import _job
from jobs.job import JobSpec
from silo_agent.agent import Agent, Refusing, refusal
from silo_agent.home import SiloHome
from silo_agent.pysyft.catalogue import Catalogue
from tests import tiny
from tests.evil.logs import Line
from tests.evil.outcome import Outcome

NAME = "bad-member"
LAUNCHER = "tests.evil.member.EvilLauncher"
#: With eight, six are enough for a cohort: a liar and its victim may be missing.
SILOS = 8
LIAR, VICTIM = f"silo-{SILOS}", "silo-3"
STEP = 1

#: (the liar's agent, a request, its honest answer) → what it answers.
Misdeed = Callable[[Agent, Message, Callable[[], Message]], Message]


@dataclass(frozen=True, slots=True)
class Kind:
    """What the ledger and the others' logs must say of a misdeed. ``blamed``: step → the code under which the ledger
    names the liar; ``accused``: step → how many others blame it there, signed; ``void``: void steps; ``shut``: steps
    whose lane stays shut; ``away``: step → who has no part in its sums; ``logged``: what the other silos' logs say, all
    together."""

    name: str
    play: Misdeed
    blamed: Mapping[int, str]
    accused: Mapping[int, int] = field(default_factory=dict)
    void: tuple[int, ...] = ()
    shut: tuple[int, ...] = ()
    away: Mapping[int, tuple[str, ...]] = field(default_factory=dict)
    logged: Mapping[Line, int] = field(default_factory=dict)

    @property
    def text(self) -> str:
        return " ".join((self.play.__doc__ or "").split())

    def job(self) -> JobSpec:
        """An honest job of seconds, on rows of its own: what another misdeed's run opened keeps nothing shut here."""
        return replace(tiny.spec("fedavg", params={"rounds": 2}, name=f"evil-{NAME}-{self.name}", dataset=self.name))

    def register(self, federation: Federation) -> None:
        first = SILOS * list(KINDS).index(self.name)
        for place, (silo, home) in enumerate(federation.silo_homes.items()):
            if self.name not in Catalogue(home, silo).names():
                add_data(home, silo, self.name, tiny.data(first + place))


KINDS: dict[str, Kind] = {}


def kind(**due: Any) -> Callable[[Misdeed], Misdeed]:
    def register(play: Misdeed) -> Misdeed:
        name = play.__name__.replace("_", "-")
        KINDS[name] = Kind(name, play, **due)
        return play

    return register


def now(request: Message, phase: str) -> bool:
    found = unsigned_request(request.body)
    return found is not None and (found.step, found.phase) == (STEP, phase)


LATER = {2: (LIAR,), 3: (LIAR,)}


def static(times: int) -> dict[Line, int]:
    """Without the liar, or its victim, figures of the data stay shut at the other silos, by the rule of atoms."""
    return {("shut", "Static", "COHORT_DIFFERENCE"): times}


@kind(
    blamed={STEP: "BAD_SHARE"},
    shut=(STEP,),
    away=LATER | {2: ("silo-6", "silo-7", LIAR)},  # shares over all eight have left: the others open as one set of five
    logged=static(7),
)
def uncommitted_self_seed(agent: Agent, request: Message, answer: Callable[[], Message]) -> Message:
    """Deals shares of another self seed than its advert commits to: the lane can't be opened."""
    reply = answer()
    if now(request, "open") and agent._session is not None:
        agent._session._seeds["everyone"] = b"another seed, not committed to.."
    return reply


@kind(blamed={STEP: "BAD_SHARE"}, void=(STEP,), away=LATER)
def uncommitted_mask_seed(agent: Agent, request: Message, answer: Callable[[], Message]) -> Message:
    """Deals shares of another mask seed than that of its advertised key, and drops out: its masks can't be removed."""
    if now(request, "contribute"):
        return Message(DECLINE, refusal(LIAR, request, "NO_SPACE").sign(agent.site.identity))
    reply = answer()
    if now(request, "open") and agent._session is not None:
        agent._session._mask_seed = b"another seed, not committed to.."
    return reply


@kind(
    blamed={STEP: "BAD_SHARE"},
    accused={STEP: 1},
    away={STEP: (VICTIM, LIAR)} | LATER,
    logged=static(14) | {("refused", "contribute", "BAD_SHARE"): 1},
)
def garbage_row(agent: Agent, request: Message, answer: Callable[[], Message]) -> Message:
    """Seals the row of one chosen silo under another key: that silo can't open it and drops out of the step."""
    session = agent._session
    if not now(request, "deal") or session is None:
        return answer()
    honest = session._channels[VICTIM]
    session._channels[VICTIM] = SessionKey(bytes(32))
    reply = answer()
    session._channels[VICTIM] = honest
    return reply


@kind(blamed={STEP: "BAD_SHARE"}, away={STEP: (LIAR,)} | LATER)
def false_complaint(agent: Agent, request: Message, answer: Callable[[], Message]) -> Message:
    """Complains of the good row of another silo, which would be left out if it were believed."""
    if not now(request, "contribute") or agent._session is None:
        return answer()
    key = agent._session._channels[VICTIM].reveal()
    lie = refusal(LIAR, request, "BAD_SHARE", blame=VICTIM, key=key)
    return Message(DECLINE, lie.sign(agent.site.identity))


@kind(blamed={STEP: "SUM_NOT_PROVEN"}, away=LATER, logged=static(14))
def false_tag(agent: Agent, request: Message, answer: Callable[[], Message]) -> Message:
    """Signs another tag than that of its upload: the opened sum can't be proven with it."""
    reply = answer()
    if not now(request, "tag") or reply.phase == DECLINE:
        return reply
    key = agent.site.identity
    true = Tags.open(reply.body, lambda _: key.public)
    first, *others = tags.read(true.tags[0])
    made = tags.write((first + 1, *others))
    return Message(reply.phase, replace(true, tags=(made, *true.tags[1:])).sign(key))


@kind(blamed={}, shut=(1, 2))
def beyond_the_clip(agent: Agent, request: Message, answer: Callable[[], Message]) -> Message:
    """Uploads the largest ring words, whatever weight its manifest names. No upload is ever opened alone, so nobody can
    say whose words these were: the lane stays shut while it does so."""

    def raw(step: Step, encoded: Encoded) -> Encoded:
        largest = np.uint32((1 << (agent.plan.ring_bits - 1)) - 1)
        return replace(encoded, lanes={lane: np.full_like(words, largest) for lane, words in encoded.lanes.items()})

    if now(request, "open"):
        agent.observe = raw  # type: ignore[method-assign]
    return answer()


@kind(
    blamed={},
    accused={2: SILOS - 1},
    away=LATER,
    logged=static(14) | {("refused", "deal", "JOURNAL_LOST"): SILOS - 1},
)
def counter_jump(agent: Agent, request: Message, answer: Callable[[], Message]) -> Message:
    """Announces a million releases once. From then on its true counter looks like that of an old journal."""
    lies = now(request, "open")
    agent.site.journal.releases += 10**6 * lies
    reply = answer()
    agent.site.journal.releases -= 10**6 * lies
    return reply


def judged(one: Kind, record: RunRecord, charter: Charter, logged: Mapping[str, Counter[Line]]) -> Outcome:
    """A run with the liar in it, by the ledger and by what the other silos logged."""
    refusals = [entry.record for entry in record.of(Refusal)]
    blamed = {refusal.k: refusal.code for refusal in refusals if refusal.silo == LIAR}
    signed = [(refusal.k, bytes.fromhex(refusal.decline)) for refusal in refusals if refusal.decline]
    declines = [(k, Decline.open(decline, lambda m: charter.member(m.silo).agent)) for k, decline in signed]
    accused = Counter(k for k, decline in declines if decline.blame == LIAR)
    closed = [entry.record for entry in record.of(StepClosed)]
    away = {step.k: tuple(sorted(set(charter.silos) - set(step.survivors))) for step in closed}
    said = sum((found for silo, found in logged.items() if silo != LIAR), Counter[Line]())
    void = tuple(entry.record.k for entry in record.of(StepVoid))
    shut = tuple(step.k for step in closed if step.lanes_shut)

    told = [one.text]
    told += [f"the ledger names {LIAR} in step {k}: {code}" for k, code in sorted(blamed.items())]
    told += [f"{count} silos blame {LIAR} in step {k}, each with its signature" for k, count in sorted(accused.items())]
    if not blamed and not accused:
        told.append("the ledger names nobody: nothing shows whose upload it was")
    told += [f"step {k} is void" for k in void] + [f"the lane of step {k} stays shut" for k in shut]
    told += [f"step {k} goes on without {', '.join(gone)}" for k, gone in sorted(away.items()) if gone]
    told += [f"the others' logs: {' '.join(line)}, {times} times" for line, times in sorted(said.items())]

    wrong = [
        f"{what}: {got} instead of {due}"
        for what, due, got in (
            ("the ledger names the liar in", dict(one.blamed), blamed),
            ("others blame the liar in", dict(one.accused), dict(accused)),
            ("void steps", one.void, void),
            ("steps whose lane stays shut", one.shut, shut),
            ("silos without a part", dict(one.away), {k: gone for k, gone in away.items() if gone}),
            ("the others' logs", dict(one.logged), dict(said)),
        )
        if due != got
    ]
    others = set(charter.silos) - {LIAR}
    if record.finished is None or not others <= set(record.finished.record.countersignatures):
        wrong.append("the run did not end with the countersignatures of all other silos")
    else:
        told.append(f"the run ended: {len(record.finished.record.countersignatures)} silos countersigned it")
    return Outcome(record.run, tuple(told), tuple(wrong))


# --- the liar's job process on NVFlare ------------------------------------------------------------------------------


class EvilLauncher(SiloLauncher):
    """What the owner of a silo's machine makes of its kit's launcher."""

    def get_command(self, job_meta: dict[str, Any], fl_ctx: FLContext) -> str:
        command: str = super().get_command(job_meta, fl_ctx)
        return command.replace("-m jobs.flare.nvflare_mains ", "-m tests.evil.member ")


class Lying:
    """The agent of the job, whose answers a misdeed changes."""

    def __init__(self, agent: Agent | Refusing, misdeed: Misdeed) -> None:
        self._agent = agent
        self._misdeed = misdeed

    def handle(self, message: Message) -> Message:
        assert isinstance(self._agent, Agent)
        return self._misdeed(self._agent, message, lambda: self._agent.handle(message))

    @property
    def left(self) -> bool:
        return self._agent.left

    def close(self) -> None:
        self._agent.close()


def lie() -> None:
    """From here on this process's agents lie, each as the name of its job says."""
    honest = executor.make_agent

    def make_agent(job: str, home: SiloHome) -> Any:
        agent = honest(job, home)
        one = KINDS.get(JobSpec.from_text(job).name.removeprefix(f"evil-{NAME}-"))
        return Lying(agent, one.play) if one else agent

    executor.make_agent = make_agent


if __name__ == "__main__":
    lie()
    _job(sys.argv[1], sys.argv[2:])
