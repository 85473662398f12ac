// One pixel of the encoder's input: the arithmetic of cv2.resize for 8 bits, and the normalisation.
//
// samsdk.transforms resizes by OpenCV, so this reproduces what OpenCV computes (modules/imgproc/src/resize.cpp), fixed
// point where it uses fixed point: whole factors by integer sums, other shrinking by float areas, enlarging by 11-bit
// weights.
#pragma once

#include "numbers.cuh"

namespace samsdk {

enum Interpolation { kArea = 0, kLinear = 1 };

// A window of an image with interleaved channels, and what becomes of it. `row_stride` is in bytes, sides are in
// pixels; `down` and `across` are source pixels for one of the result.
struct Resize {
    const uint8* pixels;
    int64 row_stride;
    int channels, from_height, from_width, height, width;
    double down, across;
    Interpolation interpolation;

    SAMSDK_BOTH_SIDES const uint8* at(int y, int x) const {
        return pixels + y * row_stride + static_cast<int64>(x) * channels;
    }
};

// The factor when it is a whole number, else 0.
SAMSDK_BOTH_SIDES int whole_factor(double scale) {
    const double factor = rint(scale);
    return fabs(scale - factor) < 2.220446049250313e-16 ? static_cast<int>(factor) : 0;
}

SAMSDK_BOTH_SIDES uint8 saturate(float value) {
    const float rounded = rintf(value);
    return static_cast<uint8>(rounded < 0.f ? 0.f : rounded > 255.f ? 255.f : rounded);
}

// The source pixels that one pixel of the result covers along an axis, and their shares.
struct Cover {
    int first, count;
    float head, body, tail;

    SAMSDK_BOTH_SIDES float share(int index) const { return index == 0 ? head : index == count - 1 ? tail : body; }
};

SAMSDK_BOTH_SIDES Cover cover_of(int at, int from, double scale) {
    const double start = at * scale, stop = start + scale;
    const double rest = from - start, cell = scale < rest ? scale : rest;
    int inner_start = static_cast<int>(ceil(start)), inner_stop = static_cast<int>(floor(stop));
    inner_stop = inner_stop < from - 1 ? inner_stop : from - 1;
    inner_start = inner_start < inner_stop ? inner_start : inner_stop;
    const bool has_head = inner_start - start > 1e-3, has_tail = stop - inner_stop > 1e-3;
    Cover cover;
    cover.first = inner_start - has_head;
    cover.count = inner_stop - inner_start + has_head + has_tail;
    cover.body = static_cast<float>(1.0 / cell);
    cover.tail = cover.body;
    if (has_tail) {
        double covered = stop - inner_stop;
        covered = covered < 1.0 ? covered : 1.0;
        covered = covered < cell ? covered : cell;
        cover.tail = static_cast<float>(covered / cell);
    }
    const bool only_tail = has_tail && cover.count == 1;
    cover.head = has_head ? static_cast<float>((inner_start - start) / cell) : only_tail ? cover.tail : cover.body;
    return cover;
}

// The three functions below give one value a channel; the sums run in OpenCV's order, as floats do not commute.
template <int kChannels>
SAMSDK_BOTH_SIDES void area_pixel(const Resize& task, int y, int x, uint8* values) {
    const Cover rows = cover_of(y, task.from_height, task.down), columns = cover_of(x, task.from_width, task.across);
    float sums[kChannels] = {};
    for (int row = 0; row < rows.count; ++row) {
        const uint8* source = task.at(rows.first + row, columns.first);
        float across[kChannels] = {};
        for (int column = 0; column < columns.count; ++column, source += kChannels) {
            const float share = columns.share(column);
            for (int channel = 0; channel < kChannels; ++channel) across[channel] += source[channel] * share;
        }
        const float share = rows.share(row);
        for (int channel = 0; channel < kChannels; ++channel) sums[channel] += share * across[channel];
    }
    for (int channel = 0; channel < kChannels; ++channel) values[channel] = saturate(sums[channel]);
}

// Both factors are whole numbers.
template <int kChannels>
SAMSDK_BOTH_SIDES void block_pixel(const Resize& task, int y, int x, int height, int width, uint8* values) {
    int sums[kChannels] = {};
    for (int row = 0; row < height; ++row) {
        const uint8* source = task.at(y * height + row, x * width);
        for (int column = 0; column < width; ++column, source += kChannels) {
            for (int channel = 0; channel < kChannels; ++channel) sums[channel] += source[channel];
        }
    }
    const float share = 1.f / (height * width);
    for (int channel = 0; channel < kChannels; ++channel) {
        const bool two = height == 2 && width == 2;
        values[channel] = two ? static_cast<uint8>((sums[channel] + 2) >> 2) : saturate(sums[channel] * share);
    }
}

// The two source pixels of a linear interpolation along an axis, and their weights in 1/2048.
struct Pair {
    int lower, upper;
    int lower_weight, upper_weight;
};

enum Axis { kDown, kAcross };

SAMSDK_BOTH_SIDES int clamp(int value, int last) { return value < 0 ? 0 : value > last ? last : value; }

SAMSDK_BOTH_SIDES Pair pair_of(Axis axis, int at, int from, int to, double scale, Interpolation interpolation) {
    int lower;
    float weight;
    if (interpolation == kArea) {
        // OpenCV's substitute for areas when it enlarges: only pixels that straddle a border are mixed.
        lower = static_cast<int>(floor(at * scale));
        weight = static_cast<float>((at + 1) - (lower + 1) * (static_cast<double>(to) / from));
        weight = weight <= 0.f ? 0.f : weight - floorf(weight);
    } else {
        weight = static_cast<float>((at + 0.5) * scale - 0.5);
        lower = static_cast<int>(floorf(weight));
        weight -= lower;
    }
    // Beyond the border OpenCV takes a column once, but mixes a row with itself, which rounds otherwise.
    if (axis == kAcross && (lower < 0 || lower >= from - 1)) weight = 0.f;
    Pair pair;
    pair.lower = clamp(lower, from - 1);
    pair.upper = clamp(lower + 1, from - 1);
    pair.lower_weight = static_cast<int>(rintf((1.f - weight) * 2048.f));
    pair.upper_weight = static_cast<int>(rintf(weight * 2048.f));
    return pair;
}

template <int kChannels>
SAMSDK_BOTH_SIDES void linear_pixel(const Resize& task, int y, int x, uint8* values) {
    const Pair rows = pair_of(kDown, y, task.from_height, task.height, task.down, task.interpolation);
    const Pair columns = pair_of(kAcross, x, task.from_width, task.width, task.across, task.interpolation);
    const uint8 *low_row = task.at(rows.lower, 0), *high_row = task.at(rows.upper, 0);
    const int64 left = static_cast<int64>(columns.lower) * kChannels;
    const int64 right = static_cast<int64>(columns.upper) * kChannels;
    for (int channel = 0; channel < kChannels; ++channel) {
        const int low = low_row[left + channel] * columns.lower_weight + low_row[right + channel] * columns.upper_weight;
        const int high =
            high_row[left + channel] * columns.lower_weight + high_row[right + channel] * columns.upper_weight;
        const int sum = ((rows.lower_weight * (low >> 4)) >> 16) + ((rows.upper_weight * (high >> 4)) >> 16);
        values[channel] = static_cast<uint8>((sum + 2) >> 2);
    }
}

template <int kChannels>
SAMSDK_BOTH_SIDES void resize_channels(const Resize& task, int y, int x, uint8* values) {
    const int height = whole_factor(task.down), width = whole_factor(task.across);
    // OpenCV's linear interpolation by exactly two is its area, too.
    const bool shrinks = task.interpolation == kArea ? task.down >= 1.0 && task.across >= 1.0
                                                     : height == 2 && width == 2;
    const bool same = height == 1 && width == 1;
    if ((shrinks || same) && height > 0 && width > 0) {
        block_pixel<kChannels>(task, y, x, height, width, values);
    } else if (shrinks) {
        area_pixel<kChannels>(task, y, x, values);
    } else {
        linear_pixel<kChannels>(task, y, x, values);
    }
}

// A pixel of the resized image; a grey image's value comes three times.
SAMSDK_BOTH_SIDES void resize_pixel(const Resize& task, int y, int x, uint8 values[3]) {
    if (task.channels == 3) {
        resize_channels<3>(task, y, x, values);
    } else {
        resize_channels<1>(task, y, x, values);
        values[1] = values[2] = values[0];
    }
}

// How 8 bits become the encoder's numbers: by statistics that are given, or by the resized image's own range.
struct Normalisation {
    bool minmax;
    float mean[3], deviation[3];
};

// The range of a resized image; zero stands for an image without pixels, so that clearing the memory starts it.
struct Range {
    uint32 low_below_255, high;

