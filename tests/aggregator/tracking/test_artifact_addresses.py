"""A home that was moved: MLflow's addresses follow it, the old path stays as it is, and a check says so before."""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path

import pytest

from aggregator.home import AggregatorHome
from aggregator.tracking.artifact_addresses import check_here, elsewhere, follow_home
from aggregator.tracking.cursor import default_uri
from crypto.errors import SpecError

TABLES = {
    "experiments": ("artifact_location",),
    "runs": ("artifact_uri",),
    "logged_models": ("artifact_location",),
    "model_versions": ("source", "storage_location"),
}


def made(root: Path) -> AggregatorHome:
    """A home with the tables and addresses that MLflow makes."""
    home = AggregatorHome(root)
    home.artifacts_folder.mkdir(parents=True)
    place = home.artifacts_folder.as_uri()
    with sqlite3.connect(home.mlflow_path) as database:
        for table, columns in TABLES.items():
            database.execute(f"CREATE TABLE {table} ({', '.join(columns)})")
        database.execute(
            "INSERT INTO experiments VALUES (?), (?), (?)", (f"{place}/1", "s3://b/mlartifacts/1", "./mlruns")
        )
        database.execute("INSERT INTO runs VALUES (?)", (f"{place}/1/abc/artifacts",))
        database.execute("INSERT INTO logged_models VALUES (?)", (f"{place}/models/m-1/artifacts",))
        database.execute("INSERT INTO model_versions VALUES (?, ?)", ("models:/m-1", f"{place}/models/m-1/artifacts"))
    database.close()
    return home


def addresses(home: AggregatorHome) -> set[str]:
    with sqlite3.connect(home.mlflow_path) as database:
        found = {
            row[0]
            for table, columns in TABLES.items()
            for c in columns
            for row in database.execute(f"SELECT {c} FROM {table}")
        }
    database.close()
    return found


@pytest.mark.parametrize("name", ["hub", "a hub", "höb"])
def test_addresses_follow_a_move(tmp_path: Path, name: str) -> None:
    home = made(tmp_path / "old" / name)
    assert elsewhere(home) == follow_home(home) == []
    check_here(home)
    before = addresses(home)
    moved = AggregatorHome(tmp_path / "new" / f"{name}x")
    shutil.move(home.root, moved.root)
    old, new = home.artifacts_folder.as_uri(), moved.artifacts_folder.as_uri()
    assert elsewhere(moved) == [old]
    with pytest.raises(SpecError, match="The home was moved"):
        check_here(moved)
    assert follow_home(moved) == [old]
    assert addresses(moved) == {one.replace(old, new) for one in before}
    assert elsewhere(moved) == follow_home(moved) == []
    check_here(moved)
    assert not home.root.exists()


def test_a_folder_whose_name_begins_alike_is_another(tmp_path: Path) -> None:
    home = made(tmp_path / "hub")
    moved = AggregatorHome(tmp_path / "hub" / "inside")
    shutil.copytree(home.root, tmp_path / "copy")
    shutil.move(tmp_path / "copy", moved.root)
    assert follow_home(moved) == [home.artifacts_folder.as_uri()]
    assert follow_home(moved) == [] and elsewhere(home) == [], "the copy alone was changed"


def test_an_older_database_has_fewer_columns(tmp_path: Path) -> None:
    home = made(tmp_path / "hub")
    with sqlite3.connect(home.mlflow_path) as database:
        database.execute("DROP TABLE logged_models")
        database.execute("ALTER TABLE model_versions DROP COLUMN storage_location")
    database.close()
    shutil.move(home.root, tmp_path / "new")
    assert len(follow_home(AggregatorHome(tmp_path / "new"))) == 1


def test_where_nobody_followed_there_is_nothing_to_do(tmp_path: Path) -> None:
    home = AggregatorHome(tmp_path)
    assert elsewhere(home) == follow_home(home) == [] and not home.mlflow_path.exists()


@pytest.mark.parametrize("sign", ["?", "#", "%"])
def test_a_path_that_an_address_cannot_hold_is_refused(tmp_path: Path, sign: str) -> None:
    with pytest.raises(SpecError, match="MLflow's address of a file cannot hold them"):
        default_uri(AggregatorHome(tmp_path / f"a{sign}b"))
    assert default_uri(AggregatorHome(tmp_path / "a b")).endswith("/a b/mlflow.db")
