"""Sheets of slices, the browser's data and the index of all results; the browser itself is tested in test_browser.py."""

import io
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from pd_ddpm.data.scan import Scan
from pd_ddpm.exhibits.class_colours import BRAIN_COLOUR, COLOURS
from pd_ddpm.exhibits.document import Document, Part, read_document
from pd_ddpm.exhibits.figures.training import training_curves, training_numbers
from pd_ddpm.exhibits.pages.browser import BrowserScan, Panel, Toggle, browser_data, class_toggles, embedded
from pd_ddpm.exhibits.pages.case_browser import case_table
from pd_ddpm.exhibits.pages.index import IndexExhibit, IndexText, index_page
from pd_ddpm.exhibits.pages.sheets import (
    LARGEST_VARIANCE,
    ORIENTATIONS,
    Slices,
    map_colours,
    map_sheet,
    mask_sheet,
    scan_sheet,
    thin_out,
)
from pd_ddpm.exhibits.publish import publish
from pd_ddpm.runtime.files import write_json
from pd_ddpm.runtime.problem import ProblemError

SHAPE = (12, 16, 7)


def scan_of(axes: str = "RAS") -> Scan:
    """A scan that is brain everywhere, whose file has these axes, with voxels of 1, 2 and 4 mm along x, y and z."""
    affine = np.diag([1.0, 2.0, 4.0, 1.0])
    image = nib.Nifti1Image(np.zeros(SHAPE, dtype=np.float32), affine)
    turn = nib.orientations.ornt_transform(nib.io_orientation(affine), nib.orientations.axcodes2ornt(axes))
    turned = image.as_reoriented(turn)
    return Scan("a", np.zeros((*turned.shape, 1), dtype=np.float32), np.ones(turned.shape, dtype=bool), turned)


def tiles(sheet: bytes, view: dict) -> np.ndarray:
    """Return the slices (slice, row, column) of a sheet, as the browser cuts them."""
    picture = np.asarray(Image.open(io.BytesIO(sheet)))
    columns, rows = view["size"]
    positions = [divmod(index, view["per_row"]) for index in range(len(view["file_slices"]))]
    return np.stack([picture[y * rows : (y + 1) * rows, x * columns : (x + 1) * columns] for y, x in positions])


@pytest.mark.parametrize("axes", ["RAS", "LPS", "PSR", "SAL"])
@pytest.mark.parametrize(
    ("orientation", "position"),
    # Slice, row and column, as fractions, of a voxel at the right, anterior and superior corner of the patient.
    [("axial", (1, 0, 0)), ("coronal", (1, 0, 0)), ("sagittal", (0, 0, 0))],
)
def test_sheets_are_in_radiological_convention(axes: str, orientation: str, position: tuple[int, int, int]) -> None:
    scan = scan_of(axes)
    corner = np.array([SHAPE[0] - 1, 2 * (SHAPE[1] - 1), 4 * (SHAPE[2] - 1), 1.0])  # mm to the right, anterior and superior
    voxel = tuple(np.linalg.solve(scan.reference.affine, corner)[:3].round().astype(int))
    mask = np.zeros(scan.brain.shape, dtype=bool)
    mask[voxel] = True
    slices = Slices.from_scan(scan, mask, orientation, 99)
    view = slices.description(mask)
    shown = tiles(mask_sheet(slices, mask), view)
    expected = tuple(fraction * (size - 1) for fraction, size in zip(position, shown.shape, strict=True))
    assert np.argwhere(shown).tolist() == [list(expected)]
    assert view["file_slices"][view["first"]] == voxel[view["file_axis"]]
    lengths = {"axial": [1, 2], "coronal": [1, 4], "sagittal": [2, 4]}
    assert view["pixel_mm"] == pytest.approx(lengths[orientation])


