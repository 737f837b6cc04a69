"""The protocol a second time, slowly, from the text: a check on crypto/ that shares no line with it.

Python integers, hashlib, hmac, and of the cryptography package only the bare primitives (X25519, Ed25519, one AES
block, AES-GCM). HKDF, counter mode, Shamir, the ring, every encoding and every hash are written out here from
docs and docstrings. ``python -m tests.reference`` writes tests/vectors/*.json again; a test insists that the files
are what this module computes, and another that crypto/ computes the same bytes.

Silos are plain dicts and lanes are lists of integers, so that a reader can follow each number.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import struct
import sys
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import ECB

VECTORS = Path(__file__).parent / "vectors"
PRIME = 2**256 + 297
#: Sections of slots, and the basis of the slots in each.
SECTIONS = {"Static": ["data"], "Fresh": ["state", "step"]}

# --- bytes --------------------------------------------------------------------------------------------------------


def u8(value: int) -> bytes:
    return value.to_bytes(1, "big")


def u32(value: int) -> bytes:
    return value.to_bytes(4, "big")


def u64(value: int) -> bytes:
    return value.to_bytes(8, "big")


def f64(value: float) -> bytes:
    return struct.pack(">d", value)


def blob(value: bytes) -> bytes:
    return u32(len(value)) + value


def text(value: str) -> bytes:
    return blob(value.encode("utf-8"))


def each(items: list[bytes]) -> bytes:
    return u32(len(items)) + b"".join(items)


def label(name: str, *fields: bytes | str | int) -> bytes:
    out = text("consilium/2/" + name)
    for field in fields:
        out += u64(field) if isinstance(field, int) else text(field) if isinstance(field, str) else blob(field)
    return out


def sha(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def h(name: str, *fields: bytes | str | int) -> bytes:
    return sha(label(name, *fields))


def hkdf(secret: bytes, salt: bytes, info: bytes, size: int) -> bytes:
    """RFC 5869: extract, then expand."""
    key = hmac.digest(salt or bytes(32), secret, "sha256")
    out, last, count = b"", b"", 1
    while len(out) < size:
        last = hmac.digest(key, last + info + u8(count), "sha256")
        out, count = out + last, count + 1
    return out[:size]


def derive(secret: bytes, salt: bytes, name: str, *fields: bytes | str | int, size: int = 32) -> bytes:
    return hkdf(secret, salt, label(name, *fields), size)


# --- keys, streams, shares ----------------------------------------------------------------------------------------


def sign(seed: bytes, name: str, message: bytes) -> bytes:
    """blob(message) · Ed25519 over the label and the message."""
    return blob(message) + Ed25519PrivateKey.from_private_bytes(seed).sign(label(name, message))


def public(seed: bytes) -> bytes:
    return Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes_raw()


def x_public(seed: bytes) -> bytes:
    return X25519PrivateKey.from_private_bytes(seed).public_key().public_bytes_raw()


def agree(seed: bytes, peer: bytes) -> bytes:
    return X25519PrivateKey.from_private_bytes(seed).exchange(X25519PublicKey.from_public_bytes(peer))


def keystream_word(key: bytes, index: int, size: int) -> int:
    """Word ``index`` (of ``size`` bytes, little-endian) of AES-128 in counter mode from counter 0."""
    at = index * size
    block = Cipher(AES(key), ECB()).encryptor().update((at // 16).to_bytes(16, "big"))
    return int.from_bytes(block[at % 16 : at % 16 + size], "little")


def mask(words: list[int], streams: list[tuple[bytes, int]], size: int) -> list[int]:
    modulus = 256**size
    return [
        (word + sum(sign * keystream_word(key, i, size) for key, sign in streams)) % modulus
        for i, word in enumerate(words)
    ]


def words_bytes(words: list[int], size: int) -> bytes:
    return b"".join(word.to_bytes(size, "little") for word in words)


def entropy(name: str) -> Any:
    """Call number i of a source gives SHAKE-256("consilium/test/<name>/<i>")."""
    count = -1

    def draw(size: int) -> bytes:
        nonlocal count
        count += 1
        return hashlib.shake_256(f"consilium/test/{name}/{count}".encode()).digest(size)

    return draw


def uniform(draw: Any) -> int:
    while True:
        value = int.from_bytes(draw(33), "big") % 2**257
        if value < PRIME:
            return value


def shares_of(secret: bytes, threshold: int, points: list[int], draw: Any) -> list[bytes]:
    polynomial = [int.from_bytes(secret, "big")] + [uniform(draw) for _ in range(threshold - 1)]
    return [(sum(a * x**power for power, a in enumerate(polynomial)) % PRIME).to_bytes(33, "big") for x in points]


def interpolate(shares: dict[int, bytes]) -> bytes:
    total = 0
    for x, share in shares.items():
        top = bottom = 1
        for other in shares:
            if other != x:
                top, bottom = top * -other, bottom * (x - other)
        total += int.from_bytes(share, "big") * top * pow(bottom, -1, PRIME)
    return (total % PRIME).to_bytes(32, "big")


# --- tags ---------------------------------------------------------------------------------------------------------

COLUMNS, BLOCK = 5, 4096


def coin(key: bytes, place: int) -> list[int]:
    """The public coin of one word: of v and then u, the key's stream of 32-bit words has COLUMNS for each v_j, u_a."""
    block, within = divmod(place, BLOCK)
    return [
        keystream_word(key, within * COLUMNS + k, 4) % 2**25 * keystream_word(key, (BLOCK + block) * COLUMNS + k, 4)
        for k in range(COLUMNS)
    ]


