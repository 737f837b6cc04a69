"""What the schemas refuse, by name; and that nothing in them is left open."""

from __future__ import annotations

import json
import re
from typing import Any

import helm_python as helm
import pytest
import yaml

from tests.helm.charts import CHARTS, HELM, Object, check, merged, values

pytestmark = pytest.mark.slow

PEM = "-----BEGIN PRIVATE KEY-----\nMC4CAQ\n-----END PRIVATE KEY-----"
TINY = {"cpu": "1", "memory": "1Gi"}
AMOUNTS = {"requests": TINY, "limits": TINY}
PROBES = {"livenessProbe": {"tcpSocket": {"port": 1}}, "readinessProbe": {"tcpSocket": {"port": 1}}}
BESIDE = {"name": "beside", "image": "registry.example.org/a:1", "resources": AMOUNTS, **PROBES}


def env(name: str, **more: object) -> Object:
    return {"extraEnv": [{"name": name, **more}]}


def beside(**more: object) -> Object:
    return {"extraContainers": [{**BESIDE, **more}]}


def without(key: str) -> Object:
    return {name: value for name, value in BESIDE.items() if name != key}


def object_of(kind: str, **more: object) -> Object:
    return {"extraManifests": [{"apiVersion": "v1", "kind": kind, "metadata": {"name": "x"}, **more}]}


