"""A federation deployed as docs/deploy.md tells: provisioned kits, a service for each site, and its days.

One silo drained in the middle of a run, the server drained and back, a fourth silo, a renewed certificate, a silo that
the charter no longer names. The tests go on from one another, in this order.
"""

from __future__ import annotations

from collections.abc import Iterator

import psutil
import pytest

from aggregator.ledger.records import Kind
from crypto.home import Home
from jobs.provisioning.provision import archive_path, renew
from jobs.security_log.reader import check_log
from tests.deployed import Deployed

pytestmark = pytest.mark.federation


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployed]:
    deployed = Deployed(tmp_path_factory.mktemp("deployed"))
    try:
        for one in ("server", *deployed.silos):
            deployed.start(one)
        deployed.all_ready()
        yield deployed
    finally:
        deployed.stop()


def test_a_drained_silo_ends_its_step_and_declines_the_next(site: Deployed) -> None:
    with site.admin() as session:
        began, _ = site.submit(session, site.spec(8), "drained")
        site.until(lambda: bool(site.recorded(began, Kind.STEP_CLOSED, name="train/1")), "at train/2")
        service = psutil.Process(site.processes["silo-3"].pid)
        tree = service.children(recursive=True)
        site.may_end = frozenset({"silo-3"})
        site.term("silo-3")
        site.until(lambda: site.ready("silo-3") == "draining" or not service.is_running(), "draining")
        assert site.ended("silo-3") == 0
        site.may_end = frozenset()
        assert not any(process.is_running() for process in tree)
        site.until(lambda: bool(site.recorded(began, Kind.RUN_FINISHED)), "finished")
    refusals = {(one.record.silo, one.record.code, one.record.phase) for one in site.recorded(began, Kind.REFUSAL)}
    assert refusals == {("silo-3", "LEAVING", "open")}
    closed = [entry.record for entry in site.recorded(began, Kind.STEP_CLOSED)]
    cohorts = [one.survivors for one in closed]
    assert len(closed) == 10 and cohorts[0] == tuple(site.silos) and cohorts[-1] == ("silo-1", "silo-2")
    lost = [one.lost for one in closed if one.lost]
    assert all(one == {"silo-3": "open"} for one in lost), "it left between two steps, in the middle of none"
    events = check_log(Home(site.home("silo-3"))).events
    assert events["service-draining"] == events["service-stopped"] == 1


def test_a_drained_server_leaves_a_run_that_goes_on(site: Deployed) -> None:
    site.start("silo-3")
    site.all_ready()
    spec = site.spec(6)
    with site.admin() as session:
        session.wait_for_silos(3)
        began, job = site.submit(session, spec, "broken-off")
        site.until(lambda: bool(site.recorded(began, Kind.STEP_CLOSED, name="train/1")), "at train/2")
    before = len(site.recorded(began, Kind.STEP_CLOSED))
    site.term("server")
    assert site.ended("server") == 0
    ended = site.recorded(began, Kind.STEP_CLOSED)
    assert len(ended) > before, "the step under way has its record"
    assert not site.recorded(began, Kind.RUN_FINISHED) and not site.recorded(began, Kind.RUN_FAILED)
    run = ended[0].record.run
    site.start("server")
    site.all_ready()
    with site.admin() as session:
        assert session.wait_for_silos(3) == tuple(site.silos), "they came by themselves"
        assert session.status(job).startswith("FINISHED"), "no zombie"
        site.until(lambda: bool(site.recorded(began, Kind.RUN_FINISHED)), "finished, without a command")
    (finished,) = site.recorded(began, Kind.RUN_FINISHED)
    assert finished.record.run == run and set(finished.record.countersignatures) == set(site.silos)


def test_a_fourth_silo_and_a_renewed_certificate(site: Deployed) -> None:
    kits = {one: archive_path(site.kits, one).read_bytes() for one in ("server", *site.silos)}
    site.join("silo-4")
    site.start("silo-4")
    old = (site.home("silo-2") / "kit" / "startup" / "client.crt").read_bytes()
    renew(site.project, site.kits, "silo-2")
    after = {one: archive_path(site.kits, one).read_bytes() for one in kits}
    assert {one for one in kits if kits[one] != after[one]} == {"silo-2"}
    site.term("silo-2")
    assert site.ended("silo-2") == 0
    site.start("silo-2")
    site.all_ready()
    assert (site.home("silo-2") / "kit" / "startup" / "client.crt").read_bytes() != old
    with site.admin() as session:
        session.wait_for_silos(4)
        began, _ = site.submit(session, site.spec(2), "four")
        site.until(lambda: bool(site.recorded(began, Kind.RUN_FINISHED)), "finished")
    assert all(len(entry.record.survivors) == 4 for entry in site.recorded(began, Kind.STEP_CLOSED))


def test_who_is_not_in_the_charter_is_not_let_in_and_comes_back_by_itself(site: Deployed) -> None:
    aggregator = site.home("server")
    four = Home(aggregator).charter()
    pid = site.processes["silo-4"].pid
    three, signed = site.members.following(four, remove=["silo-4"])
    site.accept("server", signed)
    site.until(lambda: site.ready("silo-4") != "ready", "refused")
    site.until(lambda: "starting again" in site.log("silo-4"), "starting again")
    with site.admin() as session:
        site.until(lambda: session.silos() == tuple(site.silos[:3]), "three silos")
    _, signed = site.members.following(three, add=[four.member("silo-4")])
    site.accept("server", signed)
    site.until(lambda: site.ready("silo-4") == "ready", "back")
    assert site.processes["silo-4"].pid == pid
    assert check_log(Home(site.home("silo-4"))).events["login-accepted"] >= 2
