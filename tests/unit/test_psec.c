/* test_psec.c: a library of skills that a network of the state composes (Liu et al. 2025, arXiv:2502.05932, PSEC) as adapters, a gate and a
 * blend: what they compute is the paper's W(s) = W0 + sum of a_i(s) B_i A_i. */
#include "adapter_fixtures.h"
#include "cambium/merge.h"

enum { ROWS = 2, STATE = 3, HIDDEN = 7, SKILLS = 2 };
#define SCALE 16 /* with which a skill is trained, whatever its rank */

static const float states[ROWS][STATE] = {{0.5f, -1.1f, 0.7f}, {-0.3f, 0.2f, 1.6f}};

typedef struct library {
    cb_model *model;
    cb_adapter *skills[SKILLS];
    cb_gate *gate;
    cb_blend *blend;
} library;

static library open_library(void)
{
    library l = {.model = load_model("llama2")};
    for (int i = 0; i < SKILLS; i++) {
        l.skills[i] = cb_adapter_new("lora", i ? "cost" : "reward");
        assert_ok(cb_adapter_set_json(l.skills[i], "lora", "{\"r\": 4, \"lora_alpha\": 64}") &&
                  cb_adapter_attach(l.skills[i], cb_model_root(l.model), cb_model_type(l.model), 1));
        randomise(l.skills[i], 5 + (uint64_t)i);
        cb_adapter_set_strength(l.skills[i], 0);
    }
    l.gate = cb_gate_new(SKILLS, .input = CB_GATE_FEATURES, .size = STATE, .linear = true, .hidden = HIDDEN, .hidden_layers = 2,
                         .start = SCALE, .seed = 9);
    /* what the gate gives replaces the scale */
    cb_composition composition = {.adapters = l.skills, .weights = (double[]){1.0 / SCALE, 1.0 / SCALE}, .count = SKILLS, .gate = l.gate};
    l.blend = cb_blend_new(cb_model_root(l.model));
    assert_ok(l.gate && cb_composition_blend(&composition, l.blend));
    return l;
}

static void close_library(library *l)
{
    cb_blend_free(l->blend);
    cb_gate_free(l->gate);
    for (int i = 0; i < SKILLS; i++)
        cb_adapter_free(l->skills[i]);
    cb_model_free(l->model);
}

static void shake_gate(const library *l)
{
    const cb_named_tensor *list;
    size_t count = cb_gate_parameters(l->gate, &list);
    assert_int_equal(count, 6);
    for (size_t i = 0; i < count; i++) {
        cb_rng rng = {.seed = 2, .stream = i};
        for (int64_t k = 0; k < list[i].tensor->count; k++)
            ((float *)list[i].tensor->data)[k] += (float)(i >= 4 ? 4 : 0.3) * (float)cb_rng_normal(&rng);
    }
}

/* The network in f64, by its definition. */
static double weight_of(const library *l, const float *state, int skill)
{
    const cb_named_tensor *list;
    cb_gate_parameters(l->gate, &list);
    double h[HIDDEN], next[HIDDEN];
    int width = STATE;
    for (int i = 0; i < STATE; i++)
        h[i] = (double)state[i];
    for (int layer = 0; layer < 2; layer++) {
        for (int o = 0; o < HIDDEN; o++) {
            next[o] = cb_get(list[2L * layer + 1].tensor, o);
            for (int i = 0; i < width; i++)
                next[o] += cb_get(list[2L * layer].tensor, (int64_t)o * width + i) * h[i];
            next[o] = fmax(next[o], 0);
        }
        width = HIDDEN;
        memcpy(h, next, sizeof h);
    }
    double weight = cb_get(list[5].tensor, skill);
    for (int i = 0; i < HIDDEN; i++)
        weight += cb_get(list[4].tensor, (int64_t)skill * HIDDEN + i) * h[i];
    return weight;
}

static cb_tensor *composed(const library *l)
{
    cb_tensor *features = cb_from(CB_F32, states, ROWS, STATE), *y = NULL;
    cb_no_grad y =
        cb_model_logits(l->model, some_ids(), &(cb_context){.blend = l->blend, .blend_weights = cb_gate_weights(l->gate, features)});
    assert_ok(y);
    return y;
}

/* W0 + sum of c_i B_i A_i, merged into the weights. */
static cb_tensor *merged(library *l, const double *weights)
{
    for (int i = 0; i < SKILLS; i++)
        cb_adapter_set_strength(l->skills[i], weights[i] / SCALE);
    cb_fold *fold = cb_fold_in_place(l->skills, SKILLS);
    assert_ok(fold);
    cb_tensor *y = logits_of(l->model, some_ids());
    cb_unfold(fold);
    for (int i = 0; i < SKILLS; i++)
        cb_adapter_set_strength(l->skills[i], 0);
    return y;
}

