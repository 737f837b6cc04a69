"""crypto/ and the second implementation agree byte for byte, by way of the frozen vectors."""

import ast
import json
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest

from crypto import blocks, masking, proof, shamir, tags, transcript
from crypto.blocks import Contribution, encode, initial_state, state_digest
from crypto.charter import Charter, SignedCharter
from crypto.cohort import Context, manifest_commitment, mask_key, words_digest
from crypto.messages import Closing, Decline, LaneSum, Open, Request, SharePack, StepResult, TagRequest, request_digest
from crypto.plan import Plan
from crypto.server_session import ServerSession
from crypto.silo_session import SiloSession
from tests import reference
from tests.federation import UNRECORDED, identity, stream

VECTORS = Path(__file__).parent.parent / "vectors"
SESSION = json.loads((VECTORS / "session_n5.json").read_text())
MESSAGES = json.loads((VECTORS / "messages.json").read_text())
PRIMITIVES = json.loads((VECTORS / "primitives.json").read_text())
SILOS = [f"silo-{i}" for i in range(1, 6)]


def sha(data: bytes) -> str:
    return sha256(data).hexdigest()


def test_the_reference_does_not_import_what_it_checks():
    source = Path(reference.__file__).read_text()
    imported = {
        name.split(".")[0]
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in ([node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names])
    }
    assert imported <= {"__future__", "hashlib", "hmac", "json", "struct", "sys", "pathlib", "typing", "cryptography"}


def test_the_files_are_what_the_reference_computes():
    for name, content in reference.build().items():
        assert (VECTORS / name).read_text() == reference.dump(content), name


# --- parts --------------------------------------------------------------------------------------------------------


def test_labels_and_keys():
    secret = bytes(range(32))
    assert transcript.label_bytes("pair", [b"\x00\x01", "silo-1", 7]).hex() == PRIMITIVES["label"]
    assert transcript.digest("pair", b"\x00\x01", "silo-1", 7).hex() == PRIMITIVES["digest"]
    assert transcript.derive(secret, b"salt", "self", "silo-1", "trunk", size=16).hex() == PRIMITIVES["derive-16"]
    assert transcript.derive(secret, b"", "mask-sk").hex() == PRIMITIVES["derive-32"]
    assert transcript.derive(secret, b"salt", "long", size=70).hex() == PRIMITIVES["derive-70"]
    assert mask_key(secret).public.hex() == PRIMITIVES["mask-public"]


def test_shares():
    secret = bytes(range(32))
    shares = shamir.split(secret, 3, [1, 2, 3, 4, 5], stream("shamir"))
    assert [share.hex() for share in shares] == PRIMITIVES["shamir-t3-n5"]
    assert reference.interpolate(dict(zip((2, 4, 5), (shares[1], shares[3], shares[4]), strict=True))) == secret


@pytest.mark.parametrize(("dtype", "name"), [(np.uint32, "keystream-u32"), (np.uint64, "keystream-u64")])
def test_streams_at_offsets(dtype, name):
    vector = np.zeros(2**20 + 1, dtype=dtype)
    masking.apply_streams(vector, [(bytes(range(16)), 1)])
    assert {str(i): int(vector[i]) for i in (0, 1, 4095, 2**20)} == PRIMITIVES[name]


@pytest.mark.parametrize("size", [1, 4095, 4096, 4097])
def test_tags(size):
    numbers = np.arange(size, dtype=np.uint64)
    words, carries = (numbers * 2654435761).astype(np.uint32), (numbers % 3).astype(np.uint8)
    found = tags.write(tags.tag(words, bytes(range(16)), carries=carries))
    assert found.hex() == PRIMITIVES["tags"][str(size)]


def test_tags_of_24_bits_coins_and_manifests():
    numbers = np.arange(7, dtype=np.uint64)
    words, carries = (numbers * 2654435761 % 2**24).astype(np.uint32), (numbers % 3).astype(np.uint8)
    found = tags.write(tags.tag(words, bytes(range(16)), carries=carries, bits=24))
    assert found.hex() == PRIMITIVES["tag-24"]
    assert transcript.digest("coin", bytes(range(32)), "trunk")[:16].hex() == PRIMITIVES["coin"]
    pack = SharePack(b"", (), (0, 3, 1), (), bytes(range(32)))
    assert manifest_commitment("silo-1", pack).hex() == PRIMITIVES["manifest"]


