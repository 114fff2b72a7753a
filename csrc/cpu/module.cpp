// fastattack._cpu: pointers, sizes and strides come in as plain integers; nothing here knows torch.
#include <pybind11/pybind11.h>

#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "calls.h"

namespace py = pybind11;

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

// `walk` is None where every tensor is one contiguous run a sample, else ((4 sizes), (5 strides), (5 strides), ...):
// the strides in the order in which the call names its tensors, mask last.
class Walk {
 public:
  Walk(long long batch, long long count, const py::object& walk) : count_(count) {
    shape = Shape{batch, {1, 1, 1, count}};
    if (walk.is_none()) return;
    walk_ = walk.cast<py::tuple>();
    py::tuple sizes = walk_[0].cast<py::tuple>();
    for (int d = 0; d < 4; ++d) shape.size[d] = sizes[d].cast<long long>();
  }
  View next(Pointer data) {
    if (!walk_ || !data) return View{pointer<void>(data), {count_, 0, 0, 0, 1}};
    py::tuple strides = walk_[++used_].cast<py::tuple>();
    View view{pointer<void>(data), {}};
    for (int d = 0; d < 5; ++d) view.stride[d] = strides[d].cast<long long>();
    return view;
  }
  Shape shape;

 private:
  long long count_;
  py::tuple walk_ = py::reinterpret_steal<py::tuple>(nullptr);
  size_t used_ = 0;
};

void pgd_step(Pointer adv, Pointer grad, Pointer origin, Pointer mask, long long batch, long long count,
              const py::object& walk, int dtype, int norm, double eps, Pointer eps_values, double step,
              Pointer step_values, double low, double high, int threads) {
  Walk w(batch, count, walk);
  Call call{w.shape,
            Dtype(dtype),
            Norm(norm),
            threads,
            {eps, pointer<double>(eps_values)},
            {step, pointer<double>(step_values)},
            low,
            high,
            {},
            {},
            {},
            {},
            {}};
  call.adv = w.next(adv), call.grad = w.next(grad), call.origin = w.next(origin), call.mask = w.next(mask);
  py::gil_scoped_release release;
  kernels->pgd_step(call);
}

void project(Pointer adv, Pointer origin, Pointer mask, long long batch, long long count, const py::object& walk,
             int dtype, int norm, double eps, Pointer eps_values, double low, double high, int threads) {
  Walk w(batch, count, walk);
  Call call{w.shape, Dtype(dtype), Norm(norm), threads, {eps, pointer<double>(eps_values)}, {}, low, high, {},
            {},      {},           {},         {}};
  call.adv = w.next(adv), call.origin = w.next(origin), call.mask = w.next(mask);
  py::gil_scoped_release release;
  kernels->project(call);
}

void preserve_noise(Pointer adv, Pointer origin, Pointer clean, long long batch, long long count,
                    const py::object& walk, int dtype, int norm, double eps, Pointer eps_values, int threads) {
  Walk w(batch, count, walk);
  Call call{w.shape, Dtype(dtype), Norm(norm), threads, {eps, pointer<double>(eps_values)}, {}, 0, 0, {},
            {},      {},           {},         {}};
  call.adv = w.next(adv), call.origin = w.next(origin), call.clean = w.next(clean);
  py::gil_scoped_release release;
  kernels->preserve_noise(call);
}

// `out`: (B, 6) doubles for double noise, else floats.
void noise_stats(Pointer noise, Pointer out, long long batch, long long count, const py::object& walk, int dtype,
                 double sigma, Pointer sigma_values, double mean, Pointer mean_values, int threads) {
  Walk w(batch, count, walk);
  bool wide = Dtype(dtype) == Dtype::f64;
  std::vector<double> table(wide ? 0 : 6 * batch);
  StatsCall call{w.shape,
                 Dtype(dtype),
                 threads,
                 {sigma, pointer<double>(sigma_values)},
                 {mean, pointer<double>(mean_values)},
                 w.next(noise),
                 wide ? pointer<double>(out) : table.data()};
  py::gil_scoped_release release;
  kernels->noise_stats(call);
  for (size_t i = 0; i < table.size(); ++i) pointer<float>(out)[i] = (float)table[i];
}

void distances(Pointer a, Pointer b, Pointer out, long long batch, long long count, const py::object& walk, int dtype,
               int threads) {
  Walk w(batch, count, walk);
  DistancesCall call{w.shape, Dtype(dtype), threads, {}, {}, pointer<double>(out)};
  call.a = w.next(a), call.b = w.next(b);
  py::gil_scoped_release release;
  kernels->distances(call);
}

void random_start(Pointer adv, Pointer origin, long long batch, long long count, const py::object& walk, int dtype,
                  int norm, double eps, Pointer eps_values, double low, double high, unsigned long long seed,
                  Pointer sample_ids, int threads) {
  Walk w(batch, count, walk);
  StartCall call{{w.shape,
                  Dtype(dtype),
                  Norm(norm),
                  threads,
                  {eps, pointer<double>(eps_values)},
                  {},
                  low,
                  high,
                  {},
                  {},
                  {},
                  {},
                  {}},
                 seed,
                 pointer<long long>(sample_ids)};
  call.common.adv = w.next(adv), call.common.origin = w.next(origin);
  py::gil_scoped_release release;
  kernels->random_start(call);
}

