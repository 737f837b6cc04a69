"""Speed of secure aggregation against the machine's own limits: ``python tests/benchmarks/secagg.py``.

    --quick             n = 4 and 16, under a minute
    --full              n = 100 and d = 100 million as well, most of an hour
    --json              last line: {"machine", "limits", "rows", "targets"}
    --peers FILE        figures of the peers, for P10 and P11; with --peers-python they are measured now, and kept there
    --peers-python EXE  an interpreter with flwr and tenseal: see ``make bench-peers``
    --markdown PAGE     writes the page and, beside it, its plot

AES-CTR and memory are calibrated in the same process, interleaved with what is measured; everything is the best of at
least five rounds. The masked pieces go through SiloSession, ServerSession and ring.encode. A target passes within a
tenth of its limit, for noise.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from crypto import blocks, masking, ring
from crypto.cohort import words_digest
from crypto.opening import LaneTotal
from crypto.session import SessionState
from tests.benchmarks import page, versus
from tests.benchmarks.limits import Aes, CacheAdd, best, calibrate, machine, peak_extra, scaled
from tests.benchmarks.proving import opened, proof_row, tagged, whole_step
from tests.benchmarks.sessions import CLIP, THIN, Closing, Group, fork, thin, without_digests
from tests.benchmarks.targets import targets

Row = dict[str, Any]

#: Bytes of all uploads that are kept until the lanes open; more of them are masked again.
KEPT = 3 << 30


def dropouts(n: int) -> int:
    """A fifth of the silos, at least one."""
    return max(1, round(n / 5))


def sum_rows(n: int, d: int, *, threads: bool) -> list[Row]:
    """One cohort and one vector, without and with drop-outs. ``threads``: measure two threads against one as well."""
    x = np.random.default_rng(1).normal(scale=CLIP / 20, size=d).astype(np.float32)
    group = Group(n, {"trunk": d})
    group.setup()
    row: Row = {"kind": "sum", "n": n, "d": d} | setup_figures(group)
    plain = np.empty(d, dtype=np.uint32)
    row |= quantise(x, plain, n)
    with without_digests():
        uploads = Uploads(group, plain)
        row |= uploads.measure(threads=threads)
        servers = uploads.all()
    row["digest_ms"] = best({"digest": lambda: words_digest(plain)})["digest"] * 1e3
    row |= uploads.added()
    closed = [row | close(group, uploads, servers[lost], lost, row["aes_ratio"], plain) for lost in servers]
    return [one if one["drop"] else one | whole_step(one) for one in closed]


def quantise(x: np.ndarray, out: np.ndarray, n: int) -> Row:
    """ring.encode where no value, and where every block has values, beyond the clip, against np.copyto."""
    copied, options = np.empty_like(x), {"share": 1.0, "n_max": n}
    near = CLIP / 8  # 2.5 standard deviations: each block has something to clip
    t = best(
        {
            "clipped": lambda: ring.encode(x, out, clip=near, **options),
            "inside": lambda: ring.encode(x, out, clip=CLIP, **options),
            "copyto": lambda: np.copyto(copied, x),
        },
        rounds=7,
    )
    ring.encode(x, out, clip=CLIP, **options)
    return {
        "quantise_ms": t["inside"] * 1e3,
        "quantise_clipped_ms": t["clipped"] * 1e3,
        "quantise_gb_s": x.nbytes / t["inside"] / 1e9,
        "quantise_copyto_ratio": t["copyto"] / t["inside"],
        "quantise_clipped_gb_s": x.nbytes / t["clipped"] / 1e9,
    }


class Uploads:
    """Everyone's upload of one vector. The first silo's is measured; the last ``dropouts(n)`` may be missing."""

    def __init__(self, group: Group, plain: np.ndarray) -> None:
        self.group, self.plain, self.n = group, plain, len(group.silos)
        self.first, *self.others = group.silos
        self.lost = set(self.others[-dropouts(self.n) :])
        self.kept: dict[str, np.ndarray] = {}

    def upload(self) -> None:
        """The measured silo masks its vector, again if need be: the work is the same."""
        session = self.group.silos[self.first]
        session.state = SessionState.READY
        session.upload(self.group.encoded({"trunk": self.plain}, ["trunk"]))

    def of(self, silo: str, lane: str = "trunk") -> np.ndarray:
        """A silo's masked words: kept, or made again where all of them would not fit."""
        if silo in self.kept:
            return self.kept[silo]
        session = self.group.silos[silo]
        session.state = SessionState.READY
        session.upload(self.group.encoded({"trunk": self.plain}, ["trunk"]))
        return session.masked.pop(lane)

    def measure(self, *, threads: bool) -> Row:
        aes, cache_add = Aes(), CacheAdd()
        run, times = scaled(self.n * self.plain.nbytes)
        masking.THREADS = 1
        extra = peak_extra(self.upload)  # the first of all: nothing is left over from another
        t = best({"mask": self.upload, "aes": lambda: aes(run), "add": lambda: cache_add(run)})
        aes_s, add_s = t["aes"] * times, t["add"] * times
        row: Row = {
            "mask_ms": t["mask"] * 1e3,
            "aes_ms": aes_s * 1e3,
            "aes_ratio": aes_s / t["mask"],
            "floor_ratio": t["mask"] / (aes_s + add_s),
            "extra_bytes": None if extra is None else extra - self.plain.nbytes,  # beyond the masked copy
        }
        if threads and masking.workers_of(None) > 1:
            wall = best({"1": lambda: self.threaded(1), "2": lambda: self.threaded(2)}, clock=time.perf_counter)
            row["two_threads"] = wall["1"] / wall["2"]
        masking.THREADS = None
        return row

    def threaded(self, count: int) -> None:
        masking.THREADS = count
        self.upload()

    def all(self) -> dict[int, Any]:
        """Drop-outs → a server that has checked the uploads of the rest."""
        group = self.group
        servers = {0: group.server, len(self.lost): fork(group.server)}
        self.adds: list[float] = []
        self.plain_adds: list[float] = []
        total, sums = np.zeros_like(self.plain), LaneTotal.zero(self.plain.size, 32, self.n)
        for silo, session in group.silos.items():
            if self.n * self.plain.size > THIN:
                thin(session, frozenset({self.first, *self.lost}))
            session.state = SessionState.READY
            header, section = session.upload(group.encoded({"trunk": self.plain}, ["trunk"]))
            masked = session.masked.pop("trunk")
            if self.n * self.plain.nbytes <= KEPT:
                self.kept[silo] = masked
            for lost, server in servers.items():
                if not (lost and silo in self.lost):
                    server.header(silo, header, section)
                    server.words(silo, {"trunk": masked})
            start = time.process_time()
            sums.add(masked)
            self.adds.append(time.process_time() - start)
            start = time.process_time()
            np.add(total, masked, out=total)
            self.plain_adds.append(time.process_time() - start)
        return servers

    def added(self) -> Row:
        add, plain = min(self.adds), min(self.plain_adds)
        return {"server_add_ms": add * 1e3, "plain_add_ms": plain * 1e3, "add_ratio": add / plain}


