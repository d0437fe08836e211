"""Attention maps as small pictures without text, for pages that add it."""

import matplotlib
import numpy as np
from jaxtyping import Float
from PIL import Image, ImageDraw

from gcnet.visualization.attention_maps import COLOR_MAP, Point, image_edges, log_ratio

POINT_COLOR = "#00E5FF"
"""Color of query points: visible on photographs and on the colors of the maps."""
EDGE_OPACITY = 0.45
"""Opacity of the edges of the image over a map."""


def draw_tile(values: Float[np.ndarray, "h w"], image: Image.Image, limit: float, *, side: int = 224) -> Image.Image:
    """Draw an attention map in the colors of its scale, with the edges of the image in black above.

    Args:
        values: ratios to uniform attention, (h, w).
        image: as the network saw it.
        limit: end of the color scale, from `gcnet.visualization.attention_maps.scale_limit`.
        side: longer side of the picture in pixels.

    Returns:
        RGB picture in the aspect ratio of the image.
    """
    scale = side / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    colors = matplotlib.colormaps[COLOR_MAP]((log_ratio(values, limit) / limit + 1) / 2)[..., :3]
    cells = Image.fromarray((colors * 255).round().astype(np.uint8)).resize(size, Image.Resampling.NEAREST)
    opacity = (255 * EDGE_OPACITY * image_edges(image.resize(size))).astype(np.uint8)
    return Image.composite(Image.new("RGB", size), cells, Image.fromarray(opacity))


def mark_point(image: Image.Image, point: Point) -> Image.Image:
    """Return a copy of an image with a dot.

    Args:
        image: in RGB.
        point: of the dot, as fractions of width and height.
    """
    marked = image.copy()
    center = (point[0] * image.width, point[1] * image.height)
    radius = max(3.0, max(image.size) / 70)
    ImageDraw.Draw(marked).circle(center, radius, fill=POINT_COLOR, outline="black", width=max(1, round(radius / 4)))
    return marked


def color_scale() -> list[str]:
    """Return the colors of attention maps from least to most, for a CSS gradient."""
    colors = (matplotlib.colormaps[COLOR_MAP](np.linspace(0, 1, 17))[:, :3] * 255).round().astype(int)
    return [f"rgb({red} {green} {blue})" for red, green, blue in colors.tolist()]
