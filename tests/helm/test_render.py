"""Each chart with each of its ci values: linted, rendered, and every object as Kubernetes' own schemas have it."""

from __future__ import annotations

import functools
import json
import shutil
import tomllib
from pathlib import Path
from typing import Any

import helm_python as helm
import jsonschema
import kubernetes_validate
import pytest
import yaml
from kubernetes_validate import utils

from tests.helm import crds
from tests.helm.charts import CASES, CHARTS, HELM, ROOT, Object, case, merged, name_of, of_kind, render, values

pytestmark = pytest.mark.slow

#: Oldest that the charts ask for, one between, newest that there are schemas for.
VERSIONS = ("1.29", "1.33", "1.37")
#: Templates that read everything that differs from `_component.tpl`.
SHARED = (
    "_helpers.tpl",
    "_pod.tpl",
    "statefulset.yaml",
    "serviceaccount.yaml",
    "service-metrics.yaml",
    "poddisruptionbudget.yaml",
    "servicemonitor.yaml",
    "prometheusrule.yaml",
    "dashboards.yaml",
    "extra.yaml",
    "tests/healthz.yaml",
)


@pytest.fixture(autouse=True, scope="module")
def schemas_are_read_once() -> Any:
    """kubernetes-validate reads megabytes of definitions for each object."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(utils, "schema_contents", functools.cache(utils.schema_contents))
        yield


@pytest.mark.parametrize(("chart", "name"), CASES)
def test_helm_lints_it_strictly(chart: str, name: str) -> None:
    report = helm.lint(HELM / chart, values(chart, name), strict=True)
    worse = [message for message in report["messages"] if message["severity"] > 1]
    assert (worse, report["errors"]) == ([], [])


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(("chart", "name"), CASES)
def test_kubernetes_takes_every_object(chart: str, name: str, version: str) -> None:
    for one in case(chart, name).objects:
        if one["kind"] in crds.SCHEMAS:
            crds.check(one)
        else:
            kubernetes_validate.validate(one, version, strict=True)


def test_a_misspelt_field_would_be_noticed() -> None:
    (pod,) = of_kind(case("silo-agent", "minimal").objects, "Pod")
    pod["spec"]["containers"][0]["imagePullPolice"] = "Always"
    with pytest.raises(kubernetes_validate.ValidationError, match="imagePullPolice"):
        kubernetes_validate.validate(pod, VERSIONS[0], strict=True)
    (monitor,) = of_kind(case("silo-agent", "full").objects, "ServiceMonitor")
    monitor["spec"]["endpoints"][0]["scrapeTimeOut"] = "5s"
    with pytest.raises(jsonschema.ValidationError, match="scrapeTimeOut"):
        crds.check(monitor)


@pytest.mark.parametrize(("chart", "name"), CASES)
def test_no_object_is_rendered_twice(chart: str, name: str) -> None:
    names = [name_of(one) for one in case(chart, name).objects]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("chart", CHARTS)
def test_the_full_case_makes_every_kind_of_object(chart: str) -> None:
    kinds = {one["kind"] for one in case(chart, "full").objects}
    running = {"StatefulSet", "Pod", "Service", "ServiceAccount", "NetworkPolicy", "PodDisruptionBudget"}
    assert kinds == running | {"ServiceMonitor", "PrometheusRule", "ConfigMap"}


@pytest.mark.parametrize("chart", CHARTS)
def test_the_full_case_sets_every_value(chart: str) -> None:
    """But MLflow's, which have a case of their own, and the name that would hide the other."""
    known = yaml.safe_load((HELM / chart / "values.yaml").read_text())
    assert set(known) - set(values(chart, "full")) <= {"mlflow", "fullnameOverride"}


@pytest.mark.parametrize("chart", CHARTS)
def test_everything_off_leaves_the_agent_and_its_policy(chart: str) -> None:
    off = {"test": {"enabled": False}, "podDisruptionBudget": {"enabled": False}, "serviceAccount": {"create": False}}
    kinds = [one["kind"] for one in render(chart, merged(values(chart), off)).objects]
    services = ["Service"] * (2 if chart == "aggregator" else 1)
    assert sorted(kinds) == ["NetworkPolicy", *services, "StatefulSet"]


@pytest.mark.parametrize(("chart", "name"), [one for one in CASES if one[1] != "minimal"])
def test_a_digest_is_what_is_pulled(chart: str, name: str) -> None:
    given = values(chart, name)
    for one in of_kind(case(chart, name).objects, "StatefulSet"):
        image = one["spec"]["template"]["spec"]["containers"][0]["image"]
        assert image.endswith(f"@{given['image']['digest']}" if "digest" in given["image"] else ":0.1.0")
    for one in of_kind(case(chart, name).objects, "Deployment"):
        image = one["spec"]["template"]["spec"]["containers"][0]["image"]
        assert image == f"registry.example.org/consilium/mlflow@{given['mlflow']['image']['digest']}"


