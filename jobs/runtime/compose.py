"""A job becomes a run at the aggregator and an agent at each silo: the two functions that couriers call.

NVFlare's controller calls ``server_run``, its executor ``answering_agent``. The aggregator's half loads no torch and
no method: the plan comes with the job, and every silo recomputes it.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Generator, Iterator
from contextlib import ExitStack, contextmanager, suppress
from importlib import resources
from pathlib import Path

from aggregator.home import AggregatorHome
from aggregator.ledger.log import Ledger
from aggregator.requirement import NOTHING
from aggregator.rounds.attempt import Exchange, Replies, Timeouts
from aggregator.rounds.run import Run, RunOutcome, RunSpec
from aggregator.rounds.storage import stage_predictor
from crypto import durable
from crypto.approval import Terms
from crypto.errors import DataRefused, FederationError, NotApproved, SpecError
from jobs import release
from jobs.job import JobSpec, decode_plan
from jobs.membership.accept import record_charter, running
from jobs.owner.approval_terms import terms
from jobs.owner.data_fit import check_rows
from jobs.runtime import drain
from jobs.runtime.mask_probe import agent_class
from jobs.runtime.status_tracker import StatusTracker
from jobs.security_log.events import Event, lacking
from jobs.security_log.writer import SecurityLog
from silo_agent.agent import Agent, Refusing, Site
from silo_agent.approval_store import Approvals
from silo_agent.home import SiloHome
from silo_agent.journal import Journal
from silo_agent.language.base_model import NeedsBase
from silo_agent.methods import Method
from silo_agent.methods.flex_plan import BASE
from silo_agent.models.registry import LIBRARIES, shape_of
from silo_agent.privacy.account import Account
from silo_agent.privacy.grants import Grants
from silo_agent.proxies import UsesPool
from silo_agent.pysyft.catalogue import Catalogue
from silo_agent.pysyft.request_queue import RequestQueue

log = logging.getLogger("consilium.aggregator")

#: How long a silo's agent waits for the one before it to end, and how often it looks. Seconds.
TURN_S = 20.0
LOOK_S = 0.1

#: How long the progress file of a run that this silo has countersigned is kept: the server might come back. Seconds.
KEEP_PROGRESS_S = 86400


def predictor_requirements(spec: JobSpec) -> list[str]:
    """pip lines of what a published model imports, other than our own package, which is on no index."""
    libraries = ("transformers", "peft") if BASE in spec.params else LIBRARIES.get(str(spec.params.get("model")), ())
    return [release.pip_line(name) for name in ("mlflow", "numpy", "safetensors", "torch", *libraries)]


def predictor_settings(spec: JobSpec) -> str:
    """JSON text for the predictor: method and parameters, the outputs that a caller may ask for, and which release of
    ours it was made with."""
    settings = {"method": spec.method, "params": dict(spec.params), "outputs": ["labels", "probabilities"]}
    made_with = {"version": release.version(), "code_digest": release.digest().hex()}
    return json.dumps(settings | {"release": made_with}, sort_keys=True)


def server_run(
    job: str, plan: str, home: AggregatorHome, resume: str = "", tracker: StatusTracker | None = None
) -> Generator[Exchange, Replies, RunOutcome]:
    """The run of a submitted job. ``job``: canonical text; ``plan``: base64 of the plan; ``home``: the aggregator's.

    ``resume``: the run to go on with, where that was asked for. ``tracker``: follows the run's status. Meanwhile the
    charter can't change, and no other process can work on the run. Raises SpecError.
    """
    with ExitStack() as held:
        held.enter_context(running(home))
        if resume:
            held.enter_context(alone(home, resume))
        run = open_run(job, plan, home, resume=resume or None)
        if not resume:
            held.enter_context(alone(home, run.name))
        if tracker is not None:
            tracker.follow(run)
        return (yield from run.run())


@contextmanager
def alone(home: AggregatorHome, run: str) -> Iterator[None]:
    """Held by the one process that works on a run; the end of the process gives it back. Raises SpecError."""
    folder = home.run_folder(run)
    if not folder.root.is_dir():
        raise SpecError("--resume", got=run, want="a run of this aggregator", remedy="`fed lineage` lists the runs.")
    try:
        lock = durable.lock(folder.lock_path, wait=False)
    except BlockingIOError as held:
        remedy = "Wait until it has ended: `fed jobs` shows the job."
        raise SpecError(
            "--resume", got=f"{run}, which another process works on", want="a run at rest", remedy=remedy
        ) from held
    try:
        yield
    finally:
        os.close(lock)


def open_run(
    job: str, plan: str, home: AggregatorHome, *, nonce: bytes | None = None, resume: str | None = None
) -> Run:
    """Raises SpecError for a job, a plan or a run to resume that don't fit."""
    spec = JobSpec.from_text(job)
    decoded = decode_plan(plan)
    if decoded.method != spec.method:
        raise SpecError("plan.method", got=decoded.method, want=spec.method)
    charter, identity = home.open()
    ledger = Ledger.open(home.ledger_path, identity)
    record_charter(ledger, home)
    run = Run(
        RunSpec(
            job=job,
            job_digest=spec.digest,
            name=spec.name,
            plan=decoded,
            code=release.digest(),
            purpose=spec.purpose,
            versions=release.versions(),
            timeouts=Timeouts(phase_s=spec.timeouts["phase"], step_s=spec.timeouts["step"], job_s=spec.timeouts["job"]),
            keep_uploads=spec.keep_uploads,
            require=spec.require or NOTHING,
        ),
        charter,
        identity,
        ledger,
        home.jobs_folder,
        nonce=nonce,
        resume=resume,
    )
    run.folder.root.mkdir(parents=True, exist_ok=resume is not None)
    run.watch = EventFile(run.folder.events_path)
    if ("shape" in spec.params or isinstance(spec.params.get("features"), int)) and resume is None:
        run.predictor = stage_predictor(
            run.folder,
            Path(str(resources.files("jobs.evidence"))) / "predictor.py",
            release=release.manifest(),
            requirements=predictor_requirements(spec),
            settings=predictor_settings(spec),
            shape=shape_of(spec.params),
        )
    return run


