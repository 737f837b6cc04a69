"""The security log: closed events, one chain over files and processes, nothing lost in silence, nothing but ids."""

from __future__ import annotations

import errno
import json
import logging
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from crypto import durable
from crypto.errors import EvidenceError, NoSpace, NotApproved, SpecError
from crypto.home import SECURITY_HEAD, SECURITY_LOG, Home
from jobs.security_log import reader
from jobs.security_log import writer as security_log_writer
from jobs.security_log.events import EVENTS, FIELDS, PURPOSE, Event, lacking, table, wire_name
from jobs.security_log.writer import SecurityLog, check_log, files

HEX = "ab" * 32
FINGERPRINT = "0123 4567 89ab cdef 0123 4567 89ab cdef"
#: A right value of every field.
RIGHT: dict[str, Any] = {
    **dict.fromkeys(FIELDS, HEX),
    **dict.fromkeys(("attempt", "bytes", "epoch", "exit", "schema", "step", "until", "uses", "wanted", "there"), 3),
    **dict.fromkeys(("expected", "fingerprint", "found", "new", "old"), FINGERPRINT),
    **dict.fromkeys(("alias", "model", "name", "version"), "digits-1.0_a"),
    **dict.fromkeys(("channel", "peer", "topic"), "aux_communication"),
    **dict.fromkeys(("blame", "silo", "signer", "site"), "silo-1"),
    "code": "NOT_APPROVED",
    "kind": "upload",
    "path": "jobs/ab12/uploads/000001/silo-1/everyone.u32",
    "phase": "unmask-slots",
    "purpose": PURPOSE,
    "reason": "unauthenticated",
    "retention": "security, 12 months",
    "role": "owner",
    "service": "silo",
    "subject": "ledger",
    "way": "in",
}
NOVEMBER = 1_795_230_000.0  # 2026-11-21
DECEMBER = NOVEMBER + 20 * 86400


def fields_of(event: Event, *, optional: bool = True) -> dict[str, Any]:
    kind = EVENTS[event]
    return {name: RIGHT[name] for name in (*kind.fields, *(kind.optional if optional else ()))}


def at(seconds: float) -> Callable[[], float]:
    return lambda: seconds


def lines(home: Home, name: str = SECURITY_LOG) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (home.root / name).read_bytes().splitlines()]


@pytest.fixture
def log(tmp_path: Path) -> SecurityLog:
    (tmp_path / "silo.json").write_text('{"silo": "silo-7"}')
    return SecurityLog(Home(tmp_path), now=at(NOVEMBER))


def some(log: SecurityLog, n: int = 3) -> None:
    for step in range(n):
        log("shares-released", run=HEX, step=step, t3=HEX)


# --- events ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("event", [event for event in Event if not event.startswith("log-")])
def test_every_event_is_written_as_it_was_said(log: SecurityLog, event: Event) -> None:
    log(event, **fields_of(event))
    log(event, **fields_of(event, optional=False))
    header, full, bare = lines(log.home)
    assert header["event"] == "log-opened"
    assert (full["event"], full["fields"]) == (event, fields_of(event))
    assert (bare["event"], bare["fields"]) == (event, fields_of(event, optional=False))
    assert full["at"] == "2026-11-21T03:00:00.000Z"
    assert check_log(log.home).events == {"log-opened": 1, str(event): 2}


@pytest.mark.parametrize("event", list(Event))
def test_an_event_takes_its_fields_and_no_other(log: SecurityLog, event: Event) -> None:
    kind = EVENTS[event]
    assert not set(kind.fields) & set(kind.optional) and {*kind.fields, *kind.optional} <= FIELDS.keys()
    with pytest.raises(SpecError, match="no field other"):
        log(event, **fields_of(event), rows=41)
    for name in kind.fields:
        with pytest.raises(SpecError, match=name):
            log(event, **{key: value for key, value in fields_of(event).items() if key != name})
    assert not log.home.security_log.exists()


