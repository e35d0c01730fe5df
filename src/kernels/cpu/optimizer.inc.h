/* optimizer.inc.h: one pass of an optimiser over f32 arrays.  Included once per instruction set (isa_*.c). */

static void adamw(const cbk_adamw_constants *k, float *p, float *m, float *v, const float *g, int64_t n)
{
    FOR_VECTORS(i, c, n) {
        vf grad = load_f32(g + i, c) * k->grad_scale;
        vf first = k->beta1 * load_f32(m + i, c) + k->one_minus_beta1 * grad;
        vf second = k->beta2 * load_f32(v + i, c) + k->one_minus_beta2 * grad * grad;
        vf update = first / (square_root(second) * k->root_correction + k->eps);
        store_f32(m + i, first, c);
        store_f32(v + i, second, c);
        store_f32(p + i, load_f32(p + i, c) * k->decay - k->step_size * update, c);
    }
}

static void sgd(const cbk_sgd_constants *k, float *p, float *buffer, const float *g, int64_t n)
{
    FOR_VECTORS(i, c, n) {
        vf value = load_f32(p + i, c), grad = load_f32(g + i, c) * k->grad_scale + k->weight_decay * value;
        if (buffer) {
            vf b = k->first ? grad : k->momentum * load_f32(buffer + i, c) + grad;
            store_f32(buffer + i, b, c);
            grad = k->nesterov ? grad + k->momentum * b : b;
        }
        store_f32(p + i, value - k->learning_rate * grad, c);
    }
}
