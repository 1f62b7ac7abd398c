"""The size of a model, from its configuration, and the memory that a run takes on each device."""

import re
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForImageTextToText, PreTrainedConfig, Qwen2_5_VLConfig

from ..errors import UserError
from ..models.families import bare_model, family_of, read_config
from ..models.folder import whole_model
from ..models.load import EMBEDDED_NAMES, load
from .chosen import CHUNK
from .packed import MASK_BYTES
from .recipe import Recipe

# Tokens of a prompt beside those of its images.
TEXT_TOKENS = 128
# Pixels a side of an image token and of a patch of a Qwen-VL.
TOKEN_SIDE, PATCHES = 28, 4
# What DeepSpeed keeps whole of sharded weights and gradients, by its defaults (stage3_max_live_parameters,
# reduce_bucket_size), in entries of two bytes.
LIVE_PARAMETERS, BUCKET = 10**9, 5 * 10**8

# Published configurations, for a machine that cannot fetch them: hidden, layers, heads, key-value heads, MLP,
# vocabulary, tied. The releases of VisualQuality-R1 and Q-Insight are fine-tuned from the first.
PUBLISHED = {
    r"(qwen2\.5-vl-7b|visualquality-r1-7b|q-insight$)": (3584, 28, 28, 4, 18944, 152064, False),
    r"qwen2\.5-vl-3b": (2048, 36, 16, 2, 11008, 151936, True),
}


@dataclass(frozen=True)
class ModelSize:
    """Numbers of a model; `source` says in words where they are from.

    parameters: all of them, and tower: those of the vision tower. mlp, heads, groups, head: in the text layers the
    width of the MLP, the numbers of heads and of key-value heads, and the width of a head; `vision_...` in those of the
    tower, 0 where none are known here (nano). adapter: parameters of the factors of a recipe's LoRA.
    """

    parameters: int
    tower: int
    layers: int
    hidden: int
    mlp: int
    heads: int
    groups: int
    head: int
    vocabulary: int
    vision_layers: int
    vision_hidden: int
    vision_mlp: int
    adapter: int = 0
    source: str = "counted"


@dataclass(frozen=True)
class Memory:
    """Bytes on each device. What does not exist together is not added: `peak` is that of the larger phase.

    weights, ref_model, moments: there all the time. gradients, activations: in the update. rollout: in the rollout,
    beside the first three. Sharded weights are gathered for the rollout, and a part of them for the update.
    """

    weights: int
    ref_model: int
    moments: int
    gradients: int
    activations: int
    rollout: int
    together: bool  # gradients of earlier parts of the batch wait while the next one's activations are made

    @property
    def update(self) -> int:
        if self.together:
            return self.gradients + self.activations
        # A layer's activations are freed as its gradients are made.
        return max(self.gradients, self.activations)

    @property
    def peak(self) -> int:
        return self.weights + self.ref_model + self.moments + max(self.update, self.rollout)


def published_config(name: str) -> PreTrainedConfig | None:
    """The configuration of a known model of the hub, by its name; None for others."""
    for pattern, numbers in PUBLISHED.items():
        if re.search(pattern, name.lower().rstrip("/")):
            hidden, layers, heads, groups, mlp, vocabulary, tied = numbers
            text = {
                "hidden_size": hidden,
                "num_hidden_layers": layers,
                "num_attention_heads": heads,
                "num_key_value_heads": groups,
                "intermediate_size": mlp,
                "vocab_size": vocabulary,
                "tie_word_embeddings": tied,
            }
            vision = {
                "depth": 32,
                "hidden_size": 1280,
                "num_heads": 16,
                "intermediate_size": 3420,
                "out_hidden_size": hidden,
            }
            return Qwen2_5_VLConfig(
                text_config=text, vision_config=vision, tie_word_embeddings=tied
            )
    return None


