"""Builds all features as of a cut-off: a pure function of (tables, settings, cut-off), written aside and renamed.

The folder of a cut-off is complete or not there. A build is found again by its fingerprint, which covers
the rows that it depends on (events before the cut-off, entity tables), the settings and this code: events
that were added after the cut-off change nothing, an event that arrives late does.
"""

from __future__ import annotations

import hashlib
import json
import os
from contextlib import ExitStack
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import structlog

from features.build_tables import Progress, write_tables
from features.custom import custom_hash
from features.errors import NotFoundError, SourceError, StorageError
from features.feature_build import MANIFEST, FeatureBuild, FeatureManifest, FileEntry, name_of_cutoff
from features.scratch import scratch_folder
from features.sources import Sources, SourceSections, open_sources

log = structlog.get_logger()


def build_features(
    settings: SourceSections,
    cutoff: datetime,
    out: Path,
    *,
    sources: Sources | None = None,
    progress: Progress | None = None,
) -> FeatureBuild:
    """Build the features as of a cut-off, or find the build that is already there.

    Args:
        settings: Sections events, users, items, candidates and features (the whole tree will do).
        cutoff: Whole seconds, with a zone; events at or after it are not seen.
        out: Folder of all builds; this one becomes ``out/<cut-off>``.
        sources: Tables that are already open; read anew if not given.
        progress: Called before each table.

    Raises:
        SourceError: If a table is not what the settings say, or no event or candidate lies before the cut-off.
        StorageError: If the disk is full or the memory limit too small; what was there stays.
    """
    if cutoff.tzinfo is None or cutoff.microsecond:
        raise SourceError("not a cut-off", expected="whole seconds with a zone", got=cutoff.isoformat())
    name = name_of_cutoff(cutoff)
    cutoff = cutoff.astimezone(UTC)
    out.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        scratch = stack.enter_context(scratch_folder(out / ".scratch"))
        if sources is None:
            sources = stack.enter_context(open_sources(settings, scratch=scratch))
        fingerprint = fingerprint_of(sources, settings, cutoff)
        found = _find(out / name, fingerprint)
        if found is not None:
            log.info("features_reused", cutoff=name)
            return found
        aside = scratch / name
        aside.mkdir()
        try:
            written = write_tables(sources, settings, cutoff, aside, progress)
            manifest = FeatureManifest(
                cutoff=name,
                fingerprint=fingerprint,
                feature_schema=json.loads(written.schema.to_json()),
                groups=dict(sources.items.groups),
                left_out=written.left_out,
                dropped={f"{f.table}: {f.reason}": f.rows for f in sources.report.findings},
                versions=_versions(),
                files={file: FileEntry.of(aside / file, rows) for file, rows in written.rows.items()},
            )
            (aside / MANIFEST).write_text(manifest.model_dump_json(indent=1), encoding="utf-8")
            found = _find(out / name, fingerprint)
            if found is not None:  # another process built the same and was first
                return found
            _put_in_place(aside, out / name)
        except OSError as error:
            raise StorageError.of_writing(f"the feature build {name}", error, out) from error
    return FeatureBuild.load(out / name)


def fingerprint_of(sources: Sources, settings: SourceSections, cutoff: datetime) -> str:
    """SHA-256 in hex over all that a build depends on.

    Rows are hashed by DuckDB and added up, so that their order and their files do not matter.
    """
    run = sources.connection.con.execute
    rows = "count(*), sum(hash({0})::hugeint), bit_xor(hash({0}))"
    facts: dict[str, object] = {
        "cutoff": name_of_cutoff(cutoff),
        "features": settings.features.model_dump(mode="json", exclude={"memory_limit", "custom"}),
        "candidates": settings.candidates.model_dump(mode="json"),
        "id_types": [sources.user_id_type, sources.item_id_type],
        "versions": _versions(),
        "code": _code_hash(),
        "custom": custom_hash(settings.features.custom),
        "events": run(
            f"SELECT {rows.format('user_id, item_id, event_time, value')} FROM events WHERE event_time < ?",  # noqa: S608
            [cutoff],
        ).fetchone(),
    }
    for entities in (sources.users, sources.items):
        if entities.listed:
            columns = ", ".join(f'"{c}"' for c in entities.table.columns)
            facts[entities.role] = [
                *run(f"SELECT {rows.format(columns)} FROM {entities.role}").fetchone(),  # noqa: S608
                entities.own,
                entities.groups,
            ]
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()


def _versions() -> dict[str, str]:
    return {package: version(package) for package in ("duckdb", "ibis-framework", "pyarrow")}


def _code_hash() -> str:
    here = Path(__file__).parent
    digest = hashlib.sha256()
    for file in [
        *sorted((here / "definitions").glob("*.py")),
        *(
            here / f
            for f in ("build_tables.py", "custom.py", "encoding.py", "parquet_writer.py", "passes.py")
        ),
    ]:
        digest.update(file.read_bytes())
    return digest.hexdigest()


def _find(path: Path, fingerprint: str) -> FeatureBuild | None:
    try:
        build = FeatureBuild.load(path)
    except (NotFoundError, StorageError):
        return None
    sizes = {
        file: (path / file).stat().st_size if (path / file).exists() else -1 for file in build.manifest.files
    }
    whole = all(sizes[file] == entry.size for file, entry in build.manifest.files.items())
    return build if whole and build.fingerprint == fingerprint else None


def _put_in_place(aside: Path, path: Path) -> None:
    """Rename, moving an older build out of the way; a crash between the two leaves no build, never half of one."""
    if path.exists():
        path.rename(aside.with_name("replaced"))
    aside.rename(path)
    folder = os.open(path.parent, os.O_RDONLY)
    os.fsync(folder)
    os.close(folder)
