"""How far the ledger has been copied into MLflow: ``lineage.json`` in the aggregator's home.

Reading it does not import MLflow.
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from hashlib import sha256

from aggregator.home import AggregatorHome
from aggregator.ledger.format import GENESIS, canonical, length
from crypto import durable
from crypto.errors import SpecError

log = logging.getLogger("consilium.lineage")

#: In the home: whoever writes into MLflow holds it.
LOCK_FILE = "lineage.lock"


@dataclass(frozen=True, slots=True)
class Cursor:
    """The last ledger line that is in MLflow: its number (−1: none), digest and end in the file."""

    seq: int = -1
    digest: str = GENESIS
    end: int = 0


def default_uri(home: AggregatorHome) -> str:
    """SQLite in the aggregator's home. Raises SpecError for a path that such an address cannot hold."""
    path = str(home.mlflow_path.resolve())
    if signs := sorted({sign for sign in path if sign in "?#%"}):
        raise SpecError(
            str(home.root),
            got=f"a path with {' and '.join(signs)}",
            want="a path without ?, # and %: MLflow's address of a file cannot hold them",
            remedy="Move the home, or name another MLflow with CONSILIUM_TRACKING_URI.",
        )
    return f"sqlite:///{path}"


def load_cursor(home: AggregatorHome, tracking_uri: str) -> Cursor:
    """The stored cursor; the start for another MLflow than last time, or when there is none."""
    try:
        fields = json.loads(home.cursor_path.read_bytes())
        if fields["server"] == _server(tracking_uri):
            return Cursor(fields["seq"], fields["digest"], fields["end"])
    except FileNotFoundError:
        pass
    except (ValueError, KeyError, TypeError) as bad:
        log.warning("lineage.json is unreadable (%s): starting over; nothing will be logged twice", type(bad).__name__)
    return Cursor()


def save_cursor(home: AggregatorHome, tracking_uri: str, cursor: Cursor) -> None:
    """Whole or not at all, and durable."""
    data = canonical({"server": _server(tracking_uri), "seq": cursor.seq, "digest": cursor.digest, "end": cursor.end})
    durable.replace(home.cursor_path, data + b"\n")


def backlog(home: AggregatorHome, tracking_uri: str | None = None) -> int:
    """Records of the ledger that are not in MLflow yet. Raises EvidenceError for a ledger without a readable head."""
    path = home.ledger_path
    if not path.exists():
        return 0
    return max(0, length(path) - 1 - load_cursor(home, tracking_uri or default_uri(home)).seq)


def _server(tracking_uri: str) -> str:
    """Names a tracking server without the password that its address may hold."""
    return sha256(tracking_uri.encode()).hexdigest()
