/* What FlashInfer's plans ask of the CUDA runtime, for a machine without a GPU: preloaded, copies "to the device" go
   from host memory to host memory, and the device has the sizes of an H200. */
#include <stddef.h>
#include <string.h>

int cudaGetDevice(int *device) {
  *device = 0;
  return 0;
}

int cudaSetDevice(int device) { return device; }

int cudaMemcpyAsync(void *to, const void *from, size_t count, int kind, void *stream) {
  (void)kind, (void)stream;
  memcpy(to, from, count);
  return 0;
}

int cudaDeviceGetAttribute(int *value, int attribute, int device) {
  (void)device;
  switch (attribute) {
    case 16: /* multiprocessors */
      *value = 132;
      return 0;
    case 75: /* compute capability */
      *value = 9;
      return 0;
    case 76:
      *value = 0;
      return 0;
    case 81: /* shared memory of a multiprocessor, and of a block at most */
      *value = 233472;
      return 0;
    case 97:
      *value = 232448;
      return 0;
    default:
      return 1;
  }
}
