"""A teacher's maps of all photos, computed once and kept in files: a distillation's steps then run the student alone.

The teacher sees each photo whole, in fp32, without any augmentation; a crop's part of its maps is cut out, flipped and
scaled where the crop is made (training/data/teacher_maps.py). Changes of color stay with the student.

One file holds one map of one photo in fp16, at <folder>/<teacher>/<xx>/<photo>.<map>.npy. `teacher` is the hash of all
that its answers depend on, `photo` that of the photo's file: a file fits or is not there, runs with other lists or
other distillers share what they have in common, and processes that write the same file write the same content. Each is
written whole or not at all, so an interrupted run goes on where it was.
"""

import glob
import hashlib
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from pydantic import Field
from torch import Tensor
from torchvision.transforms.v2 import functional

import semseg_app
from semseg_app.data.dataset import DECODING_ERRORS
from semseg_app.errors import UserError, memory_advice
from semseg_app.files import atomic_file
from semseg_app.inference.teacher_lineage import weights_of
from semseg_app.photos import open_photo
from semseg_app.training.contracts import MapName, PartConfig
from semseg_app.training.data.streams import ImageDataset
from semseg_app.training.data.teacher_maps import TeacherMaps, map_file, open_map, padded, resized
from semseg_app.training.data.weak_augmentation import PAD_COLOR, WeakView
from semseg_app.training.distill.teachers import Teacher

GB = 10**9
SECONDS_BETWEEN_LINES = 30.0
OLD = 3600.0
"""Seconds after which a half-written file can no longer be at work: one is written in less than a second."""


class TeacherCacheConfig(PartConfig):
    """Where the teacher's answers are kept, and how large they may grow."""

    folder: Path | None = None
    """Runs may share it; null = teacher-cache, beside the run folder."""
    limit_gb: float = Field(default=20.0, gt=0)
    """All that the folder may hold, in 10^9 bytes. A run that needs more does not start."""


class Photo(NamedTuple):
    """A photo that the teacher shall see, and where it is in a list."""

    hash: str
    dataset: ImageDataset
    position: int
    pixels: int
    """Height times width of what the teacher sees, padded to its stride."""


