"""Images: every kind of damaged file is refused, and geometry survives writing. About 1 s."""

import gzip
import io
import os
import tracemalloc

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from pd_ddpm.data.nifti.geometry import ImageError, check_same_grid, spacing_mm
from pd_ddpm.data.nifti.read import read_array, read_image, read_labels
from pd_ddpm.data.nifti.write import PROBABILITY_SLOPE, write_image

AFFINE = np.array([[-0.96, 0.02, 0.1, 110.0], [-0.02, -0.95, 0.3, 120.0], [0.04, 0.1, 2.98, -60.0], [0, 0, 0, 1]])


def orthogonal(affine: np.ndarray) -> np.ndarray:
    """The nearest affine without shear."""
    left, _, right = np.linalg.svd(affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0))
    result = affine.copy()
    result[:3, :3] = left @ right * np.linalg.norm(affine[:3, :3], axis=0)
    return result


AFFINE = orthogonal(AFFINE)


def random_array(shape=(7, 6, 5), seed=0) -> np.ndarray:
    return np.random.default_rng(seed).normal(100, 20, shape).astype(np.float32)


def image_of(array: np.ndarray, affine: np.ndarray = AFFINE, qform: int = 1, sform: int = 2) -> nib.Nifti1Image:
    image = nib.Nifti1Image(array, affine)
    image.set_qform(affine, qform)
    image.set_sform(affine, sform)
    image.header.set_xyzt_units("mm", "sec")
    return image


def save(path, array: np.ndarray, **keywords):
    nib.save(image_of(array, **keywords), path)
    return path


def edited_header(path, **fields):
    """Write an image with the given header fields, without nibabel's checks."""
    content = bytearray(image_of(random_array()).to_bytes())
    header = nib.Nifti1Header.from_fileobj(io.BytesIO(bytes(content)), check=False)
    for name, value in fields.items():
        header[name] = value
    content[:348] = header.binaryblock
    path.write_bytes(gzip.compress(bytes(content)))
    return path


def test_read_image_returns_what_was_written(tmp_path):
    array = random_array()
    for name, klass in (("one.nii.gz", nib.Nifti1Image), ("two.nii", nib.Nifti1Image), ("three.nii.gz", nib.Nifti2Image)):
        nib.save(klass(array, AFFINE), tmp_path / name)
        image = read_image(tmp_path / name)
        np.testing.assert_array_equal(np.asarray(image.dataobj), array)
        np.testing.assert_allclose(image.affine, AFFINE, atol=1e-5)
        np.testing.assert_array_equal(read_array(tmp_path / name), array)


def test_read_image_applies_the_stored_slope(tmp_path):
    image = image_of(np.arange(60, dtype=np.int16).reshape(3, 4, 5))
    image.header.set_slope_inter(0.5, 10)
    nib.save(image, tmp_path / "scaled.nii.gz")
    np.testing.assert_allclose(read_array(tmp_path / "scaled.nii.gz"), np.arange(60).reshape(3, 4, 5) * 0.5 + 10)


def test_read_image_refuses_missing_empty_and_misnamed_files(tmp_path):
    with pytest.raises(ImageError, match=r"absent\.nii\.gz: the file does not exist\. Correct"):
        read_image(tmp_path / "absent.nii.gz")
    (tmp_path / "empty.nii.gz").write_bytes(b"")
    with pytest.raises(ImageError, match=r"empty\.nii\.gz: the file is empty\. Delete"):
        read_image(tmp_path / "empty.nii.gz")
    with pytest.raises(ImageError, match="ends in neither"):
        read_image(tmp_path / "scan.mha")


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
def test_read_image_refuses_a_truncated_gzip_stream(tmp_path, share):
    path = save(tmp_path / "scan.nii.gz", random_array((20, 20, 10)))
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(ImageError, match=r"scan\.nii\.gz: the gzip stream ends early, so the file is truncated\. Fetch"):
        read_image(path)


def test_read_image_refuses_a_gzip_stream_without_checksum(tmp_path):
    path = save(tmp_path / "scan.nii.gz", random_array())
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(ImageError, match="truncated"):
        read_image(path)


