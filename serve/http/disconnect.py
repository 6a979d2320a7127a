"""Pure ASGI middleware: ends the work for clients that have gone, and closes connections while the server stops."""

import asyncio
import logging

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from semseg_app.serve.http.errors import problem
from semseg_app.serve.scheduling.registry import Models

log = logging.getLogger("semseg.serve")

WATCH_AFTER_S = 0.05
"""What is answered within this time is answered also to who is gone: to watch costs as much as a small answer."""


class CancelOnDisconnect:
    """Cancels the handler of a POST when its client closes the connection before the answer.

    An ASGI server says so through `receive`, which a handler has no reason to call once it has the body; so this does,
    from WATCH_AFTER_S after the body's last part on, until the answer is on its way.
    """

    def __init__(self, app: ASGIApp):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST":
            return await self.app(scope, receive, send)
        loop = asyncio.get_running_loop()
        handler = asyncio.current_task()
        assert handler is not None
        begin: asyncio.TimerHandle | None = None
        watcher: asyncio.Task[Message] | None = None
        gone = answered = False

        def stop(watching: "asyncio.Task[Message]") -> None:
            nonlocal gone
            if not (watching.cancelled() or watching.exception() or answered):
                gone = True
                handler.cancel()

        def watch() -> None:
            nonlocal watcher
            if watcher is None:
                watcher = loop.create_task(receive())  # type: ignore[arg-type]
                watcher.add_done_callback(stop)

        async def receive_and_watch() -> Message:
            nonlocal begin
            if begin is not None:  # a handler that streams watches by itself
                watch()
                assert watcher is not None
                return await asyncio.shield(watcher)
            message = await receive()
            if message["type"] == "http.request" and not message.get("more_body", False):
                begin = loop.call_later(WATCH_AFTER_S, watch)
            return message

        async def send_and_stop(message: Message) -> None:
            nonlocal answered
            # From here on the server says "disconnect" for every request, those that went well among them.
            answered = True
            await send(message)

        try:
            await self.app(scope, receive_and_watch, send_and_stop)
        except asyncio.CancelledError:
            if not gone:
                raise
            handler.uncancel()
            log.info("a client went away before its answer")
        finally:
            answered = True  # or failed: the task goes back to the server, which must not be cancelled
            if begin is not None:
                begin.cancel()
            if watcher is not None:
                watcher.cancel()


class UnfinishedWhenStopped:
    """Answers 503 where the server ends before a request is done. It cancels what is left then, which would be 500."""

    def __init__(self, app: ASGIApp, models: Models):
        self.app = app
        self._models = models

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = False

        async def send_and_note(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self.app(scope, receive, send_and_note)
        except asyncio.CancelledError:
            handler = asyncio.current_task()
            if scope["type"] != "http" or not self._models.stopping or handler is None:
                raise
            handler.uncancel()
            log.warning("the server stops before %s %s is answered", scope["method"], scope["path"])
            if not started:  # else the server breaks the connection off
                await problem(503, "the server is stopping; send the request again")(scope, receive, send)


class CloseWhenStopping:
    """Once the server is about to stop, every answer is the last of its connection."""

    def __init__(self, app: ASGIApp, models: Models):
        self.app = app
        self._models = models

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_and_close(message: Message) -> None:
            if message["type"] == "http.response.start" and self._models.stopping:
                MutableHeaders(scope=message)["Connection"] = "close"
            await send(message)

        await self.app(scope, receive, send_and_close)
