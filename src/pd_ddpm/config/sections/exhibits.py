"""Sections `evaluation` and `exhibits`: scores, tables and figures."""

from collections.abc import Iterator
from typing import Annotated

from pydantic import Field

from pd_ddpm.config.sections.base import UNIQUE, WHOLE, Contradiction, Count, NonNegative, Positive, Section

StartTimesteps = Annotated[list[Count], Field(min_length=1), *UNIQUE]
Respacings = Annotated[list[Count], *UNIQUE]
EdgeShare = Annotated[float, Field(gt=0, le=1)]


class Evaluation(Section):
    """How ensembles are scored."""

    band_mm: NonNegative = Field(
        description="Calibration and error detection are scored in the brain and this far around it, in mm."
    )
    calibration_bins: Count = Field(description="Equal-width bins of probability in the expected calibration error.")


class PresegmentationRow(Section):
    """A row of Table 2."""

    method: str = Field(description="One of methods, or zero.")
    printed: str | None = Field(description="The row of the printed values shown next to it; null: none.")


class Table2(Section):
    """Table 2: one method from several pre-segmentations."""

    method: str = Field(description="The method that starts from the pre-segmentations.")
    presegmentations: Annotated[list[PresegmentationRow], Field(min_length=1)] = Field(
        description="Rows of the table, worst first."
    )


class UncertaintyFigure(Section):
    """Figure 2: uncertainty maps."""

    cases: Count = Field(description="Test cases shown, from the lowest to the highest lesion load.")


class StartTimestepFigure(Section):
    """Figure 3: scores against T'."""

    method: str = Field(description="The method whose T' varies.")
    t_start: StartTimesteps = Field(description="T' values.")


class EnsembleFigure(Section):
    """Figure 4: scores against the size of the ensemble."""

    method: str = Field(description="The method whose ensemble varies.")
    pool: Count = Field(description="Members that are sampled, from which ensembles are resampled; at least samples.")
    subsets: Count = Field(description="Largest number of ensembles of each size.")


class EnsembleMetricsFigure(Section):
    """Figure 4 of PatchDDM: Dice and HD95 against the size of the ensemble."""

    methods: Annotated[list[str], Field(min_length=1), *UNIQUE] = Field(description="Stochastic methods, one curve each.")
    pool: Count = Field(description="Members of each method, from which ensembles are resampled; at least samples.")
    subsets: Count = Field(description="Largest number of ensembles of each size.")


class SampledChain(Section):
    """A row of Figure 5 of PatchDDM."""

    reverse_steps: Count = Field(description="Reverse steps over T, as in sampling.reverse_steps.")
    pool: Count = Field(
        description="Members that are sampled with this number of steps, at least samples; larger ensembles stay white."
    )


class StepsFigure(Section):
    """Figure 5 of PatchDDM: Dice and HD95 over reverse steps and ensemble size."""

    method: str = Field(description="The diffusion method whose reverse steps vary.")
    chains: Annotated[list[SampledChain], Field(min_length=1)] = Field(description="Rows of the figure, fewest steps first.")
    members: Annotated[list[Count], Field(min_length=1), *UNIQUE] = Field(description="Ensemble sizes: columns of the figure.")
    subsets: Count = Field(description="Largest number of ensembles of each size.")


class ChainSteps(Section):
    """Figure 3 and Table 4 of Fu et al. 2024: quality, and differences between seeds, after each reverse step."""

    methods: Annotated[list[str], Field(min_length=1), *UNIQUE] = Field(description="Diffusion methods, one curve each.")
    samples: Annotated[int, Field(ge=2), WHOLE] = Field(
        description="Members of each method, which are chains with noise of their own: the paper's seeds of inference."
    )


class NoDiffusion(Section):
    """Table 2 of Fu et al. 2024: methods against one without diffusion."""

    methods: Annotated[list[str], Field(min_length=2), *UNIQUE] = Field(
        description="Rows of the table. The first one is the method without diffusion, with which the others are compared."
    )


