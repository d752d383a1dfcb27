"""What is wrong with a pipeline file: every problem at once, each with its place and what to type."""

from __future__ import annotations

from dataclasses import replace

import pytest
import toys

from fewcore import Component, Offer, PipelineError, pipeline, yaml12
from fewcore.wiring import CLASSES

HEAD = """fewcore: 1
stages:
  data: {dataset: toy-classes}
"""
TAIL = """  test: {task_sampler: episodes, split: test}
  score: {evaluator: few-shot}
"""


def registry():
    odd = [
        Offer("embedder", Component("curious", "toys.odd:Curious", "odd"), "odd", "1"),
        Offer("embedder", Component("gone", "toys.nowhere:Gone", "odd"), "odd", "1"),
        Offer("learner", Component("sharp", "toys.learners:Unet", "masks", "", True, ("masks",)), "odd", "1"),
    ]
    found = toys.registry()
    return replace(found, offers=(*found.offers, *odd))


def problems(text):
    with pytest.raises(PipelineError) as error:
        pipeline.check(yaml12.read(text), registry())
    return [str(problem) for problem in error.value.problems]


def of_stages(*lines):
    return problems(HEAD + "".join(f"  {line}\n" for line in lines) + TAIL)


def wired(*lines):
    made = pipeline.check(yaml12.read(HEAD + "".join(f"  {line}\n" for line in lines) + TAIL), registry())
    return {stage.name: stage for stage in made.stages}


LEARNER = "model: {meta_learner: scratch}"
NET = "net: {backbone: net}"
GOOD = (LEARNER, NET)


# ---- what wires


def test_what_only_one_stage_makes_is_wired():
    stages = wired("embed: {embedder: acai}", "parts: {partitioner: kmeans}", *GOOD)
    assert stages["embed"].inputs == {"images": ("data",)}
    assert stages["parts"].inputs == {"embeddings": ("embed",)}
    assert stages["test"].inputs == {"partitions": (CLASSES,)}
    assert stages["score"].inputs == {"outcomes": ("model",)}
    assert {stages[name].data for name in ("embed", "parts", "test", "model")} == {"data"}


def test_the_order_of_the_file_does_not_matter():
    stages = wired(LEARNER, "parts: {partitioner: kmeans}", "embed: {embedder: acai}", NET)
    assert list(stages).index("embed") < list(stages).index("parts")


@pytest.mark.parametrize("said", ["white", "[white]", "{embeddings: white}", "{embeddings: [white]}"])
def test_from_may_be_short(said):
    stages = wired(
        "embed: {embedder: acai}",
        "white: {embedder: whiten, from: embed}",
        f"parts: {{partitioner: kmeans, from: {said}}}",
        *GOOD,
    )
    assert stages["white"].inputs == {"embeddings": ("embed",)}
    assert stages["parts"].inputs == {"embeddings": ("white",)}
    assert stages["parts"].vectors == ""


def test_vectors_stand_for_images_only_where_the_file_says_so():
    stages = wired("embed: {embedder: acai}", "again: {embedder: acai, from: {images: embed}}", *GOOD)
    assert stages["again"].vectors == "embed"
    assert stages["again"].data == "data"


def test_optional_inputs_are_filled_by_from_alone():
    tune = "tune: {task_sampler: episodes, split: validation}"
    assert "validation_tasks" not in wired(tune, *GOOD)["model"].inputs
    stages = wired(tune, "model: {meta_learner: scratch, from: {validation_tasks: tune}}", NET)
    assert stages["model"].inputs["validation_tasks"] == ("tune",)


def test_an_evaluator_takes_all_models_unless_from_lists_some():
    two = ("one: {meta_learner: scratch}", "two: {meta_learner: scratch}", NET)
    assert wired(*two)["score"].inputs == {"outcomes": ("one", "two")}
    assert wired(*two, "other: {evaluator: few-shot, from: [two]}")["other"].inputs == {"outcomes": ("two",)}


def test_components_go_by_their_full_names_too():
    assert wired("embed: {embedder: 'fewcore-toys:acai'}", *GOOD)["embed"].offer.name == "acai"


