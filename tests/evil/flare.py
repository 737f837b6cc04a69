"""A real local federation whose aggregator, or one silo, is malicious: NVFlare processes with mTLS, hardened silos.

Only that side is changed, by the means its owner has. A server's kit allows one more class, and the job folder's server
configuration names it; silos get the same kits and the same job as ever. A silo's kit names another launcher of its job
processes; the job, the server and the other silos are as ever.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aggregator.home import AggregatorHome
from aggregator.ledger.format import of_kind, read
from aggregator.ledger.records import RunFinished
from aggregator.run_record import RunRecord
from crypto import equivocation
from crypto.home import Home
from jobs.demo.child_processes import Processes
from jobs.demo.digits_data import make
from jobs.demo.federation import Federation
from jobs.flare.folder import CONTROLLER, export
from jobs.flare.local_kits import Kits, free_port, provision
from jobs.flare.session import AdminSession
from jobs.job import JobSpec
from jobs.owner.approval_terms import approve_for_demonstration
from silo_agent.home import SiloHome
from tests.evil import member, trojan
from tests.evil.games import GAMES, book_path
from tests.evil.logs import lines
from tests.evil.outcome import Outcome, of_book
from tests.evil.server import Book
from tests.evil.verdict import judge

ROOT = Path(__file__).resolve().parents[2]

Say = Callable[[str], None]
EVIL = "tests.evil.controller.EvilController"


@dataclass(frozen=True, slots=True)
class Evil:
    """A federation that is up, its server owned."""

    federation: Federation
    kits: Kits
    session: Any
    processes: Processes


@contextmanager
def evil_federation(root: Path, silos: int, say: Say, *, liar: str = "") -> Iterator[Evil]:
    """Everything started here is ended here, by pid. ``liar``: the silo that is not honest, instead of the server."""
    data = {name: arrays for name, arrays in make(silos, 7).items() if name.startswith("silo-")}
    federation = Federation.make(root.resolve(), root.name, data, "digits")
    with ExitStack() as stack:
        port = free_port()
        kits = provision(
            federation.root / "kits",
            name=federation.name,
            silos=federation.silos,
            port=port,
            server_home=federation.aggregator_home,
            silo_homes=federation.silo_homes,
        )
        if liar:
            own_silo(kits.silos[liar])
        else:
            own_server(kits.server)
        processes = Processes()
        stack.callback(processes.stop)
        with nullcontext() if liar else importable():
            processes.start("aggregator", kits.server, Home(federation.aggregator))
        processes.wait_for_port("aggregator", port)
        for silo in federation.silos:
            with importable() if silo == liar else nullcontext():
                processes.start("silo", kits.silos[silo], Home(federation.silo(silo)))
        session = stack.enter_context(AdminSession(kits.admin, kits.admin_name))
        session.wait_for_silos(len(federation.silos), timeout_s=90)
        where = f"(127.0.0.1:{port}, mTLS)"
        if liar:
            say(f"{len(federation.silos)} silos, of which {liar} is not honest, registered at an honest server {where}")
        else:
            say(f"{len(federation.silos)} honest silos registered at a server that is not {where}")
        yield Evil(federation, kits, session, processes)


@contextmanager
def importable() -> Iterator[None]:
    """The process that is not honest, and no other, finds this package."""
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), before] if before else [str(ROOT)])
    try:
        yield
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before


def own_server(kit: Path) -> None:
    """What the owner of the aggregator's machine does to it."""
    path = kit / "local" / "resources.json"
    resources = json.loads(path.read_text())
    resources["class_allow_list"].append(EVIL)
    path.write_text(json.dumps(resources, indent=2, sort_keys=True) + "\n")


def own_silo(kit: Path) -> None:
    """What the owner of a silo's machine does to it."""
    path = kit / "local" / "resources.json"
    resources = json.loads(path.read_text())
    (launcher,) = [one for one in resources["components"] if one["id"] == "process_launcher"]
    launcher["path"] = member.LAUNCHER
    path.write_text(json.dumps(resources, indent=2, sort_keys=True) + "\n")


def evil_job(spec: JobSpec, federation: Federation, game: str, number: int = 0) -> Path:
    """The honest job's folder, with another controller for the server."""
    folder = honest_job(spec, federation, f"{game}-{number}")
    path = folder / "app" / "config" / "config_fed_server.json"
    config = json.loads(path.read_text())
    (workflow,) = config["workflows"]
    assert workflow["path"] == CONTROLLER
    workflow["path"] = EVIL
    workflow["args"] |= {"game": game, "number": number}
    path.write_text(json.dumps(config, indent=2) + "\n")
    return folder


