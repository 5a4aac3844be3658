"""`python -m bench.scale`: simulates large fan-outs on AWS and prints time and cost."""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from bench.scale import prices, quotas
from bench.scale.simulation import Outcome, Plan, Simulation

SCENARIOS: Final = {
    "handlers of 1 s, a new table": Plan(),
    "handlers of 1 s, nothing else runs": Plan(others=0),
    "handlers of 50 ms, a new table": Plan(seconds=0.05),
    "handlers of 50 ms, a table warmed to 40,000 writes/s": Plan(seconds=0.05, table_units=quotas.TABLE_WRITE_UNITS),
    "handlers of 1 s, one call in ten dies": Plan(crashes=0.1),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Simulate the scenarios, or one of your own."""
    default = Plan()
    parser = argparse.ArgumentParser(prog="python -m bench.scale", description=__doc__)
    parser.add_argument("--sub-tasks", type=int, default=default.sub_tasks)
    parser.add_argument("--at-once", type=int, default=default.at_once, help="max_concurrency of the fan-out")
    parser.add_argument("--seconds", type=float, help="how long a handler takes; one scenario of your own")
    chosen = parser.parse_args(arguments)
    scenarios = SCENARIOS
    if chosen.seconds is not None:
        scenarios = {f"handlers of {chosen.seconds:g} s": Plan(seconds=chosen.seconds)}
    print(f"{chosen.sub_tasks:,} sub-tasks, {chosen.at_once:,} at once; list prices of {prices.AS_OF}\n")
    print(
        "| scenario | time | functions at once | throttled: Lambda | throttled: table | died | cost | "
        "per million without handlers' time |\n|---|---|---|---|---|---|---|---|"
    )
    for title, plan in scenarios.items():
        print(f"{title} …", end="\r", file=sys.stderr, flush=True)
        plan = replace(plan, sub_tasks=chosen.sub_tasks, at_once=chosen.at_once)
        print(_row(title, plan, Simulation(plan).run()), flush=True)
    return 0


def _row(title: str, plan: Plan, outcome: Outcome) -> str:
    bill = outcome.bill
    rest = bill.dollars - bill.lambda_gb_seconds * prices.LAMBDA_GB_SECOND
    return (
        f"| {title} | {_time(outcome.seconds)} | {outcome.most_at_once:,} | {outcome.lambda_throttles:,} | "
        f"{outcome.table_throttles:,} | {outcome.crashes:,} | ${bill.dollars:,.2f} | "
        f"${rest / plan.sub_tasks * 1_000_000:,.2f} |"
    )


def _time(seconds: float) -> str:
    return f"{seconds / 60:.1f} min" if seconds >= 60 else f"{seconds:.1f} s"


if __name__ == "__main__":
    sys.exit(main())
