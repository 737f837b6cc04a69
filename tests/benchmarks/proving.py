"""What proven sums cost: tags and checks, a whole step with them and without, and the bytes of the proof."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from crypto import blocks, masking, proof, tags
from crypto.cohort import words_digest
from crypto.messages import LaneSum, StepResult, TagRequest, Tags, pack_blobs
from crypto.server_session import ServerSession
from crypto.session import SessionState
from crypto.tags import TAG_BYTES
from tests.benchmarks.limits import best
from tests.benchmarks.sessions import Group, threads, without_digests

Row = dict[str, Any]
#: Silo, lane → its masked words.
Upload = Callable[..., np.ndarray]


def tagged(server: ServerSession, first: str, upload: Upload) -> Row:
    """One silo's tag of its upload, and a check of the announced sum, with one thread and with two.

    ``server``: has opened its lane, the trunk. ``first``: the silo that is measured. A tag is of the residue: the silo
    takes its self stream off first. The check is that of everyone who applies the sum. Both without digests.
    """
    result, charter, plan = server.result, server.context.charter, server.context.plan
    opened, (one,), (found,) = server._opening, result.sums, server.sums.values()

    def tag(silo: str) -> tuple[bytes, ...]:
        words, seeds = {"trunk": upload(silo)}, {"trunk": server._seeds["trunk"][silo]}
        return tuple(map(tags.write, opened.tags_of(result, silo, words, seeds)))

    owners = {
        silo: Tags(silo=silo, t3=result.t3, owner=silo, result=result.digest, tags=tag(silo)) for silo in one.uploaders
    }
    bare = replace(one, words=bytes(32), carries=bytes(32))  # what it announces where digests are left out
    work = {"tag": lambda: tag(first), "check": lambda: proof.check_lane(charter, plan, result, bare, found, owners)}
    with without_digests():
        with threads(1):
            single = best(work)
            alone = best(work, clock=time.perf_counter)
        row: Row = {f"{name}_ms": seconds * 1e3 for name, seconds in single.items()}
        if masking.workers_of(None) > 1:
            with threads(2):
                double = best(work, clock=time.perf_counter)
            row |= {f"{name}_two_threads": alone[name] / double[name] for name in work}
    return row | {"carries_digest_ms": best({"digest": lambda: words_digest(found.carries)})["digest"] * 1e3}


def opened(server: ServerSession, upload: Upload) -> Row:
    """The server opens its lane from the uploads and announces it; everyone applies the sum. With digests.

    ``server``: has the lane's shares. Its lane is open afterwards."""
    plan, step = server.context.plan, server.context.step
    state = {block.name: np.zeros(block.shape, dtype=np.float32) for block in plan.blocks}

    def again() -> None:
        server.state = SessionState.SLOTS_OPEN

    def apply() -> None:
        sums = {lane: found.words for lane, found in server.sums.items()}
        blocks.state_digest(blocks.apply(plan, step, state, sums, server.result.weights))

    with threads(1):
        spent = best({"open": lambda: server.open_lanes(upload)}, rounds=3, before=again)
        spent |= best({"apply": apply})
    return {f"{name}_ms": seconds * 1e3 for name, seconds in spent.items()}


def whole_step(row: Row) -> Row:
    """One silo's and the server's work of a step without training, with tags over without. ``row``: all parts.

    Without tags the server adds each upload as it comes and takes the streams off the sum; the silos apply words whose
    digest is announced. With them it takes the streams off each upload, adds these up with their carries, and checks
    the tags; each silo makes its tag, and checks those of all against the words and carries.
    """
    n, digest, carries = row["n"], row["digest_ms"], row["carries_digest_ms"]
    mine = sum(row[f"{part}_ms"] for part in ("setup", "quantise", "mask", "attest_unmask", "apply")) + 2 * digest
    sums = n * (digest + row["plain_add_ms"]) + row["recovery_ms"] + row["unmask_ms"] + digest
    proven_mine = mine + row["tag_ms"] + row["check_ms"] + carries
    proven_sums = n * digest + row["open_ms"] + row["check_ms"] + digest + carries
    return {
        "step_silo_ratio": proven_mine / mine,
        "step_server_ratio": proven_sums / sums,
        "step_ratio": (proven_mine + proven_sums) / (mine + sums),
    }


def proof_row(n: int) -> Row:
    """Bytes that a silo sends and receives for the proof, for each step and for each of its lanes, without the arrays.

    The carries are one byte a word more, in arrays beside the words that were there before.
    """
    group = Group(n, {"trunk": 16})
    silos, identity = group.fed.silos, group.fed.identities[group.fed.silos[0]]

    def sizes(lanes: int) -> tuple[int, int]:
        named = [f"expert-{i}" for i in range(lanes)]
        sums = tuple(
            LaneSum(lane=lane, words=bytes(32), carries=bytes(32), uploaders=silos, weight=n, contributors=n)
            for lane in named
        )
        result = StepResult(step=0, chain=bytes(32), t3=bytes(32), released=True, slots=(1,), sums=sums)
        mine = Tags(silo=silos[0], t3=bytes(32), owner=silos[0], result=bytes(32), tags=(bytes(TAG_BYTES),) * lanes)
        signed = mine.sign(identity)
        asked = bytes(TagRequest(result, ((bytes(32),) * n,) * lanes))
        shown = len(bytes(result)) + len(pack_blobs([signed] * n))
        return len(signed), len(asked) + shown

    (sent, received), (sent_more, received_more) = sizes(1), sizes(2)
    return {
        "kind": "proof",
        "n": n,
        "sent_lane": sent_more - sent,
        "sent_step": 2 * sent - sent_more,
        "received_lane": received_more - received,
        "received_step": 2 * received - received_more,
    }
