"""NVFlare's own mains, run in this process: the long-lived parents and the job processes.

``fed aggregator run`` and ``fed silo run`` call ``run_server`` / ``run_client`` and *are* the NVFlare parent, so one
SIGTERM ends one process tree. The job processes are started by our launchers as ``python -m jobs.flare.processes``:
NVFlare's worker mains, with a shorter wait at the end. This module stays light until one of them is called.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from types import FrameType
from typing import Final

from crypto.errors import SpecError

HOME_VAR: Final = "CONSILIUM_HOME"
#: NVFlare waits 3 s before it closes its connections, to let pending messages leave. Ours are answered before that.
SHUTDOWN_GRACE_S: Final = 0.5
#: How long children get between SIGTERM and SIGKILL. Seconds.
CHILD_GRACE_S: Final = 2.0

_MAINS: Final = {
    "server": "nvflare.private.fed.app.server.server_train",
    "client": "nvflare.private.fed.app.client.client_train",
    "server-job": "nvflare.private.fed.app.server.runner_process",
    "client-job": "nvflare.private.fed.app.client.worker_process",
}


class _Stop(BaseException):
    """SIGTERM or SIGINT; a BaseException so that NVFlare's handlers let it through."""


def job_home() -> Path:
    """The home of the silo or aggregator this process works for. Raises SpecError if nobody exported it."""
    home = os.environ.get(HOME_VAR)
    if not home:
        raise SpecError(
            HOME_VAR, got=None, want="a folder", remedy="Start with `fed silo run` or `fed aggregator run`."
        )
    return Path(home)


def settings(kit: Path) -> dict[str, str]:
    """``home``, ``site`` and ``org`` of a hardened kit. Raises SpecError."""
    path = kit / "local" / "consilium.json"
    try:
        found = json.loads(path.read_text())
        return {key: str(found[key]) for key in ("home", "site", "org")}
    except FileNotFoundError:
        raise SpecError(
            str(path), got=None, want="a hardened kit", remedy="Use a kit that `provision` made, or harden this one."
        ) from None
    except (ValueError, KeyError, TypeError) as bad:
        raise SpecError(str(path), got=repr(bad), want="home, site and org") from bad


def export(kit: Path) -> dict[str, str]:
    """Sets the environment that job processes inherit, and makes the metrics folder. Returns the kit's settings."""
    found = settings(kit)
    metrics = Path(found["home"]) / "metrics"
    metrics.mkdir(mode=0o700, parents=True, exist_ok=True)
    os.environ[HOME_VAR] = found["home"]
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(metrics)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("MALLOC_ARENA_MAX", "2")
    # Job processes run in the kit: nothing there may be imported, and our own packages must be found.
    os.environ["PYTHONSAFEPATH"] = "1"
    ours = str(Path(__file__).resolve().parents[2])
    others = [part for part in os.environ.get("PYTHONPATH", "").split(os.pathsep) if part and part != ours]
    os.environ["PYTHONPATH"] = os.pathsep.join([ours, *others])
    # Would move the job store out of the federation's folder.
    os.environ.pop("NVFL_JOB_STORE_ROOT", None)
    # How long a finished job waits for silos that vanished (default 900 s).
    os.environ.setdefault("NVFLARE_CLIENT_OUTCOME_WAIT_TIMEOUT", "10")
    return found


def run_server(kit: Path, ended: Callable[[int], None] = lambda code: None) -> int:
    """Runs the server's NVFlare parent until SIGTERM, in the main thread; then calls ``ended`` and ends the process."""
    found = export(kit)
    return _run("server", kit, ended, ["-s", "fed_server.json", "--set", "secure_train=true", f"org={found['org']}"])


def run_client(kit: Path, ended: Callable[[int], None] = lambda code: None) -> int:
    """Runs a silo's NVFlare parent until SIGTERM, in the main thread; then calls ``ended`` and ends the process."""
    found = export(kit)
    site = ["secure_train=true", f"org={found['org']}", f"uid={found['site']}"]
    return _run("client", kit, ended, ["-s", "fed_client.json", "--set", *site])


def _run(which: str, kit: Path, ended: Callable[[int], None], options: list[str]) -> int:
    def stop(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        raise _Stop

    (kit / "transfer").mkdir(exist_ok=True)
    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    code = 0
    try:
        code = _main(which, ["-m", str(kit.resolve()), *options, "config_folder=config"], str(kit.resolve()))
    except _Stop:
        pass
    finally:
        _end_children()
        ended(code)
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)  # NVFlare leaves threads that would keep the process; nothing of ours is pending


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


def _job(which: str, arguments: list[str]) -> None:
    """One job process, to its exit. Leaves without the interpreter's own clean-up, which takes a second or two."""
    if which == "server-job":
        # At the end of every job NVFlare cleans up after PyTorch downloads and for that imports torch, if it can: it
        # costs seconds, and the aggregator has no use for torch.
        sys.modules["nvflare.app_opt.pt.tensor_downloader"] = None  # type: ignore[assignment]
    code = _main(which, arguments)
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _end_children() -> None:
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
