"""Numbers of the figures against plain computation, and figures against their numbers (about 15 s)."""

import io
import math
from itertools import combinations, pairwise
from pathlib import Path

import matplotlib.pyplot as plt
import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from nibabel.orientations import axcodes2ornt, inv_ornt_aff, ornt_transform
from scipy import stats

from pd_ddpm.data.nifti.write import write_image
from pd_ddpm.data.prepared import read_ground_truth
from pd_ddpm.data.scan import Scan
from pd_ddpm.exhibits.figures import fig2_uncertainty as fig2
from pd_ddpm.exhibits.figures.fig2_cases import FigureCase, MethodResult, choose_cases, fig2_numbers, read_figure_cases
from pd_ddpm.exhibits.figures.fig2_uncertainty import fig2_uncertainty
from pd_ddpm.exhibits.figures.fig3_tprime import fig3_numbers, fig3_tprime, paper_best_t_start
from pd_ddpm.exhibits.figures.fig4 import fig4
from pd_ddpm.exhibits.figures.fig4 import fig4_numbers as patch_fig4_numbers
from pd_ddpm.exhibits.figures.fig4_ensemble import fig4_ensemble, fig4_numbers
from pd_ddpm.exhibits.figures.fig5 import fig5, fig5_numbers
from pd_ddpm.exhibits.figures.log_axis import log_ticks
from pd_ddpm.exhibits.figures.pareto import pareto, pareto_front, pareto_numbers
from pd_ddpm.exhibits.figures.style import METHODS, SPARE, looks

NOTE = "synthetic, test scale"


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


def render(figure: Figure) -> bytes:
    """Return the figure as PDF, and check that its text stays text and that PNG and PDF raise no warning."""
    figure.savefig(io.BytesIO(), format="png", dpi=60)
    pdf = io.BytesIO()
    figure.savefig(pdf, format="pdf", metadata={"CreationDate": None})
    content = pdf.getvalue()
    assert b"/Type3" not in content
    assert b"/FontFile2" in content  # TrueType: type 42
    return content


def through_csv(numbers: pd.DataFrame) -> pd.DataFrame:
    return pd.read_csv(io.StringIO(numbers.to_csv(index=False, float_format="%.6g")), dtype={"case": str})


def test_looks_differ_in_colour_marker_and_line() -> None:
    all_looks = [*METHODS.values(), *SPARE]
    for aspect in ("colour", "marker", "line"):
        assert len({getattr(look, aspect) for look in all_looks}) == len(all_looks), aspect


def test_looks_of_other_methods_are_spare_and_differ() -> None:
    """Any five labels have different looks in one figure, and the first has the same look as alone."""
    names = [f"PD-DDPM ({n})" for n in range(40)]
    assert {look for name in names for look in looks([name]).values()} == set(SPARE)
    random = np.random.default_rng(0)
    for _ in range(12):
        chosen = random.choice(names, len(SPARE), replace=False).tolist()
        chosen_looks = looks(["U-Net", *chosen, chosen[0], "PD-DDPM"])
        assert list(chosen_looks) == ["U-Net", *chosen, "PD-DDPM"]
        assert {chosen_looks[name] for name in chosen} == set(SPARE)
        assert chosen_looks[chosen[0]] == looks(chosen[:1])[chosen[0]]
        assert (chosen_looks["U-Net"], chosen_looks["PD-DDPM"]) == (METHODS["U-Net"], METHODS["PD-DDPM"])
    assert set(looks(names).values()) == set(SPARE)


def test_figures_distinguish_two_other_methods_with_equal_first_look() -> None:
    one, *others = [f"PD-DDPM ({n})" for n in range(40)]
    other = next(name for name in others if looks([name])[name] == looks([one])[one])
    rows = ensembles({(0, 0): [np.linspace(0.5, 0.6, 3), np.linspace(0.6, 0.8, 3)]}, 3)
    both = pd.concat([rows.assign(method=name) for name in (one, other)])
    right = fig4_ensemble(fig4_numbers(both, {one: one, other: other}), NOTE, 3).axes[1]
    lines = {line.get_label(): line for line in right.lines}
    curves = [lines[f"{name}: independent ensembles"] for name in (one, other)]
    assert curves[0].get_color() != curves[1].get_color()
    assert curves[0].get_marker() != curves[1].get_marker()
    described = pd.DataFrame({"method": [one, other], "label": [one, other], "t_start": 300, "reverse_steps": 30})
    scatter = pareto(pareto_numbers(both, described.assign(sampler="ancestral"), [1, 3]), NOTE)
    (legend,) = [legend for legend in scatter.legends if {text.get_text() for text in legend.get_texts()} == {one, other}]
    assert len({handle.get_color() for handle in legend.legend_handles}) == 2
    tables = [scores(name, [0.6, 0.7], uncertainty=1e-3) for name in ("pd", one, other)]
    levels = fig3_numbers(pd.concat(tables), points(("pd", "PD-DDPM", 300, 6), (one, one), (other, other)))
    lines = {line.get_label(): line for line in fig3_tprime(levels, NOTE, 300).axes[0].lines}
    assert len({lines[name].get_color() for name in ("PD-DDPM", one, other)}) == 3
    assert len({str(lines[name]._unscaled_dash_pattern) for name in ("PD-DDPM", one, other)}) == 3


# Figure 2


