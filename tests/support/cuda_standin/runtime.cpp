// The CUDA runtime: devices, memory, kernels; see standin.h.
#include <dlfcn.h>
#include <sys/mman.h>

#include "standin.h"

using namespace standin;

namespace {
std::unordered_map<const void*, std::string> names;  // of kernels, by their place in the host's code
std::string name_of(const void* kernel) {
  auto found = names.find(kernel);
  return found == names.end() ? "?" : found->second;
}
struct Configured {
  dim3 grid, block;
  size_t shared;
  void* stream;
};
thread_local std::vector<Configured> configured;
int nothing() { return 0; }
}  // namespace

extern "C" {
cudaError_t cudaGetDeviceCount(int* count) { return *count = 1, cudaSuccess; }
cudaError_t cudaGetDevice(int* device) { return *device = 0, cudaSuccess; }
cudaError_t cudaSetDevice(int device) { return device ? fail(cudaErrorInvalidDevice) : cudaSuccess; }
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr which, int) {
  return *value = attribute(which), cudaSuccess;
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* p, int) {
  memset(p, 0, sizeof *p);
  strcpy(p->name, "NVIDIA H200 (stand-in)");
  p->totalGlobalMem = kTotal;
  p->sharedMemPerBlock = attribute(cudaDevAttrMaxSharedMemoryPerBlock);
  p->sharedMemPerBlockOptin = attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin);
  p->sharedMemPerMultiprocessor = attribute(cudaDevAttrMaxSharedMemoryPerMultiprocessor);
  p->regsPerBlock = p->regsPerMultiprocessor = attribute(cudaDevAttrMaxRegistersPerBlock);
  p->warpSize = 32;
  p->maxThreadsPerBlock = p->maxThreadsDim[0] = p->maxThreadsDim[1] = 1024;
  p->maxThreadsDim[2] = 64;
  p->maxGridSize[0] = attribute(cudaDevAttrMaxGridDimX);
  p->maxGridSize[1] = p->maxGridSize[2] = 65535;
  p->major = 9;
  p->multiProcessorCount = attribute(cudaDevAttrMultiProcessorCount);
  p->l2CacheSize = attribute(cudaDevAttrL2CacheSize);
  p->maxThreadsPerMultiProcessor = attribute(cudaDevAttrMaxThreadsPerMultiProcessor);
  p->maxBlocksPerMultiProcessor = 32;
  p->memoryBusWidth = attribute(cudaDevAttrGlobalMemoryBusWidth);
  p->unifiedAddressing = p->concurrentKernels = p->cooperativeLaunch = 1;
  p->asyncEngineCount = 3;
  return cudaSuccess;
}
cudaError_t cudaDeviceGetPCIBusId(char* text, int size, int) {
  return snprintf(text, size, "0000:00:00.0"), cudaSuccess;
}
cudaError_t cudaDeviceGetStreamPriorityRange(int* least, int* greatest) {
  return *least = 0, *greatest = -5, cudaSuccess;
}
cudaError_t cudaDeviceCanAccessPeer(int* can, int, int) { return *can = 0, cudaSuccess; }
cudaError_t cudaDriverGetVersion(int* version) { return *version = 13000, cudaSuccess; }
cudaError_t cudaRuntimeGetVersion(int* version) { return *version = 13000, cudaSuccess; }
cudaError_t cudaGetLastError() { return take_error(true); }
cudaError_t cudaPeekAtLastError() { return take_error(false); }
const char* cudaGetErrorString(cudaError_t error) {
  static thread_local char text[48];
  snprintf(text, sizeof text, error ? "CUDA error %d (stand-in)" : "no error", int(error));
  return text;
}
const char* cudaGetErrorName(cudaError_t error) { return cudaGetErrorString(error); }
cudaError_t cudaProfilerStart() { return cudaSuccess; }
cudaError_t cudaProfilerStop() { return cudaSuccess; }
cudaError_t cudaGetDriverEntryPointByVersion(const char* symbol, void** function, unsigned, unsigned long long,
                                             cudaDriverEntryPointQueryResult* found) {
  *function = dlsym(RTLD_DEFAULT, symbol);
  if (!*function) *function = reinterpret_cast<void*>(nothing);
  if (found) *found = cudaDriverEntryPointSuccess;
  return cudaSuccess;
}

