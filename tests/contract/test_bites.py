"""The contract of the task store bites: it is red on every store that is wrong in one way."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from taskloom.embedded.backend import embedded_backend
from taskloom.ids import RandomIds
from taskloom.ports import Backend
from tests.contract.base import Contract, needs
from tests.contract.queues import QueueContract
from tests.contract.state_machine import run_store_machine
from tests.contract.task_store import TaskStoreContract
from tests.support import broken
from tests.support.broken import Faithful
from tests.support.clock import FakeClock

CAUGHT_BY: dict[type[Faithful], str] = {
    broken.NoFencing: "test_guard_fence test_all_of_a_guard_must_hold test_a_refused_change_changes_nothing",
    broken.AnyStatus: "test_guard_status test_all_of_a_guard_must_hold",
    broken.AnyRun: "test_guard_run test_all_of_a_guard_must_hold",
    broken.AnyLease: "test_guard_lease test_all_of_a_guard_must_hold",
    broken.LateLease: "test_guard_lease",
    broken.DoubleClaim: "test_one_of_many_claims_wins test_one_of_many_claims_wins_over_threads "
    "test_the_end_of_a_task_races_its_next_claim test_a_refused_change_holds_up_no_other",
    broken.ClaimByReading: "test_one_of_many_claims_wins test_the_end_of_a_task_races_its_next_claim",
    broken.RefusedIsWritten: "test_one_of_many_claims_wins test_refused_tells_how_the_task_stands",
    broken.WritesWhatItRefuses: "test_a_refused_change_changes_nothing test_guard_fence",
    broken.CreatesAgain: "test_absent_refuses_what_is_there test_one_of_many_claims_wins",
    broken.RefusedWithoutCurrent: "test_refused_tells_how_the_task_stands "
    "test_a_repeated_claim_finds_its_own_claim_id test_absent_refuses_what_is_there",
    broken.RefusedWithYesterday: "test_refused_tells_how_the_task_stands",
    broken.HistoryInASecondWrite: "test_a_caller_that_gives_up_leaves_no_half_write "
    "test_version_grows_by_one_with_each_write",
    broken.NoHistory: "test_history_is_oldest_first_and_begins_with_the_creation "
    "test_a_status_and_its_history_are_seen_together",
    broken.LostCreation: "test_a_created_task_with_dispatch_comes_through_the_stream",
    broken.LostDispatch: "test_a_change_that_sets_dispatch_comes_through_the_stream",
    broken.DispatchInASecondWrite: "test_a_task_and_its_record_are_one_write "
    "test_a_created_task_with_dispatch_comes_through_the_stream",
    broken.ShoutingDispatch: "test_nothing_else_comes_through_the_stream",
    broken.CounterDrift: "test_amounts_are_added test_additions_from_all_sides_are_all_counted",
    broken.CountersByReading: "test_additions_from_all_sides_are_all_counted",
    broken.ChunksAlwaysNew: "test_a_chunk_ends_once test_one_of_many_ends_a_chunk",
    broken.ChunksOfEveryRun: "test_chunks_come_in_their_order_and_by_run",
    broken.ChunksByName: "test_chunks_come_in_their_order_and_by_run",
    broken.LeakyList: "test_tenants_are_listed_apart test_the_same_code_in_two_tenants_is_two_tasks",
    broken.LeakyGet: "test_get_finds_nothing_under_any_other_key",
    broken.StandingVersion: "test_version_grows_by_one_with_each_write",
    broken.HalfAPatch: "test_a_change_writes_all_its_values",
    broken.Backwards: "test_changes_are_carried_out_in_their_order",
    broken.LastChangeFirstSeen: "test_a_caller_that_gives_up_leaves_no_change_without_its_predecessor",
    broken.AllOrNothing: "test_a_refused_change_holds_up_no_other",
    broken.StaleGet: "test_get_sees_every_write_that_was_answered",
    broken.KnowingSubTasks: "test_absent_creates_the_sub_task",
    broken.OnlyNewestFirst: "test_list_is_in_the_order_of_codes test_list_goes_on_behind_any_code",
    broken.NoCursor: "test_list_gives_at_most_limit_and_goes_on_behind_it",
    broken.UnfilteredList: "test_list_picks_by_kind_status_and_type",
    broken.FilterAfterLimit: "test_list_picks_by_kind_status_and_type",
    broken.RangesAcrossGaps: "test_statuses_are_told_in_ranges",
    broken.ShardsApart: "test_sub_tasks_come_in_index_order",
}
"""The tests that must be red, per broken store; none that needs luck."""


@pytest.fixture
def sound(tmp_path: Path, clock: FakeClock) -> Iterator[Backend]:
    backend = embedded_backend(tmp_path / "tasks.db", "NORMAL", clock, RandomIds())
    yield backend
    backend.close()


class TestFaithful(TaskStoreContract):
    """The wrapper alone is no fault: a red test below is the fault's doing."""

    @pytest.fixture
    def backend(self, sound: Backend) -> Backend:
        return broken.broken(sound, broken.Faithful)