def test_marks_name_the_directions_of_the_axes() -> None:
    opposite = dict(zip("RLAPSI", "LRPAIS", strict=True))
    for orientation in ORIENTATIONS.values():
        columns, rows, _ = orientation.codes
        left, right, top, bottom = orientation.marks
        assert (right, bottom) == (columns, rows)
        assert (left, top) == (opposite[right], opposite[bottom])


def test_sheets_hold_every_voxel_of_the_brain_box() -> None:
    random = np.random.default_rng(0)
    scan = scan_of()
    mask, variance = random.random(SHAPE) < 0.3, random.random(SHAPE) * LARGEST_VARIANCE
    slices = Slices.from_scan(scan, mask, "axial", 99)
    view = slices.description(mask)
    turned = mask[::-1, ::-1].transpose(2, 1, 0)  # columns to the left, rows to posterior
    assert (tiles(mask_sheet(slices, mask), view) == turned).all()
    levels = tiles(map_sheet(slices, variance), view)
    np.testing.assert_allclose((levels / 15) ** 2 * LARGEST_VARIANCE, variance[::-1, ::-1].transpose(2, 1, 0), atol=0.018)


def test_maps_are_transparent_without_variance_and_have_the_last_colour_at_the_largest() -> None:
    scan, variance = scan_of(), np.zeros(SHAPE)
    slices = Slices.from_scan(scan, variance > 0, "axial", 99)
    assert map_sheet(slices, variance) is None
    assert mask_sheet(slices, variance > 0) is None
    variance[0, 0, 0] = LARGEST_VARIANCE
    picture = np.asarray(Image.open(io.BytesIO(map_sheet(slices, variance))).convert("RGBA"))
    assert np.unique(picture[..., 3]).tolist() == [0, 255]
    assert picture[picture[..., 3] > 0].tolist() == [[*map_colours()[-1], 255]]


def test_slices_are_cropped_to_the_brain_and_thinned_out() -> None:
    scan = scan_of()
    brain, mask = np.zeros(SHAPE, dtype=bool), np.zeros(SHAPE, dtype=bool)
    brain[:, :, 1:6] = True
    mask[5, 5, 2] = True
    slices = Slices.from_scan(Scan("a", scan.image, brain, scan.reference), mask, "axial", 3)
    assert len(slices.file_slices) == 3
    assert set(slices.file_slices) <= set(range(1, 6))
    assert 2 in slices.file_slices
    assert slices.take(mask).any()


def test_thin_out_keeps_ends_and_the_wanted_candidate() -> None:
    assert thin_out(np.arange(10), 4, 5).tolist() == [0, 3, 5, 9]
    assert thin_out(np.arange(10), 4, 99).tolist() == [0, 3, 6, 9]
    assert thin_out(np.arange(3), 9, 1).tolist() == [0, 1, 2]


def test_scan_sheet_is_windowed_by_the_brain() -> None:
    scan = scan_of()
    brain = np.zeros(SHAPE, dtype=bool)
    brain[2:-2, 2:-2] = True
    channel = np.where(brain, np.linspace(0, 1, SHAPE[0])[:, None, None], 50.0)
    slices = Slices.from_scan(Scan("a", scan.image, brain, scan.reference), brain, "axial", 99)
    shown = np.asarray(Image.open(io.BytesIO(scan_sheet(slices, channel, brain)))).astype(float)
    assert shown[: SHAPE[1], : SHAPE[0]][8, [9, 2]].tolist() == pytest.approx([0, 255], abs=25)  # columns run to the left


def test_browser_scan_content_embeds_the_images_of_all_orientations() -> None:
    scan, mask = scan_of(), np.zeros(SHAPE, dtype=bool)
    mask[3, 4, 5] = True
    browser_scan = BrowserScan(scan, "d", {"scan": 0}, {"mask": mask, "empty": mask & False}, {}, {}, mask)
    content = json.loads(json.dumps(browser_scan.content(ORIENTATIONS, 99, embedded)))
    assert [view["name"] for view in content["views"]] == ["axial", "coronal", "sagittal"]
    for view in content["views"]:
        assert view["sheets"].keys() == {"scan", "mask"}
        assert view["sheets"]["scan"].startswith("data:image/jpeg;base64,")
    assert [view["file_slices"][view["first"]] for view in content["views"]] == [5, 4, 3]


