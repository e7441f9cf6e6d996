import dataclasses

import pytest

from features.errors import CallerError
from materialize.model_bundle import ModelBundle
from materialize.settings import Settings
from materialize.training.compare import ALL, compare_bundle

pytestmark = pytest.mark.filterwarnings("ignore:fetch_arrow_table:DeprecationWarning")


def test_a_saved_model_is_measured_beside_every_baseline(settings: Settings, bundle: ModelBundle) -> None:
    compared = compare_bundle(settings, bundle)
    assert list(compared["methods"]) == ["model", *ALL]
    for name in compared["methods"].keys() & bundle.metrics["methods"].keys():
        measured = bundle.metrics["methods"][name]
        assert compared["methods"][name] == measured, "the same window, users and candidates as in training"
    quality = {name: method["ndcg@10"] for name, method in compared["methods"].items()}
    best = max(ALL, key=quality.__getitem__)
    assert compared["against_best"]["served"]["baseline"] == best
    assert compared["against_best"]["served"]["gain"] == pytest.approx(quality["model"] - quality[best])
    assert compared["scores"] == bundle.metrics["scores"]
    low, high = compared["against_best"]["served"]["interval"]
    assert low <= compared["against_best"]["served"]["gain"] <= high
    assert quality["tifu_knn"] > quality["popularity"]


def test_wrong_questions_are_explained(settings: Settings, bundle: ModelBundle) -> None:
    with pytest.raises(CallerError, match="no such baseline"):
        compare_bundle(settings, bundle, ["oracle"])
    with pytest.raises(CallerError, match="no evaluation window"):
        compare_bundle(settings, dataclasses.replace(bundle, metrics={}))
