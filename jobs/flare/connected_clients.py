"""Which silos are connected, by the list of NVFlare's server; /metrics shows how many.

A silo is on the list from its registration until it leaves, or has sent no heartbeat for two minutes.
"""

from __future__ import annotations

from typing import Any


class ConnectedClients:
    """``watch`` gets the server's list of clients once the server has one."""

    def __init__(self) -> None:
        self._manager: Any = None

    def watch(self, manager: Any) -> None:
        self._manager = manager

    def connected(self) -> tuple[str, ...] | None:
        """Names of the clients; None before the server is up."""
        if self._manager is None:
            return None
        return tuple(client.name for client in list(self._manager.get_clients().values()))


#: Of this process's server: there is one.
CONNECTED_CLIENTS = ConnectedClients()
