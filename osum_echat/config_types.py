"""What every section of a configuration is made of: the base class and the types of its numbers."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Positive = Annotated[int, Field(gt=0)]
NonNegative = Annotated[int, Field(ge=0)]
Rate = Annotated[float, Field(ge=0.0, le=1.0)]
Probability = Annotated[float, Field(ge=0.0, lt=1.0)]


class Section(BaseModel):
    """Base of every section: no unknown keys, no changes after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True, validate_default=True)


def check_unused(section: Section, name: str) -> None:
    """A section that a model does not use must be left at its defaults."""
    if section != type(section)():
        raise ValueError(f"{name} is not used by this model; leave it out")


def check_divides(total: int, part: int, total_name: str = "width", part_name: str = "num_heads") -> None:
    if total % part:
        raise ValueError(f"{part_name} {part} does not divide {total_name} {total}")
