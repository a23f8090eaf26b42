"""Values of PostgreSQL that Python reads in another way than pg8000."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime
from typing import Any

from pg8000.converters import timestamptz_in

JSON_OIDS = (114, 3802)
"""The types ``json`` and ``jsonb``. Source: PostgreSQL, ``pg_type.dat``."""
FIRST_TIME, LAST_TIME = datetime(1, 1, 2, tzinfo=UTC), datetime(9999, 12, 30, tzinfo=UTC)
"""The first and the last time that Python can hold in every zone."""


def read_json(text: str) -> Any:
    """Read a value of type ``json`` or ``jsonb``. It never fails, because one unreadable row would stop every reader.

    PostgreSQL's numbers have up to 131,072 digits, and its documents thousands of levels. A value that Python refuses
    is returned as text, which no payload model accepts as a number or an object.
    """
    try:
        return _DECODER.decode(text)
    except ValueError:  # ``sys.set_int_max_str_digits``
        return json.loads(text, parse_int=_int_or_text, parse_float=_float_or_text)
    except RecursionError:
        return text


def read_time(text: str) -> datetime:
    """Read a ``timestamptz`` in a fraction of pg8000's time.

    Returns :data:`FIRST_TIME` or :data:`LAST_TIME` for a time that Python cannot hold.
    """
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        read = timestamptz_in(text)
        return read if isinstance(read, datetime) else FIRST_TIME if text[0] == "-" or "BC" in text else LAST_TIME


def _int_or_text(digits: str) -> int | str:
    try:
        return int(digits)
    except ValueError:
        return digits


def _float_or_text(digits: str) -> float | str:
    number = float(digits)
    return number if math.isfinite(number) else digits


_DECODER = json.JSONDecoder(parse_float=_float_or_text)