def tag(integers: list[int], key: bytes) -> bytes:
    coins = [coin(key, place) for place in range(len(integers))]
    columns = [sum(x * r[k] for x, r in zip(integers, coins, strict=True)) for k in range(COLUMNS)]
    return b"".join(value.to_bytes(16, "big") for value in columns)


def add_tags(found: list[bytes]) -> bytes:
    return b"".join(
        sum(int.from_bytes(one[16 * k : 16 * k + 16], "big") for one in found).to_bytes(16, "big")
        for k in range(COLUMNS)
    )


# --- charter and plan ---------------------------------------------------------------------------------------------

SILOS = [f"silo-{i}" for i in range(1, 6)]
COLLUDERS, HONEST, N_MIN, LANE_FLOOR = 1, 2, 4, 3
THRESHOLD = (5 + COLLUDERS) // 2 + 1


def seed_of(name: str) -> bytes:
    return sha(f"consilium/test/identity/{name}".encode())


def charter_bytes() -> bytes:
    members = [text(silo) + public(seed_of(silo)) + public(seed_of(f"{silo}/owner")) for silo in SILOS]
    return (
        u8(2) + text("test") + u32(1) + bytes(32) + each(members) + public(seed_of("aggregator"))
        + u32(N_MIN) + u32(COLLUDERS) + u32(HONEST) + u32(LANE_FLOOR)
        + u64(0) + u64(2_000_000_000) + u32(1)
    )  # fmt: skip


#: name, scope, floor, grid, hidden, members
LANES: list[tuple[str, str, int, list[int], bool, list[str]]] = [
    ("trunk", "all", 3, [4, 8, 16], True, []),
    ("quiet", "held", 3, [1], True, []),
    ("open", "held", 3, [1, 2], False, []),
    ("ward", "group", 3, [1], True, ["silo-1", "silo-3", "silo-4"]),
]
#: name, shape, lane, clip, init, apply, rate, quantity
BLOCKS: list[tuple[str, list[int], str, float, float, str, float, str]] = [
    ("trunk.w", [3, 5], "trunk", 2.0, 0.1, "average", 0.5, ""),
    ("trunk.b", [5], "trunk", 0.5, 0.0, "publish", 1.0, "mean"),
    ("quiet.w", [7], "quiet", 1.0, 0.25, "average", 1.0, ""),
    ("open.w", [2, 3], "open", 1.0, 0.0, "add", 0.125, ""),
    ("ward.w", [4], "ward", 1.0, 0.0, "average", 1.0, ""),
]
#: name, bound, basis
METHOD_SLOTS = [("rows", 10_000, "data"), ("correct", 10_000, "state"), ("load", 10_000, "step")]
N_MAX, SEED = 5, 7


