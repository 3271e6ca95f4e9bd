"""Losses that align language models: preferences and policy gradients, on the log-probabilities of answers' tokens.

The logits are bfloat16, [answers, tokens, vocabulary]; of preferences the first half are the chosen answers, the second
the rejected ones. What a reference model or an older policy said comes as an input without a gradient.
"""

from __future__ import annotations

import torch
from kernel_cases import Tensors
from module_case import ANSWERS, IGNORED, Case, Draw, with_targets
from torch import Tensor
from torch.nn import functional

BETA = 0.1
CLIP = 0.2
MARGIN = 0.5
NOISE = 0.1  # between a policy and its reference, in log-probability


def token_log_probs(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The log-probability of each token and whether it counts, [answers, tokens] both."""
    log_probs = logits.float().log_softmax(-1)
    mask = labels != IGNORED
    chosen = log_probs.gather(-1, labels.masked_fill(~mask, 0).unsqueeze(-1)).squeeze(-1)
    return chosen, mask


def sum_log_probs(logits: Tensor, labels: Tensor) -> Tensor:
    log_probs, mask = token_log_probs(logits, labels)
    return (log_probs * mask).sum(-1)


def mean_log_probs(logits: Tensor, labels: Tensor) -> Tensor:
    log_probs, mask = token_log_probs(logits, labels)
    return (log_probs * mask).sum(-1) / mask.sum(-1)


def mean_of_tokens(values: Tensor, mask: Tensor) -> Tensor:
    return (values * mask).sum() / mask.sum()


def dpo(logits: Tensor, labels: Tensor, reference: Tensor) -> Tensor:
    chosen, rejected = (sum_log_probs(logits, labels) - reference).chunk(2)
    return -functional.logsigmoid(BETA * (chosen - rejected)).mean()


def orpo(logits: Tensor, labels: Tensor) -> Tensor:
    """The chosen answers' likelihood, and the ratio of both answers' odds."""
    chosen, rejected = mean_log_probs(logits, labels).chunk(2)
    log_odds = (chosen - rejected) - (torch.log1p(-torch.exp(chosen)) - torch.log1p(-torch.exp(rejected)))
    return -chosen.mean() - BETA * functional.logsigmoid(log_odds).mean()


def simpo(logits: Tensor, labels: Tensor) -> Tensor:
    """No reference model; a margin between the means."""
    chosen, rejected = mean_log_probs(logits, labels).chunk(2)
    return -functional.logsigmoid(2.0 * (chosen - rejected) - MARGIN).mean()


def kto(logits: Tensor, labels: Tensor, reference: Tensor) -> Tensor:
    """Answers are good or bad by themselves, measured from their mean divergence."""
    ratios = sum_log_probs(logits, labels) - reference
    kl = ratios.mean().clamp(min=0).detach()
    chosen, rejected = ratios.chunk(2)
    losses = (1 - torch.sigmoid(BETA * (chosen - kl)), 1 - torch.sigmoid(BETA * (kl - rejected)))
    return torch.cat(losses).mean()


def clipped_objective(log_probs: Tensor, old: Tensor, advantages: Tensor) -> Tensor:
    ratio = torch.exp(log_probs - old)
    return torch.min(ratio * advantages, ratio.clamp(1 - CLIP, 1 + CLIP) * advantages)


def grpo(logits: Tensor, labels: Tensor, old: Tensor, reference: Tensor, advantages: Tensor) -> Tensor:
    """One advantage an answer; the reference model's divergence by the k3 estimator."""
    log_probs, mask = token_log_probs(logits, labels)
    kl = torch.exp(reference - log_probs) - (reference - log_probs) - 1
    losses = -clipped_objective(log_probs, old, advantages.unsqueeze(1)) + BETA * kl
    return ((losses * mask).sum(-1) / mask.sum(-1)).mean()


def ppo(logits: Tensor, labels: Tensor, old: Tensor, advantages: Tensor) -> Tensor:
    """With a bonus for the entropy of each token's distribution."""
    log_probs, mask = token_log_probs(logits, labels)
    all_log_probs = logits.float().log_softmax(-1)
    entropy = -(all_log_probs.exp() * all_log_probs).sum(-1)
    objective = clipped_objective(log_probs, old, advantages) + 0.01 * entropy
    return -mean_of_tokens(objective, mask)


def near(values: Tensor, draw: Draw) -> Tensor:
    """Log-probabilities of a model that is not far from this one."""
    return values.detach() + NOISE * draw.fixed(*values.shape).float()


def with_reference(draw: Draw) -> Tensors:
    logits, labels = with_targets(draw)
    return logits, labels, near(sum_log_probs(logits, labels), draw)


def with_group(draw: Draw) -> Tensors:
    logits, labels = with_targets(draw)
    said, _ = token_log_probs(logits, labels)
    return logits, labels, near(said, draw), near(said, draw), draw.fixed(draw.shape[0]).float()


def with_advantages(draw: Draw) -> Tensors:
    logits, labels = with_targets(draw)
    said, _ = token_log_probs(logits, labels)
    return logits, labels, near(said, draw), draw.fixed(*labels.shape).float()


ANSWER_LOSSES = (
    Case("dpo", dpo, with_reference, ANSWERS),
    Case("orpo", orpo, with_targets, ANSWERS),
    Case("simpo", simpo, with_targets, ANSWERS),
    Case("kto", kto, with_reference, ANSWERS),
    Case("grpo", grpo, with_group, ANSWERS),
    Case("ppo", ppo, with_advantages, ANSWERS),
)
