"""A real run while MLflow's PostgreSQL is down: the federation goes on, and MLflow catches up."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from aggregator.home import AggregatorHome
from aggregator.tracking import follower
from aggregator.tracking.client import DOWN, connect
from aggregator.tracking.compare_runs import compare
from tests import local
from tests import made_ledger as made
from tests.made_ledger import SILOS
from tests.postgres import Server

pytestmark = [pytest.mark.slow, *made.MLFLOW_WARNINGS]


def test_a_real_federation_goes_on_while_the_server_is_down(postgres: Server, tmp_path: Path) -> None:
    """The follower looks before each exchange; the server dies in the second step and is back after the last."""
    federation = local.federation(tmp_path / "f", 4)
    home, seen = federation.aggregator, {"up": 0, "down": 0}

    def watch(exchange: Any, note: str) -> None:
        if exchange is not None and (exchange.step, exchange.phase) == (1, "contribute"):
            postgres.stop()
        try:
            follower.sync(home, postgres.uri)
            seen["up"] += 1
        except DOWN:
            seen["down"] += 1

    outcome, _, _ = local.run_job(local.spec(), home, federation.homes, watch=watch)
    assert outcome.steps_void == 0 and outcome.refusals == 0 and seen["up"] > 3 < seen["down"]
    postgres.start()
    cursor = follower.sync(home, postgres.uri)
    assert cursor.seq + 1 == AggregatorHome(home).ledger_path.read_bytes().count(b"\n")
    assert compare(home, postgres.uri) == []
    version = connect(postgres.uri).get_model_version_by_alias("fedavg-test", "candidate")
    assert {key for key in version.tags if key.startswith("consilium.approval.")} == {
        f"consilium.approval.{silo}" for silo in federation.silos
    }
    assert version.tags["consilium.run"] == outcome.run and len(SILOS) < len(federation.silos)
