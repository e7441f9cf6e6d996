"""Puts the online features of a build into the store, where a look-up that misses finds them."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

import pyarrow as pa
import structlog

from features.feast_repo import apply_feature_repo
from features.feature_build import block_range
from features.online import online_views
from features.online_tables import online_tables
from materialize.generation.plan import count_blocks
from materialize.generation.slot import open_loader
from materialize.progress import NoProgress, Progress, stage

if TYPE_CHECKING:
    from features.feature_build import FeatureBuild
    from features.online import OnlineView
    from materialize.publish.redis_loader import RedisLoader
    from materialize.settings import Settings

_log = structlog.get_logger()


def publish_features(
    settings: Settings, build: FeatureBuild, progress: Progress | None = None
) -> dict[str, int]:
    """Register the views in Feast and write every user's online features, block by block.

    Rows of users who are no longer in the build are removed. Doing it again writes the same bytes.

    Args:
        settings: With a store that can be connected to (``materialize.embedded.with_store``).
        build: Whose features.
        progress: Told of the one stage.

    Returns:
        Rows written by view.

    Raises:
        StoreError, StorageError: If the store or the build cannot be used; running again mends it.
    """
    progress = progress or NoProgress()
    views = {view.name: view for view in online_views(build.schema)}
    users = build.rows("user.parquet")
    blocks = count_blocks(users, settings.scoring.users_per_block)
    written: dict[str, list[pa.ChunkedArray]] = {name: [] for name in views}
    with (
        stage(progress, "put the online features into the store", blocks) as running,
        closing(open_loader(settings.store, settings.project)) as loader,
    ):
        apply_feature_repo(settings, build.schema)
        for block in range(blocks):
            rows = 0
            for name, table in online_tables(build, block_range(block, blocks)).items():
                if table.num_rows:
                    rows += loader.load(name, table, build.cutoff).rows_accepted
                    written[name].append(table["user_id"])
            running.advance(rows=rows)
        for name, view in views.items():
            _remove_others(loader, view, written[name])
    return {name: sum(len(ids) for ids in parts) for name, parts in written.items()}


def _remove_others(loader: RedisLoader, view: OnlineView, written: list[pa.ChunkedArray]) -> None:
    stored = loader.stored_ids(view.name)
    if not len(stored):
        return
    kept = pa.chunked_array([chunk.cast(stored.type) for ids in written for chunk in ids.chunks], stored.type)
    gone = stored.filter(pa.compute.invert(pa.compute.is_in(stored, value_set=kept.combine_chunks())))
    if len(gone):
        loader.remove_view(view.name, gone, list(view.fields))
        _log.info("features of users who left were removed", view=view.name, users=len(gone))
