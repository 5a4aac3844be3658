"""The dashboard in a real browser."""

import asyncio
import re
import sqlite3
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, expect

from taskloom import Settings, StepFunctionTaskEvent, TaskEntity, TaskModule, TaskQueueEvent, TaskStatus
from taskloom.model import FanOut
from taskloom.record import fan_out_item
from tests.dashboard.browsing import Site, chromium, looking
from tests.dashboard.visiting import path_of
from tests.surface.running import MakeModule

LARGE = 100_000
MAX_BYTES = 200_000
CODE = "01JTZ3ABCDEFGHJKMNPQRSTVWX"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


class Reports:
    """An application whose handler goes on when the test says so."""

    def __init__(self, module: TaskModule) -> None:
        self.module = module
        self.began, self.may_end = threading.Event(), threading.Event()
        self.is_broken = True
        module.task("report")(self.report)
        module.task("endless")(self.endless)
        module.step_function_task("pictures", max_concurrency=8)(self.picture)

    def report(self, event: TaskQueueEvent) -> dict[str, int]:
        event.log.info("reading %s", event.task.input["customer"])
        event.progress(3, 10, "pages")
        self.began.set()
        assert self.may_end.wait(60)
        if self.is_broken:
            raise ValueError("page 7 cannot be read")
        return {"pages": 10}

    async def endless(self, event: TaskQueueEvent) -> None:
        event.progress(1, 2)
        self.began.set()
        await asyncio.Event().wait()

    def picture(self, event: StepFunctionTaskEvent) -> int:
        if event.input.input % 40 == 7:
            raise OSError(f"picture {event.input.input} is broken")
        return int(event.input.input)


@pytest.fixture
def reports(make_module: MakeModule) -> Iterator[Reports]:
    made = Reports(make_module(enable_controller=True))
    yield made
    made.may_end.set()


@pytest.fixture
def site(reports: Reports) -> Iterator[Site]:
    with Site(reports.module) as served:
        yield served


def create(site: Site, task_type: str = "report", **fields: Any) -> TaskEntity[Any]:
    return site.call(
        site.module.task_service.create_task(
            tenant_code="acme", task_type=task_type, input={"customer": "Käse"}, **fields
        )
    )


def test_a_task_from_its_creation_to_its_end(browser: Browser, site: Site, reports: Reports) -> None:
    """Created by the REST interface; seen live, without a reload; fails with its reason; retried; done."""
    with looking(browser, site) as eye:
        page = eye.open("/tasks?tenant=acme")
        expect(page.get_by_text("No task matches.")).to_be_visible()
        created = page.request.post(
            f"{site.origin}/tasks",
            data={"tenantCode": "acme", "taskType": "report", "name": "May report", "input": {"customer": "Käse"}},
        )
        assert created.status == 202, created.text()
        expect(page.get_by_role("link", name="May report")).to_be_visible()
        assert eye.is_same_page
        page.get_by_role("link", name="May report").click()
        page.wait_for_url("**/TASK%23acme/report%23*")
        eye.mark()
        status = page.locator(".headline .status")
        expect(status).to_have_text("Pending")
        expect(page.locator("#pulse")).to_have_text("live")
        site.work()
        expect(status).to_have_text("In progress")
        expect(page.locator(".headline .progress")).to_contain_text("3 of 10")
        expect(page.locator(".log")).to_contain_text("reading Käse")
        eye.picture("task-running")
        reports.may_end.set()
        expect(status).to_have_text("Failed")
        expect(page.locator(".headline + .failure")).to_have_text("ValueError: page 7 cannot be read")
        assert eye.is_same_page
        page.get_by_text("Traceback", exact=True).click()
        expect(page.locator("details pre")).to_contain_text("raise ValueError")
        eye.picture("task-failed")
        reports.is_broken = False
        page.get_by_role("button", name="Retry").click()
        expect(page.get_by_text("Run again: 1.")).to_be_visible()
        expect(status).to_have_text("Completed")
        expect(page.locator("#region-outcome pre").first).to_contain_text('"pages": 10')
        expect(page.locator("figure.timeline")).to_have_count(2)
        eye.picture("task-completed")