def model_size(recipe: Recipe) -> ModelSize:
    """Size of a recipe's model, from its configuration: its folder's or the hub's, else the published one.

    Of a folder with an adapter it is the size of its base. Raises UserError where there is none.
    """
    name, source = whole_model(recipe.model), "counted"
    model: Any
    try:
        if name in EMBEDDED_NAMES:
            model = load(name, device="cpu").model
        else:
            # On the device "meta" a model has shapes, but takes no memory.
            with torch.device("meta"):
                model = AutoModelForImageTextToText.from_config(read_config(name))
    except UserError:  # of `load`
        raise
    # Of a configuration that is damaged, transformers raises nearly anything.
    except Exception as error:
        config = published_config(name)
        if config is None:
            raise UserError(
                f"the size of {name!r} is unknown: its configuration cannot be read here. Fetch the model, and give "
                "its folder"
            ) from error
        with torch.device("meta"):
            model = AutoModelForImageTextToText.from_config(config)
        source = "by its published configuration"
    text = model.config.get_text_config()
    tower = family_of(model.config).vision_tower(model)
    vision = getattr(model.config, "vision_config", None)
    # Qwen2-VL has another name for it, and its "hidden_size" is the width of what it gives.
    width: int = getattr(vision, "embed_dim", None) or getattr(vision, "hidden_size", 0) or 0
    ratio: float = getattr(vision, "mlp_ratio", None) or 0
    mlp: int = getattr(vision, "intermediate_size", None) or int(width * ratio)
    return ModelSize(
        parameters=_count(model),
        tower=0 if tower is None else _count(tower),
        layers=text.num_hidden_layers,
        hidden=text.hidden_size,
        mlp=text.intermediate_size,
        heads=text.num_attention_heads,
        groups=text.num_key_value_heads,
        head=getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads,
        vocabulary=text.vocab_size,
        vision_layers=getattr(vision, "depth", 0),
        vision_hidden=width,
        vision_mlp=mlp,
        adapter=_adapter(model, recipe),
        source=source,
    )


def _count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def _adapter(model: Any, recipe: Recipe) -> int:
    """Parameters of LoRA's two factors on each linear layer that the recipe's expression names."""
    if recipe.lora is None:
        return 0
    named = [
        module
        for name, module in bare_model(model).named_modules()
        if isinstance(module, nn.Linear) and re.fullmatch(recipe.lora.targets, name)
    ]
    return sum(recipe.lora.rank * (m.in_features + m.out_features) for m in named)


def memory(recipe: Recipe, size: ModelSize, *, cuda: bool, sharded: bool = False) -> Memory:
    """What a run takes on each device, for images of `max_pixels` and responses of full length.

    cuda: bfloat16 as `train` has it there; float32 otherwise. sharded: by DeepSpeed's ZeRO-3, in bfloat16.
    """
    rl2r = recipe.method == "rl2r"
    responses = recipe.rl2r.responses if rl2r else 1
    half = cuda and (recipe.lora is not None or sharded)
    weight = {"float32": 4, "bfloat16": 2}.get(recipe.dtype, 2 if half else 4)
    trained = size.parameters - (size.tower if recipe.freeze_vision else 0)
    if recipe.lora:
        trained = size.adapter
    # PEFT keeps its factors in float32.
    slope = 4 if recipe.lora or not sharded else weight
    shards = recipe.devices if sharded else 1
    whole = size.parameters * weight
    # Under LoRA the frozen policy is the model without its adapter, so it costs nothing.
    has_ref_model = rl2r and recipe.rl2r.kl_weight > 0 and not recipe.lora
    # AdamW's two moments are as the weights; DeepSpeed has them, and its own copy of the weights, in float32.
    moments = 12 if sharded else 2 * (4 if recipe.lora else weight)
    gathered = 0
    if sharded:
        gathered = weight * min(size.parameters, LIVE_PARAMETERS) + 2 * min(trained, BUCKET)
    buckets = 0
    if recipe.devices > 1 and not sharded:
        buckets = trained * slope  # of DistributedDataParallel, beside the gradients
    return Memory(
        weights=whole // shards + (4 * size.adapter if recipe.lora else 0),
        ref_model=whole // shards if has_ref_model else 0,
        moments=trained * moments // shards,
        gradients=trained * slope // shards + buckets,
        activations=gathered + _activations(recipe, size, responses, cuda=cuda, weight=weight),
        rollout=(whole if sharded else 0) + _rollout(recipe, size, cuda=cuda) if rl2r else 0,
        together=recipe.optimizer.accumulation > 1 or buckets > 0 or sharded,
    )


