"""A published model in Python, by the conventions of huggingface_hub's mixins: from_pretrained, push_to_hub."""

import shutil
from pathlib import Path
from typing import Any, Self

from semseg_app.artifact import CONFIG, MANIFEST, WEIGHTS, ModelConfig, model_folder, read_config
from semseg_app.errors import UserError
from semseg_app.files import atomic_folder
from semseg_app.inference.engines.open import open_engine
from semseg_app.inference.model import Model


class SegmentationModel(Model):
    """A model folder, loaded, with the methods that huggingface_hub's mixins have. One call at a time.

    Args:
        folder: the model folder.
        engine: "auto", "onnxruntime", "openvino", "torch" or "tensorrt", as in `semseg predict`.
        device: "auto", "cpu" or "cuda".
        precision: which exported graph: "auto" (fp32), "fp32", "fp16" or "int8".
        tile: longest side of what runs at once, in pixels; None = whole images.
    """

    def __init__(
        self,
        folder: Path,
        engine: str = "auto",
        device: str = "auto",
        precision: str = "auto",
        tile: int | None = 1024,
    ):
        self.folder = folder
        self.config: ModelConfig = read_config(folder)
        super().__init__(open_engine(folder, engine, device, precision=precision), tile)

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        *,
        force_download: bool = False,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
        revision: str | None = None,
        **options: Any,
    ) -> Self:
        """A model folder, or user/repo of the Hub (also user/repo@revision); `options` are those of the class."""
        from semseg_app.hub.download import HubId, fetch

        path = Path(pretrained_model_name_or_path)
        if path.is_dir() or path.is_symlink():
            return cls(model_folder(path), **options)
        named = HubId.parse(str(pretrained_model_name_or_path))
        if named is None:
            raise UserError(f"{path}: no such model folder, and no id on the Hub (user/repo)")
        folder = fetch(named.repo, revision or named.revision, token, cache_dir, force_download, local_files_only)
        return cls(folder, **options)

    def save_pretrained(self, save_directory: str | Path) -> None:
        """Copy the model folder to `save_directory`, which must not exist."""
        target = Path(save_directory)
        if target.exists():
            raise UserError(f"{target}: exists already; choose another folder")
        with atomic_folder(target) as part:
            for name in (CONFIG, WEIGHTS, MANIFEST):
                if (self.folder / name).is_file():
                    shutil.copyfile(self.folder / name, part / name)
            for graph in sorted((self.folder / "onnx").glob("*.onnx")):
                (part / "onnx").mkdir(exist_ok=True)
                shutil.copyfile(graph, part / "onnx" / graph.name)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        commit_message: str = "Publish a model",
        private: bool = True,
        token: str | None = None,
        **choices: Any,
    ) -> str:
        """Publish it with its proof, as `semseg push` does; the address of the commit.

        `choices` are the fields of `semseg_app.hub.bundle.Choices`: license, data, benchmark, ...
        """
        from semseg_app.hub.bundle import Choices
        from semseg_app.hub.push import push

        return push(self.folder, repo_id, Choices(**choices), not private, commit_message, token).url