void typical_noise(Pointer out, Pointer clean, long long batch, long long count, const py::object& walk, int dtype,
                   double sigma, Pointer sigma_values, double typicality, Pointer typicality_values, double mean,
                   Pointer mean_values, unsigned long long seed, Pointer sample_ids, int threads) {
  Walk w(batch, count, walk);
  NoiseCall call{w.shape,
                 Dtype(dtype),
                 threads,
                 {sigma, pointer<double>(sigma_values)},
                 {typicality, pointer<double>(typicality_values)},
                 {mean, pointer<double>(mean_values)},
                 seed,
                 pointer<long long>(sample_ids),
                 {},
                 {}};
  call.out = w.next(out), call.clean = w.next(clean);
  py::gil_scoped_release release;
  kernels->typical_noise(call);
}

void momentum_step(Pointer adv, Pointer momentum, Pointer grad, Pointer origin, Pointer mask, long long batch,
                   long long count, const py::object& walk, int dtype, int norm, double eps, Pointer eps_values,
                   double step, Pointer step_values, double decay, Pointer decay_values, double low, double high,
                   int threads) {
  Walk w(batch, count, walk);
  MomentumCall call{{w.shape,
                     Dtype(dtype),
                     Norm(norm),
                     threads,
                     {eps, pointer<double>(eps_values)},
                     {step, pointer<double>(step_values)},
                     low,
                     high,
                     {},
                     {},
                     {},
                     {},
                     {}},
                    {decay, pointer<double>(decay_values)},
                    {}};
  Call& common = call.common;
  common.adv = w.next(adv), call.momentum = w.next(momentum), common.grad = w.next(grad);
  common.origin = w.next(origin), common.mask = w.next(mask);
  py::gil_scoped_release release;
  kernels->momentum_step(call);
}

void accumulate(Pointer total, Pointer grad, long long batch, long long count, const py::object& walk, int dtype,
                double keep, Pointer keep_values, double weight, Pointer weight_values, int threads) {
  Walk w(batch, count, walk);
  AccumulateCall call{w.shape,
                      Dtype(dtype),
                      threads,
                      {keep, pointer<double>(keep_values)},
                      {weight, pointer<double>(weight_values)},
                      {},
                      {}};
  call.total = w.next(total), call.grad = w.next(grad);
  py::gil_scoped_release release;
  kernels->accumulate(call);
}

void apgd_step(Pointer adv, Pointer previous, Pointer grad, Pointer origin, Pointer mask, long long batch,
               long long count, const py::object& walk, int dtype, int norm, double eps, Pointer eps_values,
               double step, Pointer step_values, double momentum, Pointer momentum_values, double low, double high,
               int threads) {
  Walk w(batch, count, walk);
  ApgdCall call{{w.shape,
                 Dtype(dtype),
                 Norm(norm),
                 threads,
                 {eps, pointer<double>(eps_values)},
                 {step, pointer<double>(step_values)},
                 low,
                 high,
                 {},
                 {},
                 {},
                 {},
                 {}},
                {momentum, pointer<double>(momentum_values)},
                {}};
  call.common.adv = w.next(adv), call.previous = w.next(previous), call.common.grad = w.next(grad);
  call.common.origin = w.next(origin), call.common.mask = w.next(mask);
  py::gil_scoped_release release;
  kernels->apgd_step(call);
}

void zero_mean_step(Pointer adv, Pointer grad, Pointer origin, long long batch, long long count, const py::object& walk,
                    int dtype, double eps, Pointer eps_values, double step, Pointer step_values, int threads) {
  Walk w(batch, count, walk);
  Call call{};
  call.shape = w.shape, call.dtype = Dtype(dtype), call.norm = Norm::l2, call.threads = threads;
  call.eps = {eps, pointer<double>(eps_values)}, call.step = {step, pointer<double>(step_values)};
  call.adv = w.next(adv), call.grad = w.next(grad), call.origin = w.next(origin);
  py::gil_scoped_release release;
  kernels->zero_mean_step(call);
}

void quantise(Pointer adv, Pointer origin, Pointer mask, long long batch, long long count, const py::object& walk,
              int dtype, int norm, double eps, Pointer eps_values, double low, double high, double levels,
              int threads) {
  Walk w(batch, count, walk);
  QuantiseCall call{};
  Call& c = call.common;
  c.shape = w.shape, c.dtype = Dtype(dtype), c.norm = Norm(norm), c.threads = threads;
  c.eps = {eps, pointer<double>(eps_values)}, c.low = low, c.high = high, call.levels = levels;
  c.adv = w.next(adv), c.origin = w.next(origin), c.mask = w.next(mask);
  py::gil_scoped_release release;
  kernels->quantise(call);
}

