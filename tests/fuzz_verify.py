"""Evidence from a stranger: everything that ``fed verify`` reads, damaged, or forged by whoever has every key.

Damaged: bytes of a bundle, of any file of an aggregator's home, of a receipt and of a silo's evidence are changed.
Forged: values of the ledger's records, charters, receipts and messages are changed and signed again, members of a
bundle are changed and sealed again, so that the checks behind the signatures meet them. Whatever comes in, verification
ends with a report or a FederationError, and both can be printed.

    python -m tests.fuzz_verify [--cases N] [--seed S]
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
import zipfile
from collections.abc import Callable
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from tempfile import mkdtemp
from typing import Any
from zlib import crc32

from aggregator.home import AggregatorHome
from aggregator.ledger.format import GENESIS, canonical, head_bytes, head_path, plain, read, signed_part
from aggregator.verify.bundle import MANIFEST
from aggregator.verify.zip_format import Member, directory
from crypto import transcript
from crypto.equivocation import Pair
from crypto.errors import FederationError, SpecError
from crypto.messages import Request
from crypto.receipt import Applied, Receipt
from crypto.text import printable
from jobs.evidence.verify import audit, contradiction
from tests import made_ledger as made
from tests.federation import identity
from tests.fuzz import Target, changed, run, sealer

BUNDLE = Path(__file__).parent / "vectors" / "bundle_v1.zip"

#: What a forger writes where a value was: no floats of JSON, no bytes of UTF-8, no size, no end.
HOSTILE: tuple[Any, ...] = (
    None, True, False, 0, -1, 2**32, 2**64, -(2**70), 10**400, 1.5, float("inf"), float("-inf"), float("nan"), "", "x",
    "\ud800", "a\udfffb", "\x00", "\x1b[2K", "../../x", "/etc/passwd", "0" * 64, "ab" * 32, "é", "x" * 10_000,
    "9" * 5000, [], [[]], [None], ["\ud800"], {}, {"": 0}, {"\ud800": "\udfff"}, {"a": {"b": [1]}}, "{}", "[1", "NaN",
    "Infinity", '{"a": Infinity}', '"\\ud800"', "[" * 3000, "checkpoints/x.safetensors", "9999-99-99T99:99:99.999Z",
)  # fmt: skip


def altered(rng: random.Random, value: Any) -> Any:
    """The same JSON with one value, or one key, somewhere in it replaced or removed."""
    if isinstance(value, dict) and value and rng.random() < 0.9:
        key = rng.choice(list(value))
        match rng.randrange(8):
            case 0:
                return {k: v for k, v in value.items() if k != key}
            case 1:
                return value | {rng.choice(["more", "\ud800", ""]): rng.choice(HOSTILE)}
            case _:
                return value | {key: altered(rng, value[key])}
    if isinstance(value, list) and value and rng.random() < 0.8:
        at = rng.randrange(len(value))
        return [*value[:at], altered(rng, value[at]), *value[at + 1 :]]
    if isinstance(value, str) and value[:1] in "{[" and rng.random() < 0.8:
        try:
            return json.dumps(altered(rng, json.loads(value)))
        except (ValueError, RecursionError):
            return rng.choice(HOSTILE)
    if isinstance(value, str) and len(value) > 8 and len(value) % 2 == 0 and rng.random() < 0.4:
        try:
            return changed(rng, bytes.fromhex(value), b"\xff" * 8).hex()
        except ValueError:
            pass
    return rng.choice(HOSTILE)


def forge(path: Path, lines: list[tuple[Any, Any, Any]]) -> None:
    """A ledger of these (kind, record, time), chained and signed with the aggregator's key, whatever they are."""
    prev, data = GENESIS, []
    for seq, (kind, record, time) in enumerate(lines):
        fields = {"seq": seq, "kind": kind, "time": time, "prev": prev, "record": record}
        try:
            message, write = signed_part(seq, kind, time, prev, record), canonical
        except (SpecError, ValueError, RecursionError):
            message, write = b"", lambda value: json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
        line = write({**fields, "signature": made.ME.sign(message).hex()}) + b"\n"
        prev = sha256(line).hexdigest()
        data.append(line)
    path.write_bytes(b"".join(data))
    head_path(path).write_bytes(head_bytes(made.ME, len(lines), prev))


