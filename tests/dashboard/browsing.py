"""A real browser, and a real server with a worker for it to look at."""

import asyncio
import base64
import shutil
import socket
import threading
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any, Final, TypeVar

import uvicorn
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, Request, sync_playwright

from taskloom import TaskModule

ResultT = TypeVar("ResultT")
PATIENCE: Final = 30.0
SCREENSHOTS: Final = Path(__file__).parents[2] / "screenshots"
"""Where each run leaves its pictures, to be looked at; git ignores it."""
NAMES: Final = ("chromium", "chromium-browser", "google-chrome")
HARMLESS: Final = frozenset({"minor", "moderate", None})


@contextmanager
def chromium() -> Iterator[Browser]:
    """The browser of this system. While it runs, this thread has an event loop, so nothing else may start one."""
    found = next(filter(None, map(shutil.which, NAMES)), None)
    assert found, f"none of {', '.join(NAMES)} is installed; on Debian and Ubuntu: apt-get install chromium"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield browser
        browser.close()


class Site:
    """The web application of *module*, and a worker beside it, in an event loop of their own."""

    def __init__(self, module: TaskModule, **app: Any) -> None:
        self.module = module
        self._app = app
        self._loop = asyncio.new_event_loop()
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.origin = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve, name="site")
        self._server: uvicorn.Server | None = None
        self._is_up = threading.Event()
        self._working: list[asyncio.Task[None]] = []

    def __enter__(self) -> "Site":
        self._thread.start()
        assert self._is_up.wait(PATIENCE)
        return self

    def __exit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.should_exit = True
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()
        self._socket.close()

    def call(self, what: Coroutine[Any, Any, ResultT]) -> ResultT:
        """The result of *what*, which runs in the loop of the site."""
        return asyncio.run_coroutine_threadsafe(what, self._loop).result(PATIENCE)

    def work(self) -> None:
        """Begin to work off tasks."""

        async def begin() -> None:
            self._working.append(asyncio.create_task(self._work()))

        self.call(begin())

    def _serve(self) -> None:
        config = uvicorn.Config(
            self.module.asgi_app(**self._app), ws="none", log_config=None, timeout_graceful_shutdown=1
        )
        self._server = uvicorn.Server(config)

        async def run() -> None:
            assert self._server is not None
            serving = asyncio.create_task(self._server.serve([self._socket]))
            self._loop.call_soon(self._is_up.set)
            await serving
            for working in self._working:
                working.cancel()
            await asyncio.gather(*self._working, return_exceptions=True)

        try:
            self._loop.run_until_complete(run())
        finally:
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
            self._loop.close()

    async def _work(self) -> None:
        async with self.module.worker(concurrency=4, grace=0) as worker:
            await worker.run()


class Eye:
    """A page, and everything that went wrong on it."""

    def __init__(self, context: BrowserContext, site: Site) -> None:
        self.page: Page = context.new_page()
        self.page.set_default_timeout(PATIENCE * 1000)
        self.site = site
        self.wrong: list[str] = []
        self.page.on("console", self._said)
        self.page.on("pageerror", lambda error: self.wrong.append(f"error: {error}"))
        self.page.on("request", self._asked)

    def _said(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.wrong.append(f"console: {message.text}")

    def _asked(self, request: Request) -> None:
        if not request.url.startswith(self.site.origin):
            self.wrong.append(f"asked {request.url}")

    def open(self, path: str) -> Page:
        """The page at this path of the dashboard. It is marked, so that a reload can be told."""
        self.page.goto(f"{self.site.origin}/dashboard{path}")
        return self.mark()

    def mark(self) -> Page:
        """Mark the page that is open."""
        self.page.evaluate("window.marked = true")
        return self.page

    @property
    def is_same_page(self) -> bool:
        """Whether the page that was marked is still there: nothing has reloaded it."""
        return bool(self.page.evaluate("window.marked === true"))

    def picture(self, name: str) -> None:
        """Keep what is to be seen, the whole page."""
        SCREENSHOTS.mkdir(exist_ok=True)
        session = self.page.context.new_cdp_session(self.page)  # a screenshot of Playwright adds a style of its own
        shot = session.send(
            "Page.captureScreenshot", {"captureBeyondViewport": True, "format": "png", "clip": self._whole()}
        )
        (SCREENSHOTS / f"{name}.png").write_bytes(base64.b64decode(shot["data"]))
        session.detach()

    def _whole(self) -> dict[str, float]:
        size = self.page.evaluate("[document.documentElement.clientWidth, document.documentElement.scrollHeight]")
        return {"x": 0, "y": 0, "width": size[0], "height": size[1], "scale": 1}

    def barriers(self) -> Sequence[str]:
        """What hinders people, seriously, as axe finds it."""
        self.page.evaluate(_axe())
        found = self.page.evaluate("axe.run(document, {resultTypes: ['violations']})")
        return [
            f"{violation['id']} ({violation['impact']}): {[node['html'][:200] for node in violation['nodes']][:3]}"
            for violation in found["violations"]
            if violation["impact"] not in HARMLESS
        ]


@contextmanager
def looking(browser: Browser, site: Site, **options: Any) -> Iterator[Eye]:
    """A fresh window; nothing may have gone wrong in it in the end."""
    options.setdefault("viewport", {"width": 1280, "height": 900})
    context = browser.new_context(**options)
    try:
        eye = Eye(context, site)
        yield eye
        assert eye.wrong == []
    finally:
        context.close()


def _axe() -> str:
    return files("axe_playwright_python").joinpath("axe.min.js").read_text()
