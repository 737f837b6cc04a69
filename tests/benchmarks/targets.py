"""The targets P1 to P17: what each is about, its limit, and whether the figures keep it within a tenth."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

#: Allowed for noise.
SLACK = 0.1

Row = dict[str, Any]
Target = dict[str, Any]

ABOUT = {
    "P1": "silo mask, share of raw AES-128-CTR (n ≥ 16, d ≥ 10M)",
    "P1/n4": "the same at n = 4",
    "P2": "mask time over (AES + addition in cache)",
    "P3": "two threads over one",
    "P4": "server unmask per stream over silo stream",
    "P5": "server add with carries over np.add",
    "P6": "quantise, GB/s of input (or 0.25 of np.copyto)",
    "P7": "bytes beyond the vector and its masked copy at a silo",
    "P8": "setup per silo at n = 100, one class, over its 200 signatures' checks",
    "P8/classes": "the same with 16 classes",
    "P8/unmask": "attest and unmask at n = 100, over their 300 signatures' checks",
    "P9": "server share recovery at n = 100, ms",
    "P10": "against Flower's SecAgg+",
    "P11": "against TenSEAL CKKS as in NVFlare",
    "P12": "against Fed-BioMed LOM: not measured",
    "P13": "visible lanes over dense: bytes and time",
    "P14": "one silo's tag: ns a word, and over its masks at n = 16 (d ≥ 10M)",
    "P15": "check of an announced sum: the same",
    "P16": "bytes of proof that a silo sends for a lane",
    "P17": "a step's work at a silo and the server over one without tags, n = 16 (d ≥ 10M)",
}


def at_least(value: float | None, target: float) -> Target:
    return {"value": value, "target": target, "pass": None if value is None else value >= target * (1 - SLACK)}


def at_most(value: float | None, target: float) -> Target:
    return {"value": value, "target": target, "pass": None if value is None else value <= target * (1 + SLACK)}


def several(checks: dict[str, Target]) -> Target:
    return {
        "value": {name: check["value"] for name, check in checks.items()},
        "target": {name: check["target"] for name, check in checks.items()},
        "pass": all(check["pass"] for check in checks.values()),
    }


def pick(rows: Iterable[Row], key: str, which: Callable[[Iterable[float]], float]) -> float | None:
    found = [row[key] for row in rows if row.get(key) is not None]
    return which(found) if found else None


def targets(rows: list[Row], peers: dict[str, Any] | None) -> dict[str, Target | None]:
    """Each target over the rows it speaks of, by the worst of them; None where nothing was measured."""
    sums = [row for row in rows if row["kind"] == "sum"]
    long = [row for row in sums if row["d"] >= 10_000_000]
    many = [row for row in long if row["n"] >= 16]
    hundred = [row for row in sums if row["n"] == 100 and row["d"] == 1000]
    one_class = [row for row in rows if row["kind"] == "setup" and row["classes"] == 1] + hundred
    classes = [row for row in rows if row["kind"] == "setup" and row["classes"] > 1]
    dense, lanes = (next(row for row in rows if row["kind"] == kind) for kind in ("dense", "lanes"))
    speed, copy = pick(long, "quantise_gb_s", min), pick(long, "quantise_copyto_ratio", min)
    beyond = max(
        long, key=lambda row: (row["extra_bytes"] or 0) - allowed_bytes(row["n"]), default={"extra_bytes": None, "n": 4}
    )
    p6 = at_least(speed, 5.0)
    p6["pass"] = p6["pass"] or at_least(copy, 0.25)["pass"]
    return {
        "P1": at_least(pick(many, "aes_ratio", min), 0.75),
        "P1/n4": at_least(pick([row for row in long if row["n"] == 4], "aes_ratio", min), 0.70),
        "P2": at_most(pick(many, "floor_ratio", max), 1.10),
        "P3": at_least(pick(many, "two_threads", max), 1.7),
        "P4": at_most(pick(many, "unmask_stream_ratio", max), 1.15),
        "P5": at_most(pick(long, "add_ratio", max), 2.0),
        "P6": p6 | {"copyto_ratio": copy, "clipped": pick(long, "quantise_clipped_gb_s", min)},
        "P7": at_most(beyond["extra_bytes"], allowed_bytes(beyond["n"])),
        "P8": at_most(pick(one_class, "setup_ratio", min), 2.5),
        "P8/classes": at_most(pick(classes, "setup_ratio", min), 3.5),
        "P8/unmask": at_most(pick(hundred, "attest_unmask_ratio", min), 3.5),
        "P9": at_most(pick([row for row in hundred if row["drop"] == 0], "recovery_ms", max), 150.0),
        "P10": None if peers is None else flower(peers),
        "P11": None if peers is None else tenseal(peers),
        "P12": None,
        "P13": several(
            {
                "bytes": at_most(lanes["bytes"] / dense["bytes"], 0.40),
                "time": at_most(lanes["upload_ms"] / dense["upload_ms"], 0.25),
            }
        ),
        "P14": proven(long, "tag_ms"),
        "P15": proven(long, "check_ms"),
        "P16": at_most(pick([row for row in rows if row["kind"] == "proof"], "sent_lane", max), 100),
        "P17": at_most(pick([row for row in long if row["n"] == 16], "step_ratio", max), 1.6),
    }


def proven(long: list[Row], key: str) -> Target:
    """Nanoseconds a word, and the share of the masks' time at n = 16, of the tag or of the check."""
    found = [row for row in long if row.get(key) is not None]
    each = [row[key] * 1e6 / row["d"] for row in found]
    ratios = [row[key] / row["mask_ms"] for row in found if row["n"] == 16]
    if not each or not ratios:
        return {"value": None, "target": 5.0, "pass": None}
    return several({"ns": at_most(max(each), 5.0), "of masks": at_most(max(ratios), 0.6)})


def allowed_bytes(n: int) -> int:
    """4 MiB, 64 KiB for the one thread that is measured, and 10 KiB a silo."""
    return (4 << 20) + (64 << 10) + (10 << 10) * n


def flower(peers: dict[str, Any]) -> Target:
    ours, theirs = peers["ours"], peers["flower"]
    ratio = {n: theirs[n]["silo_ms"] / ours[n]["silo_ms"] for n in ours}
    here, there = ours["16"], theirs["16"]
    return several(
        {
            **{
                f"silo n={n}": at_least(ratio[n], limit)
                for n, limit in (("4", 12.0), ("16", 7.0), ("64", 5.0))
                if n in ratio
            },
            "server streams n=16": at_least(there["unmask_ms"] / here["unmask_ms"], 4.5),
            "server total n=16": at_least(there["server_ms"] / here["server_ms"], 20.0),
            "bytes": at_most(here["bytes_per_value"] / there["bytes_per_value"], 0.5),
            "error": at_least(there["error"] / here["error"], 100.0),
        }
    )


def tenseal(peers: dict[str, Any]) -> Target:
    ours, theirs = peers["ours"], peers["tenseal"]
    return several(
        {
            **{
                f"silo n={n}": at_least(theirs["silo_ms"] / ours[n]["silo_ms"], limit)
                for n, limit in (("16", 50.0), ("64", 15.0))
                if n in ours
            },
            "bytes": at_least(theirs["bytes_per_value"] / ours["16"]["bytes_per_value"], 14.0),
            "server n=16": at_least(theirs["server_ms"]["16"] / ours["16"]["server_ms"], 100.0),
        }
    )
