"""Notices in the file, and the pumps that deliver them: what they cost, and what survives which accident."""

import asyncio
import sqlite3
import ssl
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from datetime import timedelta
from http.server import BaseHTTPRequestHandler
from itertools import count
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from taskloom import Retry, Settings, TaskModule
from taskloom.clock import SystemClock, to_milliseconds
from taskloom.embedded.database import Database, Transaction
from taskloom.errors import InvalidInput
from taskloom.notifications import pump as pumps
from taskloom.notifications.delivery import WebhookDelivery
from taskloom.notifications.http import AddressRefused, DeliveryFailed, Post
from taskloom.notifications.pump import Pump, Terms
from taskloom.notifications.subscriptions import Subscription
from taskloom.ports import Backend, Listener, Notice
from taskloom.webhooks import Filter, Webhook
from tests.engine import processes
from tests.support.clock import FakeClock
from tests.support.faults import Crash, CrashAt, FailAt, Inner, PortCall, tapped
from tests.support.receiver import PATIENCE, SECRET, Mailbox, Receiver
from tests.support.rows import Rows
from tests.support.scenarios import FAN_OUT, SINGLE, open_backend, tell
from tests.surface.running import until

HOUR = timedelta(hours=1)
TLS = Path(__file__).parents[1] / "support" / "tls"
ALL = Filter()


def triggers(database: Path) -> set[str]:
    connection = sqlite3.connect(database)
    try:
        found = connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger' AND name LIKE '%notice'")
        return {name for (name,) in found}
    finally:
        connection.close()


# --- what it costs ----------------------------------------------------------------------------------------------------


def test_while_nobody_listens_nothing_is_in_the_way(backend: Backend, clock: FakeClock, database: Path) -> None:
    """No trigger on any table, so no statement does more than before; and nothing is left behind by who did listen."""
    asyncio.run(tell(SINGLE, backend, clock))
    assert triggers(database) == set()

    async def main() -> None:
        await backend.notifier.follow(Listener(name="a"), clock.now() + HOUR)
        await backend.notifier.follow(Listener(name="b", filter=Filter(sub_tasks=True)), clock.now() + HOUR)
        assert len(triggers(database)) == 4
        await backend.notifier.forget("b")
        assert triggers(database) == {"task_created_notice", "task_changed_notice"}
        await backend.notifier.forget("a")

    asyncio.run(main())
    assert triggers(database) == set()
    asyncio.run(tell(FAN_OUT, backend, clock))
    connection = sqlite3.connect(database)
    assert connection.execute("SELECT count(*) FROM notices").fetchone() == (0,)
    connection.close()


def test_sub_tasks_cost_no_more_unless_somebody_asks_for_them(backend: Backend, clock: FakeClock) -> None:
    """Rule 6: two writes each."""

    async def notices(*, sub_tasks: bool) -> int:
        await backend.notifier.follow(Listener(name="a", filter=Filter(sub_tasks=sub_tasks)), clock.now() + HOUR)
        await tell(FAN_OUT, backend, clock)
        found = await backend.notifier.notices("a", given_up=False, after=0, limit=1000)
        await backend.notifier.forget("a")
        return len(found)

    assert asyncio.run(notices(sub_tasks=False)) == 3
    assert asyncio.run(notices(sub_tasks=True)) > 3 + 2 * 6 - 1


def test_a_secret_alone_makes_nobody_a_listener(backend: Backend, clock: FakeClock, database: Path) -> None:
    delivery = WebhookDelivery(backend, [], secret=SECRET, allow_private=True)
    delivery.start()
    asyncio.run(tell(SINGLE, backend, clock))
    delivery.stop()
    assert triggers(database) == set()


def test_what_is_to_come_first_survives_a_commit_that_fails(tmp_path: Path) -> None:
    """A listener is announced once; the write beside it may be refused."""
    database, done = Database(tmp_path / "tasks.db", "NORMAL"), Counter[str]()

    def refuse(transaction: Transaction) -> None:
        raise InvalidInput("field", "is wrong")

    async def main() -> None:
        database.before_next_write(lambda transaction: transaction.execute("INSERT INTO turns VALUES (7)"))
        with pytest.raises(InvalidInput):
            await database.write(refuse)
        for _ in range(2):
            await database.write(lambda transaction: done.update(["written"]))
        turns = await database.read(lambda connection: connection.execute("SELECT turn FROM turns").fetchall())
        assert sorted(turns) == [(0,), (7,)]

    asyncio.run(main())
    database.close()


