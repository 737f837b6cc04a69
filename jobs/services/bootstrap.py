"""Before a service starts: kit, identity and charter, as delivered to this site, are installed into its home.

A kit that names no home (``fed provision``) may be an archive or read-only: NVFlare writes into its workspace, so the
kit is copied to ``<home>/kit`` at every start, and a renewed certificate is in use after a restart. A kit that names
its home (``fed up``) is used in place. Key, salt and charter may come from mounted folders. They are installed only
where there are none: existing ones must be the same, and nothing is ever overwritten.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path, PurePosixPath
from typing import Final

from aggregator.home import AggregatorHome
from crypto import durable
from crypto.errors import FULL, NoSpace, SpecError
from crypto.home import Home
from crypto.keys import KEY_BYTES, PublicIdentity
from crypto.pinned_charter import CHARTER_FILE, CONSORTIUM_FILE
from jobs.provisioning import archive
from jobs.services.http import prepare_environment
from silo_agent.home import SiloHome

log = logging.getLogger("consilium.service")

SILO, AGGREGATOR = "silo", "aggregator"
#: NVFlare listens on this machine's loopback, or, if the operator asks for it, on all of its addresses.
LISTEN: Final = ("127.0.0.1", str(IPv4Address(0)))


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceOptions:
    """The options of ``fed silo run`` or ``fed aggregator run``.

    ``role``: silo or aggregator. ``kit``: folder or archive. ``home``: None if the kit names it. ``identity``,
    ``charter``: mounted folders to install from, if any. ``listen``: one of ``LISTEN``. ``log_level``, ``log_format``:
    see ``jobs.flare.log_config``.
    """

    role: str
    kit: Path
    home: Path | None = None
    identity: Path | None = None
    charter: Path | None = None
    listen: str = LISTEN[0]
    log_level: str = "info"
    log_format: str = "text"


@dataclass(frozen=True, slots=True)
class InstalledSite:
    """Kit and home of a service, installed and checked."""

    kit: Path
    home: Home


def install(options: ServiceOptions) -> InstalledSite:
    """Install and check everything, and lock the home for this process. Raises SpecError, NoSpace, Unfit."""
    from jobs.doctor import refuse_start
    from jobs.flare import log_config
    from jobs.flare.nvflare_mains import parse_settings

    log_config.check(options.log_level, options.log_format)
    if options.listen not in LISTEN:
        raise SpecError(
            "--listen", got=options.listen, want=" or ".join(LISTEN), remedy="Restrict access with a firewall."
        )
    files = archive.read(options.kit)
    about = f"{options.kit}: local/consilium.json"
    settings = parse_settings(about, files.get(PurePosixPath("local/consilium.json"), b""))
    if (settings["site"] == "server") != (options.role == AGGREGATOR):
        whose = "the server" if settings["site"] == "server" else f"silo {settings['site']}"
        raise SpecError(
            "--kit", got=f"the kit of {whose}", want=f"one for `fed {options.role} run`", remedy="Name its own kit."
        )
    own = Path(settings["home"]) if settings["home"] else None
    place = options.home or own
    if place is None:
        raise SpecError("--home", got=None, want="the home of this site: its kit names none")
    home = Home(place.resolve())
    with _disk_errors(home):
        if options.identity is None:
            _check_home(options.role, home)
        else:
            durable.private_folder(home.root)
        prepare_environment(home)  # before prometheus_client is imported
        if options.identity is not None:
            _place_identity(options.role, home, settings["site"], options.identity)
        if options.charter is not None:
            _place_charter(home, options.charter)
        if own is not None and home.root == own.resolve() and options.kit.is_dir():
            refuse_start(options.role, options.kit, home)
            if options.role == AGGREGATOR:
                _localise(options.kit, home, options.listen)
            kit = options.kit
        else:
            kit = _place_kit(options, home, files)
        log_config.write(kit, options.log_level, options.log_format)
        return InstalledSite(kit, home)


def _place_kit(options: ServiceOptions, home: Home, files: archive.Files) -> Path:
    """Write these files to ``<home>/kit`` once the checks of a start have passed for them."""
    from jobs.doctor import refuse_start

    kit = home.kit_folder
    new = kit.with_name(f"{kit.name}.new")
    shutil.rmtree(new, ignore_errors=True)
    try:
        new.mkdir(mode=0o700)
        archive.write(files, new)
        if options.role == AGGREGATOR:
            _localise(new, home, options.listen)
        refuse_start(options.role, new, home)
        kit.mkdir(mode=0o700, exist_ok=True)
        for folder in archive.FOLDERS:
            shutil.rmtree(kit / folder, ignore_errors=True)
            os.replace(new / folder, kit / folder)
    finally:
        shutil.rmtree(new, ignore_errors=True)
    return kit


def _localise(kit: Path, home: Home, listen: str) -> None:
    from jobs.flare.hardening import localise

    localise(kit, AggregatorHome(home.root), listen)


def _check_home(role: str, home: Home) -> None:
    settings = _settings_path(role, home)
    if not settings.is_file():
        raise SpecError(
            str(home.root),
            got=f"no {settings.name}",
            want=f"the home of {'a silo' if role == SILO else 'the aggregator'}",
            remedy="Make it with `fed keygen`, or name its keys with --identity.",
        )


def _settings_path(role: str, home: Home) -> Path:
    return SiloHome(home.root).settings_path if role == SILO else AggregatorHome(home.root).settings_path


def _secrets(role: str, home: Home) -> dict[str, tuple[Path, int]]:
    """The files of ``--identity``: name → path in the home, size in bytes."""
    if role == SILO:
        silo = SiloHome(home.root)
        return {"agent.key": (silo.agent_key_path, KEY_BYTES), "salt": (silo.salt_path, 32)}
    return {"aggregator.key": (AggregatorHome(home.root).identity_path, KEY_BYTES)}


def _place_identity(role: str, home: Home, site: str, given: Path) -> None:
    """Install keys and salt of a mounted folder into a home without them. Existing ones must be the same."""
    durable.private_folder(home.keys_folder)
    for name, (place, size) in _secrets(role, home).items():
        try:
            secret = (given / name).read_bytes()
        except OSError as missing:
            raise SpecError(str(given / name), got=missing.strerror, want="this site's secret") from missing
        if len(secret) != size:
            raise SpecError(str(given / name), got=f"{len(secret)} bytes", want=f"{size} bytes")
        if place.exists():
            if place.read_bytes() != secret:
                raise SpecError(
                    str(given / name),
                    got="another one than in the home",
                    want=f"that of {place}",
                    remedy="One identity per home: give it its own, or name the home that belongs to it.",
                )
        else:
            durable.replace(place, secret)
    settings = _settings_path(role, home)
    if role == SILO and not settings.exists():
        durable.replace(settings, f'{{"silo": "{site}"}}\n'.encode())
    if role == AGGREGATOR and not settings.exists():
        durable.replace(settings, b"{}\n")
        aggregator = AggregatorHome(home.root)
        durable.replace(aggregator.public_key_path, aggregator.identity().public.raw)


def _place_charter(home: Home, given: Path) -> None:
    """Install the charter of a mounted folder into a home without one. A newer one waits for its operator."""
    from crypto.charter import SignedCharter
    from jobs.membership.accept import accept, read_epoch

    signed = read_epoch(given / CHARTER_FILE)
    try:
        consortium = PublicIdentity((given / CONSORTIUM_FILE).read_bytes())
    except OSError as missing:
        raise SpecError(
            str(given / CONSORTIUM_FILE), got=missing.strerror, want="the consortium's public key"
        ) from missing
    if not home.pinned.exists():
        accept(home, signed, consortium=consortium)
        return
    pinned = home.charter()
    if home.pinned.consortium() != consortium:
        raise SpecError(
            str(given / CONSORTIUM_FILE), got=consortium.fingerprint, want="the consortium key that is pinned here"
        )
    charter = SignedCharter.open(signed, consortium)
    if charter.epoch > pinned.epoch:
        log.warning(
            "%s has epoch %d, pinned is epoch %d, which stays in force until an operator runs `fed charter accept`",
            given,
            charter.epoch,
            pinned.epoch,
        )
    elif charter.digest not in {one.digest for one, _ in home.pinned.epochs()} or charter.epoch < pinned.epoch:
        raise SpecError(
            str(given / CHARTER_FILE),
            got=f"epoch {charter.epoch}, {charter.digest.hex()[:16]}",
            want=f"epoch {pinned.epoch}, {pinned.digest.hex()[:16]}, which is pinned here, or a later one",
            remedy="Give this site the charter that is in force.",
        )


@contextmanager
def _disk_errors(home: Home) -> Iterator[None]:
    """The volume's errors as SpecError and NoSpace."""
    try:
        yield
    except OSError as failed:
        if failed.errno in FULL:
            raise NoSpace(f"The volume of {home.root} is full.", remedy="Free space on it, or enlarge it.") from failed
        raise SpecError(
            str(home.root),
            got=f"{failed.filename or home.root}: {failed.strerror}",
            want="a home that this user can write",
            remedy="Is the volume mounted read-only? Does the home belong to this user?",
        ) from failed
