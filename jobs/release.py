"""What software this is: one digest over our packages as installed, and the versions of what they depend on.

Silos and the aggregator compare the digest before a run, data owners approve it, the ledger keeps it. It is the digest
of a manifest (``crypto.release_manifest``), which goes with every run. It covers the four packages' own files; the
versions of torch, NVFlare and the others are named beside it, not bound by it.
"""

from __future__ import annotations

import re
from functools import cache
from hashlib import sha256
from importlib import import_module, metadata
from pathlib import Path
from typing import Final

from crypto.release_manifest import ReleaseManifest

#: The name that we are installed under. The name `consilium` belongs to another project on PyPI.
DISTRIBUTION: Final = "consilium-fl"
PACKAGES = ("aggregator", "crypto", "jobs", "silo_agent")
_SUFFIXES = {".py", ".toml", ".j2"}
_BELOW = ("torch", "nvflare", "mlflow", "syft-dataset", "syft-job", "syft-perms", "cryptography", "numpy")

_REQUIREMENT = re.compile(r"([A-Za-z0-9._-]+)\s*(?:\[[^\]]*\])?\s*\(?([^;)]*)\)?\s*(?:;(.*))?")
_EXTRA = re.compile(r"extra\s*==\s*['\"]([^'\"]+)['\"]")


@cache
def manifest() -> ReleaseManifest:
    """Every source file of ours with its digest, as it is installed here."""
    files = {}
    for name in PACKAGES:
        root = Path(str(import_module(name).__file__)).parent
        for path in root.rglob("*"):
            if path.suffix in _SUFFIXES and path.is_file():
                files[f"{name}/{path.relative_to(root).as_posix()}"] = sha256(path.read_bytes()).hexdigest()
    return ReleaseManifest(files)


def digest() -> bytes:
    """The code digest: of ``manifest``, and so of the name and contents of every source file of ours."""
    return manifest().digest


def versions() -> dict[str, str]:
    """Name → version, of this software (by its own name, `consilium`) and of those below it that are installed here."""
    found = {}
    for name, distribution in {"consilium": DISTRIBUTION, **{name: name for name in _BELOW}}.items():
        try:
            found[name] = metadata.version(distribution)
        except metadata.PackageNotFoundError:
            continue
    return found


def version() -> str:
    """Of this software, as it is installed."""
    return metadata.version(DISTRIBUTION)


def pip_line(name: str) -> str:
    """A requirement on a distribution that we depend on: the version that is installed here, else our own bounds."""
    try:
        return f"{name}=={metadata.version(name).partition('+')[0]}"  # "+cpu" names a build that no index has
    except metadata.PackageNotFoundError:
        return next(f"{name}{bounds}" for wanted, bounds, _ in requirements() if wanted == name)


def requirements() -> list[tuple[str, str, str]]:
    """(name, bounds, extra) of every requirement of ours; other markers than extras are taken to hold."""
    found = []
    for text in metadata.requires(DISTRIBUTION) or []:
        if (parts := _REQUIREMENT.fullmatch(text.strip())) and parts[1] != DISTRIBUTION:
            extra = _EXTRA.search(parts[3] or "")
            found.append((parts[1], parts[2].strip(), extra[1] if extra else ""))
    return found
