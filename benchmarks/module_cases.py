"""The cases of the module suite: losses, norms and activations in plain PyTorch, for which others hand-write kernels.

Liger-Kernel, flash-attn, Apex and the papers' own repositories have such kernels. None of these modules has a matmul or
a convolution: memory traffic is what they cost. Sizes and dtypes are stated case by case.
"""

from __future__ import annotations

from module_cases_answers import ANSWER_LOSSES
from module_cases_gates import GATES
from module_cases_images import IMAGE_NORMS
from module_cases_losses import LOSSES
from module_cases_norms import NORMS
from module_cases_pairs import PAIR_LOSSES

CASES = (*NORMS, *GATES, *IMAGE_NORMS, *LOSSES, *ANSWER_LOSSES, *PAIR_LOSSES)
