"""GraLoss, the gradual balanced loss (Zhang and Xiang 2022, GLAG, section 4.1, Eq. 3-4).

Cross-entropy on logits that are shifted by α log p_y, where p_y is the class's share of the training images and α grows from 0 over
training: α = s (c^ep - 1), ep = T / T_max. It starts as cross-entropy and ends, for c = 2 and s = 1, as logit adjustment with τ = 1.
The logits are used as they are at test time.

Where the paper is silent:
- T is the whole epoch, counted from 0: α starts at exactly 0 and ends one epoch short of its last value (0.993 for 200 epochs).
- For c = 2 and s = 1 α ends at 1; for the c = 4, 6, 8 of its table 5 Eq. 3 as printed ends at c - 1 = 3, 5, 7, unless s = 1 / (c - 1)
  was used and not said. `normalise: false` is the equation as printed, `normalise: true` divides by c - 1, so that α ends at s for all c.
- The concave and the linear form have no formula. Concave is 0 < c < 1 (as printed it needs a negative s: s = 1 / (c - 1) ends at 1);
  linear is the limit c = 1 of the normalised form, α = s ep.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field, model_validator

from pipeline.params import Params

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch


class Loss(Params):
    """c : base of the schedule, convex above 1 (the paper's best is 2); s : its scale (1; 0.5 for iNaturalist); normalise : see above."""

    balances: ClassVar[bool] = True

    c: float = Field(2.0, gt=0)
    s: float = 1.0
    normalise: bool = False

    @model_validator(mode="after")
    def _alpha_grows(self) -> Loss:
        if self.c == 1 and not self.normalise:
            raise ValueError("c = 1 gives α = 0 throughout; the linear schedule is c: 1.0 with normalise: true")
        if self.alpha(1.0) <= 0:
            raise ValueError(f"c = {self.c:g} and s = {self.s:g} give a falling α; choose s of the other sign or normalise: true")
        return self

    def alpha(self, progress: float) -> float:
        """α of Eq. 3 at a training progress in [0, 1)."""
        if not self.normalise:
            return self.s * (self.c**progress - 1)
        return self.s * (progress if self.c == 1 else (self.c**progress - 1) / (self.c - 1))

    def build(self, class_counts: torch.Tensor) -> Callable[[torch.Tensor, torch.Tensor, float], torch.Tensor]:
        """A function of logits (b, c), labels (b,) and progress, giving the loss of each sample (b,), in nats.

        `class_counts` (c,) are the training images of each class, all at least 1.
        """
        from torch.nn.functional import cross_entropy

        log_prior = (class_counts / class_counts.sum()).log()

        def loss(logits: torch.Tensor, labels: torch.Tensor, progress: float) -> torch.Tensor:
            return cross_entropy(logits + self.alpha(progress) * log_prior, labels, reduction="none")

        return loss
