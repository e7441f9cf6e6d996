"""The pointer that says which generation of a model is live: one key, replaced by one write.

The publisher writes it last; the look-up service polls it. Light on purpose: no more than msgspec.
"""

from __future__ import annotations

from typing import Literal

import msgspec


class Passing(msgspec.Struct, frozen=True):
    """A generation whose rows may stand in the slot while it is being changed in place.

    Attributes:
        generation: Its id.
        feature_cutoff: The instant before which its features were computed, ISO 8601 in UTC.
    """

    generation: str
    feature_cutoff: str


class LivePointer(msgspec.Struct, frozen=True, kw_only=True):
    """What the look-up service needs to know of the live generation.

    Attributes:
        generation: Its id; the ``generation`` field of the rows that it wrote itself.
        lineage: Of a delta, the generations that it stands on, parent first: their rows in the slot are lists of
            the live generation too, for a delta leaves a row whose list has not changed as it is.
        passing: While the slot is changed in place, the other generations whose rows it may hold: each is a whole
            list of the generation that it names. Empty otherwise.
        slot: ``a`` or ``b``: predictions are in the Feast view ``<model>_<slot>``.
        model: The model's name.
        model_id: Id of the model bundle.
        feature_cutoff: The instant before which all features were computed, ISO 8601 in UTC.
        published_at: When the flip happened, ISO 8601 in UTC.
        artifact: Folder of the look-up artifact (see :mod:`materialize.publish.lookup_artifact`).
        fence: Fencing token of the publisher; a pointer with a smaller one never replaces this one.
    """

    generation: str
    slot: Literal["a", "b"]
    model: str
    model_id: str
    feature_cutoff: str
    published_at: str
    artifact: str
    fence: int
    lineage: tuple[str, ...] = ()
    passing: tuple[Passing, ...] = ()

    def encode(self) -> bytes:
        """JSON, as it stands in the store."""
        return msgspec.json.encode(self)

    @classmethod
    def decode(cls, raw: bytes) -> LivePointer:
        """Read a pointer.

        Raises:
            msgspec.ValidationError: If the bytes are not one.
        """
        return msgspec.json.decode(raw, type=cls)

    @property
    def view(self) -> str:
        """Feast view that holds the live predictions."""
        return f"{self.model}_{self.slot}"


def pointer_key(project: str, model: str) -> bytes:
    """Key of the pointer in the store."""
    return f"prescore:{project}:{model}:live".encode()