def test_read_image_refuses_any_flipped_bit(tmp_path):
    path = save(tmp_path / "scan.nii.gz", random_array((12, 12, 6)))
    content = path.read_bytes()
    generator = np.random.default_rng(0)
    # The first ten bytes are gzip's own header, whose time stamp and name carry no data.
    start = content.index(b"\x00", 10) + 1
    for position in generator.integers(start, len(content), 200):
        damaged = bytearray(content)
        damaged[position] ^= 1 << int(generator.integers(8))
        path.write_bytes(damaged)
        with pytest.raises(ImageError, match=r"damaged|truncated"):
            read_image(path)


@pytest.mark.parametrize(
    ("content", "finding"),
    [
        (b"\n<!DOCTYPE html><html>503 Service Unavailable</html>", "is a web page"),
        (b"<html><body>login</body></html>", "is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "is a Git LFS pointer"),
        (b"abc", "is not compressed with gzip"),
        (image_of(random_array()).to_bytes(), r"is NIfTI without compression\. Rename it to scan\.nii"),
        (gzip.compress(b"not an image" * 100, mtime=0), "has no NIfTI header"),
        (gzip.compress(b"", mtime=0), "has no NIfTI header"),
    ],
)
def test_read_image_refuses_content_of_another_type(tmp_path, content, finding):
    path = tmp_path / "scan.nii.gz"
    path.write_bytes(content)
    with pytest.raises(ImageError, match=rf"scan\.nii\.gz: {finding}"):
        read_image(path)


def test_read_image_refuses_a_compressed_file_named_nii(tmp_path):
    path = tmp_path / "scan.nii"
    path.write_bytes(gzip.compress(image_of(random_array()).to_bytes()))
    with pytest.raises(ImageError, match=r"Rename it to scan\.nii\.gz"):
        read_image(path)


def test_read_image_refuses_a_file_with_a_twin(tmp_path):
    save(tmp_path / "scan.nii.gz", random_array())
    save(tmp_path / "scan.nii", random_array(seed=1))
    for name in ("scan.nii", "scan.nii.gz"):
        with pytest.raises(ImageError, match="lies next to it"):
            read_image(tmp_path / name)


@pytest.mark.parametrize("change", [-4, 4, 400])
def test_read_image_refuses_a_size_other_than_the_headers(tmp_path, change):
    content = image_of(random_array()).to_bytes()
    path = tmp_path / "scan.nii.gz"
    path.write_bytes(gzip.compress(content[:change] if change < 0 else content + b"\0" * change))
    with pytest.raises(ImageError, match=r"holds (more than )?\d+ bytes, but its header"):
        read_image(path)


@pytest.mark.parametrize(
    ("fields", "finding"),
    [
        ({"pixdim": [1, 0, 1, 1, 1, 1, 1, 1]}, "has no spacing"),
        ({"pixdim": [1, 1, np.nan, 1, 1, 1, 1, 1]}, "has no spacing"),
        ({"qform_code": 0, "sform_code": 0}, "has no spacing and orientation"),
        ({"qoffset_x": 5.0}, "qform and sform differ by up to"),
        ({"srow_x": [0, 0, 0, 1]}, "sform is not an invertible affine"),
        ({"qform_code": 0, "srow_x": [1, 0.9, 0, 1]}, "differ by up to"),
        ({"qform_code": 0, "pixdim": [1, 2, 2, 3, 1, 1, 1, 1]}, r"voxel sizes .* and affine differ"),
        ({"xyzt_units": 1}, "unit of length is the metre"),
        ({"xyzt_units": 7}, r"unit of length \(code 7\) that NIfTI does not have\. Set xyzt_units to 2"),
        ({"pixdim": [1, -1, 1, 1, 1, 1, 1, 1]}, r"voxel sizes \[-1, 1, 1\] are negative.* Set pixdim to the absolute values"),
        ({"quatern_c": 1.2}, r"quaternion has the length 1\.\d+, so it is not a rotation\. Set the qform to the sform"),
        ({"scl_slope": 2, "scl_inter": np.nan}, "scales the voxels by 2 and adds nan"),
        ({"sform_code": 7}, r"its sform_code is 7, which NIfTI does not have\. Set it to 1"),
        ({"qform_code": -1}, "its qform_code is -1, which NIfTI does not have"),
        ({"vox_offset": np.inf}, "places the voxels at byte inf"),
        ({"datatype": 128}, "voxels are of type"),
        ({"dim": [4, 3000, 3000, 3000, 300, 1, 1, 1]}, "more than any scan of a head"),
        ({"dim": [3, 7, -6, 5, 1, 1, 1, 1]}, "has the invalid dimensions"),
        ({"datatype": 999}, r"names a voxel type \(999\)"),
    ],
)
def test_read_image_refuses_unusable_geometry(tmp_path, fields, finding):
    with pytest.raises(ImageError, match=finding):
        read_image(edited_header(tmp_path / "scan.nii.gz", **fields))


def test_read_image_refuses_sheared_axes(tmp_path):
    affine = np.diag([1.0, 1.0, 3.0, 1.0])
    affine[0, 1], affine[1, 1] = np.sin(0.1), np.cos(0.1)
    image = nib.Nifti1Image(random_array(), None)
    image.header["pixdim"][1:4] = 1, 1, 3
    image.header.set_sform(affine, 1)
    nib.save(image, tmp_path / "scan.nii.gz")
    with pytest.raises(ImageError, match="not perpendicular"):
        read_image(tmp_path / "scan.nii.gz")


@pytest.mark.parametrize(("qform", "sform"), [(1, 0), (0, 1), (1, 2), (4, 4)])
def test_read_image_accepts_a_single_form_code(tmp_path, qform, sform):
    path = save(tmp_path / "scan.nii.gz", random_array(), qform=qform, sform=sform)
    np.testing.assert_allclose(read_image(path).affine, AFFINE, atol=1e-4)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_read_image_counts_and_locates_non_finite_voxels(tmp_path, bad):
    array = random_array()
    array[3, 2, 1] = array[4, 0, 0] = bad
    path = save(tmp_path / "scan.nii.gz", array)
    with pytest.raises(ImageError, match=r"2 voxels are NaN or infinite, the first at \(3, 2, 1\)"):
        read_image(path)


def test_read_image_refuses_constant_scans_but_not_constant_masks(tmp_path):
    path = save(tmp_path / "scan.nii.gz", np.full((4, 4, 4), 7, np.float32))
    with pytest.raises(ImageError, match="every voxel is 7"):
        read_image(path)
    empty = save(tmp_path / "mask.nii.gz", np.zeros((4, 4, 4), np.uint8))
    assert not read_image(empty, mask=True).get_fdata().any()


def test_read_image_allows_a_fourth_dimension_on_request_only(tmp_path):
    array = random_array((4, 5, 6, 1))
    image = read_image(save(tmp_path / "one.nii.gz", array))
    np.testing.assert_array_equal(np.asarray(image.dataobj), array[..., 0])
    np.testing.assert_allclose(image.affine, AFFINE, atol=1e-5)
    path = save(tmp_path / "two.nii.gz", random_array((4, 5, 6, 2)))
    with pytest.raises(ImageError, match=r"has the shape \(4, 5, 6, 2\), but a 3D image is needed"):
        read_image(path)
    assert read_image(path, allow_4d=True).shape == (4, 5, 6, 2)
    with pytest.raises(ImageError, match="a 3D image is needed"):
        read_image(save(tmp_path / "flat.nii.gz", random_array((4, 5))))


def test_read_image_refuses_complex_voxels(tmp_path):
    path = save(tmp_path / "scan.nii.gz", random_array().astype(np.complex64))
    with pytest.raises(ImageError, match="type complex64"):
        read_image(path)


def test_read_labels_rounds_and_keeps_label_2(tmp_path):
    labels = np.random.default_rng(0).integers(0, 3, (5, 5, 5))
    noisy = np.where(labels == 1, 0.9999999, labels).astype(np.float32) + np.float32(4e-4) * (labels == 2)
    read, image = read_labels(save(tmp_path / "mask.nii.gz", noisy))
    assert read.dtype == np.uint8
    assert image.shape == labels.shape
    np.testing.assert_array_equal(read, labels)


@pytest.mark.parametrize("value", [3, 255, 0.4999, -1, 1.01])
def test_read_labels_lists_invalid_values(tmp_path, value):
    array = np.zeros((4, 4, 4), np.float32)
    array[0, 0, :2] = 1
    array[1, 1, :3] = value
    path = save(tmp_path / "mask.nii.gz", array)
    with pytest.raises(ImageError, match=rf"mask\.nii\.gz: 3 voxels hold {value}, but a mask may hold only 0"):
        read_labels(path)


@pytest.mark.parametrize("codes", [(1, 0), (0, 1), (1, 1), (1, 4), (3, 2)])
def test_write_image_copies_the_geometry_of_the_reference(tmp_path, codes):
    template = image_of(random_array(), qform=codes[0], sform=codes[1])
    template.header["descrip"] = b"JANE DOE"
    nib.save(template, tmp_path / "template.nii.gz")
    template = read_image(tmp_path / "template.nii.gz")
    for shape in ((7, 6, 5), (7, 6, 5, 2)):
        write_image(tmp_path / "out.nii.gz", random_array(shape), reference=template)
        written = nib.load(tmp_path / "out.nii.gz")
        np.testing.assert_array_equal(written.affine, template.affine)
        assert (int(written.header["qform_code"]), int(written.header["sform_code"])) == codes
        assert written.header.get_zooms()[:3] == template.header.get_zooms()[:3]
        assert written.header.get_xyzt_units() == ("mm", "sec")
        assert written.header["descrip"] == b""
        np.testing.assert_array_equal(np.asarray(written.dataobj), random_array(shape))
        itk = sitk.ReadImage(str(tmp_path / "out.nii.gz"))
        np.testing.assert_allclose(itk.GetSpacing()[:3], spacing_mm(template), rtol=1e-5)
        np.testing.assert_allclose(itk.GetOrigin()[:3], template.affine[:3, 3] * [-1, -1, 1], atol=1e-4)


def test_write_image_writes_the_same_bytes_twice(tmp_path):
    template = image_of(random_array())
    (tmp_path / "elsewhere").mkdir()
    for path in (tmp_path / "a.nii.gz", tmp_path / "elsewhere/b.nii.gz"):
        write_image(path, random_array(), reference=template)
    content = (tmp_path / "a.nii.gz").read_bytes()
    assert content == (tmp_path / "elsewhere/b.nii.gz").read_bytes()
    assert content[3:8] == bytes(5)  # no name, no comment, time 0
    write_image(tmp_path / "a.nii.gz", random_array(seed=1), reference=template)
    assert content != (tmp_path / "a.nii.gz").read_bytes()


def test_write_image_stores_probabilities_in_one_byte(tmp_path):
    template = image_of(random_array((16, 16, 1)))
    levels = (np.arange(256) / 255).reshape(16, 16, 1)
    path = tmp_path / "samples.nii.gz"
    write_image(path, levels, reference=template, dtype=np.uint8, slope=PROBABILITY_SLOPE)
    image = nib.load(path)
    np.testing.assert_array_equal(np.asarray(image.dataobj.get_unscaled()).ravel(), np.arange(256))
    for read in (
        image.get_fdata(),
        read_array(path),
        sitk.GetArrayFromImage(sitk.ReadImage(str(path), sitk.sitkFloat64)).T,
    ):
        np.testing.assert_allclose(read, levels, atol=2e-7)
        assert read.max() <= 1
        assert read.min() == 0
    write_image(path, read_array(path), reference=template, dtype=np.uint8, slope=PROBABILITY_SLOPE)
    np.testing.assert_array_equal(np.asarray(nib.load(path).dataobj.get_unscaled()).ravel(), np.arange(256))


def test_write_image_stores_labels_without_scaling(tmp_path):
    labels = np.random.default_rng(0).integers(0, 3, (7, 6, 5)).astype(np.uint8)
    scaled = image_of(random_array())
    scaled.header.set_slope_inter(3, 10)
    write_image(tmp_path / "mask.nii.gz", labels, reference=scaled, dtype=np.uint8)
    np.testing.assert_array_equal(np.asarray(nib.load(tmp_path / "mask.nii.gz").dataobj), labels)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "mask.nii.gz"))).T, labels)