class MemoryRow(Section):
    """A kind of training and sampling in the memory table."""

    label: str = Field(description="Name of the row.")
    network: str = Field(description="Denoiser of networks, or a variation of one. It need not be trained.")
    trained_share: EdgeShare = Field(description="Edge of a training patch, as a share of the edge of the full volume.")
    sampled_share: EdgeShare | None = Field(
        description="Edge of what is sampled in one pass, as such a share; null: the row is about training only."
    )


class MemoryTable(Section):
    """Memory, time and FLOPs of training and sampling volumes of several sizes."""

    rows: Annotated[list[MemoryRow], Field(min_length=1)] = Field(description="Kinds of training; the first is PatchDDM's.")
    edges: Annotated[list[Count], Field(min_length=1), *UNIQUE] = Field(description="Edges of the cubic volumes, in voxels.")
    image_channels: Count = Field(description="Channels of the image, without coordinates.")
    batch: Count = Field(description="Patches of a training step.")
    measured_seconds: Count = Field(
        description="A step that can be expected to take longer on this device is counted on the meta device, without a time."
    )
    limit_gb: Positive = Field(description="Memory of a GPU that the largest volume is compared with, in GB of 1e9 bytes.")


class RespacedSteps(Section):
    """Numbers of reverse steps for each sampler, as in sampling.reverse_steps."""

    ancestral: Respacings = Field(None, description="Reverse steps with the sampler ancestral.")
    ddim: Respacings = Field(None, description="Reverse steps with the sampler ddim.")

    def contradictions(self) -> Iterator[Contradiction]:
        """Yield an empty section."""
        if self.ancestral is None and self.ddim is None:
            yield Contradiction("ancestral", "no sampler has reverse steps", "Set `ancestral`, `ddim` or both")


class ParetoFigure(Section):
    """Dice against cost."""

    methods: Annotated[list[str], Field(min_length=1)] = Field(description="Diffusion methods.")
    t_start: StartTimesteps = Field(description="T' of the methods that start from a pre-segmentation.")
    reverse_steps: RespacedSteps = Field(description="Reverse steps of each sampler, as in sampling.reverse_steps.")
    members: Annotated[list[Count], Field(min_length=1), *UNIQUE] = Field(description="Ensemble sizes shown.")


class ProbeFigure(Section):
    """Probe: the one-step estimate of each denoiser from x_t of different masks."""

    slices: Count = Field(description="Slices with lesion, over all validation cases; at least one slice per case is taken.")
    timesteps: StartTimesteps = Field(
        description="Timesteps t of x_t, in addition to 1 and the network's t_max; those above t_max are left out."
    )


class LeakTable(Section):
    """Leak table: denoisers of different training from different starts, against their pre-segmentation."""

    denoisers: Annotated[list[str], Field(min_length=1), *UNIQUE] = Field(
        description=(
            "Denoisers of networks, as entries of their own. Each is compared with the one that has the same likelihood_skip, "
            "strategy diffusion, and presegmented_share 0."
        )
    )
    strategies: Annotated[list[str], *UNIQUE] = Field(
        description=(
            "Further denoisers, such as those of other training strategies; may be empty. Their chains start from noise, and "
            "from the pre-segmentation at strategies_t_start only."
        )
    )
    strategies_t_start: StartTimesteps = Field(description="T' of the chains of `strategies` from the pre-segmentation.")
    presegmenter: str = Field(description="Method whose masks the chains start from, and that the table compares with.")
    from_presegmentation: str = Field(description="Diffusion method that starts from a pre-segmentation.")
    t_start: StartTimesteps = Field(description="T' of the chains from the pre-segmentation.")
    empty_t_start: Count = Field(description="T' of the chains from a mask without lesion.")
    from_noise: str = Field(description="Diffusion method that starts from pure noise.")
    further: Annotated[list[str], *UNIQUE] = Field(
        description=(
            "Diffusion methods that are further rows of each denoiser, with their own T', such as pd-ddpm-soft@t_start=500; "
            "may be empty. Those with start_reliability validation are rows of denoisers with likelihood_skip only."
        )
    )
    means: Annotated[list[str], *UNIQUE] = Field(
        description="Methods with segmenter mean that are further rows of each denoiser; may be empty."
    )


