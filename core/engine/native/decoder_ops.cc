// The decoder's operations on the CPU as TensorFlow operations, each in one pass: TensorFlow runs them as chains of
// small ones, whose intermediate results cost more time than the arithmetic. Loading this library registers them.
#include <dlfcn.h>

#include <cstdint>
#include <cstdio>
#include <memory>
#include <string>

#include "attention.h"
#include "decode.h"
#include "elementwise.h"
#include "low_rank.h"
#include "product.h"
#include "product_bf16.h"
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
  int32_t format = 0, columns = 0, transposed = 0, rounded = 0, activation = 0, window = 0;
  float epsilon = 0, scale = 1, scoreScale = 1, residualScale = 1;
};

const struct {
  const char* name;
  int32_t Attributes::*field;
} kIntegers[] = {{"batch", &Attributes::batch},       {"groups", &Attributes::groups},
                 {"threads", &Attributes::threads},   {"heads_per_group", &Attributes::headsPerGroup},
                 {"format", &Attributes::format},     {"columns", &Attributes::columns},
                 {"window", &Attributes::window},     {"transposed", &Attributes::transposed},
                 {"rounded", &Attributes::rounded},   {"activation", &Attributes::activation}};

const struct {
  const char* name;
  float Attributes::*field;
} kNumbers[] = {{"epsilon", &Attributes::epsilon},
                {"scale", &Attributes::scale},
                {"score_scale", &Attributes::scoreScale},
                {"residual_scale", &Attributes::residualScale}};

// One call: inputs and outputs by position.
class Call {
 public:
  explicit Call(TF_OpKernelContext* context) : context_(context), status_(newStatus()) {}

  const float* input(int index) { return static_cast<const float*>(TF_TensorData(tensor(index))); }
  // Null for an input without values.
  const float* optional(int index) { return size(index) > 0 ? input(index) : nullptr; }
  // For an input that the operation writes to: a cache that its caller alone holds.
  float* writable(int index) { return static_cast<float*>(TF_TensorData(tensor(index))); }
  const int32_t* integers(int index) {
    return size(index) > 0 ? static_cast<const int32_t*>(TF_TensorData(tensor(index))) : nullptr;
  }
  long size(int index) { return TF_TensorElementCount(tensor(index)); }
  long rows(int index) { return TF_Dim(tensor(index), 0); }
  long columns(int index) { return TF_Dim(tensor(index), 1); }
  long dimension(int index, int axis) { return TF_Dim(tensor(index), axis); }
  const void* bytes(int index) { return TF_TensorData(tensor(index)); }

  float* output(int index, std::vector<int64_t> shape) { return static_cast<float*>(allocate(index, TF_FLOAT, shape)); }
  int32_t* integerOutput(int index, std::vector<int64_t> shape) {
    return static_cast<int32_t*>(allocate(index, TF_INT32, shape));
  }

  void fail(const char* message) {
    TF_SetStatus(status_.get(), TF_INVALID_ARGUMENT, message);
    TF_OpKernelContext_Failure(context_, status_.get());
  }

