"""What precomputed answers of one generation have in common, made once: header lines, entity tag, the text around a list."""

from __future__ import annotations

from typing import TYPE_CHECKING

from serving_lookup.answers import Answer
from serving_lookup.caching import validator
from serving_lookup.written_list import WrittenList

if TYPE_CHECKING:
    from serving_lookup.activation import LiveGeneration


class WrittenAnswer:
    """What the answers from rows of one origin have in common.

    Args:
        answer: One of them.
        media_type: Of all of them.
        cache_control: What caches can do with them.
        rules: Version of the serving rules that have a part in them.
    """

    __slots__ = ("etag", "lines", "list")

    def __init__(self, answer: Answer, media_type: bytes, cache_control: bytes, rules: bytes) -> None:
        self.etag = validator(answer.generation, rules)
        lines = b"content-type: %b\r\nvary: accept\r\netag: %b\r\ncache-control: %b\r\n"
        self.lines = lines % (media_type, self.etag, cache_control)
        self.list = WrittenList(answer, media_type)


class WrittenAnswers:
    """Those of the generation that was asked for last, under the serving rules of that time.

    Args:
        cache_control: What caches can do with precomputed answers.
    """

    def __init__(self, cache_control: bytes) -> None:
        self._cache_control = cache_control
        self._live: LiveGeneration | None = None
        self._rules = b""
        self._known: dict[tuple[bytes, bytes], WrittenAnswer] = {}

    def of(
        self, live: LiveGeneration, origin: bytes | None, media_type: bytes, rules: bytes
    ) -> WrittenAnswer | None:
        """What is said around the list of a row.

        Args:
            live: The generation that answers.
            origin: The row's ``generation`` field.
            media_type: To answer in.
            rules: Version of the serving rules that have a part in it.

        Returns:
            ``None`` if the row is another generation's, or there is none.
        """
        if live is not self._live or rules != self._rules:
            self._live, self._rules, self._known = live, rules, {}
        if origin is None:
            return None
        known = self._known.get((origin, media_type))
        if known is None and (passing := live.origins.get(origin)) is not None:
            answer = Answer(
                [], "precomputed", passing.generation, live.pointer.model_id, passing.feature_cutoff, 0.0
            )
            known = WrittenAnswer(answer, media_type, self._cache_control, rules)
            self._known[origin, media_type] = known
        return known
