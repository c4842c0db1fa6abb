"""Settings of a training."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from pd_ddpm.training.patches import PatchSettings


@dataclass(frozen=True)
class TrainingSettings:
    """How a network is trained. `config/schema.yaml` gives the meaning of each field."""

    steps: int
    batch: int
    learning_rate: float
    learning_rate_decay: Literal["none", "cosine"]
    weight_decay: float
    gradient_clip: float | None
    ema_decay: float
    weights: Literal["raw", "ema"]
    select: Literal["best", "last"]
    validate_every: int
    validation_slices: int
    patches: PatchSettings
    optimiser: Literal["adam", "adamw"] = "adam"
    learning_rate_warm_up: int = 0
    first_learning_rate: float = 0.0
    last_learning_rate: float = 0.0
    early_levels: Sequence[float] = ()
    patience: int | None = None
    micro_batch: int | None = None
