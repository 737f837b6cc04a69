"""The home and its volume: present, private, writable, with free space, and persistent.

A write is tried with a file that has no name (O_TMPFILE) and is gone when it is closed. On a file system without such
files only the permissions are checked. Nothing in the home changes.
"""

from __future__ import annotations

import errno
import os
import resource
import stat
from pathlib import Path
from typing import Final

from crypto.errors import FULL
from jobs.doctor.check import SERVICES, Finding, check, fail, ok, warn
from jobs.doctor.target import HOME_FILE, Role, Target, role_of_home

MIB: Final = 1 << 20
#: Free space below which a home is a warning, and a fail. The journal, the ledger and each step's evidence need it.
LOW_SPACE: Final = 1024 * MIB
NO_SPACE: Final = 64 * MIB
#: Bytes that are written as a test.
TRIAL: Final = MIB
_FREE: Final = "Free space on the home's volume, or enlarge it; `fed retention` lists what may be removed."
#: File systems that are gone after a restart, by their names in /proc/self/mountinfo.
_FLEETING: Final = {"tmpfs", "ramfs"}
#: Those that containers write their own layer on: gone with the container.
_LAYERED: Final = {"overlay", "aufs"}
_UNNAMED: Final = {errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOENT}


@check(
    "home",
    SERVICES,
    looks="the home folder: it is there, can be read, and is this role's",
    fails="no such folder, another role's, or not readable for this user",
    remedy="Name this site's own home with --home; `fed keygen` makes a new one.",
    start=SERVICES,
)
def home(target: Target) -> Finding | None:
    if target.home_if_any is None:
        return fail("no home was given", "Name it: --home HOME.")
    folder = target.home.root
    if not folder.is_dir():
        return fail(f"{folder} is no folder")
    if not os.access(folder, os.R_OK | os.X_OK):
        return fail(f"{folder} cannot be read by user {os.geteuid()}", "Run as the user that the home belongs to.")
    if (role := role_of_home(target.home)) is not target.role:
        whose = f"the home of {role}" if role else f"no home: it has no {HOME_FILE[target.role]}"
        return fail(f"{folder} is {whose}")
    return ok(f"{folder}, {target.silo}" if target.role is Role.SILO else str(folder))


@check(
    "home.private",
    SERVICES,
    looks="mode and owner of the home",
    fails="other users may read it",
    remedy="chmod 700 the home, and run everything of this site as the user that it belongs to.",
    after=("home",),
)
def home_private(target: Target) -> Finding | None:
    found = target.home.root.stat()
    mode, ours = stat.S_IMODE(found.st_mode), found.st_uid == os.geteuid()
    summary = f"mode {mode & 0o777:o}, owner {found.st_uid}"
    if mode & 0o077 and ours:
        return fail(f"{summary}: want 700")
    if not ours:
        return warn(
            f"{summary}, but this is user {os.geteuid()}", "Run as its owner, or keep the home in a folder below."
        )
    return ok(summary)


@check(
    "home.keys",
    SERVICES,
    looks="modes of the keys and of the salt, and that there is one",
    fails="a key or the salt is missing, or others may read it",
    remedy="chmod 600 it, and have the key renewed if others could read it.",
    start=SERVICES,
    after=("home",),
)
def home_keys(target: Target) -> Finding | None:
    name = "agent" if target.role is Role.SILO else "aggregator"
    needed = [target.home.key_path(name), *([target.silo_home.salt_path] if target.role is Role.SILO else [])]
    restore = "Restore it from its backup; a new key needs a new epoch of the charter, a new salt new registrations."
    for path in sorted({*needed, *target.home.keys_folder.glob("*.key")}):
        if not path.is_file():
            return fail(f"{path} is missing", restore)
        if (mode := stat.S_IMODE(path.stat().st_mode)) & 0o077:
            return fail(f"{path} has mode {mode:o}, want 600")
        if path.stat().st_size != 32:
            return fail(f"{path} has {path.stat().st_size} bytes, want 32", restore)
    return ok(", ".join(path.name for path in needed))


