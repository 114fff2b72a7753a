// What module.cpp hands to the kernels. Plain data: the only thing that code built for different CPUs shares.
#pragma once

// Never emitted out of line: the linker could keep the copy of a newer instruction set.
#define FA_INLINE inline __attribute__((always_inline))

namespace fastattack {

enum class Dtype : int { f32, f64, f16, bf16 };
enum class Norm : int { linf, l2 };

struct Shape {
  long long batch;
  long long size[4];  // inner dimensions, innermost last
  FA_INLINE long long count() const { return size[0] * size[1] * size[2] * size[3]; }
};

struct View {
  void* data;           // null: there is none (mask)
  long long stride[5];  // in elements: batch, then the inner dimensions
};

struct PerSample {
  double value;
  const double* values;  // (B,), or null for the one value
  FA_INLINE double operator[](long long b) const { return values ? values[b] : value; }
};

struct Call {
  Shape shape;
  Dtype dtype;
  Norm norm;
  int threads;
  PerSample eps, step;
  double low, high;
  View adv, grad, origin, clean, mask;
};

struct ApgdCall {
  Call common;
  PerSample momentum;
  View previous;
};

struct L1StepCall {
  Call common;
  PerSample keep;
};

struct StatsCall {
  Shape shape;
  Dtype dtype;
  int threads;
  PerSample sigma, mean;
  View noise;
  double* out;  // (B, 6)
};

struct DistancesCall {
  Shape shape;
  Dtype dtype;
  int threads;
  View a, b;
  double* out;  // (B, 4)
};

struct StartCall {
  Call common;
  unsigned long long seed;
  const long long* sample_ids;  // (B,), or null for 0 .. B-1
};

struct MomentumCall {
  Call common;
  PerSample decay;
  View momentum;
};

struct AccumulateCall {
  Shape shape;
  Dtype dtype;
  int threads;
  PerSample keep, weight;
  View total, grad;
};

struct NoiseCall {
  Shape shape;
  Dtype dtype;
  int threads;
  PerSample sigma, typicality, mean;
  unsigned long long seed;
  const long long* sample_ids;  // (B,), or null for 0 .. B-1
  View out, clean;              // clean may be null
};

struct DiffusionCall {
  Shape shape;
  Dtype dtype;
  int threads;
  PerSample a, b, c;
  unsigned long long seed;
  unsigned step;                // < 2^24
  const long long* sample_ids;  // (B,), or null for 0 .. B-1
  View x, eps_hat;              // eps_hat may be null where b is 0
};

struct QuantiseCall {
  Call common;    // norm l2 stands for l1 too
  double levels;  // 2^bits - 1
};

struct Kernels {
  const char* name;
  void (*pgd_step)(const Call&);
  void (*project)(const Call&);
  void (*preserve_noise)(const Call&);
  void (*noise_stats)(const StatsCall&);
  void (*distances)(const DistancesCall&);
  void (*random_start)(const StartCall&);
  void (*typical_noise)(const NoiseCall&);
  void (*momentum_step)(const MomentumCall&);
  void (*accumulate)(const AccumulateCall&);
  void (*apgd_step)(const ApgdCall&);
  void (*zero_mean_step)(const Call&);
  void (*quantise)(const QuantiseCall&);
  void (*l1_project)(const Call&);
  void (*l1_step)(const L1StepCall&);
  void (*diffusion_step)(const DiffusionCall&);
  void (*triad)(float*, const float*, const float*, long long, int);
};

}  // namespace fastattack