@pytest.mark.parametrize("name", list(FIELDS))
@pytest.mark.parametrize("value", ["Mrs Smith, born 1961", "", None, -1, 1.5, b"ab", ["silo-1"], "a\nb", "x" * 300])
def test_no_field_takes_free_text(log: SecurityLog, name: str, value: object) -> None:
    event = next(event for event in Event if name in fields_of(event))
    with pytest.raises(SpecError, match=name):
        log(event, **{**fields_of(event), name: value})


@pytest.mark.parametrize("path", ["/etc/passwd", "../up", "a/../b", "data set/x"])
def test_a_path_stays_inside_the_home(log: SecurityLog, path: str) -> None:
    with pytest.raises(SpecError):
        log("record-removed", kind="upload", path=path, bytes=1)


def test_an_unknown_event_is_no_event(log: SecurityLog) -> None:
    with pytest.raises(SpecError, match="event of the list"):
        log("coffee-made")


def test_every_event_is_documented_and_the_table_is_made_of_the_list() -> None:
    assert EVENTS.keys() == set(Event)
    rows = table().splitlines()[2:]
    assert len(rows) == len(Event)
    for row, (event, kind) in zip(rows, EVENTS.items(), strict=True):
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        assert cells[0] == f"`{event}`" and cells[1] == kind.group and kind.when == cells[2]
        assert cells[4] == ("yes" if kind.must else "no")
        assert all(f"`{name}`" in cells[3] for name in (*kind.fields, *kind.optional))
    assert {name for kind in EVENTS.values() for name in (*kind.fields, *kind.optional)} == FIELDS.keys()
    assert table() in (Path(__file__).parents[3] / "docs" / "records.md").read_text()


@pytest.mark.parametrize(
    ("reason", "event"),
    [
        ("there is no approval of it", Event.APPROVAL_MISSING),
        ("the data owner has denied it", Event.APPROVAL_MISSING),
        ("its approval has expired", Event.APPROVAL_EXPIRED),
        ("its approval is not valid yet", Event.APPROVAL_EXPIRED),
        ("its approval is used up", Event.APPROVAL_USED_UP),
        ("the software has changed since", Event.APPROVAL_VOID),
        ("it is for another plan: what would leave has changed", Event.APPROVAL_VOID),
    ],
)
def test_what_a_job_lacked_is_told_apart(reason: str, event: Event) -> None:
    assert lacking(NotApproved(HEX, reason=reason)) is event


def test_the_reasons_are_those_that_approvals_give() -> None:
    from crypto import approval
    from silo_agent import approval_store

    said = "".join(Path(str(module.__file__)).read_text() for module in (approval, approval_store))
    for words in ("has expired", "not valid yet", "used up", "has denied"):
        assert words in said
    assert "there is no" in NotApproved(HEX).reason
    changed = approval._CHANGED.values()
    assert {lacking(NotApproved(HEX, reason=reason)) for reason in changed} == {Event.APPROVAL_VOID}


def test_nvflares_names_are_taken_only_if_they_look_like_names() -> None:
    assert wire_name("__do_task__") == "__do_task__" and wire_name("sm__STREAM") == "sm__STREAM"
    assert {wire_name(name) for name in ("Mrs Smith", "", "x" * 65, None, 7, "a\nb")} == {"?"}


# --- the file ----------------------------------------------------------------------------------------------------


def test_the_header_says_what_it_is_for_and_how_long_it_is_kept(log: SecurityLog) -> None:
    some(log, 1)
    header = lines(log.home)[0]
    assert header["seq"] == 0 and header["prev"] == "0" * 64
    assert header["fields"] == {
        "purpose": PURPOSE,
        "retention": "security, 12 months",
        "schema": 1,
        "site": "silo-7",
    }
    (log.home.root / "silo.json").unlink()
    log.home.security_log.unlink()
    (log.home.security_head).unlink()
    some(log, 1)
    assert lines(log.home)[0]["fields"]["site"] == "aggregator"


