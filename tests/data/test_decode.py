"""Decoding against Pillow, and what must never be decoded."""

import io
import struct
import zlib

import cv2
import numpy as np
import pytest
import simplejpeg
from PIL import Image, ImageOps

from vit_jax.data import decode as module
from vit_jax.data.decode import EncodedImage, UnreadableImage, decode
from vit_jax.data.image_header import read_header
from vit_jax.errors import UserError


def picture(height=60, width=90):
    """Smooth colours without any symmetry, so that a wrong orientation or channel order shows."""
    coarse = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)
    return Image.fromarray(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC))


def encoded(image, format, **options):
    options = {"JPEG": {"quality": 95}, "PNG": {}, "WEBP": {"lossless": True, "exact": True}}[format] | options
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def assert_same_pixels(decoded, reference, tolerance=0):
    assert decoded.dtype == np.uint8 and decoded.flags.c_contiguous
    reference = np.asarray(reference.convert("RGB"))
    assert decoded.shape == reference.shape
    assert np.abs(decoded.astype(int) - reference).max() <= tolerance


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
def test_colour_and_grey(format):
    for mode in ("RGB", "L"):
        data = encoded(picture().convert(mode), format)
        assert_same_pixels(decode(data), Image.open(io.BytesIO(data)))


def test_from_a_path_whatever_its_suffix(tmp_path):
    path = tmp_path / "really a png.JPG"
    path.write_bytes(encoded(picture(), "PNG"))
    assert_same_pixels(decode(path), picture())
    assert_same_pixels(decode(str(path)), picture())


def test_cmyk():
    data = encoded(picture().convert("CMYK"), "JPEG")
    # The two libraries round ink differently, and nothing more.
    assert_same_pixels(decode(data), Image.open(io.BytesIO(data)), tolerance=2)


def test_progressive_jpeg():
    data = encoded(picture(), "JPEG", progressive=True)
    assert_same_pixels(decode(data), Image.open(io.BytesIO(data)))


@pytest.mark.parametrize("format", ["PNG", "WEBP"])
def test_alpha_is_put_on_white(format):
    image = picture().convert("RGBA")
    image.putalpha(Image.fromarray(np.tile(np.linspace(0, 255, 90).astype(np.uint8), (60, 1))))
    white = Image.new("RGBA", image.size, "white")
    white.alpha_composite(image)
    assert_same_pixels(decode(encoded(image, format)), white, tolerance=1)


def test_grey_with_alpha():
    image = picture().convert("LA")
    image.putalpha(0)
    assert (decode(encoded(image, "PNG")) == 255).all()