class TeacherCache:
    """The files of one teacher.

    Args:
        teacher: on its device.
        names: which of its maps.
        view: of the training; its crop and short_side count.
        config: limit.
        folder: see `TeacherCacheConfig`.
    """

    def __init__(
        self, teacher: Teacher, names: Sequence[MapName], view: WeakView, config: TeacherCacheConfig, folder: Path
    ):
        self.teacher, self.names, self.view, self.config, self.root = teacher, tuple(names), view, config, folder
        self.folder = folder / teacher_key(teacher.path, view.short_side)
        self.stride = teacher.network.stride if teacher.network is not None else 1
        self.padding = f"padding-{view.crop[0]}x{view.crop[1]}"

    def fill(
        self, images: Sequence[ImageDataset], accelerator: Accelerator, say: Callable[[str], None]
    ) -> dict[str, Any]:
        """Write what is missing, shared out over the processes, and let the datasets read it (`teacher_maps`).

        Returns folder, photos, bytes, and the seconds that this took, for the report. UserError where the limit or the
        disk is too small: before the teacher has seen all photos, if its maps grow with the photos.
        """
        started = time.monotonic()
        photos = self._photos(images, accelerator)
        distinct = {photo.hash: photo for photo in photos}
        with memory_advice("teacher cache", "set view.short_side, or leave method.teacher_cache out"):
            if accelerator.is_main_process:
                self._sweep()
                flat = torch.tensor(PAD_COLOR, dtype=torch.uint8)[:, None, None].expand(3, *self.view.crop)
                self._write(self.padding, flat, self._missing(self.padding))
            accelerator.wait_for_everyone()
            if todo := [photo for photo in distinct.values() if self._missing(photo.hash)]:
                self._show(todo, accelerator, say)
        accelerator.wait_for_everyone()
        grids = {name: open_map(self._file(self.padding, name)).shape[1:] for name in self.names}
        hashes = iter(photo.hash for photo in photos)
        for dataset in images:
            dataset.teacher_maps = TeacherMaps(
                self.folder,
                tuple(next(hashes) for _ in dataset.samples),
                self.padding,
                grids,
                self.stride,
                self.teacher.network is not None and self.teacher.network.spec.align_corners,
                self.view.crop,
                self.view.short_side,
            )
        size = sum(self._file(hash_, name).stat().st_size for hash_ in [self.padding, *distinct] for name in self.names)
        seconds = time.monotonic() - started
        say(
            f"teacher cache: {self.folder}: {', '.join(map(str, self.names))} of {len(distinct)} photos, "
            f"{size / 1e6:.1f} MB, {seconds:.1f} s"
        )
        return {"folder": str(self.folder), "photos": len(distinct), "bytes": size, "seconds": round(seconds, 1)}

    def _show(self, todo: Sequence[Photo], accelerator: Accelerator, say: Callable[[str], None]) -> None:
        """Show the teacher this process's share of the photos."""
        held = sum(file.stat().st_size for file in self.root.rglob("*.npy"))
        needed = self._estimated(todo)
        self._require_limit(held, needed, len(todo))
        self._require_disk(needed, len(todo))
        say(f"teacher cache: the teacher looks at {len(todo)} photos, for about {needed / GB:.2g} GB in {self.folder}")
        rank, world = accelerator.process_index, accelerator.num_processes
        # By hash and not by place: processes that look later have a shorter list.
        mine = [photo for photo in todo if int(photo.hash[:8], 16) % world == rank]
        written, said = 0, time.monotonic()
        for count, photo in enumerate(mine):
            missing = self._missing(photo.hash)  # another run may have written it meanwhile
            written += self._write(photo.hash, photo.dataset[photo.position][0], missing)
            self._require_limit(held, written, len(todo))
            if time.monotonic() - said > SECONDS_BETWEEN_LINES:
                said = time.monotonic()
                say(f"  teacher cache: {count + 1} of {len(mine)} photos")

    def _photos(self, images: Sequence[ImageDataset], accelerator: Accelerator) -> list[Photo]:
        """All photos of all lists, in order. The processes share out the reading of the files."""
        places = [(dataset, index) for dataset in images for index in range(len(dataset.samples))]
        looks: list[tuple[int, str, int]] = []
        for place in range(accelerator.process_index, len(places), accelerator.num_processes):
            dataset, index = places[place]
            path = dataset.samples[index].image
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            try:
                with open_photo(path) as photo:
                    height, width = resized((photo.height, photo.width), self.view.short_side)
            except DECODING_ERRORS as error:
                raise UserError(f"{path}: unreadable image ({error}); replace it or take it out of the data") from error
            looks.append((place, digest, padded(height, self.stride) * padded(width, self.stride)))
        known = {place: (digest, pixels) for place, digest, pixels in gather_object(looks)}
        return [Photo(known[place][0], *at, known[place][1]) for place, at in enumerate(places)]

    def _sweep(self) -> None:
        """Delete what killed processes left half written; what is younger may belong to a run at work."""
        for part in self.folder.rglob(".*.part"):
            if time.time() - part.stat().st_mtime > OLD:
                part.unlink(missing_ok=True)

    def _file(self, photo: str, name: MapName) -> Path:
        return map_file(self.folder, photo, name)

    def _missing(self, photo: str) -> list[MapName]:
        """The maps of a photo that are not there, or damaged."""
        missing = []
        for name in self.names:
            try:
                values = open_map(self._file(photo, name))
            except UserError:
                missing.append(name)
            else:
                if values.dtype != np.float16 or values.ndim != 3:
                    missing.append(name)
        return missing

    def _estimated(self, todo: Sequence[Photo]) -> int:
        """Bytes of what is missing. Maps of our networks grow with the photo, those of other programs may not."""
        if self.teacher.network is None:
            first = todo[0]
            return len(todo) * self._write(first.hash, first.dataset[first.position][0], self.names)
        crop = padded(self.view.crop[0], self.stride) * padded(self.view.crop[1], self.stride)
        sizes = {name: self._file(self.padding, name).stat().st_size for name in self.names}
        return sum(photo.pixels * sizes[name] for photo in todo for name in self._missing(photo.hash)) // crop

    def _require_limit(self, held: int, needed: int, photos: int) -> None:
        limit = self.config.limit_gb
        if held + needed > limit * GB:
            raise UserError(
                f"method.teacher_cache: the teacher's maps of {photos} photos need {needed / GB:.3g} GB beside the "
                f"{held / GB:.3g} GB in {self.root}, more than limit_gb={limit:g}; raise it, delete folders of other "
                "teachers there, lower view.short_side, or leave teacher_cache out"
            )

    def _require_disk(self, needed: int, photos: int) -> None:
        free = shutil.disk_usage(self.root).free
        if needed > free:
            raise UserError(
                f"method.teacher_cache: the teacher's maps of {photos} photos need {needed / GB:.3g} GB, but the disk "
                f"of {self.root} has {free / GB:.3g} GB left; choose another folder, or leave teacher_cache out"
            )

    def _write(self, photo: str, image: Tensor, names: Sequence[MapName]) -> int:
        """Show the teacher uint8 `[3, H, W]` and write its maps; returns their bytes."""
        if not names:
            return 0
        if self.view.short_side and photo != self.padding:
            image = functional.resize(image, list(resized(image.shape[1:], self.view.short_side)), antialias=True)
        device = next((tensor.device for tensor in self.teacher.state_dict().values()), torch.device("cpu"))
        size = 0
        for name, values in self.teacher.maps(image[None].to(device).float().div_(255), names).items():
            half = values[0].half().cpu().contiguous().numpy()
            if not np.isfinite(half).all():
                raise UserError(
                    f"method.teacher_cache: the teacher's {name} exceeds what 16 bits hold (65504); leave it out"
                )
            path = self._file(photo, name)
            with atomic_file(path) as part, part.open("wb") as file:
                np.save(file, half, allow_pickle=False)
            size += path.stat().st_size
        return size


def teacher_key(model: Path, short_side: int | None) -> str:
    """20 hex digits over all that a teacher's answers depend on: its weights, its description, this version, its view.

    Args:
        model: a model folder, a folder that transformers saved, or an .onnx file.
        short_side: of the photos that it sees.
    """
    digest = hashlib.sha256(f"{semseg_app.__version__}\0{short_side}\0{weights_of(model)}".encode())
    files = model.glob("*.json") if model.is_dir() else model.parent.glob(f"{glob.escape(model.stem)}.*")
    for file in sorted(files):
        digest.update(f"\0{file.name}\0".encode() + hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()[:20]
