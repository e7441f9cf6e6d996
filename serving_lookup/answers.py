"""What the service answers, as typed documents that are written as JSON or MessagePack."""

from __future__ import annotations

from typing import Final

import msgspec

from materialize.publish.live_pointer import LivePointer  # noqa: TC001 - msgspec reads the annotation
from serving_lookup.problems import Problem, ProblemDocument

JSON: Final = b"application/json"
MESSAGE_PACK: Final = b"application/vnd.msgpack"

_ENCODERS: Final = {JSON: msgspec.json.Encoder().encode, MESSAGE_PACK: msgspec.msgpack.Encoder().encode}
_SPELLINGS: Final = {
    b"": JSON,
    b"*/*": JSON,
    b"application/*": JSON,
    JSON: JSON,
    MESSAGE_PACK: MESSAGE_PACK,
    b"application/msgpack": MESSAGE_PACK,
    b"application/x-msgpack": MESSAGE_PACK,
}


class Item(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """One recommended item, best first in its list. ``score`` is the model's margin."""

    item_id: int | str
    score: float
    title: str | None = None
    groups: dict[str, str | None] | None = None


class Answer(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """A user's list, and where it came from.

    Attributes:
        items: Best first.
        source: ``precomputed``, ``stale``, ``fallback`` or ``default``.
        generation: Id of the generation that answered.
        model: Id of the model bundle.
        feature_cutoff: The instant before which all features were computed.
        age_seconds: Since the list was published or, for a fallback, scored.
        reason: Why it is the default list: ``unknown_user``, ``store_unavailable``, ``deadline``.
        exhausted: Whether fewer items than asked for were left.
        arm: Of an experiment, the model whose turn it was with this user.
    """

    items: list[Item]
    source: str
    generation: str
    model: str
    feature_cutoff: str
    age_seconds: float
    reason: str | None = None
    exhausted: bool = False
    arm: str | None = None


class UserAnswer(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """One user of a batch: an answer, or the problem that this user met."""

    user_id: int | str | None
    answer: Answer | None = None
    problem: ProblemDocument | None = None


class BatchAnswer(msgspec.Struct, frozen=True):
    """Answers in the order of the request's users."""

    users: list[UserAnswer]


class PairScore(msgspec.Struct, frozen=True, omit_defaults=True):
    """The model's margin for one user and one item, computed on demand; ``arm`` as of :class:`Answer`."""

    user_id: int | str
    item_id: int | str
    score: float
    source: str
    generation: str
    model: str
    feature_cutoff: str
    age_seconds: float
    arm: str | None = None


class SeenAnswer(msgspec.Struct, frozen=True):
    """How many items were remembered."""

    remembered: int


class Contribution(msgspec.Struct, frozen=True):
    """What one feature adds to a pair's margin.

    Attributes:
        feature: Its name.
        scope: What it depends on: user, item, affinity:GROUP or pair.
        value: What the model saw; null: missing.
        contribution: Its Shapley value, as XGBoost's ``pred_contribs`` defines it.
    """

    feature: str
    scope: str
    value: float | int | str | None
    contribution: float


class Explanation(msgspec.Struct, frozen=True, omit_defaults=True):
    """Why a pair has its score.

    Attributes:
        user_id, item_id: The pair.
        title: The item's name.
        score: The model's margin, computed on demand.
        expected: The margin before anything is known of the pair.
        contributions: The largest first; they and ``expected`` add up to ``score``.
        source, generation, model, feature_cutoff, age_seconds, arm: As in a list's answer.
    """

    user_id: int | str
    item_id: int | str
    title: str | None
    score: float
    expected: float
    contributions: list[Contribution]
    source: str
    generation: str
    model: str
    feature_cutoff: str
    age_seconds: float
    arm: str | None = None


class GenerationList(msgspec.Struct, frozen=True):
    """The generation that answers now, as its publisher announced it; none before the first one."""

    live: LivePointer | None
    trouble: str


class Model(msgspec.Struct, frozen=True):
    """A model that can be asked.

    Attributes:
        name: As it stands in paths.
        model_id: Id of the model bundle that is live.
        generation: Id of the generation that is live.
        items: Items that it chooses from.
        k: Length of its precomputed lists.
        features: Its inputs and what each depends on: user, item, affinity:GROUP or pair.
    """

    name: str
    model_id: str
    generation: str
    items: int
    k: int
    features: dict[str, str]


class ModelList(msgspec.Struct, frozen=True):
    """The models that can be asked."""

    models: list[Model]


class Readiness(msgspec.Struct, frozen=True):
    """Whether look-ups can be answered, by which generation, and what is not as it should be."""

    ready: bool
    serving: str | None
    trouble: list[str]


class Liveness(msgspec.Struct, frozen=True):
    """The process runs and answers."""

    live: bool = True


def encode(document: msgspec.Struct, media_type: bytes) -> bytes:
    """The document in one of the two media types."""
    return _ENCODERS[media_type](document)


def negotiate(accept: bytes) -> bytes:
    """The media type to answer with: the first of the Accept header that the service knows.

    Raises:
        Problem: 406 if it knows none.
    """
    known = _SPELLINGS.get(accept)
    if known is not None:
        return known
    for part in accept.lower().split(b","):
        known = _SPELLINGS.get(part.split(b";", 1)[0].strip())
        if known is not None:
            return known
    raise Problem(406, "media-type", f"Answers come as {JSON.decode()} or {MESSAGE_PACK.decode()}.")
