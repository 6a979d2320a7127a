"""What is wrong with the keys of a recipe, in one line that names the right one."""

from pathlib import Path
from typing import get_args

from pydantic import BaseModel, ValidationError

from semseg_app.errors import UserError, did_you_mean, explain

RENAMED = {"model.pretrained": "model.weights"}
FOREIGN = {
    "backbone": "model.encoder",
    "crop_size": "view.crop",
    "dataset": "data.root",
    "epochs": "schedule.steps",
    "image_size": "view.crop",
    "iterations": "schedule.steps",
    "learning_rate": "optimizer.lr",
    "max_steps": "schedule.steps",
    "num_workers": "data.workers",
    "pretrained": "model.weights",
    "resume_from": "model.weights",
}
"""Other programs' words -> the key that says the same here."""
REMARKS = {
    "epochs": " It counts steps, of which an epoch has as many as labeled photos / batch_size.",
    "resume_from": " To go on with an interrupted run, add --resume to its command.",
}
"""What else to know where the key that says the same is not all of it."""


def explained(error: ValidationError, path: Path, recipe: type[BaseModel]) -> UserError:
    """The first problem that pydantic found in a recipe file; `recipe` is what it was read as."""
    for problem in error.errors():
        parts = [str(part) for part in problem["loc"]]
        if problem["type"] == "string_pattern_mismatch" and parts == ["name"]:
            return UserError(
                f"{path}: name: {problem['input']!r} names a folder and a model; write it with letters, digits, dots, "
                "hyphens and underscores, and a letter or digit first"
            )
        if problem["type"] == "extra_forbidden":
            *sections, key = parts
            place, known = _keys(sections, recipe)
            full = ".".join([*place, key])
            if full in RENAMED:
                return UserError(f"{path}: unknown key {full}; it is called {RENAMED[full]} now")
            all_known = f"; known keys: {', '.join(known)}"
            if key == "name":  # neither that of the run is meant, nor a key that looks like the word
                return UserError(f"{path}: unknown key {full}{all_known}")
            elsewhere = [found for found in (*_in_sections(key, recipe), FOREIGN.get(key)) if found]
            if elsewhere:
                remark = REMARKS.get(key, "")
                return UserError(f"{path}: unknown key {full}; did you mean {elsewhere[0]}?{remark}")
            return UserError(f"{path}: unknown key {full}{did_you_mean(key, known) or all_known}")
    return explain(error, path, lambda parts: _keys(parts, recipe)[0])


def _in_sections(key: str, recipe: type[BaseModel]) -> list[str]:
    """The keys of that name at the top and in the sections that every recipe has: "optimizer.lr" for "lr"."""
    sections = {
        name: field.annotation
        for name, field in recipe.model_fields.items()
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
    }
    top = [key] if key in recipe.model_fields else []
    return top + [f"{name}.{key}" for name, section in sections.items() if key in section.model_fields]


def _keys(sections: list[str], recipe: type[BaseModel]) -> tuple[list[str], list[str]]:
    """The sections as a user writes them (pydantic adds the name of a method to them), and the keys allowed there."""
    path: list[str] = []
    models: list[type[BaseModel]] = [recipe]
    for part in sections:
        chosen = [
            model for model in models if "name" in model.model_fields and model.model_fields["name"].default == part
        ]
        if chosen:
            models = chosen
            continue
        path.append(part)
        inside = [model.model_fields[part].annotation for model in models if part in model.model_fields]
        members = [member for annotation in inside for member in (get_args(annotation) or (annotation,))]
        models = [member for member in members if isinstance(member, type) and issubclass(member, BaseModel)]
    return path, sorted({name for model in models for name in model.model_fields})
