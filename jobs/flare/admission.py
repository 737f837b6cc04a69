"""Lets only members of the pinned charter register with NVFlare's server.

A certificate stays valid after its silo has left the federation, and NVFlare takes every client whose certificate the
root signed. It also has a list of disabled clients, which it asks at each registration and at each heartbeat, by the
name that the certificate proves. ``Admission`` answers for that list: a silo that is not in the charter is disabled. A
new epoch counts at once; without a valid charter no silo is admitted. Administrators have other names and their roles.
"""

from __future__ import annotations

from typing import Any

from nvflare.apis.event_type import EventType
from nvflare.apis.fl_context import FLContext
from nvflare.widgets.widget import Widget

from crypto.charter import SILO_ID
from crypto.errors import FederationError
from crypto.home import Home
from jobs.flare.connected_clients import CONNECTED_CLIENTS
from jobs.flare.processes import job_home


class Admission(Widget):
    """Server component; acts once, when the parent process starts."""

    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        if event_type == EventType.SYSTEM_START:
            manager = fl_ctx.get_engine().client_manager
            self.guard(manager, job_home())
            CONNECTED_CLIENTS.watch(manager)

    def guard(self, manager: Any, home: Home) -> None:
        """``manager``: NVFlare's list of clients."""
        disabled = manager.is_client_disabled

        def is_client_disabled(name: str) -> bool:
            return bool(disabled(name)) or (SILO_ID.fullmatch(name) is not None and not self._is_member(name, home))

        manager.is_client_disabled = is_client_disabled

    def _is_member(self, name: str, home: Home) -> bool:
        try:
            charter = home.charter()
        except (FederationError, OSError) as bad:
            self.logger.error(f"{name} is not admitted: no charter ({bad})")
            return False
        if name in charter.silos:
            return True
        self.logger.warning(f"{name} is not admitted: epoch {charter.epoch} of the charter does not name it")
        return False
