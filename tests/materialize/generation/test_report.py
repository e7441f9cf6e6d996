"""The report: complete, self-contained, and safe to open whatever items are called."""

from __future__ import annotations

from html.parser import HTMLParser
from typing import TYPE_CHECKING

import pyarrow as pa

from features.feature_build import FeatureBuild
from materialize.generation.compared_lists import ComparedLists
from materialize.generation.gates import GATES
from materialize.generation.measures import measure_lists
from materialize.generation.report import REPORT, write_report
from tests.materialize.generation.shop_models import open_build

if TYPE_CHECKING:
    import pytest
    from distributed import Client

    from tests.materialize.generation.shop_models import World


class Links(HTMLParser):
    """Addresses that a page would fetch, and the tags it has."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.tags: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.fetched += [
            v for n, v in attrs if n in {"src", "href", "xlink:href"} and v and not v.startswith("#")
        ]


METRICS = {"methods": {"model": {"ndcg@10": 0.4}, "popularity": {"ndcg@10": 0.2}}}


def test_a_publication_leaves_its_report(world: World, client: Client) -> None:
    first = world.publish(client, metrics=METRICS)
    second = world.publish(client, seed=2, metrics=METRICS)
    page = (world.settings.generations_path / second.id / REPORT).read_text(encoding="utf-8")
    assert all(gate in page for gate in GATES)
    assert f"Compared with {first.id}" in page
    assert "users with a list" in page
    assert "live model" in page
    assert "passed its gates" in page
    links = Links(page)
    assert links.fetched == []
    assert links.tags.count("figure") == 5
    assert "script" not in links.tags
    titles = open_build(world.settings).read_items(["title"])["title"].to_pylist()
    assert any(title in page for title in titles)
    alone = (world.settings.generations_path / first.id / REPORT).read_text(encoding="utf-8")
    assert "there was none to compare with" in alone
    assert Links(alone).tags.count("figure") == 4


def test_a_title_is_text_and_nothing_else(
    world: World, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    generation = world.publish(client)
    build = open_build(world.settings)

    def hostile(self: FeatureBuild, columns: list[str]) -> pa.Table:
        return pa.table({"item_id": ids, "title": pa.repeat("<script>alert(1)</script>", len(ids))})

    ids = build.read_items(["item_id"])["item_id"]
    monkeypatch.setattr(FeatureBuild, "read_items", hostile)
    lists = ComparedLists.of(world.catalogue, generation, None)
    samples = measure_lists(lists).samples
    path = write_report(world.settings, world.catalogue, generation, None, build, lists, samples)
    page = path.read_text(encoding="utf-8")
    assert "<script>" not in page
    assert "&lt;script&gt;" in page
