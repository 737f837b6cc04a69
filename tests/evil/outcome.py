"""What a game came to, and how it is told."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from tests.evil.logs import Line, differences
from tests.evil.server import ANSWERED, Book, Trick
from tests.evil.verdict import Verdict


@dataclass(frozen=True, slots=True)
class Outcome:
    """``told``: what happened, a line each; ``wrong``: every way in which it was not as it must be, empty is the
    pass."""

    run: str
    told: tuple[str, ...]
    wrong: tuple[str, ...]


def of_book(book: Book, verdict: Verdict, logged: Mapping[str, Counter[Line]], proofs: Sequence[str] = ()) -> Outcome:
    """The outcome of one run of a game of the aggregator's. ``logged``: silo → what its log says; ``proofs``: what the
    silos kept."""
    told = []
    for trick in book.tricks:
        told.append(f"the server, {trick.phase} of step {trick.step}, attempt {trick.attempt}: {trick.text}")
        told += [f"  {what:<22} {', '.join(silos)}" for what, silos in _answers(trick)]
    if not book.tricks:
        told.append("the server plays by the rules")
    count = Counter(kind for found in logged.values() for kind, _, _ in found.elements())
    told.append(f"the silos' own logs: {count['refused']} refusals and {count['shut']} sums kept shut, each by name")
    kept = Counter((name, code) for found in logged.values() for kind, name, code in found.elements() if kind == "shut")
    told += [f"  stays shut, {code:<22} {name}, {times} times" for (name, code), times in sorted(kept.items())]
    told.append(f"{verdict.sent} bytes in {verdict.replies} replies searched: {verdict.shares} shares left")
    if not verdict.broken:
        told.append("of no party did both kinds leave one silo, no step was released for two survivor sets")
    told += [f"no share of {name} of step {step} left" for step, name in book.shut if name not in verdict.lanes(step)]
    if proofs:
        told.append(f"{len(proofs)} proofs at the silos (`fed verify`), for example {proofs[0]}")
    return Outcome(book.run, tuple(told), tuple(wrong(book, verdict, logged)))


def wrong(book: Book, verdict: Verdict, logged: Mapping[str, Counter[Line]]) -> list[str]:
    """Every way in which a run was not as it must be."""
    found = [] if book.over else [f"the game broke off: {book.error or 'its own log says why'}"]
    for trick in book.tricks:
        for silo in trick.failed:
            found.append(
                f"{silo} {trick.got.get(silo)} instead of {trick.expected[silo]} at {trick.phase}: {trick.text}"
            )
    return found + verdict.broken + differences(book, logged)


def _answers(trick: Trick) -> list[tuple[str, list[str]]]:
    order = sorted(trick.got, key=lambda silo: (trick.got[silo] == ANSWERED, trick.got[silo], silo))
    return [
        (code if code == ANSWERED else f"refused {code}", list(silos))
        for code, silos in groupby(order, key=lambda silo: trick.got[silo])
    ]
