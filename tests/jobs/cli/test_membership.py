"""The way of a federation by the command line alone: keys, charter, who joins, who changes keys, who withdraws."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from aggregator.home import AggregatorHome
from aggregator.ledger.format import read
from aggregator.ledger.records import Kind
from crypto.home import Home
from jobs.cli import main as cli
from jobs.membership.propose import parse
from tests.members import Bare, files
from tests.protocol1 import CONSORTIUM, RUN, OldFederation

pytestmark = pytest.mark.slow


@dataclass
class Fed:
    """``fed WORDS`` in an empty folder. ``answer``: what is typed when it asks."""

    monkeypatch: pytest.MonkeyPatch
    capsys: pytest.CaptureFixture[str]
    root: Path
    answer: str | None = None

    def __call__(self, *words: str | Path, code: int = 0) -> str:
        """Its output, stdout before stderr; the exit code must be ``code``."""

        def asked(text: str, **more: object) -> bool:
            assert self.answer is not None, f"asked {text!r}"
            return self.answer == "y"

        self.monkeypatch.setattr("typer.confirm", asked)
        self.monkeypatch.setattr(sys, "argv", ["fed", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        out, err = self.capsys.readouterr()
        assert int(ended.value.code or 0) == code, out + err
        return out + err

    def json(self, *words: str | Path) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self(*words, "--json").splitlines()[-1])
        return found


@pytest.fixture
def fed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Fed:
    monkeypatch.chdir(tmp_path)
    return Fed(monkeypatch, capsys, tmp_path)


def begun(fed: Fed, silos: int = 4) -> str:
    """Keys and epoch 1 of a federation, accepted everywhere; the consortium key's fingerprint."""
    mark = str(fed.json("keygen", "--home", "offline", "--consortium")["consortium"])
    fed("keygen", "--home", "aggregator", "--aggregator")
    members: list[str] = []
    for i in range(1, silos + 1):
        fed("keygen", "--home", f"silo-{i}", "--silo", f"silo-{i}")
        members += ["--member", f"silo-{i}/member.json"]
    fed("charter", "new", "demo", *members, "--aggregator", "aggregator/aggregator.pub", "--out", "one.bin",
        "--consortium-key", "offline/consortium.key", "--days", "30")  # fmt: skip
    for home in ("aggregator", *(f"silo-{i}" for i in range(1, silos + 1))):
        fed("charter", "accept", "one.bin", "--home", home, "--consortium", "offline/consortium.pub",
            "--fingerprint", mark, "--yes")  # fmt: skip
    return mark


def test_a_silo_joins_by_an_epoch_that_the_others_accept(fed: Fed) -> None:
    mark = begun(fed)
    shown = fed.json("charter", "show", "--home", "silo-1")
    assert (shown["federation"], shown["epoch"], len(shown["members"])) == ("demo", 1, 4)
    keys = {home: files(fed.root / home / "keys") for home in ("aggregator", "silo-1", "silo-2", "silo-3", "silo-4")}

    made = fed.json("keygen", "--home", "silo-9", "--silo", "silo-9")
    told = fed("charter", "add", made["file"], "--charter", "aggregator", "--out", "two.bin")
    assert "joins      silo-9" in told and made["agent"] in told and "not signed yet" in told
    assert "not signed" in fed("charter", "show", "two.bin")
    assert "not signed yet" in fed("charter", "accept", "two.bin", "--home", "silo-1", "--yes", code=20)
    told = fed("charter", "sign", "two.bin", "--consortium-key", "offline/consortium.key", "--charter", "one.bin")
    assert "joins      silo-9" in told and "fed charter accept" in told

    fed.answer = "n"
    assert "not accepted" in fed("charter", "accept", "two.bin", "--home", "silo-1", code=1)
    assert Home(fed.root / "silo-1").charter().epoch == 1
    fed.answer = "y"
    told = fed("charter", "accept", "two.bin", "--home", "silo-1")
    assert made["owner"] in told and "epoch 2 is in force" in told
    for home in ("aggregator", "silo-2", "silo-3", "silo-4"):
        assert [one["silo"] for one in fed.json("charter", "accept", "two.bin", "--home", home)["joins"]] == ["silo-9"]
    fed.answer = "y"
    first = fed("charter", "accept", "two.bin", "--home", "silo-9", "--consortium", "offline/consortium.pub")
    assert mark in first and "compare it" in first
    assert {home: files(fed.root / home / "keys") for home in keys} == keys
    assert Home(fed.root / "silo-9").charter().silos == ("silo-1", "silo-2", "silo-3", "silo-4", "silo-9")
    fed.answer = None
    assert "has it already" in fed("charter", "accept", "two.bin", "--home", "silo-1")