@pytest.mark.parametrize(
    ("array", "keywords", "finding"),
    [
        (np.full((7, 6, 5), 300), {"dtype": np.uint8}, "do not fit uint8"),
        (np.full((7, 6, 5), 0.5), {"dtype": np.uint8}, "fractions cannot be stored"),
        (np.full((7, 6, 5), 1.1), {"dtype": np.uint8, "slope": PROBABILITY_SLOPE}, "do not fit uint8"),
        (np.full((7, 6, 5), np.nan), {"dtype": np.uint8, "slope": PROBABILITY_SLOPE}, "do not fit uint8"),
        (np.full((7, 6, 5), np.nan), {}, "holds NaN or infinite values"),
        (np.zeros((6, 7, 5)), {}, r"shape \(6, 7, 5\) does not fit the grid \(7, 6, 5\)"),
    ],
)
def test_write_image_refuses_unsuitable_arrays(tmp_path, array, keywords, finding):
    with pytest.raises(ImageError, match=finding):
        write_image(tmp_path / "out.nii.gz", array, reference=image_of(random_array()), **keywords)
    with pytest.raises(ImageError, match=r"ends in \.nii\.gz"):
        write_image(tmp_path / "out.nii", array, reference=image_of(random_array()), **keywords)
    assert not list(tmp_path.iterdir())


