"""What verification needs of a protocol, and the values that it reads: the same for every protocol.

Plans, lanes, steps and adverts go back only to the reader that made them, whose own classes they are: such parameters
are ``Any`` here. Enumerations are text: compare them with ``==``, since each protocol has its own.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from crypto.keys import PublicIdentity

State = Mapping[str, np.ndarray]


# --- the plan ----------------------------------------------------------------------------------------------------


class Lane(Protocol):
    """See ``crypto.plan.Lane``."""

    @property
    def name(self) -> str: ...
    @property
    def scope(self) -> str: ...
    @property
    def floor(self) -> int: ...
    @property
    def grid(self) -> tuple[int, ...]: ...
    @property
    def hidden(self) -> bool: ...
    @property
    def members(self) -> tuple[str, ...]: ...
    @property
    def visible(self) -> bool: ...
    @property
    def weight_figure(self) -> str: ...
    @property
    def contributors_figure(self) -> str: ...
    def uploaders(self, silos: Iterable[str], holdings: Mapping[str, Collection[str]]) -> tuple[str, ...]: ...


class Block(Protocol):
    @property
    def name(self) -> str: ...
    @property
    def size(self) -> int: ...
    @property
    def lane(self) -> str: ...


class Sum(Protocol):
    @property
    def block(self) -> str: ...
    @property
    def apply(self) -> str: ...


class Slot(Protocol):
    @property
    def name(self) -> str: ...


class Step(Protocol):
    @property
    def name(self) -> str: ...
    @property
    def task(self) -> str: ...
    @property
    def sums(self) -> Sequence[Sum]: ...
    @property
    def slots(self) -> Sequence[Slot]: ...


class Plan(Protocol):
    """See ``crypto.plan.Plan``."""

    @property
    def method(self) -> str: ...
    @property
    def lanes(self) -> Sequence[Lane]: ...
    @property
    def blocks(self) -> Sequence[Block]: ...
    @property
    def steps(self) -> Sequence[Step]: ...
    @property
    def digest(self) -> bytes: ...
    def lane_of(self, block: str) -> Lane: ...
    def lanes_of(self, step: Any) -> Sequence[Lane]: ...
    def words_of(self, step: Any, lane: str) -> int: ...
    def wire_words_of(self, step: Any, lane: str) -> int: ...


# --- the charter -------------------------------------------------------------------------------------------------


class Member(Protocol):
    @property
    def silo(self) -> str: ...
    @property
    def agent(self) -> PublicIdentity: ...
    @property
    def owner(self) -> PublicIdentity: ...


class Charter(Protocol):
    """See ``crypto.charter.Charter``."""

    @property
    def federation(self) -> str: ...
    @property
    def epoch(self) -> int: ...
    @property
    def members(self) -> Sequence[Member]: ...
    @property
    def aggregator(self) -> PublicIdentity: ...
    @property
    def n_min(self) -> int: ...
    @property
    def colluders(self) -> int: ...
    @property
    def honest(self) -> int: ...
    @property
    def not_before(self) -> int: ...
    @property
    def not_after(self) -> int: ...
    @property
    def digest(self) -> bytes: ...
    @property
    def silos(self) -> tuple[str, ...]: ...
    def threshold(self, n: int) -> int: ...
    def floor(self, lane: Any) -> int: ...
    def member(self, silo: str) -> Member: ...
    def check_succeeds(self, old: Any) -> None: ...


# --- signed messages ---------------------------------------------------------------------------------------------


class Terms(Protocol):
    """See ``crypto.approval.Terms``."""

    @property
    def silo(self) -> str: ...
    @property
    def policy(self) -> bytes: ...
    @property
    def code(self) -> bytes: ...
    @property
    def data_uid(self) -> str: ...
    @property
    def commitment(self) -> bytes: ...
    @property
    def purpose(self) -> str: ...


class Approval(Protocol):
    @property
    def terms(self) -> Terms: ...
    @property
    def max_runs(self) -> int: ...
    @property
    def not_before(self) -> int: ...
    @property
    def not_after(self) -> int: ...


class Closing(Protocol):
    @property
    def silo(self) -> str: ...
    @property
    def run(self) -> bytes: ...
    @property
    def chain(self) -> bytes: ...
    @property
    def ledger(self) -> bytes: ...


class Decline(Protocol):
    @property
    def silo(self) -> str: ...
    @property
    def run(self) -> bytes: ...
    @property
    def step(self) -> int: ...
    @property
    def attempt(self) -> int: ...
    @property
    def phase(self) -> str: ...
    @property
    def code(self) -> str: ...


class Advert(Protocol):
    @property
    def held(self) -> tuple[str, ...]: ...
    @property
    def data(self) -> bytes: ...
    @property
    def approval(self) -> bytes: ...


class CheckedStep(Protocol):
    """A released step whose signatures all held, its slots opened again."""

    @property
    def step(self) -> Step: ...
    @property
    def transcript(self) -> bytes:
        """T3."""

    @property
    def adverts(self) -> Mapping[str, Advert]:
        """Silo → advert, of the cohort U1."""

    @property
    def survivors(self) -> tuple[str, ...]:
        """U3, sorted."""

    @property
    def upload_digests(self) -> Mapping[str, bytes]:
        """Survivor → digest of its signed header."""

    @property
    def figures(self) -> Mapping[str, int]:
        """Slot → opened sum; and by ``Lane.weight_figure`` and ``contributors_figure`` what is known of lanes."""

    @property
    def messages(self) -> int:
        """How many signed messages were checked."""

    @property
    def signers(self) -> tuple[str, ...]:
        """The silos that signed what the step opened, sums included; none where the protocol has no such message."""

    def holders(self, lane: str) -> tuple[str, ...]:
        """The survivors that upload this lane, sorted."""

    def words_signed(self, silo: str, lane: str) -> bytes:
        """SHA-256 of a survivor's masked words of a lane, by its header."""

    def lanes_open(self) -> tuple[str, ...]:
        """The lanes that the shares open, in plan order."""

    def replay(self, lane: str, uploads: Mapping[str, np.ndarray]) -> np.ndarray:
        """The opened sum of a lane (uint32). ``uploads``: each holder's masked words, as many as the plan has.

        Raises TranscriptMismatch for words that the silo's header does not sign, and SumNotProven for a sum that is not
        the announced one, where the protocol's silos sign what was announced.
        """

    def chain_after(self, sums: Sequence[tuple[str, bytes]] | None) -> bytes | None:
        """S after this step. ``sums``: each open lane in plan order with the digest of its words; None where they could
        not be replayed. Then None, unless the signed messages say what opened."""


