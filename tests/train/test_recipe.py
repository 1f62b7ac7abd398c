from pathlib import Path

import pytest
import yaml

from visualquality.errors import UserError
from visualquality.train.examples import Example
from visualquality.train.plan import plan
from visualquality.train.recipe import read_recipe

RECIPES = Path(__file__).parents[2] / "recipes"
MINIMAL = "model: nano\ndata:\n  - manifest: a.csv\noptimizer: {steps: 5}\n"


def write(folder: Path, text: str) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(text)
    return path


def test_defaults_are_the_papers(tmp_path):
    recipe = read_recipe(write(tmp_path, MINIMAL))
    assert (recipe.rl2r.responses, recipe.rl2r.kl_weight, recipe.rl2r.clip) == (6, 0.04, 0.2)
    assert (recipe.rl2r.temperature, recipe.rl2r.max_new_tokens, recipe.rl2r.format_weight) == (
        1.0,
        256,
        1.0,
    )
    assert (recipe.optimizer.learning_rate, recipe.optimizer.images_per_device) == (1e-6, 8)
    assert (recipe.freeze_vision, recipe.rl2r.reward) == (False, "fidelity")


def test_paths_are_relative_to_the_recipe(tmp_path):
    recipe = read_recipe(write(tmp_path, MINIMAL))
    assert recipe.data[0].manifest == tmp_path / "a.csv"
    assert recipe.output == Path("runs/recipe")
    probed = read_recipe(write(tmp_path, MINIMAL + "probes: {manifest: p.csv, images: photos}\n"))
    assert (probed.probes.manifest, probed.probes.images) == (
        tmp_path / "p.csv",
        tmp_path / "photos",
    )


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ("modle: x\n", "modle"),
        ("rl2r: {response: 4}\n", "rl2r.response"),
        ("rl2r: {responses: 1}\n", "rl2r.responses"),
        ("rl2r: {top_k: -1}\n", "rl2r.top_k"),
        ("rl2r: {reading: expected}\n", "rl2r.reading"),
        ("seed: many\n", "seed"),
        ("prompt: q-insight\n", "q-insight"),
        ("rl2r: {compare_within: 7}\n", "groups of 7 leave one of 8"),
        ("rl2r: {dataset_per: group}\n", r"dataset_per is group, so rl2r\.compare_within"),
        ("rl2r: {dataset_per: group, compare_within: 3}\n", "a size of groups that 8 images"),
        ("probes: {manifest: p.csv, mos_range: [5, 1]}\n", "probes.mos_range"),
        ("checkpoint_every: 0\n", "checkpoint_every"),
    ],
)
def test_every_wrong_field_is_named(tmp_path, change, named):
    with pytest.raises(UserError, match=named):
        read_recipe(write(tmp_path, MINIMAL + change))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "empty"),
        ("- a\n", "mapping"),
        ("a: [", "not a YAML"),
        (MINIMAL.replace("steps: 5", "steps: 5, epochs: 1"), "exactly one"),
        (MINIMAL.replace("steps: 5", ""), "exactly one"),
    ],
)
def test_what_is_no_recipe_is_said_so(tmp_path, text, said):
    with pytest.raises(UserError, match=said):
        read_recipe(write(tmp_path, text))
    with pytest.raises(UserError, match="no recipe"):
        read_recipe(tmp_path / "absent.yaml")


def test_overrides_reach_everything(tmp_path):
    path = write(tmp_path, MINIMAL)
    recipe = read_recipe(
        path,
        (
            "optimizer.epochs=2.5",
            "rl2r.reward=binary",
            "data.0.manifest=/b.csv",
            "lora.rank=4",
            "seed=7",
        ),
    )
    assert (recipe.optimizer.epochs, recipe.optimizer.steps) == (2.5, None)
    assert (recipe.rl2r.reward, recipe.data[0].manifest, recipe.lora.rank, recipe.seed) == (
        "binary",
        Path("/b.csv"),
        4,
        7,
    )
    with pytest.raises(UserError, match="field=value"):
        read_recipe(path, ("seed",))
    with pytest.raises(UserError, match=r"optimizer\.speed"):
        read_recipe(path, ("optimizer.speed=9",))


