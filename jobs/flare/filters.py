"""The forced site filter: only our messages pass a silo's task channel.

Installed in every silo kit's ``local/privacy.json`` as the one and default scope, so it runs for every job whether the
job names it or not. It guards the task channel only: it holds because BYOC is denied, the class allow-list is ours and
log streaming is off (see ``kits``). NVFlare's reserved topics (heartbeats, job status) are not touched.
"""

from __future__ import annotations

from nvflare.apis.filter import Filter
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable, make_reply

from crypto.errors import Malformed
from jobs.flare.wire import is_bare_refusal, unwrap, wrap


class OnlyMessagesIn(Filter):
    """Task data: refuses a task that does not carry one of our messages, before any executor sees it."""

    def process(self, shareable: Shareable, fl_ctx: FLContext) -> Shareable:
        """The same Shareable, checked. Raises Malformed, which NVFlare answers with TASK_DATA_FILTER_ERROR."""
        unwrap(shareable)
        return shareable


class OnlyMessagesOut(Filter):
    """Task results: rebuilds the message from scratch, so nothing beside it leaves in headers or extra keys."""

    def process(self, shareable: Shareable, fl_ctx: FLContext) -> Shareable:
        """A fresh Shareable with the message, or with a bare return code. Raises Malformed for anything else."""
        if is_bare_refusal(shareable):
            return make_reply(shareable.get_return_code())
        try:
            return wrap(unwrap(shareable))
        except Malformed as bad:
            self.log_error(fl_ctx, f"[{bad.code}] A task result was held back here: {bad.detail}", fire_event=False)
            raise
