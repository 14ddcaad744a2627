/* A stand-in for libnvidia-ml.so.1: two GPUs whose state is read from the file $NVML_STUB at every call.
 *
 * The file holds one word: healthy, hot, braked (the power brake holds the clocks back), ecc (GPU 0 has memory errors
 * that it could not correct, and XID 48 tells so), hung (every call blocks), lost (GPU 1 is off the bus, and XID 79
 * tells so), split (one NVLink of GPU 0 is down), mig (GPU 0 has two instances), mig1 (one of them was taken down),
 * contained (XID 94 on GPU 0), failing (the driver answers nothing but "unknown error"), mismatched (its library is of
 * another version), absent (no driver). It exports what nvidia-ml-py asks for:
 * nvmlInit() there calls nvmlInitWithFlags. What it does not export is what an old driver lacks: the clocks
 * event reasons (so that the older throttle reasons are asked) and the fan. $NVML_STUB_PID, when it is there, computes
 * on both, and on the first instance, with 2 GiB. GPU 1 is of a generation that retires pages where NVML_STUB_PAGES is
 * set. Every call by number is counted in the file $NVML_STUB_ASKED, a line a field. Where NVML_STUB_ONCE is set the file
 * is read once: what the callers cost is measured so.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { OK = 0, NOT_SUPPORTED = 3, INSUFFICIENT_SIZE = 7, DRIVER_NOT_LOADED = 9, TIMEOUT = 10, GPU_IS_LOST = 15, MISMATCH = 18, UNKNOWN = 999 };

typedef struct { unsigned index; } device;
typedef struct { unsigned gpu, memory; } utilization;
typedef struct { unsigned long long total, free, used; } memory_info;
typedef struct {
    char busIdLegacy[16];
    unsigned domain, bus, device, pciDeviceId, pciSubSystemId;
    char busId[32];
} pci_info;

typedef struct { unsigned pid; unsigned long long used; unsigned instance, compute; } process_info;

static device devices[4] = {{0}, {1}, {10}, {11}}; /* two GPUs, and two instances of the first */

static int is(const char *wanted) {
    static char word[32];
    if (word[0] && getenv("NVML_STUB_ONCE")) return strcmp(word, wanted) == 0;
    strcpy(word, "healthy");
    FILE *file = fopen(getenv("NVML_STUB"), "r");
    if (file) {
        if (fscanf(file, "%31s", word) != 1) strcpy(word, "healthy");
        fclose(file);
    }
    return strcmp(word, wanted) == 0;
}

static int mig(void) { return is("mig") ? 2 : is("mig1") ? 1 : 0; }

static int answer(device *gpu) {
    if (is("hung")) for (;;) pause();
    if (is("failing")) return UNKNOWN;
    if (is("mismatched")) return MISMATCH;
    if (gpu && gpu->index == 1 && is("lost")) return GPU_IS_LOST;
    return OK;
}

int nvmlInitWithFlags(unsigned flags) { (void)flags; return is("absent") ? DRIVER_NOT_LOADED : answer(NULL); }
int nvmlShutdown(void) { return OK; }
const char *nvmlErrorString(int code) { return code == UNKNOWN ? "Unknown Error" : code == GPU_IS_LOST ? "GPU is lost" : "stub"; }
int nvmlSystemGetDriverVersion(char *text, unsigned size) { snprintf(text, size, "550.54.15"); return OK; }
int nvmlDeviceGetCount_v2(unsigned *count) { *count = 2; return answer(NULL); }

