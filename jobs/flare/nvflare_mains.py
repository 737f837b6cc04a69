"""NVFlare's own mains, run in this process: the long-lived parents and the job processes.

``fed aggregator run`` and ``fed silo run`` *are* the NVFlare parent (``parent``), so one SIGTERM ends one process tree.
The job processes are started by our launchers as ``python -m jobs.flare.nvflare_mains``: NVFlare's worker mains, with a
shorter wait at the end. This module stays light until one of them is called.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import sys
from collections.abc import MutableMapping
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Final

from crypto import durable
from crypto.errors import SpecError
from crypto.home import Home

HOME_VAR: Final = "CONSILIUM_HOME"
#: NVFlare waits 3 s before it closes its connections, to let pending messages leave. Ours are answered before that.
SHUTDOWN_GRACE_S: Final = 0.5
#: Free room on the volume of the figures, below which a job process writes none. Bytes.
METRICS_ROOM_BYTES: Final = 16 << 20
#: What a process's file of figures starts with; prometheus_client enlarges it when it is full. Bytes.
METRICS_FILE_BYTES: Final = 1 << 18
#: How long children get between SIGTERM and SIGKILL. Seconds.
CHILD_GRACE_S: Final = 2.0

_MAINS: Final = {
    "server": "nvflare.private.fed.app.server.server_train",
    "client": "nvflare.private.fed.app.client.client_train",
    "server-job": "nvflare.private.fed.app.server.runner_process",
    "client-job": "nvflare.private.fed.app.client.worker_process",
}


def job_home() -> Home:
    """The home of the silo or aggregator this process works for. Raises SpecError if nobody exported it."""
    home = os.environ.get(HOME_VAR)
    if not home:
        raise SpecError(
            HOME_VAR, got=None, want="a folder", remedy="Start with `fed silo run` or `fed aggregator run`."
        )
    return Home(Path(home))


def settings(kit: Path) -> dict[str, str]:
    """``site``, ``org`` and ``home`` of a hardened kit; home is "" in kits for sites elsewhere. Raises SpecError."""
    path = kit / "local" / "consilium.json"
    try:
        return parse_settings(str(path), path.read_bytes())
    except FileNotFoundError:
        raise SpecError(
            str(path), got=None, want="a hardened kit", remedy="Use a kit that `provision` made, or harden this one."
        ) from None


def parse_settings(path: str, data: bytes) -> dict[str, str]:
    """The bytes of a kit's ``local/consilium.json``. Raises SpecError."""
    try:
        found = json.loads(data)
        return {"home": str(found.get("home", "")), **{key: str(found[key]) for key in ("site", "org")}}
    except (ValueError, KeyError, TypeError, AttributeError) as bad:
        raise SpecError(path, got=repr(bad), want="site and org, and maybe home") from bad


def clean_path(environment: MutableMapping[str, str]) -> MutableMapping[str, str]:
    """Let a process of this environment find our packages, and import nothing from the folder that it starts in: an
    empty or relative entry of PYTHONPATH stands for that folder. Changed in place and returned."""
    environment["PYTHONSAFEPATH"] = "1"
    ours = str(Path(__file__).resolve().parents[2])
    others = environment.get("PYTHONPATH", "").split(os.pathsep)
    kept = [part for part in others if os.path.isabs(part) and part != ours]
    environment["PYTHONPATH"] = os.pathsep.join([ours, *kept])
    return environment


def export(home: Home) -> None:
    """Sets the environment that job processes inherit, and makes the metrics folder."""
    metrics = home.metrics_folder.resolve()
    durable.private_folder(metrics)
    os.environ[HOME_VAR] = str(home.root.resolve())
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(metrics)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("MALLOC_ARENA_MAX", "2")
    # Job processes run in the kit: nothing there may be imported, and our own packages must be found.
    clean_path(os.environ)
    # Would move the job store out of the federation's folder, and set the level of NVFlare's log beside log_config.
    os.environ.pop("NVFL_JOB_STORE_ROOT", None)
    os.environ.pop("FL_LOG_LEVEL", None)
    # How long a finished job waits for silos that vanished (default 900 s).
    os.environ.setdefault("NVFLARE_CLIENT_OUTCOME_WAIT_TIMEOUT", "10")


def run_main(which: str, kit: Path, options: list[str]) -> int:
    """``server`` or ``client``: one of NVFlare's parents over a kit, in this thread, to its end. Its exit code."""
    folder = str(kit.resolve())
    (kit / "transfer").mkdir(exist_ok=True)
    return _main(which, ["-m", folder, *options, "config_folder=config"], folder)


def _main(which: str, arguments: list[str], run_dir: str | None = None) -> int:
    """Runs one of NVFlare's mains with these command line arguments, as ``python -m`` would."""
    module = import_module(_MAINS[which])
    from nvflare.fuel.f3.mpm import MainProcessMonitor

    sys.argv = [_MAINS[which], *arguments]
    args = module.parse_arguments()
    folder = run_dir or os.path.join(args.workspace, args.job_id)
    code = MainProcessMonitor.run(
        main_func=module.main, run_dir=folder, shutdown_grace_time=SHUTDOWN_GRACE_S, args=args
    )
    return code if isinstance(code, int) else 0


def _has_room(folder: Path) -> bool:
    """Whether the figures of this process fit: their files are allocated now, while a refusal is an error and no
    signal."""
    try:
        if shutil.disk_usage(folder).free < METRICS_ROOM_BYTES:
            return False
        for kind in ("counter", "histogram", "gauge_mostrecent"):
            fd = os.open(folder / f"{kind}_{os.getpid()}.db", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                os.posix_fallocate(fd, 0, METRICS_FILE_BYTES)
            finally:
                os.close(fd)
    except OSError:
        return False
    return True


def _job(which: str, arguments: list[str]) -> None:
    """One job process, to its exit. Leaves without the interpreter's own clean-up, which takes a second or two."""
    metrics = os.environ.get("PROMETHEUS_MULTIPROC_DIR")
    if metrics and not _has_room(Path(metrics)):
        # A mapped file on a full volume ends the process with SIGBUS. Its figures stay in memory, and are not served.
        del os.environ["PROMETHEUS_MULTIPROC_DIR"]
    if which == "server-job":
        # At the end of every job NVFlare cleans up after PyTorch downloads and for that imports torch, if it can: it
        # costs seconds, and the aggregator has no use for torch.
        sys.modules["nvflare.app_opt.pt.tensor_downloader"] = None  # type: ignore[assignment]
    code = _main(which, arguments)
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def job_processes(which: str) -> list[int]:
    """The pids of this process's job processes. ``which``: ``client-job`` or ``server-job``."""
    import psutil

    found = []
    for child in psutil.Process().children():
        with suppress(psutil.Error):
            if which in child.cmdline() and child.status() != psutil.STATUS_ZOMBIE:
                found.append(child.pid)
    return found


def end_children() -> None:
    """SIGTERM, then SIGKILL, to all that this process started."""
    import psutil

    children = psutil.Process().children(recursive=True)
    for child in children:
        with suppress(psutil.NoSuchProcess):
            child.terminate()
    _, alive = psutil.wait_procs(children, timeout=CHILD_GRACE_S)
    for child in alive:
        with suppress(psutil.NoSuchProcess):
            child.kill()
    psutil.wait_procs(alive, timeout=CHILD_GRACE_S)


if __name__ == "__main__":
    _job(sys.argv[1], sys.argv[2:])
