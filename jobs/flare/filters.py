"""The forced site filter: only our messages pass a silo's task channel.

Installed in every silo kit's ``local/privacy.json`` as the one and default scope, so it runs for every job whether the
job names it or not. It guards the task channel; ``egress_gate``, which it puts into the job's process, guards all the
other ways NVFlare has. NVFlare's reserved topics (heartbeats, job status) are on the gate's list.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from nvflare.apis.filter import Filter
from nvflare.apis.fl_constant import FLContextKey, ReservedKey
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable, make_reply

from crypto.errors import Malformed
from crypto.home import Home
from jobs.flare.egress_gate import guard_cells
from jobs.flare.nvflare_mains import HOME_VAR
from jobs.flare.wire import is_bare_refusal, unwrap, wrap
from jobs.security_log.events import Event
from jobs.security_log.writer import SecurityLog

#: What NVFlare tells the other side of the sender, with every message: the names of the site and of the job.
PEER_PROPS: Final = frozenset(
    {
        ReservedKey.IDENTITY_NAME,
        ReservedKey.RUN_NUM,
        ReservedKey.FQSN,
        ReservedKey.IS_LEAF,
        FLContextKey.CLIENT_NAME,
        FLContextKey.CURRENT_RUN,
        FLContextKey.CURRENT_JOB_ID,
    }
)


class SiteFilter(Filter):
    """NVFlare makes the site's filters before a job's process connects: the gate is there from the first message."""

    def __init__(self) -> None:
        super().__init__()
        guard_cells()

    def hold_back(self, way: str, bad: Malformed, fl_ctx: FLContext) -> None:
        """Told here, and to nobody else."""
        self.log_error(fl_ctx, f"[{bad.code}] A task ({way}) was held back here: {bad.detail}", fire_event=False)
        if home := os.environ.get(HOME_VAR):
            SecurityLog(Home(Path(home)))(Event.MESSAGE_HELD_BACK, way=way, code=bad.code)


class OnlyMessagesIn(SiteFilter):
    """Task data: refuses a task that does not carry one of our messages, before any executor sees it."""

    def process(self, shareable: Shareable, fl_ctx: FLContext) -> Shareable:
        """The same Shareable, checked. Raises Malformed, which NVFlare answers with TASK_DATA_FILTER_ERROR."""
        try:
            unwrap(shareable)
        except Malformed as bad:
            self.hold_back("in", bad, fl_ctx)
            raise
        return shareable


class OnlyMessagesOut(SiteFilter):
    """Task results: rebuilds the message from scratch, so nothing beside it leaves in headers or extra keys."""

    def process(self, shareable: Shareable, fl_ctx: FLContext) -> Shareable:
        """A fresh Shareable with the message, or with a bare return code. Raises Malformed for anything else, and
        where something was put into what NVFlare tells the other side of the sender."""
        try:
            if strange := fl_ctx.get_all_public_props().keys() - PEER_PROPS:
                raise Malformed(f"Something rides along with the result: {sorted(map(str, strange))[:8]}.")
            if is_bare_refusal(shareable):
                return make_reply(shareable.get_return_code())
            return wrap(unwrap(shareable))
        except Malformed as bad:
            self.hold_back("out", bad, fl_ctx)
            raise
