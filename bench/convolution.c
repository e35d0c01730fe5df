/* convolution.c: our side of bench/compare_convolution.py: forward and backward of one convolution, or of a network of ResNet-18's shape.
 *
 *     convolution [--batch N] [--channels C --outputs O --size S --kernel K --stride S | --network true] [--dtype f32|bf16] [--threads N]
 *                 [--seconds X] [--processor-time true]
 *
 * Prints one JSON object: the seconds of the fastest of the runs that fit into --seconds, and how often a run asked the system for memory
 * once warm. */
#include <cambium.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

typedef struct settings {
    int64_t batch, channels, outputs, size, kernel, stride, threads;
    double seconds;
    int dtype;
    bool network, processor_time;
} settings;

static const char *const dtypes[] = {"f32", "bf16", NULL};
static const cb_option table[] = {
    CB_OPT_INT(settings, batch, 8, 1, 65536, "images"),
    CB_OPT_INT(settings, channels, 64, 1, 65536, "channels of the input"),
    CB_OPT_INT(settings, outputs, 64, 1, 65536, "channels of the output"),
    CB_OPT_INT(settings, size, 56, 1, 65536, "height and width of the images"),
    CB_OPT_INT(settings, kernel, 3, 1, 1024, "height and width of the kernel"),
    CB_OPT_INT(settings, stride, 1, 1, 1024, "of the kernel"),
    CB_OPT_INT(settings, threads, 2, 1, 1024, "threads"),
    CB_OPT_FLOAT(settings, seconds, 1, 0, 1e6, "how long to repeat"),
    CB_OPT_ENUM(settings, dtype, 0, dtypes, "dtype of everything"),
    CB_OPT_BOOL(settings, network, 0, "a whole network: He et al. 2015, arXiv:1512.03385, table 1, 18 layers"),
    CB_OPT_BOOL(settings, processor_time, 0, "processor time instead of that on the wall: for one thread on a busy machine"),
    CB_OPT_END,
};

enum { MOST = 64 };
static struct {
    cb_tensor *parameter[MOST];
    int count, used;
    cb_rng rng;
} weights;

/* The next parameter of the network: made in the first run, the same in every other. */
static cb_tensor *weight(cb_dtype dtype, int ndim, const int64_t *shape)
{
    if (weights.used == weights.count) {
        double scale = ndim == 4 ? 1.0 / (double)(shape[1] * shape[2]) : 1;
        cb_tensor *w = ndim == 1 ? cb_full_nd(dtype, 1, ndim, shape) : cb_scale(cb_randn_nd(dtype, &weights.rng, ndim, shape), scale);
        weights.parameter[weights.count++] = cb_keep(cb_parameter(cb_detach(w)));
    }
    return weights.parameter[weights.used++];
}

static cb_tensor *convolved(cb_tensor *x, int64_t outputs, int64_t kernel, int64_t stride)
{
    cb_tensor *w = weight(x->dtype, CB_SHAPE(outputs, x->shape[1], kernel, kernel));
    return cb_conv(x, w, NULL, .stride = {stride, stride}, .padding = {kernel / 2, kernel / 2});
}

static cb_tensor *normed(cb_tensor *x)
{
    cb_tensor *scale = weight(x->dtype, CB_SHAPE(x->shape[1])), *shift = weight(x->dtype, CB_SHAPE(x->shape[1]));
    return cb_batch_norm(x, scale, shift);
}

static cb_tensor *block(cb_tensor *x, int64_t outputs, int64_t stride)
{
    cb_tensor *y = cb_relu(normed(convolved(x, outputs, 3, stride)));
    y = normed(convolved(y, outputs, 3, 1));
    return cb_relu(cb_add(y, stride > 1 ? normed(convolved(x, outputs, 1, stride)) : x));
}

static cb_tensor *network(cb_tensor *x)
{
    cb_tensor *y = cb_relu(normed(convolved(x, 64, 7, 2)));
    y = cb_max_pool(y, .kernel = {3, 3}, .stride = {2, 2}, .padding = {1, 1});
    for (int stage = 0; stage < 4; stage++)
        for (int i = 0; i < 2; i++)
            y = block(y, 64LL << stage, stage && !i ? 2 : 1);
    y = cb_reshape(cb_adaptive_avg_pool(y, 1, 1), x->shape[0], 512);
    return cb_linear(y, weight(x->dtype, CB_SHAPE(1000, 512)), NULL);
}

static bool run(const settings *s, cb_tensor *x)
{
    weights.used = 0;
    cb_scope *scope = cb_scope_open();
    cb_tensor *y = s->network ? network(x) : convolved(x, s->outputs, s->kernel, s->stride);
    bool ok = cb_backward(cb_mean(cb_cast(y, CB_F32), CB_ALL, false));
    for (int i = 0; i < weights.count; i++)
        cb_zero_grad(weights.parameter[i]);
    cb_zero_grad(x);
    cb_scope_close(scope);
    return ok;
}

static double now(const settings *s)
{
    return s->processor_time ? (double)clock() / CLOCKS_PER_SEC : cb_now();
}

int main(int argc, char **argv)
{
    settings s = {0};
    bool ok = cb_options_init(table, &s);
    for (int i = 1; ok && i < argc; i += 2)
        ok = strncmp(argv[i], "--", 2) == 0 && i + 1 < argc ? cb_options_set(table, &s, argv[i] + 2, argv[i + 1])
                                                            : cb_fail(CB_ERR_ARGUMENT, "%s: expected --NAME VALUE", argv[i]) == CB_OK;
    if (!ok) {
        fprintf(stderr, "%s\n", cb_error_message());
        return 2;
    }
    cb_set_threads((int)s.threads);
    weights.rng = (cb_rng){.seed = 1};
    cb_tensor *x =
        cb_keep(cb_channels_last(cb_randn(s.dtype ? CB_BF16 : CB_F32, &weights.rng, s.batch, s.network ? 3 : s.channels, s.size, s.size)));
    if (!s.network) /* as the network's inner layers, which propagate further down */
        cb_parameter(x);
    ok = run(&s, x) && run(&s, x);
    uint64_t before = cb_memory().system_allocations;
    double best = 1e30, start = now(&s);
    for (int i = 0; ok && (i < 3 || now(&s) - start < s.seconds); i++) {
        double begin = now(&s);
        ok = run(&s, x);
        double took = now(&s) - begin;
        best = took < best ? took : best;
    }
    if (!ok) {
        fprintf(stderr, "%s\n", cb_error_message());
        return 1;
    }
    printf("{\"seconds\": %.6f, \"allocations\": %llu}\n", best, (unsigned long long)(cb_memory().system_allocations - before));
    return 0;
}
