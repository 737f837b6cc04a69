"""ε of a list of releases: privacy loss distributions of Google's ``dp-accounting``, for add-or-remove-one neighbours.

A release is ``count`` steps, each a sum of vectors of norm at most C over a Poisson sample of the rows, plus Gaussian
noise of standard deviation ``noise`` · C in each coordinate. Its privacy loss distribution is discretised so that what
comes out is an upper bound (connect the dots: Doroshenko, Ghazi, Kamath, Kumar, Manurangsi 2022) and composed by FFT.
The theorems hold for steps that are chosen adaptively, as those of a training are. Rényi differential privacy gives
another upper bound (Mironov, Talwar, Zhang 2019). The smaller of the two is taken; where Rényi's is above ``LARGE``, or
there are more than ``MANY`` steps, it alone, since loss distributions become huge.

The order of releases makes no difference: equal ones are put together and sorted first, so sums agree to the last bit.
The library is the extra ``[privacy]``; it is imported when the first ε is computed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from importlib import metadata
from math import ceil, inf, isnan
from types import SimpleNamespace
from typing import Any, Final

from crypto.errors import SpecError

#: Share by which two computations of one ε may differ.
ROUNDING: Final = 1e-6

#: ε is shown, and written into jobs, in these steps, always rounded up.
SHOWN: Final = 1e-4

#: From here on the looser bound is good enough.
LARGE: Final = 50.0

#: From so many steps on the looser bound is taken, which takes no longer for more of them.
MANY: Final = 1_000_000

#: Width of a loss distribution's cells: four times the library's, for an ε that is at most 0.4 % larger in the tests.
_CELL: Final = 5e-4

#: Whole orders of Rényi differential privacy, for which the bound has a closed form.
_ORDERS: Final = (*range(2, 65), 80, 96, 128, 192, 256, 512, 1024)

_DISTRIBUTION = "dp-accounting"


@dataclass(frozen=True, slots=True, order=True)
class Release:
    """``noise``: standard deviation over the clip. ``rate``: of the Poisson sampling, 1: all rows. ``count``: steps."""

    noise: float
    rate: float
    count: int


def name() -> str:
    """The accountant and its version, as jobs and journals name it. Raises SpecError without the extra."""
    try:
        return f"PLD of {_DISTRIBUTION} {metadata.version(_DISTRIBUTION)}"
    except metadata.PackageNotFoundError:
        raise _missing() from None


def epsilon(releases: Iterable[Release], delta: float) -> float:
    """The ε at ``delta`` of all these releases together; 0 of none, infinity where it can't be bounded.

    Raises SpecError without the extra."""
    return _epsilon(merged(releases), delta)


def merged(releases: Iterable[Release]) -> tuple[Release, ...]:
    """Equal steps put together, in a fixed order."""
    counts: Counter[tuple[float, float]] = Counter()
    for one in releases:
        counts[one.noise, one.rate] += one.count
    return tuple(sorted(Release(*kind, count) for kind, count in counts.items() if count))


def steps_within(budget: float, delta: float, step: Release, most: int, before: Iterable[Release] = ()) -> int:
    """How many times ``step`` can be released, at most ``most``, before ε would exceed ``budget``."""
    spent = list(before)
    low, high = 0, most
    while low < high:
        middle = (low + high + 1) // 2
        if epsilon([*spent, Release(step.noise, step.rate, step.count * middle)], delta) <= budget:
            low = middle
        else:
            high = middle - 1
    return low


def calibrated(
    target: float, delta: float, rate: float, count: int, *, least: float, most: float, where: str = "job.privacy"
) -> float:
    """The least noise, in thousandths, with which ``count`` steps stay within ``target``. Raises SpecError."""

    def enough(thousandths: int, bound: Callable[[tuple[Release, ...], float], float]) -> bool:
        return bound((Release(thousandths / 1000, rate, count),), delta) <= target

    # Rényi differential privacy finds at most a few times too much noise, and quickly: begin there.
    low, high = ceil(least * 1000), ceil(most * 1000)
    high = _first(lambda at: enough(at, _renyi), low, high)
    if not enough(high, _epsilon):
        raise SpecError(
            f"{where}.epsilon",
            got=target,
            want=f"an epsilon that {count} steps can keep to with noise_multiplier up to {most:g}",
            remedy="Raise epsilon, or lower rounds, local_steps or sampling_rate.",
        )
    near = max(low, high * 3 // 4)
    low = low if enough(near, _epsilon) else near
    return _first(lambda at: enough(at, _epsilon), low, high) / 1000


def _first(fits: Callable[[int], bool], low: int, high: int) -> int:
    """The least number from ``low`` to ``high`` that fits, of numbers from which on all fit; ``high`` if none does."""
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if fits(middle) else (middle + 1, high)
    return low


def rounded_up(value: float) -> float:
    """For people and for jobs."""
    return inf if value == inf else round(ceil(round(value / SHOWN, 6)) * SHOWN, 4)


@lru_cache(maxsize=4096)
def _epsilon(releases: tuple[Release, ...], delta: float) -> float:
    if not releases:
        return 0.0
    quick = _renyi(releases, delta)
    if quick > LARGE or sum(one.count for one in releases) > MANY:
        return quick
    library = _library()
    account = library.PLDAccountant(library.NeighboringRelation.ADD_OR_REMOVE_ONE, _CELL)
    return min(quick, _composed(account, releases, delta))


def _renyi(releases: tuple[Release, ...], delta: float) -> float:
    """A looser upper bound."""
    library = _library()
    return _composed(library.RdpAccountant(_ORDERS, library.NeighboringRelation.ADD_OR_REMOVE_ONE), releases, delta)


def _composed(account: Any, releases: tuple[Release, ...], delta: float) -> float:
    library = _library()
    for one in releases:
        event = library.GaussianDpEvent(one.noise)
        if one.rate < 1:
            event = library.PoissonSampledDpEvent(one.rate, event)
        account.compose(event, one.count)
    found = float(account.get_epsilon(delta))
    return inf if isnan(found) else max(found, 0.0)


def _library() -> SimpleNamespace:
    try:
        from dp_accounting import GaussianDpEvent, NeighboringRelation, PoissonSampledDpEvent
        from dp_accounting.pld.pld_privacy_accountant import PLDAccountant
        from dp_accounting.rdp.rdp_privacy_accountant import RdpAccountant
    except ModuleNotFoundError as gone:
        raise _missing() from gone
    return SimpleNamespace(
        GaussianDpEvent=GaussianDpEvent,
        NeighboringRelation=NeighboringRelation,
        PLDAccountant=PLDAccountant,
        PoissonSampledDpEvent=PoissonSampledDpEvent,
        RdpAccountant=RdpAccountant,
    )


def _missing() -> SpecError:
    return SpecError(
        "job.privacy",
        got=f"no package {_DISTRIBUTION} here",
        want="an accountant of differential privacy",
        remedy="Install the extra [privacy] of consilium-fl: pip install './WHEEL[privacy]'.",
    )