def test_write_image_keeps_the_old_file_when_interrupted(tmp_path, monkeypatch):
    template = image_of(random_array())
    write_image(tmp_path / "out.nii.gz", random_array(), reference=template)
    before = (tmp_path / "out.nii.gz").read_bytes()
    seen = []

    def full_disk(descriptor: int) -> None:
        seen.extend(tmp_path.iterdir())
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="no space"):
        write_image(tmp_path / "out.nii.gz", random_array(seed=1), reference=template)
    assert len(seen) == 2
    assert all(path.name.endswith(".nii.gz") for path in seen)
    assert list(tmp_path.iterdir()) == [tmp_path / "out.nii.gz"]
    assert (tmp_path / "out.nii.gz").read_bytes() == before


def test_spacing_mm_follows_the_array_axes():
    assert spacing_mm(nib.Nifti1Image(random_array(), np.diag([-0.9583333, -1.2, 3.0, 1]))) == (0.958333, 1.2, 3.0)
    np.testing.assert_allclose(spacing_mm(image_of(random_array())), np.linalg.norm(AFFINE[:3, :3], axis=0), atol=1e-6)


def test_check_same_grid_reports_shape_and_affine():
    a = image_of(random_array())
    noisy = AFFINE + np.random.default_rng(0).uniform(-2e-5, 2e-5, (4, 4)) * [[1], [1], [1], [0]]
    check_same_grid(a, image_of(random_array(), affine=noisy), ("flair", "mask"))
    check_same_grid(a, image_of(random_array((7, 6, 5, 2))), ("flair", "mask"))
    with pytest.raises(ImageError, match=r"m\.nii: its shape \(6, 7, 5\) differs from \(7, 6, 5\) of f\.nii"):
        check_same_grid(a, image_of(random_array((6, 7, 5))), ("f.nii", "m.nii"))
    shifted = AFFINE.copy()
    shifted[:3, 3] += [0, 3, 4]
    with pytest.raises(ImageError, match=r"m\.nii: its affine differs from that of f\.nii and puts .* up to 5 mm apart"):
        check_same_grid(a, image_of(random_array(), affine=shifted), ("f.nii", "m.nii"))


