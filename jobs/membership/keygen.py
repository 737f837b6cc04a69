"""Making keys, and the member file that a silo sends to the consortium. Nothing in the file is secret.

    {"format": "consilium/1/member", "silo": id, "agent": hex, "owner": hex,
     "agent_signature": hex, "owner_signature": hex}

Both keys sign the silo's id and both public keys, so a key cannot be enrolled without holding it. A signature cannot
prove which institution sent the file: the consortium compares fingerprints out of band.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from aggregator.home import AggregatorHome
from crypto import durable, text_files
from crypto.charter import SILO_ID, Member, check_new_id
from crypto.encoding import Writer
from crypto.errors import FederationError, SpecError
from crypto.keys import KEY_BYTES, SIGNATURE_BYTES, Identity, PublicIdentity
from crypto.pinned_charter import CONSORTIUM_FILE
from jobs.membership.accept import renewed_path
from jobs.membership.propose import ROLES
from silo_agent.home import SiloHome

#: Also the label of its signatures: a member file outlasts the protocol in use.
FORMAT = "consilium/1/member"
_FIELDS = {"format", "silo", *ROLES, *(f"{role}_signature" for role in ROLES)}
_HEX = re.compile(r"[0-9a-f]+")


def keygen_silo(home: SiloHome, silo: str, passphrase: bytes | None = None) -> Member:
    """A silo's home with new keys and salt, and its member file. ``passphrase``: locks the owner's key.

    Raises SpecError for a home that has keys, and for a passphrase that is too short."""
    check_new_id(silo)
    with _new_folder(home.root):
        member = home.make(silo)
        _write_member(home, member)
        if passphrase is not None:
            home.owner().lock(home.owner_key_path, passphrase)
    return member


def lock_owner(home: SiloHome, passphrase: bytes, before: bytes | None = None) -> PublicIdentity:
    """Lock the data owner's key in a home, or give it another passphrase; ``before``: the one that it has.

    Raises SpecError for a home without the key and for a passphrase that is too short, KeyLocked for a wrong one."""
    owner = Identity.load(home.owner_key_path, before)
    owner.lock(home.owner_key_path, passphrase)
    return owner.public


def keygen_aggregator(home: AggregatorHome) -> PublicIdentity:
    """The aggregator's home with a new key; its public key also in ``aggregator.pub``, for the first charter."""
    with _new_folder(home.root):
        public = home.make()
        home.public_key_path.write_bytes(public.raw)
    return public


def keygen_consortium(folder: Path) -> PublicIdentity:
    """``consortium.key``, to be kept offline, and ``consortium.pub``, which every home pins."""
    with _new_folder(folder):
        identity = Identity.generate()
        identity.save(folder / "consortium.key")
        (folder / CONSORTIUM_FILE).write_bytes(identity.public.raw)
    return identity.public


def renew(home: SiloHome, roles: list[str], passphrase: bytes | None = None) -> Member:
    """New keys in place of those that are lost or no longer trusted, and a member file with them.

    They come into use when this home accepts the epoch that names them; until then the old ones are used.
    ``passphrase``: of the owner's key; a new one is locked by it too. Raises SpecError for an unknown role, and if a
    renewed key is waiting already, KeyLocked for a locked owner's key without its passphrase.
    """
    silo = home.silo
    if not roles or set(roles) - set(ROLES):
        raise SpecError("renew", got=roles, want=f"one or both of {', '.join(ROLES)}")
    for role in roles:
        if (waiting := renewed_path(home.key_path(role))).exists():
            raise SpecError(
                str(waiting), got="a renewed key that waits for its epoch", want="none", remedy="Remove it, or use it."
            )
    waiting_paths = [renewed_path(home.key_path(role)) for role in roles]
    try:
        for role, waiting in zip(roles, waiting_paths, strict=True):
            Identity.generate().save(waiting, passphrase if role == "owner" else None)
        keys = {role: _newest_key(home, role, passphrase).public for role in ROLES}
        member = Member(silo, keys["agent"], keys["owner"])
        _write_member(home, member, passphrase)
    except BaseException:  # half a renewal would block the next attempt
        for waiting in waiting_paths:
            waiting.unlink(missing_ok=True)
        raise
    return member


def read_member(path: Path) -> Member:
    """A member file, both signatures checked. Raises SpecError, BadSignature."""
    try:
        fields = json.loads(text_files.read(path, "a member file, as `fed keygen` writes it"))
    except ValueError as bad:
        raise SpecError(str(path), got=type(bad).__name__, want="a member file, as `fed keygen` writes it") from bad
    if not isinstance(fields, dict) or fields.keys() != _FIELDS or fields["format"] != FORMAT:
        raise SpecError(str(path), got=sorted(fields), want=f"{FORMAT} with {', '.join(sorted(_FIELDS))}")
    silo = fields["silo"]
    if not isinstance(silo, str) or not SILO_ID.fullmatch(silo):
        raise SpecError(f"{path}: silo", got=silo, want="a silo's id")
    try:
        keys = {role: PublicIdentity(_hex(path, fields, role, KEY_BYTES)) for role in ROLES}
    except FederationError as bad:
        raise SpecError(str(path), got=bad.detail, want="public keys") from bad
    member = Member(silo, keys["agent"], keys["owner"])
    for role, key in keys.items():
        key.verify(_hex(path, fields, f"{role}_signature", SIGNATURE_BYTES), _body(member))
    return member


def _hex(path: Path, fields: dict[str, object], name: str, size: int) -> bytes:
    value = fields[name]
    if not isinstance(value, str) or len(value) != 2 * size or not _HEX.fullmatch(value):
        raise SpecError(f"{path}: {name}", got=value, want=f"{size} bytes in hex")
    return bytes.fromhex(value)


def _write_member(home: SiloHome, member: Member, passphrase: bytes | None = None) -> None:
    fields: dict[str, str] = {"format": FORMAT, "silo": member.silo}
    for role in ROLES:
        fields[role] = getattr(member, role).raw.hex()
    for role in ROLES:
        fields[f"{role}_signature"] = _newest_key(home, role, passphrase).sign(_body(member)).hex()
    durable.replace(home.member_path, (json.dumps(fields, indent=1) + "\n").encode())


def _newest_key(home: SiloHome, role: str, passphrase: bytes | None) -> Identity:
    """The renewed key if there is one, else the key."""
    path = home.key_path(role)
    following = renewed_path(path)
    return Identity.load(following if following.exists() else path, passphrase)


def _body(member: Member) -> bytes:
    out = Writer().text(FORMAT).text(member.silo)
    for role in ROLES:
        out.blob(getattr(member, role).raw)
    return bytes(out)


@contextmanager
def _new_folder(folder: Path) -> Iterator[None]:
    """A folder to be filled whole: what a failed attempt made in it is removed, so that the next one can succeed.

    Of two attempts at once the second is refused and removes nothing."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise _taken(folder)
    was_there = folder.exists()
    durable.private_folder(folder)
    try:
        with durable.locked_folder(folder):
            if any(folder.iterdir()):
                raise _taken(folder)
            try:
                yield
            except BaseException:
                for path in folder.iterdir():
                    with suppress(OSError):
                        shutil.rmtree(path) if path.is_dir() else path.unlink()
                if not was_there:
                    with suppress(OSError):
                        folder.rmdir()
                raise
    except BlockingIOError as other:
        raise _taken(folder) from other


def _taken(folder: Path) -> SpecError:
    return SpecError(
        str(folder), got="something that exists already", want="a new folder", remedy="Keys are never overwritten."
    )
