"""What must hold of every object that the charts render, one named rule each.

A rule takes all objects of a rendering and yields its violations. ``RULES`` is the list; test_policies.py runs each on
every rendering, and on a manifest that was broken on purpose.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

from tests.helm.charts import Object, name_of, of_kind

Rule = Callable[[list[Object]], Iterator[str]]
RULES: dict[str, Rule] = {}

_SECRET_NAME = re.compile(r"passw|secret|token|credent|api_?key|private|access_?key", re.IGNORECASE)
_SECRET_TEXT = re.compile(r"PRIVATE KEY-----|://[^/@\s]*:[^/@\s]*@")
_IMAGE = re.compile(r"[A-Za-z0-9.-]+\.[a-z]+(:\d+)?/[a-z0-9._/-]+(@sha256:[0-9a-f]{64}|:(?!latest$)[A-Za-z0-9_.-]+)")
_WORKLOADS = ("StatefulSet", "Deployment", "DaemonSet", "Job", "CronJob", "ReplicaSet")
_RIGHTS = ("Role", "ClusterRole", "RoleBinding", "ClusterRoleBinding")
_LABELS = (
    *(f"app.kubernetes.io/{name}" for name in ("name", "instance", "component", "version", "part-of", "managed-by")),
    "helm.sh/chart",
)


def rule(check: Rule) -> Rule:
    RULES[check.__name__] = check
    return check


# --- what is looked at ---------------------------------------------------------------------------------------------


def pods(objects: list[Object]) -> Iterator[tuple[str, Object, Object]]:
    """(whose, labels, pod spec) of everything that runs."""
    for one in objects:
        if one["kind"] == "Pod":
            yield name_of(one), one["metadata"]["labels"], one["spec"]
        elif one["kind"] in _WORKLOADS:
            template = one["spec"]["template"]
            yield name_of(one), template["metadata"]["labels"], template["spec"]


def containers(objects: list[Object], *, lasting: bool = False) -> Iterator[tuple[str, Object]]:
    """(whose, container); ``lasting``: without what runs once, init containers and pods that aren't restarted."""
    for owner, _, spec in pods(objects):
        if not (lasting and spec.get("restartPolicy") == "Never"):
            for one in (*([] if lasting else spec.get("initContainers", [])), *spec["containers"]):
                yield f"{owner}:{one['name']}", one


