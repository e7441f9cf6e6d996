"""A champion is replaced by what is at least as good, or by hand; and everything is on record."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from pydantic import SecretStr

from features.errors import CallerError, ConflictError, NotFoundError, SchemaMismatchError
from features.schema import FeatureSchema
from materialize.models.import_model import import_model
from materialize.models.promotion import promote, promote_unattended
from materialize.models.records import Promotion
from materialize.models.registry import Registry
from materialize.progress import NoProgress
from materialize.settings import CatalogueSettings
from materialize.walk import find_bundle

if TYPE_CHECKING:
    from materialize.settings import Settings
    from tests.materialize.models.conftest import Elsewhere

pytestmark = pytest.mark.filterwarnings("ignore:fetch_arrow_table:DeprecationWarning")


@pytest.fixture
def settings(settings: Settings, database_url: str) -> Settings:
    """The registry in either database."""
    return settings.model_copy(update={"catalogue": CatalogueSettings(url=SecretStr(database_url))})


def test_from_the_first_model_to_a_better_one(settings: Settings, elsewhere: Elsewhere) -> None:
    registry = Registry.open(settings)
    with pytest.raises(NotFoundError, match="has been trained"):
        find_bundle(settings, "")

    def imported(**options: int) -> str:
        booster = elsewhere.booster(**options)
        return import_model(settings, booster, elsewhere.schema, trained_before=elsewhere.learned).id

    # The first one has nothing to be compared with.
    poor = imported(shuffled=1)
    assert registry.find("challenger").id == registry.default().id == poor
    first = promote(settings, poor)
    assert (first.verdict, first.reason, first.previous, first.gates) == (
        "promoted",
        "the first model",
        "",
        (),
    )
    assert registry.alias("challenger") is None
    assert promote(settings, poor).reason == "is the champion"

    good = imported()
    assert registry.alias("challenger") == good
    assert find_bundle(settings, "").id == poor, "a challenger is not scored with"
    better = promote(settings)
    assert (better.verdict, better.previous) == ("promoted", poor)
    gates = {gate.gate: gate for gate in better.gates}
    assert gates["ndcg@10"].challenger > 1.2 * gates["ndcg@10"].champion  # type: ignore[operator]
    assert {"unseen window", "ndcg@10, new items", "ndcg@10, heavy users", "coverage@10"} <= set(gates)
    assert registry.alias("champion") == find_bundle(settings, "").id == good

    # Worse than the champion: refused, recorded, and not measured again by the next unattended run.
    worse = imported(shuffled=2)
    refused = promote_unattended(settings, worse, NoProgress())
    assert (refused.verdict, refused.champion) == ("refused", good)
    assert "ndcg@10" in refused.reason
    assert next(gate for gate in refused.gates if gate.gate == "ndcg@10").verdict == "failed"
    assert promote_unattended(settings, worse, NoProgress()) == refused
    assert registry.alias("champion") == good
    assert registry.alias("challenger") == worse

    # By hand, for a reason; the old champion can then be retired, and comes back by hand only.
    with pytest.raises(CallerError, match="it is the champion"):
        registry.retire(good, "no longer wanted")
    by_hand = promote(settings, worse[:6], reason="to see what happens")
    assert (by_hand.verdict, by_hand.reason, by_hand.gates) == ("by_hand", "to see what happens", ())
    with pytest.raises(CallerError, match="for a reason"):
        registry.retire(good, " ")
    assert registry.retire(good, "no longer wanted").retired_reason == "no longer wanted"
    with pytest.raises(CallerError, match=r"is retired\. Got: no longer wanted"):
        promote(settings, good)
    with pytest.raises(CallerError, match="is retired"):
        find_bundle(settings, good)
    assert promote(settings, good, reason="a mistake").verdict == "by_hand"
    assert registry.find(good).retired_at is None

    assert [p.verdict for p in registry.promotions()] == [
        "by_hand",
        "by_hand",
        "refused",
        "promoted",
        "promoted",
    ]
    assert registry.promotions(worse)[1].gates == refused.gates
    shown = registry.find("champion")
    assert (shown.id, shown.aliases, shown.live, shown.generations) == (good, ("champion",), False, ())
    assert shown.lineage["cutoff"] == "20240603T000000Z"


def test_who_may_have_seen_the_answers_is_not_promoted_by_them(
    settings: Settings, elsewhere: Elsewhere
) -> None:
    promote(settings, import_model(settings, elsewhere.booster(shuffled=1), elsewhere.schema).id)
    knowing = import_model(settings, elsewhere.booster(), elsewhere.schema)
    refused = promote(settings, knowing.id)
    assert refused.reason.startswith("failed unseen window (2024-06-03 to 2024-07-01")
    assert "the champion and the challenger may have been trained on the days" in refused.gates[0].reason


def test_a_model_that_does_not_fit_the_features(settings: Settings, elsewhere: Elsewhere) -> None:
    fits = import_model(settings, elsewhere.booster(), elsewhere.schema, trained_before=elsewhere.learned)
    renamed = FeatureSchema((replace(elsewhere.schema.columns[0], name="old"), *elsewhere.schema.columns[1:]))
    booster = elsewhere.booster(shuffled=1)
    booster.feature_names = renamed.names
    with pytest.raises(SchemaMismatchError, match="old is missing"):
        import_model(settings, booster, renamed)
    assert [model.id for model in Registry.open(settings).models()] == [fits.id]
    promote(settings, fits.id)
    # The features change under the champion: what is trained on the new ones must be able to replace it.
    without = settings.model_copy(update={"items": settings.items.model_copy(update={"groups": ()})})
    kept = [n for n, column in enumerate(elsewhere.schema.columns) if column.scope.kind != "affinity"]
    smaller = replace(
        elsewhere,
        schema=FeatureSchema(tuple(elsewhere.schema.columns[n] for n in kept)),
        values=elsewhere.values[:, kept],
    )
    other = import_model(without, smaller.booster(), smaller.schema, trained_before=elsewhere.learned)
    decided = promote(without, other.id)
    assert decided.verdict == "promoted"
    assert "no longer fits the features: category_events is missing" in decided.reason


def test_of_two_deciders_one_is_told_of_the_other(settings: Settings, elsewhere: Elsewhere) -> None:
    first = import_model(settings, elsewhere.booster(rounds=2), elsewhere.schema)
    second = import_model(settings, elsewhere.booster(rounds=3), elsewhere.schema)
    registry = Registry.open(settings)

    def decide(model_id: str) -> Promotion:
        return registry.decide(
            Promotion(name="picks", model_id=model_id, previous="", verdict="by_hand", reason="mine")
        )

    decide(first.id)
    with pytest.raises(ConflictError, match="the champion has changed meanwhile"):
        decide(second.id)
    assert registry.alias("champion") == first.id
    with pytest.raises(NotFoundError, match="champion, challenger, or an id"):
        registry.find("abc")
