"""What all groups of settings are: frozen, and without a field that nobody knows."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, ValidationInfo, field_validator, model_validator

from mads_ray.printable import is_utf8

_TOO_MANY = 2**53  # of anything: also floats count up to here


class Frozen(BaseModel):
    """Refuses unknown fields, and what has the right type and no meaning."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    former_names: ClassVar[dict[str, str]] = {}  # of fields, with the names that they have now

    @model_validator(mode="before")
    @classmethod
    def _by_new_names(cls, data: Any) -> Any:
        """Files and stored runs that say a former name still load."""
        if not isinstance(data, dict):
            return data
        for old, new in cls.former_names.items():
            if old in data and new in data:
                raise ValueError(f"{old} is the former name of {new}: give one of them")
        return {cls.former_names.get(name, name): value for name, value in data.items()}

    @field_validator("*", mode="before")
    @classmethod
    def _sane(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuse what has the right type and no meaning."""
        assert info.field_name is not None
        switch = cls.model_fields[info.field_name].annotation is bool
        for one in value if isinstance(value, list | tuple) else (value,):
            if isinstance(one, bool) and not switch:
                raise ValueError("must not be true or false")
            if isinstance(one, int) and abs(one) >= _TOO_MANY:
                raise ValueError("is too large a number")
            if isinstance(one, str) and ("\0" in one or not is_utf8(one)):
                raise ValueError("holds a NUL character, or bytes that are no UTF-8")
        return value
