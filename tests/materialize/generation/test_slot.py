"""Taking the slot that was left: not before Feast's clients have left it too."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from materialize.generation import slot
from tests.materialize.generation.test_catalogue import planned, publish

if TYPE_CHECKING:
    import pytest

    from materialize.generation.catalogue import Catalogue


def test_a_slot_is_taken_once_its_readers_have_left(
    catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slot, "LEFT_SECONDS", 0.3)
    with catalogue.hold_fence("picks", "test") as fence:
        left = publish(catalogue, fence, "first").slot
        publish(catalogue, fence, "second")
        catalogue.begin_generation(fence, planned("third"))
        assert slot.claim_left_slot(catalogue, fence, "third").slot == left
        flipped = catalogue.flips("picks")[0].completed_at
    assert flipped is not None
    assert (datetime.now(UTC) - flipped).total_seconds() >= 0.3