 private:
  // For a type of 4 bytes.
  void* allocate(int index, TF_DataType type, const std::vector<int64_t>& shape) {
    int64_t count = 1;
    for (const int64_t size : shape) count *= size;
    tensors_.emplace_back(
        TF_AllocateOutput(context_, index, type, shape.data(), shape.size(), count * 4, status_.get()), TF_DeleteTensor);
    if (TF_GetCode(status_.get()) != TF_OK) TF_OpKernelContext_Failure(context_, status_.get());
    return tensors_.back() ? TF_TensorData(tensors_.back().get()) : nullptr;
  }

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

// `rounded`: factors of the products are rounded to bfloat16.
// packed [B T, (H + 2 G) K], cos and sin [B T, K], segments [B T] or [0] -> out [B T, H K], log sums [B T, H].
void attention(const Attributes& attributes, Call& call) {
  const auto shape = attentionShape(attributes, call);
  float* out = call.output(0, {call.rows(0), shape.outWidth()});
  float* logSums = call.output(1, {call.rows(0), shape.heads()});
  if (!out || !logSums) return;
  (attributes.rounded ? maskprune::attention<maskprune::PairFactors> : maskprune::attention<maskprune::FloatFactors>)(
      shape, call.input(0), {call.input(1), call.input(2)}, call.integers(3), out, logSums);
}

// The same with out, log sums and the gradient of out -> the gradient of packed.
void attentionGradient(const Attributes& attributes, Call& call) {
  const auto shape = attentionShape(attributes, call);
  float* dPacked = call.output(0, {call.rows(0), call.columns(0)});
  if (!dPacked) return;
  (attributes.rounded ? maskprune::attentionGradient<maskprune::PairFactors>
                      : maskprune::attentionGradient<maskprune::FloatFactors>)(
      shape, {call.input(0), call.input(4), call.input(5), call.input(6), call.integers(3)},
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

// logits [N, V], targets [N] -> losses [N], their gradients [N, V].
void crossEntropy(const Attributes& attributes, Call& call) {
  const long rows = call.rows(0), size = call.columns(0);
  float* losses = call.output(0, {rows});
  float* gradient = call.output(1, {rows, size});
  if (!losses || !gradient) return;
  maskprune::crossEntropy(rows, size, attributes.threads, call.input(0), call.integers(1), losses, gradient);
}

// A matrix as it is stored: f32 [rows, columns], or two 16-bit numbers in an integer, [rows, stride / 2].
maskprune::Weights weights(const Attributes& a, Call& call, int index, long columns) {
  const auto format = static_cast<maskprune::Format>(a.format);
  const long stride = call.columns(index) * (format == maskprune::kF32 ? 1 : 2);
  return {call.bytes(index), format, call.rows(index), columns, stride};
}

// x [N, depth] times W or its transpose. Many rows are rounded to bfloat16 where `rounded` is set and W is in it.
void multiply(const Attributes& a, const maskprune::Weights& w, bool transposed, long rows, const float* x, float* y) {
  const bool isRounded = a.rounded && w.format == maskprune::kBf16 && rows > maskprune::kFewRows;
  (isRounded ? maskprune::productBf16 : maskprune::product)(w, transposed, rows, a.threads, x, y);
}

// x [N, depth], weights -> x W [N, columns], or x Wt [N, rows].
void product(const Attributes& attributes, Call& call) {
  const auto w = weights(attributes, call, 1, attributes.columns);
  const long rows = call.rows(0);
  float* y = call.output(0, {rows, attributes.transposed ? w.rows : w.columns});
  if (y) multiply(attributes, w, attributes.transposed, rows, call.input(0), y);
}

// x [N, in], weights [in, out], down [in, r], up [r, out] -> x W + scale (x down) up [N, out]; scale (x down) [N, R].
void lowRank(const Attributes& attributes, Call& call) {
  const auto w = weights(attributes, call, 1, attributes.columns);
  const maskprune::LowRank s{call.rows(0), w.rows, w.columns, call.columns(2), attributes.scale, attributes.threads};
  float* y = call.output(0, {s.rows, s.out});
  float* inner = call.output(1, {s.rows, s.padded()});
  if (!y || !inner) return;
  multiply(attributes, w, false, s.rows, call.input(0), y);
  maskprune::lowRank(s, call.input(0), call.input(2), call.input(3), inner, y);
}

// The same with the second result and the gradient of the first -> the gradients of x, down and up.
void lowRankGradient(const Attributes& attributes, Call& call) {
  const auto w = weights(attributes, call, 1, attributes.columns);
  const maskprune::LowRank s{call.rows(0), w.rows, w.columns, call.columns(2), attributes.scale, attributes.threads};
  float* dx = call.output(0, {s.rows, s.in});
  float* dDown = call.output(1, {s.in, s.rank});
  float* dUp = call.output(2, {s.rank, s.out});
  if (!dx || !dDown || !dUp) return;
  multiply(attributes, w, true, s.rows, call.input(5), dx);
  maskprune::lowRankGradient(s, call.input(0), call.input(2), call.input(3), call.input(4), call.input(5), dx, dDown, dUp);
}

// A matrix in f32 -> its numbers, or those of its transpose, in 16 bits, two in an integer; and [1] whether all fit.
void pack(const Attributes& attributes, Call& call) {
  const long rows = call.rows(0), columns = call.columns(0);
  const long count = attributes.transposed ? rows : columns;
  int32_t* packed = call.integerOutput(0, {attributes.transposed ? columns : rows, (count + 1) / 2});
  int32_t* exact = call.integerOutput(1, {1});
  if (!packed || !exact) return;
  *exact = maskprune::pack(call.input(0), rows, columns, attributes.transposed,
                           static_cast<maskprune::Format>(attributes.format), attributes.threads,
                           reinterpret_cast<uint16_t*>(packed));
}

// Weights in 16 bits -> the same numbers in f32, [rows, columns].
void unpack(const Attributes& attributes, Call& call) {
  const auto w = weights(attributes, call, 0, attributes.columns);
  float* y = call.output(0, {w.rows, w.columns});
  if (y) maskprune::unpack(w, attributes.threads, y);
}

// The inputs of a decoder layer, in the order of their registration. An input without values is one the layer lacks.
enum DecodeInput {
  kX, kAttentionNorm, kFfnNorm, kLinear, kBias = kLinear + maskprune::kLinears,
  kQueryNorm = kBias + maskprune::kLinears, kKeyNorm, kAttentionOutputNorm, kFfnOutputNorm, kCos, kSin, kKeys, kValues,
  kHeld
};

// x [B, D], the layer, its cache of keys and values [B, G, C, K], positions held [1] -> y [B, D]. The cache is written.
void decodeLayer(const Attributes& a, Call& call) {
  const long size = call.dimension(kKeys, 3), rows = call.rows(kX), width = call.columns(kX);
  const long heads = static_cast<long>(a.groups) * a.headsPerGroup, channels = a.columns;
  const long columns[] = {heads * size, a.groups * size, a.groups * size, width, channels, channels, width};
  maskprune::DecodeLayer layer{};
  for (int i = 0; i < maskprune::kLinears; i++) {
    layer.linear[i] = weights(a, call, kLinear + i, columns[i]);
    layer.bias[i] = call.optional(kBias + i);
  }
  layer.attentionNorm = call.input(kAttentionNorm);
  layer.ffnNorm = call.input(kFfnNorm);
  layer.queryNorm = call.optional(kQueryNorm);
  layer.keyNorm = call.optional(kKeyNorm);
  layer.attentionOutputNorm = call.optional(kAttentionOutputNorm);
  layer.ffnOutputNorm = call.optional(kFfnOutputNorm);
  layer.cos = call.optional(kCos);
  layer.sin = call.optional(kSin);
  layer.groups = a.groups;
  layer.headsPerGroup = a.headsPerGroup;
  layer.headSize = size;
  layer.epsilon = a.epsilon;
  layer.scoreScale = a.scoreScale;
  layer.residualScale = a.residualScale;
  layer.activation = static_cast<maskprune::Activation>(a.activation);
  layer.window = a.window;
  const maskprune::Cache cache{call.writable(kKeys), call.writable(kValues), call.dimension(kKeys, 2),
                               *call.integers(kHeld)};
  float* y = call.output(0, {rows, width});
  if (!y) return;
  if (cache.held >= cache.capacity) return call.fail("the cache is full");
  maskprune::decodeLayer(layer, cache, rows, a.threads, call.input(kX), y);
}

using Compute = void (*)(const Attributes&, Call&);

template <Compute compute>
void run(void* kernel, TF_OpKernelContext* context) {
  Call call(context);
  compute(*static_cast<Attributes*>(kernel), call);
}

void* create(TF_OpKernelConstruction* construction) {
  auto* a = new Attributes;
  const auto status = newStatus();
  for (const auto& [name, field] : kIntegers) {
    if (!TF_OpKernelConstruction_HasAttr(construction, name, status.get())) continue;
    TF_OpKernelConstruction_GetAttrInt32(construction, name, &(a->*field), status.get());
  }
  for (const auto& [name, field] : kNumbers) {
    if (!TF_OpKernelConstruction_HasAttr(construction, name, status.get())) continue;
    TF_OpKernelConstruction_GetAttrFloat(construction, name, &(a->*field), status.get());
  }
  return a;
}

void destroy(void* kernel) { delete static_cast<Attributes*>(kernel); }

void unknownShape(TF_ShapeInferenceContext* context, TF_Status* status) {
  TF_ShapeInferenceContextSetUnknownShape(context, status);
}

using Names = std::vector<std::string>;

template <Compute compute>
void add(const char* name, const Names& inputs, const Names& outputs, const Names& attributes) {
  const auto status = newStatus();
  TF_OpDefinitionBuilder* definition = TF_NewOpDefinitionBuilder(name);
  for (const auto& input : inputs) TF_OpDefinitionBuilderAddInput(definition, input.c_str());
  for (const auto& output : outputs) TF_OpDefinitionBuilderAddOutput(definition, output.c_str());
  TF_OpDefinitionBuilderAddAttr(definition, "threads: int");
  for (const auto& attribute : attributes) TF_OpDefinitionBuilderAddAttr(definition, attribute.c_str());
  TF_OpDefinitionBuilderSetShapeInferenceFunction(definition, unknownShape);
  TF_RegisterOpDefinition(definition, status.get());
  if (TF_GetCode(status.get()) == TF_OK) {
    TF_KernelBuilder* kernel = TF_NewKernelBuilder(name, "CPU", create, run<compute>, destroy);
    TF_RegisterKernelBuilder(name, kernel, status.get());
  }
  if (TF_GetCode(status.get()) != TF_OK) std::fprintf(stderr, "%s: %s\n", name, TF_Message(status.get()));
}

Names decodeInputs() {
  const Names linears{"query", "key", "value", "output", "gate", "up", "down"};
  Names inputs{"x: float", "attention_norm: float", "ffn_norm: float"};
  for (const auto& linear : linears) inputs.push_back(linear + ": W");
  for (const auto& linear : linears) inputs.push_back(linear + "_bias: float");
  for (const char* norm : {"query_norm", "key_norm", "attention_output_norm", "ffn_output_norm", "cos", "sin", "keys",
                           "values"}) {
    inputs.push_back(std::string(norm) + ": float");
  }
  inputs.push_back("held: int32");
  return inputs;
}

// An operation cannot be registered twice, so the library stays when whoever loaded it lets go of it.
void stayLoaded() {
  Dl_info info;
  if (dladdr(reinterpret_cast<void*>(&stayLoaded), &info)) dlopen(info.dli_fname, RTLD_NOW | RTLD_NODELETE);
}

const bool registered = [] {
  stayLoaded();
  const Names shape{"batch: int", "groups: int", "heads_per_group: int", "rounded: int"};
  add<attention>("MaskPruneAttention", {"packed: float", "cos: float", "sin: float", "segments: int32"},
                 {"out: float", "log_sums: float"}, shape);
  add<attentionGradient>(
      "MaskPruneAttentionGradient",
      {"packed: float", "cos: float", "sin: float", "segments: int32", "out: float", "log_sums: float", "d_out: float"},
      {"d_packed: float"}, shape);
  add<rmsNorm>("MaskPruneRmsNorm", {"x: float", "gain: float"}, {"y: float", "inverse: float"}, {"epsilon: float"});
  add<rmsNormGradient>("MaskPruneRmsNormGradient", {"x: float", "gain: float", "inverse: float", "dy: float"},
                       {"dx: float"}, {});
  add<swiGlu>("MaskPruneSwiGlu", {"gate: float", "up: float", "mask: float"}, {"y: float"}, {});
  add<swiGluGradient>("MaskPruneSwiGluGradient", {"gate: float", "up: float", "mask: float", "dy: float"},
                      {"d_gate: float", "d_up: float", "d_mask: float"}, {});
  add<crossEntropy>("MaskPruneCrossEntropy", {"logits: float", "targets: int32"}, {"losses: float", "gradient: float"}, {});
  add<pack>("MaskPrunePack", {"w: float"}, {"packed: int32", "exact: int32"}, {"format: int", "transposed: int"});
  add<unpack>("MaskPruneUnpack", {"w: int32"}, {"y: float"}, {"format: int", "columns: int"});
  add<product>("MaskPruneProduct", {"x: float", "w: W"}, {"y: float"},
               {"W: {float, int32}", "format: int", "columns: int", "transposed: int", "rounded: int"});
  const Names lowRankAttributes{"W: {float, int32}", "format: int", "columns: int", "rounded: int", "scale: float"};
  add<lowRank>("MaskPruneLowRank", {"x: float", "w: W", "down: float", "up: float"}, {"y: float", "inner: float"}, lowRankAttributes);
  add<lowRankGradient>("MaskPruneLowRankGradient",
                       {"x: float", "w: W", "down: float", "up: float", "inner: float", "dy: float"},
                       {"dx: float", "d_down: float", "d_up: float"}, lowRankAttributes);
  add<decodeLayer>("MaskPruneDecodeLayer", decodeInputs(), {"y: float"},
                   {"W: {float, int32}", "format: int", "columns: int", "groups: int", "heads_per_group: int",
                    "epsilon: float", "score_scale: float", "residual_scale: float", "activation: int", "window: int"});
  return true;
}();

}  // namespace

// Goes up with every change of the operations' names, inputs or attributes, so that a library from before is refused rather
// than called.
extern "C" int maskprune_interface() { return 6; }

// Whether products of bfloat16 were compiled for this processor.
extern "C" int maskprune_bf16() { return maskprune::kHasBf16Products; }
