"""Search spaces of hyperparameters, and the configurations that a sweep tries.

A space is declared as metadata of a field of a method's Config:

    learning_rate: Annotated[float, Around(10)] = Field(1e-5, gt=0)

Trials are the first points of one endless sequence (scrambled Halton: Owen 2017, arXiv:1706.02808),
so that a larger budget extends a smaller one. Importing this imports neither numpy nor scipy.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal, get_args

from pydantic import ValidationError
from pydantic.fields import FieldInfo

if TYPE_CHECKING:
    from unlearnbench.method import Method

#: Name and version of the way in which trials are drawn.
SEQUENCE = "halton-1"
#: Significant digits of a value: enough for a search, few enough for a label.
DIGITS = 3
#: So many points in a row without a configuration that is new and valid: the space has no more.
_EXHAUSTED = 500


# --- what a Config declares ----------------------------------------------------------------------


@dataclass(frozen=True)
class LogUniform:
    """Between two positive bounds, evenly on a logarithmic scale.

    Raises:
        ValueError: the bounds are not 0 < low < high, finite.
    """

    low: float
    high: float

    def __post_init__(self) -> None:
        if not 0 < self.low < self.high < math.inf:
            raise ValueError(f"LogUniform({self.low}, {self.high}) needs 0 < low < high, finite.")

    def __str__(self) -> str:
        return f"{self.low:g} to {self.high:g}, log-uniform"


@dataclass(frozen=True)
class Uniform:
    """Between two bounds, evenly.

    Raises:
        ValueError: the bounds are not low < high, finite.
    """

    low: float
    high: float

    def __post_init__(self) -> None:
        if not -math.inf < self.low < self.high < math.inf:
            raise ValueError(f"Uniform({self.low}, {self.high}) needs low < high, finite.")

    def __str__(self) -> str:
        return f"{self.low:g} to {self.high:g}, uniform"


@dataclass(frozen=True, init=False)
class Choice:
    """One of these values, each as likely.

    Raises:
        ValueError: fewer than two values.
    """

    values: tuple[str | int | float | bool | None, ...]

    def __init__(self, *values: str | int | float | bool | None) -> None:
        if len(values) < 2:
            raise ValueError(f"Choice{values} needs two values or more.")
        object.__setattr__(self, "values", values)

    def __str__(self) -> str:
        return f"one of {', '.join(map(str, self.values))}"


@dataclass(frozen=True)
class Around:
    """Log-uniform within `factor` either side of the value that the method has on a model.

    That is the model entry's value for the method, else the default. A value that is not a
    positive number has nothing around it, and is not searched.

    Raises:
        ValueError: the factor is not above 1, finite.
    """

    factor: float

    def __post_init__(self) -> None:
        if not 1 < self.factor < math.inf:
            raise ValueError(f"Around({self.factor}) needs a factor above 1, finite.")

    def __str__(self) -> str:
        return f"within a factor of {self.factor:g}, log-uniform"


Kind = LogUniform | Uniform | Choice | Around


def declared(field: FieldInfo) -> Kind | None:
    """The space that a Config's field declares, if it does."""
    return next((m for m in field.metadata if isinstance(m, Kind)), None)


# --- what is searched on one model ---------------------------------------------------------------


@dataclass(frozen=True)
class Dimension:
    """One hyperparameter and the values that it may take: a range with its ends, or a choice."""

    name: str
    scale: Literal["log-uniform", "uniform", "choice"]
    values: tuple[Any, ...]
    integer: bool = False

    def at(self, point: float) -> Any:
        """The value at a point of [0, 1)."""
        if self.scale == "choice":
            return self.values[min(int(point * len(self.values)), len(self.values) - 1)]
        low, high = self.values
        if self.scale == "log-uniform":
            value = low * (high / low) ** point
        else:
            value = low + (high - low) * point
        value = round(value) if self.integer else float(f"{value:.{DIGITS}g}")
        return min(max(value, low), high)

    def document(self) -> dict[str, list[Any]]:
        """As a result keeps it: `{"log-uniform": [1e-06, 1e-04]}`."""
        return {self.scale: list(self.values)}


def search_space(
    method: type[Method[Any]], fixed: Mapping[str, Any], on_model: Mapping[str, Any]
) -> list[Dimension]:
    """What a sweep of `method` searches, in the order of its Config.

    Args:
        fixed: the hyperparameters that the user has set; they are not searched.
        on_model: the model's own defaults of the method, around which `Around` searches.
    """
    found = []
    for name, field in method.Config.model_fields.items():
        kind = declared(field)
        if kind is None or name in fixed:
            continue
        default = on_model.get(name, field.get_default(call_default_factory=True))
        dimension = _dimension(name, field, kind, default)
        if dimension is not None:
            found.append(dimension)
    return found


