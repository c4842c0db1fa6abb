"""Brain tumours: one mass with oedema and necrosis in each person.

Sizes and signals are ours. The tumours displace no tissue, so they stay smaller than many of BraTS.
"""

import numpy as np

from pd_ddpm.data.phantom.anatomy import Anatomy
from pd_ddpm.data.phantom.fields import sigmoid, smooth_step
from pd_ddpm.data.phantom.lesions import Lesions, rough_ellipsoid, sample_positions

# Volume of a whole tumour: median, standard deviation of its natural logarithm, limits.
MEDIAN_VOLUME_ML, LOG_VOLUME_SD, VOLUME_RANGE_ML = 50.0, 0.55, (15.0, 130.0)
# FLAIR brightness of oedema, solid tumour and necrosis, where 1 is a white matter hyperintensity.
OEDEMA, SOLID, NECROSIS = (0.85, 1.1), (0.6, 0.85), (0.25, 0.45)


def sample_tumour(anatomy: Anatomy, volume_ml: float, random: np.random.Generator) -> Lesions:
    """Sample one tumour in the cerebrum.

    Its solid part replaces all tissue, oedema around it spreads in white matter only, and its centre is necrotic.

    Args:
        anatomy: the person.
        volume_ml: approximate volume of the whole tumour.
        random: random stream.

    Returns:
        The tumour as `white_matter`, with its brightness as `contrast`. There is no other pathology.
    """
    lattice = anatomy.lattice
    parenchyma = np.clip(anatomy["grey"] + anatomy["white"], 0, 1) * anatomy["cerebrum"]
    weight = np.where(anatomy["white"] > 0.6, anatomy["cerebrum"] * (1 - anatomy["midline"]), 0)
    weight *= smooth_step(anatomy["hull"], -4, -14)
    (position,) = sample_positions(weight, 1, random)
    # Fluid, and grey matter around the oedema, leave out about a third of the ellipsoid.
    radius = (1.5 * volume_ml * 1e3 * 3 / (4 * np.pi)) ** (1 / 3)
    box, depth = rough_ellipsoid(lattice, position, radius, random, roughness=0.2)
    solid = sigmoid((depth - random.uniform(0.25, 0.5) * radius) / 0.8) * parenchyma[box]
    oedema = sigmoid(depth / 0.8) * smooth_step(anatomy["white"][box], 0.3, 0.6) * parenchyma[box]
    necrosis = sigmoid((depth - random.uniform(0.6, 0.8) * radius) / 0.8)
    solid_brightness = random.uniform(*SOLID) * (1 - necrosis) + random.uniform(*NECROSIS) * necrosis
    lesion, contrast, none = (np.zeros(lattice.shape, np.float32) for _ in range(3))
    lesion[box] = np.maximum(solid, oedema)
    contrast[box] = solid * solid_brightness + np.maximum(oedema - solid, 0) * random.uniform(*OEDEMA)
    return Lesions(lesion, contrast, halo=none, infarct=none, cavity=none, spaces=none)
