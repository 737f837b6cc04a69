"""Both images run together: a federation provisioned with `fed` itself, the aggregator's container and one silo's.

Everything is laid out as the charts do it: kit, identity and charter in read-only folders, an empty home on a volume.
Passes when both answer /healthz, the silo reports ready (so it registered with the aggregator over mutual TLS), and
SIGTERM ends both with 0. `make images` runs it after the build: `python3 -m images.trial`.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Final

from images.build import BUILD, require
from images.container import PATIENCE_S, UID, Container, Image, Mount

SILOS: Final = ("anna", "berta", "clara", "dora")
HOME: Final = "/var/lib/consilium"
SECRETS: Final = "/etc/consilium"
PLACE: Final = BUILD / "trial"
#: Under a read-only root, without a capability: this must be refused.
ESCAPE: Final = "import os; os.open('/opt/consilium/written', os.O_CREAT | os.O_WRONLY)"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def folder(path: Path, mode: int = 0o700) -> Path:
    """A folder of the containers' user."""
    path.mkdir(mode=mode, parents=True)
    os.chown(path, UID, UID)
    return path


def office(image: Image, port: int) -> Path:
    """Keys, charter and kits of a federation, made with the image's own `fed`; the folder they lie in."""
    desk = folder(PLACE / "office")
    here = Mount(desk, "/office", writable=True)
    project = ['federation = "trial"', 'org = "trial"', f'server = {{host = "localhost", port = {port}}}']
    project += [f'[silos.{silo}]\norg = "{silo}"' for silo in SILOS]
    project += ['[admins."lead@trial.example"]\norg = "trial"\nrole = "lead"']
    (desk / "project.toml").write_text("\n".join(project) + "\n", encoding="utf-8")

    def fed(*arguments: str) -> None:
        image.run(*arguments, mounts=[here])

    fed("keygen", "--consortium", "--home", "/office/consortium")
    fed("keygen", "--aggregator", "--home", "/office/aggregator")
    for silo in SILOS:
        fed("keygen", "--silo", silo, "--home", f"/office/{silo}")
    members = [word for silo in SILOS for word in ("--member", f"/office/{silo}/member.json")]
    aggregator = ("--aggregator", "/office/aggregator/aggregator.pub", "--out", "/office/epoch-1.bin")
    fed("charter", "new", "trial", *members, *aggregator)
    fed("charter", "sign", "/office/epoch-1.bin", "--consortium-key", "/office/consortium/consortium.key")
    fed("provision", "/office/project.toml", "--out", "/office/kits")
    return desk


def volumes(desk: Path, site: str, keys: dict[str, str]) -> list[Mount]:
    """A site's Secrets, read-only, and its empty home on a volume."""
    kit = "server" if site == "aggregator" else site
    secrets = {
        "kit": {"kit.tar.gz": desk / "kits" / f"{kit}.kit.tar.gz"},
        "identity": {name: desk / site / source for name, source in keys.items()},
        "charter": {"charter.bin": desk / "epoch-1.bin", "consortium.pub": desk / "consortium" / "consortium.pub"},
    }
    mounts = [Mount(secret(PLACE / site / name, files), f"{SECRETS}/{name}") for name, files in secrets.items()]
    return [*mounts, Mount(folder(PLACE / site / "home"), HOME, writable=True)]


def secret(path: Path, files: dict[str, Path]) -> Path:
    """A folder as Kubernetes mounts a Secret: links to a hidden folder, each file root's, the group of fsGroup."""
    held = path / "..1"
    held.mkdir(parents=True)
    (path / "..data").symlink_to("..1")
    for name, source in files.items():
        shutil.copyfile(source, held / name)
        os.chown(held / name, 0, UID)
        (held / name).chmod(0o440)
        (path / name).symlink_to(f"..data/{name}")
    return path


