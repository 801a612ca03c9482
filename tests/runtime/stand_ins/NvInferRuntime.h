// A stand-in for TensorRT's header: the few names that edgec_tensorrt.hpp uses, written for these tests. It is no copy:
// order of virtual functions and values of enums are our own, so code that is compiled with it runs with stand_in.cpp only.
#pragma once
#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#ifndef NV_TENSORRT_MAJOR
#define NV_TENSORRT_MAJOR 10
#endif

extern "C" int getInferLibVersion() noexcept;

namespace nvinfer1 {

enum class DataType { kFLOAT, kHALF, kINT8, kINT32, kBOOL, kUINT8, kFP8,
#if NV_TENSORRT_MAJOR >= 10
  kBF16, kINT64, kINT4
#endif
};
enum class TensorIOMode { kNONE, kINPUT, kOUTPUT };

struct Dims {
  int32_t nbDims;
#if NV_TENSORRT_MAJOR >= 10
  int64_t d[8];
#else
  int32_t d[8];
#endif
};

class ILogger {
 public:
  enum class Severity : int32_t { kINTERNAL_ERROR, kERROR, kWARNING, kINFO, kVERBOSE };
  virtual void log(Severity severity, char const *text) noexcept = 0;
  virtual ~ILogger() = default;
};

class IExecutionContext {
 public:
  virtual ~IExecutionContext() noexcept = default;
  virtual bool setTensorAddress(char const *name, void *data) noexcept = 0;
  virtual bool enqueueV3(cudaStream_t stream) noexcept = 0;
};

class ICudaEngine {
 public:
  virtual ~ICudaEngine() noexcept = default;
  virtual int32_t getNbIOTensors() const noexcept = 0;
  virtual char const *getIOTensorName(int32_t index) const noexcept = 0;
  virtual DataType getTensorDataType(char const *name) const noexcept = 0;
  virtual Dims getTensorShape(char const *name) const noexcept = 0;
  virtual TensorIOMode getTensorIOMode(char const *name) const noexcept = 0;
  virtual IExecutionContext *createExecutionContext() noexcept = 0;
};

class IRuntime {
 public:
  virtual ~IRuntime() noexcept = default;
  virtual ICudaEngine *deserializeCudaEngine(void const *data, std::size_t size) noexcept = 0;
};

IRuntime *createInferRuntime(ILogger &logger) noexcept;

}  // namespace nvinfer1
