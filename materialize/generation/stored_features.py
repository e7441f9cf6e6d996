"""Remembers which feature build the store holds, so that older features never replace newer ones.

A backfill builds features of the past; a look-up that misses must not be scored with them. The mark is
written last: a publication that was interrupted is not remembered, and the next one does it again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import structlog

from materialize.generation.online_features import publish_features
from materialize.publish.redis_connections import explained, open_store

if TYPE_CHECKING:
    from features.feature_build import FeatureBuild
    from materialize.progress import Progress
    from materialize.settings import Settings

_log = structlog.get_logger()


class StoredFeatures(msgspec.Struct, frozen=True):
    """Which features the store holds.

    Attributes:
        cutoff: Name of the build's cut-off, such as ``20171204T000000Z``; names sort like instants.
        fingerprint: Of the build; equal fingerprints mean equal rows.
    """

    cutoff: str
    fingerprint: str


def features_key(project: str) -> str:
    """Key of the mark in the store."""
    return f"prescore:{project}:features"


def publish_newer_features(settings: Settings, build: FeatureBuild, progress: Progress) -> StoredFeatures:
    """Put a build's online features into the store, unless it holds these or newer ones.

    Args:
        settings: With a store that can be connected to.
        build: Whose features.
        progress: Told of the stage, if there is something to do.

    Returns:
        What the store holds now.

    Raises:
        StoreError, StorageError: If the store or the build cannot be used; running again mends it.
    """
    wanted = StoredFeatures(build.manifest.cutoff, build.fingerprint)
    url, key = settings.store.url.get_secret_value(), features_key(settings.project)
    with explained(url), open_store(url, settings.store.timeout_seconds) as client:
        raw = client.get(key)
        known = msgspec.json.decode(raw, type=StoredFeatures) if raw else None
        if known is not None and (known == wanted or known.cutoff > wanted.cutoff):
            _log.info("the store's features are as new", stored=known.cutoff, wanted=wanted.cutoff)
            return known
        client.delete(key)  # from here on the store holds some of both, until all is written
    publish_features(settings, build, progress)
    with explained(url), open_store(url, settings.store.timeout_seconds) as client:
        client.set(key, msgspec.json.encode(wanted))
    return wanted
