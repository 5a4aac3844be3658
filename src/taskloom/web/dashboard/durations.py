"""Durations and sizes for people."""

from datetime import timedelta

from taskloom.web.dashboard.text import Translate


def duration(time: timedelta | float, t: Translate) -> str:
    """*time* (seconds, or a timedelta) in one or two units: `0.4 s`, `41 s`, `4 min 10 s`, `3 d 2 h`."""
    seconds = time.total_seconds() if isinstance(time, timedelta) else time
    seconds = max(0.0, seconds)
    if seconds < 10:
        return t("seconds", count=f"{seconds:.2g}")
    if seconds < 60:
        return t("seconds", count=round(seconds))
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    parts = [("days", days), ("hours", hours), ("minutes", minutes), ("seconds", rest)]
    first = next(at for at, (_, count) in enumerate(parts) if count)
    return " ".join(t(unit, count=count) for unit, count in parts[first : first + 2] if count)


def size(count: int) -> str:
    """*count* bytes: `900 B`, `12 KB`, `3.4 MB`."""
    if count < 1000:
        return f"{count} B"
    if count < 1_000_000:
        return f"{count / 1000:.3g} KB"
    return f"{count / 1_000_000:.3g} MB"