def test_charter_and_plan():
    charter, plan = bytes.fromhex(SESSION["charter"]), bytes.fromhex(SESSION["plan"])
    assert bytes(Charter.from_bytes(charter)) == charter and bytes(Plan.from_bytes(plan)) == plan
    assert SignedCharter.open(bytes.fromhex(MESSAGES["charter"]), identity("consortium").public) == Charter.from_bytes(
        charter
    )
    assert bytes(SignedCharter.sign(Charter.from_bytes(charter), identity("consortium"))).hex() == MESSAGES["charter"]


def test_the_other_messages():
    d = [bytes([i]) * 32 for i in range(6)]
    trunk = LaneSum(lane="trunk", words=d[1], carries=d[2], uploaders=("silo-1", "silo-3"), weight=24, contributors=2)
    result = StepResult(step=3, chain=d[3], t3=d[0], released=True, slots=(1, 2**64 - 1, None), sums=(trunk,))
    opening = Open(
        job=d[0], plan=d[1], charter=d[2], code=d[3], nonce=d[4], chain=d[5], results=(result,),
        proofs=((b"tags", b""),),
    )  # fmt: skip
    asked = Request(run=d[0], step=4, attempt=1, phase="deal", payload=b"").sign(identity("aggregator"))
    request = Request(run=d[0], step=4, attempt=1, phase="open", payload=bytes(opening))
    decline = Decline(
        silo="silo-1", request=request_digest(asked), run=d[0], step=4, attempt=1, phase="deal", code="BAD_SHARE",
        blame="silo-2",
        key=d[5],
    )  # fmt: skip
    closing = Closing(silo="silo-1", run=d[0], chain=d[1], ledger=d[2])
    assert bytes(result).hex() == MESSAGES["result"]
    assert bytes(TagRequest(result, ((d[4], d[5]),))).hex() == MESSAGES["tag-request"]
    assert opening.sign(identity("aggregator")).hex() == MESSAGES["open"]
    assert request.sign(identity("aggregator")).hex() == MESSAGES["request"]
    assert decline.sign(identity("silo-1")).hex() == MESSAGES["decline"]
    assert closing.sign(identity("silo-1")).hex() == MESSAGES["closing"]


# --- whole sessions -----------------------------------------------------------------------------------------------


def test_initial_state():
    want = SESSION["sessions"]["complete"]
    plan = Plan.from_bytes(bytes.fromhex(SESSION["plan"]))
    assert state_digest(initial_state(plan, bytes.fromhex(want["run"]))).hex() == want["state0"]


