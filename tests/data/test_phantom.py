"""The simulated WMH cohort: layout, reproducibility, geometry, contrast and raters. About 45 s of CPU."""

import json
import re
import shutil
import socket
from dataclasses import asdict, replace

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from scipy.ndimage import binary_dilation, label

from pd_ddpm.data.phantom import (
    acquisition,
    anatomy,
    cohort,
    contrast,
    fields,
    geometry,
    lesions,
    raters,
    template,
    tissues,
    tumours,
)
from pd_ddpm.data.preparation.bias_field import correct_bias
from pd_ddpm.data.preparation.brain_mask import brain_mask

COHORT = cohort.Cohort(cases_per_site=1, seed=5, resolution_mm=2.5, coarsening=2, slice_mm=3, smallest_lesion_ml=0.2)
CASE_FOLDERS = ["Utrecht/0", "Singapore/50", "Amsterdam/GE3T/100"]


@pytest.fixture(scope="session")
def simulated(tmp_path_factory):
    """Simulate one case per scanner while no socket can be opened."""
    folder = tmp_path_factory.mktemp("phantom")

    def refuse(*_):
        raise OSError("the phantom must not use the network")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", refuse)
        patch.setattr(socket, "getaddrinfo", refuse)
        cases = cohort.simulate_cohort(folder, COHORT)
    return folder, cases


def second_rater_path(folder, place):
    return folder / "additional_annotations" / "observer_o3" / "training" / place / "result.nii.gz"


