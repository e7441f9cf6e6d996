"""What may be changed of a running look-up service without a new generation: arms, lists of items, caps.

One hash in the store per model, ``prescore:<project>:<model>:rules``: field ``rules`` is the document below as JSON,
field ``version`` is any text that differs after each change. Services read the version again and again and the rest
when it differs. Light on purpose: msgspec alone. Keys of what users have seen are named here too.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from features.errors import SettingsError

RULES, VERSION = b"rules", b"version"
MOST_ARMS = 16

Id = int | str


class Arm(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One side of an experiment.

    Attributes:
        model: Name of the model whose lists it gives.
        weight: Its share of the users, relative to the other arms' weights.
        absent: What users get for whom the arm's model has no list: scored on demand, or the ``base`` model's list, so
            that an arm need only store the lists that differ.
    """

    model: str
    weight: float
    absent: Literal["score", "base"] = "score"


class ServingRules(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The document.

    Attributes:
        unavailable: Items that are out of stock: in no list.
        deny: Items that must be in no list for another reason.
        allow: The only items that may be in a list; null: all.
        at_most: Most items of a list that share a value of a group column, by column.
        arms: Which models share the users; empty: the service's own has all.
        experiment: Name of the experiment; another name deals users out anew.
    """

    unavailable: tuple[Id, ...] = ()
    deny: tuple[Id, ...] = ()
    allow: tuple[Id, ...] | None = None
    at_most: dict[str, int] = {}
    arms: tuple[Arm, ...] = ()
    experiment: str = ""

    def encode(self) -> bytes:
        """JSON, as it stands in the store."""
        return msgspec.json.encode(self)

    @classmethod
    def decode(cls, raw: bytes) -> ServingRules:
        """Read a document.

        Raises:
            SettingsError: If it is none, or cannot be followed.
        """
        try:
            rules = msgspec.json.decode(raw, type=cls)
        except msgspec.MsgspecError as error:
            raise SettingsError("the serving rules cannot be read", got=str(error)) from error
        rules.check()
        return rules

    def check(self) -> None:
        """Refuse what cannot be followed.

        Raises:
            SettingsError: Saying what.
        """
        names = [arm.model for arm in self.arms]
        if len(names) > MOST_ARMS or len(set(names)) != len(names):
            raise SettingsError(
                "the arms cannot be told apart",
                expected=f"at most {MOST_ARMS} arms of different models",
                got=", ".join(names),
            )
        for arm in self.arms:
            if not (arm.model.replace("_", "a").isalnum() and arm.model.isascii() and len(arm.model) <= 48):
                raise SettingsError("an arm names no model", expected="a model's name", got=repr(arm.model))
            if not 0 <= arm.weight < float("inf"):
                raise SettingsError(
                    f"arm {arm.model!r} has no weight", expected="a number of at least 0", got=str(arm.weight)
                )
        if self.arms and not any(arm.weight for arm in self.arms):
            raise SettingsError("no arm has users", expected="a weight above 0")
        if wrong := {column: most for column, most in self.at_most.items() if most < 1}:
            raise SettingsError("a cap leaves nothing", expected="at least 1", got=str(wrong))


def rules_key(project: str, model: str) -> bytes:
    """Key of a model's rules."""
    return f"prescore:{project}:{model}:rules".encode()


def seen_key(project: str, user_id: Id) -> bytes:
    """Key of what a user has seen: a sorted set of item ids, scored by seconds since 1970.

    No model has an empty name, so the two colons keep these keys apart from models' own.
    """
    return f"prescore:{project}::seen:{user_id}".encode()