def figure_case(
    axes: str = "LPS",
    spacing: tuple[float, float, float] = (1.0, 1.0, 3.0),
    name: str = "01",
    labels: np.ndarray | None = None,
    methods: dict[str, MethodResult] | None = None,
) -> FigureCase:
    """Return a case whose arrays (20 to the left, 30 to posterior, 5 to superior) are turned into the axes of a file.

    The brain is [4:16, 6:26, 1:4]. The largest lesion is [12:14, 8:12] in slice 3, at the left and anterior.
    """
    brain = np.zeros((20, 30, 5), dtype=bool)
    brain[4:16, 6:26, 1:4] = True
    if labels is None:
        labels = np.zeros(brain.shape, dtype=np.uint8)
        labels[12:14, 8:12, 3] = 1
        labels[5:8, 20, 2] = 1
        labels[6, 22, 3] = 2
    if methods is None:
        variance = np.linspace(0, 0.2, brain.size).reshape(brain.shape).astype(np.float32)
        predicted = labels > 0  # includes label 2, which is not scored
        predicted[12, 8, 3] = False
        predicted[15, 25, 3] = True
        methods = {"PD-DDPM": MethodResult(predicted, variance, 0.9), "U-Net": MethodResult(labels == 1, None, 1.0)}
    flair = np.random.default_rng(0).normal(size=brain.shape).astype(np.float32) + 3 * (labels == 1)
    turn = ornt_transform(axcodes2ornt(("L", "P", "S")), axcodes2ornt(tuple(axes)))

    def as_stored(array: np.ndarray) -> np.ndarray:
        return nib.orientations.apply_orientation(array, turn)

    affine = np.diag([-spacing[0], -spacing[1], spacing[2], 1.0]) @ inv_ornt_aff(turn, brain.shape)
    image = nib.Nifti1Image(as_stored(flair), affine)
    assert "".join(nib.aff2axcodes(affine)) == axes
    scan = Scan(name, np.stack([as_stored(flair), as_stored(flair) * 0], axis=-1), as_stored(brain), image)
    stored = {
        label: MethodResult(
            as_stored(result.mask), None if result.variance is None else as_stored(result.variance), result.dice
        )
        for label, result in methods.items()
    }
    return FigureCase(scan, as_stored(labels), "Utrecht", float((labels == 1).sum() * np.prod(spacing) / 1000), stored)


def test_fig2_numbers_crop_the_slice_with_the_largest_lesion() -> None:
    case = figure_case()
    numbers = fig2_numbers([case], margin_mm=2.0)
    assert numbers["slice"].unique() == [3]
    window = (slice(2, 18), slice(4, 28), 3)
    assert len(numbers) == 16 * 24
    for column, volume in {
        "flair": case.scan.image[..., 0],
        "brain": case.scan.brain,
        "reference": case.labels,
        "PD-DDPM_mask": case.methods["PD-DDPM"].mask,
        "PD-DDPM_variance": case.methods["PD-DDPM"].variance,
    }.items():
        np.testing.assert_array_equal(numbers[column].to_numpy().reshape(24, 16), volume[window].T)
    assert numbers["U-Net_variance"].isna().all()
    assert numbers["PD-DDPM_dice"].unique() == [0.9]
    assert numbers["load_ml"].unique() == pytest.approx([11 * 3 / 1000])


@pytest.mark.parametrize("axes", ["LPS", "RAS", "LAS", "RPI", "PSR", "ASL", "IRP"])
def test_fig2_is_in_radiological_convention(axes: str) -> None:
    numbers = fig2_numbers([figure_case(axes, (1.0, 2.0, 3.0))])
    expected = fig2_numbers([figure_case(spacing=(1.0, 2.0, 3.0))])
    pd.testing.assert_frame_equal(numbers.drop(columns="slice"), expected.drop(columns="slice"))
    assert numbers["slice"].unique() == [1 if "I" in axes else 3]
    middle = numbers[["x_mm", "y_mm"]].mean()
    lesion = numbers[numbers["reference"] == 1]
    assert (lesion["x_mm"] > middle["x_mm"]).all()
    assert (lesion["y_mm"] < middle["y_mm"]).all()
    # In the figure, the first row of the picture is at the top, and its axis runs to the right.
    panel = fig2_uncertainty(numbers, NOTE).axes[1]
    assert panel.get_ylim()[0] > panel.get_ylim()[1]
    assert panel.get_xlim()[0] < panel.get_xlim()[1]
    rows, columns = np.nonzero((panel.images[0].get_array() == to_rgb(fig2.TRUE_POSITIVE)).all(axis=-1))
    height, width = panel.images[0].get_array().shape[:2]
    assert rows.max() < height / 2
    assert columns.min() >= width / 2
    left, right, bottom, top = panel.images[0].get_extent()
    assert left < right
    assert top < bottom
    sides = {text.get_text(): text.get_position()[0] for text in panel.figure.axes[0].texts}
    assert sides["R"] < 0.5 < sides["L"]


def test_fig2_panels_keep_proportions_in_mm() -> None:
    figure = fig2_uncertainty(fig2_numbers([figure_case(spacing=(1.0, 2.0, 3.0))], margin_mm=2.0), NOTE)
    panel = figure.axes[0]
    left, right, bottom, top = panel.images[0].get_extent()
    assert (right - left, bottom - top) == (16.0, 44.0)  # (12 + 2 * 2) x 1 mm, (20 + 2 * 1) x 2 mm
    box = panel.get_window_extent()
    scale = [box.width / np.ptp(panel.get_xlim()), box.height / np.ptp(panel.get_ylim())]
    assert scale[0] == pytest.approx(scale[1])


