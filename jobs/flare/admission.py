"""Lets only members of the pinned charter, and administrators, register with NVFlare's server. All others are denied.

A certificate stays valid after its silo has left the federation, and NVFlare takes every client whose certificate the
root signed, whatever its name. It asks its list of clients at each registration and each heartbeat, by the name that
the certificate proves; ``Admission`` answers there:

| who registers as | is let in if |
|---|---|
| a client, or sends a heartbeat | the charter in force names it |
| an administrator | its name is one that `fed provision` gives administrators; NVFlare then looks at its role |
| anything else (a relay, a type that NVFlare may add) | never |

A new epoch counts at once; without a valid charter no silo is admitted.
"""

from __future__ import annotations

from typing import Any

from nvflare.apis.event_type import EventType
from nvflare.apis.fl_constant import FLContextKey
from nvflare.apis.fl_context import FLContext
from nvflare.private.defs import CellMessageHeaderKeys, ClientType
from nvflare.widgets.widget import Widget

from crypto.errors import FederationError
from crypto.home import Home
from jobs.flare.connected_clients import CONNECTED_CLIENTS
from jobs.flare.nvflare_mains import job_home
from jobs.flare.project import ADMIN_NAME


class Admission(Widget):
    """Server component; acts once, when the parent process starts."""

    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        if event_type == EventType.SYSTEM_START:
            manager = fl_ctx.get_engine().client_manager
            self.guard(manager, job_home())
            CONNECTED_CLIENTS.watch(manager)

    def guard(self, manager: Any, home: Home) -> None:
        """``manager``: NVFlare's list of clients."""
        disabled, authenticated, heartbeat = (
            manager.is_client_disabled,
            manager.authenticated_client,
            manager.heartbeat,
        )

        def is_client_disabled(name: str) -> bool:
            return bool(disabled(name)) or not (_is_admin(name) or self._is_member(name, home))

        def authenticated_client(request: Any, fl_ctx: FLContext, client_type: str) -> Any:
            name = request.get_header(CellMessageHeaderKeys.CLIENT_NAME)
            if not self._may_be(name, client_type, home):
                return _denied(fl_ctx, name, None)
            client = authenticated(request, fl_ctx, client_type)
            if client is not None and client_type == ClientType.REGULAR:
                self.logger.info(f"{name} is registered")
            return client

        def beat(token: str, client_name: str, client_fqcn: str, fl_ctx: FLContext) -> Any:
            # NVFlare makes a client of an unknown token: an administrator's would become one without registering.
            if not self._is_member(client_name, home):
                return _denied(fl_ctx, client_name, False)
            return heartbeat(token, client_name, client_fqcn, fl_ctx)

        manager.is_client_disabled = is_client_disabled
        manager.authenticated_client = authenticated_client
        manager.heartbeat = beat

    def _may_be(self, name: object, client_type: object, home: Home) -> bool:
        match client_type:
            case ClientType.REGULAR:
                return self._is_member(name, home)
            case ClientType.ADMIN if _is_admin(name):
                return True
        self.logger.warning(f"{name!r} is not admitted as {client_type!r}")
        return False

    def _is_member(self, name: object, home: Home) -> bool:
        try:
            charter = home.charter()
        except (FederationError, OSError) as bad:
            self.logger.error(f"{name!r} is not admitted: no charter ({bad})")
            return False
        if name in charter.silos:
            return True
        self.logger.warning(f"{name!r} is not admitted: epoch {charter.epoch} of the charter does not name it")
        return False


def _is_admin(name: object) -> bool:
    return isinstance(name, str) and ADMIN_NAME.fullmatch(name) is not None


def _denied(fl_ctx: FLContext, name: object, answer: object) -> Any:
    fl_ctx.set_prop(FLContextKey.UNAUTHENTICATED, f"{name!r} is not a member of this federation", sticky=False)
    return answer