def test_a_running_task_is_cancelled(browser: Browser, site: Site, reports: Reports) -> None:
    task = create(site, "endless")
    site.work()
    with looking(browser, site) as eye:
        page = eye.open(path_of(task.key))
        expect(page.locator(".headline .status")).to_have_text("In progress")
        page.get_by_role("button", name="Cancel…").click()
        expect(page.get_by_role("heading", name="Cancel these tasks (1)?")).to_be_visible()
        eye.picture("confirmation")
        page.get_by_label("Reason").fill("nobody needs it")
        page.get_by_role("button", name="Cancel the tasks").click()
        expect(page.locator(".headline .status")).to_have_text("Cancelled")
        expect(page.get_by_text("nobody needs it").first).to_be_visible()
    ended = site.call(site.module.task_service.get_task(task.key))
    assert ended.status is TaskStatus.CANCELLED


def test_many_are_cancelled_and_ticks_outlive_live_updates(browser: Browser, site: Site) -> None:
    tasks = [create(site, name=f"Report {number}") for number in range(3)]
    with looking(browser, site) as eye:
        page = eye.open("/tasks?tenant=acme")
        page.get_by_label("Select Report 1").check()
        create(site, name="Report 9")  # changes the list
        expect(page.get_by_role("link", name="Report 9")).to_be_visible()
        expect(page.get_by_label("Select Report 1")).to_be_checked()
        expect(page.get_by_label("Select Report 9")).not_to_be_checked()
        page.get_by_label("Select all").check()
        page.get_by_label("Select Report 9").uncheck()
        page.get_by_role("button", name="Cancel…").click()
        page.get_by_role("button", name="Cancel the tasks").click()
        expect(page.get_by_text("Cancelled: 3.")).to_be_visible()
        expect(page.locator("tbody .s-CANCELLED")).to_have_count(3)
        expect(page.locator("tbody .s-PENDING")).to_have_count(1)
    for task in tasks:
        assert site.call(site.module.task_service.get_task(task.key)).status is TaskStatus.CANCELLED


# --- a large fan-out -------------------------------------------------------------------------------------------------


@pytest.fixture
def large(tmp_path: Path) -> Iterator[tuple[Site, TaskEntity[Any]]]:
    """100,000 sub-tasks, as a worker would have left them half way; put into the file in one go, for a worker takes a
    minute for it."""
    database = tmp_path / "large.db"
    module = TaskModule.register(settings=Settings(database=database), enable_controller=True)
    with Site(module) as site:
        parent = site.call(
            module.task_service.create_step_function_task(
                tenant_code="acme", task_type="pictures", input=range(LARGE), name="Thumbnails"
            )
        )
        fill(database, parent, done=60_000, running=8)
        yield site, parent
    module.close()


def fill(database: Path, parent: TaskEntity[Any], *, done: int, running: int) -> None:
    """The first *done* have ended, every 997th of them badly; the next *running* run."""
    at, plan = int(parent.created_at.timestamp() * 1000), str(fan_out_item(FanOut(chunk_size=100))).replace("'", '"')
    plan = plan.replace("True", "true")
    failure = '{"type": "OSError", "message": "picture " || idx || " is broken", "attempt": 1}'
    error = failure.replace('" || idx || "', "' || idx || '")
    connection = sqlite3.connect(database, isolation_level=None)
    connection.executescript(
        f"""
        BEGIN;
        DELETE FROM stream;
        UPDATE tasks SET status = 'I', fan_out = '{plan}', started_at = {at}, updated_at = {at + 60_000}, attempt = 1,
            fence = 1, dispatch = NULL, sub_task_succeed_count = {done} - ({done} + 989) / 997,
            sub_task_failed_count = ({done} + 989) / 997 WHERE code = '{parent.code}';
        WITH RECURSIVE n(idx) AS (SELECT 0 UNION ALL SELECT idx + 1 FROM n WHERE idx + 1 < {done + running})
        INSERT INTO sub_tasks (parent, idx, tenant, type, status, error, created_at, updated_at, run, attempt, fence,
            history) SELECT '{parent.code}', idx, 'acme', '{parent.task_type}',
            CASE WHEN idx >= {done} THEN 'I' WHEN idx % 997 = 7 THEN 'F' ELSE 'C' END,
            CASE WHEN idx < {done} AND idx % 997 = 7 THEN '{error}' END, {at}, {at}, 1, 1, 1, '' FROM n;
        INSERT INTO chunks (parent, tenant, run, chunk, succeeded, failed)
            SELECT parent, tenant, 1, idx / 100, sum(status = 'C'), sum(status = 'F') FROM sub_tasks
            WHERE idx < {done} GROUP BY idx / 100;
        COMMIT;
        """
    )
    connection.close()


