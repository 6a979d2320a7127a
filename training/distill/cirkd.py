"""CIRKD: relations between pixels of different images follow the teacher's.

Yang et al., "Cross-Image Relational Knowledge Distillation for Semantic Segmentation", CVPR 2022. Three terms: pixels
with the pixels of every image of the batch; pixels with a queue of the teacher's pixels; pixels with a queue of its
class means. Features are what the classifiers read.
"""

import torch
from pydantic import Field
from torch import Tensor, distributed, nn
from torch.nn import functional

from semseg_app.training.contracts import Distiller, MapName, Pairs, PartConfig
from semseg_app.training.distill.relational_kl import relational_kl
from semseg_app.training.losses.class_sampling import resize_labels, shuffle_classes
from semseg_app.training.losses.pseudo_label import at_least_float32


class CIRKDConfig(PartConfig):
    """Defaults of the released Cityscapes recipe. On VOC its author advises 0.01 for both memory weights."""

    weight: float = Field(default=1.0, ge=0)
    """Weight of the mini-batch term."""
    pixel_weight: float = Field(default=0.1, ge=0)
    """Weight of the comparison with queued pixels."""
    region_weight: float = Field(default=0.1, ge=0)
    """Weight of the comparison with queued class means."""
    temperature: float = Field(default=0.1, gt=0)
    """Of the softmax over similarities (tau)."""
    pixel_queue: int = Field(default=20000, ge=1)
    """Pixels kept per class; 389 MB of float32 for 19 classes and a teacher 256 wide."""
    region_queue: int = Field(default=2000, ge=1)
    """Class means kept per class."""
    pixel_samples: int = Field(default=4096, ge=1)
    """Queued pixels that are compared with in a step, over all classes (plus one per class)."""
    region_samples: int = Field(default=1024, ge=1)
    """Queued class means that are compared with in a step, over all classes."""
    pixels_per_image: int = Field(default=16, ge=1)
    """Pixels of a class that an image adds to the queue, at most."""
    features: MapName = "decoder"
    """The map that is compared: decoder (what the classifier reads), logits, or an encoder stage (-1 = the deepest)."""


