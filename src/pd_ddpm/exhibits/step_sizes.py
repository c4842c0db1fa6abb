"""Step sizes of reverse chains from different T'. Only chains with equal steps show the effect of T' alone."""

from collections.abc import Mapping

# The number of steps is a whole number, so a share T'/T of the steps of a whole chain is rounded.
TOLERANCE = 0.1


def unequal_steps(step_sizes: Mapping[int, float]) -> list[int]:
    """Return the T' whose step size differs by more than 10 % from that of the largest T', ascending.

    Args:
        step_sizes: T' -> mean size of a reverse step, in timesteps. Rounding affects that of the largest T' least.
    """
    if not step_sizes:
        return []
    reference = step_sizes[max(step_sizes)]
    return sorted(t_start for t_start, size in step_sizes.items() if abs(size / reference - 1) > TOLERANCE + 1e-9)


def step_sizes_phrase(step_sizes: Mapping[int, float]) -> str:
    """Return the step sizes (T' -> timesteps) as text, such as "50 at T' = 50, 125 at T' = 1000"."""
    return ", ".join(f"{size:.4g} at T' = {t_start}" for t_start, size in sorted(step_sizes.items()))
