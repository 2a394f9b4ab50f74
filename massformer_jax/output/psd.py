"""Photoshop files: the photograph, and above it one layer with a mask for each group."""

import io

from PIL import Image

from massformer_jax.errors import InputError
from massformer_jax.output.pictures import eight_bits
from massformer_jax.output.prediction import Prediction

# Of the format. Twice the photograph's pixels have to fit as well, which compress little.
_MOST_PIXELS_ALONG_A_SIDE, _MOST_BYTES = 30_000, 2 * 10**9
_MOST_LETTERS = 255  # of a layer's name


def check_psd() -> None:
    """Checks that Photoshop files can be written.

    Raises:
        InputError: the library for it is not installed.
    """
    try:
        import psd_tools  # noqa: F401
    except ImportError as error:
        raise InputError(
            "--write psd needs psd-tools; pip install 'massformer-jax[outputs]'"
        ) from error


def layered_psd(prediction: Prediction, opacity: float) -> bytes:
    """Returns a PSD file whose layer masks are the alphas of the groups.

    The lowest layer is the photograph. Each layer above it is filled with the colour of its group,
    has the group's name (its first 255 letters) and its alpha as layer mask, and is hidden. So the
    file looks as the photograph does, and a mask can be loaded, painted on, or dragged to another
    layer.

    Args:
        prediction: of the photograph.
        opacity: of the colours, once their layers are shown, 0..1.

    Raises:
        InputError: the photograph is too large for this format.
    """
    from psd_tools import PSDImage

    h, w = prediction.labels.shape
    if max(h, w) > _MOST_PIXELS_ALONG_A_SIDE or 6 * h * w > _MOST_BYTES:
        raise InputError(f"a photograph of {w} x {h} pixels is too large for a PSD file")
    photograph = Image.fromarray(prediction.image)
    document = PSDImage.frompil(photograph)
    document.create_pixel_layer(photograph, name="photograph")
    for group in prediction.groups:
        colour = tuple(int(value) for value in prediction.palette[group.members[0]])
        layer = document.create_pixel_layer(
            Image.new("RGB", (w, h), colour), name="group", opacity=round(255 * opacity)
        )
        # Names that are set later are written in Unicode, too; those above in Mac Roman alone.
        layer.name = group.name[:_MOST_LETTERS]
        layer.create_mask(Image.fromarray(eight_bits(prediction.alphas[group.name])))
        layer.visible = False
    buffer = io.BytesIO()
    # `document.save` would compose all layers once more, in gigabytes of float32, to get the
    # picture that the file has already: the photograph.
    document._record.write(buffer)
    return buffer.getvalue()
