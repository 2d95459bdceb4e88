"""Being connected to a Ray cluster, for as long as a run goes on."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from unlearnbench.errors import UserError

#: Shared memory of a cluster that is started here: events and small files pass through it.
_OBJECT_STORE = 100 * 2**20


@contextmanager
def connected(ray: Any, address: str | None) -> Iterator[None]:
    """The cluster that this process has already, the one at the address, or a new one.

    Without an address it is that of `RAY_ADDRESS`, else one that runs on this machine, else one
    that is started here and ended with the run.

    Raises:
        UserError: nothing answers at the address, or it is not one to run from.
    """
    if ray.is_initialized():
        yield
        return
    given = address or os.environ.get("RAY_ADDRESS")
    if given and "://" in given:
        raise UserError(f'"{given}": start the run on the cluster itself (ray job submit).')
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    on_sigterm = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(address=given or "auto", **quiet)
    except (ConnectionError, ValueError, RuntimeError) as error:
        if given:
            raise UserError(f'no Ray cluster answers at "{given}".') from error
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent anywhere
        room = {"object_store_memory": _OBJECT_STORE, "include_dashboard": False}
        ray.init(address="local", **room, **quiet)
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, on_sigterm)  # Ray sets its own
    try:
        yield
    finally:
        ray.shutdown()
