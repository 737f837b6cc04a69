"""The bill of materials of an image: its subject, what is added to what cyclonedx-py found, what it must not tell."""

from __future__ import annotations

from typing import Any

import pytest

from images.sbom import NAMED, OURS, bill, faults

SYSTEM = [{"type": "library", "bom-ref": "pkg:deb/debian/libc6@2.36?arch=amd64", "name": "libc6", "version": "2.36"}]


def found(image: str) -> dict[str, Any]:
    """As cyclonedx-py lists an environment with what the image must have; our own wheel came from a folder."""
    components: list[dict[str, Any]] = [
        {"type": "library", "bom-ref": f"{name}==1.0", "name": name, "version": "1.0"} for name in sorted(NAMED[image])
    ]
    ours = next(one for one in components if one["name"] == OURS)
    ours["externalReferences"] = [
        {"type": "distribution", "url": "file:///wheels/consilium_fl-1.0.whl"},
        {"type": "website", "url": "https://consilium.example"},
    ]
    components[-1]["externalReferences"] = [{"type": "distribution", "url": "file:///wheels/other.whl"}]
    return {"specVersion": "1.6", "metadata": {"tools": {}}, "components": components, "dependencies": []}


@pytest.mark.parametrize("image", sorted(NAMED))
def test_a_bill_names_the_image_its_interpreter_and_the_packages_of_its_base(image: str) -> None:
    made = bill(image, found(image), SYSTEM)
    assert made["metadata"]["component"] == {
        "type": "container",
        "bom-ref": f"consilium-{image}",
        "name": f"consilium-{image}",
        "version": "1.0",
    }
    assert {OURS, "cpython", "libc6"} <= {one["name"] for one in made["components"]}
    (needs,) = (one["dependsOn"] for one in made["dependencies"] if one["ref"] == f"consilium-{image}")
    assert needs == [f"{OURS}==1.0", "cpython", SYSTEM[0]["bom-ref"]]
    assert faults(image, made) == []


def test_it_tells_no_path() -> None:
    made = bill("aggregator", found("aggregator"), SYSTEM)
    kept = [one["externalReferences"] for one in made["components"] if "externalReferences" in one]
    assert kept == [[{"type": "website", "url": "https://consilium.example"}]]
    made["components"][0]["description"] = "file:///somewhere"
    assert faults("aggregator", made) == ["it tells a path of the machine that built it"]


def test_a_bill_without_a_version_of_torch_is_none() -> None:
    made = bill("silo-agent", found("silo-agent"), SYSTEM)
    del next(one for one in made["components"] if one["name"] == "torch")["version"]
    assert faults("silo-agent", made) == ["it names no version of torch"]
