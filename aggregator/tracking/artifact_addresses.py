"""Addresses of artifacts follow the home. MLflow stores them whole: a home that was moved or restored elsewhere would
write into the old folder and show what lies there.

Only MLflow's database in the home itself is looked at. Reading it does not import MLflow.
"""

from __future__ import annotations

import re
import sqlite3
from contextlib import closing
from typing import Final

from aggregator.home import AggregatorHome
from crypto.errors import SpecError

#: Where MLflow keeps addresses of artifacts: table and column.
_COLUMNS: Final = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)
#: How long another process may hold the database. Seconds.
_WAIT_S: Final = 5.0


def is_own(home: AggregatorHome, uri: str) -> bool:
    """Whether an address of MLflow is that of the database in the home itself."""
    return uri == f"sqlite:///{home.mlflow_path.resolve()}"


def elsewhere(home: AggregatorHome) -> list[str]:
    """The artifact folders that the home's database names and that are not the home's. Empty where nothing moved.
    Raises sqlite3.Error."""
    if not home.mlflow_path.is_file():
        return []
    with closing(
        sqlite3.connect(f"{home.mlflow_path.resolve().as_uri()}?mode=ro", uri=True, timeout=_WAIT_S)
    ) as database:
        return _elsewhere(home, database)


def follow_home(home: AggregatorHome) -> list[str]:
    """Make the database name the home's own folder; the folders that it named before. No follower may write
    meanwhile. Raises sqlite3.Error."""
    if not elsewhere(home):
        return []
    with closing(sqlite3.connect(home.mlflow_path, timeout=_WAIT_S, isolation_level=None)) as database:
        database.execute("BEGIN IMMEDIATE")
        found, own = _elsewhere(home, database), _root(home)
        for old in found:
            for table, column in _columns(database):
                changed = f"UPDATE {table} SET {column} = ? || substr({column}, ?)"
                below = f"WHERE {column} = ? OR substr({column}, 1, ?) = ?"
                database.execute(f"{changed} {below}", (own, len(old) + 1, old, len(old) + 1, f"{old}/"))
        database.execute("COMMIT")
    return found


def check_here(home: AggregatorHome) -> None:
    """Raise SpecError where the database names another folder: what lies there is no evidence of this home."""
    if found := elsewhere(home):
        raise SpecError(
            str(home.mlflow_path),
            got=f"artifacts in {', '.join(found)}",
            want=_root(home),
            remedy="The home was moved. Start its aggregator once, or `fed mlflow`: they correct the addresses.",
        )


def _root(home: AggregatorHome) -> str:
    return home.artifacts_folder.resolve().as_uri()


def _columns(database: sqlite3.Connection) -> list[tuple[str, str]]:
    """Those that this database has: an older MLflow's has fewer."""
    there = {
        (table, str(row[1]))
        for table in {table for table, _ in _COLUMNS}
        for row in database.execute(f"PRAGMA table_info({table})")
    }
    return [one for one in _COLUMNS if one in there]


def _elsewhere(home: AggregatorHome, database: sqlite3.Connection) -> list[str]:
    """From the first folder of our name in each address on, all else is below it."""
    name = re.escape(home.artifacts_folder.name)
    ours = re.compile(rf"(file:///(?:[^/]+/)*?{name})(?:/.*)?")
    found = set()
    for table, column in _columns(database):
        for (value,) in database.execute(f"SELECT DISTINCT {column} FROM {table}"):
            if isinstance(value, str) and not value.startswith(f"{_root(home)}/") and (named := ours.fullmatch(value)):
                found.add(named[1])
    return sorted(found - {_root(home)}, key=len, reverse=True)
