"""Message ↔ Shareable, in one place, once per direction.

On the wire a message is four keys and nothing else: version, phase, body (bytes) and arrays (a list of bytes if they
are small, of flat uint32 numpy arrays, which NVFlare moves item by item, if not). A Shareable is a string-keyed bag;
it ends here: ``wrap`` builds a fresh one, ``unwrap`` accepts exactly what ``wrap`` makes. Whatever else NVFlare put
into the headers (cookies, peer context, task ids) is its own and never reaches a ``Message``.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from nvflare.apis.fl_constant import ReturnCode
from nvflare.apis.shareable import ReservedHeaderKey, Shareable

from crypto.errors import Malformed
from crypto.messages import MESSAGE_ARRAYS, Message

#: Every task of ours is named ``consilium.<phase>``, so that an operator reads the phase in NVFlare's own logs.
TASK_PREFIX: Final = "consilium."
#: What the executor and the filters are registered for.
TASK_PATTERN: Final = TASK_PREFIX + "*"

WIRE_VERSION: Final = 1
#: Arrays of a message that are smaller than this in total travel inside it; larger ones are fetched by the receiver,
#: which spares memory and costs two more round trips.
INLINE_BYTES: Final = 1 << 20

_WORD: Final = np.dtype("<u4")
_VERSION, _PHASE, _BODY, _ARRAYS = "consilium", "phase", "body", "arrays"
_KEYS: Final = frozenset({_VERSION, _PHASE, _BODY, _ARRAYS, ReservedHeaderKey.HEADERS})


def wrap(message: Message) -> Shareable:
    """A fresh Shareable with this message and no header. Raises Malformed for a message no peer would accept."""
    message.check()
    shareable = Shareable()
    shareable[_VERSION] = WIRE_VERSION
    shareable[_PHASE] = message.phase
    shareable[_BODY] = message.body
    if _inline(message.arrays):
        shareable[_ARRAYS] = [array.tobytes() for array in message.arrays]
    else:
        shareable[_ARRAYS] = list(message.arrays)
    return shareable


def unwrap(shareable: Any) -> Message:
    """The message in a Shareable. Raises Malformed for anything that ``wrap`` would not have made."""
    if not isinstance(shareable, dict):
        raise Malformed(f"A payload is a {type(shareable).__name__}, not a Shareable.")
    if shareable.keys() != _KEYS:
        strange = sorted(str(key)[:40] for key in shareable.keys() ^ _KEYS)
        raise Malformed(f"A payload has missing or unknown keys: {strange[:8]}.")
    version, carried = shareable[_VERSION], shareable[_ARRAYS]
    if type(version) is not int or version != WIRE_VERSION:
        raise Malformed(f"A payload has a wire version other than {WIRE_VERSION}.")
    if type(carried) is not list or len(carried) > MESSAGE_ARRAYS:
        raise Malformed(f"A payload's arrays are not a list of at most {MESSAGE_ARRAYS}.")
    inline = all(type(one) is bytes for one in carried)
    message = Message(
        phase=shareable[_PHASE], body=shareable[_BODY], arrays=tuple(map(_words, carried)) if inline else tuple(carried)
    )
    message.check()
    if inline != _inline(message.arrays):
        raise Malformed(f"A payload's arrays travel the wrong way for their size ({INLINE_BYTES} bytes is the border).")
    return message


def _inline(arrays: tuple[np.ndarray, ...]) -> bool:
    return sum(array.nbytes for array in arrays) <= INLINE_BYTES


def _words(raw: bytes) -> np.ndarray:
    if len(raw) % 4:
        raise Malformed(f"An array of {len(raw)} bytes is not a whole number of words.")
    return np.frombuffer(raw, dtype=_WORD)


def is_bare_refusal(shareable: Any) -> bool:
    """True for a reply that carries a return code other than OK and nothing else: NVFlare's way to say "failed"."""
    if not isinstance(shareable, dict) or shareable.keys() != {ReservedHeaderKey.HEADERS}:
        return False
    headers = shareable[ReservedHeaderKey.HEADERS]
    return (
        isinstance(headers, dict) and headers.keys() == {_RC} and type(headers[_RC]) is str and headers[_RC] in _CODES
    )


#: The return codes our executor and NVFlare's client runner use: a closed set, so that a code carries no message.
_CODES: Final = frozenset(
    {
        ReturnCode.BAD_TASK_DATA,
        ReturnCode.EXECUTION_EXCEPTION,
        ReturnCode.EXECUTION_RESULT_ERROR,
        ReturnCode.TASK_ABORTED,
    }
)
_RC: Final = ReservedHeaderKey.RC