// ---- memory
static cudaError_t allocated(void** address, size_t size, Kind kind) {
  Lock lock(mutex);
  if (unsafe()) return fail(cudaErrorStreamCaptureUnsupported);
  *address = nullptr;
  if (kind == kDevice && fault("memory")) return fail(cudaErrorMemoryAllocation);
  if (size) *address = allocate(size, kind);
  return *address || !size ? cudaSuccess : fail(cudaErrorMemoryAllocation);
}
cudaError_t cudaMalloc(void** address, size_t size) { return allocated(address, size, kDevice); }
cudaError_t cudaHostAlloc(void** address, size_t size, unsigned) { return allocated(address, size, kHost); }
cudaError_t cudaMallocHost(void** address, size_t size) { return allocated(address, size, kHost); }
cudaError_t cudaFree(void* address) {
  Lock lock(mutex);
  return address && unsafe() ? fail(cudaErrorStreamCaptureUnsupported) : release(address);
}
cudaError_t cudaFreeHost(void* address) {
  Lock lock(mutex);
  return release(address);
}
cudaError_t cudaHostRegister(void* address, size_t size, unsigned) {
  Lock lock(mutex);
  if (find(address)) return fail(cudaErrorHostMemoryAlreadyRegistered);
  blocks[reinterpret_cast<uintptr_t>(address)] = {size, kHost};
  return cudaSuccess;
}
cudaError_t cudaHostUnregister(void* address) {
  Lock lock(mutex);
  return blocks.erase(reinterpret_cast<uintptr_t>(address)) ? cudaSuccess : fail(cudaErrorHostMemoryNotRegistered);
}
cudaError_t cudaHostGetDevicePointer(void** device, void* host, unsigned) { return *device = host, cudaSuccess; }
cudaError_t cudaMemGetInfo(size_t* free, size_t* total) {
  Lock lock(mutex);
  *total = kTotal;
  *free = kTotal - kOthers - used;
  return cudaSuccess;
}
cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* a, const void* address) {
  Lock lock(mutex);
  memset(a, 0, sizeof *a);
  const Block* block = find(address);
  a->type = !block ? cudaMemoryTypeUnregistered : block->kind == kDevice ? cudaMemoryTypeDevice : cudaMemoryTypeHost;
  a->device = block ? 0 : -2;
  a->devicePointer = block ? const_cast<void*>(address) : nullptr;
  a->hostPointer = block && block->kind == kDevice ? nullptr : const_cast<void*>(address);
  return cudaSuccess;
}
cudaError_t cudaMemcpy(void* to, const void* from, size_t size, cudaMemcpyKind) {
  return copy(to, from, size, &legacy, true);
}
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t size, cudaMemcpyKind, cudaStream_t stream) {
  return copy(to, from, size, of(stream), false);
}
cudaError_t cudaMemcpy2DAsync(void* to, size_t to_pitch, const void* from, size_t from_pitch, size_t width,
                              size_t height, cudaMemcpyKind, cudaStream_t stream) {
  for (size_t i = 0; i < height; i++) {
    auto* target = static_cast<char*>(to) + i * to_pitch;
    auto* source = static_cast<const char*>(from) + i * from_pitch;
    if (auto error = copy(target, source, width, of(stream), false)) return error;
  }
  return cudaSuccess;
}
cudaError_t cudaMemsetAsync(void* address, int value, size_t size, cudaStream_t stream) {
  Lock lock(mutex);
  if (!inside(address, size)) stop("a fill beyond its memory", address, size);
  push(of(stream), [=] {
    if (value || size < (size_t(64) << 20)) {
      memset(address, value, size);
    } else {  // whole pages are given back, and read as zeros
      auto first = (reinterpret_cast<uintptr_t>(address) + 4095) & ~uintptr_t(4095);
      madvise(reinterpret_cast<void*>(first), (size - 4096) & ~size_t(4095), MADV_DONTNEED);
    }
  });
  return cudaSuccess;
}
cudaError_t cudaMemset(void* address, int value, size_t size) {
  cudaMemsetAsync(address, value, size, nullptr);
  Lock lock(mutex);
  finish(&legacy);
  return cudaSuccess;
}

