"""Test that stored web images are those that a browser shows, and that they contain no metadata."""

import io
import tarfile

import numpy as np
import pytest
from PIL import Image, ImageDraw, PngImagePlugin

from babyvlm.curation.ingest.image_validation import InvalidSampleError, validate_image
from babyvlm.curation.ingest.web import web
from babyvlm.curation.store.pair_store import PairStore
from babyvlm.io.images import open_rgb, rgb_pixels
from support.hostile_web import add_member

SECRET = b"GPS SECRET PLACE"


def house(width=160, height=240):
    image = Image.new("RGB", (width, height), (90, 160, 230))
    ImageDraw.Draw(image).rectangle([0, height * 0.7, width, height], fill=(60, 140, 60))
    return image


def encode(image, kind="JPEG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def exif(orientation=None):
    """Return EXIF data with a place, and an orientation."""
    data = Image.Exif()
    if orientation:
        data[0x0112] = orientation
    data[0x010E] = SECRET.decode()  # description
    data.get_ifd(0x8825)[29] = SECRET.decode()  # GPS date stamp
    return data


def assert_similar(image, expected, tolerance=6):
    assert image.size == expected.size
    assert np.abs(np.asarray(image.convert("RGB"), int) - np.asarray(expected, int)).mean() < tolerance


TRANSPOSED = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


@pytest.mark.parametrize("orientation", TRANSPOSED)
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
def test_validate_image_applies_exif_orientation(orientation, kind):
    stored_as = house().transpose(TRANSPOSED[orientation])
    content = encode(stored_as, kind, exif=exif(orientation))
    for image_size in (0, 80):
        stored = validate_image(content, image_size)
        size = (80, 120) if image_size else (160, 240)
        assert_similar(Image.open(io.BytesIO(stored)), house(*size))
        assert Image.open(io.BytesIO(stored)).getexif().get(0x0112, 1) == 1
        assert SECRET not in stored
    if kind in ("TIFF", "AVIF"):
        return
    assert_similar(open_rgb(content), house())  # also in a benchmark, or a store of an earlier version
    assert np.array_equal(rgb_pixels(content), np.asarray(open_rgb(content)))


def test_validate_image_applies_orientation_of_large_image():
    noise = np.random.default_rng(0).integers(-40, 40, (1200, 1800, 3))
    pixels = np.asarray(house(1200, 1800).transpose(Image.Transpose.ROTATE_90), int) + noise
    content = encode(Image.fromarray(pixels.clip(0, 255).astype(np.uint8)), quality=92, exif=exif(6))
    assert len(content) > 1 << 20
    assert_similar(Image.open(io.BytesIO(validate_image(content))), house(512, 768), tolerance=20)


@pytest.mark.parametrize(
    "kind", ["RGBA PNG", "LA PNG", "palette PNG", "RGBA WEBP", "palette GIF", "RGBA AVIF", "large PNG"]
)
def test_validate_image_lays_transparent_image_over_white(kind):
    mode, image_format = kind.split()
    side = 1200 if mode == "large" else 200
    image = Image.new("RGBA", (side, side), (0, 0, 0, 0))
    ImageDraw.Draw(image).rectangle([side // 4, side // 4, 3 * side // 4, 3 * side // 4], fill=(220, 40, 40, 255))
    options = {"lossless": True} if image_format == "WEBP" else {}
    if mode == "palette":
        image = image.convert("RGB").quantize(8)
        options["transparency"] = image.getpixel((0, 0))
    elif mode == "LA":
        image = image.convert("LA")
    elif mode == "large":
        noise = np.random.default_rng(0).integers(0, 9, (side, side, 4))
        pixels = np.asarray(image, int) + noise * (np.asarray(image)[..., 3:] > 0)
        image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
    content = encode(image, image_format, **options)
    for stored in (Image.open(io.BytesIO(validate_image(content))).convert("RGB"), open_rgb(content)):
        assert min(stored.getpixel((3, 3))) >= 250
        red, _, _ = stored.getpixel((stored.width // 2, stored.height // 2))
        assert red < 240


def test_validate_image_composites_partly_transparent_pixels():
    content = encode(Image.new("RGBA", (32, 32), (0, 0, 0, 128)), "PNG")
    assert open_rgb(content).getpixel((5, 5)) == pytest.approx((127, 127, 127), abs=1)


def with_comment(content):
    comment = b"\xff\xfe" + (len(SECRET) + 2).to_bytes(2, "big") + SECRET
    return content[:2] + comment + content[2:]


def png_text():
    info = PngImagePlugin.PngInfo()
    info.add_itxt("XML:com.adobe.xmp", SECRET.decode())
    info.add_text("Comment", SECRET.decode())
    return info


XMP = b"<x:xmpmeta>" + SECRET + b"</x:xmpmeta>"
METADATA = {
    "JPEG, EXIF": lambda: encode(house(), exif=exif()),
    "JPEG, XMP": lambda: encode(house(), xmp=XMP),
    "JPEG, comment": lambda: with_comment(encode(house())),
    "JPEG, appended video": lambda: encode(house()) + b"ftypmp42" + SECRET,
    "JPEG, progressive": lambda: encode(house(), progressive=True, exif=exif()),
    "JPEG, grayscale": lambda: encode(house().convert("L"), exif=exif()),
    "JPEG, CMYK": lambda: encode(house().convert("CMYK"), exif=exif()),
    "MPO": lambda: encode(house(), "MPO", save_all=True, append_images=[house()], exif=exif()),
    "PNG, EXIF": lambda: encode(house(), "PNG", exif=exif()),
    "PNG, text": lambda: encode(house(), "PNG", pnginfo=png_text()),
    "PNG, appended": lambda: encode(house(), "PNG") + SECRET,
    "WebP, EXIF and XMP": lambda: encode(house(), "WEBP", exif=exif(), xmp=XMP),
    "WebP, lossless": lambda: encode(house(), "WEBP", exif=exif(), lossless=True),
    "TIFF": lambda: encode(house(), "TIFF", exif=exif()),
    "AVIF": lambda: encode(house(), "AVIF", exif=exif()),
}


@pytest.mark.parametrize("kind", METADATA)
def test_validate_image_removes_metadata_and_keeps_pixels(kind):
    content = METADATA[kind]()
    assert SECRET in content
    stored = validate_image(content)
    assert SECRET not in stored
    image = Image.open(io.BytesIO(stored))
    assert not image.getexif()
    if "TIFF" in kind or "AVIF" in kind:
        assert_similar(image, house())
    else:
        assert np.array_equal(np.asarray(open_rgb(stored)), np.asarray(open_rgb(content)))
    assert validate_image(stored) == stored
    assert SECRET not in validate_image(content, 80)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("options", [{}, {"icc_profile": b"profile"}, {"progressive": True}])
def test_validate_image_keeps_bytes_without_metadata(kind, options):
    content = encode(house(), kind, **options)
    assert validate_image(content) == content


@pytest.mark.parametrize("kind", ["AVIF", "GIF", "BMP", "TIFF"])
def test_validate_image_converts_other_formats(kind):
    options = {"save_all": True, "append_images": [Image.new("RGB", (160, 240))]} if kind == "GIF" else {}
    stored = Image.open(io.BytesIO(validate_image(encode(house(), kind, **options))))
    assert stored.format == "JPEG"
    assert_similar(stored, house())


def test_validate_image_rejects_pixels_of_unknown_range():
    content = encode(Image.fromarray(np.linspace(0, 1, 400, dtype=np.float32).reshape(20, 20)), "TIFF")
    with pytest.raises(InvalidSampleError, match="32-bit pixels"):
        validate_image(content)


def test_web_reads_all_formats_of_tars(tmp_path):
    caption = b"a house on the grass"
    members = []
    for name, suffix, kind in (
        ("gif", ".gif", "GIF"),
        ("avif", ".avif", "AVIF"),
        ("misnamed", ".jpg", "GIF"),
        ("bmp", ".bmp", "BMP"),
        ("tiff", ".tiff", "TIFF"),
        ("upper", ".JPG", "JPEG"),
        ("bare", "", "JPEG"),
    ):
        members += [(f"{name}{suffix}", encode(house(), kind)), (f"{name}.txt", caption)]
    members += [
        ("phone.heic", b"x"),
        ("phone.txt", caption),
        ("none.txt", caption),
        ("none.json", b"{}"),
    ]
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for name, content in members:
            add_member(tar, name, content)
    web([tmp_path / "a.tar"], tmp_path / "store", num_workers=1)
    store = PairStore(tmp_path / "store")
    assert len(store) == 7
    assert store.manifest["funnel"]["dropped"] == {"image format is not supported (.heic)": 1, "image missing": 1}
    for row in store.rows():
        assert_similar(open_rgb(row["image"]), house())