def test_the_first_charter_of_a_home_wants_the_fingerprint_or_a_person(fed: Fed) -> None:
    begun(fed)
    fed("keygen", "--home", "silo-9", "--silo", "silo-9")
    fed("charter", "add", "silo-9/member.json", "--charter", "one.bin", "--out", "two.bin", "--consortium-key",
        "offline/consortium.key")  # fmt: skip
    for way in ("--yes", "--json"):
        said = fed(
            "charter", "accept", "two.bin", "--home", "silo-9", "--consortium", "offline/consortium.pub", way, code=10
        )
        assert "--fingerprint" in said
    assert not (fed.root / "silo-9" / "charter.bin").exists()


def test_a_lost_owner_key_is_renewed_by_an_epoch(fed: Fed) -> None:
    begun(fed)
    (fed.root / "silo-1" / "keys" / "owner.key").unlink()
    made = fed.json("keygen", "--home", "silo-1", "--renew", "owner")
    told = fed("charter", "add", "--change", made["file"], "--charter", "silo-2", "--out", "two.bin",
               "--consortium-key", "offline/consortium.key")  # fmt: skip
    assert f"new key    silo-1, owner: {made['owner']}" in told
    assert fed.json("charter", "accept", "two.bin", "--home", "silo-1")["keys"][0]["now"] == made["owner"]
    assert (fed.root / "silo-1" / "keys" / "owner.key").exists()


def test_floors_and_validity_change_with_an_epoch_too(fed: Fed) -> None:
    begun(fed)
    told = fed.json("charter", "add", "--charter", "one.bin", "--out", "two.bin", "--days", "90", "--lane-floor", "4")
    assert told["numbers"].keys() == {"not_after", "lane_floor"} and told["numbers"]["lane_floor"]["now"] == 4
    assert told["signed"] is False
    said = fed("charter", "add", "--charter", "one.bin", "--out", "three.bin", code=10)
    assert "charter add" in said and not (fed.root / "three.bin").exists()


def test_a_silo_withdraws(fed: Fed) -> None:
    begun(fed)
    before = files(fed.root)
    plan = fed.json("withdraw", "silo-3", "--plan", "--home", "aggregator")
    assert (plan["silo"], plan["models"]) == ("silo-3", []) and len(plan["does_not_undo"]) == 6
    assert files(fed.root) == before
    assert "--reason" in fed("withdraw", "silo-3", "--home", "aggregator", code=10)
    done = fed.json("withdraw", "silo-3", "--reason", "consent withdrawn", "--home", "aggregator",
                    "--consortium-key", "offline/consortium.key")  # fmt: skip
    assert (done["silo"], done["leaves"], done["epoch"]) == ("silo-3", ["silo-3"], 2)
    kinds = [entry.kind for entry in read(AggregatorHome(fed.root / "aggregator").ledger_path)]
    assert kinds == [Kind.CHARTER, Kind.CHARTER, Kind.WITHDRAWAL]
    told = fed("charter", "accept", done["file"], "--home", "silo-3", "--yes")
    assert "NOT a member" in told
    said = fed("withdraw", "silo-3", "--reason", "again", "--home", "aggregator", "--consortium-key",
               "offline/consortium.key", code=10)  # fmt: skip
    assert "withdrawn with epoch 2" in said


def test_the_silos_of_a_local_federation_accept_at_once(fed: Fed) -> None:
    bare = Bare(fed.root / "f")
    bare.consortium.save(fed.root / "consortium.key")
    told = fed("withdraw", "silo-3", "--reason", "why", "--home", bare.aggregator, "--consortium-key",
               "consortium.key", "--federation", bare.root)  # fmt: skip
    assert told.count("accepted it (on this machine, as its operator)") == 4
    assert "no model and no run holds anything of silo-3" in told
    assert Home(bare.home("silo-4")).charter().silos == ("silo-1", "silo-2", "silo-4")