def test_check_same_grid_judges_the_corners_in_fractions_of_a_voxel():
    """A rotation by 0.9 mrad about a corner moves the opposite one, 400 mm away, by 0.36 mm; a tenth of a voxel is 0.1 mm."""
    a = nib.Nifti1Image(np.zeros((401, 4, 4), np.uint8), np.eye(4))
    affine = np.eye(4)
    affine[1, 0] = 0.0009
    with pytest.raises(ImageError, match=r"up to 0\.36 mm apart, more than 0\.1 of the shortest voxel side \(1 mm\)"):
        check_same_grid(a, nib.Nifti1Image(np.zeros((401, 4, 4), np.uint8), affine), ("f", "m"))
    for offset, is_same in ((0.002, True), (0.099, True), (0.101, False)):
        b = nib.Nifti1Image(np.zeros((401, 4, 4), np.uint8), np.eye(4) + np.eye(4, k=3) * offset)
        if is_same:
            check_same_grid(a, b, ("f", "m"))
        else:
            with pytest.raises(ImageError, match="affine differs"):
                check_same_grid(a, b, ("f", "m"))
        with pytest.raises(ImageError, match="affine differs"):
            check_same_grid(a, b, ("f", "m"), tolerance_voxels=0.001)


@pytest.mark.parametrize("qfac", [0, np.nan, 3])
def test_read_image_reads_any_positive_or_missing_qfac_as_1(tmp_path, qfac):
    """nifti1.h: if pixdim[0] is 0, the value to use is 1."""
    affine = np.diag([2.0, 2.0, 3.0, 1.0])
    content = bytearray(image_of(random_array(), affine=affine, sform=0).to_bytes())
    header = nib.Nifti1Header.from_fileobj(io.BytesIO(content), check=False)
    header["pixdim"][0] = qfac
    content[:348] = header.binaryblock
    (tmp_path / "scan.nii").write_bytes(content)
    image = read_image(tmp_path / "scan.nii")
    np.testing.assert_allclose(image.affine, affine)
    np.testing.assert_allclose(image.header.get_qform(), affine)


