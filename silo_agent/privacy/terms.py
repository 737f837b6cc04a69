"""The table ``[privacy]`` of a job: mechanism, unit, noise, and the ε that the whole job may cost a silo's rows.

    [privacy]
    mechanism = "local"          # DP-SGD at each silo: what leaves a silo is private against everybody
    unit = "record"              # one training row, added or removed
    clip = 1.0                   # largest L2 norm of one row's gradient
    sampling_rate = 0.05         # chance of each row to be in a step's batch, each by itself (Poisson)
    delta = 1e-5
    epsilon = 4.0                # of all steps together; or noise_multiplier; or both

A job file gives ``epsilon``, or ``noise_multiplier`` (standard deviation of the noise over ``clip``), or both. What is
missing is computed when the file is read; the canonical text of a job has both, and the accountant that computed them.
So an approval binds the numbers themselves, and who only relays or verifies a job needs no accountant.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import isfinite
from typing import Any, Final

from crypto.errors import DataRefused, SpecError
from silo_agent.privacy import accountant
from silo_agent.privacy.accountant import Release

LOCAL: Final = "local"
MECHANISMS: Final = (LOCAL,)
RECORD: Final = "record"

#: Bounds that keep every number of the accountant finite and every noise above the rounding of floats.
LEAST_NOISE, MOST_NOISE = 0.3, 1e4
LEAST_CLIP, MOST_CLIP = 1e-3, 1e3
LEAST_RATE = 1e-5
LEAST_DELTA, MOST_DELTA = 1e-12, 1e-2
MOST_EPSILON = 100.0

#: What a job that does not say it has: those of ``silo_agent.methods.RoundParams``, which imports this package.
DEFAULTS: Final = {"rounds": 12, "local_steps": 20, "batch": 16}

_FIELDS = ("mechanism", "unit", "clip", "sampling_rate", "delta", "epsilon", "noise_multiplier", "accountant")


@dataclass(frozen=True, slots=True, kw_only=True)
class Privacy:
    """A complete table. ``noise_multiplier``: σ over ``clip``. ``epsilon``: at ``delta``, of the whole job, no less
    than what ``accountant`` (name and version) computed."""

    mechanism: str
    unit: str
    clip: float
    sampling_rate: float
    delta: float
    epsilon: float
    noise_multiplier: float
    accountant: str

    @property
    def fields(self) -> dict[str, Any]:
        """As it stands in a job's canonical text."""
        return asdict(self)

    def release(self, local_steps: int) -> Release:
        """What one training step of the plan costs: so many gradient steps."""
        return Release(self.noise_multiplier, self.sampling_rate, local_steps)

    @classmethod
    def parse(cls, raw: Mapping[str, object], params: Mapping[str, object], where: str = "job.privacy") -> Privacy:
        """``params``: of the job; they say how many steps there are. Raises SpecError that names the field."""
        for key in raw:
            if key not in _FIELDS:
                raise SpecError(f"{where}.{key}", got=raw[key], want=f"one of the fields {', '.join(_FIELDS)}")
        mechanism = raw.get("mechanism")
        if mechanism not in MECHANISMS:
            raise SpecError(
                f"{where}.mechanism",
                got=mechanism,
                want=" or ".join(MECHANISMS),
                remedy="This release adds noise at each silo only.",
            )
        if raw.get("unit") != RECORD:
            raise SpecError(
                f"{where}.unit",
                got=raw.get("unit"),
                want=RECORD,
                remedy="One training row is protected, not all rows of a patient: say so in the job.",
            )
        clip = _number(raw, "clip", where, LEAST_CLIP, MOST_CLIP)
        rate = _number(raw, "sampling_rate", where, LEAST_RATE, 1)
        delta = _number(raw, "delta", where, LEAST_DELTA, MOST_DELTA)
        epsilon = _number(raw, "epsilon", where, 0, MOST_EPSILON) if "epsilon" in raw else None
        noise = _number(raw, "noise_multiplier", where, LEAST_NOISE, MOST_NOISE) if "noise_multiplier" in raw else None
        if epsilon == 0:
            raise SpecError(f"{where}.epsilon", got=epsilon, want="more than 0")
        if epsilon is None and noise is None:
            raise SpecError(
                where, got="neither epsilon nor noise_multiplier", want="at least one of them; the other is computed"
            )
        named = raw.get("accountant")
        if named is not None and (not isinstance(named, str) or not 1 <= len(named) <= 80 or not named.isprintable()):
            raise SpecError(f"{where}.accountant", got=named, want="name and version of an accountant")
        if named is None or epsilon is None or noise is None:
            named = accountant.name()
        steps = total_steps(params)
        if noise is None:
            assert epsilon is not None
            noise = accountant.calibrated(epsilon, delta, rate, steps, least=LEAST_NOISE, most=MOST_NOISE, where=where)
        if epsilon is None:
            epsilon = accountant.rounded_up(accountant.epsilon([Release(noise, rate, steps)], delta))
            if epsilon > MOST_EPSILON:
                raise SpecError(
                    f"{where}.noise_multiplier",
                    got=noise,
                    want=f"enough noise for an epsilon of at most {MOST_EPSILON:g}",
                    remedy="Raise noise_multiplier, or lower rounds, local_steps or sampling_rate.",
                )
        return cls(
            mechanism=str(mechanism),
            unit=RECORD,
            clip=clip,
            sampling_rate=rate,
            delta=delta,
            epsilon=epsilon,
            noise_multiplier=noise,
            accountant=named,
        )

    def check_claim(self, params: Mapping[str, object], where: str = "job.privacy") -> None:
        """Raise SpecError if this site's accountant finds more ε in the job than the job says."""
        found = accountant.epsilon([self.release(total_steps(params))], self.delta)
        if found > self.epsilon * (1 + accountant.ROUNDING):
            raise SpecError(
                f"{where}.epsilon",
                got=f"{self.epsilon:g}, by {self.accountant}",
                want=f"at least {accountant.rounded_up(found):g}, which {accountant.name()} computes here",
                remedy="Have the job written again, with the same version of the accountant.",
            )

    def with_steps(self, params: Mapping[str, object], where: str = "job.privacy") -> Privacy:
        """The same noise in a job with other numbers of steps."""
        raw = {key: value for key, value in self.fields.items() if key not in ("epsilon", "accountant")}
        return self.parse(raw, params, where)