def open_site(home: SiloHome) -> Site:
    """What a silo's agent works with. Raises SpecError where something is missing or in use."""
    charter = home.charter()
    silo = home.silo
    identity = home.identity()
    policy = home.policy()
    security_log = SecurityLog(home)
    if charter.member(silo).agent != identity.public:
        want, found = charter.member(silo).agent.fingerprint, identity.public.fingerprint
        security_log(Event.KEY_MISMATCH, role="agent", expected=want, found=found)
        raise SpecError(
            f"{silo} agent key",
            got=identity.public.fingerprint,
            want=charter.member(silo).agent.fingerprint,
            remedy="The charter names another key for this silo: restore the key, or have a new epoch signed.",
        )
    _drop_old_progress(home)
    journal = Journal(home.journal_path)
    security_log.policy(policy.digest.hex())
    security_log(
        Event.AGENT_STARTED,
        fingerprint=identity.public.fingerprint,
        charter=charter.digest.hex(),
        epoch=charter.epoch,
        policy=policy.digest.hex(),
        software=release.digest().hex(),
    )
    return Site(
        silo=silo,
        identity=identity,
        charter=charter,
        policy=policy,
        approvals=Approvals(home.approvals_folder, charter.member(silo).owner),
        journal=journal,
        runs=home.runs_folder,
        code=release.digest(),
        now=lambda: int(time.time()),
        keep=home.keep_evidence,
        file=home.keep_receipt,
        personal=home.keep_personal,
        security=security_log,
        leaving=lambda: drain.begun(home),
    )


def _drop_old_progress(home: SiloHome) -> None:
    """Remove the progress files of runs that this silo countersigned more than a day ago."""
    for progress in home.runs_folder.glob("*.safetensors"):
        receipt = home.receipts_folder / f"{progress.stem}.bin"
        if receipt.exists() and receipt.stat().st_mtime < time.time() - KEEP_PROGRESS_S:
            progress.unlink()


