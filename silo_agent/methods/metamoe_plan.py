"""MetaMoE: its parameters and its plan. See ``metamoe`` for the method."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from crypto.charter import SILO_ID
from crypto.errors import SpecError
from crypto.plan import Apply, Basis, Block, Lane, Plan, Scope, Slot, Step, Sum
from silo_agent.methods import GRID, Limits, TrainingParams, parameter, parse
from silo_agent.methods.plans import ROWS_STEP, SCORE, SILOS, correct_slots, network_blocks

NAME = "metamoe"

#: Parameters that are more than a number: who makes each expert (``group-0 …``), the public pool and its digest, and
#: whether the method is ours or the paper's release.
GROUP, POOL, DIGEST, VARIANT = "group-", "pool", "pool_sha256", "variant"
VARIANTS = ("ours", "paper")
MOST_GROUPS = 16

#: Of how many times as many rows proxies are chosen, unless the job says: variety among rows that are not relevant is
#: worth nothing.
CANDIDATES = 2

#: What the routing statistics are clamped to; features are of order one.
CENTRE_CLIP, MOMENT_CLIP = 16.0, 256.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Params(TrainingParams):
    """``proxies``: pool rows that a silo trains on; ``held_out``: more of them, to judge the router by;
    ``candidates``: the most relevant rows that both are chosen among, 0: ``CANDIDATES`` times as many;
    ``background``: public rows drawn by lot that experts train on too; ``projection``: the router's view of a row."""

    proxies: int = parameter(30, least=2, most=10_000)
    held_out: int = parameter(10, least=1, most=10_000)
    candidates: int = parameter(0, least=0, most=100_000)
    background: int = parameter(30, least=0, most=100_000)
    projection: int = parameter(64, least=1, most=64)

    @property
    def chosen(self) -> int:
        """Proxies in all."""
        return self.proxies + self.held_out

    @property
    def considered(self) -> int:
        """Rows that proxies are chosen among."""
        return self.candidates or CANDIDATES * self.chosen


@dataclass(frozen=True, slots=True)
class Job:
    """All parameters. ``groups``: the silos of each expert, sorted."""

    params: Params
    groups: tuple[tuple[str, ...], ...]
    pool: str
    digest: str
    variant: str

    @property
    def experts(self) -> int:
        return len(self.groups)

    @property
    def ours(self) -> bool:
        return self.variant == "ours"

    @property
    def routing(self) -> int:
        """Features that the router reads: the projection, and what each expert thinks of the row."""
        return self.params.projection + (self.experts if self.ours else 0)

    def group(self, silo: str) -> int | None:
        """The expert that this silo helps to make."""
        return next((g for g, names in enumerate(self.groups) if silo in names), None)


def read(raw: Mapping[str, object]) -> Job:
    """The parameters. Raises SpecError for what is unknown, missing, mistyped or out of bounds."""
    named = {key for key in raw if re.fullmatch(rf"{GROUP}\d+", key)}
    p = parse(Params, {key: raw[key] for key in raw if key not in named | {POOL, DIGEST, VARIANT}})
    if p.considered < p.chosen:
        raise SpecError("params.candidates", got=p.candidates, want=f"0, or at least {p.chosen}: proxies and held_out")
    wanted = [f"{GROUP}{g}" for g in range(max(2, len(named)))]
    for key in wanted:
        if key not in named:
            raise SpecError(f"params.{key}", got=None, want="the silos of this expert, with a space between them")
    if len(wanted) > MOST_GROUPS:
        raise SpecError("params.groups", got=len(wanted), want=f"at most {MOST_GROUPS}")
    groups = tuple(_group(key, raw[key]) for key in wanted)
    taken: set[str] = set()
    for key, names in zip(wanted, groups, strict=True):
        if twice := taken & set(names):
            raise SpecError(f"params.{key}", got=", ".join(sorted(twice)), want="silos of no other group")
        taken |= set(names)
    pool, sha = raw.get(POOL), raw.get(DIGEST)
    if not isinstance(pool, str) or not pool:
        raise SpecError(f"params.{POOL}", got=pool, want="the name of a public data set")
    if not isinstance(sha, str) or not re.fullmatch(r"[0-9a-f]{64}", sha):
        raise SpecError(f"params.{DIGEST}", got=sha, want="the pool's SHA-256, 64 hex digits")
    variant = raw.get(VARIANT, VARIANTS[0])
    if variant not in VARIANTS:
        raise SpecError(f"params.{VARIANT}", got=variant, want=f"one of {', '.join(VARIANTS)}")
    return Job(p, groups, pool, sha, str(variant))


