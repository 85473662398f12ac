# mypy: disable-error-code="import-not-found,import-untyped,untyped-decorator,no-untyped-call,no-untyped-def"
"""The Triton kernels of the fused attention.

The softmax runs online over tiles of keys (Dao et al., FlashAttention, 2022; Dao, FlashAttention-2, 2023), so that no
score leaves the chip. SAM's relative position needs no [N, N] bias either: a first kernel makes the products of each
query with the embeddings of the H rows and of the W columns, [N, H + W] numbers in fp32; tiles of keys are whole rows
of the map, so that the part by columns is the same for every tile and the part by rows one number a query and row.

Scores are kept in base 2, because the hardware's exponential is. Indices past the end are clamped instead of masked:
such keys get a score of minus infinity, such queries are not stored.

Strides are of batch, head and position; the last axis is dense.
"""

import triton
import triton.language as tl

INTERPRETED = tl.constexpr(triton.knobs.runtime.interpret)


@triton.jit
def _place(base, strides, batch, head):
    return base + batch * strides[0] + head * strides[1]


@triton.jit
def _load_rows(base, rows, stride, HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr):
    columns = tl.arange(0, BLOCK_D)
    pointers = base + rows[:, None] * stride + columns[None, :]
    if BLOCK_D == HEAD_DIM:
        tile = tl.load(pointers)
    else:  # zeros at the end of the rows add nothing to any product
        tile = tl.load(pointers, mask=(columns < HEAD_DIM)[None, :], other=0.0)
    return tile


@triton.jit
def _store_rows(base, rows, stride, tile, inside, HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr):
    columns = tl.arange(0, BLOCK_D)
    pointers = base + rows[:, None] * stride + columns[None, :]
    tl.store(pointers, tile.to(base.dtype.element_ty), mask=inside[:, None] & (columns < HEAD_DIM)[None, :])


@triton.jit
def _dot(a, b, added):
    if INTERPRETED:  # the interpreter keeps bfloat16 as bare 16-bit integers, and would multiply those
        a = a.to(tl.float32)
        b = b.to(tl.float32)
    return tl.dot(a, b, added, input_precision="ieee")


@triton.jit
def _attend(scores, values, peak, total, attended):
    # One tile of the online softmax: scores [M, keys] in base 2, values [keys, D].
    higher = tl.maximum(peak, tl.max(scores, 1))
    weights = tl.exp2(scores - higher[:, None])
    shrink = tl.exp2(peak - higher)
    total = total * shrink + tl.sum(weights, 1)
    attended = _dot(weights.to(values.dtype), values, attended * shrink[:, None])
    return higher, total, attended


