"""Result of segmenting one scan."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Self

import numpy as np
import pandas as pd

from pd_ddpm.data.check.report import Finding
from pd_ddpm.data.scan import Scan
from pd_ddpm.deployment.class_table import class_table
from pd_ddpm.evaluation.lesion_table import lesion_table, total_volume_ml
from pd_ddpm.inference.class_ensemble import ClassSegmentation
from pd_ddpm.inference.cost import Cost
from pd_ddpm.inference.ensemble import Segmentation


@dataclass(frozen=True, eq=False)
class ScanResult:
    """A segmented scan, and what is derived from it for its folder and its page.

    Attributes:
        scan: the scan as the networks received it.
        segmentation: its segmentation, on the scan's own grid.
        findings: warnings and notes about the scan.
        cost: cost of sampling.
        classes: label -> name of each class; empty if masks hold lesions.
    """

    scan: Scan
    segmentation: Segmentation | ClassSegmentation
    findings: Sequence[Finding]
    cost: Cost
    classes: Mapping[int, str] = field(default_factory=dict)

    @classmethod
    def from_members(
        cls, scan: Scan, members: np.ndarray, findings: Sequence[Finding], cost: Cost, classes: Mapping[int, str]
    ) -> Self:
        """Return the result of these members, (X, Y, Z, K), or (X, Y, Z, K, C) of classes. The others are the attributes."""
        segmentation = ClassSegmentation if classes else Segmentation
        return cls(scan, segmentation.from_members(members), findings, cost, classes)

    @cached_property
    def mask(self) -> np.ndarray:
        """The mask, (X, Y, Z) bool, or the label map of classes, uint8."""
        if not self.classes:
            return self.segmentation.mask
        return np.array((0, *self.classes), dtype=np.uint8)[self.segmentation.index]

    @cached_property
    def class_volumes(self) -> pd.DataFrame:
        """The table of classes; see `class_table`."""
        return class_table(self.segmentation, self.classes, self.scan.spacing_mm)

    @cached_property
    def lesions(self) -> pd.DataFrame:
        """The table of lesions; see `lesion_table`."""
        return lesion_table(self.segmentation, self.scan.brain, self.scan.reference.affine, self.scan.spacing_mm)

    @cached_property
    def volumes_ml(self) -> tuple[float, float, float]:
        """Lesion volume of the ensemble mask, and the smallest and largest of the members' own masks, in ml."""
        return total_volume_ml(self.segmentation, self.scan.spacing_mm)

    @property
    def warnings(self) -> list[str]:
        """The findings as sentences."""
        return [f"{finding.finding}. {finding.remedy}." for finding in self.findings]
