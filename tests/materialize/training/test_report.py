"""The page of an evaluation, from the metrics of a real one."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import TYPE_CHECKING

import pytest

from features.errors import StorageError
from materialize.training.report import render_report, report_path, write_report
from materialize.training.verdicts import DECIDED, verdicts

if TYPE_CHECKING:
    from pathlib import Path

    from materialize.model_bundle import ModelBundle
    from materialize.settings import Settings


class Page(HTMLParser):
    """Collects tags that would fetch something."""

    def __init__(self) -> None:
        super().__init__()
        self.fetched: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        links = [value for name, value in attrs if name in {"src", "href", "xlink:href"}]
        self.fetched += [value for value in links if value and not value.startswith("#")]
        if tag in {"script", "link", "iframe"}:
            self.fetched.append(tag)


def test_the_page_stands_alone_and_holds_every_method(bundle: ModelBundle) -> None:
    text = render_report(bundle.metrics, bundle.id)
    page = Page()
    page.feed(text)
    assert page.fetched == []
    assert text.count("<svg") == 7 - ("forest" in bundle.metrics["methods"])  # a stand-in is not calibrated
    for name, method in bundle.metrics["methods"].items():
        assert f"{method['ndcg@10']:.4f}" in text
        assert re.search(rf">{name}</td>", text)
    assert "What several windows say" in text
    for choice in ("lift", "stand_in", "new_items"):
        assert DECIDED[choice] in text
    for window in bundle.metrics["validation"]:
        assert f"<b>{max(window['new_items'].values()):.4f}</b>" in text
    assert text == render_report(bundle.metrics, bundle.id)


def test_a_model_trained_elsewhere_has_no_plots_of_its_training(bundle: ModelBundle) -> None:
    metrics = {name: value for name, value in bundle.metrics.items() if name != "training"}
    text = render_report(metrics, bundle.id)
    assert text.count("<svg") == 4 - ("forest" in metrics["methods"])
    assert "How it was trained" not in text


def test_it_is_said_who_ranks_better(bundle: ModelBundle) -> None:
    against = {"baseline": "tifu_knn", "gain": -0.1, "interval": [-0.2, -0.05], "verdict": "worse"}
    told = verdicts({"against_best": {"served": against, "new_items": {**against, "verdict": "level"}}})
    assert told[0].startswith("A baseline ranks better than the model as served: tifu knn (-0.1000")
    assert "within chance" in told[1]
    assert len(verdicts(bundle.metrics)) == 2


def test_a_page_that_cannot_be_written_is_an_error(
    bundle: ModelBundle, settings: Settings, tmp_path: Path
) -> None:
    path = write_report(bundle.metrics, bundle.id, tmp_path / report_path(settings, bundle.id).name)
    assert path.read_text(encoding="utf-8").startswith("<!doctype html>")
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot be written"):
        write_report(bundle.metrics, bundle.id, tmp_path / "file" / "page.html")