// ---- kernels
void** __cudaRegisterFatBinary(void*) {
  static void* handle[4];
  return handle;
}
void __cudaRegisterFatBinaryEnd(void**) {}
void __cudaUnregisterFatBinary(void**) {}
char __cudaInitModule(void**) { return 1; }
void __cudaRegisterFunction(void**, const char* host, char*, const char* device, int, void*, void*, void*, void*,
                            int*) {
  Lock lock(mutex);
  names[host] = device;
}
void __cudaRegisterVar(void**, char*, char*, const char*, int, size_t, int, int) {}
cudaError_t __cudaGetKernel(cudaKernel_t* kernel, const void* function) {
  *kernel = reinterpret_cast<cudaKernel_t>(const_cast<void*>(function));
  return cudaSuccess;
}
unsigned __cudaPushCallConfiguration(dim3 grid, dim3 block, size_t shared, void* stream) {
  configured.push_back({grid, block, shared, stream});
  return 0;
}
cudaError_t __cudaPopCallConfiguration(dim3* grid, dim3* block, size_t* shared, void* stream) {
  auto found = configured.back();
  configured.pop_back();
  *grid = found.grid, *block = found.block, *shared = found.shared;
  *static_cast<void**>(stream) = found.stream;
  return cudaSuccess;
}
cudaError_t cudaLaunchKernel(const void* kernel, dim3 grid, dim3 block, void**, size_t shared, cudaStream_t stream) {
  return launch(name_of(kernel), grid, block, shared, of(stream));
}
cudaError_t __cudaLaunchKernel(cudaKernel_t kernel, dim3 grid, dim3 block, void**, size_t shared, cudaStream_t stream) {
  return launch(name_of(kernel), grid, block, shared, of(stream));
}
cudaError_t cudaLaunchCooperativeKernel(const void* kernel, dim3 grid, dim3 block, void**, size_t shared,
                                        cudaStream_t stream) {
  return launch(name_of(kernel), grid, block, shared, of(stream));
}
cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t* config, const void* kernel, void**) {
  return launch(name_of(kernel), config->gridDim, config->blockDim, config->dynamicSmemBytes, of(config->stream));
}
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* a, const void*) {
  memset(a, 0, sizeof *a);
  a->maxThreadsPerBlock = 1024;
  a->numRegs = 64;
  a->binaryVersion = a->ptxVersion = 90;
  a->maxDynamicSharedSizeBytes = attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin);
  return cudaSuccess;
}
cudaError_t cudaFuncSetAttribute(const void*, cudaFuncAttribute which, int value) {
  bool much = which == cudaFuncAttributeMaxDynamicSharedMemorySize && value > 232448;
  return much ? fail(cudaErrorInvalidValue) : cudaSuccess;
}
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int* blocks, const void*, int, size_t shared,
                                                                   unsigned) {
  return *blocks = shared > 116000 ? 1 : 2, cudaSuccess;
}
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, const void* kernel, int threads, size_t shared) {
  return cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(blocks, kernel, threads, shared, 0);
}
cudaError_t cudaOccupancyMaxActiveClusters(int* clusters, const void*, const cudaLaunchConfig_t*) {
  return *clusters = 66, cudaSuccess;
}
cudaError_t cudaGetSymbolAddress(void** address, const void* symbol) {
  return *address = const_cast<void*>(symbol), cudaSuccess;
}
}
