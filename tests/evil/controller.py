"""The malicious aggregator inside NVFlare's server job process.

Whoever owns the aggregator's machine may run what they like there: this class is in the server kit's own allow list,
and a job folder names it for the server. The silos' kits, their rules and what they run are those of every federation.
"""

from __future__ import annotations

from nvflare.apis.fl_context import FLContext
from nvflare.apis.signal import Signal

from aggregator.home import AggregatorHome
from jobs.flare import controller
from jobs.flare.nvflare_mains import job_home
from jobs.runtime import compose
from tests.evil import trojan
from tests.evil.games import evil_run

PATH = "tests.evil.controller.EvilController"


class EvilController(controller.SecureController):
    """The honest courier; another run. ``game``: a name of ``games.GAMES``, or ``trojan.NAME``; ``number``: which of
    its runs, from 0."""

    def __init__(self, job: str, plan: str, game: str, number: int = 0, grace_s: float = 2.0, resume: str = "") -> None:
        super().__init__(job, plan, grace_s, resume)
        self.game = game
        self.number = number

    def control_flow(self, abort_signal: Signal, fl_ctx: FLContext) -> None:
        def open_run(job: str, plan: str, home: AggregatorHome, resume: str, tracker: object) -> controller.Run:
            return evil_run(self.game, job, plan, home.root, self.number)

        if self.game == trojan.NAME:
            compose.stage_predictor = trojan.stager(job_home().root)
        else:
            controller.open_run = open_run
        super().control_flow(abort_signal, fl_ctx)
