// Three devices that are none: their tensors lie in the CPU's memory and are worked on by the CPU.
//
// An operation on tensors of two of them, or of one and the CPU, is refused as between GPUs. Every
// operation but those below goes to one function, `fallback`, which looks at the devices and then has
// the CPU do the work on the same memory.

#include <ATen/EmptyTensor.h>
#include <ATen/NativeFunctions.h>
#include <ATen/detail/PrivateUse1HooksInterface.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <torch/extension.h>
#include <torch/library.h>

namespace {

constexpr auto PRETENDED = c10::DeviceType::PrivateUse1;
constexpr c10::DeviceIndex COUNT = 3;
thread_local c10::DeviceIndex current = 0;

// --- what PyTorch asks of a device ---------------------------------------------------------------

struct Guard final : c10::impl::DeviceGuardImplInterface {
  c10::DeviceType type() const override { return PRETENDED; }
  c10::Device getDevice() const override { return {PRETENDED, current}; }
  void setDevice(c10::Device device) const override { current = device.index(); }
  void uncheckedSetDevice(c10::Device device) const noexcept override { current = device.index(); }
  c10::Device exchangeDevice(c10::Device device) const override {
    return {PRETENDED, std::exchange(current, device.index())};
  }
  c10::DeviceIndex deviceCount() const noexcept override { return COUNT; }
  c10::Stream getStream(c10::Device device) const override {
    return c10::Stream(c10::Stream::DEFAULT, device);
  }
  c10::Stream getDefaultStream(c10::Device device) const override { return getStream(device); }
  c10::Stream exchangeStream(c10::Stream stream) const override {
    return getStream(stream.device());
  }
  // There is nothing to wait for: the work is done when an operation returns.
  void record(void**, const c10::Stream&, const c10::DeviceIndex,
              const c10::EventFlag) const override {}
  void block(void*, const c10::Stream&) const override {}
  bool queryEvent(void*) const override { return true; }
  bool queryStream(const c10::Stream&) const override { return true; }
  void synchronizeEvent(void*) const override {}
  void synchronizeStream(const c10::Stream&) const override {}
  void destroyEvent(void*, const c10::DeviceIndex) const noexcept override {}
};
C10_REGISTER_GUARD_IMPL(PrivateUse1, Guard);

struct Memory final : c10::Allocator {
  static void release(void* data) { std::free(data); }
  c10::DataPtr allocate(size_t bytes) override {
    void* data = bytes ? std::aligned_alloc(64, (bytes + 63) / 64 * 64) : nullptr;
    return {data, data, &release, c10::Device(PRETENDED, current)};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &release; }
  void copy_data(void* to, const void* from, size_t bytes) const override {
    std::memcpy(to, from, bytes);
  }
};
Memory memory;
REGISTER_ALLOCATOR(PRETENDED, &memory);

struct Hooks final : at::PrivateUse1HooksInterface {
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasPrimaryContext(c10::DeviceIndex) const override { return true; }
  bool isPinnedPtr(const void*) const override { return false; }
  c10::Device getDeviceFromPtr(void*) const override { return {PRETENDED, current}; }
  c10::Allocator* getPinnedMemoryAllocator() const override {
    return c10::GetAllocator(c10::kCPU);
  }
  void resizePrivateUse1Bytes(const c10::Storage& storage, size_t bytes) const override {
    auto* own = storage.unsafeGetStorageImpl();
    c10::DeviceGuard guard(own->device());
    auto fresh = memory.allocate(bytes);
    if (own->data()) std::memcpy(fresh.get(), own->data(), std::min(bytes, own->nbytes()));
    own->set_data_ptr_noswap(std::move(fresh));
    own->set_nbytes(bytes);
  }
};
Hooks hooks;

// --- tensors -------------------------------------------------------------------------------------

bool pretended(const at::Tensor& tensor) {
  return tensor.defined() && tensor.device().type() == PRETENDED;
}

// The same memory, as a tensor of the CPU.
at::Tensor as_cpu(const at::Tensor& tensor) {
  if (!pretended(tensor)) return tensor;
  c10::DataPtr data(tensor.storage().mutable_data(), nullptr, [](void*) {}, c10::kCPU);
  c10::Storage storage(c10::Storage::use_byte_size_t{}, tensor.storage().nbytes(), std::move(data),
                       c10::GetAllocator(c10::kCPU), true);
  auto seen = at::detail::make_tensor<c10::TensorImpl>(
      std::move(storage), c10::DispatchKeySet(c10::DispatchKey::CPU), tensor.dtype());
  seen.unsafeGetTensorImpl()->set_sizes_and_strides(tensor.sizes(), tensor.strides(),
                                                    tensor.storage_offset());
  if (tensor.is_neg()) seen._set_neg(true);
  return seen;
}

// A copy of a tensor of the CPU on a device.
at::Tensor on_device(const at::Tensor& tensor, c10::Device device) {
  if (!tensor.defined() || pretended(tensor)) return tensor;
  auto copy =
      at::empty_strided(tensor.sizes(), tensor.strides(), tensor.options().device(device));
  as_cpu(copy).copy_(tensor);
  return copy;
}

c10::Device place(std::optional<c10::Device> device) {
  return device && device->has_index() ? *device : c10::Device(PRETENDED, current);
}

at::Tensor empty(c10::SymIntArrayRef size, std::optional<c10::ScalarType> dtype,
                 std::optional<c10::Layout>, std::optional<c10::Device> device,
                 std::optional<bool>, std::optional<c10::MemoryFormat> format) {
  c10::DeviceGuard guard(place(device));
  return at::detail::empty_generic(C10_AS_INTARRAYREF_SLOW(size), &memory,
                                   c10::DispatchKeySet(c10::DispatchKey::PrivateUse1),
                                   dtype.value_or(at::kFloat), format);
}

at::Tensor empty_strided(c10::SymIntArrayRef size, c10::SymIntArrayRef stride,
                         std::optional<c10::ScalarType> dtype, std::optional<c10::Layout>,
                         std::optional<c10::Device> device, std::optional<bool>) {
  c10::DeviceGuard guard(place(device));
  return at::detail::empty_strided_generic(
      C10_AS_INTARRAYREF_SLOW(size), C10_AS_INTARRAYREF_SLOW(stride), &memory,
      c10::DispatchKeySet(c10::DispatchKey::PrivateUse1), dtype.value_or(at::kFloat));
}

const at::Tensor& resize_(const at::Tensor& self, c10::SymIntArrayRef size,
                          std::optional<c10::MemoryFormat>) {
  auto sizes = C10_AS_INTARRAYREF_SLOW(size);
  size_t bytes = (c10::multiply_integers(sizes) + self.storage_offset()) * self.itemsize();
  if (self.storage().nbytes() < bytes) hooks.resizePrivateUse1Bytes(self.storage(), bytes);
  self.unsafeGetTensorImpl()->set_sizes_contiguous(sizes);
  return self;
}

// Between devices, and to and from the CPU: the one operation that mixes them.
at::Tensor copy_from(const at::Tensor& self, const at::Tensor& to, bool) {
  as_cpu(to).copy_(as_cpu(self));
  return to;
}

at::Tensor copy_from_and_resize(const at::Tensor& self, const at::Tensor& to) {
  if (to.sizes() != self.sizes()) to.resize_(self.sizes());
  return copy_from(self, to, false);
}

at::Scalar item(const at::Tensor& self) {
  return at::native::_local_scalar_dense_cpu(as_cpu(self));
}

int64_t attention_in_steps(const at::Tensor&, const at::Tensor&, const at::Tensor&,
                           const std::optional<at::Tensor>&, double, bool, std::optional<double>,
                           bool) {
  return 0;  // of SDPBackend: the plain one
}

at::Tensor view(const at::Tensor& self, c10::SymIntArrayRef size) {
  return at::native::view(self, C10_AS_INTARRAYREF_SLOW(size));
}

at::Tensor as_strided(const at::Tensor& self, c10::SymIntArrayRef size, c10::SymIntArrayRef stride,
                      std::optional<c10::SymInt> offset) {
  auto from = offset ? std::optional(offset->guard_int(__FILE__, __LINE__)) : std::nullopt;
  return at::native::as_strided_tensorimpl(self, C10_AS_INTARRAYREF_SLOW(size),
                                           C10_AS_INTARRAYREF_SLOW(stride), from);
}

at::Tensor reshape_alias(const at::Tensor& self, c10::SymIntArrayRef size,
                         c10::SymIntArrayRef stride) {
  return as_strided(self, size, stride, self.sym_storage_offset());
}

at::Tensor unfold(const at::Tensor& self, int64_t dimension, int64_t size, int64_t step) {
  return at::native::unfold(self, dimension, size, step);
}

at::Tensor& set_storage(at::Tensor& self, at::Storage storage, c10::SymInt offset,
                        c10::SymIntArrayRef size, c10::SymIntArrayRef stride) {
  auto* own = self.unsafeGetTensorImpl();
  own->set_storage_keep_dtype(storage);
  own->set_sizes_and_strides(C10_AS_INTARRAYREF_SLOW(size), C10_AS_INTARRAYREF_SLOW(stride),
                             offset.guard_int(__FILE__, __LINE__));
  return self;
}

at::Tensor& set_tensor(at::Tensor& self, const at::Tensor& source) {
  return set_storage(self, source.storage(), source.sym_storage_offset(), source.sym_sizes(),
                     source.sym_strides());
}

// --- every other operation -----------------------------------------------------------------------

// The one device of an operation's arguments.
class Where {
 public:
  explicit Where(const c10::FunctionSchema& schema) : name_(schema.name()) {
    // A tensor may be indexed by one of the CPU.
    indexes_ = name_ == "aten::index" || name_.find("aten::index_put") == 0 ||
               name_ == "aten::_index_put_impl_";
  }

