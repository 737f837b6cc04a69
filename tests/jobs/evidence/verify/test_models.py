"""Model versions from the ledger and the run folders: numbers, aliases, ancestry, withdrawals, and promotion."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from aggregator.home import AggregatorHome
from aggregator.ledger.records import Kind
from aggregator.verify.models import ancestry, check_weights, checked_ledger, find, models, parents, promote
from crypto.errors import EvidenceError, SpecError
from crypto.keys import Identity
from tests.lineages import Past
from tests.records import as_record


def test_a_finished_run_is_a_model_before_anybody_numbered_it(past: Past) -> None:
    (only,) = models(past.home)
    end = past.record(Kind.RUN_FINISHED)
    assert (only.name, only.version, only.run, only.label) == ("rows", "", past.run, past.run)
    assert (only.weights_sha256, only.state_digest) == (end["weights_sha256"], end["state_digest"])
    assert (only.aliases, only.parent, only.withdrawn_silos, only.numbered) == ({}, None, (), False)
    assert find(past.home, past.run) == find(past.home, past.run[:8]) == only


def test_a_run_that_did_not_finish_is_none(past: Past) -> None:
    past.start(b"n" * 32)
    assert [one.run for one in models(past.home)] == [past.run]


def test_the_newest_version_is_the_candidate(past: Past) -> None:
    past.number("1")
    first = find(past.home, "rows@candidate")
    assert (first.label, first.run) == ("rows/1", past.run)
    assert first.aliases["candidate"][1] == past.entries(Kind.RUN_FINISHED)[0].time
    child = past.child()
    assert find(past.home, "rows@candidate").run == past.run, "a version without a number has no alias"
    past.number("2", child)
    assert find(past.home, "rows@candidate").label == "rows/2"
    assert find(past.home, "rows/1").aliases == {}


def test_what_does_not_exist_is_refused_with_what_does(past: Past) -> None:
    past.number("1")
    for text in ("rows/2", "other/1", "rows@champion", "rows", "", "/", "@", "rows/", past.run[:7], "0" * 8, "zz" * 8):
        with pytest.raises(SpecError) as refused:
            find(past.home, text)
        assert "rows@candidate, rows/1" in refused.value.remedy
        assert refused.value.got == text


def test_digits_that_fit_two_runs_are_refused_with_both(past: Past) -> None:
    other = past.run[:8] + "0" * 8
    past.rewrite(lambda kind, record: record)
    started, end = past.record(Kind.RUN_STARTED), past.record(Kind.RUN_FINISHED)
    past.ledger.append(as_record(Kind.RUN_STARTED, {**started, "run": other}))
    past.ledger.append(as_record(Kind.RUN_FINISHED, {**end, "run": other}))
    with pytest.raises(SpecError, match=f"one of {past.run}, {other}"):
        find(past.home, past.run[:8])
    assert find(past.home, other).run == other


def test_nothing_has_finished(past: Past) -> None:
    past.rewrite(lambda kind, record: None if kind is Kind.RUN_FINISHED else record)
    assert models(past.home) == []
    with pytest.raises(SpecError, match="No run has finished"):
        find(past.home, "rows/1")


# --- numbers that contradict -------------------------------------------------------------------------------------


def test_two_runs_of_one_number_are_refused(past: Past) -> None:
    past.number("1")
    past.number("1", past.child())
    with pytest.raises(EvidenceError, match="rows/1: expected one run"):
        models(past.home)


def test_a_number_under_another_name_is_refused(past: Past) -> None:
    past.number("1", name="other")
    with pytest.raises(EvidenceError, match="expected a version of rows, found other/1"):
        models(past.home)


def test_a_number_that_is_not_the_signed_one_is_refused(past: Past) -> None:
    past.number("1")
    promote(past.home, "rows/1", "champion", "the board")
    assert find(past.home, "rows/1").numbered
    past.number("7")
    with pytest.raises(EvidenceError, match="expected rows/1, as the ledger says, found rows/7"):
        models(past.home)
    (past.home.root / "jobs" / past.run / "mlflow.json").unlink()
    assert find(past.home, "rows/1").run == past.run, "the ledger needs no note"


@pytest.mark.parametrize("text", ["", "[]", "{", '{"model": "rows"}', '"rows"'])
def test_a_note_that_cannot_be_read_is_named(past: Past, text: str) -> None:
    (past.home.root / "jobs" / past.run / "mlflow.json").write_text(text)
    with pytest.raises(EvidenceError, match=f"{past.run}/mlflow.json"):
        models(past.home)


# --- ancestry and withdrawals ------------------------------------------------------------------------------------


def test_a_run_that_starts_from_a_result_has_a_parent(past: Past) -> None:
    child = past.child()
    last = past.start(b"p" * 32, parent="cd" * 32)
    other = past.start(b"o" * 32)
    above = parents(checked_ledger(past.home))
    assert above == {past.run: None, child: past.run, last: child, other: None}
    assert ancestry(last, above) == [last, child, past.run]


def test_a_result_that_comes_later_is_no_parent(past: Past) -> None:
    early = past.start(b"e" * 32, parent="cd" * 32)
    past.child()
    assert parents(checked_ledger(past.home))[early] is None


def test_a_silo_that_left_taints_what_it_was_part_of_and_what_came_of_it(past: Past) -> None:
    child = past.child()
    past.withdraw("silo-4")
    past.withdraw("silo-9")
    by_run = {one.run: one.withdrawn_silos for one in models(past.home)}
    assert by_run == {past.run: ("silo-4",), child: ("silo-4",)}


def test_what_a_silo_gives_after_it_came_back_is_not_withdrawn(past: Past) -> None:
    kinds = {Kind.RUN_STARTED, Kind.STEP_CLOSED, Kind.RUN_FINISHED}
    lines = [(one, past.record(one)) for one in kinds]
    past.rewrite(lambda kind, record: None if kind in kinds else record)
    past.withdraw("silo-1")
    for kind, record in sorted(lines, key=lambda line: list(Kind).index(line[0])):
        past.ledger.append(as_record(kind, record))
    assert find(past.home, past.run).withdrawn_silos == ()


def test_a_withdrawal_that_names_a_version_counts(past: Past) -> None:
    past.number("1")
    past.withdraw("silo-9", ["rows/1"])
    assert find(past.home, "rows/1").withdrawn_silos == ("silo-9",)


# --- promotion ---------------------------------------------------------------------------------------------------


def test_an_alias_moves_and_the_ledger_says_who_and_when(past: Past) -> None:
    past.number("1")
    child = past.child()
    past.number("2", child)
    moved = promote(past.home, past.run, "champion", " the board ")
    (entry,) = past.entries(Kind.MODEL_PUBLISHED)
    assert entry.record.fields() == {
        "run": past.run,
        "model_name": "rows",
        "version": "1",
        "alias": "champion",
        "weights_sha256": past.record(Kind.RUN_FINISHED)["weights_sha256"],
        "by": "the board",
    }
    assert moved.aliases == {"champion": ("the board", entry.time)}
    promote(past.home, "rows/1", "shadow", "somebody else")
    assert find(past.home, "rows@champion") == find(past.home, "rows@shadow")
    record = {**entry.record.fields(), "run": child, "version": "2", "weights_sha256": "cd" * 32, "by": "me"}
    past.ledger.append(as_record(Kind.MODEL_PUBLISHED, record))
    assert find(past.home, "rows@champion").label == "rows/2"
    assert set(find(past.home, "rows/1").aliases) == {"shadow"}


@pytest.mark.parametrize("alias", ["", "candidate", "latest", "v1", "V", "a b", "../x", "a" * 64, "1st"])
def test_an_alias_that_will_not_do(past: Past, alias: str) -> None:
    past.number("1")
    with pytest.raises(SpecError, match="alias"):
        promote(past.home, "rows/1", alias, "me")
    assert past.entries(Kind.MODEL_PUBLISHED) == []


@pytest.mark.parametrize("by", ["", " ", "a\x1b[31m", "a\nb", "x" * 121])
def test_nobody_promotes_namelessly(past: Past, by: str) -> None:
    past.number("1")
    with pytest.raises(SpecError, match="by"):
        promote(past.home, "rows/1", "champion", by)


def test_a_version_without_a_number_is_not_promoted(past: Past) -> None:
    with pytest.raises(SpecError, match="numbered"):
        promote(past.home, past.run, "champion", "me")


def test_a_version_with_withdrawn_data_is_promoted_by_force_only(past: Past) -> None:
    past.number("1")
    past.withdraw("silo-2")
    with pytest.raises(SpecError, match="holds data of silo-2"):
        promote(past.home, "rows/1", "champion", "me")
    assert past.entries(Kind.MODEL_PUBLISHED) == []
    assert "champion" in promote(past.home, "rows/1", "champion", "me", force=True).aliases


def test_weights_that_are_not_the_ledgers_are_not_promoted(past: Past) -> None:
    past.number("1")
    version = find(past.home, "rows/1")
    path = check_weights(checked_ledger(past.home), version)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(EvidenceError, match="SHA-256"):
        promote(past.home, "rows/1", "champion", "me")
    path.unlink()
    with pytest.raises(EvidenceError, match="no file"):
        promote(past.home, "rows/1", "champion", "me")


def test_a_ledger_that_names_other_weights_than_its_state_is_not_promoted(past: Past) -> None:
    def change(kind: Kind, record: dict[str, Any]) -> dict[str, Any]:
        return {**record, "weights_sha256": "ee" * 32} if kind is Kind.RUN_FINISHED else record

    past.number("1")
    past.rewrite(change)
    with pytest.raises(EvidenceError, match="expected eeee"):
        promote(past.home, "rows/1", "champion", "me")


def test_only_the_aggregators_key_promotes(past: Past) -> None:
    past.number("1")
    key = past.home.root / "keys" / "aggregator.key"
    key.unlink()
    with pytest.raises(SpecError, match="no file"):
        promote(past.home, "rows/1", "champion", "me")
    Identity.generate().save(key)
    with pytest.raises(SpecError, match="aggregator key"):
        promote(past.home, "rows/1", "champion", "me")


# --- a ledger that does not check --------------------------------------------------------------------------------


def test_a_folder_without_a_ledger(past: Past, tmp_path: Path) -> None:
    for home in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(EvidenceError, match=r"an aggregator's ledger.*--home"):
            checked_ledger(AggregatorHome(home))


def test_an_altered_line_is_named(past: Past) -> None:
    path = past.home.ledger_path
    lines = path.read_bytes().splitlines(keepends=True)
    record = json.loads(lines[5])
    assert json.loads(lines[5])["seq"] == 5
    record["time"] = "2020-01-01T00:00:00.000Z"
    lines[5] = json.dumps(record, sort_keys=True, separators=(",", ":")).encode() + b"\n"
    path.write_bytes(b"".join(lines))
    with pytest.raises(EvidenceError, match=r"ledger.jsonl line (6|7)"):
        checked_ledger(past.home)


def test_a_half_written_line_is_named(past: Past) -> None:
    path = past.home.ledger_path
    count = len(path.read_bytes().splitlines())
    with path.open("ab") as file:
        file.write(b'{"kind":')
    with pytest.raises(EvidenceError, match=f"line {count + 1}: expected a newline"):
        checked_ledger(past.home)


def test_a_cut_ledger_is_noticed(past: Past) -> None:
    path = past.home.ledger_path
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:-1]))
    with pytest.raises(EvidenceError, match=f"expected {len(lines)} lines"):
        checked_ledger(past.home)
