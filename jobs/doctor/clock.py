"""The clock. Approvals, charter and certificates have dates, and NVFlare's server does not send the time.

So the clock is compared with dates that lie in the past: the beginning of certificates and charter, the last line of
the ledger and of the security log. That detects a clock that is behind; one that is ahead shows as an expired item.
Whether NTP keeps the clock, the kernel reports.
"""

from __future__ import annotations

import ctypes
import json
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from crypto.errors import FederationError
from jobs.doctor.check import ALL, Finding, check, fail, ok, warn
from jobs.doctor.target import Target

#: A difference between two clocks that is accepted. Seconds.
TOLERANCE: Final = 120
#: Of ``struct timex`` on 64-bit Linux: more than its size, two fields' offsets, the flag of an unsynchronised clock.
_TIMEX_BYTES, _STATUS_AT, _MAXERROR_AT, _STA_UNSYNC = 512, 40, 24, 0x40


@check(
    "clock",
    ALL,
    looks="the clock against what was signed or written before: certificates, charter, ledger, security log",
    fails=f"the clock is more than {TOLERANCE} s behind one of them",
    remedy="Set this machine's clock, and keep it with NTP. If it is right, the record named is from a wrong clock.",
)
def clock(target: Target) -> Finding | None:
    what, newest = max(_signed(target), key=lambda one: one[1], default=("nothing", 0.0))
    if target.now < newest - TOLERANCE:
        return fail(f"it shows {_time(target.now)}, but {what} is dated {_time(newest)}")
    return ok(f"{_time(target.now)}, later than {what}")


@check(
    "clock.synchronised",
    ALL,
    looks="whether the kernel's clock is kept by NTP (adjtimex)",
    fails="never: an unsynchronised clock is a warning",
    remedy="Run chrony or systemd-timesyncd, here or on the host.",
)
def clock_synchronised(target: Target) -> Finding | None:
    kernel = ctypes.CDLL(None, use_errno=True)
    state = ctypes.create_string_buffer(_TIMEX_BYTES)  # modes = 0: read only
    if not hasattr(kernel, "adjtimex") or kernel.adjtimex(state) < 0:
        return warn("the kernel does not report it")
    if int.from_bytes(state.raw[_STATUS_AT : _STATUS_AT + 4], "little") & _STA_UNSYNC:
        return warn("the kernel reports that its clock is not synchronised")
    most = int.from_bytes(state.raw[_MAXERROR_AT : _MAXERROR_AT + 8], "little")
    return ok(f"synchronised, off by at most {most / 1e6:.3f} s")


def _signed(target: Target) -> Iterator[tuple[str, float]]:
    """(what, when) of records that cannot be of the future."""
    if target.kit is not None:
        for what in ("certificate", "root"):
            try:
                yield f"the kit's {what}", getattr(target, what).not_valid_before_utc.timestamp()
            except FederationError:
                continue
    charter = target.charter_if_any
    if charter is not None:
        yield "the charter", float(charter.not_before)
    if target.home_if_any is not None:
        for what, path, key in (
            ("the security log", target.home.security_log, "at"),
            ("the ledger", target.aggregator_home.ledger_path, "time"),
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
