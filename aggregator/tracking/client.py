"""MLflow as this project uses it: no telemetry, no pickle, a server of the kinds we know, and down means soon.

Importing this module imports MLflow, which reads its environment once; so import MLflow from here.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import warnings
from collections.abc import Mapping, Sequence
from urllib.parse import urlsplit

from crypto.errors import SpecError

# A user's own settings: what is logged here goes where the caller says, and into the runs that it names.
for _name in ("TRACKING_URI", "REGISTRY_URI", "EXPERIMENT_ID", "EXPERIMENT_NAME", "RUN_ID"):
    os.environ.pop(f"MLFLOW_{_name}", None)
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
os.environ["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] = "false"
os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] = "true"
os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
logging.getLogger("alembic").setLevel(logging.WARNING)

with warnings.catch_warnings():  # MLflow warns about its own type hints
    warnings.simplefilter("ignore")
    import mlflow
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Param, RunTag
    from mlflow.exceptions import MlflowException
    from sqlalchemy import create_engine
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import SQLAlchemyError
    from sqlalchemy.pool import NullPool

__all__ = ["DOWN", "MlflowClient", "MlflowException", "check_address", "connect", "log", "shown_address"]

logging.getLogger("mlflow").setLevel(logging.WARNING)
# It logs the traceback of what it then raises; the caller reports that in one line.
logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)

#: What "MLflow is down" looks like: retried. Anything else is a fault of ours or of the ledger, and is raised.
DOWN = (MlflowException, SQLAlchemyError, sqlite3.Error, OSError)
#: How long a database may take to answer before it counts as down. Seconds.
ANSWER_S = 5.0

_SERVERS = ("sqlite:///", "postgresql", "mysql", "http://", "https://")
_METRICS, _TAGS = 800, 100  # MLflow's limits for one log_batch: 100 tags, 100 parameters, 1000 of all kinds


def check_address(uri: str) -> None:
    """Raise SpecError for what MLflow should not be used with: its file store, or an address of another kind."""
    if not uri.startswith(_SERVERS):
        want = "sqlite:///…, postgresql+psycopg2://… or http(s)://…"
        raise SpecError("tracking_uri", got=uri.split("://")[0], want=want)


def connect(uri: str) -> MlflowClient:
    """A client, once the server behind it answers. Sets MLflow's process-wide address, which creating a version reads.

    Raises one of ``DOWN``. Asking first is what keeps that quick: MLflow itself would sleep and try for two minutes.
    """
    check_address(uri)
    _ask(uri)
    mlflow.set_tracking_uri(uri)
    return MlflowClient(tracking_uri=uri, registry_uri=uri)


def _ask(uri: str) -> None:
    if uri.startswith("sqlite:"):
        path = make_url(uri).database or ":memory:"
        database = sqlite3.connect(path, timeout=ANSWER_S, isolation_level=None)
        try:
            database.execute("BEGIN IMMEDIATE")  # if a write can begin, no other process holds the lock
            database.execute("ROLLBACK")
        finally:
            database.close()
    elif not uri.startswith("http"):
        options = {"connect_timeout": max(1, int(ANSWER_S))}
        engine = create_engine(uri, poolclass=NullPool, connect_args=options)
        with engine.connect():
            pass
        engine.dispose()


def shown_address(uri: str) -> str:
    """The address without the password it may hold."""
    address = urlsplit(uri)
    return uri.replace(f"{address.username}:{address.password}@", "") if address.password else uri


def log(
    client: MlflowClient,
    run_id: str,
    *,
    metrics: Sequence[Metric] = (),
    params: Mapping[str, str] | None = None,
    tags: Mapping[str, str] | None = None,
) -> None:
    """One ``log_batch``; more than one where there is more than MLflow takes at once (a hundred silos)."""
    pairs = [RunTag(key, value) for key, value in (tags or {}).items()]
    texts = [Param(key, value) for key, value in (params or {}).items()]
    for batch in range(max(1, -(-len(metrics) // _METRICS), -(-max(len(pairs), len(texts)) // _TAGS))):
        client.log_batch(
            run_id,
            metrics=metrics[batch * _METRICS : (batch + 1) * _METRICS],
            params=texts[batch * _TAGS : (batch + 1) * _TAGS],
            tags=pairs[batch * _TAGS : (batch + 1) * _TAGS],
        )
