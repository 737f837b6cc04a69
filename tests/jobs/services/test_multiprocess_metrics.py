"""Files of processes that are gone are folded: nothing is lost, nothing counts twice, the folder does not grow."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.mmap_dict import MmapedDict, mmap_key

from jobs.services.multiprocess_metrics import Figures, fold

#: No process has these numbers: they are above the most that Linux gives.
DEAD = tuple(range(2**22 + 1, 2**22 + 31))


def write(folder: Path, kind: str, pid: int, name: str, value: float, time: float = 0.0, **labels: str) -> None:
    """One figure, as prometheus_client writes it in process ``pid``."""
    family = name.removesuffix("_total").removesuffix("_bucket").removesuffix("_sum")
    file = MmapedDict(str(folder / f"{kind}_{pid}.db"))
    file.write_value(mmap_key(family, name, tuple(labels), tuple(labels.values()), "help"), value, time)
    file.close()


def shown(folder: Path, name: str, prefix: str = "", **labels: str) -> float | None:
    registry = CollectorRegistry()
    registry.register(Figures(folder, prefix))
    return registry.get_sample_value(name, labels)


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_counters_of_the_gone_add_up_and_stay(tmp_path: Path) -> None:
    for pid in DEAD:
        write(tmp_path, "counter", pid, "a_total", 2.0, code="X")
    assert shown(tmp_path, "a_total", code="X") == 2.0 * len(DEAD)
    assert files(tmp_path) == {"counter_0.db"}
    assert shown(tmp_path, "a_total", code="X") == 2.0 * len(DEAD)
    write(tmp_path, "counter", DEAD[0], "a_total", 1.0, code="X")
    assert shown(tmp_path, "a_total", code="X") == 2.0 * len(DEAD) + 1
    assert files(tmp_path) == {"counter_0.db"}


def test_of_a_gauge_the_last_value_counts(tmp_path: Path) -> None:
    for pid, value, time in ((DEAD[0], 5.0, 10.0), (DEAD[1], 7.0, 30.0), (DEAD[2], 6.0, 20.0)):
        write(tmp_path, "gauge_mostrecent", pid, "g", value, time)
    assert shown(tmp_path, "g") == 7.0
    write(tmp_path, "gauge_mostrecent", DEAD[3], "g", 1.0, 25.0)  # older than what was folded
    assert shown(tmp_path, "g") == 7.0
    write(tmp_path, "gauge_mostrecent", DEAD[3], "g", 0.0, 40.0)
    assert shown(tmp_path, "g") == 0.0
    assert files(tmp_path) == {"gauge_mostrecent_0.db"}


def test_a_gauge_that_was_never_set_is_not_served(tmp_path: Path) -> None:
    write(tmp_path, "gauge_mostrecent", DEAD[0], "g", 0.0)
    assert shown(tmp_path, "g") is None
    assert shown(tmp_path, "g") is None


def test_histograms_are_not_accumulated_twice(tmp_path: Path) -> None:
    for pid in DEAD[:2]:
        for le, count in (("1.0", 3.0), ("+Inf", 1.0)):
            write(tmp_path, "histogram", pid, "h_bucket", count, le=le)
        write(tmp_path, "histogram", pid, "h_sum", 2.5)
    for _ in range(3):
        assert shown(tmp_path, "h_bucket", le="1.0") == 6.0
        assert shown(tmp_path, "h_bucket", le="+Inf") == 8.0
        assert shown(tmp_path, "h_sum") == 5.0
    assert files(tmp_path) == {"histogram_0.db"}


def test_files_of_the_living_and_of_others_are_left_alone(tmp_path: Path) -> None:
    child = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
    try:
        write(tmp_path, "counter", child.pid, "a_total", 1.0)
        write(tmp_path, "gauge_all", DEAD[0], "b", 1.0)
        (tmp_path / "notes.db").write_bytes(b"")
        assert fold(tmp_path) == 0
        assert files(tmp_path) == {f"counter_{child.pid}.db", f"gauge_all_{DEAD[0]}.db", "notes.db"}
    finally:
        child.communicate(b"")
    assert fold(tmp_path) == 1
    assert f"counter_{child.pid}.db" not in files(tmp_path)


def test_what_a_crash_left_half_folded_does_not_count(tmp_path: Path) -> None:
    write(tmp_path, "counter", DEAD[0], "a_total", 3.0)
    write(tmp_path, "counter", DEAD[1], "b_total", 5.0)
    (tmp_path / f"counter_{DEAD[1]}.db").rename(tmp_path / "counter_0.db.new")
    assert shown(tmp_path, "a_total") == 3.0 and shown(tmp_path, "b_total") is None
    assert files(tmp_path) == {"counter_0.db"}


def test_only_a_roles_own_names_are_served(tmp_path: Path) -> None:
    write(tmp_path, "counter", DEAD[0], "consilium_silo_a_total", 1.0)
    write(tmp_path, "counter", DEAD[1], "consilium_aggregator_a_total", 1.0)
    assert shown(tmp_path, "consilium_silo_a_total", "consilium_silo_") == 1.0
    assert shown(tmp_path, "consilium_aggregator_a_total", "consilium_silo_") is None


def test_the_folder_does_not_grow_with_jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Real processes with the silo's real figures, one after the other."""
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    code = "from silo_agent import metrics; metrics.step('released'); metrics.rows(7)"
    sizes = []
    for count in (1, 2, 3):
        subprocess.run([sys.executable, "-c", code], check=True, timeout=60, cwd=Path(__file__).parents[3])
        assert shown(tmp_path, "consilium_silo_steps_total", outcome="released") == count
        assert shown(tmp_path, "consilium_silo_dataset_rows") == 7
        sizes.append(sum(path.stat().st_size for path in tmp_path.iterdir()))
    assert len(files(tmp_path)) == 3 and len(set(sizes)) == 1