def plan_bytes() -> bytes:
    lanes = [
        text(name)
        + text(scope)
        + u32(floor)
        + each([u32(g) for g in grid])
        + u8(hidden)
        + each([text(m) for m in members])
        for name, scope, floor, grid, hidden, members in LANES
    ]
    blocks = [
        text(name) + each([u32(s) for s in shape]) + text(lane) + f64(clip) + f64(init) + text(quantity)
        for name, shape, lane, clip, init, _, _, quantity in BLOCKS
    ]
    sums = [text(name) + text(how) + f64(rate) for name, _, _, _, _, how, rate, _ in BLOCKS]
    slots = [text(name) + u64(bound) + text(basis) for name, bound, basis in METHOD_SLOTS]
    step = text("train") + u32(0) + each(sums) + each(slots)
    return u8(2) + text("test") + u64(SEED) + u32(N_MAX) + u32(32) + each(lanes) + each(blocks) + each([step])


def count(shape: list[int]) -> int:
    total = 1
    for side in shape:
        total *= side
    return total


# --- inputs, the ring, the state ----------------------------------------------------------------------------------

WEIGHTS = {
    "silo-1": {"trunk": 4, "quiet": 1, "open": 0, "ward": 1},
    "silo-2": {"trunk": 8, "quiet": 1, "open": 0, "ward": 0},
    "silo-3": {"trunk": 16, "quiet": 1, "open": 1, "ward": 1},
    "silo-4": {"trunk": 4, "quiet": 1, "open": 2, "ward": 1},
    "silo-5": {"trunk": 8, "quiet": 0, "open": 1, "ward": 0},
}


def inputs(silo: str) -> dict[str, list[float]]:
    """Block → values: (SHA-256 byte − 128) / 48, cyclic; some lie beyond the clip."""
    return {
        name: [(sha(f"{silo} {name}".encode())[i % 32] - 128) / 48 for i in range(count(shape))]
        for name, shape, *_ in BLOCKS
    }


def slot_inputs(silo: str) -> dict[str, int]:
    digest = sha(f"{silo} slots".encode())
    return {name: digest[place] for place, (name, *_) in enumerate(METHOD_SLOTS)}


LIMIT = (2**31 - 1) // N_MAX


def encode(silo: str, lane: str, grid: list[int]) -> list[int]:
    weight, words = WEIGHTS[silo][lane], []
    for name, shape, of, clip, *_ in BLOCKS:
        if of != lane:
            continue
        if not weight:
            words += [0] * count(shape)
            continue
        scale = (weight / grid[-1]) * LIMIT / clip
        words += [round(min(max(x, -clip), clip) * scale) % 2**32 for x in inputs(silo)[name]]
    return words


def single(value: float) -> float:
    """To float32 and back."""
    return float(struct.unpack("<f", struct.pack("<f", value))[0])


def initial_state(run: bytes) -> dict[str, list[float]]:
    state = {}
    for name, shape, _, _, init, *_ in BLOCKS:
        stream = hashlib.shake_128(label("init", run, SEED, name)).digest(4 * count(shape))
        state[name] = [
            single((int.from_bytes(stream[4 * i : 4 * i + 4], "big") / 2**31 - 1.0) * init) if init else 0.0
            for i in range(count(shape))
        ]
    return state


def state_digest(state: dict[str, list[float]]) -> bytes:
    shapes = {name: shape for name, shape, *_ in BLOCKS}
    return sha(
        b"".join(
            text(name) + each([u32(s) for s in shapes[name]]) + struct.pack(f"<{len(state[name])}f", *state[name])
            for name in sorted(state)
        )
    )


