"""Log-probabilities of K responses to one image in one row: [prompt, o_1 ... o_K].

The prompt, pixels and all, is encoded once for all K. Each response sees the prompt and itself only, and its
positions go on from the prompt's end, so the numbers are those of K separate rows.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from ..models.encode import Encoded, completion_positions, prompt_positions


def block_mask(prompt_mask: Int[Tensor, "b p"], responses: int, length: int) -> Bool[Tensor, "b 1 l l"]:
    """What each token of a packed row may see: what came before it in the prompt and in its own response.

    Padding is seen by itself alone (a row that sees nothing has no softmax).
    """
    batch, prompt = prompt_mask.shape
    device = prompt_mask.device
    total = prompt + responses * length
    owner = torch.full((total,), -1, device=device)
    owner[prompt:] = torch.arange(responses, device=device).repeat_interleave(length)
    index = torch.arange(total, device=device)
    allowed = (index[None] <= index[:, None]) & ((owner[None] == -1) | (owner[None] == owner[:, None]))
    seen = torch.cat([prompt_mask.bool(), prompt_mask.new_ones(batch, total - prompt).bool()], 1)
    return ((allowed[None] & seen[:, None]) | torch.eye(total, dtype=torch.bool, device=device))[:, None]


def packed_log_probabilities(
    model: PreTrainedModel,
    core: PreTrainedModel,
    prompts: Encoded,
    completion_ids: Int[Tensor, "b k c"],
    temperature: float = 1.0,
) -> Float[Tensor, "b k c"]:
    """log pi(o_{k,t} | c, x, o_{k,<t}) of every completion token, padding included.

    `model` is called (it may be wrapped for several devices); `core` is the bare model, asked for positions.
    """
    batch, responses, length = completion_ids.shape
    prompt = prompts["input_ids"].shape[1]
    positions, start = prompt_positions(core, prompts)
    one = completion_positions(positions, start, length)
    inputs = dict(prompts)
    inputs["input_ids"] = torch.cat([prompts["input_ids"], completion_ids.flatten(1)], 1)
    # Our models are loaded with PyTorch's own attention, which takes a mask of booleans.
    inputs["attention_mask"] = block_mask(prompts["attention_mask"], responses, length)
    if "mm_token_type_ids" in prompts:
        kinds = prompts["mm_token_type_ids"]
        inputs["mm_token_type_ids"] = torch.cat([kinds, kinds.new_zeros(batch, responses * length)], 1)
    # The prompt's last token predicts the first of every response; a response's last token predicts nothing.
    starts = prompt + length * torch.arange(responses, device=completion_ids.device)
    predicts = (starts[:, None] + torch.arange(length - 1, device=completion_ids.device)).flatten()
    last = torch.tensor([prompt - 1], device=completion_ids.device)
    logits = model(
        **inputs,
        position_ids=torch.cat([positions, *[one] * responses], -1),
        use_cache=False,
        logits_to_keep=torch.cat([last, predicts]),
    ).logits.float()
    logits = logits / temperature
    normaliser = logits.logsumexp(-1)
    first = logits[:, 0].gather(1, completion_ids[:, :, 0]) - normaliser[:, :1]
    rest = logits[:, 1:].gather(2, completion_ids[:, :, 1:].flatten(1)[..., None])[..., 0] - normaliser[:, 1:]
    return torch.cat([first[..., None], rest.view(batch, responses, length - 1)], 2)
