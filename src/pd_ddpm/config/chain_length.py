"""Number of reverse steps of a chain. It imports nothing, so that trainings do not depend on the code of the configuration."""


def chain_steps(reverse_steps: int, t_start: int, T: int) -> int:
    """Return the steps of a chain from `t_start`: the share t_start/T of the `reverse_steps` of a whole chain, at least one.

    Args:
        reverse_steps: network evaluations of a chain from T.
        t_start: start timestep T' of the chain.
        T: steps of the whole diffusion process.
    """
    return max(1, round(reverse_steps * t_start / T))
