// The part of DLPack's C ABI that is used here: a tensor's description, and the table in which a library offers it (the
// capsule `__dlpack_c_exchange_api__` of its tensor type; DLPack 1.2 and later). Written from the specification:
// https://dmlc.github.io/dlpack/latest/c_api.html
#pragma once

#include <cstdint>

namespace fastattack::dlpack {

constexpr uint32_t major_version = 1;  // another one has another layout; a minor one adds enumerators alone

struct Version {
  uint32_t major, minor;
};

enum Device : int32_t { cpu = 1 };

enum Code : uint8_t { ieee_float = 2, bfloat = 4 };

struct Dtype {
  uint8_t code, bits;
  uint16_t lanes;
};

struct Tensor {
  void* data;
  int32_t device_type, device_id;
  int32_t ndim;
  Dtype dtype;
  int64_t* shape;
  int64_t* strides;  // in elements
  uint64_t byte_offset;
};

static_assert(sizeof(void*) != 8 || sizeof(Tensor) == 48, "DLTensor of the specification");

struct ExchangeApi {
  Version version;
  void* previous;
  void* allocate;
  void* managed_from_object;
  void* managed_to_object;
  int (*describe)(void* object, Tensor* out);  // dltensor_from_py_object_no_sync: -1 with an exception set; may be null
  void* current_work_stream;
};

}  // namespace fastattack::dlpack
