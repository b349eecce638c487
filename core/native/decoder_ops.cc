// The decoder's operations on the CPU as TensorFlow operations, each in one pass: TensorFlow runs them as chains of
// small ones, whose intermediate results cost more time than the arithmetic. Loading this library registers them.
#include <dlfcn.h>

#include <cstdint>
#include <cstdio>
#include <memory>

#include "attention.h"
#include "elementwise.h"
#include "tensorflow/c/kernels.h"
#include "tensorflow/c/ops.h"
#include "tensorflow/c/tf_status.h"
#include "tensorflow/c/tf_tensor.h"

namespace {

using StatusPointer = std::unique_ptr<TF_Status, decltype(&TF_DeleteStatus)>;
using TensorPointer = std::unique_ptr<TF_Tensor, decltype(&TF_DeleteTensor)>;

StatusPointer newStatus() { return {TF_NewStatus(), TF_DeleteStatus}; }

struct Attributes {
  int32_t batch = 1, groups = 1, headsPerGroup = 1, threads = 1;
  float epsilon = 0;
};

// One call: inputs and outputs by position.
class Call {
 public:
  explicit Call(TF_OpKernelContext* context) : context_(context), status_(newStatus()) {}

  const float* input(int index) { return static_cast<const float*>(TF_TensorData(tensor(index))); }
  const int32_t* integers(int index) {
    return size(index) > 0 ? static_cast<const int32_t*>(TF_TensorData(tensor(index))) : nullptr;
  }
  long size(int index) { return TF_TensorElementCount(tensor(index)); }
  long rows(int index) { return TF_Dim(tensor(index), 0); }
  long columns(int index) { return TF_Dim(tensor(index), 1); }

  float* output(int index, std::vector<int64_t> shape) {
    int64_t count = 1;
    for (const int64_t size : shape) count *= size;
    tensors_.emplace_back(TF_AllocateOutput(context_, index, TF_FLOAT, shape.data(), shape.size(),
                                            count * sizeof(float), status_.get()),
                          TF_DeleteTensor);
    if (TF_GetCode(status_.get()) != TF_OK) TF_OpKernelContext_Failure(context_, status_.get());
    return tensors_.back() ? static_cast<float*>(TF_TensorData(tensors_.back().get())) : nullptr;
  }

 private:
  TF_Tensor* tensor(int index) {
    if (index >= static_cast<int>(inputs_.size())) inputs_.resize(index + 1);
    if (!inputs_[index]) {
      TF_Tensor* found = nullptr;
      TF_GetInput(context_, index, &found, status_.get());
      inputs_[index] = std::shared_ptr<TF_Tensor>(found, TF_DeleteTensor);
    }
    return inputs_[index].get();
  }

