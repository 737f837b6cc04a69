"""Curves of accuracy as SVG: numbers for the template, which draws them without a style attribute or a script."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from jobs.desk.runs import Curve

#: The picture, in its own units, and where the plot lies in it.
WIDE, HIGH = 640, 260
LEFT, RIGHT, TOP, BOTTOM = 44, 12, 14, 34

_GRID: Final = (0, 25, 50, 75, 100)


@dataclass(frozen=True, slots=True)
class Line:
    """``points``: of a polyline; ``dots``: each point's place. ``last``: per cent."""

    points: str
    dots: tuple[tuple[float, float], ...]
    last: str


@dataclass(frozen=True, slots=True)
class Picture:
    """``grid``: (y, label); ``ticks``: (x, label); ``rows``: (step, all silos, this silo), for those who can't see."""

    mode: str
    all_silos: Line | None
    own: Line | None
    grid: tuple[tuple[float, str], ...]
    ticks: tuple[tuple[float, str], ...]
    rows: tuple[tuple[int, str, str], ...]


def draw(curve: Curve, whole: int) -> Picture:
    """``whole``: steps of the plan: a curve of a run that is under way leaves room for the rest."""
    most = max(whole - 1, *(k for k, _ in (*curve.all_silos, *curve.own)), 1)
    ticks = sorted({0, most // 2, most})
    together, own = dict(curve.all_silos), dict(curve.own)
    rows = tuple((k, _text(together.get(k)), _text(own.get(k))) for k in sorted({*together, *own}))
    return Picture(
        curve.mode,
        _line(curve.all_silos, most),
        _line(curve.own, most),
        tuple((_y(value), str(value)) for value in _GRID),
        tuple((_x(k, most), str(k)) for k in ticks),
        rows,
    )


def _line(points: Sequence[tuple[int, float]], most: int) -> Line | None:
    if not points:
        return None
    places = tuple((_x(k, most), _y(value)) for k, value in points)
    return Line(" ".join(f"{x},{y}" for x, y in places), places, _text(points[-1][1]))


def _x(k: int, most: int) -> float:
    return round(LEFT + (WIDE - LEFT - RIGHT) * k / most, 1)


def _y(per_cent: float) -> float:
    return round(TOP + (HIGH - TOP - BOTTOM) * (1 - per_cent / 100), 1)


def _text(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"
