/* test_row_kinds.c: kinds that do something else for each row of a batch, by its task or by what is known of it, in a model: rows as they are
 * alone, gradients of a row's own task only, what they come to in special cases, and what is refused. */
#include "adapter_fixtures.h"
#include "cambium/merge.h"

enum { ROWS = 2 };

static const int32_t tasks[ROWS] = {2, 0};
static const float conditions[ROWS][2] = {{0.8f, 0.1f}, {0.25f, 0.6f}};

static cb_context of_rows(int first, int rows)
{
    return (cb_context){.tasks = cb_from(CB_I32, tasks + first, rows), .conditions = cb_from(CB_F32, conditions[first], rows, 2)};
}

typedef struct row_case {
    const char *kind, *options;
} row_case;

/* On the head as well, whose loss goes in pieces of rows. */
static const row_case cases[] = {
    {"mtlora", "{\"num_tasks\": 3, \"dropout\": 0, \"target_modules\": [\"q_proj\", \"lm_head\"]}"},
    {"mtlora", "{\"num_tasks\": 3, \"mode\": \"matrix\", \"task_modules\": [1, \"lm_head\"], \"dropout\": 0,"
               " \"target_modules\": [\"q_proj\", \"lm_head\"]}"},
    {"petalface", "{\"dropout\": 0, \"target_modules\": [\"q_proj\", \"lm_head\"]}"},
    {"s3diff", "{\"r\": 4, \"init_gain\": 1, \"identity\": true, \"target_modules\": [\"q_proj\", \"lm_head\"]}"},
};
enum { CASES = sizeof cases / sizeof *cases };

static void rows_are_as_they_are_alone(void **state)
{
    (void)state;
    for (int i = 0; i < CASES; i++) {
        cb_scope *scope = cb_scope_open();
        cb_model *model = load_model("llama2");
        cb_adapter *adapter = made(model, cases[i].kind, cases[i].options, 1);
        randomise(adapter, 5);
        cb_tensor *ids = some_ids();
        cb_context both = of_rows(0, ROWS);
        cb_tensor *together = logits_in(model, ids, &both);
        for (int row = 0; row < ROWS; row++) {
            cb_context one = of_rows(row, 1);
            cb_tensor *alone = logits_in(model, cb_slice(ids, 0, row, row + 1, 1), &one);
            assert_within(cb_slice(together, 0, row, row + 1, 1), alone, 1e-5, cases[i].kind);
        }
        assert_true(distance(together, logits_of(model, ids)) > 1e-3);
        cb_adapter_free(adapter);
        cb_model_free(model);
        cb_scope_close(scope);
    }
}

static void keep_gradients(const cb_adapter *adapter, cb_tensor **grads)
{
    const cb_named_tensor *list;
    size_t count = cb_adapter_parameters(adapter, &list);
    assert_true(count <= 32);
    for (size_t k = 0; k < count; k++) {
        grads[k] = cb_contiguous(cb_add_scalar(list[k].tensor->grad, 0));
        cb_zero_grad(list[k].tensor);
    }
}

/* Blocks that are run again see the same rows. */
static void checkpointing_changes_nothing(void **state)
{
    (void)state;
    for (int i = 0; i < CASES; i++) {
        cb_scope *scope = cb_scope_open();
        cb_model *model = load_model("llama2");
        cb_adapter *adapter = made(model, cases[i].kind, cases[i].options, 1);
        randomise(adapter, 5);
        cb_tensor *ids = some_ids(), *grads[2][32] = {{0}};
        for (int again = 0; again < 2; again++) {
            cb_context ctx = of_rows(0, ROWS);
            ctx.training = true;
            ctx.checkpoint = again;
            assert_ok(cb_backward(cb_model_loss(model, ids, ids, 0, &ctx)));
            keep_gradients(adapter, grads[again]);
        }
        const cb_named_tensor *list;
        size_t count = cb_adapter_parameters(adapter, &list);
        for (size_t k = 0; k < count; k++)
            assert_within(grads[1][k], grads[0][k], 1e-6, list[k].name);
        cb_adapter_free(adapter);
        cb_model_free(model);
        cb_scope_close(scope);
    }
}

