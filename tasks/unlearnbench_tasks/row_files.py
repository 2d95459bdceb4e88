"""Rows of data files as somebody sends them: bounded, and checked one by one while they are read.

No text of a row goes into an error: only where it is and what is wrong.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NoReturn

from unlearnbench import DataError
from unlearnbench.plain_files import NotPlain, open_plain, plain_lines, read_plain

Row = Mapping[str, Any]

#: A file whose rows are all held may not be larger: CounterFact's takes 45 MB, TOFU's largest 3.
MAX_FILE_BYTES = 64 * 1024**2
#: One row (a document of a corpus is one), as text.
MAX_ROW_BYTES = 8 * 1024**2
#: Rows that are held: MMLU has 14 thousand, CounterFact 22.
MAX_ROWS = 200_000
#: Lists and objects of such a file; in memory a small one takes thirty times what it takes as text.
MAX_PARTS = 4_000_000
#: What a group of rows of a parquet file says that it takes, and the text of all that are read.
MAX_TEXT_BYTES = 1024**3

_BOM = b"\xef\xbb\xbf"
#: Rows of a parquet file that are decoded at once.
_BATCH = 256
#: Values of a list in one row: a question has four choices.
_MOST_IN_A_ROW = 1000


def json_rows(path: Path, *, lines: bool = False, sentences: bool = False) -> list[tuple[str, Any]]:
    """All that a file holds, each with its place: a JSON array by `row`, JSON Lines by `line`.

    Args:
        lines: whether it can be nothing but JSON Lines.
        sentences: as of `json_lines`.

    Raises:
        DataError: it cannot be read, is no plain file, is too large, or not JSON.
    """
    try:
        data = read_plain(path, MAX_FILE_BYTES).removeprefix(_BOM)
        if data.count(b"[") + data.count(b"{") > MAX_PARTS:
            raise NotPlain(f"has more than {MAX_PARTS} lists and objects")
        if not lines and data.lstrip().startswith(b"["):
            value = parsed(data, path.name)
            rows = [(f"{path.name} row {number}", row) for number, row in enumerate(value, 1)]
        else:
            rows = list(islice(_rows(data.split(b"\n"), path, sentences), MAX_ROWS + 1))
    except (OSError, NotPlain, UnicodeDecodeError) as error:
        raise _unreadable(path, error) from error
    if len(rows) > MAX_ROWS:
        raise DataError(f"{path.name} has more than {MAX_ROWS} rows.")
    return rows


def json_lines(path: Path, *, sentences: bool = False) -> Iterator[tuple[str, Any]]:
    """The values of a JSON Lines file, each with its place (a blank line is skipped, a byte order
    mark too); no more of the file is in memory than a line.

    Args:
        sentences: a line that does not begin as an object is a text, `{"text": ...}`.

    Raises:
        DataError: it cannot be read, is no plain file, or a line is too long, no text or no JSON.
    """
    try:
        yield from _rows(plain_lines(path, MAX_ROW_BYTES), path, sentences)
    except (OSError, NotPlain, UnicodeDecodeError) as error:
        raise _unreadable(path, error) from error


def _rows(lines: Iterable[bytes], path: Path, sentences: bool) -> Iterator[tuple[str, Any]]:
    # Only \n ends a line of JSON Lines: a text may hold the others that `splitlines` knows.
    for number, line in enumerate(lines, start=1):
        line = line.removeprefix(_BOM) if number == 1 else line
        if not line.strip():
            continue
        place = f"{path.name} line {number}"
        try:
            yield place, parsed(line, place)
        except DataError:
            if not sentences or line.lstrip().startswith(b"{"):
                raise
            yield place, {"text": line.decode("utf-8")}


def parsed(data: bytes, place: str) -> Any:
    """The JSON of a text.

    Raises:
        DataError: it is none, or has half a character, which nothing can write again.
        UnicodeDecodeError: it is not UTF-8.
    """
    text = data.decode("utf-8")
    try:
        value = json.loads(text, parse_constant=_no_number)
        if "\\u" in text:
            json.dumps(value, ensure_ascii=False).encode()
    except RecursionError as error:
        raise DataError(f"{place}: not JSON (nested too deep).") from error
    except UnicodeEncodeError as error:
        raise DataError(f"{place}: half a character (an escape such as \\ud800).") from error
    except ValueError as error:
        raise DataError(f"{place}: not JSON ({error}).") from error
    return value


def parquet_rows(part: str, path: Path, columns: Sequence[str]) -> Iterator[tuple[str, Row]]:
    """The rows of a parquet file, of these columns, each with its place.

    A dictionary of texts is not written out: in a file of some kilobytes one text may stand for a
    million rows. What a group of rows takes is asked before it is read, and each text again.

    Raises:
        DataError: it cannot be read, is no plain file, or holds more than may be.
    """
    import pyarrow
    from pyarrow.parquet import ParquetFile

    number = size = 0
    try:
        with open_plain(path) as stream:
            head = ParquetFile(stream, pre_buffer=False)
            names = [name for name in columns if name in head.schema_arrow.names]
            leaves = _leaves(head, names)
            whole = ParquetFile(stream, pre_buffer=False, read_dictionary=leaves)
            for group in range(whole.num_row_groups):
                # Not column by column: to ask that of a file that lies ends the process (Arrow 26).
                if whole.metadata.row_group(group).total_byte_size > MAX_TEXT_BYTES:
                    raise NotPlain(f"has rows of more than {MAX_TEXT_BYTES >> 20} MiB in a group")
                for batch in whole.iter_batches(_BATCH, row_groups=[group], columns=names):
                    batch.validate(full=True)  # an index may lead out of its dictionary
                    for index in range(batch.num_rows):
                        number += 1
                        row = {}
                        for name, column in zip(batch.schema.names, batch.columns, strict=True):
                            size += _bytes_of(column, index)
                            if size > MAX_TEXT_BYTES:
                                raise NotPlain(f"holds more than {MAX_TEXT_BYTES >> 20} MiB")
                            row[name] = column[index].as_py()
                        yield f"{part}, {path.name} row {number}", row
    except NotPlain as error:
        raise DataError(f"{path.name} {error}.") from error
    except (OSError, ValueError, pyarrow.ArrowException) as error:
        raise DataError(f"{path.name} cannot be read as parquet ({type(error).__name__}).") from (
            error
        )


def _leaves(file: Any, names: Sequence[str]) -> list[str]:
    """The columns of texts below these names, as the file's own schema calls them."""
    columns = (file.schema.column(number) for number in range(len(file.schema)))
    return [
        column.path
        for column in columns
        if column.path.split(".")[0] in names and column.physical_type == "BYTE_ARRAY"
    ]