def test_palette():
    image = picture().quantize(16)
    assert_same_pixels(decode(encoded(image, "PNG")), image)
    transparent = encoded(image, "PNG", transparency=bytes([0] * 16))
    assert (decode(transparent) == 255).all()


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_the_transparent_level_of_a_grey_png_is_white(bits):
    most = 2**bits - 1
    levels = (np.arange(16).reshape(2, 8) * max(1, most // 16) % (most + 1)).astype(np.uint16)
    level = int(levels[0, int(bits > 1)])
    shown = np.where(levels == level, 255, np.rint(levels / most * 255))
    as_bits = np.unpackbits(levels.astype(">u2").view(np.uint8)).reshape(2, 8, 16)[..., -bits:]
    rows = zlib.compress(b"".join(b"\0" + np.packbits(row).tobytes() for row in as_bits))
    header = struct.pack(">IIBBBBB", 8, 2, bits, 0, 0, 0, 0)
    data = png((b"IHDR", header), (b"tRNS", struct.pack(">H", level)), (b"IDAT", rows), (b"IEND", b""))
    np.testing.assert_array_equal(decode(data), np.repeat(shown[..., None], 3, -1))
    if bits in (1, 8):  # Pillow's reading of the others' transparency is wrong or missing
        image = Image.open(io.BytesIO(data)).convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        white.alpha_composite(image)
        assert_same_pixels(decode(data), white)


def test_one_bit_png():
    image = picture().convert("1")
    assert_same_pixels(decode(encoded(image, "PNG")), image)


def test_sixteen_bits():
    grey = np.array([[0, 257 * 100, 257 * 200 + 100, 65535]], np.uint16)
    data = cv2.imencode(".png", grey)[1].tobytes()
    np.testing.assert_array_equal(decode(data)[0], [[0] * 3, [100] * 3, [200] * 3, [255] * 3])
    blue = np.zeros((2, 3, 4), np.uint16)
    blue[..., 0], blue[..., 3] = 257 * 9, 65535
    np.testing.assert_array_equal(decode(cv2.imencode(".png", blue)[1].tobytes())[0, 0], [0, 0, 9])


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
def test_exif_orientation(format):
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        data = encoded(picture(), format, exif=exif)
        assert_same_pixels(decode(data), ImageOps.exif_transpose(Image.open(io.BytesIO(data))))


@pytest.mark.parametrize("order", [">", "<"])
@pytest.mark.parametrize(("kind", "form"), [(3, "Hxx"), (4, "I")])
def test_exif_orientation_as_short_or_long_in_any_byte_order(order, kind, form):
    entry = struct.pack(f"{order}HHI", 0x0112, kind, 1) + struct.pack(order + form, 6)
    tiff = (b"MM\0*" if order == ">" else b"II*\0") + struct.pack(f"{order}IH", 8, 1) + entry + bytes(4)
    data = encoded(picture(), "JPEG")
    body = b"Exif\0\0" + tiff
    data = data[:2] + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + data[2:]
    assert read_header(data).orientation == 6
    assert_same_pixels(decode(data), ImageOps.exif_transpose(Image.open(io.BytesIO(data))))


def test_exif_of_a_webp_may_have_the_prefix_of_a_jpeg():
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(picture(), "WEBP", exif=exif)
    at = data.index(b"EXIF")
    length = struct.unpack("<I", data[at + 4 : at + 8])[0]
    chunk = b"EXIF" + struct.pack("<I", length + 6) + b"Exif\0\0" + data[at + 8 :]
    data = data[:4] + struct.pack("<I", len(data) - 8 + 6) + data[8:at] + chunk
    assert read_header(data)[:4] == ("webp", 60, 90, 6)


def test_first_frame_of_an_animation():
    frames = [picture().rotate(90 * k) for k in range(3)]
    for format in ("PNG", "WEBP"):
        data = encoded(frames[0], format, save_all=True, append_images=frames[1:])
        assert_same_pixels(decode(data), frames[0])


def test_a_damaged_animation_is_refused():
    """Its header promises 65,535 columns; OpenCV 5.0 alone makes something up, or ends the process."""
    frames = [Image.fromarray(noisy(290, 300)).rotate(90 * k) for k in range(2)]
    data = encoded(frames[0], "PNG", save_all=True, append_images=frames[1:])
    header = b"IHDR" + struct.pack(">II", 65_535, 290) + data[24:29]
    data = data[:12] + header + struct.pack(">I", zlib.crc32(header)) + data[33:]
    assert read_header(data)[:3] == ("png", 290, 65_535)
    with pytest.raises(UnreadableImage, match="is damaged"):
        decode(data)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
def test_cut_short(format, capfd):
    data = encoded(picture(), format)
    for length in (0, 1, 2, 12, 30, 100, len(data) // 2, len(data) - 2):
        with pytest.raises(UnreadableImage, match=r"^holiday\.x "):
            decode(data[:length], "holiday.x")
    # The libraries underneath print their own complaints, once for each epoch that meets the file.
    assert capfd.readouterr().err == ""


def noisy(height, width):
    """Colours that change from pixel to pixel, so that any other rounding or neighbour shows."""
    return np.random.default_rng(1).integers(0, 256, (height, width, 3), dtype=np.uint8)


def assert_parts_are_those_of_the_whole(data, count=12):
    whole, image, rng = decode(data), EncodedImage(data), np.random.default_rng(2)
    assert image.shape == whole.shape
    for _ in range(count):
        (top, bottom), (left, right) = (np.sort(rng.choice(side + 1, 2, replace=False)) for side in whole.shape[:2])
        np.testing.assert_array_equal(image[top:bottom, left:right], whole[top:bottom, left:right])


@pytest.mark.parametrize("sampling", ["444", "422", "420", "440", "411", "Gray"])
def test_parts_of_a_jpeg_have_the_bits_of_the_whole(sampling):
    for height, width in ((99, 70), (64, 48)):
        pixels = noisy(height, width)
        if sampling == "Gray":
            data = simplejpeg.encode_jpeg(pixels[..., :1].copy(), 90, "GRAY", "Gray")
        else:
            data = simplejpeg.encode_jpeg(pixels, 90, "RGB", sampling)
        assert_parts_are_those_of_the_whole(data)
        stop = height // 3  # each line as the last one that is needed
        whole, image = decode(data), EncodedImage(data)
        for last in range(stop, stop + 17):
            np.testing.assert_array_equal(image[last - 1 : last, :], whole[last - 1 : last])


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
def test_parts_have_the_bits_of_the_whole_in_any_orientation(format):
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        assert_parts_are_those_of_the_whole(encoded(Image.fromarray(noisy(50, 40)), format, exif=exif), 6)


@pytest.mark.parametrize(
    "options", [{"progressive": True}, {"restart_marker_rows": 1}, {"restart_marker_blocks": 3}, {"mode": "CMYK"}]
)
def test_parts_of_other_jpegs(options):
    options = dict(options)
    image = Image.fromarray(noisy(90, 70)).convert(options.pop("mode", "RGB"))
    data = encoded(image, "JPEG", **options)
    assert_parts_are_those_of_the_whole(data)
    assert_parts_are_those_of_the_whole(data + b"what cameras append", 4)


def test_lines_below_a_part_are_not_decoded(monkeypatch):
    decoded, decode_jpeg = [], simplejpeg.decode_jpeg

    def count(data, *arguments, **options):
        decoded.append(read_header(data).height)
        return decode_jpeg(data, *arguments, **options)

    monkeypatch.setattr(simplejpeg, "decode_jpeg", count)
    image = EncodedImage(encoded(Image.fromarray(noisy(200, 90)), "JPEG"))
    assert image[30:50, 5:20].shape == (20, 15, 3) and image[:, :].shape == (200, 90, 3)
    assert decoded == [52, 200]


@pytest.mark.parametrize("options", [{}, {"progressive": True}])
def test_a_jpeg_that_is_cut_short_below_the_part_is_found(options, capfd):
    """The thumbnail in its EXIF has an end of its own, which is not the file's."""
    exif = Image.Exif()
    exif[0x010E] = "\xff\xd9 \xff\xda"
    data = encoded(Image.fromarray(noisy(200, 90)), "JPEG", exif=exif, **options)
    assert data.count(b"\xff\xd9") == 1
    body = b"JFXX\0" + encoded(picture(8, 8), "JPEG")
    data = data[:2] + b"\xff\xe0" + struct.pack(">H", len(body) + 2) + body + data[2:]
    assert data.count(b"\xff\xd9") == 2
    np.testing.assert_array_equal(EncodedImage(data)[:8, :], decode(data)[:8])
    for length in (len(data) - 1, len(data) - 2, len(data) * 9 // 10, len(data) * 2 // 3):
        with pytest.raises(UnreadableImage, match=r"^holiday\.x is cut short"):
            EncodedImage(data[:length], "holiday.x")[:8, :]
    assert capfd.readouterr().err == ""


def test_damage_above_the_end_of_a_part_is_judged_as_in_the_whole():
    data = simplejpeg.encode_jpeg(noisy(200, 90), 90)
    start = data.index(b"\xff\xda")
    ends_early = data[: start + 1000] + b"\xff\xd9" + data[start + 1000 :]
    for damaged in (ends_early, data[: start + 1000] + bytes(40) + data[start + 1000 :]):
        try:
            whole = decode(damaged)
        except UnreadableImage:
            with pytest.raises(UnreadableImage, match="is cut short"):
                EncodedImage(damaged)[90:100, :]
        else:
            np.testing.assert_array_equal(EncodedImage(damaged)[90:100, :], whole[90:100])
    with pytest.raises(UnreadableImage, match="is cut short"):
        decode(ends_early)


def test_damaged_png(capfd):
    data = bytearray(encoded(picture(), "PNG"))
    data[len(data) // 2] ^= 0xFF
    with pytest.raises(UnreadableImage, match="checksum"):
        decode(bytes(data))
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_jpeg_with_stray_bytes_is_readable(mode):
    data = encoded(picture().convert(mode), "JPEG")
    for marker in (b"\xff\xda", b"\xff\xc0"):
        at = data.index(marker)
        stray = data[:at] + b"\x00\x01\x02\x03" + data[at:]
        with pytest.raises(ValueError, match="extraneous bytes"):
            simplejpeg.decode_jpeg(stray)
        assert_same_pixels(decode(stray), Image.open(io.BytesIO(data)), tolerance=2 if mode == "CMYK" else 0)
        assert_parts_are_those_of_the_whole(stray, 4)


def test_bytes_after_a_jpeg_do_not_matter(capfd):
    data = encoded(picture(), "JPEG")
    np.testing.assert_array_equal(decode(data + b"what cameras append"), decode(data))
    assert capfd.readouterr().err == ""


def test_damaged_jpeg():
    data = encoded(picture(), "JPEG")
    at = data.index(b"\xff\xc4")
    with pytest.raises(UnreadableImage, match="is damaged"):
        decode(data[: at + 5] + b"\xff" * 16 + data[at + 21 :])


def test_other_formats_are_named_as_such(tmp_path):
    path = tmp_path / "a.jpg"
    path.write_bytes(b"<!DOCTYPE html>")
    with pytest.raises(UserError, match=r"a\.jpg is not a JPEG, PNG or WebP image"):
        decode(path)
    with pytest.raises(UserError, match="is empty"):
        decode(b"")
    for format in ("TIFF", "BMP", "GIF", "AVIF"):
        buffer = io.BytesIO()
        picture().save(buffer, format)
        with pytest.raises(UnreadableImage, match=f"is not a JPEG, PNG or WebP image, but {format}"):
            decode(buffer.getvalue())


def test_missing_and_gigantic_files(tmp_path, monkeypatch):
    with pytest.raises(UnreadableImage, match=r"no\.jpg could not be read: No such file"):
        decode(tmp_path / "no.jpg")
    path = tmp_path / "a.png"
    path.write_bytes(encoded(picture(), "PNG"))
    monkeypatch.setattr(module, "MAX_FILE_BYTES", 100)
    with pytest.raises(UnreadableImage, match="has more than 100 bytes"):
        decode(path)


def png(*chunks):
    """A PNG of these (kind, body)."""
    sums = (struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks)
    parts = (struct.pack(">I", len(b)) + k + b + s for (k, b), s in zip(chunks, sums, strict=True))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def png_bomb():
    header = struct.pack(">IIBBBBB", 20_001, 5_000, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(1000))
    return png((b"IHDR", header), (b"IDAT", pixels), (b"IEND", b""))


def jpeg_bomb():
    data = bytearray(encoded(picture(), "JPEG"))
    frame = data.index(b"\xff\xc0")
    data[frame + 5 : frame + 9] = struct.pack(">HH", 65_000, 65_000)
    return bytes(data)


def webp_bomb():
    data = bytearray(encoded(picture(), "WEBP"))
    assert data[12:16] == b"VP8L"
    data[21:25] = struct.pack("<I", 16_383 | 16_383 << 14)
    return bytes(data)


def test_lines_of_pixels_are_refused_before_their_resizing():
    """3 kB that the short side's resizing would make 150 GB."""
    rows = zlib.compress(bytes(1_000_001))
    header = struct.pack(">IIBBBBB", 1_000_000, 1, 8, 0, 0, 0, 0)
    data = png((b"IHDR", header), (b"IDAT", rows), (b"IEND", b""))
    assert len(data) < 3000
    with pytest.raises(UnreadableImage, match="is 1000000x1, one side more than 250 times the other"):
        decode(data)
    assert decode(encoded(picture(4, 1000), "PNG")).shape == (4, 1000, 3)


@pytest.mark.parametrize("bomb", [png_bomb, jpeg_bomb, webp_bomb])
def test_header_bombs_are_refused_before_decoding(bomb, monkeypatch):
    def decoded(*args, **kwargs):
        raise AssertionError("decoded")

    monkeypatch.setattr(module.cv2, "imdecode", decoded)
    monkeypatch.setattr(module.simplejpeg, "decode_jpeg", decoded)
    with pytest.raises(UnreadableImage, match="more than 100 megapixels"):
        decode(bomb())


def test_sides_that_the_libraries_refuse():
    canvas = bytearray(encoded(picture(), "WEBP", exif=Image.Exif(), icc_profile=b"none"))
    assert canvas[12:16] == b"VP8X"
    canvas[24:30] = (18_000).to_bytes(3, "little") + (100).to_bytes(3, "little")
    with pytest.raises(UnreadableImage, match="is damaged"):
        decode(bytes(canvas))


def test_header_sizes():
    lossy = encoded(picture(31, 57), "WEBP", lossless=False)
    assert lossy[12:16] == b"VP8 "
    for data in (lossy, *(encoded(picture(31, 57), format) for format in ("JPEG", "PNG", "WEBP"))):
        assert read_header(data)[1:4] == (31, 57, 1)