def test_a_hundred_thousand_sub_tasks_in_one_light_page(browser: Browser, large: tuple[Site, TaskEntity[Any]]) -> None:
    site, parent = large
    with looking(browser, site) as eye:
        sizes = list[int]()
        eye.page.on("response", lambda answer: sizes.append(len(answer.body())) if "fan-out" in answer.url else None)
        page = eye.open(path_of(parent.key) + "/fan-out")
        expect(page.get_by_role("heading", name="Sub-tasks 0 to 99,999 of 100,000")).to_be_visible()
        cells = page.locator("svg.grid a")
        expect(cells).to_have_count(1000)
        expect(page.locator("svg.grid rect.f1")).to_have_count(61)
        expect(page.locator("svg.grid rect.c")).to_have_count(539)
        expect(page.locator("svg.grid rect.i")).to_have_count(1)
        expect(page.locator("svg.grid rect.p")).to_have_count(399)
        assert 0 < sizes[0] < MAX_BYTES
        failures = page.locator("#region-failures tbody tr")
        expect(failures).to_have_count(1)
        expect(failures).to_contain_text("OSError: picture 7 is broken")
        expect(failures.locator(".number")).to_have_text("61")
        eye.picture("fan-out")
        fill_more(site, parent)
        expect(page.locator("svg.grid rect.c")).to_have_count(540)  # seen without a reload
        assert eye.is_same_page
        page.locator("svg.grid a").nth(10).focus()
        for key in ("ArrowDown", "ArrowLeft", "ArrowUp", "ArrowLeft"):
            page.keyboard.press(key)
        page.keyboard.press("Home")
        page.keyboard.press("Enter")
        expect(page.get_by_role("heading", name="Sub-tasks 0 to 99 of 100,000")).to_be_visible()
        expect(page.locator("svg.grid a")).to_have_count(100)
        eye.picture("fan-out-part")
        page.locator("svg.grid rect.f").click()
        expect(page.locator(".headline + .failure")).to_have_text("OSError: picture 7 is broken")


def fill_more(site: Site, parent: TaskEntity[Any]) -> None:
    """One chunk more has ended."""
    connection = sqlite3.connect(site.module.settings.database, isolation_level=None)
    connection.execute("INSERT INTO chunks VALUES (?, 'acme', 1, 601, 100, 0)", (parent.code,))
    connection.execute("UPDATE tasks SET version = version + 1, sub_task_succeed_count = sub_task_succeed_count + 100")
    connection.close()


# --- languages, times, looks -----------------------------------------------------------------------------------------


def test_the_language_is_switched_and_stays(browser: Browser, site: Site) -> None:
    task = create(site, name="Report")
    with looking(browser, site) as eye:
        page = eye.open("/tasks?tenant=acme&status=PENDING")
        expect(page.get_by_role("heading", name="Tasks", exact=True)).to_be_visible()
        page.get_by_role("link", name="日本語").click()
        expect(page.get_by_role("heading", name="タスク", exact=True)).to_be_visible()
        assert page.url.endswith("/tasks?tenant=acme&status=PENDING")
        assert page.locator("html").get_attribute("lang") == "ja"
        page = eye.open(path_of(task.key))
        expect(page.locator(".headline .status")).to_have_text("待機中")
        eye.picture("task-japanese")
        page.get_by_role("link", name="English").click()
        expect(page.locator(".headline .status")).to_have_text("Pending")


def test_times_are_those_of_the_browser_and_utc_on_hover(browser: Browser, site: Site) -> None:
    task = create(site)
    with looking(browser, site, timezone_id="Asia/Tokyo") as eye:
        time = eye.open(path_of(task.key)).locator(".facts time").first
        tokyo = task.created_at.astimezone(UTC) + timedelta(hours=9)
        expect(time).to_have_text(tokyo.strftime("%Y-%m-%d %H:%M:%S"))
        assert (time.get_attribute("title") or "").startswith(task.created_at.strftime("%Y-%m-%d %H:%M:%S."))
        assert datetime.fromisoformat(time.get_attribute("datetime") or "") == task.created_at