# ---- what does not


def test_unknown_names_come_with_a_suggestion():
    assert of_stages("embed: {embedder: acay}", "again: {embedder: acay}", *GOOD) == [
        f"line {line}, column {column}: stages.{name}.embedder: no embedder named 'acay'; installed: acai, whiten, "
        "pca-whiten, deepcluster, vae, gist, c3d, curious, gone; did you mean 'acai'?"
        for line, column, name in ((4, 11, "embed"), (5, 11, "again"))
    ]
    assert of_stages("embed: {embeder: acai}", *GOOD) == [
        "line 4, column 3: stages.embed: no kind of component; expected one of dataset, embedder, partitioner, "
        "task_sampler, meta_learner, learner, evaluator, backbone (did you mean 'embedder'?)"
    ]
    assert of_stages("embed: {embedder: acai, dims: 3}", *GOOD) == [
        "line 4, column 27: stages.embed.dims: unknown option (did you mean 'dim'?)"
    ]
    assert of_stages("embed: {embedder: acai, dim: 0}", *GOOD) == [
        "line 4, column 27: stages.embed.dim: found 0; expected at least 1"
    ]


def test_a_stage_is_a_mapping_of_one_kind_with_a_good_name():
    assert of_stages("embed: acai", *GOOD) == [
        "line 4, column 3: stages.embed: 'acai'; expected a mapping such as {embed: {partitioner: kmeans}}"
    ]
    (found,) = of_stages("embed: {embedder: acai, backbone: net}", *GOOD)
    assert found.startswith("line 4, column 3: stages.embed: 2 kinds (embedder, backbone); expected one of dataset, ")
    assert of_stages("my net: {backbone: net}", LEARNER) == [
        "line 4, column 3: stages.my net: the stage name 'my net'; expected letters, digits, - and _"
    ]
    assert of_stages("embed: {embedder: acai, split: tests, seed: x}", *GOOD) == [
        "line 4, column 27: stages.embed.split: 'tests'; expected one of train, validation, test (did you mean 'test'?)",
        "line 4, column 41: stages.embed.seed: 'x'; expected a whole number",
    ]


def test_a_component_that_cannot_be_imported():
    assert of_stages("embed: {embedder: gone}", *GOOD) == [
        "line 4, column 11: stages.embed.embedder: embedder 'gone' from odd 1 cannot be imported: "
        "ModuleNotFoundError: No module named 'toys.nowhere'"
    ]


def test_a_component_that_asks_for_what_nobody_makes():
    assert of_stages("embed: {embedder: curious}", *GOOD) == [
        "line 4, column 3: stages.embed: its component asks for 'pictures'; expected inputs among images, validation, "
        "embeddings, partitions, tasks, validation_tasks, backbone, start, outcomes"
    ]


def test_from_names_no_input_or_several():
    embed = "embed: {embedder: acai}"
    assert of_stages(embed, "parts: {partitioner: kmeans, from: embet}", *GOOD) == [
        "line 5, column 32: stages.parts.from: 'embet', which fits no input of this stage; expected "
        "from: {embeddings: STAGE} (did you mean 'embed'?)"
    ]
    assert of_stages(embed, "near: {learner: nearest-neighbour, from: data}", *GOOD, "vae: {embedder: vae}") == [
        "line 5, column 3: stages.near: embeddings could come from embed, vae; expected one of them "
        "(say which: from: {embeddings: embed})"
    ]
    tune = "tune: {task_sampler: episodes, split: validation}"
    assert of_stages("tasks: {meta_learner: maml, from: net}", NET, LEARNER)[0].startswith(
        "line 4, column 3: stages.tasks: it needs tasks, and no stage gives them; expected a stage of the kind task_sampler"
    )
    assert of_stages(tune, "net: {backbone: net, from: tune}", LEARNER) == [
        "line 5, column 24: stages.net.from: 'tune', which fits no input of this stage; expected from: {nothing: STAGE}"
    ]


