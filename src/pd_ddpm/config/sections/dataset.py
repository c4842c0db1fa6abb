"""Section `datasets`: where scans come from."""

import re
from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field
from pydantic_core import PydanticCustomError

from pd_ddpm.config.errors import suggestion
from pd_ddpm.config.sections.base import UNIQUE, WHOLE, Contradiction, Index, Section, UserPath
from pd_ddpm.config.sections.preparation import Preparation

Channel = Annotated[str, Field(pattern="^[A-Za-z0-9]+$", examples=["FLAIR", "T1"])]
TumourLabel = Annotated[int, Field(ge=1, le=4), WHOLE]
ClassName = Annotated[str, Field(pattern="^[A-Za-z][A-Za-z0-9 _+-]*$", max_length=60, examples=["grey matter"])]
FileNamePattern = Annotated[str, Field(pattern="^[^/]+$", examples=["*acq-3D*"])]

_DOIS = {"zenodo": r"10\.5281/zenodo\.\d+", "mendeley": r"10\.17632/[a-z0-9]+\.\d+"}
_ROLES = {  # layout -> values of `roles`
    "brats": ("folds", "patch_ddm", "imgx"),
    **dict.fromkeys(("muscle_us", "amos", "male_pelvic"), ("folds", "imgx")),
}


def _sorted(patterns: dict[str, str]) -> dict[str, str]:
    """Return the patterns in the order of their channels' names, which must not change what a rule depends on."""
    return dict(sorted(patterns.items()))


def _by_label(classes: object) -> object:
    """Return classes in the order of their labels, which JSON turns into text; anything else unchanged."""
    if not isinstance(classes, dict):
        return classes
    numbered = {int(label) if isinstance(label, str) and label.isdecimal() else label: name for label, name in classes.items()}
    return dict(sorted(numbered.items())) if all(type(label) is int for label in numbered) else numbered


def _distinct_names(classes: dict[int, str]) -> dict[int, str]:
    """Return the classes, and raise if two have one name, or one has a name with another meaning in tables."""
    names = list(classes.values())
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        context = {"problem": f"{', '.join(repeated)} occurs more than once", "remedy": "Give each class its own name"}
        raise PydanticCustomError("contradiction", "{problem}. {remedy}.", context)
    if reserved := sorted({"background", "mean"} & set(names)):
        context = {"problem": f"'{reserved[0]}' has another meaning in tables of scores", "remedy": "Rename the class"}
        raise PydanticCustomError("contradiction", "{problem}. {remedy}.", context)
    return classes


Classes = Annotated[
    dict[Annotated[int, Field(ge=1, le=255)], ClassName],
    Field(min_length=1),
    BeforeValidator(_by_label),
    AfterValidator(_distinct_names),
]


class Download(Section):
    """Where the files of a dataset are downloaded from, and which."""

    accept_licence: bool = Field(
        description="true: I have read the licence and agree to it. Nothing is downloaded while it is false."
    )
    licence: str = Field(description="The licence and where it can be read.")
    repository: Literal["dataverse", "zenodo", "mendeley"] = Field(
        "dataverse", description="Kind of repository, whose API lists the files with their checksums."
    )
    server: Annotated[str, Field(pattern="^https?://", examples=["https://dataverse.nl"])] = Field(
        description="Address of the repository."
    )
    doi: Annotated[str, Field(pattern=r"^10\.[0-9]+/", examples=["10.34894/AECRSD"])] = Field(
        description="DOI of the dataset, without doi: before it."
    )
    version: Annotated[str, Field(pattern=r"^[0-9]+\.[0-9]+$", examples=["1.0"])] = Field(
        None,
        description="Published version on Dataverse, which never changes. Put it in quotes. Other DOIs name their version.",
    )
    files: Literal["needed", "all"] = Field(
        description=(
            "needed: what the layout reads, of the WMH challenge the cases of this part, with the masks of observers O3 and O4 "
            "if there are any; all: everything that is published. Zip archives are unpacked."
        )
    )
    connections: Annotated[int, Field(ge=1, le=4), WHOLE] = Field(description="Files that are downloaded at a time.")
    source: UserPath | None = Field(
        None,
        description=(
            "A folder or zip with the data, which is read instead of the server; null downloads. Its files are verified with "
            "the server's listing if the folder has one (dataverse.json); otherwise each is read to its end."
        ),
    )

    def contradictions(self) -> Iterator[Contradiction]:
        """Yield a DOI or a version that does not belong to the repository."""
        if self.repository == "dataverse" and self.version is None:
            yield Contradiction("version", "it is missing", "Name the published version, such as '1.0'")
        if self.repository != "dataverse" and self.version is not None:
            yield Contradiction("version", "the DOI names the version", "Remove it")
        if not re.fullmatch(_DOIS.get(self.repository, ".*"), self.doi):
            example = {"zenodo": "10.5281/zenodo.7262581", "mendeley": "10.17632/3jykz7wz8d.1"}[self.repository]
            yield Contradiction("doi", f"'{self.doi}' is no DOI of the repository", f"Use the form of {example}")


