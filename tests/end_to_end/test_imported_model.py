"""A LightGBM model trained elsewhere is imported, published and looked up, all by the command line."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import numpy as np
import pytest

from materialize.settings import load_settings
from tests.end_to_end.conftest import CUTOFF, Shop
from tests.materialize.models.conftest import learn
from tests.shop import write_shop

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    write_shop(tmp_path)
    opened = Shop(tmp_path)
    yield opened
    opened.prescore("stop")


def test_a_lightgbm_model_goes_live(shop: Shop) -> None:
    elsewhere = learn(load_settings(shop.folder / "prescore.toml"))
    theirs = elsewhere.lightgbm()
    theirs.save_model(shop.folder / "model.txt")
    (shop.folder / "schema.json").write_text(elsewhere.schema.to_json())
    (shop.folder / "model.pkl").write_bytes(b"\x80\x04N.")
    refused = shop.prescore("models", "import", "model.pkl", "--schema", "schema.json", code=2)
    assert "never opened" in refused.stderr

    said = shop.json("models", "import", "model.txt", "--schema", "schema.json", "--cutoff", "2024-06-03")
    assert (said["alias"], said["trained_up_to"]) == ("challenger", "20240603T000000Z")
    promoted = shop.json("models", "promote")
    assert (promoted["verdict"], promoted["reason"]) == ("promoted", "the first model")
    live = shop.json("score", "--cutoff", CUTOFF)
    assert live["model_id"] == said["model_id"]

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = _margins(shop, theirs)
    for user in (5, 6):
        answer = shop.json("lookup", str(user), "-k", "5")
        assert answer["source"] == "precomputed"
        scores = [item["score"] for item in answer["items"]]
        assert np.allclose(scores, [expected[user, item["item_id"]] for item in answer["items"]], rtol=1e-5)
        best = sorted((score for (who, _), score in expected.items() if who == user), reverse=True)[:5]
        assert np.allclose(scores, best, rtol=1e-5)
    listed = shop.json("models", "list")
    assert [(m["model_id"], m["alias"], m["live"], m["generations"]) for m in listed] == [
        (said["model_id"], "champion", True, 1)
    ]
    shown = shop.json("models", "show")
    assert shown["generations"] == [live["generation"]]
    assert "imported" in shown["lineage"]["parameters"]
    assert "is in use" in shop.prescore("models", "retire", "champion", "--reason", "x", code=2).stderr


def _margins(shop: Shop, model: object) -> dict[tuple[int, int], float]:
    """What LightGBM itself says of users 5 and 6, from the features as of the cut-off."""
    import pyarrow as pa  # noqa: PLC0415  # beside what uses it

    from features.feature_build import FeatureBuild  # noqa: PLC0415
    from features.training_set import training_matrix  # noqa: PLC0415

    settings = load_settings(shop.folder / "prescore.toml")
    build = FeatureBuild.load(settings.features_path / "20240701T000000Z")
    items = build.read_items(["item_id"])["item_id"].to_pylist()
    pairs = [(user, item) for user in (5, 6) for item in items]
    stamps = pa.repeat(pa.scalar(build.cutoff, pa.timestamp("us", "UTC")), len(pairs))
    rows = pa.table(
        {"user_id": [u for u, _ in pairs], "item_id": [i for _, i in pairs], "event_timestamp": stamps}
    )
    values = training_matrix(rows, [build])
    scores = model.predict(values, raw_score=True)  # type: ignore[attr-defined]
    return dict(zip(pairs, scores.tolist(), strict=True))
