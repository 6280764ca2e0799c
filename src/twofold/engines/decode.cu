// One decoding step of a Mistral-shaped model with NF4 weights and stacked LoRA adapters, for 1 to 32 lanes (rows of a batch).
//
// Compiled at run time by NVRTC (kernels.py), so no header is included; needs compute capability 8.0. GROUP: query heads to a KV head.
// VOCAB: size of the vocabulary, at most 32768. Half precision is kept in u16: activations and adapters are fp16 (11 bits, against 8 of
// bf16), the residual stream and all sums are float32, the KV cache, embeddings and norms are bf16 as in the model.
//
// The matrix kernel. bitsandbytes stores a row of K weights as K/2 bytes, the earlier weight in the high nibble, and a scale for each 64. A
// warp takes 16 rows and feeds the tensor cores (mma.m16n8k16: 16 weight rows x 8 lanes). The order of k inside an instruction is free as
// long as both operands agree, so each thread loads 8 bytes of a row, which are 16 weights, and needs no reordering. A byte becomes its two
// fp16 codes by one look-up in shared memory; the table stands there 32 times, once a bank, so no two threads collide. A block of 64 weights
// is summed in float32 and then scaled: the scales never touch the weights.
// LoRA rides along. The first blocks compute t = A x of the adapters that are in use, for each lane its own; the others add B t as one more
// tensor-core step on their 16 rows, once a counter says that t is whole. Slot 0 is BASE and costs nothing.

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

#define LANES 32     // most lanes of a batch
#define WARPS 8      // in a block of the matrix kernel
#define CHUNK 256    // weights of a row that a warp holds at once
#define SHRINK 64.0f // the MLP's inner values are stored divided by this, so that fp16 holds up to 4 million

// Programmatic dependent launch: a kernel starts while the one before it ends, and waits before it reads what that one wrote.
__device__ __forceinline__ void wait_for_previous() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
__device__ __forceinline__ void let_next_start() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