def test_two_scrapes_at_a_time_count_once(tmp_path: Path) -> None:
    figures = Figures(tmp_path)

    def total(_: int) -> float:
        return sum(sample.value for metric in figures.collect() for sample in metric.samples)

    with ThreadPoolExecutor(4) as pool:
        for turn in range(1, 6):
            for pid in DEAD:
                write(tmp_path, "counter", pid, "a_total", 1.0)
            assert set(pool.map(total, range(8))) == {float(turn * len(DEAD))}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x08\x00",
        b'\x40\x00\x00\x00\x00\x00\x00\x00\x30\x00\x00\x00["x',
        b"\x40\x00\x00\x00\x00\x00\x00\x00" + b"\xf0\xff\xff\xff" + bytes(60),  # a negative length
        b"\x28\x00\x00\x00\x00\x00\x00\x00\x04\x00\x00\x00null" + bytes(24),
        b"\x28\x00\x00\x00\x00\x00\x00\x00\x04\x00\x00\x00\xff\xff\xff\xff" + bytes(24),
    ],
    ids=["empty", "short", "cut", "negative", "no key", "no text"],
)
def test_a_damaged_file_is_put_aside_and_the_others_are_served(tmp_path: Path, data: bytes) -> None:
    write(tmp_path, "counter", DEAD[0], "a_total", 2.0)
    (tmp_path / f"counter_{DEAD[1]}.db").write_bytes(data)
    (tmp_path / "counter_0.db").write_bytes(data)
    assert shown(tmp_path, "a_total") == shown(tmp_path, "a_total") == 2.0
    figures = Figures(tmp_path)
    list(figures.collect())
    assert figures.damaged == 2
    assert files(tmp_path) == {"counter_0.db", "counter_0.db.damaged", f"counter_{DEAD[1]}.db.damaged"}


def test_a_living_process_that_is_about_to_write_keeps_its_file(tmp_path: Path) -> None:
    mine = tmp_path / f"counter_{os.getpid()}.db"
    mine.write_bytes(b"")
    (tmp_path / "strange.db").write_bytes(b"x")
    write(tmp_path, "counter", DEAD[0], "a_total", 2.0)
    assert shown(tmp_path, "a_total") == 2.0
    assert mine.exists()
    mine.unlink()
    write(tmp_path, "counter", os.getpid(), "a_total", 3.0)
    assert shown(tmp_path, "a_total") == 5.0
