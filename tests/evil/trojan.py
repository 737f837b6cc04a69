"""The owner of the aggregator puts code of its own in the place of a model's ``predictor.py``.

Once after the run has ended; and once from the start, so that the ledger, which all silos countersign, names the
trojan's digest. Whoever checks or tries the model must be told by name, and must not run the code.
"""

from __future__ import annotations

import json
import runpy
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Any

from aggregator.home import AggregatorHome, RunFolder
from aggregator.rounds import storage
from aggregator.verify.bundle import write_bundle
from crypto.errors import EvidenceError
from crypto.release_manifest import ReleaseManifest
from jobs.demo.federation import Federation
from jobs.job import JobSpec
from tests.evil.outcome import Outcome

NAME = "trojan-predictor"
WAYS = ("replaced after the run", "named on the ledger from the start")

#: The words of a ``fed`` command → its exit code and all that it printed.
Fed = Callable[[Sequence[str]], tuple[int, str]]


def job() -> JobSpec:
    """An honest job of seconds."""
    params: dict[str, Any] = {"features": 64, "classes": 10, "rounds": 1, "local_steps": 3, "seed": 7}
    raw = {"name": f"evil-{NAME}", "method": "fedavg", "dataset": "digits", "purpose": "a test", "params": params}
    return JobSpec.parse(raw)


def code(mark: Path) -> bytes:
    """A predictor that leaves a file behind when it is run."""
    return f"from pathlib import Path\nPath({str(mark)!r}).write_text('the code of the aggregator ran')\n".encode()


def mark_of(home: Path) -> Path:
    return home / "evil" / f"{NAME}.ran"


def stager(home: Path) -> Callable[..., dict[str, Any]]:
    """In the place of ``stage_predictor`` in ``jobs.runtime.compose``: it stages the trojan and names its digest."""

    def staged(folder: RunFolder, source: Path, *, release: ReleaseManifest, **facts: Any) -> dict[str, Any]:
        made = storage.stage_predictor(folder, source, release=release, **facts)
        return made | {"sha256": put(home, folder)}

    return staged


def put(home: Path, folder: RunFolder) -> str:
    """Put the trojan into a run's folder; its digest."""
    mark_of(home).parent.mkdir(parents=True, exist_ok=True)
    trojan = code(mark_of(home))
    folder.predictor_path.write_bytes(trojan)
    return sha256(trojan).hexdigest()


def fed(words: Sequence[str]) -> tuple[int, str]:
    """``fed WORDS`` in a process of its own."""
    command = [sys.executable, "-m", "jobs.cli", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    return done.returncode, done.stdout + done.stderr


def tried(federation: Federation, run: str, way: str, place: Path, run_fed: Fed = fed) -> Outcome:
    """Everything that a silo or an auditor may do with the model of a run. ``place``: where the bundle goes."""
    home, mark = federation.aggregator_home, mark_of(federation.aggregator)
    bundle = write_bundle(home, run, place / f"{run}.zip").path
    numbered = {"model": job().name, "version": str(1 + len(list(home.jobs_folder.glob("*/mlflow.json"))))}
    (home.run_folder(run).root / "mlflow.json").write_text(json.dumps(numbered))
    silo = str(federation.silo(federation.silos[0]))
    commands = {
        "fed verify, in the aggregator's home": ["verify", run, "--home", str(home.root)],
        "fed verify, of the bundle": ["verify", str(bundle)],
        "fed try, of the bundle": ["try", "--home", silo, "--model", str(bundle), "--data", "digits"],
        "fed try, of the run's folder": [
            "try", "--home", silo, "--model", str(home.run_folder(run).root), "--data", "digits"
        ],
        "fed promote": ["promote", run, "--alias", "champion", "--by", "board", "--home", str(home.root)],
    }  # fmt: skip
    told, wrong = [f"the predictor was {way}"], []
    for what, words in commands.items():
        exit_code, said = run_fed(words)
        reason = next((line for line in said.splitlines() if EvidenceError.code in line), said.strip()[-200:])
        if exit_code == EvidenceError.exit_code and "/predictor.py: expected" in reason:
            told.append(f"{what}: exit code {exit_code}, {EvidenceError.code} of {run}/predictor.py")
        else:
            wrong.append(f"{what}: exit code {exit_code}: {reason}")
        if mark.exists():
            wrong.append(f"{what}: the code of the aggregator ran")
            mark.unlink()
    if lives(federation, run):
        told.append("loaded without these checks, the code does run")
    else:
        wrong.append("the trojan is none: its code does nothing when it is loaded")
    return Outcome(run, tuple(told), tuple(wrong))


def lives(federation: Federation, run: str) -> bool:
    """Whether the run's predictor does harm to who loads it, as MLflow loads code: unseen."""
    mark = mark_of(federation.aggregator)
    with suppress(KeyError):
        runpy.run_path(str(federation.aggregator_home.run_folder(run).predictor_path))
    found = mark.exists()
    mark.unlink(missing_ok=True)
    return found


def replace_after(home: AggregatorHome, run: str) -> None:
    """What the owner of the aggregator's machine can do when the run is over."""
    put(home.root, home.run_folder(run))
