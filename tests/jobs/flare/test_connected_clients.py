"""How many silos NVFlare's server has a connection with."""

from __future__ import annotations

from types import SimpleNamespace

from jobs.flare.connected_clients import Census


def test_the_servers_own_list_is_told_as_it_is_now() -> None:
    clients = {"token-1": SimpleNamespace(name="silo-1"), "token-2": SimpleNamespace(name="silo-2")}
    census = Census()
    assert census.connected() is None, "no server yet"
    census.watch(SimpleNamespace(get_clients=lambda: clients))
    assert census.connected() == ("silo-1", "silo-2")
    del clients["token-1"]
    assert census.connected() == ("silo-2",)