def test_what_is_announced_while_a_commit_runs_comes_with_the_next(tmp_path: Path) -> None:
    database = Database(tmp_path / "tasks.db", "NORMAL")

    def announce(transaction: Transaction) -> None:
        database.before_next_write(lambda transaction: transaction.execute("INSERT INTO turns VALUES (7)"))

    async def main() -> None:
        await database.write(announce)
        await database.write(lambda transaction: None)
        turns = await database.read(lambda connection: connection.execute("SELECT turn FROM turns").fetchall())
        assert sorted(turns) == [(0,), (7,)]

    asyncio.run(main())
    database.close()


# --- accidents --------------------------------------------------------------------------------------------------------


def make_pump(backend: Backend, deliver: Callable[[Notice], None]) -> Pump:
    async def deliver_async(notice: Notice) -> None:
        deliver(notice)

    terms = Terms(keep=HOUR, retry=Retry(max_attempts=3, jitter=False), timeout=timedelta(seconds=5), at_once=2)
    return Pump(backend, Listener(name="a", filter=ALL), terms, deliver_async)


async def run_until(pump: Pump, clock: FakeClock, condition: Callable[[], Awaitable[bool]]) -> None:
    """Run *pump* until *condition* holds, letting time pass."""
    running = asyncio.create_task(pump.run())
    while not running.done() and not await condition():
        clock.advance(1)
        await asyncio.wait([running], timeout=0)
    pump.stop()
    await running


async def died_at(number: int, backend: Backend, clock: FakeClock, *, after: bool) -> bool:
    """Whether whoever delivers has died at its call *number*; what it had to tell was told all the same."""
    told: list[Notice] = []
    rows = Rows(backend)
    for _ in range(2):
        await rows.carry_out(rows.completed(await rows.claimed()))
    tap = CrashAt(number, after=after)

    async def is_over() -> bool:
        return tap.at is not None or await nothing_waits()

    async def nothing_waits() -> bool:
        return not await backend.notifier.notices("a", given_up=False, after=0, limit=1)

    asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)
    with suppress(Crash):
        await run_until(make_pump(tapped(backend, tap), told.append), clock, is_over)
    clock.advance(120)  # what it had taken may be taken by others
    await run_until(make_pump(backend, told.append), clock, nothing_waits)
    assert len({notice.event_id for notice in told}) == 6
    assert len({(notice.event_id, notice.status, notice.key, notice.version) for notice in told}) == 6
    return tap.at is not None


@pytest.mark.parametrize("after", [False, True])
def test_whoever_delivers_may_die_at_any_call(tmp_path: Path, clock: FakeClock, after: bool) -> None:
    """Everything is delivered by the next one; what comes twice comes with the same id."""

    async def follow(backend: Backend) -> None:
        await backend.notifier.follow(Listener(name="a"), clock.now() + HOUR)

    for number in count(1):
        backend = open_backend(tmp_path / f"{number}.db", clock)
        asyncio.run(follow(backend))
        has_died = asyncio.run(died_at(number, backend, clock, after=after))
        backend.close()
        if not has_died:
            break
    assert number > 10


def test_a_storage_that_fails_now_and_then_delays_a_delivery(backend: Backend, clock: FakeClock) -> None:
    """Each single call, and its answer."""

    async def story(number: int, *, reply_lost: bool) -> bool:
        told: list[Notice] = []
        rows = Rows(backend)
        await backend.notifier.follow(Listener(name="a"), clock.now() + HOUR)
        (task,) = await rows.create(rows.single())
        tap = FailAt(number, reply_lost=reply_lost)

        async def is_told() -> bool:
            return bool(told)

        await run_until(make_pump(tapped(backend, tap), told.append), clock, is_told)
        assert {notice.key for notice in told} == {task.key}
        await backend.notifier.forget("a")
        return tap.at is not None

    for reply_lost in (False, True):
        number = 1
        while asyncio.run(story(number, reply_lost=reply_lost)):
            number += 1
        assert number > 3


