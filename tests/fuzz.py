"""Bytes from a stranger: every decoder and every check behind one, fed with damaged messages.

A case takes a valid sample and changes it: bits, bytes, lengths, spans, two samples spliced, or noise. Whatever comes
in, a decoder returns a value that encodes to the same bytes or raises a FederationError, and no length field makes it
allocate. Half of the signed ones are signed again after the change, so that the checks behind the signature meet it.

    python -m tests.fuzz [--cases N] [--seed S]

The same seed gives the same cases. The last line counts them; the exit status is 1 for a foreign exception, for bytes
that two values share, or for a peak above the bound.
"""

from __future__ import annotations

import argparse
import random
import resource
import struct
import sys
from collections.abc import Callable
from copy import copy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from crypto import proof
from crypto.charter import Charter, SignedCharter
from crypto.cohort import Dealt, Survivors
from crypto.encoding import Reader, Writer
from crypto.errors import FederationError
from crypto.evidence import StepEvidence
from crypto.keys import Identity
from crypto.messages import (
    Closing,
    Decline,
    Message,
    Open,
    Request,
    Row,
    SharePack,
    Shares,
    StepResult,
    TagRequest,
    Wire,
    pack_blobs,
    pack_ranges,
    pack_two,
    unpack_blobs,
    unpack_ranges,
    unpack_two,
    unpack_words,
)
from crypto.opened_sets import SessionSets, Told
from crypto.plan import Plan
from crypto.proof import Sum
from crypto.session import SessionState
from crypto.transcript import label_bytes
from tests.federation import Federation, Run, identity, small_plan

#: Resident bytes above those of a process that has decoded every sample once. A sample has a few kilobytes.
PEAK = 32 << 20
#: Address space above that: what a length field could ask for and never touch.
SPACE = 256 << 20

FED = Federation(5)
PLAN = small_plan(group=["silo-1", "silo-2", "silo-3"])
SIGNER = "silo-2"

_NUMBERS = [
    *(struct.pack(">I", n) for n in (0, 1, 2, 255, 2**16, 2**24, 2**31 - 1, 2**31, 2**32 - 1)),
    *(struct.pack(">Q", n) for n in (0, 1, 2**32, 2**63, 2**64 - 1)),
    *(struct.pack(">d", x) for x in (0.0, -0.0, 1.0, -1.0, 5e-324, 1e300, float("nan"), float("inf"))),
]


@dataclass(frozen=True)
class Target:
    """A decoder, valid samples, how a changed sample is sealed, and how a value is encoded again (None: not at all)."""

    name: str
    samples: tuple[Any, ...]
    decode: Callable[[Any], Any]
    encode: Callable[[Any], bytes] | None = None
    seal: Callable[[bytes], bytes] | None = None
    change: Callable[[random.Random, Any], Any] | None = None


@dataclass
class Result:
    cases: int = 0
    taken: int = 0
    foreign: list[str] = field(default_factory=list)
    shared: list[str] = field(default_factory=list)
    peak: int = 0

    @property
    def ok(self) -> bool:
        return not self.foreign and not self.shared and self.peak < PEAK

    def __str__(self) -> str:
        return f"{self.cases} cases, {len(self.foreign)} foreign exceptions, peak {self.peak / 2**20:.2f} MiB"


# --- changes -----------------------------------------------------------------------------------------------------


def changed(rng: random.Random, sample: bytes, other: bytes) -> bytes:
    """One to three changes; seldom none, seldom nothing but noise."""
    if rng.random() < 0.02:
        return sample[:2] * rng.randrange(2) + rng.randbytes(rng.randrange(200))
    data = bytearray(sample)
    for _ in range(rng.choice((0, 1, 1, 1, 1, 2, 2, 3))):
        at, size = rng.randrange(len(data) + 1), rng.choice((1, 1, 4, 4, 8, 32, 33, 100))
        match rng.randrange(9):
            case 0 if at < len(data):
                data[at] ^= 1 << rng.randrange(8)
            case 1 if at < len(data):
                data[at] = rng.randrange(256)
            case 2:
                data[at:at] = rng.randbytes(size)
            case 3:
                del data[at : at + size]
            case 4:
                del data[at:]
            case 5:
                data += rng.randbytes(size)
            case 6:
                number = rng.choice(_NUMBERS)
                data[at : at + len(number)] = number
            case 7:
                data[at:at] = data[at : at + size]
            case _:
                data[at:] = other[rng.randrange(len(other) + 1) :]
    return bytes(data)


