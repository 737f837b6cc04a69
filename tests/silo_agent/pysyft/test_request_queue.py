"""The request queue, and what forging PySyft's files achieves: nothing.

PySyft is real: its client lists, approves and rejects what our code queued, and its runner's script is run.
"""

from __future__ import annotations

import errno
import json
import subprocess
from datetime import datetime
from pathlib import Path

import pytest

from crypto import durable, transcript
from crypto.approval import Approval, Denial, Terms
from crypto.errors import DataRefused, FederationError, NoSpace, NotApproved, SpecError
from crypto.keys import Identity
from silo_agent.approval_store import Approvals
from silo_agent.home import SiloHome
from silo_agent.pysyft import request_queue as module
from silo_agent.pysyft.datasite import ADMIN
from silo_agent.pysyft.request_queue import QueuedRequest, RequestQueue, Tampered, request_name

OWNER = Identity(bytes(range(32)))


def job(name: str = "study", **fields: object) -> str:
    return json.dumps({"name": name, "method": "fedavg", **fields}, sort_keys=True, separators=(",", ":"))


@pytest.fixture
def home(tmp_path: Path) -> Path:
    made = tmp_path / "home"
    made.mkdir(mode=0o700)
    return made


@pytest.fixture
def queue(home: Path) -> RequestQueue:
    return RequestQueue(SiloHome(home), "north")


def folder(queue: RequestQueue, name: str, side: str = "inbox") -> Path:
    return queue.datasite.folder / "app_data" / "job" / side / ADMIN / "v1" / name


def only(queue: RequestQueue) -> QueuedRequest | Tampered:
    """The one thing in the queue."""
    requests, tampered = queue.all()
    [found] = [*requests, *tampered]
    return found


# --- the queue -------------------------------------------------------------------------------------------------------


def test_a_job_is_queued_once_and_read_back(queue: RequestQueue) -> None:
    assert queue.all() == ([], []) and queue.pending() == []
    name = queue.put(job())
    first = only(queue)
    assert isinstance(first, QueuedRequest)
    assert (first.name, first.text, first.digest) == (name, job(), transcript.digest("job", job()))
    assert name == f"study-{first.digest.hex()[:16]}" and first.shown == "pending" and first.asked.tzinfo
    assert queue.put(job()) == name and only(queue) == first
    assert queue.pending() == [first]
    queue.put(job(seed=1))
    assert [request.text for request in queue.all()[0]] == [job(), job(seed=1)], "the oldest first"


def test_pysyft_shows_the_same_requests(queue: RequestQueue) -> None:
    from syft_job.client import get_client

    name = queue.put(job())
    [shown] = list(get_client(str(queue.datasite.syftbox), queue.datasite.owner).jobs)
    assert (shown.name, shown.submitted_by, shown.status) == (name, ADMIN, "pending")
    assert (shown.code_dir / "job.json").read_text() == job()