void l1_project(Pointer adv, Pointer origin, Pointer mask, long long batch, long long count, const py::object& walk,
                int dtype, double eps, Pointer eps_values, double low, double high, int threads) {
  Walk w(batch, count, walk);
  Call call{};
  call.shape = w.shape, call.dtype = Dtype(dtype), call.threads = threads;
  call.eps = {eps, pointer<double>(eps_values)}, call.low = low, call.high = high;
  call.adv = w.next(adv), call.origin = w.next(origin), call.mask = w.next(mask);
  py::gil_scoped_release release;
  kernels->l1_project(call);
}

void l1_step(Pointer adv, Pointer grad, Pointer origin, Pointer mask, long long batch, long long count,
             const py::object& walk, int dtype, double eps, Pointer eps_values, double step, Pointer step_values,
             double keep, Pointer keep_values, double low, double high, int threads) {
  Walk w(batch, count, walk);
  L1StepCall call{};
  Call& c = call.common;
  c.shape = w.shape, c.dtype = Dtype(dtype), c.threads = threads;
  c.eps = {eps, pointer<double>(eps_values)}, c.step = {step, pointer<double>(step_values)};
  call.keep = {keep, pointer<double>(keep_values)}, c.low = low, c.high = high;
  c.adv = w.next(adv), c.grad = w.next(grad), c.origin = w.next(origin), c.mask = w.next(mask);
  py::gil_scoped_release release;
  kernels->l1_step(call);
}

// One Python argument. pybind11's own conversion, overloads and all, costs as much as a small kernel.
template <class T>
T from(PyObject* value) {
  if constexpr (std::is_same_v<T, py::object>) {
    return py::reinterpret_borrow<py::object>(value);
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

template <class... Args, size_t... I>
void call(void (*function)(Args...), PyObject* const* args, Py_ssize_t given, std::index_sequence<I...>) {
  if (given != (Py_ssize_t)sizeof...(Args)) {
    PyErr_Format(PyExc_TypeError, "wanted %zd arguments, got %zd", (Py_ssize_t)sizeof...(Args), given);
    throw py::error_already_set();
  }
  function(from<std::decay_t<Args>>(args[I])...);
}

template <class... Args>
void call(void (*function)(Args...), PyObject* const* args, Py_ssize_t given) {
  call(function, args, given, std::index_sequence_for<Args...>{});
}

// A function above as Python calls it, with positional arguments alone.
template <auto function>
PyObject* entry(PyObject*, PyObject* const* args, Py_ssize_t given) {
  try {
    call(function, args, given);
    Py_RETURN_NONE;
  } catch (py::error_already_set& error) {
    error.restore();
  } catch (const std::exception& error) {
    PyErr_SetString(PyExc_RuntimeError, error.what());
  }
  return nullptr;
}

// (pointers, batch, count, None, dtype) of tensors of one shape that are all contiguous, else None; the pointer of a
// None is 0. Arguments: a dict with the number of each dtype, then the tensors, of which the methods are called.
PyObject* plain(PyObject*, PyObject* const* args, Py_ssize_t given) {
  static PyObject *const is_contiguous = PyUnicode_InternFromString("is_contiguous"),
                         *const data_ptr = PyUnicode_InternFromString("data_ptr"),
                         *const shape = PyUnicode_InternFromString("shape"),
                         *const dtype = PyUnicode_InternFromString("dtype");
  auto owned = [](PyObject* result) {
    if (!result) throw py::error_already_set();
    return py::reinterpret_steal<py::object>(result);
  };
  try {
    Py_ssize_t tensors = given - 1;
    py::tuple found(tensors + 4);
    for (Py_ssize_t i = 0; i < tensors; ++i) {
      PyObject* t = args[i + 1];
      if (t == Py_None) {
        found[i] = 0;
        continue;
      }
      if (owned(PyObject_CallMethodNoArgs(t, is_contiguous)).ptr() != Py_True) Py_RETURN_NONE;
      found[i] = owned(PyObject_CallMethodNoArgs(t, data_ptr));
    }
    py::tuple sizes = owned(PyObject_GetAttr(args[1], shape));
    long long count = 1;
    for (size_t d = 1; d < sizes.size(); ++d) count *= PyLong_AsLongLong(sizes[d].ptr());
    found[tensors] = sizes[0];
    found[tensors + 1] = count;
    found[tensors + 2] = py::none();
    PyObject* number = PyDict_GetItemWithError(args[0], owned(PyObject_GetAttr(args[1], dtype)).ptr());
    if (!number) throw py::type_error("no kernel for this dtype");
    found[tensors + 3] = py::reinterpret_borrow<py::object>(number);
    return found.release().ptr();
  } catch (py::error_already_set& error) {
    error.restore();
  } catch (const py::builtin_exception& error) {
    error.set_error();
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
      method<&plain>("plain"),
      {nullptr, nullptr, 0, nullptr},
  };
  if (PyModule_AddFunctions(m.ptr(), functions)) throw py::error_already_set();
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
