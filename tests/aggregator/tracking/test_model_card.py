"""The card says what a model is for, what it was made from and what it does not promise, from the ledger alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from aggregator.home import AggregatorHome
from aggregator.tracking.model_card import BRIEF_LIMIT, Card, card
from aggregator.tracking.run_page import safe
from aggregator.verify.approvals import Approved, approvals
from aggregator.verify.models import Models, checked_ledger
from tests import made_ledger as made
from tests.made_ledger import RUN, SILOS, closed, finish, make_home, make_job, start
from tests.records import as_record
from tests.scored import ONE_CLASS, TWO

pytestmark = pytest.mark.slow


def card_of(home: Path) -> Card:
    found = Models.of(checked_ledger(AggregatorHome(home)))
    return card(found, found.versions[-1])


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Card:
    home = tmp_path_factory.mktemp("home")
    make_job(home)
    return card_of(home)


def approved(home: Path) -> tuple[Approved, ...]:
    ledger = checked_ledger(AggregatorHome(home))
    return approvals(ledger.run(RUN), ledger.charters)


def section(found: Card, title: str) -> str:
    return dict(found.sections)[title]


def test_it_answers_the_questions_in_order(shown: Card) -> None:
    titles = [title for title, _ in shown.sections]
    assert titles == [
        "Intended use", "Results", "Cohort", "Data and approvals", "How to check this", "Privacy", "Residual risks",
        "Drop-outs and refusals", "Method", "Lanes", "Software",
    ]  # fmt: skip
    assert all(f"## {title}\n" in shown.text for title in titles)


def test_the_purpose_is_the_jobs(shown: Card) -> None:
    assert section(shown, "Intended use").startswith(safe(made.PURPOSE))
    assert "needs their approval" in section(shown, "Intended use")


def test_results_are_sums_with_their_cohort(shown: Card) -> None:
    assert "| global.accuracy | 0.5900 | 59 of 100 | train/19 | 3 |" in section(shown, "Results")
    assert "Baselines: not recorded here." in section(shown, "Results")


def test_results_are_of_the_last_step_that_opened_both_counts_and_the_others_are_named(
    shown: Card, tmp_path: Path
) -> None:
    assert "withheld" not in section(shown, "Results")
    ledger = make_home(tmp_path)
    start(tmp_path, ledger)
    for k in range(3):
        record = closed(k)
        record["slots"] = {name: count for name, count in record["slots"].items() if not k or name != "test.rows"}
        ledger.append(as_record("step-closed", record))
    finish(tmp_path, ledger, k=2)
    text = section(card_of(tmp_path), "Results")
    assert "| global.accuracy | 0.4000 | 40 of 100 | train/0 | 3 |" in text
    assert "Figures withheld by the silos, because" in text and "test.rows of train/1, train/2. A score is of" in text


def results_of(home: Path, slots: dict[str, int]) -> str:
    home.mkdir()
    ledger = make_home(home)
    start(home, ledger)
    ledger.append(as_record("step-closed", closed(0) | {"slots": slots}))
    finish(home, ledger)
    return section(card_of(home), "Results")


def test_metrics_lead_and_stand_beside_their_baselines(tmp_path: Path) -> None:
    text = results_of(tmp_path / "two", TWO)
    rows = [line for line in text.splitlines() if line.startswith("| global |")]
    assert rows[0] == "| global | AUROC | 0.833 ± 0.167 | 0.500 | train/0 | 3 |" and len(rows) == 9
    assert "| global | accuracy | 0.750 | 0.750 | train/0 | 3 |" in rows
    assert text.index("AUROC") < text.index("global.accuracy") and "not recorded" not in text
    text = results_of(tmp_path / "one", TWO | ONE_CLASS)
    assert "| global | AUROC | undefined | 0.500 | train/0 | 3 |" in text


def test_the_cohort_is_a_range(shown: Card) -> None:
    text = section(shown, "Cohort")
    assert "2 to 3 of 3 silos in a step, 3 invited" in text and "20 steps released, 1 void" in text
    assert "3 silos countersigned" in text


def test_each_silo_has_its_commitment_and_approval(shown: Card) -> None:
    text = section(shown, "Data and approvals")
    for silo, steps in zip(SILOS, (20, 20, 18), strict=True):
        digests = f"{made.commitment(silo)} | {made.APPROVALS[silo]}"
        assert f"| {silo} | {steps} | {digests} | 2027-01-01 00:00 UTC | 3 |" in text


def test_dropouts_have_phase_and_reason(shown: Card) -> None:
    text = section(shown, "Drop-outs and refusals")
    assert "| silo-3 | contribute | no answer | 1 | train/5 |" in text
    assert "| silo-3 | open | refused: NOT\\_APPROVED | 1 | train/6 |" in text  # noted twice on the ledger, once here
    assert "train/20 ended void in phase deal: COHORT\\_TOO\\_SMALL" in text


def test_lanes_count_how_often_they_opened(shown: Card) -> None:
    assert "| everyone | everyone | 2 | 1, 2, 3, 4 | 20 | 0 |" in section(shown, "Lanes")


def test_it_says_what_a_sum_does_not_protect(shown: Card) -> None:
    assert "c = 0; a sum has at least 2 honest inputs" in section(shown, "Privacy")
    risks = section(shown, "Residual risks")
    for words in (
        "not differential privacy",
        "membership inference",
        "colluding",
        "successive steps",
        "was not measured",
    ):
        assert words in risks


def test_it_says_how_to_check(shown: Card) -> None:
    assert "fed verify " in section(shown, "How to check this") and "bit for bit" in section(shown, "How to check this")
    software = section(shown, "Software")
    assert "| mlflow | 3.17.2 |" in software and made.CODE in software and made.PLAN.digest.hex() in software
    assert "| hidden | 4 |" in section(shown, "Method")


@pytest.mark.parametrize(
    ("keep", "lanes", "said"),
    [
        ("all", ["everyone"], "those of all 2 steps that opened sums"),
        ("last", ["everyone"], "those of step 1 (train/1), whose sums can be replayed"),
        ("last", [], "none: no step opened a sum"),
        ("none", ["everyone"], "none: sums are bound by signatures"),
    ],
)
def test_it_says_which_uploads_are_kept(tmp_path: Path, keep: str, lanes: list[str], said: str) -> None:
    """M1: the last step of all has slots only, so ``last`` means the step before it."""
    ledger = make_home(tmp_path)
    start(tmp_path, ledger, job=json.dumps({**made.JOB, "keep_uploads": keep, "params": made.PARAMS}))
    for k, opened in enumerate((lanes, lanes, [])):
        ledger.append(as_record("step-closed", closed(k) | {"lanes_open": opened}))
    finish(tmp_path, ledger, k=2)
    text = section(card_of(tmp_path), "How to check this")
    assert f"keep_uploads = {keep}: {said}" in text


def test_the_same_ledger_gives_the_same_bytes(tmp_path: Path, shown: Card) -> None:
    make_job(tmp_path)
    assert card_of(tmp_path).text == shown.text and card_of(tmp_path).brief == shown.brief


def test_what_was_not_recorded_is_said_so(tmp_path: Path) -> None:
    """An older ledger: no purpose, no approvals, a job that is no JSON; and nothing was released."""
    ledger = make_home(tmp_path)
    start(tmp_path, ledger, purpose=None, versions=None, code_digest=None, job="name = 'digits'\n")
    facts = closed(0)
    del facts["approvals"]
    ledger.append(as_record("step-closed", facts))
    finish(tmp_path, ledger)
    text = card_of(tmp_path).text
    assert "Not recorded here." in text and f"| {made.commitment('silo-1')} | not recorded | not recorded |" in text
    assert "| code (SHA-256) | not recorded |" in text and "keep\\_uploads" not in text
    assert "Masked uploads kept, by the job's keep_uploads = not recorded: not recorded here" in text


def test_no_step_and_no_drop_out(tmp_path: Path) -> None:
    ledger = make_home(tmp_path)
    start(tmp_path, ledger)
    finish(tmp_path, ledger)
    found = card_of(tmp_path)
    assert section(found, "Data and approvals") == "No step was released."
    assert section(found, "Drop-outs and refusals") == "None." and "No scores were opened." in found.text


def test_an_approval_that_does_not_check_is_named(tmp_path: Path) -> None:
    ledger = make_home(tmp_path)
    start(tmp_path, ledger)
    base = {"run": RUN, "k": 0}
    for silo, other in (("silo-1", "silo-2"), ("silo-3", "silo-3")):
        forged = made.approval(other) if silo != other else b"no approval at all"
        digest = made.approval_digest(forged).hex()
        ledger.append(as_record("approval", {**base, "silo": silo, "digest": digest, "approval": forged.hex()}))
    signed = made.approval("silo-2").hex()
    ledger.append(as_record("approval", {**base, "silo": "silo-2", "digest": "00" * 32, "approval": signed}))
    finish(tmp_path, ledger)
    found = approved(tmp_path)
    assert [one.silo for one in found] == list(SILOS) and all(one.problem and not one.purpose for one in found)
    assert "silo-2" in found[0].problem and "digest 0000" in found[1].problem


def test_a_run_under_a_charter_that_is_not_here(tmp_path: Path) -> None:
    ledger = make_home(tmp_path)
    start(tmp_path, ledger, charter_digest="99" * 32)
    made.approve(ledger)
    finish(tmp_path, ledger)
    assert "is not in this home" in section(card_of(tmp_path), "Privacy")
    assert all("no such charter" in one.problem for one in approved(tmp_path))


def test_a_hundred_silos_fit_into_a_description() -> None:
    many = "\n".join(f"| silo-{i} | {'ab' * 64} |" for i in range(100))
    long = Card("# digits/1", (("Intended use", "Testing."), ("Data and approvals", many), ("Privacy", "Some.")))
    assert len(long.brief) < BRIEF_LIMIT and "Testing." in long.brief and "ab" * 64 not in long.brief
    assert long.brief.endswith("*In the artifact model-card.md: data and approvals, privacy.*")
    assert many in long.text


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ("a | b", "a \\| b"),
        ("two\nlines", "two lines"),
        ("<script>", "\\<script\\>"),
        ("![x](http://y)", "\\!\\[x\\](http://y)"),
        ("a\0b\ud800", "a�b?"),
        ("# no `code`", "\\# no \\`code\\`"),
    ],
)
def test_somebodys_words_are_words(words: str, text: str) -> None:
    assert safe(words) == text
