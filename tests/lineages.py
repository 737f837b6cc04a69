"""A federation with a past, for tests of lineage: a real run with faults, and a ledger that goes on from there.

Four silos train FedAvg on rows of their own. silo-3 refuses train/0, silo-4 is lost from train/1 on. What follows is
written with the aggregator's key: MLflow's numbers, a second run that started from the first one's result, an alias
that moved, a silo that left.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from aggregator.home import AggregatorHome
from aggregator.ledger.format import Entry, plain, read
from aggregator.ledger.log import Ledger
from aggregator.ledger.records import Kind, run_of
from crypto import transcript
from crypto.errors import NonFinite
from crypto.home import Home
from crypto.keys import Identity
from crypto.messages import Message
from jobs.demo.federation import add_data
from jobs.job import JobSpec
from jobs.membership.propose import first_epoch, sign
from jobs.runtime.in_process import InProcess
from silo_agent.agent import Agent
from silo_agent.home import SiloHome
from tests import local
from tests.records import as_record

SILOS = tuple(f"silo-{number}" for number in range(1, 5))
PURPOSE = "Tell two kinds of row apart, for tests."
JOB = JobSpec.parse(
    {
        "name": "rows",
        "method": "fedavg",
        "dataset": "tiny",
        "purpose": PURPOSE,
        "keep_uploads": "all",
        "params": {"features": 4, "classes": 2, "hidden": 2, "rounds": 5, "local_steps": 1, "batch": 8},
    }
)


class Faults(InProcess):
    """silo-3 refuses train/0, the second step; silo-4 comes to no more than the door from train/1 on."""

    def __init__(self, silo: str, agent: Agent) -> None:
        super().__init__(agent)
        self.silo = silo

    def send(self, request: Message) -> Message | None:
        agent = self.agent
        assert isinstance(agent, Agent)
        if self.silo == "silo-4" and agent.k >= 2 and request.phase == "deal":
            return None
        if self.silo == "silo-3":
            agent._phases["contribute"] = self.refuse if agent.k == 1 else agent._contribute
        return super().send(request)

    def refuse(self, request: object, message: object) -> Message:
        raise NonFinite("A value to be summed is NaN or infinite.")


def rows(silo: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(silo)
    y = np.arange(28) % 2
    x = rng.normal(size=(28, 4)) * 0.3 + y[:, None]
    parts = {"x_train": x[:20], "y_train": y[:20], "x_test": x[20:], "y_test": y[20:], "classes": np.array(2)}
    return {name: array.astype(np.float32 if name.startswith("x") else np.int64) for name, array in parts.items()}


@dataclass(frozen=True)
class Past:
    """``home``: the aggregator's; ``silos``: silo → its home; ``run``: the one that took place."""

    home: AggregatorHome
    silos: Mapping[str, Path]
    run: str

    @property
    def ledger(self) -> Ledger:
        return Ledger.open(self.home.ledger_path, self.home.identity())

    def entries(self, kind: Kind, run: str = "") -> list[Entry]:
        of = run or self.run
        return [one for one in read(self.home.ledger_path) if one.kind is kind and run_of(one.record) == of]

    def record(self, kind: Kind, run: str = "") -> dict[str, Any]:
        """The first record of a kind."""
        return plain(self.entries(kind, run)[0].record.fields())

    def copy(self, to: Path) -> Past:
        """The same past in another place, to be spoiled."""
        shutil.copytree(self.home.root, to)
        return Past(AggregatorHome(to), self.silos, self.run)

    def rewrite(self, change: Callable[[Kind, dict[str, Any]], dict[str, Any] | None]) -> None:
        """Another ledger with the aggregator's own key: ``change`` gives each record anew, or None to leave it out.

        What silos signed over the old one is gone.
        """
        path = self.home.ledger_path
        old = list(read(path))
        shutil.rmtree(path.parent)
        ledger = Ledger.open(path, self.home.identity(), clock=lambda: old[-1].time)
        for entry in old:
            gone: dict[str, Any] = {"countersignatures": {}} if entry.kind is Kind.RUN_FINISHED else {}
            record = change(entry.kind, {**plain(entry.record.fields()), **gone})
            if record is not None:
                ledger.append(as_record(entry.kind, record))

    def number(self, version: str, run: str = "", name: str = "rows") -> None:
        """What the lineage follower leaves in a run's folder."""
        facts = {"tracking_uri": "sqlite:///mlflow.db", "model": name, "version": version, "run_id": "0" * 32}
        (self.home.root / "jobs" / (run or self.run) / "mlflow.json").write_text(json.dumps(facts))

    def start(self, nonce: bytes, **changes: Any) -> str:
        """A run-started record like the first run's, of another run; its id."""
        started = self.record(Kind.RUN_STARTED)
        job, charter = (bytes.fromhex(started[key]) for key in ("job_digest", "charter_digest"))
        run = transcript.run_id(job, charter, nonce).hex()[:16]
        self.ledger.append(as_record(Kind.RUN_STARTED, {**started, "run": run, "nonce": nonce.hex(), **changes}))
        return run

    def child(self, nonce: bytes = b"c" * 32) -> str:
        """A finished run that started from the first one's result; nobody countersigned it."""
        end = self.record(Kind.RUN_FINISHED)
        run = self.start(nonce, state_digest=end["state_digest"])
        closed = self.record(Kind.STEP_CLOSED)
        place = {"run": run, "k": closed["k"], "name": closed["name"]}
        ledger = self.ledger
        ledger.append(as_record(Kind.STEP_OPENED, {**place, "invited": closed["invited"]}))
        ledger.append(as_record(Kind.STEP_CLOSED, {**closed, "run": run, "state_digest": "ab" * 32}))
        last = {"run": run, "countersignatures": {}, "state_digest": "ab" * 32, "weights_sha256": "cd" * 32}
        ledger.append(as_record(Kind.RUN_FINISHED, {**end, **last}))
        (self.home.root / "jobs" / run).mkdir()
        return run

    def withdraw(self, silo: str, models: list[str] | None = None) -> None:
        charter = self.home.charter()
        facts = {"silo": silo, "reason": "consent revoked", "epoch": 2, "charter_digest": charter.digest.hex()}
        remedies = {model: ["retrain the whole model from its first state"] for model in models or []}
        self.ledger.append(as_record(Kind.WITHDRAWAL, {**facts, "models": models or [], "remedies": remedies}))


def make(root: Path) -> Past:
    """Homes, keys, data, approvals, and the run."""
    consortium, aggregator = Identity.generate(), AggregatorHome(root / "aggregator").make()
    places = {silo: root / "silos" / silo for silo in SILOS}
    members = [SiloHome(home).make(silo) for silo, home in places.items()]
    charter = sign(first_epoch("past", members, aggregator, now=int(time.time())), consortium)
    Home(root / "aggregator").pinned.pin(charter, consortium.public)
    for number, (silo, home) in enumerate(places.items()):
        Home(home).pinned.pin(charter, consortium.public)
        add_data(SiloHome(home), silo, "tiny", rows(number))
    _, run, _ = local.run_job(JOB, root / "aggregator", places, courier=Faults)
    return Past(AggregatorHome(root / "aggregator"), places, run.name)