    SAMSDK_BOTH_SIDES void include(uint8 value) {
        low_below_255 = low_below_255 > 255u - value ? low_below_255 : 255u - value;
        high = high > value ? high : value;
    }

    SAMSDK_BOTH_SIDES float low() const { return static_cast<float>(255u - low_below_255); }

    SAMSDK_BOTH_SIDES float width() const {
        const uint32 low = 255u - low_below_255;
        return high > low ? static_cast<float>(high - low) : 1e-8f;
    }
};

// What is written first: the number itself where it is known, else the 8 bits, to be finished by `finish_pixel`.
template <typename Number>
SAMSDK_BOTH_SIDES void begin_pixel(const Resize& task, const Normalisation& rule, int side, int y, int x,
                                   Number* output, Range& range) {
    const int64 plane = static_cast<int64>(side) * side, at = static_cast<int64>(y) * side + x;
    const bool inside = y < task.height && x < task.width;
    uint8 values[3];
    if (inside) resize_pixel(task, y, x, values);
    for (int channel = 0; channel < 3; ++channel) {
        Number* to = output + channel * plane + at;
        if (!inside) {
            store(0.f, to);
        } else if (rule.minmax) {
            range.include(values[channel]);
            keep(values[channel], to);
        } else {
            store((static_cast<float>(values[channel]) - rule.mean[channel]) / rule.deviation[channel], to);
        }
    }
}

template <typename Number>
SAMSDK_BOTH_SIDES void finish_pixel(const Resize& task, const Range& range, int side, int y, int x, Number* output) {
    if (y >= task.height || x >= task.width) return;
    const int64 plane = static_cast<int64>(side) * side, at = static_cast<int64>(y) * side + x;
    const float low = range.low(), width = range.width();
    for (int channel = 0; channel < 3; ++channel) {
        Number* to = output + channel * plane + at;
        store((kept(*to) - low) / width, to);
    }
}

}  // namespace samsdk
