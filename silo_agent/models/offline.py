"""No network while a factory runs: a model that is fetched at run time is neither reviewed nor the same everywhere.

An audit hook watches the thread that runs the factory, and threads that it starts. It sees what Python does: sockets,
name look-ups, other programs. Compiled code with sockets of its own is not seen; a silo's firewall is the rule for it
(docs/egress.md).
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Final
from weakref import WeakKeyDictionary

from crypto.errors import SpecError

_NETWORK: Final = frozenset({"socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto"})
_PROGRAMS: Final = frozenset({"subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.spawn"})

#: Read by Hugging Face's libraries when they are imported, so it stays set.
_OFFLINE: Final = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}

_REMEDY: Final = "Put the weights into the package itself, as a file, and load them from there."


class _Refused(ConnectionRefusedError):
    """A connection or a program of a factory. An OSError, so that libraries treat it as a network that is down."""


class _Watch:
    """The threads that are watched, each with what its code may not do, and the list of what it tried."""

    def __init__(self) -> None:
        self.threads: WeakKeyDictionary[threading.Thread, tuple[frozenset[str], list[str]]] = WeakKeyDictionary()

    def __call__(self, event: str, args: tuple[object, ...]) -> None:
        if not self.threads or (watched := self.threads.get(threading.current_thread())) is None:
            return
        refused, tried = watched
        if event in refused:
            tried.append(_what(event, args))
            raise _Refused(f"A model's factory may not use the network or start programs: it tries {tried[-1]}.")

    def follow(self, started: threading.Thread) -> None:
        """Watch a thread that is about to be started, if the one that starts it is watched."""
        if self.threads and (watched := self.threads.get(threading.current_thread())) is not None:
            self.threads[started] = watched


@cache
def _installed() -> _Watch:
    """The one hook of this process: a hook cannot be taken out again.

    Python 3.11 has no event for the start of a thread, so ``Thread.start`` is wrapped as well.
    """
    watch, start = _Watch(), threading.Thread.start

    def watched_start(self: threading.Thread) -> None:
        watch.follow(self)
        start(self)

    sys.addaudithook(watch)
    threading.Thread.start = watched_start  # type: ignore[method-assign]
    return watch


@contextmanager
def offline(what: str, *, programs: bool = False) -> Iterator[None]:
    """Refuses connections and programs of the code inside. ``what``: a name for the error, such as "params.model".
    ``programs``: may be started; libraries do so when they are imported, to ask for the processor's name.

    Raises SpecError where one was tried, also if the code inside caught the refusal and went on.
    """
    os.environ.update(_OFFLINE)
    watch, here, tried = _installed(), threading.current_thread(), list[str]()
    watch.threads[here] = _NETWORK if programs else _NETWORK | _PROGRAMS, tried
    try:
        yield
    except Exception as failed:
        if not tried:
            raise
        raise _downloads(what, tried[0]) from failed
    finally:
        del watch.threads[here]
    if tried:
        raise _downloads(what, tried[0])


def _downloads(what: str, tried: str) -> SpecError:
    return SpecError(what, got=f"a factory that tries {tried}", want="a model that needs no network", remedy=_REMEDY)


def _what(event: str, args: tuple[object, ...]) -> str:
    """The attempt, for people: a host to look up, an address to connect to, a program to start."""
    if event in _PROGRAMS:
        return f"to start {args[0]!s}"
    place = args[0] if event.startswith("socket.get") else args[1]
    return f"to reach {place[0] if isinstance(place, tuple) else place!s}"
