"""The clock. Approvals, charter and certificates have dates, and NVFlare's server tells nobody the time.

So the clock is held against what cannot be of the future: the beginning of certificates and charter, the last line of
the ledger or the security log. That finds a clock that is behind; one that is ahead shows as something expired. Whether
anybody keeps it right, the kernel knows.
"""

from __future__ import annotations

import ctypes
import json
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from aggregator.home import AggregatorHome
from crypto.errors import FederationError
from jobs.doctor.check import ALL, Finding, check, fail, ok, warn
from jobs.doctor.target import Place

#: How far two clocks may differ without anybody caring. Seconds.
TOLERANCE: Final = 120
#: Of ``struct timex`` on 64-bit Linux: more than its size, where two fields are, and the flag of a clock nobody keeps.
_TIMEX_BYTES, _STATUS_AT, _MAXERROR_AT, _STA_UNSYNC = 512, 40, 24, 0x40


@check(
    "clock",
    ALL,
    looks="the clock against what was signed or written before: certificates, charter, ledger, security log",
    fails=f"the clock is more than {TOLERANCE} s behind one of them",
    remedy="Set this machine's clock, and keep it with NTP. If it is right, the record named is from a wrong clock.",
)
def clock(place: Place) -> Finding | None:
    what, newest = max(_signed(place), key=lambda one: one[1], default=("nothing", 0.0))
    if place.now < newest - TOLERANCE:
        return fail(f"it says {_time(place.now)}, but {what} is of {_time(newest)}")
    return ok(f"{_time(place.now)}, later than {what}")


@check(
    "clock.synchronised",
    ALL,
    looks="whether the kernel's clock is kept by NTP (adjtimex)",
    fails="never: a clock that nobody keeps is a warning",
    remedy="Run chrony or systemd-timesyncd, here or on the machine below.",
)
def clock_synchronised(place: Place) -> Finding | None:
    kernel = ctypes.CDLL(None, use_errno=True)
    state = ctypes.create_string_buffer(_TIMEX_BYTES)  # modes = 0: read only
    if not hasattr(kernel, "adjtimex") or kernel.adjtimex(state) < 0:
        return warn("the kernel does not say")
    if int.from_bytes(state.raw[_STATUS_AT : _STATUS_AT + 4], "little") & _STA_UNSYNC:
        return warn("the kernel says that its clock is not synchronised")
    most = int.from_bytes(state.raw[_MAXERROR_AT : _MAXERROR_AT + 8], "little")
    return ok(f"synchronised, off by at most {most / 1e6:.3f} s")


def _signed(place: Place) -> Iterator[tuple[str, float]]:
    """(what, when) of records that cannot be of the future."""
    if place.kit is not None:
        for what in ("certificate", "root"):
            try:
                yield f"the kit's {what}", getattr(place, what).not_valid_before_utc.timestamp()
            except FederationError:
                continue
    charter = place.charter_if_any
    if charter is not None:
        yield "the charter", float(charter.not_before)
    if place.home is not None:
        for what, path, key in (
            ("the security log", place.home / "security.jsonl", "at"),
            ("the ledger", AggregatorHome(place.home).ledger_path, "time"),
        ):
            if (when := _last(path, key)) is not None:
                yield what, when


def _last(path: Path, key: str) -> float | None:
    """The time in a file's last whole line."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - (1 << 20)))
            lines = file.read().rpartition(b"\n")[0].split(b"\n")
        return datetime.fromisoformat(json.loads(lines[-1])[key]).timestamp()
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _time(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%SZ")


CHECKS = (clock, clock_synchronised)