@triton.jit
def _query_tile(tokens, heads, BLOCK_M: tl.constexpr):
    # Everything is on the grid's first axis: the others end at 65535, fewer than the windows of a large batch.
    tiles = tl.cdiv(tokens, BLOCK_M)
    program = tl.program_id(0)
    # 64 bits, because these are multiplied by the strides of whole images.
    sequence = (program // tiles).to(tl.int64)
    rows = (program % tiles) * BLOCK_M + tl.arange(0, BLOCK_M)
    return sequence, sequence // heads, sequence % heads, tl.minimum(rows, tokens - 1), rows < tokens


@triton.jit
def position_terms(
    q,
    rel_h,
    rel_w,
    terms,
    factor,
    heads,
    height,
    width,
    q_strides,
    HEAD_DIM: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Products of the queries of one row with `rel_h`, or of one column with `rel_w`, times `factor`."""
    lines = height + width
    program = tl.program_id(0)
    sequence = (program // lines).to(tl.int64)
    line = program % lines
    by_row = line < height
    # A row y holds the queries y * width + i and owns terms [0, height); a column x holds i * width + x and the rest.
    queries = tl.where(by_row, width, height)
    places = tl.where(by_row, height, width)
    first = tl.where(by_row, line * width, line - height)
    step = tl.where(by_row, 1, width)
    place = tl.where(by_row, 0, height)
    q = _place(q, q_strides, sequence // heads, sequence % heads)
    terms += sequence * height * width * lines + place
    for q_start in range(0, queries, BLOCK):
        i = q_start + tl.arange(0, BLOCK)
        rows = first + tl.minimum(i, queries - 1) * step
        q_tile = _load_rows(q, rows, q_strides[2], HEAD_DIM, BLOCK_D)
        for k_start in range(0, places, BLOCK):
            j = k_start + tl.arange(0, BLOCK)
            embedding = tl.minimum(j, places - 1)
            if by_row:
                table = _load_rows(rel_h + line * height * HEAD_DIM, embedding, HEAD_DIM, HEAD_DIM, BLOCK_D)
            else:
                table = _load_rows(rel_w + (line - height) * width * HEAD_DIM, embedding, HEAD_DIM, HEAD_DIM, BLOCK_D)
            products = _dot(q_tile, tl.trans(table), None) * factor
            inside = (i < queries)[:, None] & (j < places)[None, :]
            tl.store(terms + rows[:, None] * lines + j[None, :], products, mask=inside)


@triton.jit
def _column_terms(terms, x, width):
    inside = (x < width)[None, :]
    return tl.where(inside, tl.load(terms[:, None] + tl.minimum(x, width - 1)[None, :]), float("-inf"))


@triton.jit
def _row_terms(terms, y, height, row, ROWS: tl.constexpr):
    if ROWS == 1:
        found = tl.load(terms + row)[:, None]
    else:
        found = tl.load(terms[:, None] + tl.minimum(y, height - 1)[None, :])
        found = tl.where((y < height)[None, :], found, float("-inf"))
    return found


@triton.jit
def relative_position(
    q,
    k,
    v,
    terms,
    out,
    factor,
    heads,
    height,
    width,
    q_strides,
    k_strides,
    v_strides,
    out_strides,
    HEAD_DIM: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_W: tl.constexpr,
    ROWS: tl.constexpr,
    ONE_TILE_WIDE: tl.constexpr,
):
    """Attention of `BLOCK_M` queries; a tile of keys is `ROWS` rows of `BLOCK_W` columns."""
    tokens = height * width
    sequence, batch, head, rows, inside = _query_tile(tokens, heads, BLOCK_M)
    q_tile = _load_rows(_place(q, q_strides, batch, head), rows, q_strides[2], HEAD_DIM, BLOCK_D)
    k = _place(k, k_strides, batch, head)
    v = _place(v, v_strides, batch, head)
    row_terms = terms + sequence * tokens * (height + width) + rows * (height + width)
    within = tl.arange(0, ROWS * BLOCK_W)
    x = within % BLOCK_W
    if ONE_TILE_WIDE:
        column_terms = _column_terms(row_terms + height, x, width)
    peak = tl.full([BLOCK_M], -1e30, tl.float32)  # finite, so that a tile of hidden keys gives weights of 0, not NaN
    total = tl.zeros([BLOCK_M], tl.float32)
    attended = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    wide = 1 if ONE_TILE_WIDE else tl.cdiv(width, BLOCK_W)
    for tile in range(tl.cdiv(height, ROWS) * wide):
        row = (tile // wide) * ROWS
        y = row + within // BLOCK_W
        if not ONE_TILE_WIDE:
            x = (tile % wide) * BLOCK_W + within % BLOCK_W
            column_terms = _column_terms(row_terms + height, x, width)
        keys = tl.minimum(y, height - 1) * width + tl.minimum(x, width - 1)
        k_tile = _load_rows(k, keys, k_strides[2], HEAD_DIM, BLOCK_D)
        scores = _dot(q_tile, tl.trans(k_tile), None) * factor
        scores += column_terms + _row_terms(row_terms, y, height, row, ROWS)
        v_tile = _load_rows(v, keys, v_strides[2], HEAD_DIM, BLOCK_D)
        peak, total, attended = _attend(scores, v_tile, peak, total, attended)
    out = _place(out, out_strides, batch, head)
    _store_rows(out, rows, out_strides[2], attended / total[:, None], inside, HEAD_DIM, BLOCK_D)


@triton.jit
def constant_bias(
    q,
    k,
    v,
    bias,
    out,
    factor,
    log2_e,
    heads,
    tokens,
    q_strides,
    k_strides,
    v_strides,
    out_strides,
    HEAD_DIM: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """Attention of `BLOCK_M` queries with a bias [heads, tokens, tokens] that all of the batch share."""
    _sequence, batch, head, rows, inside = _query_tile(tokens, heads, BLOCK_M)
    q_tile = _load_rows(_place(q, q_strides, batch, head), rows, q_strides[2], HEAD_DIM, BLOCK_D)
    k = _place(k, k_strides, batch, head)
    v = _place(v, v_strides, batch, head)
    bias += head * tokens * tokens
    peak = tl.full([BLOCK_M], -1e30, tl.float32)  # finite, so that a tile of hidden keys gives weights of 0, not NaN
    total = tl.zeros([BLOCK_M], tl.float32)
    attended = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    for start in range(0, tokens, BLOCK_N):
        key = start + tl.arange(0, BLOCK_N)
        keys = tl.minimum(key, tokens - 1)
        k_tile = _load_rows(k, keys, k_strides[2], HEAD_DIM, BLOCK_D)
        scores = _dot(q_tile, tl.trans(k_tile), None) * factor
        scores += tl.load(bias + rows[:, None] * tokens + keys[None, :]).to(tl.float32) * log2_e
        scores = tl.where((key < tokens)[None, :], scores, float("-inf"))
        v_tile = _load_rows(v, keys, v_strides[2], HEAD_DIM, BLOCK_D)
        peak, total, attended = _attend(scores, v_tile, peak, total, attended)
    out = _place(out, out_strides, batch, head)
    _store_rows(out, rows, out_strides[2], attended / total[:, None], inside, HEAD_DIM, BLOCK_D)
