"""The malicious aggregator inside NVFlare's server job process.

Whoever owns the aggregator's machine may run what they like there: this class is in the server kit's own allow list,
and a job folder names it for the server. The silos' kits, their rules and what they run are those of every federation.
"""

from __future__ import annotations

from nvflare.apis.fl_context import FLContext
from nvflare.apis.signal import Signal

from aggregator.home import AggregatorHome
from jobs.flare import controller
from tests.evil.games import evil_run

PATH = "tests.evil.controller.EvilController"


class EvilController(controller.SecureController):
    """The honest courier; another run. ``game``: a name of ``games.GAMES``."""

    def __init__(self, job: str, plan: str, game: str, grace_s: float = 2.0, resume: str = "") -> None:
        super().__init__(job, plan, grace_s, resume)
        self.game = game

    def control_flow(self, abort_signal: Signal, fl_ctx: FLContext) -> None:
        def open_run(job: str, plan: str, home: AggregatorHome, resume: str, tracker: object) -> controller.Run:
            return evil_run(self.game, job, plan, home.root)

        controller.open_run = open_run
        super().control_flow(abort_signal, fl_ctx)