class Simulation(Section):
    """How many phantoms are simulated, how finely, and for which scans."""

    cases_per_site: Annotated[int, Field(ge=1, le=50), WHOLE] = Field(description="Cases of each of the three scanners.")
    seed: Index = Field(description="Seed of the simulation.")
    resolution_mm: Annotated[float, Field(ge=0.8, le=4)] = Field(description="Voxel size of the simulated anatomy, in mm.")
    coarsening: Annotated[float, Field(ge=1, le=4)] = Field(
        description=(
            "Factor by which FLAIR pixels and T1 voxels are larger than the WMH challenge's (FLAIR 0.96 to 1.2 mm in plane, "
            "T1 1 mm). 1 simulates the challenge's pixels."
        )
    )
    slice_mm: Annotated[float, Field(ge=2, le=8)] = Field(
        description="Distance and thickness of FLAIR slices, in mm; 3 is the challenge's."
    )
    smallest_lesion_ml: Annotated[float, Field(ge=0.01, le=1)] = Field(
        description=(
            "Least volume of a simulated lesion, in ml. Choose at least ten voxels of the FLAIR, which such a scan resolves: "
            "0.03 for the challenge's grids, 0.2 for pixels of 2 mm in slices of 5 mm."
        )
    )
    pathology: Literal["white_matter_lesions", "tumours"] = Field(
        "white_matter_lesions",
        description=(
            "What the simulated people have. white_matter_lesions: hyperintensities of 2.5 to 70 ml, and infarcts; tumours: "
            "one tumour of 15 to 130 ml with oedema and necrosis."
        ),
    )
    labels: Literal["lesions", "tissues"] = Field(
        "lesions",
        description=(
            "What the masks hold. lesions: 1 lesion, 2 other pathology; tissues: 1 cerebrospinal fluid, 2 grey matter, 3 white "
            "matter, 4 lesion. The scans are equal. With tissues, the scar of an infarct is a lesion and its cavity fluid."
        ),
    )


