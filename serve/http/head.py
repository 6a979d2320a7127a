"""Pure ASGI middleware: HEAD, which health checks, load balancers and download tools send before or instead of GET."""

from starlette.types import ASGIApp, Message, Receive, Scope, Send


class HeadAsGet:
    """Answers HEAD as GET, without the body (RFC 9110, section 9.3.2): FastAPI's routes know the methods they name."""

    def __init__(self, app: ASGIApp):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "HEAD":
            return await self.app(scope, receive, send)

        async def send_head(message: Message) -> None:
            if message["type"] == "http.response.start":
                await send(message)
                await send({"type": "http.response.body"})  # a stream would never end by itself

        get = {**scope, "method": "GET"}
        try:
            await self.app(get, receive, send_head)
        finally:
            scope.update(get | {"method": "HEAD"})  # which route answered, and whose key it was
