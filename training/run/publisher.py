"""Best models to the Hub while training goes on: one after the other, in a process of their own.

It cannot stop or fail a run: a push that fails is a warning, and the wait at the end is short.
"""

import os
import queue
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from semseg_app.artifact.licenses import decide
from semseg_app.artifact.lineage import Lineage
from semseg_app.errors import UserError
from semseg_app.files import remove_folder
from semseg_app.training.recipe import Recipe
from semseg_app.training.run.folder import RunFolder

ONE_PUSH = 1800.0
"""Seconds after which a push is given up."""
AT_THE_END = 120.0
"""Seconds that a finished run waits for pushes that are still under way."""


class Publisher:
    """Pushes model folders in the background, in order, each as a commit and a tag.

    A model is kept under <run folder>/push until it is on the Hub: the run may delete its own meanwhile, and a run that
    is resumed sends what is left there.

    Args:
        recipe: its push_to, name and license.
        facts: provenance, for the licenses of weights and data.
        folder: of the run.
        say: takes warnings.
    """

    def __init__(self, recipe: Recipe, facts: dict[str, Any], folder: RunFolder, say: Callable[[str], None]):
        assert recipe.push_to is not None
        self._repo, self._name, self._say = recipe.push_to, recipe.name, say
        self._place = folder.path / "push"
        self._waiting: queue.Queue[Path] = queue.Queue()
        self._failed: list[Path] = []
        self._process: subprocess.Popen[str] | None = None
        self.pushed, self._over = 0, False
        if problem := _problem(recipe, facts):
            say(f"warning: push_to: {problem}")
        for left in sorted(self._place.glob("[!.]*")):
            self._waiting.put(left)
        threading.Thread(target=self._work, daemon=True, name="publisher").start()

    def offer(self, model: Path, miou: float) -> None:
        """Queue a model folder; takes no longer than some links on the disk."""
        kept = self._place / f"{model.name}-{10000 * miou:05.0f}"
        if not kept.exists():
            part = kept.with_name(f".{kept.name}.part")
            shutil.rmtree(part, ignore_errors=True)
            shutil.copytree(model, part, copy_function=_link)
            part.rename(kept)
        self._waiting.put(kept)

    def finish(self) -> None:
        """Wait a little for what is under way, and say what did not get there."""
        if self._failed and not self._waiting.unfinished_tasks:
            self._waiting.put(self._failed[-1])  # the best of all gets a second chance
        deadline = time.monotonic() + AT_THE_END
        while self._waiting.unfinished_tasks and time.monotonic() < deadline:
            time.sleep(0.05)
        self._over = True
        if self._process and self._waiting.unfinished_tasks:
            self._process.kill()
        if left := sorted(path.name for path in self._place.glob("[!.]*")):
            self._say(
                f"warning: push_to: {len(left)} of the best models did not reach {self._repo} ({', '.join(left)}); "
                f"they are in {self._place}: `semseg push --weights-only {self._place / left[-1]} {self._repo}`"
            )
        else:
            self._say(f"{self.pushed} best models pushed to {self._repo}")
            shutil.rmtree(self._place, ignore_errors=True)

    def _work(self) -> None:
        while True:
            model = self._waiting.get()
            try:
                if not self._over:
                    self._push(model)
            except Exception as error:  # a full disk, a folder that somebody deleted: the run goes on
                self._say(f"warning: push_to: {model.name}: {error}")
            finally:
                self._waiting.task_done()

    def _push(self, model: Path) -> None:
        role, step, score = model.name.rsplit("-", 2)
        title = f"{self._name}: {role}, step {int(step)}, val mIoU {int(score) / 100:.2f} %"
        command = [sys.executable, "-m", "semseg_app.cli", "push", str(model), self._repo, "--weights-only"]
        command += ["--message", title, "--tag", f"{self._name}-{role}-{step}"]
        nothing, pipe = subprocess.DEVNULL, subprocess.PIPE
        with subprocess.Popen(command, text=True, stdin=nothing, stdout=nothing, stderr=pipe) as self._process:
            try:
                _, said = self._process.communicate(timeout=ONE_PUSH)
            finally:
                self._process.kill()
        if self._process.returncode == 0:
            remove_folder(model)
            self.pushed += 1
            return
        self._failed.append(model)
        reason = (said.strip().splitlines() or ["no reason given"])[-1].removeprefix("semseg: ")
        self._say(f"warning: push_to: {model.name} was not pushed: {reason}")


def _problem(recipe: Recipe, facts: dict[str, Any]) -> str | None:
    """Why no push will succeed, as far as that is known before the first; None = nothing speaks against it."""
    from huggingface_hub import get_token

    if get_token() is None:
        return "no token of the Hub; run `hf auth login` or set HF_TOKEN. Training goes on, nothing is pushed"
    try:
        decide(recipe.license, Lineage.model_validate(facts["lineage"]).weights)
    except UserError as error:
        return f"{error}. Training goes on, nothing is pushed"
    if not facts["data"]["license"]:
        return "dataset.yaml says no license: for the data. Training goes on, nothing is pushed"
    return None


def _link(source: str, target: str) -> str:
    """Weights are never changed in place: a second name for the file is as good as a copy."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
    return target