# --- targets -----------------------------------------------------------------------------------------------------


def sealer(label: str, key: Identity) -> Callable[[bytes], bytes]:
    """Signs a body, whatever it is."""

    def seal(body: bytes) -> bytes:
        return bytes(Writer().blob(body).fixed(key.sign(label_bytes(label, [body])), 64))

    return seal


def played() -> Run:
    """A session of five with a drop-out, for samples that pass every check."""
    run = Run(FED, PLAN, drop={"silo-5": "fetch"}, label="fuzz")
    run.play()
    return run


def decoders(run: Run) -> list[Target]:
    """Every decoder of crypto/, alone."""
    key = FED.identities[SIGNER]
    digests = [bytes([i]) * 32 for i in range(6)]
    result = run.server.result
    void = StepResult(step=4, chain=digests[1], t3=digests[0], released=False, slots=(), sums=())
    opened = Open(
        job=digests[0],
        plan=digests[1],
        charter=digests[2],
        code=digests[5],
        nonce=digests[3],
        chain=digests[4],
        results=(result, void),
        proofs=(run.proof, ()),
    )
    cohort, survivors = run.server.cohort, run.server.survivors
    shares = [
        Shares.open(run.signed[phase][SIGNER], lambda m: key.public) for phase in ("unmask-slots", "unmask-lanes")
    ]
    groups: list[list[Wire]] = [
        [Request(run=digests[0], step=2**32 - 1, attempt=1, phase="open", payload=bytes(opened))],
        [result, void],
        [opened],
        [cohort.adverts[SIGNER], cohort.adverts["silo-4"]],
        [run.server.dealt.deals[SIGNER]],
        [survivors.headers[SIGNER]],
        [survivors.check_attestation(run.signed["attest"][SIGNER])],
        [*shares],
        [proof.open_tags(FED.charter, result, run.signed["tag"][silo]) for silo in (SIGNER, "silo-3")],
        [
            Decline(
                silo=SIGNER,
                request=digests[1],
                run=digests[0],
                step=1,
                attempt=2,
                phase="deal",
                code="BAD_SHARE",
                blame="silo-2",
            )
        ],
        [Closing(silo=SIGNER, run=digests[0], chain=digests[1], ledger=digests[2])],
    ]
    found = []
    for group in groups:
        kind = type(group[0])
        bodies = tuple(bytes(sample) for sample in group)

        def opens(signed: bytes, kind: type[Wire] = kind) -> Wire:
            return kind.open(signed, lambda m: key.public)

        seal = sealer(kind.LABEL, key)
        found.append(Target(kind.__name__, bodies, kind.from_bytes, bytes))
        found.append(Target(f"{kind.__name__}.open", tuple(map(seal, bodies)), opens))
        found.append(Target(f"{kind.__name__}.open, signed again", bodies, opens, seal=seal))
    consortium = identity("consortium")
    charter = bytes(FED.charter)
    signed = bytes(SignedCharter.sign(FED.charter, consortium))
    packs = tuple(bytes(pack) for pack in run.packs[SIGNER].values())
    packs += (bytes(replace(run.packs[SIGNER][SIGNER], told=(bytes(run.recorded[SIGNER][0]), b""))),)
    recorded = [told for one in run.recorded[SIGNER] if (told := one.under(FED.charter))]
    telling = tuple(map(bytes, recorded))
    rows = tuple(run.rows[SIGNER].values())
    blobs, named = list(cohort.signed.values()), list(run.masked_slots.items())
    return [
        *found,
        Target("Row", rows, Row.from_bytes, bytes),
        Target("TagRequest", (bytes(run.request), bytes(TagRequest(void, ()))), TagRequest.from_bytes, bytes),
        Target("SharePack", packs, SharePack.from_bytes, bytes),
        Target("SessionSets", (bytes(recorded[0].session),), SessionSets.from_bytes, bytes),
        Target("Told", telling, Told.from_bytes, bytes),
        Target("Told.proven", telling, lambda data: Told.proven(data, FED.charter), bytes),
        Target("Plan", (bytes(PLAN), bytes(small_plan())), Plan.from_bytes, bytes),
        Target("Charter", (charter, bytes(Federation(3, c=0).charter)), Charter.from_bytes, bytes),
        Target("SignedCharter", (signed,), lambda data: SignedCharter.open(data, consortium.public)),
        Target(
            "SignedCharter, signed again",
            (charter,),
            lambda data: SignedCharter.open(data, consortium.public),
            seal=sealer("charter", consortium),
        ),
        Target("StepEvidence", (bytes(run.evidence()),), StepEvidence.from_bytes, bytes),
        Target("blobs", (pack_blobs(blobs), pack_blobs([b"a", b"", b"bc"])), unpack_blobs, pack_blobs),
        Target("two", (pack_two([b"a", b"b"], named),), unpack_two, lambda value: pack_two(*value)),
        Target(
            "ranges",
            (pack_ranges([("trunk", 0, 2**64 - 1), ("quiet", 3, 4)]),),
            unpack_ranges,
            lambda value: pack_ranges(list(value)),
        ),
    ]