__device__ __forceinline__ float from_bf16(u32 bits) { return __uint_as_float(bits << 16); }
__device__ __forceinline__ float low_bf16(u32 pair) { return __uint_as_float(pair << 16); }
__device__ __forceinline__ float high_bf16(u32 pair) { return __uint_as_float(pair & 0xffff0000u); }
__device__ __forceinline__ float from_f16(u16 bits) {
  float value;
  asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
  return value;
}
__device__ __forceinline__ u16 to_f16(float value) { // saturates: an infinity would spoil the whole row
  u16 bits;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(fminf(fmaxf(value, -65504.0f), 65504.0f)));
  return bits;
}
__device__ __forceinline__ u32 two_f16(float low, float high) { return (u32)to_f16(low) | ((u32)to_f16(high) << 16); }
__device__ __forceinline__ u32 two_bf16(float low, float high) {
  u32 bits;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(bits) : "f"(high), "f"(low));
  return bits;
}
__device__ __forceinline__ u16 to_bf16(float value) { return (u16)two_bf16(value, 0.0f); }
__device__ __forceinline__ uint2 weights_of(const u8 *address) { // read once: past the L1, whole lines into the L2
  uint2 value;
  asm volatile("ld.global.nc.L1::no_allocate.L2::128B.v2.u32 {%0, %1}, [%2];" : "=r"(value.x), "=r"(value.y) : "l"(address));
  return value;
}
__device__ __forceinline__ u32 acquire(const u32 *address) {
  u32 value;
  asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(value) : "l"(address) : "memory");
  return value;
}
__device__ __forceinline__ float4 past_l1(const float *address) {
  float4 v;
  asm volatile("ld.global.cg.v4.f32 {%0, %1, %2, %3}, [%4];" : "=f"(v.x), "=f"(v.y), "=f"(v.z), "=f"(v.w) : "l"(address) : "memory");
  return v;
}
__device__ __forceinline__ float one_past_l1(const float *address) {
  float v;
  asm volatile("ld.global.cg.f32 %0, [%1];" : "=f"(v) : "l"(address) : "memory");
  return v;
}
// d (16 x 8, float32) += a (16 x 16, fp16) b (16 x 8, fp16); PTX ISA, "Matrix Fragments for mma.m16n8k16".
__device__ __forceinline__ void mma(float (&d)[4], u32 a0, u32 a1, u32 a2, u32 a3, u32 b0, u32 b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

__constant__ float CODES[16] = {-1.0f, -0.6961928009986877f, -0.5250730514526367f, -0.39491748809814453f, -0.28444138169288635f,
                                -0.18477343022823334f, -0.09105003625154495f, 0.0f, 0.07958029955625534f, 0.16093020141124725f,
                                0.24611230194568634f, 0.33791524171829224f, 0.44070982933044434f, 0.5626170039176941f,
                                0.7229568362236023f, 1.0f};

// ---------------------------------------------------------------------------------------------------------------- matrices

enum { STORE, ADD, SILU };

struct Matrix { // y (lanes, m) of x (lanes, k); all sizes in elements
  const u8 *w;      // (m, k / 2) packed codes
  const u16 *scale; // (m, k / 64) fp16
  const u16 *x;     // (lanes, k) fp16
  const u16 *a;     // (slots, subs * rank, k) fp16
  const u16 *b;     // (slots, m, rank) fp16
  float *t;         // (splits, LANES, subs * rank)
  u32 *ready;       // work units of A that are done in this step; a step begins with 0
  const int *slot;  // (lanes) which adapter
  float *out;       // STORE, ADD: (lanes, m)
  u16 *half_out;    // SILU: (lanes, m / 2) fp16
  int m, k, lanes, slots, subs, rank, splits;
  int cut1, cut2; // first rows of the second and third projection that are fused in this matrix
  float gain;     // undoes SHRINK
};

// 16 values of lane `n` that belong to this thread: 8 fp16 pairs.
__device__ __forceinline__ void lane_values(u32 (&v)[8], const u16 *x, int k, int at, bool alive) {
  uint4 lo = make_uint4(0, 0, 0, 0), hi = lo;
  if (alive) {
    const uint4 *p = (const uint4 *)(x + at);
    lo = p[0];
    hi = p[1];
  }
  v[0] = lo.x, v[1] = lo.y, v[2] = lo.z, v[3] = lo.w, v[4] = hi.x, v[5] = hi.y, v[6] = hi.z, v[7] = hi.w;
}

// t of one slot: 16 ranks, one slice of k, all lanes that speak with it.
template <int NT> __device__ __forceinline__ void project(const Matrix &p, int unit, float *sums) {
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, g = lane >> 2, q = lane & 3, ranks = p.subs * p.rank;
  const int split = unit % p.splits, tile = unit / p.splits % (ranks / 16), slot = 1 + unit / p.splits / (ranks / 16);
  bool wanted = lane < p.lanes && p.slot[lane] == slot;
  if (__any_sync(~0u, wanted)) {
    float d[NT][4] = {};
    const int blocks = p.k / 64, each = (blocks + p.splits - 1) / p.splits, end = min(blocks, (split + 1) * each);
    for (int block = split * each + warp; block < end; block += WARPS) {
      const int at = block * 64 + 16 * q;
      const u16 *row = p.a + ((size_t)slot * ranks + tile * 16 + g) * p.k + at;
      u32 low[8], high[8], x[8];
      lane_values(low, row, 0, 0, true);
      lane_values(high, row + (size_t)8 * p.k, 0, 0, true);
#pragma unroll
      for (int n = 0; n < NT; n++) {
        lane_values(x, p.x, p.k, (n * 8 + g) * p.k + at, n * 8 + g < p.lanes);
#pragma unroll
        for (int j = 0; j < 4; j++) mma(d[n], low[2 * j], high[2 * j], low[2 * j + 1], high[2 * j + 1], x[2 * j], x[2 * j + 1]);
      }
    }
#pragma unroll
    for (int n = 0; n < NT; n++)
#pragma unroll
      for (int i = 0; i < 4; i++) sums[(warp * NT * 4 + n * 4 + i) * 32 + lane] = d[n][i];
    __syncthreads();
    for (int e = threadIdx.x; e < NT * 128; e += WARPS * 32) {
      const int from = e & 31, i = e >> 5 & 3, n = (e >> 7) * 8 + 2 * (from & 3) + (i & 1);
      float sum = 0;
#pragma unroll
      for (int w = 0; w < WARPS; w++) sum += sums[(w * NT * 4) * 32 + e];
      if (n < p.lanes && p.slot[n] == slot) p.t[((size_t)split * LANES + n) * ranks + tile * 16 + (from >> 2) + 8 * (i >> 1)] = sum;
    }
    __threadfence();
  }
  __syncthreads();
  if (threadIdx.x == 0) atomicAdd(p.ready, 1);
}

// MT tiles of 16 rows (two for SILU: gate and up), NT tiles of 8 lanes. Persistent: the grid fits the chip, so waiting for t cannot hang.
template <int MT, int NT, int KIND> __device__ __forceinline__ void multiply(const Matrix &p) {
  extern __shared__ u32 table[]; // 256 pairs of codes x 32 banks, then the sums of the warps
  float *sums = (float *)(table + 256 * 32);
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, g = lane >> 2, q = lane & 3;
  const int ranks = p.subs * p.rank, jobs = (p.slots - 1) * (ranks / 16) * p.splits;
  const int half_m = p.m / 2, units = jobs + (KIND == SILU ? half_m : p.m) / 16, chunks = p.k / CHUNK;
  const u8 *table_lane = (const u8 *)table;
  const u32 bank = lane * 4;
  u32 w[MT][2][8];
  uint2 s[MT][2];
  let_next_start();

  auto fetch = [&](int unit, int chunk) {
#pragma unroll
    for (int mt = 0; mt < MT; mt++)
#pragma unroll
      for (int h = 0; h < 2; h++) {
        const size_t row = (unit - jobs) * 16 + mt * half_m + h * 8 + g;
        const u8 *from = p.w + row * (p.k / 2) + chunk * (CHUNK / 2) + 8 * q;
#pragma unroll
        for (int b = 0; b < 4; b++) {
          uint2 v = weights_of(from + 32 * b);
          w[mt][h][2 * b] = v.x;
          w[mt][h][2 * b + 1] = v.y;
        }
        s[mt][h] = weights_of((const u8 *)(p.scale + row * (p.k / 64) + chunk * 4));
      }
  };

  int unit = blockIdx.x;
  if (unit >= jobs && unit < units && warp < chunks) fetch(unit, warp); // weights are nobody's output: no need to wait for them
  {
    const int e = threadIdx.x;
    const u32 pair = two_f16(CODES[e >> 4], CODES[e & 15]);
#pragma unroll
    for (int j = 0; j < 8; j++) ((uint4 *)table)[e * 8 + ((j + e) & 7)] = make_uint4(pair, pair, pair, pair);
  }
  wait_for_previous();
  __syncthreads();

  for (; unit < units; unit += gridDim.x) {
    const int next = unit + gridDim.x;
    if (unit < jobs) {
      project<NT>(p, unit, sums);
      __syncthreads();
      if (next >= jobs && next < units && warp < chunks) fetch(next, warp);
      continue;
    }
    float acc[MT][NT][4] = {};
    for (int chunk = warp; chunk < chunks;) {
#pragma unroll
      for (int b = 0; b < 4; b++) {
        u32 x[NT][8];
#pragma unroll
        for (int n = 0; n < NT; n++) lane_values(x[n], p.x, p.k, (n * 8 + g) * p.k + chunk * CHUNK + b * 64 + 16 * q, n * 8 + g < p.lanes);
#pragma unroll
        for (int mt = 0; mt < MT; mt++) {
          float d[NT][4] = {};
#pragma unroll
          for (int j = 0; j < 4; j++) {
            const u32 low = w[mt][0][2 * b + (j >> 1)], high = w[mt][1][2 * b + (j >> 1)];
            u32 a0, a1, a2, a3;
#define LOOK(shifted) (*(const u32 *)(table_lane + (((shifted) & 0x7f80u) | bank)))
            if (j & 1) {
              a0 = LOOK(low >> 9), a1 = LOOK(high >> 9), a2 = LOOK(low >> 17), a3 = LOOK(high >> 17);
            } else {
              a0 = LOOK(low << 7), a1 = LOOK(high << 7), a2 = LOOK(low >> 1), a3 = LOOK(high >> 1);
            }
#pragma unroll
            for (int n = 0; n < NT; n++) mma(d[n], a0, a1, a2, a3, x[n][2 * j], x[n][2 * j + 1]);
          }
          const float upper = from_f16((u16)((b & 2 ? s[mt][0].y : s[mt][0].x) >> (b & 1 ? 16 : 0)));
          const float lower = from_f16((u16)((b & 2 ? s[mt][1].y : s[mt][1].x) >> (b & 1 ? 16 : 0)));
#pragma unroll
          for (int n = 0; n < NT; n++) {
            acc[mt][n][0] += upper * d[n][0];
            acc[mt][n][1] += upper * d[n][1];
            acc[mt][n][2] += lower * d[n][2];
            acc[mt][n][3] += lower * d[n][3];
          }
        }
      }
      chunk += WARPS;
      if (chunk < chunks) fetch(unit, chunk);
    }
    if (next < units && next >= jobs && warp < chunks) fetch(next, warp); // on the way while this tile is summed

#pragma unroll
    for (int mt = 0; mt < MT; mt++)
#pragma unroll
      for (int n = 0; n < NT; n++)
        if (warp == (mt * NT + n) % WARPS) {
          const int row = (unit - jobs) * 16 + mt * half_m, sub = (row >= p.cut1) + (row >= p.cut2), mine = n * 8 + g;
          const int slot = mine < p.lanes ? p.slot[mine] : 0;
          for (int one = 1; one < p.slots; one++) {
            if (!__any_sync(~0u, slot == one)) continue;
            while (acquire(p.ready) < (u32)jobs) {}
            for (int r = 0; r < p.rank; r += 16) {
              float4 v = make_float4(0, 0, 0, 0);
              if (slot == one)
#pragma unroll 4
                for (int split = 0; split < p.splits; split++) {
                  const float4 u = past_l1(p.t + ((size_t)split * LANES + mine) * ranks + sub * p.rank + r + 4 * q);
                  v.x += u.x, v.y += u.y, v.z += u.z, v.w += u.w;
                }
              const u16 *from = p.b + ((size_t)one * p.m + row + g) * p.rank + r + 4 * q;
              const uint2 low = *(const uint2 *)from, high = *(const uint2 *)(from + 8 * p.rank);
              mma(acc[mt][n], low.x, high.x, low.y, high.y, two_f16(v.x, v.y), two_f16(v.z, v.w));
            }
          }
        }

#pragma unroll
    for (int mt = 0; mt < MT; mt++)
#pragma unroll
      for (int n = 0; n < NT; n++)
#pragma unroll
        for (int i = 0; i < 4; i++) sums[(((warp * MT + mt) * NT + n) * 4 + i) * 32 + lane] = acc[mt][n][i];
    __syncthreads();
    for (int e = threadIdx.x; e < NT * 128; e += WARPS * 32) {
      const int from = e & 31, i = e >> 5 & 3, n = (e >> 7) * 8 + 2 * (from & 3) + (i & 1);
      float y[MT] = {};
#pragma unroll
      for (int mt = 0; mt < MT; mt++)
#pragma unroll
        for (int one = 0; one < WARPS; one++) y[mt] += sums[(one * MT + mt) * NT * 128 + e];
      if (n < p.lanes) {
        const int row = (unit - jobs) * 16 + (from >> 2) + 8 * (i >> 1);
        if (KIND == STORE) p.out[(size_t)n * p.m + row] = y[0] * p.gain;
        if (KIND == ADD) p.out[(size_t)n * p.m + row] += y[0] * p.gain;
        if (KIND == SILU) p.half_out[(size_t)n * half_m + row] = to_f16(y[0] / (1.0f + __expf(-y[0])) * y[MT - 1] / SHRINK);
      }
    }
    __syncthreads();
  }
}

#define MATRIX(NAME, MT, NT, KIND, BLOCKS) \
  extern "C" __global__ void __launch_bounds__(WARPS * 32, BLOCKS) NAME(const Matrix p) { multiply<MT, NT, KIND>(p); }
MATRIX(store_1, 1, 1, STORE, 3)
MATRIX(store_2, 1, 2, STORE, 2)
MATRIX(store_4, 1, 4, STORE, 2)
MATRIX(add_1, 1, 1, ADD, 3)
MATRIX(add_2, 1, 2, ADD, 2)
MATRIX(add_4, 1, 4, ADD, 2)
MATRIX(silu_1, 2, 1, SILU, 3)
MATRIX(silu_2, 2, 2, SILU, 2)
MATRIX(silu_4, 2, 4, SILU, 1)

// The plain weights of a matrix, bf16, for prompts: `pieces` groups of 16 weights.
extern "C" __global__ void unpack(const u8 *w, const u16 *scale, u16 *out, long long pieces) {
  __shared__ float codes[16];
  if (threadIdx.x < 16) codes[threadIdx.x] = CODES[threadIdx.x];
  __syncthreads();
  const long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= pieces) return;
  const uint2 v = weights_of(w + i * 8);
  const float s = from_f16(scale[i / 4]);
  u32 pair[8];
#pragma unroll
  for (int j = 0; j < 8; j++) {
    const u32 byte = ((j < 4 ? v.x : v.y) >> (8 * (j & 3))) & 255u;
    pair[j] = two_bf16(codes[byte >> 4] * s, codes[byte & 15] * s);
  }
  ((uint4 *)out)[i * 2] = make_uint4(pair[0], pair[1], pair[2], pair[3]);
  ((uint4 *)out)[i * 2 + 1] = make_uint4(pair[4], pair[5], pair[6], pair[7]);
}

