// fastattack._cpu: tensors come in as tensors.h says; libtorch is neither included nor linked.
#include <pybind11/pybind11.h>

#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "calls.h"
#include "tensors.h"

namespace fastattack {

extern const Kernels kernels_portable;
#ifdef FA_X86
extern const Kernels kernels_avx2, kernels_avx512;
#endif

namespace {

const Kernels* find_kernels(const std::string& wanted) {
#ifdef FA_X86
  bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
  bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  if (avx512 && (wanted == "auto" || wanted == "avx512")) return &kernels_avx512;
  if (avx2 && (wanted == "auto" || wanted == "avx2")) return &kernels_avx2;
#endif
  if (wanted == "auto" || wanted == "portable") return &kernels_portable;
  throw std::invalid_argument("instruction set '" + wanted + "' is unknown, or this CPU or build does not have it");
}

const Kernels* kernels = find_kernels("auto");

using Pointer = unsigned long long;

template <class T>
T* pointer(Pointer address) {
  return reinterpret_cast<T*>(address);
}

struct Range {
  double low, high;
};

Call call_of(Memory& m, int norm, PerSample eps, PerSample step, Range bounds, int threads) {
  Call call{};
  call.shape = m.shape, call.dtype = m.dtype, call.norm = Norm(norm), call.threads = threads;
  call.eps = eps, call.step = step, call.low = bounds.low, call.high = bounds.high;
  return call;
}

void pgd_step(Memory m, int norm, PerSample eps, PerSample step, Range bounds, int threads) {
  Call call = call_of(m, norm, eps, step, bounds, threads);
  call.adv = m.next(), call.grad = m.next(), call.origin = m.next(), call.mask = m.next();
  py::gil_scoped_release release;
  kernels->pgd_step(call);
}

void project(Memory m, int norm, PerSample eps, Range bounds, int threads) {
  Call call = call_of(m, norm, eps, {}, bounds, threads);
  call.adv = m.next(), call.origin = m.next(), call.mask = m.next();
  py::gil_scoped_release release;
  kernels->project(call);
}

void preserve_noise(Memory m, int norm, PerSample eps, int threads) {
  Call call = call_of(m, norm, eps, {}, {}, threads);
  call.adv = m.next(), call.origin = m.next(), call.clean = m.next();
  py::gil_scoped_release release;
  kernels->preserve_noise(call);
}

// `out`: (B, 6) doubles for double noise, else floats.
void noise_stats(Memory m, Pointer out, PerSample sigma, PerSample mean, int threads) {
  bool wide = m.dtype == Dtype::f64;
  std::vector<double> table(wide ? 0 : 6 * m.shape.batch);
  StatsCall call{m.shape, m.dtype, threads, sigma, mean, m.next(), wide ? pointer<double>(out) : table.data()};
  py::gil_scoped_release release;
  kernels->noise_stats(call);
  for (size_t i = 0; i < table.size(); ++i) pointer<float>(out)[i] = (float)table[i];
}

void distances(Memory m, Pointer out, int threads) {
  DistancesCall call{m.shape, m.dtype, threads, {}, {}, pointer<double>(out)};
  call.a = m.next(), call.b = m.next();
  py::gil_scoped_release release;
  kernels->distances(call);
}

void random_start(OrderedMemory m, int norm, PerSample eps, Range bounds, unsigned long long seed, Pointer sample_ids,
                  int threads) {
  StartCall call{call_of(m, norm, eps, {}, bounds, threads), seed, pointer<long long>(sample_ids)};
  call.common.adv = m.next(), call.common.origin = m.next();
  py::gil_scoped_release release;
  kernels->random_start(call);
}

void typical_noise(OrderedMemory m, PerSample sigma, PerSample typicality, PerSample mean, unsigned long long seed,
                   Pointer sample_ids, int threads) {
  NoiseCall call{m.shape, m.dtype, threads, sigma, typicality, mean, seed, pointer<long long>(sample_ids), {}, {}};
  call.out = m.next(), call.clean = m.next();
  py::gil_scoped_release release;
  kernels->typical_noise(call);
}

void momentum_step(Memory m, int norm, PerSample eps, PerSample step, PerSample decay, Range bounds, int threads) {
  MomentumCall call{call_of(m, norm, eps, step, bounds, threads), decay, {}};
  Call& common = call.common;
  common.adv = m.next(), call.momentum = m.next(), common.grad = m.next();
  common.origin = m.next(), common.mask = m.next();
  py::gil_scoped_release release;
  kernels->momentum_step(call);
}

void accumulate(Memory m, PerSample keep, PerSample weight, int threads) {
  AccumulateCall call{m.shape, m.dtype, threads, keep, weight, {}, {}};
  call.total = m.next(), call.grad = m.next();
  py::gil_scoped_release release;
  kernels->accumulate(call);
}

void apgd_step(Memory m, int norm, PerSample eps, PerSample step, PerSample momentum, Range bounds, int threads) {
  ApgdCall call{call_of(m, norm, eps, step, bounds, threads), momentum, {}};
  Call& common = call.common;
  common.adv = m.next(), call.previous = m.next(), common.grad = m.next();
  common.origin = m.next(), common.mask = m.next();
  py::gil_scoped_release release;
  kernels->apgd_step(call);
}

void zero_mean_step(Memory m, PerSample eps, PerSample step, int threads) {
  Call call = call_of(m, (int)Norm::l2, eps, step, {}, threads);
  call.adv = m.next(), call.grad = m.next(), call.origin = m.next();
  py::gil_scoped_release release;
  kernels->zero_mean_step(call);
}

void quantise(Memory m, int norm, PerSample eps, Range bounds, double levels, int threads) {
  QuantiseCall call{call_of(m, norm, eps, {}, bounds, threads), levels};
  call.common.adv = m.next(), call.common.origin = m.next(), call.common.mask = m.next();
  py::gil_scoped_release release;
  kernels->quantise(call);
}

void l1_project(Memory m, PerSample eps, Range bounds, int threads) {
  Call call = call_of(m, 0, eps, {}, bounds, threads);
  call.adv = m.next(), call.origin = m.next(), call.mask = m.next();
  py::gil_scoped_release release;
  kernels->l1_project(call);
}

void l1_step(Memory m, PerSample eps, PerSample step, PerSample keep, Range bounds, int threads) {
  L1StepCall call{call_of(m, 0, eps, step, bounds, threads), keep};
  Call& c = call.common;
  c.adv = m.next(), c.grad = m.next(), c.origin = m.next(), c.mask = m.next();
  py::gil_scoped_release release;
  kernels->l1_step(call);
}

void diffusion_step(OrderedMemory m, PerSample a, PerSample b, PerSample c, unsigned long long seed, unsigned step,
                    Pointer sample_ids, int threads) {
  DiffusionCall call{m.shape, m.dtype, threads, a, b, c, seed, step, pointer<long long>(sample_ids), {}, {}};
  call.x = m.next(), call.eps_hat = m.next();
  py::gil_scoped_release release;
  kernels->diffusion_step(call);
}

// One Python argument. pybind11's own conversion, overloads and all, costs as much as a small kernel.
template <class T>
T from(PyObject* value) {
  if constexpr (std::is_same_v<T, PyObject*>) {
    return value;
  } else if constexpr (std::is_base_of_v<Memory, T>) {
    return T(value);
  } else if constexpr (std::is_same_v<T, PerSample>) {  // a float, or a contiguous float64 tensor
    return PyFloat_Check(value) ? PerSample{PyFloat_AS_DOUBLE(value), nullptr}
                                : PerSample{0, (const double*)address(value)};
  } else if constexpr (std::is_same_v<T, Range>) {
    if (!PyTuple_Check(value) || PyTuple_GET_SIZE(value) != 2) throw py::type_error("wanted (low, high)");
    return {from<double>(PyTuple_GET_ITEM(value, 0)), from<double>(PyTuple_GET_ITEM(value, 1))};
  } else {
    T number;
    if constexpr (std::is_same_v<T, double>) {
      number = PyFloat_AsDouble(value);
    } else if constexpr (std::is_unsigned_v<T>) {
      number = PyLong_AsUnsignedLongLong(value);
    } else {
      number = (T)PyLong_AsLongLong(value);
    }
    if (number == (T)-1 && PyErr_Occurred()) throw py::error_already_set();
    return number;
  }
}

template <class Result, class... Args, size_t... I>
PyObject* call(Result (*function)(Args...), PyObject* const* args, std::index_sequence<I...>) {
  if constexpr (std::is_same_v<Result, bool>) {
    return PyBool_FromLong(function(from<Args>(args[I])...));
  } else {
    function(from<Args>(args[I])...);
    Py_RETURN_NONE;
  }
}

template <class Result, class... Args>
PyObject* call(Result (*function)(Args...), PyObject* const* args, Py_ssize_t given) {
  if (given != (Py_ssize_t)sizeof...(Args)) {
    PyErr_Format(PyExc_TypeError, "wanted %zd arguments, got %zd", (Py_ssize_t)sizeof...(Args), given);
    throw py::error_already_set();
  }
  return call(function, args, std::index_sequence_for<Args...>{});
}

// A function above as Python calls it, with positional arguments alone.
template <auto function>
PyObject* entry(PyObject*, PyObject* const* args, Py_ssize_t given) {
  try {
    return call(function, args, given);
  } catch (py::error_already_set& error) {
    error.restore();
  } catch (const py::builtin_exception& error) {
    error.set_error();
  } catch (const std::exception& error) {
    PyErr_SetString(PyExc_RuntimeError, error.what());
  }
  return nullptr;
}

template <auto function>
PyMethodDef method(const char* name) {
  return {name, reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(function)), METH_FASTCALL, nullptr};
}

}  // namespace
}  // namespace fastattack