def checks(run: Run) -> list[Target]:
    """What stands behind the decoders: the same checks at server and silo, with bodies that a member has signed."""
    context, cohort, dealt, survivors = run.context, run.server.cohort, run.server.dealt, run.server.survivors
    seal = {
        kind: sealer(kind, FED.identities[SIGNER]) for kind in ("advert", "deal", "header", "attest", "shares", "tags")
    }

    def body(signed: bytes) -> bytes:
        return signed[4:-64]

    silo = run.sessions[SIGNER]

    def tag(data: bytes) -> bytes:
        """A silo that has released its lanes, as often as it is asked."""
        twin = copy(silo)
        twin.state, twin._released_seeds = SessionState.LANES_OPEN, {}
        twin.masked = dict(run.words[SIGNER])
        return twin.tag(TagRequest.from_bytes(data))

    def stand_in(data: bytes) -> bytes:
        """The body of a request: the owner's id. Its words come as an array."""
        owner = Reader(data).text()
        return silo.stand_in(owner, run.uploads_of(owner if owner in run.words else "silo-3"))

    result = run.server.result
    shown = tuple(bytes(word) for word in run.server.sums["trunk"].wire)

    def arrays(data: bytes) -> None:
        """The words of one lane as they travel, and the check of what they add up to."""
        words = [np.frombuffer(data[: len(data) // 4 * 4], "<u4").astype(np.uint32)]
        sizes = proof.wire_sizes(PLAN, result)[:2]
        found = Sum.from_wire(*unpack_words(words, sizes), len(result.sums[0].uploaders))
        proof.check_result(FED.charter, PLAN, result, {**run.server.sums, "trunk": found}, run.proof)

    others = [signed for signed in run.proof if signed != run.signed["tag"][SIGNER]]

    def proven(signed: bytes) -> None:
        proof.check_signed(FED.charter, PLAN, result, [signed, *others])

    slot, lane = (body(run.signed[phase][SIGNER]) for phase in ("unmask-slots", "unmask-lanes"))
    return [
        Target("check_advert", (body(cohort.signed[SIGNER]),), context.check_advert, seal=seal["advert"]),
        Target(
            "check_deal",
            (body(dealt.signed[SIGNER]),),
            lambda signed: Dealt.check_deal(cohort, signed),
            seal=seal["deal"],
        ),
        Target(
            "check_header",
            (body(survivors.signed[SIGNER]),),
            lambda signed: Survivors.check_header(dealt, signed),
            seal=seal["header"],
        ),
        Target(
            "check_attestation", (body(run.signed["attest"][SIGNER]),), survivors.check_attestation, seal=seal["attest"]
        ),
        Target("check_slot_shares", (slot, lane), survivors.check_slot_shares, seal=seal["shares"]),
        Target("check_lane_shares", (lane, slot), survivors.check_lane_shares, seal=seal["shares"]),
        Target(
            "open_tags",
            (body(run.signed["tag"][SIGNER]),),
            lambda signed: proof.open_tags(FED.charter, result, signed),
            seal=seal["tags"],
        ),
        Target("check_signed", (body(run.signed["tag"][SIGNER]),), proven, seal=seal["tags"]),
        Target("SiloSession.tag", (bytes(run.request),), tag),
        Target("SiloSession.stand_in", (bytes(Writer().text("silo-3")), bytes(Writer().text(SIGNER))), stand_in),
        Target("check_result", (b"".join(shown),), arrays),
        Target("check_slots", (run.masked_slots[SIGNER],), lambda data: survivors.check_slots(SIGNER, data)),
    ]


def wire() -> Target:
    """The bag that NVFlare carries: a dictionary with wrong keys and values of any type."""
    from jobs.flare import wire as flare

    message = Message("contribute", b"body", (np.arange(5, dtype="<u4"), np.zeros(0, "<u4")))
    junk = [
        None,
        True,
        0,
        1,
        2,
        1.5,
        "",
        "open",
        b"",
        b"1234",
        b"123",
        [],
        [b"1234"],
        [b"123"],
        [None],
        (),
        {},
        {"a": 1},
    ]
    junk += [np.zeros(3, "<u4"), [np.zeros(3, "<u4")], [np.zeros(3)], [b"x", np.zeros(1, "<u4")], [b""] * 70]

    def change(rng: random.Random, make: Callable[[], Any]) -> Any:
        shareable = make()
        for _ in range(rng.randrange(3)):
            key = rng.choice([*shareable.keys(), "metrics", 7, None, ("a", 1)])
            match rng.randrange(3):
                case 0:
                    shareable.pop(key, None)
                case 1:
                    shareable[key] = rng.choice(junk)
                case _:
                    shareable = rng.choice([shareable, shareable, shareable, *junk])
            if not isinstance(shareable, dict):
                break
        return shareable

    return Target("flare.wire", (lambda: flare.wrap(message),), flare.unwrap, change=change)


# --- running -----------------------------------------------------------------------------------------------------


def run(cases: int, seed: int, targets: list[Target]) -> Result:
    """That many cases, spread over the targets in turn."""
    rng, result = random.Random(seed), Result()
    before = resident()
    for number in range(cases):
        target = targets[number % len(targets)]
        result.cases += 1
        if target.change:
            one(target, target.change(rng, rng.choice(target.samples)), result)
            continue
        data = changed(rng, rng.choice(target.samples), rng.choice(target.samples))
        one(target, target.seal(data) if target.seal else data, result)
    result.peak = resident() - before
    return result


def resident() -> int:
    """Peak resident bytes of this process so far."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("no VmHWM in /proc/self/status")


def limit_space() -> None:
    """From here on an allocation of SPACE or more fails, touched or not: MemoryError is a foreign exception."""
    now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + SPACE, now + SPACE))


def one(target: Target, data: Any, result: Result) -> None:
    try:
        value = target.decode(data)
    except FederationError:
        return
    except Exception as error:  # noqa: BLE001 — the point of the exercise: nothing else may come out
        result.foreign.append(f"{target.name}: {error!r}: {shown(data)}")
        return
    result.taken += 1
    if target.encode and target.encode(value) != data:
        result.shared.append(f"{target.name}: {shown(data)}")


def shown(data: Any) -> str:
    return data.hex() if isinstance(data, bytes) else repr(data)[:500]


def main() -> int:
    parser = argparse.ArgumentParser(description="Feed every decoder with damaged messages.")
    parser.add_argument("--cases", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    session = played()
    targets = [*decoders(session), *checks(session), wire()]
    run(10 * len(targets), options.seed, targets)
    limit_space()
    result = run(options.cases, options.seed, targets)
    for title, found in (("foreign", result.foreign), ("bytes that two values share", result.shared)):
        for line in found[:20]:
            print(f"{title}: {line}")
    print(f"seed {options.seed}: {result.taken} samples were taken, the others refused by name")
    print(result)
    return 0 if result.ok else 1


if __name__ == "__main__":
    sys.exit(main())
