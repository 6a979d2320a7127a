"""Forms with files, read from a body as it arrives. Its size is bounded elsewhere, so everything stays in memory.

python-multipart finds the parts. Unlike Starlette's own reader, this one uses no temporary files, and refuses a form
that ends in the middle instead of leaving out its last part.
"""

from collections.abc import AsyncIterator, Callable
from typing import NamedTuple

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.exceptions import HTTPException

MAX_TEXT_BYTES = 1000


class Part(NamedTuple):
    """One field."""

    name: str
    filename: str | None
    """None = it is text, or a file whose sender gave it no name."""
    data: bytes


async def read_form(
    content_type: str,
    body: AsyncIterator[bytes],
    max_files: int,
    max_texts: int,
    is_file: Callable[[str], bool],
) -> list[Part]:
    """The fields of a multipart/form-data body; those of some names are files also where they have no file name.

    HTTPException 400 when it is broken or has too many.
    """
    boundary = parse_options_header(content_type)[1].get(b"boundary")
    if not boundary:
        raise HTTPException(400, "the content type has no boundary; let your client make the multipart form")
    form = _Form(max_files, max_texts, is_file)
    try:
        parser = MultipartParser(
            boundary,
            {
                "on_part_begin": form.begin,
                "on_part_data": form.add,
                "on_part_end": form.end,
                "on_header_field": form.header_name,
                "on_header_value": form.header_value,
                "on_header_end": form.end_header,
                "on_headers_finished": form.begin_data,
                "on_end": form.finish,
            },
        )
        async for chunk in body:
            parser.write(chunk)
    except FormParserError as error:
        raise HTTPException(400, f"the multipart form is broken ({error})") from None
    if not form.finished:
        raise HTTPException(400, "the multipart form ends in the middle")
    return form.parts


class _Form:
    """What the parser has found so far."""

    def __init__(self, max_files: int, max_texts: int, is_file: Callable[[str], bool]):
        self._is_file = is_file
        self.parts: list[Part] = []
        self.finished = False
        self._left = {"files": max_files, "texts": max_texts}
        self._most = dict(self._left)
        self._header = [bytearray(), bytearray()]
        self._disposition = b""
        self._name = ""
        self._filename: str | None = None
        self._is_text = False
        self._data = bytearray()

    def begin(self) -> None:
        self._disposition = b""
        self._data = bytearray()

    def header_name(self, data: bytes, start: int, end: int) -> None:
        self._header[0] += data[start:end]

    def header_value(self, data: bytes, start: int, end: int) -> None:
        self._header[1] += data[start:end]

    def end_header(self) -> None:
        name, value = self._header
        if name.lower() == b"content-disposition":
            self._disposition = bytes(value)
        self._header = [bytearray(), bytearray()]

    def begin_data(self) -> None:
        options = parse_options_header(self._disposition)[1]
        if b"name" not in options:
            raise HTTPException(400, "a part of the multipart form has no name")
        self._name = options[b"name"].decode("utf-8", "replace")
        filename = options.get(b"filename")
        self._filename = None if filename is None else filename.decode("utf-8", "replace")
        self._is_text = filename is None and not self._is_file(self._name)
        kind = "texts" if self._is_text else "files"
        self._left[kind] -= 1
        if self._left[kind] < 0:
            raise HTTPException(400, f"the multipart form has more than {self._most[kind]} {kind}; send fewer at once")

    def add(self, data: bytes, start: int, end: int) -> None:
        self._data += memoryview(data)[start:end]
        if self._is_text and len(self._data) > MAX_TEXT_BYTES:
            raise HTTPException(400, f"a text of the form is above {MAX_TEXT_BYTES} bytes; a file has a filename")

    def end(self) -> None:
        self.parts.append(Part(self._name, self._filename, bytes(self._data)))

    def finish(self) -> None:
        self.finished = True