def strings(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from (key, *strings(inner))
    elif isinstance(value, list):
        for inner in value:
            yield from strings(inner)
    elif isinstance(value, str):
        yield value


def selects(selector: Object, labels: Object) -> bool:
    return bool(selector) and all(labels.get(key) == value for key, value in selector.items())


def environment(container: Object) -> dict[str, str]:
    return {one["name"]: one["value"] for one in container.get("env", []) if "value" in one}


# --- containers ----------------------------------------------------------------------------------------------------


@rule
def has_requests_and_limits(objects: list[Object]) -> Iterator[str]:
    for name, one in containers(objects):
        for kind in ("requests", "limits"):
            amounts = one.get("resources", {}).get(kind, {})
            yield from (f"{name} has no {what} in {kind}" for what in ("cpu", "memory") if not amounts.get(what))


@rule
def has_probes(objects: list[Object]) -> Iterator[str]:
    for name, one in containers(objects, lasting=True):
        yield from (f"{name} has no {probe}" for probe in ("livenessProbe", "readinessProbe") if not one.get(probe))


@rule
def starts_under_a_startup_probe(objects: list[Object]) -> Iterator[str]:
    """Ours take a while to start; until then nobody asks whether they live."""
    for owner, _, spec in pods(objects):
        first = spec["containers"][0]
        if spec.get("restartPolicy") != "Never" and "startupProbe" not in first:
            yield f"{owner}:{first['name']} has no startupProbe"


@rule
def is_locked_down(objects: list[Object]) -> Iterator[str]:
    for name, one in containers(objects):
        context = one.get("securityContext", {})
        if context.get("allowPrivilegeEscalation") is not False:
            yield f"{name} may escalate privileges"
        if context.get("readOnlyRootFilesystem") is not True:
            yield f"{name} may write its root file system"
        if context.get("capabilities") != {"drop": ["ALL"]}:
            yield f"{name} has capabilities"
        if context.get("privileged"):
            yield f"{name} is privileged"


@rule
def is_not_root(objects: list[Object]) -> Iterator[str]:
    for owner, _, spec in pods(objects):
        context = spec.get("securityContext", {})
        if context.get("runAsNonRoot") is not True:
            yield f"{owner} may be root"
        if context.get("seccompProfile", {}).get("type") not in ("RuntimeDefault", "Localhost"):
            yield f"{owner} has no seccomp profile"
        for where in (context, *(one.get("securityContext", {}) for _, one in containers(objects))):
            if where.get("runAsUser") == 0 or where.get("runAsNonRoot") is False:
                yield f"{owner} is root"


@rule
def stays_off_the_host(objects: list[Object]) -> Iterator[str]:
    for owner, _, spec in pods(objects):
        yield from (f"{owner} has {key}" for key in ("hostNetwork", "hostPID", "hostIPC", "hostUsers") if spec.get(key))
        yield from (f"{owner} mounts {one['name']}" for one in spec.get("volumes", []) if "hostPath" in one)
    for name, one in containers(objects):
        yield from (f"{name} has a hostPort" for port in one.get("ports", []) if "hostPort" in port)


@rule
def names_an_image_that_stays(objects: list[Object]) -> Iterator[str]:
    for name, one in containers(objects):
        if not _IMAGE.fullmatch(one["image"]):
            yield f"{name} runs {one['image']}"


@rule
def bounds_what_it_writes(objects: list[Object]) -> Iterator[str]:
    for owner, _, spec in pods(objects):
        for one in spec.get("volumes", []):
            if "emptyDir" in one and not (one["emptyDir"] or {}).get("sizeLimit"):
                yield f"{owner}'s {one['name']} has no sizeLimit"


@rule
def mounts_what_there_is(objects: list[Object]) -> Iterator[str]:
    claims = {name_of(one): one["spec"].get("volumeClaimTemplates", []) for one in of_kind(objects, "StatefulSet")}
    for owner, _, spec in pods(objects):
        names = [one["name"] for one in spec.get("volumes", [])]
        names += [one["metadata"]["name"] for one in claims.get(owner, [])]
        if len(names) != len(set(names)):
            yield f"{owner} has two volumes of one name"
        parts = [*spec.get("initContainers", []), *spec["containers"]]
        used = {mount["name"] for one in parts for mount in one.get("volumeMounts", [])}
        yield from (f"{owner}: {name} is not both a volume and mounted" for name in sorted(used ^ set(names)))
        for one in parts:
            paths = [mount["mountPath"] for mount in one.get("volumeMounts", [])]
            if len(paths) != len(set(paths)):
                yield f"{owner}:{one['name']} mounts two volumes at one path"


# --- rights and secrets --------------------------------------------------------------------------------------------


@rule
def has_no_rights_in_the_cluster(objects: list[Object]) -> Iterator[str]:
    yield from (f"{name_of(one)} gives rights" for one in objects if one["kind"] in _RIGHTS)
    for one in of_kind(objects, "ServiceAccount"):
        if one.get("automountServiceAccountToken") is not False:
            yield f"{name_of(one)} hands out its token"
    for owner, _, spec in pods(objects):
        if spec.get("automountServiceAccountToken") is not False:
            yield f"{owner} mounts a token"
        for volume in spec.get("volumes", []):
            sources = volume.get("projected", {}).get("sources", [])
            yield from (f"{owner} projects a token" for source in sources if "serviceAccountToken" in source)


@rule
def holds_no_secret(objects: list[Object]) -> Iterator[str]:
    yield from (f"{name_of(one)} is in the manifests" for one in of_kind(objects, "Secret"))
    for one in objects:
        yield from (f"{name_of(one)} holds a key or a password" for text in strings(one) if _SECRET_TEXT.search(text))
    for name, one in containers(objects):
        for variable in environment(one):
            if _SECRET_NAME.search(variable):
                yield f"{name} has {variable} in plain"


@rule
def mounts_secrets_narrowly(objects: list[Object]) -> Iterator[str]:
    """Read-only, the named keys and no others, and not for everybody in the container."""
    for owner, _, spec in pods(objects):
        secret = {one["name"]: one["secret"] for one in spec.get("volumes", []) if "secret" in one}
        for name, volume in secret.items():
            if not volume.get("items"):
                yield f"{owner} mounts all keys of {name}"
            if volume.get("defaultMode", 0o644) & 0o007:
                yield f"{owner}'s {name} is readable to all"
        for one in (*spec.get("initContainers", []), *spec["containers"]):
            for mount in one.get("volumeMounts", []):
                if mount["name"] in secret and mount.get("readOnly") is not True:
                    yield f"{owner}:{one['name']} may write {mount['name']}"


# --- network -------------------------------------------------------------------------------------------------------


def policies_for(objects: list[Object], labels: Object) -> list[Object]:
    found = of_kind(objects, "NetworkPolicy")
    return [one for one in found if selects(one["spec"]["podSelector"].get("matchLabels", {}), labels)]


@rule
def is_behind_a_network_policy(objects: list[Object]) -> Iterator[str]:
    for owner, labels, _ in pods(objects):
        types = {kind for one in policies_for(objects, labels) for kind in one["spec"].get("policyTypes", [])}
        if types != {"Ingress", "Egress"}:
            yield f"{owner} is under {sorted(types) or 'no'} policy"


@rule
def opens_only_named_peers_and_ports(objects: list[Object]) -> Iterator[str]:
    for one in of_kind(objects, "NetworkPolicy"):
        for way, side in (("ingress", "from"), ("egress", "to")):
            for allowed in one["spec"].get(way) or []:
                peers = allowed.get(side) or []
                if not peers or not all(peers):
                    yield f"{name_of(one)} lets everybody in {way}"
                if not allowed.get("ports") or not all("port" in port for port in allowed["ports"]):
                    yield f"{name_of(one)} lets every port in {way}"
                for peer in peers:
                    if way == "egress" and peer.get("ipBlock", {}).get("cidr", "").endswith("/0"):
                        yield f"{name_of(one)} lets {way} to the whole internet"
                    if any(peer.get(kind) == {} for kind in ("namespaceSelector", "podSelector")):
                        yield f"{name_of(one)} selects everything in {way}"


@rule
def silo_has_one_way_out(objects: list[Object]) -> Iterator[str]:
    """Name servers, the aggregator's one port, and the proxy where there is one; in: /metrics, and the desk where there
    is one, for the peers that are named."""
    for owner, labels, spec in pods(objects):
        if labels["app.kubernetes.io/component"] != "agent":
            continue
        rules = [rule for one in policies_for(objects, labels) for rule in one["spec"].get("egress") or []]
        ports = [[(port["protocol"], port["port"]) for port in rule["ports"]] for rule in rules]
        beyond = [one for one in ports if not all(port in (53, 5353) for _, port in one)]
        told = [one["metadata"]["annotations"]["consilium/aggregator"] for one in policies_for(objects, labels)]
        wanted = [[("TCP", int(address.rpartition(":")[2]))] for address in told]
        proxied = any("https_proxy" in environment(one) for _, one in containers(objects))
        if beyond[-1:] != wanted or len(beyond) != 1 + proxied:
            yield f"{owner} may go to {beyond}, not only {wanted}"
        ways_in = [
            port["port"]
            for one in policies_for(objects, labels)
            for rule in one["spec"]["ingress"]
            for port in rule["ports"]
        ]
        desk = ["desk"] if any(one["name"] == "desk" for one in spec["containers"]) else []
        if ways_in not in (["metrics"], ["metrics", *desk]):
            yield f"{owner} is reached at {ways_in}"


@rule
def metrics_stay_inside(objects: list[Object]) -> Iterator[str]:
    """A silo's /metrics shows its own accuracy: no load balancer and no node port ever leads there."""
    for one in of_kind(objects, "Service"):
        if one["spec"]["type"] != "ClusterIP":
            ports = [port["targetPort"] for port in one["spec"]["ports"]]
            if ports != ["grpc"]:
                yield f"{name_of(one)} shows {ports} outside"


@rule
def leads_somewhere(objects: list[Object]) -> Iterator[str]:
    """Services, budgets, policies and monitors select something, and the ports that they name are there."""
    running = [(labels, spec) for _, labels, spec in pods(objects)]
    for one in of_kind(objects, "Service"):
        found = [spec for labels, spec in running if selects(one["spec"]["selector"], labels)]
        named = {port["name"] for spec in found for part in spec["containers"] for port in part.get("ports", [])}
        missing = {port["targetPort"] for port in one["spec"]["ports"]} - named
        if not found or missing:
            yield f"{name_of(one)} leads to {len(found)} pods without {sorted(missing)}"
    for kind, path in (("NetworkPolicy", "podSelector"), ("PodDisruptionBudget", "selector")):
        for one in of_kind(objects, kind):
            if not any(selects(one["spec"][path]["matchLabels"], labels) for labels, _ in running):
                yield f"{name_of(one)} selects nothing"
    services = of_kind(objects, "Service")
    for one in of_kind(objects, "ServiceMonitor"):
        found = [s for s in services if selects(one["spec"]["selector"]["matchLabels"], s["metadata"]["labels"])]
        if len(found) != 1 or one["spec"]["namespaceSelector"] != {"matchNames": [found[0]["metadata"]["namespace"]]}:
            yield f"{name_of(one)} scrapes {[name_of(service) for service in found]}"
    names = {one["metadata"]["name"] for one in services}
    for one in of_kind(objects, "StatefulSet"):
        if one["spec"]["serviceName"] not in names:
            yield f"{name_of(one)} names no Service of ours"


# --- what must not be forgotten, and what must not be cut off --------------------------------------------------------


@rule
def is_one_agent_with_a_memory(objects: list[Object]) -> Iterator[str]:
    """One agent per identity, its journal on a claim that outlives the release."""
    for one in of_kind(objects, "StatefulSet"):
        spec = one["spec"]
        if spec["replicas"] != 1:
            yield f"{name_of(one)} has {spec['replicas']} replicas"
        made = [claim["metadata"]["name"] for claim in spec.get("volumeClaimTemplates", [])]
        brought = [v["name"] for v in spec["template"]["spec"]["volumes"] if "persistentVolumeClaim" in v]
        if "home" not in made + brought:
            yield f"{name_of(one)} forgets"
        if made and spec.get("persistentVolumeClaimRetentionPolicy") != {
            "whenDeleted": "Retain",
            "whenScaled": "Retain",
        }:
            yield f"{name_of(one)}'s claim goes with it"
    for one in of_kind(objects, "PersistentVolumeClaim"):
        if one["metadata"].get("annotations", {}).get("helm.sh/resource-policy") != "keep":
            yield f"{name_of(one)} goes with the release"


@rule
def is_given_time_to_drain(objects: list[Object]) -> Iterator[str]:
    for owner, _, spec in pods(objects):
        for one in spec["containers"]:
            drain = environment(one).get("CONSILIUM_DRAIN_SECONDS")
            if drain is not None and spec.get("terminationGracePeriodSeconds", 30) < int(drain) + 30:
                yield f"{owner} is killed while it drains"


@rule
def has_a_disruption_budget(objects: list[Object]) -> Iterator[str]:
    budgets = [one["spec"]["selector"]["matchLabels"] for one in of_kind(objects, "PodDisruptionBudget")]
    for owner, labels, spec in pods(objects):
        if spec.get("restartPolicy") != "Never" and not any(selects(budget, labels) for budget in budgets):
            yield f"{owner} has no disruption budget"


# --- objects -------------------------------------------------------------------------------------------------------


@rule
def is_labelled(objects: list[Object]) -> Iterator[str]:
    for one in objects:
        missing = [label for label in _LABELS if not one["metadata"].get("labels", {}).get(label)]
        if missing or not one["metadata"].get("namespace"):
            yield f"{name_of(one)} lacks {missing or 'a namespace'}"


@rule
def can_be_upgraded(objects: list[Object]) -> Iterator[str]:
    """What Kubernetes does not let change later names no version."""
    for one in objects:
        spec = one.get("spec", {})
        fixed = [spec.get("selector"), spec.get("volumeClaimTemplates"), spec.get("podSelector")]
        if any("helm.sh/chart" in text or text.endswith("/version") for text in strings(fixed)):
            yield f"{name_of(one)} fixes a version"