def _group(key: str, value: object) -> tuple[str, ...]:
    names = value.split(" ") if isinstance(value, str) else []
    if not names or len(set(names)) != len(names) or not all(SILO_ID.fullmatch(name) for name in names):
        raise SpecError(f"params.{key}", got=value, want="distinct silo ids with a space between them")
    return tuple(sorted(names))


def check_limits(job: Job, limits: Limits) -> None:
    """Raise SpecError for groups that could never open their lane."""
    least = limits.least_holders
    if job.experts * least > limits.n_max:
        raise SpecError(
            "params.groups",
            got=job.experts,
            want=f"at most {limits.n_max // least}: {limits.n_max} silos in groups of {least} or more",
        )
    for g, names in enumerate(job.groups):
        if not least <= len(names) <= limits.n_max:
            raise SpecError(
                f"params.{GROUP}{g}",
                got=f"{len(names)} silo{'s' * (len(names) != 1)}",
                want=f"from {least} to {limits.n_max}",
                remedy="An expert of fewer silos would show what they trained: no plan has one.",
            )
    if (total := sum(map(len, job.groups))) > limits.n_max:
        raise SpecError("params.groups", got=f"{total} silos", want=f"at most the federation's {limits.n_max}")


def plan(job: Job, limits: Limits) -> Plan:
    """The plan of these parameters."""
    p, floor = job.params, limits.lane_floor
    names = [f"expert-{g}" for g in range(job.experts)]
    everyone = Lane(name="everyone", scope=Scope.ALL, floor=floor, grid=GRID)
    lanes = (
        *((everyone,) if job.ours else ()),
        *(
            Lane(name=name, scope=Scope.GROUP, floor=floor, grid=GRID, members=members)
            for name, members in zip(names, job.groups, strict=True)
        ),
        Lane(name="own", scope=Scope.LOCAL, floor=floor),
    )
    models = tuple(block for name in names for block in network_blocks(name, p, lane=name, zero=("b2",)))
    of_rows = "" if job.ours else "centre"  # ours: of the published model's features of the rows
    centres = tuple(
        Block(name=f"{name}.centre", shape=(job.routing,), lane=name, clip=CENTRE_CLIP, quantity=of_rows)
        for name in names
    )
    square = (job.routing, job.routing)
    moments = (Block(name="moments", shape=square, lane=everyone.name, clip=MOMENT_CLIP),) if job.ours else ()
    own = Block(name="proxies", shape=(p.chosen,), lane="own", clip=1.0)
    votes = tuple(Slot(name, p.chosen, Basis.STATE) for name in ("held.rows", "router.only", "surest.only"))
    scores = (*correct_slots("personal", "router", "surest"), *SCORE)
    steps = (
        ROWS_STEP,
        *(
            Step(task="train", index=k, sums=tuple(Sum(block.name, Apply.AVERAGE) for block in models), slots=SCORE)
            for k in range(p.rounds)
        ),
        Step(
            task="route",
            index=0,
            sums=tuple(Sum(block.name, Apply.PUBLISH) for block in (*moments, *centres)),
            slots=(SILOS,),
        ),
        Step(task="choose", index=0, slots=votes),
        Step(task="eval", index=0, slots=scores),
    )
    return Plan(
        method=NAME,
        seed=p.seed,
        n_max=limits.n_max,
        ring_bits=p.ring_bits,
        lanes=lanes,
        blocks=(*models, *moments, *centres, own),
        steps=steps,
    )
