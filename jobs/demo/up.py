"""``fed up``: a real local federation, one command. ``fed simulate``: the same job with in-process couriers.

Real means: NVFlare processes with mTLS on 127.0.0.1, started by the same long-lived commands that institutions run,
a job submitted through NVFlare's session API, a ledger, an MLflow database, two /metrics. Only the hospitals' names
are made up, and with ``--data FOLDER`` nothing is. Whatever ends it, everything it started is stopped (``processes``).
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from aggregator.figures import last_metrics, withheld_in
from aggregator.rounds.attempt import Exchange
from aggregator.run_record import RunRecord
from crypto.errors import FederationError, RoundLost
from crypto.plan import Plan
from jobs.demo.break_lane import Breaker, Silenced, kill_jobs, targets
from jobs.demo.child_processes import Running, local_federation, terminable, until_stopped
from jobs.demo.datasets import FROM_FOLDER, Deal, deal
from jobs.demo.federation import Federation
from jobs.demo.language_base_model import check_libraries, ground
from jobs.demo.own_data import gather
from jobs.demo.progress_view import Follower, View
from jobs.evidence.run_summary import (
    accuracy,
    cold_score,
    median_step_seconds,
    per_cent,
    published_by,
    scores,
    secure_aggregation,
)
from jobs.job import JobSpec
from jobs.owner.approval_terms import approve_for_demonstration
from silo_agent.data import DataSet, check
from silo_agent.language.base_model import MODELS


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What the command line asked for."""

    job: str = "fedcoe-digits"
    silos: int | None = None
    rounds: int | None = None
    seed: int | None = None
    name: str | None = None
    data: Path | None = None
    keep: bool = False
    runs: Path = Path("runs")
    probe: str = "histogram"
    breaks: str | None = None


@dataclass(slots=True)
class Demo:
    """One demonstration: its job, its folder, and the data of silos and newcomers."""

    name: str
    spec: JobSpec
    federation: Federation
    arrays: Mapping[str, Mapping[str, np.ndarray]]
    silos: Mapping[str, DataSet]
    newcomers: Mapping[str, DataSet]
    account: tuple[str, ...] = ()


def prepare(options: Options, *, kind: str = "") -> Demo:
    """Check the request, then make the federation's folder. A refused request leaves no folder behind."""
    changes = {key: value for key, value in (("rounds", options.rounds), ("seed", options.seed)) if value is not None}
    spec = JobSpec.load(options.job).with_params(**changes)
    dealt = _dealt(spec, options)
    root = options.runs / options.name if options.name else _next(options.runs, spec.name + kind)
    silos, newcomers = (
        {name: check(spec.dataset, arrays) for name, arrays in part.items()} for part in (dealt.silos, dealt.newcomers)
    )
    # The plan fails on a wrong parameter, and must do so before anything is made.
    plan = _try_plan(spec, len(silos))
    if options.breaks is not None:
        targets(plan, options.breaks)
    check_libraries(spec)
    settings = {"probe": options.probe}
    rows = dealt.references or dealt.silos
    federation = Federation.make(root.resolve(), root.name, rows, spec.dataset, settings=settings)
    spec = ground(spec, federation)
    return Demo(options.job, spec, federation, dealt.silos, silos, newcomers, dealt.account)


def _dealt(spec: JobSpec, options: Options) -> Deal:
    """Own data where a folder is given, unless the job's demonstration reads that folder itself."""
    if options.data is not None and (spec.schema is not None or spec.dataset not in FROM_FOLDER):
        return gather(spec, options.data, options.silos)
    return deal(spec.dataset, options.silos, int(spec.params.get("seed", 7)), options.data)


def _try_plan(spec: JobSpec, silos: int) -> Plan:
    from silo_agent.methods import Limits

    return spec.plan_within(Limits(n_max=silos))


def _breaker(demo: Demo, wanted: str | None, strike: Callable[[Sequence[str]], None], view: View) -> Breaker | None:
    """What ``--break`` asked for, if anything."""
    if wanted is None:
        return None
    home = demo.federation.aggregator_home
    return Breaker(wanted, demo.spec, home.charter(), home, demo.silos, strike=strike, say=view.say)


