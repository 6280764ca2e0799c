// One decoding step of a Mistral-shaped model with NF4 weights and stacked LoRA adapters, for 1 to 32 lanes (rows of a batch).
//
// Compiled at run time by NVRTC (kernels.py), so no header is included; needs compute capability 8.0. GROUP: query heads to a KV head.
// VOCAB: size of the vocabulary, at most 32768. Half precision is kept in u16: activations and adapters are fp16 (11 bits, against 8 of
// bf16), the residual stream and all sums are float32, the KV cache, embeddings and norms are bf16 as in the model.
//
// The matrix kernel. A warp takes 16 rows and feeds the tensor cores (mma.m16n8k16: 16 weight rows x 8 lanes). The order of k inside an
// instruction is free as long as both operands agree, so a thread's share of 64 columns is 16 neighbouring weights of two rows, 16 bytes,
// and the matrix is stored so that the shares of a warp are neighbours too (mistral.tiled): 512 bytes a load, copied ahead into shared
// memory. A byte becomes its two fp16 codes by one look-up there; the table stands 32 times, once a bank, so no two threads collide. A block
// of 64 weights is summed in float32 and then scaled: the scales never touch the weights.
// The norms ride along. Whoever adds to the residual stream also writes it times the next norm's weight in fp16, and the sum of squares of
// its 16 rows; the next matrix sums those and scales its results, for a norm is linear but for that one number. So that fp16 always holds the
// values, they carry the scale of the norm before (`used`), and the result is corrected by the ratio.
// LoRA rides along. The first blocks compute t = A x of the adapters that are in use, for each lane its own; the others add B t as one more
// tensor-core step on their 16 rows, once a counter says that t is whole. Slot 0 is BASE and costs nothing.

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