def test_case_table_marks_the_best_methods_of_each_case() -> None:
    rows = pd.DataFrame(
        {
            "case": ["p", "p", "p", "q", "q"],
            "method": ["a", "b", "c", "a", "b"],
            "dice": [0.5, 0.7, 0.7, 0.9, 0.8],
            "site": "s",
            "reference_volume_ml": 2.0,
        }
    )
    first, second = case_table(rows, {"a": "A", "b": "B", "c": "C"})
    assert first["dice"] == [("0.500", False), ("0.700", True), ("0.700", True)]
    assert second["dice"] == [("0.900", True), ("0.800", False), ("", False)]


def write_exhibit(folder: Path, name: str) -> IndexExhibit:
    """Write a table of two methods and return its entry."""
    table = pd.DataFrame({"Method": ["<a>", "b"], "Dice": ["0.5", "0.7"]})
    document = Document("T", "Simulated.", [Part("Scores", table, ["Note."], best={"Dice": [1]})])
    data = [folder / f"{name}.csv", folder / f"{name}.json"]
    document.write(folder / f"{name}.html", folder / f"{name}.md", data=data)
    table.to_csv(data[0], index=False)
    write_json(data[1], {"provenance": {"versions": {"python": "3"}, "git_commit": None, "git_changed": None, "code": "c"}})
    files = [f"{name}.{suffix}" for suffix in ("html", "csv", "md", "json")]
    return IndexExhibit(name, "Table 1: all", "Caption of table 1.\nIt is <short>.", files)


def test_document_page_has_captions_scopes_links_and_best_cells(tmp_path: Path) -> None:
    write_exhibit(tmp_path, "table1")
    page = (tmp_path / "table1.html").read_text(encoding="utf-8")
    assert '<meta name="viewport" content="width=device-width, initial-scale=1">' in page
    assert '<caption class="unseen">Scores</caption>' in page
    assert '<th scope="col">Dice</th>' in page
    assert '<th scope="row">b</th><td class="best">0.7</td>' in page.replace("\n", "")
    assert page.count("Bold: the best value of a column.") == 1
    for name in ("table1.csv", "table1.json", "table1.md"):
        assert f'<a href="{name}">{name}</a>' in page
    assert "**0.7**" in (tmp_path / "table1.md").read_text(encoding="utf-8")


def test_read_document_returns_the_content_with_lower_headings(tmp_path: Path) -> None:
    write_exhibit(tmp_path, "table1")
    content = read_document(tmp_path / "table1.html", 2)
    assert "<h4>Scores</h4>" in content
    assert "<h1>" not in content
    assert "table1.csv" not in content
    assert "&lt;a&gt;" in content


def test_read_document_refuses_a_page_of_another_version(tmp_path: Path) -> None:
    (tmp_path / "table1.html").write_text("<!DOCTYPE html><h1>Table 1</h1><table></table>", encoding="utf-8")
    with pytest.raises(ProblemError, match=r"table1\.html: it was written by another version of this package"):
        read_document(tmp_path / "table1.html", 2)


def test_publish_renames_the_links_of_a_page(tmp_path: Path) -> None:
    write_exhibit(tmp_path, "table1")
    for suffix in ("html", "csv"):
        publish(tmp_path / f"table1.{suffix}", tmp_path / f"held_out.{suffix}")
    page = (tmp_path / "held_out.html").read_text(encoding="utf-8")
    assert 'href="held_out.csv"' in page
    assert 'href="table1' not in page
    assert (tmp_path / "held_out.csv").read_bytes() == (tmp_path / "table1.csv").read_bytes()


