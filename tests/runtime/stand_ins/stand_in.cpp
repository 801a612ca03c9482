// What stands behind the stand-in headers: an engine that doubles x [1, 3], on this machine's memory. It counts what is
// alive, so that a leak fails the test. MODE: letters that change its behaviour, see below.
#include <NvInferRuntime.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

struct Graph {
  std::vector<std::function<void()>> steps;
};
struct Stream {
  Graph *recording = nullptr;
};

static int alive, copies;
static bool mode(char letter) {
  const char *text = std::getenv("MODE");
  return text && std::strchr(text, letter);
}
extern "C" int stand_in_alive() { return alive; }
extern "C" int stand_in_copies() { return copies; }

static void submit(Stream *stream, std::function<void()> step) {
  if (stream->recording)
    stream->recording->steps.push_back(step);
  else
    step();
}

extern "C" {
int getInferLibVersion() noexcept { return NV_TENSORRT_MAJOR >= 10 ? NV_TENSORRT_MAJOR * 10000 + 300 : 8502; }
const char *cudaGetErrorString(cudaError_t) { return "made up"; }
cudaError_t cudaGetLastError() { return cudaSuccess; }
cudaError_t cudaSetDevice(int) { return mode('d') ? cudaErrorFailed : cudaSuccess; }  // d: no device
cudaError_t cudaDeviceGetAttribute(int *value, cudaDeviceAttr attribute, int) {
  *value = attribute == cudaDevAttrComputeCapabilityMajor ? 8 : attribute == cudaDevAttrComputeCapabilityMinor ? 7
           : mode('s');  // s: shared memory, as on Jetson
  return cudaSuccess;
}
static cudaError_t allocate(void **p, std::size_t n) {
  *p = std::malloc(n);
  ++alive;
  return cudaSuccess;
}
static cudaError_t release(void *p) {
  std::free(p);
  --alive;
  return cudaSuccess;
}
cudaError_t cudaMalloc(void **p, std::size_t n) { return mode('m') ? cudaErrorFailed : allocate(p, n); }  // m: no memory
cudaError_t cudaFree(void *p) { return release(p); }
cudaError_t cudaHostAlloc(void **p, std::size_t n, unsigned) { return allocate(p, n); }
cudaError_t cudaFreeHost(void *p) { return release(p); }
cudaError_t cudaHostGetDevicePointer(void **d, void *h, unsigned) {
  *d = h;
  return cudaSuccess;
}
cudaError_t cudaMemcpyAsync(void *d, const void *s, std::size_t n, cudaMemcpyKind, cudaStream_t stream) {
  submit(stream, [=] {
    std::memcpy(d, s, n);
    ++copies;
  });
  return cudaSuccess;
}
cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned) {
  *stream = new Stream;
  ++alive;
  return cudaSuccess;
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  delete stream;
  --alive;
  return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t) { return cudaSuccess; }
cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
  if (mode('g')) return cudaErrorFailed;  // g: no graphs
  stream->recording = new Graph;
  ++alive;
  return cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *graph) {
  *graph = stream->recording;
  stream->recording = nullptr;
  return cudaSuccess;
}
cudaError_t cudaGraphInstantiateWithFlags(cudaGraphExec_t *made, cudaGraph_t graph, unsigned long long) {
  *made = new Graph(*graph);
  ++alive;
  return cudaSuccess;
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t graph, cudaStream_t) {
  for (auto &step : graph->steps) step();
  return cudaSuccess;
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  delete graph;
  --alive;
  return cudaSuccess;
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t graph) { return cudaGraphDestroy(graph); }
}

namespace nvinfer1 {

struct Context : IExecutionContext {
  float *x = nullptr, *y = nullptr;
  Context() { ++alive; }
  ~Context() noexcept override { --alive; }
  bool setTensorAddress(char const *name, void *data) noexcept override {
    (*name == 'x' ? x : y) = static_cast<float *>(data);
    return true;
  }
  bool enqueueV3(cudaStream_t stream) noexcept override {
    submit(stream, [this] {
      for (int i = 0; i < 3; ++i) y[i] = 2 * x[i];
    });
    return true;
  }
};

struct Engine : ICudaEngine {
  Engine() { ++alive; }
  ~Engine() noexcept override { --alive; }
  int32_t getNbIOTensors() const noexcept override { return 2; }
  char const *getIOTensorName(int32_t index) const noexcept override { return index ? "y" : "x"; }
  DataType getTensorDataType(char const *) const noexcept override { return DataType::kFLOAT; }
  Dims getTensorShape(char const *) const noexcept override { return Dims{2, {1, 3}}; }
  TensorIOMode getTensorIOMode(char const *name) const noexcept override {
    return *name == 'x' ? TensorIOMode::kINPUT : TensorIOMode::kOUTPUT;
  }
  IExecutionContext *createExecutionContext() noexcept override { return new Context; }
};

struct Runtime : IRuntime {
  ILogger &logger;
  explicit Runtime(ILogger &l) : logger(l) { ++alive; }
  ~Runtime() noexcept override { --alive; }
  ICudaEngine *deserializeCudaEngine(void const *data, std::size_t size) noexcept override {
    if (size == 4 && !std::memcmp(data, "good", 4)) return new Engine;
    logger.log(ILogger::Severity::kERROR, "the plan has another magic number");
    return nullptr;
  }
};

IRuntime *createInferRuntime(ILogger &logger) noexcept { return new Runtime(logger); }

}  // namespace nvinfer1