def test_from_names_an_unknown_input_or_a_stage_that_cannot_give_it():
    embed = "embed: {embedder: acai}"
    assert of_stages(embed, "parts: {partitioner: kmeans, from: {embedings: embed}}", *GOOD) == [
        "line 5, column 39: stages.parts.from.embedings: unknown input; expected one of embeddings "
        "(did you mean 'embeddings'?)"
    ]
    assert of_stages(embed, "parts: {partitioner: kmeans, from: {embeddings: net}}", *GOOD) == [
        "line 5, column 39: stages.parts.from.embeddings: 'net' cannot give embeddings; expected embed"
    ]
    assert of_stages("net: {backbone: net, from: {images: data}}", LEARNER) == [
        "line 4, column 31: stages.net.from.images: unknown input; expected nothing: this component asks for nothing"
    ]
    assert of_stages(embed, "white: {embedder: whiten, from: {embeddings: white}}", *GOOD) == [
        "line 5, column 36: stages.white.from.embeddings: 'white' cannot give embeddings; expected embed"
    ]


def test_one_input_takes_one_stage_and_a_list_must_be_named():
    two = ("embed: {embedder: acai}", "other: {embedder: vae}", *GOOD)
    assert of_stages(*two, "parts: {partitioner: kmeans, from: {embeddings: [embed, other]}}") == [
        "line 8, column 39: stages.parts.from.embeddings: 2 stages; expected one stage"
    ]
    assert of_stages(*two, "parts: {partitioner: kmeans, from: embed}", "all: {partitioner: union}") == [
        "line 9, column 3: stages.all: partitions must be named; expected from: {partitions: [parts]}"
    ]


def test_several_makers_are_never_guessed_between():
    assert of_stages("embed: {embedder: acai}", "other: {embedder: vae}", "parts: {partitioner: kmeans}", *GOOD) == [
        "line 6, column 3: stages.parts: embeddings could come from embed, other; expected one of them "
        "(say which: from: {embeddings: embed})"
    ]


def test_nobody_makes_what_is_asked_for():
    assert of_stages("parts: {partitioner: kmeans}", *GOOD) == [
        "line 4, column 3: stages.parts: it needs embeddings, and no stage gives them; expected a stage of the kind embedder"
    ]


def test_tasks_of_the_evaluation_splits_are_no_training_tasks():
    maml = "maml: {meta_learner: maml, from: {tasks: test}}"
    assert of_stages(maml, *GOOD) == [
        "line 4, column 37: stages.maml.from.tasks: 'test' cannot give tasks; expected no stage of this file"
    ]
    scratch = "model: {meta_learner: scratch, from: {validation_tasks: test}}"
    assert of_stages(scratch, NET) == [
        "line 4, column 41: stages.model.from.validation_tasks: 'test' cannot give validation_tasks; "
        "expected no stage of this file"
    ]


def test_a_circle():
    found = of_stages("one: {embedder: whiten, from: two}", "two: {embedder: whiten, from: one}", *GOOD)
    assert found == ["line 4, column 3: stages.one: its inputs lead back to itself; expected stages without a circle"]


def test_two_data_sets_must_be_told_apart():
    other = "other: {dataset: toy-patients}"
    assert of_stages(other, "model: {meta_learner: scratch, from: {images: data}}", NET)[0] == (
        "line 7, column 3: stages.test: images could come from data, other; expected one of them "
        "(add a stage classes: {partitioner: labels, split: test, from: {images: data}} and say from: classes)"
    )
    text = (
        "fewcore: 1\nstages:\n  data: {dataset: toy-patients}\n  other: {dataset: toy-patients}\n"
        "  classes: {partitioner: labels, split: test, from: {images: data}}\n"
        "  test: {task_sampler: episodes, split: test, n_way: 2, from: classes}\n"
        "  net: {backbone: net}\n  model: {meta_learner: scratch, from: {images: data}}\n"
        "  score: {evaluator: few-shot}\n"
    )
    made = {stage.name: stage for stage in pipeline.check(yaml12.read(text), registry()).stages}
    assert made["test"].inputs == {"partitions": ("classes",)}
    (found,) = problems(
        "fewcore: 1\nstages:\n  data: {dataset: toy-patients}\n  more: {dataset: toy-patients, crop: volume}\n"
        "  gist: {embedder: gist}\n  near: {learner: nearest-neighbour, from: {images: data}}\n"
        "  score: {evaluator: classification}\n"
    )
    assert found == (
        "line 5, column 3: stages.gist: images could come from data, more; expected one of them "
        "(say which: from: {images: data})"
    )


