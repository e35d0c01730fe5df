/* test_merge_recipes.c: models merged by mergekit's YAML files: what mergekit makes of them (tests/oracle/merge_recipes.py), what is read of YAML,
 * and what is refused. */
#include "cambium/merge.h"
#include "core/json.h"
#include "formats/yaml.h"
#include "text_fixtures.h"

#define REFERENCE CB_TEST_DATA "/merge_recipes/"

static void remove_output(void)
{
    char command[256];
    snprintf(command, sizeof command, "rm -rf '%s/merged'", scratch);
    assert_int_equal(system(command), 0);
}

static double largest_difference(const char *expected_path)
{
    cb_weights *found = cb_weights_open(scratch_path("merged"));
    cb_safetensors *expected = cb_safetensors_open(expected_path);
    assert_ok();
    assert_int_equal(cb_weights_count(found), cb_safetensors_count(expected));
    double worst = 0;
    for (size_t i = 0; i < cb_safetensors_count(expected); i++) {
        const cb_weight_entry *e = cb_safetensors_at(expected, i), *f = cb_weights_find(found, e->name);
        if (!f || !cb_weight_entry_fits(f, e->ndim, e->shape) || f->dtype != CB_F32)
            fail_msg("%s: missing or of another shape", e->name);
        for (size_t k = 0; k < e->size / sizeof(float); k++)
            worst = fmax(worst, fabs((double)((const float *)f->data)[k] - (double)((const float *)e->data)[k]));
    }
    cb_weights_close(found);
    cb_safetensors_close(expected);
    return worst;
}

/* Sums of f32 numbers of size 1 in another order. */
static void recipes_give_what_mergekit_gives(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        int64_t layers;
    } cases[] = {{"passthrough", 7}, {"slerp", 4}, {"ties", 4}, {"linear", 4}, {"breadcrumbs", 3}, {"arcee_fusion", 4}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char file[100], expected[300];
        snprintf(file, sizeof file, "%s.yml", cases[i].name);
        snprintf(expected, sizeof expected, REFERENCE "%s.safetensors", cases[i].name);
        if (!cb_merge_recipe(file, scratch_path("merged"), 0, false))
            fail_msg("%s: %s", cases[i].name, cb_error_message());
        double worst = largest_difference(expected);
        if (worst > 3e-6)
            fail_msg("%s: differs by %g", cases[i].name, worst);
        cb_model *model = cb_model_load(scratch_path("merged"));
        if (!model)
            fail_msg("%s: %s", cases[i].name, cb_error_message());
        cb_model_free(model);
        json_t *config = json_load_file(scratch_path("merged/config.json"), 0, NULL);
        assert_int_equal(json_integer_value(json_object_get(config, "num_hidden_layers")), cases[i].layers);
        json_decref(config);
        remove_output();
    }
}

/* ---- what is refused ---- */

#define AB "models: [{model: a, parameters: {weight: 1}}, {model: b, parameters: {weight: 1}}]\n"

