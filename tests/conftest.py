"""Settings of the whole suite: Hypothesis profiles, and an environment without PRESCORE_ variables."""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile(
    "default", deadline=None, max_examples=50, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("ci", parent=settings.get_profile("default"), derandomize=True, print_blob=True)
settings.register_profile("thorough", parent=settings.get_profile("default"), max_examples=2000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci" if os.environ.get("CI") else "default"))


@pytest.fixture(autouse=True)
def _no_prescore_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """A developer's own variables must not decide what a test sees."""
    for name in [name for name in os.environ if name.startswith("PRESCORE_")]:
        monkeypatch.delenv(name)
