"""Bytes to pixels: formats, odd files, damage."""

import ast
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from places import ROOT

from datamodules.images.decode import check, decode, decode_whole, shrink, square_at


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    buffer = BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bit_gray_keeps_its_upper_bits(kind: str) -> None:
    gray = np.linspace(0, 65535, 256).round().astype(np.uint16).reshape(16, 16)
    pixels = decode(encoded(Image.fromarray(gray), kind), 16)
    assert (pixels == (gray >> 8)[None]).all()  # Pillow's own conversion: white above 255


def test_float_pixels_are_refused_by_the_scan_as_well() -> None:
    raw = encoded(Image.fromarray(np.ones((8, 8), np.float32)), "TIFF")
    for read in (check, lambda data: decode(data, 8)):
        with pytest.raises(OSError, match="floating-point pixels"):
            read(raw)
    raw = encoded(Image.fromarray(np.ones((8, 8), np.int32)), "TIFF")
    with pytest.raises(OSError, match="32-bit pixels"):
        decode(raw, 8)


def test_pixels_are_taken_as_they_are_stored() -> None:
    exif = Image.Exif()
    exif[0x112] = 6  # "turn by a quarter": not carried out
    upper = np.zeros((40, 40, 3), np.uint8)
    upper[:20] = 255
    turned = decode(encoded(Image.fromarray(upper), "JPEG", exif=exif), 16)
    assert turned[0, 2].min() > 200
    assert turned[0, 13].max() < 50
    clear = Image.new("RGBA", (9, 9), (255, 0, 0, 0))  # transparency is dropped
    assert decode(encoded(clear, "PNG"), 4)[:, 0, 0].tolist() == [255, 0, 0]
    frames = [Image.new("RGB", (9, 9), color) for color in ("red", "blue")]
    moving = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert decode(moving, 4)[:, 0, 0].tolist() == [255, 0, 0]  # the first frame