def total_steps(params: Mapping[str, object]) -> int:
    """Gradient steps of a whole job: rounds times local steps. What is no number is the method's to refuse."""
    return _whole(params, "rounds") * _whole(params, "local_steps")


def check_rows(privacy: Privacy, params: Mapping[str, object], rows: int) -> None:
    """Raise DataRefused for a data set that is too small for what a job says."""
    if privacy.delta >= 1 / rows:
        raise DataRefused(
            f"The job's delta of {privacy.delta:g} is no less than one over the {rows} training rows: a mechanism that "
            "shows whole rows could have it.",
            remedy="Ask for a job with a smaller delta.",
        )
    if (batch := _whole(params, "batch")) > rows:
        raise DataRefused(
            f"The job's batch of {batch} is larger than the {rows} training rows.",
            remedy="Ask for a job with a smaller batch.",
        )


def _whole(params: Mapping[str, object], name: str) -> int:
    value = params.get(name, DEFAULTS[name])
    return value if type(value) is int and value > 0 else 1


def _number(raw: Mapping[str, object], key: str, where: str, least: float, most: float) -> float:
    value = raw.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value):
        raise SpecError(f"{where}.{key}", got=value, want=f"a number from {least:g} to {most:g}")
    if not least <= value <= most:
        raise SpecError(f"{where}.{key}", got=value, want=f"a number from {least:g} to {most:g}")
    return float(value)
