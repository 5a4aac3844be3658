"""The pages as they are sent: what they hold, what they never hold, and who gets them."""

import asyncio
import json
import logging
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.routing import Mount

from taskloom import InvokeContext, Settings, StepFunctionTaskEvent, TaskKey, TaskQueueEvent, TaskStatus
from tests.dashboard.visiting import Visitor, path_of, text_of, visiting
from tests.surface.running import MakeModule, drained
from tests.web.tokens import AUDIENCE, ISSUER, Issuer, unsigned, with_broken_signature

EVIL = "<script>alert(1)</script><img src=x onerror=alert(2)>'\"&{{7*7}}"
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'"
)
VOID = {"meta", "link", "input", "img", "br"}


class Markup(HTMLParser):
    """Looks at tags as a browser does."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open
        assert self.open.pop() == tag


def check_markup(html: str) -> Markup:
    """No script but ours, nothing inline, nothing from elsewhere, every tag closed, every id once."""
    markup = Markup(html)
    assert markup.open == []
    ids = [attributes["id"] for _, attributes in markup.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    for tag, attributes in markup.tags:
        assert tag not in ("img", "iframe", "style", "object", "embed")
        assert "style" not in attributes
        assert not [name for name in attributes if name.startswith(("on", "hx-on"))]
        if tag == "script":
            assert (attributes["src"] or "").startswith("/dashboard/static/")
        for name in ("href", "src", "action", "hx-get", "formaction"):
            assert (attributes.get(name) or "/").startswith(("/dashboard", "#content", "?", "/"))
            assert not (attributes.get(name) or "").startswith("//")
    return markup


async def every_page(visitor: Visitor, keys: list[TaskKey]) -> list[str]:
    """Each page that shows something of these tasks."""
    paths = ["", "/tasks?tenant=acme", "/queues", "/tasks?tenant=acme&text=" + "%3Cscript%3E"]
    for key in keys:
        paths += [path_of(key)]
        if key.pk.startswith("SFN_TASK") and key.parts.index is None:
            paths += [path_of(key) + "/fan-out", path_of(key) + "/fan-out?first=0&end=2"]
    return [(await visitor.get(path)).text for path in paths]


# --- values are never HTML -------------------------------------------------------------------------------------------


def test_what_users_give_is_never_html(make_module: MakeModule) -> None:
    """A script in every field that somebody can fill: none becomes a tag."""
    module = make_module()

    @module.task("job")
    def job(event: TaskQueueEvent) -> None:
        event.progress(1, 2, EVIL)
        event.log.warning(EVIL, extra={EVIL: EVIL})
        try:
            raise KeyError(EVIL)
        except KeyError:
            event.log.exception(EVIL)
        raise ValueError(EVIL)

    @module.step_function_task("many")
    def many(event: StepFunctionTaskEvent) -> Any:
        if event.input.input == 0:
            raise ValueError(EVIL)
        return {EVIL: EVIL}

    async def story() -> None:
        service, who = module.task_service, InvokeContext(user_id=EVIL, source_ip=EVIL[:40], request_id=EVIL)
        given: dict[str, Any] = {"tenant_code": "acme", "name": EVIL, "invoke_context": who}
        single = await service.create_task(task_type="job", input={EVIL: [EVIL]}, **given)
        waiting = await service.create_task(task_type="other", input=EVIL, **given)
        parent = await service.create_step_function_task(task_type="many", input=[0, EVIL], **given)
        await drained(module)
        await service.cancel_task(waiting.key, reason=EVIL, by=EVIL)
        await service.queues.pause(tenant_code="acme", reason=EVIL, by=EVIL)
        keys = [single.key, waiting.key, parent.key]
        keys += [sub_task.key for sub_task in (await service.list_sub_tasks(parent.key)).items]
        async with visiting(module) as visitor:
            pages = await every_page(visitor, keys)
            confirmation = await visitor.send("/confirm?tenant=acme", {"action": "cancel", "task": single.id}, 200)
        shown = 0
        for html in [*pages, confirmation.text]:
            check_markup(html)
            assert "<script>alert" not in html
            assert "<img" not in html
            shown += html.count("&lt;script&gt;alert(1)")
        assert shown > 30

    asyncio.run(story())


def test_a_bad_address_is_shown_as_text(make_module: MakeModule) -> None:
    module = make_module()

    async def story() -> None:
        async with visiting(module) as visitor:
            for path in (
                "/tasks?tenant=acme&status=%3Cscript%3Ealert(1)%3C/script%3E",
                "/tasks?tenant=%3Cscript%3E",
                "/tasks?tenant=acme&task_type=%3Cscript%3E",
                "/tasks?tenant=acme&since=%3Cscript%3E",
                "/tasks/%3Cscript%3E/x",
                "/queues?after=%3Cscript%3E",
            ):
                html = (await visitor.get(path, 400)).text
                check_markup(html)
                assert "<script>" not in html

    asyncio.run(story())


# --- headers ---------------------------------------------------------------------------------------------------------


def test_every_answer_keeps_foreign_code_out(make_module: MakeModule) -> None:
    module = make_module()

    async def story() -> None:
        task = await module.task_service.create_task(tenant_code="acme", task_type="job")
        async with visiting(module) as visitor:
            for path, status in (
                ("", 200),
                ("/", 200),
                ("/tasks", 200),
                ("/tasks?tenant=acme&part=tasks", 200),
                (path_of(task.key), 200),
                (path_of(task.key) + "/values/input", 200),
                (path_of(task.key) + "/fan-out", 400),
                ("/queues", 200),
                ("/tasks/TASK%23acme/job%2301JTZ3ABCDEFGHJKMNPQRSTVWX", 404),
                ("/static/dashboard.css", 200),
                ("/static/dashboard.js", 200),
                ("/static/vendor/htmx.min.js", 200),
                ("/static/..%2fframe.py", 404),
                ("/nothing/of/this/kind", 404),
                ("/static/templates/base.html", 404),
            ):
                response = await visitor.get(path, status)
                assert response.headers["content-security-policy"] == POLICY
                assert response.headers["x-content-type-options"] == "nosniff"
                assert response.headers["cache-control"] in ("no-store", "no-cache")

    asyncio.run(story())


def test_cookies_are_out_of_reach_of_scripts_and_other_sites(make_module: MakeModule) -> None:
    module = make_module()

    async def story() -> None:
        async with visiting(module) as visitor:
            form = (await visitor.get("/tasks?tenant=acme")).headers.get_list("set-cookie")
            assert sorted(cookie.partition("=")[0] for cookie in form) == ["taskloom_form", "taskloom_tenant"]
            for cookie in form:
                assert "httponly" in cookie.lower()
                assert "samesite=strict" in cookie.lower() or cookie.startswith("taskloom_tenant")
                assert "path=/dashboard" in cookie.lower()

    asyncio.run(story())


def test_an_asset_is_sent_once(make_module: MakeModule) -> None:
    module = make_module()

    async def story() -> None:
        async with visiting(module) as visitor:
            tag = (await visitor.get("/static/dashboard.css")).headers["etag"]
            assert (await visitor.get("/static/dashboard.css", 304, **{"if-none-match": tag})).content == b""

    asyncio.run(story())


# --- forgery ---------------------------------------------------------------------------------------------------------


def test_a_form_counts_only_with_the_token_of_its_browser(make_module: MakeModule) -> None:
    module = make_module()

    async def story() -> None:
        service = module.task_service
        task = await service.create_task(tenant_code="acme", task_type="job")
        fields = {"task": task.id}
        async with visiting(module) as mine, visiting(module) as other:
            assert "not sent from this dashboard" in text_of((await mine.post("/cancel", fields, 403)).text)
            page = (await mine.get("/tasks?tenant=acme")).text
            await other.get("/tasks?tenant=acme")
            (token,) = set(re.findall(r'name="form" value="([^"]+)"', page))
            await other.post("/cancel", {**fields, "form": token}, 403)
            await mine.post("/cancel", {**fields, "form": token + "x"}, 403)
            await mine.post("/cancel", {**fields, "form": token}, 403, origin="https://evil.example")
            await mine.post("/cancel", {**fields, "form": token}, 403, origin="null")
            await mine.post("/cancel", {**fields, "form": token}, 400, **{"content-type": "text/plain"})
            await mine.get("/cancel", 404)
            assert (await service.get_task(task.key)).status is TaskStatus.PENDING
            await mine.post("/cancel", {**fields, "form": token})
            assert (await service.get_task(task.key)).status is TaskStatus.CANCELLED

    asyncio.run(story())


def test_a_form_of_another_site_is_refused_however_the_caller_is_known(make_module: MakeModule) -> None:
    module = make_module()

    async def story() -> None:
        task = await module.task_service.create_task(tenant_code="acme", task_type="job")
        async with visiting(module, "ann acme operator") as visitor:
            await visitor.send("/cancel", {"task": task.id}, 403, origin="https://evil.example")
            await visitor.send("/cancel", {"task": task.id})

    asyncio.run(story())


@pytest.mark.parametrize(
    "back",
    ["https://evil.example", "//evil.example", "/dashboard\\..", "/dashboardx", "/tasks", "", "/dashboard\r\nx:y"],
)
def test_the_way_back_leads_to_the_dashboard(make_module: MakeModule, back: str) -> None:
    module = make_module()

    async def story() -> None:
        task = await module.task_service.create_task(tenant_code="acme", task_type="job")
        async with visiting(module) as visitor:
            await visitor.get("/tasks?tenant=acme")
            sent = await visitor.send("/cancel", {"task": task.id, "back": back})
            assert sent.headers["location"] == "/dashboard?done=cancel&count=1"
            moved = await visitor.client.get("/dashboard/language", params={"to": "ja", "back": back})
            assert (moved.status_code, moved.headers["location"]) == (303, "/dashboard")

    asyncio.run(story())


# --- who sees what ---------------------------------------------------------------------------------------------------

PAGES = ("", "/tasks", "{task}", "{task}/values/input", "{fan}/fan-out", "/queues")
FORMS = ("/confirm", "/cancel", "/retry", "/pause", "/resume", "/redrive")
MAY = {
    # caller: pages that answer 200, forms that answer 303 (or the question of /confirm)
    "ann acme viewer": (PAGES[:5], ()),
    "ann acme operator": (PAGES[:5], FORMS[:3]),
    "ann acme admin": (PAGES, FORMS),
    "ann acme": ((), ()),
    "ann umbrella admin": (("", "/tasks", "/queues"), ()),
    "ann - admin": (("", "/tasks"), ()),
    "ann umbrella admin support": (PAGES, FORMS),
    "ann - admin support": (PAGES, FORMS),
}
FIELDS: dict[str, dict[str, str]] = {
    "/confirm": {"action": "cancel"},
    "/pause": {"scope": "tenant", "name": "acme"},
    "/resume": {"scope": "tenant", "name": "acme"},
}


@pytest.mark.parametrize("caller", MAY)
def test_pages_and_forms_are_for_those_who_may(make_module: MakeModule, database: Any, caller: str) -> None:
    """And whoever may not learns nothing: the answer is the same for a task that is not there."""
    module = make_module(settings=Settings(database=database, cross_tenant_roles=("support",)))
    pages, forms = MAY[caller]

    async def story() -> None:
        service = module.task_service
        task = await service.create_task(tenant_code="acme", task_type="job", name="secret-name")
        fan = await service.create_step_function_task(tenant_code="acme", task_type="fan", input=[1], name="secret-fan")
        absent = path_of(TaskKey.single("acme", "job", "01JTZ3ABCDEFGHJKMNPQRSTVWX"))
        async with visiting(module, caller) as visitor:
            for page in PAGES:
                path = page.format(task=path_of(task.key), fan=path_of(fan.key))
                response = await visitor.get(path, 200 if page in pages else 403)
                if page not in pages or ("umbrella" in caller and "support" not in caller):
                    assert "secret" not in response.text
            if "{task}" not in pages:
                refused = [(await visitor.get(path, 403)).text for path in (path_of(task.key), absent)]
                first, second = (re.sub(r"back=\S+|<time.*?</time>|value=\"[^\"]*\"", "", html) for html in refused)
                assert first == second
            for form in FORMS:
                fields = {"task": task.id, **FIELDS.get(form, {})}
                status = 403 if form not in forms else 200 if form == "/confirm" else 303
                if form == "/redrive" and caller == "ann umbrella admin":
                    status = 303  # of its own tenant's letters, of which there are none
                await visitor.send(form, fields, status)
        ended = (await service.get_task(task.key)).status is not TaskStatus.PENDING
        assert ended is ("/cancel" in forms and "/retry" not in forms)

    asyncio.run(story())


def test_a_tenant_sees_nothing_of_others(make_module: MakeModule) -> None:
    """Neither in figures, nor in what workers run, nor in pauses (rule 7)."""
    module = make_module()
    for type_ in ("acme-type", "umbrella-type"):
        module.task(type_)(lambda event: None)

    async def story() -> None:
        service = module.task_service
        for tenant in ("acme", "umbrella"):
            for _ in range(3):
                await service.create_task(tenant_code=tenant, task_type=f"{tenant}-type", name=f"{tenant}-name")
            await service.queues.pause(tenant_code=tenant, reason=f"{tenant}-reason")
            await service.queues.pause(task_type=f"{tenant}-type")
        async with visiting(module, "ann acme admin") as visitor, module.worker(task_types=["umbrella-type"]):
            for path in ("", "/tasks", "/queues"):
                html = (await visitor.get(path)).text
                assert "umbrella" not in html
            assert re.search(r"Workers alive</span><b>1</b>", (await visitor.get("")).text)
            assert text_of((await visitor.get("/queues")).text).count("acme-type") >= 2  # in the queue, and paused
            assert "acme-reason" in (await visitor.get("/queues")).text
            assert re.search(r"Waiting</span><b>3</b>", (await visitor.get("")).text)
            refused = text_of((await visitor.get("/tasks?tenant=umbrella", 403)).text)
            assert "umbrella" not in refused
            await visitor.send("/pause", {"scope": "type", "name": "acme-type"}, 403)

    asyncio.run(story())


def test_a_form_with_a_foreign_task_does_nothing_at_all(make_module: MakeModule) -> None:
    module = make_module()

    async def story() -> None:
        service = module.task_service
        mine = await service.create_task(tenant_code="acme", task_type="job")
        foreign = await service.create_task(tenant_code="umbrella", task_type="job")
        async with visiting(module, "ann acme operator") as visitor:
            await visitor.send("/cancel", {"task": [mine.id, foreign.id]}, 403)
        for task in (mine, foreign):
            assert (await service.get_task(task.key)).status is TaskStatus.PENDING

    asyncio.run(story())


def test_strangers_are_refused_and_that_is_logged(make_module: MakeModule, caplog: pytest.LogCaptureFixture) -> None:
    module = make_module()

    async def story() -> None:
        async with visiting(module, authenticate=lambda request: None) as visitor:
            for path in ("", "/tasks?tenant=acme", "/queues"):
                html = (await visitor.get(path, 401)).text
                check_markup(html)
                assert "acme" not in text_of(html)

    with caplog.at_level(logging.WARNING):
        asyncio.run(story())
    assert [record.getMessage() for record in caplog.records] == ["a request was refused"] * 3


# --- what pages hold -------------------------------------------------------------------------------------------------


def test_a_page_is_whole_without_scripts(make_module: MakeModule) -> None:
    module = make_module()

    @module.task("job")
    def job(event: TaskQueueEvent) -> dict[str, int]:
        event.log.info("half way", extra={"page": 7})
        return {"answer": 42}

    async def story() -> None:
        task = await module.task_service.create_task(tenant_code="acme", task_type="job", name="Mine", input={"a": [1]})
        async with visiting(module) as visitor:
            await visitor.get("/tasks?tenant=acme")
            assert 'http-equiv="refresh"' in (await visitor.get(path_of(task.key))).text
            await drained(module)
            html = (await visitor.get(path_of(task.key))).text
            assert 'http-equiv="refresh"' not in html  # it has ended
            for text in ("Mine", "Completed", '"answer": 42', '"a": [', "half way", "page=7", "attempt 1"):
                assert text in text_of(html)
            row = text_of((await visitor.get("/tasks")).text)
            assert "Mine job" in row
            assert task.code in row

    asyncio.run(story())


def test_times_are_utc_and_say_so(make_module: MakeModule, clock: Any) -> None:
    module = make_module(clock=clock)

    async def story() -> None:
        await module.task_service.create_task(tenant_code="acme", task_type="job")
        async with visiting(module) as visitor:
            html = (await visitor.get("/tasks?tenant=acme")).text
            assert (
                '<time datetime="2026-05-01T12:00:00.000Z" title="2026-05-01 12:00:00.000 UTC" data-form="full">'
                "2026-05-01 12:00:00</time>"
            ) in html

    asyncio.run(story())


def test_a_task_that_is_kept_for_a_while_says_how_long(make_module: MakeModule, clock: Any) -> None:
    module = make_module(clock=clock)
    module.task("job")(lambda event: None)

    async def story() -> None:
        task = await module.task_service.create_task(tenant_code="acme", task_type="job", ttl=3600)
        page = f"/tasks/{task.pk}/{task.sk}".replace("#", "%23")
        async with visiting(module) as visitor:
            assert "Kept until" not in (await visitor.get(page)).text
            async with module.worker() as worker:
                await worker.drain()
            assert "Kept until 2026-05-01 13:00:00" in text_of((await visitor.get(page)).text)

    asyncio.run(story())


def test_a_region_is_sent_only_when_it_changed(make_module: MakeModule) -> None:
    module = make_module()

    async def story() -> None:
        task = await module.task_service.create_task(tenant_code="acme", task_type="job")
        async with visiting(module) as visitor:
            page = check_markup((await visitor.get("/tasks?tenant=acme&task_type=job")).text)
            (url,) = [attributes["hx-get"] for _, attributes in page.tags if "hx-get" in attributes]
            assert url is not None
            again = url.removeprefix("/dashboard")
            assert (await visitor.get(again, 204)).text == ""
            await module.task_service.cancel_task(task.key)
            part = (await visitor.get(again)).text
            assert "Cancelled" in text_of(part)
            (url,) = [attributes["hx-get"] for _, attributes in check_markup(part).tags if "hx-get" in attributes]
            assert url is not None
            await visitor.get(url.removeprefix("/dashboard"), 204)

    asyncio.run(story())


def test_values_can_be_downloaded_whole(make_module: MakeModule) -> None:
    module = make_module()
    value = {"text": "ä" * 100_000}
    module.task("job")(lambda event: event.task.input)

    async def story() -> None:
        task = await module.task_service.create_task(tenant_code="acme", task_type="job", input=value)
        await drained(module)
        async with visiting(module) as visitor:
            html = (await visitor.get(path_of(task.key))).text
            assert len(html) < 200_000
            assert html.count("<summary>") == 2
            for name in ("input", "result"):
                response = await visitor.get(f"{path_of(task.key)}/values/{name}")
                assert json.loads(response.text) == value
                assert response.headers["content-type"] == "application/json"
                assert response.headers["content-disposition"] == f'attachment; filename="{task.code}-{name}.json"'
            await visitor.get(f"{path_of(task.key)}/values/claim_id", 404)

    asyncio.run(story())


def test_many_tasks_are_cancelled_and_retried_after_a_question(make_module: MakeModule) -> None:
    module = make_module()
    module.task("job")(lambda event: None)

    async def story() -> None:
        service = module.task_service
        tasks = [await service.create_task(tenant_code="acme", task_type="job", name=f"T{n}") for n in range(3)]
        await drained(module)  # the first ones have ended, so they cannot be cancelled
        tasks += [await service.create_task(tenant_code="acme", task_type="job", name=f"T{n}") for n in range(3, 5)]
        named = {"task": [task.id for task in tasks], "back": "/dashboard/tasks?tenant=acme"}
        async with visiting(module) as visitor:
            await visitor.get("/tasks?tenant=acme")
            question = await visitor.send("/confirm", {"action": "cancel", **named}, 200)
            assert "Cancel these tasks (5)?" in text_of(question.text)
            assert (await service.get_task(tasks[4].key)).status is TaskStatus.PENDING
            sent = await visitor.send("/cancel", {"reason": "too late", **named})
            assert sent.headers["location"] == "/dashboard/tasks?tenant=acme&done=cancel&count=2&left=3"
            notice = text_of((await visitor.get(sent.headers["location"].removeprefix("/dashboard"))).text)
            assert "Cancelled: 2." in notice
            last = (await service.get_task(tasks[4].key)).history[-1]
            assert (last.status, last.reason, last.by) == (TaskStatus.CANCELLED, "cancelled: too late", "dashboard")
            sent = await visitor.send("/retry", named)
            assert sent.headers["location"].endswith("done=retry&count=2&left=3")
            assert (await service.get_task(tasks[4].key)).run == 2
            nothing = await visitor.send("/confirm", {"action": "cancel", "back": "/dashboard/tasks"})
            assert nothing.headers["location"] == "/dashboard/tasks"
            too_many = {"task": [TaskKey.single("acme", "job", f"{n:026d}").id for n in range(501)]}
            await visitor.send("/cancel", too_many, 400)

    asyncio.run(story())


def test_queues_are_paused_and_resumed(make_module: MakeModule) -> None:
    module = make_module()

    async def story() -> None:
        queues = module.task_service.queues
        await module.task_service.create_task(tenant_code="acme", task_type="job")
        async with visiting(module) as visitor:
            await visitor.get("/tasks?tenant=acme")
            await visitor.send("/pause", {"scope": "type", "name": "job", "reason": "a new version"})
            html = text_of((await visitor.get("/queues")).text)
            assert "job paused" in html
            assert "a new version" in html
            (pause,) = await queues.pauses()
            assert (pause.name, pause.by) == ("job", "dashboard")
            await visitor.send("/pause", {"scope": "nothing", "name": "job"}, 400)
            await visitor.send("/resume", {"scope": "type", "name": "job"})
            assert await queues.pauses() == []

    asyncio.run(story())


def test_a_wrong_part_of_a_fan_out_is_refused(make_module: MakeModule) -> None:
    module = make_module()

    async def story() -> None:
        parent = await module.task_service.create_step_function_task(
            tenant_code="acme", task_type="fan", input=range(30)
        )
        path = path_of(parent.key) + "/fan-out"
        async with visiting(module) as visitor:
            await visitor.get("/tasks?tenant=acme")
            assert "Sub-tasks 10 to 19 of 30" in text_of((await visitor.get(f"{path}?first=10&last=19")).text)
            assert "Sub-tasks 29 to 29 of 30" in text_of((await visitor.get(f"{path}?first=1000&end=2000")).text)
            for query in ("first=x", "end=-1", "first=9&last=3", "at=x", "at=99999999", "first=²"):
                await visitor.get(f"{path}?{query}", 400)
            moved = await visitor.get(f"{path}?at=7", 303)
            sub_task = TaskKey.sub_task("acme", "fan", parent.code, 7)
            assert moved.headers["location"] == f"/dashboard{path_of(sub_task)}?tenant=acme"
            html = (await visitor.get(path_of(sub_task))).text
            assert "Pending" in text_of(html)

    asyncio.run(story())


def test_links_follow_to_where_the_application_lies(make_module: MakeModule) -> None:
    module = make_module(enable_controller=True)

    async def story() -> None:
        task = await module.task_service.create_task(tenant_code="acme", task_type="job")
        app = Starlette(routes=[Mount("/below", module.asgi_app())])
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1/below") as client:
            for path in ("", "/tasks?tenant=acme", path_of(task.key), "/queues"):
                response = await client.get(f"/dashboard{path}")
                assert response.status_code == 200
                cookies = response.headers.get_list("set-cookie")
                assert all("Path=/below/dashboard" in cookie for cookie in cookies)
                assert cookies or path
                for tag, attributes in Markup(response.text).tags:
                    for name in ("href", "src", "action", "hx-get", "data-events"):
                        address = attributes.get(name)
                        if address and tag != "meta" and address[0] not in "#?":
                            assert address.startswith("/below/"), (tag, address)

    asyncio.run(story())


def test_a_window_keeps_its_tenant_though_another_one_changes_it(make_module: MakeModule) -> None:
    """The tenant that was chosen last is remembered, for pages that name none."""
    module = make_module()

    async def story() -> None:
        for tenant in ("acme", "umbrella"):
            await module.task_service.create_task(tenant_code=tenant, task_type="job", name=f"{tenant}-name")
        async with visiting(module) as visitor:
            await visitor.get("/tasks?tenant=acme")
            page = Markup((await visitor.get("/tasks")).text)
            (url,) = [attributes["hx-get"] for _, attributes in page.tags if "hx-get" in attributes]
            await visitor.get("/tasks?tenant=umbrella")
            assert "umbrella-name" in (await visitor.get("/tasks")).text
            assert url is not None
            part = await visitor.get(url.removeprefix("/dashboard").partition("&seen")[0])
            assert "acme-name" in part.text

    asyncio.run(story())


def test_the_language_follows_the_browser_until_one_is_chosen(make_module: MakeModule) -> None:
    module = make_module()

    async def story() -> None:
        async with visiting(module, **{"accept-language": "ja,en;q=0.5"}) as visitor:
            html = (await visitor.get("/tasks")).text
            assert '<html lang="ja">' in html
            assert "テナント" in html
            moved = await visitor.get("/language?to=en&back=/dashboard/tasks", 303)
            assert moved.headers["location"] == "/dashboard/tasks"
            assert '<html lang="en">' in (await visitor.get("/tasks")).text
            await visitor.get("/language?to=xx&back=/dashboard/tasks", 303)
            assert '<html lang="en">' in (await visitor.get("/tasks")).text

    asyncio.run(story())


# --- signing in ------------------------------------------------------------------------------------------------------


def test_a_token_is_checked_and_kept_until_one_signs_out(
    make_module: MakeModule, database: Path, tmp_path: Path
) -> None:
    issuer = Issuer()
    settings = Settings(
        database=database,
        auth="jwt",
        auth_issuer=ISSUER,
        auth_audience=AUDIENCE,
        auth_jwks=issuer.write(tmp_path),
    )
    module = make_module(settings=settings)

    async def story() -> None:
        await module.task_service.create_task(tenant_code="acme", task_type="job", name="Mine")
        async with visiting(module) as visitor:
            page = await visitor.get("/tasks", 401)
            check_markup(page.text)
            (form,) = set(re.findall(r'name="form" value="([^"]+)"', page.text))
            back = {"form": form, "back": "/dashboard/tasks"}
            for wrong in (
                "",
                "nonsense",
                "a b; c=d",
                unsigned(issuer.token(tenant="acme")),
                with_broken_signature(issuer.token(tenant="acme")),
                issuer.token(tenant="acme", expires_in=-3600),
                issuer.token(tenant="acme", aud="others"),
            ):
                refused = await visitor.post("/sign-in", {**back, "token": wrong}, 401)
                assert "not accepted" in text_of(refused.text)
                assert "set-cookie" not in refused.headers
            token = issuer.token(user="mari", tenant="acme", roles=("viewer",))
            await visitor.post("/sign-in", {"token": token, "back": "/dashboard/tasks"}, 403)  # without our form
            signed_in = await visitor.post("/sign-in", {**back, "token": token})
            assert signed_in.headers["location"] == "/dashboard/tasks"
            assert "HttpOnly" in signed_in.headers["set-cookie"]
            html = text_of((await visitor.get("/tasks")).text)
            assert "Signed in as mari" in html
            assert "Mine" in html
            assert "Cancel…" not in html  # for a viewer only looks
            await visitor.post("/sign-out", back)
            await visitor.get("/tasks", 401)

    asyncio.run(story())
