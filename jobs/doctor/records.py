"""The records: the security log, the aggregator's ledger, and MLflow, which shows the ledger's content."""

from __future__ import annotations

import os
import sqlite3
import ssl
from pathlib import Path
from typing import Final
from urllib.error import HTTPError
from urllib.parse import unquote, urlsplit
from urllib.request import urlopen

from aggregator.ledger.format import verify
from aggregator.tracking.cursor import backlog, default_uri
from crypto.errors import EvidenceError, FederationError
from jobs.doctor.check import AGGREGATOR, SERVICES, Finding, Status, check, fail, ok, warn
from jobs.doctor.target import Target
from jobs.security_log.reader import check_log, files

#: Records of the ledger that MLflow may lack before it is a warning: a few steps' worth.
MOST_BEHIND: Final = 50
#: How long MLflow may take to answer. Seconds.
ANSWER_S: Final = 5.0
#: Times that a ledger is read that grows meanwhile.
READINGS: Final = 3
TRACKING_VAR: Final = "CONSILIUM_TRACKING_URI"


@check(
    "security-log",
    SERVICES,
    looks="the security log: form, numbers, chain and end",
    fails="lines were changed, taken out or cut off",
    remedy="Find out who could write this home; compare with the copy that was shipped off this machine.",
    after=("home",),
)
def security_log(target: Target) -> Finding | None:
    if not files(target.home):
        return ok("none yet")
    found = check_log(target.home)
    return ok(f"{found.lines} lines in {found.files} files, since {found.first[:10]}")


@check(
    "ledger",
    AGGREGATOR,
    looks="the ledger: every line's form, chain and signature, and its signed head",
    fails="a byte was changed, a line is missing, or another key signed",
    remedy="Restore the ledger and its .head together from the volume's latest copy; see `fed verify`.",
    after=("home", "home.keys", "charter"),
)
def ledger(target: Target) -> Finding | None:
    path = target.aggregator_home.ledger_path
    if not path.exists():
        return ok("none yet: no run was made here")
    key = target.aggregator_home.identity().public
    for _ in range(READINGS):
        before = path.stat().st_size
        try:
            return ok(f"complete, its head is {verify(path, key)[:16]}…")
        except EvidenceError:
            if path.stat().st_size == before:
                raise  # if it has grown, a run was writing: what was read was incomplete
    return warn("it grew at each reading", "Run the check again when no run is under way.")


@check(
    "mlflow",
    AGGREGATOR,
    looks="whether MLflow accepts records: the SQLite file in the home, or the server of CONSILIUM_TRACKING_URI",
    fails="it cannot be reached, refuses our login, or its file cannot be written",
    remedy="Check MLflow's server and the address in CONSILIUM_TRACKING_URI. Runs go on; the ledger keeps everything.",
    after=("home",),
)
def mlflow(target: Target) -> Finding | None:
    uri = os.environ.get(TRACKING_VAR) or default_uri(target.aggregator_home)
    try:
        where = shown(uri)
    except ValueError:  # its message may quote part of an unquoted password
        return fail(f"{TRACKING_VAR} is no address", "Quote the password in it: %2F for /, %40 for @, and so on.")
    try:
        _ask(uri)
    except FileNotFoundError:
        return ok(f"{where}: made with the first run")
    except FederationError:
        raise
    except Exception as down:  # noqa: BLE001 - each driver has its own exceptions, and their text may hold the password
        first = str(down).partition("\n")[0].replace(uri, where)
        return fail(f"{where}: {_without_password(uri, first)[:200]}")
    return ok(f"{where} answers")


@check(
    "mlflow.backlog",
    AGGREGATOR,
    looks="records of the ledger that are not in MLflow yet",
    fails=f"never: more than {MOST_BEHIND} are a warning",
    remedy="Check whether MLflow accepts records and the lineage follower runs; it catches up by itself.",
    after=("home", "ledger"),
)
def mlflow_backlog(target: Target) -> Finding | None:
    count = backlog(target.aggregator_home, os.environ.get(TRACKING_VAR) or None)
    return Finding(Status.WARN if count > MOST_BEHIND else Status.PASS, f"{count} records behind")


def shown(uri: str) -> str:
    """An address without user, password and query."""
    address = urlsplit(uri)
    if address.scheme.startswith("sqlite"):
        return uri
    return f"{address.scheme}://{address.hostname or ''}{f':{address.port}' if address.port else ''}{address.path}"


def _without_password(uri: str, text: str) -> str:
    password = urlsplit(uri).password or ""
    for spelling in filter(None, (password, unquote(password))):
        text = text.replace(spelling, "…")
    return text


def _ask(uri: str) -> None:
    """Raises the driver's exception if MLflow would refuse a record; FileNotFoundError if there is no SQLite file."""
    if uri.startswith("sqlite:///"):
        path = Path(uri.removeprefix("sqlite:///"))
        if not path.exists():
            raise FileNotFoundError(path)
        database = sqlite3.connect(f"{path.resolve().as_uri()}?mode=rw", uri=True, timeout=ANSWER_S)
        try:
            database.execute("BEGIN IMMEDIATE")  # a transaction that can start could also write
            database.execute("ROLLBACK")
        finally:
            database.close()
    elif uri.startswith(("http://", "https://")):
        address = urlsplit(uri)
        plain = f"{address.scheme}://{address.netloc.rpartition('@')[2]}{address.path.rstrip('/')}/health"
        try:
            urlopen(plain, timeout=ANSWER_S).close()
        except HTTPError as answered:
            if answered.code not in (401, 403):  # it answers; the follower's log shows whether it accepts our login
                raise
    else:
        from aggregator.tracking.client import connect

        connect(uri)


def _trusted() -> ssl.SSLContext:
    """The certificate authorities that MLflow's own client would trust: the institution's file, or the system's."""
    names = ("MLFLOW_TRACKING_SERVER_CERT_PATH", "REQUESTS_CA_BUNDLE")
    return ssl.create_default_context(cafile=next((os.environ[name] for name in names if os.environ.get(name)), None))


CHECKS = (security_log, ledger, mlflow, mlflow_backlog)