def cross_image_similarity(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """KL between pixel-to-pixel similarity distributions, mean over pixels and over all B^2 ordered pairs of images.

    Every pixel of image i has, for every image j (i too), a softmax over the pixels of j of cosine / temperature.
    Computed in float32 at least; the teacher is detached.

    Args:
        student: `[B, C_s, H, W]`.
        teacher: `[B, C_t, H, W]`.
        temperature: tau.
    """
    own, others = _unit_pixels(student), _unit_pixels(teacher.detach())  # [B, HW, C]
    batch, pixels, _ = own.shape
    weights = own.new_full((batch * pixels,), 1 / (batch**2 * pixels))
    return relational_kl(own.flatten(0, 1), own, others.flatten(0, 1), others.to(own.dtype), weights, temperature)


class CIRKD(Distiller):
    """All three terms, with the queues as buffers; a projection of the student to the teacher's width for the queues.

    Args:
        config: see `CIRKDConfig`.
        student_channels: C_s.
        teacher_channels: C_t.
        num_classes: labels are 0 ... num_classes - 1; all else is ignored.
    """

    pixel_queue: Tensor
    pixel_pointer: Tensor
    region_queue: Tensor
    region_pointer: Tensor

    def __init__(self, config: CIRKDConfig, student_channels: int, teacher_channels: int, num_classes: int):
        super().__init__()
        self.config = config
        self.num_classes = num_classes
        self.reads = (config.features,)
        if not (config.pixel_weight or config.region_weight):
            return
        self.project = nn.Sequential(
            nn.Conv2d(student_channels, teacher_channels, kernel_size=1, bias=False),
            nn.BatchNorm2d(teacher_channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(teacher_channels, teacher_channels, kernel_size=1, bias=False),
        )
        # Random unit vectors at first, as published. The place behind the end takes the writes that stand for nothing.
        for name, length in (("pixel", config.pixel_queue), ("region", config.region_queue)):
            queue = functional.normalize(torch.randn(num_classes, length + 1, teacher_channels), dim=2)
            self.register_buffer(f"{name}_queue", queue)
            self.register_buffer(f"{name}_pointer", torch.zeros(num_classes, dtype=torch.long))

    def forward(self, pairs: Pairs, labels: Tensor) -> dict[str, Tensor]:
        """See `Distiller.forward`. The queues take up this batch before they are compared with.

        Ignored pixels and unlabeled images are neither compared with the queues nor queued.
        """
        config = self.config
        student, teacher = pairs[config.features]
        terms = {}
        if config.weight:
            terms["cirkd_images"] = config.weight * cross_image_similarity(student, teacher, config.temperature)
        if config.pixel_weight or config.region_weight:
            terms |= self._memory_terms(student[: len(labels)], teacher[: len(labels)].detach(), labels)
        return terms

    def _memory_terms(self, student: Tensor, teacher: Tensor, labels: Tensor) -> dict[str, Tensor]:
        config, classes = self.config, self.num_classes
        labels = resize_labels(labels, *teacher.shape[2:])
        others = _unit_pixels(teacher)
        self.enqueue(others, labels)
        valid = ((labels >= 0) & (labels < classes)).flatten().to(others.dtype)
        weights = valid / valid.sum().clamp(min=1)
        rows, teacher_rows = _unit_pixels(self.project(student)).flatten(0, 1), others.flatten(0, 1)
        terms = {}
        for name, weight, queue, samples in (
            ("cirkd_pixels", config.pixel_weight, self.pixel_queue, config.pixel_samples),
            ("cirkd_regions", config.region_weight, self.region_queue, config.region_samples),
        ):
            if weight:
                keys = _draw(queue, samples // classes + 1)
                loss = relational_kl(rows, keys, teacher_rows, keys, weights, config.temperature)
                terms[name] = weight * loss
        return terms

    @torch.no_grad()
    def enqueue(self, pixels: Tensor, labels: Tensor) -> None:
        """Add this batch, of all processes, to the rings: some random pixels and the mean of every (image, class).

        The released code draws the positions of a class's pixels without looking them up, and so stores pixels of any
        class; here they are the class's.

        Args:
            pixels: the teacher's unit vectors `[B, HW, D]`.
            labels: int `[B, H, W]`.
        """
        shuffled = shuffle_classes(labels, self.num_classes)
        view = torch.arange(self.config.pixels_per_image, device=labels.device)
        position = (shuffled.start.unsqueeze(2) + view).clamp(max=pixels.shape[1] - 1).flatten(1)  # [B, C * views]
        image = torch.arange(len(pixels), device=labels.device).unsqueeze(1)
        drawn = pixels[image, shuffled.order.gather(1, position)].reshape(len(pixels), self.num_classes, len(view), -1)
        classes = torch.arange(self.num_classes, device=labels.device)
        member = (labels.flatten(1).unsqueeze(1) == classes.unsqueeze(1)).to(pixels.dtype)  # [B, C, HW]
        means = functional.normalize(member @ pixels, dim=2).unsqueeze(2)
        drawn, means, count = (_of_all_processes(part) for part in (drawn, means, shuffled.length))
        _push(self.pixel_queue, self.pixel_pointer, drawn, count.clamp(max=len(view)))
        _push(self.region_queue, self.region_pointer, means, count.clamp(max=1))


def _unit_pixels(feature: Tensor) -> Tensor:
    """`[B, C, H, W]` -> `[B, HW, C]`, unit vectors in float32 at least."""
    return functional.normalize(at_least_float32(feature), dim=1).flatten(2).mT.contiguous()


def _draw(queue: Tensor, samples: int) -> Tensor:
    """`[C, length + 1, D]` -> `[1, C * samples, D]`: the same random places for every class."""
    length = queue.shape[1] - 1
    place = torch.randperm(length, device=queue.device)[:samples]
    return queue[:, place].flatten(0, 1).unsqueeze(0)


def _push(queue: Tensor, pointer: Tensor, vectors: Tensor, count: Tensor) -> None:
    """Write the first `count [B, C]` of `vectors [B, C, V, D]` from the pointers `[C]` on, image by image, as rings."""
    length = queue.shape[1] - 1
    view = torch.arange(vectors.shape[2], device=queue.device)
    before = count.cumsum(0) - count
    place = (pointer + before).unsqueeze(2) + view  # [B, C, V]
    place = torch.where(view < count.unsqueeze(2), place % length, length)
    owner = torch.arange(len(pointer), device=queue.device).view(1, -1, 1).expand_as(place)
    queue.index_put_((owner, place), vectors.to(queue.dtype))
    pointer.copy_((pointer + count.sum(0)) % length)


def _of_all_processes(part: Tensor) -> Tensor:
    """Concatenate along the batch over all ranks, so that every rank keeps the same queues."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return part
    parts = [torch.empty_like(part) for _ in range(distributed.get_world_size())]
    distributed.all_gather(parts, part.contiguous())
    return torch.cat(parts)
