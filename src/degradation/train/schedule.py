"""The learning rate as a pure function of the iteration and of when the warm-up ended (section 4.2)."""

from collections.abc import Sequence


def learning_rate(
    iteration: int,
    lr: float,
    milestones: Sequence[int],
    decay: float = 0.1,
    warmup_lr: float | None = None,
    warmup_ended_at: int | None = None,
) -> float:
    """The rate used at an iteration, counted from 0: `lr`, times `decay` from each milestone on.

    With `warmup_lr`, that rate takes the place of `lr` until the iteration at which the warm-up ended; None means
    that it has not ended yet. Section 4.2: 110 layers start at 0.01 "until the training error is below 80%".
    """
    warming = warmup_lr is not None and (warmup_ended_at is None or iteration < warmup_ended_at)
    base = warmup_lr if warming and warmup_lr is not None else lr
    return base * decay ** sum(iteration >= milestone for milestone in milestones)


def warmup_ends(errors: float, images: int, until_error: float) -> bool:
    """Whether the running training error over a window (wrong `errors` of `images`) is under `until_error` percent.

    The window must be many batches: one lucky mini-batch is under 80 % long before the network is.
    """
    return 100 * errors / images < until_error