def open_agent(job: str, home: SiloHome) -> Agent:
    """The agent of one silo for one approved job; plan, data and software are hashed again before approval is checked.

    ``job``: canonical text. ``home``: the silo's. Loads torch only for an approved job. Raises NotApproved, DataRefused
    for data that are missing, changed or unfit, SpecError for a home or a base model that doesn't fit.
    """
    spec, kind = JobSpec.from_text(job), agent_class(home)
    _take_turn(home)
    site = open_site(home)
    try:
        catalogue = Catalogue(home, site.silo)
        resolved = catalogue.resolve(spec.dataset, thorough=False)
        check_rows(spec, resolved.data, resolved.schema)
        plan = spec.plan(site.charter)
        wanted = terms(spec, plan, silo=site.silo, charter=site.charter, policy=site.policy, data=resolved.id)
        site.approvals.grant(wanted, now=site.now(), uses=site.journal.uses)
        account = open_account(spec, wanted, site)
        trainer = with_inputs(spec.trainer(site.silo), home.models_folder, catalogue)
        return kind(site, terms=wanted, plan=plan, method=trainer, data=resolved.data, job=spec.text, account=account)
    except BaseException:
        site.journal.close()
        raise


def open_account(spec: JobSpec, wanted: Terms, site: Site) -> Account | None:
    """The account of a private job's data set, after this silo has computed the job's ε itself. Raises SpecError for a
    job that says less, JournalLost for an older account."""
    if spec.privacy is None:
        return None
    spec.privacy.check_claim(spec.params)
    grants = Grants(site.approvals.folder, site.approvals.owner)
    return Account(site.journal, grants, spec.privacy, job=wanted.job, data=wanted.commitment)


def with_inputs(made: Method, models: Path, catalogue: Catalogue) -> Method:
    """The method, with the base model and the public data set that its job names, if it needs them.

    ``models``: the silo's folder of base models. Raises SpecError for the model, DataRefused for the data set.
    """
    if isinstance(made, NeedsBase):
        made.use(models)
    if isinstance(made, UsesPool) and made.pool:
        made.provide(catalogue.resolve(made.pool, thorough=False).data)
    return made


def _take_turn(home: SiloHome) -> None:
    """Wait, for a while, until the agent of the job before has let go of the journal.

    NVFlare starts the next job as soon as the server's process of an aborted one has ended; a silo's may take 10 s
    longer. After the wait, opening the journal raises the error.
    """
    path, end = home.journal_path, time.monotonic() + TURN_S
    while path.exists() and time.monotonic() < end:
        with suppress(BlockingIOError), durable.locked(path, wait=False, create=False):
            return
        time.sleep(LOOK_S)


def answering_agent(job: str, home: SiloHome) -> Agent | Refusing:
    """``open_agent``, or a stand-in that declines every request with the error's code.

    A job that lacks an approval, or whose data set the owner has yet to register, goes to ``fed requests``.
    """
    try:
        return open_agent(job, home)
    except FederationError as refused:
        if isinstance(refused, NotApproved | DataRefused):
            _ask_owner(home, JobSpec.from_text(job), refused)
        SecurityLog(home)(Event.REFUSAL, step=0, phase="open", code=refused.code)
        return Refusing(home.silo, home.identity(), refused)


def _ask_owner(home: SiloHome, spec: JobSpec, refused: NotApproved | DataRefused) -> None:
    """Put a job into the data owner's queue. A queue that can't take it is logged; the job is refused either way."""
    security_log = SecurityLog(home)
    if isinstance(refused, NotApproved):
        security_log(lacking(refused), job=refused.digest)
    try:
        RequestQueue(home, home.silo).put(spec.text)
    except FederationError as full:
        log.error("the request for job %s could not be queued: [%s] %s", spec.digest.hex(), full.code, full)
    else:
        security_log(Event.REQUEST_QUEUED, job=spec.digest.hex())


class EventFile:
    """Appends what the run does to a file, for followers on this machine. Best effort: an error is logged."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._began = time.monotonic()

    def __call__(self, exchange: Exchange | None, note: str) -> None:
        event: dict[str, object] = {"t": round(time.monotonic() - self._began, 3), "note": note}
        if exchange is not None:
            event |= {
                "phase": exchange.phase,
                "step": exchange.step,
                "name": exchange.step_name,
                "silos": sorted(exchange.requests),
            }
        try:
            with self._path.open("a", encoding="utf-8") as out:
                out.write(json.dumps(event) + "\n")
        except OSError as failed:
            log.warning("an event of the run could not be written: %s", failed.strerror)
