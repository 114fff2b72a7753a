// The tensors of a call as Python hands them over: a tuple of torch tensors, with None where there is none.
#pragma once

#include <pybind11/pybind11.h>

#include "calls.h"
#include "dlpack_abi.h"

namespace fastattack {

namespace py = pybind11;

// What use_torch() was told; kept for the life of the process.
struct Torch {
  PyObject* tensor;  // the type
  PyObject* dtypes;  // {torch's dtype: number of ours}
  PyObject* walk;    // the Python function that describes tensors which are not one run of memory
  int (*describe)(void*, dlpack::Tensor*);  // null: this torch does not offer it
};

inline Torch torch{};

inline void use_torch(const py::object& tensor, const py::dict& dtypes, const py::function& walk) {
  py::object capsule = py::getattr(tensor, "__dlpack_c_exchange_api__", py::none());
  auto* api = (const dlpack::ExchangeApi*)PyCapsule_GetPointer(capsule.ptr(), "dlpack_exchange_api");
  if (!api) PyErr_Clear();
  bool known = api && api->version.major == dlpack::major_version;
  torch = Torch{tensor.inc_ref().ptr(), dtypes.inc_ref().ptr(), walk.inc_ref().ptr(), known ? api->describe : nullptr};
}

inline py::object owned(PyObject* result) {
  if (!result) throw py::error_already_set();
  return py::reinterpret_steal<py::object>(result);
}

inline PyObject* interned(const char* name) { return PyUnicode_InternFromString(name); }

inline void* address(PyObject* tensor) {
  static PyObject* const data_ptr = interned("data_ptr");
  return PyLong_AsVoidPtr(owned(PyObject_CallMethodNoArgs(tensor, data_ptr)).ptr());
}

// Whether it is a torch.Tensor (no subclass) that is one run of CPU memory in row-major order, with at least one
// element; then `seen` describes it. Never raises.
inline bool one_run(PyObject* t, dlpack::Tensor& seen) {
  if ((PyObject*)Py_TYPE(t) != torch.tensor || !torch.describe) return false;
  if (torch.describe(t, &seen)) {  // sparse, on the meta device, wrapped by functorch, ...
    PyErr_Clear();
    return false;
  }
  if (seen.device_type != dlpack::cpu || !seen.data || seen.byte_offset || seen.ndim < 1) return false;
  int64_t run = 1;
  for (int d = seen.ndim - 1; d >= 0; run *= seen.shape[d--]) {
    if (seen.shape[d] != 1 && seen.strides[d] != run) return false;
  }
  return run > 0;
}

inline bool same_shape(const dlpack::Tensor& a, const dlpack::Tensor& b) {
  bool same = a.ndim == b.ndim;
  for (int d = 0; same && d < a.ndim; ++d) same = a.shape[d] == b.shape[d];
  return same;
}

inline int64_t count_of(const dlpack::Tensor& t) {
  int64_t count = 1;
  for (int d = 1; d < t.ndim; ++d) count *= t.shape[d];
  return count;
}

// The number of our Dtype, or -1.
inline int number_of(dlpack::Dtype d) {
  if (d.lanes != 1) return -1;
  if (d.code == dlpack::bfloat && d.bits == 16) return (int)Dtype::bf16;
  if (d.code != dlpack::ieee_float) return -1;
  return d.bits == 32 ? (int)Dtype::f32 : d.bits == 64 ? (int)Dtype::f64 : d.bits == 16 ? (int)Dtype::f16 : -1;
}

constexpr Py_ssize_t most_tensors = 5;

// Whether the public op may pass over its checks of these tensors: all plain ones (see one_run) of one shape and one
// dtype that has kernels, and the first `writes` of them may be written in place. False says nothing: the checks do.
inline bool fit(PyObject* tensors, long long writes) {
  static PyObject* const requires_grad = interned("requires_grad");
  Py_ssize_t given = PyTuple_Check(tensors) ? PyTuple_GET_SIZE(tensors) : 0;
  if (given < 1 || given > most_tensors) return false;
  dlpack::Tensor seen[most_tensors];
  for (Py_ssize_t i = 0; i < given; ++i) {
    if (!one_run(PyTuple_GET_ITEM(tensors, i), seen[i]) || !same_shape(seen[i], seen[0])) return false;
    if (number_of(seen[i].dtype) < 0 || number_of(seen[i].dtype) != number_of(seen[0].dtype)) return false;
  }
  int64_t bytes = seen[0].shape[0] * count_of(seen[0]) * (seen[0].dtype.bits / 8);
  for (Py_ssize_t i = 0; i < writes && i < given; ++i) {
    if (owned(PyObject_GetAttr(PyTuple_GET_ITEM(tensors, i), requires_grad)).ptr() != Py_False) return false;
    for (Py_ssize_t j = i + 1; j < given; ++j) {
      int64_t apart = (int64_t)((intptr_t)seen[j].data - (intptr_t)seen[i].data);
      if (-bytes < apart && apart < bytes) return false;
    }
  }
  return true;
}

// The memory of a call's tensors: next() gives it in the order of the tuple.
class Memory {
 public:
  explicit Memory(PyObject* tensors, bool keep_order = false) {
    given_ = PyTuple_Check(tensors) ? PyTuple_GET_SIZE(tensors) : 0;
    if (given_ < 1 || given_ > most_tensors) throw py::type_error("wanted a tuple of 1 to 5 tensors");
    if (!by_description(tensors) && !by_methods(tensors)) by_walk(tensors, keep_order);
  }
  View next() { return used_ < given_ ? views_[used_++] : throw py::type_error("wanted more tensors"); }