def read_files(folder):
    return {path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def elastix_values(text, key):
    return [float(value) for value in re.search(rf"^\({key} ([^)\n]*)\)$", text, re.MULTILINE).group(1).split()]


def elastix_to_itk(path):
    """Read the file independently, as ITK's Euler transform, whose convention elastix uses."""
    text = path.read_text()
    transform = sitk.Euler3DTransform()
    transform.SetComputeZYX('(ComputeZYX "true")' in text)
    transform.SetCenter(elastix_values(text, "CenterOfRotationPoint"))
    parameters = elastix_values(text, "TransformParameters")
    transform.SetRotation(*parameters[:3])
    transform.SetTranslation(parameters[3:])
    return transform


def mutual_information(first, second, bins=48):
    """Return the normalised mutual information (Studholme 1999): 1 for independent images, 2 for equal ones."""
    joint, _, _ = np.histogram2d(first, second, bins)
    joint /= joint.sum()

    def entropy(p):
        return -np.sum(p[p > 0] * np.log(p[p > 0]))

    return (entropy(joint.sum(0)) + entropy(joint.sum(1))) / entropy(joint)


def test_simulate_cohort_writes_challenge_layout(simulated):
    folder, cases = simulated
    assert cases == [folder / "training" / place for place in CASE_FOLDERS]
    expected = {"orig/3DT1.nii.gz", "orig/reg_3DT1_to_FLAIR.txt", "pre/FLAIR.nii.gz", "wmh.nii.gz", "simulated.json"}
    for case, place in zip(cases, CASE_FOLDERS, strict=True):
        assert {str(path.relative_to(case)) for path in case.rglob("*") if path.is_file()} == expected
        assert second_rater_path(folder, place).is_file()
    assert {path.name for path in folder.iterdir()} == {
        "training",
        "additional_annotations",
        "NOTICE.txt",
        "simulated.json",
    }
    assert not list(folder.rglob("*.partial"))


def test_simulate_cohort_writes_notice_and_summary(simulated):
    folder, _ = simulated
    notice = (folder / "NOTICE.txt").read_text()
    for words in ("Louis Collins", "McConnell Brain Imaging Centre", 'provided "as is"', "Fonov", "2009", "2011"):
        assert words in notice
    assert template.TEMPLATE_FILE in notice
    summary = json.loads((folder / "simulated.json").read_text())
    assert {key: summary[key] for key in asdict(COHORT)} == asdict(COHORT)
    for case, place in zip(summary["cases"], CASE_FOLDERS, strict=True):
        mask = nib.load(folder / "training" / place / "wmh.nii.gz")
        lesion = np.asarray(mask.dataobj) == 1
        assert case["lesion_volume_ml"] == pytest.approx(lesion.sum() * np.prod(mask.header.get_zooms()) / 1e3, rel=1e-3)
        other = np.asarray(nib.load(second_rater_path(folder, place)).dataobj) == 1
        assert case["inter_rater_dice"] == pytest.approx(2 * (lesion & other).sum() / (lesion.sum() + other.sum()), abs=1e-4)
        assert 0.6 <= case["inter_rater_dice"] <= 0.95
        assert case["lesions"] > 3
        assert 0.5 < case["lesion_volume_ml"] < 90


def test_simulated_images_have_scanner_grids(simulated):
    folder, cases = simulated
    expected = {
        0: ((120, 120, 48), (1.92, 1.92, 3), (106, 96, 86)),
        50: ((116, 128, 48), (2, 2, 3), (106, 98, 88)),
        100: ((66, 128, 48), (2.4, 1.96, 3), (106, 95, 85)),
    }
    for case, place in zip(cases, CASE_FOLDERS, strict=True):
        flair, t1, mask = (nib.load(case / name) for name in ("pre/FLAIR.nii.gz", "orig/3DT1.nii.gz", "wmh.nii.gz"))
        shape, spacing, t1_shape = expected[int(case.name)]
        assert (flair.shape, t1.shape) == (shape, t1_shape)
        np.testing.assert_allclose(flair.header.get_zooms(), spacing, rtol=1e-5)
        assert nib.aff2axcodes(flair.affine) == ("L", "P", "S")
        assert nib.aff2axcodes(t1.affine) == ("P", "I", "R")
        np.testing.assert_allclose(t1.header.get_zooms(), 2, rtol=1e-5)
        for image in (flair, t1):
            np.testing.assert_allclose(image.get_qform(), image.get_sform(), atol=1e-3)
            directions = image.affine[:3, :3] / image.header.get_zooms()
            np.testing.assert_allclose(directions.T @ directions, np.eye(3), atol=1e-5)
            assert np.abs(np.abs(directions).max(0) - 1).max() > 1e-5
        tilt = np.abs(flair.affine[:3, :3] / flair.header.get_zooms()).max(0)
        assert np.rad2deg(np.arccos(tilt.min())) > 1
        for labels in (mask, nib.load(second_rater_path(folder, place))):
            assert labels.get_data_dtype() == np.float32
            np.testing.assert_array_equal(labels.affine, flair.affine)
            assert set(np.unique(labels.dataobj)) <= {0.0, 1.0, 2.0}


def test_simulated_lesions_are_bright_on_flair_and_dark_on_t1(simulated):
    _, cases = simulated
    for case in cases:
        flair_itk = sitk.ReadImage(case / "pre" / "FLAIR.nii.gz", sitk.sitkFloat32)
        t1_itk = sitk.ReadImage(case / "orig" / "3DT1.nii.gz", sitk.sitkFloat32)
        resampled = sitk.Resample(t1_itk, flair_itk, elastix_to_itk(case / "orig" / "reg_3DT1_to_FLAIR.txt"))
        flair, t1 = (sitk.GetArrayFromImage(image).T for image in (flair_itk, resampled))
        lesion = np.asarray(nib.load(case / "wmh.nii.gz").dataobj) == 1
        # The surroundings of lesions are mostly white matter.
        near = np.ones((5, 5, 1), bool)
        around = binary_dilation(lesion, near, 2) & ~binary_dilation(lesion, near)
        around &= t1 > 0.8 * np.median(t1[around])
        assert np.median(flair[lesion]) > 1.15 * np.median(flair[around])
        assert np.median(t1[lesion]) < 0.97 * np.median(t1[around])


def test_elastix_transform_aligns_t1_better_than_headers(simulated):
    _, cases = simulated
    for case in cases:
        flair = sitk.ReadImage(case / "pre" / "FLAIR.nii.gz", sitk.sitkFloat32)
        t1 = sitk.ReadImage(case / "orig" / "3DT1.nii.gz", sitk.sitkFloat32)
        registered = elastix_to_itk(case / "orig" / "reg_3DT1_to_FLAIR.txt")
        fixed = sitk.GetArrayFromImage(flair)
        head = fixed > 0.3 * np.percentile(fixed, 98)
        scores = [
            mutual_information(fixed[head], sitk.GetArrayFromImage(sitk.Resample(t1, flair, transform))[head])
            for transform in (registered, sitk.Euler3DTransform(), registered.GetInverse())
        ]
        assert scores[0] > scores[1] + 0.003
        assert scores[0] > scores[2] + 0.003


def test_elastix_transform_describes_fixed_image(simulated):
    _, cases = simulated
    for case in cases:
        text = (case / "orig" / "reg_3DT1_to_FLAIR.txt").read_text()
        assert '(Transform "EulerTransform")' in text
        assert elastix_values(text, "NumberOfParameters") == [6]
        flair = sitk.ReadImage(case / "pre" / "FLAIR.nii.gz")
        assert elastix_values(text, "Size") == list(flair.GetSize())
        np.testing.assert_allclose(elastix_values(text, "Spacing"), flair.GetSpacing(), rtol=1e-5)
        np.testing.assert_allclose(elastix_values(text, "Origin"), flair.GetOrigin(), atol=1e-3)
        direction = np.reshape(elastix_values(text, "Direction"), (3, 3)).T
        np.testing.assert_allclose(direction, np.reshape(flair.GetDirection(), (3, 3)), atol=1e-5)
        angles, translation = np.split(np.array(elastix_values(text, "TransformParameters")), 2)
        assert 0.6 < np.rad2deg(np.linalg.norm(angles)) < 2.4
        assert 0.4 < np.linalg.norm(translation) < 3.6


@pytest.mark.workflow  # simulates the cohort again
def test_simulate_cohort_is_equal_with_two_processes_and_after_interruption(simulated, tmp_path, monkeypatch):
    folder, cases = simulated
    copy = tmp_path / "copy"
    cohort.simulate_cohort(copy, COHORT, processes=2)
    assert read_files(copy) == read_files(folder)

    # After a killed run, one case is unfinished and there is no summary. Only that case is simulated again.
    shutil.rmtree(copy / "training" / "Singapore" / "50")
    (copy / "training" / "Singapore" / ".50.partial" / "orig").mkdir(parents=True)
    (copy / "simulated.json").unlink()
    simulated_cases = []
    simulate = cohort._simulate_case
    monkeypatch.setattr(cohort, "_simulate_case", lambda *arguments: (simulated_cases.append(arguments), simulate(*arguments)))
    cohort.simulate_cohort(copy, COHORT)
    assert [case.number for _, case in simulated_cases] == [50]
    assert read_files(copy) == read_files(folder)
    cohort.simulate_cohort(copy, COHORT)
    assert len(simulated_cases) == 1

    # Other settings lead to another person.
    other = replace(COHORT, seed=COHORT.seed + 1).cases()[1]
    assert cohort._read_summary(copy, other) is None
    simulate(copy, other)
    assert cohort._read_summary(copy, other)["seed"] == COHORT.seed + 1
    for name in ("pre/FLAIR.nii.gz", "wmh.nii.gz", "orig/3DT1.nii.gz"):
        assert (copy / "training/Singapore/50" / name).read_bytes() != (cases[1] / name).read_bytes()


def test_simulate_cohort_rejects_bad_settings_and_foreign_cases(simulated, tmp_path):
    folder, _ = simulated
    for key, value in (
        ("cases_per_site", 0),
        ("cases_per_site", 51),
        ("resolution_mm", 9.0),
        ("coarsening", 0.5),
        ("slice_mm", 9.0),
        ("smallest_lesion_ml", 0.0),
        ("seed", -1),
        ("labels", "organs"),
    ):
        with pytest.raises(ValueError, match=key):
            replace(COHORT, **{key: value})
    with pytest.raises(ValueError, match="processes"):
        cohort.simulate_cohort(tmp_path, COHORT, processes=0)
    left_over = tmp_path / "training" / "Utrecht" / "7"
    left_over.mkdir(parents=True)
    shutil.copy(folder / "training" / "Utrecht" / "0" / "wmh.nii.gz", left_over)
    with pytest.raises(ValueError, match="not part of this cohort"):
        cohort.simulate_cohort(tmp_path, COHORT)


def test_labels_of_tissues_change_masks_and_no_scan(simulated, tmp_path):
    _, (lesion_case, *_) = simulated
    case = replace(COHORT, labels="tissues").cases()[0]
    cohort._simulate_case(tmp_path, case)
    tissue_case = tmp_path / case.relative_folder
    for name in ("pre/FLAIR.nii.gz", "orig/3DT1.nii.gz", "orig/reg_3DT1_to_FLAIR.txt"):
        assert (tissue_case / name).read_bytes() == (lesion_case / name).read_bytes()
    flair, outlines, labels = (
        np.asarray(nib.load(path).dataobj)
        for path in (tissue_case / "pre/FLAIR.nii.gz", lesion_case / "wmh.nii.gz", tissue_case / "wmh.nii.gz")
    )
    assert set(np.unique(labels)) == {0, *tissues.TISSUES.values()}
    np.testing.assert_array_equal(labels[outlines != 2] == 4, outlines[outlines != 2] == 1)
    median = [np.median(flair[labels == label]) for label in range(5)]
    # FLAIR suppresses fluid, grey matter is brighter than white matter, and lesions are brightest.
    assert median[1] < 0.6 * median[3] < 0.6 * median[2] < 0.6 * median[4]
    second = np.asarray(nib.load(second_rater_path(tmp_path, "Utrecht/0")).dataobj)
    healthy = (labels != 4) & (second != 4)
    np.testing.assert_array_equal(labels[healthy], second[healthy])


def test_label_tissues_has_largest_fraction_below_the_outlines():
    # Voxels: outside, each tissue, a lesion in grey matter, the scar and the cavity of an infarct.
    fluid, grey, white = np.array(
        [[0.1, 0.8, 0.3, 0.0, 0.3, 0.2, 0.9], [0.2, 0.1, 0.6, 0.4, 0.7, 0.1, 0.0], [0.1, 0.1, 0.1, 0.6, 0.0, 0.1, 0.0]]
    )
    outlines = np.array([0, 0, 0, 0, 1, 2, 2])
    np.testing.assert_array_equal(tissues.label_tissues([fluid, grey, white], outlines), [0, 1, 2, 3, 4, 4, 1])


def test_sample_lesions_has_requested_load(simulated):
    person = anatomy.sample_anatomy(template.build_template_maps(), np.random.default_rng(1), COHORT.resolution_mm)
    voxel_ml = COHORT.resolution_mm**3 / 1e3
    volumes = [
        lesions.sample_lesions(person, load, 0.03, np.random.default_rng(2)).white_matter.sum() * voxel_ml
        for load in (3.0, 12.0, 40.0)
    ]
    np.testing.assert_allclose(volumes, [3, 12, 40], rtol=0.35)
    tissues = person["grey"] + person["white"] + person["fluid"]
    assert tissues.max() < 1.01
    assert person["white"].sum() * voxel_ml == pytest.approx(480, rel=0.4)
    assert person["grey"].sum() * voxel_ml == pytest.approx(650, rel=0.4)


def test_sample_tumour_is_one_mass_with_a_dark_centre_that_raters_agree_on():
    head = anatomy.sample_anatomy(template.build_template_maps(), np.random.default_rng(3), 4)
    voxel_ml = np.prod(head.lattice.spacing) / 1e3
    for seed, volume_ml in enumerate((20, 50, 110)):
        tumour = tumours.sample_tumour(head, volume_ml, np.random.default_rng(seed))
        assert 0.5 * volume_ml < tumour.white_matter.sum() * voxel_ml < 1.5 * volume_ml
        assert tumour.white_matter.min() >= 0
        assert np.all(tumour.white_matter <= np.clip(head["grey"] + head["white"], 0, 1))
        brightness = tumour.contrast[tumour.white_matter > 0.95] / tumour.white_matter[tumour.white_matter > 0.95]
        assert brightness.min() < tumours.SOLID[0]  # necrosis
        assert brightness.max() > 0.8
        outlines = [
            raters.outline(tumour.visible(), tumour.infarct, head.lattice.spacing, 1, np.random.default_rng(rater))
            for rater in (1, 2)
        ]
        sizes = np.bincount(label(outlines[0], np.ones((3, 3, 3)))[0].ravel())[1:]
        assert sizes.max() > 0.95 * sizes.sum()
        assert 2 * np.sum(outlines[0] * outlines[1]) / np.sum(outlines[0] + outlines[1]) > 0.85


def test_pathology_changes_lesions_and_no_anatomy(tmp_path):
    folders = [tmp_path / pathology for pathology in ("white_matter_lesions", "tumours")]
    for folder in folders:
        settings = replace(COHORT, cases_per_site=1, resolution_mm=4, coarsening=4, slice_mm=8, pathology=folder.name)
        cohort._simulate_case(folder, settings.cases()[0])
    (first, second) = (next(folder.glob("training/**/wmh.nii.gz")).parent for folder in folders)
    masks = [nib.load(case / "wmh.nii.gz") for case in (first, second)]
    np.testing.assert_array_equal(masks[0].affine, masks[1].affine)
    labels = [np.asarray(mask.dataobj) for mask in masks]
    assert np.sum(labels[1] == 1) > 0
    assert not np.any(labels[1] == 2)
    assert 2 * np.sum((labels[0] == 1) & (labels[1] == 1)) < 0.5 * np.sum((labels[0] == 1) | (labels[1] == 1))
    healthy = (labels[0] == 0) & (labels[1] == 0)
    signals = [np.asarray(nib.load(case / "pre" / "FLAIR.nii.gz").dataobj)[healthy] for case in (first, second)]
    assert np.corrcoef(*signals)[0, 1] > 0.95


def test_maps_of_the_brain_are_not_needed_far_from_it(monkeypatch):
    def signals():
        random = np.random.default_rng(9)
        person = anatomy.sample_anatomy(template.build_template_maps(), random, COHORT.resolution_mm)
        sampled = lesions.sample_lesions(person, 20.0, 0.2, random)
        compositions = (contrast.compose_flair, contrast.compose_t1)
        return [sampled.visible(), *(compose(person, sampled, acquisition.SCANNERS[0], random) for compose in compositions)]

    near_brain = signals()
    monkeypatch.setattr(anatomy, "BRAIN_MARGIN_MM", np.inf)
    for restricted, complete in zip(near_brain, signals(), strict=True):
        np.testing.assert_array_equal(restricted, complete)


def test_coarsened_scanner_keeps_its_fields_of_view():
    for scanner in acquisition.SCANNERS:
        assert scanner.coarsened(1, 3) == scanner
        for factor, slice_mm in ((1.5, 3), (2, 5), (3, 4)):
            coarse = scanner.coarsened(factor, slice_mm)
            np.testing.assert_allclose(coarse.flair_spacing[:2], np.array(scanner.flair_spacing[:2]) * factor)
            assert coarse.flair_spacing[2] == slice_mm
            assert coarse.t1_voxel_mm == factor
            excess = np.array(coarse.flair_shape) * coarse.flair_spacing - np.array(scanner.flair_shape) * scanner.flair_spacing
            assert (excess > -1e-6).all()
            assert (excess < coarse.flair_spacing).all()
            excess = np.array(coarse.t1_shape) * factor - scanner.t1_shape
            assert (excess >= 0).all()
            assert (excess < factor).all()


def test_deep_volumes_start_at_the_smallest_lesion_and_add_up_to_the_load():
    random = np.random.default_rng(6)
    for smallest in (0.03, 0.2):
        for total in (1.0, 4.0, 12.0):
            samples = [lesions._deep_volumes(total, smallest, random) for _ in range(200)]
            assert min(volumes.min() for volumes in samples) > 1e3 * smallest
            assert max(volumes.max() for volumes in samples) <= 3000
            # The last lesion exceeds the total by less than its own volume; a low load still has four lesions.
            for volumes in samples:
                assert len(volumes) in (4, 60) or volumes[:-1].sum() <= 1e3 * total <= volumes.sum()
            # Median of a shifted log-normal distribution. The last volume of a case is biased towards large ones.
            excess = np.concatenate([volumes[:-1] for volumes in samples]) - 1e3 * smallest
            assert np.median(excess) == pytest.approx(45 * max(total / 3, 0.8) ** 0.5, rel=0.15)


def test_without_islands_keeps_large_lesions_and_their_borders():
    lattice = fields.Lattice((40, 24, 24), (0.0, 0.0, 0.0), (2.0, 2.0, 2.0))
    x, y, z = lattice.axes()

    def ball(centre_mm, radius):
        return fields.sigmoid((radius - np.sqrt((x - centre_mm) ** 2 + (y - 24) ** 2 + (z - 24) ** 2)) / 0.8)

    large, small = ball(20, 7.0), ball(60, 3.0)  # 1.4 ml and 0.11 ml
    lesion = np.maximum(large, small)
    filtered = lesions._without_islands(lesion, lattice, 0.3)
    near = large > 0.1
    np.testing.assert_allclose(filtered[near], large[near], rtol=1e-3)
    assert filtered[25:].max() == 0
    np.testing.assert_allclose(lesions._without_islands(lesion, lattice, 0.05)[small > 0.1], small[small > 0.1], rtol=1e-3)


def test_lesion_loads_are_log_normal_over_ids():
    loads = [cohort._volume_ml(case) for case in replace(COHORT, cases_per_site=20).cases()]
    assert np.median(loads) == pytest.approx(lesions.MEDIAN_LOAD_ML, rel=0.1)
    assert np.std(np.log(loads)) == pytest.approx(lesions.LOG_LOAD_SD, rel=0.15)


def test_random_field_has_unit_variance_and_requested_length():
    random = np.random.default_rng(3)
    grid = fields.Lattice((60, 50, 40), (0.0, 0.0, 0.0), (1.0, 2.0, 3.0))
    many = np.stack([fields.random_field(random, grid, 6.0) for _ in range(60)])
    assert many.shape == (60, 60, 50, 40)
    assert many.dtype == np.float32
    np.testing.assert_allclose(many.var(axis=0).mean(), 1, rtol=0.05)
    assert abs(many.mean()) < 0.02
    # A cubic B-spline of white coefficients correlates like the spline of degree seven: 1191/2416 one knot away.
    assert np.corrcoef(many[:, :-6].ravel(), many[:, 6:].ravel())[0, 1] == pytest.approx(1191 / 2416, abs=0.02)
    assert np.corrcoef(many[:, :-24].ravel(), many[:, 24:].ravel())[0, 1] == pytest.approx(0, abs=0.02)
    loose = fields.random_field(random, grid, (6.0, 6.0, 0.0))
    assert abs(np.corrcoef(loose[..., :-1].ravel(), loose[..., 1:].ravel())[0, 1]) < 0.05


def test_rigid_motion_equals_itk():
    motion = geometry.RigidMotion((0.02, -0.03, 0.025), (1.5, -2.0, 0.7), (3.0, -12.0, 30.0))
    transform = sitk.Euler3DTransform()
    transform.SetCenter(motion.centre)
    transform.SetRotation(*motion.angles)
    transform.SetTranslation(motion.translation)
    point = np.array([40.0, 25.0, -18.0])
    expected = geometry.LPS[:3, :3] @ transform.TransformPoint(geometry.LPS[:3, :3] @ point)
    np.testing.assert_allclose((motion.matrix() @ [*point, 1])[:3], expected, atol=1e-9)


def test_sample_motion_estimate_is_off_by_a_third_of_a_millimetre():
    random = np.random.default_rng(8)
    scanner = acquisition.SCANNERS[0]
    points = np.concatenate([random.uniform(-60, 60, (200, 3)), np.ones((200, 1))], axis=1)
    errors = []
    for _ in range(20):
        affine = geometry.flair_geometry(scanner, random)
        true, estimated = geometry.sample_motion(affine, scanner.flair_shape, random)
        errors.append(np.linalg.norm(points @ (true.matrix() - estimated.matrix()).T, axis=1).mean())
    assert 0.15 < np.mean(errors) < 0.45


def test_headers_store_scan_geometry_exactly(tmp_path):
    random = np.random.default_rng(11)
    for scanner in acquisition.SCANNERS * 40:
        flair_affine = geometry.flair_geometry(scanner, random)
        motion, _ = geometry.sample_motion(flair_affine, scanner.flair_shape, random)
        for affine in (flair_affine, motion.matrix() @ geometry.t1_geometry(scanner, random)):
            cohort._save(tmp_path / "image.nii.gz", np.zeros((2, 2, 2), np.uint8), affine)
            image = nib.load(tmp_path / "image.nii.gz")
            for stored in (image.get_qform(), image.get_sform()):
                corner = [*scanner.flair_shape, 1]
                np.testing.assert_allclose(stored @ corner, affine @ corner, atol=5e-4)


def test_resample_equals_itk():
    random = np.random.default_rng(4)
    lattice = fields.Lattice((40, 36, 30), (-30.0, -25.0, -20.0), (1.5, 1.5, 1.5))
    volume = fields.random_field(random, lattice, 8.0)
    scanner = replace(acquisition.SCANNERS[0], flair_shape=(18, 16, 6), flair_spacing=(1.0, 1.2, 3.0))
    affine = geometry.flair_geometry(scanner, random)
    affine[:3, 3] += -affine[:3, :3] @ [8.5, 7.5, 2.5] - affine[:3, 3] + [0.0, 1.0, 2.0]

    image = sitk.GetImageFromArray(volume.T)
    image.SetSpacing(lattice.spacing)
    image.SetOrigin(lattice.origin)
    # The volume's axes serve as ITK's world axes, so that handedness does not change.
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    resampled = sitk.Resample(
        image,
        scanner.flair_shape,
        sitk.Transform(),
        sitk.sitkLinear,
        affine[:3, 3].tolist(),
        spacing.tolist(),
        (affine[:3, :3] / spacing).ravel().tolist(),
    )
    found = acquisition.resample(volume, lattice, affine, scanner.flair_shape)
    assert np.abs(found).min() > 0
    np.testing.assert_allclose(found, sitk.GetArrayFromImage(resampled).T, atol=1e-4)
    thick = acquisition.resample(volume, lattice, affine, scanner.flair_shape, acquisition.SLAB_OFFSETS)
    assert thick.std() < found.std()


def test_outlines_of_raters_differ_at_border_only():
    x, y, z = np.meshgrid(*[np.arange(40) - 20.0] * 2, np.arange(12) - 6.0, indexing="ij")
    depth = 12 - np.sqrt(x**2 + y**2 + (3 * z) ** 2)
    lesion = fields.sigmoid(depth / 1.2).astype(np.float32)
    infarct = np.zeros_like(lesion)
    infarct[:4] = 1
    first, second = (raters.outline(lesion, infarct, (1.0, 1.0, 3.0), 0.003, np.random.default_rng(seed)) for seed in (1, 2))
    assert first.dtype == np.uint8
    assert not np.array_equal(first, second)
    for labels in (first, second):
        assert (labels[:4] == 2).all()
        assert (labels[depth > 3] == 1).all()
        assert (labels[4:][depth[4:] < -3] == 0).all()


def test_outline_leaves_out_fragments_of_the_smallest_lesion():
    lesion = np.zeros((60, 60, 8), np.float32)
    lesion[10:14, 10:14, 4] = 1  # 48 mm3
    lesion[30:35, 30:35, 4] = 1  # 75 mm3
    infarct = np.zeros_like(lesion)
    for seed in range(8):
        labels = raters.outline(lesion, infarct, (1.0, 1.0, 3.0), 0.2, np.random.default_rng(seed))
        assert not labels[10:14, 10:14].any()
        assert (labels[30:35, 30:35, 4] == 1).all()


def test_outline_misses_some_small_lesions():
    lesion = np.zeros((60, 60, 20), np.float32)
    lesion[5:55:5, 5:55:5, 5:15:5] = 1
    infarct = np.zeros_like(lesion)
    seen = [
        (raters.outline(lesion, infarct, (1.0, 1.0, 3.0), 0.003, np.random.default_rng(seed)) == 1).sum() for seed in range(8)
    ]
    assert np.mean(seen) / (lesion == 1).sum() == pytest.approx(1 - raters.MISS_PROBABILITY, abs=0.04)


@pytest.mark.workflow  # N4 takes seconds
def test_n4_removes_a_known_smooth_bias_of_the_phantom(simulated):
    """The phantom has a field of its own, so what N4 makes of it without the known field is the reference."""
    _, (case, *_) = simulated
    flair = nib.load(case / "pre/FLAIR.nii.gz")
    volume, spacing = np.asarray(flair.dataobj).astype(np.float32), flair.header.get_zooms()
    brain = brain_mask(volume, flair.affine)
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, size) for size in volume.shape), indexing="ij", sparse=True)
    log_field = 0.3 * x - 0.2 * y**2 + 0.15 * y * z + 0.2 * x * y
    shaded = (volume * np.exp(log_field)).astype(np.float32)
    reference, corrected = (correct_bias(image, brain, spacing)[brain & (volume > 0)] for image in (volume, shaded))
    added = log_field[brain].std()
    assert added > 0.08
    assert np.log(corrected / reference).std() < 0.1 * added
