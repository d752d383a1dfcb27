"""Whose an error is: what a component raises becomes an error that names the stage and the distribution."""

from __future__ import annotations

import errno
import traceback
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager

import torch

from fewcore.components import Offer
from fewcore.errors import FewcoreError, PluginError, ResourceError


@contextmanager
def blame(title: str, offer: Offer | None, tracebacks: MutableMapping[str, str] | None = None) -> Iterator[None]:
    """Turn whatever is raised inside into an error that says whose it is; its traceback goes to `tracebacks`, if any.

    Raises:
        ResourceError: memory or the disk ran out.
        PluginError: the component raised something that is none of fewcore's errors.

    """
    try:
        yield
    except FewcoreError:
        raise
    except (Exception, SystemExit) as error:
        if isinstance(error, MemoryError | torch.OutOfMemoryError):
            text = f"{title}: out of memory: {error}; expected smaller batches or a larger machine"
            raise ResourceError(text) from error
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            text = f"{title}: the disk is full: {error}; free some space and run again to go on"
            raise ResourceError(text) from error
        who = f" (from {offer.distribution} {offer.version})" if offer else ""
        text = f"{title}{who}: {type(error).__name__}: {error}"
        if tracebacks is not None:
            tracebacks[title] = "".join(traceback.format_exception(error))
            text += "; the traceback is in log.jsonl"
        raise PluginError(text) from error
