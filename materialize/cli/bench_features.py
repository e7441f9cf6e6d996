"""``prescore bench features``: features of one cut-off from a generated event log, how long and in how much memory."""

from __future__ import annotations

import datetime as dt
import json
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from materialize.cli.context import Output, OutputOption, stderr
from materialize.cli.output import emit
from materialize.cli.watched_child import watched_child

if TYPE_CHECKING:
    from collections.abc import Iterator

CUTOFF = dt.datetime(2024, 7, 1, tzinfo=dt.UTC)
DAYS = 365
CATEGORIES = 200

# A log of a shop: few items sell often, users differ in how much they buy, and most of what they buy they buy again.
# Every row is a function of its number, so that the same size is the same log everywhere.
_EVENTS = """
    select user_id, item_id, value,
           timestamptz '2024-07-01 00:00:00+00' - to_microseconds(1 + (draw_time * {span})::bigint) as event_time
    from (
        select (hash(n, 1) % {users})::bigint as user_id,
               floor({items} * pow((hash(hash(n, 1) % {users}, case when hash(n, 2) % 10 < 7
                     then hash(n, 3) % 12 else n end) % 1000003) / 1000003.0, 3))::bigint as item_id,
               (hash(n, 4) % 1000) / 100.0 as value,
               (hash(n, 5) % 1000000007) / 1000000007.0 as draw_time
        from range({events}) numbers(n)
    )"""


def bench_features(
    *, events: int, users: int, items: int, memory: str, folder: Path
) -> Iterator[dict[str, Any]]:
    """Build all standard features at a quarter, a half, and all of the events; users grow with them.

    Each size is built by a process of its own, so that its memory is not that of the size before.

    Args:
        events: At full size; a year of them.
        users: At full size.
        items: At every size, in 200 categories.
        memory: DuckDB's limit, ``[features] memory_limit``.
        folder: Where tables, builds and what spills go; of a size that is done only the build stays.

    Yields:
        One row per size: seconds to read and check the tables, and to build; events per second of both together;
        most memory of the process and its children, in GiB; most that had spilled to disk at once, in GiB; rows of the
        pair features.
    """
    for part in (4, 2, 1):
        place = folder / f"part_{part}"
        file = _write(events // part, users // part, items, memory, place)
        took, peak, spilled = watched_child(_build, file, files=partial(place.rglob, "spill/*"))
        (place / "events.parquet").unlink()
        seconds = took["seconds to read"] + took["seconds to build"]
        yield {
            "events": events // part,
            "items": items,
            **took,
            "events/s": round(events // part / seconds),
            "peak GiB": round(peak / 2**30, 2),
            "spilled GiB": round(spilled / 2**30, 2),
        }


def _build(file: Path) -> dict[str, Any]:
    from features.build import build_features
    from features.sources import open_sources
    from materialize.settings import load_settings

    settings = load_settings(file)
    started = time.monotonic()
    with open_sources(settings, scratch=settings.features_path / ".scratch") as sources:
        read = time.monotonic()
        build = build_features(settings, CUTOFF, settings.features_path, sources=sources)
    done = time.monotonic()
    return {
        "users": build.rows("user.parquet"),
        "seconds to read": round(read - started, 1),
        "seconds to build": round(done - read, 1),
        "pair rows": build.rows("pair.parquet"),
    }


def _write(events: int, users: int, items: int, memory: str, folder: Path) -> Path:
    import duckdb

    folder.mkdir(parents=True, exist_ok=True)
    with duckdb.connect(
        config={"memory_limit": memory, "temp_directory": str(folder / "spill")}
    ) as connection:
        span = DAYS * 86_400_000_000
        connection.sql(_EVENTS.format(events=events, users=users, items=items, span=span)).write_parquet(
            str(folder / "events.parquet")
        )
        connection.sql(
            f"select n as item_id, 'c' || n % {CATEGORIES} as category from range({items}) numbers(n)"  # noqa: S608
        ).write_parquet(str(folder / "items.parquet"))
    file = folder / "prescore.toml"
    file.write_text(
        "[events]\npath = 'events.parquet'\nvalue = 'value'\n"
        "[items]\npath = 'items.parquet'\ngroups = ['category']\n"
        f"[features]\nmemory_limit = '{memory}'\n",
        encoding="utf-8",
    )
    return file


def register(app: typer.Typer) -> None:
    """Add the command."""

    @app.command("features")
    def features(
        events: Annotated[int, typer.Option(help="Events, of a year.", min=1000)] = 100_000_000,
        users: Annotated[int, typer.Option(help="Users.", min=20)] = 1_000_000,
        items: Annotated[int, typer.Option(help="Items.", min=20)] = 10_000,
        memory: Annotated[
            str, typer.Option(help="DuckDB's memory limit; beyond it, work spills to disk.")
        ] = "5GB",
        folder: Annotated[
            Path | None, typer.Option(help="Where to work and leave everything. Default: a temporary folder.")
        ] = None,
        json_file: Annotated[
            Path | None, typer.Option("--json", help="Also write the result to this file.")
        ] = None,
        output: OutputOption = Output.TEXT,
    ) -> None:
        """Features of one cut-off from a generated log: seconds, events per second, peak memory, spilling, at three sizes."""
        rows = []
        with tempfile.TemporaryDirectory(prefix="prescore-bench-") as temporary:
            for row in bench_features(
                events=events, users=users, items=items, memory=memory, folder=folder or Path(temporary)
            ):
                stderr().print(
                    f"  {row['events']:,} events: {row['events/s']:,} events/s, {row['peak GiB']} GiB, "
                    f"{row['spilled GiB']} GiB spilled"
                )
                rows.append(row)
        if json_file is not None:
            json_file.write_text(json.dumps(rows, indent=2), encoding="utf-8")
        emit(output, rows, "Features of one cut-off", rows)
