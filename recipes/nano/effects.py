"""What the damages of damages.py are made of, beside `visualquality.data.filters`."""

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageFilter

from visualquality.data.filters import Pixels

KERNELS = (
    Image.Resampling.BOX,
    Image.Resampling.BILINEAR,
    Image.Resampling.HAMMING,
    Image.Resampling.BICUBIC,
    Image.Resampling.LANCZOS,
)
# Luma of ITU-R BT.601.
LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)


def filtered(rgb: Pixels, *filters: ImageFilter.Filter) -> Pixels:
    """The image after some filters of Pillow, one after another."""
    image = Image.fromarray(rgb)
    for one in filters:
        image = image.filter(one)
    return np.array(image)


def shrunk(image: Image.Image, factor: float, kernel: Image.Resampling) -> Image.Image:
    """The image at 1 / factor of its sides, which stay at least 8 pixels."""
    sides = [max(8, int(side / factor)) for side in image.size]
    return image.resize((sides[0], sides[1]), kernel)


def video_frame(rgb: Pixels, codec: str, rate_factor: int, **options: str) -> Pixels:
    """The image as the only frame of a video, written with a constant rate factor and read again."""
    # Imported here: what else needs this module, such as the model card, does without a video codec.
    import av

    height, width = (side // 2 * 2 for side in rgb.shape[:2])  # 4:2:0 takes even sides
    memory = io.BytesIO()
    with av.open(memory, "w", format="matroska") as file:
        stream = file.add_stream(codec, rate=1)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.options = {"crf": str(rate_factor), "preset": "fast", **options}
        # One thread: the result must not depend on the machine.
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(rgb[:height, :width]), "rgb24")
        # Without a time the encoder makes one up, and now and then one that cannot be written.
        frame.pts = 0
        file.mux(stream.encode(frame))
        file.mux(stream.encode())
    memory.seek(0)
    with av.open(memory) as file:
        decoded = next(file.decode(video=0)).to_ndarray(format="rgb24")
    growth = ((0, rgb.shape[0] - height), (0, rgb.shape[1] - width), (0, 0))
    return np.pad(decoded, growth, mode="edge")


def veiled(rgb: Pixels, colour: NDArray, share: float | NDArray) -> NDArray:
    """A share of the light replaced by a colour."""
    return rgb * (1 - share) + np.asarray(colour) * share


def saturated(rgb: Pixels, factor: float) -> Pixels:
    return np.array(ImageEnhance.Color(Image.fromarray(rgb)).enhance(factor))