#define LANES 32     // most lanes of a batch
#define WARPS 8      // in a block of the matrix kernel
#define CHUNK 256    // columns that a warp copies at once: 16 rows of them are 2048 bytes, and 128 of scales
#define STAGE 2176
#define STAGES 2     // copies that are on the way at once, for each warp
#define BLOCKS 2     // of the matrix kernel that fit on a multiprocessor with up to 8 lanes: bounds its registers
#define GRID 2       // of those, how many are launched; where one more fits, the next kernel's can start early
#define SPARED 1     // tiles are dealt from the last block on, so that the first, which have A's work units, get fewer
#define AHEAD 1      // a block's first unit of A is asked into the L2 before the kernel before has ended
#define LATE_NORM 1  // a block starts on its tiles while one warp still sums the norm
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
__device__ __forceinline__ void copy16(u32 shared, const void *global) {
  asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16;" ::"r"(shared), "l"(global) : "memory");
}
__device__ __forceinline__ void into_l2(const void *global) { asm volatile("prefetch.global.L2 [%0];" ::"l"(global)); }
__device__ __forceinline__ int int_past_l1(const int *address) {
  int value;
  asm volatile("ld.global.cg.s32 %0, [%1];" : "=r"(value) : "l"(address) : "memory");
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
__device__ __forceinline__ float2 two_past_l1(const float *address) {
  float2 v;
  asm volatile("ld.global.cg.v2.f32 {%0, %1}, [%2];" : "=f"(v.x), "=f"(v.y) : "l"(address) : "memory");
  return v;
}
__device__ __forceinline__ float warp_sum(float v) {
#pragma unroll
  for (int d = 16; d; d >>= 1) v += __shfl_xor_sync(~0u, v, d);
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
  const u8 *w;         // (m, k / 2) packed codes, in tiles
  const u16 *scale;    // (m, k / 64) fp16, in tiles
  const u16 *x;        // (lanes, k) fp16
  const u16 *a;        // (slots, subs * rank, k) fp16
  const u16 *b;        // (slots, m, rank) fp16
  float *t;            // (splits, LANES, subs * rank)
  u32 *ready;          // work units of A that are done in this step; a step begins with 0
  const int *slot;     // (lanes) which adapter
  float *out;          // STORE: y (lanes, m). ADD: the residual stream (lanes, m), which grows by y
  u16 *half_out;       // SILU: silu(gate) * up (lanes, m / 2) fp16. ADD: x of the next norm (lanes, m) fp16
  const float *square; // (lanes, hidden / 16) sums of squares of the residual stream
  const float *used;   // STORE, SILU: (lanes) the scale that x carries
  float *next_square, *next_used; // ADD: the same for the next norm
  const u16 *next;     // ADD: the next norm's weight (m) bf16
  int m, k, lanes, slots, subs, rank, splits;
  int cut1, cut2; // first rows of the second and third projection that are fused in this matrix
  int hidden;
  float eps, gain; // gain undoes SHRINK
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

struct Unit { // of A: 16 ranks of one slot, one slice of k
  int split, tile, slot, begin, end; // begin, end: in blocks of 64 columns
};
__device__ __forceinline__ Unit unit_of(const Matrix &p, int number, int speaker) { // the adapter of lane 0 has the first units
  const int tiles = p.subs * p.rank / 16, split = number % p.splits, blocks = p.k / 64, each = (blocks + p.splits - 1) / p.splits;
  const int slot = 1 + (number / p.splits / tiles + max(speaker - 1, 0)) % (p.slots - 1);
  return {split, number / p.splits % tiles, slot, split * each, min(blocks, (split + 1) * each)};
}

// Ask for the part of A that a unit reads, if any lane seems to speak with its adapter: the slots may still be those of the step before.
__device__ __forceinline__ void ask_ahead(const Matrix &p, int number) {
  const int speaker = int_past_l1(p.slot + min((int)threadIdx.x & 31, p.lanes - 1));
  const Unit unit = unit_of(p, number, __shfl_sync(~0u, speaker, 0));
  if (!__any_sync(~0u, speaker == unit.slot)) return;
  const u16 *from = p.a + ((size_t)unit.slot * p.subs * p.rank + unit.tile * 16) * p.k;
  const int lines = unit.end - unit.begin; // a block of 64 fp16 columns is a line of 128 bytes
  for (int i = threadIdx.x; i < 16 * lines; i += WARPS * 32) into_l2(from + (size_t)(i / lines) * p.k + (unit.begin + i % lines) * 64);
}

// t of one unit, for all lanes that speak with its adapter.
template <int NT> __device__ __forceinline__ void project(const Matrix &p, int number, float *sums) {
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, g = lane >> 2, q = lane & 3, ranks = p.subs * p.rank;
  const Unit unit = unit_of(p, number, p.slot[0]);
  const int split = unit.split, tile = unit.tile, slot = unit.slot;
  bool wanted = lane < p.lanes && p.slot[lane] == slot;
  if (__any_sync(~0u, wanted)) {
    float d[NT][4] = {};
    for (int block = unit.begin + warp; block < unit.end; block += WARPS) {
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

// NT tiles of 8 lanes. A tile has 16 rows; for SILU 8 of gate and the same 8 of up. Persistent: the grid fits the chip, so waiting for t
// cannot hang.
template <int NT, int KIND> __device__ __forceinline__ void multiply(const Matrix &p) {
  extern __shared__ __align__(16) u8 shared[]; // 256 pairs of codes x 32 banks; the stages of each warp; the sums of the warps; factors
  float *sums = (float *)(shared + 32768 + WARPS * STAGES * STAGE), *factor = sums + WARPS * NT * 128;
  u16 *t = (u16 *)(factor + LANES); // (NT * 8, ranks) fp16, once it is whole
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, g = lane >> 2, q = lane & 3;
  const int ranks = p.subs * p.rank, jobs = (p.slots - 1) * (ranks / 16) * p.splits;
  const int tiles = p.m / 16, chunks = p.k / CHUNK;
  const int first_job = blockIdx.x, own = first_job < jobs ? (jobs - first_job + gridDim.x - 1) / gridDim.x : 0; // units of A here
  const int first_tile = SPARED ? gridDim.x - 1 - blockIdx.x : first_job + own * gridDim.x - jobs;
  const u32 bank = lane * 4;
  u8 *ring = shared + 32768 + warp * STAGES * STAGE;
  const u32 ring_address = (u32)__cvta_generic_to_shared(ring);
  let_next_start();

  int next_tile = warp < chunks ? first_tile : tiles, next_chunk = warp, filled = 0, stage = 0; // what is copied next, and into which stage
  auto fetch = [&]() {
    if (next_tile < tiles) {
      const size_t tile = next_tile;
      const u8 *from = p.w + (tile * chunks + next_chunk) * 2048 + lane * 16;
      const u32 to = ring_address + filled * STAGE;
#pragma unroll
      for (int b = 0; b < 4; b++) copy16(to + b * 512 + lane * 16, from + b * 512);
      if (lane < 8) copy16(to + 2048 + lane * 16, (const u8 *)p.scale + (tile * chunks + next_chunk) * 128 + lane * 16);
      next_chunk += WARPS;
      if (next_chunk >= chunks) next_chunk = warp, next_tile += gridDim.x;
    }
    asm volatile("cp.async.commit_group;" ::: "memory");
    filled = filled + 1 == STAGES ? 0 : filled + 1;
  };
#pragma unroll
  for (int i = 0; i < STAGES; i++) fetch(); // weights are nobody's output: no need to wait for them
  {
    const int e = threadIdx.x & 255, each = 256 / (WARPS * 4); // threads share an entry where there are more than entries
    const u32 pair = two_f16(CODES[e >> 4], CODES[e & 15]);
#pragma unroll
    for (int j = 0; j < each; j++) ((uint4 *)shared)[e * 8 + ((j + (threadIdx.x >> 8) * each + e) & 7)] = make_uint4(pair, pair, pair, pair);
  }
  if (AHEAD && first_job < jobs) ask_ahead(p, first_job);
  if (LATE_NORM) __syncthreads(); // the table stands
  wait_for_previous();
  for (int n = LATE_NORM ? WARPS - 1 - warp : warp; n < p.lanes; n += WARPS) { // late: not by the warp that joins the adapters
    float sum = 0;
    for (int i = lane; i < p.hidden / 16; i += 32) sum += p.square[(size_t)n * (p.hidden / 16) + i];
    const float scale = rsqrtf(warp_sum(sum) / p.hidden + p.eps);
    if (lane == 0) {
      factor[n] = KIND == ADD ? scale : scale / p.used[n];
      if (KIND == ADD && blockIdx.x == 0) p.next_used[n] = scale;
    }
  }
  const int mine = warp * 8 + g, slot = warp < NT && mine < p.lanes ? p.slot[mine] : 0; // warp n joins the adapters of lanes 8 n to 8 n + 7
  int speaking = 0, first = 0; // whether any lane has an adapter, and the first of this warp's
  for (int n = 0; n < p.lanes; n++) speaking |= p.slot[n];
  for (int one = p.slots - 1; one; one--)
    if (__any_sync(~0u, slot == one)) first = one;
  bool whole = false;
  if (!LATE_NORM) __syncthreads(); // else the sums of the first tile wait for the factors too

  for (int job = first_job; job < jobs; job += gridDim.x) {
    project<NT>(p, job, sums);
    __syncthreads();
  }
  for (int tile = first_tile; tile < tiles; tile += gridDim.x) {
    const int low_row = KIND == SILU ? tile * 8 : tile * 16, high_row = KIND == SILU ? p.m / 2 + tile * 8 : tile * 16 + 8;
    const u16 *b_low = p.b + (size_t)(low_row + g) * p.rank + 4 * q, *b_high = p.b + (size_t)(high_row + g) * p.rank + 4 * q;
    uint2 low_ahead, high_ahead; // of B, on the way while the tile is computed
    if (first) {
      low_ahead = weights_of((const u8 *)(b_low + (size_t)first * p.m * p.rank));
      high_ahead = weights_of((const u8 *)(b_high + (size_t)first * p.m * p.rank));
    }
    float acc[NT][4] = {};
    for (int chunk = warp; chunk < chunks; chunk += WARPS) {
      asm volatile("cp.async.wait_group %0;" ::"n"(STAGES - 1) : "memory");
      __syncwarp();
      const u8 *here = ring + stage * STAGE;
      const uint4 scales = *(const uint4 *)(here + 2048 + g * 16);
#pragma unroll
      for (int b = 0; b < 4; b++) {
        const uint4 w = *(const uint4 *)(here + b * 512 + lane * 16);
        u32 x[NT][8];
#pragma unroll
        for (int n = 0; n < NT; n++) lane_values(x[n], p.x, p.k, (n * 8 + g) * p.k + chunk * CHUNK + b * 64 + 16 * q, n * 8 + g < p.lanes);
        float d[NT][4] = {};
#pragma unroll
        for (int j = 0; j < 4; j++) {
          const u32 low = j & 2 ? w.y : w.x, high = j & 2 ? w.w : w.z;
          u32 a0, a1, a2, a3;
#define LOOK(shifted) (*(const u32 *)(shared + (((shifted) & 0x7f80u) | bank)))
          if (j & 1) {
            a0 = LOOK(low >> 9), a1 = LOOK(high >> 9), a2 = LOOK(low >> 17), a3 = LOOK(high >> 17);
          } else {
            a0 = LOOK(low << 7), a1 = LOOK(high << 7), a2 = LOOK(low >> 1), a3 = LOOK(high >> 1);
          }
#pragma unroll
          for (int n = 0; n < NT; n++) mma(d[n], a0, a1, a2, a3, x[n][2 * j], x[n][2 * j + 1]);
        }
        const float upper = from_f16((u16)((b & 2 ? scales.y : scales.x) >> (b & 1 ? 16 : 0)));
        const float lower = from_f16((u16)((b & 2 ? scales.w : scales.z) >> (b & 1 ? 16 : 0)));
#pragma unroll
        for (int n = 0; n < NT; n++) {
          acc[n][0] += upper * d[n][0];
          acc[n][1] += upper * d[n][1];
          acc[n][2] += lower * d[n][2];
          acc[n][3] += lower * d[n][3];
        }
      }
      __syncwarp();
      fetch();
      stage = stage + 1 == STAGES ? 0 : stage + 1;
    }

    if (speaking && !whole) { // once a block: an acquire empties the L1, and t serves all its tiles
      if (threadIdx.x == 0)
        while (acquire(p.ready) < (u32)jobs) {}
      __syncthreads();
      for (int e = threadIdx.x * 4; e < min(NT * 8, p.lanes) * ranks; e += WARPS * 128) {
        float4 v = make_float4(0, 0, 0, 0);
        if (p.slot[e / ranks])
#pragma unroll 4
          for (int split = 0; split < p.splits; split++) {
            const float4 u = past_l1(p.t + (size_t)split * LANES * ranks + e);
            v.x += u.x, v.y += u.y, v.z += u.z, v.w += u.w;
          }
        *(uint2 *)(t + e) = make_uint2(two_f16(v.x, v.y), two_f16(v.z, v.w));
      }
      __syncthreads();
      whole = true;
    }
#pragma unroll
    for (int n = 0; n < NT; n++)
      if (warp == n)
        for (int one = first; one && one < p.slots; one++) {
          if (!__any_sync(~0u, slot == one)) continue;
          for (int r = 0; r < p.rank; r += 16) {
            const size_t at = (size_t)one * p.m * p.rank + r;
            uint2 low = low_ahead, high = high_ahead;
            if (one != first || r) low = *(const uint2 *)(b_low + at), high = *(const uint2 *)(b_high + at);
            auto part = [&](int sub) { return slot == one ? *(const uint2 *)(t + mine * ranks + sub * p.rank + r + 4 * q) : make_uint2(0, 0); };
            if (KIND == SILU) {
              const uint2 gate = part(0), up = part(1);
              mma(acc[n], low.x, 0, low.y, 0, gate.x, gate.y);
              mma(acc[n], 0, high.x, 0, high.y, up.x, up.y);
            } else {
              const uint2 v = part((low_row >= p.cut1) + (low_row >= p.cut2));
              mma(acc[n], low.x, high.x, low.y, high.y, v.x, v.y);
            }
          }
        }

#pragma unroll
    for (int n = 0; n < NT; n++)
#pragma unroll
      for (int i = 0; i < 4; i++) sums[((warp * NT + n) * 4 + i) * 32 + lane] = acc[n][i];
    __syncthreads();
    if (threadIdx.x < NT * 64) { // one lane of two rows, 8 apart
      const int e = threadIdx.x, n = (e >> 6) * 8 + 2 * (e & 3) + (e >> 5 & 1), row = (e & 31) >> 2;
      const int at = (e >> 6) * 128 + (e & 63); // sums of a tile of lanes: 4 x 32
      float low = 0, high = 0;
#pragma unroll
      for (int one = 0; one < WARPS; one++) low += sums[one * NT * 128 + at], high += sums[one * NT * 128 + at + 64];
      const bool alive = n < p.lanes;
      const float scale = alive ? factor[n] : 0;
      if (KIND == STORE && alive) {
        p.out[(size_t)n * p.m + low_row + row] = low * scale;
        p.out[(size_t)n * p.m + high_row + row] = high * scale;
      }
      if (KIND == SILU && alive) {
        const float gate = low * scale;
        p.half_out[(size_t)n * (p.m / 2) + low_row + row] = to_f16(gate / (1.0f + __expf(-gate)) * (high * scale) / SHRINK);
      }
      if (KIND == ADD) {
        float square = 0;
        if (alive) {
          const size_t here = (size_t)n * p.m + low_row + row;
          const float first = p.out[here] + low * p.gain, second = p.out[here + 8] + high * p.gain;
          p.out[here] = first, p.out[here + 8] = second;
          p.half_out[here] = to_f16(first * scale * from_bf16(p.next[low_row + row]));
          p.half_out[here + 8] = to_f16(second * scale * from_bf16(p.next[high_row + row]));
          square = first * first + second * second;
        }
#pragma unroll
        for (int d = 4; d < 32; d <<= 1) square += __shfl_xor_sync(~0u, square, d);
        if (alive && row == 0) p.next_square[(size_t)n * (p.m / 16) + tile] = square;
      }
    }
    __syncthreads();
  }
}

#define MATRIX(NAME, NT, KIND, BLOCKS) \
  extern "C" __global__ void __launch_bounds__(WARPS * 32, BLOCKS) NAME(const Matrix p) { multiply<NT, KIND>(p); }
MATRIX(store_1, 1, STORE, BLOCKS)
MATRIX(store_2, 2, STORE, 2)
MATRIX(store_4, 4, STORE, 2)
MATRIX(add_1, 1, ADD, BLOCKS)
MATRIX(add_2, 2, ADD, 2)
MATRIX(add_4, 4, ADD, 2)
MATRIX(silu_1, 1, SILU, BLOCKS)
MATRIX(silu_2, 2, SILU, 2)
MATRIX(silu_4, 4, SILU, 2)

// The plain weights (m, k) of a matrix in bf16, for prompts. halves: its tiles hold 8 rows of the upper half and 8 of the lower.
// Grid: (k / 256, m / 16); 256 threads.
extern "C" __global__ void unpack(const u8 *w, const u16 *scale, u16 *out, int m, int k, int halves) {
  __shared__ float codes[16];
  if (threadIdx.x < 16) codes[threadIdx.x] = CODES[threadIdx.x];
  __syncthreads();
  const int tile = blockIdx.y, i = blockIdx.x * 256 + threadIdx.x; // 8 bytes, 16 weights of a row
  const int high = i & 1, lane = i >> 1 & 31, g = lane >> 2, q = lane & 3, block = i / 64;
  const uint2 v = weights_of(w + ((size_t)tile * k + i) * 8);
  const float s = from_f16(scale[((size_t)(tile * (k / CHUNK) + block / 4) * 8 + g) * 8 + high * 4 + (block & 3)]);
  const int row = halves ? high * (m / 2) + tile * 8 + g : tile * 16 + high * 8 + g;
  u32 pair[8];
#pragma unroll
  for (int j = 0; j < 8; j++) {
    const u32 byte = ((j < 4 ? v.x : v.y) >> (8 * (j & 3))) & 255u;
    pair[j] = two_bf16(codes[byte >> 4] * s, codes[byte & 15] * s);
  }
  // Two neighbours in a row swap halves, so that each store of the warp writes whole sectors of 32 bytes.
  uint4 *to = (uint4 *)(out + (size_t)row * k + block * 64 + 16 * (q & 2)) + (q & 1);
#pragma unroll
  for (int j = 0; j < 4; j++) {
    const u32 theirs = __shfl_xor_sync(~0u, q & 1 ? pair[j] : pair[4 + j], 2);
    if (q & 1)
      pair[j] = theirs;
    else
      pair[4 + j] = theirs;
  }
  to[0] = make_uint4(pair[0], pair[1], pair[2], pair[3]);
  to[2] = make_uint4(pair[4], pair[5], pair[6], pair[7]);
}

// ------------------------------------------------------------------------------------------------------------ the other steps

// Lane n takes the state of its cache row; the last token's embedding starts the residual stream, and goes through the first norm. Grid:
// lanes; 256 threads.
extern "C" __global__ void begin(const int *lanes, const int *state, const u16 *embedding, const u16 *weight, float *residual, u16 *x,
                                 float *square, float *used, int *slot, int *position, u32 *ready, int hidden, int counters, float eps) {
  __shared__ float part[8];
  const int n = blockIdx.x, row = lanes[n];
  const u16 *from = embedding + (size_t)state[row * 3] * hidden;
  float sum = 0;
  for (int tile = threadIdx.x; tile < hidden / 16; tile += blockDim.x) {
    float mine = 0;
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const uint2 v = *(const uint2 *)(from + tile * 16 + i * 4);
      const float4 wide = make_float4(low_bf16(v.x), high_bf16(v.x), low_bf16(v.y), high_bf16(v.y));
      *(float4 *)(residual + (size_t)n * hidden + tile * 16 + i * 4) = wide;
      mine += wide.x * wide.x + wide.y * wide.y + wide.z * wide.z + wide.w * wide.w;
    }
    square[(size_t)n * (hidden / 16) + tile] = mine;
    sum += mine;
  }
  sum = warp_sum(sum);
  if ((threadIdx.x & 31) == 0) part[threadIdx.x >> 5] = sum;
  __syncthreads();
  sum = 0;
  for (int i = 0; i < 8; i++) sum += part[i];
  const float scale = rsqrtf(sum / hidden + eps);
  for (int i = threadIdx.x; i < hidden; i += blockDim.x) x[(size_t)n * hidden + i] = to_f16(from_bf16(from[i]) * scale * from_bf16(weight[i]));
  if (threadIdx.x == 0) position[n] = state[row * 3 + 1], slot[n] = state[row * 3 + 2], used[n] = scale;
  if (n == 0)
    for (int i = threadIdx.x; i < counters; i += blockDim.x) ready[i] = 0;
}

// The last RMSNorm (arXiv 1910.07467), float32 into bf16, for the head. Grid: lanes; 512 threads; hidden a multiple of 4.
extern "C" __global__ void rms_norm(const float *residual, const u16 *weight, u16 *out, int hidden, float eps) {
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
    *(uint2 *)(out + (size_t)blockIdx.x * hidden + i) = make_uint2(two_bf16(a, b), two_bf16(c, d));
  }
}

#define SPLITS 32 // most parts that the positions are cut into

// Rotary embedding of the new token, its key and value into the cache, attention over the cache (flash decoding: the positions are split
// among blocks, and the last block to end joins the parts). Half a warp takes a position at a time, 8 of the 128 dimensions a thread.
// Grid: (splits, KV heads, lanes); 256 threads; head size 128.
__device__ __forceinline__ void attend(const float *qkv, u16 *keys, u16 *values, const int *lanes, const int *position, const float *rope,
                                       float *parts, float *tops, u32 *count, u16 *out, int heads, int kv_heads, int context, float scale) {
  __shared__ float ms[8][GROUP], ls[8][GROUP];
  __shared__ __align__(16) float as[8][GROUP * 128];
  __shared__ float2 joined[SPLITS][GROUP];
  __shared__ u32 last;
  let_next_start();
  wait_for_previous();
  const int split = blockIdx.x, head = blockIdx.y, n = blockIdx.z, tid = threadIdx.x, warp = tid >> 5, half = tid >> 4, c = tid & 15;
  const int pos = position[n], chunk = max(64, (pos + (int)gridDim.x - 1) / (int)gridDim.x), active = max(1, (pos + chunk - 1) / chunk);
  if (split >= active) return;
  const int begin = split * chunk, end = min(pos, begin + chunk);
  const float *from = qkv + (size_t)n * (heads + 2 * kv_heads) * 128;
  const size_t at = ((size_t)lanes[n] * kv_heads + head) * context * 128;
  const u16 *k_at = keys + at + c * 8, *v_at = values + at + c * 8;
  float cs[8], sn[8], q[GROUP][8], acc[GROUP][8] = {}, m[GROUP], l[GROUP];
  uint4 k4[4], v4[4];
  auto fetch = [&](int p) {
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const size_t here = (size_t)min(p + half + 16 * i, max(end - 1, 0)) * 128; // behind the end: anything that is there
      k4[i] = *(const uint4 *)(k_at + here);
      v4[i] = *(const uint4 *)(v_at + here);
    }
  };
  fetch(begin);
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
  auto add = [&](int first, int upto) { // the four positions that were fetched, as far as first + 16 j < upto, with one rescaling
#pragma unroll
    for (int h = 0; h < GROUP; h++) {
      float s[4], top = m[h];
#pragma unroll
      for (int j = 0; j < 4; j++) {
        const u32 kw[4] = {k4[j].x, k4[j].y, k4[j].z, k4[j].w};
        s[j] = 0;
#pragma unroll
        for (int i = 0; i < 4; i++) s[j] += q[h][2 * i] * low_bf16(kw[i]) + q[h][2 * i + 1] * high_bf16(kw[i]);
      }
#pragma unroll
      for (int d = 8; d; d >>= 1)
#pragma unroll
        for (int j = 0; j < 4; j++) s[j] += __shfl_xor_sync(~0u, s[j], d);
#pragma unroll
      for (int j = 0; j < 4; j++) {
        if (first + 16 * j >= upto) s[j] = -1e30f;
        top = fmaxf(top, s[j]);
      }
      const float old = exp2f(m[h] - top);
      m[h] = top, l[h] *= old;
#pragma unroll
      for (int i = 0; i < 8; i++) acc[h][i] *= old;
#pragma unroll
      for (int j = 0; j < 4; j++) {
        const float w = first + 16 * j < upto ? exp2f(s[j] - top) : 0.0f;
        const u32 vw[4] = {v4[j].x, v4[j].y, v4[j].z, v4[j].w};
        l[h] += w;
#pragma unroll
        for (int i = 0; i < 4; i++) acc[h][2 * i] += w * low_bf16(vw[i]), acc[h][2 * i + 1] += w * high_bf16(vw[i]);
      }
    }
  };
  for (int p = begin; p < end; p += 64) {
    if (p > begin) fetch(p);
    add(p + half, end);
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
    k4[0] = make_uint4(kw[0], kw[1], kw[2], kw[3]), v4[0] = make_uint4(vw[0], vw[1], vw[2], vw[3]);
    if (half == 0) {
      *(uint4 *)(keys + at + (size_t)pos * 128 + c * 8) = k4[0];
      *(uint4 *)(values + at + (size_t)pos * 128 + c * 8) = v4[0];
    }
    add(half, 1);
  }
#pragma unroll
  for (int h = 0; h < GROUP; h++) { // join the halves of the warp, then the warps
    const float other = __shfl_xor_sync(~0u, m[h], 16), top = fmaxf(m[h], other), w = exp2f(m[h] - top);
    l[h] *= w;
    l[h] += __shfl_xor_sync(~0u, l[h], 16);
#pragma unroll
    for (int i = 0; i < 8; i++) {
      acc[h][i] *= w;
      acc[h][i] += __shfl_xor_sync(~0u, acc[h][i], 16);
    }
    if ((tid & 31) == 0) ms[warp][h] = top, ls[warp][h] = l[h];
    if ((tid & 31) < 16)
#pragma unroll
      for (int i = 0; i < 8; i++) as[warp][h * 128 + c * 8 + i] = acc[h][i];
  }
  __syncthreads();
  const size_t seat = (size_t)n * kv_heads + head;
  float *part = parts + seat * SPLITS * GROUP * 128, *top_part = tops + seat * SPLITS * GROUP * 2;
  u16 *to = out + ((size_t)n * heads + head * GROUP) * 128;
  for (int d = tid; d < GROUP * 128; d += 256) {
    const int h = d >> 7;
    float top = -1e30f, sum = 0, value = 0;
#pragma unroll
    for (int i = 0; i < 8; i++) top = fmaxf(top, ms[i][h]);
#pragma unroll
    for (int i = 0; i < 8; i++) {
      const float w = exp2f(ms[i][h] - top);
      sum += w * ls[i][h];
      value += w * as[i][d];
    }
    if (active == 1)
      to[d] = to_f16(value / sum);
    else {
      part[split * GROUP * 128 + d] = value;
      if ((d & 127) == 0) *(float2 *)(top_part + (split * GROUP + h) * 2) = make_float2(top, sum);
    }
  }
  if (active == 1) return;
  __threadfence();
  __syncthreads();
  if (tid == 0) last = atomicAdd(count + seat, 1) == (u32)(active - 1);
  __syncthreads();
  if (!last) return;
  __threadfence();
  if (tid == 0) count[seat] = 0;
  for (int i = tid; i < active * GROUP; i += 256) joined[i / GROUP][i % GROUP] = two_past_l1(top_part + i * 2);
  __syncthreads();
  for (int d = tid * 2; d < GROUP * 128; d += 512) {
    const int h = d >> 7;
    float top = -1e30f, sum = 0, left = 0, right = 0;
    for (int i = 0; i < active; i++) top = fmaxf(top, joined[i][h].x);
#pragma unroll 8
    for (int i = 0; i < active; i++) {
      const float2 v = two_past_l1(part + i * GROUP * 128 + d);
      const float w = exp2f(joined[i][h].x - top);
      sum += w * joined[i][h].y, left += w * v.x, right += w * v.y;
    }
    *(u32 *)(to + d) = two_f16(left / sum, right / sum);
  }
}

#define ATTENTION(NAME, BLOCKS) \
  extern "C" __global__ void __launch_bounds__(256, BLOCKS) \
      NAME(const float *qkv, u16 *keys, u16 *values, const int *lanes, const int *position, const float *rope, float *parts, float *tops, \
           u32 *count, u16 *out, int heads, int kv_heads, int context, float scale) { \
    attend(qkv, keys, values, lanes, position, rope, parts, tops, count, out, heads, kv_heads, context, scale); \
  }
ATTENTION(attention_few, 1)                   // more registers: 3 % of a step at batch 1
ATTENTION(attention_many, GROUP > 4 ? 1 : 2) // more blocks: 5 % at batch 8

#define PER ((VOCAB + 4095) / 4096 * 4) // neighbouring tokens of a thread, in fours

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
    if (VOCAB % 4 == 0 && i % 4 == 0) {
      float4 four = make_float4(-3e38f, -3e38f, -3e38f, -3e38f);
      if (first + i < VOCAB) four = *(const float4 *)(logits + (size_t)n * VOCAB + first + i);
      v[i] = four.x, v[i + 1] = four.y, v[i + 2] = four.z, v[i + 3] = four.w;
    }
    if (VOCAB % 4) v[i] = first + i < VOCAB ? logits[(size_t)n * VOCAB + first + i] : -3e38f;
    if (penalty != 1.0f && first + i < VOCAB && seen[(size_t)row * VOCAB + first + i]) v[i] = v[i] > 0 ? v[i] / penalty : v[i] * penalty;
    if (v[i] > value) value = v[i], token = first + i;
  }
  auto best = [&]() { // of the warp; of equals the first
#pragma unroll
    for (int d = 16; d; d >>= 1) {
      const float other = __shfl_xor_sync(~0u, value, d);
      const int its = __shfl_xor_sync(~0u, token, d);
      if (other > value || (other == value && its < token)) value = other, token = its;
    }
  };
  best();
  if ((tid & 31) == 0) best_value[tid >> 5] = value, best_token[tid >> 5] = token;
  __syncthreads();
  value = best_value[tid & 31], token = best_token[tid & 31];
  best();
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
