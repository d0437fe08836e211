"""Attention over a padded image keeps what lies inside the image: queries, or keys, judged cell by cell."""

import pytest
import torch

from gcnet.analysis.attention import Attention, Padding

PADDING = Padding(size=(33, 96), padded=(64, 128))
# The image reaches into 3 of 4 rows and 6 of 8 columns of 16 pixels, and into 2 of 2 and 3 of 4 of 32 pixels.
GRID, KEY_GRID = (4, 8), (2, 4)


def some_attention(*rows: int) -> Attention:
    weights = torch.randn(2, 3, *rows, 8).softmax(-1)
    return Attention(weights, GRID, KEY_GRID, input=torch.randn(2, 32, 5), added=torch.randn(2, 32, 5))


def test_queries_without_a_pixel_are_dropped_and_other_rows_kept() -> None:
    whole = some_attention(32)
    inside = PADDING.without_queries(whole)
    assert (inside.grid, inside.key_grid, inside.positions) == ((3, 6), KEY_GRID, 18)
    for row in range(3):
        for column in range(6):
            new, old = row * 6 + column, row * 8 + column
            assert torch.equal(inside.weights[:, :, new], whole.weights[:, :, old])
            assert torch.equal(inside.input[:, new], whole.input[:, old])
            assert torch.equal(inside.added[:, new], whole.added[:, old])


@pytest.mark.parametrize("rows", [(32,), ()])
def test_keys_without_a_pixel_are_dropped_and_uniform_attention_stays_uniform(rows: tuple[int, ...]) -> None:
    whole = some_attention(*rows)
    inside = PADDING.without_keys(whole)
    assert (inside.grid, inside.key_grid) == (GRID, (2, 3))
    for row in range(2):
        for column in range(3):
            expected = whole.weights[..., row * 4 + column] * 8 / 6
            torch.testing.assert_close(inside.weights[..., row * 3 + column], expected)
    even = Attention(torch.full((1, 1, 8), 1 / 8), GRID, KEY_GRID)
    torch.testing.assert_close(PADDING.without_keys(even).weights, torch.full((1, 1, 6), 1 / 6))


def test_one_map_for_all_queries_and_keys_in_a_line_are_unchanged() -> None:
    shared = some_attention()
    inside = PADDING.without_queries(shared)
    assert torch.equal(inside.weights, shared.weights)
    assert inside.input.shape == (2, 18, 5)
    line = Attention(torch.full((1, 1, 32, 7), 1 / 7), GRID, (7,))
    assert PADDING.without_keys(line) is line
    assert PADDING.without_queries(line).weights.shape == (1, 1, 18, 7)
