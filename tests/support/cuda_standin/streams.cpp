// The CUDA runtime: streams, events, captured graphs; see standin.h.
#include <algorithm>

#include "standin.h"

using namespace standin;

extern "C" {
cudaError_t cudaDeviceSynchronize() {
  Lock lock(mutex);
  if (lost) return fail(cudaErrorLaunchFailure);
  if (unsafe()) return fail(cudaErrorStreamCaptureUnsupported);
  finish(&legacy);
  finish(&per_thread);
  for (auto& [stream, held] : std::map(streams)) finish(stream);
  return cudaSuccess;
}
cudaError_t cudaStreamCreateWithPriority(cudaStream_t* stream, unsigned, int priority) {
  Lock lock(mutex);
  auto made = std::make_shared<Stream>();
  made->priority = priority;
  streams[made.get()] = made;
  *stream = reinterpret_cast<cudaStream_t>(made.get());
  return cudaSuccess;
}
cudaError_t cudaStreamCreate(cudaStream_t* stream) { return cudaStreamCreateWithPriority(stream, 0, 0); }
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags) {
  return cudaStreamCreateWithPriority(stream, flags, 0);
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  Lock lock(mutex);
  drain(of(stream), of(stream)->enqueued);
  return cudaSuccess;
}
cudaError_t cudaStreamGetPriority(cudaStream_t stream, int* priority) {
  return *priority = of(stream)->priority, cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t which) {
  Lock lock(mutex);
  Stream* stream = of(which);
  if (lost) return fail(cudaErrorLaunchFailure);
  if (stream->graph) stream->graph->broken = true;
  if (stream->graph || unsafe()) return fail(cudaErrorStreamCaptureUnsupported);
  finish(stream);
  return cudaSuccess;
}
cudaError_t cudaStreamQuery(cudaStream_t which) {
  Lock lock(mutex);
  Stream* stream = of(which);
  if (lost) return fail(cudaErrorLaunchFailure);
  if (unsafe()) return fail(cudaErrorStreamCaptureUnsupported);
  static int asked = 0;
  if (stream->executed >= stream->enqueued) return cudaSuccess;
  if (timed ? now() < stream->busy : ++asked % 3) return cudaErrorNotReady;
  drain(stream, stream->enqueued);
  return cudaSuccess;
}

// ---- events
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
  return *event = reinterpret_cast<cudaEvent_t>(new Event), cudaSuccess;
}
cudaError_t cudaEventCreate(cudaEvent_t* event) { return cudaEventCreateWithFlags(event, 0); }
cudaError_t cudaEventDestroy(cudaEvent_t event) { return delete reinterpret_cast<Event*>(event), cudaSuccess; }
cudaError_t cudaEventRecordWithFlags(cudaEvent_t which, cudaStream_t stream, unsigned) {
  Lock lock(mutex);
  auto* event = reinterpret_cast<Event*>(which);
  event->stream = of(stream);
  event->graph = event->stream->graph;
  event->due = event->stream->busy;
  event->at = std::max(now(), event->due);
  event->asked = 0;
  if (!event->graph) event->number = ++event->stream->enqueued;
  return cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  return cudaEventRecordWithFlags(event, stream, 0);
}
static cudaError_t asked(Event* event) {
  if (lost) return fail(cudaErrorLaunchFailure);
  if (event->graph) {
    event->graph->broken = true;
    return fail(cudaErrorCapturedEvent);
  }
  return unsafe() ? fail(cudaErrorStreamCaptureUnsupported) : cudaSuccess;
}
cudaError_t cudaEventQuery(cudaEvent_t which) {
  Lock lock(mutex);
  auto* event = reinterpret_cast<Event*>(which);
  if (auto error = asked(event)) return error;
  if (!event->stream || event->stream->executed >= event->number) return cudaSuccess;
  if (timed ? now() < event->due : ++event->asked % 3) return cudaErrorNotReady;
  drain(event->stream, event->number);
  return cudaSuccess;
}
cudaError_t cudaEventSynchronize(cudaEvent_t which) {
  Lock lock(mutex);
  auto* event = reinterpret_cast<Event*>(which);
  if (auto error = asked(event)) return error;
  if (!event->stream) return cudaSuccess;
  wait_until(event->due);
  drain(event->stream, event->number);
  return cudaSuccess;
}
cudaError_t cudaEventElapsedTime(float* ms, cudaEvent_t first, cudaEvent_t second) {
  Lock lock(mutex);
  auto *begin = reinterpret_cast<Event*>(first), *end = reinterpret_cast<Event*>(second);
  if (!begin->stream || !end->stream) return fail(cudaErrorInvalidResourceHandle);
  if (end->stream->executed < end->number) return cudaErrorNotReady;
  *ms = float(end->at - begin->at);
  return cudaSuccess;
}
cudaError_t cudaStreamWaitEvent(cudaStream_t which, cudaEvent_t of_event, unsigned) {
  Lock lock(mutex);
  auto* event = reinterpret_cast<Event*>(of_event);
  auto* stream = of(which);
  if (!event->stream) return cudaSuccess;
  if (event->graph) {
    if (!stream->graph) {
      stream->graph = event->graph;
      stream->graph->open++;
    } else if (stream->graph != event->graph) {
      return fail(cudaErrorStreamCaptureMerge);
    } else if (stream == stream->graph->origin && stream->graph->open) {
      event->stream->graph = nullptr;
      stream->graph->open--;
    }
    return cudaSuccess;
  }
  if (stream->graph) return fail(cudaErrorStreamCaptureIsolation);
  stream->busy = std::max(stream->busy, event->due);
  push(stream, [from = event->stream, number = event->number] { drain(from, number); });
  return cudaSuccess;
}
cudaError_t cudaLaunchHostFunc(cudaStream_t stream, cudaHostFn_t function, void* data) {
  Lock lock(mutex);
  push(of(stream), [=] { function(data); });
  return cudaSuccess;
}
cudaError_t cudaStreamAddCallback(cudaStream_t stream, cudaStreamCallback_t function, void* data, unsigned) {
  Lock lock(mutex);
  push(of(stream), [=] { function(stream, cudaSuccess, data); });
  return cudaSuccess;
}