def _next(runs: Path, stem: str) -> Path:
    number = 1
    while (runs / f"{stem}-{number}").exists():
        number += 1
    return runs / f"{stem}-{number}"


# --- fed up -------------------------------------------------------------------------------------------------------


def up(options: Options, view: View) -> dict[str, Any]:
    """Everything ``fed up`` does; returns the object that --json prints."""
    began = time.monotonic()
    with terminable():
        demo = prepare(options)
        for line in demo.account:
            view.say(line)
        view.say(f"federation {demo.federation.name}: {len(demo.silos)} silos, job {demo.spec.name}")
        with ExitStack() as stack:
            # Who falls away is to stay away.
            more = {} if options.breaks is None else {"CONSILIUM_JOB_RESTARTS": "0"}
            running = stack.enter_context(local_federation(demo.federation, say=view.say, environment=more))
            approve_for_demonstration(demo.federation.silo_homes.values(), demo.spec)
            view.say(f"approved as the data owner of all {len(demo.silos)} silos: this demonstration owns their keys")
            pids = {silo: running.processes.pid(silo) for silo in demo.silos}
            breaker = _breaker(demo, options.breaks, lambda silos: kill_jobs({s: pids[s] for s in silos}), view)
            record, timing = _run_job(demo, running, view, breaker)
            report = _report(demo, record, breaker, nvflare=metadata.version("nvflare"))
            report["mlflow"] = _wait_for_lineage(demo, record, running)
            if options.keep:
                teardown = 0.0
            else:
                stopping = time.monotonic()
                running.session.wait(timing["job_id"], 60)
                stack.close()
                teardown = time.monotonic() - stopping
            _finish(demo, record, report)
            report["seconds"] = {
                "total": round(time.monotonic() - began, 1),
                "submit_to_first_phase": round(timing["first"], 2),
                "per_round_median": median_step_seconds(record),
                "teardown": round(teardown, 1),
            }
            view.result(report, demo.federation.root)
            if options.keep:
                view.say("the federation stays up; Ctrl-C stops it")
                until_stopped(running.processes)
    return report


def _run_job(
    demo: Demo, running: Running, view: View, breaker: Breaker | None = None
) -> tuple[RunRecord, dict[str, Any]]:
    """Submit, follow to the end by ledger and events, and read the record."""
    from jobs.flare.folder import export

    home = demo.federation.aggregator_home
    folder = export(demo.spec, home.charter(), demo.federation.root / "submitted")
    submitted = time.monotonic()
    job_id = running.session.submit(folder)
    view.say(f"submitted as {job_id}")
    follower = Follower(home, demo.spec, demo.federation.silos, view)
    first = 0.0
    last_look = time.monotonic()
    while not follower.ended:
        follower.look()
        if breaker is not None:
            breaker.look()
        if not first and follower.first is not None:
            first = time.monotonic() - submitted
        if time.monotonic() - last_look > 2:
            last_look = time.monotonic()
            running.processes.check()
            status = running.session.status(job_id)
            if status.startswith("FINISHED") and not follower.ended:
                follower.look()
                if not follower.ended:
                    raise RoundLost(
                        "job",
                        (),
                        detail=f"NVFlare ended the job as {status} before the run was finished.",
                        remedy=f"See {home.log_path}.",
                    )
        time.sleep(0.1)
    view.done()
    record = RunRecord.read(home, follower.run)
    if record.failed is not None:
        failed = record.failed.record
        raise RoundLost(failed.phase, failed.missing, detail=failed.detail or "")
    return record, {"job_id": job_id, "first": first}


