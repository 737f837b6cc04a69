"""The events of the security log: a closed list, each with a closed set of fields.

A field is an id, a digest, a fingerprint, a code, a value of a list or a whole number, each of a shape that is checked
when it is written. There is no free text and no data, so the log may be given to people who must not see data.
``table`` makes the documentation from the same list.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from crypto.charter import SILO_ID
from crypto.errors import BY_CODE, NotApproved, SpecError
from crypto.messages import PHASES

#: Why the log is kept, and for how long (``retention``): in the first line of every file of it.
PURPOSE: Final = "who did what to the federation's services, keys, approvals and records at this site"
RETENTION: Final = "security, 12 months"

Shape = tuple[str, Callable[[object], bool]]


def _like(pattern: str, text: str) -> Shape:
    whole = re.compile(pattern)
    return text, lambda value: isinstance(value, str) and whole.fullmatch(value) is not None


def _one_of(*values: str) -> Shape:
    return " · ".join(values), lambda value: value in values


_digest = _like(r"[0-9a-f]{64}", "SHA-256")
_count: Shape = ("a whole number", lambda value: type(value) is int and 0 <= value < 1 << 63)
_fingerprint = _like(r"([0-9a-f]{4} ){7}[0-9a-f]{4}", "a key's fingerprint")
_name = _like(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}", "a name")
_silo = _like(SILO_ID.pattern, "a silo's id")
_wire = _like(r"[A-Za-z0-9_.:*?-]{1,64}", "NVFlare's name, or ?")
_roles = ("agent", "owner", "aggregator", "consortium")

#: One shape for each name of a field, whatever event it is in.
FIELDS: Final[Mapping[str, Shape]] = {
    **dict.fromkeys(
        (
            "after",
            "approval",
            "before",
            "chain",
            "charter",
            "data",
            "job",
            "plan",
            "policy",
            "sha256",
            "software",
            "t3",
        ),
        _digest,
    ),
    **dict.fromkeys(("attempt", "bytes", "epoch", "exit", "step", "until", "uses", "wanted", "there"), _count),
    **dict.fromkeys(("expected", "fingerprint", "found", "new", "old"), _fingerprint),
    **dict.fromkeys(("alias", "model", "name", "version"), _name),
    **dict.fromkeys(("channel", "peer", "topic"), _wire),
    **dict.fromkeys(("blame", "silo"), _silo),
    "code": ("a code of the error tree", lambda value: isinstance(value, str) and value in BY_CODE),
    "kind": _like(r"[a-z][a-z-]{0,40}", "a kind of `fed retention`"),
    "path": _like(r"(?!.*\.\.)[A-Za-z0-9][A-Za-z0-9._/-]{0,199}", "a path inside the home, never of data"),
    "phase": _one_of(*PHASES),
    "purpose": _one_of(PURPOSE),
    "reason": _like(r"[a-z_]{1,40}", "NVFlare's return code"),
    "retention": _one_of(RETENTION),
    "role": _one_of(*_roles),
    "run": _like(r"[0-9a-f]{16}([0-9a-f]{48})?", "a run's id, whole or its first 16 digits"),
    "schema": _count,
    "service": _one_of("silo", "aggregator"),
    "signer": _like(SILO_ID.pattern, "aggregator · owner · consortium · a silo's id"),
    "site": _silo,
    "subject": _one_of("approval", "bundle", "charter", "evidence", "ledger", "model", "receipt", "security-log"),
    "way": _one_of("in", "out"),
}


class Event(StrEnum):
    """Each is one line of ``EVENTS``."""

    AGENT_STARTED = "agent-started"
    KEY_MISMATCH = "key-mismatch"
    BAD_SIGNATURE = "bad-signature"
    PASSPHRASE_REFUSED = "passphrase-refused"
    DESK_ENTERED = "desk-entered"
    LOGIN_ACCEPTED = "login-accepted"
    LOGIN_REFUSED = "login-refused"
    REQUEST_QUEUED = "request-queued"
    APPROVAL_GRANTED = "approval-granted"
    APPROVAL_DENIED = "approval-denied"
    APPROVAL_USED = "approval-used"
    APPROVAL_EXPIRED = "approval-expired"
    APPROVAL_USED_UP = "approval-used-up"
    APPROVAL_VOID = "approval-void"
    APPROVAL_MISSING = "approval-missing"
    PRIVACY_GRANTED = "privacy-granted"
    REFUSAL = "refusal"
    MESSAGE_REFUSED = "message-refused"
    MESSAGE_HELD_BACK = "message-held-back"
    SHARES_RELEASED = "shares-released"
    PRIVACY_SPENT = "privacy-spent"
    RUN_JOINED = "run-joined"
    RUN_ENDED = "run-ended"
    CHARTER_ACCEPTED = "charter-accepted"
    DATA_REGISTERED = "data-registered"
    DATA_REPLACED = "data-replaced"
    DATA_REMOVED = "data-removed"
    POLICY_CHANGED = "policy-changed"
    KEY_REPLACED = "key-replaced"
    ALIAS_MOVED = "alias-moved"
    SILO_WITHDRAWN = "silo-withdrawn"
    RECORD_REMOVED = "record-removed"
    BUNDLE_EXPORTED = "bundle-exported"
    SALT_DISCLOSED = "salt-disclosed"
    VERIFICATION_FAILED = "verification-failed"
    SERVICE_STARTED = "service-started"
    SERVICE_DRAINING = "service-draining"
    SERVICE_STOPPED = "service-stopped"
    JOB_RESTARTED = "job-restarted"
    JOB_GIVEN_UP = "job-given-up"
    LOG_OPENED = "log-opened"
    LOG_RECOVERED = "log-recovered"
    LOG_ALTERED = "log-altered"
    LOG_FLOODED = "log-flooded"


@dataclass(frozen=True, slots=True)
class Kind:
    """``must``: written before the event happens; if it cannot be written, the event does not happen (NoSpace)."""

    group: str
    when: str
    fields: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    must: bool = False


_WHO, _MAY, _OUT, _JOB, _ADMIN, _READ, _RUNS, _LOG = (
    *("authentication", "authorisation", "release", "job", "administration", "access", "service", "log"),
)

EVENTS: Final[Mapping[Event, Kind]] = {
    Event.AGENT_STARTED: Kind(
        _WHO, "an agent opens its home for a job", ("fingerprint", "charter", "epoch", "policy", "software")
    ),
    Event.KEY_MISMATCH: Kind(_WHO, "a key here is not the one that the charter names", ("role", "expected", "found")),
    Event.BAD_SIGNATURE: Kind(
        _WHO, "a signature of the server or of a peer does not verify", ("signer",), ("run", "step", "phase")
    ),
    Event.PASSPHRASE_REFUSED: Kind(_WHO, "a wrong passphrase for a locked key, on the desk", ("role",)),
    Event.DESK_ENTERED: Kind(_WHO, "someone opens a session of the desk"),
    Event.LOGIN_ACCEPTED: Kind(_WHO, "NVFlare's server accepted our registration"),
    Event.LOGIN_REFUSED: Kind(_WHO, "NVFlare's server refused our registration", ("reason",)),
    Event.REQUEST_QUEUED: Kind(_MAY, "a job without approval is queued for the data owner", ("job",)),
    Event.APPROVAL_GRANTED: Kind(
        _MAY, "the data owner signs an approval", ("job", "approval", "plan", "data", "uses", "until"), must=True
    ),
    Event.APPROVAL_DENIED: Kind(_MAY, "the data owner signs a denial", ("job",)),
    Event.APPROVAL_USED: Kind(_MAY, "a run begins on an approval", ("job", "approval", "run"), must=True),
    Event.APPROVAL_EXPIRED: Kind(_MAY, "a job arrives after its approval has expired, or before it is valid", ("job",)),
    Event.APPROVAL_USED_UP: Kind(_MAY, "a job arrives whose approval is used up", ("job",)),
    Event.APPROVAL_VOID: Kind(_MAY, "a job arrives whose approved terms have changed", ("job",)),
    Event.APPROVAL_MISSING: Kind(_MAY, "a job arrives without an approval, or with a denial", ("job",)),
    Event.PRIVACY_GRANTED: Kind(
        _MAY, "the data owner grants epsilon to a data set, or to a job on it", ("data",), ("job",), must=True
    ),
    Event.REFUSAL: Kind(_MAY, "this silo declines a request", ("step", "phase", "code"), ("run", "attempt", "blame")),
    Event.MESSAGE_REFUSED: Kind(
        _MAY, "an NVFlare message that is not on the list is dropped", ("way", "channel", "topic", "peer")
    ),
    Event.MESSAGE_HELD_BACK: Kind(_MAY, "the site filter refuses a task or a result", ("way", "code")),
    Event.SHARES_RELEASED: Kind(
        _OUT, "before shares of a step leave this silo", ("run", "step", "t3"), ("attempt",), must=True
    ),
    Event.PRIVACY_SPENT: Kind(
        _OUT, "before a noised contribution of a private job leaves this silo", ("run", "step", "data"), must=True
    ),
    Event.RUN_JOINED: Kind(_JOB, "this site takes part in a run from its start", ("run", "job")),
    Event.RUN_ENDED: Kind(_JOB, "a run ends for this site; code: of an early end", ("run",), ("chain", "code")),
    Event.CHARTER_ACCEPTED: Kind(_ADMIN, "an epoch of the charter is pinned", ("epoch", "charter"), ("before",)),
    Event.DATA_REGISTERED: Kind(_ADMIN, "a data set is registered", ("name", "data")),
    Event.DATA_REPLACED: Kind(_ADMIN, "a data set is registered anew", ("name", "after"), ("before",)),
    Event.DATA_REMOVED: Kind(_ADMIN, "a data set is removed from the catalogue", ("name",)),
    Event.POLICY_CHANGED: Kind(_ADMIN, "policy.toml has changed since the last start", ("after",), ("before",)),
    Event.KEY_REPLACED: Kind(_ADMIN, "a key is replaced", ("role", "new"), ("old",)),
    Event.ALIAS_MOVED: Kind(_ADMIN, "a model version gets an alias", ("model", "version", "alias")),
    Event.SILO_WITHDRAWN: Kind(_ADMIN, "a silo is withdrawn from the federation", ("silo", "epoch")),
    Event.RECORD_REMOVED: Kind(_ADMIN, "a file is removed at the end of its retention", ("kind", "path", "bytes")),
    Event.BUNDLE_EXPORTED: Kind(_READ, "evidence leaves as a bundle", ("sha256",), ("model", "version"), must=True),
    Event.SALT_DISCLOSED: Kind(_READ, "the salt of a data commitment is disclosed", ("data",), must=True),
    Event.VERIFICATION_FAILED: Kind(_READ, "`fed verify` fails", ("subject", "code"), ("run",)),
    Event.SERVICE_STARTED: Kind(_RUNS, "a long-lived process starts", ("service", "software")),
    Event.SERVICE_DRAINING: Kind(_RUNS, "a long-lived process is asked to end: no further step begins", ("service",)),
    Event.SERVICE_STOPPED: Kind(_RUNS, "a long-lived process ends", ("service", "exit")),
    Event.JOB_RESTARTED: Kind(
        _RUNS, "a job process that died is started again; attempt: starts in a row", ("attempt", "exit")
    ),
    Event.JOB_GIVEN_UP: Kind(_RUNS, "a job process that died is not started again", ("attempt", "exit")),
    Event.LOG_OPENED: Kind(_LOG, "the first line of a file", ("purpose", "retention", "schema", "site")),
    Event.LOG_RECOVERED: Kind(_LOG, "an incomplete last line was removed", ("bytes", "sha256")),
    Event.LOG_FLOODED: Kind(_LOG, "too many events in an hour: others are left out until it is over"),
    Event.LOG_ALTERED: Kind(_LOG, "the log does not end with the line that was written last", ("wanted", "there")),
}


def check(event: str, fields: Mapping[str, object]) -> Kind:
    """Raise SpecError for an event, field or value that is not in the list."""
    try:
        kind = EVENTS[Event(event)]
    except ValueError:
        raise SpecError("security log: event", got=event, want="an event of the list") from None
    if missing := set(kind.fields) - fields.keys():
        raise SpecError(f"security log: {event}", got=sorted(fields), want=f"also {', '.join(sorted(missing))}")
    if more := fields.keys() - {*kind.fields, *kind.optional}:
        raise SpecError(f"security log: {event}", got=sorted(more), want="no field other than those of the list")
    for name, value in fields.items():
        text, fits = FIELDS[name]
        if not fits(value):
            raise SpecError(f"security log: {event}.{name}", got=type(value).__name__, want=text)
    return kind


#: Part of NotApproved's reason → the event; the first that matches.
_LACKING = (
    ("expired", Event.APPROVAL_EXPIRED),
    ("not valid yet", Event.APPROVAL_EXPIRED),
    ("used up", Event.APPROVAL_USED_UP),
    ("denied", Event.APPROVAL_MISSING),
    ("there is no", Event.APPROVAL_MISSING),
)


def lacking(refused: NotApproved) -> Event:
    """The event for a job without a valid approval. Its field is ``job``, the refusal's ``digest``."""
    return next((event for text, event in _LACKING if text in refused.reason), Event.APPROVAL_VOID)


def wire_name(name: object) -> str:
    """NVFlare's name of a channel, topic or cell as a field; ``?`` for anything else."""
    return str(name) if _wire[1](name) else "?"


def table() -> str:
    """The list as a Markdown table, for the documentation."""
    lines = ["| event | group | when | fields | held back if it cannot be written |", "|---|---|---|---|---|"]
    for event, kind in EVENTS.items():
        fields = [f"`{name}`" for name in kind.fields] + [f"[`{name}`]" for name in kind.optional]
        row = (f"`{event}`", kind.group, kind.when, " ".join(fields) or "–", "yes" if kind.must else "no")
        lines.append(f"| {' | '.join(row)} |")
    return "\n".join(lines) + "\n"