#: what is wrong → the values on top of the minimal ones, and what the refusal names. For both charts.
REFUSED: dict[str, tuple[Object, str]] = {
    # a typo
    "a typo at the top": ({"imagee": {}}, "additional properties 'imagee'"),
    "a typo inside": ({"image": {"tagg": "1"}}, "at '/image'.*'tagg'"),
    "a typo deep inside": ({"networkPolicy": {"dns": {"port": 53}}}, "at '/networkPolicy/dns'.*'port'"),
    "a typo in a list": ({"tolerations": [{"keys": "a"}]}, "at '/tolerations/0'.*'keys'"),
    "a typo in a variable": (env("A", valu="1"), "at '/extraEnv/0'.*'valu'"),
    "a typo in a budget": ({"podDisruptionBudget": {"minAvailable": 1}}, "'minAvailable'"),
    # what must be said
    "no kit": ({"kit": {"existingSecret": ""}}, "at '/kit/existingSecret'"),
    "no identity": ({"identity": {"existingSecret": ""}}, "at '/identity/existingSecret'"),
    "no charter": ({"charter": {"existingSecret": ""}}, "at '/charter/existingSecret'"),
    "no registry": ({"image": {"registry": ""}}, "at '/image/registry'"),
    # secrets
    "a kit in values": ({"kit": {"data": "H4sIA"}}, "at '/kit'.*'data'"),
    "a key in values": ({"identity": {"agentKey": PEM}}, "at '/identity'.*'agentKey'"),
    "a key instead of a name": ({"identity": {"existingSecret": PEM}}, "at '/identity/existingSecret'"),
    "a password in a variable": (env("DB_PASSWORD", value="hunter2"), "at '/extraEnv/0'"),
    "a token in a variable": (env("hf_token", value="abc"), "at '/extraEnv/0'"),
    "an address with a password": (env("DB", value="postgresql://me:word@db/x"), "at '/extraEnv/0/value'"),
    "a key in a variable": (env("CERT", value=PEM), "at '/extraEnv/0/value'"),
    "a proxy with a password": ({"proxy": {"httpProxy": "http://me:word@proxy:3128"}}, "at '/proxy/httpProxy'"),
    "a Secret along": (object_of("Secret"), "at '/extraManifests/0/kind'"),
    "a key in an object along": (object_of("ConfigMap", data={"a": PEM}), "at '/extraManifests/0"),
    "a password in an object along": (object_of("ConfigMap", data={"a": "x://b:c@d"}), "at '/extraManifests/0"),
    "a key in an annotation": ({"podAnnotations": {"a": PEM}}, "at '/podAnnotations/a'"),
    "a key in an affinity": ({"affinity": {"nodeAffinity": {"a": [PEM]}}}, "at '/affinity/nodeAffinity"),
    "a password for the registry": ({"imagePullSecrets": [{"password": "x"}]}, "at '/imagePullSecrets/0'"),
    # the memory
    "an emptyDir": ({"persistence": {"emptyDir": {}}}, "at '/persistence'.*'emptyDir'"),
    "persistence off": ({"persistence": {"enabled": False}}, "at '/persistence'.*'enabled'"),
    "many writers": ({"persistence": {"accessMode": "ReadWriteMany"}}, "at '/persistence/accessMode'"),
    "no size": ({"persistence": {"size": ""}}, "at '/persistence/size'"),
    "a home of one's own making": (
        {"extraVolumeMounts": [{"name": "a", "mountPath": "/var/lib/consilium"}]}, "at '/extraVolumeMounts/0/mount",
    ),
    "replicas": ({"replicas": 2}, "'replicas'"),
    "replicaCount": ({"replicaCount": 2}, "'replicaCount'"),
    "a home moved by a variable": (env("CONSILIUM_HOME", value="/tmp"), "at '/extraEnv/0/name'"),
    # rights
    "privileged": ({"securityContext": {"privileged": True}}, "at '/securityContext/privileged'"),
    "escalation": ({"securityContext": {"allowPrivilegeEscalation": True}}, "at '/securityContext/allow"),
    "a writable root": ({"securityContext": {"readOnlyRootFilesystem": False}}, "at '/securityContext/readOnly"),
    "capabilities kept": ({"securityContext": {"capabilities": {"drop": []}}}, "at '/securityContext/capabilities"),
    "capabilities added": ({"securityContext": {"capabilities": {"add": ["NET_ADMIN"]}}}, "'add'"),
    "root": ({"podSecurityContext": {"runAsUser": 0}}, "at '/podSecurityContext/runAsUser'"),
    "perhaps root": ({"podSecurityContext": {"runAsNonRoot": False}}, "at '/podSecurityContext/runAsNonRoot'"),
    "no seccomp": ({"podSecurityContext": {"seccompProfile": {"type": "Unconfined"}}}, "at '/podSecurityContext/secc"),
    "no seccomp at all": ({"podSecurityContext": {"seccompProfile": None}}, "'seccompProfile'"),
    "keys opened to the group": (
        {"podSecurityContext": {"fsGroupChangePolicy": "Always"}}, "at '/podSecurityContext/fsGroupChangePolicy'",
    ),
    "sysctls": ({"podSecurityContext": {"sysctls": []}}, "'sysctls'"),
    "the host's network": ({"hostNetwork": True}, "'hostNetwork'"),
    "the host's folders": ({"extraVolumes": [{"name": "a", "hostPath": {"path": "/"}}]}, "'hostPath'"),
    "a token as a volume": (
        {"extraVolumes": [{"name": "a", "projected": {"sources": [{"serviceAccountToken": {"path": "t"}}]}}]},
        "'serviceAccountToken'",
    ),
    "a token": ({"serviceAccount": {"automountServiceAccountToken": True}}, "at '/serviceAccount'"),
    "rights along": (object_of("ClusterRoleBinding"), "at '/extraManifests/0/kind'"),
    "a workload along": (object_of("Deployment"), "at '/extraManifests/0/kind'"),
    # containers of one's own
    "a container without limits": ({"extraContainers": [without("resources")]}, "'resources'"),
    "a container without probes": ({"extraContainers": [without("livenessProbe")]}, "'livenessProbe'"),
    "a privileged container": (beside(securityContext={"privileged": True}), "at '/extraContainers/0/securityContext"),
    "a container of any version": (beside(image="registry.example.org/a:latest"), "at '/extraContainers/0/image'"),
    "a container with a password": (beside(env=[{"name": "PASSWORD", "value": "x"}]), "at '/extraContainers/0/env/0'"),
    "limits without memory": ({"resources": {"limits": {"memory": None}}}, "at '/resources/limits'.*'memory'"),
    "no limits": ({"resources": {"limits": None}}, "at '/resources'.*'limits'"),
    "a nonsense amount": ({"resources": {"limits": {"memory": "8 GB"}}}, "at '/resources/limits/memory'"),
    # the image
    "latest": ({"image": {"tag": "latest"}}, "at '/image/tag'"),
    "half a digest": ({"image": {"digest": "sha256:1234"}}, "at '/image/digest'"),
    "a tag in the repository": ({"image": {"repository": "consilium/agent:1"}}, "at '/image/repository'"),
    # the network
    "a proxy without its address": ({"proxy": {"httpsProxy": "http://proxy:3128"}}, "at '/proxy/(cidrs|port)'"),
    "a policy switched off": ({"networkPolicy": {"enabled": False}}, "at '/networkPolicy'.*'enabled'"),
    "one more way out": ({"networkPolicy": {"egress": [{}]}}, "at '/networkPolicy'.*'egress'"),
    "everybody may read /metrics": ({"networkPolicy": {"monitoring": [{}]}}, "at '/networkPolicy/monitoring/0'"),
    "two bundles": ({"caBundle": {"configMap": "a", "secret": "b"}}, "at '/caBundle"),
    "a drain without end": ({"drainSeconds": 86400}, "at '/drainSeconds'"),
    "a probe that never asks": ({"probes": {"liveness": {"periodSeconds": 0}}}, "at '/probes/liveness/periodSeconds'"),
    "more than one at a time away": ({"podDisruptionBudget": {"maxUnavailable": 2}}, "at '/podDisruptionBudget"),
}  # fmt: skip