def trials(
    method: type[Method[Any]],
    given: Mapping[str, Any],
    on_model: Mapping[str, Any],
    count: int,
    seed: int,
) -> list[dict[str, Any]]:
    """At most `count` different configurations: `given` itself, then points of its search space.

    A function of its arguments, and the first k do not depend on `count`. There are fewer where
    the space has no more. A point that the Config refuses is passed over.
    """
    space = search_space(method, given, on_model)
    return list(islice(_distinct(method, given, on_model, space, seed), count))


def _distinct(
    method: type[Method[Any]],
    given: Mapping[str, Any],
    on_model: Mapping[str, Any],
    space: Sequence[Dimension],
    seed: int,
) -> Iterator[dict[str, Any]]:
    def content(config: Mapping[str, Any]) -> str | None:
        try:
            whole = method.Config(**{**on_model, **config})
        except ValidationError:  # two values that do not go together
            return None
        return json.dumps(whole.model_dump(mode="json"), sort_keys=True)

    seen = {None, content(given)}
    yield dict(given)
    if not space:
        return
    in_vain = 0
    for point in _points(len(space), method.name, seed):
        config = {**given, **{d.name: d.at(u) for d, u in zip(space, point, strict=True)}}
        if content(config) not in seen:
            seen.add(content(config))
            in_vain = 0
            yield config
        elif (in_vain := in_vain + 1) == _EXHAUSTED:
            return


def _points(dimensions: int, method: str, seed: int) -> Iterator[list[float]]:
    """An endless low-discrepancy sequence in [0, 1)^d, each method's its own."""
    from scipy.stats import qmc

    from unlearnbench.metrics import seeded_generator

    sequence = qmc.Halton(dimensions, seed=seeded_generator("sweep", method, seed))
    while True:
        yield from sequence.random(32).tolist()


def _dimension(name: str, field: FieldInfo, kind: Kind, default: object) -> Dimension | None:
    """The values of a field's space that its bounds admit; None where that leaves no choice."""
    if isinstance(kind, Choice):
        return Dimension(name, "choice", kind.values)
    if isinstance(kind, Around):
        number = isinstance(default, int | float) and not isinstance(default, bool)
        if not number or default <= 0:  # type: ignore[operator]
            return None
        low, high = default / kind.factor, default * kind.factor  # type: ignore[operator]
    else:
        low, high = kind.low, kind.high
    integer = int in (field.annotation, *get_args(field.annotation))
    integer = integer and float not in (field.annotation, *get_args(field.annotation))
    ends = _admitted(low, high, field, integer)
    if ends is None:
        return None
    scale = "uniform" if isinstance(kind, Uniform) else "log-uniform"
    return Dimension(name, scale, ends, integer)  # type: ignore[arg-type]


def _admitted(
    low: float, high: float, field: FieldInfo, integer: bool
) -> tuple[float, float] | None:
    """The ends of a range inside the field's bounds, as values of few digits; None where empty.

    With such ends, rounding a value between them to as many digits cannot leave the range.
    """
    for bound in field.metadata:
        # The bounds of pydantic's Field have one of these attributes each.
        for attribute in ("ge", "gt"):
            if (limit := getattr(bound, attribute, None)) is not None:
                low = max(low, limit)
        for attribute in ("le", "lt"):
            if (limit := getattr(bound, attribute, None)) is not None:
                high = min(high, limit)
    first, last = _few_digits(low, integer, up=True), _few_digits(high, integer, up=False)
    for bound in field.metadata:
        if (limit := getattr(bound, "gt", None)) is not None and first <= limit:
            first = _few_digits(limit, integer, up=True, strictly=True)
        if (limit := getattr(bound, "lt", None)) is not None and last >= limit:
            last = _few_digits(limit, integer, up=False, strictly=True)
    return (first, last) if first < last else None


def _few_digits(value: float, integer: bool, *, up: bool, strictly: bool = False) -> float:
    """The nearest value of few digits that is not below (`up`) or not above; `strictly`: not equal.

    A strict end at 0 becomes 0.01.
    """
    # Twelve digits: what arithmetic adds behind them (0.1 * 3 is a little more than 0.3) is no end.
    exact = Decimal(f"{value:.12g}")
    exponent = 0 if integer else (exact.adjusted() if exact else 0) - DIGITS + 1
    step = Decimal(1).scaleb(exponent)
    rounded = (exact / step).to_integral_value(ROUND_CEILING if up else ROUND_FLOOR) * step
    if strictly and rounded == exact:
        rounded += step if up else -step
    return int(rounded) if integer else float(rounded)
