"""What this silo allows: its own floors. The server cannot loosen them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from crypto import text_files
from crypto.errors import SpecError
from crypto.transcript import digest


@dataclass(frozen=True, slots=True)
class Policy:
    """``floors``: lane → fewest contributors this silo insists on. The strictest of charter, plan and policy holds."""

    floors: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def load(cls, path: Path) -> Policy:
        """Read ``policy.toml``: a table ``[floors]``. No file means no floors. Raises SpecError."""
        if not path.exists():
            return cls()
        raw = text_files.read_toml(path, "a policy")
        for key in raw.keys() - {"floors"}:
            remedy = "Approvals are signed: see `fed approve`." if key in ("approval", "approved") else ""
            raise SpecError(f"policy.{key}", got=raw[key], want="floors", remedy=remedy)
        floors = raw.get("floors", {})
        if not isinstance(floors, dict) or not all(
            isinstance(v, int) and not isinstance(v, bool) and 0 < v < 2**32 for v in floors.values()
        ):
            raise SpecError("policy.floors", got=floors, want="lane = positive integer")
        return cls(floors)

    @property
    def digest(self) -> bytes:
        """What an approval binds: an approval holds for one policy."""
        return digest("policy", *(part for lane, floor in sorted(self.floors.items()) for part in (lane, floor)))
