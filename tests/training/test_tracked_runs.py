"""A run that was killed and resumed, read back from each tracker by the tracker's own reader: equal to log.jsonl."""

import json
from collections import defaultdict
from pathlib import Path

import pytest
from support.small_recipe import small_recipe

from semseg_app.training import loop
from semseg_app.training.loop import train

Curves = dict[str, list[tuple[int, float]]]
"""Tag -> (step, value), in the order in which the tracker gives them."""


def tensorboard_curves(run: Path) -> tuple[Curves, list[int]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run / "tracking" / "tiny"), size_guidance={"scalars": 0, "images": 0})
    events.Reload()
    curves = {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    return curves, [event.step for event in events.Images("overlays/val00")]


def trackio_curves(run: Path) -> tuple[Curves, list[int]]:
    from trackio.sqlite_storage import SQLiteStorage

    name = f"tiny-{json.loads((run / 'tracking' / 'sent.json').read_text())['id']}"
    curves: Curves = defaultdict(list)
    pictures = []
    for entry in SQLiteStorage.get_logs("tiny", name):
        if "overlays/val00" in entry:
            pictures.append(entry["step"])
        for tag, value in entry.items():
            if isinstance(value, int | float) and tag != "step":
                curves[tag].append((entry["step"], value))
    return curves, pictures


def mlflow_curves(run: Path) -> tuple[Curves, list[int]]:
    import mlflow

    client = mlflow.MlflowClient()
    identity = json.loads((run / "tracking" / "sent.json").read_text())["mlflow_run"]
    assert client.get_run(identity).info.status == "FINISHED"
    curves = {
        tag: [(point.step, point.value) for point in client.get_metric_history(identity, tag)]
        for tag in client.get_run(identity).data.metrics
    }
    folders = [Path(entry.path).name for entry in client.list_artifacts(identity, "overlays")]
    return curves, sorted(int(name) for name in folders)


READERS = {"tensorboard": tensorboard_curves, "trackio": trackio_curves, "mlflow": mlflow_curves}
MLFLOW_WARNS = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # 3.17, of SQLAlchemy 2.1
SLOW = pytest.mark.slow  # their imports and databases take seconds


@pytest.mark.parametrize(
    "tracker",
    ["tensorboard", pytest.param("trackio", marks=SLOW), pytest.param("mlflow", marks=[SLOW, MLFLOW_WARNS])],
)
def test_a_tracker_holds_what_the_log_holds_also_after_a_kill(tracker, tiny_dataset, tmp_path, monkeypatch):
    pytest.importorskip(tracker)
    monkeypatch.chdir(tmp_path)  # MLflow puts pictures into ./mlruns
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    run = tmp_path / "run"
    changes = {"schedule": {"steps": 6}, "evaluate_every": 2, "checkpoint_every": 4, "tracking": [tracker]}
    watched = small_recipe(tiny_dataset, run, **changes)
    evaluate = loop.Run.evaluate

    def killed(self) -> None:
        evaluate(self)
        if self.done == 6:
            raise KeyboardInterrupt

    monkeypatch.setattr(loop.Run, "evaluate", killed)
    with pytest.raises(KeyboardInterrupt):
        train(watched, say=lambda line: None)
    monkeypatch.setattr(loop.Run, "evaluate", evaluate)
    (run / "checkpoints" / "step-0000006.pt").unlink()  # the run goes on from step 4 and repeats two steps
    train(watched, resume=True, say=lambda line: None)

    logged: Curves = defaultdict(list)
    for line in (run / "log.jsonl").read_text().splitlines():
        entry = json.loads(line)
        for tag, value in _numbers(entry):
            logged[tag].append((entry["step"], value))
    assert [step for step, _ in logged["losses/supervised"]] == [2, 4, 6]
    assert {"evaluation/student/miou", "class_iou/student/disc", "lr", "memory_mb"} <= {*logged}
    sent, pictures = READERS[tracker](run)
    assert pictures == [2, 4, 6]
    assert {*sent} == {*logged}
    for tag, points in logged.items():
        assert [step for step, _ in sent[tag]] == [step for step, _ in points], tag
        if tag not in ("images_per_second", "memory_mb"):  # the repeated steps take another time than was sent
            assert [value for _, value in sent[tag]] == pytest.approx([value for _, value in points], rel=1e-6), tag


def _numbers(entry: dict, before: tuple[str, ...] = ()) -> list[tuple[str, float]]:
    """Every number of a line of the log by the path of its keys."""
    numbers = []
    for key, value in entry.items():
        if isinstance(value, dict):
            numbers += _numbers(value, (*before, key))
        elif isinstance(value, int | float) and key != "step":
            numbers.append(("/".join((*before, key)), value))
    return numbers
