"""FLEx: its parameters and its plan. See ``flex`` for the method."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from math import sqrt

from crypto.errors import SpecError
from crypto.plan import Apply, Basis, Block, Lane, Plan, Scope, Slot, Step, Sum
from silo_agent.language.shape import Shape
from silo_agent.methods import GRID, Limits, parameter, parse
from silo_agent.methods.plans import ROWS_STEP, TEST_ROWS, correct_slots

NAME = "flex"

#: The parameter that is a text: the digest of the base model. A plan can be made without it, a silo needs it.
BASE = "base"
_DIGEST = re.compile(r"[0-9a-f]{64}")

#: Most test tokens of one silo, and the unit of a loss in a slot: 1/256 nat, at most 32 nats a token.
TOKENS_BOUND = 2**36
NAT, MOST_NATS = 256, 32

#: Widths of a model.
_SIZES = {"least": 1, "most": 2**20}


@dataclass(frozen=True, slots=True, kw_only=True)
class Params:
    """``features``: tokens of a window; ``classes``: vocabulary. The next six: the base model's sizes (``Shape``).

    ``personal``: 1 grafts a personal expert onto each layer. ``shared_experts``: 1 averages adapters of the pretrained
    experts too. With (0, 1) this is FedAvg of all adapters, with (1, 1) both: the baselines are this same code.
    """

    features: int = parameter(least=2, most=2**16)
    classes: int = parameter(least=2, most=2**18)
    hidden: int = parameter(**_SIZES)
    layers: int = parameter(least=1, most=512)
    heads: int = parameter(least=1, most=1024)
    key_value_heads: int = parameter(least=1, most=1024)
    experts: int = parameter(least=1, most=1024)
    expert_width: int = parameter(**_SIZES)
    shared_width: int = parameter(**_SIZES)
    rank: int = parameter(8, least=1, most=1024)
    alpha: float = parameter(16.0, least=1e-3, most=1e4)
    personal: int = parameter(1, least=0, most=1)
    shared_experts: int = parameter(0, least=0, most=1)
    graft_rows: int = parameter(64, least=1, most=2**16)
    rounds: int = parameter(12, least=1, most=10_000)
    local_steps: int = parameter(20, least=1, most=10_000)
    batch: int = parameter(16, least=1, most=2**16)
    learning_rate: float = parameter(0.01, least=1e-7, most=1.0)
    personal_rate: float = parameter(0.01, least=1e-7, most=1.0)
    finetune_steps: int = parameter(0, least=0, most=100_000)
    clip: float = parameter(1.0, least=1e-3, most=1e3)
    ring_bits: int = parameter(32, least=24, most=32)
    seed: int = parameter(7, least=0, most=2**63 - 1)

    @property
    def shape(self) -> Shape:
        return Shape(**{name: getattr(self, name) for name in Shape.__dataclass_fields__})


def read(raw: Mapping[str, object]) -> tuple[Params, str]:
    """The parameters and the base model's digest ("" if none is named). Raises SpecError."""
    base = raw.get(BASE, "")
    if base != "" and not (isinstance(base, str) and _DIGEST.fullmatch(base)):
        raise SpecError(
            f"params.{BASE}",
            got=base,
            want="a SHA-256 in 64 hexadecimal digits",
            remedy="`python -m silo_agent.language.base_model FOLDER` prints that of a model.",
        )
    p = parse(Params, {key: value for key, value in raw.items() if key != BASE})
    if p.hidden % p.heads or p.heads % p.key_value_heads:
        want = "a divisor of hidden, and key_value_heads one of heads"
        raise SpecError("params.heads", got=f"{p.heads} of {p.key_value_heads}", want=want)
    return p, str(base)


def adapted(p: Params) -> dict[str, tuple[int, int]]:
    """Adapted matrix → (outputs, inputs), in the model's order: attention and shared expert, then, if the job shares
    them, the routed experts, each a slice of its layer's tensor."""
    head = p.hidden // p.heads
    found: dict[str, tuple[int, int]] = {}
    for at in range(p.layers):
        layer = f"layers.{at}"
        found |= {
            f"{layer}.self_attn.q_proj": (p.heads * head, p.hidden),
            f"{layer}.self_attn.k_proj": (p.key_value_heads * head, p.hidden),
            f"{layer}.self_attn.v_proj": (p.key_value_heads * head, p.hidden),
            f"{layer}.self_attn.o_proj": (p.hidden, p.heads * head),
            f"{layer}.shared_expert.gate_proj": (p.shared_width, p.hidden),
            f"{layer}.shared_expert.up_proj": (p.shared_width, p.hidden),
            f"{layer}.shared_expert.down_proj": (p.hidden, p.shared_width),
        }
        for e in range(p.experts if p.shared_experts else 0):
            found[f"{layer}.experts.gate_up.{e}"] = (2 * p.expert_width, p.hidden)
            found[f"{layer}.experts.down.{e}"] = (p.hidden, p.expert_width)
    return found


def grown(p: Params) -> dict[str, tuple[int, ...]]:
    """What a silo grows for itself → shape: a personal expert a layer, the shape of a slice, and its gate."""
    found: dict[str, tuple[int, ...]] = {}
    for at in range(p.layers if p.personal else 0):
        found[f"layers.{at}.gate_up"] = (2 * p.expert_width, p.hidden)
        found[f"layers.{at}.down"] = (p.hidden, p.expert_width)
        found[f"layers.{at}.gate"] = (p.hidden + 1,)
    return found


def plan(raw: Mapping[str, object], limits: Limits) -> Plan:
    """Lanes: ``everyone`` (B), ``fixed`` (A: from the seed, in no step), ``own`` (never leaves)."""
    p, _ = read(raw)
    lanes = (
        Lane(name="everyone", scope=Scope.ALL, floor=limits.lane_floor, grid=GRID),
        Lane(name="fixed", scope=Scope.ALL, floor=limits.lane_floor),
        Lane(name="own", scope=Scope.LOCAL, floor=limits.lane_floor),
    )
    b = [
        Block(name=f"b/{name}", shape=(out, p.rank), lane="everyone", clip=p.clip)
        for name, (out, _) in adapted(p).items()
    ]
    a = [
        Block(name=f"a/{name}", shape=(p.rank, into), lane="fixed", clip=1.0, init=1 / sqrt(into))
        for name, (_, into) in adapted(p).items()
    ]
    own = [Block(name=f"personal/{name}", shape=shape, lane="own", clip=p.clip) for name, shape in grown(p).items()]
    sums = tuple(Sum(block.name, Apply.AVERAGE) for block in b)
    score = _score("global", p)
    final = score + (_score("personal", p)[:2] if p.personal or p.finetune_steps else ())
    return Plan(
        method=NAME,
        seed=p.seed,
        n_max=limits.n_max,
        ring_bits=p.ring_bits,
        lanes=lanes,
        blocks=(*b, *a, *own),
        steps=(
            ROWS_STEP,
            *(Step(task="train", index=k, sums=sums, slots=score) for k in range(p.rounds)),
            Step(task="eval", index=0, slots=final),
        ),
    )


def _score(mode: str, p: Params) -> tuple[Slot, ...]:
    """Right next tokens of test rows; the loss of all test tokens, in units of 1/NAT nat; rows; tokens."""
    basis = Basis.STATE if mode == "global" else Basis.STEP
    return (
        *correct_slots(mode),
        Slot(f"{mode}.loss", TOKENS_BOUND * NAT * MOST_NATS, basis),
        *TEST_ROWS,
        Slot("test.tokens", TOKENS_BOUND, Basis.DATA),
    )
