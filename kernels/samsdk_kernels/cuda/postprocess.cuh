// One pixel of the mask: the arithmetic of samsdk.masks, and the measures of a mask that is made piece by piece.
#pragma once

#include "numbers.cuh"

namespace samsdk {

// How pixels of the image read low-res logits along one axis: `valid` cells of the square show the image's window,
// from pixel `start` for `length` pixels; `step` is cells for one pixel.
struct Reading {
    int start, length, cells;
    double step;

    SAMSDK_BOTH_SIDES bool shows(int pixel) const { return pixel >= start && pixel < start + length; }
};

// The lower of the two cells that a pixel lies between, and the weight of the other.
struct Tap {
    int lower, upper;
    float weight;
};

SAMSDK_BOTH_SIDES Tap tap_of(const Reading& reading, int pixel) {
    double source = (pixel - reading.start + 0.5) * reading.step - 0.5;
    source = source < 0.0 ? 0.0 : source;
    source = source > reading.cells - 1 ? reading.cells - 1 : source;
    Tap tap;
    tap.lower = static_cast<int>(source);
    tap.upper = tap.lower + 1 < reading.cells ? tap.lower + 1 : reading.cells - 1;
    tap.weight = static_cast<float>(source - tap.lower);
    return tap;
}

SAMSDK_BOTH_SIDES float blend(float low, float high, float weight) { return (high - low) * weight + low; }

// `logits` is [side, side]; pixels outside the window are background.
SAMSDK_BOTH_SIDES bool is_foreground(const float* logits, int side, const Reading& down, const Reading& across,
                                     float threshold, int y, int x) {
    if (!down.shows(y) || !across.shows(x)) return false;
    const Tap row = tap_of(down, y), column = tap_of(across, x);
    const float *low_row = logits + static_cast<int64>(row.lower) * side;
    const float *high_row = logits + static_cast<int64>(row.upper) * side;
    const float low = blend(low_row[column.lower], low_row[column.upper], column.weight);
    const float high = blend(high_row[column.lower], high_row[column.upper], column.weight);
    return blend(low, high, row.weight) > threshold;
}

SAMSDK_BOTH_SIDES uint32 larger(uint32 one, uint32 other) { return one > other ? one : other; }

// Area and box of a mask. All zero is the empty mask, so that clearing the memory starts it: the left and the top are
// held as distances from the image's right and bottom.
struct Measures {
    uint32 area, from_right, from_bottom, right, bottom;

    // Add the foreground of 32 pixels, the lowest bit first, of which the first is at (x, y).
    SAMSDK_BOTH_SIDES void include(uint32 word, int y, int x, int height, int width) {
        if (word == 0u) return;
        int first = 0, last = 31;
        while (!(word >> first & 1u)) ++first;
        while (!(word >> last & 1u)) --last;
        for (uint32 rest = word; rest; rest &= rest - 1u) ++area;
        from_right = larger(from_right, width - (x + first));
        from_bottom = larger(from_bottom, height - y);
        right = larger(right, x + last + 1);
        bottom = larger(bottom, y + 1);
    }
};

}  // namespace samsdk
