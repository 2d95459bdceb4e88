"""A plugin's options as a user gave them, checked against its Config: a mistake is one line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from unlearnbench.errors import UserError, unknown_name, wrong_value

C = TypeVar("C", bound=BaseModel)


def checked_options(config: type[C], values: Mapping[str, Any], kind: str, prefix: str) -> C:
    """The options as `config` has them.

    Args:
        config: the Config of a plugin.
        values: what the user gave.
        kind: what an option is called where it is unknown: `option of task tofu`.
        prefix: before the name of an option whose value is wrong: `rome.`.

    Raises:
        UserError: an unknown option (with the nearest ones) or value.
    """
    free = config.model_config.get("extra") == "allow"
    for key in values:
        if key not in config.model_fields and not free:
            raise UserError(unknown_name(kind, key, config.model_fields))
    try:
        return config(**values)
    except ValidationError as error:
        fault = error.errors()[0]
        place = ".".join(map(str, fault["loc"]))
        raise UserError(wrong_value(f"{prefix}{place}", fault)) from error