def close(group: Group, uploads: Uploads, server: Any, lost: int, aes_ratio: float, plain: np.ndarray) -> Row:
    """Attest, release and open; ``aes_ratio``: AES over mask at the silo, which the server's streams are held to."""
    for event in ("survivors", "attest", "release_slots", "release_lanes"):
        group.seconds.pop(event, None)
    end = Closing(group, server, {silo: fork(session) for silo, session in group.silos.items()})
    with without_digests():
        end.attest()
        end.release()
    recovery = best({"recovery": lambda: end.recover()})["recovery"]
    masks, seeds = end.recover()
    scratch, here = plain.copy(), len(server.survivors.signed)
    streams = here * (1 + lost)
    masking.THREADS = 1
    aes, (run, times) = Aes(), scaled(streams * plain.nbytes)
    t = best(
        {"unmask": lambda: server.survivors.unmask("trunk", scratch, seeds, masks), "aes": lambda: aes(run)},
    )
    masking.THREADS = None
    proven = opened(server, uploads.of)
    if not lost:
        uploads.kept.setdefault(uploads.first, uploads.of(uploads.first))
        proven |= tagged(server, uploads.first, uploads.of)
    (summed,) = (found.words for found in server.sums.values())
    release = group.ms("survivors", "attest", "release_slots", "release_lanes")
    return proven | {
        "drop": lost,
        "threshold": server.cohort.threshold,
        "attest_unmask_ms": release,
        "attest_unmask_ratio": release / end.signatures_ms(),
        "recovery_ms": recovery * 1e3,
        "streams": streams,
        "unmask_ms": t["unmask"] * 1e3,
        "unmask_stream_ratio": t["unmask"] / (t["aes"] * times) * aes_ratio,
        "exact": bool((summed == plain * np.uint32(here)).all()),
        "thin": uploads.n * plain.size > THIN,
    }


def setup_row(n: int, classes: int, limits: dict[str, float]) -> Row:
    """Messages only: ``classes`` lanes of a few words. Everyone deals; three silos open their rows."""
    group = Group(n, {f"lane-{i}" if i else "trunk": 16 for i in range(classes)})
    group.setup(opening=10)
    found = setup_figures(group)
    return {"kind": "setup", "n": n, "classes": classes, "agreements_ms": (n - 1) * limits["agree_us"] / 1e3} | found


def setup_figures(group: Group) -> Row:
    """What one silo's messages M0 and M1 take it, and the checks of everyone else's, of which it must verify all."""
    setup, signatures = group.ms("advert", "deal", "open_rows"), group.signatures_ms()
    return {"setup_ms": setup, "signatures_ms": signatures, "setup_ratio": setup / signatures}


