"""The data owner's page in the silo's chart: off unless it is asked for, and only with a proxy in front of it."""

from __future__ import annotations

from typing import Any

import helm_python as helm
import pytest

from tests.helm.charts import check, merged, of_kind, render, values
from tests.helm.policies import environment

pytestmark = pytest.mark.slow

DESK: dict[str, Any] = {
    "enabled": True,
    "header": "X-Forwarded-User",
    "proxyAddresses": ["10.20.0.0/16", "192.0.2.44"],
    "publicHosts": ["desk.example.org"],
    "proxyPeers": [{"podSelector": {"matchLabels": {"app": "proxy"}}}],
}


def made(**desk: Any) -> list[dict[str, Any]]:
    return render("silo-agent", merged(values("silo-agent"), {"desk": desk})).objects


def desks(objects: list[dict[str, Any]]) -> list[dict[str, Any]]:
    (one,) = of_kind(objects, "StatefulSet")
    return [found for found in one["spec"]["template"]["spec"]["containers"] if found["name"] == "desk"]


def policy_of(objects: list[dict[str, Any]]) -> dict[str, Any]:
    """The agent's; the chart's test pod has one too."""
    found = of_kind(objects, "NetworkPolicy")
    return next(one for one in found if "consilium/aggregator" in one["metadata"].get("annotations", {}))


def test_it_is_off_by_default() -> None:
    objects = made()
    assert not desks(objects) and len(of_kind(objects, "Service")) == 1
    policy = policy_of(objects)
    assert len(policy["spec"]["ingress"]) == 1


def test_it_is_behind_the_proxy_that_is_named() -> None:
    objects = made(**DESK)
    (container,) = desks(objects)
    assert container["args"] == ["silo", "desk"]
    found = environment(container)
    assert found["CONSILIUM_DESK_HEADER"] == "X-Forwarded-User"
    assert found["CONSILIUM_DESK_PROXIES"] == "10.20.0.0/16 192.0.2.44"
    assert found["CONSILIUM_DESK_HOSTS"] == "desk.example.org"
    assert found["CONSILIUM_HOME"] == "/var/lib/consilium/home" and "CONSILIUM_KIT" not in found
    mounts = {one["name"] for one in container["volumeMounts"]}
    assert mounts == {"home", "tmp"}  # no kit, no identity, no owner's key
    policy = policy_of(objects)
    assert policy["spec"]["ingress"][1] == {"from": DESK["proxyPeers"], "ports": [{"protocol": "TCP", "port": "desk"}]}
    service = next(one for one in of_kind(objects, "Service") if one["metadata"]["name"].endswith("-desk"))
    assert service["spec"]["type"] == "ClusterIP" and service["spec"]["ports"][0]["targetPort"] == "desk"


def test_without_peers_nobody_reaches_it() -> None:
    policy = policy_of(made(**DESK | {"proxyPeers": []}))
    assert len(policy["spec"]["ingress"]) == 1


@pytest.mark.parametrize(
    ("field", "value"),
    (
        ("header", ""),
        ("header", "X User"),
        ("proxyAddresses", []),
        ("proxyAddresses", ["proxy.example.org"]),
        ("proxyAddresses", [f"{0}.0.0.0/0"]),
        ("publicHosts", []),
        ("publicHosts", ["https://desk.example.org"]),
        ("key", "owner.key"),
    ),
)
def test_half_a_desk_is_refused(field: str, value: object) -> None:
    with pytest.raises(helm.HelmValuesError):
        check("silo-agent", merged(values("silo-agent"), {"desk": DESK | {field: value}}))