def honest_job(spec: JobSpec, federation: Federation, name: str) -> Path:
    return export(spec, Home(federation.aggregator).charter(), federation.root / "submitted" / name)


def submit(evil: Evil, spec: JobSpec, folder: Path, timeout_s: float = 240.0) -> str:
    """Have every data owner approve a job, run it to its end; NVFlare's word for that."""
    approve_for_demonstration(map(SiloHome, evil.federation.homes.values()), spec)  # honest silos, honest owners
    status = evil.session.wait(evil.session.submit(folder), timeout_s, look_s=0.3)
    evil.processes.check()
    return str(status)


def finished(evil: Evil, spec: JobSpec, folder: Path) -> str:
    """The run of a job that must come to its end."""
    home = evil.federation.aggregator_home
    before = _runs(home)
    status = submit(evil, spec, folder)
    if len(new := _runs(home) - before) != 1:
        raise AssertionError(f"no run has finished; NVFlare says {status}: see {home.log_path}")
    (run,) = new
    return run


def _runs(home: AggregatorHome) -> set[str]:
    """The finished ones."""
    ledger = read(home.ledger_path) if home.ledger_path.exists() else ()
    return {entry.record.run for entry in of_kind(ledger, RunFinished)}


def play_member(evil: Evil) -> list[Outcome]:
    """One run for each misdeed, the others honest."""
    federation, found = evil.federation, []
    for kind in member.KINDS.values():
        kind.register(federation)
        before = {silo: len(read_log(path)) for silo, path in federation.homes.items()}
        run = finished(evil, kind.job(), honest_job(kind.job(), federation, f"{member.NAME}-{kind.name}"))
        logged = {silo: lines(read_log(path)[before[silo] :]) for silo, path in federation.homes.items()}
        record = RunRecord.read(federation.aggregator_home, run)
        found.append(member.judged(kind, record, federation.aggregator_home.charter(), logged))
    return found


def play(evil: Evil, game: str) -> list[Outcome]:
    """Submit the game's jobs one after the other, and judge each by what the server saw and what the silos wrote."""
    GAMES[game].register(evil.federation)
    return [_play(evil, game, number) for number in range(GAMES[game].runs)]


def play_trojan(evil: Evil) -> list[Outcome]:
    """Two finished runs whose predictor is the aggregator's own."""
    federation, home = evil.federation, evil.federation.aggregator_home
    spec, found = trojan.job(), []
    for number, way in enumerate(trojan.WAYS):
        if number == 0:
            folder = honest_job(spec, federation, trojan.NAME)
        else:
            folder = evil_job(spec, federation, trojan.NAME, number)
        run = finished(evil, spec, folder)
        if way == trojan.WAYS[0]:
            trojan.replace_after(home, run)
        found.append(trojan.tried(federation, run, way, federation.root))
    return found


def _play(evil: Evil, game: str, number: int) -> Outcome:
    home = evil.federation.aggregator
    before = {silo: len(read_log(path)) for silo, path in evil.federation.homes.items()}
    spec = GAMES[game].job()
    status = submit(evil, spec, evil_job(spec, evil.federation, game, number))
    charter = Home(home).charter()
    path = book_path(home, game, number)
    if not path.exists():
        raise AssertionError(f"the game left no book; NVFlare says {status}: see {home / 'log.txt'}")
    book = Book.load(path)
    logged = {silo: lines(read_log(one)[before[silo] :]) for silo, one in evil.federation.homes.items()}
    verdict = judge(book.entries, charter, book.shut)
    return of_book(book, verdict, logged, proofs(book, evil.federation))


def read_log(home: Path) -> str:
    """The silo's own log."""
    return (home / "log.txt").read_text(errors="replace")


def proofs(book: Book, federation: Federation) -> list[str]:
    """What the silos' evidence proves to anybody with the charter, one line for each file of this run."""
    charter = Home(federation.aggregator).charter()
    found = []
    for silo in federation.silos:
        for path in sorted(federation.silo(silo).glob(f"evidence/{book.run[:16]}-*.bin")):
            if path.stem.endswith("-unproven"):
                continue  # one request, which proves nothing alone: kept for those who have the run's evidence
            found.append(f"{silo}/{path.name}: {equivocation.verify(path.read_bytes(), charter)}")
    return found