class IndexPage(Section):
    """Page of all results, index.html."""

    title: str = Field(description="Name of the method that the paper introduces, in the page's title.")
    paper: str = Field(description="Title and authors of the paper, in the page's introduction.")
    slices: Count = Field(
        description="Largest number of slices of a test case in the page's browser; more are thinned out evenly."
    )


class Claims(Section):
    """Which row of Table 1 has which role in the paper's claims; null: claims about that role are not tested."""

    pd_ddpm: str = Field(description="The paper's method.")
    vanilla: str | None = Field(description="Diffusion from pure noise.")
    tdpm: str | None = Field(description="TDPM.")
    es_ddpm: str | None = Field(description="ES-DDPM.")


class PatchClaims(Section):
    """Which row of Table 1 has which role in PatchDDM's claims; null: claims about that role are not tested."""

    patch: str = Field(description="PatchDDM: trained on patches, sampled as a whole.")
    full_resolution: str | None = Field(description="Trained on whole volumes.")
    half_resolution: str | None = Field(description="Trained on whole volumes of half the resolution.")
    few_steps: Count | None = Field(description="Reverse steps of the chain of Figure 5 that is compared with its longest.")


class RecyclingClaims(Section):
    """Which row of Table 1 has which role in the claims of Fu et al. 2024; null: claims about that role are not tested."""

    recycled: str = Field(description="Recycling from x_T. Claims about its steps need exhibits.steps with this method.")
    no_diffusion: str | None = Field(description="The same network without diffusion.")
    both: str | None = Field(description="The mean of both.")
    others: Annotated[list[str], *UNIQUE] = Field(description="The other strategies.")


class Exhibits(Section):
    """Which methods tables and figures show. A table or figure that is null does not exist."""

    table1: Annotated[list[str], Field(min_length=1), *UNIQUE] = Field(description="Methods that are the rows of Table 1.")
    printed_values: str = Field(
        description="File in config/ with the values that the paper prints, shown next to ours; it may have no rows."
    )
    compared_with: str = Field(description="The method that the paired tests compare each row of Table 1 with.")
    table2: Table2 | None = Field(description="Table 2 of PD-DDPM; null: none.")
    fig2_uncertainty: UncertaintyFigure
    fig3_tprime: StartTimestepFigure | None = Field(description="Figure 3 of PD-DDPM; null: none.")
    fig4_ensemble: EnsembleFigure | None = Field(description="Figure 4 of PD-DDPM; null: none.")
    fig4: EnsembleMetricsFigure | None = Field(description="Figure 4 of PatchDDM, Dice and HD95; null: none.")
    fig5: StepsFigure | None = Field(description="Figure 5 of PatchDDM; null: none.")
    steps: ChainSteps | None = Field(description="Figure 3 and Table 4 of Fu et al. 2024, fig3 and table4; null: none.")
    no_diffusion: NoDiffusion | None = Field(description="Table 2 of Fu et al. 2024, table2 in place of PD-DDPM's; null: none.")
    memory: MemoryTable | None = Field(description="Memory of patches and of whole volumes; null: none.")
    pareto: ParetoFigure | None = Field(description="Dice against cost; null: none. It needs fig4_ensemble.")
    probe: ProbeFigure | None = Field(description="Probe of the denoisers; null: none.")
    leak: LeakTable | None = Field(
        description="The leak table and its figure, leak.csv and leak.pdf; null: none. config/leak.yaml sets it."
    )
    index: IndexPage
    claims: Claims | None = Field(description="PD-DDPM's claims, claims.csv; null: none.")
    recycling_claims: RecyclingClaims | None = Field(
        description="Claims of Fu et al. 2024, claims.csv in place of PD-DDPM's; null: none."
    )
    patch_claims: PatchClaims | None = Field(description="PatchDDM's claims, claims.csv in place of PD-DDPM's; null: none.")
