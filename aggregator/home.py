"""The aggregator's home: where everything lies, and the readers of what is small.

aggregator.json · aggregator.pub · keys/aggregator.key · consortium.pub · charter.bin · charters/ ·
ledger/ledger.jsonl (.head) · jobs/<run>/ · mlflow.db · mlartifacts/ · lineage.{json,lock} · run.lock ·
interrupted.json · nvflare/ · security.jsonl · metrics/
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import quote

from crypto import durable
from crypto.charter import Charter
from crypto.errors import SpecError
from crypto.home import Home
from crypto.keys import Identity, PublicIdentity

#: In a run's folder: what MLflow calls its model. Written by the follower, not signed.
MLFLOW_FILE: Final = "mlflow.json"
#: In a run's folder: the code that a published version runs. Its digest is on the ledger.
PREDICTOR_FILE: Final = "predictor.py"
#: In a run's folder: the files of the release that made it. Its digest is the code digest, on the ledger and approved.
RELEASE_FILE: Final = "release.sha256"

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,62}")


@dataclass(frozen=True, slots=True)
class RunFolder:
    """``jobs/<run>``: what is kept of one run. ``root``: the folder. Steps are numbered from 0.

    checkpoints/000007.safetensors   the blocks after step 7, float32
    checkpoints/000007.json          what step 7 was, the digests of the blocks, of the file and of itself
    evidence/000007.bin              the signed messages of step 7: see crypto.evidence
    uploads/000007/<silo>/<lane>.u32 masked words of one silo: noise without the shares
    sums/000007/<number>.u32         opened sums that some silo still lacks
    predictor.py                     the code that a published version runs: a file of the release that made the run
    release.sha256                   that release's files and their digests: see crypto.release_manifest
    mlflow.json, model-card.md       the name and number of the version, and its card; not signed
    events.jsonl, report.html        the run's progress while it is watched; the demonstration's report
    lock                             held by the process that works on the run, so that there is one
    """

    root: Path

    @property
    def run(self) -> str:
        """The run's short id."""
        return self.root.name

    @property
    def checkpoints_folder(self) -> Path:
        return self.root / "checkpoints"

    def weights_path(self, step: int) -> Path:
        """The blocks after a step, safetensors."""
        return self.checkpoints_folder / f"{step:06d}.safetensors"

    def checkpoint_path(self, step: int) -> Path:
        """The description of a checkpoint. A checkpoint exists when this file does."""
        return self.checkpoints_folder / f"{step:06d}.json"

    def evidence_path(self, step: int) -> Path:
        return self.root / "evidence" / f"{step:06d}.bin"

    @property
    def uploads_folder(self) -> Path:
        return self.root / "uploads"

    def step_uploads(self, step: int) -> Path:
        """The masked uploads of one step: a folder for each silo."""
        return self.uploads_folder / f"{step:06d}"

    def upload_path(self, step: int, silo: str, lane: str) -> Path:
        """The masked words of one silo's lane, little-endian uint32. Raises SpecError for an unsafe name."""
        lane_file = quote(file_name("lane", lane), safe="") + ".u32"
        return self.step_uploads(step) / file_name("silo", silo) / lane_file

    @property
    def sums_folder(self) -> Path:
        return self.root / "sums"

    def step_sums(self, step: int) -> Path:
        """The opened sums of one step, a file each."""
        return self.sums_folder / f"{step:06d}"

    @property
    def predictor_path(self) -> Path:
        return self.root / PREDICTOR_FILE

    @property
    def release_path(self) -> Path:
        return self.root / RELEASE_FILE

    @property
    def mlflow_path(self) -> Path:
        return self.root / MLFLOW_FILE

    @property
    def model_card_path(self) -> Path:
        return self.root / "model-card.md"

    @property
    def lock_path(self) -> Path:
        return self.root / "lock"

    @property
    def events_path(self) -> Path:
        """What a follower of the run reads: one JSON object per exchange."""
        return self.root / "events.jsonl"

    @property
    def report_path(self) -> Path:
        """The demonstration's report."""
        return self.root / "report.html"


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

    def run_folder(self, run: str) -> RunFolder:
        """What is kept of a run. Raises SpecError for a name that isn't safe as a file name."""
        return RunFolder(self.jobs_folder / file_name("run", run))

    @property
    def run_lock_path(self) -> Path:
        """Shared by runs, held alone by a change of the charter."""
        return self.root / "run.lock"

    @property
    def interrupted_path(self) -> Path:
        """Runs that were interrupted: see ``aggregator.interrupted``. There while there are any."""
        return self.root / "interrupted.json"

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
        self.settings_path.write_text("{}\n", encoding="utf-8")
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
