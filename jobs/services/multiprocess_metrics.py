"""The figures of job processes, as prometheus_client leaves them in ``<home>/metrics``: a few files for each process.

Files of ended processes are merged into one file of each kind, so the folder does not grow with every job. Counters and
histograms add up; of a gauge the value that was set last is kept.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import struct
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

from jobs.flare.nvflare_mains import METRICS_ROOM_BYTES

if TYPE_CHECKING:
    from prometheus_client.core import Metric

log = logging.getLogger("consilium.service")

#: Of a file of figures. Ours have a few hundred kilobytes. Bytes.
MOST_BYTES: Final = 64 << 20
#: The process number in the names of merged files. No process has it.
GONE: Final = 0
#: Kind and process of a file. Gauges of other kinds than ours are ignored.
_NAME: Final = re.compile(r"(counter|histogram|gauge_mostrecent)_(\d+)\.db")


class Figures:
    """Collector of every process's figures. Only names that begin with ``prefix`` are served."""

    def __init__(self, folder: Path, prefix: str = "") -> None:
        from prometheus_client.multiprocess import MultiProcessCollector

        self._folder = folder
        self._prefix = prefix
        self._files = MultiProcessCollector(None, path=str(folder))  # type: ignore[no-untyped-call]
        #: Files that the last scrape could not read, now or before: their figures are missing.
        self.damaged = 0
        self._lock = threading.Lock()  # a reader between merging and removing would count twice

    def describe(self) -> Iterator[Metric]:
        """Nothing is read before the first scrape."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        with self._lock:
            set_aside_damaged(self._folder)
            if (
                shutil.disk_usage(self._folder).free >= METRICS_ROOM_BYTES
            ):  # a mapped file on a full volume ends us: SIGBUS
                fold(self._folder)
            files = sorted(path for path in self._folder.glob("*.db") if _NAME.fullmatch(path.name))
            whole = [str(path) for path in files if _readable(path)]
            self.damaged = len(files) - len(whole) + len(list(self._folder.glob("*.damaged")))
            found = list(self._files.merge(whole))  # type: ignore[no-untyped-call]
        return (metric for metric in found if metric.name.startswith(self._prefix))


def set_aside_damaged(folder: Path) -> int:
    """Rename the files of ended processes that cannot be read (a full disk, a power cut); how many. The figures of the
    others are served. A living process may be about to write its file: that one is only left out of this scrape."""
    import psutil

    found = 0
    for path in folder.glob("*.db"):
        name = _NAME.fullmatch(path.name)
        alive = name is None or (int(name[2]) != GONE and psutil.pid_exists(int(name[2])))
        if not alive and not _readable(path):
            log.warning("%s is damaged: its figures are lost, the others are served", path.name)
            os.replace(path, path.with_name(f"{path.name}.damaged"))
            found += 1
    return found


def _readable(path: Path) -> bool:
    """Whether prometheus_client can read the whole file."""
    from prometheus_client.mmap_dict import MmapedDict

    before = 0
    try:
        if path.stat().st_size > MOST_BYTES:
            return False
        for key, _, _, position in MmapedDict.read_all_values_from_file(path):  # type: ignore[no-untyped-call]
            metric, sample, labels, text = json.loads(key)
            if not isinstance(labels, dict) or not all(isinstance(one, str) for one in (metric, sample, text)):
                return False
            if position <= before:  # a negative length: the reader would go round for ever
                return False
            before = position
    except (OSError, ValueError, RuntimeError, TypeError, struct.error):  # ValueError: also JSON and UTF-8
        return False
    return True


def fold(folder: Path) -> int:
    """Merge the files of ended processes; returns how many. Not thread-safe."""
    import psutil

    gone: dict[str, list[Path]] = {}
    for path in sorted(folder.glob("*.db")):
        name = _NAME.fullmatch(path.name)
        if name and int(name[2]) != GONE and not psutil.pid_exists(int(name[2])):
            gone.setdefault(name[1], []).append(path)
    for kind, paths in gone.items():
        _fold(folder / f"{kind}_{GONE}.db", paths, latest=kind.startswith("gauge"))
    return sum(map(len, gone.values()))


def _fold(into: Path, paths: list[Path], *, latest: bool) -> None:
    from prometheus_client.mmap_dict import MmapedDict

    found: dict[str, tuple[float, float]] = {}
    for path in [into, *paths] if into.exists() else paths:
        for key, value, time, _ in MmapedDict.read_all_values_from_file(path):  # type: ignore[no-untyped-call]
            before, set_at = found.get(key, (0.0, 0.0))
            if not latest:
                found[key] = (before + value, 0.0)
            elif key not in found or time > set_at:
                found[key] = (value, time)
    new = into.with_name(into.name + ".new")
    new.unlink(missing_ok=True)
    file = MmapedDict(str(new))  # type: ignore[no-untyped-call]
    for key, (value, time) in found.items():
        file.write_value(key, value, time)  # type: ignore[no-untyped-call]
    file.close()  # type: ignore[no-untyped-call]
    os.replace(new, into)
    for path in paths:
        path.unlink()
