"""Losses on logits over a vocabulary: cross entropies and distances of two distributions.

The logits are bfloat16; each loss widens them to float32, as training code does.
"""

from __future__ import annotations

import math

import torch
from kernel_cases import Tensors
from module_case import IGNORED, LOGITS, MANY_LOGITS, Case, Draw, with_classes, with_other, with_targets
from torch import Tensor
from torch.nn import functional

TEMPERATURE = 2.0
BETA = 0.25  # of the generalised Jensen-Shannon divergence: the teacher's share of the mixture
SMOOTHING = 0.1
CAP = 30.0


def cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    return functional.cross_entropy(logits.float(), target, ignore_index=IGNORED)


def smoothed_cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    return functional.cross_entropy(logits.float(), target, ignore_index=IGNORED, label_smoothing=SMOOTHING)


def weighted_cross_entropy(logits: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    return functional.cross_entropy(logits.float(), target, weight, ignore_index=IGNORED, reduction="sum")


def cross_entropy_with_z_loss(logits: Tensor, target: Tensor) -> Tensor:
    logits = logits.float()
    z = torch.logsumexp(logits, -1)
    return functional.cross_entropy(logits, target, ignore_index=IGNORED) + 1e-4 * z.square().mean()


def softcapped_cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Gemma 2."""
    capped = torch.tanh(logits / CAP) * CAP
    return functional.cross_entropy(capped.float(), target, ignore_index=IGNORED)


def label_smoothed_nll(logits: Tensor, target: Tensor) -> Tensor:
    """fairseq: the loss of each token, [tokens], zero where it is ignored."""
    log_probs = functional.log_softmax(logits, dim=-1, dtype=torch.float32)
    padded = target.eq(IGNORED)
    nll = -log_probs.gather(-1, target.clamp(min=0).unsqueeze(-1)).squeeze(-1)
    smooth = -log_probs.sum(-1)
    each = SMOOTHING / (log_probs.shape[-1] - 1)
    return ((1.0 - SMOOTHING - each) * nll + each * smooth).masked_fill(padded, 0.0)


def focal_loss(logits: Tensor, target: Tensor) -> Tensor:
    log_p = functional.log_softmax(logits.float(), dim=-1)
    log_pt = log_p.gather(-1, target.unsqueeze(-1)).squeeze(-1)
    return (-((1 - log_pt.exp()) ** 2) * log_pt).mean()


def forward_kl(student: Tensor, teacher: Tensor) -> Tensor:
    log_q = functional.log_softmax(student.float() / TEMPERATURE, dim=-1)
    p = functional.softmax(teacher.float() / TEMPERATURE, dim=-1)
    return functional.kl_div(log_q, p, reduction="batchmean") * TEMPERATURE**2


def reverse_kl(student: Tensor, teacher: Tensor) -> Tensor:
    """MiniLLM."""
    log_q = functional.log_softmax(student.float() / TEMPERATURE, dim=-1)
    log_p = functional.log_softmax(teacher.float() / TEMPERATURE, dim=-1)
    return (log_q.exp() * (log_q - log_p)).sum(-1).mean()


def generalized_jsd(student: Tensor, teacher: Tensor) -> Tensor:
    """On-policy distillation (GKD), as TRL writes it."""
    log_q = functional.log_softmax(student.float() / TEMPERATURE, dim=-1)
    log_p = functional.log_softmax(teacher.float() / TEMPERATURE, dim=-1)
    mixed = torch.logsumexp(torch.stack([log_q + math.log(1 - BETA), log_p + math.log(BETA)]), dim=0)
    kl_teacher = functional.kl_div(mixed, log_p, reduction="none", log_target=True)
    kl_student = functional.kl_div(mixed, log_q, reduction="none", log_target=True)
    return (BETA * kl_teacher + (1 - BETA) * kl_student).sum() / student.shape[0]


def total_variation(student: Tensor, teacher: Tensor) -> Tensor:
    q = functional.softmax(student.float(), dim=-1)
    p = functional.softmax(teacher.float(), dim=-1)
    return 0.5 * (p - q).abs().sum(-1).mean()


def distillation(student: Tensor, teacher: Tensor, target: Tensor) -> Tensor:
    """The labels' loss and the teacher's, half of each (Hinton et al.)."""
    hard = functional.cross_entropy(student.float(), target, ignore_index=IGNORED)
    return 0.5 * hard + 0.5 * forward_kl(student, teacher)


def multi_label_loss(logits: Tensor, target: Tensor, pos_weight: Tensor) -> Tensor:
    """Every class is a yes or no of its own; rare ones weigh more."""
    return functional.binary_cross_entropy_with_logits(logits.float(), target.float(), pos_weight=pos_weight)


def with_class_weights(draw: Draw) -> Tensors:
    return *with_targets(draw), draw.fixed(draw.shape[-1]).float().abs() + 0.1


def with_teacher_and_targets(draw: Draw) -> Tensors:
    return *with_other(draw), draw.classes(ignored=True)


def with_labels(draw: Draw) -> Tensors:
    return draw.learned(), draw.chosen(share=0.1).to(draw.dtype), draw.fixed(draw.shape[-1]).float().abs() + 0.1


LOSSES = (
    Case("cross_entropy", cross_entropy, with_targets, LOGITS),
    Case("smoothed_cross_entropy", smoothed_cross_entropy, with_targets, LOGITS),
    Case("weighted_cross_entropy", weighted_cross_entropy, with_class_weights, LOGITS),
    Case("cross_entropy_with_z_loss", cross_entropy_with_z_loss, with_targets, MANY_LOGITS),
    Case("softcapped_cross_entropy", softcapped_cross_entropy, with_targets, MANY_LOGITS),
    Case("label_smoothed_nll", label_smoothed_nll, with_targets, LOGITS),
    Case("focal_loss", focal_loss, with_classes, LOGITS),
    Case("forward_kl", forward_kl, with_other, LOGITS),
    Case("reverse_kl", reverse_kl, with_other, LOGITS),
    Case("generalized_jsd", generalized_jsd, with_other, LOGITS),
    Case("total_variation", total_variation, with_other, LOGITS),
    Case("distillation", distillation, with_teacher_and_targets, LOGITS),
    Case("multi_label_loss", multi_label_loss, with_labels, LOGITS),
)