def test_index_page_shows_exhibits_and_escapes_their_texts(tmp_path: Path) -> None:
    exhibit = write_exhibit(tmp_path, "table1")
    mask = np.zeros(SHAPE, dtype=bool)
    mask[3, 4, 5] = True
    content = BrowserScan(scan_of(), "d", {"scan": 0}, {"truth": mask}, {}, {}, mask).content(["axial"], 9, embedded)
    browser = {"panels": [{"heading": "FLAIR"}], "toggles": [], "cases": [content], "panel_pixels": 200, "map_colours": []}
    text = IndexText("T & U", "Reproduction of *A <b>*.", "Simulated.")
    page = index_page(tmp_path, text, [exhibit], browser, [])
    assert "<h1>T &amp; U</h1>" in page
    assert "Reproduction of <em>A &lt;b&gt;</em>." in page
    assert "<p>Caption of table 1. It is &lt;short&gt;.</p>" in page
    assert "<h4>Scores</h4>" in page
    assert all(f'<a href="{file}">{file}</a>' in page for file in exhibit.files)
    assert exhibit.alternative_text() == "Table 1: all. Caption of table 1. The numbers are in table1.csv."
    assert "http" not in page


def test_training_numbers_mark_the_selected_step(tmp_path: Path) -> None:
    histories = []
    for network, selected in (("unet", 20), ("denoiser", 10)):
        folder = tmp_path / "d" / "networks" / network / "split-1_seed-2"
        folder.mkdir(parents=True)
        steps = {"step": [10, 20], "loss": [1.0, 0.5], "validation_dice": [np.nan, 0.6], "seconds": [1.0, 2.0], "kl": [3, 4]}
        pd.DataFrame(steps).to_csv(folder / "training.csv", index=False)
        write_json(folder / "model.json", {"selected_step": selected, "settings": {"steps": 2 * selected}})
        histories.append(folder / "training.csv")
    numbers = training_numbers(histories)
    assert numbers["network"].tolist() == ["unet", "unet", "denoiser", "denoiser"]
    assert numbers["selected"].tolist() == [False, True, True, False]
    assert numbers["ends_early"].tolist() == [False, True, False, False]
    assert set(numbers["split"]) == {1}
    assert set(numbers["seed"]) == {2}
    figure = training_curves(numbers, "phantom")
    loss, _, dice, _ = figure.axes
    assert loss.get_title(loc="left") == "unet"
    assert loss.lines[0].get_ydata().tolist() == [1.0, 0.5]
    assert dice.lines[0].get_xydata().tolist() == [[20, 0.6]]
    assert dice.collections[0].get_offsets().tolist() == [[20, 0.6]]
    assert dice.collections[1].get_offsets().tolist() == [[20, 0.6]]
    assert "ended early" in figure.get_suptitle()
    assert len(figure.axes[3].collections) == 1


def test_browser_names_classes_and_their_keys_as_configured(tmp_path: Path) -> None:
    """Names keep their capitals, class 31 has no key, and no class has the colour of the brain."""
    classes = {1: "CSF", 2: "grey matter"} | {label: f"Part {label}" for label in range(3, 32)}
    mask = np.ones(SHAPE, dtype=bool)
    content = BrowserScan(scan_of(), "d", {"scan": 0}, {"class-1": mask}, {}, {}, mask).content(["axial"], 9, embedded)
    toggles = [*class_toggles(classes), Toggle("map", "Uncertainty", "U", None)]
    browser = browser_data([Panel("scan", "T1", "scan")], toggles, [content], 200)
    text = IndexText("T", "R", "S", marked="All classes")
    page = " ".join(index_page(tmp_path, text, [], browser, []).split())
    assert "<kbd>1</kbd> CSF, <kbd>2</kbd> grey matter, <kbd>3</kbd> Part 3, " in page
    assert "<kbd>Z</kbd> Part 30, <kbd>U</kbd> uncertainty, " in page
    assert "<kbd></kbd>" not in page
    assert "Dice next to a method is that of the whole case, averaged over the classes." in page
    assert BRAIN_COLOUR not in COLOURS
