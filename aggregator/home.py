"""The aggregator's home: where everything lies, and the readers of what is small.

aggregator.json · aggregator.pub · keys/aggregator.key · consortium.pub · charter.bin · charters/ ·
ledger/ledger.jsonl (.head) · jobs/<run>/ · mlflow.db · mlartifacts/ · lineage.{json,lock} · run.lock · nvflare/ ·
security.jsonl · metrics/
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from pathlib import Path

from crypto import durable
from crypto.charter import Charter
from crypto.errors import SpecError
from crypto.home import Home
from crypto.keys import Identity, PublicIdentity

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,62}")


@dataclass(frozen=True, slots=True)
class AggregatorHome(Home):
    """``root``: the folder."""

    # --- who the aggregator is -------------------------------------------------------------------------------------

    @property
    def settings_path(self) -> Path:
        """``aggregator.json``. A folder with this file is the aggregator's home."""
        return self.root / "aggregator.json"

    def exists(self) -> bool:
        """Whether the folder is the aggregator's home."""
        return self.settings_path.is_file()

    @property
    def public_key_path(self) -> Path:
        """The public key, 32 bytes, for the first charter."""
        return self.root / "aggregator.pub"

    @property
    def identity_path(self) -> Path:
        return self.key_path("aggregator")

    def identity(self) -> Identity:
        """The aggregator's key. Raises SpecError where there is none, or where others may read it."""
        return Identity.load(self.identity_path)

    # --- runs ------------------------------------------------------------------------------------------------------

    @property
    def ledger_path(self) -> Path:
        """The record of every run; ``.head`` lies beside it."""
        return self.root / "ledger" / "ledger.jsonl"

    @property
    def jobs_folder(self) -> Path:
        return self.root / "jobs"

    def run_folder(self, run: str) -> Path:
        """Checkpoints, uploads and evidence of a run. Raises SpecError for a name that isn't safe as a file name."""
        return self.jobs_folder / file_name("run", run)

    @property
    def run_lock_path(self) -> Path:
        """Shared by runs, held alone by a change of the charter."""
        return self.root / "run.lock"

    @property
    def nvflare_folder(self) -> Path:
        """NVFlare's own store of jobs, and the status of each."""
        return self.root / "nvflare"

    # --- the copy in MLflow ----------------------------------------------------------------------------------------

    @property
    def mlflow_path(self) -> Path:
        """MLflow's SQLite database."""
        return self.root / "mlflow.db"

    @property
    def artifacts_folder(self) -> Path:
        """MLflow's files, where it has no server of its own."""
        return self.root / "mlartifacts"

    @property
    def cursor_path(self) -> Path:
        """How far the ledger has been copied into MLflow."""
        return self.root / "lineage.json"

    @property
    def follower_lock_path(self) -> Path:
        """Held by the follower while it writes to MLflow."""
        return self.root / "lineage.lock"

    # --- making and opening one ------------------------------------------------------------------------------------

    def make(self) -> PublicIdentity:
        """The home with a key of its own; the public key."""
        for folder in (self.root, self.keys_folder, self.metrics_folder, self.jobs_folder):
            durable.private_folder(folder)
        identity = Identity.generate()
        identity.save(self.identity_path)
        self.settings_path.write_text("{}\n")
        return identity.public

    def open(self) -> tuple[Charter, Identity]:
        """The pinned charter, which must be valid now, and the aggregator's key."""
        charter = self.charter()
        charter.check_validity(int(time.time()))
        return charter, self.identity()


def file_name(kind: str, name: str) -> str:
    """A name from outside, safe as a file name; else SpecError. Only lanes may have a slash; the caller quotes it."""
    if not _NAME.fullmatch(name) or (kind != "lane" and "/" in name):
        raise SpecError(f"{kind} name", got=name, want="letters, digits and . _ -, at most 63")
    return name
