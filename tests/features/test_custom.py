"""Features of one's own: joined to the others, blind to the future, explained where wrong, the same on other backends."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ibis
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from features.build import build_features
from features.custom import CustomTables, evaluate, load_functions, scope_of, tables_of
from features.definitions.affinity import affinity_features
from features.definitions.item import candidate_events, item_features
from features.definitions.pair import pair_features
from features.definitions.pair_totals import History, pair_totals
from features.definitions.user import user_features
from features.encoding import encode
from features.errors import SettingsError
from features.schema import ITEM, PAIR, USER, affinity
from features.sources import open_sources
from materialize.settings import Settings, load_settings
from tests.postgres_server import postgres_server
from tests.shop import CUTOFF, write_shop

if TYPE_CHECKING:
    from collections.abc import Iterator

    import ibis.expr.types as ir

pytestmark = pytest.mark.filterwarnings("ignore:fetch_arrow_table:DeprecationWarning")

OWN = Path(__file__).with_name("shop_features.py")
EARLIER = CUTOFF - dt.timedelta(days=28)


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    folder = tmp_path_factory.mktemp("shop")
    file = write_shop(folder, users=40, items=20)
    (folder / "own.py").write_text(OWN.read_text())
    file.write_text(file.read_text() + "[features]\ncustom = 'own.py'\n")
    return load_settings(file)


def test_they_stand_beside_the_standard_features_and_know_no_future(settings: Settings) -> None:
    build = build_features(settings, EARLIER, settings.features_path)
    scopes = build.schema.scopes
    assert scopes["user_evening_share"] == scopes["user_mean_price"] == USER
    assert scopes["item_first_month"] == ITEM
    assert scopes["category_spent"] == affinity("category")
    assert scopes["pair_recently"] == PAIR
    events = pq.read_table(settings.events.path).to_pandas()
    events = events[events.event_time < EARLIER]
    prices = pq.read_table(settings.items.path).to_pandas().set_index("item_id")
    events = events.join(prices, on="item_id")
    users = build.read_users().to_pandas().set_index("user_id")
    hours = events.event_time.dt.hour >= 18
    expected = hours.groupby(events.user_id).mean()
    assert np.allclose(users.user_evening_share[expected.index], expected)
    assert users.user_evening_share.notna().sum() == len(expected)
    expected = events.price.groupby(events.user_id).mean()
    assert np.allclose(users.user_mean_price[expected.index], expected)
    spent = events.groupby(["user_id", "category"]).value.sum()
    found = build.read_affinity("category").to_pandas().set_index(["user_id", "category"]).category_spent
    assert np.allclose(found[spent.index], spent)
    pairs = build.read_pairs().to_pandas().set_index(["user_id", "item_id"]).pair_recently
    recent = events[events.event_time >= EARLIER - dt.timedelta(days=14)]
    assert set(pairs.index[pairs == 1]) == set(zip(recent.user_id, recent.item_id, strict=True))

    # The file is part of what a build is made from.
    assert build_features(settings, EARLIER, settings.features_path).fingerprint == build.fingerprint
    evenings = build.read_users()["user_evening_share"]
    own = Path(settings.features.custom)
    own.write_text(own.read_text().replace(">= 18", ">= 12"))
    other = build_features(settings, EARLIER, settings.features_path)
    assert other.fingerprint != build.fingerprint
    assert other.read_users()["user_evening_share"] != evenings


HEAD = "from features.custom import feature_table\n\n@feature_table('user')\ndef mine(tables):\n    e = tables.events\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1", "declares no features"),
        ("1 / 0", "cannot be imported.*ZeroDivisionError"),
        (HEAD + "    return e.no_such_column", "'mine' failed.*no_such_column"),
        (HEAD + "    return 7", "'mine' return no table.*int"),
        (
            HEAD + "    return e.group_by('item_id').aggregate(n=e.count())",
            "wrong columns.*user_id.*item_id, n",
        ),
        (HEAD + "    return e.select('user_id').distinct()", "at least one feature"),
        (
            HEAD + "    return e.group_by('user_id').aggregate(n=e.user_id.cast('string').max())",
            "'n' makes no feature",
        ),
        (HEAD + "    return e.select('user_id', n=e.value)", "repeat a key.*one row per user_id"),
        (HEAD + "    return e.group_by('user_id').aggregate(n=e.value.sum() / 0)", "'n' is infinite or huge"),
        (
            HEAD + "    return e.group_by('user_id').aggregate(user_events=e.count())",
            "'user_events' is taken.*standard",
        ),
        (HEAD.replace("'user'", "'affinity:brand'") + "    return e", "no group 'brand'"),
        (HEAD.replace("'user'", "'galaxy'") + "    return e", "unknown feature scope"),
        (
            HEAD
            + "    return e.group_by('user_id').aggregate(n=e.count())\n\n"
            + "@feature_table('item')\ndef yours(t):\n    return t.items.select('item_id', n=t.items.price)",
            "'yours'.*'n' is taken.*by 'mine'",
        ),
    ],
)
def test_what_is_wrong_with_a_function_is_said(
    settings: Settings, tmp_path: Path, text: str, message: str
) -> None:
    (tmp_path / "own.py").write_text(text)
    wrong = settings.features.model_copy(update={"custom": str(tmp_path / "own.py"), "neighbours": 0})
    with pytest.raises(Exception, match=message) as caught:
        build_features(settings.model_copy(update={"features": wrong}), CUTOFF, tmp_path / "features")
    assert isinstance(caught.value, SettingsError) or "galaxy" in str(caught.value)
    assert not list((tmp_path / "features").glob("2*"))


def test_a_file_that_is_not_there(settings: Settings) -> None:
    missing = settings.features.model_copy(update={"custom": "nowhere.py"})
    with pytest.raises(SettingsError, match="custom cannot be read"):
        build_features(
            settings.model_copy(update={"features": missing}), CUTOFF, settings.features_path / "other"
        )
    with pytest.raises(SettingsError, match="names no Python file"):
        load_functions("nowhere.py")


@pytest.fixture
def postgres() -> Iterator[Any]:
    """Ibis on a PostgreSQL server."""
    with postgres_server() as server:
        connection = ibis.postgres.connect(host=str(server.pgdata), user="postgres", database="postgres")
        yield connection
        connection.disconnect()


def _rows(table: ir.Table, keys: list[str]) -> dict[str, Any]:
    # As a build writes them; PostgreSQL's quotients are decimals until then.
    table = table.select(**{name: table[name].cast("float32") for name in table.columns})
    found = table.to_pyarrow().to_pandas().sort_values(keys).reset_index(drop=True)
    return {name: found[name].to_numpy(np.float64, na_value=np.nan) for name in sorted(found.columns)}


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_the_same_definitions_run_on_another_backend(settings: Settings, postgres: Any) -> None:
    with open_sources(settings) as sources:
        coded = encode(sources, CUTOFF)
        own = tables_of(sources, CUTOFF)
        inputs: dict[str, pa.Table] = {
            "coded": coded.events.to_pyarrow(),
            "coded_items": coded.items.to_pyarrow(),
            "events": own.events.to_pyarrow(),
            "users": own.users.to_pyarrow(),
            "items": own.items.to_pyarrow(),
        }
    results = []
    for connection in (ibis.duckdb.connect(), postgres):
        made = {name: connection.create_table(name, table) for name, table in inputs.items()}
        totals = pair_totals(
            made["coded"],
            windows=(7, 90),
            half_lives=(14.0,),
            pair_days=365,
            candidate_days=90,
            value_units=2.0**30,
            settled_age=1,
        )
        pairs = connection.create_table("pair_totals", totals.to_pyarrow())
        history = History(made["coded"], pairs, made["coded_items"], (7, 90), (14.0,), 365, 2.0**30, 1)
        tables = CustomTables(made["events"], made["users"], made["items"], CUTOFF)
        found = {
            "user": _rows(user_features(history), ["user_no"]),
            "item": _rows(item_features(history), ["item_no"]),
            "candidates": _rows(candidate_events(history), ["item_no"]),
            "affinity": _rows(affinity_features(history, "category"), ["user_no", "category"]),
            "pair": _rows(pair_features(history), ["user_no", "item_no"]),
        }
        for function in load_functions(str(OWN)):
            table = evaluate(function, tables)
            if scope_of(function).group:
                table = table.mutate(category=table.category.length())
            found[function.__name__] = _rows(table, list(table.columns))
        results.append(found)
    duck, fusion = results
    assert duck.keys() == fusion.keys()
    for scope, columns in duck.items():
        for name, values in columns.items():
            assert np.allclose(fusion[scope][name], values, rtol=1e-6, equal_nan=True), (scope, name)
