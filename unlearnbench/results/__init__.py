"""Results: the schema, the files, and their verification. Imports no torch."""

from unlearnbench.results.ledger import Ledger
from unlearnbench.results.recomputation import recomputed, usable_cores, verified
from unlearnbench.results.records import Record, dump_records, find_records, load_records
from unlearnbench.results.run_id import run_id_of_result
from unlearnbench.results.schema import Metric, ProbeBlock, Result, TuningBlock, json_schema
from unlearnbench.results.store import (
    ResultStore,
    load_result,
    plain_line,
    read_result,
    records_of,
    result_files,
    tree_files,
    write_atomically,
)
from unlearnbench.results.verification import may_hold_text, not_installed, verify

__all__ = [
    "Ledger",
    "Metric",
    "ProbeBlock",
    "Record",
    "Result",
    "ResultStore",
    "TuningBlock",
    "dump_records",
    "find_records",
    "json_schema",
    "load_records",
    "load_result",
    "may_hold_text",
    "not_installed",
    "plain_line",
    "read_result",
    "recomputed",
    "records_of",
    "result_files",
    "run_id_of_result",
    "tree_files",
    "usable_cores",
    "verified",
    "verify",
    "write_atomically",
]
