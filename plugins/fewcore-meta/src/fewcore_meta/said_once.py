"""What people should know of a run, said once however many cells would say it."""

from __future__ import annotations

import logging
from functools import cache


@cache
def say_once(text: str) -> None:
    """Log a text, unless this process has logged it before."""
    logging.getLogger("fewcore").warning(text)
