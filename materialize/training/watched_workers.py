"""Runs a boosting on workers that must stay: reports its rounds, and fails as soon as a worker is gone."""

from __future__ import annotations

import json
from contextlib import suppress
from queue import Empty, SimpleQueue
from threading import Thread
from typing import TYPE_CHECKING, Any

from materialize.training.checkpoint import Unfinished

if TYPE_CHECKING:
    from collections.abc import Callable

    from distributed import Client

POLL_SECONDS = 0.2


def watched(
    client: Client,
    workers: list[str],
    topic: str,
    train: Callable[[], Any],
    report: Callable[[int, float, Unfinished | None], None],
) -> Any:
    """Call ``train`` in another thread; report its rounds in this one, and fail as soon as a worker is gone.

    XGBoost would wait for ever: the others for their peer, Dask for a worker with the address of the lost one.
    """
    rounds: SimpleQueue[tuple[int, float, tuple[bytes, list[float]] | None]] = SimpleQueue()
    outcome: list[Any] = []

    def run() -> None:
        try:
            # XGBoost and Dask wait in the loop of the current client: the process's newest one, unless told.
            with client.as_current():
                outcome.append(train())
        except BaseException as error:  # noqa: BLE001  # raised again below, in the caller's thread
            outcome.append(error)

    client.subscribe_topic(topic, lambda event: rounds.put(event[1]))
    # A daemon: it must not keep the process alive when the caller has given up.
    thread = Thread(target=run, name="boosting", daemon=True)
    thread.start()
    try:
        while thread.is_alive() or not rounds.empty():
            with suppress(Empty):
                number, metric, state = rounds.get(timeout=POLL_SECONDS)
                report(number, metric, None if state is None else Unfinished(state[0], list(state[1])))
            lost = set(workers) - set(registered(client))
            if lost and thread.is_alive():
                raise RuntimeError(f"{len(lost)} of {len(workers)} workers were lost")
    finally:
        client.unsubscribe_topic(topic)
    (result,) = outcome
    if isinstance(result, BaseException):
        raise result
    return result


def registered(client: Client) -> dict[str, Any]:
    """The scheduler's workers by address, asked anew.

    ``Client.scheduler_info`` may answer with what the client's own timer asked for meanwhile, which is no worker at all.
    """
    scheduler: Any = client.scheduler
    workers: dict[str, Any] = client.sync(scheduler.identity, n_workers=-1)["workers"]
    return workers


def workers_by_name(client: Client) -> list[str]:
    """Addresses in the order of the workers' names, which outlive a restart; addresses do not."""
    found = registered(client)
    return sorted(
        found, key=lambda address: json.dumps([str(type(n := found[address]["name"])), str(n).zfill(12)])
    )
