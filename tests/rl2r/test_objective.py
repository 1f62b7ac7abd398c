import math
from collections import defaultdict
from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator
from hypothesis import given, settings
from hypothesis import strategies as st
from trl import GRPOConfig, GRPOTrainer

from visualquality.rl2r import advantage, kl_k3, policy_objective

NAN = math.nan


def log_probabilities(seed, responses=7, tokens=9):
    generator = torch.Generator().manual_seed(seed)
    old = -3 * torch.rand(responses, tokens, generator=generator, dtype=torch.float64)
    noise = 0.4 * torch.randn(2, responses, tokens, generator=generator, dtype=torch.float64)
    lengths = torch.randint(0, tokens + 1, (responses, 1), generator=generator)
    mask = (torch.arange(tokens) < lengths).long()
    gain = torch.randn(responses, generator=generator, dtype=torch.float64)
    return (old + noise[0]).requires_grad_(), old, old + noise[1], gain, mask


@given(st.lists(st.lists(st.floats(0, 1), min_size=5, max_size=5), min_size=1, max_size=6))
@settings(deadline=None, max_examples=30)
def test_advantage_is_grpo_s(rewards):
    rewards = torch.tensor(rewards, dtype=torch.float64)
    expected = (rewards - rewards.mean(1, keepdim=True)) / (rewards.std(1, keepdim=True) + 1e-4)
    torch.testing.assert_close(advantage(rewards), expected, rtol=0, atol=1e-9)


def test_advantage_worked_by_hand_and_at_its_edges():
    # mean 0.6, deviations −0.4, 0, 0.4, unbiased deviation √(0.32 / 2) = 0.4: ∓0.4 / 0.4001
    got = advantage(torch.tensor([[0.2, 0.6, 1.0]]))
    assert got[0].tolist() == pytest.approx([-0.99975, 0, 0.99975], abs=1e-5)
    for equal in (0.1, 0.7071068, 1.0, 0.0):
        for count in (1, 3, 6, 7):
            assert (advantage(torch.full((2, count), equal)) == 0).all()


def test_k3():
    # π_ref / π = 0.5 / 0.25 = 2: 2 − ln 2 − 1 = 0.306853; 0.1 / 0.4 = ¼: 0.25 + ln 4 − 1 = 0.636294
    got = kl_k3(torch.tensor([0.25, 0.4]).log(), torch.tensor([0.5, 0.1]).log())
    assert got.tolist() == pytest.approx([0.306853, 0.636294], abs=1e-6)
    logp, _, ref, _, _ = log_probabilities(0)
    assert (kl_k3(logp, ref) > 0).all()
    same = kl_k3(logp, logp.detach())
    assert (same == 0).all()
    (gradient,) = torch.autograd.grad(same.sum(), logp)
    assert (gradient == 0).all()
    # x² / 2 for a small difference, of which exp(x) − x − 1 keeps nothing in float32
    assert kl_k3(torch.tensor(0.0), torch.tensor(1e-5)).item() == pytest.approx(5e-11, rel=0.05)