def test_mlflow_runs_the_aggregators_image_unless_it_has_one() -> None:
    given = values("aggregator", "mlflow")
    given["mlflow"]["image"] = {"repository": ""}
    given["image"]["digest"] = f"sha256:{'a' * 64}"
    made = render("aggregator", given).objects
    images = {part["image"] for one in made if one["kind"] in ("Deployment", "StatefulSet")
              for part in one["spec"]["template"]["spec"]["containers"]}  # fmt: skip
    assert images == {f"registry.example.org/consilium/aggregator@sha256:{'a' * 64}"}


def test_a_registry_for_all_charts_wins() -> None:
    given = merged(values("silo-agent"), {"image": {"registry": ""}, "global": {"imageRegistry": "mirror.example.org"}})
    (one,) = of_kind(render("silo-agent", given).objects, "StatefulSet")
    assert one["spec"]["template"]["spec"]["containers"][0]["image"].startswith("mirror.example.org/consilium/")


def test_a_null_takes_a_default_away() -> None:
    """OpenShift chooses the user itself."""
    free = {"podSecurityContext": {"runAsUser": None, "runAsGroup": None, "fsGroup": None}}
    (one,) = of_kind(render("silo-agent", merged(values("silo-agent"), free)).objects, "StatefulSet")
    context = one["spec"]["template"]["spec"]["securityContext"]
    assert not {"runAsUser", "runAsGroup", "fsGroup"} & set(context) and context["runAsNonRoot"] is True


@pytest.mark.parametrize("chart", CHARTS)
def test_the_drain_is_the_grace(chart: str) -> None:
    for seconds in (0, 60, 3600):
        (one,) = of_kind(render(chart, merged(values(chart), {"drainSeconds": seconds})).objects, "StatefulSet")
        spec = one["spec"]["template"]["spec"]
        assert spec["terminationGracePeriodSeconds"] == seconds + 30
        assert {"name": "CONSILIUM_DRAIN_SECONDS", "value": str(seconds)} in spec["containers"][0]["env"]


def test_the_aggregator_listens_where_the_kits_look() -> None:
    for name, port in (("minimal", 8002), ("full", 443)):
        objects = case("aggregator", name).objects
        (one,) = of_kind(objects, "StatefulSet")
        ports = one["spec"]["template"]["spec"]["containers"][0]["ports"]
        assert {"name": "grpc", "containerPort": port, "protocol": "TCP"} in ports
        (service,) = [each for each in of_kind(objects, "Service") if each["spec"]["ports"][0]["name"] == "grpc"]
        assert service["spec"]["ports"][0]["port"] == port


def test_a_claim_of_ones_own_is_used() -> None:
    given = merged(values("silo-agent"), {"persistence": {"existingClaim": "journal"}})
    (one,) = of_kind(render("silo-agent", given).objects, "StatefulSet")
    assert "volumeClaimTemplates" not in one["spec"]
    assert {"name": "home", "persistentVolumeClaim": {"claimName": "journal"}} in one["spec"]["template"]["spec"][
        "volumes"
    ]


def test_private_certificates_and_proxies_reach_the_process() -> None:
    for source in ("configMap", "secret"):
        given = merged(values("silo-agent"), {"caBundle": {source: "hospital", "key": "ca.pem"}})
        (one,) = of_kind(render("silo-agent", given).objects, "StatefulSet")
        spec = one["spec"]["template"]["spec"]
        set_ = {item["name"]: item.get("value") for item in spec["containers"][0]["env"]}
        (mount,) = [item for item in spec["containers"][0]["volumeMounts"] if item["name"] == "ca-bundle"]
        (volume,) = [item for item in spec["volumes"] if item["name"] == "ca-bundle"]
        assert set_["SSL_CERT_FILE"] == set_["REQUESTS_CA_BUNDLE"] == f"{mount['mountPath']}/bundle.pem"
        assert volume[source]["items"] == [{"key": "ca.pem", "path": "bundle.pem"}]
    (one,) = of_kind(case("silo-agent", "full").objects, "StatefulSet")
    container = one["spec"]["template"]["spec"]["containers"][0]
    set_ = {item["name"]: item.get("value") for item in container["env"]}
    assert set_["HTTPS_PROXY"] == set_["https_proxy"] == "http://proxy.example.org:3128"
    assert set_["NO_PROXY"] == set_["no_proxy"] == ".svc,.cluster.local,10.0.0.0/8"
    assert {"secretRef": {"name": "consilium-proxy"}} in container["envFrom"]


