"""``--break lane``: after the first training step, holders of one lane fall away until it is below its floor.

Whoever runs the demonstration owns every silo's folder, and so may ask each silo's method what the silo holds: hidden
holdings too. In a federation of institutions nobody could. Victims are chosen so that the lane, and only that lane,
ends below its floor, and the cohort stays one that the charter allows. ``fed up`` kills their job processes (SIGKILL),
``fed simulate`` silences their couriers. What came of it is read from the ledger.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from aggregator.home import AggregatorHome
from aggregator.ledger.format import read
from aggregator.ledger.records import StepClosed
from aggregator.rounds.storage import load_checkpoint
from aggregator.run_record import RunRecord
from crypto.charter import Charter
from crypto.errors import RoundLost, SpecError
from crypto.messages import Message
from crypto.plan import Lane, Plan, Scope
from jobs.job import JobSpec
from jobs.runtime.in_process import InProcess
from silo_agent.agent import Agent, Refusing
from silo_agent.data import DataSet
from silo_agent.methods import Published, method

#: The step after which holders fall away, and the first that they miss.
BEFORE, AFTER = "train/0", "train/1"
OPTION = "--break"


@dataclass(frozen=True, slots=True)
class Break:
    """Which silos fall away, and which lane that brings below its floor. ``left``: the holders that stay."""

    lane: str
    floor: int
    silos: tuple[str, ...]
    left: int


def targets(plan: Plan, wanted: str) -> tuple[Lane, ...]:
    """The lanes that ``wanted`` may mean, those with visible holdings first: "lane" is any, else a lane's name.

    Raises SpecError for a job in which no lane could be broken, and for a name that is none of them.
    """
    steps = {step.name: step for step in plan.steps}
    later = plan.lanes_of(steps[AFTER]) if steps.keys() >= {BEFORE, AFTER} else ()
    held = sorted((lane for lane in later if lane.scope is Scope.HELD), key=lambda lane: lane.hidden)
    if not held:
        raise SpecError(
            OPTION,
            got=f"{wanted} with method {plan.method}, {len(plan.steps)} steps",
            want=f"a job that sums a HELD lane in {BEFORE} and {AFTER}",
            remedy="Try --job fedavg-lanes-digits.",
        )
    if wanted == "lane":
        return tuple(held)
    chosen = tuple(lane for lane in held if lane.name == wanted)
    if not chosen:
        raise SpecError(OPTION, got=wanted, want=f"lane, or one of {', '.join(lane.name for lane in held)}")
    return chosen


def choose(plan: Plan, charter: Charter, holders: Mapping[str, frozenset[str]], wanted: str) -> Break:
    """The fewest silos without which one lane is below its floor, no other lane that could open is, and the cohort
    is still large enough. ``holders``: lane → the silos with a weight in it. Raises SpecError if there are none.
    """
    floors = {lane.name: charter.floor(lane) for lane in plan.lanes}
    could_open = {name: held for name, held in holders.items() if len(held) >= floors[name]}
    everyone = frozenset(charter.silos)
    for lane in targets(plan, wanted):
        mine = could_open.get(lane.name, frozenset())
        count = len(mine) - floors[lane.name] + 1
        for silos in combinations(sorted(mine), count) if mine else ():
            left = everyone - set(silos)
            others = all(len(held & left) >= floors[name] for name, held in could_open.items() if name != lane.name)
            if others and len(left) >= max(charter.n_min, charter.threshold(len(everyone))):
                return Break(lane.name, floors[lane.name], silos, len(mine) - count)
    raise SpecError(
        OPTION,
        got=wanted,
        want="a lane that can fall below its floor while the other lanes and the cohort stay above theirs",
        remedy="Give the job holders that share fewer lanes, or more silos.",
    )


class Breaker:
    """Waits for the step to close, then strikes once. ``silos``: every silo's data; ``strike``: ends these silos."""

    def __init__(
        self,
        wanted: str,
        spec: JobSpec,
        charter: Charter,
        home: AggregatorHome,
        silos: Mapping[str, DataSet],
        *,
        strike: Callable[[Sequence[str]], None],
        say: Callable[[str], None],
    ) -> None:
        self.done: Break | None = None
        self._wanted = wanted
        self._spec = spec
        self._charter = charter
        self._plan = spec.plan(charter)
        self._home = home
        self._silos = silos
        self._strike = strike
        self._say = say

    def look(self) -> None:
        """Strike if the step has closed. Cheap; called often. Raises SpecError if no silos qualify."""
        path = self._home.ledger_path
        if self.done is not None or not path.exists():
            return
        for entry in read(path):
            if isinstance(entry.record, StepClosed) and entry.record.name == BEFORE:
                chosen = choose(self._plan, self._charter, self._holders(entry.record.run), self._wanted)
                self._strike(chosen.silos)
                self.done = chosen
                self._say(f"{_and(chosen.silos)} made to fall away after {BEFORE}, holders of lane {chosen.lane}")
                return

    def _holders(self, run: str) -> dict[str, frozenset[str]]:
        """Lane → the silos that would have a weight in it next, as their methods say."""
        record = RunRecord.read(self._home, run)
        closed = next(entry.record for entry in record.closed if entry.record.name == BEFORE)
        folder, digest = self._home.run_folder(run), bytes.fromhex(closed.state_digest)
        state = load_checkpoint(folder, closed.k, expect=digest).state
        published, kind = Published(state, record.slots), method(self._spec.method)
        step = next(step for step in self._plan.steps if step.name == AFTER)
        weights = {
            silo: kind(self._spec.params, silo).weights(step, published, data) for silo, data in self._silos.items()
        }
        return {
            lane.name: frozenset(silo for silo, mine in weights.items() if mine.get(lane.name))
            for lane in self._plan.lanes_of(step)
        }

    def outcome(self, record: RunRecord) -> dict[str, Any]:
        """The object ``broken`` of --json. Raises RoundLost if the run ended before anything could be broken."""
        if self.done is None:
            raise RoundLost("break", (), detail=f"The run ended and {BEFORE} had not been seen to close.")
        lane, steps = self.done.lane, {step.name: step for step in self._plan.steps}
        later = [
            entry.record
            for entry in record.closed
            if entry.record.name != BEFORE and lane in (*entry.record.lanes_open, *entry.record.lanes_shut)
            if steps[entry.record.name].task == "train"
        ]
        shut = [closed for closed in later if lane in closed.lanes_shut]
        since = [closed for closed in later if shut and closed.k >= shut[0].k]
        return {
            "lane": lane,
            "killed": list(self.done.silos),
            "shut_in_steps": [closed.name for closed in shut],
            "stayed_shut": bool(shut) and since == shut,
            "holders_left": self.done.left if shut else None,
            "floor": self.done.floor,
            "others_shut": sorted({name for closed in since for name in closed.lanes_shut} - {lane}),
        }


