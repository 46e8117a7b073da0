// Memory, streams and launches; see standin.h.
#include "standin.h"

#include <execinfo.h>
#include <sys/mman.h>

#include <algorithm>

namespace standin {

std::recursive_mutex mutex;
std::map<uintptr_t, Block> blocks;
size_t used = 0;
Stream legacy, per_thread;
std::map<Stream*, std::shared_ptr<Stream>> streams;
std::vector<Graph*> capturing;
thread_local cudaStreamCaptureMode mode_here = cudaStreamCaptureModeGlobal;
std::map<std::string, long> counts;
bool lost = false;

namespace {
thread_local cudaError_t last = cudaSuccess;

double number_of(const char* name) {
  const char* text = getenv(name);
  return text ? atof(text) : 0;
}
const double kernel_ms = number_of("CUDA_STANDIN_KERNEL_US") / 1000;
const unsigned tokens = number_of("CUDA_STANDIN_TOKENS");
const char* const trace_file = getenv("CUDA_STANDIN_TRACE");
const char* const fault_file = getenv("CUDA_STANDIN_FAULT");
constexpr size_t kWords = 1 << 16;            // bytes of a copy that may be tokens
constexpr size_t kWatched = size_t(1) << 28;  // bytes of a copy out of page-locked memory that is watched

struct Report {
  ~Report() {
    FILE* file = trace_file ? fopen(trace_file, "w") : nullptr;
    if (!file) return;
    for (auto& [name, count] : counts) fprintf(file, "%ld %s\n", count, name.c_str());
    fclose(file);
  }
} report;

void draw(int* words, size_t count) {
  static unsigned state = 1;
  for (size_t i = 0; i < count; i++) {
    state = state * 1664525 + 1013904223;  // Numerical Recipes' generator
    words[i] = 300 + state / 65536 % tokens;
  }
}
}  // namespace

const bool timed = kernel_ms > 0;

double now() {
  using std::chrono::steady_clock;
  return std::chrono::duration<double, std::milli>(steady_clock::now().time_since_epoch()).count();
}

cudaError_t fail(cudaError_t error) {
  if (error != cudaSuccess && error != cudaErrorNotReady) last = error;
  return error;
}

cudaError_t take_error(bool clear) {
  cudaError_t error = last;
  if (clear) last = cudaSuccess;
  return error;
}

bool fault(const char* kind) {
  FILE* file = fault_file ? fopen(fault_file, "r") : nullptr;
  if (!file) return false;
  char text[16] = {};
  size_t size = fread(text, 1, sizeof text - 1, file);
  fclose(file);
  return size && strncmp(text, kind, strlen(kind)) == 0;
}

bool is_lost() { return lost || (lost = fault("lost")); }

Stream* of(cudaStream_t stream) {
  auto value = reinterpret_cast<uintptr_t>(stream);
  return value <= 1 ? &legacy : value == 2 ? &per_thread : reinterpret_cast<Stream*>(stream);
}

const Block* find(const void* address) {
  auto value = reinterpret_cast<uintptr_t>(address);
  auto next = blocks.upper_bound(value);
  if (next == blocks.begin()) return nullptr;
  auto& [base, block] = *--next;
  return value < base + block.size ? &block : nullptr;
}

bool inside(const void* address, size_t size) {
  auto value = reinterpret_cast<uintptr_t>(address);
  auto next = blocks.upper_bound(value);
  if (next == blocks.begin()) return true;
  auto& [base, block] = *--next;
  return value >= base + block.size || value + size <= base + block.size;
}

void wait_until(double due) {
  while (timed && now() < due) {
    mutex.unlock();
    std::this_thread::sleep_for(std::chrono::microseconds(std::max<long>(1, long((due - now()) * 1000))));
    mutex.lock();
  }
}

void drain(Stream* stream, unsigned long long number) {
  while (!stream->queue.empty() && stream->queue.front().number <= number) {
    Op op = std::move(stream->queue.front());
    stream->queue.pop_front();
    op.run();
    stream->executed = std::max(stream->executed, op.number);
  }
  stream->executed = std::max(stream->executed, number);
}

void finish(Stream* stream) {
  wait_until(stream->busy);
  drain(stream, stream->enqueued);
}

void push(Stream* stream, std::function<void()> run) {
  if (stream->graph)
    stream->graph->ops.push_back(std::move(run));
  else
    stream->queue.push_back({++stream->enqueued, std::move(run)});
}

void works(Stream* stream, size_t kernels) {
  if (timed) stream->busy = std::max(stream->busy, now()) + kernel_ms * kernels;
}

bool unsafe() {
  if (mode_here == cudaStreamCaptureModeRelaxed) return false;
  for (auto* graph : capturing) {
    bool anywhere = graph->mode == cudaStreamCaptureModeGlobal && mode_here == cudaStreamCaptureModeGlobal;
    bool here = graph->mode != cudaStreamCaptureModeRelaxed && graph->thread == std::this_thread::get_id();
    if (anywhere || here) return graph->broken = true;
  }
  return false;
}

void stop(const char* what, const void* at, size_t size) {
  fprintf(stderr, "CUDA stand-in: %s, %zu bytes at %p\n", what, size, at);
  void* frames[30];
  backtrace_symbols_fd(frames, backtrace(frames, 30), 2);
  abort();
}

void* allocate(size_t size, Kind kind) {
  size = std::max<size_t>(4096, (size + 4095) & ~size_t(4095));
  if (kind == kDevice && used + size > kTotal - kOthers) return nullptr;
  int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;  // what nobody touches takes no memory
  void* address = mmap(nullptr, size, PROT_READ | PROT_WRITE, flags, -1, 0);
  if (address == MAP_FAILED) return nullptr;
  blocks[reinterpret_cast<uintptr_t>(address)] = {size, kind};
  if (kind == kDevice) used += size;
  return address;
}

cudaError_t release(void* address) {
  if (!address) return cudaSuccess;
  auto found = blocks.find(reinterpret_cast<uintptr_t>(address));
  if (found == blocks.end()) return fail(cudaErrorInvalidValue);
  drain(&legacy, legacy.enqueued);
  drain(&per_thread, per_thread.enqueued);
  for (auto& [stream, held] : streams) drain(stream, stream->enqueued);
  if (found->second.kind == kDevice) used -= found->second.size;
  munmap(address, found->second.size);
  blocks.erase(found);
  return cudaSuccess;
}

cudaError_t copy(void* to, const void* from, size_t size, Stream* stream, bool wait) {
  Lock lock(mutex);
  if (lost) return fail(cudaErrorLaunchFailure);
  if (size == 0) return cudaSuccess;
  if (!inside(to, size) || !inside(from, size)) stop("a copy beyond its memory", to, size);
  if (wait && unsafe()) return fail(cudaErrorStreamCaptureImplicit);
  const Block *source = find(from), *target = find(to);
  auto run = [=] { memmove(to, from, size); };
  if (stream->graph) {
    if (!source || !target) stop("a captured copy with memory that is not page-locked", to, size);
    push(stream, run);
    return cudaSuccess;
  }
  auto kept = [=] {
    auto* bytes = static_cast<const char*>(from);
    return std::make_shared<std::vector<char>>(bytes, bytes + size);
  };
  if (!target) {  // comes back when it is there
    finish(stream);
    run();
  } else if (!source) {  // is taken along at once
    if (size > kWatched)
      finish(stream), run();
    else
      push(stream, [=, bytes = kept()] { memcpy(to, bytes->data(), size); });
  } else if (source->kind == kHost && size <= kWatched) {
    push(stream, [=, bytes = kept()] {
      if (memcmp(bytes->data(), from, size) != 0) stop("page-locked memory was written before its copy", from, size);
      memcpy(to, from, size);
    });
  } else if (target->kind == kHost && tokens && size <= kWords && size % 4 == 0) {
    push(stream, [=] { draw(static_cast<int*>(to), size / 4); });
  } else {
    push(stream, run);
  }
  if (target && target->kind == kHost && source && source->kind == kDevice) memset(to, 0xA5, size);
  if (wait) finish(stream);
  return cudaSuccess;
}

cudaError_t launch(const std::string& name, dim3 grid, dim3 block, size_t shared, Stream* stream) {
  Lock lock(mutex);
  bool none = !grid.x || !grid.y || !grid.z || !block.x || !block.y || !block.z;
  bool many = grid.y > 65535 || grid.z > 65535 || size_t(block.x) * block.y * block.z > 1024 || block.z > 64;
  if (none || many || shared > 232448) {
    fprintf(stderr, "CUDA stand-in: %s cannot be launched: grid (%u, %u, %u), blocks of (%u, %u, %u), %zu bytes\n",
            name.c_str(), grid.x, grid.y, grid.z, block.x, block.y, block.z, shared);
    return fail(cudaErrorInvalidConfiguration);
  }
  if (is_lost()) return fail(cudaErrorLaunchFailure);
  if (trace_file) counts[name]++;
  if (stream->graph) {
    stream->graph->kernels++;
  } else {
    ++stream->enqueued;
    works(stream, 1);
  }
  return cudaSuccess;
}

int attribute(int which) {  // an H200's
  switch (which) {
    case cudaDevAttrMaxThreadsPerBlock:
    case cudaDevAttrMaxBlockDimX:
    case cudaDevAttrMaxBlockDimY:
      return 1024;
    case cudaDevAttrMaxBlockDimZ:
      return 64;
    case cudaDevAttrMaxGridDimX:
      return 2147483647;
    case cudaDevAttrMaxGridDimY:
    case cudaDevAttrMaxGridDimZ:
      return 65535;
    case cudaDevAttrMaxSharedMemoryPerBlock:
      return 49152;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
      return 232448;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor:
      return 233472;
    case cudaDevAttrReservedSharedMemoryPerBlock:
      return 1024;
    case cudaDevAttrWarpSize:
      return 32;
    case cudaDevAttrMaxRegistersPerBlock:
    case cudaDevAttrMaxRegistersPerMultiprocessor:
      return 65536;
    case cudaDevAttrClockRate:
      return 1980000;
    case cudaDevAttrMultiProcessorCount:
      return 132;
    case cudaDevAttrMemoryClockRate:
      return 3201000;
    case cudaDevAttrGlobalMemoryBusWidth:
      return 6144;
    case cudaDevAttrL2CacheSize:
      return 62914560;
    case cudaDevAttrMaxThreadsPerMultiProcessor:
      return 2048;
    case cudaDevAttrMaxBlocksPerMultiprocessor:
      return 32;
    case cudaDevAttrComputeCapabilityMajor:
      return 9;
    case cudaDevAttrUnifiedAddressing:
    case cudaDevAttrConcurrentKernels:
    case cudaDevAttrCooperativeLaunch:
    case cudaDevAttrMemoryPoolsSupported:
      return 1;
    case cudaDevAttrAsyncEngineCount:
      return 3;
    default:
      return 0;
  }
}

}  // namespace standin
