"""Memory table of PatchDDM: memory, time and FLOPs of training and sampling on patches, whole and half volumes."""

import pandas as pd

from pd_ddpm.exhibits.document import Document, Part

HALF_BYTES = {"float16", "bfloat16"}

SOURCE_NOTE = (
    "Measured: the peak of what PyTorch's allocator gave out here, with the workspace of convolutions. Meta: the sizes "
    "of all tensors that exist at the same time, added up without computing them, and without workspace. The column “Counted” "
    "has that sum for every row. Steps that take too long here, or do not fit into the free memory, are counted only."
)
TRAINING_NOTE = (
    "A training step in float32 holds the weights, their moving average, the gradients, Adam's two moments and the tensors of "
    "the backward pass. Ratio: counted memory relative to that of the first row of the same volume."
)
SAMPLING_NOTE = (
    "Sampling evaluates the network on one member of one volume at a time. Memory is that of a reverse step of "
    "DDIM, which is one evaluation."
)
PAPER_NOTE = "The paper's own values of memory and time are not known here, and its code records none."


def memory_document(table: pd.DataFrame, limit_gb: float, caption_note: str) -> Document:
    """Return the document of the memory table.

    Args:
        table: rows of `memory_rows`.
        limit_gb: memory of a GPU that the largest volume is compared with, in GB.
        caption_note: what the caption says about the input of the networks.
    """
    training, sampling = (table[table["phase"] == phase] for phase in ("training", "sampling"))
    devices = [name for name in table["device"].dropna().unique() if name]
    measured = f" Device: {', '.join(devices)}." if devices else " Nothing was measured."
    parts = [
        Part("Training step", _cells(training, with_ratio=True), [TRAINING_NOTE, SOURCE_NOTE + measured], left={"Source"}),
        Part("Sampling", _cells(sampling), [limit_sentence(table, limit_gb), SAMPLING_NOTE, PAPER_NOTE], left={"Source"}),
    ]
    parameters = " and ".join(f"{count:,}" for count in sorted(table["parameters"].unique()))
    caption = f"Networks of {parameters} parameters, {caption_note}"
    return Document("Memory of patches and whole volumes", caption, parts)


def training_ratio(table: pd.DataFrame) -> pd.DataFrame:
    """Return the counted memory of training relative to that of the first kind, by kind (rows) and edge of the volume."""
    training = table[table["phase"] == "training"]
    by_kind = training.pivot(index="label", columns="edge", values="counted_gb").loc[training["label"].unique()]
    return by_kind / by_kind.iloc[0]


def limit_sentence(table: pd.DataFrame, limit_gb: float) -> str:
    """Return whether the largest volume can be sampled as a whole in half precision within a GPU's memory.

    Args:
        table: rows of `memory_rows`.
        limit_gb: memory of the GPU, in GB.
    """
    sampling = table[(table["phase"] == "sampling") & table["precision"].isin(HALF_BYTES)]
    largest = sampling[sampling["edge"] == sampling["edge"].max()].iloc[0]
    verdict = "within" if largest["peak_gb"] <= limit_gb else "more than"
    volume = _cube(largest["edge"])
    return (
        f"{largest['label']}: a volume of {volume} voxels is sampled as a whole in {largest['precision']} with "
        f"{largest['peak_gb']:.1f} GB ({largest['source']}), {verdict} the {limit_gb:g} GB of a GPU."
    )


def _cells(rows: pd.DataFrame, with_ratio: bool = False) -> pd.DataFrame:
    cells = pd.DataFrame({"Kind": rows["label"], "Volume": rows["edge"].map(_cube), "Input": rows["input_edge"].map(_cube)})
    cells["Precision"] = rows["precision"]
    cells["Memory [GB]"] = rows["peak_gb"].map(_three_digits)
    cells["Source"] = rows["source"]
    cells["Counted [GB]"] = rows["counted_gb"].map(_three_digits)
    if with_ratio:
        first = rows.groupby("edge")["counted_gb"].transform("first")
        cells["Ratio"] = [f"{ratio:.1f} ×" for ratio in rows["counted_gb"] / first]
    cells["s"] = rows["seconds"].map(lambda value: "" if pd.isna(value) else _three_digits(value))
    cells["TFLOP"] = rows["tflop"].map(_three_digits)
    order = rows.reset_index(drop=True).sort_values(["edge", "precision"], kind="stable", ascending=[True, False]).index
    return cells.reset_index(drop=True).loc[order]


def _cube(edge: int) -> str:
    return f"{edge:g}³"


def _three_digits(value: float) -> str:
    return f"{value:#.3g}" if value < 100 else f"{value:.0f}"