// ------------------------------------------------------------------------------------------------------------ the other steps

// Lane n takes the state of its cache row; the last token's embedding starts the residual stream. Grid: lanes.
extern "C" __global__ void begin(const int *lanes, const int *state, const u16 *embedding, float *residual, int *slot, int *position,
                                 u32 *ready, int hidden, int counters) {
  const int n = blockIdx.x, row = lanes[n];
  const u16 *from = embedding + (size_t)state[row * 3] * hidden;
  for (int i = threadIdx.x; i < hidden; i += blockDim.x) residual[(size_t)n * hidden + i] = from_bf16(from[i]);
  if (threadIdx.x == 0) position[n] = state[row * 3 + 1], slot[n] = state[row * 3 + 2];
  if (n == 0)
    for (int i = threadIdx.x; i < counters; i += blockDim.x) ready[i] = 0;
}

__device__ __forceinline__ float warp_sum(float v) {
#pragma unroll
  for (int d = 16; d; d >>= 1) v += __shfl_xor_sync(~0u, v, d);
  return v;
}

// RMSNorm (arXiv 1910.07467) of float32 into fp16, or bf16 for the head. Grid: lanes; 512 threads; hidden a multiple of 4.
extern "C" __global__ void rms_norm(const float *residual, const u16 *weight, u16 *out, int hidden, float eps, int bf16) {
  __shared__ float part[16];
  let_next_start();
  wait_for_previous();
  const float *from = residual + (size_t)blockIdx.x * hidden;
  float sum = 0;
  for (int i = threadIdx.x * 4; i < hidden; i += blockDim.x * 4) {
    const float4 v = *(const float4 *)(from + i);
    sum += v.x * v.x + v.y * v.y + v.z * v.z + v.w * v.w;
  }
  sum = warp_sum(sum);
  if ((threadIdx.x & 31) == 0) part[threadIdx.x >> 5] = sum;
  __syncthreads();
  sum = 0;
  for (int i = 0; i < (int)(blockDim.x >> 5); i++) sum += part[i];
  const float scale = rsqrtf(sum / hidden + eps);
  for (int i = threadIdx.x * 4; i < hidden; i += blockDim.x * 4) {
    const float4 v = *(const float4 *)(from + i);
    const uint2 w = *(const uint2 *)(weight + i);
    const float a = v.x * scale * low_bf16(w.x), b = v.y * scale * high_bf16(w.x);
    const float c = v.z * scale * low_bf16(w.y), d = v.w * scale * high_bf16(w.y);
    *(uint2 *)(out + (size_t)blockIdx.x * hidden + i) =
        bf16 ? make_uint2(two_bf16(a, b), two_bf16(c, d)) : make_uint2(two_f16(a, b), two_f16(c, d));
  }
}