@pytest.mark.parametrize("case", ["complete", "dropout"])
def test_a_whole_session(case):
    """Every message of every silo, T0–T3, the opened sums, their proof, the chain and the state after it."""
    want = SESSION["sessions"][case]
    charter, plan = (
        Charter.from_bytes(bytes.fromhex(SESSION["charter"])),
        Plan.from_bytes(bytes.fromhex(SESSION["plan"])),
    )
    run = transcript.run_id(sha256(b"vector job").digest(), charter.digest, bytes(range(32)))
    step, state = plan.steps[0], initial_state(plan, run)
    s0 = transcript.initial_chain(run, state_digest(state))
    context = Context(charter=charter, plan=plan, run=run, k=0, attempt=0, chain=s0)
    assert (run.hex(), s0.hex(), context.t0.hex()) == (want["run"], want["S0"], want["T0"])
    got: dict[str, dict[str, str]] = {silo: {} for silo in SILOS}
    server = ServerSession(context)
    sessions = {
        silo: SiloSession(
            context, silo, identity(silo), blocks=state_digest(state), entropy=stream(f"vector-{case}/{silo}")
        )
        for silo in SILOS
    }

    for silo, session in sessions.items():
        weights = SESSION["weights"][silo]
        signed = session.advert(
            weights=weights,
            releases=3,
            data=sha256(silo.encode()).digest(),
            approval=sha256(f"{silo}/approval".encode()).digest(),
        )
        got[silo]["advert"] = sha(signed)
        server.advert(silo, signed)
    adverts = server.close_adverts()
    for silo, session in sessions.items():
        signed, rows = session.deal(adverts)
        got[silo] |= {f"row/{peer}": sha(row) for peer, row in rows.items()} | {"deal": sha(signed)}
        server.deal(silo, signed, rows)
    deals, rows_for = server.close_deals()
    uploads: dict[str, dict[str, np.ndarray]] = {}
    for silo, session in sessions.items():
        session.open_rows(deals, dict(rows_for[silo]))
        sums = {
            name: np.array(values).reshape(plan.block(name).shape) for name, values in SESSION["inputs"][silo].items()
        }
        weights = SESSION["weights"][silo]
        signed, slots = session.upload(encode(plan, step, Contribution(sums, SESSION["slots"][silo]), weights))
        got[silo] |= {"header": sha(signed)}
        for section in step.sections:
            words = np.frombuffer(slots, dtype="<u8")[list(step.places(section))]
            got[silo][f"masked/{section}"] = words_digest(words).hex()
        got[silo] |= {f"masked/{lane}": words_digest(words).hex() for lane, words in session.masked.items()}
        server.header(silo, signed, slots)
        uploads[silo] = dict(session.masked)
        if silo not in want["dropped"]:
            server.words(silo, dict(session.masked))
    headers = server.close_uploads()
    survivors = [silo for silo in SILOS if silo not in want["dropped"]]
    for silo in survivors:
        sessions[silo].survivors(headers)
        signed = sessions[silo].attest()
        assert sessions[silo]._sets.digest.hex() == want["sets"]
        got[silo]["attestation"] = sha(signed)
        server.attestation(silo, signed)
    attestations, masked = server.close_attestations()
    for silo in survivors:
        signed = sessions[silo].release_slots(attestations, dict(masked), **UNRECORDED)
        got[silo]["slot-shares"] = sha(signed)
        server.slot_shares(silo, signed)
    shares = server.open_slots()
    for silo in survivors:
        signed = sessions[silo].release_lanes(shares, floors={}, record=lambda told: None)
        got[silo]["lane-shares"] = sha(signed)
        server.lane_shares(silo, signed)
    request = TagRequest.from_bytes(bytes(server.open_lanes(lambda silo, lane: uploads[silo][lane])))
    assert sha(bytes(request)) == want["tag-request"]
    for silo in survivors:
        if silo in want["silent"]:
            continue
        signed = sessions[silo].tag(request)
        got[silo]["tags"] = sha(signed)
        server.tags(silo, signed)
    assert list(server.untagged) == want["silent"]
    for owner in want["silent"]:
        lanes = {one.lane: uploads[owner][one.lane] for one in request.result.sums if owner in one.uploaders}
        signed = sessions["silo-1"].stand_in(owner, lanes)
        got["silo-1"][f"stand-in/{owner}"] = sha(signed)
        server.tags("silo-1", signed, owner=owner)
    signed_tags = server.close_tags()
    opened = {lane: found.words for lane, found in server.sums.items()}

    assert got == want["messages"]
    assert (server.cohort.t1.hex(), server.dealt.t2.hex(), server.survivors.t3.hex()) == (
        want["T1"],
        want["T2"],
        want["T3"],
    )
    slots = dict(zip([slot.name for slot in step.slots], server.slots, strict=True))
    assert slots == want["slots"] == sessions["silo-1"].slots
    assert list(sessions["silo-1"].released) == want["released"] == list(opened)
    assert {lane: words.tolist() for lane, words in opened.items()} == want["opened"]
    assert {lane: found.carries.tolist() for lane, found in server.sums.items()} == want["carries"]
    t3, result = server.survivors.t3, server.result
    owners = proof.check_signed(charter, plan, result, signed_tags)
    assert {
        owner: dict(
            zip([one.lane for one in result.sums if owner in one.uploaders], map(bytes.hex, found.tags), strict=True)
        )
        for owner, found in owners.items()
    } == want["tags"]
    assert {one.lane: [one.weight, one.contributors] for one in result.sums} == {
        lane: want["counts"][lane] for lane in want["released"]
    }
    assert bytes(result).hex() == want["result"]
    assert transcript.next_chain(s0, t3, result.digest, released=True).hex() == want["S1"]
    assert transcript.next_chain(s0, t3, b"", released=False).hex() == want["S1-void"]
    assert state_digest(state).hex() == want["state0"]
    assert state_digest(blocks.apply(plan, step, state, opened, result.weights)).hex() == want["state1"]


def test_the_vectors_exercise_what_they_should():
    complete, dropout = SESSION["sessions"]["complete"], SESSION["sessions"]["dropout"]
    assert complete["released"] == ["trunk", "quiet", "open", "ward"]
    assert dropout["dropped"] == ["silo-4"] and dropout["released"] == ["trunk", "quiet"]  # open and ward stay shut
    assert complete["silent"] == [] and dropout["silent"] == ["silo-2"]
    assert all(max(case["carries"]["trunk"]) > 1 for case in (complete, dropout))
    assert any(abs(x) > 2 for silo in SILOS for x in SESSION["inputs"][silo]["trunk.w"])
    assert "provenance" in SESSION and "tests/reference.py" in SESSION["provenance"]["source"]
