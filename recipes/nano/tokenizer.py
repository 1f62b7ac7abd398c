"""The vocabulary of `nano`: a byte-level BPE of 1024 entries, trained on its own sentences and on the prompts.

A piece may span several words, so that a prompt takes few tokens, but no punctuation and no digits. Each digit is one
token, so that the mode `expect` can compute a score from the probabilities of the digits.
"""

from collections.abc import Iterable

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

SPECIAL = ("<|pad|>", "<|im_start|>", "<|im_end|>", "<|image|>")
TAGS = ("<think>", "</think>", "<answer>", "</answer>")
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|image|>{% elif part['type'] == 'text' %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def train_tokenizer(
    texts: Iterable[str], size: int = 1024, longest: int = 28
) -> PreTrainedTokenizerFast:
    """A tokenizer with `size` entries at most, none longer than `longest` bytes."""
    bpe = Tokenizer(models.BPE())
    # Split at every digit and punctuation mark, so that no piece crosses one. Spaces stay inside the pieces.
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"[0-9]|[.,:;!?<>/\n]|[^0-9.,:;!?<>/\n]+"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    bpe.decoder = decoders.ByteLevel()
    # The tags are added after training; the sum is `size`.
    trainer = trainers.BpeTrainer(
        vocab_size=size - len(TAGS),
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        max_token_length=longest,
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    # Not special: special tokens are dropped when an answer is decoded, and its tags are needed.
    bpe.add_tokens([AddedToken(tag, special=False, normalized=False) for tag in TAGS])
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        pad_token="<|pad|>",
        eos_token="<|im_end|>",
        additional_special_tokens=["<|im_start|>", "<|image|>"],
        padding_side="left",
        model_max_length=4096,
        clean_up_tokenization_spaces=False,
    )
