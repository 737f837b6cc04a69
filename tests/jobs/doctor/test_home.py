"""Faults of a home and its volume, of the machine, the clock and what is installed."""

from __future__ import annotations

import builtins
import errno
import os
import resource
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib import metadata, util
from pathlib import Path
from types import SimpleNamespace

import pytest

from jobs import release
from jobs.doctor import clock, machine, packages, volume
from jobs.doctor.check import Status
from tests.jobs.doctor.site_copy import SiteCopy, finds, passes, result_of, results

pytestmark = pytest.mark.slow

# --- home ------------------------------------------------------------------------------------------------------------


def test_a_home_that_is_none(silo: SiteCopy, aggregator: SiteCopy, tmp_path: Path) -> None:
    finds(replace(silo, home=tmp_path / "nowhere"), "home", "is no folder", remedy="--home")
    finds(replace(silo, home=None), "home", "no home was given", remedy="--home")
    finds(replace(silo, home=tmp_path), "home", "no home: it has no silo.json", remedy="fed keygen")
    finds(replace(silo, home=aggregator.home), "home", "the home of aggregator")
    (silo.home_folder / "silo.json").write_text("{}")
    finds(silo, "home", "no silo.json with an id")


def test_a_home_that_cannot_be_read(silo: SiteCopy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    finds(silo, "home", f"cannot be read by user {os.geteuid()}", remedy="the user")


def test_a_home_that_others_may_look_into(silo: SiteCopy, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "mode 700" in passes(silo, "home.private")
    silo.home_folder.chmod(0o750)
    finds(silo, "home.private", "mode 750", remedy="chmod 700")
    monkeypatch.setattr(os, "geteuid", lambda: silo.home_folder.stat().st_uid + 1)
    finds(silo, "home.private", "but this is user", warns=True, remedy="owner")


@pytest.mark.parametrize("name", ["keys/agent.key", "keys/owner.key", "salt"])
def test_keys_that_others_may_read(silo: SiteCopy, name: str) -> None:
    (silo.home_folder / name).chmod(0o640)
    if name == "salt":
        finds(silo, "home.keys", "salt has mode 640", remedy="chmod 600")
    else:
        finds(silo, "home.keys", "mode 640", remedy="renewed")


def test_keys_that_are_missing_or_damaged(silo: SiteCopy, aggregator: SiteCopy) -> None:
    (silo.home_folder / "keys" / "owner.key").unlink()
    passes(silo, "home.keys")  # may be kept elsewhere
    (silo.home_folder / "salt").write_bytes(b"short")
    finds(silo, "home.keys", "has 5 bytes, want 32", remedy="backup")
    (silo.home_folder / "salt").unlink()
    finds(silo, "home.keys", "salt is missing", remedy="backup")
    (aggregator.home_folder / "keys" / "aggregator.key").unlink()
    finds(aggregator, "home.keys", "aggregator.key is missing")


# --- volume ----------------------------------------------------------------------------------------------------------


@contextmanager
def files_end_at(size: int) -> Iterator[None]:
    """A real limit of the system: a write beyond it fails with EFBIG, as a quota does with EDQUOT."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_volume_that_takes_no_more(silo: SiteCopy) -> None:
    assert passes(silo, "volume.writable") == "1 MiB written and synced"
    with files_end_at(1 << 16):
        full, limited = result_of(silo, "volume.writable"), result_of(silo, "volume.space")
    assert full is not None and limited is not None
    assert full.status is Status.FAIL and "cannot be written" in full.found and "Free space" in full.remedy
    assert limited.status is Status.WARN and "files end at 65536 bytes" in limited.found and "ulimit" in limited.remedy


@pytest.mark.parametrize("refusal", [errno.EROFS, errno.EACCES, errno.ENOSPC, errno.EDQUOT])
def test_a_volume_that_is_read_only_or_full(silo: SiteCopy, monkeypatch: pytest.MonkeyPatch, refusal: int) -> None:
    """Made up, because these tests may run as root, whom no mode stops, and may mount nothing."""

    def refused(path: object, flags: int, mode: int = 0o777, **_: object) -> int:
        assert flags & os.O_TMPFILE == os.O_TMPFILE
        raise OSError(refusal, os.strerror(refusal))

    monkeypatch.setattr(volume.os, "open", refused)
    remedy = "Free space" if refusal in (errno.ENOSPC, errno.EDQUOT) else "Mount the home's volume"
    finds(silo, "volume.writable", os.strerror(refusal), remedy=remedy)


def test_a_volume_that_is_full_only_when_synced(silo: SiteCopy, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(fd: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(volume.os, "fsync", full)
    finds(silo, "volume.writable", "No space left", remedy="Free space")


def test_a_file_system_without_unnamed_files(silo: SiteCopy, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(path: object, flags: int, mode: int = 0o777, **_: object) -> int:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    monkeypatch.setattr(volume.os, "open", refused)
    assert "not tried" in passes(silo, "volume.writable")
    monkeypatch.setattr(os, "access", lambda path, mode: not mode & os.W_OK)
    finds(silo, "volume.writable", os.strerror(errno.EACCES))


def statvfs(free: int, inodes: int = 5) -> SimpleNamespace:
    return SimpleNamespace(f_bavail=free, f_blocks=1 << 40, f_frsize=1, f_files=10, f_favail=inodes)


def test_a_volume_with_little_space(silo: SiteCopy, monkeypatch: pytest.MonkeyPatch) -> None:
    for free, status in ((1 << 30, "pass"), ((1 << 30) - 1, "warn"), (1 << 26, "warn"), ((1 << 26) - 1, "fail")):
        monkeypatch.setattr(os, "statvfs", lambda path, free=free: statvfs(free))
        line = result_of(silo, "volume.space")
        assert line is not None and line.status == status, free
    finds(silo, "volume.space", "63 MiB free of", remedy="Free space")
    monkeypatch.setattr(os, "statvfs", lambda path: statvfs(1 << 33, 0))
    finds(silo, "volume.space", "no inode")


MOUNTS = """22 1 8:1 / / rw - ext4 /dev/sda1 rw
30 22 0:30 / /home rw - tmpfs tmpfs rw
31 22 0:31 / /lay rw - overlay overlay rw
32 22 8:1 /var/lib/kubelet/pods/1/volumes/kubernetes.io~empty-dir/home /pod rw - ext4 /dev/sda1 rw
33 30 8:2 / /home/with\\040blank rw - xfs /dev/sdb rw
"""


def test_a_home_that_does_not_last(silo: SiteCopy, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Path.read_text
    monkeypatch.setattr(
        Path, "read_text", lambda self, *a, **k: MOUNTS if str(self) == "/proc/self/mountinfo" else whole(self, *a, **k)
    )
    for home, words in (("/home/x", "tmpfs at /home"), ("/lay/x", "overlay at /lay"), ("/pod", "emptyDir")):
        place = replace(silo, home=Path(home))
        finds(place, "volume.lasting", words, warns=True, remedy="persistent volume")
    assert passes(replace(silo, home=Path("/home/with blank/x")), "volume.lasting") == "xfs at /home/with blank"


# --- machine ---------------------------------------------------------------------------------------------------------


def test_little_memory(silo: SiteCopy, aggregator: SiteCopy, monkeypatch: pytest.MonkeyPatch) -> None:
    mib = 1 << 20
    for site, free, status in (
        (silo, 2048, "pass"), (silo, 2047, "warn"), (silo, 511, "fail"),
        (aggregator, 1024, "pass"), (aggregator, 1023, "warn"), (aggregator, 255, "fail"),
    ):  # fmt: skip
        monkeypatch.setattr(machine, "available_memory", lambda free=free: (8192 * mib, free * mib))
        line = result_of(site, "memory")
        assert line is not None and line.status == status
    finds(aggregator, "memory", "255 MiB available of 8192 MiB", remedy="more memory")


@pytest.mark.parametrize("version", [1, 2])
def test_a_container_has_what_its_cgroup_lets_it_have(
    silo: SiteCopy, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, version: int
) -> None:
    mib = 1 << 20
    names = ("memory.max", "memory.current") if version == 2 else ("memory.limit_in_bytes", "memory.usage_in_bytes")
    cache = "inactive_file" if version == 2 else "total_inactive_file"
    for folder, limit, used in (("a", 600 * mib, 300 * mib), ("a/b", 1 << 62, 0)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / names[0]).write_text("max\n" if version == 2 and limit > 1 << 60 else f"{limit}\n")
        (tmp_path / folder / names[1]).write_text(f"{used}\n")
        (tmp_path / folder / "memory.stat").write_text(f"anon 1\n{cache} {10 * mib}\n")
    if version == 2:
        (tmp_path / "a" / "cpu.max").write_text("50000 100000\n")
    else:
        (tmp_path / "a" / "cpu.cfs_quota_us").write_text("50000\n")
        (tmp_path / "a" / "cpu.cfs_period_us").write_text("100000\n")
    monkeypatch.setattr(machine, "_cgroups", lambda controller: [tmp_path / "a" / "b", tmp_path / "a"])
    assert machine.available_memory() == (600 * mib, 310 * mib)
    finds(silo, "memory", "310 MiB available of 600 MiB")
    finds(silo, "cpu", "0.5", warns=True, remedy="processor")


def test_the_cgroups_of_this_process_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Path.read_text
    text = "9:name=systemd:/\n4:memory:/m/x\n1:cpu,cpuacct:/c\n0::/u/v\n"
    monkeypatch.setattr(
        Path, "read_text", lambda self, *a, **k: text if str(self) == "/proc/self/cgroup" else whole(self, *a, **k)
    )
    monkeypatch.setattr(Path, "is_dir", lambda self: True)
    base = "/sys/fs/cgroup"
    unified = [f"{base}/u/v", f"{base}/u", base]
    assert [str(path) for path in machine._cgroups("memory")] == [
        f"{base}/memory/m/x", f"{base}/memory/m", f"{base}/memory", *unified,
    ]  # fmt: skip
    assert [str(path) for path in machine._cgroups("cpu")] == [f"{base}/cpu/c", f"{base}/cpu", *unified]


def torch(count: int) -> SimpleNamespace:
    return SimpleNamespace(
        __version__="2.13.0", cuda=SimpleNamespace(is_available=lambda: bool(count), device_count=lambda: count)
    )


def test_a_gpu_that_torch_does_not_see(silo: SiteCopy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine.importlib, "import_module", lambda name: torch(1))
    assert passes(silo, "gpu") == "torch 2.13.0 sees 1"
    silo.edit("local/resources.json", lambda value: value["components"][0]["args"].update(num_of_gpus=2))
    finds(silo, "gpu", "the kit offers 2, torch 2.13.0 sees 1", remedy="num_of_gpus")
    silo.edit("local/resources.json", lambda value: value["components"][0]["args"].update(num_of_gpus=0))
    monkeypatch.setattr(machine.importlib, "import_module", lambda name: torch(0))
    monkeypatch.setattr(Path, "glob", lambda self, pattern: iter([self / "nvidia0"]))
    finds(silo, "gpu", "does not see it", warns=True, remedy="driver")


# --- clock -----------------------------------------------------------------------------------------------------------


def test_a_clock_that_is_behind(silo: SiteCopy, aggregator: SiteCopy, admin: SiteCopy) -> None:
    for site in (silo, aggregator, admin):
        passes(site, "clock")
        finds(site.later(-1), "clock", "it shows ", remedy="NTP")
    passes(silo.later(-60 / 86400), "clock")  # two clocks never agree
    line = finds(replace(silo, kit=None).later(-0.5), "clock", "the security log is dated")
    assert line.found.startswith("it shows 20")


def test_a_charter_of_the_future(silo: SiteCopy) -> None:
    bare = replace(silo, kit=None)
    (silo.home_folder / "security.jsonl").unlink()
    finds(bare.later(-2), "clock", "but the charter is dated")
    (silo.home_folder / "charter.bin").unlink()
    assert "later than nothing" in passes(bare, "clock")


@pytest.mark.parametrize(("answer", "status", "words"), [(-1, 0, "does not report it"), (5, 0x40, "not synchronised")])
def test_a_clock_that_nobody_keeps(
    silo: SiteCopy, monkeypatch: pytest.MonkeyPatch, answer: int, status: int, words: str
) -> None:
    def adjtimex(state: object) -> int:
        state[40:44] = status.to_bytes(4, "little")  # type: ignore[index]
        state[24:32] = (1500).to_bytes(8, "little")  # type: ignore[index]
        return answer

    monkeypatch.setattr(clock.ctypes, "CDLL", lambda *_, **__: SimpleNamespace(adjtimex=adjtimex))
    finds(silo, "clock.synchronised", words, warns=True, remedy="chrony")
    status, answer = 0, 0
    assert passes(silo, "clock.synchronised") == "synchronised, off by at most 0.002 s"


def test_the_kernel_answers() -> None:
    """Whatever it says here, it says it without a right to set anything."""
    line = clock.clock_synchronised.look(None)  # type: ignore[arg-type]
    assert line is not None and ("synchronised" in line.found)


# --- packages --------------------------------------------------------------------------------------------------------


def test_another_python(admin: SiteCopy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages.platform, "python_version", lambda: "3.14.1")
    finds(admin, "python", "3.14.1, want ", remedy="virtual environment")


def test_packages_that_are_missing_or_others(silo: SiteCopy, admin: SiteCopy, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = metadata.version

    def version(name: str) -> str:
        if name == "torch":
            raise metadata.PackageNotFoundError(name)
        return "2.8.0" if name == "nvflare" else whole(name)

    monkeypatch.setattr(packages.metadata, "version", version)
    line = finds(silo, "packages", "torch is missing", remedy="./WHEEL[silo,flare]")
    assert "nvflare is 2.8.0, want ==2.9.0" in line.found
    assert "torch" not in finds(admin, "packages", "nvflare is 2.8.0").found, "an administrator needs no torch"


def test_a_package_of_our_name_that_is_not_ours(admin: SiteCopy, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = util.find_spec
    other = SimpleNamespace(origin="/elsewhere/crypto/__init__.py")
    with monkeypatch.context() as patched:
        patched.setattr(packages.util, "find_spec", lambda name: other if name == "crypto" else whole(name))
        finds(admin, "packages.ours", "crypto is found at /elsewhere/crypto/__init__.py", remedy="Uninstall")
    owners = {"crypto": ["consilium-fl", "crypto"], "jobs": ["consilium-fl"]}
    monkeypatch.setattr(packages.metadata, "packages_distributions", lambda: owners)
    finds(admin, "packages.ours", "crypto is also installed by crypto", remedy="install our wheel again")


def test_versions_and_bounds() -> None:
    for version, bounds, fit in (
        ("2.13.0", ">=2.13,<2.14", True), ("2.14", ">=2.13,<2.14", False), ("2.13.0+cpu", "==2.13.0", True),
        ("0.10.0", "==0.10.0", True), ("0.9.9", "==0.10.0", False), ("50.0.2", "<51,>=50", True),
        ("3.11.7", ">=3.11,<3.12", True), ("1.5", "~=1.4", True), ("2.0", "~=1.4", False), ("1", "", True),
        ("1.2", "!=1.2", False), ("1.2", ">1.2", False), ("1.2", "<=1.2", True),
    ):  # fmt: skip
        assert packages.fits(version, bounds) is fit, (version, bounds)


def test_what_each_role_needs() -> None:
    by_extra: dict[str, set[str]] = {}
    for name, _, extra in release.requirements():
        by_extra.setdefault(extra, set()).add(name)
    assert {"numpy", "cryptography", "typer"} <= by_extra[""]
    assert "torch" in by_extra["silo"] and "mlflow" in by_extra["aggregator"] and by_extra["flare"] == {"nvflare"}


def test_the_doctor_works_where_torch_and_nvflare_are_missing(silo: SiteCopy, monkeypatch: pytest.MonkeyPatch) -> None:
    """At an institution with the base install: what is missing is said, the rest is looked at."""
    import sys

    whole = builtins.__import__

    def imported(name: str, *rest: object) -> object:
        if name.split(".")[0] in ("torch", "nvflare", "syft_datasets", "syft_perms", "mlflow", "prometheus_client"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return whole(name, *rest)  # type: ignore[arg-type]

    for name in [name for name in sys.modules if name.split(".")[0] in ("torch", "syft_datasets", "syft_perms")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(builtins, "__import__", imported)
    monkeypatch.setattr(machine.importlib, "import_module", lambda name: imported(name))
    found = results(silo)
    assert "gpu" not in found
    for name in ("home", "kit.hardened", "charter.member", "journal.newest", "security-log"):
        assert found[name].status is Status.PASS, found[name]
    assert stat.S_IMODE(silo.home_folder.stat().st_mode) == 0o700
