"""Build both images with buildah, as root, without a daemon and without a registry if there is none: `make images`.

The storage is this checkout's own (``build/images``, ignored by git). Without ``--base`` the Containerfiles' default is
pulled; where that fails, a Debian base is made by ``base.sh``. The build uses this machine's own pip settings (indexes,
certificates, wheels at hand): as mounts, nothing of them is left in an image.
"""

from __future__ import annotations

import argparse
import configparser
import json
import os
import shutil
import subprocess
import sys
from ast import literal_eval
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BUILD = ROOT / "build" / "images"
IMAGES = ("aggregator", "silo-agent")
BILL = "opt/consilium/sbom.cdx.json"
LOCAL_BASE = "localhost/consilium-base:bookworm"
NEEDED = {"buildah": "buildah", "debootstrap": "debootstrap", "crun": "crun"}


def buildah(*arguments: str, quiet: bool = False) -> str:
    """Run buildah on our storage; its output. Raises CalledProcessError."""
    storage = ["--root", str(BUILD / "storage"), "--runroot", str(BUILD / "run"), "--storage-driver", "vfs"]
    out = subprocess.PIPE
    done = subprocess.run(
        ["buildah", *storage, *arguments],
        check=True,
        text=True,
        stdout=out,
        stderr=subprocess.PIPE if quiet else None,
        encoding="utf-8",
    )
    return done.stdout.strip()


def tag(image: str) -> str:
    return f"localhost/consilium-{image}:dev"


def require() -> None:
    """Ends with what to install if a tool is missing."""
    missing = sorted(package for tool, package in NEEDED.items() if not shutil.which(tool))
    if os.geteuid() != 0:
        sys.exit("make images: needs root, or `buildah unshare make images`")
    if missing:
        sys.exit(f"make images: install first: apt-get install --no-install-recommends {' '.join(missing)}")


def base(asked: str | None) -> str:
    """The base image: the one asked for, else the Containerfiles' own if it can be pulled, else one made here."""
    if asked:
        return asked
    own = next(
        line.removeprefix("ARG BASE_IMAGE=")
        for line in (ROOT / "images" / "aggregator.Containerfile").read_text(encoding="utf-8").splitlines()
        if line.startswith("ARG BASE_IMAGE=")
    )
    try:
        buildah("pull", "--quiet", "--policy", "missing", own, quiet=True)
        return own
    except subprocess.CalledProcessError as failed:
        reason = (failed.stderr.strip().splitlines() or ["no reason given"])[-1]
        print(f"{own} can't be pulled ({reason[:200]}); using {LOCAL_BASE}, made here", flush=True)
    if LOCAL_BASE not in buildah("images", "--format", "{{.Name}}:{{.Tag}}").splitlines():
        storage = {"STORAGE_DRIVER": "vfs", "CONTAINERS_STORAGE_CONF": str(storage_settings())}
        environment = {**os.environ, **storage}
        script = [str(ROOT / "images" / "base.sh"), str(BUILD / "rootfs"), LOCAL_BASE]
        with (BUILD / "base.log").open("w", encoding="utf-8") as log:
            subprocess.run(script, check=True, env=environment, stdout=log)
    return LOCAL_BASE


def storage_settings() -> Path:
    """A storage.conf for tools that take no --root."""
    path = BUILD / "storage.conf"
    folders = f'graphroot = "{BUILD / "storage"}"\nrunroot = "{BUILD / "run"}"\n'
    path.write_text(f'[storage]\ndriver = "vfs"\n{folders}', encoding="utf-8")
    return path


def pip_settings() -> dict[str, str]:
    """This machine's settings of pip, whichever file or variable they come from."""
    command = [sys.executable, "-P", "-m", "pip", "config", "list"]
    listed = subprocess.run(command, check=True, text=True, stdout=subprocess.PIPE, encoding="utf-8").stdout
    found: dict[str, str] = {}
    for line in sorted(listed.splitlines()):  # ":env:." comes first: variables win
        name, _, value = line.partition("=")
        found.setdefault(name.rpartition(".")[2], " ".join(str(literal_eval(value)).split()))
    return found


