"""Every rule on every rendering; and every rule on a manifest that was broken on purpose."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.helm.charts import CASES, Object, case, of_kind
from tests.helm.policies import RULES


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(("chart", "name"), CASES)
def test_rule_holds(chart: str, name: str, rule: str) -> None:
    assert list(RULES[rule](case(chart, name).objects)) == []


# --- positive controls ---------------------------------------------------------------------------------------------

Break = Callable[[list[Object]], object]


def pod(objects: list[Object]) -> Object:
    spec: Object = of_kind(objects, "StatefulSet")[0]["spec"]["template"]["spec"]
    return spec


def first(objects: list[Object]) -> Object:
    container: Object = pod(objects)["containers"][0]
    return container


def one(objects: list[Object], kind: str, suffix: str = "") -> Object:
    return next(each for each in of_kind(objects, kind) if each["metadata"]["name"].endswith(suffix))


def policy(objects: list[Object]) -> Object:
    spec: Object = one(objects, "NetworkPolicy", "silo-agent")["spec"]
    return spec


def volume(objects: list[Object], name: str) -> Object:
    return next(each for each in pod(objects)["volumes"] if each["name"] == name)


def mount(objects: list[Object], name: str) -> Object:
    return next(each for each in first(objects)["volumeMounts"] if each["name"] == name)


def put(target: Callable[[list[Object]], Any], key: Any, value: Any) -> Break:
    return lambda objects: target(objects).__setitem__(key, value)


def drop(target: Callable[[list[Object]], Any], key: Any) -> Break:
    return lambda objects: target(objects).pop(key)


def add(target: Callable[[list[Object]], Any], value: Any) -> Break:
    return lambda objects: target(objects).append(value)


def variable(name: str, value: str) -> Break:
    return lambda objects: first(objects)["env"].insert(0, {"name": name, "value": value})


def without(kind: str) -> Break:
    return lambda objects: objects.__setitem__(slice(None), [each for each in objects if each["kind"] != kind])


def extra(kind: str, **more: Any) -> Break:
    return lambda objects: objects.append({"kind": kind, "metadata": {"name": "x", "labels": {}}, **more})


def stateful(objects: list[Object]) -> Object:
    spec: Object = of_kind(objects, "StatefulSet")[0]["spec"]
    return spec


def limits(objects: list[Object]) -> Object:
    amounts: Object = first(objects)["resources"]["limits"]
    return amounts


def context(objects: list[Object]) -> Object:
    found: Object = first(objects)["securityContext"]
    return found


def service(objects: list[Object]) -> Object:
    spec: Object = one(objects, "Service", "-metrics")["spec"]
    return spec


ANYWHERE = {"to": [{"ipBlock": {"cidr": "0.0.0.0/0"}}], "ports": [{"protocol": "TCP", "port": 443}]}
TOKEN = {"name": "t", "projected": {"sources": [{"serviceAccountToken": {"path": "t"}}]}}

#: rule → what breaks it, each on its own. The silo's minimal rendering is what is broken.
BREAKS: dict[str, list[Break]] = {
    "has_requests_and_limits": [
        drop(limits, "memory"), drop(limits, "cpu"), drop(first, "resources"),
        lambda objects: one(objects, "Pod")["spec"]["containers"][0].pop("resources"),
    ],
    "has_probes": [drop(first, "livenessProbe"), drop(first, "readinessProbe")],
    "starts_under_a_startup_probe": [drop(first, "startupProbe")],
    "is_locked_down": [
        put(context, "allowPrivilegeEscalation", True), put(context, "readOnlyRootFilesystem", False),
        put(context, "capabilities", {"drop": ["ALL"], "add": ["SYS_PTRACE"]}), put(context, "capabilities", {}),
        put(context, "privileged", True), drop(first, "securityContext"),
    ],
    "is_not_root": [
        lambda objects: pod(objects)["securityContext"].pop("runAsNonRoot"),
        lambda objects: pod(objects)["securityContext"].pop("seccompProfile"),
        lambda objects: pod(objects)["securityContext"].update(runAsUser=0),
        put(context, "runAsUser", 0), put(context, "runAsNonRoot", False),
    ],
    "stays_off_the_host": [
        put(pod, "hostNetwork", True), put(pod, "hostPID", True), put(pod, "hostIPC", True),
        lambda objects: volume(objects, "tmp").update(hostPath={"path": "/"}),
        lambda objects: first(objects)["ports"][0].update(hostPort=9464),
    ],
    "names_an_image_that_stays": [
        put(first, "image", "registry.example.org/consilium/silo-agent:latest"),
        put(first, "image", "registry.example.org/consilium/silo-agent"), put(first, "image", "consilium/silo-agent:1"),
    ],
    "bounds_what_it_writes": [lambda objects: volume(objects, "tmp").update(emptyDir={})],
    "mounts_what_there_is": [
        lambda objects: pod(objects)["volumes"].pop(), lambda objects: first(objects)["volumeMounts"].pop(),
        add(lambda objects: pod(objects)["volumes"], {"name": "home", "emptyDir": {}}),
        lambda objects: mount(objects, "tmp").update(mountPath="/var/lib/consilium"),
    ],
    "has_no_rights_in_the_cluster": [
        put(pod, "automountServiceAccountToken", True), drop(pod, "automountServiceAccountToken"),
        lambda objects: one(objects, "ServiceAccount").pop("automountServiceAccountToken"),
        extra("Role"), extra("ClusterRoleBinding"), add(lambda objects: pod(objects)["volumes"], TOKEN),
    ],
    "holds_no_secret": [
        extra("Secret"), variable("ADMIN_PASSWORD", "1234"), variable("api_key", "1234"),
        variable("PROXY", "http://user:word@proxy:3128"),
        extra("ConfigMap", data={"key": "-----BEGIN PRIVATE KEY-----"}),
    ],
    "mounts_secrets_narrowly": [
        lambda objects: volume(objects, "identity")["secret"].pop("items"),
        lambda objects: volume(objects, "identity")["secret"].update(defaultMode=0o444),
        lambda objects: volume(objects, "identity")["secret"].pop("defaultMode"),
        lambda objects: mount(objects, "kit").pop("readOnly"),
    ],
    "is_behind_a_network_policy": [
        without("NetworkPolicy"), lambda objects: policy(objects).update(policyTypes=["Ingress"]),
        lambda objects: policy(objects)["podSelector"]["matchLabels"].update({"app.kubernetes.io/component": "x"}),
    ],
    "opens_only_named_peers_and_ports": [
        lambda objects: policy(objects)["egress"].append(ANYWHERE),
        lambda objects: policy(objects)["egress"].append({}),
        lambda objects: policy(objects)["egress"][0].pop("ports"),
        lambda objects: policy(objects)["ingress"][0].pop("from"),
        lambda objects: policy(objects)["ingress"][0]["from"].append({"namespaceSelector": {}}),
    ],
    "silo_has_one_way_out": [
        lambda objects: policy(objects)["egress"].append(ANYWHERE),
        lambda objects: policy(objects)["egress"].insert(0, ANYWHERE),
        lambda objects: policy(objects)["egress"].pop(),
        lambda objects: policy(objects)["egress"][-1]["ports"].append({"protocol": "TCP", "port": 443}),
        lambda objects: policy(objects)["egress"][-1]["ports"][0].update(port=443),
        lambda objects: policy(objects)["ingress"][0]["ports"].append({"protocol": "TCP", "port": 22}),
    ],
    "metrics_stay_inside": [put(service, "type", "LoadBalancer"), put(service, "type", "NodePort")],
    "leads_somewhere": [
        lambda objects: service(objects)["selector"].update({"app.kubernetes.io/component": "x"}),
        lambda objects: service(objects)["ports"][0].update(targetPort="web"),
        lambda objects: policy(objects)["podSelector"]["matchLabels"].update({"app.kubernetes.io/component": "x"}),
        lambda objects: one(objects, "PodDisruptionBudget")["spec"]["selector"]["matchLabels"].update(
            {"app.kubernetes.io/instance": "x"}
        ),
        put(stateful, "serviceName", "x"),
        extra("ServiceMonitor", spec={"selector": {"matchLabels": {"consilium/endpoint": "metrics"}},
                                      "namespaceSelector": {"matchNames": ["other"]}}),
    ],
    "is_one_agent_with_a_memory": [
        put(stateful, "replicas", 2), drop(stateful, "volumeClaimTemplates"),
        drop(stateful, "persistentVolumeClaimRetentionPolicy"), extra("PersistentVolumeClaim"),
    ],
    "is_given_time_to_drain": [
        put(pod, "terminationGracePeriodSeconds", 89), drop(pod, "terminationGracePeriodSeconds"),
    ],
    "has_a_disruption_budget": [without("PodDisruptionBudget")],
    "is_labelled": [
        lambda objects: one(objects, "Service")["metadata"]["labels"].pop("app.kubernetes.io/version"),
        lambda objects: one(objects, "Service")["metadata"].pop("labels"),
        lambda objects: one(objects, "Service")["metadata"].pop("namespace"),
    ],
    "can_be_upgraded": [
        lambda objects: stateful(objects)["selector"]["matchLabels"].update({"helm.sh/chart": "silo-agent-0.1.0"}),
        lambda objects: stateful(objects)["volumeClaimTemplates"][0]["metadata"]["labels"].update(
            {"app.kubernetes.io/version": "0.1.0"}
        ),
    ],
}  # fmt: skip


def test_every_rule_has_a_control() -> None:
    assert set(BREAKS) == set(RULES)


@pytest.mark.parametrize(("rule", "broken"), [(rule, each) for rule, breaks in BREAKS.items() for each in breaks])
def test_rule_notices(rule: str, broken: Break) -> None:
    objects = case("silo-agent", "minimal").objects
    broken(objects)
    assert list(RULES[rule](objects)) != []
