"""The installed release, as a list of its files that anyone can check."""

import subprocess
from hashlib import sha256
from pathlib import Path

from crypto.release_manifest import PREDICTOR, ReleaseManifest
from jobs import release


def test_the_installed_release_is_one_and_sha256sum_reads_it(tmp_path: Path) -> None:
    manifest = release.manifest()
    root = Path(release.__file__).parents[1]
    assert release.digest() == manifest.digest == sha256(bytes(manifest)).digest()
    assert ReleaseManifest.from_bytes(bytes(manifest)) == manifest
    assert manifest.files[PREDICTOR] == sha256((root / PREDICTOR).read_bytes()).hexdigest()
    (tmp_path / "release.sha256").write_bytes(bytes(manifest))
    command = ["sha256sum", "--check", "--strict", "--quiet", str(tmp_path / "release.sha256")]
    assert subprocess.run(command, cwd=root, capture_output=True, check=True).stdout == b""