def apply(
    state: dict[str, list[float]], opened: dict[str, list[int]], weights: dict[str, int]
) -> dict[str, list[float]]:
    new = dict(state)
    grids = {name: grid for name, _, _, grid, *_ in LANES}
    at = dict.fromkeys(grids, 0)
    for name, shape, lane, clip, _, how, rate, _ in BLOCKS:
        start, at[lane] = at[lane], at[lane] + count(shape)
        if lane not in opened:
            continue
        values = []
        for old, word in zip(state[name], opened[lane][start : at[lane]], strict=True):
            total = (word - 2**32 if word >= 2**31 else word) * (clip / LIMIT) * grids[lane][-1]
            mean = total / weights[lane]
            values.append(single({"publish": mean, "average": old + rate * mean, "add": old + rate * total}[how]))
        new[name] = values
    return new


# --- a session ----------------------------------------------------------------------------------------------------


def lanes_for(silo: str, held: list[str]) -> list[str]:
    lanes = list(SECTIONS)
    for name, scope, _, _, hidden, members in LANES:
        if scope == "all" or (scope == "held" and (hidden or name in held)) or (scope == "group" and silo in members):
            lanes.append(name)
    return lanes


def bits(places: list[bool]) -> bytes:
    """One bit a place, the first the highest of the first byte."""
    padded = places + [False] * (-len(places) % 8)
    return bytes(sum(128 >> i for i in range(8) if padded[at + i]) for at in range(0, len(padded), 8))


def message(kind: int, fields: bytes) -> bytes:
    return u8(2) + u8(kind) + fields


def named(items: list[tuple[str, bytes]]) -> bytes:
    return each([text(name) + value for name, value in items])


