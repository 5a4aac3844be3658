"""Webhooks: what a worker posts."""

import asyncio
import json
from collections.abc import Sequence
from datetime import datetime, timedelta
from importlib.metadata import version
from typing import Final
from urllib.parse import urlsplit

from taskloom.execution.threads import HandlerThreads
from taskloom.notifications.http import DeliveryFailed, NoAnswer, Post, Resolver, system_resolver
from taskloom.notifications.message import message
from taskloom.notifications.pump import KEEP, Pump, Terms, Undeliverable
from taskloom.notifications.threads import PumpThread
from taskloom.ports import NOTIFY_URL, Backend, Listener, Notice
from taskloom.webhooks import ATTEMPT, EVENT_ID, SIGNATURE, WEBHOOK_RETRY, Webhook, checked_url, signature

TIMEOUT: Final = timedelta(seconds=15)
"""Of one post, from resolving the name to the end of the answer."""
STEP_SECONDS: Final = 10.0
"""Of a single step of it, such as connecting."""
AT_ONCE: Final = 8
"""Posts of one webhook at a time; of all addresses of tasks together."""
REST: Final = timedelta(seconds=30)
"""How long the address of a task is left alone whose receiver did not answer: it must not hold up the others."""
MAX_RESTING: Final = 1000
"""Of them that are remembered."""


class WebhookDelivery:
    """Posts what waits for the webhooks of one module, and for tasks with an address of their own."""

    def __init__(
        self,
        backend: Backend,
        webhooks: Sequence[Webhook],
        *,
        secret: str | None,
        allow_private: bool,
        resolve: Resolver = system_resolver,
    ) -> None:
        self._backend = backend
        self._webhooks = webhooks
        self._secret = secret
        self._allow_private = allow_private
        self._resolve = resolve
        self._threads = HandlerThreads("taskloom-webhook")
        self._resting: dict[str, datetime] = {}
        self._thread: PumpThread | None = None

    def start(self) -> None:
        """Begin, if there is anything that could ever be posted."""
        pumps = [
            self._pump(Listener(name=webhook.listener(), filter=webhook.filter()), webhook)
            for webhook in self._webhooks
        ]
        if self._secret is not None:
            pumps.append(self._pump(Listener(name=NOTIFY_URL), None))
        if pumps:
            self._thread = PumpThread("taskloom-webhooks", pumps)

    def stop(self) -> None:
        """End; what is not delivered is left to another worker. Blocks for a few seconds at most."""
        thread, self._thread = self._thread, None
        if thread is not None:
            thread.stop()
            thread.join()

    def _pump(self, listener: Listener, webhook: Webhook | None) -> Pump:
        retry = WEBHOOK_RETRY if webhook is None else webhook.retry
        terms = Terms(keep=KEEP, retry=retry, timeout=TIMEOUT, at_once=AT_ONCE)

        async def deliver(notice: Notice) -> None:
            if webhook is None:
                await self._post_to_task(notice)
            else:
                await self._post(notice, webhook)

        return Pump(self._backend, listener, terms, deliver)

    async def _post_to_task(self, notice: Notice) -> None:
        """Post to the address of a task, unless its receiver has just not answered."""
        host, clock = urlsplit(notice.url or "").netloc, self._backend.clock
        until = self._resting.get(host)
        if until is not None and until > clock.now():
            raise DeliveryFailed("it was not tried: the receiver had just not answered")
        try:
            await self._post(notice, None)
        except (NoAnswer, asyncio.CancelledError):  # the latter when it takes too long
            if len(self._resting) >= MAX_RESTING:
                self._resting.clear()
            self._resting[host] = clock.now() + REST
            raise
        self._resting.pop(host, None)

    async def _post(self, notice: Notice, webhook: Webhook | None) -> None:
        url = notice.url if webhook is None else webhook.url
        secret = self._secret if webhook is None or webhook.secret is None else webhook.secret
        if url is None or secret is None:
            raise Undeliverable("it has no address, or no secret")
        body = json.dumps(message(notice), ensure_ascii=False, separators=(",", ":")).encode()
        headers = {
            "Content-Type": "application/json",
            "User-Agent": f"taskloom/{version('taskloom')}",
            EVENT_ID: notice.event_id,
            ATTEMPT: str(notice.failures + 1),
            SIGNATURE: signature(secret, body, self._backend.clock.now()),
        }
        post = Post(
            checked_url(url, "url", allow_private=True),
            headers,
            body,
            timeout=STEP_SECONDS,
            allow_private=self._allow_private,
            resolve=self._resolve,
        )
        try:
            await self._threads.run(post.send)
        except asyncio.CancelledError:
            post.abort()
            raise
