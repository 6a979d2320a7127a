"""`semseg compare`: what is run, what is counted, what is refused."""

import json
import shutil
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from semseg_app.cli.main import app
from semseg_app.errors import UserError
from semseg_app.training.compare import load_comparison, recipes_of, run_comparison, tabulate
from semseg_app.training.finished_runs import read_runs
from semseg_app.training.recipe import Recipe

NETWORK = {"architecture": "segformer", "encoder": "tu-test_efficientnet", "weights": None, "decoder_channels": 16}


def write(folder: Path, root: Path, **changes) -> Path:
    recipe = {
        "name": "tiny",
        "data": {"root": str(root)},
        "model": NETWORK,
        "view": {"crop": [48, 64]},
        "batch_size": 2,
        "precision": "fp32",
        "threads": 1,
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    content = {
        "recipe": str(folder / "recipe.yaml"),
        "set": {"schedule.steps": 4, "evaluate_every": 4},
        "seeds": [0, 1],
        "baseline": "alone",
        "rows": {
            "alone": {},
            "As long": {"same_time_as": "big batch"},
            "big batch": {"batch_size": 4, "optimizer.lr": 0.02, "aims_at": "seed {seed}"},
        },
    }
    path = folder / "comparison.yaml"
    path.write_text(yaml.safe_dump(content | changes, sort_keys=False))
    return path


def test_rows_seeds_gains_and_equal_time(tiny_dataset, tmp_path):
    path = write(tmp_path, tiny_dataset)
    reports = run_comparison(load_comparison(path), tmp_path / "out", say=lambda line: None)
    assert list(reports) == ["alone", "As long", "big batch"]
    assert [[report["recipe"]["seed"] for report in runs] for runs in reports.values()] == [[0, 1]] * 3
    for alone, longer, big in zip(*reports.values(), strict=True):
        assert longer["steps"] == max(1, round(big["step_seconds"] / alone["step_seconds"] * big["steps"]))
        (logged,) = (tmp_path / "out" / f"alone-{alone['recipe']['seed']}" / "log.jsonl").read_text().splitlines()[:1]
        assert alone["step_seconds"] == pytest.approx(2 / json.loads(logged)["images_per_second"], abs=1e-6)
        assert big["recipe"]["batch_size"] == 4
        assert big["recipe"]["aims_at"] == f"seed {big['recipe']['seed']}"
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["alone-0", "alone-1", "as-long-0", "as-long-1", "big-batch-0", "big-batch-1"]

    # Nothing is trained twice, and the table is the mean of the reports, counted by hand.
    runner = CliRunner()
    result = runner.invoke(app, ["compare", str(path), "--out", str(tmp_path / "out"), "--json"])
    rows = {row["name"]: row for row in json.loads(result.stdout)}
    means = {
        name: 50
        * sum(
            json.loads((tmp_path / "out" / f"{name}-{seed}" / "report.json").read_text())["last"]["student"]["miou"]
            for seed in (0, 1)
        )
        for name in ("alone", "big-batch")
    }
    assert sum(rows["alone"]["scores"]) / 2 == pytest.approx(means["alone"])
    assert rows["alone"]["gain"] is None
    assert rows["big batch"]["gain"] == pytest.approx(means["big-batch"] - means["alone"])

    # The same from the folders.
    folders = [str(one) for one in sorted((tmp_path / "out").glob("[ab]*-[01]"))]
    shown = runner.invoke(app, ["compare", *folders, "--baseline", "alone", "--markdown"])
    assert "| alone | 2 | 4 |" in shown.stdout
    assert f"{rows['big batch']['gain']:+.1f}" in shown.stdout
    with pytest.raises(UserError, match="--baseline none: no such row; choose one of alone"):
        tabulate(read_runs([tmp_path / "out" / "alone-0"], print), "none")


def test_what_is_refused(tiny_dataset, tmp_path):
    with pytest.raises(UserError, match="baseline: 'other' is no row with a length of its own; rows: alone"):
        load_comparison(write(tmp_path, tiny_dataset, baseline="other"))
    with pytest.raises(UserError, match=r"rows\.x\.same_time_as: 'y' is no row"):
        load_comparison(write(tmp_path, tiny_dataset, rows={"alone": {}, "x": {"same_time_as": "y"}}))
    wrong = load_comparison(write(tmp_path, tiny_dataset, rows={"alone": {}, "x": {"optimizer.lrr": 1}}))
    with pytest.raises(UserError, match=r"comparison\.yaml: rows\.x: unknown key optimizer\.lrr; did you mean lr"):
        run_comparison(wrong, tmp_path / "out", say=lambda line: None)
    assert not (tmp_path / "out").exists()
    (tmp_path / "recipe.yaml").write_text("name: a\ndata: {root: d}\n")
    with pytest.raises(UserError, match=r"recipe.yaml: a recipe, not a comparison; run it with `semseg train .*recipe"):
        load_comparison(tmp_path / "recipe.yaml")
    (tmp_path / "recipe.yaml").unlink()
    with pytest.raises(UserError, match=r"missing; .* is no run folder"):
        read_runs([tmp_path], print)
    (tmp_path / "report.json").write_text("{}")
    with pytest.raises(UserError, match="not a report of semseg train"):
        read_runs([tmp_path], print)
    runs = {"a": [report("1")], "b": [report("2")]}
    with pytest.raises(UserError, match="a and b were scored on different images"):
        tabulate(runs, None)
    with pytest.raises(UserError, match=r"a: its run had no data\.val"):
        tabulate({"a": [report("1") | {"last": {}}]}, None)


def test_only_seeds_of_one_recipe_share_a_row(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    def ended(folder: str, seed: int, **changes) -> None:
        content = {"name": "tiny", "data": {"root": "data"}, "seed": seed, "output": folder, "batch_size": 2} | changes
        recipe = Recipe.model_validate(content)
        Path(folder).mkdir()
        own = {"name": recipe.name, "steps": recipe.schedule.steps, "recipe": recipe.model_dump(mode="json")}
        Path(folder, "report.json").write_text(json.dumps(report("1") | own))

    def refusal(*folders: str) -> str:
        answer = CliRunner().invoke(app, ["compare", *folders])
        assert isinstance(answer.exception, UserError), answer.output
        return str(answer.exception)

    ended("a", 0, aims_at="seed 0", license="mit")
    ended("b", 1, aims_at="seed 1", log_every=7, data={"root": "moved"})
    ended("again", 0)
    ended("fast", 2, optimizer={"lr": 0.5})
    ended("longer", 3, schedule={"steps": 2000})
    ended("other", 0, name="other", optimizer={"lr": 0.5})
    for seed in (5, 6):
        data = {"root": "data", "labeled": f"draw-{seed}"}
        ended(f"tiny-{seed}", seed, schedule={"steps": 995 + seed}, data=data)
    assert [len(row) for row in read_runs(map(Path, ("a", "b", "other")), print).values()] == [2, 1]
    assert refusal("a", "./b/../a") == "b/../a: named twice; name every run once"
    assert refusal("a", "b", "again").startswith("a and again are both called 'tiny' and have the same seed, 0; ")
    fix = "compare them under their own names: train one again with another name="
    both = "are both called 'tiny', but"
    assert refusal("a", "fast") == f"a and fast {both} optimizer.lr is 0.01 in one and 0.5 in the other; {fix}"
    assert refusal("a", "longer") == f"a and longer {both} schedule.steps is 1000 in one and 2000 in the other; {fix}"
    capsys.readouterr()
    read_runs([Path("tiny-5"), Path("tiny-6")], print)
    assert "warning: the runs of 'tiny' have 1000, 1001 steps" in capsys.readouterr().out


def test_a_run_of_another_recipe_is_not_reused(tiny_dataset, tmp_path):
    """Neither a finished nor an interrupted one, and the refusal comes before anything is trained."""
    out, rows = tmp_path / "out", {"alone": {}, "fast": {"optimizer.lr": 0.02}}

    def compare(**changes) -> None:
        path = write(tmp_path, tiny_dataset, **{"rows": rows, "seeds": [0], "set": {"schedule.steps": 2}} | changes)
        run_comparison(load_comparison(path), out, say=lambda line: None)

    def refused(message: str, **changes) -> None:
        with pytest.raises(UserError, match=message) as caught:
            compare(**changes)
        assert "\n" not in str(caught.value)

    compare()
    before = (out / "fast-0" / "report.json").read_bytes()
    changed = rows | {"fast": {"optimizer.lr": 0.03}}
    fix = "remove that folder and it is run again, put the change back, or choose another --out"
    refused(rf"/out/fast-0: optimizer\.lr is 0\.03 now, but 0\.02 in the run there; {fix}", rows=changed)
    both = {"rows": changed | {"new": {}}, "seeds": [1, 0]}
    refused("/out/fast-0: ", **both)
    assert sorted(path.name for path in out.iterdir()) == ["alone-0", "fast-0"]
    refused(r"/out/alone-0: schedule\.steps is 3 now, but 2", set={"schedule.steps": 3})
    refused(
        r"/out/alone-0: val_window is 64 now, but the scores there were made with None",
        set={"schedule.steps": 2, "val_window": 64},
    )

    # What changes no number is free: how often a line is logged, and where the same images lie.
    moved = tmp_path / "moved"
    shutil.copytree(tiny_dataset, moved)
    compare(set={"schedule.steps": 2, "data.root": str(moved), "log_every": 1})
    assert (out / "fast-0" / "report.json").read_bytes() == before
    mask = moved / "labels" / "val" / "val00.png"
    mask.write_bytes((moved / "labels" / "val" / "val01.png").read_bytes())
    refused(
        r"/out/alone-0: data\.root is .*moved now, whose images are not those",
        set={"schedule.steps": 2, "data.root": str(moved)},
    )

    (out / "fast-0" / "report.json").unlink()  # as if it had been interrupted
    refused("/out/fast-0: optimizer", rows=changed)
    shutil.rmtree(out / "fast-0")
    compare(rows=changed)
    assert json.loads((out / "fast-0" / "report.json").read_text())["recipe"]["optimizer"]["lr"] == 0.03
    (out / "fast-0" / "report.json").write_text("{")
    refused("report.json: not a report of semseg train; remove", rows=changed)


@pytest.fixture
def trained(monkeypatch):
    """Recipes that a comparison would train, by row: no network, one second for each step."""
    recipes = {}

    def train(recipe, resume, say):
        recipes[recipe.name] = recipe
        recipe.run_folder.mkdir(parents=True)
        (recipe.run_folder / "report.json").write_text(
            json.dumps({"steps": recipe.schedule.steps, "step_seconds": 3.0 if recipe.batch_size == 4 else 1.0})
        )

    monkeypatch.setattr("semseg_app.training.loop.train", train)
    return recipes


def test_a_row_of_equal_time_is_the_baseline_for_longer(tiny_dataset, tmp_path, trained):
    rows = {
        "alone": {
            "optimizer.lr": 0.005,
            "method": {"name": "supervised", "dice_weight": 1.0},
            "aims_at": "seed {seed}",
        },
        "big": {"batch_size": 4},
        "as long": {"same_time_as": "big"},
        "as long, clipped": {"same_time_as": "big", "optimizer": {"clip_norm": 1.0}},
    }
    run_comparison(load_comparison(write(tmp_path, tiny_dataset, rows=rows, seeds=[7])), tmp_path / "out")
    alone, longer, clipped = trained["alone"], trained["as-long"], trained["as-long-clipped"]
    assert (alone.optimizer.lr, alone.schedule.steps, alone.aims_at) == (0.005, 4, "seed 7")
    assert longer.schedule.steps == clipped.schedule.steps == 12
    own = {"name": alone.name, "output": alone.output, "schedule": alone.schedule}
    assert longer.model_copy(update=own) == alone
    assert clipped.model_copy(update=own | {"optimizer": alone.optimizer}) == alone
    assert clipped.optimizer == alone.optimizer.model_copy(update={"clip_norm": 1.0})
    assert trained["big"].optimizer.lr != 0.005


def test_a_section_in_a_row_changes_only_the_keys_that_it_names(tiny_dataset, tmp_path, trained):
    shared = {
        "optimizer": {"name": "adamw", "lr": 0.003, "weight_decay": 0.07},
        "method": {"name": "supervised", "dice_weight": 0.5},
        "schedule.steps": 4,
    }
    rows = {
        "alone": {},
        "section": {"optimizer": {"lr": 0.001}, "method": {"class_balance": 0.2}, "schedule": {"warmup": 1}},
        "empty": {"optimizer": {}},
        "other method": {"method": {"name": "fixmatch"}, "data.unlabeled": "train"},
    }
    path = write(tmp_path, tiny_dataset, rows=rows, seeds=[0], set=shared)
    run_comparison(load_comparison(path), tmp_path / "out")
    section = trained["section"]
    assert (section.optimizer.name, section.optimizer.lr, section.optimizer.weight_decay) == ("adamw", 0.001, 0.07)
    assert (section.method.dice_weight, section.method.class_balance) == (0.5, 0.2)
    assert (section.schedule.steps, section.schedule.warmup) == (4, 1)
    assert trained["empty"].optimizer == trained["alone"].optimizer
    assert trained["other-method"].method.name == "fixmatch"


def test_a_mistake_is_told_of_the_file_that_holds_it(tiny_dataset, tmp_path, trained):
    def refusal(**changes) -> str:
        path = write(tmp_path, tiny_dataset, **changes)
        with pytest.raises(UserError) as caught:
            run_comparison(load_comparison(path), tmp_path / "out")
        return str(caught.value)

    comparison = tmp_path / "comparison.yaml"
    rows = {"alone": {}, "x": {"optimizer": {"lr": "fast"}}}
    assert refusal(rows=rows).startswith(f"{comparison}: rows.x: optimizer.lr: ")
    assert refusal(set={"batch_sise": 3}) == f"{comparison}: set: unknown key batch_sise; did you mean batch_size?"
    assert refusal(rows={"alone": {}, "x": {"batch_size.y": 1}}).startswith(f"{comparison}: rows.x: batch_size.y: ")
    assert "would share the run folder 'a-b'" in refusal(baseline="a b", rows={"a b": {}, "A/B": {}})
    path = write(tmp_path, tiny_dataset)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(recipe.read_text() + "color: red\n")
    with pytest.raises(UserError, match=r"recipe\.yaml: unknown key color") as caught:
        run_comparison(load_comparison(path), tmp_path / "out")
    assert "comparison.yaml" not in str(caught.value)


def report(val: str) -> dict:
    last = {"teacher": {"miou": 0.5}, "student": {"miou": 0.1}}
    return {"name": "a", "steps": 1, "seconds": 1.0, "memory_mb": 1, "last": last, "data": {"val": {"hash": val}}}


def test_runs_find_each_other_by_seed_and_folder_and_several_share_a_budget(tiny_dataset, tmp_path, trained):
    """The two stages of a student from another row's model, and the baseline for as long as both together."""
    other = tmp_path / "other.yaml"
    rows = {
        "alone": {},
        "first": {"batch_size": 4},
        "second": {"model": {"weights": "{out}/first-{seed}/last"}},
        "own": {"recipe": str(other), "batch_size": 4},
        "as long": {"same_time_as": ["first", "second"]},
    }
    path = write(tmp_path, tiny_dataset, rows=rows, seeds=[3])
    own = yaml.safe_load((tmp_path / "recipe.yaml").read_text()) | {"optimizer": {"lr": 0.5}}
    other.write_text(yaml.safe_dump(own))
    out = tmp_path / "out"
    comparison = load_comparison(path, ["schedule.steps=2", "optimizer.momentum=0.5"])
    recipes = recipes_of(comparison, out, 3)
    assert {recipe.optimizer.momentum for recipe in recipes.values()} == {0.5}
    assert (recipes["own"].optimizer.lr, recipes["alone"].optimizer.lr) == (0.5, 0.01)
    run_comparison(comparison, out, say=lambda line: None)
    assert trained["second"].model.weights == f"{out}/first-3/last"
    # Two steps of 3 seconds and two of 1.
    assert [trained[row].schedule.steps for row in ("first", "second", "as-long")] == [2, 2, 8]


def test_some_rows_alone_and_a_dry_run(tiny_dataset, tmp_path):
    path = write(tmp_path, tiny_dataset)
    kept = load_comparison(path, rows=["As long"])
    assert list(kept.rows) == ["alone", "As long", "big batch"], "with the baseline, and the row whose time it takes"
    assert list(load_comparison(path, rows=["big batch"]).rows) == ["alone", "big batch"]
    with pytest.raises(UserError, match=r"comparison\.yaml: no row 'big'; rows: alone, As long, big batch"):
        load_comparison(path, rows=["big"])
    arguments = ["compare", str(path), "--row", "big batch", "--dry-run", "--json", "view.crop=[32, 32]"]
    answer = CliRunner().invoke(app, [*arguments, "--out", str(tmp_path / "out")])
    assert answer.exit_code == 0, answer.output
    tried = json.loads(answer.stdout)
    assert list(tried) == ["alone", "big batch"]
    assert (tried["big batch"]["crop"], tried["big batch"]["projected"]["crop"]) == ([32, 32], [48, 64])
    assert tried["big batch"]["projected"]["batch_size"] == 4
    assert not (tmp_path / "out").exists()
    for words, message in (
        (["nothing-here"], "no comparison of that name; comparisons: af-dcd-ade20k, "),
        (["contrast-cityscape"], "did you mean contrast-cityscapes"),
        ([str(tmp_path), "--dry-run"], "belong to one comparison file"),
        ([str(path), "--generated"], "made-up photos teach nothing; add --dry-run"),
        ([str(path), "--dry-run", "optimizer.lrr=1"], "unknown key optimizer.lrr; did you mean lr"),
    ):
        refused = CliRunner().invoke(app, ["compare", *words])
        assert isinstance(refused.exception, UserError), refused.output
        assert message in str(refused.exception)


COMPARISONS = sorted((Path(__file__).parents[2] / "benchmarks" / "comparisons").glob("*.yaml"))


@pytest.mark.parametrize("path", COMPARISONS, ids=lambda path: path.stem)
def test_the_projects_own_comparisons_have_no_wrong_key(path, tmp_path, monkeypatch):
    """All recipes are read before the first run begins."""

    class Begun(Exception):
        pass

    def begin(*args, **kwargs):
        raise Begun

    monkeypatch.setattr("semseg_app.training.loop.train", begin)
    with pytest.raises(Begun):
        run_comparison(load_comparison(path), tmp_path)
