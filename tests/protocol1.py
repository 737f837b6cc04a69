"""Bytes of ``consilium/1``, taken apart and signed anew: for tests of the frozen reader, which writes nothing.

``tests/vectors/federation_v1.zip`` has what a federation of five silos had after one run, as the code of commit 10d1bda
wrote it, and all keys. FedAvg in lanes, 24-bit ring: ``trunk`` of all, ``expert-0`` visible, ``expert-1`` hidden.
silo-5 is lost in step 1 after it dealt; step 2 is void. Uploads of all steps are kept.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import ZipFile

from aggregator.home import AggregatorHome
from aggregator.protocols.protocol1.reader import Protocol1
from aggregator.run_record import RunRecord
from crypto.keys import Identity

ARCHIVE = Path(__file__).parent / "vectors" / "federation_v1.zip"
RUN = "7b23962bc6914110"
CONSORTIUM = "44a6 2158 f56d f90c b97d 2ef2 ade4 aa73"
SILOS = tuple(f"silo-{i}" for i in range(1, 6))

#: A number: so many bytes. Text: one of ``_WIDTHS``, "t" and "b". A list: repeated. A mapping: fields in order.
Spec = int | str | list[Any] | Mapping[str, Any]
_WIDTHS = {"u8": ">B", "u32": ">I", "u64": ">Q", "f64": ">d"}

_NAMED = {"name": "t", "digest": 32}
_ROWS = {"silo": "t", "words": "b"}
_TERMS = dict.fromkeys(("charter", "job", "plan", "policy", "code", "commitment"), 32)
_DIGESTS = ("run", "job", "plan", "charter", "code", "nonce", "approval", "data", "initial", "chain", "ledger")

#: Name of a message, which is the label of its signature → (kind, fields).
MESSAGES: Mapping[str, tuple[int, Mapping[str, Spec]]] = {
    "request": (1, {"run": 32, "step": "u32", "attempt": "u32", "phase": "t", "payload": "b"}),
    "result": (2, {"step": "u32", "t3": 32, "released": "u8", "slots": ["u64"], "sums": [_NAMED]}),
    "open": (3, {**dict.fromkeys(("job", "plan", "charter", "code", "nonce", "chain"), 32), "results": ["b"]}),
    "advert": (
        4,
        {
            "silo": "t", "t0": 32, "channel": 32, "mask": 32, "commitments": [_NAMED], "held": ["t"], "releases": "u64",
            "data": 32, "approval": 32, "nonce": 16,
        },
    ),
    "deal": (5, {"silo": "t", "t1": 32, "rows": [_NAMED]}),
    "header": (6, {"silo": "t", "t2": 32, "lanes": [_NAMED]}),
    "attest": (7, {"silo": "t", "t3": 32}),
    "shares": (
        8,
        {"silo": "t", "t3": 32, "masks": [{"of": "t", "share": 33}], "seeds": [{"of": "t", "lane": "t", "share": 33}]},
    ),
    "decline": (
        9,
        {"silo": "t", "run": 32, "step": "u32", "attempt": "u32", "phase": "t", "code": "t", "blame": "t"},
    ),
    "closing": (10, {"run": 32, "chain": 32, "ledger": 32, "silo": "t"}),
    "approval": (
        11,
        {
            "silo": "t", **_TERMS, "data_uid": "t", "purpose": "t", "max_runs": "u32", "not_before": "u64",
            "not_after": "u64", "nonce": 16,
        },
    ),
    "receipt": (
        13,
        {
            "silo": "t", **dict.fromkeys(_DIGESTS, 32),
            "steps": [{"k": "u32", "t3": 32, "result": 32, "released": "u8"}],
        },
    ),
}  # fmt: skip

EVIDENCE: Mapping[str, Spec] = {
    "version": "u8", "adverts": ["b"], "deals": ["b"], "headers": ["b"], "attestations": ["b"], "sections": [_ROWS],
    "slot_shares": ["b"], "lane_shares": ["b"],
}  # fmt: skip

PAIR: Mapping[str, Spec] = {"version": "u8", "first": "b", "second": "b", "t2": 32, "ones": ["b"], "others": ["b"]}

CHARTER: Mapping[str, Spec] = {
    "version": "u8", "federation": "t", "epoch": "u32", "previous": 32,
    "members": [{"silo": "t", "agent": 32, "owner": 32}], "aggregator": 32, "n_min": "u32", "colluders": "u32",
    "honest": "u32", "lane_floor": "u32", "void_budget": "u32", "difference_budget": "u32", "not_before": "u64",
    "not_after": "u64", "suite": "u32",
}  # fmt: skip

PLAN: Mapping[str, Spec] = {
    "version": "u8", "method": "t", "seed": "u64", "n_max": "u32", "ring_bits": "u32",
    "lanes": [
        {
            "name": "t", "scope": "t", "floor": "u32", "grid": ["u32"], "hidden": "u8", "members": ["t"],
            "guard_moves": "u8",
        }
    ],
    "blocks": [{"name": "t", "shape": ["u32"], "lane": "t", "clip": "f64", "init": "f64"}],
    "steps": [
        {
            "task": "t", "index": "u32", "sums": [{"block": "t", "apply": "t", "rate": "f64"}],
            "slots": [{"name": "t", "bound": "u64"}],
        }
    ],
}  # fmt: skip


def encode(spec: Spec, value: Any) -> bytes:
    match spec:
        case int():
            assert len(value) == spec
            return bytes(value)
        case "t" | "b":
            data = value.encode() if spec == "t" else value
            return struct.pack(">I", len(data)) + data
        case str():
            return struct.pack(_WIDTHS[spec], value)
        case [inner]:
            return struct.pack(">I", len(value)) + b"".join(encode(inner, item) for item in value)
        case _:
            assert isinstance(spec, Mapping)
            return b"".join(encode(inner, value[name]) for name, inner in spec.items())


def decode(spec: Spec, data: bytes) -> Any:
    value, at = _decode(spec, data, 0)
    assert at == len(data)
    return value


def _decode(spec: Spec, data: bytes, at: int) -> tuple[Any, int]:
    match spec:
        case int():
            return data[at : at + spec], at + spec
        case "t" | "b":
            end = at + 4 + int.from_bytes(data[at : at + 4], "big")
            return (data[at + 4 : end].decode() if spec == "t" else data[at + 4 : end]), end
        case str():
            size = struct.calcsize(_WIDTHS[spec])
            return struct.unpack(_WIDTHS[spec], data[at : at + size])[0], at + size
        case [inner]:
            count, at = int.from_bytes(data[at : at + 4], "big"), at + 4
            items = []
            for _ in range(count):
                item, at = _decode(inner, data, at)
                items.append(item)
            return items, at
        case _:
            assert isinstance(spec, Mapping)
            fields = {}
            for name, inner in spec.items():
                fields[name], at = _decode(inner, data, at)
            return fields, at


def body(name: str, fields: Mapping[str, Any]) -> bytes:
    """A message's bytes."""
    kind, spec = MESSAGES[name]
    return bytes([1, kind]) + encode(spec, fields)