def _bytes_of(column: Any, index: int) -> int:
    """What a value takes when it is written out: its texts, and something for each of them.

    Raises:
        NotPlain: it is of a form that no row has, or too large.
    """
    import pyarrow.types as types

    kind = column.type
    if types.is_dictionary(kind):
        chosen = column.indices[index].as_py()
        return 8 if chosen is None else _bytes_of(column.dictionary, chosen)
    if types.is_list(kind) or types.is_large_list(kind):
        begin, end = (column.offsets[index + more].as_py() for more in (0, 1))
        if end - begin > _MOST_IN_A_ROW:
            raise NotPlain(f"has a list of {end - begin} values ({_MOST_IN_A_ROW} at most)")
        return 8 + sum(_bytes_of(column.values, place) for place in range(begin, end))
    if types.is_fixed_size_list(kind) and kind.list_size <= _MOST_IN_A_ROW:
        begin = (column.offset + index) * kind.list_size
        return 8 + sum(_bytes_of(column.values, begin + n) for n in range(kind.list_size))
    if types.is_string(kind) or types.is_large_string(kind):
        value = column[index]
        size = value.as_buffer().size if value.is_valid else 0
        if size > MAX_ROW_BYTES:
            raise NotPlain(f"has a text of {size} bytes ({MAX_ROW_BYTES} at most)")
        return 50 + size
    if types.is_integer(kind) or types.is_null(kind) or types.is_floating(kind):
        return 8
    raise NotPlain(f"has a column of {kind}, which no row has")


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON")


def _unreadable(path: Path, error: Exception) -> DataError:
    if isinstance(error, NotPlain):
        return DataError(f"{path.name} {error}.")
    return DataError(f"{path.name} cannot be read as UTF-8 text ({error}).")
