"""Results: the schema, the files, and their verification. Imports no torch."""

from unlearnbench.results.records import Record, dump_records, load_records
from unlearnbench.results.schema import Metric, Result, TuningBlock, json_schema
from unlearnbench.results.store import (
    ResultStore,
    load_result,
    read_result,
    result_files,
    write_atomically,
)
from unlearnbench.results.verification import not_installed, verify

__all__ = [
    "Metric",
    "Record",
    "Result",
    "ResultStore",
    "TuningBlock",
    "dump_records",
    "json_schema",
    "load_records",
    "load_result",
    "not_installed",
    "read_result",
    "result_files",
    "verify",
    "write_atomically",
]
