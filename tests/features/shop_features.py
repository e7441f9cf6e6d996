"""Features of a shop's own, as the page on features shows them: one function per scope."""

from __future__ import annotations

from typing import TYPE_CHECKING

from features.custom import CustomTables, feature_table

if TYPE_CHECKING:
    import ibis.expr.types as ir


@feature_table("user")
def habits(tables: CustomTables) -> ir.Table:
    """When a user buys, and how dear what they buy is."""
    events = tables.events.join(tables.items.select("item_id", "price"), "item_id")
    evening = (events.event_time.hour() >= 18).ifelse(1.0, 0.0)
    return events.group_by("user_id").aggregate(
        user_evening_share=evening.mean(), user_mean_price=events.price.mean()
    )


@feature_table("item")
def first_days(tables: CustomTables) -> ir.Table:
    """How many buy an item in its first month."""
    events = tables.events
    first = events.group_by("item_id").aggregate(first=events.age_days.max())
    early = events.join(first, "item_id").filter(lambda t: t.first - t.age_days <= 30)
    return early.group_by("item_id").aggregate(item_first_month=early.count())


@feature_table("affinity:category")
def spent(tables: CustomTables) -> ir.Table:
    """Money a user has spent on a category."""
    events = tables.events.join(tables.items.select("item_id", "category"), "item_id")
    return events.group_by("user_id", "category").aggregate(category_spent=events.value.sum())


@feature_table("pair")
def recently(tables: CustomTables) -> ir.Table:
    """Whether a user had an item in the last fortnight."""
    events = tables.events
    return events.group_by("user_id", "item_id").aggregate(pair_recently=(events.age_days <= 14).any())
