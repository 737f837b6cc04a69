"""A silo's home: where everything lies, and the readers of what is small.

silo.json · keys/{agent,owner}.key · salt · consortium.pub · charter.bin · charters/ · policy.toml · syft/ ·
approvals/ · journal.jsonl · runs/ · personal/ · receipts/ · evidence/ · models/ · security.jsonl · metrics/
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from crypto import durable
from crypto.charter import Member
from crypto.errors import SpecError
from crypto.home import Home
from crypto.keys import Identity
from silo_agent.policy import Policy

#: Files in a silo's ``evidence/``.
MOST_EVIDENCE: Final = 16


@dataclass(frozen=True, slots=True)
class SiloHome(Home):
    """``root``: the folder."""

    # --- who the silo is -------------------------------------------------------------------------------------------

    @property
    def settings_path(self) -> Path:
        """``silo.json``: the silo's id. A folder with this file is a silo's home."""
        return self.root / "silo.json"

    def exists(self) -> bool:
        """Whether the folder is a silo's home."""
        return self.settings_path.is_file()

    def settings(self) -> dict[str, object]:
        """``silo.json``: at least ``silo``, the id. Raises SpecError for a folder that is no silo's home."""
        try:
            settings: dict[str, object] = json.loads(self.settings_path.read_text(encoding="utf-8"))
            str(settings["silo"])
        except (OSError, ValueError, KeyError, TypeError) as bad:
            raise SpecError(
                str(self.root), got=f"no {self.settings_path.name} with an id", want="a silo's home"
            ) from bad
        return settings

    @property
    def silo(self) -> str:
        """The silo's id. Raises SpecError for a folder that is no silo's home."""
        return str(self.settings()["silo"])

    @property
    def member_path(self) -> Path:
        """The public keys, signed, to be sent to the consortium."""
        return self.root / "member.json"

    @property
    def agent_key_path(self) -> Path:
        return self.key_path("agent")

    @property
    def owner_key_path(self) -> Path:
        """The data owner's key; it may be kept elsewhere."""
        return self.key_path("owner")

    def identity(self) -> Identity:
        """The agent's key. Raises SpecError where there is none, or where others may read it."""
        return Identity.load(self.agent_key_path)

    def owner(self) -> Identity:
        """The data owner's key. Raises SpecError where there is none, or where others may read it."""
        return Identity.load(self.owner_key_path)

    @property
    def salt_path(self) -> Path:
        return self.root / "salt"

    def salt(self) -> bytes:
        """32 bytes: hides the rows behind the data commitments."""
        return self.salt_path.read_bytes()

    @property
    def policy_path(self) -> Path:
        return self.root / "policy.toml"

    def policy(self) -> Policy:
        """The silo's own limits; the defaults where there is no file. Raises SpecError."""
        return Policy.load(self.policy_path)

    # --- what the agent works on and keeps -------------------------------------------------------------------------

    @property
    def syftbox_folder(self) -> Path:
        """PySyft's folder: data sets, mock data, requests."""
        return self.root / "syft"

    @property
    def models_folder(self) -> Path:
        """Base models that the institution has fetched itself."""
        return self.root / "models"

    @property
    def approvals_folder(self) -> Path:
        """The data owner's signed approvals and denials."""
        return self.root / "approvals"

    @property
    def journal_path(self) -> Path:
        """What the silo has promised and released; its lock is the agent's."""
        return self.root / "journal.jsonl"

    @property
    def runs_folder(self) -> Path:
        """How far the silo is in each run."""
        return self.root / "runs"

    @property
    def personal_folder(self) -> Path:
        """Models of this silo alone, one a run."""
        return self.root / "personal"

    def personal_path(self, run: str) -> Path:
        """Where the model of a run is kept. ``run``: its id."""
        return self.personal_folder / f"{run[:16]}.safetensors"

    def keep_personal(self, run: str, model: bytes) -> None:
        """Put a run's model into ``personal/``, synced, 0600. Raises OSError."""
        durable.replace(self.personal_path(run), model, hidden=True)

    @property
    def receipts_folder(self) -> Path:
        return self.root / "receipts"

    @property
    def evidence_folder(self) -> Path:
        """Signed contradictions of others."""
        return self.root / "evidence"

    def keep_receipt(self, name: str, receipt: bytes) -> None:
        """Put a receipt into ``receipts/``, synced. The first of a name stays. Raises OSError."""
        _write_once(self.receipts_folder / name, receipt)

    def keep_evidence(self, name: str, evidence: bytes) -> None:
        """Put evidence into ``evidence/``, synced. The first of a name stays, and there is an end: a party that makes
        evidence against itself must not fill our disk. Raises OSError."""
        durable.private_folder(self.evidence_folder)
        if sum(1 for _ in self.evidence_folder.iterdir()) < MOST_EVIDENCE:
            _write_once(self.evidence_folder / name, evidence)

    # --- making one ------------------------------------------------------------------------------------------------

    def make(self, silo: str, settings: Mapping[str, object] | None = None) -> Member:
        """The home, with keys and salt of its own; the member to enrol. ``settings``: more for ``silo.json``."""
        for folder in (self.root, self.keys_folder, self.metrics_folder):
            durable.private_folder(folder)
        agent, owner = Identity.generate(), Identity.generate()
        agent.save(self.agent_key_path)
        owner.save(self.owner_key_path)
        durable.create(self.salt_path, os.urandom(32))
        self.settings_path.write_text(json.dumps({"silo": silo, **(settings or {})}) + "\n", encoding="utf-8")
        return Member(silo, agent.public, owner.public)


def _write_once(path: Path, data: bytes) -> None:
    """A new private file, synced; one that is there stays as it is. Raises OSError."""
    durable.private_folder(path.parent)
    if not path.exists():
        durable.create(path, data)
