"""The machine: memory and processors that this process may use, and a GPU if there is one."""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from jobs.doctor.check import SERVICES, SILO, Finding, check, fail, ok, warn
from jobs.doctor.target import Role, Target

MIB: Final = 1 << 20
#: Available memory below which there is a warning, and a fail. Bytes.
LITTLE: Final = {Role.SILO: 2048 * MIB, Role.AGGREGATOR: 1024 * MIB}
TOO_LITTLE: Final = {Role.SILO: 512 * MIB, Role.AGGREGATOR: 256 * MIB}
_NONE_SET: Final = 1 << 60  # without a limit, cgroup v1 reports more than this


@check(
    "memory",
    SERVICES,
    looks="memory of the machine or of this container (cgroup): total and available",
    fails="less than 512 MiB available at a silo, 256 MiB at the aggregator; less than 2 GiB and 1 GiB are warnings",
    remedy="Give the container or the machine more memory, or stop what else runs there.",
)
def memory(target: Target) -> Finding | None:
    total, free = available_memory()
    summary = f"{free // MIB} MiB available of {total // MIB} MiB"
    if free < TOO_LITTLE[target.role]:
        return fail(summary)
    return warn(summary) if free < LITTLE[target.role] else ok(summary)


@check(
    "cpu",
    SERVICES,
    looks="processors that this process may use (affinity, cgroup)",
    fails="never: less than one is a warning",
    remedy="Give the container at least one processor: phases have deadlines.",
)
def cpu(target: Target) -> Finding | None:
    count = float(len(os.sched_getaffinity(0)))
    for folder in _cgroups("cpu"):
        try:
            if (folder / "cpu.max").exists():
                quota, period = (folder / "cpu.max").read_text(encoding="utf-8").split()
            else:
                quota, period = (
                    (folder / f"cpu.cfs_{name}_us").read_text(encoding="utf-8").strip() for name in ("quota", "period")
                )
            if quota not in ("max", "-1"):
                count = min(count, int(quota) / int(period))
        except (OSError, ValueError):
            continue
    return Finding(ok("").status if count >= 1 else warn("").status, f"{count:g}")


@check(
    "gpu",
    SILO,
    looks="whether torch sees the GPUs that this machine has and that the kit offers to jobs",
    fails="the kit offers more GPUs than torch sees; a GPU that torch does not see is a warning",
    remedy="Install the torch that fits the GPU's driver, or set num_of_gpus in local/resources.json to what there is.",
)
def gpu(target: Target) -> Finding | None:
    offered = _offered(target)
    try:
        torch: Any = importlib.import_module("torch")
    except ImportError:
        return fail(f"the kit offers {offered}, and torch is missing") if offered else None
    seen = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if offered > seen:
        return fail(f"the kit offers {offered}, torch {torch.__version__} sees {seen}")
    if not seen and any(Path("/dev").glob("nvidia[0-9]*")):
        return warn(f"this machine has one, torch {torch.__version__} does not see it")
    return ok(f"torch {torch.__version__} sees {seen}" if seen else "none: jobs run on the processor")


def available_memory() -> tuple[int, int]:
    """(total, available) for this process: the least of the machine and of every cgroup above it. Bytes."""
    lines = (line.split() for line in Path("/proc/meminfo").read_text(encoding="utf-8").splitlines())
    machine = {fields[0].rstrip(":"): int(fields[1]) * 1024 for fields in lines}
    total, free = machine["MemTotal"], machine["MemAvailable"]
    for folder in _cgroups("memory"):
        modern = (folder / "memory.max").exists()
        names = ("memory.max", "memory.current") if modern else ("memory.limit_in_bytes", "memory.usage_in_bytes")
        try:
            limit, used = ((folder / name).read_text(encoding="utf-8").strip() for name in names)
            stat = dict(line.split() for line in (folder / "memory.stat").read_text(encoding="utf-8").splitlines())
            if limit != "max" and int(limit) < _NONE_SET:
                cache = int(stat.get("inactive_file" if modern else "total_inactive_file", 0))
                total, free = min(total, int(limit)), min(free, int(limit) - int(used) + cache)
        except (OSError, ValueError):
            continue
    return total, max(0, free)


def _cgroups(controller: str) -> Iterator[Path]:
    """The folders of this process's cgroup and of those above it, version 2 or 1."""
    base = Path("/sys/fs/cgroup")
    try:
        lines = Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        _, names, path = line.split(":", 2)
        if names and controller not in names.split(","):
            continue
        root = base / controller if names else base
        folder = root / path.lstrip("/")
        while True:
            if folder.is_dir():
                yield folder
            if folder in (root, folder.parent):
                break
            folder = folder.parent


def _offered(target: Target) -> int:
    """``num_of_gpus`` of the kit's resource manager."""
    if target.kit is None:
        return 0
    try:
        rules = json.loads((target.kit / "local" / "resources.json").read_text(encoding="utf-8"))
        counts = [one.get("args", {}).get("num_of_gpus", 0) for one in rules["components"]]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return 0  # reported by the check `kit.hardened`
    return max([0, *(int(count) for count in counts)])


CHECKS = (memory, cpu, gpu)