// Rotary embedding of the new token, its key and value into the cache, attention over the cache (flash decoding: the positions are split
// among blocks, and the last block to end joins the parts). Grid: (splits, KV heads, lanes); 128 threads; head size 128.
extern "C" __global__ void __launch_bounds__(128) attention(const float *qkv, u16 *keys, u16 *values, const int *lanes, const int *position,
                                                            const float *rope, float *parts, u32 *count, u16 *out, int heads, int kv_heads,
                                                            int context, float scale) {
  __shared__ float ms[8][GROUP], ls[8][GROUP], as[8][GROUP][128];
  __shared__ float pm[32][GROUP], pl[32][GROUP];
  __shared__ u32 last;
  let_next_start();
  wait_for_previous();
  const int split = blockIdx.x, head = blockIdx.y, n = blockIdx.z, half = threadIdx.x >> 4, c = threadIdx.x & 15;
  const int pos = position[n], chunk = max(32, (pos + (int)gridDim.x - 1) / (int)gridDim.x), active = max(1, (pos + chunk - 1) / chunk);
  if (split >= active) return;
  const int begin = split * chunk, end = min(pos, begin + chunk);
  const float *from = qkv + (size_t)n * (heads + 2 * kv_heads) * 128;
  const size_t at = ((size_t)lanes[n] * kv_heads + head) * context * 128;
  float cs[8], sn[8], q[GROUP][8], acc[GROUP][8] = {}, m[GROUP], l[GROUP];
#pragma unroll
  for (int i = 0; i < 8; i++) {
    cs[i] = rope[(size_t)pos * 128 + ((c * 8 + i) & 63)];
    sn[i] = rope[(size_t)pos * 128 + 64 + ((c * 8 + i) & 63)];
    if (c < 8) sn[i] = -sn[i];
  }
#pragma unroll
  for (int h = 0; h < GROUP; h++) {
    const float *qh = from + (head * GROUP + h) * 128;
#pragma unroll
    for (int i = 0; i < 8; i++) q[h][i] = (qh[c * 8 + i] * cs[i] + qh[((c * 8 + 64) & 127) + i] * sn[i]) * scale;
    m[h] = -1e30f, l[h] = 0;
  }
  auto add = [&](const uint4 &k4, const uint4 &v4, bool there) {
    const u32 kw[4] = {k4.x, k4.y, k4.z, k4.w}, vw[4] = {v4.x, v4.y, v4.z, v4.w};
#pragma unroll
    for (int h = 0; h < GROUP; h++) {
      float s = 0;
#pragma unroll
      for (int i = 0; i < 4; i++) s += q[h][2 * i] * low_bf16(kw[i]) + q[h][2 * i + 1] * high_bf16(kw[i]);
#pragma unroll
      for (int d = 8; d; d >>= 1) s += __shfl_xor_sync(~0u, s, d);
      if (there) {
        const float top = fmaxf(m[h], s), old = exp2f(m[h] - top), w = exp2f(s - top);
        m[h] = top;
        l[h] = l[h] * old + w;
#pragma unroll
        for (int i = 0; i < 4; i++) {
          acc[h][2 * i] = acc[h][2 * i] * old + w * low_bf16(vw[i]);
          acc[h][2 * i + 1] = acc[h][2 * i + 1] * old + w * high_bf16(vw[i]);
        }
      }
    }
  };
  for (int p = begin; p < end; p += 16) {
    const int one = p + half, two = one + 8;
    uint4 k1 = make_uint4(0, 0, 0, 0), v1 = k1, k2 = k1, v2 = k1;
    if (one < end) k1 = *(const uint4 *)(keys + at + (size_t)one * 128 + c * 8), v1 = *(const uint4 *)(values + at + (size_t)one * 128 + c * 8);
    if (two < end) k2 = *(const uint4 *)(keys + at + (size_t)two * 128 + c * 8), v2 = *(const uint4 *)(values + at + (size_t)two * 128 + c * 8);
    add(k1, v1, one < end);
    add(k2, v2, two < end);
  }
  if (split == 0) { // the new token itself
    const float *kh = from + (heads + head) * 128, *vh = kh + kv_heads * 128;
    u32 kw[4], vw[4];
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const int d = c * 8 + 2 * i, other = (d + 64) & 127;
      kw[i] = two_bf16(kh[d] * cs[2 * i] + kh[other] * sn[2 * i], kh[d + 1] * cs[2 * i + 1] + kh[other + 1] * sn[2 * i + 1]);
      vw[i] = two_bf16(vh[d], vh[d + 1]);
    }
    const uint4 k4 = make_uint4(kw[0], kw[1], kw[2], kw[3]), v4 = make_uint4(vw[0], vw[1], vw[2], vw[3]);
    if (half == 0) {
      *(uint4 *)(keys + at + (size_t)pos * 128 + c * 8) = k4;
      *(uint4 *)(values + at + (size_t)pos * 128 + c * 8) = v4;
    }
    add(k4, v4, half == 0);
  }