def test_fig2_masks_are_coloured_by_comparison_with_ground_truth() -> None:
    numbers = fig2_numbers([figure_case()], margin_mm=2.0)
    figure = fig2_uncertainty(numbers, NOTE)
    panel = figure.axes[2].images[0].get_array()
    picture = {
        name: (panel == to_rgb(getattr(fig2, name))).all(axis=-1)
        for name in ("TRUE_POSITIVE", "FALSE_POSITIVE", "FALSE_NEGATIVE")
    }
    assert {name: int(mask.sum()) for name, mask in picture.items()} == {
        "TRUE_POSITIVE": 7,
        "FALSE_POSITIVE": 1,
        "FALSE_NEGATIVE": 1,
    }
    assert picture["FALSE_NEGATIVE"][8 - 4, 12 - 2]
    assert picture["FALSE_POSITIVE"][25 - 4, 15 - 2]
    np.testing.assert_allclose(panel[22 - 4, 6 - 2], figure.axes[0].images[0].get_array()[22 - 4, 6 - 2] * fig2.SCAN_BRIGHTNESS)


def test_fig2_is_equal_when_drawn_from_its_csv() -> None:
    numbers = fig2_numbers([figure_case(), figure_case("RAS", (0.9583, 1.2, 3.0), name="2")])
    first, second = (fig2_uncertainty(table, NOTE) for table in (numbers, through_csv(numbers)))
    # Two cases with FLAIR, reference, two masks and one map, as U-Net has one member; and the colour bar.
    assert len(first.axes) == len(second.axes) == 2 * (2 + 2 + 1) + 1
    for one, other in zip(first.axes, second.axes, strict=True):
        for a, b in zip(one.images, other.images, strict=True):
            np.testing.assert_allclose(a.get_array(), b.get_array(), atol=0.01)
            np.testing.assert_allclose(a.get_extent(), b.get_extent(), rtol=1e-4)
    render(second)


def edge_case(kind: str) -> list[FigureCase]:
    empty = np.zeros((20, 30, 5), dtype=np.uint8)
    flat = MethodResult(empty > 0, empty.astype(np.float32), 1.0)
    if kind == "one member everywhere":
        return [figure_case(methods={"U-Net": MethodResult(empty > 0, None, 0.0)})]
    if kind == "no lesion, no variance":
        return [figure_case(labels=empty, methods={"PD-DDPM": flat})]
    if kind == "no brain":
        case = figure_case(labels=empty, methods={"PD-DDPM": flat})
        case.scan.brain[:] = False
        return [case]
    return [figure_case(name="a long name of a case " * 3, methods={f"Method {n} (a=b)": flat for n in range(11)})]


@pytest.mark.parametrize("kind", ["one member everywhere", "no lesion, no variance", "no brain", "many methods"])
def test_fig2_draws_unusual_cases(kind: str) -> None:
    figure = fig2_uncertainty(fig2_numbers(edge_case(kind)), NOTE)
    render(figure)
    (note,) = (text.get_text() for text in figure.texts if text.get_text().startswith(NOTE))
    assert ("no map: one member" in note) == (kind == "one member everywhere")


@pytest.mark.parametrize("note", [NOTE, f"a line about the grid\n{NOTE}"])
def test_fig2_note_and_titles_do_not_overlap(note: str) -> None:
    names = [f"Probabilistic U-Net {n}" for n in range(6)]  # titles of two lines
    mask = MethodResult(np.zeros((20, 30, 5), dtype=bool), None, 0.0)
    figure = fig2_uncertainty(fig2_numbers([figure_case(methods=dict.fromkeys(names, mask))]), note)
    figure.canvas.draw()
    boxes = {text.get_text().replace("\n", " "): text.get_window_extent() for text in figure.texts}
    (note_box,) = (box for text, box in boxes.items() if "the patient's right" in text)
    assert all(boxes[name].y1 < note_box.y0 for name in names)


def test_fig2_numbers_reject_cases_with_different_methods() -> None:
    with pytest.raises(ValueError, match="02: its methods"):
        fig2_numbers([figure_case(), figure_case(name="02", methods={})])


def test_choose_cases_spreads_over_the_lesion_load() -> None:
    loads = {"a": 5.0, "b": 0.0, "c": 1.0, "d": 9.0, "e": 5.0, "f": 30.0}
    scores = pd.DataFrame(
        [{"case": case, "method": method, "reference_volume_ml": load} for case, load in loads.items() for method in "xy"]
    ).sample(frac=1, random_state=0)
    assert choose_cases(scores) == ["c", "e", "f"]
    assert choose_cases(scores, 1) == ["e"]
    assert choose_cases(scores, 9) == ["c", "a", "e", "d", "f"]
    assert choose_cases(scores[scores["case"].isin(["a", "c"])]) == ["c", "a"]
    assert choose_cases(scores[scores["case"] == "b"]) == ["b"]


