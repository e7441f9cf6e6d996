"""The registry of models in the catalogue's database: aliases, lineage, promotions, retirement, each change atomic."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import sqlalchemy as sa

from features.errors import CallerError, ConflictError, NotFoundError
from materialize.generation.database import Database
from materialize.generation.tables import GENERATIONS, MODELS
from materialize.models.records import (
    CHALLENGER,
    CHAMPION,
    Alias,
    Promotion,
    PromotionGate,
    RegisteredModel,
)
from materialize.models.tables import ALIASES, LINEAGE, PROMOTIONS, RETIREMENTS

if TYPE_CHECKING:
    from materialize.model_bundle import ModelBundle
    from materialize.settings import Settings

SHORTEST_PREFIX = 4
"""Fewer digits of an id do not name a model."""


class Registry:
    """All models of one name. Use :meth:`open`."""

    def __init__(self, database: Database, name: str) -> None:
        self._database, self.name = database, name

    @classmethod
    def open(cls, settings: Settings) -> Registry:
        """Connect to the catalogue of the settings, and migrate it if need be.

        Raises:
            StorageError: If the database cannot be reached.
        """
        settings.home.mkdir(parents=True, exist_ok=True)
        return cls(Database.open(settings.catalogue_url), settings.model)

    # --- what there is

    def models(self) -> list[RegisteredModel]:
        """All models, newest first."""
        with self._database.read() as connection:
            return self._models(connection, MODELS.c.name == self.name)

    def find(self, reference: str) -> RegisteredModel:
        """A model by alias, id, or the first digits of an id.

        Raises:
            NotFoundError: If there is none, or several begin so.
        """
        with self._database.read() as connection:
            if reference in {CHAMPION, CHALLENGER}:
                wanted = self._aliased(connection, reference)
                if wanted is None:
                    raise NotFoundError(
                        f"no model of {self.name!r} is {reference}", fix="train one: 'prescore train'"
                    )
                return self._models(connection, MODELS.c.id == wanted)[0]
            found = self._models(connection, MODELS.c.name == self.name)
        exact = [model for model in found if model.id == reference]
        alike = [m for m in found if len(reference) >= SHORTEST_PREFIX and m.id.startswith(reference)]
        chosen = exact or alike
        if len(chosen) != 1:
            raise NotFoundError(
                f"no model {reference!r} of {self.name!r}"
                if not chosen
                else f"several models begin with {reference!r}",
                expected="champion, challenger, or an id",
                got=", ".join(model.id for model in chosen[:5]),
                fix="see 'prescore models list'",
            )
        return chosen[0]

    def default(self) -> RegisteredModel:
        """The model to score with: the champion, or else the challenger, or the newest that is not retired.

        Raises:
            NotFoundError: If there is none.
        """
        known = self.models()
        for alias in (CHAMPION, CHALLENGER):
            for model in known:
                if alias in model.aliases:
                    return model
        usable = [model for model in known if model.retired_at is None]
        if not usable:
            raise NotFoundError(f"no model {self.name!r} has been trained", fix="run 'prescore train'")
        return usable[0]

    def alias(self, alias: Alias) -> str | None:
        """Id of the model that an alias stands for."""
        with self._database.read() as connection:
            return self._aliased(connection, alias)

    def promotions(self, model_id: str = "") -> list[Promotion]:
        """Decisions, newest first; of one model, if it is named."""
        query = sa.select(PROMOTIONS).where(PROMOTIONS.c.name == self.name).order_by(PROMOTIONS.c.id.desc())
        if model_id:
            query = query.where(PROMOTIONS.c.model_id == model_id)
        with self._database.read() as connection:
            return [
                Promotion(
                    name=row.name,
                    model_id=row.model_id,
                    previous=row.previous,
                    verdict=row.verdict,
                    reason=row.reason,
                    gates=tuple(PromotionGate(**gate) for gate in row.gates),
                    decided_at=row.decided_at,
                )
                for row in connection.execute(query)
            ]

    # --- what changes

    def register(self, bundle: ModelBundle) -> RegisteredModel:
        """Record a bundle with its lineage; one that is there already stays as it is.

        Raises:
            CallerError: If it is of another model.
        """
        if bundle.name != self.name:
            raise CallerError(
                f"model bundle {bundle.id} is not of this model", expected=self.name, got=bundle.name
            )
        with self._database.write() as connection:
            if not connection.execute(sa.select(MODELS.c.id).where(MODELS.c.id == bundle.id)).one_or_none():
                row = {
                    "id": bundle.id,
                    "name": bundle.name,
                    "path": str(bundle.path),
                    "schema_hash": bundle.schema.hash,
                    "metrics": dict(bundle.metrics),
                    "created_at": datetime.now(UTC),
                }
                connection.execute(sa.insert(MODELS).values(row))
            known = sa.select(LINEAGE.c.model_id).where(LINEAGE.c.model_id == bundle.id)
            if not connection.execute(known).one_or_none():
                lineage = bundle.lineage.model_dump(mode="json")
                connection.execute(sa.insert(LINEAGE).values(model_id=bundle.id, lineage=lineage))
            return self._models(connection, MODELS.c.id == bundle.id)[0]

    def challenge(self, model_id: str) -> None:
        """Make a model the challenger, unless it is the champion; a retired one is taken back into use."""
        with self._database.write() as connection:
            connection.execute(sa.delete(RETIREMENTS).where(RETIREMENTS.c.model_id == model_id))
            if self._aliased(connection, CHAMPION) == model_id:
                return
            self._set(connection, CHALLENGER, model_id)

    def decide(self, promotion: Promotion) -> Promotion:
        """Record a decision, and change the aliases as it says, in one transaction.

        Raises:
            ConflictError: If the champion is no longer the one that was compared with.
        """
        with self._database.write() as connection:
            current = self._aliased(connection, CHAMPION) or ""
            if current != promotion.previous:
                raise ConflictError(
                    "the champion has changed meanwhile",
                    expected=promotion.previous or "none",
                    got=current,
                    fix="compare with it: 'prescore models promote'",
                )
            promotion = dataclasses.replace(promotion, name=self.name, decided_at=datetime.now(UTC))
            if promotion.verdict != "refused":
                connection.execute(sa.delete(RETIREMENTS).where(RETIREMENTS.c.model_id == promotion.model_id))
                self._set(connection, CHAMPION, promotion.model_id)
                if self._aliased(connection, CHALLENGER) == promotion.model_id:
                    self._unset(connection, CHALLENGER)
            row = dataclasses.asdict(promotion)
            connection.execute(sa.insert(PROMOTIONS).values(row))
            return promotion

    def retire(self, model_id: str, reason: str) -> RegisteredModel:
        """Take a model out of use; its bundle stays.

        Raises:
            CallerError: If it is the champion, or serves, or no reason is given.
        """
        if not reason.strip():
            raise CallerError("a model is retired for a reason", fix="say why: --reason '…'")
        with self._database.write() as connection:
            known = self._models(connection, MODELS.c.id == model_id)[0]
            if CHAMPION in known.aliases or known.live:
                raise CallerError(
                    f"model {model_id} is in use",
                    got="it is the champion" if CHAMPION in known.aliases else "its generation is live",
                    fix="promote another model, and publish with it, first",
                )
            if CHALLENGER in known.aliases:
                self._unset(connection, CHALLENGER)
            if known.retired_at is None:
                row = {"model_id": model_id, "reason": reason.strip(), "retired_at": datetime.now(UTC)}
                connection.execute(sa.insert(RETIREMENTS).values(row))
            return self._models(connection, MODELS.c.id == model_id)[0]

    # --- inside a transaction

    def _aliased(self, connection: sa.Connection, alias: str) -> str | None:
        # Of two deciders the second waits here, and then sees what the first has done. SQLite writes one by one.
        query = sa.select(ALIASES.c.model_id).where(ALIASES.c.name == self.name, ALIASES.c.alias == alias)
        return connection.execute(query.with_for_update()).scalar_one_or_none()

    def _set(self, connection: sa.Connection, alias: Alias, model_id: str) -> None:
        now = datetime.now(UTC)
        key = (ALIASES.c.name == self.name) & (ALIASES.c.alias == alias)
        if connection.execute(sa.update(ALIASES).where(key).values(model_id=model_id, set_at=now)).rowcount:
            return
        row = {"name": self.name, "alias": alias, "model_id": model_id, "set_at": now}
        try:
            connection.execute(sa.insert(ALIASES).values(row))
        except sa.exc.IntegrityError as error:  # another process has set the first one at the same moment
            raise ConflictError(f"the {alias} has changed meanwhile", fix="run the command again") from error

    def _unset(self, connection: sa.Connection, alias: Alias) -> None:
        connection.execute(sa.delete(ALIASES).where(ALIASES.c.name == self.name, ALIASES.c.alias == alias))

    def _models(self, connection: sa.Connection, where: sa.ColumnElement[bool]) -> list[RegisteredModel]:
        query = (
            sa.select(MODELS, LINEAGE.c.lineage, RETIREMENTS.c.reason, RETIREMENTS.c.retired_at)
            .outerjoin(LINEAGE, LINEAGE.c.model_id == MODELS.c.id)
            .outerjoin(RETIREMENTS, RETIREMENTS.c.model_id == MODELS.c.id)
            .where(where)
            .order_by(MODELS.c.created_at.desc(), MODELS.c.id)
        )
        aliases = connection.execute(
            sa.select(ALIASES.c.model_id, ALIASES.c.alias).order_by(ALIASES.c.alias)
        ).all()
        generations = connection.execute(
            sa.select(GENERATIONS.c.model_id, GENERATIONS.c.id, GENERATIONS.c.state).order_by(
                GENERATIONS.c.created_at.desc()
            )
        ).all()
        return [
            RegisteredModel(
                id=row.id,
                name=row.name,
                path=row.path,
                metrics=row.metrics,
                lineage=row.lineage or {},
                aliases=tuple(a.alias for a in aliases if a.model_id == row.id),
                created_at=row.created_at,
                retired_at=row.retired_at,
                retired_reason=row.reason or "",
                generations=tuple(g.id for g in generations if g.model_id == row.id),
                live=any(g.state == "live" for g in generations if g.model_id == row.id),
            )
            for row in connection.execute(query)
        ]