  TF_OpKernelContext* context_;
  StatusPointer status_;
  std::vector<std::shared_ptr<TF_Tensor>> inputs_;
  std::vector<TensorPointer> tensors_;
};

maskprune::AttentionShape attentionShape(const Attributes& a, Call& call) {
  const long heads = static_cast<long>(a.groups) * a.headsPerGroup;
  return {a.batch, a.groups, a.headsPerGroup, call.columns(0) / (heads + 2 * a.groups), call.rows(0) / a.batch,
          a.threads};
}

// packed [B T, (H + 2 G) K], cos and sin [B T, K], segments [B T] or [0] -> out [B T, H K], log sums [B T, H].
void attention(const Attributes& attributes, Call& call) {
  const auto shape = attentionShape(attributes, call);
  float* out = call.output(0, {call.rows(0), shape.outWidth()});
  float* logSums = call.output(1, {call.rows(0), shape.heads()});
  if (!out || !logSums) return;
  maskprune::attention(shape, call.input(0), {call.input(1), call.input(2)}, call.integers(3), out, logSums);
}

// The same with out, log sums and the gradient of out -> the gradient of packed.
void attentionGradient(const Attributes& attributes, Call& call) {
  const auto shape = attentionShape(attributes, call);
  float* dPacked = call.output(0, {call.rows(0), call.columns(0)});
  if (!dPacked) return;
  maskprune::attentionGradient(shape, {call.input(0), call.input(4), call.input(5), call.input(6), call.integers(3)},
                               {call.input(1), call.input(2)}, dPacked);
}

// x [N, D], gain [D] -> y [N, D], inverse root mean squares [N].
void rmsNorm(const Attributes& attributes, Call& call) {
  const long rows = call.rows(0), size = call.columns(0);
  float* y = call.output(0, {rows, size});
  float* inverse = call.output(1, {rows});
  if (!y || !inverse) return;
  maskprune::rmsNorm(rows, size, attributes.epsilon, attributes.threads, call.input(0), call.input(1), y, inverse);
}

// x, gain, inverse root mean squares, the gradient of y -> the gradient of x.
void rmsNormGradient(const Attributes& attributes, Call& call) {
  const long rows = call.rows(0), size = call.columns(0);
  float* dx = call.output(0, {rows, size});
  if (!dx) return;
  maskprune::rmsNormGradient(rows, size, attributes.threads, call.input(0), call.input(1), call.input(2), call.input(3),
                             dx);
}

// gate, up [N, F], mask [F] or [0] -> y [N, F].
void swiGlu(const Attributes& attributes, Call& call) {
  const long rows = call.rows(0), size = call.columns(0);
  float* y = call.output(0, {rows, size});
  if (!y) return;
  const float* mask = call.size(2) > 0 ? call.input(2) : nullptr;
  maskprune::swiGlu(rows, size, attributes.threads, call.input(0), call.input(1), mask, y);
}

// gate, up, mask, the gradient of y -> the gradients of gate, up and mask.
void swiGluGradient(const Attributes& attributes, Call& call) {
  const long rows = call.rows(0), size = call.columns(0);
  const bool masked = call.size(2) > 0;
  float* dGate = call.output(0, {rows, size});
  float* dUp = call.output(1, {rows, size});
  float* dMask = call.output(2, {masked ? size : 0});
  if (!dGate || !dUp) return;
  maskprune::swiGluGradient(rows, size, attributes.threads, call.input(0), call.input(1),
                            masked ? call.input(2) : nullptr, call.input(3), dGate, dUp, masked ? dMask : nullptr);
}

using Compute = void (*)(const Attributes&, Call&);

template <Compute compute>
void run(void* kernel, TF_OpKernelContext* context) {
  Call call(context);
  compute(*static_cast<Attributes*>(kernel), call);
}

enum Wants { kThreads = 0, kShape = 1, kEpsilon = 2 };

template <int wants>
void* create(TF_OpKernelConstruction* construction) {
  auto* a = new Attributes;
  const auto status = newStatus();
  TF_OpKernelConstruction_GetAttrInt32(construction, "threads", &a->threads, status.get());
  if (wants & kShape) {
    TF_OpKernelConstruction_GetAttrInt32(construction, "batch", &a->batch, status.get());
    TF_OpKernelConstruction_GetAttrInt32(construction, "groups", &a->groups, status.get());
    TF_OpKernelConstruction_GetAttrInt32(construction, "heads_per_group", &a->headsPerGroup, status.get());
  }
  if (wants & kEpsilon) TF_OpKernelConstruction_GetAttrFloat(construction, "epsilon", &a->epsilon, status.get());
  return a;
}

void destroy(void* kernel) { delete static_cast<Attributes*>(kernel); }

void unknownShape(TF_ShapeInferenceContext* context, TF_Status* status) {
  TF_ShapeInferenceContextSetUnknownShape(context, status);
}

template <Compute compute, int wants>
void add(const char* name, std::vector<const char*> inputs, std::vector<const char*> outputs) {
  const auto status = newStatus();
  TF_OpDefinitionBuilder* definition = TF_NewOpDefinitionBuilder(name);
  for (const char* input : inputs) TF_OpDefinitionBuilderAddInput(definition, input);
  for (const char* output : outputs) TF_OpDefinitionBuilderAddOutput(definition, output);
  TF_OpDefinitionBuilderAddAttr(definition, "threads: int");
  if (wants & kShape) {
    for (const char* attribute : {"batch: int", "groups: int", "heads_per_group: int"}) {
      TF_OpDefinitionBuilderAddAttr(definition, attribute);
    }
  }
  if (wants & kEpsilon) TF_OpDefinitionBuilderAddAttr(definition, "epsilon: float");
  TF_OpDefinitionBuilderSetShapeInferenceFunction(definition, unknownShape);
  TF_RegisterOpDefinition(definition, status.get());
  if (TF_GetCode(status.get()) == TF_OK) {
    TF_KernelBuilder* kernel = TF_NewKernelBuilder(name, "CPU", create<wants>, run<compute>, destroy);
    TF_RegisterKernelBuilder(name, kernel, status.get());
  }
  if (TF_GetCode(status.get()) != TF_OK) std::fprintf(stderr, "%s: %s\n", name, TF_Message(status.get()));
}

// An operation cannot be registered twice, so the library stays when whoever loaded it lets go of it.
void stayLoaded() {
  Dl_info info;
  if (dladdr(reinterpret_cast<void*>(&stayLoaded), &info)) dlopen(info.dli_fname, RTLD_NOW | RTLD_NODELETE);
}

const bool registered = [] {
  stayLoaded();
  add<attention, kShape>("MaskPruneAttention", {"packed: float", "cos: float", "sin: float", "segments: int32"},
                         {"out: float", "log_sums: float"});
  add<attentionGradient, kShape>(
      "MaskPruneAttentionGradient",
      {"packed: float", "cos: float", "sin: float", "segments: int32", "out: float", "log_sums: float", "d_out: float"},
      {"d_packed: float"});
  add<rmsNorm, kEpsilon>("MaskPruneRmsNorm", {"x: float", "gain: float"}, {"y: float", "inverse: float"});
  add<rmsNormGradient, kThreads>("MaskPruneRmsNormGradient",
                                 {"x: float", "gain: float", "inverse: float", "dy: float"}, {"dx: float"});
  add<swiGlu, kThreads>("MaskPruneSwiGlu", {"gate: float", "up: float", "mask: float"}, {"y: float"});
  add<swiGluGradient, kThreads>("MaskPruneSwiGluGradient",
                                {"gate: float", "up: float", "mask: float", "dy: float"},
                                {"d_gate: float", "d_up: float", "d_mask: float"});
  return true;
}();

}  // namespace
