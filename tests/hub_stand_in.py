"""A Hub on localhost, in memory: what the real `huggingface_hub` client speaks with over HTTP when HF_ENDPOINT says so.

It keeps repositories, commits and uploaded files, asks for tokens as the Hub does, and breaks on request (`Fault`).
"""

import base64
import hashlib
import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

LARGE = (".safetensors", ".onnx", ".parquet", ".png", ".jpg", ".bin")
"""What the Hub keeps outside git."""
SPACE_CARD = b"""---
title: Look
sdk: gradio
app_file: app.py
pinned: false
---

Check out the configuration reference at https://huggingface.co/docs/hub/spaces-config-reference
"""
"""What the Hub itself writes into a new Space."""


def git_sha1(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@dataclass
class Repo:
    kind: str  # "model", "dataset" or "space"
    name: str
    private: bool
    gated: bool = False
    settings: dict[str, Any] = field(default_factory=dict)
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    """Commit -> path -> content."""
    titles: list[str] = field(default_factory=list)
    refs: dict[str, str] = field(default_factory=dict)

    def commit(self, files: dict[str, bytes], title: str, ref: str = "main") -> str:
        oid = hashlib.sha1(repr((self.name, title, len(self.commits), sorted(files))).encode()).hexdigest()
        self.commits[oid], self.refs[ref] = files, oid
        self.titles.append(title)
        return oid

    def files(self, revision: str = "main") -> dict[str, bytes] | None:
        return self.commits.get(self.refs.get(revision, revision))


@dataclass
class Fault:
    """What happens to the next `times` requests whose "METHOD /path" matches."""

    pattern: str
    action: int | str
    """A status, "drop" (hang up without an answer), "lose" (do it, then hang up), "cut" (hang up in the middle of a
    file) or "hang" (until the server ends)."""
    times: int = 1
    after: int = 0
    """So many matching requests pass first."""


class StandIn:
    """The server and its contents. Tokens: name -> (user, "read" or "write")."""

    def __init__(self) -> None:
        self.tokens = {"hf_ann": ("ann", "write"), "hf_reader": ("ann", "read"), "hf_bob": ("bob", "write")}
        self.repos: dict[tuple[str, str], Repo] = {}
        self.large: dict[str, bytes] = {}
        """sha256 -> content that was uploaded, committed or not."""
        self.requests: list[str] = []
        self.faults: list[Fault] = []
        self.sizes: dict[str, int] = {}
        """Path -> a size that the listing gives in place of the true one."""
        self.bombs: dict[str, bytes] = {}
        """Path -> what is sent in its place, as gzip."""
        self.replaced: dict[str, bytes] = {}
        """Path -> what is sent in its place, as if it were what was stored."""
        self.ranges: list[str] = []
        self.released = threading.Event()
        handler = type("Handler", (_Handler,), {"hub": self})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    @contextmanager
    def running(self) -> Iterator["StandIn"]:
        thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self.released.set()
            self.server.shutdown()
            self.server.server_close()
            thread.join()

    def reset(self) -> None:
        """Forget everything but the repositories' owners."""
        for store in (
            self.repos,
            self.large,
            self.requests,
            self.faults,
            self.sizes,
            self.bombs,
            self.ranges,
            self.replaced,
        ):
            store.clear()

    def add(self, name: str, files: dict[str, bytes], kind: str = "model", **settings: Any) -> Repo:
        """A repository that somebody else made."""
        repo = Repo(kind, name, **({"private": False} | settings))
        repo.commit({".gitattributes": b""}, "initial commit")
        repo.commit(files, "made elsewhere")
        self.repos[kind, name] = repo
        return repo

    def repo(self, name: str, kind: str = "model") -> Repo:
        return self.repos[kind, name]

    def count(self, pattern: str) -> int:
        """Requests so far whose "METHOD /path" matches."""
        return sum(bool(re.search(pattern, request)) for request in self.requests)


class _Answer(Exception):
    def __init__(self, status: int, body: Any = None, code: str = "", message: str = ""):
        self.status, self.code, self.message = status, code, message
        self.body = {"error": message} if body is None else body


class _Handler(BaseHTTPRequestHandler):
    hub: StandIn
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments: object) -> None: ...

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        except (ConnectionError, TimeoutError):
            self.close_connection = True

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def do_POST(self) -> None:
        self.answer()

    def do_PUT(self) -> None:
        self.answer()

    def answer(self) -> None:
        hub, path = self.hub, unquote(urlsplit(self.path).path)
        line = f"{self.command} {path}"
        self.cut = self.lost = False
        for fault in hub.faults:
            if re.search(fault.pattern, line):
                if fault.after:
                    fault.after -= 1
                    break
                if fault.times:
                    fault.times -= 1
                    if fault.action == "hang":
                        hub.requests.append(f"hung {line}")
                        hub.released.wait()
                        self.close_connection = True
                        return
                    if fault.action == "drop":
                        self.close_connection = True
                        return
                    if fault.action in ("cut", "lose"):
                        self.cut, self.lost = fault.action == "cut", fault.action == "lose"
                        break
                    self.body()
                    self.send(fault.action, json.dumps({"error": "out of order"}).encode(), {})
                    return
        hub.requests.append(line)
        try:
            self.route(path, self.body())
        except _Answer as answer:
            content = json.dumps(answer.body).encode()
            self.send(answer.status, content, {"X-Error-Code": answer.code, "X-Error-Message": answer.message})

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def send(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        if self.lost:
            self.close_connection = True
            return
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", "Content-Length": str(len(content)), **headers}.items():
            if value:
                self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content[: len(content) // 2] if self.cut else content)
            self.close_connection = self.close_connection or self.cut

    def route(self, path: str, body: bytes) -> None:
        if path == "/api/repos/create":
            raise self.create(json.loads(body))
        if path == "/api/validate-yaml":
            raise self.validate(json.loads(body))
        if path == "/api/whoami-v2":
            user, _ = self.user(required=True)
            raise _Answer(200, {"type": "user", "name": user, "orgs": []})
        if match := re.fullmatch(r"/lfs/([0-9a-f]{64})", path):
            if hashlib.sha256(body).hexdigest() != match[1]:
                raise _Answer(400, message="the content is not what was announced")
            self.hub.large[match[1]] = body
            raise _Answer(200, {})
        if path == "/lfs/verify":
            raise _Answer(200 if json.loads(body)["oid"] in self.hub.large else 404, {})
        if match := re.fullmatch(r"/(?:(dataset|space)s/)?([^/]+/[^/]+)\.git/info/lfs/objects/batch", path):
            self.writable(match[1] or "model", match[2])
            raise self.batch(json.loads(body))
        if match := re.fullmatch(r"/(?:(dataset|space)s/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            return self.resolve(match[1] or "model", *match.groups()[1:])
        if match := re.fullmatch(r"/api/(model|dataset|space)s/([^/]+/[^/]+)(?:/([a-z-]+)(?:/(.+))?)?", path):
            kind, name, what, rest = match.groups()
            raise self.api(kind, name, what or "revision", rest or "main", body)
        raise _Answer(404, message=f"no such address: {path}")

    # Who asks, and what for

    def user(self, required: bool = False) -> tuple[str, str]:
        given = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if given and given not in self.hub.tokens:
            raise _Answer(401, message="Invalid credentials in Authorization header")
        if not given and required:
            raise _Answer(401, message="Invalid username or password.")
        return self.hub.tokens.get(given, ("", ""))

    def readable(self, kind: str, name: str) -> Repo:
        user, _ = self.user()
        repo = self.hub.repos.get((kind, name))
        if repo is None or (repo.private and user != name.split("/")[0]):
            raise _Answer(404 if user else 401, code="RepoNotFound", message="Repository not found")
        return repo

    def writable(self, kind: str, name: str) -> Repo:
        user, role = self.user(required=True)
        repo = self.readable(kind, name)
        if user != name.split("/")[0] or role != "write":
            raise _Answer(403, message="Forbidden: you must use a write token to upload to a repository.")
        return repo

    # What the API does

    def create(self, wish: dict[str, Any]) -> _Answer:
        user, role = self.user(required=True)
        kind, owner = wish.get("type") or "model", wish.get("organization") or user
        name = f"{owner}/{wish['name']}"
        if user != owner or role != "write":
            return _Answer(403, message=f"You don't have the rights to create a {kind} under the namespace {owner!r}")
        answer = {"url": f"{self.hub.url}/{'' if kind == 'model' else f'{kind}s/'}{name}", "name": name}
        if (kind, name) in self.hub.repos:
            return _Answer(409, answer | {"error": "You already created this repo"})
        private = wish.get("private", wish.get("visibility") == "private")
        repo = Repo(kind, name, private, settings=wish)
        first = {".gitattributes": b"*.onnx filter=lfs\n"}
        if kind == "space":
            first["README.md"] = SPACE_CARD
        repo.commit(first, "initial commit")
        self.hub.repos[kind, name] = repo
        return _Answer(200, answer)

    def validate(self, wish: dict[str, Any]) -> _Answer:
        match = re.match(r"^---\n(.*?)^---\n", wish["content"], re.MULTILINE | re.DOTALL)
        errors = []
        try:
            metadata = yaml.safe_load(match[1]) if match else None
        except yaml.YAMLError as error:
            metadata, errors = None, [{"message": str(error)}]
        if metadata is None:
            errors.append({"message": "empty or missing yaml metadata in repo card"})
        elif metadata.get("license") == "other" and not metadata.get("license_name"):
            errors.append({"message": '"license_name" is required'})
        return _Answer(400 if errors else 200, {"errors": errors, "warnings": []})

    def batch(self, wish: dict[str, Any]) -> _Answer:
        objects = []
        for one in wish["objects"]:
            actions = {
                "upload": {"href": f"{self.hub.url}/lfs/{one['oid']}"},
                "verify": {"href": f"{self.hub.url}/lfs/verify"},
            }
            objects.append(one | ({} if one["oid"] in self.hub.large else {"actions": actions}))
        return _Answer(200, {"transfer": "basic", "objects": objects})

    def api(self, kind: str, name: str, what: str, rest: str, body: bytes) -> _Answer:
        if what == "settings":
            wish = json.loads(body)
            repo = self.writable(kind, name)
            repo.private = wish.get("private", wish.get("visibility", "private") == "private")
            return _Answer(200, {})
        if what == "tag":
            repo = self.writable(kind, name)
            repo.refs[json.loads(body)["tag"]] = repo.refs.get(rest, rest)
            return _Answer(200, {})
        if what == "commit":
            return self.commit(self.writable(kind, name), rest, body)
        repo = self.writable(kind, name) if what == "preupload" else self.readable(kind, name)
        revision, _, folder = rest.partition("/")
        files = repo.files(revision)
        if files is None:
            return _Answer(404, code="RevisionNotFound", message=f"Invalid rev id: {revision}")
        if what == "preupload":
            answers = []
            for one in json.loads(body)["files"]:
                large = one["path"].endswith(LARGE)
                there = files.get(one["path"])
                oid = None if there is None else hashlib.sha256(there).hexdigest() if large else git_sha1(there)
                mode = "lfs" if large else "regular"
                answers.append({"path": one["path"], "uploadMode": mode, "shouldIgnore": False, "oid": oid})
            return _Answer(200, {"files": answers})
        entries = [self.entry(path, content) for path, content in files.items()]
        if what == "tree":
            inside = [entry for entry in entries if entry["path"].startswith(f"{folder}/" if folder else "")]
            depth = folder.count("/") + 1 if folder else 0
            parts = {entry["path"].split("/")[depth] for entry in inside if entry["path"].count("/") > depth}
            folders = [{"type": "directory", "path": f"{folder}/{one}".lstrip("/"), "oid": "0" * 40} for one in parts]
            if folder and not inside:
                return _Answer(404, code="EntryNotFound", message="no such folder")
            whole = "recursive=true" in self.path.lower()
            shown = inside if whole else [entry for entry in inside if entry["path"].count("/") == depth]
            return _Answer(200, folders + shown)
        if what == "paths-info":
            wanted = parse_qs(body.decode())["paths"]
            folders = [
                {"type": "directory", "path": one, "oid": "0" * 40} for one in wanted if self.is_folder(one, files)
            ]
            return _Answer(200, folders + [entry for entry in entries if entry["path"] in wanted])
        if what != "revision":
            return _Answer(404, message=f"no such address: {what}")
        info = {
            "_id": "0" * 24,
            "id": name,
            "modelId": name,
            "sha": repo.refs.get(revision, revision),
            "private": repo.private,
            "gated": "manual" if repo.gated else False,
            "disabled": False,
            "downloads": 0,
            "likes": 0,
            "tags": [],
            "siblings": [{"rfilename": path} for path in files],
            "lastModified": "2026-01-01T00:00:00.000Z",
            "createdAt": "2026-01-01T00:00:00.000Z",
        }
        return _Answer(200, info)

    @staticmethod
    def is_folder(path: str, files: dict[str, bytes]) -> bool:
        return any(name.startswith(f"{path}/") for name in files)

    def entry(self, path: str, content: bytes) -> dict[str, Any]:
        size = self.hub.sizes.get(path, len(content))
        entry: dict[str, Any] = {"type": "file", "path": path, "size": size, "oid": git_sha1(content)}
        if path.endswith(LARGE):
            entry["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": size, "pointerSize": 134}
        return entry

    def commit(self, repo: Repo, ref: str, body: bytes) -> _Answer:
        header, *operations = [json.loads(line) for line in body.splitlines()]
        parent = header["value"].get("parentCommit")
        if parent and parent != repo.refs[ref]:
            return _Answer(412, message="A commit has happened since. Please refresh and try again.")
        files = dict(repo.files(ref) or {})
        for operation in operations:
            key, value = operation["key"], operation["value"]
            path = value["path"]
            if key == "file":
                files[path] = base64.b64decode(value["content"])
            elif key == "lfsFile":
                if value["oid"] not in self.hub.large:
                    return _Answer(400, message=f"LFS object {value['oid']} was never uploaded")
                files[path] = self.hub.large[value["oid"]]
            elif key == "deletedFile" and files.pop(path, None) is None:
                return _Answer(404, code="EntryNotFound", message="A file with this name doesn't exist")
        oid = repo.commit(files, header["value"]["summary"], ref)
        url = f"{self.hub.url}/{repo.name}/commit/{oid}"
        return _Answer(200, {"success": True, "commitOid": oid, "commitUrl": url, "hookOutput": ""})

    def resolve(self, kind: str, name: str, revision: str, path: str) -> None:
        repo = self.readable(kind, name)
        user, _ = self.user()
        if repo.gated and user != name.split("/")[0]:
            raise _Answer(403 if user else 401, code="GatedRepo", message=f"Access to model {name} is restricted.")
        files = repo.files(revision)
        if files is None:
            raise _Answer(404, code="RevisionNotFound", message=f"Invalid rev id: {revision}")
        if path not in files:
            raise _Answer(404, code="EntryNotFound", message="Entry not found")
        content = self.hub.replaced.get(path, files[path])
        etag = hashlib.sha256(content).hexdigest() if path.endswith(LARGE) else git_sha1(content)
        headers = {"ETag": f'"{etag}"', "X-Repo-Commit": repo.refs.get(revision, revision), "Accept-Ranges": "bytes"}
        headers["Content-Type"] = "application/octet-stream"
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if path in self.hub.bombs and self.command == "GET":
            return self.send(200, self.hub.bombs[path], headers | {"Content-Encoding": "gzip"})
        if asked and self.command == "GET":
            self.hub.ranges.append(asked[0])
            first, last = int(asked[1]), min(int(asked[2] or len(content) - 1), len(content) - 1)
            headers["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
            return self.send(206, content[first : last + 1], headers)
        return self.send(200, content, headers)


def wait_for(condition: Any, seconds: float = 30) -> None:
    """Until it holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)
