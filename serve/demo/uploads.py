"""Only uploads count as photos. Gradio (6.31) would also take files of the server and addresses to fetch."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.components import Component

from semseg_app.errors import UserError


def accept_uploads_only(page: gr.Blocks, inputs: Sequence[Component]) -> None:
    """Close both ways in. Call it once `page` is mounted, with every component that takes files."""
    # Gradio compares a path that a client names with its upload folder only when this is set, and sets it in launch()
    # alone: a mounted page would copy any file of the server into that folder.
    page.has_launched = True
    for component in inputs:
        _refuse_addresses(component)


def _refuse_addresses(component: Component) -> None:
    move = component.async_move_resource_to_block_cache

    async def move_file(url_or_file_path: str | Path | None) -> str | None:
        if str(url_or_file_path).lower().startswith(("http:", "https:")):
            # Gradio would fetch it without any limit on its size.
            raise gr.Error("send the photo itself, not its address", print_exception=False)
        return await move(url_or_file_path)

    component.async_move_resource_to_block_cache = move_file  # type: ignore[method-assign]


def read_upload(payload: dict[str, Any], component: Component) -> bytes:
    """The bytes behind a value of `component`. UserError when it names anything but an upload or an example."""
    return upload_path(payload, component).read_bytes()


def upload_path(payload: dict[str, Any], component: Component) -> Path:
    """The file behind a value of `component`. UserError when it names anything but an upload or an example.

    Gradio checks only values that are marked as files; a client can leave the mark out.
    """
    uploads = Path(component.GRADIO_CACHE).resolve()
    path = Path(payload.get("path") or "").resolve()
    if not (path.is_relative_to(uploads) and path.is_file()):
        raise UserError("the upload is not on the server, or was deleted after 15 minutes; send it again")
    return path