def test_read_figure_cases_reads_masks_variance_and_ground_truth(prepared: Path, tmp_path: Path) -> None:
    truth = {case: read_ground_truth(prepared, case) for case in ("four", "five")}
    manifests, rows = {}, []
    for method, samples in (("pd-ddpm", 3), ("unet", 1)):
        folder = tmp_path / method
        folder.mkdir()
        manifests[method] = str(folder / "predictions.csv")
        pd.DataFrame({"case": list(truth), "samples": samples}).to_csv(manifests[method], index=False)
        for load_ml, (case, labels) in enumerate(truth.items(), start=1):
            reference = nib.load(prepared / f"{case}_mask.nii.gz")
            write_image(folder / f"{case}_mask.nii.gz", labels == 1, reference, np.uint8)
            if samples > 1:
                write_image(folder / f"{case}_uncertainty.nii.gz", np.full(labels.shape, 0.25, np.float32), reference)
            row = {"case": case, "method": method, "site": "s", "reference_volume_ml": load_ml, "dice": samples / 10}
            rows.append(row)
    labels = {"pd-ddpm": "PD-DDPM", "unet": "U-Net"}
    cases = list(read_figure_cases(pd.DataFrame(rows), prepared, manifests, labels, num_cases=2))
    assert [(case.scan.case, case.site, case.load_ml) for case in cases] == [("four", "s", 1), ("five", "s", 2)]
    for case in cases:
        np.testing.assert_array_equal(case.labels, truth[case.scan.case])
        assert list(case.methods) == ["PD-DDPM", "U-Net"]
        np.testing.assert_array_equal(case.methods["PD-DDPM"].mask, case.labels == 1)
        assert (case.methods["PD-DDPM"].variance == 0.25).all()
        assert case.methods["U-Net"].variance is None
        assert (case.methods["PD-DDPM"].dice, case.methods["U-Net"].dice) == (0.3, 0.1)
    assert len(fig2_numbers(cases)["case"].unique()) == 2


# Figure 3


def scores(method: str, dice: list[float], uncertainty: float = np.nan) -> pd.DataFrame:
    rows = {
        "method": method,
        "split": 0,
        "seed": 0,
        "case": [str(n) for n in range(len(dice))],
        "dice": dice,
        "uncertainty": uncertainty,
    }
    return pd.DataFrame(rows | {"network_evaluations": 1501})


def points(*rows: tuple) -> pd.DataFrame:
    """Return the points of Figure 3 from (method, label, T' or None, reverse steps or nothing)."""
    columns = ["method", "label", "t_start", "reverse_steps"]
    table = pd.DataFrame([(*row, *[None] * (4 - len(row))) for row in rows], columns=columns)
    return table.assign(step_size=table["t_start"].fillna(1000).astype(float) / table["reverse_steps"].astype(float))


def test_fig3_draws_its_numbers() -> None:
    described = points(
        *(("pd-ddpm@t_start=50", "PD-DDPM", 50, 1), ("pd-ddpm", "PD-DDPM", 300, 6)),
        *(("attunet", "AttUNet"), ("ddpm", "Vanilla DDPM", None, 20)),
    )
    rows = [
        scores("pd-ddpm@t_start=50", [0.6, 0.7], uncertainty=1e-3),
        scores("pd-ddpm", [0.8, 0.9], uncertainty=2e-3),
        scores("attunet", [0.5, 0.6]),
        scores("ddpm", [0.4, 0.5], uncertainty=4e-3),
    ]
    numbers = fig3_numbers(pd.concat(rows), described)
    assert numbers["t_start"].tolist() == [50, 300, pd.NA, pd.NA]
    assert numbers["reverse_steps"].tolist() == [1, 6, pd.NA, 20]
    assert numbers["step_size"].tolist() == pytest.approx([50, 50, np.nan, 50], nan_ok=True)
    assert numbers.set_index("method").loc["pd-ddpm", "dice"] == pytest.approx(0.85)
    assert numbers.set_index("method").loc["pd-ddpm", "dice_standard_error"] == pytest.approx(0.05)
    figure = fig3_tprime(numbers, NOTE, 300)
    dice, uncertain = figure.axes
    assert list(dice.lines[0].get_xdata()) == [50, 300]
    assert list(dice.lines[0].get_ydata()) == pytest.approx([0.65, 0.85])
    assert {line.get_label() for line in dice.lines} >= {"PD-DDPM", "AttUNet", "Vanilla DDPM"}
    assert len({str(line._unscaled_dash_pattern) for line in dice.lines[:3]}) == 3
    assert "AttUNet" not in {line.get_label() for line in uncertain.lines}  # one mask has no spread
    assert list(uncertain.lines[0].get_ydata()) == pytest.approx([1.0, 2.0])
    assert dice.get_title(loc="left") == f"{NOTE}; bands: standard error over cases, one training"
    render(figure)


@pytest.mark.parametrize(("steps", "is_noted"), [([1, 6, 20], False), ([1, 2, 8], True)])
def test_fig3_names_unequal_step_sizes(steps: list[int], is_noted: bool) -> None:
    described = points(*((f"pd-{t}", "PD-DDPM", t, steps[n]) for n, t in enumerate((50, 300, 1000))))
    numbers = fig3_numbers(pd.concat([scores(name, [0.6, 0.7], uncertainty=1e-3) for name in described["method"]]), described)
    figure = fig3_tprime(through_csv(numbers), NOTE, 300)
    title = figure.axes[0].get_title(loc="left").replace("\n", " ")
    assert ("(timesteps of a step: 50 at T' = 50, 150 at T' = 300, 125 at T' = 1000)" in title) == is_noted
    render(figure)