def test_there_must_be_data_and_something_to_judge():
    assert problems("fewcore: 1\nstages:\n  net: {backbone: net}\n") == [
        "line 2, column 1: stages: no data set; expected a stage such as data: {dataset: digits}"
    ]
    assert of_stages(NET) == [
        "line 6, column 3: stages.score: no model to evaluate; expected a stage of the kind learner or meta_learner"
    ]
    assert problems("fewcore: 1\nstages: {}\n") == [
        "line 2, column 1: stages: no stages; expected stages: {data: {dataset: digits}, ...}"
    ]
    assert problems("fewcore: 1\nname: empty\n") == [
        "stages: no stages; expected stages: {data: {dataset: digits}, ...}"
    ]


def test_only_some_kinds_leave_the_training_rows():
    assert of_stages("model: {meta_learner: scratch, split: test}", NET) == [
        "line 4, column 34: stages.model.split: a meta-learner on test; "
        "expected only partitioner, task_sampler, embedder may leave the training rows"
    ]


def test_a_model_that_is_judged_needs_test_tasks():
    head = HEAD + "  net: {backbone: net}\n  model: {meta_learner: scratch}\n"
    assert problems(head + "  score: {evaluator: few-shot}\n") == [
        "line 5, column 3: stages.model: no test tasks; "
        "expected a stage such as test: {task_sampler: episodes, split: test}"
    ]
    started = head + "  tuned: {learner: fine-tune, from: {start: model}}\n  score: {evaluator: classification}\n"
    assert pipeline.check(yaml12.read(started), registry())


def test_a_model_that_is_limited_in_its_way_meets_no_wider_test_tasks():
    found = of_stages(
        "embed: {embedder: acai}",
        "parts: {partitioner: kmeans}",
        "tasks: {task_sampler: episodes, n_way: 3}",
        "maml: {meta_learner: maml}",
        NET,
    )
    assert found == [
        "line 9, column 3: stages.test.n_way: 5-way test tasks for 'maml', which trains on 3-way tasks; "
        "expected at most 3 ways"
    ]


def test_an_evaluator_that_no_model_of_any_cell_can_feed():
    text = HEAD.replace("toy-classes", "toy-patients") + (
        "  model: {learner: conv-net}\n  dice: {evaluator: segmentation}\n"
    )
    assert problems(text) == [
        "line 5, column 3: stages.dice: the models make scores; expected a model that makes masks"
    ]
    either = "matrix: {stages.model: [{learner: conv-net}, {learner: u-net}]}\n"
    assert pipeline.check(yaml12.read(text + either), registry())


def test_all_problems_come_at_once():
    text = """fewcore: 2
seeds: 3
splits: {folds: 1}
stages:
  data: {dataset: toy-clases}
  net: {backbone: net, widht: 3}
  embed: {embedder: acai, dim: two}
  white: {embedder: whiten, from: embed}
  parts: {partitioner: kmeans}
  other: {partitioner: kmeans, n_init: 0}
"""
    found = problems(text)
    assert [line.split(": ")[0] + " " + line.split(": ")[1] for line in found] == [
        "line 1, column 1 fewcore",
        "line 2, column 1 seeds",
        "line 3, column 10 splits.folds",
        "line 5, column 10 stages.data.dataset",
        "line 6, column 24 stages.net.widht",
        "line 7, column 27 stages.embed.dim",
        "line 10, column 32 stages.other.n_init",
    ]
    assert len(set(found)) == len(found)


def test_a_broken_stage_is_not_reported_again_by_those_that_need_it():
    assert of_stages("embed: {embedder: acay}", "parts: {partitioner: kmeans, from: embed}", *GOOD)[1:] == []


# ---- files, overrides and grids


def write(tmp_path, text):
    path = tmp_path / "pipeline.yaml"
    path.write_text(text)
    return path