class Applied(Protocol):
    @property
    def k(self) -> int: ...
    @property
    def t3(self) -> bytes: ...
    @property
    def released(self) -> bool: ...


class Receipt(Protocol):
    """See ``crypto.receipt.Receipt``."""

    @property
    def silo(self) -> str: ...
    @property
    def run(self) -> bytes: ...
    @property
    def job(self) -> bytes: ...
    @property
    def plan(self) -> bytes: ...
    @property
    def charter(self) -> bytes: ...
    @property
    def code(self) -> bytes: ...
    @property
    def nonce(self) -> bytes: ...
    @property
    def approval(self) -> bytes: ...
    @property
    def data(self) -> bytes: ...
    @property
    def initial(self) -> bytes: ...
    @property
    def chain(self) -> bytes: ...
    @property
    def ledger(self) -> bytes: ...
    @property
    def steps(self) -> Sequence[Applied]: ...
    def chains(self) -> Sequence[bytes]:
        """S_0 and S after each step, from the receipt's other fields."""


class Proven(Protocol):
    """Who signed what twice: see ``crypto.equivocation.Proven``. As text one sentence."""

    @property
    def signer(self) -> str: ...
    @property
    def fingerprint(self) -> str: ...
    @property
    def kind(self) -> str: ...
    @property
    def place(self) -> str: ...
    @property
    def digests(self) -> tuple[str, str]: ...


# --- the reader --------------------------------------------------------------------------------------------------


class Reader(Protocol):
    """One protocol. Whatever does not decode or verify raises the errors of ``crypto.errors``."""

    @property
    def name(self) -> str:
        """As in ``protocol`` of the record run-started."""

    @property
    def note(self) -> str:
        """What a reader of the verdict must know about this protocol; "" for nothing."""

    @property
    def early_refusals(self) -> bool:
        """Whether a silo that had no agent for the job signed a refusal that names no run."""

    def open_charter(self, data: bytes, consortium: PublicIdentity) -> Charter:
        """A signed charter, once the consortium's signature holds."""

    def plan(self, data: bytes) -> Plan: ...
    def job_digest(self, text: str) -> bytes: ...
    def run_id(self, job: bytes, charter: bytes, nonce: bytes) -> bytes: ...
    def initial_chain(self, run: bytes, state: bytes) -> bytes:
        """S_0. ``state``: digest of the initial blocks."""

    def void_chain(self, chain: bytes, t3: bytes) -> bytes:
        """S after a void step."""

    def initial_state(self, plan: Any, run: bytes) -> State:
        """The blocks before the first step. ``run``: the run id."""

    def apply(self, plan: Any, step: Any, state: State, sums: State, slots: Mapping[str, int]) -> State:
        """The blocks after a step. ``sums``: opened lane → words; other lanes keep their blocks."""

    def state_digest(self, state: State) -> bytes: ...
    def words_digest(self, words: np.ndarray) -> bytes: ...
    def check_step(
        self, evidence: bytes, charter: Any, plan: Any, *, run: bytes, k: int, attempt: int, chain: bytes
    ) -> CheckedStep:
        """The evidence of a released step: every signature, T0 to T3, the attestations and the slots."""

    def approval_digest(self, signed: bytes) -> bytes: ...
    def open_approval(self, signed: bytes, silo: str, charter: Any) -> Approval:
        """An approval that the data owner of that silo signed."""

    def check_shown(
        self, signed: bytes, advert: Any, charter: Any, *, job: bytes, plan: bytes, code: bytes
    ) -> Approval:
        """The approval that an advert names: signed by the data owner, for this run and these data."""

    def open_closing(self, signed: bytes, charter: Any) -> Closing: ...
    def open_decline(self, signed: bytes, charter: Any) -> Decline: ...
    def open_receipt(self, signed: bytes, agent: Callable[[Any], PublicIdentity]) -> Receipt:
        """A receipt, signed with the key that ``agent`` names for it and consistent in itself."""

    def verify_pair(self, evidence: bytes, charter: Any) -> Proven:
        """What two contradicting messages prove, or EvidenceError."""