def test_fig3_standard_error_of_several_splits_is_that_of_their_means() -> None:
    splits = [scores("pd-ddpm", dice).assign(split=split) for split, dice in enumerate([[0.6, 0.8], [0.7, 0.9], [0.5, 0.6]])]
    frame = pd.concat(splits).assign(case=[str(number) for number in range(6)])
    numbers = fig3_numbers(frame, points(("pd-ddpm", "PD-DDPM", 300, 6)))
    assert numbers.loc[0, ["cases", "trainings"]].tolist() == [6, 3]
    assert numbers.loc[0, "dice_standard_error"] == pytest.approx(np.std([0.7, 0.8, 0.55], ddof=1) / np.sqrt(3))
    assert "standard error over trainings and cases" in fig3_tprime(numbers, NOTE, 300).axes[0].get_title(loc="left")


def test_paper_best_t_start_is_read_from_the_printed_values() -> None:
    printed = pd.read_csv(Path(__file__).parents[2] / "config" / "printed_values.csv")
    assert paper_best_t_start(printed) == 300


def test_fig3_draws_one_case_with_one_member() -> None:
    numbers = fig3_numbers(scores("pd-ddpm", [0.6]), points(("pd-ddpm", "PD-DDPM", 300, 6)))
    render(fig3_tprime(numbers, NOTE, 300))


# Figure 4

FOUR = {"pd-ddpm": "PD-DDPM"}


def ensembles(tests: dict[tuple[int, int], list[np.ndarray]], pool: int, first_case: int = 0) -> pd.DataFrame:
    """Return ensemble rows of all subsets, from (split, seed) -> for each case the Dice of its members (members,)."""
    chosen = [subset for size in range(1, pool + 1) for subset in combinations(range(pool), size)]
    belongs = np.array([[member in subset for member in range(pool)] for subset in chosen], dtype=float)
    subsets = pd.DataFrame({"size": belongs.sum(axis=1).astype(int), "subset": ["+".join(map(str, s)) for s in chosen]})
    cases = [
        (split, seed, f"{split}-{number}", values)
        for (split, seed), test_cases in tests.items()
        for number, values in enumerate(test_cases, start=first_case)
    ]
    table = pd.concat([subsets] * len(cases), ignore_index=True)
    for column, name in enumerate(("split", "seed", "case")):
        table[name] = np.repeat([case[column] for case in cases], len(subsets))
    table["dice"] = np.concatenate([belongs @ values for *_, values in cases]) / table["size"]
    evaluations = 10 * table["size"] + 1
    return table.assign(method="pd-ddpm", pool=pool, seconds=2.0 * table["size"], network_evaluations=evaluations)


def test_fig4_numbers_equal_plain_computation() -> None:
    random = np.random.default_rng(0)
    # Split 0 has two cases and two seeds, split 1 has one case and two seeds.
    tests = {(0, 0): 2, (0, 1): 2, (1, 0): 1, (1, 1): 1}
    values = {test: [random.uniform(0.5, 0.9, 4) for _ in range(cases)] for test, cases in tests.items()}
    numbers = fig4_numbers(ensembles(values, 4).sample(frac=1, random_state=0), FOUR).set_index("size")
    by_case = [np.mean([values[split, seed][case] for seed in (0, 1)]) for split, case in ((0, 0), (0, 1), (1, 0))]
    for size in range(1, 5):
        row = numbers.loc[size]
        assert row["dice"] == pytest.approx(np.mean(by_case))
        assert (row["cases"], row["tests"], row["pool"], row["subsets"]) == (3, 4, 4, math.comb(4, size))
        means, pairs = [], []
        for test_cases in values.values():
            subset_mean = {s: np.mean([np.mean(case[list(s)]) for case in test_cases]) for s in combinations(range(4), size)}
            means.append(np.var(list(subset_mean.values())))
            pairs.append(
                [(subset_mean[a] - subset_mean[b]) ** 2 / 2 for a, b in combinations(subset_mean, 2) if not set(a) & set(b)]
            )
        assert row["dice_sd_raw"] == pytest.approx(math.sqrt(np.mean(means)), abs=1e-12)
        if size <= 2:
            assert row["dice_sd_independent"] == pytest.approx(math.sqrt(np.mean([np.mean(pair) for pair in pairs])))
        else:
            assert math.isnan(row["dice_sd_independent"])
    assert numbers.loc[1, "dice_sd_cases"] == pytest.approx(np.std(by_case, ddof=1))
    assert numbers.loc[4, "dice_sd_raw"] == 0
    assert math.isnan(numbers.loc[4, "dice_sd_bound"])
    assert numbers.loc[3, "dice_sd_bound"] == pytest.approx(2 * numbers.loc[3, "dice_sd_raw"])


@pytest.mark.workflow  # takes 3 s
def test_fig4_bound_is_exact_for_an_average_over_members() -> None:
    """Independent ensembles of n members with deviation s have s / sqrt(n); subsets of a pool have less."""
    random = np.random.default_rng(1)
    pools = {(split, 0): [random.normal(0.7, 0.1, 6)] for split in range(400)}
    numbers = fig4_numbers(ensembles(pools, 6), FOUR).set_index("size")
    for size in range(1, 6):
        truth = 0.1 / math.sqrt(size)
        assert numbers.loc[size, "dice_sd_bound"] == pytest.approx(truth, rel=0.06)
        assert numbers.loc[size, "dice_sd_raw"] == pytest.approx(truth * math.sqrt(1 - size / 6), rel=0.06)
        if size <= 3:
            assert numbers.loc[size, "dice_sd_independent"] == pytest.approx(truth, rel=0.06)


