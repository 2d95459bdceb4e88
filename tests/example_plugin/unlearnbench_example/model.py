"""A model entry, and a suite that uses everything here."""

from pathlib import Path

from unlearnbench import ModelEntry

EXAMPLE = ModelEntry(name="example-model", location="example/model", description="of no use")
SUITE = Path(__file__).parent / "suite.yaml"
