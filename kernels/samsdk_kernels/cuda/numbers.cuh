// What all kernels share: the macro that makes a function one of both sides, and the half-precision conversion.
//
// Functions of these headers hold the arithmetic of one pixel. nvcc and NVRTC compile them for the device; any C++
// compiler compiles the same text for the host, where the tests hold it against samsdk. Multiplications and additions
// must not be fused (nvcc: -fmad=false, g++: -ffp-contract=off), as neither OpenCV nor NumPy fuses them.
#pragma once

#ifdef __CUDACC__
#define SAMSDK_BOTH_SIDES __host__ __device__ inline
#else
#include <cmath>
#include <cstring>
#define SAMSDK_BOTH_SIDES inline
#endif

namespace samsdk {

typedef unsigned char uint8;
typedef unsigned short uint16;
typedef unsigned int uint32;
typedef long long int64;

// IEEE half precision, held as its bits: NVRTC alone has no cuda_fp16.h.
struct half_bits {
    uint16 bits;
};

SAMSDK_BOTH_SIDES uint32 bits_of(float value) {
#ifdef __CUDA_ARCH__
    return __float_as_uint(value);
#else
    uint32 bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
#endif
}

// To the nearest half, ties to even, as NumPy's astype; too large becomes infinity, NaN stays one.
SAMSDK_BOTH_SIDES half_bits to_half(float value) {
    const uint32 bits = bits_of(value), sign = (bits >> 16) & 0x8000u, magnitude = bits & 0x7fffffffu;
    uint32 result;
    if (magnitude > 0x7f800000u) {
        result = 0x7e00u;
    } else if (magnitude >= 0x477ff000u) {
        result = 0x7c00u;
    } else if (magnitude >= 0x38800000u) {
        // Normal: rebias the exponent by 15 - 127 and round off 13 bits; a carry moves into the exponent as it should.
        result = (magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
    } else if (magnitude >= 0x33000000u) {
        // Subnormal: multiples of 2^-24.
        const uint32 mantissa = (magnitude & 0x7fffffu) | 0x800000u, shift = 126u - (magnitude >> 23);
        const uint32 rest = mantissa & ((1u << shift) - 1u), middle = 1u << (shift - 1u);
        result = mantissa >> shift;
        result += rest > middle || (rest == middle && (result & 1u));
    } else {
        result = 0u;
    }
    half_bits half = {static_cast<uint16>(sign | result)};
    return half;
}

SAMSDK_BOTH_SIDES void store(float value, float* to) { *to = value; }
SAMSDK_BOTH_SIDES void store(float value, half_bits* to) { *to = to_half(value); }

// 8 bits held for a while in the place of a number.
SAMSDK_BOTH_SIDES void keep(uint8 value, float* to) { *to = static_cast<float>(value); }
SAMSDK_BOTH_SIDES void keep(uint8 value, half_bits* to) { to->bits = value; }
SAMSDK_BOTH_SIDES float kept(float number) { return number; }
SAMSDK_BOTH_SIDES float kept(half_bits number) { return static_cast<float>(number.bits); }

}  // namespace samsdk
