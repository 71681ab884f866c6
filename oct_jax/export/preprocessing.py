"""The preprocessing as ONNX operators: what `oct_jax.data.preprocess` does, to the pixel.

All arithmetic is on float64 that holds whole numbers, but for the filter's coefficients, which
become whole numbers too: so every runtime gives the same grey levels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from onnx import TensorProto

from oct_jax.data import retina
from oct_jax.data.preprocess import HeatmapGrid, Preprocess, spline_weights
from oct_jax.export.builder import GraphBuilder, Value, constant, count_to, length, shape_of

_TINY = 1e-6


@dataclass(frozen=True)
class SpanValue:
    """`oct_jax.data.preprocess.Span` in a graph; `start` may be of shape (batch, 1, 1)."""

    start: Value
    extent: Value
    padding: Value
    length: Value


@dataclass(frozen=True)
class PreparedScans:
    """Scans at the model's input size, and where they come from.

    Attributes:
      resized: float64 of shape (batch, size, size), grey levels.
      rows: of the scans.
      columns: of the scans.
      size: of the model's input.
    """

    resized: str
    rows: SpanValue
    columns: SpanValue
    size: int


def prepare_scans(graph: GraphBuilder, preprocess: Preprocess) -> PreparedScans:
    """`resize_scan` of the graph's input `scans`, uint8 of shape (batch, height, width)."""
    scans = Value(graph, "scans")
    height, width = length(scans, 1), length(scans, 2)
    if preprocess.resize == "retina":
        return _around_retina(scans, height, width, preprocess.size)
    rows, columns = _spans(height, width, preprocess)
    resized = _resize(scans.doubles(), height, width, rows, columns, preprocess.size)
    return PreparedScans(resized.name, rows, columns, preprocess.size)


def draw_on_scans(
    graph: GraphBuilder,
    cells: str,
    grid: HeatmapGrid,
    shape: tuple[int, int],
    prepared: PreparedScans,
    name: str,
) -> None:
    """`to_scan_coordinates`: float32 (batch, 1, *shape) to the scans' height and width."""
    scans = Value(graph, "scans")
    down = _drawing_matrix(
        length(scans, 1), prepared.rows, grid.scale_y, grid.offset_y, shape[0], axis=1
    )
    across = _drawing_matrix(
        length(scans, 2), prepared.columns, grid.scale_x, grid.offset_x, shape[1], axis=0
    )
    _, peak = draw_on_input(graph, cells, grid, shape, prepared.size)
    maps = Value(graph, graph.add("Squeeze", graph.add("Div", cells, peak), graph.shape(1)))
    drawn = down.apply("MatMul", maps).apply("MatMul", across)
    graph.add("Clip", drawn.name, np.float32(0), np.float32(1), name=name)


def draw_on_input(
    graph: GraphBuilder, cells: str, grid: HeatmapGrid, shape: tuple[int, int], size: int
) -> tuple[str, str]:
    """A map over the model's input, by operators that phones have.

    Returns:
      The map before its division by its peak, (batch, 1, size, size), and the peak, which is
      above 0; of shape (batch, 1, 1, 1).
    """
    pixels = np.arange(size)
    down = spline_weights((pixels - grid.offset_y) / grid.scale_y, shape[0]).T
    across = spline_weights((pixels - grid.offset_x) / grid.scale_x, shape[1]).T
    # Phones want the constant on the right: first across, then on the transposed map down.
    bands = graph.add("MatMul", cells, across)
    turned = graph.add("MatMul", graph.add("Transpose", bands, perm=[0, 1, 3, 2]), down)
    drawn = graph.add("Transpose", turned, perm=[0, 1, 3, 2])
    return drawn, graph.add("Clip", graph.add("GlobalMaxPool", drawn), np.float32(_TINY))


