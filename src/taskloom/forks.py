"""Whether this process is a fork of the one that made an object: threads, locks and sockets stay in the parent."""

import os

_count = 0


def count() -> int:
    """Grows with each fork that this process descends from; cheaper than asking the system for the process id."""
    return _count


def _forked() -> None:
    global _count
    _count += 1


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
