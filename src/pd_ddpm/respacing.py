"""How many steps a shortened chain takes. Pure Python: Snakemake reads this at every start."""


def chain_steps(reverse_steps: int, t_start: int, T: int) -> int:
    """Steps of a chain from `t_start`: its share t_start/T of the `reverse_steps` of a whole chain, at least one."""
    return max(1, round(reverse_steps * t_start / T))