class TestOneByOne(TaskStoreContract):
    """Nor is a store that carries out many changes one after the other."""

    @pytest.fixture
    def backend(self, sound: Backend) -> Backend:
        return broken.broken(sound, broken.OneByOne)


@pytest.mark.parametrize("fault", CAUGHT_BY, ids=lambda fault: fault.__name__)
def test_the_suite_is_red(fault: type[Faithful], sound: Backend) -> None:
    """By an assertion, and by each of the tests that speak of it."""
    backend = broken.broken(sound, fault)
    names = CAUGHT_BY[fault].split()
    assert [name for name in names if not is_red(name, backend)] == []


@pytest.mark.parametrize(
    "fault",
    [
        broken.NoFencing,
        broken.AnyStatus,
        broken.DoubleClaim,
        broken.CreatesAgain,
        broken.NoHistory,
        broken.HistoryInASecondWrite,
        broken.CounterDrift,
        broken.ChunksAlwaysNew,
        broken.Backwards,
        broken.StaleGet,
    ],
)
def test_the_state_machine_is_red(fault: type[Faithful], sound: Backend) -> None:
    """Nobody told it where to look."""
    with pytest.raises(AssertionError):
        run_store_machine(broken.broken(sound, fault), runs=300, is_proof=True)


def test_every_broken_store_is_tried() -> None:
    """A fault that nobody tries proves nothing."""
    faults = {
        fault
        for fault in vars(broken).values()
        if isinstance(fault, type) and issubclass(fault, Faithful) and not fault.__name__.startswith("_")
    }
    assert faults - {broken.Faithful, broken.OneByOne} == CAUGHT_BY.keys()


def is_red(name: str, backend: Backend) -> bool:
    """Whether this test of the suite fails on *backend*; any other error than an assertion is one here, too."""
    try:
        getattr(TaskStoreContract(), name)(backend)
    except AssertionError:
        return True
    return False


def test_a_flag_takes_its_tests_out_of_the_suite() -> None:
    """A backend that cannot do a thing is not asked for it, and everything else is."""

    class Suite(Contract):
        @needs("pulls_stream")
        def test_of_the_stream(self) -> None:
            pass

        @needs("pulls_steps")
        def test_of_the_steps(self) -> None:
            pass

        def test_of_anybody(self) -> None:
            pass

    class Pushed(Suite):
        pulls_stream = False

    def tests_of(suite: type[Suite]) -> set[str]:
        return {name for name in dir(suite) if name.startswith("test_") and callable(getattr(suite, name))}

    assert tests_of(Suite) == {"test_of_the_stream", "test_of_the_steps", "test_of_anybody"}
    assert tests_of(Pushed) == {"test_of_the_steps", "test_of_anybody"}


def test_an_inexact_backend_is_not_held_to_what_only_an_exact_one_keeps() -> None:
    """Rule 8: the suite reads the table. Every other test stays, and the exact backend keeps all."""

    class OnAws(QueueContract):
        backend_name = "aws"

    def names(suite: type[Contract]) -> set[str]:
        return {name for name in dir(suite) if name.startswith("test_") and getattr(suite, name) is not None}

    assert {"test_a_higher_priority_goes_first", "test_tenants_take_turns"} <= names(QueueContract) - names(OnAws)
    assert len(names(OnAws)) > len(names(QueueContract)) / 2
