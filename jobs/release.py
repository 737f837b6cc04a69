"""What software this is: one digest over our packages as installed, and the versions of what they stand on.

Silos and the aggregator compare the digest before a run, data owners approve it, the ledger keeps it. It covers the
four packages' own files; the versions of torch, NVFlare and the others are named beside it, not bound by it.
"""

from __future__ import annotations

from functools import cache
from hashlib import sha256
from importlib import import_module, metadata
from pathlib import Path

from crypto import transcript

PACKAGES = ("aggregator", "crypto", "jobs", "silo_agent")
_SUFFIXES = {".py", ".toml", ".j2"}
_NAMED = ("consilium", "torch", "nvflare", "mlflow", "syft-dataset", "syft-job", "syft-perms", "cryptography", "numpy")


@cache
def digest() -> bytes:
    """SHA-256 over the names and contents of every source file of ours, in one order."""
    fields: list[bytes | str | int] = []
    for name in PACKAGES:
        root = Path(str(import_module(name).__file__)).parent
        for path in sorted(root.rglob("*"), key=lambda path: path.relative_to(root).as_posix()):
            if path.suffix in _SUFFIXES and path.is_file():
                fields += [f"{name}/{path.relative_to(root).as_posix()}", sha256(path.read_bytes()).digest()]
    return transcript.digest("code", *fields)


def versions() -> dict[str, str]:
    """Distribution → version, of those that are installed here."""
    found = {}
    for name in _NAMED:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
