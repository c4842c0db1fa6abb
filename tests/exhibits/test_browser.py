"""The pages in a real browser: headless Chromium, from file:// (about 15 s)."""

import io
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import matplotlib.pyplot as plt
import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from pd_ddpm.data.prepared import read_ground_truth, read_scan
from pd_ddpm.deployment.review_page import review_page
from pd_ddpm.deployment.scan_result import ScanResult
from pd_ddpm.exhibits.document import Document, Part
from pd_ddpm.exhibits.figures import style
from pd_ddpm.exhibits.pages.case_browser import CaseSource, case_browser, case_rows, case_table
from pd_ddpm.exhibits.pages.index import IndexExhibit, IndexText, index_page
from pd_ddpm.inference.cost import Cost
from pd_ddpm.inference.ensemble import Segmentation
from pd_ddpm.runtime.files import write_json

pytestmark = pytest.mark.browser

CHROMIUM = next((path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None)
METHODS = {"unet": "U-Net", "pd-ddpm": "PD-DDPM"}

# Every element with text of its own: contrast to its background (WCAG 2.1, relative luminance), font size and text.
CONTRASTS = """() => {
  const parse = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => {
    const part = [r, g, b].map((v) => v / 255).map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
    return 0.2126 * part[0] + 0.7152 * part[1] + 0.0722 * part[2];
  };
  const background = (element) => {
    for (let one = element; one; one = one.parentElement) {
      const colour = parse(getComputedStyle(one).backgroundColor);
      if (colour.length === 3 || colour[3] === 1) return colour;
    }
    return [255, 255, 255];
  };
  const hasText = (element) => [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
  return [...document.body.querySelectorAll("*")].filter((element) => hasText(element) && element.checkVisibility()
    && !["SCRIPT", "NOSCRIPT", "OPTION"].includes(element.tagName)).map((element) => {
    const [first, second] = [light(parse(getComputedStyle(element).color)), light(background(element))];
    const ratio = (Math.max(first, second) + 0.05) / (Math.min(first, second) + 0.05);
    return [ratio, element.tagName + ": " + element.textContent.trim().slice(0, 40)];
  });
}"""

# Controls, links and pictures without an accessible name.
NAMELESS = """() => {
  const name = (element) => element.getAttribute("aria-label") || element.labels?.[0]?.textContent.trim()
    || element.getAttribute("alt") || element.textContent.trim() || element.querySelector("img")?.alt;
  return [...document.querySelectorAll("a, button, input, select, img, canvas, [role]")]
    .filter((element) => !name(element)).map((element) => element.outerHTML.slice(0, 120));
}"""

# Visible elements that reach beyond the right edge of the window, outside of what scrolls within itself.
OUTSIDE = """() => [...document.querySelectorAll("body *")]
  .filter((element) => !element.closest(".scroll, .skip, .unseen") && element.checkVisibility())
  .filter((element) => element.getBoundingClientRect().right > innerWidth + 1).map((element) => element.outerHTML)"""


STAGE = {"method": "m", "network": "n", "settings": {"segmenter": "dropout", "samples": 3}}
TRAINING = {"dataset": "d", "simulated": True, "cases": 2, "sites": {"s": 2}, "split": 0, "seed": 0}
TRAINING |= {key: [1.0, 2.0] for key in ("in_plane_mm", "slice_distance_mm", "lesion_ml", "brain_ml")}


def write_predictions(results: Path, prepared: Path) -> None:
    """Write masks, maps, manifests and scores of two methods for the cases four and five; one has uncertainty."""
    random = np.random.default_rng(1)
    for method in METHODS:
        folder = results / "d" / "predictions" / method / "split-0_seed-0"
        folder.mkdir(parents=True)
        rows = []
        for number, case in enumerate(("four", "five")):
            truth = nib.load(prepared / f"{case}_mask.nii.gz")
            labels = np.asarray(truth.dataobj) == 1
            mask = np.roll(labels, 2, axis=0).astype(np.uint8)
            nib.save(nib.Nifti1Image(mask, truth.affine), folder / f"{case}_mask.nii.gz")
            variance = (0.2 * random.random(mask.shape) * np.roll(labels, 1, axis=0)).astype(np.float32)
            nib.save(nib.Nifti1Image(variance, truth.affine), folder / f"{case}_uncertainty.nii.gz")
            rows.append({"case": case, "site": "s", "dice": 0.5 + 0.1 * number, "reference_volume_ml": 3.0})
        pd.DataFrame(rows)[["case"]].assign(samples=1 if method == "unet" else 5).to_csv(
            folder / "predictions.csv", index=False
        )
        scores = results / "d" / "scores" / method
        scores.mkdir(parents=True)
        pd.DataFrame(rows).assign(method=method, split=0, seed=0).to_csv(scores / "split-0_seed-0.csv", index=False)


def write_exhibits(results: Path) -> list[IndexExhibit]:
    """Write a wide table, a figure and claims with each verdict."""
    record = {"provenance": {"versions": {"python": "3.11"}, "git_commit": None, "git_changed": None, "code": "c"}}
    wide = pd.DataFrame({f"Column number {index}": ["0.123 ± 0.456"] * 3 for index in range(14)})
    verdicts = ["holds", "does not hold", "undecided at this scale", "not run"]
    claims = pd.DataFrame({"statement": "It is better", "verdict": verdicts, "paper": "Table 1", "detail": "0.8 against 0.7."})
    exhibits = []
    for name, table in (("table1", wide), ("claims", claims)):
        document = Document(name, "Simulated.", [Part("Scores", table, ["A note."])])
        document.write(results / f"{name}.html", results / f"{name}.md")
        table.to_csv(results / f"{name}.csv", index=False)
        exhibits.append(
            IndexExhibit(name, name, "A caption. More.", [f"{name}.{kind}" for kind in ("html", "csv", "md", "json")])
        )
    style.apply()
    figure, axis = plt.subplots()
    axis.plot([0, 1])
    style.save(figure, results / "fig.pdf", results / "fig.png", "Figure 9")
    plt.close(figure)
    exhibits.append(IndexExhibit("fig", "Figure 9", "A caption. More.", ["fig.png", "fig.pdf", "fig.csv", "fig.json"]))
    for exhibit in exhibits:
        write_json(results / f"{exhibit.name}.json", record)
    return exhibits


@pytest.fixture
def index(prepared: Path, tmp_path: Path) -> Path:
    """The index of two test cases, two methods and three exhibits."""
    results = tmp_path / "results"
    results.mkdir()
    write_predictions(results, prepared)
    exhibits = write_exhibits(results)
    runs = [f"{method}/split-0_seed-0" for method in METHODS]
    scores = [f"{results}/d/scores/{run}.csv" for run in runs]
    manifests = [f"{results}/d/predictions/{run}/predictions.csv" for run in runs]
    source = CaseSource(prepared, "FLAIR", manifests, METHODS, max_slices=40)
    rows = case_rows(scores)
    browser = case_browser(source, rows, results / "index_files")
    text = IndexText("Results", "Reproduction of *something*.", "Simulated scans.")
    page = index_page(results, text, exhibits, browser, case_table(rows, METHODS))
    (results / "index.html").write_text(page, encoding="utf-8")
    return results / "index.html"


@pytest.fixture
def review(prepared: Path, tmp_path: Path) -> Path:
    """The review page of one scan with three members, two of which mark the ground truth."""
    scan = read_scan(prepared, "four")
    truth = read_ground_truth(prepared, "four") == 1
    members = np.stack([truth, truth, np.roll(truth, 3, axis=1)], axis=-1).astype(np.float32)
    result = ScanResult(scan, Segmentation.from_members(members), [], Cost())
    description = {"name": "b", "licence": "none", "made_by": "test", "stages": [STAGE], "orientation": "LPS"}
    description |= {"training": TRAINING, "scores": {"cases": 1, "metrics": {}, "sites": {}, "worst": []}}
    description |= {"preparation": {"channels": ["FLAIR", "T1"], "interpolator": "linear", "normalisation": "none"}}
    (tmp_path / "quality.html").write_text(review_page("patient 07", result, description, {"Seed": "0"}), encoding="utf-8")
    return tmp_path / "quality.html"


@pytest.fixture(scope="session")
def chromium() -> Iterator[object]:
    """A headless Chromium, without its sandbox if the user is root, since Chromium then refuses to start.

    It uses no shared memory, of which containers have little.
    """
    if CHROMIUM is None:
        pytest.skip("no Chromium is installed; install Debian's package: bash tests/chromium.sh")
    playwright = pytest.importorskip("playwright.sync_api", reason="the Python package playwright is not installed")
    with playwright.sync_playwright() as started:
        arguments = ["--disable-dev-shm-usage", *(["--no-sandbox"] if os.geteuid() == 0 else [])]
        browser = started.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield browser
        browser.close()


@pytest.fixture
def open_page(chromium) -> Iterator[object]:
    """A function that opens a file in a new window and collects what the page reports and requests."""
    windows = []

    def opened(file: Path, width: int = 1200, scheme: str = "light") -> SimpleNamespace:
        window = chromium.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        window.set_default_timeout(120_000)  # milliseconds, on a busy machine
        windows.append(window)
        messages, requests = [], []
        window.on("console", lambda message: messages.append(message.text))
        window.on("pageerror", lambda error: messages.append(str(error)))
        window.on("requestfailed", lambda request: messages.append(f"failed: {request.url}"))
        window.on("request", lambda request: requests.append(request.url))
        window.goto(file.as_uri())
        window.wait_for_load_state("networkidle")
        return SimpleNamespace(window=window, messages=messages, requests=requests)

    yield opened
    for window in windows:
        window.close()


class Picture:
    """A screenshot of a panel without its rim, which the frame of the focus and fractions of a pixel change."""

    def __init__(self, png: bytes):
        self.pixels = np.asarray(Image.open(io.BytesIO(png)).convert("RGB"), dtype=float)[6:-6, 6:-6]

    def __eq__(self, other: object) -> bool:
        """Return whether fewer than one in 500 pixels differ visibly."""
        if not isinstance(other, Picture) or self.pixels.shape != other.pixels.shape:
            return False
        return (np.abs(self.pixels - other.pixels).max(axis=-1) > 40).mean() < 0.002


def picture(window, panel: int) -> Picture:
    """Return a panel after all drawing is done."""
    window.locator("[data-browser][aria-busy='false']").wait_for()
    return Picture(window.locator(f"[data-panel='{panel}'] canvas").screenshot())


def test_page_loads_its_own_files_only_and_reports_nothing(open_page, index: Path) -> None:
    page = open_page(index)
    for figure in page.window.locator("img").all():
        figure.scroll_into_view_if_needed()
    page.window.wait_for_timeout(200)
    assert page.window.evaluate("[...document.images].every((image) => image.complete && image.naturalWidth > 0)")
    assert page.messages == []
    assert len(page.requests) > 3
    assert all(url.startswith(index.parent.as_uri()) for url in page.requests)


def test_slider_and_keys_change_the_slice(open_page, index: Path) -> None:
    window = open_page(index).window
    slider, output = window.locator("[data-control='slice']"), window.locator("[data-output='slice']")
    before, text = picture(window, 0), output.text_content()
    slider.focus()
    slider.press("ArrowRight")
    assert output.text_content() != text
    moved = picture(window, 0)
    assert moved != before
    window.locator("#browser").focus()
    window.keyboard.press("ArrowLeft")
    assert output.text_content() == text
    assert picture(window, 0) == before
    for _ in range(20):
        window.keyboard.press("ArrowLeft")
    assert output.text_content().startswith("axial 1 of 4 (k = 1 ")  # the brain lies in slices 1 to 4 of 0 to 5
    assert slider.get_attribute("aria-valuetext") == output.text_content()


@pytest.mark.parametrize(("key", "kind"), [("m", "mask"), ("g", "truth"), ("u", "map")])
def test_toggles_and_their_keys_change_the_panel_of_a_method(open_page, index: Path, key: str, kind: str) -> None:
    window = open_page(index).window
    box = window.locator(f"[data-toggle='{kind}']")
    before, is_on = picture(window, 2), box.is_checked()
    box.click()
    changed = picture(window, 2)
    assert changed != before
    assert box.is_checked() != is_on
    label = window.locator("[data-panel='2'] canvas").get_attribute("aria-label")
    assert (box.locator("..").inner_text().split("\n")[0].rsplit(maxsplit=1)[0] in label) == (not is_on)
    window.locator("#browser").focus()
    window.keyboard.press(key)
    assert picture(window, 2) == before
    if kind == "map":  # one member has no uncertainty
        without = picture(window, 1)
        box.click()
        assert picture(window, 1) == without


def test_cases_are_chosen_by_list_buttons_keys_and_table(open_page, index: Path) -> None:
    window = open_page(index).window
    chosen = window.locator("[data-control='case']")
    assert chosen.locator("option").all_text_contents() == ["five: site s, 3.0 ml", "four: site s, 3.0 ml"]
    first = picture(window, 1)
    window.locator("[data-control='next']").click()
    assert chosen.input_value() == "1"
    second = picture(window, 1)
    assert second != first
    assert window.locator("[data-panel='1'] .note").text_content() == "Dice 0.500"
    window.locator("#browser").focus()
    window.keyboard.press("p")
    assert chosen.input_value() == "0"
    assert picture(window, 1) == first
    window.get_by_role("button", name="four").click()
    assert picture(window, 1) == second
    chosen.select_option("0")
    assert picture(window, 1) == first


def test_panels_can_be_hidden_and_enlarged(open_page, index: Path) -> None:
    window = open_page(index).window
    canvas = window.locator("[data-panel='1'] canvas")
    width = canvas.bounding_box()["width"]
    window.locator("#browser").focus()
    for _ in range(12):
        window.keyboard.press("+")
    assert canvas.bounding_box()["width"] > 1.4 * width
    window.get_by_text("Panels", exact=True).click()
    window.get_by_label("U-Net", exact=True).uncheck()
    panels = [window.locator(f"[data-panel='{number}']") for number in range(3)]
    assert [panel.is_visible() for panel in panels] == [True, False, True]
    window.get_by_role("button", name="First only").click()
    assert [panel.is_visible() for panel in panels] == [True, False, False]
    window.get_by_role("button", name="All", exact=True).click()
    assert [panel.is_visible() for panel in panels] == [True, True, True]
    assert window.evaluate("document.querySelector('[data-panel=\"1\"] canvas').width") == round(canvas.bounding_box()["width"])


@pytest.mark.parametrize("width", [420, 1200])
def test_page_does_not_scroll_sideways_but_wide_tables_do(open_page, index: Path, width: int) -> None:
    window = open_page(index, width).window
    assert window.evaluate("document.documentElement.scrollWidth") <= width
    table = window.locator("#table1 .scroll").first
    assert table.evaluate("(element) => element.scrollWidth > element.clientWidth")
    assert window.evaluate(OUTSIDE) == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_page_of_a_table_fits_a_small_screen(open_page, index: Path, scheme: str) -> None:
    page = open_page(index.with_name("table1.html"), 420, scheme)
    window = page.window
    assert window.evaluate("document.documentElement.scrollWidth") <= 420
    assert window.evaluate(OUTSIDE) == []
    assert window.evaluate(NAMELESS) == []
    assert [entry for entry in window.evaluate(CONTRASTS) if entry[0] < 4.5] == []
    assert page.messages == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_have_enough_contrast(open_page, index: Path, scheme: str) -> None:
    window = open_page(index, scheme=scheme).window
    contrasts = window.evaluate(CONTRASTS)
    assert len(contrasts) > 60
    assert [entry for entry in contrasts if entry[0] < 4.5] == []
    is_dark = window.evaluate("getComputedStyle(document.body).backgroundColor") != "rgb(255, 255, 255)"
    assert is_dark == (scheme == "dark")


def test_controls_and_pictures_have_names_and_headings_an_order(open_page, index: Path) -> None:
    window = open_page(index).window
    assert window.evaluate(NAMELESS) == []
    assert window.evaluate("document.documentElement.lang") == "en"
    levels = window.evaluate("[...document.querySelectorAll('h1, h2, h3, h4, h5, h6')].map((one) => Number(one.tagName[1]))")
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert window.evaluate(
        "[...document.querySelectorAll('table')].every((one) => one.caption && one.tHead.rows[0].cells[0].scope)"
    )
    targets = window.evaluate(
        "[...document.querySelectorAll('nav a')].every((a) => document.querySelector(a.getAttribute('href')))"
    )
    assert targets
    identifiers = window.evaluate("[...document.querySelectorAll('[id]')].map((one) => one.id)")
    assert len(identifiers) == len(set(identifiers))


def test_review_page_shows_three_orientations_and_the_slices_of_a_lesion(open_page, review: Path) -> None:
    page = open_page(review)
    window, output = page.window, page.window.locator("[data-output='slice']")
    pictures = []
    for name in ("axial", "coronal", "sagittal"):
        window.get_by_role("radio", name=name).check()
        assert output.text_content().startswith(name)
        pictures.append(picture(window, 1))
    assert pictures[0].pixels.shape != pictures[1].pixels.shape != pictures[2].pixels.shape
    link = window.locator("[data-voxel]").first
    voxel = [int(index) for index in link.get_attribute("data-voxel").split(",")]
    link.click()
    shown = {}
    for name in ("axial", "coronal", "sagittal"):
        window.get_by_role("radio", name=name).check()
        axis, index = re.search(r"\((\w) = (\d+) ", output.text_content()).groups()
        shown[axis] = int(index)
    assert shown == dict(zip("ijk", voxel, strict=True))
    assert page.messages == []
    assert [url for url in page.requests if not url.startswith("data:")] == [review.as_uri()]


def test_review_page_is_accessible_in_the_light_and_in_the_dark(open_page, review: Path) -> None:
    for scheme in ("light", "dark"):
        window = open_page(review, 420, scheme).window
        assert window.evaluate(NAMELESS) == []
        assert [entry for entry in window.evaluate(CONTRASTS) if entry[0] < 4.5] == []
        assert window.evaluate("document.documentElement.scrollWidth") <= 420
        assert window.evaluate(OUTSIDE) == []
    headings = window.locator(".panels figcaption").all_text_contents()
    assert [" ".join(text.split()) for text in headings] == ["FLAIR", "FLAIR with masks", "Uncertainty", "T1"]
