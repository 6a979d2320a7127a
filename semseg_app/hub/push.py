"""Publish: one commit that is there whole or not at all, downloaded again and compared before anybody else sees it."""

import hashlib
import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from semseg_app.errors import UserError
from semseg_app.files import sha256
from semseg_app.hub.bundle import OURS, Choices, Files, gather
from semseg_app.hub.client import api, explained, patiently, require_token
from semseg_app.hub.contents import CARD
from semseg_app.hub.download import HubId

if TYPE_CHECKING:
    from huggingface_hub import HfApi

_SEAL = re.compile(rb"\n<!-- semseg push: ([0-9a-f]{64}) -->\n\Z")
"""The end of a card: the hash of what is before it. A card that was edited since does not fit its own any more."""
_FRONT_MATTER = re.compile(rb"---\r?\n(.*?\r?\n)?---\s*", re.DOTALL)
_TEXT_OF_THE_HUB = re.compile(rb"\s*(Check out the configuration reference at https://huggingface\.co/\S+\s*)?")
"""Below the front matter of cards that the Hub itself makes: one line in those of Spaces, else nothing."""


class Pushed(NamedTuple):
    """What is on the Hub now."""

    repo: str
    commit: str
    url: str
    files: list[str]
    private: bool


def push(
    folder: Path,
    repo: str,
    choices: Choices,
    public: bool = False,
    message: str = "",
    token: str | None = None,
    tag: str | None = None,
) -> Pushed:
    """Publish a model folder as user/repo.

    Args:
        folder: the model folder.
        repo: user/repo. A new one is private; one that is public already is written to only when `public` says so.
        choices: see `gather`.
        public: make it public once it is verified.
        message: title of the commit.
        token: as huggingface_hub takes it.
        tag: a name for this revision; one that there is stays where it is.

    UserError where the model may not be published, or the Hub does not let it. Interrupted, it goes on where it was:
    files that arrived are not sent again.
    """
    pushed = publish(repo, gather(folder, repo, choices), "model", public, message or "Publish a model", token)
    if tag:
        with explained(repo):
            patiently(lambda: api(token).create_tag(repo, tag=tag, revision=pushed.commit, exist_ok=True))
    return pushed


def publish(
    repo: str,
    files: Files,
    kind: str,
    public: bool,
    message: str,
    token: str | None = None,
    space_sdk: str | None = None,
) -> Pushed:
    """Make a repository hold these files (and none that an earlier push of ours left), in one commit.

    UserError where that would replace a card that somebody wrote or edited.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete
    from huggingface_hub.hf_api import RepoFile

    named = HubId.parse(repo)
    if named is None or named.revision is not None:
        raise UserError(f"{repo}: not a repository id; write user/name")
    require_token(token, repo)
    hub = api(token)
    card = files[CARD]
    assert isinstance(card, bytes)  # a card without a seal would stand in the way of the next push
    files = files | {CARD: card + b"\n<!-- semseg push: %s -->\n" % hashlib.sha256(card).hexdigest().encode()}

    def attempt() -> tuple[str, str, bool]:
        # All of it may run again: what was uploaded is not sent twice, and after a commit whose answer was lost there
        # is nothing left to commit.
        hub.create_repo(repo, repo_type=kind, private=True, exist_ok=True, space_sdk=space_sdk)
        info = hub.repo_info(repo, repo_type=kind)
        private = bool(info.private)
        if not private and not public:
            raise UserError(f"{repo}: is public already; add --public to publish there, or choose another name")
        before = hub.list_repo_tree(repo, recursive=True, repo_type=kind, revision=info.sha)
        there = [entry.path for entry in before if isinstance(entry, RepoFile)]
        if CARD in there:
            _check_card(hub, repo, kind, info.sha)
        old = [path for path in there if OURS.fullmatch(path)]
        additions = [CommitOperationAdd(name, content) for name, content in files.items()]
        deletions = [CommitOperationDelete(path) for path in old if path not in files]
        done = hub.create_commit(
            repo, [*additions, *deletions], commit_message=message, repo_type=kind, parent_commit=info.sha
        )
        return done.oid, done.commit_url, private

    with explained(repo, kind=kind):
        commit, url, private = patiently(attempt)
        _compare(repo, files, kind, commit, token)
        if public and private:
            patiently(lambda: hub.update_repo_settings(repo, private=False, repo_type=kind))
    return Pushed(repo, commit, url, sorted(files), not public)


def _check_card(hub: "HfApi", repo: str, kind: str, commit: str | None) -> None:
    """UserError where the card of that commit has text that no push wrote."""
    with tempfile.TemporaryDirectory(prefix="semseg-card-") as place:
        path = hub.hf_hub_download(repo, CARD, repo_type=kind, revision=commit, local_dir=place)
        card = Path(path).read_bytes()
    seal = _SEAL.search(card)
    if seal is not None and hashlib.sha256(card[: seal.start()]).hexdigest().encode() == seal[1]:
        return
    front = _FRONT_MATTER.match(card)
    if not _TEXT_OF_THE_HUB.fullmatch(card, front.end() if front else 0):
        raise UserError(
            f"{repo}: {CARD} there was edited, or not written by this version of semseg, and would be replaced; rename "
            "it on the Hub, to NOTES.md for example, then push again, or choose another name"
        )


def _compare(repo: str, files: Files, kind: str, commit: str, token: str | None) -> None:
    """Download the commit and compare every byte's hash. UserError where one differs."""
    from huggingface_hub import snapshot_download

    with tempfile.TemporaryDirectory(prefix="semseg-push-") as place:
        patiently(
            lambda: snapshot_download(
                repo,
                repo_type=kind,
                revision=commit,
                local_dir=place,
                token=token,
                allow_patterns=[name.replace("[", "[[]") for name in files],
            )
        )
        for name, content in files.items():
            arrived = Path(place, name)
            expected = sha256(content) if isinstance(content, Path) else hashlib.sha256(content).hexdigest()
            if not arrived.is_file() or sha256(arrived) != expected:
                raise UserError(
                    f"{repo}: {name} is not on the Hub as it was sent (commit {commit[:12]}); push it again"
                )
