"""A LightGBM model trained elsewhere is imported, published and looked up, all by the command line."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pytest

from features.feature_build import FeatureBuild
from features.training_set import training_matrix
from materialize.settings import load_settings
from tests.end_to_end.conftest import CUTOFF, Shop
from tests.materialize.models.conftest import learn
from tests.shop import write_shop

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import lightgbm


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    write_shop(tmp_path)
    opened = Shop(tmp_path)
    yield opened
    opened.prescore("stop")


@pytest.mark.slow
@pytest.mark.timeout(600)  # seven commands, each of which starts Python anew
def test_a_lightgbm_model_goes_live(shop: Shop) -> None:
    elsewhere = learn(load_settings(shop.folder / "prescore.toml"))
    theirs = elsewhere.lightgbm()
    theirs.save_model(shop.folder / "model.txt")
    (shop.folder / "schema.json").write_text(elsewhere.schema.to_json())
    said = shop.json("models", "import", "model.txt", "--schema", "schema.json", "--cutoff", "2024-06-03")
    assert (said["alias"], said["trained_up_to"]) == ("challenger", "20240603T000000Z")
    promoted = shop.json("models", "promote")
    assert (promoted["verdict"], promoted["reason"]) == ("promoted", "the first model")
    live = shop.json("score", "--cutoff", CUTOFF)
    assert live["model_id"] == said["model_id"]

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = _margins(shop, theirs)
    answer = shop.json("lookup", "5", "-k", "5")
    assert answer["source"] == "precomputed"
    scores = [item["score"] for item in answer["items"]]
    assert np.allclose(scores, [expected[item["item_id"]] for item in answer["items"]], rtol=1e-5)
    assert np.allclose(scores, sorted(expected.values(), reverse=True)[:5], rtol=1e-5)
    shown = shop.json("models", "show")
    assert (shown["model_id"], shown["alias"], shown["live"]) == (said["model_id"], "champion", True)
    assert shown["generations"] == [live["generation"]]
    assert "imported" in shown["lineage"]["parameters"]


def _margins(shop: Shop, model: lightgbm.Booster) -> dict[int, float]:
    """What LightGBM itself says of user 5 and each item, from the features as of the cut-off."""
    settings = load_settings(shop.folder / "prescore.toml")
    build = FeatureBuild.load(settings.features_path / "20240701T000000Z")
    items = build.read_items(["item_id"])["item_id"].to_pylist()
    stamps = pa.repeat(pa.scalar(build.cutoff, pa.timestamp("us", "UTC")), len(items))
    rows = pa.table({"user_id": [5] * len(items), "item_id": items, "event_timestamp": stamps})
    scores = model.predict(training_matrix(rows, [build]), raw_score=True)
    return dict(zip(items, np.asarray(scores).tolist(), strict=True))