def test_a_request_runs_nothing(queue: RequestQueue, tmp_path: Path) -> None:
    where = folder(queue, queue.put(job(name="x-rm", params={"x": "$(touch /tmp/x); `id`"})))
    assert {path.name for path in where.rglob("*") if path.is_file()} == {
        "run.sh",
        "config.yaml",
        "script.sh",
        "job.json",
    }
    for script in where.rglob("*.sh"):
        assert script.stat().st_mode & 0o777 == 0o600
        ran = subprocess.run(["bash", script], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert ran.returncode == 1 and "not a program" in ran.stderr
        assert "touch" not in script.read_text()
    assert not list(tmp_path.glob("x*"))


@pytest.mark.parametrize(
    "text",
    [
        job(name="../../evil"),
        job(name="/etc/passwd"),
        job(name=".."),
        job(name="a b"),
        job(name="A"),
        job(name=""),
        job(name="x" * 49),
        job(name="a\n"),
        "[]",
        "{}",
        "not json",
        "[" * 100_000,
        job(filler="x" * module.MOST_TEXT),
    ],
    ids=range(13),
)
def test_what_is_no_job_touches_no_path(queue: RequestQueue, home: Path, text: str) -> None:
    with pytest.raises(SpecError, match="job"):
        queue.put(text)
    assert not list(home.iterdir())


def test_nothing_is_queued_through_a_link(queue: RequestQueue, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    queue.datasite.folder.mkdir(parents=True)
    (queue.datasite.folder / "app_data").symlink_to(tmp_path / "outside")
    with pytest.raises(DataRefused, match="is a link"):
        queue.put(job())
    assert not list((tmp_path / "outside").iterdir())


def test_a_full_queue_refuses_strangers_and_makes_room_for_them_when_the_owner_decides(
    queue: RequestQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST_REQUESTS", 3)
    names = [queue.put(job(seed=seed)) for seed in range(3)]
    with pytest.raises(NoSpace, match="3 jobs that wait") as refused:
        queue.put(job(seed=3))
    assert "fed requests" in refused.value.remedy
    assert queue.put(job(seed=1)) == names[1], "what is queued already is no new request"
    for seed in (2, 1):
        queue.mark(transcript.digest("job", job(seed=seed)), "denied")
    queue.put(job(seed=3))
    assert [request.text for request in queue.all()[0]] == [job(seed=seed) for seed in (0, 2, 3)]
    assert not folder(queue, names[1], "review").exists()


def test_a_full_disk_leaves_no_half_of_a_request(queue: RequestQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_room(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(durable, "create", no_room)
    with pytest.raises(NoSpace, match="the disk is full"):
        queue.put(job())
    monkeypatch.undo()
    assert queue.all() == ([], [])
    assert queue.put(job())


def test_requests_are_found_by_the_beginning_of_their_digest(queue: RequestQueue) -> None:
    queue.put(job())
    digest = transcript.digest("job", job())
    assert queue.find(digest.hex()[:8]).digest == queue.find(digest.hex()).digest == digest
    with pytest.raises(SpecError, match="DIGEST"):
        queue.find("ffffffff")
    queue.put(job(seed=1))
    with pytest.raises(SpecError, match="beginning of one request") as refused:
        queue.find("")
    assert "2 requests" in refused.value.remedy


def test_what_waits_is_counted_without_pysyft(queue: RequestQueue) -> None:
    assert queue.waiting() == 0
    for seed in range(4):
        queue.put(job(seed=seed))
    assert queue.waiting() == 4 == len(queue.pending())  # nobody has looked, then PySyft has
    for request, decision in zip(queue.all()[0], ("approved", "denied"), strict=False):
        queue.mark(request.digest, decision)
        assert queue.waiting() == len(queue.pending())
    assert queue.waiting() == 2
    (folder(queue, "stray").mkdir(), folder(queue, "x-0123456789abcdef").with_name(".lock").touch())
    assert queue.waiting() == 2


def test_pysyft_is_told_what_the_owner_decided_but_not_why(queue: RequestQueue) -> None:
    from syft_job.client import get_client

    queue.put(job())
    digest = transcript.digest("job", job())
    for decision, status in (("denied", "rejected"), ("approved", "approved"), ("denied", "rejected")):
        queue.mark(digest, decision)
        assert [request.shown for request in queue.all()[0]] == [decision]
        [shown] = list(get_client(str(queue.datasite.syftbox), queue.datasite.owner).jobs)
        assert shown.status == status and shown.review_reason is None
    assert queue.pending() == []
    queue.mark(bytes(32), "approved")  # never queued: an approval of a job file that came by mail
    with pytest.raises(ValueError, match="decision"):
        queue.mark(digest, "pending")


# --- forged ----------------------------------------------------------------------------------------------------------


def edit_job(where: Path) -> None:
    (where / "code" / "job.json").write_text(job(seed=99))


def rename_job(where: Path) -> None:
    where.rename(where.with_name("study-0123456789abcdef"))


def remove_job(where: Path) -> None:
    (where / "code" / "job.json").unlink()


def link_job(where: Path) -> None:
    path = where / "code" / "job.json"
    path.rename(where / "elsewhere")
    path.symlink_to(where / "elsewhere")


def link_code(where: Path) -> None:
    (where / "code").rename(where / "elsewhere")
    (where / "code").symlink_to(where / "elsewhere")


def no_text(where: Path) -> None:
    (where / "code" / "job.json").write_bytes(b"\xff\xfe")


def folder_for_job(where: Path) -> None:
    remove_job(where)
    (where / "code" / "job.json").mkdir()


def nested_job(where: Path) -> None:
    (where / "code" / "job.json").write_text("[" * 50_000)


def damaged_config(where: Path) -> None:
    (where / "config.yaml").write_text("]")


def config_of_nothing(where: Path) -> None:
    (where / "config.yaml").write_text("submitted_at: never")


def damaged_state(where: Path) -> None:
    only_of = where.parents[2].with_name("review") / ADMIN / "v1" / where.name
    only_of.mkdir(parents=True, exist_ok=True)
    (only_of / "state.yaml").write_text("status: blessed")


def linked_review(where: Path) -> None:
    review = where.parents[2].with_name("review")
    (where / "elsewhere").mkdir()
    (review / ADMIN / "v1").mkdir(parents=True, exist_ok=True)
    (review / ADMIN / "v1" / where.name).symlink_to(where / "elsewhere")


@pytest.mark.parametrize(
    "tamper",
    [
        edit_job,
        rename_job,
        remove_job,
        link_job,
        link_code,
        no_text,
        folder_for_job,
        nested_job,
        damaged_config,
        config_of_nothing,
        damaged_state,
        linked_review,
    ],
)
def test_a_request_that_was_tampered_with_is_named_and_never_shown(queue: RequestQueue, tamper) -> None:  # type: ignore[no-untyped-def]
    name = queue.put(job())
    other = queue.put(job(seed=1))
    tamper(folder(queue, name))
    requests, [found] = queue.all()
    assert [request.name for request in requests] == [other], "the others are shown as ever"
    assert found.why and found.name == ("study-0123456789abcdef" if tamper is rename_job else name)
    for wanted in (transcript.digest("job", job()), transcript.digest("job", job(seed=99))):
        with pytest.raises(SpecError):
            queue.find(wanted.hex())
        queue.mark(wanted, "approved")  # finds nothing to mark
    if tamper not in (rename_job, linked_review):
        assert queue.put(job()) == name
    if tamper in (edit_job, remove_job, link_job, link_code, no_text, folder_for_job, nested_job):
        assert len(queue.all()[0]) == 2, "what is submitted again counts"


def test_what_others_put_into_the_inbox_is_no_request(queue: RequestQueue) -> None:
    from syft_job.client import get_client

    queue.put(job())
    stranger = get_client(str(queue.datasite.syftbox), "mallory@example.org", queue.datasite.owner)
    stranger.submit_bash_job(queue.datasite.owner, "echo hello", request_name(job()))
    get_client(str(queue.datasite.syftbox), ADMIN, queue.datasite.owner).submit_bash_job(
        queue.datasite.owner, "echo hello", "a b\x1b[2J"
    )
    requests, tampered = queue.all()
    assert len(requests) == 1
    assert {item.why for item in tampered} == {"it was not queued by this silo's agent"}
    assert not any("\x1b" in item.name for item in tampered), "names are shown to people"


def test_a_path_in_a_request_is_never_followed(queue: RequestQueue, home: Path) -> None:
    """PySyft takes any job name. Ours refuses before; what came in past us is listed where it can be, as no request."""
    from syft_job.client import get_client

    queue.put(job())
    admin = get_client(str(queue.datasite.syftbox), ADMIN, queue.datasite.owner)
    admin.submit_bash_job(queue.datasite.owner, "echo hello", "../../evil")
    requests, tampered = queue.all()
    assert len(requests) == 1 and all(item.why == "it was not queued by this silo's agent" for item in tampered)


def test_a_time_without_a_zone_is_no_reason_to_stop(queue: RequestQueue) -> None:
    path = folder(queue, queue.put(job())) / "config.yaml"
    queue.put(job(seed=1))
    lines = [line for line in path.read_text().splitlines() if not line.startswith("submitted_at")]
    path.write_text("\n".join([*lines, "submitted_at: '2020-01-01T00:00:00'"]))
    assert [request.asked.year for request in queue.all()[0]] == [2020, datetime.now().year]


# --- and none of it is an approval -----------------------------------------------------------------------------------


def terms(**changes: object) -> Terms:
    fields = {name: transcript.digest(name) for name in ("charter", "plan", "policy", "code", "commitment")}
    made = {"silo": "north", "job": transcript.digest("job", job()), "data_uid": "uid-1", "purpose": "to learn"}
    return Terms(**(fields | made | changes))  # type: ignore[arg-type]


def approval(owner: Identity = OWNER, **changes: object) -> bytes:
    return Approval(terms=terms(**changes), max_runs=1, not_before=10, not_after=20, nonce=bytes(16)).sign(owner)


def granted(home: Path, wanted: Terms | None = None) -> bool:
    try:
        Approvals(home / "approvals", OWNER.public).grant(wanted or terms(), now=15, uses=lambda _: 0)
    except NotApproved:
        return False
    return True


def edit_state(queue: RequestQueue, name: str) -> None:
    queue.mark(transcript.digest("job", job()), "denied")
    path = folder(queue, name, "review") / "state.yaml"
    path.write_text(path.read_text().replace("rejected", "approved"))
    assert queue.all()[0][0].shown == "approved", "the forgery took"


def approve_in_pysyft(queue: RequestQueue, name: str) -> None:
    from syft_job.client import get_client

    [shown] = list(get_client(str(queue.datasite.syftbox), queue.datasite.owner).jobs)
    shown.approve(reason="whatever")


def overwrite_script(queue: RequestQueue, name: str) -> None:
    approve_in_pysyft(queue, name)
    for script in folder(queue, name).rglob("*.sh"):
        script.write_text("#!/bin/sh\ntrue\n")


def overwrite_job(queue: RequestQueue, name: str) -> None:
    approve_in_pysyft(queue, name)
    edit_job(folder(queue, name))


@pytest.mark.parametrize("forge", [edit_state, approve_in_pysyft, overwrite_script, overwrite_job])
def test_no_state_of_pysyft_approves_a_job(queue: RequestQueue, home: Path, forge) -> None:  # type: ignore[no-untyped-def]
    forge(queue, queue.put(job()))
    assert not granted(home)
    assert not granted(home, terms(job=transcript.digest("job", job(seed=99))))
    assert not (home / "approvals").exists()


@pytest.mark.parametrize(
    "changes",
    [
        {"silo": "south"},
        {"job": transcript.digest("job", job(seed=99))},
        {"charter": bytes(32)},
        {"plan": bytes(32)},
        {"policy": bytes(32)},
        {"code": bytes(32)},
        {"commitment": bytes(32)},
        {"data_uid": "uid-2"},
        {"purpose": "to sell"},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_an_approval_of_something_else_approves_nothing_here(home: Path, changes: dict[str, object]) -> None:
    approvals = Approvals(home / "approvals", OWNER.public)
    digest = approvals.add(approval(**changes))
    assert not granted(home)
    kept = home / "approvals" / f"{digest.hex()}.approval"
    for name in ("study", transcript.digest("job", job()).hex()):  # under the name of the job it is wanted for
        (home / "approvals" / f"{name}.approval").write_bytes(kept.read_bytes())
    assert not granted(home)


def test_an_approval_of_another_owner_is_passed_over(home: Path) -> None:
    (home / "approvals").mkdir()
    for number, signed in enumerate((approval(Identity.generate()), approval()[:-1] + b"\0", b"", approval() + b"\0")):
        (home / "approvals" / f"{number}.approval").write_bytes(signed)
    assert not granted(home)
    with pytest.raises(FederationError):
        Approvals(home / "approvals", OWNER.public).add(approval(Identity.generate()))
    (home / "approvals" / "real.approval").write_bytes(approval())
    assert granted(home), "else this test proves nothing"


def test_a_denial_is_no_approval_under_any_name(home: Path) -> None:
    denial = Denial(silo="north", job=transcript.digest("job", job()), reason="no", at=12).sign(OWNER)
    approvals = Approvals(home / "approvals", OWNER.public)
    approvals.deny(denial)
    (home / "approvals" / "x.approval").write_bytes(denial)
    assert not granted(home)
    approvals.add(approval())
    assert not granted(home), "the denial is the newer"
