"""FedAvg with differential privacy at each silo: DP-SGD in every round, equal weights, no figures of rows.

What a silo uploads in a round is the change that its noised steps made: it is private by itself, whoever opens it and
however many silos collude. The server's mean, rounding, clipping to the ring and everything afterwards only process it.

Every silo has weight 1: row counts, which FedAvg weighs by, are figures of the rows. A step of a silo is divided by the
job's ``batch``, the same at all silos, so a silo with more rows moves the mean more, by what its rows add up to. No
metrics open: a score is a figure of rows too. Score the model at a silo on rows that its owner may use for that.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Final

from crypto.blocks import Contribution
from crypto.errors import SpecError
from crypto.plan import Apply, Lane, Plan, Scope, Step, Sum
from silo_agent.data import DataSet
from silo_agent.methods import Limits, Published, RoundParams, fits
from silo_agent.methods.fedavg import FedAvg, Params
from silo_agent.methods.networks import part_blocks, read
from silo_agent.methods.plans import SILOS
from silo_agent.models.description import Role
from silo_agent.models.experts import Experts, moved
from silo_agent.privacy.accountant import Release
from silo_agent.privacy.noise import Randomness
from silo_agent.privacy.sensitivity import check_private
from silo_agent.privacy.terms import Privacy, check_rows
from silo_agent.privacy.training import Noised, train_privately
from silo_agent.training import Descent

#: The weight of every silo.
EQUAL: Final = (1,)


class PrivateFedAvg(FedAvg):
    """FedAvg of a job with ``[privacy]``. Predicts as FedAvg does: its published model has the same blocks."""

    def __init__(
        self, params: Mapping[str, object], silo: str = "", *, privacy: Privacy, randomness: Randomness | None = None
    ) -> None:
        """``randomness``: for tests; default: the system's."""
        super().__init__(params, silo)
        _check_options(self.params)
        _check_model(self.experts)
        self.privacy = privacy
        self._randomness = randomness or Randomness()

    @classmethod
    def private_plan(cls, params: Mapping[str, object], limits: Limits, privacy: Privacy) -> Plan:
        """The plan of a private job. Raises SpecError for a model whose rows are not apart from each other, and for
        parameters that no private job can have."""
        p, experts = read(Params, params)
        _check_options(p)
        _check_model(experts)
        lane = Lane(name="everyone", scope=Scope.ALL, floor=limits.lane_floor, grid=EQUAL)
        blocks = part_blocks("model", experts.parts, lane=lane.name, clip=p.clip)
        sums = tuple(Sum(block.name, Apply.AVERAGE) for block in blocks)
        plan = Plan(
            method=cls.name,
            seed=p.seed,
            n_max=limits.n_max,
            ring_bits=p.ring_bits,
            lanes=(lane,),
            blocks=blocks,
            steps=tuple(Step(task="train", index=k, sums=sums, slots=(SILOS,)) for k in range(p.rounds)),
        )
        check_private(plan, noised=[block.name for block in blocks], constant=[SILOS.name])
        return plan

    def releases(self, step: Step) -> tuple[Release, ...]:
        """What a new contribution to a step costs."""
        return (self.privacy.release(self.params.local_steps),) if step.sums else ()

    def weights(self, step: Step, published: Published, data: DataSet) -> dict[str, int]:
        return {"everyone": EQUAL[0]}

    def contribute(self, step: Step, published: Published, data: DataSet) -> Contribution:
        """Never the same twice: the agent keeps what it has sent, and sends that again."""
        p, privacy = self.params, self.privacy
        fits(data, self.experts.shape, self.experts.task)
        check_rows(privacy, {"batch": p.batch}, data.rows)
        old = self._model(published, step.index)
        descent = Descent(learning_rate=p.learning_rate, momentum=p.momentum, proximal=p.proximal)
        noised = Noised(
            clip=privacy.clip,
            noise=privacy.noise_multiplier,
            rate=privacy.sampling_rate,
            lot=p.batch,
            steps=p.local_steps,
        )
        new = train_privately(self.experts, old, data.x_train, data.y_train, descent, noised, self._randomness)
        delta = moved(old, new)
        return Contribution({f"model.{code}": change for code, change in delta.items()}, {SILOS.name: 1})


def _check_options(p: Params) -> None:
    """Raise SpecError for an option of FedAvg that a private job does not have. Some follow a silo's rows (class
    weights, epochs) or open counts of them (metrics); the others are yet to be written for noised gradients."""
    ours = {one.name for one in fields(RoundParams)} | {"proximal"}
    for one in fields(Params):
        if one.name not in ours and (value := getattr(p, one.name)) != one.default:
            raise SpecError(
                f"params.{one.name}",
                got=value,
                want=f"{one.default!r} in a private job",
                remedy="Leave it out: a private job trains by plain SGD and opens no metrics.",
            )


def _check_model(experts: Experts) -> None:
    """Raise SpecError for a model whose gradients are not each of one row, or that keeps parts at a silo."""
    if mixing := experts.mixing():
        raise SpecError(
            "params.model",
            got=f"layer {mixing[0]}, which normalises over rows",
            want="a model whose result for a row depends on that row alone, for a private job",
            remedy="Use group or layer normalisation.",
        )
    if local := [part.name for part in experts.parts if part.role is Role.LOCAL]:
        raise SpecError(
            "params.local",
            got=f"{local[0]}, which stays at a silo",
            want="no local parameters in a private job",
            remedy="They are trained on rows without noise, and what is sent would follow them.",
        )