/* Of a loss of tasks 0 and 2 the numbers of task 1 have a gradient of exactly zero. */
static void a_task_trains_its_own_pairs(void **state)
{
    (void)state;
    enum { RANK = 4, TASKS = 3, WIDTH = 48 };
    cb_scope *scope = cb_scope_open();
    cb_model *model = load_model("llama2");
    cb_adapter *adapter = made(model, "mtlora", "{\"num_tasks\": 3, \"task_rank\": 4, \"dropout\": 0}", 1);
    randomise(adapter, 5);
    cb_context ctx = of_rows(0, ROWS);
    cb_tensor *ids = some_ids();
    assert_ok(cb_backward(cb_model_loss(model, ids, ids, 0, &ctx)));
    const cb_tensor *a = parameter(adapter, "layers.1.self_attn.q_proj.lora_tasks_A")->grad;
    const cb_tensor *b = parameter(adapter, "layers.1.self_attn.q_proj.lora_tasks_B")->grad;
    double of_a[TASKS] = {0}, of_b[TASKS] = {0};
    for (int rank = 0; rank < RANK * TASKS; rank++)
        for (int i = 0; i < WIDTH; i++) {
            of_a[rank / RANK] += fabs(cb_get(a, rank * WIDTH + i));
            of_b[rank / RANK] += fabs(cb_get(b, i * RANK * TASKS + rank));
        }
    assert_true(of_a[0] > 0 && of_a[1] == 0 && of_a[2] > 0);
    assert_true(of_b[0] > 0 && of_b[1] == 0 && of_b[2] > 0);
    cb_adapter_free(adapter);
    cb_model_free(model);
    cb_scope_close(scope);
}

static void copy_parameter(const cb_adapter *to, const char *name, const cb_adapter *from, const char *other)
{
    const cb_named_tensor *list;
    size_t count = cb_adapter_parameters(to, &list), end = strlen(name);
    for (size_t i = 0; i < count; i++) {
        if (!cb_ends_with(list[i].name, name))
            continue;
        char key[256];
        snprintf(key, sizeof key, "%.*s%s", (int)(strlen(list[i].name) - end), list[i].name, other);
        assert_ok(cb_copy_into(list[i].tensor, parameter(from, key)));
    }
}

/* All weight on one pair is a plain LoRA of that pair; the scale of it is the alpha of a rank's size. */
static void a_quality_at_its_end_is_one_lora(void **state)
{
    (void)state;
    static const struct {
        float quality;
        const char *down, *up;
    } ends[] = {{1.5f, "petalface_high_D", "petalface_high_U"}, {-0.25f, "petalface_low_D", "petalface_low_U"}};
    cb_scope *scope = cb_scope_open();
    cb_model *model = load_model("llama2"), *other = load_model("llama2");
    cb_adapter *adapter = made(model, "petalface", "{\"r\": 4}", 1), *lora = made(other, "lora", "{\"r\": 4, \"lora_alpha\": 4}", 1);
    randomise(adapter, 5);
    cb_tensor *ids = some_ids();
    for (int i = 0; i < 2; i++) {
        copy_parameter(lora, "lora_A.weight", adapter, ends[i].down);
        copy_parameter(lora, "lora_B.weight", adapter, ends[i].up);
        cb_context ctx = {.conditions = cb_full(CB_F32, (double)ends[i].quality, ROWS, 1)};
        assert_within(logits_in(model, ids, &ctx), logits_of(other, ids), 1e-6, ends[i].up);
    }
    cb_adapter_free(adapter);
    cb_adapter_free(lora);
    cb_model_free(model);
    cb_model_free(other);
    cb_scope_close(scope);
}