@check(
    "volume.writable",
    SERVICES,
    looks="whether the home can be written, tried with a file that has no name",
    fails="it is read-only, full, or this user may not write",
    remedy="Mount the home's volume for writing, by the user that runs the service.",
    start=SERVICES,
    after=("home",),
)
def volume_writable(target: Target) -> Finding | None:
    try:
        how = _try_to_write(target.home.root)
    except OSError as refused:
        full = refused.errno in FULL
        return fail(f"{target.home.root} cannot be written: {refused.strerror}", _FREE if full else "")
    return ok(how)


@check(
    "volume.space",
    SERVICES,
    looks="free space on the home's volume, and any limit on the size of files",
    fails=f"less than {NO_SPACE // MIB} MiB; less than {LOW_SPACE // MIB} MiB is a warning",
    remedy=_FREE,
    start=SERVICES,
    after=("home",),
)
def volume_space(target: Target) -> Finding | None:
    found = os.statvfs(target.home.root)
    free = found.f_bavail * found.f_frsize
    summary = f"{free // MIB} MiB free of {found.f_blocks * found.f_frsize // MIB} MiB"
    if found.f_files and not found.f_favail:
        return fail(f"{summary}, but no inode")
    limit, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    if limit != resource.RLIM_INFINITY and limit < LOW_SPACE:
        return warn(f"{summary}, but files end at {limit} bytes", "Raise the limit on the size of files (ulimit -f).")
    if free < NO_SPACE:
        return fail(summary)
    return warn(summary) if free < LOW_SPACE else ok(summary)


@check(
    "volume.lasting",
    SERVICES,
    looks="the kind of file system that the home lies on",
    fails="never: one that does not survive a restart or the container is a warning",
    remedy="Put the home on a persistent volume: a silo without its journal may only join new runs.",
    after=("home",),
)
def volume_lasting(target: Target) -> Finding | None:
    kind, mount = file_system(target.home.root)
    if kind in _FLEETING:
        return warn(f"{kind} at {mount}: memory, gone with a restart")
    if kind in _LAYERED:
        return warn(f"{kind} at {mount}: the container's own layer, gone with it")
    if "kubernetes.io~empty-dir" in mount_source(target.home.root):
        return warn("an emptyDir of Kubernetes, gone with the pod")
    return ok(f"{kind} at {mount}")


def file_system(path: Path) -> tuple[str, str]:
    """(type, mount point) of the file system that ``path`` lies on; ("unknown", "/") if not listed."""
    kind, mount, _ = _mount(path)
    return kind, mount


def mount_source(path: Path) -> str:
    """The part of its file system that is mounted there: for a bind mount the path on the host."""
    return _mount(path)[2]


def _mount(path: Path) -> tuple[str, str, str]:
    """(type, mount point, root) by /proc/self/mountinfo: the longest mount point above ``path``, the last of equals."""
    try:
        lines = Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return "unknown", "/", ""
    best = ("unknown", "", "")
    whole = path.resolve()
    for line in lines:
        left, _, right = line.partition(" - ")
        root, point = (field.replace("\\040", " ") for field in left.split()[3:5])
        if whole.is_relative_to(point) and len(point) >= len(best[1]):
            best = (right.split()[0], point, root)
    return best


def _try_to_write(folder: Path) -> str:
    """How a write was tried. Raises OSError if it is refused."""
    try:
        fd = os.open(folder, os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, 0o600)
    except OSError as refused:
        if refused.errno not in _UNNAMED:
            raise
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES)) from refused
        return "may be written by its permissions; not tried, its file system has no unnamed files"
    try:
        data = bytes(TRIAL)
        if os.write(fd, data) != len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.fsync(fd)
    finally:
        os.close(fd)
    return f"{TRIAL // MIB} MiB written and synced"


CHECKS = (home, home_private, home_keys, volume_writable, volume_space, volume_lasting)
