"""A scorer with its items: exact scores and top-K lists of any users against all of them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Literal

import numpy as np
import pyarrow as pa

from features.errors import SchemaMismatchError
from materialize.scoring import catalogue_files
from materialize.scoring.block_scorer import BlockScorer
from materialize.scoring.block_threads import default_threads, each_block
from materialize.scoring.cuda_scorer import CudaScorer, check_gpu
from materialize.scoring.explanation import Explanation
from materialize.scoring.forest import transform
from materialize.scoring.kernels_selection import hide, select_top, select_top_one
from materialize.scoring.kernels_simd import LANES
from materialize.scoring.partial_evaluation import partially_evaluate
from materialize.scoring.signatures import UserSigner
from materialize.scoring.top_k import TopK
from materialize.scoring.user_batch import BatchEncoder

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from features.schema import FeatureSchema, FeatureScope
    from materialize.scoring.block_scorer import Workspace
    from materialize.scoring.code_layout import CodeLayout
    from materialize.scoring.coded_forest import CodedForest
    from materialize.scoring.rank_codes import RankCodes
    from materialize.scoring.residual_program import ResidualProgram
    from materialize.scoring.user_batch import Keyed, UserBatch, Value

    Float32 = NDArray[np.float32]
    Output = Literal["margin", "transformed"]
    Device = Literal["cpu", "cuda"]


@dataclass(frozen=True)
class BoundCatalogue:
    """Made by :meth:`PairScorer.bind` or :meth:`load`; immutable, and safe to use from several threads.

    Attributes:
        schema: The model's columns in booster order.
        objective: XGBoost's name of it.
        base_margin: Where sums start if there is no latent margin.
        codes, forest, layout: The coded forest and where its rows live.
        program: Residuals of the items.
        item_ids: Arrow array[I], int64 or string, in the order that breaks ties.
        order: int32[I], the item of each row: rows are the order in which items are scored, groups side by side.
        item_codes: int16[I, item rows], by row.
        groups: Values of each group column that items have.
        group_codes: int32[I] by group column, by row; the number of groups means none.
        item_latent: float32[I, d], by row, or ``None``.
        device: Where scores are computed; see :meth:`on`.
    """

    schema: FeatureSchema
    objective: str
    base_margin: np.float32
    codes: RankCodes
    forest: CodedForest
    layout: CodeLayout
    program: ResidualProgram
    item_ids: pa.Array
    order: NDArray[np.int32]
    item_codes: NDArray[np.int16]
    groups: dict[str, pa.Array]
    group_codes: dict[str, NDArray[np.int32]]
    item_latent: Float32 | None
    device: Device = "cpu"

    def __len__(self) -> int:
        return len(self.item_ids)

    def on(self, device: Device) -> BoundCatalogue:
        """The same catalogue, with :meth:`top_k` and :meth:`score` on that device; one user is scored on the CPU.

        Raises:
            CallerError: If it is ``cuda`` and there is no GPU.
        """
        if device == "cuda":
            check_gpu()
        return replace(self, device=device)

    def save(self, folder: Path | str) -> None:
        """Write the catalogue into a new folder; files are plain arrays, Arrow and JSON."""
        catalogue_files.save(self, folder)

    @classmethod
    def load(cls, folder: Path | str) -> BoundCatalogue:
        """Open a saved catalogue by memory map, so that processes share its pages.

        Raises:
            StorageError: If the folder is not a whole catalogue.
        """
        return catalogue_files.load(folder)

    def top_k(
        self,
        users: pa.Table,
        k: int = 100,
        *,
        affinity: Mapping[str, pa.Table] | None = None,
        pairs: pa.Table | None = None,
        latent: Float32 | None = None,
        exclude: pa.Table | None = None,
        eligible: NDArray[np.bool_] | None = None,
        segments: NDArray[np.integer] | None = None,
        output: Output = "margin",
        threads: int | None = None,
    ) -> TopK:
        """The best ``k`` items of every user.

        Args:
            users: ``user_id`` and the user features.
            k: Length of a list; a user with fewer items that may be given has a shorter one.
            affinity: By group column: ``user_id``, the group column, the affinity features. Users and groups
                that are unknown here are ignored, combinations without a row are missing.
            pairs: ``user_id, item_id`` and the pair features, likewise.
            latent: float32[U, d], users' latent vectors; needed if the catalogue has items' ones.
            exclude: ``user_id, item_id`` of pairs that must not be given.
            eligible: bool[I], items that may be given; or bool[S, I] with ``segments``.
            segments: int[U], each user's row of ``eligible``.
            output: Scale of the scores.
            threads: Default: ``NUMBA_NUM_THREADS``, or the cores of this process.

        Raises:
            SchemaMismatchError: If a table or array does not fit the model or the catalogue.
        """
        batch = self.encode_users(
            users, affinity=affinity, pairs=pairs, latent=latent, exclude=exclude, threads=threads
        )
        return self.top_k_encoded(
            batch, k, eligible=eligible, segments=segments, output=output, threads=threads
        )

    def top_k_one(
        self,
        user_features: Mapping[str, Value],
        k: int = 100,
        *,
        affinity: Mapping[str, Keyed] | None = None,
        pairs: Keyed | None = None,
        latent: Float32 | None = None,
        exclude: Sequence[object] | None = None,
        eligible: NDArray[np.bool_] | None = None,
        output: Output = "margin",
    ) -> TopK:
        """The best items of one user, with the least latency; the same as :meth:`top_k`.

        Args:
            user_features: Value by name; a feature that is absent is missing.
            k: Length of the list.
            affinity: By group column: groups, and the values of each affinity feature, aligned with them.
            pairs: Item ids, and the values of each pair feature, aligned with them.
            latent: float32[d].
            exclude: Item ids.
            eligible: bool[I].
            output: Scale of the scores.

        Returns:
            A list of one user, whose id is null.
        """
        batch = self._encoder.one(user_features, affinity, pairs, latent, exclude)
        return self.top_k_encoded(batch, k, eligible=eligible, output=output, threads=1)

    def score(
        self,
        users: pa.Table,
        *,
        affinity: Mapping[str, pa.Table] | None = None,
        pairs: pa.Table | None = None,
        latent: Float32 | None = None,
        output: Output = "margin",
        threads: int | None = None,
    ) -> Float32:
        """All scores, float32[U, I]; arguments as in :meth:`top_k`."""
        batch = self.encode_users(users, affinity=affinity, pairs=pairs, latent=latent, threads=threads)
        scores = np.empty((len(batch), len(self)), np.float32)

        def keep(space: Workspace, first: int, last: int) -> None:
            scores[first:last, self.order] = self.scorer.score(batch, first, last, space)[:, : last - first].T

        if self.device == "cuda" and len(self):
            self._cuda.score(batch, scores)
        else:
            each_block(self.scorer, len(batch), keep, threads)
        return transform(self.objective, scores) if output == "transformed" else scores

    def encode_users(
        self,
        users: pa.Table,
        *,
        affinity: Mapping[str, pa.Table] | None = None,
        pairs: pa.Table | None = None,
        latent: Float32 | None = None,
        exclude: pa.Table | None = None,
        threads: int | None = None,
    ) -> UserBatch:
        """Users in this catalogue's numbering, as delta runs compare them; arguments as in :meth:`top_k`."""
        threads = default_threads() if threads is None else threads
        return self._encoder.tables(users, affinity, pairs, latent, exclude, threads)

    def narrowed(self, rows: NDArray[np.int64]) -> BlockScorer:
        """A scorer of some rows alone, ascending; users that were encoded for this catalogue fit it, entries apart."""
        item_codes = np.ascontiguousarray(self.item_codes[rows])
        group_codes = {column: codes[rows] for column, codes in self.group_codes.items()}
        return replace(
            self.scorer,
            program=partially_evaluate(self.forest, self.layout, item_codes.T, group_codes),
            item_codes=item_codes,
            group_codes=group_codes,
            item_latent=None if self.item_latent is None else np.ascontiguousarray(self.item_latent[rows]),
        )

    def explain(
        self,
        user_features: Mapping[str, Value],
        item_id: object,
        *,
        affinity: Mapping[str, Keyed] | None = None,
        pairs: Keyed | None = None,
        latent: Float32 | None = None,
    ) -> Explanation:
        """What each feature adds to the margin of one pair; inputs as in :meth:`top_k_one`.

        Raises:
            NotFoundError: If the item is not in the catalogue.
        """
        batch = self._encoder.one(user_features, affinity, pairs, latent, None)
        row = self._encoder.row_of(item_id)
        values = self.scorer.explain(batch, row)
        parts = np.zeros(len(self.schema.columns), np.float32)
        parts[: len(values) - 1] = values[:-1]
        return Explanation(tuple(self.schema.names), parts, float(values[-1]))

    def top_k_encoded(
        self,
        batch: UserBatch,
        k: int,
        *,
        eligible: NDArray[np.bool_] | None = None,
        segments: NDArray[np.integer] | None = None,
        output: Output = "margin",
        threads: int | None = None,
    ) -> TopK:
        """:meth:`top_k` of users that :meth:`encode_users` has read."""
        allowed, segment = self.allowed_rows(eligible, segments, len(batch))
        if k < 1:
            raise SchemaMismatchError("k is too small", expected="at least 1", got=str(k))
        most = min(k, len(self))
        item = np.full((len(batch), most), -1, np.int32)
        score = np.full((len(batch), most), np.nan, np.float32)
        count = np.zeros(len(batch), np.int32)

        room = min(len(self), max(4 * most, 512)) + 1

        def select(space: Workspace, first: int, last: int) -> None:
            block = self.scorer.score(batch, first, last, space)
            inside = np.zeros(block.shape[1], np.int32)
            inside[: last - first] = segment[first:last]
            hide(block, batch.excluded.start[first : last + 1], batch.excluded.key, allowed, inside)
            if block.shape[1] == 1:
                count[0] = select_top_one(
                    block.reshape(-1), self.order, np.empty(room, np.uint64), most, item[0], score[0]
                )
                return
            select_top(
                block, self.order, space.bounds, space.sampled, np.empty((LANES, room), np.uint64), last - first, most,
                item[first:last], score[first:last], count[first:last],
            )  # fmt: skip

        if most and self.device == "cuda" and len(batch) > 1:
            self._cuda.top_k(batch, allowed, segment, (item, score, count))
        elif most and len(batch) == 1:
            select(self.scorer.workspace(1), 0, 1)
        elif most:
            each_block(self.scorer, len(batch), select, threads)
        if most < k:
            item = np.pad(item, ((0, 0), (0, k - most)), constant_values=-1)
            score = np.pad(score, ((0, 0), (0, k - most)), constant_values=np.nan)
        scores = transform(self.objective, score) if output == "transformed" else score
        return TopK(batch.ids, item, self.item_ids, scores, count)

    def allowed_rows(
        self, eligible: NDArray[np.bool_] | None, segments: NDArray[np.integer] | None, users: int
    ) -> tuple[NDArray[np.bool_], NDArray[np.int32]]:
        """Masks as kernels read them: bool[S, I] by row, where S = 0 means that every item may be given; int32[U].

        Raises:
            SchemaMismatchError: If they do not fit the catalogue, or ``users``, how many there are.
        """
        if eligible is None:
            return np.empty((0, len(self)), np.bool_), np.zeros(users, np.int32)
        allowed = np.atleast_2d(np.asarray(eligible, np.bool_))
        segment = np.zeros(users, np.int32) if segments is None else np.asarray(segments).astype(np.int32)
        if allowed.shape[1] != len(self) or (segments is None and len(allowed) != 1):
            raise SchemaMismatchError(
                "the eligibility mask does not fit the catalogue",
                expected=f"bool[{len(self)}], or bool[S, {len(self)}] with segments",
                got=str(allowed.shape),
            )
        if segment.shape != (users,) or (users and not 0 <= segment.min() <= segment.max() < len(allowed)):
            raise SchemaMismatchError(
                "segments do not fit",
                expected=f"{users} numbers from 0 to {len(allowed) - 1}",
                got=str(segment.shape),
            )
        return np.ascontiguousarray(allowed[:, self.order]), segment

    @cached_property
    def _encoder(self) -> BatchEncoder:
        return BatchEncoder(self.schema, self.codes, self.layout, self.items_by_row, self.groups)

    def tested(self, scope: FeatureScope) -> list[str]:
        """Names of the scope's columns that the forest tests; others may be missing in tables of users."""
        columns = [self.schema.columns[index] for index in np.unique(self.codes.feature)]
        return [column.name for column in columns if column.scope == scope]

    @cached_property
    def items_by_row(self) -> pa.Array:
        """Arrow array[I], ids in the order of the rows."""
        return self.item_ids.take(pa.array(self.order))

    @cached_property
    def user_signer(self) -> UserSigner:
        """Signs users that :meth:`encode_users` has read."""
        return UserSigner(self)

    @cached_property
    def _cuda(self) -> CudaScorer:
        return CudaScorer(self.scorer, self.order)

    @cached_property
    def scorer(self) -> BlockScorer:
        """What turns codes into margins."""
        return BlockScorer(
            base_margin=self.base_margin,
            codes=self.codes,
            forest=self.forest,
            layout=self.layout,
            program=self.program,
            item_codes=self.item_codes,
            group_codes=self.group_codes,
            item_latent=self.item_latent,
        )
