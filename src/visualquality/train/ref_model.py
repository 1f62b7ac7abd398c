"""The frozen policy of the KL term, in full training: the weights that the stage started from."""

import copy

from torch import nn
from transformers import PreTrainedModel


def frozen_twin(model: PreTrainedModel) -> PreTrainedModel:
    """A frozen model of the same weights, in the same memory: it has modules and buffers of its own, and no copy of the
    weights. Before `model` is trained, `take_weights` must follow, or a move to another device, which copies them.
    """
    # deepcopy takes what stands here in place of a copy. Tied weights are one object, and stay one.
    shared = {id(p): nn.Parameter(p.detach(), requires_grad=False) for p in model.parameters()}
    return copy.deepcopy(model, shared).requires_grad_(False).eval()


def take_weights(twin: PreTrainedModel, policy: nn.Module) -> None:
    """Give `twin` the weights of `policy`, on its device: copies of those that are trained, the others themselves."""
    trained = dict(policy.named_parameters())
    for name, parameter in twin.named_parameters():
        source = trained[name]
        parameter.data = source.data.clone() if source.requires_grad else source.data