static void each_state_has_the_weights_of_its_own_sum(void **state)
{
    (void)state;
    cb_scope *scope = cb_scope_open();
    library l = open_library();
    cb_tensor *fresh_one = composed(&l);
    assert_within(fresh_one, merged(&l, (double[]){SCALE, SCALE}), 1e-5, "all skills at their own scale at first");
    shake_gate(&l);
    cb_tensor *y = composed(&l);
    for (int row = 0; row < ROWS; row++) {
        double weights[SKILLS];
        for (int i = 0; i < SKILLS; i++)
            weights[i] = weight_of(&l, states[row], i);
        assert_true(fabs(weights[0] - weights[1]) > 0.5);
        assert_within(cb_slice(y, 0, row, row + 1, 1), cb_slice(merged(&l, weights), 0, row, row + 1, 1), 1e-5, "merged");
    }
    assert_true(distance(y, fresh_one) > 1e-2);
    close_library(&l);
    cb_scope_close(scope);
}

/* a = (16, 0) is the first skill alone, as it was trained. */
static void one_skill_alone_is_itself(void **state)
{
    (void)state;
    cb_scope *scope = cb_scope_open();
    library l = open_library();
    const cb_named_tensor *list;
    cb_gate_parameters(l.gate, &list);
    ((float *)list[5].tensor->data)[1] = 0;
    cb_tensor *y = composed(&l);
    cb_adapter_set_strength(l.skills[0], 1);
    assert_within(y, logits_of(l.model, some_ids()), 1e-5, "alone");
    close_library(&l);
    cb_scope_close(scope);
}

static double loss_of(const library *l, bool backward)
{
    cb_tensor *weights = cb_gate_weights(l->gate, cb_from(CB_F32, states, ROWS, STATE)), *ids = some_ids();
    cb_tensor *loss = cb_model_loss(l->model, ids, ids, 0, &(cb_context){.training = true, .blend = l->blend, .blend_weights = weights});
    assert_ok(loss && (!backward || cb_backward(loss)));
    return cb_item(loss);
}

/* The network learns through the frozen skills: derivatives along its gradients, by differences. */
static void the_network_has_gradients(void **state)
{
    (void)state;
    cb_scope *scope = cb_scope_open();
    library l = open_library();
    shake_gate(&l);
    const cb_named_tensor *list;
    size_t count = cb_gate_parameters(l.gate, &list);
    loss_of(&l, true);
    for (size_t i = 0; i < count; i++) {
        cb_tensor *p = list[i].tensor, *grad = p->grad;
        assert_ok(grad);
        double length = 0;
        for (int64_t k = 0; k < grad->count; k++)
            length += cb_get(grad, k) * cb_get(grad, k);
        length = sqrt(length);
        assert_true(length > 1e-5);
        double step = 2e-3, wanted = 0; /* no hidden unit is so near to zero */
        for (int side = -1; side <= 1; side += 2) {
            for (int64_t k = 0; k < p->count; k++)
                ((float *)p->data)[k] += (float)(side * step * cb_get(grad, k) / length);
            cb_no_grad wanted += side * loss_of(&l, false) / (2 * step);
            for (int64_t k = 0; k < p->count; k++)
                ((float *)p->data)[k] -= (float)(side * step * cb_get(grad, k) / length);
        }
        if (!(fabs(wanted - length) < 0.02 * length + 1e-4)) /* f32 losses of about 5, and the third derivative */
            fail_msg("%s: gradient %g, differences give %g", list[i].name, length, wanted);
    }
    close_library(&l);
    cb_scope_close(scope);
}

static void a_library_comes_back(void **state)
{
    (void)state;
    cb_scope *scope = cb_scope_open();
    library l = open_library();
    shake_gate(&l);
    cb_tensor *wanted = composed(&l);
    cb_composition written = {.adapters = l.skills, .weights = (double[]){1.0 / SCALE, 1.0 / SCALE}, .count = SKILLS, .gate = l.gate}, read;
    assert_ok(cb_composition_save(&written, scratch_path("library"), NULL));
    assert_ok(cb_composition_load(&read, scratch_path("library"), cb_model_root(l.model), cb_model_type(l.model)));
    library again = {.model = l.model, .gate = read.gate, .blend = cb_blend_new(cb_model_root(l.model))};
    assert_ok(cb_composition_blend(&read, again.blend));
    assert_true(distance(composed(&again), wanted) == 0);
    cb_blend_free(again.blend);
    cb_composition_free(&read);
    close_library(&l);
    cb_scope_close(scope);
}

static void networks_that_do_not_fit_are_refused(void **state)
{
    (void)state;
    assert_refused(!cb_gate_new(2, .input = CB_GATE_TASK, .size = 3, .hidden = 4), "hidden layers of width 4 behind tasks");
    assert_refused(!cb_gate_new(2, .input = CB_GATE_FEATURES, .size = 3, .hidden_layers = 2), "2 hidden layers of width 0");
    assert_refused(!cb_gate_new(2, .input = CB_GATE_FEATURES, .size = 3, .hidden = 4, .hidden_layers = 9), "expected at most 8");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_state_has_the_weights_of_its_own_sum),
        cmocka_unit_test(one_skill_alone_is_itself),
        cmocka_unit_test(the_network_has_gradients),
        cmocka_unit_test(a_library_comes_back),
        cmocka_unit_test(networks_that_do_not_fit_are_refused),
    };
    return cmocka_run_group_tests(tests, make_scratch, remove_scratch);
}
