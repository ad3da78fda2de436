"""One process at a time in a folder, also on file systems that know no locks."""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dataset_tools.errors import UsageError

logger = logging.getLogger(__name__)
# What `flock` answers where another process holds the lock. Everything else says that there are no locks
# there: ENOSYS, ENOLCK, EOPNOTSUPP (Lustre, DVS, some NFS), EBADF (a folder on NFS).
_HELD = (errno.EAGAIN, errno.EWOULDBLOCK, errno.EACCES)


@contextmanager
def locked(path: Path, busy: str) -> Iterator[None]:
    """Hold a file or folder while the block runs; freed when the process ends, whatever way it does.

    Raises `UsageError` with the text `busy` where another process holds it. Goes on with a warning where the
    file system has no locks.
    """
    try:
        import fcntl
    except ImportError:  # not on Windows
        yield
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in _HELD:
                raise UsageError(busy) from None
            logger.warning(
                "the file system of %s has no locks (%s): see to it that no second aspo-data works there.",
                path,
                error.strerror,
            )
        yield
    finally:
        os.close(handle)
