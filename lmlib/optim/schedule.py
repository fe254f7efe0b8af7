"""Learning-rate schedules: pure functions of the step, so that resuming needs no state."""

import math


def warmup_cosine(
    step: int, max_lr: float, min_lr: float, warmup_steps: int, decay_end: int
) -> float:
    """Rise linearly to max_lr, fall along half a cosine to min_lr at `decay_end`, stay there.

    Source:  Loshchilov & Hutter 2017, arXiv:1608.03983, without restarts.
    """
    if step < warmup_steps:
        return max_lr * step / warmup_steps
    if step >= decay_end:
        return min_lr
    progress = (step - warmup_steps) / (decay_end - warmup_steps)
    return min_lr + 0.5 * (1 + math.cos(math.pi * progress)) * (max_lr - min_lr)


def warmup_linear(
    step: int, max_lr: float, min_lr: float, warmup_steps: int, decay_end: int
) -> float:
    """Rise linearly to max_lr, fall linearly to min_lr at `decay_end`, stay there."""
    return warmup_stable_decay(step, max_lr, min_lr, warmup_steps, range(warmup_steps, decay_end))


def warmup_stable_decay(
    step: int, max_lr: float, min_lr: float, warmup_steps: int, decay: range
) -> float:
    """Rise linearly to max_lr, keep it, fall linearly to min_lr over the steps `decay`, stay there.

    Source:  Hu et al. 2024, arXiv:2404.06395 (WSD).
    """
    if step < warmup_steps:
        return max_lr * step / warmup_steps
    if step < decay.start:
        return max_lr
    if step >= decay.stop:
        return min_lr
    progress = (step - decay.start) / (decay.stop - decay.start)
    return max_lr + progress * (min_lr - max_lr)
