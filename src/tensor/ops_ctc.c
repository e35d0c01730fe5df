/* ops_ctc.c: connectionist temporal classification: the loss of sequences whose alignment is not known.  Graves et al. 2006. */
#include "kernels/ctc.h"
#include "kernels/kernels.h"
#include "tensor/op.h"

typedef struct ctc_arguments {
    int64_t blank;
    bool zero_infinity;
} ctc_arguments;

static cbk_ctc kernel_of(cb_tensor *const *x, ctc_arguments a)
{
    return (cbk_ctc){.dtype = x[0]->dtype,
                     .target_dtype = x[1]->dtype,
                     .length_dtype = x[2]->dtype,
                     .t = x[0]->shape[0],
                     .n = x[0]->shape[1],
                     .c = x[0]->shape[2],
                     .s = x[1]->shape[1],
                     .blank = a.blank,
                     .zero_infinity = a.zero_infinity,
                     .log_probs = x[0]->data,
                     .targets = x[1]->data,
                     .input_lengths = x[2]->data,
                     .target_lengths = x[3]->data};
}

static void ctc_backward(cb_backward_pass *pass)
{
    cbk_ctc kernel = kernel_of(pass->saved, *(const ctc_arguments *)pass->args);
    cb_tensor *dx = cb_empty_like(pass->saved[0]);
    double *loss = cb_calloc(2 * (size_t)kernel.n + 1, sizeof *loss);
    if (dx && loss && cb_read(pass->dy[0], CB_F64, loss + kernel.n) && cbk_ctc_run(&kernel, loss, loss + kernel.n, dx->data))
        pass->dx[0] = dx;
    cb_free(loss);
}

const cb_op cb_op_ctc = {.name = "ctc", .backward = ctc_backward};

static bool is_index(const cb_tensor *t)
{
    return t->dtype == CB_I32 || t->dtype == CB_I64;
}

static bool check_shapes(cb_tensor *const *x, int64_t blank)
{
    int64_t n = x[0]->ndim == 3 ? x[0]->shape[1] : -1;
    bool fits = n >= 0 && cb_dtype_is_float(x[0]->dtype) && x[1]->ndim == 2 && x[1]->shape[0] == n && is_index(x[1]) && is_index(x[2]) &&
                x[2]->dtype == x[3]->dtype;
    for (int i = 2; i < 4; i++)
        fits = fits && x[i]->ndim == 1 && x[i]->shape[0] == n;
    if (!fits)
        return cb_fail(CB_ERR_SHAPE, "ctc: %s, targets %s, lengths %s and %s, expected (T, N, C), integers (N, S), (N) and (N)",
                       cb_shape_text(x[0]), cb_shape_text(x[1]), cb_shape_text(x[2]), cb_shape_text(x[3])) == CB_OK;
    return (blank >= 0 && blank < x[0]->shape[2]) ||
           cb_fail(CB_ERR_ARGUMENT, "ctc: blank %lld, expected one of %lld classes", (long long)blank, (long long)x[0]->shape[2]) == CB_OK;
}

static bool check_values(cb_tensor *const *x)
{
    for (int64_t n = 0; n < x[0]->shape[1] && !cb_rehearsing(); n++) {
        double length[] = {cb_get(x[2], n), cb_get(x[3], n)}; /* may be above every int64_t when rounded */
        int64_t most[] = {x[0]->shape[0], x[1]->shape[1]};
        for (int i = 0; i < 2; i++)
            if (length[i] < 0 || length[i] > (double)most[i])
                return cb_fail(CB_ERR_ARGUMENT, "ctc: %s length %.0f of sample %lld, expected 0 to %lld", i ? "target" : "input", length[i],
                               (long long)n, (long long)most[i]) == CB_OK;
        for (int64_t s = 0; s < (int64_t)length[1]; s++) {
            double target = cb_get(x[1], n * most[1] + s);
            if (target < 0 || target >= (double)x[0]->shape[2])
                return cb_fail(CB_ERR_ARGUMENT, "ctc: target %.0f of sample %lld, expected one of %lld classes", target, (long long)n,
                               (long long)x[0]->shape[2]) == CB_OK;
        }
    }
    return true;
}

cb_tensor *cb_ctc_with(cb_tensor *log_probs, cb_tensor *targets, cb_tensor *input_lengths, cb_tensor *target_lengths,
                       cb_ctc_options options)
{
    if (!log_probs || !targets || !input_lengths || !target_lengths)
        return NULL;
    cb_tensor *x[] = {log_probs, targets, input_lengths, target_lengths};
    if (!check_shapes(x, options.blank) || !check_values(x))
        return NULL;
    if (cb_dtype_is_half(log_probs->dtype))
        return cb_cast(cb_ctc_with(cb_cast(log_probs, CB_F32), targets, input_lengths, target_lengths, options), log_probs->dtype);
    for (int i = 0; i < 4; i++)
        if (!(x[i] = cb_contiguous(x[i])))
            return NULL;
    ctc_arguments a = {options.blank, options.zero_infinity};
    cbk_ctc kernel = kernel_of(x, a);
    cb_tensor *y = cb_empty(x[0]->dtype, kernel.n);
    double *loss = y ? cb_calloc((size_t)kernel.n + 1, sizeof *loss) : NULL;
    bool ok = loss && cbk_ctc_run(&kernel, loss, NULL, NULL) && cb_write(y, CB_F64, loss);
    cb_free(loss);
    return ok && cb_record(&cb_op_ctc, 1, &y, 1, x, 4, x, &a, sizeof a) ? y : NULL;
}