  void see(const at::Tensor& tensor, size_t argument) {
    if (!tensor.defined()) return;
    if (pretended(tensor)) {
      TORCH_CHECK(!device_ || *device_ == tensor.device(), name_, ": tensors of ", *device_, " and ",
                  tensor.device());
      device_ = tensor.device();
    } else if (tensor.dim() > 0 && !(indexes_ && argument > 0)) {  // numbers go everywhere
      of_cpu_ = true;
    }
  }

  void told(c10::Device device) {
    if (!device_) device_ = device;
  }

  c10::Device found() const {
    TORCH_CHECK(device_.has_value(), name_, ": on no device");
    TORCH_CHECK(!of_cpu_, name_, ": tensors of ", *device_, " and the CPU");
    return *device_;
  }

 private:
  std::string name_;
  bool indexes_ = false, of_cpu_ = false;
  std::optional<c10::Device> device_;
};

// What an argument was that the operation writes into, where `returned` stands for it.
std::optional<at::Tensor> written(const c10::FunctionSchema& schema, size_t returned,
                                  const std::vector<c10::IValue>& given) {
  auto* alias = schema.returns()[returned].alias_info();
  for (size_t i = 0; i < given.size(); i++) {
    auto* own = schema.arguments()[i].alias_info();
    if (own && own->isWrite() && own->beforeSets() == alias->beforeSets() && given[i].isTensor())
      return given[i].toTensor();
  }
  return std::nullopt;
}

void fallback(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  const auto& schema = op.schema();
  const auto count = schema.arguments().size(), first = stack->size() - count;
  const std::vector<c10::IValue> given(stack->begin() + first, stack->end());
  Where where(schema);
  for (size_t i = 0; i < count; i++) {
    auto& value = (*stack)[first + i];
    if (value.isTensor()) {
      where.see(value.toTensor(), i);
      value = as_cpu(value.toTensor());
    } else if (value.isTensorList()) {
      c10::List<at::Tensor> list;
      for (at::Tensor tensor : value.toTensorList()) {
        where.see(tensor, i);
        list.push_back(as_cpu(tensor));
      }
      value = list;
    } else if (value.isOptionalTensorList()) {
      c10::List<std::optional<at::Tensor>> list;
      for (std::optional<at::Tensor> tensor : value.toOptionalTensorList()) {
        if (tensor) where.see(*tensor, i);
        list.push_back(tensor ? std::optional(as_cpu(*tensor)) : std::nullopt);
      }
      value = list;
    } else if (value.isDevice()) {
      where.told(value.toDevice());
      value = c10::Device(c10::kCPU);
    }
  }
  const auto device = where.found();
  op.redispatchBoxed(c10::DispatchKeySet(c10::DispatchKey::CPU), stack);
  const auto returns = schema.returns().size(), begin = stack->size() - returns;
  for (size_t i = 0; i < returns; i++) {
    auto& value = (*stack)[begin + i];
    if (auto* alias = schema.returns()[i].alias_info()) {
      TORCH_CHECK(alias->isWrite(), schema.name(), ": a view that is not known here");
      if (auto target = written(schema, i, given); target && value.isTensor()) {
        const auto made = value.toTensor();
        if (pretended(*target) &&
            (made.sizes() != target->sizes() || made.data_ptr() != target->data_ptr())) {
          resize_(*target, c10::fromIntArrayRefSlow(made.sizes()), {});
          as_cpu(*target).copy_(made);
        }
        value = *target;
      }
    } else if (value.isTensor()) {
      value = on_device(value.toTensor(), device);
    } else if (value.isTensorList()) {
      c10::List<at::Tensor> list;
      for (at::Tensor tensor : value.toTensorList()) list.push_back(on_device(tensor, device));
      value = list;
    }
  }
}

}  // namespace

