"""Pictures of a prediction: an overlay, alpha, cut-outs, and scores of every class."""

import io

import cv2
import numpy as np
from jaxtyping import Float, UInt8, UInt16
from PIL import Image

from massformer_jax.classes import IGNORE
from massformer_jax.errors import InputError
from massformer_jax.output.prediction import Prediction
from massformer_jax.report.overlay import overlay, overlay_jpeg, with_legend

# Around what is cut out, colours are kept this far, in pixels, where nothing of them is seen.
_MARGIN = 8
# What a JPEG file can hold along a side, in pixels, less the height of a legend.
_LONGEST_JPEG = 65_000
# Numbers of tags of the TIFF format.
_IMAGE_DESCRIPTION, _SOFTWARE = 270, 305


def tinted_jpeg(prediction: Prediction, opacity: float, *, legend: bool) -> bytes:
    """Returns the photograph with its groups in the colours of their classes, as a JPEG file.

    What belongs to no group is left as it is.

    Args:
        prediction: what is drawn.
        opacity: weight of the colours, 0..1.
        legend: whether the colours are named below the photograph.

    Raises:
        InputError: the photograph is too large for a JPEG file.
    """
    h, w = prediction.labels.shape
    if max(h, w) > _LONGEST_JPEG:
        raise InputError(f"a photograph of {w} x {h} pixels is too large for an overlay (JPEG)")
    return overlay_jpeg(
        prediction.image,
        _shown(prediction),
        opacity,
        prediction.palette,
        prediction.classes if legend else (),
    )


def tinted(prediction: Prediction, opacity: float, *, legend: bool) -> UInt8[np.ndarray, "h2 w 3"]:
    """Returns the picture that `tinted_jpeg` encodes, RGB, for one of many frames.

    The legend names the classes of all groups, whether or not they occur, so that all frames have
    one size.
    """
    picture = overlay(prediction.image, _shown(prediction), opacity, prediction.palette)
    if not legend:
        return picture
    members = dict.fromkeys(label for group in prediction.groups for label in group.members)
    return with_legend(
        picture, [(prediction.classes[label], prediction.palette[label]) for label in members]
    )


def grey_png(share: Float[np.ndarray, "h w"], bits: int) -> bytes:
    """Returns shares in 0..1 as a grey PNG, in which white is 1.

    Args:
        share: one number for each pixel.
        bits: 8 or 16, of each pixel.
    """
    return png(eight_bits(share) if bits == 8 else sixteen_bits(share))


def cutout_png(image: UInt8[np.ndarray, "h w 3"], alpha: Float[np.ndarray, "h w"]) -> bytes:
    """Returns what covers the pixels as an RGBA PNG, whose colours are not multiplied by alpha.

    Args:
        image: the colours of what covers the pixels, RGB.
        alpha: the share of each pixel that is covered, 0..1.
    """
    opaque = eight_bits(alpha)
    # Colours that are not seen would take most of the file. Those beside the edge are kept:
    # programs that shrink such a picture mix them in, and black would leave a dark fringe.
    near = cv2.dilate(opaque, np.ones((2 * _MARGIN + 1,) * 2, np.uint8)) > 0
    bgra = cv2.cvtColor(image, cv2.COLOR_RGB2BGRA)
    bgra[~near] = 0
    bgra[..., 3] = opaque
    return png(bgra)


def probabilities_tiff(prediction: Prediction) -> bytes:
    """Returns a TIFF file with one page for each group, named by the page's description.

    A page holds the sum of the probabilities of the group's classes, uint16, of which 65535 is 1.
    """
    pages = []
    for group in prediction.groups:
        total = sum(prediction.probabilities[..., i] for i in group.members)
        page = Image.fromarray(sixteen_bits(total))
        # As bytes, because Pillow writes a question mark for each letter of a text beyond ASCII.
        tags = {_IMAGE_DESCRIPTION: group.name.encode(), _SOFTWARE: "massformer_jax"}
        page.encoderinfo = {"tiffinfo": tags}
        pages.append(page)
    buffer = io.BytesIO()
    pages[0].save(
        buffer,
        format="TIFF",
        save_all=True,
        append_images=pages[1:],
        compression="tiff_adobe_deflate",
        **pages[0].encoderinfo,
    )
    return buffer.getvalue()


def png(pixels: UInt8[np.ndarray, "h w *c"] | UInt16[np.ndarray, "h w"]) -> bytes:
    """Returns the pixels as a PNG file; colours are in OpenCV's order, BGR or BGRA."""
    return cv2.imencode(".png", pixels)[1].tobytes()


def eight_bits(share: Float[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w"]:
    """Returns shares in 0..1 as 0..255, rounded; what is beyond 0..1 by an error is cut off."""
    return np.rint(np.clip(share, 0, 1) * np.float32(255)).astype(np.uint8)


def sixteen_bits(share: Float[np.ndarray, "h w"]) -> UInt16[np.ndarray, "h w"]:
    """Returns shares in 0..1 as 0..65535, see `eight_bits`."""
    return np.rint(np.clip(share, 0, 1) * np.float32(65535)).astype(np.uint16)


def _shown(prediction: Prediction) -> UInt8[np.ndarray, "h w"]:
    """Returns the labels, and 255 where they belong to no group."""
    shown = np.full(256, IGNORE, np.uint8)
    for group in prediction.groups:
        shown[list(group.members)] = group.members
    return shown[prediction.labels]