@pytest.mark.parametrize("name", ["paper-kadid10k", "paper-kadid10k-spaq", "one-gpu-lora"])
def test_the_shipped_recipes_read_and_plan(name):
    recipe = read_recipe(RECIPES / f"{name}.yaml")
    sizes = {"kadid10k": 6125, "spaq": 6675} if name.endswith("spaq") else {"kadid10k": 6125}
    examples = [
        Example(Path("x.png"), "x", 1.0, name)
        for name, count in sizes.items()
        for _ in range(count)
    ]
    cost = plan(recipe, examples)
    assert cost.images == sizes
    if name == "one-gpu-lora":
        assert (recipe.global_batch, cost.comparisons_a_step, cost.memory.ref_model) == (
            32,
            32 * 31 * 6,
            0,
        )
        assert cost.memory.peak < 24 * 2**30
    else:
        assert (recipe.global_batch, cost.responses_a_step, cost.comparisons_a_step) == (
            128,
            768,
            768 * 7,
        )
        # With both sets whole groups: 765 of KADID-10k and 834 of SPAQ, 16 in a batch.
        assert cost.steps == 10 * ((765 + 834) // 16 if "spaq" in sizes else 48)
        assert (recipe.rl2r.compare_within, recipe.grouped) == (8, "spaq" in sizes)
        assert cost.memory.weights == cost.memory.ref_model > 26 * 2**30
        assert recipe.max_pixels == 1280 * 28 * 28


@pytest.mark.parametrize("name", ["paper-kadid10k", "paper-kadid10k-spaq"])
def test_the_papers_recipes_draw_and_read_as_the_authors_did(name):
    settings = read_recipe(RECIPES / f"{name}.yaml").rl2r
    assert (settings.temperature, settings.top_k, settings.reading) == (1, 50, "authors")


def test_a_data_set_smaller_than_a_batch_is_named(tmp_path):
    recipe = read_recipe(write(tmp_path, MINIMAL))
    with pytest.raises(UserError, match="'few' has 3 images and a batch is 8"):
        plan(recipe, [Example(Path("x"), "x", 1.0, "few")] * 3)


def test_groups_that_draw_their_data_set_need_whole_groups_only(tmp_path):
    text = MINIMAL.replace("steps: 5", "epochs: 2")
    path = write(tmp_path, text + "rl2r: {dataset_per: group, compare_within: 4}\n")
    recipe = read_recipe(path)

    def examples(**counts: int) -> list[Example]:
        return [Example(Path("x"), "x", 1.0, name) for name, n in counts.items() for _ in range(n)]

    # Seven groups of 4 are three batches of 8, twice.
    assert plan(recipe, examples(few=7, many=25)).steps == 6
    with pytest.raises(UserError, match="'few' has 3 images and a group is 4"):
        plan(recipe, examples(few=3, many=25))
    with pytest.raises(UserError, match="make 1 groups of 4 images, and a batch has 2"):
        plan(recipe, examples(few=7))


@pytest.mark.parametrize(
    ("changes", "pairs"),
    [
        ({}, 8 * 7 * 6),
        ({"rl2r": {"compare_within": 4}}, 2 * 4 * 3 * 6),
        ({"rl2r": {"compare_within": 3}}, (3 * 2 + 3 * 2 + 2) * 6),
        ({"rl2r": {"reward": "absolute"}}, 0),
        ({"rl2r": {"reward": "rank_and_score"}}, 8 * 7 * 6),
        ({"method": "expect"}, 8 * 7),
        ({"method": "expect", "expect": {"objective": "regression"}}, 0),
        ({"method": "sft"}, 0),
    ],
)
def test_comparisons_are_counted_as_they_are_made(tmp_path, changes, pairs):
    recipe = read_recipe(write(tmp_path, MINIMAL + (yaml.safe_dump(changes) if changes else "")))
    assert plan(recipe, [Example(Path("x"), "x", 1.0, "some")] * 8).comparisons_a_step == pairs


def test_one_image_has_nothing_to_be_compared_with(tmp_path):
    alone = ("optimizer.images_per_device=1", "optimizer.accumulation=8")
    assert read_recipe(write(tmp_path, MINIMAL), alone).compared == 8
    with pytest.raises(UserError, match="optimizer"):
        read_recipe(write(tmp_path, MINIMAL), (*alone, "method=expect"))
