"""Pictures are decoded with care, and scaled down to a number of tokens."""

from __future__ import annotations

import io

import pytest

from backends._media.attachments import Attachment
from backends._media.fetch_policy import LinkError
from tests.support.models import tiny_vision

pillow = pytest.importorskip("PIL.Image", reason="decoding pictures needs pillow")

from backends._media.pictures import open_image, scaled_down  # noqa: E402


def test_a_picture_is_opened_upright() -> None:
    """A photograph that was taken sideways is turned, also if it is scaled down."""
    data = io.BytesIO()
    photo = pillow.new("RGB", (40, 30), "red")
    exif = photo.getexif()
    exif[0x0112] = 6  # turn it by a quarter
    photo.save(data, "JPEG", exif=exif)
    assert open_image(Attachment(data.getvalue(), "image/jpeg")).size == (30, 40)
    photo.resize((6000, 40)).save(data := io.BytesIO(), "JPEG", exif=exif)
    assert open_image(Attachment(data.getvalue(), "image/jpeg")).size == (27, 4096)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "RGB", "L"])
def test_what_is_transparent_is_white(mode: str) -> None:
    """As people see it, whatever colour is below: black ink on glass can be read."""
    data = io.BytesIO()
    glass = pillow.new("RGBA", (2, 1), (0, 0, 0, 0))
    glass.putpixel((0, 0), (0, 0, 0, 255))
    transparency = {"RGB": {"transparency": (9, 9, 9)}, "L": {"transparency": 9}}.get(mode, {})
    image = glass.convert(mode)
    if transparency:
        image.putpixel((1, 0), transparency["transparency"])
    image.save(data, "PNG", **transparency)
    opened = open_image(Attachment(data.getvalue(), "image/png"))
    assert opened.mode == "RGB"
    assert [opened.getpixel((x, 0)) for x in (0, 1)] == [(0, 0, 0), (255, 255, 255)]


def test_sixteen_bits_of_grey_are_seen_as_eight() -> None:
    """A radiograph is no white page."""
    greys = pillow.new("I;16", (3, 1))
    for x, grey in enumerate((0, 128 * 257, 65535)):
        greys.putpixel((x, 0), grey)
    greys.save(data := io.BytesIO(), "PNG")
    opened = open_image(Attachment(data.getvalue(), "image/png"))
    assert [opened.getpixel((x, 0)) for x in range(3)] == [(0,) * 3, (128,) * 3, (255,) * 3]


@pytest.mark.parametrize("kind", ["JPEG", "GIF", "WEBP"])
def test_every_kind_that_is_taken_can_be_opened(kind: str) -> None:
    """And by no other decoder than that of its media type."""
    data = tiny_vision.png("red", kind=kind)
    assert open_image(Attachment(data, f"image/{kind.lower()}")).size == (40, 30)
    with pytest.raises(LinkError, match="damaged"):
        open_image(Attachment(data, "image/png"))


def test_a_damaged_picture_is_said_to_be() -> None:
    """It begins well and breaks off."""
    data = tiny_vision.png("red", size=(400, 300))
    with pytest.raises(LinkError, match="damaged"):
        open_image(Attachment(data[: len(data) // 2], "image/png"))


def test_a_picture_is_scaled_down_if_that_makes_fewer_tokens() -> None:
    """A processor that takes as many tokens of every picture gets it as it is."""
    image = pillow.new("RGB", (160, 120))

    def by_area(one: pillow.Image) -> int:
        return int(one.width * one.height) // 192

    assert scaled_down(image, 100, by_area) == (image, 100)
    scaled, tokens = scaled_down(image, 50, by_area)
    assert tokens == by_area(scaled) <= 50
    assert scaled.width / scaled.height == pytest.approx(160 / 120, rel=0.05)
    assert scaled_down(image, 50, lambda one: 576) == (image, 576)
