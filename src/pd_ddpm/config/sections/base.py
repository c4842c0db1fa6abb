"""Base class and common types of the sections."""

import os
from collections.abc import Hashable, Iterator, Sequence
from typing import Annotated, Any, NamedTuple, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError


class Contradiction(NamedTuple):
    """A key (or a path such as `train.gpu`) whose value is valid by itself but not together with others of its section."""

    key: str
    problem: str
    remedy: str


class Section(BaseModel):
    """A part of the configuration with a fixed set of keys. Types are strict: only numbers convert into each other."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, frozen=True, defer_build=True)

    def contradictions(self) -> Iterator[Contradiction]:
        """Yield everything that the keys allow one by one but not together."""
        yield from ()

    @model_validator(mode="after")
    def _check_contradictions(self) -> Self:
        errors = [
            InitErrorDetails(
                type=PydanticCustomError("contradiction", "{problem}. {remedy}.", {"problem": problem, "remedy": remedy}),
                loc=tuple(key.split(".")),
                input=None,
            )
            for key, problem, remedy in self.contradictions()
        ]
        if errors:
            raise ValidationError.from_exception_data(type(self).__name__, errors)
        return self


def _as_whole(value: Any) -> Any:
    """Return 8 for 8.0, and any other value unchanged."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _without_repeats(values: Sequence[Hashable]) -> Sequence[Hashable]:
    """Return the values, and raise if one occurs twice."""
    repeated = sorted({str(value) for value in values if values.count(value) > 1})
    if repeated:
        context = {"problem": f"{', '.join(repeated)} occurs more than once", "remedy": "List each value once"}
        raise PydanticCustomError("contradiction", "{problem}. {remedy}.", context)
    return values


# The constraint comes before the conversion, so that it becomes part of the integer's own schema.
Index = Annotated[int, Field(ge=0), BeforeValidator(_as_whole)]
Count = Annotated[int, Field(ge=1), BeforeValidator(_as_whole)]
Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]

# "~" stands for the user's home, as in a shell.
UserPath = Annotated[str, AfterValidator(os.path.expanduser)]

# For Annotated: a list without repeated values; a whole number that a range or a Literal restricts.
UNIQUE = (AfterValidator(_without_repeats), Field(json_schema_extra={"uniqueItems": True}))
WHOLE = BeforeValidator(_as_whole)