static void what_is_not_supported_is_refused_by_name(void **state)
{
    (void)state;
    static const char *const cases[][2] = {
        {AB "merge_method: linear\nmodules: {}\n", "recipe: modules is not supported"},
        {AB "merge_method: linear\nchat_template: auto\n", "recipe: chat_template is not supported"},
        {AB "merge_method: linear\ntokenizer_source: union\n", "tokenizer_source: found union"},
        {AB "merge_method: linear\nparameters: {nuslerp_row_wise: true}\n", "parameters: nuslerp_row_wise is not supported"},
        {AB "merge_method: nothing\n", "found \"nothing\""},
        {AB "merge_method: lego\n", "lego merges adapters"},
        {AB "merge_method: ties\n", "ties: expected a base_model"},
        {AB "merge_method: slerp\nbase_model: base\n", "slerp: found 2 models besides the base, expected 1"},
        {AB "merge_method: passthrough\n", "passthrough: found 2 sources"},
        {AB "merge_method: linear\ndtype: int8\n", "dtype: found int8"},
        {"models: [{model: a}, {model: b}]\nmerge_method: linear\n", "weight: found none for"},
        {"models: [{model: a+adapter, parameters: {weight: 1}}]\nmerge_method: linear\n", "fold the adapter in first"},
        {"models: [{model: nowhere}]\nmerge_method: linear\n", "nowhere: found no such directory"},
        {"slices: [{sources: [{model: a, layer_range: [2, 5]}]}]\nmerge_method: passthrough\n", "within the 4 layers of a"},
        {"slices: [{sources: [{model: a, layer_range: [2, 4]}, {model: b, layer_range: [2, 3]}]}]\nmerge_method: linear\n",
         "found 1 layers, expected 2"},
        {"slices: [{sources: [{model: a, layer_range: [2, 4]}], residual_weight: 1}]\nmerge_method: linear\n", "slices: residual_weight"},
        {"merge_method: linear\n", "expected models or slices"},
        {"slices: [{sources: [{model: a, layer_range: [2, 2]}]}]\nmerge_method: passthrough\n", "within the 4 layers of a"},
        {"models: [{model: a, parameters: {weight: [{filter: 3, value: 1}]}}]\nmerge_method: linear\n", "a list of values with filters"},
        {"models: [{model: ../quantized/int8}]\nmerge_method: linear\n", "is quantised"},
        {AB AB "merge_method: linear\n", ":2: found a key that stands twice"},
        {"models: [\n", "recipe.yml:"},
        {"", "is empty"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const char *file = write_file("recipe.yml", cases[i][0]);
        assert_false(cb_merge_recipe(file, scratch_path("merged"), 0, false));
        if (!strstr(cb_error_message(), cases[i][1]))
            fail_msg("expected \"%s\" in: %s", cases[i][1], cb_error_message());
        cb_error_clear();
        assert_false(cb_is_directory(scratch_path("merged")));
    }
}

/* Of such a model a recipe would make one of as many layers as it stores. */
static void a_recursive_model_is_refused(void **state)
{
    (void)state;
    char text[400], command[300];
    snprintf(command, sizeof command, "cp -r a '%s/recursive'", scratch);
    assert_int_equal(system(command), 0);
    json_t *config = json_load_file(scratch_path("recursive/config.json"), 0, NULL);
    assert_true(cb_json_put(config, "num_shared_layers", json_integer(2)) && cb_json_put(config, "num_hidden_layers", json_integer(4)));
    assert_true(cb_json_save(scratch_path("recursive/config.json"), config, true));
    json_decref(config);
    snprintf(text, sizeof text, "models: [{model: %s, parameters: {weight: 1}}]\nmerge_method: linear\n", scratch_path("recursive"));
    assert_false(cb_merge_recipe(write_file("recipe.yml", text), scratch_path("merged"), 0, false));
    if (!strstr(cb_error_message(), "recursive: its layers share weights"))
        fail_msg("%s", cb_error_message());
    cb_error_clear();
}

/* What only another model has would be left out. */
static void a_tensor_that_the_first_lacks_is_refused(void **state)
{
    (void)state;
    cb_weights *file = cb_weights_open("a");
    cb_weight_entry entries[100];
    size_t count = cb_weights_count(file);
    assert_true(count < 100);
    for (size_t i = 0; i < count; i++)
        entries[i] = *cb_weights_at(file, i);
    entries[count] = *cb_weights_find(file, "model.norm.weight");
    entries[count].name = "model.layers.1.self_attn.q_proj.bias";
    char command[300], text[600];
    snprintf(command, sizeof command, "cp -r a '%s/more'", scratch);
    assert_int_equal(system(command), 0);
    assert_true(cb_safetensors_write(scratch_path("more/model.safetensors"), entries, count + 1, NULL, NULL, NULL));
    cb_weights_close(file);
    snprintf(text, sizeof text,
             "models: [{model: a, parameters: {weight: 1}}, {model: %s, parameters: {weight: 1}}]\nmerge_method: linear\n",
             scratch_path("more"));
    assert_false(cb_merge_recipe(write_file("recipe.yml", text), scratch_path("merged"), 0, false));
    if (!strstr(cb_error_message(), "more: tensor model.layers.1.self_attn.q_proj.bias: a has none of that name"))
        fail_msg("%s", cb_error_message());
    cb_error_clear();
}

/* Whichever allocation fails, it is said and nothing is left. */
static void without_memory_nothing_is_left(void **state)
{
    (void)state;
    uint64_t n = 1, failures = 0;
    for (bool done = false; !done; n += 1 + n / 16) {
        cb_memory_fail_after(n);
        done = cb_merge_recipe("passthrough.yml", scratch_path("merged"), 0, false);
        cb_memory_fail_after(0);
        failures += !done;
        if (done != (cb_error_status() == CB_OK))
            fail_msg("allocation %d: %s", (int)n, cb_error_message());
        assert_true(done == cb_is_directory(scratch_path("merged")));
        cb_error_clear();
    }
    assert_true(failures > 20);
    remove_output();
}

/* ---- YAML ---- */

static void yaml_is_read_as_values(void **state)
{
    (void)state;
    static const char text[] = "a: [1, -2.5, 1e-5, yes, off, ~, null, 'true', \"2\", 0x10, .inf]\n"
                               "b: {c: d e, f: }\ng:\n- h\n-   i: |\n      j\n      k\n";
    json_t *value = cb_yaml_parse("text", text, strlen(text));
    json_t *expected = json_loads("{\"a\": [1, -2.5, 1e-5, true, false, null, null, \"true\", \"2\", \"0x10\", \".inf\"],"
                                  " \"b\": {\"c\": \"d e\", \"f\": null}, \"g\": [\"h\", {\"i\": \"j\\nk\\n\"}]}",
                                  0, NULL);
    assert_non_null(value);
    assert_true(json_equal(value, expected));
    json_decref(value);
    json_decref(expected);
    static const char *const refused[] = {"a: &x 1",           "a: *x",        "a: !!int 1", "- [", "? [a]\n: b",
                                          "a: 1\n---\nb: 2\n", "a: 1\na: 2\n", "&x [1]"};
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
        assert_null(cb_yaml_parse("text", refused[i], strlen(refused[i])));
        if (!strstr(cb_error_message(), "text:"))
            fail_msg("%s: %s", refused[i], cb_error_message());
        cb_error_clear();
    }
    char deep[2000];
    memset(deep, '[', sizeof deep);
    assert_null(cb_yaml_parse("text", deep, sizeof deep));
    cb_error_clear();
}

static int prepare(void **state)
{
    return make_scratch(state) || chdir(REFERENCE) != 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(recipes_give_what_mergekit_gives), cmocka_unit_test(what_is_not_supported_is_refused_by_name),
        cmocka_unit_test(a_recursive_model_is_refused),     cmocka_unit_test(a_tensor_that_the_first_lacks_is_refused),
        cmocka_unit_test(without_memory_nothing_is_left),   cmocka_unit_test(yaml_is_read_as_values),
    };
    return cmocka_run_group_tests(tests, prepare, remove_scratch);
}
