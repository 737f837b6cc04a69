"""The text that lists a release's files: its digest is the code digest, its form is what sha256sum reads."""

from hashlib import sha256

import pytest

from crypto.errors import Malformed
from crypto.release_manifest import MOST_BYTES, ReleaseManifest

ONE, TWO = sha256(b"one").hexdigest(), sha256(b"two").hexdigest()
TEXT = f"{ONE}  crypto/a.py\n{TWO}  jobs/b.toml\n".encode()


def test_there_and_back() -> None:
    manifest = ReleaseManifest({"jobs/b.toml": TWO, "crypto/a.py": ONE})
    assert bytes(manifest) == TEXT and ReleaseManifest.from_bytes(TEXT) == manifest
    assert manifest.digest == sha256(TEXT).digest()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\n",
        TEXT[:-1],
        TEXT + b"\n",
        TEXT.replace(b"\n", b"\r\n"),
        b"".join(reversed(TEXT.splitlines(keepends=True))),
        TEXT.splitlines(keepends=True)[0] * 2,
        TEXT.replace(b"crypto/a.py", b"../crypto/a.py"),
        TEXT.replace(b"crypto/a.py", b"/crypto/a.py"),
        TEXT.replace(b"crypto/a.py", b"crypto//a.py"),
        TEXT.replace(b"  ", b" *"),
        TEXT.replace(ONE.encode(), ONE.upper().encode()),
        TEXT.replace(b"a.py", "ä.py".encode()),
        TEXT + b"\xff",
        b"x" * (MOST_BYTES + 1),
    ],
)
def test_other_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(Malformed):
        ReleaseManifest.from_bytes(data)


def test_one_that_is_too_long_is_not_parsed() -> None:
    line = TEXT.splitlines(keepends=True)[0]
    with pytest.raises(Malformed, match="at most"):
        ReleaseManifest.from_bytes(line * (MOST_BYTES // len(line) + 1))
