"""``make evil GAME=…``: a malicious aggregator, or one malicious silo, on real NVFlare, and what the others made of it.

Exit 0 only if every silo that had to refuse refused with the right code, both to the server and in its own log, no
share left that breaks the rule, and the ledger names the silo that did wrong wherever that can be shown.
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
import time
from pathlib import Path

from tests.evil import member, trojan
from tests.evil.flare import Evil, evil_federation, play, play_member, play_trojan
from tests.evil.games import GAMES

KNOWN = (*GAMES, trojan.NAME, member.NAME)


def main() -> int:
    parser = argparse.ArgumentParser(prog="make evil", description=__doc__)
    parser.add_argument("games", nargs="*", default=["both-shares"], metavar="GAME", help=", ".join(["all", *KNOWN]))
    parser.add_argument("--silos", type=int, default=6, help="an even number from 6; bad-member always has eight")
    parser.add_argument("--keep", type=Path, help="a new folder for the federation's files, which then stay")
    options = parser.parse_args()
    if unknown := sorted(set(options.games) - {"all", *KNOWN}):
        parser.error(f"no game {', '.join(unknown)}; there are all, {', '.join(KNOWN)}")
    games = [name for name in KNOWN if name in options.games or "all" in options.games]
    if options.silos < 6 or options.silos % 2:
        parser.error("--silos: an even number from 6")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    began = time.monotonic()
    bad = 0
    with tempfile.TemporaryDirectory(prefix="consilium-evil-") as place:
        root = options.keep or Path(place) / "evil"
        if among := [name for name in games if name != member.NAME]:
            with evil_federation(root, options.silos, say) as evil:
                bad += sum(not played(evil, name) for name in among)
        if member.NAME in games:  # in a federation of its own: one silo's counter stays wrong
            with evil_federation(root.with_name(f"{root.name}-member"), member.SILOS, say, liar=member.LIAR) as evil:
                bad += not played(evil, member.NAME)
    say(f"\n{len(games) - bad} of {len(games)} games refused as they must be, {time.monotonic() - began:.0f} s")
    return 1 if bad else 0


def played(evil: Evil, name: str) -> bool:
    """Play a game and show it. Whether it ended as it must."""
    began = time.monotonic()
    match name:
        case trojan.NAME:
            outcomes, text = play_trojan(evil), trojan.__doc__
        case member.NAME:
            outcomes, text = play_member(evil), member.__doc__
        case _:
            outcomes, text = play(evil, name), GAMES[name].play.__doc__
    first, *_ = (text or "").splitlines()
    say(f"\n{name}: {first}  ({time.monotonic() - began:.0f} s)")
    for number, outcome in enumerate(outcomes, start=1):
        say(f"  run {outcome.run[:16]}" + (f", {number} of {len(outcomes)}" if len(outcomes) > 1 else ""))
        for line in outcome.told:
            say(f"    {line}")
        for line in outcome.wrong:
            say(f"    WRONG: {line}")
    good = not any(outcome.wrong for outcome in outcomes)
    say(f"  {'refused, as it must be' if good else 'FAILED'}")
    return good


def say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