def session(case: str, dropped: list[str], silent: list[str]) -> dict[str, Any]:
    """One step of five silos. ``dropped``: those whose words never arrive (in U2, not in U3). ``silent``: those that
    survive and send no tags."""
    charter, plan = sha(charter_bytes()), sha(plan_bytes())
    run = h("run", sha(b"vector job"), charter, bytes(range(32)))
    state = initial_state(run)
    s0 = h("S0", run, state_digest(state))
    t0 = h("T0", charter, run, plan, 0, 0, s0)
    out: dict[str, Any] = {
        "dropped": dropped,
        "silent": silent,
        "run": run.hex(),
        "S0": s0.hex(),
        "T0": t0.hex(),
        "messages": {silo: {} for silo in SILOS},
    }

    def record(silo: str, name: str, data: bytes) -> bytes:
        out["messages"][silo][name] = sha(data).hex()
        return data

    # M0: mask seed, a channel seed for each other member, one self seed a lane, nonce
    silos: dict[str, dict[str, Any]] = {}
    for silo in SILOS:
        draw = entropy(f"vector-{case}/{silo}")
        held = [
            name for name, scope, _, _, hidden, _ in LANES if scope == "held" and not hidden and WEIGHTS[silo][name]
        ]
        me: dict[str, Any] = {"draw": draw, "lanes": lanes_for(silo, held), "mask_seed": draw(32)}
        me["channels"] = {peer: draw(32) for peer in SILOS if peer != silo}
        me["mask"] = derive(me["mask_seed"], b"", "mask-sk")
        me["seeds"] = {lane: draw(32) for lane in me["lanes"]}
        commitments = [(lane, h("commit", silo, lane, seed)) for lane, seed in me["seeds"].items()]
        # the manifest: for each lane 0, or the place of the weight on its grid, from 1
        me["manifest"] = bytes(
            grid.index(WEIGHTS[silo][name]) + 1 if WEIGHTS[silo][name] else 0 for name, _, _, grid, *_ in LANES
        )
        fields = text(silo) + t0 + each([x_public(key) for key in me["channels"].values()])
        fields += x_public(me["mask"]) + named(commitments)
        fields += each([text(lane) for lane in held]) + u64(3)
        fields += sha(silo.encode()) + sha(f"{silo}/approval".encode()) + draw(16)
        me["advert"] = record(silo, "advert", sign(seed_of(silo), "advert", message(4, fields)))
        silos[silo] = me
    t1 = h("T1", t0, *(silos[s]["advert"] for s in SILOS))

    # M1: shares at the silo's place in the sorted cohort
    points = {silo: place + 1 for place, silo in enumerate(SILOS)}
    for silo, me in silos.items():
        me["mask_shares"] = shares_of(me["mask_seed"], THRESHOLD, list(points.values()), me["draw"])
        me["seed_shares"] = {
            lane: shares_of(seed, THRESHOLD, list(points.values()), me["draw"]) for lane, seed in me["seeds"].items()
        }
        me["nonce"] = me["draw"](32)
        rows = []
        for peer in SILOS:
            if peer == silo:
                continue
            place = points[peer] - 1
            shares = [me["mask_shares"][place], *(me["seed_shares"][lane][place] for lane in me["lanes"])]
            pack = u8(2) + shares[0] + each(shares[1:]) + each([u8(entry) for entry in me["manifest"]])
            pack += each([]) + me["nonce"]  # it tells of no earlier opening
            key = derive(agree(me["channels"][peer], x_public(silos[peer]["channels"][silo])), t1, "share", silo, peer)
            sealed = AESGCM(key).encrypt(bytes(12), pack, label("share-aad", t1, silo, peer))
            hashes = [
                h("share-hash", t1, silo, peer, lane, share)
                for lane, share in zip(["", *me["lanes"]], shares, strict=True)
            ]
            row = record(silo, f"row/{peer}", blob(sealed) + each(hashes))
            rows.append(h("row", row))
        fields = text(silo) + t1 + h("manifest", silo, me["nonce"], me["manifest"]) + each(rows)
        me["deal"] = record(silo, "deal", sign(seed_of(silo), "deal", message(5, fields)))
    t2 = h("T2", t1, *(silos[s]["deal"] for s in SILOS))

    # M2: y = x + self mask ± pair masks with every peer of the lane
    grids = {name: grid for name, _, _, grid, *_ in LANES}
    for silo, me in silos.items():
        plain = {
            section: [slot_inputs(silo)[name] for name, _, basis in METHOD_SLOTS if basis in of]
            for section, of in SECTIONS.items()
        }
        plain |= {lane: encode(silo, lane, grids[lane]) for lane in me["lanes"] if lane in grids}
        me["masked"] = {}
        for lane in me["lanes"]:
            streams = [(derive(me["seeds"][lane], t2, "self", silo, lane, size=16), 1)]
            for peer in SILOS:
                if peer != silo and lane in silos[peer]["lanes"]:
                    secret = agree(me["mask"], x_public(silos[peer]["mask"]))
                    low, high = sorted([silo, peer])
                    streams.append((derive(secret, t2, "pair", low, high, lane, size=16), 1 if silo < peer else -1))
            size = 8 if lane in SECTIONS else 4
            me["masked"][lane] = mask(plain[lane], streams, size)
            record(silo, f"masked/{lane}", words_bytes(me["masked"][lane], size))
        digests = [
            (lane, sha(words_bytes(words, 8 if lane in SECTIONS else 4))) for lane, words in me["masked"].items()
        ]
        me["header"] = record(
            silo, "header", sign(seed_of(silo), "header", message(6, text(silo) + t2 + named(digests)))
        )
    u3 = [silo for silo in SILOS if silo not in dropped]
    t3 = h("T3", t2, *(silos[s]["header"] for s in u3))

    # M4, M5. A lane's weights and contributors are counted from the manifests of its survivors.
    def uploaders(lane: str) -> list[str]:
        return [silo for silo in u3 if lane in silos[silo]["lanes"]]

    counts = {
        lane: [sum(WEIGHTS[s][lane] for s in uploaders(lane)), sum(WEIGHTS[s][lane] > 0 for s in uploaders(lane))]
        for lane in grids
    }

    def shares_message(holder: str, masks: list[str], lanes: list[str]) -> bytes:
        place = points[holder] - 1
        kept = each([text(gone) + silos[gone]["mask_shares"][place] for gone in masks])
        own = [
            text(silo) + text(lane) + silos[silo]["seed_shares"][lane][place]
            for lane in lanes
            for silo in uploaders(lane)
        ]
        counted = [text(lane) + u64(counts[lane][0]) + u32(counts[lane][1]) for lane in lanes if lane in grids]
        return sign(seed_of(holder), "shares", message(8, text(holder) + t3 + kept + each(own) + each(counted)))

    # the sets that the sums are over: of each section or lane and each of its quantities, sorted; contributors are
    # named by silo and data
    ids = {silo: f"{silo}:{sha(silo.encode()).hex()[:16]}" for silo in SILOS}
    base = state_digest(state)
    everyone = tuple(sorted(ids[s] for s in u3))
    figures = [h("quantity", "figure", name) for name, _, basis in METHOD_SLOTS if basis == "data"]
    figures += [h("quantity", "figures", base)] if any(basis == "state" for _, _, basis in METHOD_SLOTS) else []
    opened_sets = [(quantity, everyone) for quantity in figures]
    for lane in grids:
        holders = tuple(sorted(ids[s] for s in uploaders(lane) if WEIGHTS[s][lane]))
        updates = any(of == lane and not quantity for _, _, of, *_, quantity in BLOCKS)
        found = {h("quantity", "static", quantity) for _, _, of, *_, quantity in BLOCKS if of == lane and quantity}
        found |= {h("quantity", "update", base, lane)} if updates else set()
        opened_sets += [(quantity, holders) for quantity in found]
    salt = h("session-salt", *(part for silo in SILOS for part in (silo, silos[silo]["nonce"])))
    listed = [quantity + blob(bits([one in holders for one in everyone])) for quantity, holders in sorted(opened_sets)]
    sets = h("session-sets", t3 + salt + each([text(one) for one in everyone]) + each(listed))
    out["sets"] = sets.hex()
    for silo in u3:
        record(silo, "attestation", sign(seed_of(silo), "attest", message(7, text(silo) + t3 + sets)))
        record(silo, "slot-shares", shares_message(silo, dropped, list(SECTIONS)))

    def seed_of_lane(silo: str, lane: str) -> bytes:
        seed = interpolate({points[s]: silos[silo]["seed_shares"][lane][points[s] - 1] for s in u3[:THRESHOLD]})
        assert h("commit", silo, lane, seed) == h("commit", silo, lane, silos[silo]["seeds"][lane])
        return seed

    def residue(silo: str, lane: str) -> list[int]:
        """The upload without its self stream and the streams that it shares with the dropped."""
        streams = [(derive(seed_of_lane(silo, lane), t2, "self", silo, lane, size=16), -1)]
        for gone in dropped:
            if lane in silos[gone]["lanes"]:
                shares = {points[s]: silos[gone]["mask_shares"][points[s] - 1] for s in u3[:THRESHOLD]}
                key = derive(interpolate(shares), b"", "mask-sk")
                low, high = sorted([silo, gone])
                pair = derive(agree(key, x_public(silos[silo]["mask"])), t2, "pair", low, high, lane, size=16)
                streams.append((pair, -1 if silo < gone else 1))
        return mask(silos[silo]["masked"][lane], streams, 8 if lane in SECTIONS else 4)

    def summed(lane: str) -> list[int]:
        """The sum of the residues over the integers: what is left in them cancels modulo the ring."""
        return [sum(column) for column in zip(*(residue(silo, lane) for silo in uploaders(lane)), strict=True)]

    of_section = {section: iter([total % 2**64 for total in summed(section)]) for section in SECTIONS}
    slots = [next(of_section[s]) for _, _, basis in METHOD_SLOTS for s, of in SECTIONS.items() if basis in of]
    released = []
    for lane, scope, floor, *_ in LANES:
        floor = max(floor, HONEST + COLLUDERS, 0 if scope == "all" else LANE_FLOOR)
        if counts[lane][1] >= floor:
            released.append(lane)
    for silo in u3:
        record(silo, "lane-shares", shares_message(silo, [], released))
    totals = {lane: summed(lane) for lane in released}
    opened = {lane: [total % 2**32 for total in found] for lane, found in totals.items()}
    carries = {lane: [total // 2**32 for total in found] for lane, found in totals.items()}

    lane_sums = [
        text(lane) + sha(words_bytes(opened[lane], 4)) + sha(bytes(carries[lane]))
        + each([text(silo) for silo in uploaders(lane)]) + u64(counts[lane][0]) + u32(counts[lane][1])
        for lane in released
    ]  # fmt: skip
    result = message(2, u32(0) + s0 + t3 + u8(1) + each([u8(1) + u64(value) for value in slots]) + each(lane_sums))
    opened_digest = h("opened", result)

    # M6: each survivor's tags of its residues under the lanes' coins; silo-1 stands in for who sent none
    seeds = [each([seed_of_lane(silo, lane) for silo in uploaders(lane)]) for lane in released]
    out["tag-request"] = sha(blob(result) + each(seeds)).hex()
    coins = {lane: h("coin", opened_digest, lane)[:16] for lane in released}
    proof: dict[str, dict[str, bytes]] = {}
    for owner in u3:
        proof[owner] = {lane: tag(residue(owner, lane), coins[lane]) for lane in released if owner in uploaders(lane)}
        silo = "silo-1" if owner in silent else owner
        fields = text(silo) + t3 + text(owner) + opened_digest + each(list(proof[owner].values()))
        record(
            silo, f"stand-in/{owner}" if owner in silent else "tags", sign(seed_of(silo), "tags", message(14, fields))
        )
    for lane in released:
        assert tag(totals[lane], coins[lane]) == add_tags([proof[silo][lane] for silo in uploaders(lane)])

    s1 = h("S", s0, t3, opened_digest, 1)
    after = apply(state, opened, {lane: counts[lane][0] for lane in released})
    names = [name for name, *_ in METHOD_SLOTS]
    out |= {"T1": t1.hex(), "T2": t2.hex(), "T3": t3.hex(), "slots": dict(zip(names, slots, strict=True))}
    out |= {"released": released, "counts": counts, "opened": opened, "carries": carries}
    out |= {"tags": {silo: {lane: found.hex() for lane, found in lanes.items()} for silo, lanes in proof.items()}}
    out |= {"result": result.hex(), "S1": s1.hex(), "S1-void": h("S", s0, t3, b"", 0).hex()}
    out |= {"state0": state_digest(state).hex(), "state1": state_digest(after).hex()}
    return out


# --- the files ----------------------------------------------------------------------------------------------------


def other_messages() -> dict[str, str]:
    """What a session does not send, signed: Request and Open by the aggregator, Decline and Closing by silo-1."""
    d = [bytes([i]) * 32 for i in range(6)]
    trunk = text("trunk") + d[1] + d[2] + each([text("silo-1"), text("silo-3")]) + u64(24) + u32(2)
    result = message(
        2, u32(3) + d[3] + d[0] + u8(1) + each([u8(1) + u64(1), u8(1) + u64(2**64 - 1), u8(0) + u64(0)]) + each([trunk])
    )
    opening = message(
        3, d[0] + d[1] + d[2] + d[3] + d[4] + d[5] + each([blob(result)]) + each([each([blob(b"tags"), blob(b"")])])
    )
    asked = sign(seed_of("aggregator"), "request", message(1, d[0] + u32(4) + u32(1) + text("deal") + blob(b"")))
    decline = (
        text("silo-1")
        + h("request-bytes", asked)
        + d[0]
        + u32(4)
        + u32(1)
        + text("deal")
        + text("BAD_SHARE")
        + text("silo-2")
        + blob(d[5])
    )
    return {
        "result": result.hex(),
        "tag-request": (blob(result) + each([each([d[4], d[5]])])).hex(),
        "open": sign(seed_of("aggregator"), "open", opening).hex(),
        "request": sign(
            seed_of("aggregator"), "request", message(1, d[0] + u32(4) + u32(1) + text("open") + blob(opening))
        ).hex(),
        "decline": sign(seed_of("silo-1"), "decline", message(9, decline)).hex(),
        "closing": sign(seed_of("silo-1"), "closing", message(10, d[0] + d[1] + d[2] + text("silo-1"))).hex(),
        "charter": (
            blob(charter_bytes())
            + Ed25519PrivateKey.from_private_bytes(seed_of("consortium")).sign(label("charter", charter_bytes()))
        ).hex(),
    }


def tagged(size: int, bits: int) -> list[int]:
    """Integers whose words are i · 2654435761 and whose carries are i mod 3."""
    return [i * 2654435761 % 2**bits + 2**bits * (i % 3) for i in range(size)]


def primitives() -> dict[str, Any]:
    key = bytes(range(16))
    secret = bytes(range(32))
    return {
        "label": label("pair", b"\x00\x01", "silo-1", 7).hex(),
        "digest": h("pair", b"\x00\x01", "silo-1", 7).hex(),
        "derive-16": derive(secret, b"salt", "self", "silo-1", "trunk", size=16).hex(),
        "derive-32": derive(secret, b"", "mask-sk").hex(),
        "derive-70": derive(secret, b"salt", "long", size=70).hex(),
        "mask-public": x_public(derive(secret, b"", "mask-sk")).hex(),
        "shamir-t3-n5": [share.hex() for share in shares_of(secret, 3, [1, 2, 3, 4, 5], entropy("shamir"))],
        "keystream-u32": {str(i): keystream_word(key, i, 4) for i in (0, 1, 4095, 2**20)},
        "manifest": h("manifest", "silo-1", secret, bytes([0, 3, 1])).hex(),
        "coin": h("coin", secret, "trunk")[:16].hex(),
        "tags": {str(size): tag(tagged(size, 32), key).hex() for size in (1, BLOCK - 1, BLOCK, BLOCK + 1)},
        "tag-24": tag(tagged(7, 24), key).hex(),
        "keystream-u64": {str(i): keystream_word(key, i, 8) for i in (0, 1, 4095, 2**20)},
    }


PROVENANCE = {
    "source": "tests/reference.py, a second implementation that does not import crypto/",
    "command": "python -m tests.reference",
    "entropy": 'call number i of source <name>: SHAKE-256("consilium/test/<name>/<i>")',
    "identities": 'Ed25519 seeds: SHA-256("consilium/test/identity/<name>")',
    "encoding": "messages are recorded as SHA-256 of their bytes, other byte strings in hex, words as integers",
}


def build() -> dict[str, dict[str, Any]]:
    everyone = {
        "inputs": {s: inputs(s) for s in SILOS},
        "slots": {s: slot_inputs(s) for s in SILOS},
        "weights": WEIGHTS,
    }
    shared = {"charter": charter_bytes().hex(), "plan": plan_bytes().hex(), **everyone}
    cases = {"complete": session("complete", [], []), "dropout": session("dropout", ["silo-4"], ["silo-2"])}
    return {
        "session_n5.json": {"provenance": PROVENANCE, **shared, "sessions": cases},
        "messages.json": {"provenance": PROVENANCE, **other_messages()},
        "primitives.json": {"provenance": PROVENANCE, **primitives()},
    }


def dump(value: dict[str, Any]) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    VECTORS.mkdir(exist_ok=True)
    for filename, content in build().items():
        (VECTORS / filename).write_text(dump(content))
        sys.stdout.write(f"{VECTORS / filename}\n")