def test_decompression_bomb(monkeypatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    raw = encoded(Image.new("L", (20, 20)), "PNG")
    for read in (check, lambda data: decode(data, 8)):
        with pytest.raises(OSError, match="decompression bomb"):
            read(raw)


def test_any_error_of_a_plugin_is_a_bad_image(monkeypatch) -> None:
    """Pillow's TIFF plugin, for one, raises TypeError for some damaged files."""

    def fail(*_, **options):
        raise TypeError("'float' object cannot be interpreted as an integer")

    monkeypatch.setattr(Image, "open", fail)
    for read in (check, lambda data: decode(data, 8)):
        with pytest.raises(OSError, match="damaged image: 'float' object"):
            read(b"")


def test_shrinking_keeps_the_upper_bits_of_a_gray() -> None:
    """As decoding does; Pillow's own conversion makes everything above 255 white."""
    gray = np.full((40, 40), 128 << 8, np.uint16)
    with Image.open(BytesIO(shrink(encoded(Image.fromarray(gray), "PNG"), 20))) as small:
        assert small.size == (20, 20)
        assert abs(int(np.array(small).mean()) - 128) <= 1


def test_decoding_crops_the_center_and_keeps_the_rest(tmp_path: Path) -> None:
    image = Image.new("RGB", (300, 100), "red")
    image.paste("blue", (100, 0, 200, 100))
    for name in ("a.png", "a.jpg", "a.bmp"):
        image.save(tmp_path / name)
        pixels = torch.from_numpy(decode((tmp_path / name).read_bytes(), 20))
        assert pixels.shape == (3, 20, 20)
        assert pixels[:, 10, 10].tolist()[2] > 240
        assert int((pixels[2] > 200).sum()) >= 360  # the middle third, whole
    for mode in ("L", "RGBA", "P", "CMYK", "I;16"):
        name = tmp_path / ("m.tif" if mode == "I;16" else "m.jpg" if mode == "CMYK" else "m.png")
        Image.new(mode, (9, 7)).save(name)
        assert decode(name.read_bytes(), 6).shape == (3, 6, 6)


def test_jpeg_in_draft_mode_is_close_to_a_full_decode(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    low = torch.rand(1, 3, 12, 16, generator=generator)
    smooth = torch.nn.functional.interpolate(low, size=(480, 640), mode="bicubic").clamp(0, 1)
    array = (smooth[0].permute(1, 2, 0) * 255).to(torch.uint8).numpy()
    Image.fromarray(array).save(tmp_path / "a.jpg", quality=95)
    Image.fromarray(array).save(tmp_path / "a.png")
    fast = torch.from_numpy(decode((tmp_path / "a.jpg").read_bytes(), 64)).float()
    full = torch.from_numpy(decode((tmp_path / "a.png").read_bytes(), 64)).float()
    assert float((fast - full).abs().mean()) < 1.5


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("side", [10, 60])  # decoded by Pillow, by torchvision
def test_whole_images_are_upright(orientation: int, side: int) -> None:
    pixels = np.zeros((40, 80, 3), np.uint8)
    pixels[:20, :40], pixels[:20, 40:], pixels[20:, :40] = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    exif = Image.Exif()
    exif[0x112] = orientation
    raw = encoded(Image.fromarray(pixels), "JPEG", exif=exif, quality=95)
    found = decode_whole(raw, side)
    upright = ImageOps.exif_transpose(Image.open(BytesIO(raw)))
    expected = upright.resize(found.shape[:0:-1], Image.Resampling.BICUBIC)
    assert min(found.shape[1:]) == side
    off = np.abs(found.transpose(1, 2, 0).astype(int) - np.asarray(expected).astype(int))
    assert off.mean() < 8  # another resize; a wrong turn is off by 60


def test_damaged_exif_does_not_hide_an_image() -> None:
    raw = encoded(Image.new("RGB", (20, 10), "red"), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    assert decode_whole(raw, 5).shape == (3, 5, 10)


def test_squares_lie_anywhere_on_the_longer_side() -> None:
    ramp = np.broadcast_to(np.arange(90, dtype=np.uint8), (30, 90))
    wide = decode_whole(encoded(Image.fromarray(ramp), "PNG"), 30)
    assert wide.shape == (3, 30, 90)
    first = [int(square_at(wide, 30, place)[0, 0, 0]) for place in (0.0, 0.5, 1 - 2**-24)]
    assert first == [0, 30, 60]
    tall = square_at(wide.transpose(0, 2, 1), 30, 1 - 2**-24)
    assert tall.shape == (3, 30, 30)
    assert int(tall[0, 0, 0]) == 60
    thread = decode_whole(encoded(Image.new("L", (1000, 2)), "PNG"), 4)
    assert thread.shape == (3, 4, 64)  # at most 16 times as long as wide


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "I;16"])
def test_whole_images_of_any_mode(mode: str, recwarn) -> None:
    kind = "JPEG" if mode in ("CMYK", "YCbCr") else "PNG"
    base = Image.new("RGB", (30, 20), (200, 100, 50))
    image = Image.new("I;16", (30, 20), 51400) if mode == "I;16" else base.convert(mode)
    found = decode_whole(encoded(image, kind), 10)
    assert found.shape == (3, 10, 15)
    if mode in ("RGB", "RGBA", "CMYK", "YCbCr"):
        assert np.abs(found[:, 5, 5].astype(int) - (200, 100, 50)).max() < 12
    if mode == "I;16":
        assert found[0, 5, 5] == 200
    assert not recwarn.list


@pytest.mark.parametrize("kind", ["EPS", "PCX", "TGA"])
def test_formats_without_a_name_here_are_not_tried(kind: str) -> None:
    raw = encoded(Image.new("RGB", (8, 8)), kind)  # under the name of a .png
    for read in (check, lambda data: decode(data, 8), lambda data: shrink(data, 4)):
        with pytest.raises(OSError, match="cannot identify"):
            read(raw)


def test_every_image_is_opened_by_named_formats() -> None:
    """In the whole product: without ``formats``, Pillow tries all of its decoders."""
    paths = [p for name in ("bcl", "cacr", "datamodules") for p in (ROOT / name).rglob("*.py")]
    calls = [
        node
        for path in paths
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("Image.open")
    ]
    assert calls
    assert all("formats" in [word.arg for word in call.keywords] for call in calls)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "WEBP", "PPM", "TIFF", "GIF", "MPO"])
def test_formats_with_a_name_are_read(kind: str) -> None:
    assert decode(encoded(Image.new("RGB", (8, 8)), kind), 8).shape == (3, 8, 8)
