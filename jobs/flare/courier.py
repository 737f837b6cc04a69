"""Carries one exchange: a request of its own to every silo, the answers back.

Requests are pushed as NVFlare's reserved DO_TASK message, the same message with which NVFlare's own client-side
controllers send tasks: the silo's runner takes it through the site's forced filters to the executor and answers on the
same connection. A task that is queued and polled for costs a poll and three round trips, 0.3 s per exchange with eight
silos on two busy cores; pushed it is one round trip, 0.08 s, and idle silos need not poll fast.

Delivery is at least once: an answer that does not come is asked for again with the same bytes. Agents are idempotent,
so a request that did arrive gives the same answer. An answer that comes after its exchange is dropped, but it says that
the silo is there: the next exchange waits for it, enough answers or not. While a silo works on a long answer it is
asked for a heartbeat now and then, so a process that died costs seconds and not the phase's time-out. One that was gone
and is there again is another process, which has never heard of the request: it is asked at once.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Collection, Mapping
from threading import Condition, Thread
from typing import Any, Final

from nvflare.apis.fl_constant import ReservedTopic, ReturnCode
from nvflare.apis.shareable import ReservedHeaderKey, Shareable
from nvflare.apis.signal import Signal
from nvflare.fuel.f3.cellnet.defs import ReturnCode as CellCode
from nvflare.fuel.utils.msg_root_utils import delete_msg_root

from crypto.messages import Message
from jobs.flare.wire import TASK_PREFIX, wrap

#: How long a wait may last before the abort signal is looked at again. Seconds.
LOOK_S: Final = 0.1
#: Pause before an unreachable silo is tried again. Seconds.
RETRY_S: Final = 0.3
#: How long a silo that was there before may be unreachable before it counts as absent; after that it is tried once per
#: exchange. One that was never there (its process is still starting) has until the exchange times out. More than the
#: 2 s by which the abort of a job reaches silos earlier than us: they are not lost, they were stopped. Seconds.
LOST_S: Final = 3.0
#: How often a silo that works on an answer is asked whether it is alive. Seconds.
WATCH_S: Final = 3.0
#: First wait for an answer before the request is repeated; doubles each time. Seconds.
REPEAT_S: Final = 60.0

#: "Not delivered, or no answer": worth another try. Every other code is the silo's answer.
_UNDELIVERED: Final = frozenset(
    {
        ReturnCode.TIMEOUT,
        ReturnCode.COMMUNICATION_ERROR,
        ReturnCode.ERROR,
        ReturnCode.TOPIC_UNKNOWN,
        CellCode.SERVICE_UNAVAILABLE,
        CellCode.INVALID_SESSION,
    }
)


class Answers:
    """Answers to one exchange, stashed by courier threads and read by the control flow. Nothing is computed here."""

    def __init__(self, silos: Mapping[str, object]) -> None:
        self._changed = Condition()
        self._open = set(silos)
        self._results: dict[str, Shareable] = {}

    def put(self, silo: str, result: Shareable | None) -> bool:
        """The silo answered, or (None) will not. False: too late, or not the first, so it doesn't count."""
        with self._changed:
            if counts := silo in self._open:
                self._open.discard(silo)
                if result is not None:
                    self._results[silo] = result
                self._changed.notify_all()
            return counts

    def outstanding(self) -> set[str]:
        """The silos whose answer is still wanted."""
        with self._changed:
            return set(self._open)

    def pause(self, silos: set[str], seconds: float) -> bool:
        """Waits; True if the answer of one of these is still wanted."""
        with self._changed:
            return not self._changed.wait_for(lambda: not silos & self._open, timeout=seconds)

    def wait(self, *, timeout_s: float, enough: int, grace_s: float, abort: Signal) -> dict[str, Shareable]:
        """What came until all answered, ``enough`` did and the grace is over, the time is up, or the job is aborted."""
        end = time.monotonic() + timeout_s
        graced = False
        with self._changed:
            while self._open and not abort.triggered and (now := time.monotonic()) < end:
                if not graced and len(self._results) >= enough:
                    graced, end = True, min(end, now + grace_s)
                self._changed.wait(min(LOOK_S, max(0.0, end - now)))
            self._open.clear()
            self._changed.notify_all()
            return dict(self._results)