def sealed(members: dict[str, bytes], run_id: str, out: Path) -> None:
    """A bundle of these files whose manifest fits."""
    listed = [{"name": n, "size": len(d), "sha256": sha256(d).hexdigest()} for n, d in sorted(members.items())]
    old = json.loads(zipfile.ZipFile(BUNDLE).read(MANIFEST))
    manifest = canonical({**old, "run": run_id, "members": listed}) + b"\n"
    files = [(MANIFEST, manifest), *sorted(members.items())]
    zipped = [Member(name, len(data), crc32(data)) for name, data in files]
    body = b"".join(one.local() + data for one, (_, data) in zip(zipped, files, strict=True))
    out.write_bytes(body + directory(zipped))


def told(do: Callable[[], Any]) -> Any:
    """Verify, and print what comes out as ``fed verify`` does, errors too."""
    try:
        report = do()
    except FederationError as error:
        json.dumps({"detail": error.detail, "remedy": error.remedy})
        printable(str(error)).encode()
        raise
    lines = [*map(str, getattr(report, "lines", ())), printable(str(getattr(report, "verdict", report)))]
    "\n".join(lines).encode()
    json.dumps(report.as_dict() if hasattr(report, "as_dict") else {})
    return report


class Evidence:
    """Valid samples of everything, and a place to put what became of them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.whole = root / "whole"
        self.whole.mkdir(parents=True)
        ledger = made.under_way(self.whole, steps=4)
        self.run = made.short_of(self.whole)
        made.make_run(self.whole, ledger)
        made.published(self.whole, ledger, made.RUN, "1")
        (self.whole / "jobs" / made.RUN / "mlflow.json").write_text('{"model": "digits", "version": "1"}')
        ledger.append(made.as_record("withdrawal", made.withdrawal("silo-1", [made.RUN], {made.RUN: ["retrain"]})))
        (self.whole / "charters").mkdir()
        (self.whole / "charters" / "000001.bin").write_bytes(made.SIGNED_CHARTER)
        entries = read(AggregatorHome(self.whole).ledger_path)
        self.lines = [(str(entry.kind), plain(entry.record.fields()), entry.time) for entry in entries]
        self.pins = root / "pins"
        self.pins.mkdir()
        for name in ("consortium.pub", "charter.bin"):
            shutil.copy(self.whole / name, self.pins / name)
        self.files = sorted(
            path.relative_to(self.whole).as_posix()
            for path in self.whole.rglob("*")
            if path.is_file() and "keys" not in path.parts
        )
        with zipfile.ZipFile(BUNDLE) as opened:
            self.members = {name: opened.read(name) for name in opened.namelist() if name != MANIFEST}
            self.bundle_run = json.loads(opened.read(MANIFEST))["run"]
        job, nonce = bytes(32), bytes([1]) * 32
        whole_id = transcript.run_id(job, made.CHARTER.digest, nonce)
        chain = transcript.initial_chain(whole_id, bytes(32))
        chain = transcript.next_chain(chain, bytes(32), b"", released=False)
        self.receipt = Receipt(
            silo="silo-1", run=whole_id, job=job, plan=bytes(32), charter=made.CHARTER.digest, code=bytes(32),
            nonce=nonce, approval=bytes(32), data=bytes(32), initial=bytes(32), chain=chain, ledger=bytes(32),
            steps=(Applied(0, bytes(32), bytes(32), False),),
        )  # fmt: skip
        asked = [Request(run=whole_id, step=0, attempt=0, phase="attest", payload=bytes([i])) for i in (1, 2)]
        self.pair = bytes(Pair(*(one.sign(made.ME) for one in asked)))

    def home(self) -> Path:
        """A fresh copy of the home, in place of the one before."""
        place = self.root / "home"
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(self.whole, place)
        return place

    def file(self, data: bytes, name: str = "evidence.bin") -> str:
        path = self.root / name
        path.write_bytes(data)
        return str(path)

    # --- what is done with a sample --------------------------------------------------------------------------------

    def in_home(self, case: tuple[str, bytes]) -> Any:
        name, data = case
        place = self.home()
        (place / name).write_bytes(data)
        return told(lambda: audit(self.run, home=place))

    def on_ledger(self, lines: list[tuple[Any, Any, Any]]) -> Any:
        place = self.home()
        forge(AggregatorHome(place).ledger_path, lines)
        return told(lambda: audit(self.run, home=place))

    def as_bundle(self, data: bytes) -> Any:
        target = self.file(data, "evidence.zip")
        return told(lambda: audit(target, home=None))

    def resealed(self, case: tuple[str, bytes]) -> Any:
        name, data = case
        out = self.root / "sealed.zip"
        sealed({**self.members, name: data}, self.bundle_run, out)
        return told(lambda: audit(str(out), home=None))

    def as_manifest(self, fields: Any) -> Any:
        text = json.dumps(fields, sort_keys=True, separators=(",", ":"))
        return self.with_manifest(text.encode() + b"\n")

    def with_manifest(self, data: bytes) -> Any:
        """The manifest is first; the files behind it are as they were."""
        with zipfile.ZipFile(BUNDLE) as opened:
            files = [(MANIFEST, data), *((name, opened.read(name)) for name in opened.namelist() if name != MANIFEST)]
        zipped = [Member(name, len(data), crc32(data)) for name, data in files]
        body = b"".join(one.local() + data for one, (_, data) in zip(zipped, files, strict=True))
        return self.as_bundle(body + directory(zipped))

    def as_receipt(self, data: bytes) -> Any:
        """Alone, under the charter that is pinned; then against a ledger, which has no such run."""
        target = self.file(data)
        alone = told(lambda: audit(target, home=self.pins))
        with suppress(FederationError):
            told(lambda: audit(target, home=self.whole))
        return alone

    def as_pair(self, data: bytes) -> Any:
        target, key = Path(self.file(data)), str(self.whole / "consortium.pub")
        return told(lambda: contradiction(target, key, self.whole / "charter.bin")[1])

    def as_charter(self, data: bytes) -> Any:
        place = self.home()
        (place / "charters" / "000001.bin").write_bytes(data)
        (place / "charter.bin").write_bytes(data)
        return told(lambda: audit(self.run, home=place))

    # --- how a sample is changed -----------------------------------------------------------------------------------

    def some_file(self, rng: random.Random, names: list[str]) -> tuple[str, bytes]:
        name = rng.choice(names)
        data = self.members[name] if name in self.members else (self.whole / name).read_bytes()
        if name.endswith(".json") and rng.random() < 0.5:
            return name, json.dumps(altered(rng, json.loads(data))).encode("utf-8", "surrogatepass")
        return name, changed(rng, data, data)

    def some_lines(self, rng: random.Random, lines: list[tuple[Any, Any, Any]]) -> list[tuple[Any, Any, Any]]:
        found = list(lines)
        for _ in range(rng.choice((1, 1, 2))):
            at = rng.randrange(len(found))
            kind, record, time = found[at]
            match rng.randrange(10):
                case 0:
                    found[at:at] = [rng.choice(found)]
                case 1:
                    del found[at]
                    found = found or list(lines)
                case 2:
                    found[at] = (kind, record, rng.choice(HOSTILE))
                case 3:
                    found[at] = (rng.choice(HOSTILE), record, time)
                case _:
                    found[at] = (kind, altered(rng, record), time)
        return found

    def targets(self) -> list[Target]:
        signed = self.receipt.sign(identity("silo-1"))
        bundle, charter = BUNDLE.read_bytes(), bytes(made.CHARTER)
        return [
            Target("home", (self.files,), self.in_home, change=self.some_file),
            Target("ledger, signed again", (self.lines,), self.on_ledger, change=self.some_lines),
            Target("bundle", (bundle,), self.as_bundle),
            Target("bundle, sealed again", (sorted(self.members),), self.resealed, change=self.some_file),
            Target("manifest", (json.loads(zipfile.ZipFile(BUNDLE).read(MANIFEST)),), self.as_manifest, change=altered),
            Target("receipt", (signed,), self.as_receipt),
            Target(
                "receipt, signed again", (bytes(self.receipt),), self.as_receipt,
                seal=sealer(Receipt.LABEL, identity("silo-1")),
            ),
            Target("evidence", (self.pair,), self.as_pair),
            Target("charter", (made.SIGNED_CHARTER,), self.as_charter),
            Target("charter, signed again", (charter,), self.as_charter, seal=sealer("charter", made.CONSORTIUM)),
        ]  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description="Verify damaged and forged evidence.")
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    result = run(options.cases, options.seed, Evidence(Path(mkdtemp(prefix="fuzz-"))).targets())
    for line in result.foreign[:20]:
        print(f"foreign: {line[:600]}")
    print(f"seed {options.seed}: {result.taken} samples were taken, the others refused by name")
    print(result)
    return 0 if not result.foreign else 1


if __name__ == "__main__":
    sys.exit(main())