def fields_of(name: str, signed: bytes) -> dict[str, Any]:
    """The fields of a signed message."""
    _, spec = MESSAGES[name]
    found: dict[str, Any] = decode(spec, signed[4:-64][2:])
    return found


def seal(name: str, message: bytes, key: Identity) -> bytes:
    """Any bytes, signed as a message of that name."""
    return encode("b", message) + key.sign(encode("t", f"consilium/1/{name}") + encode("b", message))


def signed(name: str, fields: Mapping[str, Any], key: Identity) -> bytes:
    return seal(name, body(name, fields), key)


@dataclass(frozen=True)
class OldFederation:
    """The archive in a folder. ``root``: the folder."""

    root: Path

    @classmethod
    def unpack(cls, root: Path) -> OldFederation:
        with ZipFile(ARCHIVE) as archive:
            archive.extractall(root)
        return cls(root)

    @property
    def home(self) -> AggregatorHome:
        return AggregatorHome(self.root / "aggregator")

    @property
    def record(self) -> RunRecord:
        return RunRecord.read(self.home, RUN)

    def key(self, name: str) -> Identity:
        """``consortium``, ``aggregator``, ``silo-1.agent``, ``silo-1.owner``."""
        return Identity((self.root / "keys" / f"{name}.key").read_bytes())

    def receipt(self, silo: str) -> Path:
        return self.root / "receipts" / f"{silo}.bin"

    @property
    def charter_bytes(self) -> bytes:
        return self.home.pinned.path.read_bytes()[4:-64]

    def charter(self, **changes: Any) -> Any:
        """The charter, decoded by the frozen reader; with ``changes`` as the consortium would have signed it."""
        data = encode(CHARTER, decode(CHARTER, self.charter_bytes) | changes)
        return Protocol1().open_charter(seal("charter", data, self.key("consortium")), self.key("consortium").public)

    def evidence(self, k: int) -> dict[str, Any]:
        """The fields of a step's evidence."""
        found: dict[str, Any] = decode(EVIDENCE, self.home.run_folder(RUN).evidence_path(k).read_bytes())
        return found

    def resign(self, name: str, blobs: list[bytes], silo: str, change: Callable[[dict[str, Any]], object]) -> None:
        """Change a silo's message of that name in the list, signed by it all the same."""
        for place, blob in enumerate(blobs):
            fields = fields_of(name, blob)
            if fields["silo"] == silo:
                change(fields)
                blobs[place] = signed(name, fields, self.key(f"{silo}.agent"))
                return
        raise AssertionError(silo)

    def check(self, step: int, fields: Mapping[str, Any] | None = None, **how: Any) -> Any:
        """A step's evidence under what the ledger has of it, by the frozen reader. ``how``: another context."""
        record = self.record
        receipt = Protocol1().open_receipt(
            self.receipt("silo-1").read_bytes(), lambda _: self.key("silo-1.agent").public
        )
        closed = next(entry.record for entry in record.closed if entry.record.k == step)
        context = {"run": record.id, "k": step, "attempt": closed.attempt or 0, "chain": receipt.chains()[step]}
        charter, plan = how.pop("charter", None) or self.charter(), how.pop("plan", None) or record.plan
        data = encode(EVIDENCE, fields or self.evidence(step))
        return Protocol1().check_step(data, charter, plan, **(context | how))
