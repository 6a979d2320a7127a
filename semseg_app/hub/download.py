"""Whatever the user calls a model -> a folder or file on this machine."""

import os
import re
import shutil
from pathlib import Path
from typing import Any, NamedTuple

from semseg_app.artifact import model_folder, read_config
from semseg_app.artifact.transformers_folder import model_name, transformers_type
from semseg_app.errors import UserError
from semseg_app.files import atomic_folder
from semseg_app.hub.client import api, explained, patiently
from semseg_app.hub.contents import LARGEST, MIB, check_folder, check_transfer, choose

ID = re.compile(r"(?P<repo>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:@(?P<revision>[\w./-]+))?")
PAGE = r"(hf:/|https?://[^/]+)/(?P<repo>[\w.-]+/[\w.-]+)(/(tree|blob|resolve|commit)/(?P<revision>[\w.-]+).*|/?)"
"""The address of a model's page, which people paste."""


class HubId(NamedTuple):
    """user/repo, or user/repo@revision."""

    repo: str
    revision: str | None

    @classmethod
    def parse(cls, text: str) -> "HubId | None":
        """None where `text` is no id; a path with another number of slashes, a leading dot or slash never is."""
        match = ID.fullmatch(text)
        return cls(match["repo"], match["revision"]) if match else None


def local_model(model: str | Path, revision: str | None = None) -> Path:
    """A model on this machine: the path itself where it exists, else the files of a Hub id, from the cache or the Hub.

    Args:
        model: a model folder, the run folder of a training (its best model), a folder that transformers saved, an .onnx
            or .engine file, or a Hub id (user/repo, user/repo@revision).
        revision: branch, tag or commit of a Hub id, as an option instead of `@revision`.

    Raises:
        UserError: when `model` is none of them, or cannot be downloaded.
    """
    path = Path(model)
    if os.path.lexists(path):
        if revision is not None:
            raise UserError(f"--revision {revision}: is for models of the Hub, and {model} is on this machine")
        return model_folder(path)
    named = HubId.parse(str(model))
    if named is None or path.suffix in (".onnx", ".engine"):
        page = re.fullmatch(PAGE, str(model))
        hint = f"; did you mean {page['repo']}{'@' * bool(page['revision'])}{page['revision'] or ''}?" if page else ""
        raise UserError(f"{model}: no such model folder or .onnx file, and no id on the Hub (user/repo){hint}")
    if revision is not None and named.revision is not None and revision != named.revision:
        raise UserError(f"{model}: names a revision, and --revision {revision} another; give one")
    try:
        return fetch(named.repo, revision or named.revision)
    except UserError as error:
        raise UserError(f"no folder {model} here; on the Hub, {error}") from error


def fetch(
    repo: str,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | Path | None = None,
    force_download: bool = False,
    local_files_only: bool = False,
) -> Path:
    """The model folder of a repository, in the cache of huggingface_hub. What is there already is not fetched again.

    Args:
        repo: user/repo.
        revision: a branch, a tag or a commit; None = the newest of main. A commit that is cached needs no network.
        token, cache_dir, force_download, local_files_only: as huggingface_hub takes them.

    UserError where it cannot be had or is not what it says.
    """
    import httpx2
    from huggingface_hub import constants, get_cached_repo_tree, snapshot_download
    from huggingface_hub.errors import CachedRepoTreeNotFoundError, HfHubHTTPError, LocalEntryNotFoundError
    from huggingface_hub.hf_api import RepoFile

    hub = api(token)
    cache = Path(cache_dir or constants.HF_HUB_CACHE).expanduser()
    kept: Path | None = None

    def checked(folder: Path) -> Path:
        check_folder(repo, folder, cache)
        return folder

    with explained(repo, revision):
        commit = patiently(
            lambda: hub.resolve_revision(repo, revision=revision, cache_dir=cache, local_files_only=local_files_only)
        )
        if not force_download:
            offline = local_files_only or constants.HF_HUB_OFFLINE
            try:
                kept = Path(
                    snapshot_download(
                        repo, revision=commit, cache_dir=cache, local_files_only=True, allow_patterns=list(LARGEST)
                    )
                )
                if not offline:
                    get_cached_repo_tree(repo, revision=commit, cache_dir=cache)
                return checked(kept)
            except CachedRepoTreeNotFoundError:
                pass  # it holds what other programs, file by file, have asked for
            except LocalEntryNotFoundError:
                if offline:
                    raise
        if kept is not None:
            try:
                hub.repo_info(repo, revision=commit.resolved)
            except (httpx2.TransportError, HfHubHTTPError):
                return checked(kept)  # perhaps all of it: without the Hub, that cannot be told
        listing = patiently(lambda: list(hub.list_repo_tree(repo, recursive=True, revision=commit.resolved)))
        files = choose(repo, (entry for entry in listing if isinstance(entry, RepoFile)))
        if kept is not None and all((kept / name).is_file() for name in files):
            check_transfer(repo, kept, files)
            return checked(kept)
        expected = sum(file.size for file in files.values())
        folder = Path(
            patiently(
                lambda: snapshot_download(
                    repo,
                    revision=commit,
                    cache_dir=cache,
                    token=token,
                    force_download=force_download,
                    allow_patterns=list(files),
                    tqdm_class=_no_more_than(expected, repo),
                )
            )
        )
    check_transfer(repo, folder, files)
    return checked(folder)


def pull(model: str, target: Path, revision: str | None = None, only_ours: bool = False) -> str:
    """Copy the model folder of a Hub id to `target`, whole or not at all; -> the model's name.

    UserError where `target` exists, and for a model of transformers where `only_ours` says so.
    """
    if target.exists():
        raise UserError(f"{target}: exists already; use it, or choose another folder")
    folder = local_model(model, revision)
    if not folder.is_dir():
        raise UserError(f"{model}: a file, not a Hub id (user/repo)")
    foreign = not only_ours and transformers_type(folder)
    name = model_name(folder) if foreign else read_config(folder).name
    with atomic_folder(target) as part:
        for file in LARGEST:
            if (folder / file).is_file():
                (part / file).parent.mkdir(exist_ok=True)
                shutil.copyfile(folder / file, part / file)
    return name


def _no_more_than(size: int, repo: str) -> type:
    """A progress bar that stops a download which grows far beyond what was announced: a bomb, or a broken server."""
    from huggingface_hub.utils.tqdm import tqdm

    class Bar(tqdm):
        received = 0.0

        def __init__(self, *arguments: Any, **options: Any):
            self.of_bytes = options.get("unit") == "B"
            super().__init__(*arguments, **options)  # type: ignore[no-untyped-call]

        def update(self, n: float | None = 1) -> bool | None:
            self.received += n or 0
            if self.of_bytes and self.received > size + MIB:
                raise UserError(f"{repo}: sends more than the {size} bytes that it announced; the download was stopped")
            answer: bool | None = super().update(n)
            return answer

    return Bar
