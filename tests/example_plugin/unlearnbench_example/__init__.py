"""Leaves a mark when it is imported, so that a test can tell whether it was."""

import os
from pathlib import Path

if mark := os.environ.get("UNLEARNBENCH_EXAMPLE_MARK"):
    Path(mark).write_text("imported")
