"""Which items of a list may be given: stock, allow and deny lists, what the user has seen, caps per group."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from serving_lookup.parameters import read_json_id

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping
    from typing import Literal

    from materialize.publish.lookup_artifact import LookupArtifact
    from materialize.publish.serving_rules import ServingRules
    from serving_lookup.parameters import ListParameters

    Id = int | str
    _Cap = tuple[int, Mapping[Id, str], dict[str, int]]


@dataclass(frozen=True)
class Screen:
    """What the serving rules let through, for all users.

    Attributes:
        hidden: Items that are in no list.
        allowed: The only items that may be in a list; ``None``: all.
        at_most: Most items of a list by group column.
    """

    hidden: frozenset[Id] = frozenset()
    allowed: frozenset[Id] | None = None
    at_most: tuple[tuple[str, int], ...] = ()

    @classmethod
    def of(cls, rules: ServingRules, kind: Literal["int64", "string"]) -> Screen | None:
        """The rules' lists with ids as the tables hold them; ``None`` if everything passes.

        Raises:
            Problem: If an id is none.
        """

        def ids(given: Iterable[Id]) -> frozenset[Id]:
            return frozenset(read_json_id(item, kind, "item") for item in given)

        allowed = None if rules.allow is None else ids(rules.allow)
        made = cls(ids((*rules.unavailable, *rules.deny)), allowed, tuple(sorted(rules.at_most.items())))
        return None if made == cls() else made


EVERYTHING = Screen()


def passing(
    artifact: LookupArtifact,
    pairs: Iterable[tuple[Any, Any]],
    asked: ListParameters,
    screen: Screen,
    seen: Collection[Id],
) -> Iterator[tuple[Any, Any]]:
    """Those of a list's items and scores that may be given, in its order.

    Args:
        artifact: Knows the items' groups.
        pairs: Item ids and scores, best first.
        asked: What this request leaves out; its caps go before those of the rules.
        screen: The serving rules.
        seen: Items that this user has seen.
    """
    hidden, allowed, exclude, only = screen.hidden, screen.allowed, asked.exclude, asked.only
    caps: list[_Cap] = [
        (most, groups, {})
        for column, most in {**dict(screen.at_most), **dict(asked.at_most)}.items()
        if (groups := artifact.groups.get(column)) is not None
    ]
    for item, score in pairs:
        if (
            item in hidden
            or item in exclude
            or item in seen
            or (allowed is not None and item not in allowed)
            or (only is not None and item not in only)
            or not _within(item, caps)
        ):
            continue
        yield item, score


def _within(item: Id, caps: list[_Cap]) -> bool:
    """Whether an item exceeds no cap; it is counted if so. Items without a group are not capped."""
    counted = []
    for most, groups, counts in caps:
        group = groups.get(item)
        if group is not None:
            if counts.get(group, 0) >= most:
                return False
            counted.append((counts, group))
    for counts, group in counted:
        counts[group] = counts.get(group, 0) + 1
    return True