def test_only_the_secrets_that_are_needed_are_mounted() -> None:
    keys = {"silo-agent": ["agent.key", "salt"], "aggregator": ["aggregator.key"]}
    for chart in CHARTS:
        (one,) = of_kind(case(chart, "full").objects, "StatefulSet")
        volumes = {volume["name"]: volume for volume in one["spec"]["template"]["spec"]["volumes"]}
        assert [item["key"] for item in volumes["identity"]["secret"]["items"]] == keys[chart]
        assert [item["key"] for item in volumes["charter"]["secret"]["items"]] == ["charter.bin", "consortium.pub"]
        kit = {"key": values(chart, "full")["kit"]["key"], "path": "kit.tar.gz"}
        assert volumes["kit"]["secret"]["items"] == [kit]


def test_a_container_beside_gets_the_charts_security() -> None:
    (one,) = of_kind(case("silo-agent", "full").objects, "StatefulSet")
    spec = one["spec"]["template"]["spec"]
    first = spec["containers"][0]
    assert all(
        part["securityContext"] == first["securityContext"] for part in (*spec["containers"], *spec["initContainers"])
    )


@pytest.mark.parametrize("chart", CHARTS)
def test_what_is_brought_along_is_rendered_as_it_is(chart: str) -> None:
    assert case(chart, "full").extra == values(chart, "full")["extraManifests"]


@pytest.mark.parametrize("chart", CHARTS)
def test_names_stay_short_enough(chart: str) -> None:
    """A pod's name and its hash are label values: 63 characters."""
    objects = render(chart, merged(values(chart), {"fullnameOverride": "a" * 63})).objects
    assert max(len(one["metadata"]["name"]) for one in objects) <= 52


@pytest.mark.parametrize("chart", CHARTS)
def test_notes_say_what_to_do_next(chart: str) -> None:
    notes = case(chart, "minimal").notes
    pod = f"anna-{chart}-0"
    assert all(text in notes for text in (f"home-{pod}", f"delete pod {pod}", "helm -n fed test anna", "image.digest"))
    assert "delete pod" not in case(chart, "full").notes and "image.digest" not in case(chart, "full").notes
    assert "  \n" not in notes and "<no value>" not in notes


@pytest.mark.parametrize("name", SHARED)
def test_both_charts_share_a_template(name: str) -> None:
    texts = {(HELM / chart / "templates" / name).read_text() for chart in CHARTS}
    assert len(texts) == 1, f"{name} differs: what differs belongs into _component.tpl"


def test_both_charts_share_their_schemas_parts() -> None:
    silo, aggregator = (json.loads((HELM / chart / "values.schema.json").read_text()) for chart in CHARTS)
    for part in ("$defs", "properties"):
        for key in set(silo[part]) & set(aggregator[part]):
            assert silo[part][key] == aggregator[part][key], key


@pytest.mark.parametrize("chart", CHARTS)
def test_the_chart_is_the_releases(chart: str) -> None:
    said = yaml.safe_load((HELM / chart / "Chart.yaml").read_text())
    release = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert (said["version"], said["appVersion"]) == (release, release)


@pytest.mark.parametrize("chart", CHARTS)
def test_a_newer_chart_changes_nothing_that_cannot_be_changed(chart: str, tmp_path: Path) -> None:
    """Kubernetes refuses an update of these fields: an upgrade would fail."""

    def fixed(objects: list[Object]) -> list[Any]:
        spec = of_kind(objects, "StatefulSet")[0]["spec"]
        return [spec.get(key) for key in ("selector", "serviceName", "podManagementPolicy", "volumeClaimTemplates")]

    newer = tmp_path / chart
    shutil.copytree(HELM / chart, newer)
    text = (newer / "Chart.yaml").read_text()
    (newer / "Chart.yaml").write_text(text.replace("0.1.0", "9.9.9"))
    before, after = case(chart, "minimal").objects, render(chart, values(chart), path=newer).objects
    assert "9.9.9" in json.dumps(after) and fixed(before) == fixed(after)


@pytest.mark.parametrize("chart", CHARTS)
def test_a_newer_chart_around_the_same_software_replaces_no_pod(chart: str, tmp_path: Path) -> None:
    """A replaced pod is a drained agent."""
    newer = tmp_path / chart
    shutil.copytree(HELM / chart, newer)
    text = (newer / "Chart.yaml").read_text()
    (newer / "Chart.yaml").write_text(text.replace("\nversion: 0.1.0", "\nversion: 0.1.1"))
    name = "mlflow" if chart == "aggregator" else "gpu"
    before, after = case(chart, name).objects, render(chart, values(chart, name), path=newer).objects
    assert f"{chart}-0.1.1" in json.dumps(after)
    for one, other in zip(before, after, strict=True):
        assert one.get("spec") == other.get("spec"), name_of(one)


@pytest.mark.parametrize("chart", CHARTS)
def test_the_chart_can_be_packaged(chart: str, tmp_path: Path) -> None:
    archive = helm.package(HELM / chart, destination=tmp_path)
    with helm.Chart.load(archive) as packed:
        inside = {one["name"] for one in packed.files}
    assert "README.md" in inside and not any(name.startswith("ci/") for name in inside)