REFUSED_SILO: dict[str, tuple[Object, str]] = {
    "no host": ({"aggregator": {"host": ""}}, "at '/aggregator/host'"),
    "a scheme in the host": ({"aggregator": {"host": "https://a.example.org"}}, "at '/aggregator/host'"),
    "a port in the host": ({"aggregator": {"host": "a.example.org:8002"}}, "at '/aggregator/host'"),
    "this machine": ({"aggregator": {"host": "localhost"}}, "at '/aggregator/host'"),
    "an address as host": ({"aggregator": {"host": "192.0.2.10"}}, "at '/aggregator/host'"),
    "no port": ({"aggregator": {"port": None}}, "at '/aggregator/port'"),
    "a port that is none": ({"aggregator": {"port": 70000}}, "at '/aggregator/port'"),
    "a port as text": ({"aggregator": {"port": "8002"}}, "at '/aggregator/port'"),
    "no address": ({"aggregator": {"cidrs": []}}, "at '/aggregator/cidrs'"),
    "the whole internet": ({"aggregator": {"cidrs": ["0.0.0.0/0"]}}, "at '/aggregator/cidrs/0'"),
    "the whole internet, version 6": ({"aggregator": {"cidrs": ["::/0"]}}, "at '/aggregator/cidrs/0'"),
    "no range": ({"aggregator": {"cidrs": ["192.0.2.10"]}}, "at '/aggregator/cidrs/0'"),
    "a range that is none": ({"aggregator": {"cidrs": ["192.0.2.256/32"]}}, "at '/aggregator/cidrs/0'"),
    "data that can be written": ({"data": {"readOnly": False}}, "at '/data'.*'readOnly'"),
    "data from outside": ({"data": {"subPath": "../other"}}, "at '/data/subPath'"),
    "the aggregator's values": ({"mlflow": {"enabled": True}}, "'mlflow'"),
}

REFUSED_AGGREGATOR: dict[str, tuple[Object, str]] = {
    "nobody may connect": ({"silos": {"cidrs": []}}, "at '/silos/(cidrs|peers)'"),
    "a password in the tracking address": ({"tracking": {"uri": "postgresql://me:word@db/x"}}, "at '/tracking'.*'uri'"),
    "tracking without its address": ({"tracking": {"existingSecret": "uri"}}, "at '/tracking/(port|cidrs|peers)'"),
    "an unknown kind of service": ({"service": {"type": "ExternalName"}}, "at '/service/type'"),
    "MLflow without a database": ({"mlflow": {"enabled": True}}, "at '/mlflow/database"),
    "MLflow's database in values": ({"mlflow": {"database": {"uri": "postgresql://a:b@c/d"}}}, "at '/mlflow/database'"),
    "MLflow's password in values": ({"mlflow": {"auth": {"password": "x"}}}, "at '/mlflow/auth'.*'password'"),
    "MLflow for every host": ({"mlflow": {"allowedHosts": ["*"]}}, "at '/mlflow/allowedHosts/0'"),
    "MLflow without persistence": ({"mlflow": {"persistence": {"enabled": False}}}, "at '/mlflow/persistence'"),
    "the silo's values": ({"aggregator": {"host": "a.example.org"}}, "'aggregator'"),
}  # fmt: skip

MLFLOW: dict[str, tuple[Object, str]] = {
    "MLflow without a login": ({"mlflow": {"auth": {"existingSecret": ""}}}, "at '/mlflow/auth/existingSecret'"),
    "MLflow without its database's Secret": (
        {"mlflow": {"database": {"existingSecret": ""}}}, "at '/mlflow/database/existingSecret'",
    ),
    "MLflow without its database's address": ({"mlflow": {"database": {"cidrs": []}}}, "at '/mlflow/database/cidrs'"),
    "two places for one ledger": (
        {"tracking": {"existingSecret": "uri", "cidrs": ["192.0.2.1/32"], "port": 5432}}, "/tracking/existingSecret",
    ),
}  # fmt: skip