PYBIND11_MODULE(_cpu, m) {
  using namespace fastattack;
  m.doc() = "CPU kernels of fastattack; see csrc/cpu.";
  static PyMethodDef functions[] = {
      method<&entry<&pgd_step>>("pgd_step"),
      method<&entry<&project>>("project"),
      method<&entry<&preserve_noise>>("preserve_noise"),
      method<&entry<&noise_stats>>("noise_stats"),
      method<&entry<&distances>>("distances"),
      method<&entry<&random_start>>("random_start"),
      method<&entry<&typical_noise>>("typical_noise"),
      method<&entry<&momentum_step>>("momentum_step"),
      method<&entry<&accumulate>>("accumulate"),
      method<&entry<&apgd_step>>("apgd_step"),
      method<&entry<&zero_mean_step>>("zero_mean_step"),
      method<&entry<&quantise>>("quantise"),
      method<&entry<&l1_project>>("l1_project"),
      method<&entry<&l1_step>>("l1_step"),
      method<&entry<&diffusion_step>>("diffusion_step"),
      method<&entry<&fit>>("fit"),
      {nullptr, nullptr, 0, nullptr},
  };
  if (PyModule_AddFunctions(m.ptr(), functions)) throw py::error_already_set();
  m.def("use_torch", &use_torch);
  m.def("triad", [](Pointer a, Pointer b, Pointer c, long long count, int threads) {
    py::gil_scoped_release release;
    kernels->triad(pointer<float>(a), pointer<float>(b), pointer<float>(c), count, threads);
  });
  m.def("instruction_set", [] { return std::string(kernels->name); });
  m.def("use_instruction_set", [](const std::string& name) { kernels = find_kernels(name); });
#ifdef _OPENMP
  m.attr("openmp") = true;
#else
  m.attr("openmp") = false;
#endif
}
