"""``make evil GAME=…``: the malicious aggregator on real NVFlare, and what the silos made of it.

Exit 0 only if every silo that had to refuse refused with the right code, both to the server and in its own log, and no
share left that breaks the rule.
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
import time
from itertools import groupby
from pathlib import Path

from tests.evil.flare import Outcome, evil_federation, play
from tests.evil.games import GAMES
from tests.evil.server import ANSWERED, Trick


def main() -> int:
    parser = argparse.ArgumentParser(prog="make evil", description=__doc__)
    parser.add_argument("games", nargs="*", default=["both-shares"], metavar="GAME", help=", ".join(["all", *GAMES]))
    parser.add_argument("--silos", type=int, default=6, help="an even number from 6")
    parser.add_argument("--keep", type=Path, help="a new folder for the federation's files, which then stay")
    options = parser.parse_args()
    games = list(GAMES) if options.games == ["all"] else options.games
    if unknown := sorted(set(games) - set(GAMES)):
        parser.error(f"no game {', '.join(unknown)}; there are all, {', '.join(GAMES)}")
    if options.silos < 6 or options.silos % 2:
        parser.error("--silos: an even number from 6")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    began = time.monotonic()
    bad = 0
    with (
        tempfile.TemporaryDirectory(prefix="consilium-evil-") as place,
        evil_federation(options.keep or Path(place) / "evil", options.silos, say) as evil,
    ):
        for name in games:
            started = time.monotonic()
            outcome = play(evil, name)
            show(name, outcome, time.monotonic() - started)
            bad += bool(outcome.wrong)
    say(f"\n{len(games) - bad} of {len(games)} games refused as they must be, {time.monotonic() - began:.0f} s")
    return 1 if bad else 0


def say(text: str) -> None:
    print(text, flush=True)


def show(name: str, outcome: Outcome, seconds: float) -> None:
    first, *_ = (GAMES[name].play.__doc__ or "").splitlines()
    say(f"\n{name}: {first}  ({seconds:.0f} s, run {outcome.book.run[:16]})")
    for trick in outcome.book.tricks:
        say(f"  the server, {trick.phase} of step {trick.step}, attempt {trick.attempt}: {trick.text}")
        for what, silos in answers(trick):
            say(f"    {what:<22} {', '.join(silos)}")
    refusals = sum(sum(lines.values()) for lines in outcome.logged.values())
    say(f"  the silos' own logs: {refusals} refusals, each with its reason")
    verdict = outcome.verdict
    say(f"  {verdict.sent} bytes in {verdict.replies} replies searched: {verdict.shares} shares left")
    if not verdict.broken:
        say("  of no party did both kinds leave one silo, no step was released for two survivor sets")
    for step, lane in outcome.book.shut:
        say(f"  no share of lane {lane} of step {step} left")
    if outcome.proofs:
        say(f"  {len(outcome.proofs)} proofs at the silos (`fed verify`), for example {outcome.proofs[0]}")
    for line in outcome.wrong:
        say(f"  WRONG: {line}")
    say(f"  {'FAILED' if outcome.wrong else 'refused, as it must be'}")


def answers(trick: Trick) -> list[tuple[str, list[str]]]:
    order = sorted(trick.got, key=lambda silo: (trick.got[silo] == ANSWERED, trick.got[silo], silo))
    return [
        (code if code == ANSWERED else f"refused {code}", list(silos))
        for code, silos in groupby(order, key=lambda silo: trick.got[silo])
    ]


if __name__ == "__main__":
    sys.exit(main())
