/* recurrent.c: our side of bench/compare_recurrent.py: layers of LSTM or GRU, forward, or forward and backward, f32.
 *
 *     recurrent [--batch N] [--times T] [--inputs I] [--hidden H] [--layers L] [--bidirectional true] [--gru true] [--train false]
 *               [--threads N] [--seconds X] [--processor-time true]
 *
 * Prints one JSON object: the seconds of the fastest of the runs that fit into --seconds, and how often a run asked the system for memory
 * once warm. */
#include <cambium.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

typedef struct settings {
    int64_t batch, times, inputs, hidden, layers, threads;
    double seconds;
    bool bidirectional, gru, train, processor_time;
} settings;

static const cb_option table[] = {
    CB_OPT_INT(settings, batch, 16, 1, 65536, "rows"),
    CB_OPT_INT(settings, times, 64, 1, 65536, "times of each"),
    CB_OPT_INT(settings, inputs, 256, 1, 65536, "width of the input"),
    CB_OPT_INT(settings, hidden, 256, 1, 65536, "width of the states"),
    CB_OPT_INT(settings, layers, 1, 1, 64, "layers"),
    CB_OPT_BOOL(settings, bidirectional, 0, "in both directions"),
    CB_OPT_BOOL(settings, gru, 0, "GRU in place of LSTM"),
    CB_OPT_BOOL(settings, train, 1, "backward too, with gradients of the input and of all weights"),
    CB_OPT_INT(settings, threads, 1, 1, 1024, "threads"),
    CB_OPT_FLOAT(settings, seconds, 1, 0, 1e6, "how long to repeat"),
    CB_OPT_BOOL(settings, processor_time, 0, "processor time instead of that on the wall: for one thread on a busy machine"),
    CB_OPT_END,
};

enum { MOST = 128 };

typedef struct network {
    cb_tensor *x, *h, *parameters[4 * MOST];
    cb_recurrent_weights weights[MOST];
    int count; /* of parameters */
} network;

static cb_tensor *parameter(network *n, cb_rng *rng, int ndim, const int64_t *shape)
{
    cb_tensor *t = cb_keep(cb_parameter(cb_detach(cb_scale(cb_randn_nd(CB_F32, rng, ndim, shape), 0.05))));
    n->parameters[n->count++] = t;
    return t;
}

static bool make(const settings *s, network *n)
{
    cb_rng rng = {.seed = 1};
    int64_t directions = s->bidirectional ? 2 : 1, rows = (s->gru ? 3 : 4) * s->hidden;
    if (s->layers * directions > MOST)
        return cb_fail(CB_ERR_ARGUMENT, "layers: at most %d in all directions", MOST) == CB_OK;
    for (int64_t i = 0; i < s->layers * directions; i++) {
        int64_t inputs = i < directions ? s->inputs : directions * s->hidden;
        n->weights[i] = (cb_recurrent_weights){parameter(n, &rng, CB_SHAPE(rows, inputs)), parameter(n, &rng, CB_SHAPE(rows, s->hidden)),
                                               parameter(n, &rng, CB_SHAPE(rows)), parameter(n, &rng, CB_SHAPE(rows))};
    }
    n->x = cb_keep(cb_parameter(cb_randn(CB_F32, &rng, s->times, s->batch, s->inputs)));
    n->h = cb_keep(cb_zeros(CB_F32, s->layers * directions, s->batch, s->hidden));
    return cb_ok();
}

static bool run(const settings *s, const network *n)
{
    cb_scope *scope = cb_scope_open();
    cb_tensor *y, *hn, *cn;
    bool old = cb_set_grad_enabled(s->train);
    bool ok = s->gru ? cb_gru(n->x, (int)s->layers, n->weights, n->h, &y, &hn, .bidirectional = s->bidirectional)
                     : cb_lstm(n->x, (int)s->layers, n->weights, n->h, n->h, &y, &hn, &cn, .bidirectional = s->bidirectional);
    ok = ok && (!s->train || cb_backward(cb_mean(y, CB_ALL, false)));
    cb_set_grad_enabled(old);
    for (int i = 0; i < n->count; i++)
        cb_zero_grad(n->parameters[i]);
    cb_zero_grad(n->x);
    cb_scope_close(scope);
    return ok;
}

static double now(const settings *s)
{
    return s->processor_time ? (double)clock() / CLOCKS_PER_SEC : cb_now();
}

int main(int argc, char **argv)
{
    static network n;
    settings s = {0};
    bool ok = cb_options_init(table, &s);
    for (int i = 1; ok && i < argc; i += 2)
        ok = strncmp(argv[i], "--", 2) == 0 && i + 1 < argc ? cb_options_set(table, &s, argv[i] + 2, argv[i + 1])
                                                            : cb_fail(CB_ERR_ARGUMENT, "%s: expected --NAME VALUE", argv[i]) == CB_OK;
    cb_set_threads((int)s.threads);
    ok = ok && make(&s, &n) && run(&s, &n) && run(&s, &n);
    uint64_t before = cb_memory().system_allocations;
    double best = 1e30, start = now(&s);
    for (int i = 0; ok && (i < 3 || now(&s) - start < s.seconds); i++) {
        double begin = now(&s);
        ok = run(&s, &n);
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