int nvmlDeviceGetHandleByIndex_v2(unsigned index, device **gpu) {
    *gpu = &devices[index];
    return answer(*gpu);
}
int nvmlDeviceGetUUID(device *gpu, char *text, unsigned size) {
    if (gpu->index >= 10) snprintf(text, size, "MIG-00000000-0000-0000-0000-0000000000%u", gpu->index);
    else snprintf(text, size, "GPU-00000000-0000-0000-0000-00000000000%u", gpu->index);
    return answer(gpu);
}
int nvmlDeviceGetName(device *gpu, char *text, unsigned size) {
    snprintf(text, size, gpu->index >= 10 ? "Stub H100 MIG 3g.40gb" : "Stub H100");
    return answer(gpu);
}
int nvmlDeviceGetPciInfo_v3(device *gpu, pci_info *info) {
    memset(info, 0, sizeof *info);
    snprintf(info->busId, sizeof info->busId, "00000000:0%u:00.0", gpu->index + 1);
    return answer(gpu);
}
int nvmlDeviceGetUtilizationRates(device *gpu, utilization *u) {
    if (gpu->index == 0 && mig()) return NOT_SUPPORTED; /* of a GPU that is split */
    u->gpu = 87; u->memory = 40;
    return answer(gpu);
}
int nvmlDeviceGetMemoryInfo(device *gpu, memory_info *m) {
    if (gpu->index >= 10) {
        m->total = 40ull << 30; m->used = 10ull << 30; m->free = 30ull << 30;
        return answer(gpu);
    }
    m->total = 80ull << 30; m->used = 60ull << 30; m->free = 20ull << 30;
    return answer(gpu);
}
int nvmlDeviceGetTemperature(device *gpu, int sensor, unsigned *c) { (void)sensor; *c = is("hot") ? 91 : 55; return answer(gpu); }
int nvmlDeviceGetPowerUsage(device *gpu, unsigned *mw) { *mw = 612500; return answer(gpu); }
int nvmlDeviceGetEnforcedPowerLimit(device *gpu, unsigned *mw) { *mw = 700000; return answer(gpu); }
int nvmlDeviceGetClockInfo(device *gpu, int type, unsigned *mhz) {
    *mhz = type == 2 ? 2619 : is("hot") || is("braked") ? 990 : 1980;
    return answer(gpu);
}
int nvmlDeviceGetMaxClockInfo(device *gpu, int type, unsigned *mhz) { (void)type; *mhz = 1980; return answer(gpu); }
int nvmlDeviceGetCurrentClocksThrottleReasons(device *gpu, unsigned long long *bits) {
    *bits = is("hot") ? 0x60 : is("braked") ? 0x8c : 0;
    return answer(gpu);
}
int nvmlDeviceGetTotalEccErrors(device *gpu, int type, int counter, unsigned long long *n) {
    (void)counter; *n = type == 0 ? 3 : is("ecc") && gpu->index == 0 ? 2 : 0;
    return answer(gpu);
}
int nvmlDeviceGetRemappedRows(device *gpu, unsigned *corrected, unsigned *uncorrected, unsigned *pending, unsigned *failed) {
    if (gpu->index == 1) return answer(gpu) ? answer(gpu) : NOT_SUPPORTED;
    *corrected = 1; *uncorrected = is("ecc") ? 4 : 0; *pending = 1; *failed = is("ecc");
    return answer(gpu);
}
int nvmlDeviceGetComputeRunningProcesses_v3(device *gpu, unsigned *count, process_info *found) {
    const char *pid = getenv("NVML_STUB_PID");
    unsigned room = *count;
    *count = pid && gpu->index != 11 ? 1 : 0;
    if (answer(gpu)) return answer(gpu);
    if (!*count) return OK;
    if (room < 1) return INSUFFICIENT_SIZE;
    memset(found, 0, sizeof *found);
    found->pid = (unsigned)atoi(pid);
    found->used = 2ull << 30;
    return OK;
}
int nvmlDeviceGetTemperatureThreshold(device *gpu, int which, unsigned *c) { *c = which == 1 ? 90 : 95; return answer(gpu); }
int nvmlDeviceGetCurrPcieLinkGeneration(device *gpu, unsigned *g) { *g = 4; return answer(gpu); }
int nvmlDeviceGetMaxPcieLinkGeneration(device *gpu, unsigned *g) { *g = 5; return answer(gpu); }
int nvmlDeviceGetNvLinkState(device *gpu, unsigned link, unsigned *up) {
    if (link > 3) return 2; /* invalid argument: it has four */
    *up = !(is("split") && gpu->index == 0 && link == 2);
    return answer(gpu);
}

/* XIDs: each is told once, to whoever has asked for them. */
typedef struct { device *gpu; unsigned long long type, data; unsigned instance, compute; } event_data;
static int told;
int nvmlEventSetCreate(int **set) { *set = &told; return OK; }
int nvmlDeviceRegisterEvents(device *gpu, unsigned long long types, int *set) { (void)set; return types == 8 ? answer(gpu) : NOT_SUPPORTED; }
int nvmlEventSetWait_v2(int *set, event_data *event, unsigned timeout) {
    (void)timeout;
    int xid = is("lost") ? 79 : is("contained") ? 94 : is("ecc") ? 48 : 0;
    if (!xid || *set == xid) return TIMEOUT;
    *set = xid;
    memset(event, 0, sizeof *event);
    event->gpu = &devices[xid == 79];
    event->type = 8; event->data = (unsigned long long)xid;
    return OK;
}
int nvmlDeviceGetCurrPcieLinkWidth(device *gpu, unsigned *w) { *w = 8; return answer(gpu); }
int nvmlDeviceGetMaxPcieLinkWidth(device *gpu, unsigned *w) { *w = 16; return answer(gpu); }