def _wait_for_lineage(demo: Demo, record: RunRecord, running: Running, timeout_s: float = 60.0) -> dict[str, Any]:
    """Until the follower has registered the model. MLflow never stalls a run; the demonstration waits to show it."""
    place = demo.federation.aggregator_home.run_folder(record.run).mlflow_path
    end = time.monotonic() + timeout_s
    while not place.exists():
        running.processes.check()
        if time.monotonic() > end:
            raise FederationError(
                f"MLflow has not registered the model after {timeout_s:.0f} s.",
                remedy=f"The ledger is complete. See {demo.federation.aggregator_home.log_path}.",
            )
        time.sleep(0.1)
    found: dict[str, Any] = json.loads(place.read_text(encoding="utf-8"))
    return found


# --- fed simulate -------------------------------------------------------------------------------------------------


def simulate(options: Options, view: View) -> dict[str, Any]:
    """The same job through the same round code, couriers in this process."""
    from jobs.runtime.in_process import run_job

    began = time.monotonic()
    demo = prepare(options, kind="-sim")
    for line in demo.account:
        view.say(line)
    view.say(f"simulation {demo.federation.name}: {len(demo.silos)} silos, job {demo.spec.name}")
    approve_for_demonstration(demo.federation.silo_homes.values(), demo.spec)
    follower = Follower(demo.federation.aggregator_home, demo.spec, demo.federation.silos, view)
    silent: set[str] = set()
    breaker = _breaker(demo, options.breaks, silent.update, view)

    def watch(exchange: Exchange | None, note: str) -> None:
        follower.exchange(exchange, note)
        if breaker is not None:
            breaker.look()

    outcome, _, _ = run_job(
        demo.spec,
        demo.federation.aggregator_home,
        demo.federation.silo_homes,
        courier=lambda silo, agent: Silenced(silo, agent, silent),
        watch=watch,
    )
    view.done()
    record = RunRecord.read(demo.federation.aggregator_home, outcome.run)
    report = _report(demo, record, breaker, nvflare=None)
    report["mlflow"] = None
    _finish(demo, record, report)
    total = round(time.monotonic() - began, 1)
    report["seconds"] = {
        "total": total,
        "submit_to_first_phase": None,
        "per_round_median": median_step_seconds(record),
        "teardown": 0.0,
    }
    view.result(report, demo.federation.root)
    return report


# --- what both print ----------------------------------------------------------------------------------------------


def _report(demo: Demo, record: RunRecord, breaker: Breaker | None = None, *, nvflare: str | None) -> dict[str, Any]:
    """The object of --json, less mlflow, report and seconds. Runs the baselines."""
    from jobs.demo.baselines import measure

    published = published_by(demo.federation.aggregator_home, record)
    found = scores(record)
    if demo.newcomers:
        found["cold"] = cold_score(demo.spec, published, demo.newcomers, demo.federation.root / MODELS)
    exact = {name: f"{right}/{total}" for name, (right, total) in found.items()}
    # A method without experts of its own silo opens no such score: then all modes are the global model.
    personal = any(slot.name == "personal.correct" for step in record.plan.steps for slot in step.slots)
    figures: dict[str, Any] = {
        "global": accuracy(record, "global"),
        "personal": accuracy(record, "personal" if personal else "global"),
        "cold": per_cent(found["cold"]) if demo.newcomers else None,
    }
    figures |= measure(demo.spec, demo.arrays, demo.silos, demo.newcomers, demo.federation.root / MODELS)
    return {
        "run_id": record.run,
        "job": demo.name,
        "method": demo.spec.method,
        "silos": len(demo.silos),
        "rounds_completed": sum(entry.record.name.startswith("train/") for entry in record.closed),
        "nvflare": {"version": nvflare},
        "secure_aggregation": secure_aggregation(record),
        **({} if breaker is None else {"broken": breaker.outcome(record)}),
        "accuracy": figures,
        "correct": exact,
        "metrics": {one.name: one.value for read, _ in last_metrics(record.closed).values() for one in read},
        "withheld": withheld_in(record.plan, record.closed),
        "ledger": str(demo.federation.aggregator_home.ledger_path),
    }


def _finish(demo: Demo, record: RunRecord, report: dict[str, Any]) -> None:
    from jobs.demo.report import write_report

    report["report"] = str(write_report(demo.federation.root, record.run, table=report))