@pytest.mark.workflow  # takes 3 s
def test_fig4_raw_and_bound_enclose_the_deviation_of_a_vote() -> None:
    """The score of a thresholded mean, like Dice, is no average over members, so the correction alone would be wrong.

    Each of 30 voxels is lesion in a member with probability 0.4. The score is the fraction of voxels that the vote marks. Its
    variance over independent ensembles follows from the binomial distribution.
    """
    random, voxels, pool = np.random.default_rng(2), 30, 6
    rows = ensembles({(split, 0): [np.zeros(pool)] for split in range(500)}, pool)
    belongs = rows["subset"].str.get_dummies("+").to_numpy()
    votes = random.random((500, voxels, pool)) < 0.4
    mean = np.einsum("rvm,rm->rv", votes[rows["split"]], belongs) / belongs.sum(axis=1, keepdims=True)
    numbers = fig4_numbers(rows.assign(dice=(mean >= 0.5).mean(axis=1)), FOUR).set_index("size")
    for size in (1, 2, 3, 5):
        probability = stats.binom.sf(math.ceil(size / 2) - 1, size, 0.4)
        truth = math.sqrt(probability * (1 - probability) / voxels)
        assert numbers.loc[size, "dice_sd_raw"] < 0.98 * truth
        assert numbers.loc[size, "dice_sd_bound"] > 0.97 * truth
        if size <= 3:
            assert numbers.loc[size, "dice_sd_independent"] == pytest.approx(truth, rel=0.06)
    assert numbers.loc[5, "dice_sd_bound"] > 1.2 * truth


def test_fig4_raw_from_random_subsets_estimates_all_subsets() -> None:
    rows = ensembles({(0, 0): [np.linspace(0.4, 0.9, 8)]}, 8)
    three_members = rows[rows["size"] == 3]
    everything = fig4_numbers(three_members, FOUR)["dice_sd_raw"].item()
    some = [fig4_numbers(three_members.sample(20, random_state=seed), FOUR)["dice_sd_raw"].item() for seed in range(60)]
    assert math.sqrt(np.mean(np.square(some))) == pytest.approx(everything, rel=0.05)


def test_fig4_numbers_reject_unequal_pools_and_subsets() -> None:
    rows = ensembles({(0, 0): [np.array([0.5, 0.6, 0.7])] * 2}, 3)
    with pytest.raises(ValueError, match="different subsets"):
        fig4_numbers(rows.drop(index=1), FOUR)
    with pytest.raises(ValueError, match="no rows"):
        fig4_numbers(rows, {"tdpm": "TDPM"})
    with pytest.raises(ValueError, match=r"\[3, 4\]"):
        fig4_numbers(rows.assign(pool=np.where(rows["case"] == "0-0", 3, 4)), FOUR)


def test_fig4_draws_its_numbers() -> None:
    random = np.random.default_rng(3)
    numbers = fig4_numbers(ensembles({(0, 0): [random.uniform(0.5, 0.9, 5) for _ in range(3)]}, 5), FOUR)
    figure = fig4_ensemble(through_csv(numbers), NOTE, 3)
    left, right = figure.axes
    assert list(left.containers[0].lines[0].get_ydata()) == pytest.approx(numbers["dice"].tolist(), rel=1e-5)
    assert right.lines[2].get_ydata()[-1] == 0
    assert list(right.lines[1].get_ydata()) == pytest.approx((1000 * numbers["dice_sd_bound"]).tolist(), rel=1e-5, nan_ok=True)
    render(figure)


@pytest.mark.parametrize(("cases", "pool"), [(1, 1), (1, 3), (2, 1)])
def test_fig4_draws_one_case_or_one_member(cases: int, pool: int) -> None:
    numbers = fig4_numbers(ensembles({(0, 0): [np.linspace(0.5, 0.6, pool)] * cases}, pool), FOUR)
    assert math.isnan(numbers["dice_sd_independent"].iloc[-1])
    render(fig4_ensemble(numbers, NOTE, 5))


def test_fig4_draws_one_subset_of_each_size() -> None:
    rows = ensembles({(0, 0): [np.linspace(0.5, 0.6, 3)]}, 3)
    numbers = fig4_numbers(rows[rows["subset"].isin(["0", "0+1", "0+1+2"])], FOUR).set_index("size")
    assert numbers.loc[[1, 2], "dice_sd_raw"].isna().all()
    assert numbers.loc[3, "dice_sd_raw"] == 0
    render(fig4_ensemble(numbers.reset_index(), NOTE, 5))


def with_hd95(rows: pd.DataFrame, undefined: str) -> pd.DataFrame:
    """Return the rows with an HD95 of 10 mm per missing Dice, and none for one case."""
    return rows.assign(hd95_mm=(10 * (1 - rows["dice"])).where(rows["case"] != undefined))