def _prompt_tokens(recipe: Recipe) -> tuple[int, int]:
    """Tokens of a prompt, and those of its images: one for each 28 x 28 pixels (Qwen-VL; less for nano)."""
    pixels = recipe.max_pixels or 1280 * TOKEN_SIDE**2
    images = (1 + recipe.reference) * (pixels // TOKEN_SIDE**2)
    return TEXT_TOKENS + images, images


def _layer(hidden: int, attended: int, mlp: int, *, mixed: bool, entry: int) -> int:
    """Bytes that a layer keeps of a token for the backward pass, by what the modules of transformers save.

    Two norms (input, scaled input, output); queries, keys, values and twice the output of attention, with a key for
    each query head; gate, its SiLU, up and their product. mixed: float32 weights under autocast, where norms are in
    float32. entry: bytes of a number elsewhere.
    """
    norms = 2 * (10 if mixed else 12 if entry == 4 else 8)
    return norms * hidden + entry * (5 * attended + 4 * mlp)


def _activations(
    recipe: Recipe, size: ModelSize, responses: int, *, cuda: bool, weight: int
) -> int:
    """Bytes kept for the backward pass of a device's images, and what the head makes beside."""
    images, entry = recipe.optimizer.images_per_device, 2 if cuda or weight == 2 else 4
    mixed = cuda and weight == 4
    prompt, image_tokens = _prompt_tokens(recipe)
    new = responses * recipe.rl2r.max_new_tokens
    tokens = images * (prompt + new)  # the prompt stands in a row once (`packed.py`)
    attended = size.heads * size.head
    layer = tokens * _layer(size.hidden, attended, size.mlp, mixed=mixed, entry=entry)
    if cuda and recipe.packed_attention == "auto":
        # Keys and values of the prompt, copied for each response but one.
        layer += images * (responses - 1) * prompt * 2 * attended * entry
    residual = 4 if mixed else entry
    inputs = tokens * size.hidden * residual
    kept = size.layers * layer + inputs
    patches = images * image_tokens * PATCHES
    vision = patches * _layer(
        size.vision_hidden, size.vision_hidden, size.vision_mlp, mixed=mixed, entry=entry
    )
    vision_inputs = patches * size.vision_hidden * residual
    vision_kept = size.vision_layers * vision
    if recipe.gradient_checkpointing:
        # The inputs of all layers, and all of the one layer that is made again.
        kept = (size.layers + 1) * inputs + layer
        vision_kept = size.vision_layers * vision_inputs
    if recipe.freeze_vision or recipe.lora:
        vision_kept = 0
    mask = images * (prompt + recipe.rl2r.max_new_tokens) ** 2 * entry
    # The hidden states of what is predicted, and their gradient in both formats.
    predicted = images * new * size.hidden * (2 * entry + 4)
    tile = CHUNK * size.vocabulary * (4 if entry == 4 else 6)
    return kept + vision_kept + min(mask, MASK_BYTES) + predicted + tile


def _rollout(recipe: Recipe, size: ModelSize, *, cuda: bool) -> int:
    """Bytes of keys and values, where a prompt stands once for its K responses, and of what is made of logits."""
    images, responses = recipe.optimizer.images_per_device, recipe.rl2r.responses
    prompt, _ = _prompt_tokens(recipe)
    tokens = images * (prompt + responses * recipe.rl2r.max_new_tokens)
    cache = tokens * size.layers * 2 * size.groups * size.head * (2 if cuda else 4)
    # Of the logits a copy in float64, its softmax and its cumulative sum.
    return cache + images * responses * size.vocabulary * (4 + 3 * 8)