class Dataset(Section):
    """A dataset: its layout, folder and channels."""

    layout: Literal["wmh_challenge", "bids", "nnunet", "brats", "muscle_us", "amos", "male_pelvic", "table"] = Field(
        description=(
            "wmh_challenge: the folders of the WMH challenge; bids: a BIDS dataset with lesion masks below derivatives/; "
            "nnunet: the training cases of a raw nnU-Net dataset; brats: the training cases of BraTS 2020 or 2021; "
            "muscle_us: transverse muscle ultrasound in PNG (Marzola et al. 2021); amos: CT scans of AMOS (Ji et al. 2022); "
            "male_pelvic: MR of the male pelvis (Li et al. 2022); table: the csv file that the key table names."
        )
    )
    folder: UserPath = Field(description="Folder of the scans; paths in the table are relative to it.")
    table: UserPath = Field(
        None,
        description="csv file with one row per case: case, site, one column per channel, mask; optional: patient, role, fold.",
    )
    part: Literal["training", "held_out"] = Field(
        "training",
        description=(
            "Which cases of the WMH challenge. training: its training cases; held_out: its test cases, which are "
            "locked until evaluate_held_out is true and need networks_of."
        ),
    )
    networks_of: str | None = Field(
        None,
        description=(
            "The dataset whose networks segment all cases of this one, in every split: for external validation or held-out "
            "cases. Nothing is trained on this dataset then. null: it has networks of its own."
        ),
    )
    masks: Annotated[str, Field(pattern="^[^/]", examples=["manual/**/*label-WMH*_mask.nii.gz"])] = Field(
        None,
        description=(
            "Glob of the lesion masks below derivatives/ of a BIDS dataset. Without it every *_mask and *_dseg may be a lesion "
            "mask, and each session must have exactly one."
        ),
    )
    images: Annotated[dict[str, FileNamePattern], AfterValidator(_sorted)] = Field(
        None,
        description=(
            "For each channel, a glob that the names of its images in a BIDS dataset match, such as FLAIR: '*acq-3D*'. A "
            "channel without a glob must have exactly one image per session."
        ),
    )
    lesion_labels: Annotated[list[TumourLabel], Field(min_length=1), *UNIQUE] = Field(
        None,
        description=(
            "Labels of BraTS that are lesion; all others are background. Without it the whole tumour, [1, 2, 3, 4]; the tumour "
            "core is [1, 3, 4], the enhancing tumour [3, 4] (3 in later years, 4 in 2020 and 2021)."
        ),
    )
    classes: Classes = Field(
        None,
        description=(
            "Label -> name of each class in the label maps that are the masks, such as {1: CSF, 2: grey matter}. 0 is "
            "background and has no entry. All classes are segmented and scored. Without this key, label 1 is lesion, and label "
            "2 is left out of training and scores."
        ),
    )
    roles: Literal["folds", "patch_ddm", "imgx"] = Field(
        "folds",
        description=(
            "Roles of the cases of BraTS, muscle ultrasound, AMOS and male pelvic MR. folds: assigned by the section folds; "
            "patch_ddm: the 295, 37 and 37 cases of BraTS 2020 that PatchDDM trains, validates and tests on, as split 0; "
            "imgx: those of ImgX-DiffSeg's code, as split 0."
        ),
    )
    channels: Annotated[list[Channel], Field(min_length=1), *UNIQUE] = Field(
        description=(
            "Images of a case, in the order of the networks' input channels. All are resampled onto the first. They are "
            "suffixes in a BIDS dataset and channel names in an nnU-Net dataset; T1, T2 and PD also match T1w, T2w and PDw. "
            "BraTS has FLAIR, T1, T1ce and T2."
        )
    )
    download: Download | None = Field(
        None,
        description=(
            "Download of the WMH challenge, muscle ultrasound, AMOS or male pelvic MR, which runs only while the folder holds "
            "no scans. Each file is verified, and files that are present are not downloaded again. null: the scans are in the "
            "folder."
        ),
    )
    preparation: Preparation | None = Field(
        None,
        description="Keys of the section `preparation` that this dataset overrides. Unset: the section as it is.",
    )
    simulate: Simulation = Field(None, description="The phantom generator makes the scans in the folder.")

    def contradictions(self) -> Iterator[Contradiction]:
        """Yield keys that do not belong to the layout."""
        published = self.layout == "wmh_challenge" and self.simulate is None
        downloadable = self.simulate is None and self.layout in ("wmh_challenge", "muscle_us", "amos", "male_pelvic")
        if "part" in self.model_fields_set and not published:
            yield Contradiction("part", "it requires layout 'wmh_challenge' and no `simulate`", "Remove it")
        if self.download is not None and self.layout == "brats":
            problem = "BraTS needs an account and the consent to its terms, so it cannot be downloaded without you"
            source = "synapse.org (syn25829067) or www.med.upenn.edu/cbica/brats2020"
            yield Contradiction("download", problem, f"Set it to null, get the data from {source}, and unpack them")
        elif self.download is not None and not downloadable:
            problem = "it requires layout 'wmh_challenge', 'muscle_us', 'amos' or 'male_pelvic', and no `simulate`"
            yield Contradiction("download", problem, "Set it to null")
        if self.layout == "table" and self.table is None:
            yield Contradiction("table", "it is missing, but layout 'table' reads it", "Set it to the csv file of the cases")
        if self.layout != "table" and self.table is not None:
            yield Contradiction("table", f"layout '{self.layout}' does not read it", "Remove it, or set `layout: table`")
        for key in ("masks", "images"):
            if getattr(self, key) is not None and self.layout != "bids":
                yield Contradiction(key, "it requires layout 'bids'", "Remove it, or set `layout: bids`")
        if "lesion_labels" in self.model_fields_set and self.layout != "brats":
            yield Contradiction("lesion_labels", "it requires layout 'brats'", "Remove it, or set `layout: brats`")
        if self.simulate is not None and self.simulate.labels == "tissues" and list(self.classes or ()) != [1, 2, 3, 4]:
            remedy = "Set `classes: {1: CSF, 2: grey matter, 3: white matter, 4: lesion}`"
            yield Contradiction("classes", "the simulated masks hold the tissues 1 to 4", remedy)
        if self.classes is not None and self.lesion_labels is not None:
            yield Contradiction("lesion_labels", "the labels are named in `classes`", "Remove one of the two keys")
        choices = _ROLES.get(self.layout, ())
        if "roles" in self.model_fields_set and self.roles not in choices:
            remedy = f"Use {', '.join(choices[:-1])} or {choices[-1]}" if choices else "Remove it"
            yield Contradiction("roles", f"layout '{self.layout}' has no roles '{self.roles}'", remedy)
        for channel in sorted(set(self.images or ()) - set(self.channels)):
            yield Contradiction("images", f"'{channel}' is not one of channels", suggestion(channel, self.channels))
