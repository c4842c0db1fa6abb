"""Result of segmenting one scan."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import pandas as pd

from pd_ddpm.data.check.report import Finding
from pd_ddpm.data.scan import Scan
from pd_ddpm.evaluation.lesion_table import lesion_table, total_volume_ml
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
    """

    scan: Scan
    segmentation: Segmentation
    findings: Sequence[Finding]
    cost: Cost

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
