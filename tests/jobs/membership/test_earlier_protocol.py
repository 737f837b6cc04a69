"""A federation that was made under ``consilium/1`` goes on with its next epoch; until then everything is refused by
name, with the way out."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from aggregator.ledger.records import Kind
from aggregator.verify.checks import verify_run
from aggregator.verify.report import CheckOutcome
from crypto import durable
from crypto.charter import Charter, SignedCharter
from crypto.encoding import Writer
from crypto.errors import BadSignature, Malformed, SpecError
from crypto.home import Home
from crypto.pinned_charter import PinnedCharter
from jobs.demo.digits_data import make
from jobs.demo.federation import Federation, add_data
from jobs.job import encode_plan
from jobs.membership.accept import accept
from jobs.membership.diff import CharterDiff
from jobs.membership.keygen import read_member
from jobs.membership.propose import DAY, next_epoch, parse, sign, unsigned
from jobs.runtime.compose import open_agent, open_run
from silo_agent.approval_store import Approvals
from silo_agent.journal import Journal
from tests import local
from tests.protocol1 import CONSORTIUM, RUN, SILOS, OldFederation, fields_of
from tests.tampering import Lines, rewrite

REMEDY = "fed charter add"


@dataclass(frozen=True)
class Upgraded:
    """Homes as this release finds them: keys, charter, ledger and journals of ``consilium/1``."""

    old: OldFederation
    federation: Federation

    @property
    def pinned(self) -> PinnedCharter:
        return self.federation.aggregator_home.pinned

    def homes(self) -> list[Home]:
        return [self.federation.aggregator_home, *self.federation.silo_homes.values()]

    def next(self) -> bytes:
        new = next_epoch(self.pinned.newest(), not_after=int(time.time()) + 365 * DAY, now=int(time.time()))
        return bytes(sign(new, self.old.key("consortium")))


@pytest.fixture
def upgraded(tmp_path: Path) -> Upgraded:
    old = OldFederation.unpack(tmp_path)
    federation = Federation(tmp_path, "test", SILOS)
    aggregator = federation.aggregator_home
    durable.private_folder(aggregator.keys_folder)
    old.key("aggregator").save(aggregator.identity_path)
    aggregator.settings_path.write_text("{}\n")
    for silo, home in federation.silo_homes.items():
        home.make(silo)
        for role in ("agent", "owner"):
            home.key_path(role).unlink()
            old.key(f"{silo}.{role}").save(home.key_path(role))
        home.pinned.path.write_bytes(aggregator.pinned.path.read_bytes())
        home.pinned.consortium_path.write_bytes(aggregator.pinned.consortium_path.read_bytes())
    return Upgraded(old, federation)


# --- refused by name -------------------------------------------------------------------------------------------------


def test_nothing_runs_under_the_old_charter(upgraded: Upgraded) -> None:
    for home in upgraded.homes():
        with pytest.raises(Malformed, match="charter of version 1") as caught:
            home.charter()
        assert REMEDY in caught.value.remedy
    job = local.spec(rounds=1)
    plan = encode_plan(job.plan(upgraded.pinned.newest()))
    with pytest.raises(Malformed, match="charter of version 1"):
        open_run(job.text, plan, upgraded.federation.aggregator_home)
    with pytest.raises(Malformed, match="charter of version 1"):
        open_agent(job.text, upgraded.federation.silo_homes["silo-1"])


def test_the_old_charter_is_no_next_epoch(upgraded: Upgraded) -> None:
    old = upgraded.pinned.path.read_bytes()
    with pytest.raises(Malformed, match="charter of version 1"):
        accept(upgraded.federation.aggregator_home, old)
    charter = upgraded.pinned.newest()
    assert bytes(charter) == upgraded.old.charter_bytes and charter.version == 1
    with pytest.raises(Malformed, match="charter of version 1"):
        SignedCharter.sign(charter, upgraded.old.key("consortium"))
    with pytest.raises(Malformed, match="charter of version 1"):
        Charter.from_bytes(bytes(charter))
    with pytest.raises(Malformed, match="charter of version 3"):
        Charter.from_bytes(b"\x03" + bytes(charter)[1:], earlier=True)


def test_a_changed_old_charter_cannot_be_followed(upgraded: Upgraded) -> None:
    """Its signature is checked under the old label, and a new one does not pass as an old one."""
    data = bytearray(upgraded.pinned.path.read_bytes())
    data[20] ^= 1
    with pytest.raises(BadSignature):
        SignedCharter.open(bytes(data), upgraded.pinned.consortium(), earlier=True)
    new = bytearray(upgraded.next())
    new[4] = 1  # the version byte
    with pytest.raises(BadSignature):
        SignedCharter.open(bytes(new), upgraded.pinned.consortium(), earlier=True)


def test_an_old_approval_is_none(upgraded: Upgraded) -> None:
    """The owner decides anew: `fed requests`."""
    record = next(entry.record for entry in upgraded.old.record.approvals if entry.record.silo == "silo-1")
    home = upgraded.federation.silo_homes["silo-1"]
    folder = home.root / "approvals"
    folder.mkdir()
    (folder / f"{record.digest}.approval").write_bytes(bytes.fromhex(record.approval))
    approvals = Approvals(folder, upgraded.old.key("silo-1.owner").public)
    assert approvals.all() == []
    fields = fields_of("approval", bytes.fromhex(record.approval))
    state = approvals.decisions(fields["job"]).without_approval()
    assert state is not None and state.state == "waiting"


# --- the way out -----------------------------------------------------------------------------------------------------


def test_the_next_epoch_is_of_this_protocol_and_follows_the_old_one(upgraded: Upgraded) -> None:
    old, data = upgraded.pinned.newest(), upgraded.next()
    new = parse(data).charter
    assert (new.version, new.epoch, new.previous, new.members) == (2, 2, old.digest, old.members)
    assert old.budgets == (4, 16) and new.budgets == () and (old.n_min, new.n_min) == (4, 4)
    assert "changes    protocol: consilium/1 → consilium/2" in CharterDiff(new, old).lines()
    for home in upgraded.homes():
        assert accept(home, data).old == old
        assert home.charter() == new
        assert [charter for charter, _ in home.pinned.epochs()] == [old, new]
        assert accept(home, data).done
    with pytest.raises(BadSignature, match="not signed"):
        accept(upgraded.homes()[1], bytes(unsigned(new)))


def test_the_ledger_goes_on_and_both_runs_hold(upgraded: Upgraded) -> None:
    """One ledger, the same keys, journals of before: a run of each protocol, each verified as what it is."""
    before = verify_run(upgraded.federation.aggregator_home, RUN, consortium=CONSORTIUM)
    for home in upgraded.federation.silo_homes.values():
        with Journal(home.journal_path) as journal:
            journal.release("ab" * 32, 0, "cd" * 32, SILOS)
    data, rows = upgraded.next(), make(6, 7)
    for home in upgraded.homes():
        accept(home, data)
    for silo, home in upgraded.federation.silo_homes.items():
        add_data(home, silo, "digits", rows[silo])
    aggregator = upgraded.federation.aggregator_home
    outcome, _, _ = local.run_job(local.spec(rounds=1), aggregator.root, upgraded.federation.homes)
    after, new = (verify_run(aggregator, run, consortium=CONSORTIUM) for run in (RUN, outcome.run))
    assert after.verdict == before.verdict
    assert "epoch 1 (" in (said := next(line.detail for line in new.lines if line.name == "charters"))
    assert ", 2 (" in said and "signed by the consortium" in said
    assert {"steps", "sums", "state", "closing"} <= {line.name for line in new.of(CheckOutcome.OK)}


def cut(lines: Lines) -> None:
    """The run has not finished."""
    del lines[next(place for place, line in enumerate(lines) if line[0] == Kind.RUN_FINISHED)]


def test_an_old_run_is_not_resumed(upgraded: Upgraded) -> None:
    data = upgraded.next()
    for home in upgraded.homes():
        accept(home, data)
    rewrite(upgraded.federation.aggregator_home, cut)
    job = local.spec(rounds=1)
    plan = encode_plan(job.plan(upgraded.pinned.read()))
    with pytest.raises(SpecError) as caught:
        open_run(job.text, plan, upgraded.federation.aggregator_home, resume=RUN)
    assert (caught.value.path, caught.value.want) == (f"--resume {RUN}, protocol", "consilium/1")
    assert "new run" in caught.value.remedy


def test_a_member_file_of_before_is_taken(upgraded: Upgraded, tmp_path: Path) -> None:
    keys = {role: upgraded.old.key(f"silo-1.{role}") for role in ("agent", "owner")}
    body = Writer().text("consilium/1/member").text("silo-1")
    for key in keys.values():
        body.blob(key.public.raw)
    fields = {"format": "consilium/1/member", "silo": "silo-1"}
    fields |= {role: key.public.raw.hex() for role, key in keys.items()}
    fields |= {f"{role}_signature": key.sign(bytes(body)).hex() for role, key in keys.items()}
    path = tmp_path / "member.json"
    path.write_text(json.dumps(fields))
    assert read_member(path) == upgraded.pinned.newest().member("silo-1")