/* What may be set: the power limit is kept in the file $NVML_STUB_POWER (milliwatts); $NVML_STUB_RECOVERY is the
 * recovery action that is asked for (unset: an old driver), $NVML_STUB_USER "nobody" may set nothing. */
int nvmlDeviceGetHandleByUUID(const char *uuid, device **gpu) {
    size_t n = strlen(uuid);
    unsigned index = n ? (unsigned)(uuid[n - 1] - '0') : 9;
    if (index > 1) return 6; /* not found */
    *gpu = &devices[index];
    return answer(*gpu);
}
static unsigned power(void) {
    unsigned mw = 700000;
    FILE *file = fopen(getenv("NVML_STUB_POWER"), "r");
    if (file) {
        if (fscanf(file, "%u", &mw) != 1) mw = 700000;
        fclose(file);
    }
    return mw;
}
int nvmlDeviceGetPowerManagementLimit(device *gpu, unsigned *mw) { *mw = power(); return answer(gpu); }
int nvmlDeviceGetPowerManagementLimitConstraints(device *gpu, unsigned *least, unsigned *most) {
    *least = 200000; *most = 700000;
    return answer(gpu);
}
int nvmlDeviceSetPowerManagementLimit(device *gpu, unsigned mw) {
    const char *user = getenv("NVML_STUB_USER");
    if (user && !strcmp(user, "nobody")) return 4; /* no permission */
    FILE *file = fopen(getenv("NVML_STUB_POWER"), "w");
    if (!file) return UNKNOWN;
    fprintf(file, "%u", mw);
    fclose(file);
    return answer(gpu);
}
typedef struct { unsigned id, scope; long long at, took; unsigned type, code; union { unsigned ui; unsigned long long ull; double d; } value; } field_value;
static int field(device *gpu, field_value *f) {
    const char *recovery = getenv("NVML_STUB_RECOVERY");
    int pages = gpu->index == 1 && getenv("NVML_STUB_PAGES");
    f->type = 1;
    switch (f->id) {
    case 230: f->value.ui = recovery ? (unsigned)atoi(recovery) : 0; return recovery ? OK : NOT_SUPPORTED;
    case 82: f->value.ui = is("hot") ? 97 : 61; return OK;
    case 94: f->value.ui = 3; return OK;
    case 38: case 52: case 59: f->type = 3; f->value.ull = is("split") ? f->id : 0; return gpu->index ? NOT_SUPPORTED : OK;
    case 29: f->value.ui = 5; return pages ? OK : NOT_SUPPORTED;
    case 30: f->value.ui = 1; return pages ? OK : NOT_SUPPORTED;
    case 31: f->value.ui = 1; return pages ? OK : NOT_SUPPORTED;
    }
    return NOT_SUPPORTED;
}
int nvmlDeviceGetFieldValues(device *gpu, int count, field_value *values) {
    const char *asked = getenv("NVML_STUB_ASKED");
    FILE *file = asked ? fopen(asked, "a") : NULL;
    for (int i = 0; i < count; i++) {
        values[i].code = field(gpu, &values[i]);
        if (file) fprintf(file, "%u %u\n", gpu->index, values[i].id);
    }
    if (file) fclose(file);
    return answer(gpu);
}

/* Instances of GPU 0: their numbers have a gap, as those of a real one have. GPU 1 can not be split. */
typedef struct { unsigned sms, engines[5], slices, compute; unsigned long long mb; } attributes;
int nvmlDeviceGetMigMode(device *gpu, unsigned *now, unsigned *later) {
    if (gpu->index) return answer(gpu) ? answer(gpu) : NOT_SUPPORTED;
    *now = *later = mig() > 0;
    return answer(gpu);
}
int nvmlDeviceGetMaxMigDeviceCount(device *gpu, unsigned *count) { *count = 7; return answer(gpu); }
int nvmlDeviceGetMigDeviceHandleByIndex(device *gpu, unsigned index, device **part) {
    if (index != 0 && !(index == 4 && mig() == 2)) return 6; /* not found */
    *part = &devices[index ? 3 : 2];
    return answer(gpu);
}
int nvmlDeviceGetAttributes_v2(device *gpu, attributes *a) {
    memset(a, 0, sizeof *a);
    a->sms = 60;
    return answer(gpu);
}
