"""A file of JSON lines through which one process tells another what to do, or how it goes.

One process appends, another reads. Nothing but text passes, and the file is opened anew each time, which is what lets two
machines see each other's lines on a disk that they share.
"""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any


class Mailbox:
    """The lines of one file, in their order.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "inbox.jsonl"
    >>> Mailbox(path).write({"number": 1})
    >>> Mailbox(path).read()
    [{'number': 1}]
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._place = 0

    def write(self, message: dict[str, Any]) -> None:
        """Append a message. Whoever wrote before may have been killed in the middle of a line, so a new one is begun."""
        with self._path.open("ab") as file:
            file.write(b"\n" + json.dumps(message).encode() + b"\n")

    def read(self) -> list[dict[str, Any]]:
        """Return the messages that came since the last look.

        A line that is being written waits for the next look; one that was never written to its end is passed over.
        """
        try:
            with self._path.open("rb") as file:
                file.seek(self._place)
                text = file.read()
        except FileNotFoundError:
            return []
        whole = text[: text.rfind(b"\n") + 1]
        self._place += len(whole)
        messages = []
        for line in whole.splitlines():
            with contextlib.suppress(ValueError):
                messages.append(json.loads(line))
        return messages
