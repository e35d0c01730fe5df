/* test_adapter_maps.c: adapters whose values lie in their mapped file: what is written to them, and what becomes of the file meanwhile. */
#include <sys/stat.h>
#include <sys/wait.h>

#include "adapter_fixtures.h"
#include "cambium/files.h"
#include "cambium/optim.h"

#define REFERENCE "lora_all_linear"
#define WEIGHTS   "adapter_model.safetensors"

/* Files mapped at the moment whose path has `text` in it. */
static int mapped(const char *text)
{
    FILE *f = fopen("/proc/self/maps", "r");
    char line[1024];
    int count = 0;
    assert_non_null(f);
    while (fgets(line, sizeof line, f))
        count += strstr(line, text) != NULL;
    fclose(f);
    return count;
}

/* A copy of the reference adapter; `pad`: so many spaces more in the header. */
static const char *copy(const char *name, size_t pad)
{
    const char *directory = scratch_path(name);
    char from[600], to[600];
    assert_true(cb_directory_make(directory));
    snprintf(from, sizeof from, "%s/adapter_config.json", reference_path(REFERENCE));
    snprintf(to, sizeof to, "%s/adapter_config.json", directory);
    assert_true(cb_file_copy(from, to));
    snprintf(from, sizeof from, "%s/" WEIGHTS, reference_path(REFERENCE));
    snprintf(to, sizeof to, "%s/" WEIGHTS, directory);
    size_t size;
    char *bytes = cb_file_read(from, 1u << 28, &size), *padded = malloc(size + pad);
    uint64_t header;
    memcpy(&header, bytes, 8);
    memcpy(padded, bytes, 8 + header);
    memset(padded + 8 + header, ' ', pad);
    memcpy(padded + 8 + header + pad, bytes + 8 + header, size - 8 - header);
    header += pad;
    memcpy(padded, &header, 8);
    assert_true(cb_file_write(to, padded, size + pad));
    free(padded);
    cb_free(bytes);
    return directory;
}

static char *weights_of(const char *directory)
{
    return cb_path_join(directory, WEIGHTS);
}

static cb_adapter *load(cb_model *model, const char *directory)
{
    cb_adapter *adapter = cb_adapter_load(directory, cb_model_root(model), cb_model_type(model));
    assert_ok(adapter);
    return adapter;
}

static double sum_of(const cb_adapter *adapter)
{
    const cb_named_tensor *list;
    size_t count = cb_adapter_parameters(adapter, &list);
    double sum = 0;
    for (size_t i = 0; i < count; i++)
        for (int64_t k = 0; k < list[i].tensor->count; k++)
            sum += fabs((double)((const float *)list[i].tensor->data)[k]);
    return sum;
}

static void train(cb_model *model, const cb_adapter *adapter, int steps)
{
    const cb_named_tensor *list;
    size_t count = cb_adapter_parameters(adapter, &list);
    cb_tensor **parameters = calloc(count, sizeof(cb_tensor *));
    for (size_t i = 0; i < count; i++)
        parameters[i] = list[i].tensor;
    cb_optimizer *optimizer = cb_adamw(count, parameters);
    for (int i = 0; i < steps; i++) {
        cb_scope *scope = cb_scope_open();
        cb_tensor *ids = some_ids();
        assert_ok(cb_backward(cb_model_loss(model, ids, targets_of(ids), 0, &(cb_context){.training = true})));
        assert_ok(cb_optimizer_step(optimizer, 1e-2, 1));
        for (size_t k = 0; k < count; k++)
            cb_zero_grad(parameters[k]);
        cb_scope_close(scope);
    }
    cb_optimizer_free(optimizer);
    free(parameters);
}

static void training_leaves_the_file_alone(void **state)
{
    (void)state;
    cb_model *model = load_base_of(REFERENCE);
    const char *directory = copy("trained", 0);
    char *path = weights_of(directory);
    size_t size, after;
    char *bytes = cb_file_read(path, 1u << 28, &size);
    cb_adapter *adapter = load(model, directory);
    assert_int_equal(mapped("/trained/" WEIGHTS), 1);
    double before = sum_of(adapter);
    train(model, adapter, 3);
    assert_true(sum_of(adapter) != before);
    char *now = cb_file_read(path, 1u << 28, &after);
    assert_true(after == size && memcmp(now, bytes, size) == 0);
    cb_free(now);
    /* over the file that it lies in, twice: the second time over what the first wrote */
    double trained = sum_of(adapter);
    assert_ok(cb_adapter_save(adapter, directory, NULL));
    assert_true(sum_of(adapter) == trained && cb_file_maps_check());
    assert_ok(cb_adapter_save(adapter, directory, NULL));
    cb_adapter *again = load(model, directory);
    assert_true(sum_of(again) == trained);
    cb_adapter_free(again);
    cb_adapter_free(adapter);
    assert_int_equal(mapped("/trained/" WEIGHTS), 0);
    cb_free(bytes);
    cb_free(path);
    cb_model_free(model);
}

