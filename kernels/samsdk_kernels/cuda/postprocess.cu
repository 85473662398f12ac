// Low-res logits [masks, side, side] to masks of the image, 32 pixels a word, with area and box, in one kernel.
//
// Logits are cropped to what shows the image, interpolated bilinearly and thresholded. A word's lowest bit is its
// leftmost pixel; rows begin with a new word. A compiler without CUDA makes a host function of the same name and
// arguments.
#include "postprocess.cuh"

namespace samsdk {

struct Mask {
    const float* logits;
    int side;
    Reading down, across;
    float threshold;
    int height, width;
};

#ifdef __CUDACC__

// A block makes eight words of one row; blockIdx is (words / 8, row, mask).
__device__ void postprocess(const Mask& mask, uint32* words, Measures* measures) {
    const int row_words = (mask.width + 31) / 32, lane = threadIdx.x % 32;
    const int y = blockIdx.y, word_at = blockIdx.x * 8 + threadIdx.x / 32, x = word_at * 32 + lane;
    const float* logits = mask.logits + static_cast<int64>(blockIdx.z) * mask.side * mask.side;
    const bool foreground =
        x < mask.width && is_foreground(logits, mask.side, mask.down, mask.across, mask.threshold, y, x);
    const uint32 word = __ballot_sync(0xffffffffu, foreground);
    if (lane == 0 && word_at < row_words) {
        words[(static_cast<int64>(blockIdx.z) * mask.height + y) * row_words + word_at] = word;
    }
    __shared__ Measures block;
    if (threadIdx.x == 0) block = Measures();
    __syncthreads();
    if (lane == 0 && word) {
        Measures mine = {};
        mine.include(word, y, word_at * 32, mask.height, mask.width);
        atomicAdd(&block.area, mine.area);
        atomicMax(&block.from_right, mine.from_right);
        atomicMax(&block.right, mine.right);
    }
    __syncthreads();
    if (threadIdx.x == 0 && block.area) {
        Measures* all = measures + blockIdx.z;
        atomicAdd(&all->area, block.area);
        atomicMax(&all->from_right, block.from_right);
        atomicMax(&all->from_bottom, static_cast<uint32>(mask.height - y));
        atomicMax(&all->right, block.right);
        atomicMax(&all->bottom, static_cast<uint32>(y + 1));
    }
}

#define SAMSDK_KERNEL extern "C" __global__ void __launch_bounds__(256)

#else

void postprocess(const Mask& mask, int masks, uint32* words, Measures* measures) {
    const int row_words = (mask.width + 31) / 32;
    for (int index = 0; index < masks; ++index) {
        const float* logits = mask.logits + static_cast<int64>(index) * mask.side * mask.side;
        for (int y = 0; y < mask.height; ++y) {
            for (int at = 0; at < row_words; ++at, ++words) {
                *words = 0u;
                for (int x = at * 32; x < mask.width && x < at * 32 + 32; ++x) {
                    *words |= static_cast<uint32>(is_foreground(logits, mask.side, mask.down, mask.across,
                                                                mask.threshold, y, x))
                              << (x % 32);
                }
                measures[index].include(*words, y, at * 32, mask.height, mask.width);
            }
        }
    }
}

#define SAMSDK_KERNEL extern "C" void

#endif

}  // namespace samsdk

// `measures` is cleared before every launch. On the device the grid says how many masks there are.
SAMSDK_KERNEL postprocess(const float* logits, int masks, int side, int top, int window_height, int cells_down,
                          double step_down, int left, int window_width, int cells_across, double step_across,
                          float threshold, int height, int width, samsdk::uint32* words,
                          samsdk::Measures* measures) {
    const samsdk::Reading down = {top, window_height, cells_down, step_down};
    const samsdk::Reading across = {left, window_width, cells_across, step_across};
    const samsdk::Mask mask = {logits, side, down, across, threshold, height, width};
#ifdef __CUDACC__
    if (blockIdx.z < static_cast<unsigned>(masks)) samsdk::postprocess(mask, words, measures);
#else
    samsdk::postprocess(mask, masks, words, measures);
#endif
}