@pytest.mark.parametrize("excess", [2e-7, 1e-5, 5e-4])
@pytest.mark.parametrize("sform", [0, 1])
def test_read_image_normalises_a_quaternion_longer_than_1(tmp_path, excess, sform):
    """A turn by 180 degrees about y has the quaternion (0, 0, 1, 0)."""
    affine = np.diag([-2.0, 2.0, -2.0, 1.0])
    content = bytearray(image_of(random_array(), affine=affine, sform=sform).to_bytes())
    header = nib.Nifti1Header.from_fileobj(io.BytesIO(content), check=False)
    header["quatern_b"], header["quatern_c"], header["quatern_d"] = 0, 1 + excess, 0
    content[:348] = header.binaryblock
    (tmp_path / "scan.nii").write_bytes(content)
    image = read_image(tmp_path / "scan.nii")
    np.testing.assert_allclose(image.affine, affine, atol=1e-6)
    write_image(tmp_path / "out.nii.gz", np.asarray(image.dataobj), image)
    np.testing.assert_allclose(nib.load(tmp_path / "out.nii.gz").affine, affine, atol=1e-6)


@pytest.mark.parametrize(("factor", "unit"), [(1e-3, "metres"), (1e3, "micrometres")])
def test_read_image_refuses_voxel_sizes_in_another_unit(tmp_path, factor, unit):
    path = save(tmp_path / "scan.nii.gz", random_array(), affine=AFFINE @ np.diag([factor] * 3 + [1]))
    with pytest.raises(ImageError, match=rf"but seem to be {unit}\. (Multiply|Divide) voxel sizes and affine by 1000"):
        read_image(path)


@pytest.mark.parametrize("name", ["FLAIR.NII.GZ", "FLAIR.Nii.gz", "FLAIR.NII"])
def test_read_image_ignores_the_case_of_the_ending(tmp_path, name):
    content = image_of(random_array()).to_bytes()
    (tmp_path / name).write_bytes(gzip.compress(content) if name.lower().endswith(".gz") else content)
    np.testing.assert_array_equal(read_array(tmp_path / name), random_array())


@pytest.mark.parametrize("values", [(0, 1), (0, 255), (0, 1, 2), (-1.5, 3)])
def test_read_image_refuses_a_mask_in_place_of_a_scan(tmp_path, values):
    array = np.random.default_rng(0).choice(values, (6, 6, 6)).astype(np.float32)
    path = save(tmp_path / "scan.nii.gz", array)
    with pytest.raises(ImageError, match=r"holds no other values than .*, so it is a mask and not a scan\. Enter the scan"):
        read_image(path)
    np.testing.assert_array_equal(read_array(path, mask=True), array)


