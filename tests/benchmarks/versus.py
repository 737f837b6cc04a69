"""Ours and the peers on one vector, round by round in turn: silo, server, bytes and error, for P10 and P11.

The peers run in their own environment (``tests/benchmarks/peers.py``); each side counts its processor time, all threads
together. Server totals are composed of timed parts: n additions, n recovered secrets, n streams; no drop-out.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from crypto import masking, ring
from crypto.session import SessionState
from tests.benchmarks.sessions import Closing, Group, fork, without_digests
from tests.benchmarks.vectors import EXTREME, noisy, update

SIZE = 1_000_000
ROUNDS = 5
SILOS = (4, 16, 64)


class Peers:
    """The other process."""

    def __init__(self, python: Path, size: int) -> None:
        script = Path(__file__).with_name("peers.py")
        self._process = subprocess.Popen(
            [str(python), str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.versions = self._say(size)

    def ask(self, *what: Any) -> Any:
        """[peer, operation, arguments…] → its answer."""
        return self._say(what)

    def _say(self, what: Any) -> Any:
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(json.dumps(what) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise SystemExit("The peers' process ended; its message stands above.")
        return json.loads(answer)

    def close(self) -> None:
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait()


class Ours:
    """The same work through the production classes: encode and mask, add, recover, unmask."""

    def __init__(self, x: np.ndarray, n: int) -> None:
        self.x, self.n = x, n
        self.group = Group(n, {"trunk": x.size})
        self.group.setup()
        self.first = self.group.fed.silos[0]
        self.words = np.empty(x.size, dtype=np.uint32)
        self._play()

    def silo(self) -> None:
        ring.encode(self.x, self.words, clip=EXTREME, share=1.0, n_max=self.n)
        session = self.group.silos[self.first]
        session.state = SessionState.READY
        session.upload(self.group.encoded({"trunk": self.words}, ["trunk"]))

    def _play(self) -> None:
        server = self.group.server
        for silo, session in self.group.silos.items():
            header, section = session.upload(self.group.encoded({"trunk": self.words}, ["trunk"]))
            masked = session.masked.pop("trunk")
            server.header(silo, header, section)
            server.words(silo, {"trunk": masked})
        self.closing = Closing(self.group, server, {silo: fork(s) for silo, s in self.group.silos.items()})
        self.closing.attest()
        self.closing.release(cold=0)
        self.total = self.words.copy()

    def add(self) -> None:
        np.add(self.total, self.words, out=self.total)

    def recover(self) -> None:
        self.masks, self.seeds = self.closing.recover()

    def unmask(self) -> None:
        self.group.server.survivors.unmask("trunk", self.total, self.seeds, self.masks)

    def error(self) -> float:
        exact, total = np.zeros(self.x.size), np.zeros(self.x.size, dtype=np.uint32)
        for place in range(self.n):
            x = noisy(self.x, place)
            exact += x
            ring.encode(x, self.words, clip=EXTREME, share=1.0, n_max=self.n)
            total += self.words
        mean = ring.decode(total, clip=EXTREME, n_max=self.n)
        return float(np.linalg.norm(mean - exact) / np.linalg.norm(exact))


def turns(parts: dict[str, Callable[[], float]], rounds: int = ROUNDS) -> dict[str, float]:
    """Part → milliseconds, the best of ``rounds``, the parts in turn."""
    found = dict.fromkeys(parts, float("inf"))
    for _ in range(rounds):
        for name, part in parts.items():
            found[name] = min(found[name], part() * 1e3)
    return found


def seconds(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def compare(python: Path, say: Callable[[str], None]) -> dict[str, Any]:
    """{"versions", "ours": {n: …}, "flower": {n: …}, "tenseal": …}"""
    x = update(SIZE)
    peers = Peers(python, SIZE)
    ours: dict[str, Any] = {}
    flower: dict[str, Any] = {}
    tenseal: dict[str, Any] = {"server_ms": {}}
    masking.THREADS = 1
    try:
        for n in SILOS:
            say(f"peers, n = {n}")
            with without_digests():
                us = Ours(x, n)
                t = us.group.server.cohort.threshold
                ms = turns(
                    {
                        "silo": lambda us=us: seconds(us.silo),
                        "flower": lambda n=n: peers.ask("flower", "silo", n),
                        "tenseal": lambda: peers.ask("tenseal", "silo"),
                        "add": lambda us=us: seconds(us.add),
                        "flower add": lambda: peers.ask("flower", "add"),
                        "tenseal add": lambda: peers.ask("tenseal", "add"),
                        "recover": lambda us=us: seconds(us.recover),
                        "flower combine": lambda n=n, t=t: peers.ask("flower", "combine", n, t),
                        "flower share": lambda n=n, t=t: peers.ask("flower", "share", n, t),
                        "unmask": lambda us=us: seconds(us.unmask),
                        "flower unmask": lambda n=n: peers.ask("flower", "unmask", n),
                    }
                )
            ours[str(n)] = {
                "silo_ms": ms["silo"],
                "add_ms": ms["add"],
                "recover_ms": ms["recover"],
                "unmask_ms": ms["unmask"],
                "server_ms": n * ms["add"] + ms["recover"] + ms["unmask"],
                "bytes_per_value": us.words.nbytes / SIZE,
                "error": us.error(),
            }
            flower[str(n)] = {
                "silo_ms": ms["flower"],
                "add_ms": ms["flower add"],
                "recover_ms": n * ms["flower combine"],
                "share_ms": ms["flower share"],
                "unmask_ms": ms["flower unmask"],
                "server_ms": n * (ms["flower add"] + ms["flower combine"]) + ms["flower unmask"],
                "bytes_per_value": peers.ask("flower", "bytes_per_value"),
                "error": peers.ask("flower", "error", n),
            }
            tenseal["silo_ms"] = min(ms["tenseal"], tenseal.get("silo_ms", ms["tenseal"]))
            tenseal["server_ms"][str(n)] = n * ms["tenseal add"]
        tenseal["bytes_per_value"] = peers.ask("tenseal", "bytes_per_value")
    finally:
        masking.THREADS = None
        peers.close()
    return {"versions": peers.versions, "size": SIZE, "ours": ours, "flower": flower, "tenseal": tenseal}


def figures(kept: Path | None, python: Path | None, say: Callable[[str], None]) -> dict[str, Any] | None:
    """The peers' figures: measured now where there is an interpreter (and kept, if asked), else read, else None."""
    if python is not None:
        found = compare(python, say)
        if kept is not None:
            kept.write_text(json.dumps(found, indent=1) + "\n")
        return found
    return None if kept is None else dict(json.loads(kept.read_text()))