/* A core that is the identity is a plain LoRA, whatever the conditions; one that is nothing is the base. */
static void a_core_of_ones_is_lora(void **state)
{
    (void)state;
    cb_scope *scope = cb_scope_open();
    cb_model *model = load_model("llama2"), *other = load_model("llama2");
    cb_adapter *lora = made(other, "lora", "{\"r\": 4, \"lora_alpha\": 8}", 1);
    cb_tensor *ids = some_ids(), *base = logits_of(model, ids);
    for (int identity = 0; identity < 2; identity++) {
        cb_adapter *adapter =
            made(model, "s3diff", identity ? "{\"r\": 4, \"init_gain\": 0, \"identity\": true}" : "{\"r\": 4, \"init_gain\": 0}", 1);
        const cb_named_tensor *list;
        size_t count = cb_adapter_parameters(adapter, &list);
        for (size_t i = 0; i < count; i++)
            if (cb_ends_with(list[i].name, "lora_B.weight"))
                assert_ok(cb_init_normal(list[i].tensor, (cb_rng){.seed = 3, .stream = i}, 0.1));
        copy_parameter(lora, "lora_A.weight", adapter, "lora_A.weight");
        copy_parameter(lora, "lora_B.weight", adapter, "lora_B.weight");
        cb_context ctx = of_rows(0, ROWS);
        cb_tensor *found = logits_in(model, ids, &ctx), *wanted = identity ? logits_of(other, ids) : base;
        assert_within(found, wanted, 1e-6, "core");
        assert_true(identity == (distance(found, base) > 1e-3));
        cb_adapter_free(adapter);
    }
    cb_adapter_free(lora);
    cb_model_free(model);
    cb_model_free(other);
    cb_scope_close(scope);
}

/* Which row an attached adapter stands for is chosen when it is used. */
static void a_row_can_be_chosen_after_training(void **state)
{
    (void)state;
    static const struct {
        const char *kind, *options, *option, *value, *wrong;
    } choices[] = {{"mtlora", "{\"num_tasks\": 3, \"dropout\": 0}", "use_task", "2", "3"},
                   {"petalface", "{\"dropout\": 0}", "use_weight", "0.8", "-0.5"}};
    for (int i = 0; i < 2; i++) {
        cb_scope *scope = cb_scope_open();
        cb_model *model = load_model("llama2");
        cb_adapter *adapter = made(model, choices[i].kind, choices[i].options, 1);
        randomise(adapter, 5);
        cb_tensor *ids = some_ids(), *row = cb_slice(ids, 0, 0, 1, 1);
        cb_context ctx = of_rows(0, 1);
        cb_tensor *wanted = logits_in(model, row, &ctx), *before = logits_of(model, row);
        assert_true(cb_adapter_set(adapter, choices[i].option, choices[i].value));
        cb_tensor *chosen = logits_of(model, row);
        assert_within(chosen, wanted, 1e-5, choices[i].kind);
        assert_true(distance(chosen, before) > 1e-3);
        assert_false(cb_adapter_set(adapter, choices[i].option, choices[i].wrong));
        cb_error_clear();
        cb_fold *fold = cb_fold_in_place(&adapter, 1);
        assert_ok(fold);
        assert_within(logits_of(model, row), chosen, 1e-5, "merged");
        cb_unfold(fold);
        cb_adapter_free(adapter);
        cb_model_free(model);
        cb_scope_close(scope);
    }
}

static void rows_that_do_not_fit_are_refused(void **state)
{
    (void)state;
    cb_scope *scope = cb_scope_open();
    cb_model *model = load_model("llama2");
    cb_tensor *ids = some_ids();
    cb_adapter *adapter = made(model, "mtlora", "{\"num_tasks\": 2}", 1);
    cb_context ctx = of_rows(0, ROWS);
    assert_refused(!cb_model_logits(model, ids, &ctx), "tasks: found 2 for row 0, expected less than num_tasks, which is 2");
    ctx.tasks = cb_from(CB_I32, ((int32_t[]){0, -2}), 2);
    assert_refused(!cb_model_logits(model, ids, &ctx), "tasks: found -2 for row 1, expected less than num_tasks, which is 2");
    cb_adapter_free(adapter);
    adapter = made(model, "petalface", "{\"condition\": 2}", 1);
    ctx = of_rows(0, ROWS);
    assert_refused(!cb_model_logits(model, ids, &ctx),
                   "conditions: found f32(2, 2) for 2 rows, expected f32 of 3 or more numbers for each row");
    cb_adapter_free(adapter);
    cb_model_free(model);
    cb_scope_close(scope);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rows_are_as_they_are_alone),
        cmocka_unit_test(checkpointing_changes_nothing),
        cmocka_unit_test(a_task_trains_its_own_pairs),
        cmocka_unit_test(a_quality_at_its_end_is_one_lora),
        cmocka_unit_test(a_core_of_ones_is_lora),
        cmocka_unit_test(rows_that_do_not_fit_are_refused),
        cmocka_unit_test(a_row_can_be_chosen_after_training),
    };
    return cmocka_run_group_tests(tests, make_scratch, remove_scratch);
}