def loss_of_trl(folder, logp, old, ref, gain, mask, epsilon, beta):
    """TRL's own `_compute_loss` on given log-probabilities: loss, mean KL and share of clipped tokens.

    The stand-in for the trainer has what `GRPOTrainer.__init__` takes from the arguments; all else is TRL's code.
    """
    args = GRPOConfig(
        str(folder),
        loss_type="grpo",
        beta=beta,
        epsilon=epsilon,
        use_bias_correction_kl=False,  # Eq. 6 has no importance ratio
        use_cpu=True,
    )
    trainer = SimpleNamespace(
        args=args,
        loss_type=args.loss_type,
        beta=args.beta,
        epsilon_low=args.epsilon,
        epsilon_high=args.epsilon if args.epsilon_high is None else args.epsilon_high,
        importance_sampling_level=args.importance_sampling_level,
        top_entropy_quantile=args.top_entropy_quantile,
        off_policy_mask_threshold=args.off_policy_mask_threshold,
        use_vllm=args.use_vllm,
        aux_loss_enabled=False,
        _entropy_bonus_enabled=False,
        model=SimpleNamespace(training=True),
        current_gradient_accumulation_steps=1,
        accelerator=Accelerator(cpu=True),
        _metrics={"train": defaultdict(list)},
        _get_per_token_logps_and_entropies=lambda *a, **k: (logp, torch.zeros_like(logp), None),
    )
    prompt = torch.zeros(len(logp), 1, dtype=torch.long)
    inputs = {
        "prompt_ids": prompt,
        "prompt_mask": prompt,
        "completion_ids": torch.zeros_like(mask),
        "completion_mask": mask,
        "advantages": gain,
        "old_per_token_logps": old,
        "ref_per_token_logps": ref,
    }
    loss = GRPOTrainer._compute_loss(trainer, None, inputs)
    (kl,), (clipped,) = (trainer._metrics["train"][k] for k in ("kl", "clip_ratio/region_mean"))
    return loss, kl, clipped


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("epsilon", "beta"), [(0.2, 0.04), (0.05, 1.0)])
def test_loss_is_that_of_trl(seed, epsilon, beta, tmp_path):
    logp, old, ref, gain, mask = log_probabilities(seed)
    expected, kl, clipped = loss_of_trl(tmp_path, logp, old, ref, gain, mask, epsilon, beta)
    got = policy_objective(logp, old, ref, gain, mask, epsilon=epsilon, beta=beta)
    torch.testing.assert_close(got.loss, expected, rtol=0, atol=1e-12)
    assert got.kl.item() == pytest.approx(kl)
    assert got.clip_fraction.item() == pytest.approx(clipped)
    assert 0 < got.clip_fraction < 1
    (gradient,) = torch.autograd.grad(got.loss, logp)
    (wanted,) = torch.autograd.grad(expected, logp)
    torch.testing.assert_close(gradient, wanted, rtol=0, atol=1e-12)


def test_loss_worked_by_hand():
    # Response 1, A = 2: ratios 1.5 (clipped to 1.2) and 1: −(2.4 + 2) / 2 = −2.2.
    # Response 2, A = −1: ratios 1.5 (not clipped, min(−1.5, −1.2)) and padding: 1.5. Response 3 is empty: 0.
    # KL: only token 2 of response 1 differs, π_ref / π = 2: 0.306853, so β · 0.306853 / 2 more in response 1.
    new = torch.tensor([[0.6, 0.25], [0.6, 0.9], [0.5, 0.5]]).log()
    old = torch.tensor([[0.4, 0.25], [0.4, 0.1], [0.5, 0.5]]).log()
    ref = torch.tensor([[0.6, 0.5], [0.6, 0.1], [0.1, 0.1]]).log()
    mask = torch.tensor([[1, 1], [1, 0], [0, 0]])
    got = policy_objective(new, old, ref, torch.tensor([2.0, -1.0, 5.0]), mask)
    assert got.loss.item() == pytest.approx((-2.2 + 0.04 * 0.306853 / 2 + 1.5 + 0) / 3, abs=1e-6)
    assert got.kl.item() == pytest.approx(0.306853 / 3, abs=1e-6)
    assert got.clip_fraction.item() == pytest.approx(1 / 3)


def test_gradient_of_the_first_step_is_the_weighted_likelihood():
    logp, _, _, gain, mask = log_probabilities(3)
    got = policy_objective(logp, logp, logp, gain, mask)
    (gradient,) = torch.autograd.grad(got.loss, logp)
    expected = -gain[:, None] * mask / mask.sum(1, keepdim=True).clamp(min=1) / len(gain)
    torch.testing.assert_close(gradient, expected, rtol=0, atol=1e-12)
    assert (got.kl, got.clip_fraction) == (0, 0)


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.float32])
def test_padding_has_no_effect(dtype):
    logp, old, ref, gain, mask = log_probabilities(1)
    expected = policy_objective(logp, old, ref, gain, mask)
    padding = mask == 0
    assert padding.any()
    for junk in (NAN, math.inf, -math.inf, -1e4):
        dirty = [t.detach().masked_fill(padding, junk).requires_grad_() for t in (logp, old, ref)]
        got = policy_objective(*dirty, gain, mask.to(dtype))
        assert got == expected
        new, *constants = torch.autograd.grad(got.loss, dirty, allow_unused=True)
        assert new.isfinite().all()
        assert (new[padding] == 0).all()
        assert constants == [None, None]


def test_no_reference_is_no_penalty():
    logp, old, ref, gain, mask = log_probabilities(2)
    without = policy_objective(logp, old, None, gain, mask)
    assert without.loss == policy_objective(logp, old, ref, gain, mask, beta=0.0).loss
    assert without.kl == 0
    nothing = policy_objective(logp, old, ref, gain, torch.zeros_like(mask))
    assert tuple(nothing) == (0, 0, 0)
