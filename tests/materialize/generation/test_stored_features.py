"""The store never goes back to older features, and an interrupted publication is done again."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from features.build import build_features
from materialize.generation import stored_features
from materialize.generation.stored_features import features_key, publish_newer_features
from materialize.progress import NoProgress
from tests.materialize.generation.shop_models import open_build
from tests.shop import CUTOFF

if TYPE_CHECKING:
    from tests.materialize.generation.shop_models import World


def _contents(world: World) -> dict[object, object]:
    mark = features_key(world.settings.project).encode()
    return {key: world.store.dump(key) for key in world.store.scan_iter() if key != mark}


def test_older_features_are_refused_and_equal_ones_not_written_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    newer = open_build(world.settings)
    older = build_features(world.settings, CUTOFF.replace(month=6), world.settings.features_path)
    assert older.cutoff < newer.cutoff
    held = publish_newer_features(world.settings, newer, NoProgress())
    before = _contents(world)
    assert publish_newer_features(world.settings, older, NoProgress()) == held
    monkeypatch.delattr(stored_features, "publish_features")  # an equal build must not get as far
    assert publish_newer_features(world.settings, newer, NoProgress()) == held
    assert _contents(world) == before


def test_an_interrupted_publication_is_done_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    newer = open_build(world.settings)
    older = build_features(world.settings, CUTOFF.replace(month=6), world.settings.features_path)
    publish_newer_features(world.settings, older, NoProgress())

    class Killed(BaseException):
        pass

    def die(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(stored_features, "publish_features", die)
        with pytest.raises(Killed):
            publish_newer_features(world.settings, newer, NoProgress())
    assert world.store.get(features_key(world.settings.project)) is None
    assert publish_newer_features(world.settings, newer, NoProgress()).cutoff == newer.manifest.cutoff
