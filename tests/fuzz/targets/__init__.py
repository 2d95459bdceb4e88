"""Everything that reads what strangers send, as targets."""

from __future__ import annotations

from tests.fuzz.target import Target
from tests.fuzz.targets import data_files, logs, models, plans, results

TARGETS: dict[str, type[Target]] = {
    target.name: target
    for room in (results, logs, data_files, plans, models)
    for target in room.TARGETS
}
