"""Attention maps as small pictures."""

import numpy as np
from PIL import Image

from gcnet.visualization.attention_tiles import POINT_COLOR, color_scale, draw_tile, mark_point


def test_a_map_has_a_cell_for_each_position_in_the_colors_of_its_scale() -> None:
    values = np.array([[4.0, 1.0], [0.25, 1.0]], dtype=np.float32)
    tile = draw_tile(values, Image.new("RGB", (60, 40)), 2.0, side=120)
    assert tile.size == (120, 80)
    red, white, blue = (tile.getpixel(place) for place in ((30, 20), (90, 20), (30, 60)))
    assert red == (103, 0, 31) and blue == (5, 48, 97)  # the ends of matplotlib's RdBu_r
    assert min(white) > 240
    assert color_scale()[0] == "rgb(5 48 97)" and color_scale()[-1] == "rgb(103 0 31)"


def test_edges_of_the_image_darken_the_map() -> None:
    image = Image.new("RGB", (64, 64))
    image.paste((255, 255, 255), (32, 0, 64, 64))
    tile = np.asarray(draw_tile(np.ones((4, 4), dtype=np.float32), image, 1.0, side=64)).mean(-1)
    assert tile[32, 32] < 160 < 240 < tile[32, 8]


def test_a_point_is_marked_in_a_copy() -> None:
    image = Image.new("RGB", (100, 50))
    marked = mark_point(image, (0.25, 0.5))
    assert marked.getpixel((25, 25)) == tuple(bytes.fromhex(POINT_COLOR[1:]))
    assert image.getpixel((25, 25)) == marked.getpixel((60, 25)) == (0, 0, 0)
