"""Makes the look-up artifact of a generation from its feature build and bound catalogue."""

from __future__ import annotations

from typing import TYPE_CHECKING

from features.schema import ITEM, ITEM_ID
from materialize.publish.lookup_artifact import MANIFEST, write_lookup_artifact
from materialize.scoring import BoundCatalogue

if TYPE_CHECKING:
    from pathlib import Path

    import pyarrow as pa

    from features.feature_build import FeatureBuild
    from materialize.generation.records import Generation
    from materialize.model_bundle import ModelBundle
    from materialize.settings import Settings


def generation_folder(settings: Settings, generation_id: str) -> Path:
    """Folder of all that a generation keeps beside its scored tables."""
    return (settings.generations_path / generation_id).absolute()


def artifact_folder(settings: Settings, generation_id: str) -> Path:
    """Folder of a generation's look-up artifact."""
    return generation_folder(settings, generation_id) / "lookup"


def has_artifact(settings: Settings, generation_id: str) -> bool:
    """Whether the look-up artifact is there; a folder that exists is complete."""
    return (artifact_folder(settings, generation_id) / MANIFEST).is_file()


def write_artifact(
    settings: Settings, generation: Generation, build: FeatureBuild, bundle: ModelBundle, catalogue: Path
) -> None:
    """Write it; one that is there already is left.

    Args:
        settings: Where to.
        generation: Which.
        build: The features it was made of.
        bundle: Its model.
        catalogue: Folder of the bound catalogue.

    Raises:
        StorageError: If it cannot be written.
    """
    if has_artifact(settings, generation.id):
        return
    features = [column.name for column in bundle.schema.of(ITEM)]
    items = build.read_items(
        list(dict.fromkeys([ITEM_ID, "title", "events", *bundle.schema.groups, *features]))
    )
    write_lookup_artifact(
        artifact_folder(settings, generation.id),
        generation=generation.id,
        model=generation.model,
        model_id=generation.model_id,
        feature_cutoff=generation.feature_cutoff.isoformat(),
        k=generation.k,
        schema=bundle.schema,
        exclude_seen=bundle.exclude_seen,
        catalogue=BoundCatalogue.load(catalogue),
        items=items.drop_columns(["events"]),
        default=default_list(items, generation.k),
    )


def default_list(items: pa.Table, k: int) -> pa.Table:
    """The list for users nobody knows: the items with most events in the candidate window.

    Args:
        items: ``item_id``, ``events``.
        k: Length of the list.

    Returns:
        ``item_id``, ``score`` (the number of events), best first, ties by id.
    """
    best = items.select([ITEM_ID, "events"]).sort_by([("events", "descending"), (ITEM_ID, "ascending")])
    return best.slice(0, k).rename_columns([ITEM_ID, "score"])
