"""From the K members of a case to one mask and to where they disagree."""

import numpy as np


def cut(probability: np.ndarray) -> np.ndarray:
    """Where it is lesion: a probability of 0.5 or more. A tie is lesion.

    Members that were stored in steps of 1/255 come back a rounding error too low.
    """
    return probability >= 0.5 - 1e-6


def ensemble_mask(samples: np.ndarray) -> np.ndarray:
    """Members averaged and cut at 0.5 (PD-DDPM Sec. 3.3). samples: (X, Y, Z, K) in [0, 1]; returns (X, Y, Z) bool."""
    return cut(samples.mean(axis=-1, dtype=np.float64))


def uncertainty(samples: np.ndarray) -> np.ndarray:
    """Variance of the members at each voxel, (X, Y, Z) float32.

    PD-DDPM Sec. 3.4 says "the variation of predicting softmax output"; that it is the variance is our reading.

    Unbiased (K - 1 in the denominator), so that ensembles of different size compare; zero for a single member.
    """
    if samples.shape[-1] == 1:
        return np.zeros(samples.shape[:-1], dtype=np.float32)
    return samples.var(axis=-1, ddof=1, dtype=np.float64).astype(np.float32)
