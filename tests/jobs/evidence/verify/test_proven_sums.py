"""A step's evidence proves its sums by the signed result and the signed tags, with the uploads and without them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest

from aggregator.ledger.records import Kind
from aggregator.run_record import RunRecord
from aggregator.verify.bundle import verify_bundle, write_bundle
from crypto.errors import EvidenceError
from crypto.evidence import StepEvidence
from crypto.keys import Identity
from crypto.messages import StepResult, Tags
from tests.tampering import Finished, Lines, closed, line_of, refused, rewrite

pytestmark = pytest.mark.slow

#: Of the run's four steps, the first that opens a lane.
K = 1
FALSE = bytes([7]) * 32


@pytest.fixture
def bare(run: Finished) -> Finished:
    """The run without its uploads: the signed messages are all there is."""
    shutil.rmtree(run.folder / "uploads")
    return run


def evidence(run: Finished, k: int = K) -> StepEvidence:
    return StepEvidence.from_bytes((run.folder / "evidence" / f"{k:06d}.bin").read_bytes())


def remade(run: Finished, changed: StepEvidence) -> None:
    """What the aggregator can do: other evidence, and a ledger that names it."""
    (run.folder / "evidence" / f"{K:06d}.bin").write_bytes(bytes(changed))
    digest = sha256(bytes(changed)).hexdigest()
    rewrite(run.home, lambda lines: closed(lines, K).update(evidence_sha256=digest))


def least(run: Finished) -> int:
    """m + c of the run's charter."""
    charter = run.federation.aggregator_home.pinned.read()
    return charter.honest + charter.colluders


def false_sum(result: StepResult) -> StepResult:
    """The same result with other words of its lane."""
    (one,) = result.sums
    return replace(result, sums=(replace(one, words=FALSE),))


def signed_by_all(run: Finished, result: StepResult, tag: Callable[[bytes], bytes] = lambda tag: tag) -> StepEvidence:
    """Every silo gives its signature for a result, tags as before or changed: nobody is honest."""
    old, tags = evidence(run), []
    for signed in old.tags:
        one = Tags.open(signed, lambda message: agent(run, message.silo).public)
        changed = replace(one, t3=result.t3, result=result.digest, tags=tuple(map(tag, one.tags)))
        tags.append(changed.sign(agent(run, one.silo)))
    return replace(old, result=bytes(result), tags=tuple(tags))


def agent(run: Finished, silo: str) -> Identity:
    return Identity.load(run.federation.silo(silo) / "keys" / "agent.key")


# --- the result and its signatures -----------------------------------------------------------------------------------


def _another_slot(run: Finished) -> StepEvidence:
    old = evidence(run)
    result = StepResult.from_bytes(old.result)
    return replace(old, result=bytes(replace(result, slots=(result.slots[0] + 1, *result.slots[1:]))))


def _a_false_sum(run: Finished) -> StepEvidence:
    old = evidence(run)
    return replace(old, result=bytes(false_sum(StepResult.from_bytes(old.result))))


def _more_weight(run: Finished) -> StepEvidence:
    old = evidence(run)
    result = StepResult.from_bytes(old.result)
    (one,) = result.sums
    return replace(old, result=bytes(replace(result, sums=(replace(one, weight=one.weight + 1),))))


def _no_sums(run: Finished) -> StepEvidence:
    old = evidence(run)
    return replace(old, result=bytes(replace(StepResult.from_bytes(old.result), sums=())))


def _too_few(run: Finished) -> StepEvidence:
    old = evidence(run)
    return replace(old, tags=old.tags[: least(run) - 1])


def _one_upload_without(run: Finished) -> StepEvidence:
    old = evidence(run)
    return replace(old, tags=old.tags[:-1])


def _one_upload_twice(run: Finished) -> StepEvidence:
    old = evidence(run)
    return replace(old, tags=(*old.tags[:-1], old.tags[0]))


def _of_another_step(run: Finished) -> StepEvidence:
    return replace(evidence(run), tags=evidence(run, K + 1).tags)


CHANGES = {
    "another slot": (_another_slot, "signed another result of step 1"),
    "a false sum": (_a_false_sum, "signed another result of step 1"),
    "more weight": (_more_weight, "signed another result of step 1"),
    "no sums": (_no_sums, "signed another result of step 1"),
    "too few signed": (_too_few, "members signed the result of step"),
    "an upload without tags": (_one_upload_without, "came without the tags of all its uploads"),
    "tags twice": (_one_upload_twice, "Two members' tags for one upload"),
    "tags of another step": (_of_another_step, "signed another result of step 1"),
}


