"""Answer of the leak table: which combination of denoiser and start exceeds its own pre-segmenter, with an honest spread."""

import pandas as pd

from pd_ddpm.exhibits.document import Part
from pd_ddpm.exhibits.tables.cells import effect_and_interval, number

PRESEGMENTER = "dice_to_presegmenter"
GED, AUROC = "ged_squared_to_share_0", "error_auroc_variance_to_share_0"

# Share of true zero effects whose two-sided 95 % interval lies above zero by chance.
FALSE_POSITIVE_RATE = 0.025


def add_answers(table: pd.DataFrame) -> pd.DataFrame:
    """Return the leak table with the three conditions of its question, and whether a row meets all of them.

    Args:
        table: rows of the leak table with their differences; the first is the pre-segmenter.

    Returns:
        The table with the boolean columns `exceeds_presegmenter` (the 95 % interval of the difference in Dice is above zero),
        `ged_not_above` and `auroc_not_below` (GED² and AUROC of error detection by the variance against the denoiser with share
        0), and `answers`. They are missing in the first row, and where the difference that they need is undefined. The denoiser
        with share 0 is its own reference, so its spread meets both conditions.
    """
    is_reference = table["strategy"].eq("diffusion") & table["presegmented_share"].fillna(0).eq(0) & table[GED].isna()
    exceeds = (table[f"{PRESEGMENTER}_low"] > 0).astype("boolean").mask(table[f"{PRESEGMENTER}_low"].isna())
    ged, auroc = (
        condition.astype("boolean").mask(difference.isna()).mask(is_reference, True)
        for difference, condition in ((table[GED], table[GED] <= 0), (table[AUROC], table[AUROC] >= 0))
    )
    answers = {
        "exceeds_presegmenter": exceeds,
        "ged_not_above": ged,
        "auroc_not_below": auroc,
        "answers": exceeds & ged & auroc,
    }
    return table.assign(**{name: values.mask(table.index == table.index[0]) for name, values in answers.items()})


def answer_sentence(table: pd.DataFrame) -> str:
    """Return the answer in words, from the columns of `add_answers`."""
    rows, name = table.iloc[1:], table["denoiser"].iloc[0]
    better, answering = rows[rows["exceeds_presegmenter"].fillna(False)], rows[rows["answers"].fillna(False)]
    chance = f"Of {len(rows)} combinations, {FALSE_POSITIVE_RATE * len(rows):.1f} would lie above zero by chance alone."
    if better.empty:
        best = rows.loc[rows[PRESEGMENTER].idxmax()]
        return (
            f"No combination exceeds {name} in Dice with a 95 % interval above zero. The highest is {row_name(best)}: "
            f"{effect_and_interval(best, PRESEGMENTER)}."
        )
    exceeding = f"exceeds {name} in Dice with a 95 % interval above zero and has an honest spread"
    if answering.empty:
        return (
            f"No combination {exceeding}. Those that exceed it do not meet both conditions on the spread: {listed(better)}. "
            f"{chance}"
        )
    further = better.drop(answering.index)
    text = f"Each of these {exceeding}: {listed(answering)}."
    if len(further):
        text += f" These exceed it without meeting both conditions on the spread: {listed(further)}."
    return f"{text} {chance}"


def answer_part(table: pd.DataFrame) -> Part:
    """Return the part of the document with one row per combination, and the answer in words as its last note."""
    rows, name = table.iloc[1:], table["denoiser"].iloc[0]
    cells = pd.DataFrame({"Denoiser": rows.apply(row_denoiser, axis=1), "Start": rows.apply(row_start, axis=1)})
    cells[f"Dice − {name}"] = [effect_and_interval(row, PRESEGMENTER) for _, row in rows.iterrows()]
    cells["Interval above 0"] = rows["exceeds_presegmenter"].map(_yes_or_no)
    cells["GED² − share 0"] = _signed(rows[GED])
    cells["GED² at most that"] = rows["ged_not_above"].map(_yes_or_no)
    cells["Error AUROC − share 0"] = _signed(rows[AUROC])
    cells["Error AUROC at least that"] = rows["auroc_not_below"].map(_yes_or_no)
    cells["All three"] = rows["answers"].map(_yes_or_no)
    notes = [
        f"Which combination exceeds its own pre-segmenter, {name}, and varies as honestly as the denoiser with share 0? Its "
        "95 % interval in Dice must lie above zero. Its GED² must not be above, and its AUROC of error detection by variance "
        "not below that of share 0 with the same skip and start. Share 0 itself meets the last two.",
        answer_sentence(table),
    ]
    return Part("Answer", cells, notes, left={"Denoiser", "Start"})


def listed(rows: pd.DataFrame) -> str:
    """Return the rows as text, the starts of each denoiser in parentheses."""
    starts: dict[str, list[str]] = {}
    for _, row in rows.iterrows():
        starts.setdefault(row_denoiser(row), []).append(row_start(row))
    return "; ".join(f"{denoiser} ({'; '.join(names)})" for denoiser, names in starts.items())


def row_start(row: pd.Series) -> str:
    """Return the start of a row, such as "pre-segmentation, T' = 300"."""
    return row["start"] if pd.isna(row["t_start"]) else f"{row['start']}, T' = {row['t_start']}"


def row_denoiser(row: pd.Series) -> str:
    """Return the denoiser of a row, such as "share 0.75, skip"."""
    if pd.isna(row["likelihood_skip"]):
        return row["denoiser"]
    return f"{row['denoiser']}, {'skip' if row['likelihood_skip'] else 'no skip'}"


def row_name(row: pd.Series) -> str:
    """Return denoiser and start of a row."""
    return f"{row_denoiser(row)}, {row_start(row)}"


def _signed(values: pd.Series) -> list[str]:
    return ["" if pd.isna(value) else number(value, 3, signed=True) for value in values]


def _yes_or_no(value: bool | None) -> str:
    return "" if pd.isna(value) else "yes" if value else "no"
