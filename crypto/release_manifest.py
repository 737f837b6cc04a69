"""The files of a release with their digests: a text whose own SHA-256 is the code digest that data owners approve.

    <SHA-256 in hex>  jobs/evidence/predictor.py

One line a file, sorted by path: what ``sha256sum`` prints, so ``sha256sum --check release.sha256`` checks an installed
release, and ``sha256sum release.sha256`` gives the code digest. Whoever has this text and the code digest knows every
file of that release by its digest, whatever is installed where they check it. Only the digest is trusted: the text may
come from anyone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Final, Self

from crypto.errors import Malformed

#: The code that published models run, as a file of a release.
PREDICTOR: Final = "jobs/evidence/predictor.py"
#: Longest manifest in bytes: some ten thousand files.
MOST_BYTES: Final = 1 << 20

_LINE = re.compile(r"([0-9a-f]{64})  ([A-Za-z0-9_][A-Za-z0-9_.-]*(?:/[A-Za-z0-9_][A-Za-z0-9_.-]*)*)")


@dataclass(frozen=True, slots=True)
class ReleaseManifest:
    """``files``: path, from the folder that the packages lie in → SHA-256 in hex."""

    files: Mapping[str, str]

    def __bytes__(self) -> bytes:
        return "".join(f"{self.files[path]}  {path}\n" for path in sorted(self.files)).encode()

    @property
    def digest(self) -> bytes:
        """The code digest: SHA-256 of the manifest's bytes."""
        return sha256(bytes(self)).digest()

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Raises Malformed unless these are exactly the bytes of a manifest."""
        if len(data) > MOST_BYTES:
            raise Malformed(f"A release manifest of {len(data)} bytes; at most {MOST_BYTES} are read.")
        try:
            lines = [_LINE.fullmatch(line) for line in data.decode("ascii").splitlines()]
        except UnicodeDecodeError as bad:
            raise Malformed(f"A release manifest is not ASCII: {bad.reason}.") from bad
        manifest = cls({line[2]: line[1] for line in lines if line is not None})
        if not lines or bytes(manifest) != data:
            raise Malformed("A release manifest with a line that is no digest and path, a path twice, or out of order.")
        return manifest
