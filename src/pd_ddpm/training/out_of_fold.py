"""Pre-segmentations of training cases by networks that have not seen them.

A network's masks of its own training cases are better than those of new cases. A denoiser that is trained on such masks would
trust a pre-segmentation too much. Networks of other splits cannot serve, since they have seen the test cases of this one.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from pd_ddpm.models.factory import load_model
from pd_ddpm.runtime.problem import Problem, ProblemError
from pd_ddpm.training.patches import CaseSlices
from pd_ddpm.training.validator import presegment


def add_presegmentations(
    cases: Sequence[CaseSlices],
    networks: Sequence[tuple[Path, Path]],
    roles: Mapping[str, Sequence[str]],
    device: torch.device,
) -> list[CaseSlices]:
    """Return training cases with the mask of the network that has left each of them out.

    Args:
        cases: all training cases.
        networks: weights and metadata file of each network; each has left out other cases.
        roles: names of the split's cases by role.
        device: where the networks compute.

    Raises:
        ProblemError: a network was trained on a case that this split does not train on, or not exactly one has left a case out.
    """
    masks = {}
    for weights, metadata_file in networks:
        network, metadata = load_model(weights, metadata_file)
        seen = set(metadata["training_cases"])
        if foreign := sorted(seen & {*roles.get("validation", ()), *roles["test"]}):
            problem = f"it was trained on {', '.join(foreign)}, which this split does not train on"
            raise ProblemError(Problem(metadata_file, problem, "Train it with this split again"))
        for case in cases:
            if case.case not in seen:
                if case.case in masks:
                    problem = f"it has left out {case.case}, as another network has"
                    raise ProblemError(Problem(metadata_file, problem, "Give each inner fold one network"))
                masks[case.case] = presegment(network, case.image, device)
    if missing := [case.case for case in cases if case.case not in masks]:
        problem = f"every network was trained on {', '.join(missing)}, so that none can make an unbiased mask"
        raise ProblemError(Problem(networks[0][1].parents[1], problem, "Train one network without each inner fold"))
    return [case._replace(presegmentation=masks[case.case]) for case in cases]
