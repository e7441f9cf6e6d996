"""``prescore evaluate`` on a model that the whole walk has published."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.end_to_end.conftest import Shop


def test_a_published_model_is_measured_beside_baselines(published: tuple[Shop, dict[str, Any]]) -> None:
    shop, said = published
    trained = shop.folder / ".prescore" / "warehouse" / "evaluations" / f"{said['model_id']}.html"
    assert "<svg" in trained.read_text(encoding="utf-8"), "each training writes its report"
    found = shop.json("evaluate", "--against", "own_decayed_frequency, ease", "--report", "page.html")
    assert found["model_id"] == said["model_id"]
    assert list(found["methods"]) == ["model", "own_decayed_frequency", "ease"]
    measured = said["metrics"]["methods"]["model"]
    assert found["methods"]["model"] == measured, "the same window, users and candidates as in training"
    assert "ease" in (shop.folder / found["report"]).read_text(encoding="utf-8")
    assert Path(found["report"]).name == "page.html"
    text = shop.prescore("evaluate", "--against", "popularity").stdout
    assert "best baseline" in text
    assert "fresh items" in text
    wrong = shop.prescore("evaluate", "--against", "oracle", code=2).stderr
    assert "no such baseline" in wrong