def test_patch_fig4_numbers_equal_plain_computation_and_leave_out_undefined_hd95() -> None:
    values = {(0, 0): [np.array([0.5, 0.6, 0.7, 0.8]), np.array([0.7, 0.7, 0.9, 0.9])]}
    numbers = patch_fig4_numbers(with_hd95(ensembles(values, 4), "0-1"), FOUR).set_index("size")
    assert numbers.loc[1, ["dice", "hd95_mm"]].tolist() == pytest.approx([0.725, 3.5])
    assert (numbers["cases"] == 2).all()
    assert (numbers["cases_without_hd95"] == 1).all()
    means = np.mean(values[0, 0], axis=0)
    pairs = [(first - second) ** 2 / 2 for first, second in combinations(means, 2)]
    assert numbers.loc[1, "dice_sd_independent"] == pytest.approx(math.sqrt(np.mean(pairs)))
    pairs = [(10 * (first - second)) ** 2 / 2 for first, second in combinations(values[0, 0][0], 2)]
    assert numbers.loc[1, "hd95_mm_sd_independent"] == pytest.approx(math.sqrt(np.mean(pairs)))
    assert math.isnan(numbers.loc[3, "dice_sd_independent"])
    with pytest.raises(ValueError, match="tdpm has no ensembles"):
        patch_fig4_numbers(with_hd95(ensembles(values, 4), "0-1"), {"tdpm": "TDPM"})


def test_patch_fig4_draws_its_numbers() -> None:
    numbers = patch_fig4_numbers(with_hd95(ensembles({(0, 0): [np.linspace(0.5, 0.9, 4)] * 2}, 4), "0-1"), FOUR)
    figure = fig4(through_csv(numbers), NOTE, [3])
    drawn = [list(axis.containers[0].lines[0].get_ydata()) for axis in figure.axes]
    assert drawn == [pytest.approx(numbers[score].tolist(), rel=1e-5) for score in ("dice", "hd95_mm")]
    assert "Cases without HD95: PD-DDPM 1" in figure.get_suptitle()
    render(figure)


def test_fig5_has_a_cell_for_each_ensemble_that_was_run_and_leaves_the_others_white() -> None:
    short = with_hd95(ensembles({(0, 0): [np.array([0.5, 0.6, 0.7, 0.8])] * 2}, 4), "0-1").assign(method="short")
    long = with_hd95(ensembles({(0, 0): [np.array([0.8, 0.9])] * 2}, 2), "").assign(method="long")
    points = [{"method": "short", "reverse_steps": 5, "pool": 4}, {"method": "long", "reverse_steps": 50, "pool": 2}]
    numbers = fig5_numbers(pd.concat([short, long]), points, [1, 2, 4])
    cells = {(row.reverse_steps, row.members): (row.dice, row.hd95_mm) for row in numbers.itertuples()}
    expected = {(5, size): (0.65, 3.5) for size in (1, 2, 4)} | {(50, size): (0.85, 1.5) for size in (1, 2)}
    assert cells == {key: pytest.approx(value) for key, value in expected.items()}
    assert numbers["cases_without_hd95"].tolist() == [1, 1, 1, 0, 0]
    figure = fig5(through_csv(numbers), [1, 2, 4], NOTE)
    images = [axis.images[0].get_array() for axis in figure.axes[:2]]
    assert [image.mask.tolist() for image in images] == [[[False] * 3, [False, False, True]]] * 2
    texts = [[text.get_text() for text in axis.texts] for axis in figure.axes[:2]]
    assert texts == [["0.650"] * 3 + ["0.850"] * 2, ["3.5"] * 3 + ["1.5"] * 2]
    render(figure)
    with pytest.raises(ValueError, match="long has no ensembles"):
        fig5_numbers(short, points, [1])


# Cost against quality


def dominated(cost: float, quality: float, others: list[tuple[float, float]]) -> bool:
    return any(c <= cost and q >= quality and (c < cost or q > quality) for c, q in others)


def test_pareto_front_equals_plain_comparison_of_all_pairs() -> None:
    random = np.random.default_rng(4)
    for count in (1, 2, 5, 40):
        cost, quality = random.integers(0, 6, count).astype(float), random.integers(0, 6, count).astype(float)  # many ties
        points = list(zip(cost, quality, strict=True))
        assert pareto_front(cost, quality).tolist() == [not dominated(c, q, points) for c, q in points]


def test_pareto_front_keeps_equal_points_and_drops_nan() -> None:
    front = pareto_front(np.array([1.0, 1.0, 1.0, 2.0, 3.0, 0.5]), np.array([0.7, 0.7, 0.6, 0.7, 0.9, np.nan]))
    assert front.tolist() == [True, True, False, False, True, False]


DESCRIPTION = pd.DataFrame(
    {
        "method": ["pd-ddpm", "unet"],
        "label": ["PD-DDPM", "U-Net"],
        "t_start": [300, np.nan],
        "reverse_steps": [30, np.nan],
        "sampler": ["ancestral", np.nan],
    }
)


def costed() -> pd.DataFrame:
    chain = ensembles(
        {(0, 0): [np.array([0.6, 0.7, 0.8]), np.array([0.5, 0.5, 0.5])], (0, 1): [np.array([0.8, 0.7, 0.6])] * 2}, 3
    )
    once = ensembles({(0, 0): [np.array([0.55]), np.array([0.75])]}, 1).assign(method="unet")
    return pd.concat([chain, once.assign(network_evaluations=1, seconds=0.1)])


