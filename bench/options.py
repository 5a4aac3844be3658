"""The command line."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

CONTENDERS: Final = ("taskloom", "sqlite", "huey", "dramatiq")
QUICK_SCALE: Final = 0.2

_DESCRIPTION: Final = """\
Do the same work with Taskloom (embedded, synchronous=FULL, history kept), with bare SQLite (the same rows, plain
batched SQL, WAL, synchronous=FULL), with Huey (SqliteHuey, fsync) and with Dramatiq (Redis, append-only file synced
each second), and print one table. Each measurement has a process and a database of its own; the contenders take turns
within each repetition. Progress goes to standard error, the table to standard output."""

_EPILOG: Final = """\
How long it takes, on two cores with an SSD: --quick half a minute, --repeat 1 a minute, the default of seven
repetitions eight minutes; --large adds four minutes per repetition and needs 1 GB of disk; --compare about doubles the
part of Taskloom. Nothing else should run meanwhile.

  python -m bench --quick
  python -m bench --only end-to-end --only latency
  python -m bench --large --repeat 3 --compare main~1"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What was asked for on the command line."""

    repeat: int
    scale: float
    large: bool
    quick: bool
    only: tuple[str, ...]
    contenders: frozenset[str]
    concurrency: int
    compare: str | None
    json: Path | None
    folder: Path | None
    limit: float
    list: bool


def parse(arguments: Sequence[str] | None = None) -> Options:
    """The options of *arguments* (None: those of the process). Exits on wrong ones, as command lines do."""
    values = _parser().parse_args(arguments)
    return Options(
        repeat=1 if values.quick else values.repeat,
        scale=values.scale * (QUICK_SCALE if values.quick else 1),
        large=values.large,
        quick=values.quick,
        only=tuple(values.only),
        contenders=frozenset(values.contenders),
        concurrency=values.concurrency,
        compare=values.compare,
        json=values.json,
        folder=values.folder,
        limit=values.limit,
        list=values.list,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add(
        "--repeat",
        type=_positive,
        default=7,
        metavar="N",
        help="repetitions; the table shows their median (default: 7)",
    )
    add(
        "--quick", action="store_true", help="one repetition of a fifth of the size: to see that it works, not to quote"
    )
    add("--large", action="store_true", help="also a fan-out of 1,000,000 and files with 1,000,000 tasks")
    add(
        "--only", action="append", default=[], metavar="NAME", help="only workloads with NAME in their name; repeatable"
    )
    add(
        "--contenders",
        type=_contenders,
        default=list(CONTENDERS),
        metavar="A,B",
        help=f"only these of {', '.join(CONTENDERS)}",
    )
    add("--concurrency", type=_positive, default=64, metavar="N", help="handlers at a time of a Taskloom worker (64)")
    add("--compare", metavar="COMMIT", help="also measure the Taskloom of another commit, side by side in the same run")
    add("--json", type=Path, metavar="FILE", help="where the JSON goes (default: bench-results/<commit>….json)")
    add("--folder", type=Path, metavar="DIR", help="where the databases lie meanwhile (default: the temporary folder)")
    add("--scale", type=_factor, default=1.0, metavar="FACTOR", help="multiply all sizes")
    add("--limit", type=_factor, default=1800.0, metavar="SECONDS", help="after which a measurement fails (1800)")
    add("--list", action="store_true", help="list the workloads and end")
    return parser


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not 1 or more")
    return value


def _factor(text: str) -> float:
    value = float(text)
    if not value > 0:
        raise argparse.ArgumentTypeError(f"{text} is not greater than 0")
    return value


def _contenders(text: str) -> list[str]:
    names = text.split(",")
    for name in names:
        if name not in CONTENDERS:
            raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(CONTENDERS)}")
    return names