def test_the_consortium_removes_and_the_aggregator_writes_the_withdrawal(fed: Fed) -> None:
    begun(fed)
    fed("charter", "remove", "silo-3", "--charter", "one.bin", "--out", "two.bin", "--consortium-key",
        "offline/consortium.key")  # fmt: skip
    fed("charter", "accept", "two.bin", "--home", "aggregator", "--yes")
    told = fed("withdraw", "silo-3", "--reason", "why", "--home", "aggregator")
    assert "leaves     silo-3" in told and "000002.bin" in told


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("keygen", "--home", "new"), 10, "--silo, --aggregator, --consortium or --renew"),
        (("keygen", "--home", "new", "--silo", "a", "--aggregator"), 10, "--silo, --aggregator"),
        (("keygen", "--home", "silo-1", "--silo", "silo-1"), 10, "never overwritten"),
        (("keygen", "--home", "new", "--silo", "../up"), 10, "silo"),
        (("charter", "remove", "silo-9", "--charter", "one.bin", "--out", "x.bin"), 10, "silo-9"),
        (("charter", "remove", "silo-1", "silo-2", "--charter", "one.bin", "--out", "x.bin"), 10, "at least 3"),
        (("charter", "remove", "silo-1", "--charter", "one.bin", "--out", "one.bin"), 10, "not there yet"),
        (("charter", "remove", "silo-1", "--charter", "consortium.key", "--out", "x.bin"), 10, "charter's file"),
        (
            ("charter", "remove", "silo-1", "--charter", "one.bin", "--out", "x.bin", "--consortium-key", "other.key"),
            20,
            "does not verify",
        ),
        (("charter", "add", "one.bin", "--charter", "one.bin", "--out", "x.bin"), 10, "member file"),
        (("charter", "add", "silo-1/member.json", "--charter", "one.bin", "--out", "x.bin"), 10, "no member"),
        (("charter", "sign", "one.bin", "--consortium-key", "nothing.key"), 10, "nothing.key"),
        (("charter", "sign", "one.bin", "--consortium-key", "consortium.key", "--charter", "silo-1"), 10, "epoch"),
        (("charter", "show"), 10, "a file or --home"),
        (("charter", "show", "one.bin", "--home", "silo-1"), 10, "a file or --home"),
        (("charter", "accept", "other.bin", "--home", "silo-1", "--yes"), 20, "does not verify"),
        (("charter", "accept", "one.bin", "--home", "empty", "--yes"), 10, "silo's home"),
        (("withdraw", "silo-9", "--plan", "--home", "aggregator"), 10, "silo-9"),
        (("withdraw", "silo-1", "--reason", "why", "--home", "aggregator"), 10, "consortium's key"),
        (
            ("withdraw", "silo-1", "--reason", "why", "--home", "aggregator", "--consortium-key", "other.key"),
            10,
            "the members have pinned",
        ),
        (("try", "--home", "silo-1", "--model", "one.bin", "--data", "digits"), 30, "digits"),
        (("try", "--home", "aggregator", "--model", "one.bin", "--data", "digits"), 10, "silo's home"),
    ],
)
def test_what_is_wrong_is_named_and_nothing_is_written(fed: Fed, words: tuple[str, ...], code: int, says: str) -> None:
    bare = Bare(fed.root / "f")
    for silo in bare.silos:
        bare.home(silo).rename(fed.root / silo)
    bare.aggregator.rename(fed.root / "aggregator")
    bare.consortium.save(fed.root / "consortium.key")
    (fed.root / "one.bin").write_bytes(bytes(bare.sign(bare.first)))
    other = Bare(fed.root / "g")
    other.consortium.save(fed.root / "other.key")
    (fed.root / "other.bin").write_bytes(other.following(remove=["silo-3"])[1])
    (fed.root / "empty").mkdir()
    (fed.root / "empty" / "consortium.pub").write_bytes(bare.consortium.public.raw)
    before = files(fed.root, but=["run.lock", "journal.jsonl"])
    assert says in fed(*words, code=code)
    assert files(fed.root, but=["run.lock", "journal.jsonl"]) == before


def test_signing_needs_a_charter_that_follows(fed: Fed) -> None:
    bare = Bare(fed.root / "f")
    bare.consortium.save(fed.root / "consortium.key")
    _, signed = bare.following(remove=["silo-3"])
    (fed.root / "two.bin").write_bytes(signed)
    told = fed.json("charter", "sign", "two.bin", "--consortium-key", "consortium.key", "--charter", bare.aggregator)
    assert told["signed"] and told["leaves"] == ["silo-3"]
    assert bytes(parse((fed.root / "two.bin").read_bytes())) == signed


def test_a_federation_of_the_protocol_before_goes_on_by_command(fed: Fed) -> None:
    """docs/operations.md, "A federation made before"."""
    old = OldFederation.unpack(fed.root)
    keys = fed.root / "aggregator" / "keys"
    keys.mkdir(mode=0o700)
    old.key("aggregator").save(keys / "aggregator.key")
    key = fed.root / "offline.key"
    old.key("consortium").save(key)
    (fed.root / "aggregator" / "aggregator.json").write_text("{}")
    assert "federation 'test', epoch 1, 5 silos" in fed("charter", "show", "--home", "aggregator")
    fed("charter", "add", "--charter", "aggregator", "--out", "two.bin", "--consortium-key", key, "--days", "365")
    said = fed("charter", "accept", "two.bin", "--home", "aggregator", "--yes")
    assert "changes    protocol: consilium/1 → consilium/2" in said and "epoch 2 is in force" in said
    fed("verify", RUN, "--home", "aggregator", "--consortium", CONSORTIUM)