def test_pareto_numbers_average_subsets_and_seeds() -> None:
    numbers = pareto_numbers(costed(), DESCRIPTION, [1, 3, 5])
    assert numbers[["method", "members", "cases"]].to_numpy().tolist() == [["pd-ddpm", 1, 2], ["pd-ddpm", 3, 2], ["unet", 1, 2]]
    assert numbers["dice"].tolist() == pytest.approx([0.65, 0.65, 0.65])
    assert numbers["dice_standard_error"].tolist() == pytest.approx([0.05, 0.05, 0.1])  # cases 0.7, 0.6 and 0.55, 0.75
    assert numbers["seconds"].tolist() == pytest.approx([2, 6, 0.1])
    assert numbers["network_evaluations"].tolist() == [11, 31, 1]
    assert numbers["on_front_seconds"].tolist() == numbers["on_front_evaluations"].tolist() == [False, False, True]


def test_pareto_standard_error_of_several_splits_is_that_of_their_means() -> None:
    tests = {(split, 0): [np.array([dice, dice])] * 3 for split, dice in enumerate([0.6, 0.7, 0.5])}
    row = pareto_numbers(ensembles(tests, 2), DESCRIPTION[DESCRIPTION["method"] == "pd-ddpm"], [2]).loc[0]
    assert row["cases"] == 9
    assert row["dice_standard_error"] == pytest.approx(0.1 / np.sqrt(3))


def test_pareto_numbers_name_a_method_without_ensembles() -> None:
    with pytest.raises(ValueError, match="unet"):
        pareto_numbers(costed(), DESCRIPTION, [2, 3])


def test_pareto_draws_the_front_as_steps() -> None:
    numbers = pareto_numbers(costed(), DESCRIPTION, [1, 2, 3])
    numbers["dice"] = [0.7, 0.72, 0.71, 0.6]
    numbers["on_front_seconds"] = pareto_front(numbers["seconds"].to_numpy(), numbers["dice"].to_numpy())
    numbers["on_front_evaluations"] = pareto_front(numbers["network_evaluations"].to_numpy(), numbers["dice"].to_numpy())
    figure = pareto(through_csv(numbers), NOTE)
    steps = next(line for line in figure.axes[0].lines if line.get_drawstyle() == "steps-post")
    assert list(steps.get_xdata()[:3]) == pytest.approx([0.1, 2, 4])
    assert list(steps.get_ydata()) == pytest.approx([0.6, 0.7, 0.72, 0.72])
    assert figure.axes[0].get_xscale() == "log"
    assert [text.get_text() for text in figure.axes[0].texts] == ["1", "2"]
    render(figure)


def test_pareto_draws_a_method_without_known_cost_as_a_line() -> None:
    rows = costed()
    rows.loc[rows["method"] == "unet", ["network_evaluations", "seconds"]] = np.nan
    numbers = pareto_numbers(rows, DESCRIPTION, [1, 3])
    assert not numbers.set_index("method").loc["unet", ["on_front_seconds", "on_front_evaluations"]].any()
    figure = pareto(through_csv(numbers), NOTE)
    for axis in figure.axes:
        (level,) = [line for line in axis.lines if line.get_linestyle() == "--"]
        assert list(level.get_ydata()) == pytest.approx([0.65, 0.65])
    assert "dashed: cost not known" in figure.get_suptitle()
    render(figure)


@pytest.mark.parametrize(
    ("ends", "ticks"),
    [
        ((0.8, 2000), [1, 10, 100, 1000]),
        ((1.5, 50), [3, 10, 30]),
        ((0.9, 6), [1, 2, 5]),
        ((1.2, 4), [1.5, 2, 3]),
        ((2.02, 2.41), [2.1, 2.2, 2.3, 2.4]),
        ((1.011, 1.033), [1.01, 1.03]),
    ],
)
def test_log_ticks_are_round_and_few(ends: tuple[float, float], ticks: list[float]) -> None:
    assert log_ticks(*ends).tolist() == pytest.approx(ticks)
    assert len(log_ticks(1e-9, 1e9)) <= 7


@pytest.mark.parametrize("longest_seconds", [0.2, 0.7, 4.0, 3000.0])
def test_pareto_labels_of_ticks_do_not_overlap(longest_seconds: float) -> None:
    rows = costed()
    rows["seconds"] = np.geomspace(0.1, longest_seconds, len(rows))
    figure = pareto(pareto_numbers(rows, DESCRIPTION, [1, 2, 3]), NOTE)
    figure.canvas.draw()
    for axis in figure.axes:
        labels = [label for label in axis.get_xticklabels(which="both") if label.get_text()]
        boxes = sorted((label.get_window_extent() for label in labels), key=lambda box: box.x0)
        assert len(boxes) >= 2
        assert all(box.x1 < next_box.x0 for box, next_box in pairwise(boxes))


def test_pareto_numbers_a_chain_of_one_step_in_the_singular() -> None:
    numbers = pareto_numbers(costed(), DESCRIPTION.assign(reverse_steps=[1, np.nan]), [1])
    figure = pareto(numbers.assign(on_front_seconds=True), NOTE)
    texts = {text.get_text() for legend in figure.legends for text in legend.get_texts()}
    assert "2: PD-DDPM, T' 300, 1 step, ancestral" in texts


@pytest.mark.parametrize("method", ["unet", "pd-ddpm"])
def test_pareto_draws_a_single_point(method: str) -> None:
    alone = DESCRIPTION[DESCRIPTION["method"] == method]
    render(pareto(through_csv(pareto_numbers(costed(), alone, [1])), NOTE))
