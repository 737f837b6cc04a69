"""A container of an image that buildah built, run by crun as Kubernetes would run it with our charts' settings.

Read-only root, the image's own user, environment and entry point, no capability, no new privileges, the default seccomp
profile of containers-common, its own process, IPC and mount namespaces, a tmpfs at /tmp. Not as there: the network is
this machine's, so that 127.0.0.1 is shared, and no cgroup limits anything. podman is not needed; root is.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from images.build import BUILD, buildah, tag

UID: Final = 10001
PROFILE: Final = Path("/usr/share/containers/seccomp.json")
#: Where crun reads cgroups as mixed, versions before 1.9 refuse to start: it gets none to see.
_NO_CGROUPS: Final = 'mount -t tmpfs none /sys/fs/cgroup && exec "$@"'
#: What a container may have written before it is believed to hang. Seconds.
PATIENCE_S: Final = 300


@dataclass(frozen=True, slots=True)
class Mount:
    """A folder of this machine, at ``target`` in the container."""

    source: Path
    target: str
    writable: bool = False


class Image:
    """An image of ours, mounted; a context manager."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._container = buildah("from", "--pull-never", tag(name))
        self.root = Path(buildah("mount", self._container))
        about = json.loads(buildah("inspect", "--type", "image", tag(name)))
        self.config: dict[str, Any] = about["OCIv1"]["config"]

    def __enter__(self) -> Image:
        return self

    def __exit__(self, *unused: object) -> None:
        buildah("rm", self._container)

    def run(self, *arguments: str, mounts: Sequence[Mount] = (), entry: Sequence[str] | None = None) -> str:
        """Run to its end; what it wrote. ``entry`` instead of the image's own. Raises RuntimeError for another code."""
        with Container(self, f"{self.name}-once", arguments, mounts, entry=entry) as container:
            code = container.wait()
            if code:
                raise RuntimeError(f"{self.name}: {' '.join(arguments)} ended with {code}:\n{container.written()}")
            return container.written()


class Container:
    """One running container. ``name`` is that of its folder, with the log, under ``build/images``."""

    def __init__(
        self,
        image: Image,
        name: str,
        arguments: Sequence[str],
        mounts: Sequence[Mount] = (),
        environment: Mapping[str, str] | None = None,
        entry: Sequence[str] | None = None,
    ) -> None:
        self.name = name
        self._folder = BUILD / "bundles" / name
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir(mode=0o700, parents=True)
        command = [*(image.config["Entrypoint"] if entry is None else entry), *arguments]
        bundle = specification(image, command, mounts, environment or {})
        (self._folder / "config.json").write_text(json.dumps(bundle), encoding="utf-8")
        crun = ["crun", "--root", str(self._folder / "state"), "--cgroup-manager", "disabled", "run"]
        crun += ["--bundle", str(self._folder), "--pid-file", str(self._folder / "pid"), f"consilium-{name}"]
        with (self._folder / "log").open("wb") as log:
            self._process = subprocess.Popen(
                ["unshare", "--mount", "sh", "-c", _NO_CGROUPS, "crun", *crun],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def __enter__(self) -> Container:
        return self

    def __exit__(self, *unused: object) -> None:
        if self._process.poll() is None:
            self.signal(signal.SIGKILL)
            self._process.wait(timeout=30)

    def signal(self, number: int) -> None:
        """To the container's first process."""
        os.kill(int((self._folder / "pid").read_text(encoding="utf-8")), number)

    def ended(self) -> bool:
        return self._process.poll() is not None

    def wait(self, seconds: float = PATIENCE_S) -> int:
        """Its exit code. Raises TimeoutExpired."""
        return self._process.wait(timeout=seconds)

    def written(self) -> str:
        """What it wrote to its standard outputs so far."""
        return (self._folder / "log").read_text(errors="replace", encoding="utf-8")


def specification(
    image: Image, command: Sequence[str], mounts: Sequence[Mount], environment: Mapping[str, str]
) -> dict[str, Any]:
    """The bundle's config.json: the image's own settings under the restrictions of our charts."""
    user, _, group = str(image.config["User"]).partition(":")
    if (user, group) != (str(UID), str(UID)):
        raise RuntimeError(f"{image.name} runs as {image.config['User']!r}, not as {UID}:{UID}")
    given = dict(word.split("=", 1) for word in image.config["Env"])
    environment = {**given, "OMP_NUM_THREADS": "1", **environment}
    process: dict[str, Any] = {
        "terminal": False,
        "user": {"uid": UID, "gid": UID},
        "args": list(command),
        "env": [f"{name}={value}" for name, value in environment.items()],
        "cwd": image.config.get("WorkingDir") or "/",
        "capabilities": {kind: [] for kind in ("bounding", "effective", "permitted", "inheritable", "ambient")},
        "noNewPrivileges": True,
    }
    return {
        "ociVersion": "1.0.0",
        "process": process,
        "root": {"path": str(image.root), "readonly": True},
        "hostname": image.name,
        "mounts": [*_SYSTEM, *(_bind(mount) for mount in mounts)],
        "linux": {
            "namespaces": [{"type": kind} for kind in ("pid", "ipc", "uts", "mount")],
            "maskedPaths": ["/proc/kcore", "/proc/keys", "/proc/timer_list"],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
            "seccomp": seccomp(json.loads(PROFILE.read_text(encoding="utf-8"))),
        },
    }


def _tmpfs(target: str, *options: str) -> dict[str, Any]:
    return {"destination": target, "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", *options]}


_SYSTEM: Final = (
    {"destination": "/proc", "type": "proc", "source": "proc"},
    _tmpfs("/dev", "strictatime", "mode=755", "size=65536k"),
    _tmpfs("/dev/shm", "nodev", "noexec", "mode=1777", "size=65536k"),
    _tmpfs("/tmp", "nodev", "noexec", "mode=1777", "size=512m"),
    *(
        {"destination": path, "type": "bind", "source": path, "options": ["bind", "ro"]}
        for path in ("/etc/hosts", "/etc/resolv.conf")
        if Path(path).exists()
    ),
)


def _bind(mount: Mount) -> dict[str, Any]:
    options = ["rbind", "nosuid", "nodev", "rw" if mount.writable else "ro"]
    return {"destination": mount.target, "type": "bind", "source": str(mount.source), "options": options}


def seccomp(profile: Mapping[str, Any]) -> dict[str, Any]:
    """containers-common's profile as the runtime takes it, for a container without any capability."""
    machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
    rules = []
    for rule in profile["syscalls"]:
        includes, excludes = rule.get("includes") or {}, rule.get("excludes") or {}
        if includes.get("caps") or machine in (excludes.get("arches") or ()):
            continue
        if includes.get("arches") and machine not in includes["arches"]:
            continue
        kept = {"names": rule["names"], "action": rule["action"], "args": rule.get("args") or []}
        rules.append(kept | ({"errnoRet": rule["errnoRet"]} if rule.get("errnoRet") is not None else {}))
    native = f"SCMP_ARCH_{platform.machine().upper()}"
    families = [one for one in profile["archMap"] if one["architecture"] == native]
    names = [name for one in families for name in (one["architecture"], *one["subArchitectures"])]
    return {
        "defaultAction": profile["defaultAction"],
        "defaultErrnoRet": profile.get("defaultErrnoRet", 1),
        "architectures": names,
        "syscalls": rules,
    }
