// A GPU that runs no kernel, for a machine without one. Preloaded as libcuda.so.1, it answers for the CUDA runtime, for
// the driver and for what torch asks of cuBLAS, so that torch's CUDA build, Triton's launcher and FlashInfer's modules
// run as they are. Device memory is host memory. Kernels are counted, and take the time they are given. Copies are
// real, and as late as their stream allows:
//   - page-locked memory that is written while a copy out of it is still to come is told, and ends the process;
//   - memory that a copy will fill is poisoned until then;
//   - what a capture does not allow fails as on a GPU, and a graph repeats the copies that it recorded.
// From the environment, CUDA_STANDIN_...
//   KERNEL_US  microseconds that a kernel takes
//   TOKENS     copies of words to the host bring numbers from 300 on, so many different ones, in place of what is there
//   TRACE      a file that gets the number of launches of each kernel
//   FAULT      a file; while it says "memory" allocations fail, and "lost" breaks the device for good
#pragma once
#include <cuda.h>
#include <cuda_runtime_api.h>

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <unordered_map>
#include <vector>

namespace standin {

extern std::recursive_mutex mutex;
using Lock = std::lock_guard<std::recursive_mutex>;

constexpr size_t kTotal = size_t(139) << 30;
constexpr size_t kOthers = size_t(600) << 20;  // what CUDA itself takes

enum Kind { kDevice, kHost };
struct Block {
  size_t size;
  Kind kind;
};
extern std::map<uintptr_t, Block> blocks;  // by address
extern size_t used;                        // of the device

struct Stream;
struct Graph {
  std::vector<std::function<void()>> ops;  // copies; kernels have no effect
  size_t kernels = 0;
  Stream* origin = nullptr;
  cudaStreamCaptureMode mode;
  bool broken = false;
  unsigned long long id;
  int open = 0;  // streams that joined the capture and have not been waited for
  std::thread::id thread;
};
struct Op {
  unsigned long long number;
  std::function<void()> run;
};
struct Stream {
  std::deque<Op> queue;
  unsigned long long enqueued = 0, executed = 0;
  Graph* graph = nullptr;  // that is being captured
  int priority = 0;
  double busy = 0;  // until when
};
struct Event {
  Stream* stream = nullptr;  // null: not recorded
  unsigned long long number = 0;
  Graph* graph = nullptr;
  double at = 0, due = 0;
  int asked = 0;
};
extern Stream legacy, per_thread;
extern std::map<Stream*, std::shared_ptr<Stream>> streams;
extern std::vector<Graph*> capturing;
extern thread_local cudaStreamCaptureMode mode_here;
extern std::map<std::string, long> counts;
extern bool lost;  // sticky, as a device is after an error of its own
extern const bool timed;

double now();  // ms
cudaError_t fail(cudaError_t error);
cudaError_t take_error(bool clear);
bool fault(const char* kind);
bool is_lost();
Stream* of(cudaStream_t stream);
const Block* find(const void* address);
bool inside(const void* address, size_t size);  // of the block it begins in; or it begins in none
void wait_until(double due);                    // with the lock held once, which is free meanwhile
void drain(Stream* stream, unsigned long long number);
void finish(Stream* stream);  // waits for all of it
void push(Stream* stream, std::function<void()> run);
void works(Stream* stream, size_t kernels);
bool unsafe();  // a call that may wait or allocate breaks captures; see cudaStreamCaptureMode
[[noreturn]] void stop(const char* what, const void* at, size_t size);
void* allocate(size_t size, Kind kind);
cudaError_t release(void* address);
cudaError_t copy(void* to, const void* from, size_t size, Stream* stream, bool wait);
cudaError_t launch(const std::string& name, dim3 grid, dim3 block, size_t shared, Stream* stream);
int attribute(int which);

}  // namespace standin