def test_lines_are_chained_and_private(log: SecurityLog) -> None:
    some(log)
    raw = log.home.security_log.read_bytes().splitlines()
    found = lines(log.home)
    assert [line["seq"] for line in found] == [0, 1, 2, 3]
    assert [line["prev"] for line in found[1:]] == [sha256(line).hexdigest() for line in raw[:-1]]
    assert (log.home.security_head).read_text() == f"{3:020d} {sha256(raw[-1]).hexdigest()}\n"
    for name in (SECURITY_LOG, SECURITY_HEAD):
        assert stat.S_IMODE((log.home.root / name).stat().st_mode) == 0o600
    summary = check_log(log.home)
    assert (summary.files, summary.lines, summary.torn) == (1, 4, False)
    assert summary.first == summary.last == "2026-11-21T03:00:00.000Z"


def test_a_new_file_is_made_durable_with_its_name(log: SecurityLog, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[Path] = []
    monkeypatch.setattr(durable, "sync_folder", synced.append)
    some(log, 3)
    assert synced == [log.home.root]


def test_a_new_month_begins_a_new_file_and_the_chain_goes_on(log: SecurityLog) -> None:
    some(log, 2)
    later = SecurityLog(log.home, now=at(DECEMBER))
    some(later, 2)
    assert [path.name for path in files(log.home)] == ["security-2026-11.jsonl", SECURITY_LOG]
    last = (log.home.root / "security-2026-11.jsonl").read_bytes().splitlines()[-1]
    header, *rest = lines(log.home)
    assert (header["event"], header["seq"], header["prev"]) == ("log-opened", 3, sha256(last).hexdigest())
    assert [line["seq"] for line in rest] == [4, 5]
    summary = check_log(log.home)
    assert (summary.lines, summary.first[:7], summary.last[:7]) == (6, "2026-11", "2026-12")


def test_a_long_file_is_put_aside(log: SecurityLog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(security_log_writer, "MOST_BYTES", 1000)
    some(log, 12)
    aside = [path.name for path in files(log.home)[:-1]]
    assert aside[:3] == ["security-2026-11.jsonl", "security-2026-11.1.jsonl", "security-2026-11.2.jsonl"]
    assert check_log(log.home).events["shares-released"] == 12


def test_files_that_outlived_their_class_are_not_missed(log: SecurityLog) -> None:
    some(log, 2)
    some(SecurityLog(log.home, now=at(DECEMBER)), 2)
    (log.home.root / "security-2026-11.jsonl").unlink()
    assert check_log(log.home).lines == 3


def test_the_newest_of_an_event_is_found_in_any_file(log: SecurityLog) -> None:
    log.policy("aa" * 32)
    log.policy("aa" * 32)
    later = SecurityLog(log.home, now=at(DECEMBER))
    some(later, 1)
    later.policy("aa" * 32)
    later.policy("bb" * 32)
    assert check_log(log.home).events["policy-changed"] == 2
    newest = log.last("policy-changed")
    assert newest is not None and newest.fields == {"before": "aa" * 32, "after": "bb" * 32}
    assert log.last("alias-moved") is None


# --- damage ------------------------------------------------------------------------------------------------------


def damaged(log: SecurityLog, change: Callable[[list[bytes]], list[bytes]]) -> None:
    path = log.home.security_log
    path.write_bytes(b"".join(line + b"\n" for line in change(path.read_bytes().splitlines())))


@pytest.mark.parametrize(
    ("change", "where"),
    [
        (lambda raw: [*raw[:2], raw[2].replace(b'"step":1', b'"step":2'), *raw[3:]], "line 4"),
        (lambda raw: [*raw[:2], *raw[3:]], "line 3"),
        (lambda raw: [raw[0], raw[2], raw[1], *raw[3:]], "line 2"),
        (lambda raw: [*raw, raw[-1]], "line 6"),
        (lambda raw: raw[1:], "line 1"),
        (lambda raw: [*raw[:3], b"not JSON", *raw[4:]], "line 4"),
        (lambda raw: [*raw[:3], raw[3].replace(b'"seq"', b'"note":"Mrs Smith","seq"'), *raw[4:]], "line 4"),
        (lambda raw: [*raw[:3], raw[3].replace(b"shares-released", b"shares-given"), *raw[4:]], "line 4"),
        (lambda raw: [*raw[:3], raw[3].replace(b'"seq":3', b'"seq": 3'), *raw[4:]], "line 4"),
        (lambda raw: [*raw[:-1], raw[-1].replace(b'"step":3', b'"step":4')], "line 5"),
        (lambda raw: raw[:-1], "security.head"),
        (lambda raw: [], "no log|line|head"),
    ],
)
def test_a_change_is_found_and_named(
    log: SecurityLog, change: Callable[[list[bytes]], list[bytes]], where: str
) -> None:
    some(log, 4)
    damaged(log, change)
    with pytest.raises(EvidenceError, match=where):
        check_log(log.home)


def made_anew(log: SecurityLog, change: Callable[[int, dict[str, Any]], dict[str, Any]]) -> None:
    """Change lines, and make the chain and the head fit again: what is left to find is the change itself."""
    prev, made = "0" * 64, []
    for number, line in enumerate(lines(log.home)):
        made.append(reader.encode(change(number, {**line, "prev": prev})))
        prev = sha256(made[-1]).hexdigest()
    damaged(log, lambda raw: made)
    last = json.loads(made[-1])["seq"]
    (log.home.security_head).write_text(f"{int(last):020d} {prev}\n")


@pytest.mark.parametrize(
    ("number", "change", "message"),
    [
        (2, {"seq": 3}, "line 3: expected number 2, found 3"),
        (2, {"note": "Mrs Smith"}, "line 3"),
        (2, {"at": "yesterday"}, "line 3"),
        (2, {"fields": {}}, "line 3"),
        (2, {"event": "log-opened", "fields": fields_of(Event.LOG_OPENED)}, "log-opened on the first line"),
        (0, {"event": "login-accepted", "fields": {}}, "log-opened on the first line"),
        (0, {"seq": -1}, "line 1"),
        (0, {"seq": "0"}, "line 1"),
        (0, {"seq": False}, "line 1"),
        (0, {"prev": "ab" * 32}, "lines are missing"),
        (0, {"prev": None}, "lines are missing"),
    ],
)
def test_a_change_is_found_even_if_the_chain_is_made_anew(
    log: SecurityLog, number: int, change: dict[str, Any], message: str
) -> None:
    some(log, 3)
    made_anew(log, lambda at, line: line)
    assert check_log(log.home).lines == 4
    made_anew(log, lambda at, line: {**line, **change} if at == number else line)
    with pytest.raises(EvidenceError, match=message):
        check_log(log.home)


def test_what_is_no_object_is_no_line(log: SecurityLog) -> None:
    some(log, 2)
    for raw in (b"[]", b"7", b'"seq"', b"null"):
        damaged(log, lambda before, raw=raw: [*before[:2], raw])  # type: ignore[misc]
        with pytest.raises(EvidenceError, match="line 3"):
            check_log(log.home)


def test_lines_of_some_events_are_read_past_damaged_ones(log: SecurityLog) -> None:
    some(log, 4)
    damaged(log, lambda raw: [*raw[:2], raw[2].replace(b'"t3"', b'"t4"'), raw[3][:-9], *raw[4:]])
    found = list(reader.lines_of(log.home.security_log, {Event.SHARES_RELEASED}))
    assert [(line.seq, line.event, line.fields["step"]) for line in found] == [
        (1, Event.SHARES_RELEASED, 0),
        (4, Event.SHARES_RELEASED, 3),
    ]


def test_a_log_that_was_cut_goes_on_and_says_so(log: SecurityLog) -> None:
    some(log, 4)
    damaged(log, lambda raw: raw[:-2])
    some(log, 1)
    told = lines(log.home)[-2]
    assert (told["event"], told["fields"]) == ("log-altered", {"wanted": 4, "there": 2})
    with pytest.raises(EvidenceError, match="ends at number 4, found 2"):
        check_log(log.home)


def test_a_log_whose_last_line_was_changed_says_so(log: SecurityLog) -> None:
    some(log, 2)
    damaged(log, lambda raw: [*raw[:-1], raw[-1].replace(b'"step":1', b'"step":7')])
    some(log, 1)
    assert lines(log.home)[-2]["event"] == "log-altered"


def test_a_log_that_was_removed_says_so(log: SecurityLog) -> None:
    some(log, 2)
    log.home.security_log.unlink()
    some(log, 1)
    assert [line["event"] for line in lines(log.home)] == ["log-opened", "log-altered", "shares-released"]


def test_a_lost_head_is_missed(log: SecurityLog) -> None:
    some(log, 2)
    (log.home.security_head).unlink()
    with pytest.raises(EvidenceError, match=SECURITY_HEAD):
        check_log(log.home)
    with pytest.raises(EvidenceError, match="no log"):
        check_log(Home(log.home.root / "elsewhere"))


def test_a_head_that_lags_after_a_crash_is_no_fault(log: SecurityLog) -> None:
    some(log, 1)
    before = (log.home.security_head).read_text()
    some(log, 2)
    (log.home.security_head).write_text(before)
    assert check_log(log.home).lines == 4
    some(log, 1)
    assert "log-altered" not in check_log(log.home).events


def test_half_a_line_is_cut_off_and_told(log: SecurityLog) -> None:
    some(log, 2)
    half = b'{"at":"2026-11-21T03:00:'
    with log.home.security_log.open("ab") as out:
        out.write(half)
    assert check_log(log.home).torn
    some(log, 1)
    told = lines(log.home)[-2]
    assert told["event"] == "log-recovered"
    assert told["fields"] == {"bytes": len(half), "sha256": sha256(half).hexdigest()}
    summary = check_log(log.home)
    assert (summary.lines, summary.torn) == (5, False)


def test_half_a_line_is_told_in_the_next_file_if_its_own_is_put_aside(log: SecurityLog) -> None:
    some(log, 2)
    with log.home.security_log.open("ab") as out:
        out.write(b"{half")
    some(SecurityLog(log.home, now=at(DECEMBER)), 1)
    assert [line["event"] for line in lines(log.home)] == ["log-opened", "log-recovered", "shares-released"]
    assert check_log(log.home).files == 2


def test_a_damaged_long_file_is_put_aside_too(log: SecurityLog, monkeypatch: pytest.MonkeyPatch) -> None:
    some(log, 2)
    damaged(log, lambda raw: [*raw[:-1], b"no line"])
    monkeypatch.setattr(security_log_writer, "MOST_BYTES", 10)
    some(log, 1)
    assert [path.name for path in files(log.home)] == ["security-2026-11.jsonl", SECURITY_LOG]
    assert [line["event"] for line in lines(log.home)] == ["log-opened", "log-altered", "shares-released"]


def test_a_file_without_a_line_is_gone_on_with(log: SecurityLog) -> None:
    some(log, 2)
    later = SecurityLog(log.home, now=at(DECEMBER))
    some(later, 1)
    log.home.security_log.write_bytes(b"")
    last = (log.home.root / "security-2026-11.jsonl").read_bytes().splitlines()[-1]
    (log.home.security_head).write_text(f"{2:020d} {sha256(last).hexdigest()}\n")
    assert check_log(log.home).lines == 3
    some(later, 1)
    assert [path.name for path in files(log.home)] == ["security-2026-11.jsonl", SECURITY_LOG]
    assert check_log(log.home).lines == 5


def test_a_file_that_was_put_aside_has_whole_lines(log: SecurityLog) -> None:
    some(log, 2)
    some(SecurityLog(log.home, now=at(DECEMBER)), 1)
    with (log.home.root / "security-2026-11.jsonl").open("ab") as out:
        out.write(b"{")
    with pytest.raises(EvidenceError, match=r"security-2026-11\.jsonl.*whole lines"):
        check_log(log.home)


# --- full disk ---------------------------------------------------------------------------------------------------


@pytest.fixture
def full(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """From now on the disk takes half of what is written."""

    def now() -> None:
        write = os.write
        monkeypatch.setattr(os, "write", lambda fd, data: write(fd, data[: len(data) // 2]))

    return now


@pytest.mark.parametrize("event", [event for event, kind in EVENTS.items() if kind.must])
def test_what_must_be_written_first_does_not_happen_on_a_full_disk(
    log: SecurityLog, full: Callable[[], None], event: Event
) -> None:
    some(log, 2)
    before = log.home.security_log.read_bytes()
    full()
    with pytest.raises(NoSpace, match=f"{event} must not happen"):
        log(event, **fields_of(event))
    assert log.home.security_log.read_bytes() == before, "no half line stays"


@pytest.mark.parametrize("event", [e for e, kind in EVENTS.items() if not kind.must and not e.startswith("log-")])
def test_other_events_go_to_the_debug_log_then(
    log: SecurityLog, full: Callable[[], None], caplog: pytest.LogCaptureFixture, event: Event
) -> None:
    some(log, 2)
    before = log.home.security_log.read_bytes()
    full()
    with caplog.at_level(logging.WARNING, "consilium.security"):
        log(event, **fields_of(event))
    assert event in caplog.text and os.strerror(errno.ENOSPC) in caplog.text
    assert log.home.security_log.read_bytes() == before


def test_release_approval_and_disclosure_are_those_that_must_be_written() -> None:
    assert {str(event) for event, kind in EVENTS.items() if kind.must} == {
        "approval-granted",
        "approval-used",
        "bundle-exported",
        "privacy-granted",
        "privacy-spent",
        "salt-disclosed",
        "shares-released",
    }


def test_a_flood_does_not_fill_the_disk_and_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(security_log_writer, "MOST_AN_HOUR", 5)
    clock = [NOVEMBER]
    log = SecurityLog(Home(tmp_path), now=lambda: clock[0])
    for step in range(50):
        log("refusal", step=step, phase="open", code="MALFORMED")
    log("shares-released", run=HEX, step=0, t3=HEX)
    assert check_log(Home(tmp_path)).events == {"log-opened": 1, "refusal": 5, "log-flooded": 1, "shares-released": 1}
    clock[0] += 3600
    log("refusal", step=50, phase="open", code="MALFORMED")
    assert check_log(Home(tmp_path)).events["refusal"] == 6


def test_a_log_that_is_a_link_is_not_followed(log: SecurityLog, tmp_path: Path) -> None:
    target = tmp_path / "elsewhere"
    target.write_text("")
    log.home.security_log.symlink_to(target)
    with pytest.raises(NoSpace):
        some(log, 1)
    assert target.read_text() == ""


# --- processes ---------------------------------------------------------------------------------------------------

WRITER = """
import sys, time
from pathlib import Path
from crypto.home import Home
from jobs.security_log import writer
writer.MOST_BYTES = 4000
log = writer.SecurityLog(Home(Path(sys.argv[1])))
print("ready", flush=True)
sys.stdin.readline()
for step in range(40):
    log("shares-released", run=sys.argv[2] * 16, step=step, t3="ab" * 32)
"""


def test_several_processes_write_one_chain(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WRITER, str(tmp_path)]
    writers = [
        subprocess.Popen([*command, digit], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for digit in "abc"
    ]
    for writer in writers:
        assert writer.stdout is not None and writer.stdout.readline() == "ready\n"
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.write("go\n")
        writer.stdin.flush()
    for writer in writers:
        writer.communicate(timeout=120)
        assert writer.returncode == 0
    summary = check_log(Home(tmp_path))
    assert summary.events["shares-released"] == 120 and summary.files > 2
    assert summary.events.keys() == {"log-opened", "shares-released"}