def sentence(broken: Mapping[str, Any]) -> str:
    """What came of it, in a line."""
    lane, shut = broken["lane"], broken["shut_in_steps"]
    if not shut:
        return f"lane {lane} never shut: {_and(broken['killed'])} fell away after its last step had their uploads"
    how = f"stayed shut from {shut[0]}" if broken["stayed_shut"] else f"was shut in {_and(shut)}"
    others = f"{_and(broken['others_shut'])} shut too" if broken["others_shut"] else "the other lanes opened"
    return f"lane {lane} {how}: {broken['holders_left']} holders left, floor {broken['floor']}; {others}"


def kill_jobs(silos: Mapping[str, int]) -> None:
    """SIGKILL to the job processes of these silos. ``silos``: silo → pid of its long-lived process, our own child.

    Raises RoundLost for a silo without a job process.
    """
    import psutil

    found: list[psutil.Process] = []
    for silo, pid in silos.items():
        jobs = []
        for child in psutil.Process(pid).children(recursive=True):
            try:
                if "client-job" in child.cmdline():
                    jobs.append(child)
            except psutil.NoSuchProcess:
                continue
        if not jobs:
            raise RoundLost("break", (silo,), detail="It has no job process to kill.")
        found += jobs
    for job in found:
        try:
            job.kill()
        except psutil.NoSuchProcess:
            continue


class Silenced(InProcess):
    """The courier of a silo that may fall silent: ``silent`` names those that have."""

    def __init__(self, silo: str, agent: Agent | Refusing, silent: set[str]) -> None:
        super().__init__(agent)
        self._silo = silo
        self._silent = silent

    def send(self, request: Message) -> Message | None:
        return None if self._silo in self._silent else super().send(request)


def _and(names: Sequence[str]) -> str:
    return ", ".join(names[:-1]) + f" and {names[-1]}" if len(names) > 1 else names[0]