#pragma unroll
  for (int h = 0; h < GROUP; h++) {
    if (c == 0) ms[half][h] = m[h], ls[half][h] = l[h];
#pragma unroll
    for (int i = 0; i < 8; i++) as[half][h][c * 8 + i] = acc[h][i];
  }
  __syncthreads();
  const int d = threadIdx.x;
  float *part = parts + ((size_t)n * kv_heads + head) * 32 * GROUP * 130;
#pragma unroll
  for (int h = 0; h < GROUP; h++) {
    float top = -1e30f, sum = 0, value = 0;
    for (int i = 0; i < 8; i++) top = fmaxf(top, ms[i][h]);
    for (int i = 0; i < 8; i++) {
      const float w = exp2f(ms[i][h] - top);
      sum += w * ls[i][h];
      value += w * as[i][h][d];
    }
    if (active == 1)
      out[((size_t)n * heads + head * GROUP + h) * 128 + d] = to_f16(value / sum);
    else {
      float *mine = part + (split * GROUP + h) * 130;
      mine[d] = value;
      if (d == 0) mine[128] = top, mine[129] = sum;
    }
  }
  if (active == 1) return;
  __threadfence();
  __syncthreads();
  if (d == 0) last = atomicAdd(count + n * kv_heads + head, 1) == (u32)(active - 1);
  __syncthreads();
  if (!last) return;
  __threadfence();
  if (d == 0) count[n * kv_heads + head] = 0;
  for (int i = d; i < active * GROUP; i += 128) {
    pm[i / GROUP][i % GROUP] = one_past_l1(part + i * 130 + 128);
    pl[i / GROUP][i % GROUP] = one_past_l1(part + i * 130 + 129);
  }
  __syncthreads();