def test_overrides_and_grids(tmp_path):
    path = write(
        tmp_path,
        HEAD + "  net: {backbone: net}\n  model: {meta_learner: scratch}\n" + TAIL + "repeat: {seed: [0, 1]}\n",
    )
    made = pipeline.load(
        path, registry(), overrides={"stages.net.width": 4, "seed": 7}, grid={"stages.model.steps": [1, 2]}
    )
    assert made.name == "pipeline"
    assert [cell.label for cell, _ in made.cells] == ["stages.model.steps 1", "stages.model.steps 2"]
    assert {cell.spec["seed"] for cell, _ in made.cells} == {7}
    assert {s.component.width for _, stages in made.cells for s in stages if s.name == "net"} == {4}

    def refused(**more):
        with pytest.raises(PipelineError) as error:
            pipeline.load(path, registry(), **more)
        return str(error.value).removeprefix(f"{path}: ")

    assert refused(overrides={"stage.net.width": 4}) == (
        "1 problem\n  - stage.net.width: unknown key 'stage'; expected one of fewcore, name, seed, target, splits, "
        "labels, repeat, matrix, skip, select, stages, published (did you mean 'stages'?)"
    )
    assert refused(overrides={"stages.nett.width": 4}) == (
        "1 problem\n  - stages.nett.width: no stage 'nett'; expected one of data, net, model, test, score (did you mean 'net'?)"
    )
    assert refused(overrides={"stages.net.backbone.deep": 4}) == (
        "1 problem\n  - stages.net.backbone.deep: 'backbone' is no mapping; "
        "expected a dotted path to a value, such as stages.maml.inner_steps"
    )
    loops = path.read_text().replace("repeat: {seed: [0, 1]}", "repeat: {splits.seed: [0, 1]}")
    write(tmp_path, loops + "matrix: {stages.net: {a: {backbone: net}, b: {backbone: net, width: 3}}}\n")
    assert refused(overrides={"splits.seed": 4, "stages.net.width": 4}) == (
        "2 problems\n  - --set stages.net.width: a value in whose place the matrix puts others (stages.net); expected one "
        "that stays (in the file, change width in each value of matrix)\n"
        "  - --set splits.seed: a value in whose place the repeat puts others (splits.seed); expected one that stays "
        "(type --set 'repeat.splits.seed=[...]')"
    )
    made = pipeline.load(
        path, registry(), overrides={"repeat.splits.seed": [3], "matrix.stages.net": [{"backbone": "net"}]}
    )
    assert [cell.axes for cell, _ in made.cells] == [{"stages.net": '{"backbone": "net"}', "splits.seed": 3}]
    write(tmp_path, loops.replace("repeat", "# repeat") + "matrix: [{seed: 1}, {seed: 2, stages.net.width: 3}]\n")
    # Where only some cells put their own there, it stays in the others.
    assert len(pipeline.load(path, registry(), overrides={"stages.net.width": 4}).cells) == 2
    assert refused(grid={"seed": [1]}) == (
        "1 problem\n  - --grid: the file's matrix is a list of cells; expected a mapping of axes"
    )


def test_a_file_that_cannot_be_read(tmp_path):
    with pytest.raises(PipelineError, match=r"cannot be read: .*No such file.*; expected a text file in UTF-8"):
        pipeline.load(tmp_path / "none.yaml", registry())
    path = tmp_path / "latin.yaml"
    path.write_bytes(b"name: caf\xe9\n")
    with pytest.raises(PipelineError, match=r"cannot be read: .*expected a text file in UTF-8"):
        pipeline.load(path, registry())


def test_shipped_pipelines_go_by_name(tmp_path):
    (name, *_) = sorted(file.stem for file in pipeline.SHIPPED.glob("*.yaml"))
    assert pipeline.find_file(name).is_file()
    path = write(tmp_path, "")
    assert pipeline.find_file(str(path)) == path
    with pytest.raises(PipelineError) as error:
        pipeline.find_file(name + "x")
    assert str(error.value).startswith(f"{name}x: no such file; expected a pipeline file, or one of {name}")
    assert str(error.value).endswith(f"(did you mean '{name}'?)")
