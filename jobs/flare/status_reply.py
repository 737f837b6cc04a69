"""A running job's answer to an administrator: NVFlare's ``show_stats`` carries our run's status.

The aggregator's job process answers; silos are not asked, and their gate lets no such question in.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from nvflare.apis.fl_context import FLContext
from nvflare.widgets.info_collector import InfoCollector

#: Our group among the statistics that NVFlare collects.
GROUP: Final = "consilium"


def answer(event_type: str, fl_ctx: FLContext, status: Mapping[str, Any]) -> None:
    """Put a run's status into the answer, if this event asks for statistics."""
    if event_type != InfoCollector.EVENT_TYPE_GET_STATS:
        return
    collector = fl_ctx.get_prop(InfoCollector.CTX_KEY_STATS_COLLECTOR)
    if collector is not None:
        collector.set_info(group_name=GROUP, info=dict(status))