@pytest.fixture
def lively(site: Site, reports: Reports) -> tuple[Site, list[str]]:
    """A site with some of everything, and its pages."""
    service = site.module.task_service
    reports.may_end.set()
    failed = create(site, name="May report")
    fan = site.call(
        service.create_step_function_task(tenant_code="acme", task_type="pictures", input=range(300), name="Thumbnails")
    )
    site.work()
    for task in (failed, fan):
        site.call(service.wait(task.key, timeout=30))
    waiting = create(site, "nobody", name="Waits for nobody")
    site.call(service.queues.pause(task_type="nobody", reason="a new version", by="ann"))
    pages = ["", "/tasks?tenant=acme", path_of(failed.key), path_of(waiting.key), path_of(fan.key)]
    pages += [f"{path_of(fan.key)}/fan-out", f"{path_of(fan.key)}/fan-out?first=0&last=49", "/queues"]
    return site, [*pages, "/tasks?tenant=acme&status=CANCELLED", "/nothing"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_seriously_hinders_anybody(browser: Browser, lively: tuple[Site, list[str]], scheme: Any) -> None:
    site, pages = lively
    with looking(browser, site, color_scheme=scheme, locale="ja-JP" if scheme == "dark" else "en-US") as eye:
        for number, path in enumerate(pages):
            eye.open(path)
            eye.picture(f"{scheme}-{number}")
            assert eye.barriers() == [], path
        eye.wrong = [wrong for wrong in eye.wrong if "404" not in wrong]  # of the page that is not there


def test_a_phone_need_not_scroll_sideways(browser: Browser, lively: tuple[Site, list[str]]) -> None:
    site, pages = lively
    with looking(browser, site, viewport={"width": 375, "height": 700}, has_touch=True) as eye:
        for number, path in enumerate(pages[:-1]):
            page = eye.open(path)
            eye.picture(f"phone-{number}")
            assert page.evaluate("document.documentElement.scrollWidth") <= 375, path


def test_everything_works_without_scripts(browser: Browser, site: Site) -> None:
    task = create(site, name="May report")
    create(site, name="June report")
    with looking(browser, site, java_script_enabled=False) as eye:
        page = eye.page
        page.goto(f"{site.origin}/dashboard/tasks?tenant=acme")
        page.get_by_label("Name or code contains").fill("may")
        page.get_by_role("button", name="Apply").click()
        expect(page.locator("tbody tr")).to_have_count(1)
        page.get_by_label("Select May report").check()
        page.get_by_role("button", name="Cancel…").click()
        page.get_by_role("button", name="Cancel the tasks").click()
        expect(page.locator("tbody .s-CANCELLED")).to_have_count(1)
        page.get_by_role("link", name="May report").click()
        page.get_by_role("button", name="Retry").click()
        expect(page.locator(".headline .status")).to_have_text("Pending")
    assert site.call(site.module.task_service.get_task(task.key)).run == 2


def test_the_keyboard_reaches_everything(browser: Browser, lively: tuple[Site, list[str]]) -> None:
    site, pages = lively
    with looking(browser, site) as eye:
        page = eye.open(pages[5])
        page.keyboard.press("Tab")
        expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
        page.keyboard.press("Enter")
        assert page.url.endswith("#content")
        reached = set()
        for _ in range(40):
            page.keyboard.press("Tab")
            reached.add(
                page.evaluate("document.activeElement.closest('svg.grid') ? 'grid' : document.activeElement.name")
            )
        assert {"grid", "first", "last"} <= reached


def test_a_pause_is_made_and_ended(browser: Browser, site: Site) -> None:
    create(site)
    with looking(browser, site) as eye:
        page = eye.open("/queues")
        page.get_by_label("What to pause").fill("report")
        page.get_by_label("Reason").fill("a new version")
        page.get_by_role("button", name="Pause", exact=True).click()
        expect(page.locator(".s-paused")).to_be_visible()
        eye.picture("queues")
        page.get_by_role("button", name="Resume report").click()
        expect(page.get_by_text("Nothing is paused.")).to_be_visible()
        assert re.search(r"/queues\?done=resume", page.url)
