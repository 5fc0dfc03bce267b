/* The few functions of CANN's runtime that torch_npu needs to do something, for a machine with no NPU and no CANN.
 *
 * "Device" memory is host memory, all work is done when a call returns, and there is one device, an Ascend910B3.
 * Every other function is a no-op that build.py writes. Signatures: torch_npu/include/third_party/acl/inc/acl.
 * This lets torch_npu load and manage tensors; it computes nothing and shows nothing about a device.
 */
#define _GNU_SOURCE
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define GIB ((size_t)1 << 30)
#define BAD_ALLOC 207001        /* ACL_ERROR_RT_MEMORY_ALLOCATION */
#define BAD_PARAMETER 107001    /* what the runtime says of a device that is not there */
#define NOT_COMPILED 500001     /* kernels are never compiled here */

/* Device */
static int current_device = 0;
static int context;

int aclrtGetDeviceCount(uint32_t *count) { if (count) *count = 1; return 0; }
int aclrtSetDevice(int device) { if (device != 0) return BAD_PARAMETER; current_device = device; return 0; }
int aclrtGetDevice(int *device) { if (device) *device = current_device; return 0; }
const char *aclrtGetSocName(void) { return "Ascend910B3"; }
const char *aclGetRecentErrMsg(void) { return "simulated device"; }
int aclrtGetCurrentContext(void **out) { if (out) *out = &context; return 0; }
int aclGetDeviceCapability(uint32_t device, int info, int64_t *value) { if (value) *value = 20; return 0; }
int aclrtGetDeviceInfo(uint32_t device, int info, int64_t *value) { if (value) *value = 20; return 0; }
int aclrtGetRunMode(int *mode) { if (mode) *mode = 1; return 0; }
int aclrtDeviceCanAccessPeer(int *can, int from, int to) { if (can) *can = 0; return 0; }
int aclrtGetMemInfo(int kind, size_t *left, size_t *total)
{
    if (left) *left = 60 * GIB;
    if (total) *total = 64 * GIB;
    return 0;
}

/* Memory */
int aclrtMalloc(void **out, size_t bytes, int policy)
{
    size_t rounded = (bytes + 511) / 512 * 512;
    return posix_memalign(out, 512, rounded ? rounded : 512) ? BAD_ALLOC : 0;
}
int aclrtMallocAlign32(void **out, size_t bytes, int policy) { return aclrtMalloc(out, bytes, policy); }
int aclrtMallocHost(void **out, size_t bytes) { return aclrtMalloc(out, bytes, 0); }
int aclrtMallocHostWithCfg(void **out, size_t bytes, void *config) { return aclrtMalloc(out, bytes, 0); }
int aclrtFree(void *memory) { free(memory); return 0; }
int aclrtFreeHost(void *memory) { free(memory); return 0; }
int aclrtMemcpy(void *to, size_t room, const void *from, size_t bytes, int kind) { memmove(to, from, bytes); return 0; }
int aclrtMemcpyAsync(void *to, size_t room, const void *from, size_t bytes, int kind, void *stream)
{
    memmove(to, from, bytes);
    return 0;
}
int aclrtMemcpyAsyncWithCondition(void *to, size_t room, const void *from, size_t bytes, int kind, void *stream)
{
    memmove(to, from, bytes);
    return 0;
}
int aclrtMemset(void *memory, size_t room, int value, size_t bytes) { memset(memory, value, bytes); return 0; }
int aclrtMemsetAsync(void *memory, size_t room, int value, size_t bytes, void *stream)
{
    memset(memory, value, bytes);
    return 0;
}

/* Virtual memory: an address range is memory already, mapping does nothing. */
int aclrtReserveMemAddress(void **out, size_t bytes, size_t align, void *expected, uint64_t flags)
{
    return posix_memalign(out, 2 << 20, bytes) ? BAD_ALLOC : 0;
}
int aclrtReleaseMemAddress(void *memory) { free(memory); return 0; }
int aclrtMallocPhysical(void **out, size_t bytes, const void *property, uint64_t flags) { *out = malloc(1); return 0; }
int aclrtFreePhysical(void *handle) { free(handle); return 0; }

/* Streams */
static int streams = 0;

int aclrtCreateStream(void **out)
{
    int *stream = malloc(sizeof(int));
    *stream = ++streams;
    *out = stream;
    return 0;
}
int aclrtCreateStreamWithConfig(void **out, uint32_t priority, uint32_t flags) { return aclrtCreateStream(out); }
int aclrtStreamQuery(void *stream, int *status) { if (status) *status = 0; return 0; }
int aclrtStreamGetId(void *stream, int *id) { if (id) *id = stream ? *(int *)stream : 0; return 0; }
int aclrtGetStreamOverflowSwitch(void *stream, uint32_t *flag) { if (flag) *flag = 0; return 0; }

/* Events: complete as soon as they are recorded */
int aclrtCreateEventExWithFlag(void **out, uint32_t flag) { *out = calloc(1, sizeof(struct timespec)); return 0; }
int aclrtCreateEventWithFlag(void **out, uint32_t flag) { return aclrtCreateEventExWithFlag(out, flag); }
int aclrtDestroyEvent(void *event) { free(event); return 0; }
int aclrtRecordEvent(void *event, void *stream) { clock_gettime(CLOCK_MONOTONIC, event); return 0; }
int aclrtQueryEventStatus(void *event, int *status) { if (status) *status = 1; return 0; }
int aclrtQueryEventWaitStatus(void *event, int *status) { if (status) *status = 0; return 0; }
int aclrtEventElapsedTime(float *milliseconds, void *from, void *to)
{
    struct timespec *a = from, *b = to;
    *milliseconds = (b->tv_sec - a->tv_sec) * 1e3f + (b->tv_nsec - a->tv_nsec) / 1e6f;
    return 0;
}

/* Descriptors: opaque to torch_npu */
void *aclCreateTensorDesc(int type, int rank, const int64_t *shape, int format) { return calloc(1, 64); }
void aclDestroyTensorDesc(void *descriptor) { free(descriptor); }
void *aclCreateDataBuffer(void *data, size_t bytes) { return calloc(1, 32); }
int aclDestroyDataBuffer(void *buffer) { free(buffer); return 0; }
void *aclopCreateAttr(void) { return calloc(1, 16); }
void aclopDestroyAttr(void *attribute) { free(attribute); }
int aclopCompileAndExecute(void) { return NOT_COMPILED; }
size_t aclGetCompileoptSize(int option) { return 16; }
int aclGetCompileopt(int option, char *value, size_t bytes)
{
    if (value && bytes) {
        memset(value, 0, bytes);
        strncpy(value, "enable", bytes - 1);
    }
    return 0;
}