def test_read_image_refuses_a_scaling_beyond_double_precision(tmp_path):
    content = bytearray(nib.Nifti1Image(np.full((4, 4, 4), 1e300), np.eye(4)).to_bytes())
    content[112:116] = np.float32(1e30).tobytes()  # scl_slope
    (tmp_path / "scan.nii").write_bytes(content)
    with pytest.raises(ImageError, match="64 voxels are NaN or infinite"):
        read_image(tmp_path / "scan.nii")


@pytest.mark.parametrize(
    ("content", "finding"),
    [
        (b"/annex/objects/MD5E-s123--0123456789abcdef.nii.gz\n", r"is a pointer of git-annex.* Run `datalad get"),
        (b"../../.git/annex/objects/Xk/1z/MD5E-s1--0.nii.gz/MD5E-s1--0.nii.gz", r"is a pointer of git-annex"),
        (b"version https://git-lfs.github.com/spec/v1\n", r"is a Git LFS pointer.* Run `git lfs pull`"),
        (b"PK\x03\x04" + bytes(600), "is a zip archive"),
        (b"BZh9" + bytes(600), "is compressed with bzip2"),
        (bytes(128) + b"DICM" + bytes(600), r"is a DICOM file.* `dcm2niix"),
    ],
)
@pytest.mark.parametrize("name", ["scan.nii", "scan.nii.gz"])
def test_read_image_names_the_kind_of_foreign_content(tmp_path, name, content, finding):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ImageError, match=finding):
        read_image(tmp_path / name)


def test_read_image_names_the_target_of_a_dangling_link(tmp_path):
    annexed, moved = tmp_path / "annexed.nii.gz", tmp_path / "moved.nii.gz"
    annexed.symlink_to(".git/annex/objects/aa/bb/MD5E-s1--0.nii.gz/MD5E-s1--0.nii.gz")
    moved.symlink_to("/elsewhere/scan.nii.gz")
    (tmp_path / "site").symlink_to("/not/mounted")
    (tmp_path / "folder.nii.gz").mkdir()
    for path, finding in (
        (annexed, r"annexed\.nii\.gz: its content has not been fetched \(a link of git-annex\)\. Run `datalad get .*annexed"),
        (moved, r"is a link to a missing file \(/elsewhere/scan\.nii\.gz\)\. Fetch the target, or correct the link"),
        (tmp_path / "site" / "scan.nii.gz", r"site is a link to a missing file \(/not/mounted\)"),
        (tmp_path / "folder.nii.gz", "is a folder, but a file is needed"),
    ):
        with pytest.raises(ImageError, match=finding):
            read_image(path)


def test_read_image_compressed_twice_is_refused(tmp_path):
    (tmp_path / "scan.nii.gz").write_bytes(gzip.compress(gzip.compress(random_array((20, 20, 20)).tobytes())))
    with pytest.raises(ImageError, match=r"compressed with gzip twice\. Decompress it once"):
        read_image(tmp_path / "scan.nii.gz")


def refuse_within_10_mb(path, words):
    tracemalloc.start()
    try:
        with pytest.raises(ImageError, match=words):
            read_image(path)
        assert tracemalloc.get_traced_memory()[1] < 10e6
    finally:
        tracemalloc.stop()


def test_read_image_stops_a_gzip_bomb_at_the_size_of_its_header(tmp_path):
    """0.3 MB of gzip expand to 300 MB behind a header that implies 1 kB. Reading takes two chunks of 1 MB."""
    path = tmp_path / "bomb.nii.gz"
    content = image_of(random_array()).to_bytes()
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(content)
        for _ in range(300):
            file.write(bytes(1 << 20))
    refuse_within_10_mb(path, rf"holds more than {len(content)} bytes, but its header")


def test_read_image_allocates_no_more_than_the_file_holds(tmp_path):
    """A header that claims 2 GB in front of 1 kB."""
    path = edited_header(tmp_path / "scan.nii.gz", dim=[3, 800, 800, 800, 1, 1, 1, 1])
    refuse_within_10_mb(path, r"holds \d+ bytes, but its header \(shape \(800, 800, 800\)")
