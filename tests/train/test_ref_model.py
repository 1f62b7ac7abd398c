"""The frozen policy takes memory only for what is trained."""

import torch

from small_runs import reward_on_a_letter, small_recipe
from visualquality.models.load import load
from visualquality.train import trainer as trainer_module
from visualquality.train.ref_model import frozen_twin, take_weights
from visualquality.train.run import train


def test_a_twin_has_no_weights_of_its_own_until_it_takes_them(model_folder):
    model = load(str(model_folder("qwen2_5_vl")), device="cpu").model.train()
    model.model.visual.requires_grad_(False)
    twin = frozen_twin(model)
    pairs = [(p, twin.get_parameter(name)) for name, p in model.named_parameters()]
    assert all(a is not b and a.data_ptr() == b.data_ptr() for a, b in pairs)
    assert not any(b.requires_grad for _, b in pairs)
    assert model.training
    assert not twin.training
    assert twin.lm_head.weight is twin.get_input_embeddings().weight  # tied, as before
    take_weights(twin, model)
    assert all((a.data_ptr() == b.data_ptr()) is not a.requires_grad for a, b in pairs)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_training_leaves_the_weights_of_the_start(tmp_path, model_folder, ranking_set, monkeypatch):
    reward_on_a_letter(monkeypatch)
    made = []
    real = trainer_module.RL2RTrainer.__init__

    def spied(self, *args, **kwargs):
        real(self, *args, **kwargs)
        made.append(self)

    monkeypatch.setattr(trainer_module.RL2RTrainer, "__init__", spied)
    start = model_folder("qwen2_5_vl")
    changes = {"freeze_vision": True, "optimizer": {"steps": 2, "learning_rate": 1e-2}}
    train(small_recipe(tmp_path, start, ranking_set, **changes))
    (trained,) = made
    policy = trained.accelerator.unwrap_model(trained.model)
    for name, before in load(str(start), device="cpu").model.named_parameters():
        kept = trained.ref_policy.get_parameter(name)
        assert torch.equal(kept, before), name
        frozen = ".visual." in name
        assert (kept.data_ptr() == policy.get_parameter(name).data_ptr()) is frozen, name
    assert not torch.equal(policy.lm_head.weight, trained.ref_policy.lm_head.weight)