def local_places(settings: dict[str, str]) -> list[Path]:
    """The folders and files of this machine that the settings name. Of an index, the folder above: it links there."""
    words = {word.removeprefix("file://") for value in settings.values() for word in value.split()}
    paths = [Path(word) for word in sorted(words) if word.startswith("/")]
    return [place for path in paths if (place := path.parent if path.name == "simple" else path).exists()]


def pip_mounts(settings: dict[str, str]) -> list[str]:
    """The settings as buildah's options: one pip.conf and the places it names, read-only."""
    written = configparser.ConfigParser(interpolation=None)
    written["global"] = settings
    path = BUILD / "pip.conf"
    with path.open("w", encoding="utf-8") as file:
        written.write(file)
    mounts = [f"{path}:/etc/pip.conf:ro", *(f"{place}:{place}:ro" for place in local_places(settings))]
    return [word for mount in mounts for word in ("--volume", mount)]


def wheel_at_hand(settings: dict[str, str]) -> str:
    """The file of a torch wheel in a local folder of pip's, or nothing: then torch needs no index of its own."""
    folders = [place for place in local_places(settings) if place.is_dir()]
    return next((wheel.name for folder in folders for wheel in sorted(folder.glob("torch-*.whl"))), "")


def build(image: str, base_image: str, arguments: list[str]) -> None:
    """One image, under its tag; the log is ``build/images/IMAGE.log``."""
    head = ["git", "rev-parse", "HEAD"]
    done = subprocess.run(head, cwd=ROOT, check=False, text=True, capture_output=True, encoding="utf-8")
    revision = done.stdout.strip()
    settings = pip_settings()
    given = {"BASE_IMAGE": base_image, "REVISION": revision or "unknown"}
    if image == "silo-agent" and (wheel := wheel_at_hand(settings)):
        print(f"torch: the wheel at hand, {wheel}", flush=True)
        given["TORCH_INDEX_URL"] = ""
    words = [word for key, value in given.items() for word in ("--build-arg", f"{key}={value}")]
    words += [word for value in arguments for word in ("--build-arg", value)]
    words += ["--isolation", "chroot", "--tag", tag(image), "--file", str(ROOT / "images" / f"{image}.Containerfile")]
    log = BUILD / f"{image}.log"
    print(f"building {tag(image)}", flush=True)
    try:
        buildah("build", "--logfile", str(log), *pip_mounts(settings), *words, str(ROOT), quiet=True)
    except subprocess.CalledProcessError as failed:
        tail = log.read_text(encoding="utf-8").splitlines()[-15:] if log.exists() else []
        sys.exit("\n".join([*tail, failed.stderr.strip(), f"{tag(image)} was not built; the whole log: {log}"]))


def show(image: str) -> None:
    """The size of an image, and its bill of materials copied out to ``build/images/IMAGE.cdx.json``."""
    container = buildah("from", "--pull-never", tag(image))
    try:
        mounted = Path(buildah("mount", container))
        bill = BUILD / f"{image}.cdx.json"
        shutil.copyfile(mounted / BILL, bill)
        components = json.loads(bill.read_text(encoding="utf-8"))["components"]
    finally:
        buildah("rm", container)
    size = buildah("images", "--format", "{{.Size}}", tag(image))
    print(f"{tag(image)}: {size}, {len(components)} components: {bill.relative_to(ROOT)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base", help="base image, e.g. docker.io/library/python:3.11-slim-bookworm@sha256:…")
    parser.add_argument("--build-arg", action="append", default=[], metavar="NAME=VALUE", help="for the Containerfiles")
    parser.add_argument("--bills-only", action="store_true", help="only copy the bills of materials of built images")
    given = parser.parse_args()
    require()
    BUILD.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not given.bills_only:
        base_image = base(given.base or os.environ.get("BASE_IMAGE"))
        for image in IMAGES:
            build(image, base_image, given.build_arg)
    for image in IMAGES:
        show(image)


if __name__ == "__main__":
    main()
