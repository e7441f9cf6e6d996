"""Settings of the three tables and of the features made from them: sections of ``prescore.toml``."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Name = Annotated[str, Field(min_length=1, max_length=200)]


class Section(BaseModel):
    """A section of ``prescore.toml``: unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class EventsSettings(Section):
    """``[events]``: who did what, when."""

    path: str = Field("", description="Parquet or CSV file, or a folder or glob of them.")
    user: Name = Field("user_id", description="Column with the user's id: whole numbers or text.")
    item: Name = Field("item_id", description="Column with the item's id: whole numbers or text.")
    time: Name = Field("event_time", description="Column with the time of the event.")
    value: str = Field(
        "", description="Column with an amount (money, rating, seconds); empty: every event counts 1."
    )
    timezone: str = Field(
        "", description="Zone of times that carry none, such as 'UTC'; empty: such times are an error."
    )
    time_unit: Literal["", "s", "ms", "us", "ns"] = Field(
        "",
        description="Unit of times that are numbers, counted from 1970 in UTC; empty: such times are an error.",
    )
    min_value: float | None = Field(
        None, description="Drop events whose value is smaller, such as ratings below 4."
    )
    duplicates: Literal["drop", "keep"] = Field(
        "drop",
        description="Events equal in user, item, time and value: 'drop' counts them once, 'keep' each time.",
    )
    bad_rows: Literal["error", "drop"] = Field(
        "error",
        description="Events without id or time, from the future, or with a value that is no finite number.",
    )
    unknown_entities: Literal["drop", "keep", "error"] = Field(
        "drop", description="Events of users or items that their tables do not list: drop, keep, or error."
    )


class UsersSettings(Section):
    """``[users]``: one row per user."""

    path: str = Field("", description="Parquet or CSV file; empty: the users are those of the events.")
    id: Name = Field("user_id", description="Column with the user's id.")
    columns: tuple[str, ...] | None = Field(
        None, description="Columns to use as features; unset: all that fit."
    )


class ItemsSettings(Section):
    """``[items]``: one row per item."""

    path: str = Field("", description="Parquet or CSV file; empty: the items are those of the events.")
    id: Name = Field("item_id", description="Column with the item's id.")
    columns: tuple[str, ...] | None = Field(
        None, description="Columns to use as features; unset: all that fit."
    )
    title: str = Field("", description="Column that people read instead of the id.")
    groups: tuple[str, ...] = Field(
        (), description="Columns, such as category or brand, for affinity features."
    )


class CandidateSettings(Section):
    """``[candidates]``: which items can be recommended."""

    min_events: int = Field(5, ge=1, description="An item needs this many events …")
    window_days: int = Field(90, ge=1, description="… in this many days before the cut-off.")


class FeatureSettings(Section):
    """``[features]``: the standard features."""

    windows_days: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        (7, 30, 90), description="Windows before the cut-off, in days."
    )
    half_lives_days: tuple[Annotated[float, Field(gt=0, allow_inf_nan=False)], ...] = Field(
        (14, 60), min_length=1, description="Decayed counts: an event this many days old counts half."
    )
    pair_history_days: int = Field(
        365, ge=1, description="How far back pair and affinity features look, in days."
    )
    neighbours: int = Field(
        300,
        ge=0,
        description="Collaborative pair features for about so many items per user that others with the same history had, "
        "fewer where there are very many users; 0: none.",
    )
    max_vocabulary: int = Field(
        64, ge=2, description="A text column with more distinct values is no feature."
    )
    custom: str = Field(
        "", description="Python file with features of your own: functions on Ibis tables; empty: none."
    )
    memory_limit: str = Field("2GB", description="DuckDB's memory limit; beyond it, work spills to disk.")
