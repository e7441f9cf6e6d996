"""Hits scored again in the background: equal ones are counted as such, a list that is not the model's shows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.serving_lookup.published_world import MODEL, PROJECT, start_service, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.serving_lookup.published_world import World

MARK = f"prescore:{PROJECT}:features"


def test_a_list_that_is_not_the_models_shows(
    own_world: World, tmp_path: Path, free_port: Callable[[], int]
) -> None:
    world, user = own_world, own_world.tables.user_ids[0]
    settings = {"workers": 1, "deadline_ms": 5000, "parity_share": 1}
    with start_service(tmp_path, world.url, free_port(), settings) as service:
        wait_until(lambda: service.get("/health/ready").status_code == 200)

        def counted(event: str) -> bool:
            answer = service.get(f"/v1/models/{MODEL}/users/{user}/recommendations").json()
            assert answer["source"] == "precomputed"
            return service.metric(f'prescore_events_total{{event="parity_{event}"}}') > 0

        # Nothing says that the store's features are the generation's: there is nothing to compare.
        wait_until(lambda: counted("skipped"))
        world.client.set(MARK, b'{"cutoff": "20260101T000000Z", "fingerprint": "f"}')
        wait_until(lambda: counted("equal"))
        assert service.metric('prescore_events_total{event="parity_differs"}') == 0
        # Another model's lists under this generation's name.
        world.catalogues["g1"] = world.tables.catalogue(2)
        world.fill("g1", "a")
        wait_until(lambda: counted("differs"))