class Courier:
    """One run's courier. ``engine``: NVFlare's server engine. ``grace_s``: wait for the rest after ``enough``.

    ``answered``: called with each silo whose answer came, by the courier's threads.
    """

    def __init__(
        self, engine: Any, abort: Signal, grace_s: float, answered: Callable[[str], None] = lambda silo: None
    ) -> None:
        self._engine = engine
        self._abort = abort
        self._grace_s = grace_s
        self._answered = answered
        self._here: set[str] = set()  #: silos that have answered in this run
        self._late: set[str] = set()  #: silos whose last answer came after its exchange
        self._wait_for: frozenset[str] = frozenset()  #: silos that are not given up in this exchange
        self._unreachable: dict[str, float] = {}  #: silo → since when, until it can be reached again

    def exchange(
        self,
        phase: str,
        requests: Mapping[str, Message],
        *,
        timeout_s: float,
        enough: int,
        wait_for: Collection[str] = (),
    ) -> dict[str, Shareable]:
        """Silo → its answer, error codes included; a silo that did not answer is absent. Returns at once on abort.

        ``wait_for``: silos that do not count as absent because they cannot be reached; they have all the time."""
        self._wait_for = frozenset(wait_for)
        if phase == "open":  # a silo whose service was started again is registered anew, under another token
            self._engine.sync_clients_from_main_process()
        for request in requests.values():
            request.check()  # here, where an error of ours reaches the run, and not in a thread
        answers = Answers(requests)
        end = time.monotonic() + timeout_s

        def ask(silo: str) -> None:
            work = (silo, TASK_PREFIX + phase, requests[silo], answers, end)
            Thread(target=self._ask, args=work, name=f"courier-{silo}", daemon=True).start()

        for silo in requests:
            ask(silo)
        known = self._here & set(requests)
        late = self._late & set(requests)
        self._late -= late
        Thread(target=self._watch, args=(answers, known, ask), name="courier-watch", daemon=True).start()
        wanted = min(enough + len(late), len(requests))
        came = answers.wait(timeout_s=timeout_s, enough=wanted, grace_s=self._grace_s, abort=self._abort)
        self._here.update(came)
        return came

    def _ask(self, silo: str, task: str, request: Message, answers: Answers, end: float) -> None:
        answer: Shareable | None = None
        repeat_s = REPEAT_S
        try:
            wanted = True
            while wanted and not self._abort.triggered and (left := end - time.monotonic()) > 0:
                got = self._push(silo, task, request, min(repeat_s, left))
                code = ReturnCode.ERROR if got is None else got.get_return_code()
                if code not in _UNDELIVERED:
                    answer = got
                    break
                if code == ReturnCode.TIMEOUT:
                    repeat_s *= 2
                elif self._is_lost(silo):
                    break
                wanted = answers.pause({silo}, RETRY_S)
        finally:
            counts = answers.put(silo, answer)
            if answer is not None:
                if counts:
                    self._answered(silo)
                else:
                    self._late.add(silo)

    def _watch(self, answers: Answers, silos: set[str], ask: Callable[[str], None]) -> None:
        """Gives up silos whose process cannot be reached any more. A late heartbeat is no reason. ``ask``: asks a silo
        once more, if it could not be reached and now can."""
        gone: set[str] = set()
        while answers.pause(silos, WATCH_S) and not self._abort.triggered:
            for silo in answers.outstanding() & silos:
                reply = self._send(silo, ReservedTopic.JOB_HEART_BEAT, Shareable(), WATCH_S)
                code = ReturnCode.ERROR if reply is None else reply.get_return_code()
                if code == ReturnCode.TIMEOUT:
                    continue
                if code in _UNDELIVERED:
                    gone.add(silo)
                    if self._is_lost(silo):
                        answers.put(silo, None)
                elif silo in gone:
                    gone.discard(silo)
                    ask(silo)

    def _is_lost(self, silo: str) -> bool:
        """Called when a silo could not be reached."""
        now = time.monotonic()
        since = self._unreachable.setdefault(silo, now)
        return now - since > LOST_S and silo in self._here and silo not in self._wait_for

    def _push(self, silo: str, task: str, request: Message, timeout_s: float) -> Shareable | None:
        shareable = wrap(request)
        root = str(uuid.uuid4())
        shareable.set_header(ReservedHeaderKey.TASK_NAME, task)
        shareable.set_header(ReservedHeaderKey.TASK_ID, root)
        shareable.set_header(ReservedHeaderKey.MSG_ROOT_ID, root)
        shareable.set_header(ReservedHeaderKey.MSG_ROOT_TTL, timeout_s)
        try:
            return self._send(silo, ReservedTopic.DO_TASK, shareable, timeout_s)
        finally:
            delete_msg_root(root)

    def _send(self, silo: str, topic: str, request: Shareable, timeout_s: float) -> Shareable | None:
        with self._engine.new_context() as fl_ctx:
            replies = self._engine.send_aux_request(
                targets=[silo], topic=topic, request=request, timeout=timeout_s, fl_ctx=fl_ctx, optional=True
            )
        reply = (replies or {}).get(silo)
        if not isinstance(reply, Shareable):
            return None
        if reply.get_return_code() not in _UNDELIVERED:
            self._unreachable.pop(silo, None)
        return reply
