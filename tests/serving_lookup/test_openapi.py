"""The description of all routes holds: whatever is made from it, or against it, is answered and never fails."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any, cast

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis.checks import not_a_server_error

from tests.serving_lookup.published_world import MODEL

if TYPE_CHECKING:
    from schemathesis import Case

    from tests.serving_lookup.published_world import RunningService, World

EXAMPLES = 6
"""Of each route, in each mode, with each kind of ids."""


@pytest.mark.parametrize("mode", list(schemathesis.GenerationMode))
def test_no_request_makes_the_service_fail(
    world: World, service: RunningService, mode: schemathesis.GenerationMode
) -> None:
    schema = schemathesis.openapi.from_dict(service.get("/openapi.json").json())
    asked = set()
    for found in schema.get_all_operations():
        operation = cast("Any", found).ok()
        asked.add(operation.path)

        @settings(
            max_examples=EXAMPLES, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
        )
        @given(case=operation.as_strategy(generation_mode=mode))
        def ask(case: Case[Any]) -> None:
            if case.path_parameters and "model" in case.path_parameters:
                case.path_parameters["model"] = MODEL
            response = case.call(base_url=service.address)
            case.validate_response(response, checks=[not_a_server_error])

        with suppress(Unsatisfiable):  # a route that takes nothing cannot be asked wrongly
            ask()
    assert len(asked) >= 11
    assert service.get("/health/live").status_code == 200
