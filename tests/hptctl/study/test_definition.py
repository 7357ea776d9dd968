"""Studies as data."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_study import cells

from hpt.errors import ConfigError
from hptctl.study import definition as grid
from hptctl.study.definition import Cell
from hptctl.sweep.plan import configs


def test_the_published_grids_have_the_published_cells() -> None:
    linear = cells("paper-linear")
    assert len([c for c in linear if c.kind == "linear"]) == 3 * 16 * (
        1 + 4 + 1 + 4 + 1
    )  # seeds; the last is the floor
    steps = {c.config.steps for c in linear if c.id.startswith("hpt-flowers-")}  # type: ignore[union-attr]
    assert steps == {50, 500, 5000, 50000}
    assert all(not getattr(c.config, "save_at", ()) for c in linear)
    semi = cells("paper-semi")
    assert len([c for c in semi if c.sweep]) == 3 * 16 * 4 * 2  # each strategy at its best length
    assert {c.id for c in semi if not c.sweep} == {c.id for c in linear}
    by_id = {c.id: c for c in semi}
    of_hpt = by_id["sweep-1000-hpt-flowers-s0"]
    assert of_hpt.backbone is None
    assert of_hpt.needs == tuple(f"linear-hpt-flowers-s0@{steps}" for steps in (50, 500, 5000, 50000))
    assert by_id["sweep-all-hpt-bn-flowers-s0@5000"].backbone == grid.Backbone("hpt-bn-flowers-s0@5000")
    assert len(launch_configs(semi)) == 4
    sequential = {c.id: c for c in cells("paper-sequential")}
    assert sequential["hpt-ucmerced-from-resisc-base-s0@5000"].backbone == grid.Backbone("resisc-base")
    assert "hpt-ucmerced-from-clipart-base-s0@5000" not in sequential
    assert sequential["resisc-base"].config.steps == 50000  # type: ignore[union-attr]
    policies = {c.config.augment.policy for c in cells("paper-augment") if c.kind == "pretrain"}  # type: ignore[union-attr]
    assert len(policies) == 5
    assert {c.config.share for c in cells("paper-data") if c.kind == "pretrain"} == {0.01, 0.1, 0.25, 0.5, 1.0}  # type: ignore[union-attr]
    assert {c.config.weights for c in cells("paper-base") if c.kind == "pretrain"} == {
        *("moco-v2-200ep", "moco-v2-800ep", "imagenet-supervised")
    }
    assert {c.config.dataset for c in cells("paper-transfer") if c.sweep} == {"pascal-voc"}


def test_a_pretraining_that_two_grids_share_is_made_once_and_evaluated_as_both_say(tmp_path: Path) -> None:
    file = tmp_path / "two.toml"
    text = """
        datasets = ["digits"]
        strategies = ["target"]
        prefixes = "separate"
        floor = false
        preset = "tiny"
        [[grids]]
        seeds = [0, 1]
        steps = {target = [2]}
        [[grids]]
        evaluations = ["knn"]
        steps = {target = [2, 4]}
    """
    file.write_text(text)
    found = grid.cells(grid.load(str(file)), lambda _: "resnet18")
    assert [c.id for c in found if c.kind == "pretrain"] == [
        *("target-digits-s0@2", "target-digits-s1@2", "target-digits-s0@4")
    ]
    assert {c.id for c in found if c.kind != "pretrain"} == {
        *("linear-target-digits-s0@2", "linear-target-digits-s1@2"),
        *("knn-target-digits-s0@2", "knn-target-digits-s0@4"),
    }
    file.write_text(text.replace('"separate"', '"shared"').replace("[2]}", "[2, 3]}"))
    with pytest.raises(ConfigError, match="two grids of the study 'two' have different runs called 'target-digits-s0'"):
        grid.cells(grid.load(str(file)), lambda _: "resnet18")


def launch_configs(found: list[Cell]) -> list[object]:

    config = next(c.config for c in found if c.sweep)
    return configs(config)  # type: ignore[arg-type, return-value]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("strategies = ['htp']\ndatasets = ['d']", "did you mean 'hpt'"),
        ("datsets = ['d']", "unknown field 'datsets' (did you mean 'datasets'?)"),
        ("datasets = []", "has no dataset"),
        ("datasets = ['d']\n[set]\n'linear.stepz' = 3", "unknown field 'linear.stepz' (did you mean 'linear.steps'?)"),
        ("datasets = ['d']\n[set]\nstrategy = 'hpt'", "use strategies"),
        ("datasets = ['d']\npolicies = ['crop']", "did you mean 'crop-only'"),
        ("datasets = ['d']\nshares = [0]", "shares"),
        ("datasets = ['d']\nsteps = [0]", "steps"),
        ("datasets = ['d'\n", "cannot be read as TOML"),
        ("datasets = ['d']\nevaluations = ['knn']\nlengths = 'best-by-linear'", "takes a linear probe among"),
    ],
)
def test_a_study_that_makes_no_sense_is_refused_in_a_line(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "odd.toml"
    path.write_text(text)
    with pytest.raises(ConfigError) as refused:
        cells(str(path))
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("given", "instead"),
    [
        ("steps=20", "--set steps is not for a study, whose cells differ in it; use --steps 20"),
        ("seed=3", "use --seeds 3"),
        ("dataset=my images", "use --dataset 'my images'"),
        ("weights=own", "use --weights own"),
        ("preset=tiny", "use --preset tiny"),
        ("share=0.1", "use shares in the study's file"),
        ("labels=10%", "use evaluations in the study's file"),
        ("save_at=5", "use prefixes in the study's file"),
    ],
)
def test_a_set_of_what_the_grid_decides_names_the_option_or_the_field_that_does(given: str, instead: str) -> None:
    with pytest.raises(ConfigError) as refused:
        grid.load("quick", {"datasets": ["digits"]}, [given])
    assert str(refused.value).endswith(instead)


def test_references_are_evaluated_once_for_each_dataset_seed_and_evaluation(tmp_path: Path) -> None:
    file = tmp_path / "beside.toml"
    file.write_text("""
        datasets = ["digits", "shapes"]
        strategies = ["target"]
        seeds = [0, 1]
        floor = false
        preset = "tiny"
        steps = [2, 4]
        evaluations = ["knn", {kind = "linear", labels = "10%"}]
        references = ["timm:vit_tiny_patch16_224", {weights = "hf-hub:a/own", image_size = 48, pooling = "average"}]
    """)
    of = {"timm:vit_tiny_patch16_224": "vit_tiny_patch16_224", "hf-hub:a/own": "convnext_atto"}
    found = {c.id: c for c in grid.cells(grid.load(str(file)), of.__getitem__)}
    vit = {id for id in found if "vit_tiny" in id}
    assert vit == {
        f"{evaluation}-timm-vit_tiny_patch16_224-{dataset}-s{seed}"
        for evaluation in ("knn", "linear-10%")
        for dataset in ("digits", "shapes")
        for seed in (0, 1)
    }
    assert len([id for id in found if id.startswith(("knn-own", "linear-10%-own"))]) == 8
    config = found["knn-own-shapes-s1"].config
    assert (config.weights, config.backbone, config.image_size) == ("hf-hub:a/own", "convnext_atto", 48)
    assert (config.pooling, config.seed, config.preset) == ("average", 1, "tiny")
    assert found["knn-own-shapes-s1"].needs == ()
    other = found["knn-timm-vit_tiny_patch16_224-digits-s0"].config
    assert (other.image_size, other.pooling) == (found["knn-target-digits-s0@4"].config.image_size, "own")


def test_every_option_that_stands_in_for_a_field_of_the_grid_is_one_of_the_commands() -> None:
    from hptctl.cli import tree

    command = tree().commands["study"].commands["run"]  # type: ignore[attr-defined]
    assert {*grid.OPTIONS.values()} <= {option for parameter in command.params for option in parameter.opts}
    assert {*grid.OF_THE_GRID.values()} | {*grid.OPTIONS} <= {*grid.Study.model_fields}


def test_an_unknown_study_gets_a_did_you_mean(workplace: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean 'paper-linear'"):
        grid.load("paper-liner")


def test_prefixes_are_shared_or_not_as_the_study_says(study: Path) -> None:
    shared = [c for c in cells(str(study)) if c.kind == "pretrain" and c.id.startswith("hpt")]
    assert [(c.config.steps, c.config.save_at, c.feeds) for c in shared] == [(4, (2,), 2)]  # type: ignore[union-attr]
    separate = [c for c in cells(str(study), prefixes="separate") if c.kind == "pretrain" and c.id.startswith("hpt")]
    assert [(c.config.steps, c.config.save_at) for c in separate] == [(2, ()), (4, ())]  # type: ignore[union-attr]


def test_a_floor_is_evaluated_once_for_all_that_share_it_and_needs_no_other_cell(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(
        """
        datasets = ["d", "e"]
        weights = ["a", "b"]
        seeds = [0, 1]
        preset = "tiny"
        evaluations = ["knn", { kind = "finetune", labels = "10", dataset = "e" }, { kind = "sweep" }]
        """
    )
    architectures = {"a": "resnet18", "b": "resnet34"}
    found = {c.id: c for c in grid.cells(grid.load(str(path)), architectures.__getitem__) if "untrained" in c.id}
    names = [f"knn-untrained-{d}-s{s}" for d in "de" for s in (0, 1)] + [
        f"finetune-10-untrained-e-s{s}" for s in (0, 1)
    ]
    assert set(found) == {*names, *(f"{name}-resnet34" for name in names)}
    assert not [c for c in found.values() if c.backbone or c.config.weights != "untrained"]
    assert {c.config.backbone for id, c in found.items() if id.endswith("34")} == {"resnet34"}
    assert {c.config.seed for id, c in found.items() if "-s1" in id} == {1}
    path.write_text(path.read_text() + "\nfloor = false")
    assert not [c for c in grid.cells(grid.load(str(path)), architectures.__getitem__) if "untrained" in c.id]


def test_no_base_is_called_untrained(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('datasets = ["d"]\n[[bases]]\nname = "untrained"\ndataset = "d"')
    with pytest.raises(ConfigError, match="a base cannot be called 'untrained'"):
        grid.load(str(path))


def test_processes_of_a_study_are_those_of_what_may_have_several(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    evaluations = '"knn", { kind = "sweep" }, "detection"'
    path.write_text(f'datasets = ["d"]\nweights = ["a"]\nevaluations = [{evaluations}]\n[set]\nprocesses = 2\n')
    found = grid.cells(grid.load(str(path)), lambda weights: "resnet50")
    counts = {"sweep" if cell.sweep else cell.kind: cell.config.processes for cell in found}
    assert counts == {"pretrain": 2, "knn": 2, "sweep": 1, "detection": 2}
