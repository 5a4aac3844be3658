"""What `taskloom doctor` finds, and how it is shown."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from rich.console import Console

from taskloom.cli.output import cell, print_columns


class State(StrEnum):
    """How bad it is."""

    OK = "ok"
    NOTE = "note"
    """Worth knowing, and maybe meant so."""
    PROBLEM = "problem"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that was looked at."""

    subject: str
    state: State
    text: str
    """What was found."""
    remedy: str = ""
    """What to do about it."""

    def item(self) -> dict[str, Any]:
        """As JSON."""
        return {"subject": self.subject, "state": str(self.state), "text": self.text, "remedy": self.remedy or None}


_STYLES: Final = {State.OK: "green", State.NOTE: "yellow", State.PROBLEM: "bold red"}


def ok(subject: str, text: str) -> Finding:
    """Nothing is wrong with it."""
    return Finding(subject=subject, state=State.OK, text=text)


def note(subject: str, text: str, remedy: str = "") -> Finding:
    """It is worth knowing."""
    return Finding(subject=subject, state=State.NOTE, text=text, remedy=remedy)


def problem(subject: str, text: str, remedy: str) -> Finding:
    """Something is to be done."""
    return Finding(subject=subject, state=State.PROBLEM, text=text, remedy=remedy)


def counted(tasks: int) -> str:
    """So many tasks, in words."""
    return "1 task" if tasks == 1 else f"{tasks:,} tasks"


def problems(findings: Sequence[Finding]) -> int:
    """How many of them are problems."""
    return sum(finding.state is State.PROBLEM for finding in findings)


def print_findings(console: Console, findings: Sequence[Finding]) -> None:
    """A line per finding, below it what to do, at the end the sum."""
    rows = []
    for finding in findings:
        rows.append([cell(finding.state, _STYLES[finding.state]), cell(finding.subject), cell(finding.text)])
        if finding.remedy:
            rows.append([cell(""), cell(""), cell(f"→ {finding.remedy}")])
    print_columns(console, rows)
    console.print()
    count = problems(findings)
    console.print("nothing is wrong" if not count else "1 problem" if count == 1 else f"{count} problems")
