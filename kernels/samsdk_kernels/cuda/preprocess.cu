// uint8 image [h, w] or [h, w, 3] to the encoder's input [3, side, side]: resized, normalised, padded, in one kernel.
//
// Where the range of the resized image decides (min-max), the kernel is launched cooperatively: its blocks write the
// 8 bits, agree on the range, and finish their own pixels. A compiler without CUDA makes host functions of the same
// names and arguments.
#include "preprocess.cuh"

namespace samsdk {

// Cleared before every launch; the number of blocks that have reported is only used on the device.
struct SharedRange {
    Range range;
    uint32 reported;
};

#ifdef __CUDACC__

// Merge the blocks' ranges and wait for all of them: all blocks of a cooperative launch run at once.
__device__ Range agree(const Range& mine, SharedRange* shared) {
    __shared__ Range block;
    if (threadIdx.x == 0) block.low_below_255 = block.high = 0u;
    __syncthreads();
    atomicMax(&block.low_below_255, mine.low_below_255);
    atomicMax(&block.high, mine.high);
    __syncthreads();
    if (threadIdx.x == 0) {
        atomicMax(&shared->range.low_below_255, block.low_below_255);
        atomicMax(&shared->range.high, block.high);
        __threadfence();
        atomicAdd(&shared->reported, 1u);
        while (atomicAdd(&shared->reported, 0u) < gridDim.x) {
        }
        __threadfence();
        // Atomics read where atomics wrote, past the caches of this multiprocessor.
        block.low_below_255 = atomicMax(&shared->range.low_below_255, 0u);
        block.high = atomicMax(&shared->range.high, 0u);
    }
    __syncthreads();
    return block;
}

template <typename Number>
__device__ void preprocess(const Resize& task, const Normalisation& rule, int side, SharedRange* shared,
                           Number* output) {
    const int64 count = static_cast<int64>(side) * side, stride = static_cast<int64>(gridDim.x) * blockDim.x;
    const int64 start = static_cast<int64>(blockIdx.x) * blockDim.x + threadIdx.x;
    Range mine = {0u, 0u};
    for (int64 at = start; at < count; at += stride) {
        begin_pixel(task, rule, side, static_cast<int>(at / side), static_cast<int>(at % side), output, mine);
    }
    if (!rule.minmax) return;
    const Range range = agree(mine, shared);
    for (int64 at = start; at < count; at += stride) {
        finish_pixel(task, range, side, static_cast<int>(at / side), static_cast<int>(at % side), output);
    }
}

#define SAMSDK_KERNEL extern "C" __global__ void __launch_bounds__(256)

#else

template <typename Number>
void preprocess(const Resize& task, const Normalisation& rule, int side, SharedRange* shared, Number* output) {
    for (int y = 0; y < side; ++y) {
        for (int x = 0; x < side; ++x) begin_pixel(task, rule, side, y, x, output, shared->range);
    }
    for (int y = 0; rule.minmax && y < side; ++y) {
        for (int x = 0; x < side; ++x) finish_pixel(task, shared->range, side, y, x, output);
    }
}

#define SAMSDK_KERNEL extern "C" void

#endif

}  // namespace samsdk

#define SAMSDK_PREPROCESS(name, Number)                                                                             \
    SAMSDK_KERNEL name(const samsdk::uint8* pixels, samsdk::int64 row_stride, int channels, int from_height,        \
                       int from_width, int height, int width, double down, double across, int interpolation,       \
                       int side, int minmax, float mean_0, float mean_1, float mean_2, float deviation_0,          \
                       float deviation_1, float deviation_2, samsdk::SharedRange* shared, Number* output) {        \
        const samsdk::Resize task = {pixels, row_stride, channels, from_height, from_width, height,                \
                                     width,  down,       across,   static_cast<samsdk::Interpolation>(interpolation)}; \
        const samsdk::Normalisation rule = {                                                                        \
            minmax != 0, {mean_0, mean_1, mean_2}, {deviation_0, deviation_1, deviation_2}};                        \
        samsdk::preprocess(task, rule, side, shared, output);                                                       \
    }

SAMSDK_PREPROCESS(preprocess_float16, samsdk::half_bits)
SAMSDK_PREPROCESS(preprocess_float32, float)
