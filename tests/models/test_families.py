import shutil

import pytest

from conftest import picture
from visualquality import Scorer, UserError, response
from visualquality.models.generate import Completion
from visualquality.models.load import load
from visualquality.models.prompt import encode_prompt
from visualquality.models.releases import release_of, subfolder_of, trained_prompt

# Typed from Q-Insight's inference code, apart from the constants that the package holds.
SYSTEM = (
    "A conversation between User and Assistant. The user asks a question, and the Assistant solves it. The assistant "
    "first thinks about the reasoning process in the mind and then provides the user with the answer. The reasoning "
    "process and answer are enclosed within <think> </think> and <answer> </answer> tags, respectively, i.e., "
    "<think> reasoning process here </think><answer> answer here </answer>"
)
QUESTION = (
    "What is your overall rating on the quality of this picture? The rating should be a float between 1 and 5, rounded "
    "to two decimal places, with 1 representing very poor quality and 5 representing excellent quality. Return the "
    'final answer in JSON format with the following keys: "rating": The score.'
)


@pytest.mark.parametrize(
    ("name", "prompt"),
    [
        ("TianheWu/VisualQuality-R1-7B", "released"),
        ("TianheWu/VisualQuality-R1-7B-preview", "released"),
        ("/data/VisualQuality-R1-7B/", "released"),
        ("/home/me/.cache/hub/models--TianheWu--VisualQuality-R1-7B/snapshots/3f2a", "released"),
        ("ByteDance/Q-Insight", "q-insight"),
        ("weights\\Q-Insight\\score_degradation", "q-insight"),
        ("Qwen/Qwen2.5-VL-7B-Instruct", "paper"),
        ("nano", None),
        ("runs/not-q-insight/final", None),
        ("someone/Q-Insight-like", None),
        ("Qwen/Qwen3-VL-8B-Instruct", None),
    ],
)
def test_release_ofs_by_their_names(name, prompt):
    assert trained_prompt(name) == prompt
    assert (release_of(name) is None) == (prompt is None)


@pytest.fixture(scope="module")
def q_insight(model_folder, tmp_path_factory):
    """The repository's layout: the model in a subfolder."""
    root = tmp_path_factory.mktemp("hub") / "Q-Insight"
    shutil.copytree(model_folder("qwen2_5_vl"), root / "score_degradation")
    return root


def test_q_insight_is_asked_as_its_authors_ask(q_insight):
    scorer = Scorer(
        str(q_insight), samples=1, max_new_tokens=4, device="cpu", max_pixels=28 * 28 * 4
    )
    assert scorer.settings()["prompt"] == "q-insight"
    seen = []  # the tokens that the model looks up
    scorer.vlm.model.get_input_embeddings().register_forward_pre_hook(
        lambda _, inputs: seen.append(inputs[0])
    )
    scorer(picture(0, (56, 56)))
    text = scorer.vlm.processor.tokenizer.decode(seen[0][0], skip_special_tokens=False)
    image = "<|vision_start|>" + "<|image_pad|>" * 4 + "<|vision_end|>"
    assert text == (
        f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\n{QUESTION}{image}<|im_end|>\n<|im_start|>assistant\n"
    )


def test_q_insight_has_one_form(q_insight):
    with pytest.raises(UserError, match="mode reason"):
        Scorer(str(q_insight), mode="direct", device="cpu")


def test_other_models_are_asked_as_before(model_folder):
    """The image first, then the text, under the system message of the model's own template."""
    vlm = load(str(model_folder("qwen2_5_vl")), device="cpu", max_pixels=28 * 28 * 4)
    text = vlm.processor.tokenizer.decode(
        encode_prompt(vlm.processor, [picture(0, (56, 56))], "Rate.").tokens["input_ids"]
    )
    image = "<|vision_start|>" + "<|image_pad|>" * 4 + "<|vision_end|>"
    system = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    assert text == f"{system}<|im_start|>user\n{image}Rate.<|im_end|>\n<|im_start|>assistant\n"


def test_only_the_model_in_the_subfolder_is_read(q_insight):
    assert subfolder_of(str(q_insight)) == "score_degradation"
    assert subfolder_of(str(q_insight / "score_degradation")) == ""
    inner = load(str(q_insight / "score_degradation"), device="cpu")
    assert load(str(q_insight), device="cpu").digest == inner.digest


def test_the_scorer_reads_answers_in_the_form_of_its_prompt(q_insight, monkeypatch):
    monkeypatch.setattr(
        "visualquality.score.scorer.decode", lambda *_: '<answer>{"rating": 3.45}</answer>'
    )
    options = {"samples": 1, "max_new_tokens": 1, "device": "cpu"}
    assert Scorer(str(q_insight), **options)(picture(0)).score == 3.45
    other = Scorer(str(q_insight), prompt="paper", **options)(picture(0))
    assert other.problem.endswith(response.Problem.NOT_A_NUMBER)


def test_the_preset_of_the_authors_numbers_the_picture_and_reads_as_they_do(
    model_folder, tmp_path, monkeypatch
):
    folder = tmp_path / "VisualQuality-R1-7B"
    shutil.copytree(model_folder("qwen2_5_vl"), folder)
    scorer = Scorer(str(folder), preset="authors", max_new_tokens=8, device="cpu")
    plain = Scorer(scorer.vlm, max_new_tokens=8)
    texts = []
    for each in (scorer, plain):
        (prompt,) = each.reader(picture(0)).prompts
        texts.append(each.vlm.processor.tokenizer.decode(prompt.tokens["input_ids"].tolist()))
    assert texts[0] == texts[1].replace("<|vision_start|>", "Picture 1: <|vision_start|>")
    drawn = {}

    def draw(prefilled, **options):
        drawn.update(options)
        return [[Completion(tuple(scorer.vlm.processor.tokenizer.encode(answer)), truncated=False)]]

    answer = "<think>Soft.</think><answer>Rating: **3.5/5**</answer>"
    monkeypatch.setattr("visualquality.score.scorer.sample_completions", draw)
    rating = scorer(picture(0))
    assert (rating.score, rating.samples, rating.reasoning) == (3.5, (3.5,), "Soft.")
    sampling = {"temperature": 0.1, "top_k": 50, "top_p": 1.0, "repetition_penalty": 1.05}
    assert drawn.items() >= sampling.items()
    recorded = {**sampling, "preset": "authors", "reading": "authors", "add_vision_id": True}
    del recorded["top_p"]  # the default
    assert scorer.settings().items() >= {**recorded, "max_new_tokens": 8}.items()
    # And none of it is recorded where it is not used, so that older journals go on.
    assert not plain.settings().keys() & {*recorded, "top_p"} - {"temperature"}


def test_a_template_that_does_not_number_images_is_said(model_folder):
    with pytest.raises(UserError, match="does not number images: leave add_vision_id out"):
        Scorer(str(model_folder("nano")), add_vision_id=True, device="cpu")
