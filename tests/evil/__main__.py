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
from collections.abc import Sequence
from pathlib import Path

from tests.evil import trojan
from tests.evil.flare import evil_federation, play, play_trojan
from tests.evil.games import GAMES
from tests.evil.outcome import Outcome

KNOWN = (*GAMES, trojan.NAME)


def main() -> int:
    parser = argparse.ArgumentParser(prog="make evil", description=__doc__)
    parser.add_argument("games", nargs="*", default=["both-shares"], metavar="GAME", help=", ".join(["all", *KNOWN]))
    parser.add_argument("--silos", type=int, default=6, help="an even number from 6")
    parser.add_argument("--keep", type=Path, help="a new folder for the federation's files, which then stay")
    options = parser.parse_args()
    games = list(KNOWN) if options.games == ["all"] else options.games
    if unknown := sorted(set(games) - set(KNOWN)):
        parser.error(f"no game {', '.join(unknown)}; there are all, {', '.join(KNOWN)}")
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
            outcomes = play_trojan(evil) if name == trojan.NAME else play(evil, name)
            show(name, outcomes, time.monotonic() - started)
            bad += any(outcome.wrong for outcome in outcomes)
    say(f"\n{len(games) - bad} of {len(games)} games refused as they must be, {time.monotonic() - began:.0f} s")
    return 1 if bad else 0


def say(text: str) -> None:
    print(text, flush=True)


def show(name: str, outcomes: Sequence[Outcome], seconds: float) -> None:
    first, *_ = ((GAMES[name].play if name in GAMES else trojan).__doc__ or "").splitlines()
    say(f"\n{name}: {first}  ({seconds:.0f} s)")
    for number, outcome in enumerate(outcomes, start=1):
        say(f"  run {outcome.run[:16]}" + (f", {number} of {len(outcomes)}" if len(outcomes) > 1 else ""))
        for line in outcome.told:
            say(f"    {line}")
        for line in outcome.wrong:
            say(f"    WRONG: {line}")
    say(f"  {'FAILED' if any(outcome.wrong for outcome in outcomes) else 'refused, as it must be'}")


if __name__ == "__main__":
    sys.exit(main())
