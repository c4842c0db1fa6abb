"""The document of the memory table against rows with known numbers."""

import pandas as pd
import pytest

from pd_ddpm.exhibits.tables.memory import limit_sentence, memory_document, training_ratio


@pytest.fixture
def rows() -> pd.DataFrame:
    """Two kinds and two sizes; the smaller volume is measured."""
    table = []
    for label, factor in (("Patches", 1), ("Whole", 8)):
        for edge in (64, 256):
            for phase, precision, gb in (
                ("training", "float32", factor),
                ("sampling", "float32", 4),
                ("sampling", "float16", 2),
            ):
                counted = gb * edge / 64
                row = {"label": label, "phase": phase, "edge": edge, "input_edge": edge, "precision": precision}
                row |= {
                    "counted_gb": counted,
                    "peak_gb": counted,
                    "source": "meta",
                    "parameters": 24_260_299,
                    "tflop": 0.25,
                    "device": None,
                }
                if edge == 64:
                    row |= {"peak_gb": 1.5 * counted, "source": "measured", "seconds": 0.125, "device": "H100"}
                table.append(row)
    return pd.DataFrame(table)


def test_memory_document_marks_what_was_measured(rows: pd.DataFrame) -> None:
    text = memory_document(rows, 24, "synthetic").markdown()
    assert "**Networks of 24,260,299 parameters, synthetic**" in text
    lines = [line for line in text.splitlines() if line.startswith("| Whole | 64³")]
    assert lines[0] == "| Whole | 64³ | 64³ | float32 | 12.0 | measured | 8.00 | 8.0 × | 0.125 | 0.250 |"
    assert "| Whole | 256³ | 256³ | float32 | 32.0 | meta | 32.0 | 8.0 × |  | 0.250 |" in text
    assert "Device: H100." in text
    assert "Nothing was measured." in memory_document(rows.assign(device=None), 24, "synthetic").markdown()


def test_training_ratio_is_relative_to_the_first_kind(rows: pd.DataFrame) -> None:
    assert training_ratio(rows).to_dict() == {64: {"Patches": 1, "Whole": 8}, 256: {"Patches": 1, "Whole": 8}}


@pytest.mark.parametrize(("limit", "verdict"), [(24.0, "within the 24 GB"), (7.5, "more than the 7.5 GB")])
def test_limit_sentence_compares_the_largest_volume_in_half_precision(rows: pd.DataFrame, limit: float, verdict: str) -> None:
    sentence = limit_sentence(rows, limit)
    assert "a volume of 256³ voxels is sampled as a whole in float16 with 8.0 GB (meta)" in sentence
    assert verdict in sentence
