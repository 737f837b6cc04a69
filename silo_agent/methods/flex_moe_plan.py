"""FLEX-MoE: its parameters, its plan, and the market that every silo derives from the plan's opened slots.

See ``flex_moe`` for the method.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from crypto import ring
from crypto.charter import SILO_ID
from crypto.errors import SpecError
from crypto.plan import Apply, Basis, Block, Lane, Plan, Scope, Slot, Step, Sum
from silo_agent import experts
from silo_agent.expert_prices import LEAST_SILOS, MOST_MOVES, Bounds, Market, bounds, drawn_capacity
from silo_agent.methods import GRID, Limits, TrainingParams, opened, parameter, parse
from silo_agent.methods.plans import ROWS_STEP, SCORE, SILOS, correct_slots, network_blocks

NAME = "flex-moe"

#: Parameters that are more than a number: what one silo can (``capacity-SILO``, ``upload_bytes-SILO``) besides what all
#: can; whether holdings are hidden; the assignment's rule.
CAPACITY, BYTES, HOLDINGS, ASSIGNMENT = "capacity", "upload_bytes", "holdings", "assignment"
MOST_BYTES = 2**40
HIDDEN = {"hidden": True, "visible": False}

#: Markets along a run: place → the market there and the latest bounds; see ``market``.
Markets = dict[int, tuple[Market, Bounds | None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Params(TrainingParams):
    """``floor``: fewest holders of an expert. ``inner_steps``: bids a round. ``upload_bytes``: most in one step."""

    experts: int = parameter(4, least=1, most=64)
    floor: int = parameter(3, least=1, most=2**16)
    rounds: int = parameter(20, least=1, most=10_000)
    warm_rounds: int = parameter(2, least=0, most=1000)
    inner_steps: int = parameter(5, least=0, most=MOST_MOVES)
    upload_bytes: int = parameter(MOST_BYTES, least=1, most=MOST_BYTES)


@dataclass(frozen=True, slots=True)
class Job:
    """All parameters. ``least`` to ``most``: capacity of a silo that ``capacities`` does not name."""

    params: Params
    least: int
    most: int
    capacities: Mapping[str, int]
    bytes: Mapping[str, int]
    hidden: bool

    @property
    def experts(self) -> int:
        return self.params.experts

    @property
    def model_bytes(self) -> int:
        """Upload of one model in one training step."""
        p = self.params
        return 4 * ring.wire_words(experts.size(p.features, p.hidden, p.classes), p.ring_bits)

    def affordable(self, silo: str = "") -> int:
        """Experts whose upload fits into this silo's bytes beside the generalist's; -1 if that does not fit either."""
        return self.bytes.get(silo, self.params.upload_bytes) // self.model_bytes - 1

    def capacity(self, silo: str) -> int:
        """Experts that a silo may train: what the job gives it, cut to what it may upload."""
        given = self.capacities.get(silo)
        if given is None:
            given = drawn_capacity(silo, self.params.seed, self.least, self.most)
        return max(0, min(given, self.experts, self.affordable(silo)))

    def most_places(self, silos: int) -> int:
        """The most that the capacities of so many silos can come to, those the job names among them."""
        named = sorted(self.capacities.keys() | self.bytes.keys())[:silos]
        places = [min(self.capacities.get(silo, self.most), self.affordable(silo)) for silo in named]
        return sum(max(0, most) for most in places) + (silos - len(named)) * min(self.most, self.affordable())


def read(raw: Mapping[str, object]) -> Job:
    """The parameters. Raises SpecError for what is unknown, mistyped or out of bounds."""
    texts = {CAPACITY, HOLDINGS, ASSIGNMENT}
    single = {key for key in raw if key.startswith((f"{CAPACITY}-", f"{BYTES}-"))}
    p = parse(Params, {key: value for key, value in raw.items() if key not in texts | single})
    least, most = _capacities(raw.get(CAPACITY, min(2, p.experts)), p.experts)
    capacities = _of_single_silos(raw, CAPACITY, 0, p.experts)
    bytes_ = _of_single_silos(raw, BYTES, 1, MOST_BYTES)
    holdings = raw.get(HOLDINGS, "hidden")
    if not isinstance(holdings, str) or holdings not in HIDDEN:
        raise SpecError(f"params.{HOLDINGS}", got=holdings, want=f"one of {', '.join(HIDDEN)}")
    if (rule := raw.get(ASSIGNMENT, "price")) != "price":
        raise SpecError(
            f"params.{ASSIGNMENT}",
            got=rule,
            want="price",
            remedy="Another rule would need every silo's fitness in one place.",
        )
    return Job(p, least, most, capacities, bytes_, HIDDEN[holdings])


def _of_single_silos(raw: Mapping[str, object], name: str, least: int, most: int) -> dict[str, int]:
    """Silo → value, of the parameters ``name-SILO``."""
    found = {}
    for key in sorted(raw):
        silo, value = key.removeprefix(f"{name}-"), raw[key]
        if silo == key:
            continue
        if not SILO_ID.fullmatch(silo):
            raise SpecError(f"params.{key}", got=silo, want=f"{name}-SILO, with the id of a silo")
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise SpecError(f"params.{key}", got=value, want=f"an integer from {least} to {most}")
        found[silo] = value
    return found


def _capacities(value: object, count: int) -> tuple[int, int]:
    """(2, 2) of 2 and (1, 3) of "1-3"."""
    ends = value.split("-") if isinstance(value, str) else []
    if isinstance(value, int) and not isinstance(value, bool):
        least, most = value, value
    elif len(ends) == 2 and all(end.isdecimal() and len(end) <= 3 for end in ends):
        least, most = int(ends[0]), int(ends[1])
    else:
        least, most = 0, 0
    if not 1 <= least <= most <= count:
        raise SpecError(
            f"params.{CAPACITY}",
            got=value,
            want=f'an integer from 1 to {count}, or two of them as in "1-3"',
            remedy=f"A single silo may have {CAPACITY}-SILO = 0: it trains the generalist alone.",
        )
    return least, most


def check_limits(job: Job, limits: Limits) -> None:
    """Raise SpecError where floors, silos or bytes leave no plan."""
    p = job.params
    if limits.n_max < LEAST_SILOS:
        raise SpecError(
            "federation.members",
            got=limits.n_max,
            want=f"at least {LEAST_SILOS} silos",
            remedy="Loads of fewer silos, opened repeatedly, reveal too much of each: use fedavg or fedcoe.",
        )
    least = limits.least_holders
    if not least <= p.floor <= limits.n_max:
        raise SpecError("params.floor", got=p.floor, want=f"from the charter's {least} to {limits.n_max}")
    for silo in ("", *sorted(job.bytes)):
        models = p.experts + 1 if job.hidden else 1 if silo else 2
        if job.affordable(silo) + 1 < models:
            what = "the generalist" + {1: "", 2: " and one expert"}.get(models, " and every expert")
            raise SpecError(
                f"params.{BYTES}-{silo}" if silo else f"params.{BYTES}",
                got=job.bytes.get(silo, p.upload_bytes),
                want=f"at least {models * job.model_bytes}: {what}",
                remedy=f'With {HOLDINGS} = "visible" a silo uploads what it holds, and everybody sees what that is.',
            )
    places = job.most_places(limits.n_max)
    if p.experts * p.floor > places:
        raise SpecError(
            "params.experts",
            got=p.experts,
            want=f"at most {places // p.floor}: {limits.n_max} silos have {places} places, each expert needs {p.floor}",
        )


def plan(job: Job, limits: Limits) -> Plan:
    """The plan of these parameters."""
    p = job.params
    lanes = (
        Lane(name="everyone", scope=Scope.ALL, floor=limits.lane_floor, grid=GRID),
        *(
            Lane(name=f"expert-{e}", scope=Scope.HELD, floor=p.floor, grid=GRID, hidden=job.hidden)
            for e in range(p.experts)
        ),
        Lane(name="own", scope=Scope.LOCAL, floor=limits.lane_floor),
    )
    models = tuple(
        block
        for name in ("generalist", *(f"expert-{e}" for e in range(p.experts)))
        for block in network_blocks(name, p, lane="everyone" if name == "generalist" else name, zero=("b2",))
    )
    shared = tuple(Sum(block.name, Apply.AVERAGE) for block in models)
    general = tuple(part for part in shared if part.block.startswith("generalist."))
    market = (SILOS, Slot("places", p.experts, Basis.STEP))
    loads = tuple(Slot(f"load-{e}", 1, Basis.STEP) for e in range(p.experts))  # whether its lane opens or not
    bids = (*market, *(Slot(f"bid-{e}", 1, Basis.STEP) for e in range(p.experts)))
    relaxed = Slot("bounds.relaxed", 1, Basis.STEP)
    steps = [ROWS_STEP]
    steps += [Step(task="warm", index=k, sums=general, slots=SCORE) for k in range(p.warm_rounds)]
    for k in range(p.rounds):
        steps += [Step(task="bid", index=k * p.inner_steps + j, slots=bids) for j in range(p.inner_steps)]
        steps.append(Step(task="train", index=k, sums=shared, slots=(*SCORE, *market, *loads, relaxed)))
    steps.append(Step(task="eval", index=0, slots=(*SCORE, *correct_slots("personal"))))
    own = (
        Block(name="router", shape=(p.experts, p.features + 1), lane="own", clip=p.clip),
        Block(name="fitness", shape=(p.experts,), lane="own", clip=1.0),
    )
    return Plan(
        method=NAME,
        seed=p.seed,
        n_max=limits.n_max,
        ring_bits=p.ring_bits,
        lanes=lanes,
        blocks=models + own,
        steps=tuple(steps),
    )


def observed(
    job: Job, slots: Mapping[str, Mapping[str, int]], step: str, name: str
) -> tuple[tuple[int, ...], Bounds] | None:
    """Loads of a step and the bounds for them. None, and no price moves: any of these figures did not open, or they are
    of too few silos."""
    seen = opened(slots, step, "silos", "places", *(name.format(e) for e in range(job.experts)))
    if seen is None or seen[0] < LEAST_SILOS:
        return None
    silos, places, *loads = seen
    return tuple(loads), bounds(places=places, silos=silos, experts=job.experts, floor=job.params.floor)


def market(
    job: Job, slots: Mapping[str, Mapping[str, int]], k: int, bids: int, known: Markets | None = None
) -> tuple[Market, Bounds | None]:
    """The market in round k after so many of its bids, and the latest bounds (None before the first loads).

    A fold over the opened slots of all earlier bids and training steps. ``known``: results to start from and to add to.
    """
    moves = job.params.inner_steps
    wanted = k * (moves + 1) + bids
    known = {} if known is None else known
    place = max((at for at in known if at <= wanted), default=0)
    now, latest = known.get(place, (Market.opening(job.experts), None))
    for at in range(place, wanted):
        past, bid = divmod(at, moves + 1)
        if bid < moves:
            seen = observed(job, slots, f"bid/{past * moves + bid}", "bid-{}")
        else:
            seen = observed(job, slots, f"train/{past}", "load-{}")
        if seen is not None:
            loads, latest = seen
            if bid < moves or not moves:
                now = now.moved(loads, latest)
            if bid == moves:
                now = now.trained(loads, latest)
        known[at + 1] = now, latest
    for old in [at for at in known if at < (k - 1) * (moves + 1)]:
        del known[old]
    return now, latest