#pragma unroll
  for (int h = 0; h < GROUP; h++) {
    float top = -1e30f, sum = 0, value = 0;
    for (int i = 0; i < active; i++) top = fmaxf(top, pm[i][h]);
#pragma unroll 4
    for (int i = 0; i < active; i++) {
      const float w = exp2f(pm[i][h] - top);
      sum += w * pl[i][h];
      value += w * one_past_l1(part + (i * GROUP + h) * 130 + d);
    }
    out[((size_t)n * heads + head * GROUP + h) * 128 + d] = to_f16(value / sum);
  }
}

#define PER ((VOCAB + 1023) / 1024)

__device__ __forceinline__ float block_sum(float v, float *shared) { // the same sum in every thread, always in the same order
  v = warp_sum(v);
  __syncthreads();
  if ((threadIdx.x & 31) == 0) shared[threadIdx.x >> 5] = v;
  __syncthreads();
  return warp_sum(shared[threadIdx.x & 31]);
}

// The next token of each lane. top_p (arXiv 1904.09751) finds by bisection the least score that stays; the draw depends on the row's seed
// and position alone, so no batch mate changes it. Grid: lanes; 1024 threads, each with PER neighbouring tokens.
extern "C" __global__ void __launch_bounds__(1024) sample(const float *logits, const int *lanes, int *state, const float *knobs,
                                                          const u64 *seeds, u8 *seen, int *chosen, int rows) {
  __shared__ float shared[32];
  __shared__ float best_value[32];
  __shared__ int best_token[32], pick;
  wait_for_previous();
  const int n = blockIdx.x, row = lanes[n], tid = threadIdx.x, first = tid * PER;
  if (row >= rows) return; // nobody sits in this lane
  const float temperature = knobs[row * 3], top_p = knobs[row * 3 + 1], penalty = knobs[row * 3 + 2];
  float v[PER], value = -3e38f;
  int token = 0;
#pragma unroll
  for (int i = 0; i < PER; i++) {
    v[i] = first + i < VOCAB ? logits[(size_t)n * VOCAB + first + i] : -3e38f;
    if (penalty != 1.0f && first + i < VOCAB && seen[(size_t)row * VOCAB + first + i]) v[i] = v[i] > 0 ? v[i] / penalty : v[i] * penalty;
    if (v[i] > value) value = v[i], token = first + i;
  }
#pragma unroll
  for (int d = 16; d; d >>= 1) {
    const float other = __shfl_xor_sync(~0u, value, d);
    const int its = __shfl_xor_sync(~0u, token, d);
    if (other > value || (other == value && its < token)) value = other, token = its;
  }
  if ((tid & 31) == 0) best_value[tid >> 5] = value, best_token[tid >> 5] = token;
  __syncthreads();
  value = best_value[0], token = best_token[0];
  for (int i = 1; i < 32; i++)
    if (best_value[i] > value) value = best_value[i], token = best_token[i];
  if (tid == 0) pick = token;
  if (temperature > 0) {
    float sum = 0;
#pragma unroll
    for (int i = 0; i < PER; i++) {
      v[i] = first + i < VOCAB ? __expf((v[i] - value) / temperature) : 0.0f;
      sum += v[i];
    }
    float total = block_sum(sum, shared);
    if (top_p < 1.0f) {
      const float target = fmaxf(top_p, 1e-6f) * total;
      u32 low = 0, high = __float_as_uint(1.0f) + 1;
      while (high - low > 1) {
        const u32 middle = low + (high - low) / 2;
        sum = 0;
#pragma unroll
        for (int i = 0; i < PER; i++) sum += v[i] >= __uint_as_float(middle) ? v[i] : 0.0f;
        if (block_sum(sum, shared) >= target)
          low = middle;
        else
          high = middle;
      }
      sum = 0;
#pragma unroll
      for (int i = 0; i < PER; i++) {
        v[i] = v[i] >= __uint_as_float(low) ? v[i] : 0.0f;
        sum += v[i];
      }
      total = block_sum(sum, shared);
    }
    u64 z = seeds[row] + (u64)(state[row * 3 + 1] + 1) * 0x9E3779B97F4A7C15ull; // splitmix64 (Steele et al., OOPSLA 2014)
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
    z ^= z >> 31;
    const float target = (float)(z >> 40) * (1.0f / 16777216.0f) * total;
    float upto = sum; // inclusive prefix sums over the threads
#pragma unroll
    for (int d = 1; d < 32; d <<= 1) {
      const float left = __shfl_up_sync(~0u, upto, d);
      if ((tid & 31) >= d) upto += left;
    }
    __syncthreads();
    if ((tid & 31) == 31) shared[tid >> 5] = upto;
    __syncthreads();
    for (int i = 0; i < (tid >> 5); i++) upto += shared[i];
    float before = upto - sum;
    if (sum > 0 && before <= target && target < upto) {
      int mine = first;
#pragma unroll
      for (int i = 0; i < PER; i++)
        if (v[i] > 0 && before <= target) mine = first + i, before += v[i];
      pick = mine;
    }
  }
  __syncthreads();
  if (tid == 0) {
    state[row * 3] = pick;
    state[row * 3 + 1] += 1;
    seen[(size_t)row * VOCAB + pick] = 1;
    chosen[n] = pick;
  }
}
