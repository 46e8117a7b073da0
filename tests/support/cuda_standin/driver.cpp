// The driver as Triton and torch ask it, and cuBLAS; see standin.h.
#include "standin.h"

using namespace standin;

extern "C" {
CUresult cuInit(unsigned) { return CUDA_SUCCESS; }
CUresult cuDriverGetVersion(int* version) { return *version = 13000, CUDA_SUCCESS; }
CUresult cuDeviceGet(CUdevice* device, int) { return *device = 0, CUDA_SUCCESS; }
CUresult cuDeviceGetCount(int* count) { return *count = 1, CUDA_SUCCESS; }
CUresult cuDeviceGetAttribute(int* value, CUdevice_attribute which, CUdevice) {
  return *value = attribute(which), CUDA_SUCCESS;
}
static CUcontext context() { return reinterpret_cast<CUcontext>(&legacy); }
CUresult cuDevicePrimaryCtxRetain(CUcontext* out, CUdevice) { return *out = context(), CUDA_SUCCESS; }
CUresult cuDevicePrimaryCtxGetState(CUdevice, unsigned* flags, int* active) {
  return *flags = 0, *active = 1, CUDA_SUCCESS;
}
CUresult cuCtxGetCurrent(CUcontext* out) { return *out = context(), CUDA_SUCCESS; }
CUresult cuCtxSetCurrent(CUcontext) { return CUDA_SUCCESS; }
CUresult cuCtxGetLimit(size_t* value, CUlimit) { return *value = 0, CUDA_SUCCESS; }
CUresult cuCtxSetLimit(CUlimit, size_t) { return CUDA_SUCCESS; }
CUresult cuGetErrorString(CUresult error, const char** text) {
  return *text = cudaGetErrorString(cudaError_t(error)), CUDA_SUCCESS;
}
CUresult cuGetErrorName(CUresult error, const char** text) { return cuGetErrorString(error, text); }
CUresult cuModuleLoadData(CUmodule* module, const void*) {
  Lock lock(mutex);
  if (unsafe()) return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
  return *module = reinterpret_cast<CUmodule>(1), CUDA_SUCCESS;
}
CUresult cuModuleUnload(CUmodule) { return CUDA_SUCCESS; }
CUresult cuModuleGetFunction(CUfunction* function, CUmodule, const char* name) {
  return *function = reinterpret_cast<CUfunction>(new std::string(name)), CUDA_SUCCESS;
}
CUresult cuFuncGetAttribute(int* value, CUfunction_attribute which, CUfunction) {
  bool threads = which == CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK, registers = which == CU_FUNC_ATTRIBUTE_NUM_REGS;
  return *value = threads ? 1024 : registers ? 64 : 0, CUDA_SUCCESS;
}
CUresult cuFuncSetAttribute(CUfunction, CUfunction_attribute, int) { return CUDA_SUCCESS; }
CUresult cuFuncSetCacheConfig(CUfunction, CUfunc_cache) { return CUDA_SUCCESS; }
CUresult cuLaunchKernelEx(const CUlaunchConfig* c, CUfunction function, void**, void**) {
  dim3 grid(c->gridDimX, c->gridDimY, c->gridDimZ), block(c->blockDimX, c->blockDimY, c->blockDimZ);
  return CUresult(launch(*reinterpret_cast<std::string*>(function), grid, block, c->sharedMemBytes, of(c->hStream)));
}
CUresult cuLaunchKernel(CUfunction function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by,
                        unsigned bz, unsigned shared, CUstream stream, void**, void**) {
  dim3 grid(gx, gy, gz), block(bx, by, bz);
  return CUresult(launch(*reinterpret_cast<std::string*>(function), grid, block, shared, of(stream)));
}
CUresult cuOccupancyMaxActiveClusters(int* clusters, CUfunction, const CUlaunchConfig*) {
  return *clusters = 66, CUDA_SUCCESS;
}
CUresult cuTensorMapEncodeTiled(CUtensorMap*, CUtensorMapDataType, cuuint32_t, void*, const cuuint64_t*,
                                const cuuint64_t*, const cuuint32_t*, const cuuint32_t*, CUtensorMapInterleave,
                                CUtensorMapSwizzle, CUtensorMapL2promotion, CUtensorMapFloatOOBfill) {
  return CUDA_SUCCESS;
}
CUresult cuPointerGetAttribute(void* value, CUpointer_attribute which, CUdeviceptr address) {
  Lock lock(mutex);
  const Block* block = find(reinterpret_cast<void*>(address));
  if (!block) return CUDA_ERROR_INVALID_VALUE;  // so Triton learns that a tensor is not the device's
  switch (which) {
    case CU_POINTER_ATTRIBUTE_DEVICE_POINTER:
      return *static_cast<CUdeviceptr*>(value) = address, CUDA_SUCCESS;
    case CU_POINTER_ATTRIBUTE_MEMORY_TYPE:
      return *static_cast<unsigned*>(value) = block->kind == kDevice ? CU_MEMORYTYPE_DEVICE : CU_MEMORYTYPE_HOST,
             CUDA_SUCCESS;
    case CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL:
      return *static_cast<int*>(value) = 0, CUDA_SUCCESS;
    default:
      return CUDA_ERROR_INVALID_VALUE;
  }
}

// ---- cuBLAS, without its headers: torch has checked the shapes, and a product is a kernel. A handle has its stream.
int cublasCreate_v2(void** handle) { return *handle = new Stream*(&legacy), 0; }
int cublasDestroy_v2(void*) { return 0; }
int cublasSetStream_v2(void* handle, cudaStream_t stream) { return *static_cast<Stream**>(handle) = of(stream), 0; }
int cublasSetWorkspace_v2(void*, void*, size_t) { return 0; }
int cublasGetMathMode(void*, int* mode) { return *mode = 0; }
int cublasSetMathMode(void*, int) { return 0; }
int cublasGetPointerMode_v2(void*, int* mode) { return *mode = 0; }
int cublasSetPointerMode_v2(void*, int) { return 0; }
static int product(const char* name, Stream* stream) {
  constexpr int kInternalError = 14;
  return launch(name, dim3(1), dim3(128), 0, stream) == cudaSuccess ? 0 : kInternalError;
}
int cublasGemmEx(void* h, ...) { return product("cublasGemmEx", *static_cast<Stream**>(h)); }
int cublasGemmStridedBatchedEx(void* h, ...) {
  return product("cublasGemmStridedBatchedEx", *static_cast<Stream**>(h));
}
int cublasSgemm_v2(void* h, ...) { return product("cublasSgemm", *static_cast<Stream**>(h)); }
int cublasSgemmStridedBatched(void* h, ...) { return product("cublasSgemmStridedBatched", *static_cast<Stream**>(h)); }
int cublasSgemv_v2(void* h, ...) { return product("cublasSgemv", *static_cast<Stream**>(h)); }
int cublasDgemm_v2(void* h, ...) { return product("cublasDgemm", *static_cast<Stream**>(h)); }
int cublasDgemmStridedBatched(void* h, ...) { return product("cublasDgemmStridedBatched", *static_cast<Stream**>(h)); }
int cublasLtCreate(void** handle) { return *handle = &legacy, 0; }
int cublasLtMatmulAlgoGetHeuristic(void*, void*, void*, void*, void*, void*, void*, int, char* result, int* found) {
  memset(result, 0, 96);  // cublasLtMatmulHeuristicResult_t
  return *found = 1, 0;
}
int cublasLtMatmul(void*, void*, const void*, const void*, void*, const void*, void*, const void*, const void*, void*,
                   void*, void*, const void*, void*, size_t, cudaStream_t stream) {
  return product("cublasLtMatmul", of(stream));
}
}