def test_a_process_that_dies_right_after_create(database: Path) -> None:
    """What it wrote is published by whoever comes then, though nobody had been told of anything."""
    with Receiver() as receiver:
        assert processes.killed(processes.create_with_webhook, database, receiver.url, SECRET)
        module = TaskModule.register(
            settings=Settings(database=database, webhook_private_addresses=True),
            webhooks=[Webhook(receiver.url, SECRET)],
        )
        module.task("other")(lambda event: None)

        async def main() -> None:
            async with module.worker():
                (posted,) = await asyncio.to_thread(receiver.received, 1)
            (task,) = (await module.task_service.list_tasks("acme")).items
            assert posted.message()["eventId"] == f"{task.id}#0"

        asyncio.run(main())
        module.close()


def test_a_process_that_dies_while_it_is_told(database: Path, tmp_path: Path) -> None:
    """Before it could say so: the next one is told once more, with the same id."""
    file, now = tmp_path / "told", to_milliseconds(SystemClock().now())
    assert processes.killed(processes.die_when_told, database, file, now)
    (told,) = processes.effects(file)
    clock = FakeClock(SystemClock().now() + timedelta(minutes=5))
    module = TaskModule.register(settings=Settings(database=database), clock=clock)
    mailbox = Mailbox()
    module.subscribe(mailbox, name="audit")
    (message,) = mailbox.has(1)
    assert message["eventId"] == told
    module.close()