def lanes_rows() -> list[Row]:
    """n = 16, a trunk of 2M and 16 experts of 1M words, each silo holding 4: visible lanes against hidden, dense."""
    n, experts, trunk, size = 16, 16, 2_000_000, 1_000_000
    names = [f"expert-{i}" for i in range(experts)]
    rows: list[Row] = []
    parts = {}
    for kind, hidden in (("dense", True), ("lanes", False)):
        group = Group(n, {"trunk": trunk, **dict.fromkeys(names, size)}, hidden=hidden, c=2)
        holdings = {
            silo: ["trunk", *(names[(i + k) % experts] for k in range(4))] for i, silo in enumerate(group.fed.silos)
        }
        group.setup(holdings, opening=1)
        first = group.fed.silos[0]
        x = {
            part.block: np.full(group.plan.block(part.block).shape, 0.01, dtype=np.float32) for part in group.step.sums
        }
        parts[kind] = lane_upload(group, first, holdings[first], x)
        uploaded = group.server.cohort.words_of(first)
        rows.append(
            {"kind": kind, "n": n, "bytes": 4 * sum(group.plan.words_of(group.step, lane) for lane in uploaded)}
        )
    masking.THREADS = 1
    with without_digests():
        times = best(parts)
    masking.THREADS = None
    for row in rows:
        row["upload_ms"] = times[row["kind"]] * 1e3
    return rows


def lane_upload(group: Group, silo: str, held: list[str], x: dict[str, np.ndarray]) -> Any:
    """Encode and mask what this silo uploads: in a dense lane zeros where it holds nothing."""
    contribution, session = blocks.Contribution(x, {"rows": 0}), group.silos[silo]

    def run() -> None:
        encoded = blocks.encode(group.plan, group.step, contribution, dict.fromkeys(held, 1))
        session.state = SessionState.READY
        session.upload(encoded)
        session.masked = {}

    return run


def error_row(n: int, d: int = 1_000_000) -> Row:
    """Relative L2 error of the weighted mean to float64: heavy tails, one clip for the whole vector."""
    rng = np.random.default_rng(2)
    scales = rng.lognormal(sigma=1.5, size=d)
    weights = np.rint(2.0 ** rng.uniform(0, 2, size=n) * 64).astype(int)  # one to four times the least
    total, exact, floats = np.zeros(d, dtype=np.uint32), np.zeros(d), np.zeros(d, dtype=np.float32)
    words = np.empty_like(total)
    draws = [(rng.normal(size=d) * scales).astype(np.float32) for _ in range(n)]
    clip = float(max(np.abs(x).max() for x in draws))
    for x, weight in zip(draws, weights, strict=True):
        ring.encode(x, words, clip=clip, share=weight / 256, n_max=n)
        total += words
        exact += x.astype(np.float64) * weight
        floats += x * np.float32(weight)
    mean, exact = ring.decode(total, clip=clip, n_max=n) * 256 / weights.sum(), exact / weights.sum()
    norm = np.linalg.norm(exact)
    return {
        "kind": "error",
        "n": n,
        "d": d,
        "clip_over_rms": clip / float(np.sqrt(np.mean(exact**2))),
        "ring_error": float(np.linalg.norm(mean - exact) / norm),
        "float32_error": float(np.linalg.norm(floats / np.float32(weights.sum()) - exact) / norm),
    }


def measure(options: argparse.Namespace) -> dict[str, Any]:
    ns, ds = ((4, 16), (1_000_000, 10_000_000)) if options.quick else ((4, 16, 64), (1_000_000, 10_000_000))
    if options.full:
        ns, ds = (*ns, 100), (*ds, 100_000_000)
    limits = calibrate()
    rows: list[Row] = []
    for n in ns:
        for d in ds:
            say(f"n = {n}, d = {d}")
            rows += sum_rows(n, d, threads=n >= 16 and d >= 10_000_000)
    say("messages at n = 100")
    rows.append(setup_row(100, 1, limits))
    if not options.quick:
        rows.append(setup_row(100, 16, limits))
    rows += sum_rows(100, 1000, threads=False)
    rows += [proof_row(n) for n in (4, 16, 64, 100)]
    say("lanes, error")
    rows += lanes_rows()
    rows += [error_row(n) for n in ns]
    peers = versus.figures(options.peers, options.peers_python, say)
    return {
        "command": command(options),
        "machine": machine(),
        "limits": limits,
        "rows": rows,
        "peers": peers,
        "targets": targets(rows, peers),
    }


def command(options: argparse.Namespace) -> str:
    """What makes the page again; where the peers' figures are kept does not matter to it."""
    words = ["python", "tests/benchmarks/secagg.py"]
    words += ["--quick"] * options.quick + ["--full"] * options.full
    words += ["--peers-python", str(options.peers_python)] if options.peers_python else []
    words += ["--peers", str(options.peers)] if options.peers and not options.peers_python else []
    return shlex.join(words + (["--markdown", str(options.markdown)] if options.markdown else []))


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_true")
    size.add_argument("--full", action="store_true")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--peers", type=Path)
    parser.add_argument("--peers-python", type=Path)
    parser.add_argument("--markdown", type=Path)
    options = parser.parse_args()
    result = measure(options)
    print(page.table(result))
    if options.markdown:
        page.write(options.markdown, result)
    if options.json:
        print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
