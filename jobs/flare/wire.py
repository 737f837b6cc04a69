"""Message ↔ Shareable, in one place, once per direction.

On the wire a message is four keys and nothing else: version, phase, body (bytes) and arrays (a list of flat uint32
numpy arrays, which NVFlare moves item by item). A Shareable is a string-keyed bag; it ends here, in both directions:
``wrap`` builds a fresh one, ``unwrap`` accepts exactly what ``wrap`` makes. Whatever else NVFlare put into the headers
(cookies, peer context, task ids) is its own and never reaches a ``Message``.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from nvflare.apis.fl_constant import ReturnCode
from nvflare.apis.shareable import ReservedHeaderKey, Shareable

from crypto.errors import Malformed
from crypto.messages import Message

#: Every task of ours is named ``consilium.<phase>``, so that an operator reads the phase in NVFlare's own logs.
TASK_PREFIX: Final = "consilium."
#: What the executor and the filters are registered for.
TASK_PATTERN: Final = TASK_PREFIX + "*"

WIRE_VERSION: Final = 1
#: Bytes. One array is one download item in NVFlare: larger ones cost memory on both sides.
MAX_ARRAY_BYTES: Final = 16 << 20
#: With MAX_ARRAY_BYTES: at most 1 GiB in one message, far above a plan's range and far below a frame.
MAX_ARRAYS: Final = 64
MAX_BODY_BYTES: Final = 16 << 20
MAX_PHASE_CHARS: Final = 32

_VERSION, _PHASE, _BODY, _ARRAYS = "consilium", "phase", "body", "arrays"
_KEYS: Final = frozenset({_VERSION, _PHASE, _BODY, _ARRAYS, ReservedHeaderKey.HEADERS})


def wrap(message: Message) -> Shareable:
    """A fresh Shareable with this message and no header. Raises Malformed for a message no peer would accept."""
    shareable = Shareable()
    shareable[_VERSION] = WIRE_VERSION
    shareable[_PHASE] = message.phase
    shareable[_BODY] = message.body
    shareable[_ARRAYS] = list(message.arrays)
    unwrap(shareable)
    return shareable


def unwrap(shareable: Any) -> Message:
    """The message in a Shareable. Raises Malformed for anything that ``wrap`` would not have made."""
    if not isinstance(shareable, dict):
        raise Malformed(f"A payload is a {type(shareable).__name__}, not a Shareable.")
    if shareable.keys() != _KEYS:
        strange = sorted(str(key)[:40] for key in shareable.keys() ^ _KEYS)
        raise Malformed(f"A payload has missing or unknown keys: {strange[:8]}.")
    version, phase, body = shareable[_VERSION], shareable[_PHASE], shareable[_BODY]
    if type(version) is not int or version != WIRE_VERSION:
        raise Malformed(f"A payload has a wire version other than {WIRE_VERSION}.")
    if type(phase) is not str or not 0 < len(phase) <= MAX_PHASE_CHARS or not phase.isascii():
        raise Malformed("A payload's phase is not a short ASCII text.")
    if type(body) is not bytes or len(body) > MAX_BODY_BYTES:
        raise Malformed(f"A payload's body is not bytes, or is longer than {MAX_BODY_BYTES}.")
    return Message(phase=phase, body=body, arrays=_arrays(shareable[_ARRAYS]))


def _arrays(value: Any) -> tuple[np.ndarray, ...]:
    if type(value) is not list or len(value) > MAX_ARRAYS:
        raise Malformed(f"A payload's arrays are not a list of at most {MAX_ARRAYS}.")
    for index, array in enumerate(value):
        if type(array) is not np.ndarray:
            raise Malformed(f"Array {index} is a {type(array).__name__}, not a numpy array.")
        if array.dtype != np.dtype("<u4") or array.ndim != 1 or not array.flags.c_contiguous:
            raise Malformed(f"Array {index} is not flat, contiguous, little-endian uint32.")
        if array.nbytes > MAX_ARRAY_BYTES:
            raise Malformed(f"Array {index} has {array.nbytes} bytes, more than {MAX_ARRAY_BYTES}.")
    return tuple(value)


def is_bare_refusal(shareable: Any) -> bool:
    """True for a reply that carries a return code other than OK and nothing else: NVFlare's way to say "failed"."""
    if not isinstance(shareable, dict) or shareable.keys() != {ReservedHeaderKey.HEADERS}:
        return False
    headers = shareable[ReservedHeaderKey.HEADERS]
    return isinstance(headers, dict) and headers.keys() == {ReservedHeaderKey.RC} and headers[ReservedHeaderKey.RC] in _CODES


#: The return codes our executor and NVFlare's client runner use: a closed set, so that a code carries no message.
_CODES: Final = frozenset(
    {ReturnCode.BAD_TASK_DATA, ReturnCode.EXECUTION_EXCEPTION, ReturnCode.EXECUTION_RESULT_ERROR, ReturnCode.TASK_ABORTED}
)