CASES = [
    *((chart, "minimal", what, *wrong) for chart in CHARTS for what, wrong in REFUSED.items()),
    *(("silo-agent", "minimal", what, *wrong) for what, wrong in REFUSED_SILO.items()),
    *(("aggregator", "minimal", what, *wrong) for what, wrong in REFUSED_AGGREGATOR.items()),
    *(("aggregator", "mlflow", what, *wrong) for what, wrong in MLFLOW.items()),
]


@pytest.mark.parametrize(("chart", "base", "what", "patch", "named"), CASES, ids=[f"{c[0]}: {c[2]}" for c in CASES])
def test_is_refused_by_name(chart: str, base: str, what: str, patch: Object, named: str) -> None:
    good = values(chart, base)
    check(chart, good)
    with pytest.raises(helm.HelmValuesError) as refused:
        check(chart, merged(good, patch))
    assert re.search(named, str(refused.value)), refused.value


ALLOWED: dict[str, Object] = {
    "a GPU": {"resources": {"limits": {"nvidia.com/gpu": 1}}},
    "a secret by reference": env("DB_PASSWORD", valueFrom={"secretKeyRef": {"name": "db", "key": "password"}}),
    "a variable": env("OMP_NUM_THREADS", value="4"),
    "a container beside": beside(),
    "an address of version 6": {"networkPolicy": {"dns": {"peers": [{"ipBlock": {"cidr": "fd00::a/128"}}]}}},
    "nobody reads /metrics": {"networkPolicy": {"monitoring": []}},
    "no name servers": {"networkPolicy": {"dns": {"peers": []}}},
    "another chart's global": {"global": {"storageClass": "fast"}},
    "an ExternalSecret": object_of("ExternalSecret"),
}


@pytest.mark.parametrize("what", ALLOWED)
@pytest.mark.parametrize("chart", CHARTS)
def test_is_allowed(chart: str, what: str) -> None:
    check(chart, merged(values(chart), ALLOWED[what]))


@pytest.mark.parametrize("chart", CHARTS)
def test_the_defaults_alone_are_refused(chart: str) -> None:
    """There is no identity to default to."""
    with pytest.raises(helm.HelmValuesError) as refused:
        check(chart, {})
    for path in ("/kit/existingSecret", "/identity/existingSecret", "/charter/existingSecret", "/image/registry"):
        assert f"at '{path}'" in str(refused.value)


# --- the schemas themselves ----------------------------------------------------------------------------------------


def schema(chart: str) -> Object:
    loaded: Object = json.loads((HELM / chart / "values.schema.json").read_text())
    return loaded


def subschemas(value: Any, path: str = "") -> list[tuple[str, Object]]:
    found = [(path, value)] if isinstance(value, dict) else []
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return found + [each for key, one in inner for each in subschemas(one, f"{path}/{key}")]


#: Objects that may have any key: what else an umbrella chart shares. (Maps name their values' type instead.)
OPEN = {"/properties/global"}


@pytest.mark.parametrize("chart", CHARTS)
def test_no_object_takes_unknown_keys(chart: str) -> None:
    for path, one in subschemas(schema(chart)):
        if one.get("type") == "object" and path not in OPEN:
            closed = one.get("additionalProperties", True)
            assert closed is False or (isinstance(closed, dict) and closed), path


@pytest.mark.parametrize("chart", CHARTS)
def test_schema_and_defaults_list_the_same_values(chart: str) -> None:
    root = schema(chart)

    def resolve(one: Object) -> Object:
        return resolve(root["$defs"][one["$ref"].rpartition("/")[2]]) if "$ref" in one else one

    def compare(default: Any, one: Object, path: str) -> None:
        one = resolve(one)
        if isinstance(default, dict) and "properties" in one:
            assert set(default) <= set(one["properties"]), path
            for key in set(one.get("required", ())):
                assert key in default, f"{path}/{key} is required but has no line in values.yaml"
            for key, value in default.items():
                compare(value, one["properties"][key], f"{path}/{key}")

    compare(yaml.safe_load((HELM / chart / "values.yaml").read_text()), root, "")
    known = yaml.safe_load((HELM / chart / "values.yaml").read_text())
    assert list(known) == root["required"] == list(dict.fromkeys(root["required"]))
    assert set(known) == set(root["properties"])


@pytest.mark.parametrize("chart", CHARTS)
def test_every_definition_is_used(chart: str) -> None:
    text = (HELM / chart / "values.schema.json").read_text()
    assert all(f'"#/$defs/{name}"' in text for name in schema(chart)["$defs"])