def _spans(height: Value, width: Value, preprocess: Preprocess) -> list[SpanValue]:
    """What `oct_jax.data.preprocess.geometry` makes of a scan's shape."""
    graph, size = height.graph, preprocess.size
    zero, whole = constant(graph, 0), constant(graph, size)
    if preprocess.resize == "squash":
        return [SpanValue(zero, extent, zero, whole) for extent in (height, width)]
    if preprocess.resize == "crop":
        shortest = height.apply("Min", width)
        return [
            SpanValue((extent - shortest) / 2, shortest, zero, whole) for extent in (height, width)
        ]
    longest = height.apply("Max", width)
    spans = []
    for extent in (height, width):
        exact = (longest - extent) * size / (longest * 2)
        padding = exact.apply("Round").apply("Min", (size - 1) // 2)
        spans.append(SpanValue(zero, extent, padding, whole - padding * 2))
    return spans


def _around_retina(scans: Value, height: Value, width: Value, size: int) -> PreparedScans:
    graph = scans.graph
    zero, whole = constant(graph, 0), constant(graph, size)
    window_rows, window_columns = _window(height, width)
    seen = _find_retina(scans, height, width, window_rows)
    top = seen.row - window_rows // 2
    left = (width - window_columns) // 2
    window = _cut_window(scans, seen, top, left, window_rows, window_columns)
    resized = _resize(
        window,
        window_rows,
        window_columns,
        SpanValue(zero, window_rows, zero, whole),
        SpanValue(zero, window_columns, zero, whole),
        size,
    )
    return PreparedScans(
        resized.name,
        SpanValue(top.unsqueeze(1, 2), window_rows, zero, whole),
        SpanValue(left, window_columns, zero, whole),
        size,
    )


def _window(height: Value, width: Value) -> tuple[Value, Value]:
    """`oct_jax.data.retina.scan_window` of a scan without spacing."""
    rows, columns = map(float, retina.WINDOW)
    lowest, highest = retina.COMMON_HEIGHTS
    common = (height >= lowest) & (height < highest + 1)
    full = retina.FULL_HEIGHT
    stretched = ((height * rows + full // 2) // full).apply("Max", 1.0)
    narrowest, wide = retina.COMMON_WIDTHS
    usual = (width < narrowest).where(width, columns)
    return common.where(rows, stretched), (width >= wide).where(2 * columns, usual)


@dataclass(frozen=True)
class _Seen:
    """`oct_jax.data.retina.Retina` as values; the first axis is the batch."""

    row: Value
    background: Value
    cell: Value
    above: Value
    below: Value
    cell_rows: Value
    cell_columns: Value


def _find_retina(scans: Value, height: Value, width: Value, window_rows: Value) -> _Seen:
    small = height.apply("Min", width) < retina.SMALLEST
    step = small.where(1.0, 2.0)  # each of two halvings makes a cell of `cell` pixels
    cell = step * step
    cell_rows, cell_columns = height // cell, width // cell
    levels = scans.doubles()
    whole = _first(levels, cell_rows * cell, cell_columns * cell)
    cells = _averages(whole, step, cell_rows, cell_columns)
    bright = (whole >= retina.WHITE).where(255.0, 0.0)
    dark = (_averages(bright, step, cell_rows, cell_columns) < retina.WHITE_CELL).doubles()

    above = _run(dark.apply("ArgMax", axis=1, keepdims=0).doubles(), dark, cell_rows)
    last = dark.apply("ArgMax", axis=1, keepdims=0, select_last_index=1).doubles()
    below = _run(cell_rows - last - 1, dark, cell_rows)
    places = count_to(cell_rows)
    along = places.unsqueeze(0, 2)
    lowest = (cell_rows - below).unsqueeze(1)
    inside = (along >= above.unsqueeze(1)) & (along < lowest)

    counted = inside.doubles()
    number = counted.sum(1, 2)
    background = _lower_quartile(inside.where(cells, 999.0), number)
    mean = (cells * counted).sum(1, 2) // number.apply("Max", 1.0)
    excess = (cells - mean.unsqueeze(1, 2)).apply("Max", 0.0) * counted
    profile = excess.sum(2)

    middle = height // 2 + number * 0.0
    row = _centroid(profile, places, cell, middle)
    half = window_rows // 2
    for _ in range(2):
        first = ((row - half) // cell).apply("Max", 0.0).unsqueeze(1)
        end = ((row + half) // cell + 1.0).unsqueeze(1)
        near = (places >= first) & (places < end)
        row = _centroid(near.where(profile, 0.0), places, cell, row)
    return _Seen(row, background, cell, above, below, cell_rows, cell_columns)


def _first(levels: Value, rows: Value, columns: Value) -> Value:
    """The first rows and columns of (batch, height, width)."""
    end = shape_of(levels.graph, rows, columns)
    return levels.apply("Slice", np.zeros(2, np.int64), end, np.array([1, 2], np.int64))


def _averages(levels: Value, step: Value, rows: Value, columns: Value) -> Value:
    """Means of cells by two halvings, in which `step` x `step` pixels become one."""
    for left in (step, constant(step.graph, 1)):
        split = levels.reshape(-1, rows * left, step, columns * left, step)
        count = step * step
        levels = (split.sum(2, 4) + count // 2) // count
    return levels


def _run(run: Value, dark: Value, rows: Value) -> Value:
    """Cells before the first dark one, and that one; all where none is dark, 0 where it leads."""
    run = (dark.sum(1) < 1).where(rows, run)
    return (run < 1).where(0.0, (run + 1.0).apply("Min", rows))


def _lower_quartile(cells: Value, number: Value) -> Value:
    """The smallest level with a quarter of `number` cells at or below it, by bisection."""
    wanted = (number + 3.0) // 4
    level = number * 0.0
    for bit in reversed(range(8)):
        below = (cells < (level + 2.0**bit).unsqueeze(1, 2)).doubles().sum(1, 2)
        level = level + (below < wanted).where(2.0**bit, 0.0)
    return level


def _centroid(profile: Value, places: Value, cell: Value, otherwise: Value) -> Value:
    total = profile.sum(1)
    moment = (profile * (places * 2.0 + 1.0)).sum(1)
    row = (moment * cell) // (total.apply("Max", 1.0) * 2)
    return (total < 1).where(otherwise, row)


def _cut_window(
    scans: Value, seen: _Seen, top: Value, left: Value, rows: Value, columns: Value
) -> Value:
    """`fill_borders` and `cut_window`: float64 of shape (batch, rows, columns)."""
    height, width = length(scans, 1), length(scans, 2)
    row = top.unsqueeze(1) + count_to(rows)
    column = left + count_to(columns)
    inner_row = row.clip(0.0, height - 1).unsqueeze(2)
    inner_column = column.clip(0.0, width - 1)
    number = count_to(length(scans, 0)).unsqueeze(1, 2)
    index = (number * height + inner_row) * width + inner_column
    flat = scans.reshape(-1)
    pixels = flat.apply("Gather", index.to(TensorProto.INT64)).doubles()

    cell_column = (inner_column // seen.cell).apply("Min", seen.cell_columns - 1)
    cell_index = cell_column.to(TensorProto.INT64)
    above = seen.above.apply("Gather", cell_index, axis=1) * seen.cell
    below = seen.below.apply("Gather", cell_index, axis=1)
    end = (below < 1).where(height, (seen.cell_rows - below) * seen.cell)
    deep = row.unsqueeze(2)
    kept = (
        (deep >= above.unsqueeze(1))
        & (deep < end.unsqueeze(1))
        & (column >= 0.0)
        & (column < width)
    )
    return kept.where(pixels, seen.background.unsqueeze(1, 2))


def _resize(
    levels: Value, height: Value, width: Value, rows: SpanValue, columns: SpanValue, size: int
) -> Value:
    """Grey levels (batch, height, width) to (batch, size, size) by Pillow's arithmetic.

    Each axis is a product with a matrix of whole numbers, rounded to grey levels: columns first,
    then rows. ONNX's Resize is not used because its rounding differs in one pixel of 15,000 by a
    grey level, enough to move a heatmap by 0.02 where a ReLU of the head opens.
    """
    across = _resize_matrix(width, columns, size, axis=0)
    narrow = _to_levels(levels.apply("MatMul", across))
    down = _resize_matrix(height, rows, size, axis=1)
    return _to_levels(down.apply("MatMul", narrow))


def _resize_matrix(count: Value, span: SpanValue, size: int, *, axis: int) -> Value:
    """Pillow's coefficients in units of 2^-22, whole numbers in float64.

    The `count` pixels lie along `axis`, the `size` places that they are resized to along the other
    one. Each place has the antialiased bicubic filter (a = -1/2) around its centre, between the
    first and the last pixel that Pillow takes, with a sum of about 1; places on padding have none.
    (One matrix and a Transpose would do, but onnxruntime 1.18 fuses those into an operator that it
    then does not have.)
    """
    graph = count.graph
    positions = count_to(count).unsqueeze(1 - axis)
    numbers = np.expand_dims(np.arange(size, dtype=np.float64), axis)
    place = Value(graph, graph.constant(numbers, f"resize/places_{axis}")) - span.padding
    scale = span.extent / span.length
    stretch = scale.apply("Max", 1.0)
    centres = (place + 0.5) * scale + span.start
    reach = stretch * 2
    # Truncation and floor agree here but below 0, where there are no pixels either way.
    first = (centres - reach + 0.5).floor()
    last = (centres + reach + 0.5).floor()
    filled = (place >= 0.0) & (place < span.length)
    taken = (positions >= first) & (positions < last) & filled
    x = ((positions - centres + 0.5) / stretch).apply("Abs")
    # Keys 1981, a = -1/2: 3/2 x^3 - 5/2 x^2 + 1 to 1, then -1/2 x^3 + 5/2 x^2 - 4 x + 2 to 2.
    near = ((x * 1.5) - 2.5) * x * x + 1.0
    far = (((x * -0.5) + 2.5) * x - 4.0) * x + 2.0
    bell = (x < 1.0).where(near, (x < 2.0).where(far, 0.0))
    weights = taken.where(bell, 0.0)
    total = filled.where(weights.sum(axis, keep=True), 1.0)
    units = (weights / total) * 2.0**22
    # To the nearest, halves away from 0; Floor(|x| + 1/2) where ONNX's Round takes halves to even.
    return units.apply("Sign") * (units.apply("Abs") + 0.5).floor()


def _to_levels(sums: Value) -> Value:
    """Sums in units of 2^-22 rounded to grey levels from 0 to 255, still float64."""
    return ((sums + 2.0**21) * 2.0**-22).floor().apply("Clip", 0.0, 255.0)


def _drawing_matrix(
    pixels: Value, span: SpanValue, scale: float, offset: float, count: int, *, axis: int
) -> Value:
    """`spline_weights` of a map of `count` positions at the pixels of the scan, float32.

    The positions lie along the last axis where `axis` is 1, else along the one before. Pixels
    outside the span get 0.
    """
    graph = pixels.graph
    numbers = np.expand_dims(np.arange(-1, count + 1, dtype=np.float64), 1 - axis)
    places = Value(graph, graph.constant(numbers, f"draw/places_{axis}"))
    centres = (count_to(pixels).unsqueeze(axis) + 0.5 - span.start) / span.extent
    inside = (centres >= 0.0) & (constant(graph, 1) >= centres)
    in_input = (centres * span.length - 0.5).clip(0.0, span.length - 1) + span.padding
    positions = ((in_input - offset) / scale).clip(0.0, float(count - 1))
    away = (positions - places).apply("Abs")
    near = (constant(graph, 1) - away).apply("Max", 0.0)
    far = (constant(graph, 2) - away).apply("Max", 0.0)
    weights = (far * far * far - near * near * near * 4) / 6
    weights = inside.where(weights, 0.0).to(TensorProto.FLOAT)
    # The outermost values are repeated beyond the ends.
    repeated = np.pad(np.eye(count, dtype=np.float32), ((1, 1), (0, 0)), mode="edge")
    if axis == 1:
        return weights.apply("MatMul", repeated)
    return Value(graph, graph.add("MatMul", repeated.T, weights.name))
