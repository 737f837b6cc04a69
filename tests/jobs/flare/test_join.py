"""One more silo in a federation that was provisioned before: the same root, and nobody else's kit changes by a byte."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest
from cryptography.x509.oid import ExtendedKeyUsageOID
from nvflare.private.fed.utils.identity_utils import (
    IdentityAsserter,
    IdentityVerifier,
    InvalidAsserterCert,
    load_cert_chain_bytes,
)

from aggregator.home import AggregatorHome
from crypto.errors import SpecError
from jobs.flare import nvflare_mains
from jobs.flare.local_kits import Kits, add_silo_kit, free_port, provision
from silo_agent.home import SiloHome
from tests.members import files

pytestmark = pytest.mark.slow

SILOS = ("silo-1", "silo-2", "silo-3")


def made(root: Path, name: str = "demo") -> Kits:
    homes = {silo: SiloHome(root / "silos" / silo) for silo in SILOS}
    aggregator = AggregatorHome(root / "aggregator")
    return provision(root / "kits", name=name, silos=SILOS, port=free_port(), server_home=aggregator, silo_homes=homes)


@pytest.fixture(scope="module")
def joined(tmp_path_factory: pytest.TempPathFactory) -> tuple[Kits, dict[str, dict[str, bytes]], Path]:
    """A federation's kits, their bytes from before, and the kit that came after."""
    root = tmp_path_factory.mktemp("federation")
    kits = made(root)
    before = {kit.name: files(kit) for kit in (kits.server, kits.admin, *kits.silos.values())}
    return kits, before, add_silo_kit(kits.root, silo="silo-9", home=SiloHome(root / "silos" / "silo-9"))


def test_nobody_elses_kit_changes_by_a_byte(joined: tuple[Kits, dict[str, dict[str, bytes]], Path]) -> None:
    kits, before, kit = joined
    assert {path.name for path in kits.root.iterdir()} == {*before, "ca", "silo-9"}
    assert {name: files(kits.root / name) for name in before} == before
    assert kit == kits.root / "silo-9" and set(files(kit)) == set(before["silo-3"])


def test_the_servers_own_check_takes_the_new_certificate(
    joined: tuple[Kits, dict[str, dict[str, bytes]], Path], tmp_path: Path
) -> None:
    """What NVFlare's server does at registration (client_manager.authenticated_client), with its own root."""
    kits, _, kit = joined

    def registers(server: Path, client: Path, name: str) -> bool:
        asserter = IdentityAsserter(str(client / "startup" / "client.key"), str(client / "startup" / "client.crt"))
        chain = load_cert_chain_bytes(asserter.cert_data)
        taken = IdentityVerifier(str(server / "startup" / "rootCA.pem")).verify_common_name(
            asserted_cn=name,
            nonce="once",
            asserter_cert=chain[0],
            signature=asserter.sign_common_name("once"),
            intermediate_certs=chain[1:],
            expected_eku=ExtendedKeyUsageOID.CLIENT_AUTH,
        )
        return bool(taken)

    assert registers(kits.server, kit, "silo-9") and registers(kits.server, kits.silos["silo-1"], "silo-1")
    assert (kit / "startup" / "rootCA.pem").read_bytes() == (kits.server / "startup" / "rootCA.pem").read_bytes()
    stranger = made(tmp_path)
    with pytest.raises(InvalidAsserterCert):
        registers(stranger.server, kit, "silo-9")


def test_the_new_kit_is_like_the_others_but_for_its_name(
    joined: tuple[Kits, dict[str, dict[str, bytes]], Path],
) -> None:
    kits, _, kit = joined
    other = kits.silos["silo-3"]
    for name in ("startup/fed_client.json", "local/resources.json", "local/authorization.json", "local/privacy.json"):
        mine, theirs = ((one / name).read_text().replace(one.name, "NAME") for one in (kit, other))
        assert mine == theirs, name
    assert nvflare_mains.settings(kit) | {"home": "", "site": ""} == nvflare_mains.settings(other) | {
        "home": "",
        "site": "",
    }
    assert nvflare_mains.settings(kit)["site"] == "silo-9" and nvflare_mains.settings(kit)["home"].endswith(
        "silos/silo-9"
    )
    assert stat.S_IMODE(kit.stat().st_mode) == 0o700
    assert stat.S_IMODE((kit / "startup" / "client.key").stat().st_mode) == 0o600
    assert stat.S_IMODE((kits.root / "ca" / "cert.json").stat().st_mode) == 0o600


def test_the_root_is_the_one_it_was_and_signs_again(tmp_path: Path) -> None:
    kits = made(tmp_path)
    root = json.loads((kits.root / "ca" / "cert.json").read_text())
    for silo in ("silo-8", "silo-9"):
        add_silo_kit(kits.root, silo=silo, home=SiloHome(tmp_path / "silos" / silo))
    after = json.loads((kits.root / "ca" / "cert.json").read_text())
    assert {name: after[name] for name in root} == root
    assert {path.name for path in (kits.root / "ca").iterdir()} == {"cert.json"}


def test_what_has_a_kit_or_can_have_none_is_refused(
    joined: tuple[Kits, dict[str, dict[str, bytes]], Path], tmp_path: Path
) -> None:
    kits, _, _ = joined
    before = files(kits.root)
    for silo in ("silo-1", "silo-9", "server", "admin", "ca", "localhost", "", "../up", "no/slash", "Silo", "a b"):
        with pytest.raises(SpecError, match="silo"):
            add_silo_kit(kits.root, silo=silo, home=SiloHome(tmp_path / "home"))
    assert files(kits.root) == before


@pytest.mark.parametrize("missing", ["server/startup/fed_server.json", "server/local/consilium.json", "ca/cert.json"])
def test_a_folder_that_nobody_provisioned_is_refused(tmp_path: Path, missing: str) -> None:
    kits = made(tmp_path)
    (kits.root / missing).unlink()
    with pytest.raises(SpecError, match="provisioned"):
        add_silo_kit(kits.root, silo="silo-9", home=SiloHome(tmp_path / "silos" / "silo-9"))
    assert not (kits.root / "silo-9").exists()
