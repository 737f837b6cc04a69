"""The error tree is the interface: closed codes, exit codes by branch, no text on the wire."""

import pytest

from crypto import errors
from crypto.errors import BY_CODE, EvidenceError, FederationError, ProtocolError, RoundLost, RoundRefused, SpecError

CLASSES = [item for item in vars(errors).values() if isinstance(item, type) and issubclass(item, FederationError)]
#: Other rooms have classes of their own below these.
LEAVES = [item for item in CLASSES if not set(item.__subclasses__()) & set(CLASSES)]


def test_every_leaf_has_a_code_of_its_own():
    codes = [leaf.code for leaf in LEAVES]
    assert len(set(codes)) == len(codes)
    assert set(codes) <= set(BY_CODE)
    assert all(code == code.upper() and code.replace("_", "").isalpha() for code in codes)


def test_every_class_declares_its_own_code():
    assert all("code" in vars(cls) for cls in CLASSES)


@pytest.mark.parametrize(
    ("branch", "exit_code"),
    [(ProtocolError, 20), (RoundRefused, 30), (RoundLost, 40), (SpecError, 10), (EvidenceError, 50)],
)
def test_exit_codes_are_those_of_the_branch(branch, exit_code):
    assert {leaf.exit_code for leaf in LEAVES if issubclass(leaf, branch)} == {exit_code}


def test_the_branches_are_the_five_of_the_design():
    assert set(FederationError.__subclasses__()) >= {ProtocolError, RoundRefused, RoundLost, SpecError, EvidenceError}
    for name in [
        "Unexpected",
        "BadSignature",
        "Replay",
        "RosterMismatch",
        "TranscriptMismatch",
        "ModelMismatch",
        "DuplicateKey",
        "SurvivorInvalid",
        "BothShares",
        "BadShare",
        "Equivocation",
        "LayoutMismatch",
        "Malformed",
    ]:
        assert issubclass(getattr(errors, name), ProtocolError)
    for name in [
        "CohortTooSmall",
        "CohortDifference",
        "ThresholdInfeasible",
        "LaneBelowFloor",
        "NotApproved",
        "EgressDenied",
        "AlreadyReleased",
        "JournalLost",
        "VersionMismatch",
        "NonFinite",
        "OutOfRange",
        "HeadroomExceeded",
    ]:
        assert issubclass(getattr(errors, name), RoundRefused)


def test_an_error_says_what_happened_and_what_to_do():
    error = errors.CohortTooSmall("Four silos.", remedy="Wait.")
    assert (str(error), error.detail, error.remedy) == ("Four silos. Wait.", "Four silos.", "Wait.")
    assert str(errors.CohortTooSmall("Four silos.")) == "Four silos."


def test_the_errors_with_fields_keep_them():
    assert errors.BadShare("x", dealer="silo-1").dealer == "silo-1"
    assert errors.Equivocation("x", evidence=(b"a", b"b")).evidence == (b"a", b"b")
    assert errors.LaneBelowFloor("trunk").lane == "trunk"
    assert errors.NotApproved("ab12").digest == "ab12"
    assert errors.EgressDenied("raw").field == "raw"
    lost = RoundLost("attest", ("silo-2",))
    assert (lost.phase, lost.missing) == ("attest", ("silo-2",))
    assert "silo-2" in str(lost) and "none" in str(RoundLost("attest", ()))
    spec = SpecError("charter.n_min", got=1, want="2")
    assert (spec.path, spec.got, spec.want) == ("charter.n_min", 1, "2")
    evidence = EvidenceError("ledger line 3", expected="aa", found="bb")
    assert (evidence.where, evidence.expected, evidence.found) == ("ledger line 3", "aa", "bb")


def test_a_shut_lane_is_named_without_a_count():
    assert not any(letter.isdigit() for letter in str(errors.LaneBelowFloor("trunk")))
