/* A libcuda.so.1 that knows no device, for builder/prove_cuda.py.
 *
 * Every question is answered with CUDA_ERROR_NO_DEVICE. DRIVER_VERSION: the version of CUDA that
 * it claims to be for, such as 13000.
 */
#include <string.h>

#define NO_DEVICE 100

/* What libggml-cuda.so is linked against. */
#define ANSWERS(name) int name(void) { return NO_DEVICE; }
ANSWERS(cuInit)
ANSWERS(cuDeviceGet)
ANSWERS(cuDeviceGetAttribute)
ANSWERS(cuMemAddressFree)
ANSWERS(cuMemAddressReserve)
ANSWERS(cuMemCreate)
ANSWERS(cuMemGetAllocationGranularity)
ANSWERS(cuMemMap)
ANSWERS(cuMemRelease)
ANSWERS(cuMemSetAccess)
ANSWERS(cuMemUnmap)

int cuGetErrorString(int error, const char **text)
{
    (void)error;
    *text = "no device";
    return 0;
}

int cuDriverGetVersion(int *version)
{
    *version = DRIVER_VERSION;
    return 0;
}

/* The runtime library asks for all functions by name, for this one itself too. */
int cuGetProcAddress_v2(const char *name, void **function, int version, unsigned long flags,
                        int *status)
{
    (void)version;
    (void)flags;
    *function = (void *)cuInit;
    if (!strcmp(name, "cuDriverGetVersion"))
        *function = (void *)cuDriverGetVersion;
    if (!strcmp(name, "cuGetProcAddress"))
        *function = (void *)cuGetProcAddress_v2;
    if (status)
        *status = 0;
    return 0;
}