@pytest.mark.parametrize("uploads", [True, False], ids=["with uploads", "without"])
@pytest.mark.parametrize("name", CHANGES)
def test_a_result_that_its_tags_do_not_prove(run: Finished, tmp_path: Path, name: str, uploads: bool) -> None:
    change, message = CHANGES[name]
    remade(run, change(run))
    if not uploads:
        shutil.rmtree(run.folder / "uploads")
    error = refused(run)
    assert error.where == f"{run.run}/evidence/{K:06d}.bin"
    assert error.found.startswith("[SUM_NOT_PROVEN]") and message in error.found
    bundle = write_bundle(run.home, run.run, tmp_path / "b.zip", uploads=uploads).path
    with pytest.raises(EvidenceError, match="SUM_NOT_PROVEN") as caught:
        verify_bundle(bundle)
    assert caught.value.where == error.where


def test_tags_of_a_stranger(run: Finished) -> None:
    """Signed with a key that is no member's agent."""
    old = evidence(run)
    one = Tags.open(old.tags[0], lambda message: agent(run, message.silo).public)
    remade(run, replace(old, tags=(one.sign(run.aggregator), *old.tags[1:])))
    error = refused(run)
    assert error.where == f"{run.run}/evidence/{K:06d}.bin" and "[BAD_SIGNATURE]" in error.found


@pytest.mark.parametrize(
    ("change", "place"),
    [
        (
            lambda result: replace(result, slots=(result.slots[0] + 1, *result.slots[1:])),
            "step, state, transcript and slots",
        ),
        (lambda result: replace(result, step=K - 1), "step, state, transcript and slots"),
        (lambda result: replace(result, chain=FALSE), "step, state, transcript and slots"),
        (lambda result: replace(result, t3=FALSE), "step, state, transcript and slots"),
        (lambda result: replace(result, sums=(replace(result.sums[0], contributors=5),)), "weights of lane everyone"),
    ],
    ids=["slots", "step", "state", "transcript", "contributors"],
)
def test_a_result_that_all_signed_and_the_shares_do_not_open(
    bare: Finished, change: Callable[[StepResult], StepResult], place: str
) -> None:
    """Even if each member signed another result: slots and weights are opened again from the shares."""
    remade(bare, signed_by_all(bare, change(StepResult.from_bytes(evidence(bare).result))))
    error = refused(bare)
    assert error.where.startswith(f"{bare.run}/evidence/{K:06d}.bin, ") and error.where.endswith(place)


def test_a_result_that_does_not_lead_to_the_ledgers_chain(bare: Finished) -> None:
    remade(bare, signed_by_all(bare, false_sum(StepResult.from_bytes(evidence(bare).result))))
    error = refused(bare)
    assert error.where == f"ledger.jsonl line {line_of(bare.home, Kind.STEP_CLOSED, K)} (step-closed), chain"
    ledger = RunRecord.read(bare.home, bare.run).closed[K].record
    assert error.found == ledger.chain != error.expected


# --- the sums on disk ------------------------------------------------------------------------------------------------


def lying(run: Finished, changed: StepEvidence) -> None:
    """The evidence, and the ledger's chain made from it."""
    remade(run, changed)
    expected = bytes.fromhex(refused_chain(run))

    def change(lines: Lines) -> None:
        closed(lines, K).update(chain=expected.hex())

    rewrite(run.home, change)


def refused_chain(run: Finished) -> str:
    """The chain value that verification wants after step K, found without the uploads."""
    aside = run.folder / "aside"
    (run.folder / "uploads").rename(aside)
    error = refused(run)
    aside.rename(run.folder / "uploads")
    assert error.where.endswith("(step-closed), chain")
    return str(error.expected)


def test_a_false_sum_that_members_signed_is_found_by_the_replay(run: Finished) -> None:
    """More than c members lie with the aggregator, and the chain follows from the lie: the uploads show it."""
    lying(run, signed_by_all(run, false_sum(StepResult.from_bytes(evidence(run).result))))
    error = refused(run)
    assert error.where == f"{run.run}, step {K}, lane everyone"
    assert error.found == "[SUM_NOT_PROVEN] The words of lane 'everyone' are not those announced."


def test_false_tags_of_a_true_sum_are_found_by_the_replay(run: Finished) -> None:
    def flip(tag: bytes) -> bytes:
        return bytes([tag[0] ^ 1]) + tag[1:]

    remade(run, signed_by_all(run, StepResult.from_bytes(evidence(run).result), flip))
    error = refused(run)
    assert error.where == f"{run.run}, step {K}, lane everyone"
    assert error.found.startswith("[SUM_NOT_PROVEN]") and "is not the sum of its 8 uploads" in error.found