def test_a_pump_that_is_stopped_gives_back_what_it_has_begun(
    backend: Backend, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At once, and not as a failure."""
    monkeypatch.setattr(pumps, "LAST_SECONDS", 0.01)
    begun = threading.Event()

    async def hang(message: object) -> None:
        begun.set()
        await asyncio.Event().wait()

    async def create() -> None:
        rows = Rows(backend)
        await rows.create(rows.single(), rows.single())

    subscription = Subscription(
        backend, hang, name="a", filter=ALL, timeout=HOUR, retry=Retry(max_attempts=2, jitter=False)
    )
    asyncio.run(create())
    assert begun.wait(PATIENCE)
    subscription()
    subscription.join()

    async def look() -> None:
        taken = await backend.notifier.take("a", 10, again_at=clock.now() + HOUR)
        assert [notice.failures for notice in taken] == [0, 0]

    asyncio.run(look())


def test_of_one_listener_only_so_many_are_in_memory(backend: Backend, clock: FakeClock) -> None:
    """However many wait."""
    limits: list[int] = []

    async def tap(call: PortCall, inner: Inner) -> object:
        if call.name == "notifier.take":
            limits.append(call.args[1])
        return await inner()

    async def main() -> None:
        rows, told = Rows(backend), list[Notice]()
        await backend.notifier.follow(Listener(name="a"), clock.now() + HOUR)
        await rows.create(*(rows.single() for _ in range(50)))

        async def is_told() -> bool:
            return len(told) == 50

        await run_until(make_pump(tapped(backend, tap), told.append), clock, is_told)

    asyncio.run(main())
    assert max(limits) == 2


# --- the address that is connected to ---------------------------------------------------------------------------------


def post(url: str, resolve: Callable[[str, int], Sequence[str]], **options: object) -> Post:
    values = {"timeout": 5.0, "allow_private": True, **options}
    return Post(urlsplit(url), {"X": "y"}, b"{}", resolve=resolve, **values)  # type: ignore[arg-type]


def test_a_name_that_changes_its_mind_is_asked_once() -> None:
    """What was checked is what is connected to; a second question would lead elsewhere."""
    asked: list[tuple[str, int]] = []

    def resolve(host: str, port: int) -> Sequence[str]:
        asked.append((host, port))
        return ["127.0.0.1"] if len(asked) == 1 else ["127.0.0.2"]

    with Receiver() as receiver:
        post(f"http://hook.test:{receiver.port}/a?b=c", resolve).send()
        (posted,) = receiver.posted
    assert asked == [("hook.test", receiver.port)]
    assert (posted.path, posted.headers["Host"]) == ("/a?b=c", f"hook.test:{receiver.port}")


@pytest.mark.parametrize("address", ["127.0.0.1", "::1", "10.0.0.1", "169.254.169.254", "::ffff:127.0.0.1"])
def test_a_public_name_with_a_private_address_is_refused(address: str) -> None:
    with Receiver() as receiver:
        with pytest.raises(AddressRefused, match=r"hook\.test leads to"):
            post(f"http://hook.test:{receiver.port}/", lambda host, port: [address], allow_private=False).send()
        assert not receiver.posted


def test_of_several_addresses_only_public_ones_are_connected_to() -> None:
    tried: list[str] = []

    class Watched(Post):
        def _plain(self, address: str, port: int) -> object:  # type: ignore[override]
            tried.append(address)
            raise ConnectionRefusedError(address)

    addresses = ["127.0.0.1", "8.8.8.8", "10.0.0.1", "2606:4700::1111", *(f"8.8.4.{n}" for n in range(9))]
    watched = Watched(
        urlsplit("http://hook.test/"), {}, b"", timeout=5.0, allow_private=False, resolve=lambda host, port: addresses
    )
    with pytest.raises(DeliveryFailed, match="ConnectionRefusedError"):
        watched.send()
    assert tried == ["8.8.8.8", "2606:4700::1111", "8.8.4.0", "8.8.4.1"]


def test_another_address_is_tried_when_one_does_not_answer() -> None:
    with Receiver() as receiver:
        post(f"http://hook.test:{receiver.port}/", lambda host, port: ["127.0.0.9", "127.0.0.1"]).send()
        assert len(receiver.posted) == 1


def test_names_without_addresses() -> None:
    def unknown(host: str, port: int) -> Sequence[str]:
        raise OSError("unknown name")

    def empty(host: str, port: int) -> Sequence[str]:
        return []

    for resolve in (unknown, empty):
        with pytest.raises(DeliveryFailed):
            post("http://hook.test/", resolve).send()


def test_https_checks_the_certificate_against_the_name() -> None:
    """The name, not the address, is what the certificate must be of; and who vouches for it must be known."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(TLS / "certificate.pem", TLS / "key.pem")
    trusting = ssl.create_default_context(cafile=str(TLS / "certificate.pem"))
    with Receiver(tls=server) as receiver:

        def send(host: str, tls: ssl.SSLContext | None) -> None:
            post(f"https://{host}:{receiver.port}/", lambda host, port: ["127.0.0.1"], tls=tls).send()

        with pytest.raises(DeliveryFailed, match="CERTIFICATE_VERIFY_FAILED"):
            send("hook.test", None)
        with pytest.raises(DeliveryFailed, match="CERTIFICATE_VERIFY_FAILED"):
            send("other.test", trusting)
        assert not receiver.posted
        send("hook.test", trusting)
        assert len(receiver.posted) == 1


def test_an_aborted_post_comes_back() -> None:
    """Its thread does not wait for a receiver that says nothing."""
    released = threading.Event()

    def hang(handler: BaseHTTPRequestHandler) -> None:
        released.wait(PATIENCE)

    with Receiver([hang]) as receiver:
        sent = post(f"http://hook.test:{receiver.port}/", lambda host, port: ["127.0.0.1"], timeout=PATIENCE)
        errors: list[Exception] = []

        def send() -> None:
            try:
                sent.send()
            except DeliveryFailed as error:
                errors.append(error)

        thread = threading.Thread(target=send)
        thread.start()
        receiver.received(1)
        sent.abort()
        thread.join(PATIENCE)
        assert [str(error) for error in errors] == ["it took too long"]
        released.set()


def test_the_resolver_of_a_delivery_decides_for_all_webhooks(backend: Backend, clock: FakeClock) -> None:
    with Receiver() as receiver:
        hook = Webhook(f"http://hook.test:{receiver.port}/", SECRET)
        backend.notifier.announce(Listener(name=hook.listener()), clock.now() + HOUR)
        delivery = WebhookDelivery(
            backend, [hook], secret=None, allow_private=False, resolve=lambda host, port: ["127.0.0.1"]
        )
        delivery.start()

        async def main() -> None:
            rows = Rows(backend)
            await rows.create(rows.single())

            async def is_given_up() -> bool:
                return bool(await backend.notifier.notices(None, given_up=True, after=0, limit=1))

            await until(is_given_up)

        asyncio.run(main())
        delivery.stop()
        assert not receiver.posted
