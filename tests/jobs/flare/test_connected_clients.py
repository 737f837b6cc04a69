"""How many silos NVFlare's server has a connection with."""

from __future__ import annotations

from types import SimpleNamespace

from jobs.flare.connected_clients import ConnectedClients


def test_the_servers_own_list_is_told_as_it_is_now() -> None:
    clients = {"token-1": SimpleNamespace(name="silo-1"), "token-2": SimpleNamespace(name="silo-2")}
    found = ConnectedClients()
    assert found.connected() is None, "no server yet"
    found.watch(SimpleNamespace(get_clients=lambda: clients))
    assert found.connected() == ("silo-1", "silo-2")
    del clients["token-1"]
    assert found.connected() == ("silo-2",)