def environment(port: int) -> dict[str, str]:
    """What the charts set."""
    paths = {"CONSILIUM_KIT": f"{SECRETS}/kit/kit.tar.gz", "CONSILIUM_IDENTITY": f"{SECRETS}/identity"}
    paths |= {"CONSILIUM_CHARTER": f"{SECRETS}/charter", "CONSILIUM_HOME": HOME}
    return {**paths, "CONSILIUM_METRICS_PORT": str(port), "CONSILIUM_DRAIN_SECONDS": "5"}


def answer(port: int, path: str) -> tuple[int, str]:
    """Status and text; (0, "") while nobody listens."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as got:
            return int(got.status), got.read().decode()
    except urllib.error.HTTPError as refused:
        return refused.code, refused.read().decode()
    except OSError:
        return 0, ""


def wait_for(container: Container, port: int, path: str) -> float:
    """Seconds until ``path`` answers 200. Ends the trial with the container's log if it ends or hangs."""
    began = time.monotonic()
    last = (0, "")
    while time.monotonic() - began < PATIENCE_S:
        last = answer(port, path)
        if last[0] == 200:
            return time.monotonic() - began
        if container.ended():
            break
        time.sleep(0.2)
    sys.exit(f"{container.name}: {path} did not answer 200, the last was {last}. Its log:\n{container.written()}")


def stop(container: Container) -> None:
    """SIGTERM; ends the trial unless the container then ends with 0."""
    began = time.monotonic()
    container.signal(signal.SIGTERM)
    code = container.wait()
    if code:
        sys.exit(f"{container.name}: SIGTERM ended it with {code}, not 0. Its log:\n{container.written()}")
    print(f"{container.name}: ended with 0, {time.monotonic() - began:.1f} s after SIGTERM", flush=True)


def alone(image: Image) -> None:
    """What an image must do by itself: the command line, and a root that its user can't write."""
    for verb in ((), ("doctor",), ("silo", "run"), ("aggregator", "run")):
        image.run(*verb, "--help")
    try:
        image.run("-c", ESCAPE, entry=["/opt/consilium/bin/python"])
    except RuntimeError as refused:
        if "Read-only file system" in str(refused):
            print(f"{image.name}: `fed --help` answers; nothing can be written to its root", flush=True)
            return
        raise
    sys.exit(f"{image.name}: its user can write to its root")


def together(aggregator: Image, silo: Image) -> None:
    """The federation of two containers, from nothing to SIGTERM."""
    shutil.rmtree(PLACE, ignore_errors=True)
    PLACE.mkdir(mode=0o711, parents=True)
    port, first, second = free_port(), free_port(), free_port()
    desk = office(aggregator, port)
    name = SILOS[0]
    server_mounts = volumes(desk, "aggregator", {"aggregator.key": "keys/aggregator.key"})
    silo_mounts = volumes(desk, name, {"agent.key": "keys/agent.key", "salt": "salt"})
    with Container(aggregator, "aggregator", ["aggregator", "run"], server_mounts, environment(first)) as server:
        print(f"aggregator: /healthz after {wait_for(server, first, '/healthz'):.1f} s", flush=True)
        print(f"aggregator: /readyz after {wait_for(server, first, '/readyz'):.1f} s more", flush=True)
        with Container(silo, "silo-agent", ["silo", "run"], silo_mounts, environment(second)) as agent:
            print(f"silo-agent: /healthz after {wait_for(agent, second, '/healthz'):.1f} s", flush=True)
            print(f"silo-agent: /readyz after {wait_for(agent, second, '/readyz'):.1f} s more", flush=True)
            if "consilium_up" not in answer(second, "/metrics")[1]:
                sys.exit(f"silo-agent: no figures at /metrics. Its log:\n{agent.written()}")
            stop(agent)
        stop(server)
    shutil.rmtree(PLACE)


def main() -> None:
    require()
    with Image("aggregator") as aggregator, Image("silo-agent") as silo:
        for image in (aggregator, silo):
            alone(image)
        together(aggregator, silo)
    shutil.rmtree(BUILD / "bundles", ignore_errors=True)


if __name__ == "__main__":
    main()
