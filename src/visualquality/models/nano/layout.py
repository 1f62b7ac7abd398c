"""How many tokens an image of a given size becomes, and where they look."""

GLOBAL_TOKENS = (
    5  # one for each stage of the tower: mean and standard deviation over the whole image
)


def cells(height: int, width: int, cell: int, max_cells: int) -> tuple[int, int]:
    """Rows and columns of spatial tokens for an image of (height, width) tower strides, at native aspect.

    >>> cells(16, 16, cell=4, max_cells=59), cells(1, 256, cell=4, max_cells=59)
    ((4, 4), (1, 59))
    """
    rows, columns = max(1, round(height / cell)), max(1, round(width / cell))
    return min(rows, max_cells // min(columns, max_cells)), min(columns, max_cells)


def image_tokens(height: int, width: int, cell: int, max_cells: int, pixels: bool) -> int:
    """Number of tokens of one image: the global ones, one of the pixels where they are read too, and the spatial ones.

    >>> [image_tokens(16, 16, cell=4, max_cells=59, pixels=pixels) for pixels in (False, True)]
    [21, 22]
    """
    rows, columns = cells(height, width, cell, max_cells)
    return GLOBAL_TOKENS + int(pixels) + rows * columns