  Shape shape;
  Dtype dtype;

 private:
  void runs(long long batch, long long count) {
    shape = Shape{batch, {1, 1, 1, count}};
    for (View& v : views_) v = View{v.data, {count, 0, 0, 0, 1}};
  }

  bool by_description(PyObject* tensors) {
    dlpack::Tensor first, other;
    if (!one_run(PyTuple_GET_ITEM(tensors, 0), first) || number_of(first.dtype) < 0) return false;
    views_[0].data = first.data;
    for (Py_ssize_t i = 1; i < given_; ++i) {
      PyObject* t = PyTuple_GET_ITEM(tensors, i);
      if (t != Py_None && !(one_run(t, other) && same_shape(first, other))) return false;
      views_[i].data = t == Py_None ? nullptr : other.data;
    }
    dtype = (Dtype)number_of(first.dtype);
    runs(first.shape[0], count_of(first));
    return true;
  }

  // The same by the tensors' own methods, where torch is older or has subclassed them.
  bool by_methods(PyObject* tensors) {
    static PyObject *const is_contiguous = interned("is_contiguous"), *const sizes = interned("shape"),
                           *const type = interned("dtype");
    PyObject* first = PyTuple_GET_ITEM(tensors, 0);
    for (Py_ssize_t i = 0; i < given_; ++i) {
      PyObject* t = PyTuple_GET_ITEM(tensors, i);
      if (t != Py_None && owned(PyObject_CallMethodNoArgs(t, is_contiguous)).ptr() != Py_True) return false;
      views_[i].data = t == Py_None ? nullptr : address(t);
    }
    py::tuple size = owned(PyObject_GetAttr(first, sizes));
    long long count = 1;
    for (size_t d = 1; d < size.size(); ++d) count *= PyLong_AsLongLong(size[d].ptr());
    PyObject* number = PyDict_GetItemWithError(torch.dtypes, owned(PyObject_GetAttr(first, type)).ptr());
    if (!number) throw py::type_error("no kernel for this dtype");
    dtype = (Dtype)PyLong_AsLong(number);
    runs(PyLong_AsLongLong(size[0].ptr()), count);
    return true;
  }

  // walk(tensors, keep_order) -> (dtype, batch, (4 sizes), one (pointer, (5 strides)) or None for each tensor)
  void by_walk(PyObject* tensors, bool keep_order) {
    auto number = [](PyObject* tuple, Py_ssize_t at) { return PyLong_AsLongLong(PyTuple_GetItem(tuple, at)); };
    PyObject* arguments[] = {tensors, keep_order ? Py_True : Py_False};
    py::object walked = owned(PyObject_Vectorcall(torch.walk, arguments, 2, nullptr));
    dtype = (Dtype)number(walked.ptr(), 0), shape.batch = number(walked.ptr(), 1);
    PyObject *sizes = PyTuple_GetItem(walked.ptr(), 2), *places = PyTuple_GetItem(walked.ptr(), 3);
    for (int d = 0; d < 4 && sizes; ++d) shape.size[d] = number(sizes, d);
    for (Py_ssize_t i = 0; i < given_ && places; ++i) {
      views_[i] = View{};
      PyObject* place = PyTuple_GetItem(places, i);
      if (!place || place == Py_None) continue;
      views_[i].data = PyLong_AsVoidPtr(PyTuple_GetItem(place, 0));
      PyObject* strides = PyTuple_GetItem(place, 1);
      for (int d = 0; d < 5 && strides; ++d) views_[i].stride[d] = number(strides, d);
    }
    if (PyErr_Occurred()) throw py::error_already_set();
  }

  View views_[most_tensors]{};
  Py_ssize_t given_ = 0, used_ = 0;
};

// Of a call whose result depends on the logical order of the elements.
struct OrderedMemory : Memory {
  explicit OrderedMemory(PyObject* tensors) : Memory(tensors, true) {}
};

}  // namespace fastattack