// ---- graphs
cudaError_t cudaStreamBeginCapture(cudaStream_t which, cudaStreamCaptureMode mode) {
  Lock lock(mutex);
  static unsigned long long captures = 0;
  auto* stream = of(which);
  if (stream == &legacy) return fail(cudaErrorStreamCaptureUnsupported);
  if (stream->graph) return fail(cudaErrorIllegalState);
  auto* graph = stream->graph = new Graph;
  graph->mode = mode;
  graph->origin = stream;
  graph->id = ++captures;
  graph->thread = std::this_thread::get_id();
  capturing.push_back(graph);
  return cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t which, cudaGraph_t* out) {
  Lock lock(mutex);
  auto* stream = of(which);
  auto* graph = stream->graph;
  *out = nullptr;
  if (!graph || graph->origin != stream) return fail(cudaErrorStreamCaptureUnmatched);
  std::erase(capturing, graph);
  stream->graph = nullptr;
  for (auto& [other, held] : streams)
    if (other->graph == graph) other->graph = nullptr;
  if (graph->open) return fail(cudaErrorStreamCaptureUnjoined);
  if (graph->broken) return fail(cudaErrorStreamCaptureInvalidated);
  *out = reinterpret_cast<cudaGraph_t>(graph);
  return cudaSuccess;
}
cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus* status) {
  Lock lock(mutex);
  auto* graph = of(stream)->graph;
  *status = !graph          ? cudaStreamCaptureStatusNone
            : graph->broken ? cudaStreamCaptureStatusInvalidated
                            : cudaStreamCaptureStatusActive;
  return cudaSuccess;
}
cudaError_t cudaStreamGetCaptureInfo(cudaStream_t stream, cudaStreamCaptureStatus* status, unsigned long long* id,
                                     cudaGraph_t* graph, const cudaGraphNode_t** nodes, const cudaGraphEdgeData** edges,
                                     size_t* count) {
  Lock lock(mutex);
  auto* found = of(stream)->graph;
  if (id && found) *id = found->id;
  if (graph) *graph = reinterpret_cast<cudaGraph_t>(found);
  if (nodes) *nodes = nullptr;
  if (edges) *edges = nullptr;
  if (count) *count = 0;
  return cudaStreamIsCapturing(stream, status);
}
cudaError_t cudaThreadExchangeStreamCaptureMode(cudaStreamCaptureMode* mode) {
  return std::swap(*mode, mode_here), cudaSuccess;
}
cudaError_t cudaGraphGetNodes(cudaGraph_t which, cudaGraphNode_t* nodes, size_t* count) {
  auto* graph = reinterpret_cast<Graph*>(which);
  size_t all = graph->ops.size() + graph->kernels;
  if (nodes) std::fill(nodes, nodes + std::min(*count, all), nullptr);
  return *count = all, cudaSuccess;
}
cudaError_t cudaGraphNodeGetDependencies(cudaGraphNode_t, cudaGraphNode_t*, cudaGraphEdgeData*, size_t* count) {
  return *count = 0, cudaSuccess;
}
cudaError_t cudaGraphInstantiateWithFlags(cudaGraphExec_t* out, cudaGraph_t graph, unsigned long long) {
  Lock lock(mutex);
  if (unsafe()) return fail(cudaErrorStreamCaptureUnsupported);
  auto made = std::make_shared<Graph>(*reinterpret_cast<Graph*>(graph));
  *out = reinterpret_cast<cudaGraphExec_t>(new std::shared_ptr<Graph>(made));
  return cudaSuccess;
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* out, cudaGraph_t graph, unsigned long long flags) {
  return cudaGraphInstantiateWithFlags(out, graph, flags);
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t which, cudaStream_t on) {
  Lock lock(mutex);
  auto graph = *reinterpret_cast<std::shared_ptr<Graph>*>(which);
  auto* stream = of(on);
  if (is_lost()) return fail(cudaErrorLaunchFailure);
  if (unsafe()) return fail(cudaErrorStreamCaptureUnsupported);
  counts["(graph)"]++;
  works(stream, graph->kernels);
  push(stream, [graph] {
    for (auto& run : graph->ops) run();
  });
  return cudaSuccess;
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) { return delete reinterpret_cast<Graph*>(graph), cudaSuccess; }
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t graph) {
  return delete reinterpret_cast<std::shared_ptr<Graph>*>(graph), cudaSuccess;
}
cudaError_t cudaGraphDebugDotPrint(cudaGraph_t, const char*, unsigned) { return cudaSuccess; }
}