static void in_place_or_not_training_gives_the_same_bits(void **state)
{
    (void)state;
    double sums[3];
    for (size_t i = 0; i < 3; i++) {
        cb_model *model = load_base_of(REFERENCE);
        cb_adapter *adapter = load(model, copy("bits", 2 * i)); /* 2: no f32 can be read there */
        assert_int_equal(mapped("/bits/" WEIGHTS), i == 1 ? 0 : 1);
        train(model, adapter, 3);
        sums[i] = sum_of(adapter);
        cb_adapter_free(adapter);
        cb_model_free(model);
    }
    assert_true(sums[0] == sums[1] && sums[0] == sums[2]);
}

static void tensors_outlive_their_adapter(void **state)
{
    (void)state;
    cb_model *model = load_base_of(REFERENCE);
    cb_adapter *adapter = load(model, copy("outlived", 0));
    const cb_named_tensor *list;
    assert_true(cb_adapter_parameters(adapter, &list) > 0);
    cb_tensor *kept = cb_keep(list[0].tensor);
    double value = cb_get(kept, 0);
    cb_adapter_free(adapter);
    assert_int_equal(mapped("/outlived/" WEIGHTS), 1);
    assert_true(cb_get(kept, 0) == value);
    cb_release(kept);
    assert_int_equal(mapped("/outlived/" WEIGHTS), 0);
    cb_model_free(model);
}

/* In a child, whose maps stay marked. */
static void a_file_cut_off_does_not_end_the_program(void **state)
{
    (void)state;
    const char *directory = copy("cut", 0);
    pid_t child = fork();
    if (child == 0) {
        cb_file_maps_guard();
        cb_model *model = load_base_of(REFERENCE);
        cb_adapter *adapter = load(model, directory);
        char *path = weights_of(directory);
        if (truncate(path, 100) != 0)
            _exit(1);
        double sum = sum_of(adapter);
        bool told =
            isfinite(sum) && !cb_file_maps_check() && strstr(cb_error_message(), "cut/" WEIGHTS ": a part of it can no longer be read");
        cb_error_clear();
        const cb_named_tensor *list;
        cb_adapter_parameters(adapter, &list);
        ((float *)list[0].tensor->data)[0] = 1; /* what stands in its place may be written to */
        bool kept = cb_adapter_save(adapter, scratch_path("never"), NULL);
        _exit(told && !kept ? 0 : 2);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

/* More than may stay mapped: the rest are copied, and other files can be opened yet. */
static void any_number_can_be_loaded(void **state)
{
    (void)state;
    enum { N = 3600 };
    static cb_adapter *adapters[N];
    cb_model *model = load_base_of(REFERENCE);
    const char *directory = copy("many", 0);
    for (int i = 0; i < N; i++) {
        adapters[i] = load(model, directory);
        cb_adapter_set_strength(adapters[i], 0);
    }
    int there = mapped("/many/" WEIGHTS);
    assert_true(there > 3000 && there < N);
    assert_true(sum_of(adapters[0]) == sum_of(adapters[N - 1]));
    for (int i = 0; i < N; i++)
        cb_adapter_free(adapters[i]);
    assert_int_equal(mapped("/many/" WEIGHTS), 0);
    cb_adapter *adapter = load(model, directory);
    assert_int_equal(mapped("/many/" WEIGHTS), 1);
    cb_adapter_free(adapter);
    cb_model_free(model);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(training_leaves_the_file_alone), cmocka_unit_test(in_place_or_not_training_gives_the_same_bits),
        cmocka_unit_test(tensors_outlive_their_adapter),  cmocka_unit_test(a_file_cut_off_does_not_end_the_program),
        cmocka_unit_test(any_number_can_be_loaded),
    };
    return cmocka_run_group_tests(tests, make_scratch, remove_scratch);
}
