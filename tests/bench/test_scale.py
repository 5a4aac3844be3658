"""The simulation of fan-outs on AWS, at sizes whose outcome can be computed by hand."""

from dataclasses import replace

import pytest

from bench.scale import __main__ as program
from bench.scale import quotas
from bench.scale.simulation import Outcome, Plan, Simulation

SMALL = Plan(sub_tasks=2_000, at_once=100, crashes=0)


def run(**changes: float) -> Outcome:
    return Simulation(replace(SMALL, **changes)).run()  # type: ignore[arg-type]


def test_every_sub_task_ends_once_and_makes_two_writes() -> None:
    outcome = run()
    chunks = 2_000 / 20
    assert outcome.done == 2_000
    assert outcome.calls == chunks
    assert outcome.bill.write_units == 2 * 2_000 + 2 * chunks


def test_what_dies_is_called_again_and_repeats_one_sub_task() -> None:
    outcome = run(crashes=0.5)
    assert outcome.done == 2_000
    assert outcome.crashes > 10
    assert outcome.calls == 100 + outcome.crashes
    assert outcome.bill.write_units == 2 * 2_000 + 2 * 100 + outcome.crashes


def test_functions_stay_below_the_limit() -> None:
    outcome = run(others=quotas.LAMBDA_CONCURRENCY - 7)
    assert outcome.most_at_once == 7
    assert outcome.lambda_throttles > 0
    # 2,000 handlers of a second, seven at a time.
    assert outcome.seconds > 2_000 * 0.9 / 7


def test_writes_wait_for_the_table() -> None:
    outcome = run(seconds=0.001, table_units=200)
    assert outcome.table_throttles > 0
    # All but the burst of the first second come at the table's rate.
    assert outcome.seconds >= (outcome.bill.write_units - 200) / 200


def test_a_partition_takes_no_more_than_its_share() -> None:
    """All chunks of 1,000 neighbours write to one partition."""
    outcome = run(sub_tasks=1_000, seconds=0.0001)
    assert outcome.table_throttles > 0


def test_the_cost_per_sub_task_does_not_grow() -> None:
    few, many = (run(sub_tasks=count, others=0) for count in (10_000, 40_000))
    assert many.bill.write_units / 40_000 == pytest.approx(few.bill.write_units / 10_000, rel=0.01)


def test_the_program_prints_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert program.main(["--sub-tasks", "300", "--seconds", "0.5"]) == 0
    out = capsys.readouterr().out
    assert "300 sub-tasks" in out
    assert "| handlers of 0.5 s |" in out