TORCH_LIBRARY_IMPL(_, PrivateUse1, library) {
  library.fallback(torch::CppFunction::makeFromBoxedFunction<&fallback>());
}

TORCH_LIBRARY_IMPL(aten, PrivateUse1, library) {
  library.impl("empty.memory_format", empty);
  library.impl("empty_strided", empty_strided);
  library.impl("resize_", resize_);
  library.impl("_copy_from", copy_from);
  library.impl("_copy_from_and_resize", copy_from_and_resize);
  library.impl("_local_scalar_dense", item);
  library.impl("_fused_sdp_choice", attention_in_steps);
  library.impl("view", view);
  library.impl("as_strided", as_strided);
  library.impl("_reshape_alias", reshape_alias);
  library.impl("unfold", unfold);
  library.impl("set_.source_Storage_storage_offset", set_storage);
  library.impl("set_.source_Tensor", set_tensor);
}

PYBIND11_MODULE(TORCH_EXTENSION_NAME, module) {
  module.def("start", [] { at::RegisterPrivateUse1HooksInterface(&hooks); });
  module.def("count", [] { return static_cast<int>(COUNT); });
  module.def("current", [] { return static_cast<int>(current); });
  module.def("set_current", [](int index) { current = static_cast<c10::DeviceIndex>(index); });
}
